"""Examples are a pure function of seed and index, whatever goes wrong around them."""

import logging
import pickle

import librosa
import numpy as np
import pytest
import soundfile as sf

from ddspx import audio
from ddspx.data import augment, dataset, manifest
from ddspx.data.augment import Augmentation, AugmentationRanges
from ddspx.data.dataset import CropConfig

RATE = 8000
CONFIG = CropConfig(sample_rate=RATE, seconds=0.25)


def ramp(seconds, start=0.1):
    """A mono signal in which every sample says where it is."""
    count = round(seconds * RATE)
    return (start + 0.5 * np.arange(count) / count)[None]


@pytest.fixture
def folder(tmp_path):
    audio.save(tmp_path / "short.wav", ramp(0.2), RATE)
    audio.save(tmp_path / "one.wav", ramp(1), RATE)
    audio.save(tmp_path / "stereo.flac", np.repeat(ramp(3), 2, axis=0), RATE)
    # A third of this file is digital silence.
    gap = ramp(3)
    gap[:, RATE : 2 * RATE] = 0
    audio.save(tmp_path / "gap.wav", gap, RATE)
    (tmp_path / "broken.wav").write_text("no audio")
    # The header of this one is good, its end is not.
    noise = np.random.default_rng(0).standard_normal(RATE * 4) * 0.1
    sf.write(tmp_path / "damaged.flac", noise, RATE)
    data = bytearray((tmp_path / "damaged.flac").read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    (tmp_path / "damaged.flac").write_bytes(data)
    return tmp_path


def clips_of(folder):
    names = ("short.wav", "one.wav", "stereo.flac", "gap.wav", "broken.wav")
    names += ("damaged.flac", "missing.wav")
    return [manifest.Clip(name, str(folder)) for name in names]


def build(folder, **changes):
    settings = {"sample_rate": RATE, "seconds": 0.25, "silence_db": -50.0} | changes
    return dataset.audio_dataset(clips_of(folder), CropConfig(**settings))


def rows(batch_list):
    """Batches of several processes -> one list of bytes per row."""
    return [audio.tobytes() for batch in batch_list for audio in batch["audio"]]


def test_bad_files_are_reported_once_by_name_and_the_run_goes_on(folder, caplog):
    with caplog.at_level(logging.WARNING):
        made = build(folder)
        assert [clip.path for clip in made.clips] == [
            "one.wav",
            "stereo.flac",
            "gap.wav",
            "damaged.flac",
        ]
        reasons = {item.path: item.reason for item in made.skipped}
        assert "lasts 0.20 s, shorter than 0.25 s" in reasons[str(folder / "short.wav")]
        assert "not a readable audio" in reasons[str(folder / "broken.wav")]
        assert "no such file" in reasons[str(folder / "missing.wav")]
        for index in range(60):
            assert np.isfinite(made.examples[index]["audio"]).all()
    assert str(folder / "damaged.flac") in {item.path for item in made.skipped}
    assert len(made.skipped) == 4
    text = caplog.text
    for name in ("short.wav", "broken.wav", "missing.wav", "damaged.flac"):
        assert text.count(str(folder / name) + ":") == 1


def test_an_example_is_what_stands_in_the_file(folder):
    made = build(folder, silence_db=None)
    for index in range(20):
        example = made.examples[index]
        path = made.files[example["file"]]
        whole, _ = audio.load(path, start_s=example["offset"] / RATE, duration_s=0.25)
        np.testing.assert_array_equal(
            example["audio"], whole.mean(axis=0, keepdims=True, dtype=np.float32)
        )
        assert example["audio"].dtype == np.float32


def test_same_index_same_example_in_any_order_thread_or_process(folder):
    made = build(folder, augmentation=AugmentationRanges(gain_db=(-12.0, 0.0)))
    first = [made.examples[index]["audio"].tobytes() for index in range(24)]
    again = build(folder, augmentation=AugmentationRanges(gain_db=(-12.0, 0.0)))
    backwards = [again.examples[i]["audio"].tobytes() for i in reversed(range(24))]
    assert backwards[::-1] == first and len(set(first)) == 24
    grouped = dataset.batches(made, 4)
    for threads in (0, 3):
        iterator = dataset.stream(grouped, threads=threads)
        assert rows(next(iterator) for _ in range(6)) == first
    # What a worker process would get.
    copy = pickle.loads(pickle.dumps(made))
    assert [copy.examples[i]["audio"].tobytes() for i in range(24)] == first
    other = build(folder, augmentation=AugmentationRanges(gain_db=(-12.0, 0.0)), seed=1)
    assert not {other.examples[i]["audio"].tobytes() for i in range(24)} & set(first)


def test_a_stream_resumes_where_it_stopped(folder):
    grouped = dataset.batches(build(folder), 2)
    iterator = dataset.stream(grouped, threads=2)
    for _ in range(3):
        next(iterator)
    state = iterator.get_state()
    expected = rows(next(iterator) for _ in range(3))
    for threads in (0, 1):
        resumed = dataset.stream(grouped, threads=threads)
        resumed.set_state(state)
        assert rows(next(resumed) for _ in range(3)) == expected


def test_processes_share_a_batch_without_overlap(folder):
    made = build(folder)
    whole = dataset.batches(made, 6)
    for count in (2, 3):
        parts = [
            dataset.batches(made, 6, process_index=p, process_count=count)
            for p in range(count)
        ]
        for step in (0, 1, 7):
            assert rows(part[step] for part in parts) == rows([whole[step]])
    assert whole[0]["audio"].shape == (6, 1, 2000)
    assert whole[0]["file"].dtype == np.int32
    with pytest.raises(ValueError, match="cannot be shared by 4"):
        dataset.batches(made, 6, process_count=4)
    with pytest.raises(ValueError, match="process_index=2 of 2"):
        dataset.batches(made, 6, process_index=2, process_count=2)


@pytest.mark.slow
def test_worker_processes_give_the_same_stream(folder):
    # grain reads flags of absl, which nobody parses outside absl.app.
    flags = pytest.importorskip("absl.flags")
    flags.FLAGS.mark_as_parsed()
    import grain

    grouped = dataset.batches(build(folder), 4)
    expected = rows(grouped[step] for step in range(6))
    options = grain.multiprocessing.MultiprocessingOptions(num_workers=2)
    iterator = iter(grouped.to_iter_dataset().mp_prefetch(options))
    try:
        assert rows(next(iterator) for _ in range(6)) == expected
    finally:
        iterator.close()


def test_silence_is_drawn_again(folder):
    silent = build(folder, silence_db=None)
    kept = build(folder)

    def quiet(made):
        return sum(np.abs(made.examples[i]["audio"]).max() == 0 for i in range(200))

    assert quiet(silent) > 0 and quiet(kept) == 0


def test_a_corpus_of_silence_is_named_as_such(tmp_path):
    audio.save(tmp_path / "s.wav", np.zeros((1, RATE)), RATE)
    clips = manifest.scan_folder(tmp_path).clips
    made = dataset.audio_dataset(clips, CONFIG)
    with pytest.raises(manifest.ManifestError, match=r"RMS below -50\.0 dB"):
        made.examples[0]


def test_nothing_usable_is_an_error(folder):
    clips = [c for c in clips_of(folder) if c.path in ("short.wav", "broken.wav")]
    with pytest.raises(manifest.ManifestError, match=r"no usable audio among 2 files"):
        dataset.audio_dataset(clips, CONFIG)


def test_files_are_drawn_by_their_length_or_evenly(tmp_path):
    audio.save(tmp_path / "long.wav", ramp(9), RATE)
    audio.save(tmp_path / "short.wav", ramp(1), RATE)
    clips = manifest.scan_folder(tmp_path).clips

    def share_of_long(weighting):
        config = CropConfig(sample_rate=RATE, seconds=0.01, weighting=weighting)
        made = dataset.audio_dataset(clips, config)
        return np.mean([made.examples[i]["file"] == 0 for i in range(400)])

    # Four standard deviations of 400 draws: 0.06 and 0.1.
    assert abs(share_of_long("duration") - 0.9) < 0.06
    assert abs(share_of_long("file") - 0.5) < 0.1


def test_resampling_and_channels(folder):
    clips = [manifest.Clip("stereo.flac", str(folder))]
    config = CropConfig(sample_rate=16000, seconds=0.25, channels=2)
    made = dataset.audio_dataset(clips, config)
    example = made.examples[0]
    assert example["audio"].shape == (2, 4000)
    whole = audio.load(folder / "stereo.flac", sample_rate=16000, channels=2).samples
    part = whole[:, example["offset"] : example["offset"] + 4000]
    np.testing.assert_allclose(example["audio"], part, atol=1e-6)


def test_short_files_can_be_padded(folder):
    made = build(folder, pad_short=True)
    assert "short.wav" in [clip.path for clip in made.clips]
    clips = [manifest.Clip("short.wav", str(folder))]
    config = CropConfig(sample_rate=RATE, seconds=0.25, pad_short=True)
    example = dataset.audio_dataset(clips, config).examples[0]
    np.testing.assert_allclose(example["audio"][:, :1600], ramp(0.2), atol=1e-7)
    assert not example["audio"][:, 1600:].any()


def test_a_faster_tempo_reads_more_of_the_file(tmp_path):
    time = np.arange(4 * RATE) / RATE
    audio.save(tmp_path / "t.wav", 0.3 * np.sin(2 * np.pi * 500 * time)[None], RATE)
    clips = manifest.scan_folder(tmp_path).clips
    config = CropConfig(
        sample_rate=RATE,
        seconds=0.5,
        augmentation=AugmentationRanges(tempo=(2.0, 2.0)),
    )
    example = dataset.audio_dataset(clips, config).examples[0]
    assert example["tempo"] == 2.0 and example["audio"].shape == (1, 4000)
    # No padding: the second half is as loud as the first.
    halves = np.square(example["audio"][0]).reshape(2, -1).mean(axis=1)
    np.testing.assert_allclose(halves[1] / halves[0], 1, atol=0.2)


def test_augmentation_is_drawn_inside_its_ranges_and_independently(rng):
    ranges = AugmentationRanges((-6.0, 3.0), 0.5, (-2.0, 2.0), (0.5, 2.0))
    drawn = [augment.draw_augmentation(ranges, rng) for _ in range(500)]
    gain, polarity, pitch, tempo = np.array(drawn).T
    assert gain.min() >= -6 and gain.max() <= 3 and np.ptp(gain) > 8
    assert set(polarity) == {-1, 1} and abs(polarity.mean()) < 0.2
    assert np.abs(pitch).max() <= 2
    assert tempo.min() >= 0.5 and tempo.max() <= 2 and abs(np.median(tempo) - 1) < 0.1
    # The same numbers are used up whatever the ranges: other draws stay in place.
    streams = [np.random.default_rng(0), np.random.default_rng(0)]
    augment.draw_augmentation(ranges, streams[0])
    augment.draw_augmentation(AugmentationRanges(), streams[1])
    assert streams[0].random() == streams[1].random()
    assert augment.draw_augmentation(AugmentationRanges(), rng) == Augmentation()


def test_augmentation_does_what_it_says():
    time = np.arange(2 * RATE) / RATE
    tone = (0.3 * np.sin(2 * np.pi * 440 * time)[None]).astype(np.float32)

    def frequency(samples):
        spectrum = np.abs(np.fft.rfft(samples[0] * np.hanning(samples.shape[1])))
        return spectrum.argmax() * RATE / samples.shape[1]

    apply = augment.apply_augmentation
    np.testing.assert_array_equal(apply(tone, RATE, Augmentation()), tone)
    louder = apply(tone, RATE, Augmentation(gain_db=20 * np.log10(2), polarity=-1))
    np.testing.assert_allclose(louder, -2 * tone, rtol=1e-6)
    fast = apply(tone, RATE, Augmentation(tempo=1.25))
    assert fast.shape == (1, round(2 * RATE / 1.25)) and fast.dtype == np.float32
    assert abs(frequency(fast) - 440) < 2
    high = apply(tone, RATE, Augmentation(pitch_semitones=7))
    assert high.shape == tone.shape
    assert abs(frequency(high) - 440 * 2 ** (7 / 12)) < 2
    stereo = apply(np.concatenate([tone, -tone]), RATE, Augmentation(tempo=0.8))
    # 46 ms or more, in a power of two.
    expected = librosa.effects.time_stretch(tone, rate=0.8, n_fft=512)
    np.testing.assert_allclose(stereo[:1], expected, atol=1e-4)
    np.testing.assert_allclose(stereo[1], -stereo[0], atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"gain_db": (3.0, -3.0)},
        {"tempo": (0.0, 1.0)},
        {"tempo": (1.0, 8.0)},
        {"flip_polarity": 1.5},
    ],
)
def test_ranges_are_checked(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        AugmentationRanges(**changes)


@pytest.mark.parametrize(
    "changes",
    [{"seconds": 0.0}, {"sample_rate": 0}, {"channels": 0}, {"weighting": "loudness"}],
)
def test_crops_are_checked(changes):
    with pytest.raises(ValueError, match="expected"):
        CropConfig(**changes)


def test_sections_cover_a_file_once_in_order(folder):
    clip = manifest.Clip("gap.wav", str(folder))
    made = dataset.sections(clip, 0.4)
    # 3 s hold 7 sections; [1.2, 1.6) and [1.6, 2.0) are silent, [0.8, 1.2) is half so.
    assert [round(part.start_s, 3) for part in made] == [0.0, 0.4, 0.8, 2.0, 2.4]
    whole, rate = audio.load(folder / "gap.wav")
    for part in made:
        start = round(part.start_s * rate)
        np.testing.assert_array_equal(part.samples, whole[:, start : start + 3200])
    assert len(dataset.sections(folder / "gap.wav", 0.4, silence_db=None)) == 7
    assert dataset.sections(folder / "short.wav", 0.4) == []
    [part] = dataset.sections(folder / "one.wav", 1.0, sample_rate=16000, channels=2)
    assert part.samples.shape == (2, 16000) and part.sample_rate == 16000
    with pytest.raises(audio.AudioFileError):
        dataset.sections(folder / "broken.wav", 1.0)
