"""Audio files: exact round trips, sections, formats, and what is refused."""

import os
import time

import numpy as np
import pytest
import soundfile as sf

from ddspx import audio


@pytest.fixture
def codes(rng):
    """Stereo samples on the 16-bit grid, with both ends of the range."""
    made = rng.integers(-32768, 32768, (2, 70000))
    made[:, :2] = [[-32768, 32767], [32767, -32768]]
    return (made / 32768).astype(np.float32)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff", "a.au", "a.caf"])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", None])
def test_pcm_round_trip_is_exact(tmp_path, codes, name, subtype):
    audio.save(tmp_path / name, codes, 44100, subtype=subtype)
    samples, rate = audio.load(tmp_path / name)
    assert rate == 44100 and samples.dtype == np.float32
    np.testing.assert_array_equal(samples, codes)


def test_scale_agrees_with_the_integers_in_the_file(tmp_path, codes):
    audio.save(tmp_path / "a.wav", codes, 8000, subtype="PCM_16")
    written, _ = sf.read(tmp_path / "a.wav", dtype="int16")
    np.testing.assert_array_equal(written.T, codes * 32768)


@pytest.mark.parametrize("name", ["a.ogg", "a.mp3", "a.opus"])
def test_lossy_formats_keep_place_and_length(tmp_path, name):
    time = np.arange(96000) / 48000
    tone = (0.3 * np.sin(2 * np.pi * 440 * time) * np.hanning(96000))[None]
    audio.save(tmp_path / name, tone, 48000)
    samples, _ = audio.load(tmp_path / name)
    assert samples.shape == tone.shape
    errors = [np.abs(np.roll(samples, n, axis=1) - tone).max() for n in range(-2, 3)]
    assert np.argmin(errors) == 2 and errors[2] < 0.02


def test_subtype_of_the_input_can_be_asked_for(tmp_path, codes):
    audio.save(tmp_path / "a.wav", codes, 22050, subtype="PCM_24")
    facts = audio.info(tmp_path / "a.wav")
    assert facts == (70000, 22050, 2, "WAV", "PCM_24")
    assert facts.seconds == 70000 / 22050
    assert audio.info(audio.save(tmp_path / "b.wav", codes, 8000)).subtype == "FLOAT"


