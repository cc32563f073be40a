"""Control curves of textures: measured, normalised once and for all, cut in circles."""

from typing import Any

import numpy as np
import pytest

from ddspx import audio
from ddspx.data.manifest import ManifestError, load_collection
from ddspx.features import a_weighted_loudness_db, spectral_centroid_hz
from ddspx.tasks import sound_curves
from ddspx.tasks.sound_curves import ControlsConfig, measure, normalize, statistics
from ddspx.tasks.sounds import (
    CropsConfig,
    Sound,
    crops,
    detuned,
    load_parts,
    load_sounds,
    split_in_time,
    windows,
)

RATE, HOP = 8000, 64
CONFIG = ControlsConfig(window_ms=32.0)


def noise(frames, seed=0):
    rng = np.random.default_rng(seed)
    return 0.1 * rng.standard_normal(frames * HOP).astype(np.float32)


def numbered(frames, name="numbers"):
    """A sound whose samples and frames say their own place."""
    places = np.arange(frames * HOP, dtype=np.float32)
    return Sound(name, places, {"loudness_db": np.arange(frames, dtype=np.float32)})


def test_curves_are_the_features_at_their_frames():
    sound = noise(50)
    curves = measure(CONFIG, sound, RATE, HOP)
    loudness = a_weighted_loudness_db(sound, RATE, fft_size=256, hop_length=HOP)
    centroid = spectral_centroid_hz(sound, RATE, fft_size=256, hop_length=HOP)
    assert curves["loudness_db"].shape == (50,)
    np.testing.assert_allclose(curves["loudness_db"], loudness[:50], atol=1e-3)
    np.testing.assert_allclose(curves["centroid_hz"], centroid[:50], rtol=1e-4)


