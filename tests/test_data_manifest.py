"""Manifests, folders and splits."""

import numpy as np
import pytest
import soundfile as sf

from ddspx import audio
from ddspx.data import manifest, split
from ddspx.data.manifest import Clip, ManifestError


@pytest.fixture
def folder(tmp_path, rng):
    """Three speakers, a loose file, a file that is no audio, a text, a hidden file."""
    for name, rate in (("a/1.wav", 8000), ("a/2.flac", 16000), ("b/1.ogg", 16000)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        samples = rng.standard_normal((2, rate // 2)) * 0.1
        audio.save(tmp_path / name, samples, rate)
    audio.save(tmp_path / "loose.wav", np.ones((1, 8000)) * 0.1, 8000)
    (tmp_path / "b" / "broken.wav").write_text("no audio")
    (tmp_path / "b" / "notes.txt").write_text("no audio, and does not say so")
    (tmp_path / ".hidden.wav").write_text("no audio")
    return tmp_path


def test_a_folder_is_listed_with_what_its_headers_say(folder):
    clips, skipped = manifest.scan_folder(folder, checksums=True)
    assert [c.path for c in clips] == ["a/1.wav", "a/2.flac", "b/1.ogg", "loose.wav"]
    assert [c.group for c in clips] == ["a", "a", "b", "loose"]
    assert [c.category for c in clips] == ["a", "a", "b", "."]
    assert [c.sample_rate for c in clips] == [8000, 16000, 16000, 8000]
    assert [c.channels for c in clips] == [2, 2, 2, 1]
    assert [c.seconds for c in clips] == [0.5, 0.5, 0.5, 1.0]
    assert clips[1].sha256 == manifest.file_sha256(folder / "a/2.flac")
    [(path, reason)] = skipped
    assert path == "b/broken.wav" and "not a readable audio file" in reason
    assert [c.group for c in manifest.scan_folder(folder, group="stem").clips] == [
        "a/1",
        "a/2",
        "b/1",
        "loose",
    ]


def test_a_manifest_comes_back_as_it_was_written(folder, tmp_path):
    clips = tuple(manifest.scan_folder(folder, checksums=True).clips)
    path = manifest.write_manifest(folder / "MANIFEST.csv", clips)
    assert manifest.read_manifest(path) == clips
    assert manifest.load_collection(folder) == (clips, ())
    with pytest.raises(audio.AudioFileError, match="exists already"):
        manifest.write_manifest(path, clips)
    other = tmp_path / "lists"
    other.mkdir()
    moved = manifest.read_manifest(manifest.write_manifest(other / "m.csv", clips))
    assert [c.path for c in moved] == [f"../{c.path}" for c in clips]
    assert [c.file.resolve() for c in moved] == [c.file.resolve() for c in clips]
    assert [c.category for c in moved] == [c.category for c in clips]


@pytest.mark.data
def test_the_real_manifest_loads_as_it_is(data_root):
    clips = manifest.load_collection(data_root).clips
    assert len(clips) > 3000
    split.check_leakage(clips)
    assert {clip.split for clip in clips} == {"train", "valid", "test"}
    for clip in clips[:: len(clips) // 20]:
        facts = audio.info(clip.file)
        assert (facts.sample_rate, facts.channels) == (clip.sample_rate, clip.channels)
        assert abs(facts.seconds - clip.seconds) < 1e-3
        assert manifest.file_sha256(clip.file) == clip.sha256


def test_only_the_path_is_required_and_oddities_of_csv_are_read(tmp_path):
    path = tmp_path / "m.csv"
    path.write_bytes(
        b'\xef\xbb\xbfextra,path,note\r\n1,x/a.wav,"two\nlines, quoted"\r\n'
    )
    [clip] = manifest.read_manifest(path)
    assert clip == Clip("x/a.wav", str(tmp_path), group="x", note="two\nlines, quoted")
    assert clip.file == tmp_path / "x/a.wav"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,seconds\na.wav,1\n", "no column 'path'"),
        ("", "no column 'path'"),
        ("path\n", "lists no files"),
        ("path,seconds\na.wav,long\n", "line 2: seconds is 'long'"),
        ("path,channels\na.wav,1\nb.wav,1.5\n", "line 3: channels is '1.5'"),
        ("path\na.wav\na.wav\n", "line 3: 'a.wav' stands twice"),
        ("path,note\n,x\n", "line 2: the column path is empty"),
    ],
)
def test_bad_manifests_are_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(ManifestError, match=message) as caught:
        manifest.load_collection(tmp_path / "m.csv")
    assert "\n" not in str(caught.value)


def test_missing_and_empty_places_are_refused(tmp_path):
    with pytest.raises(ManifestError, match="cannot be read: no such file"):
        manifest.load_collection(tmp_path / "none.csv")
    with pytest.raises(ManifestError, match="holds no readable audio"):
        manifest.load_collection(tmp_path)
    with pytest.raises(ManifestError, match="no such file or folder"):
        manifest.scan_folder(tmp_path / "none")
    (tmp_path / "m.csv").write_bytes(b"path\n\xff\xfe.wav\n")
    with pytest.raises(ManifestError, match="not utf-8"):
        manifest.load_collection(tmp_path / "m.csv")
    with pytest.raises(ManifestError, match="rule 'speaker' is unknown"):
        manifest.scan_folder(tmp_path, group="speaker")


def test_the_summary_counts(folder):
    text = manifest.summary(manifest.scan_folder(folder))
    rows = {line.split()[0]: line.split() for line in text.splitlines()}
    assert rows["a"][1:3] == ["2", "1"] and rows["all"][1:3] == ["4", "3"]
    assert "skipped: 1" in text and "b/broken.wav" in text
    assert "8000 Hz" in text and "unsplit" in text


def speakers(count, files=3, seconds=10.0):
    return [
        Clip(f"{s}/{f}.wav", seconds=seconds + s, group=f"speaker{s}")
        for s in range(count)
        for f in range(files)
    ]


def test_no_group_is_on_two_sides_and_shares_are_kept():
    clips = speakers(40)
    made = split.assign_splits(clips, seed=3)
    split.check_leakage(made)
    assert [c.path for c in made] == [c.path for c in clips]
    total = sum(c.seconds for c in made)
    for name, share in split.DEFAULT_SHARES.items():
        seconds = sum(c.seconds for c in split.select(made, name))
        assert abs(seconds / total - share) < 0.05
    groups = [{c.group for c in split.select(made, n)} for n in split.DEFAULT_SHARES]
    assert set.union(*groups) == {c.group for c in clips}
    assert sum(map(len, groups)) == 40


@pytest.mark.parametrize("count", [3, 4, 5, 11])
def test_no_split_is_empty_when_there_are_groups_enough(count):
    made = split.assign_splits(speakers(count, files=2))
    assert {c.split for c in made} == {"train", "valid", "test"}


def test_splits_do_not_depend_on_the_order_but_on_the_seed(rng):
    clips = speakers(30)
    shuffled = [clips[i] for i in rng.permutation(len(clips))]

    def by_path(made):
        return {c.path: c.split for c in made}

    first = by_path(split.assign_splits(clips))
    assert by_path(split.assign_splits(shuffled)) == first
    assert by_path(split.assign_splits(clips, seed=1)) != first


def test_splits_that_are_there_are_kept_and_leaks_are_named():
    clips = [
        Clip("a/1.wav", group="a", split="test", seconds=1.0),
        Clip("a/2.wav", group="a", seconds=1.0),
        *speakers(8),
    ]
    made = split.assign_splits(clips)
    assert made[0].split == made[1].split == "test"
    leak = [*made, Clip("a/3.wav", group="a", split="train")]
    for function in (split.check_leakage, split.assign_splits):
        with pytest.raises(split.LeakageError, match=r"group 'a' is in test .* train"):
            function(leak)
    with pytest.raises(split.LeakageError):
        split.select(leak, "valid")
    with pytest.raises(ManifestError, match=r"no clips in split 'dev'.*test, train"):
        split.select(made, "dev")
    with pytest.raises(ManifestError, match="expected positive numbers"):
        split.assign_splits(clips, shares={"train": 1.0, "test": 0.0})


def test_a_header_without_a_body_is_left_out(tmp_path):
    sf.write(tmp_path / "none.wav", np.zeros((0, 1)), 8000)
    sf.write(tmp_path / "some.wav", np.ones(80) * 0.1, 8000)
    clips, skipped = manifest.scan_folder(tmp_path)
    assert [c.path for c in clips] == ["some.wav"]
    assert skipped == (("none.wav", "holds no samples"),)