@pytest.mark.parametrize("rate", [48000, 44100, 16000, 96000, 22050])
def test_a_section_equals_the_section_of_the_whole(tmp_path, rng, rate):
    noise = rng.standard_normal((2, 96000)) * 0.1
    audio.save(tmp_path / "a.wav", noise, 48000)
    whole = audio.load(tmp_path / "a.wav", sample_rate=rate).samples
    part = audio.load(
        tmp_path / "a.wav", sample_rate=rate, start_s=0.7321, duration_s=0.5
    ).samples
    start = round(0.7321 * rate)
    assert whole.shape == (2, 2 * rate) and part.shape == (2, rate // 2)
    np.testing.assert_allclose(part, whole[:, start : start + rate // 2], atol=1e-6)


def test_a_section_may_run_past_the_end_but_not_begin_there(tmp_path, rng):
    audio.save(tmp_path / "a.wav", rng.standard_normal((1, 8000)) * 0.1, 8000)
    tail = audio.load(tmp_path / "a.wav", start_s=0.75, duration_s=5.0).samples
    assert tail.shape == (1, 2000)
    with pytest.raises(audio.AudioFileError, match=r"ends before 1\.000 s"):
        audio.load(tmp_path / "a.wav", start_s=1.0)
    with pytest.raises(audio.AudioFileError, match="ends before"):
        audio.load(tmp_path / "a.wav", start_s=2.0, sample_rate=44100)


def test_resample_keeps_a_tone_and_removes_what_does_not_fit():
    time = np.arange(48000) / 48000
    low, high = np.sin(2 * np.pi * 1000 * time), np.sin(2 * np.pi * 9000 * time)
    made = audio.resample(np.stack([low, high]), 48000, 16000)
    expected = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    middle = slice(1000, -1000)
    np.testing.assert_allclose(made[0, middle], expected[middle], atol=1e-4)
    assert np.abs(made[1, middle]).max() < 1e-4
    assert audio.resample(np.zeros((2, 3, 100)), 44100, 48000).shape == (2, 3, 109)


def test_channels(tmp_path, codes):
    stereo, mono = tmp_path / "s.wav", tmp_path / "m.wav"
    audio.save(stereo, codes, 8000)
    audio.save(mono, codes[:1], 8000)
    mixed = audio.load(stereo, channels=1).samples
    np.testing.assert_allclose(mixed[0], codes.mean(axis=0), atol=1e-7)
    np.testing.assert_array_equal(
        audio.load(mono, channels=2).samples, np.repeat(codes[:1], 2, axis=0)
    )
    with pytest.raises(audio.AudioFileError, match="has 2 channels"):
        audio.load(stereo, channels=3)


def bad_files(folder):
    """Name -> what the message must say; each file is made in `folder`."""
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("not audio, whatever its name says\n" * 20)
    (folder / "layout.raw").write_bytes(b"\1" * 1000)
    sf.write(folder / "no_samples.wav", np.zeros((0, 1)), 8000)
    sf.write(folder / "nan.wav", np.array([0, 0.1, np.nan, 0]), 2, "FLOAT")
    sf.write(folder / "inf.wav", np.array([np.inf, 0.1]), 8000, "FLOAT")
    sf.write(folder / "silent.wav", np.zeros(100), 8000)
    noise = np.random.default_rng(0).standard_normal(40000) * 0.1
    sf.write(folder / "whole.flac", noise, 8000)
    half = (folder / "whole.flac").read_bytes()[:30000]
    (folder / "half.flac").write_bytes(half)
    return {
        "missing.wav": "cannot be read: no such file",
        "": "is a folder",
        "empty.wav": r"empty \(0 bytes\)",
        "text.wav": "not a readable audio file",
        "layout.raw": "no header",
        "no_samples.wav": "holds no samples",
        "nan.wav": r"NaN or infinite samples, the first at 1\.000 s",
        "inf.wav": r"the first at 0\.000 s",
        "silent.wav": "is silent",
        "half.flac": "not a readable audio file|cut short",
    }


def test_bad_files_are_refused_in_one_line(tmp_path):
    for name, message in bad_files(tmp_path).items():
        with pytest.raises(audio.AudioFileError, match=message) as caught:
            audio.load(tmp_path / name, allow_silence=False)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(str(tmp_path / name))
    assert audio.load(tmp_path / "silent.wav").samples.shape == (1, 100)


def test_a_section_after_a_nan_is_named_by_its_place_in_the_file(tmp_path):
    samples = np.zeros(8000)
    samples[6000] = np.nan
    sf.write(tmp_path / "a.wav", samples, 8000, "FLOAT")
    assert audio.load(tmp_path / "a.wav", duration_s=0.5).samples.shape == (1, 4000)
    with pytest.raises(audio.AudioFileError, match=r"0\.750 s"):
        audio.load(tmp_path / "a.wav", start_s=0.5)


def test_nothing_is_clipped_unless_asked(tmp_path, codes):
    loud = codes * 2
    np.testing.assert_array_equal(
        audio.load(audio.save(tmp_path / "a.wav", loud, 8000)).samples, loud
    )
    for name in ("b.wav", "b.flac"):
        with pytest.raises(audio.AudioFileError, match=r"\+6\.02 dB over full scale"):
            audio.save(tmp_path / name, loud, 8000, subtype="PCM_16")
        assert not (tmp_path / name).exists()
    audio.save(tmp_path / "c.wav", loud, 8000, subtype="PCM_16", clip=True)
    expected = np.clip(loud, -1, 32767 / 32768)
    np.testing.assert_array_equal(audio.load(tmp_path / "c.wav").samples, expected)
    # A file normalised to exactly full scale is not "over".
    audio.save(tmp_path / "d.wav", np.ones((1, 9)), 8000, subtype="PCM_16")


@pytest.mark.parametrize(
    ("name", "samples", "rate", "message"),
    [
        ("a.wav", np.zeros(10), 8000, "expected .channels, time."),
        ("a.wav", np.zeros((1, 0)), 8000, "at least one sample"),
        ("a.wav", np.array([[0, np.nan]]), 8000, "NaN or infinity"),
        ("a.xyz", np.zeros((1, 9)), 8000, "names no audio format"),
        ("a", np.zeros((1, 9)), 8000, "names no audio format"),
        ("a.flac", np.zeros((9, 99)), 8000, "9 channels"),
        ("a.opus", np.zeros((1, 99)), 44100, "at 44100 Hz"),
        ("no/a.wav", np.zeros((1, 9)), 8000, "cannot be written: No such file"),
    ],
)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(
    tmp_path, name, samples, rate, message
):
    with pytest.raises(audio.AudioFileError, match=message):
        audio.save(tmp_path / name, samples, rate)
    assert os.listdir(tmp_path) == []
    with pytest.raises(audio.AudioFileError, match="WAV has no subtype 'VORBIS'"):
        audio.save(tmp_path / "a.wav", np.zeros((1, 9)), 8000, subtype="VORBIS")


def test_existing_files_are_kept(tmp_path, codes):
    path = tmp_path / "a.wav"
    audio.save(path, codes, 8000)
    before = path.read_bytes()
    with pytest.raises(audio.AudioFileError, match="exists already"):
        audio.save(path, codes / 2, 8000)
    with pytest.raises(audio.AudioFileError, match="over full scale"):
        audio.save(path, codes * 2, 8000, subtype="PCM_16", overwrite=True)
    assert path.read_bytes() == before
    audio.save(path, codes / 2, 8000, overwrite=True)
    assert path.read_bytes() != before
    assert os.listdir(tmp_path) == ["a.wav"]


def test_written_aside_leaves_nothing_when_the_body_fails(tmp_path):
    path = tmp_path / "table.csv"
    with (
        pytest.raises(RuntimeError),
        audio.written_aside(path, overwrite=False) as aside,
    ):
        aside.write_text("half a table")
        assert not path.exists()
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_a_bad_section_is_a_plain_mistake_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match="lasts more than 0 seconds"):
        audio.load(tmp_path / "a.wav", duration_s=0.0)


@pytest.mark.parametrize("suffix", [".wav", ".aiff", ".caf", ".w64", ".flac"])
def test_equal_sounds_are_equal_files(tmp_path, rng, suffix):
    """libsndfile writes the time of day into float files; ours hold none."""
    samples = 0.1 * rng.normal(size=(2, 500)).astype(np.float32)
    one = audio.save(tmp_path / f"one{suffix}", samples, 8000).read_bytes()
    again = audio.save(tmp_path / f"again{suffix}", samples, 8000).read_bytes()
    clock = int(time.time()) & 0xFFFFFFFF
    near = [(clock - back).to_bytes(4, order) for back in range(-5, 60) for order in
            ("little", "big")]  # fmt: skip
    assert one == again and not any(stamp in one[:4096] for stamp in near)
    np.testing.assert_allclose(
        audio.load(tmp_path / f"one{suffix}").samples, samples, atol=2**-23
    )
