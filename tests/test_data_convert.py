"""Copies of a collection at one rate."""

import numpy as np
import pytest
import soundfile
from prepare_data import main as prepare

from ddspx import audio
from ddspx.data.convert import convert_collection
from ddspx.data.manifest import Clip, ManifestError, load_collection


@pytest.fixture
def recordings(tmp_path):
    rng = np.random.default_rng(0)
    clips = []
    for number, rate in enumerate((16000, 8000)):
        name = f"speech/{number}.flac"
        (tmp_path / "speech").mkdir(exist_ok=True)
        sound = 0.1 * rng.normal(size=(rate, 2))
        soundfile.write(tmp_path / name, sound, rate)
        clips.append(
            Clip(name, str(tmp_path), 1.0, rate, 2, licence="CC0", split="train",
                 group=f"g{number}")
        )  # fmt: skip
    return tmp_path, tuple(clips)


def test_copies_are_what_loading_at_the_rate_gives(recordings, tmp_path):
    _, clips = recordings
    out = tmp_path / "copies"
    made = convert_collection(clips, out, sample_rate=16000)
    for before, after in zip(clips, made.clips, strict=True):
        expected = audio.load(before.file, sample_rate=16000, channels=1).samples
        found = audio.load(after.file).samples
        np.testing.assert_array_equal(found, expected)
        assert (after.split, after.group, after.licence) == (
            before.split, before.group, before.licence,
        )  # fmt: skip
    read = load_collection(out).clips
    assert [clip.path for clip in read] == ["speech/0.wav", "speech/1.wav"]
    assert {clip.sample_rate for clip in read} == {16000}


def test_what_is_there_is_kept_and_what_cannot_be_read_is_told(recordings, tmp_path):
    folder, clips = recordings
    out = tmp_path / "copies"
    convert_collection(clips[:1], out, sample_rate=16000)
    kept = out / "speech/0.wav"
    before = kept.stat().st_mtime_ns
    (folder / "speech/broken.flac").write_bytes(b"no audio")
    broken = Clip("speech/broken.flac", str(folder), split="train", group="b")
    made = convert_collection((*clips, broken), out, sample_rate=16000)
    assert kept.stat().st_mtime_ns == before
    assert len(made.clips) == 2 and made.skipped[0].path == "speech/broken.flac"
    with pytest.raises(ManifestError, match="none of 1 recordings"):
        convert_collection([broken], out, sample_rate=16000)
    twin = Clip("speech/0.ogg", str(folder), split="train", group="t")
    with pytest.raises(ManifestError, match="becomes"):
        convert_collection((clips[0], twin), tmp_path / "other", sample_rate=16000)


def test_the_command_converts_what_matches(recordings, tmp_path, capsys):
    folder, _ = recordings
    out = tmp_path / "copies"
    words = ["convert", str(folder), "--out", str(out), "--sample-rate", "8000"]
    assert prepare([*words, "--only", "speech/1*"]) == 0
    assert [p.name for p in (out / "speech").iterdir()] == ["1.wav"]
    assert prepare([*words, "--only", "music/*"]) == 2
    assert "matches nothing" in capsys.readouterr().err