def test_frames_may_lie_anywhere_in_their_hops():
    sound = noise(50)
    late = measure(CONFIG, sound, RATE, HOP, frame_at=HOP // 2)
    # The same frames, if half a hop less comes before them.
    early = measure(CONFIG, sound[HOP // 2 :], RATE, HOP)
    inner = slice(4, 45)
    for name in CONFIG.names:
        np.testing.assert_allclose(late[name][inner], early[name][inner], rtol=1e-4)


@pytest.mark.parametrize("frame_at", [0, 20])
def test_long_sounds_in_pieces_have_the_curves_of_the_whole(frame_at, monkeypatch):
    sound = noise(300)
    whole = measure(CONFIG, sound, RATE, HOP, frame_at=frame_at)
    monkeypatch.setattr(sound_curves, "_SECONDS_AT_ONCE", 64 * HOP / RATE)
    pieces = measure(CONFIG, sound, RATE, HOP, frame_at=frame_at)
    for name, curve in whole.items():
        assert pieces[name].shape == curve.shape == (300,)
        np.testing.assert_allclose(pieces[name], curve, rtol=1e-4)


def test_curves_of_silence_are_finite_and_of_nothing_an_error():
    curves = measure(CONFIG, np.zeros(64 * HOP, np.float32), RATE, HOP)
    stored = statistics(CONFIG, [curves])
    assert np.isfinite(normalize(CONFIG.names, stored, curves)).all()
    with pytest.raises(ValueError, match="empty"):
        measure(CONFIG, np.zeros(0, np.float32), RATE, HOP)


def test_range_and_standard_map_what_they_say():
    curves = [
        {
            "loudness_db": np.array([-60.0, -20.0]),
            "centroid_hz": np.array([200.0, 800]),
        },
        {
            "loudness_db": np.array([-40.0, -30.0]),
            "centroid_hz": np.array([400.0, 400]),
        },
    ]
    stored = statistics(ControlsConfig(), curves)
    seen = np.concatenate([normalize(CONFIG.names, stored, one) for one in curves])
    np.testing.assert_allclose(seen[:, 0], [0.0, 1.0, 0.5, 0.75], atol=1e-6)
    # An octave is an octave.
    np.testing.assert_allclose(seen[:, 1], [0.0, 1.0, 0.5, 0.5], atol=1e-6)
    assert stored["centroid_hz"]["max"] == 800.0
    stored = statistics(ControlsConfig(normalization="standard"), curves)
    seen = np.concatenate([normalize(CONFIG.names, stored, one) for one in curves])
    np.testing.assert_allclose(seen.mean(0), 0.0, atol=1e-6)
    np.testing.assert_allclose(seen.std(0), 1.0, atol=1e-5)


def test_a_new_sound_is_not_normalised_by_its_own_range():
    loud = {name: c for name, c in measure(CONFIG, noise(64), RATE, HOP).items()}
    stored = statistics(CONFIG, [loud])
    quiet = measure(CONFIG, 0.1 * noise(64), RATE, HOP)
    loudness = [normalize(CONFIG.names, stored, c)[:, 0] for c in (loud, quiet)]
    # 20 dB less are 20 dB less, in the units of the training sounds.
    off = 20.0 / stored["loudness_db"]["spread"]
    np.testing.assert_allclose(loudness[0] - loudness[1], off, rtol=1e-3)


def test_missing_and_broken_curves_are_named():
    with pytest.raises(ValueError, match="no curve for centroid_hz"):
        normalize(CONFIG.names, {}, {"loudness_db": np.zeros(3)})
    with pytest.raises(ValueError, match=r"loudness_db.*not finite"):
        statistics(CONFIG, [{"loudness_db": np.array([np.nan])}])
    with pytest.raises(ValueError, match="each once"):
        ControlsConfig(names=("loudness_db", "loudness_db"))


def test_crops_go_round_and_curves_stay_with_their_sound():
    sounds = [numbered(40), numbered(7)]
    found = crops(sounds, CropsConfig(seed=3), 12, HOP)
    starts = set()
    for index in range(60):
        one: Any = found[index]
        length = len(sounds[one["file"]].curves["loudness_db"])
        frames = one["loudness_db"]
        np.testing.assert_array_equal(one["audio"].reshape(12, HOP)[:, 0], frames * HOP)
        np.testing.assert_array_equal((frames[0] + np.arange(12)) % length, frames)
        starts.add((int(one["file"]), int(frames[0])))
    same: Any = crops(sounds, CropsConfig(seed=3), 12, HOP)[7]
    first: Any = found[7]
    np.testing.assert_array_equal(same["audio"], first["audio"])
    # Shares of time, and starts next to the end.
    assert {file for file, _ in starts} == {0, 1}
    assert any(file == 0 and start > 28 for file, start in starts)


def test_time_is_parted_without_overlap():
    earlier, later = split_in_time([numbered(40)], 0.25, HOP)
    np.testing.assert_array_equal(earlier[0].curves["loudness_db"], np.arange(30))
    np.testing.assert_array_equal(later[0].curves["loudness_db"], np.arange(30, 40))
    np.testing.assert_array_equal(later[0].audio, np.arange(30 * HOP, 40 * HOP))
    with pytest.raises(ManifestError, match="shorter than two frames"):
        split_in_time([numbered(1)], 0.25, HOP)


def test_windows_follow_each_other_and_fill_the_last_batch():
    made = windows([numbered(25), numbered(4)], 10, HOP, 2)
    starts = [int(frame) for batch in made for frame in batch["loudness_db"][:, 0]]
    assert starts == [0, 10, 0, 0]
    files = [int(file) for batch in made for file in batch["file"]]
    assert files == [0, 0, 1, 0]
    # The short one goes round.
    np.testing.assert_array_equal(made[1]["loudness_db"][0], np.arange(10) % 4)


def test_recordings_are_read_whole_and_curves_kept(tmp_path, monkeypatch):
    samples = noise(70)[: 69 * HOP + 5]
    (tmp_path / "sounds").mkdir()
    audio.save(tmp_path / "sounds" / "a.wav", samples[None], RATE)
    clips = load_collection(tmp_path / "sounds").clips
    first = load_sounds(clips, CONFIG, RATE, HOP, cache=tmp_path / "cache")
    assert first[0].audio.shape == (69 * HOP,)
    monkeypatch.setattr("ddspx.tasks.sounds.measure", None)
    again = load_sounds(clips, CONFIG, RATE, HOP, cache=tmp_path / "cache")
    for name in CONFIG.names:
        np.testing.assert_array_equal(first[0].curves[name], again[0].curves[name])
    # What an earlier tracker of pitch found is not taken for what this one finds.
    monkeypatch.setattr("ddspx.pitch.VERSION", -1)
    with pytest.raises(TypeError, match="not callable"):
        load_sounds(clips, CONFIG, RATE, HOP, cache=tmp_path / "cache")


# --------------------------------------------------------------- played at other speeds


@pytest.mark.parametrize("cents", [-700.0, 100.0])
def test_a_detuned_sound_is_higher_and_shorter_with_its_drawn_curves(cents):
    times = np.arange(60 * HOP) / RATE
    sound = Sound(
        "tone",
        0.3 * np.sin(2 * np.pi * 400.0 * times).astype(np.float32),
        {"mood": np.arange(60, dtype=np.float32), "centroid_hz": np.zeros(60)},
    )
    controls = ControlsConfig(names=("mood", "centroid_hz"), window_ms=32.0)
    ratio = 2 ** (cents / 1200)
    found = detuned(sound, cents, controls, RATE, HOP)
    frames = len(found.audio) // HOP
    assert frames == int(60 / round(RATE * ratio) * RATE)
    assert found.name == f"tone, {cents:+g} cents"
    # The same samples, at places that lie closer or farther.
    places = np.arange(frames * HOP) * (round(RATE * ratio) / RATE) / RATE
    wanted = 0.3 * np.sin(2 * np.pi * 400.0 * places)
    inside = slice(2 * HOP, -2 * HOP)
    np.testing.assert_allclose(found.audio[inside], wanted[inside], atol=1e-3)
    np.testing.assert_allclose(
        found.curves["mood"][:-1], np.arange(frames - 1) * ratio, rtol=1e-3, atol=1e-3
    )
    # Measured anew: a sine's centroid is its frequency.
    middle = found.curves["centroid_hz"][frames // 3 : 2 * frames // 3]
    np.testing.assert_allclose(middle, 400.0 * ratio, rtol=0.05)


def test_only_what_is_trained_on_is_detuned(tmp_path):
    for name in ("a", "b"):
        audio.save(tmp_path / f"{name}.wav", noise(40)[None], RATE)
    table = "path,split\na.wav,train\nb.wav,train\n"
    (tmp_path / "MANIFEST.csv").write_text(table)
    clips = load_collection(tmp_path).clips
    config = CropsConfig(held_out=0.25, detuned_cents=(-50.0, 100.0))
    train, valid = load_parts(clips, CONFIG, RATE, HOP, config=config)
    plain = load_parts(clips, CONFIG, RATE, HOP, config=CropsConfig(held_out=0.25))
    assert [sound.name for sound in train[:2]] == [sound.name for sound in plain[0]]
    assert len(train) == 6 and len(valid) == len(plain[1]) == 2
    for found, wanted in zip((*train[:2], *valid), (*plain[0], *plain[1]), strict=True):
        np.testing.assert_array_equal(found.audio, wanted.audio)
    for bad in ((0.0,), (1300.0,)):
        with pytest.raises(ValueError, match="detuned_cents"):
            CropsConfig(detuned_cents=bad)
