"""The command line, and downloads against a server on this machine."""

import csv
import functools
import hashlib
import http.server
import importlib.util
import io
import json
import os
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from ddspx import audio
from ddspx.data import download, manifest, public, split

SCRIPT = Path(__file__).parent.parent / "scripts" / "prepare_data.py"


@pytest.fixture(scope="module")
def prepare_data():
    spec = importlib.util.spec_from_file_location("prepare_data", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # tyro looks for the source of the classes that it describes.
    sys.modules["prepare_data"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["prepare_data"]


class Site:
    """What the server offers, how it misbehaves, and what it was asked."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.versions: dict[str, str] = {}
        self.ranges = True
        # Bytes of body after which a reply breaks off; one entry a request.
        self.cuts: list[int] = []
        self.errors: list[int] = []
        self.requests: list[tuple[str, str | None, int]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, site, *args):
        self.site = site
        super().__init__(*args)

    def do_GET(self):
        site, path = self.site, self.path
        wanted = self.headers.get("Range")
        if site.errors:
            self.answer(path, wanted, site.errors.pop(0), b"")
            return
        if path not in site.files:
            self.answer(path, wanted, 404, b"")
            return
        body, version = site.files[path], site.versions.get(path, '"1"')
        headers = {"ETag": version}
        same = self.headers.get("If-Range") in (None, version)
        if wanted and site.ranges and same:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                headers["Content-Range"] = f"bytes */{len(body)}"
                self.answer(path, wanted, 416, b"", headers)
                return
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self.answer(path, wanted, 206, body[start:], headers)
        else:
            self.answer(path, wanted, 200, body, headers)

    def answer(self, path, wanted, status, body, headers=()):
        self.site.requests.append((path, wanted, status))
        self.send_response(status)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.site.cuts.pop(0) if self.site.cuts and body else len(body)
        self.wfile.write(body[:cut])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def site():
    made = Site()
    handler = functools.partial(Handler, made)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        made.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture
def body(rng):
    return rng.bytes(700_000)


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def fetch(site, path, target, **options):
    return download.fetch(site.url + path, target, wait_s=0.0, **options)


def test_a_download_is_verified_and_not_repeated(site, body, tmp_path):
    site.files["/a.bin"] = body
    target = tmp_path / "deep" / "a.bin"
    for _ in range(2):
        fetch(site, "/a.bin", target, known_hash=sha256(body))
    assert target.read_bytes() == body
    assert site.requests == [("/a.bin", None, 200)]
    assert os.listdir(target.parent) == ["a.bin"]


def test_a_cut_connection_is_continued(site, body, tmp_path):
    site.files["/a.bin"] = body
    site.cuts = [327_680, 245_760]
    md5 = "md5:" + hashlib.md5(body).hexdigest()
    fetch(site, "/a.bin", tmp_path / "a.bin", known_hash=md5)
    assert (tmp_path / "a.bin").read_bytes() == body
    assert [status for _, _, status in site.requests] == [200, 206, 206]
    assert [asked for _, asked, _ in site.requests][1:] == [
        "bytes=327680-",
        "bytes=573440-",
    ]
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_stopped_run_is_continued_by_the_next(site, body, tmp_path):
    site.files["/a.bin"] = body
    site.cuts = [327_680, 0, 0]
    with pytest.raises(download.DownloadError, match="327680 bytes are kept") as caught:
        fetch(site, "/a.bin", tmp_path / "a.bin", attempts=2)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a.bin").exists()
    site.cuts, site.requests = [], []
    fetch(site, "/a.bin", tmp_path / "a.bin", known_hash=sha256(body))
    assert (tmp_path / "a.bin").read_bytes() == body
    assert site.requests == [("/a.bin", "bytes=327680-", 206)]


def test_two_versions_are_never_spliced(site, body, tmp_path):
    site.files["/a.bin"] = body[::-1]
    site.cuts = [327_680, 0]
    with pytest.raises(download.DownloadError):
        fetch(site, "/a.bin", tmp_path / "a.bin", attempts=1)
    site.files["/a.bin"], site.versions["/a.bin"] = body, '"2"'
    site.cuts = []
    fetch(site, "/a.bin", tmp_path / "a.bin", known_hash=sha256(body))
    assert site.requests[-1] == ("/a.bin", "bytes=327680-", 200)


def test_weak_versions_lead_to_a_fresh_start(site, body, tmp_path):
    site.files["/a.bin"], site.versions["/a.bin"] = body, 'W/"1"'
    site.cuts = [327_680]
    fetch(site, "/a.bin", tmp_path / "a.bin", known_hash=sha256(body))
    assert [asked for _, asked, _ in site.requests] == [None, None]


def test_a_server_without_ranges_works(site, body, tmp_path):
    site.files["/a.bin"], site.ranges = body, False
    site.cuts = [327_680]
    fetch(site, "/a.bin", tmp_path / "a.bin", known_hash=sha256(body))
    assert (tmp_path / "a.bin").read_bytes() == body
    assert [status for _, _, status in site.requests] == [200, 200]


def test_a_file_that_was_complete_before_the_stop_is_recognised(site, body, tmp_path):
    site.files["/a.bin"] = body
    (tmp_path / "a.bin.partial").write_bytes(body)
    state = {"url": site.url + "/a.bin", "version": '"1"'}
    (tmp_path / "a.bin.partial.json").write_text(json.dumps(state))
    fetch(site, "/a.bin", tmp_path / "a.bin", known_hash=sha256(body))
    assert [status for _, _, status in site.requests] == [416]


def test_a_corrupted_download_is_refused_and_removed(site, body, tmp_path):
    site.files["/a.bin"] = body[:-1] + b"!"
    with pytest.raises(download.DownloadError, match="does not have the sum sha256"):
        fetch(site, "/a.bin", tmp_path / "a.bin", known_hash=sha256(body))
    assert os.listdir(tmp_path) == []


def test_without_a_known_sum_the_first_download_is_trusted(site, body, tmp_path):
    site.files["/a.bin"] = body
    target = tmp_path / "a.bin"
    fetch(site, "/a.bin", target)
    recorded = json.loads((tmp_path / download.CHECKSUMS_NAME).read_text())
    assert recorded == {"a.bin": sha256(body)}
    site.files["/a.bin"] = body[::-1]
    target.unlink()
    with pytest.raises(download.DownloadError, match=sha256(body)):
        fetch(site, "/a.bin", target)
    assert not target.exists()


def test_a_busy_server_is_asked_again_a_missing_file_is_not(site, body, tmp_path):
    site.files["/a.bin"], site.errors = body, [503, 429]
    fetch(site, "/a.bin", tmp_path / "a.bin", known_hash=sha256(body))
    assert [status for _, _, status in site.requests] == [503, 429, 200]
    with pytest.raises(download.DownloadError, match="answers 404"):
        fetch(site, "/b.bin", tmp_path / "b.bin")
    assert site.requests[-1][2] == 404 and len(site.requests) == 4


def test_no_server_is_one_line(tmp_path):
    with pytest.raises(download.DownloadError, match="gave up after 2") as caught:
        download.fetch(
            "http://127.0.0.1:9/a.bin", tmp_path / "a.bin", attempts=2, wait_s=0.0
        )
    assert "\n" not in str(caught.value)


def zipped(names):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, content in names.items():
            file.writestr(name, content)
    return data.getvalue()


def tarred(names, links=()):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as file:
        for name, content in names.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
        for name, target in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            file.addfile(entry)
    return data.getvalue()


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_archives_unpack(tmp_path, pack):
    (tmp_path / "a").write_bytes(pack({"x/1.txt": b"one", "2.txt": b"two"}))
    folder = download.unpack(tmp_path / "a", tmp_path / "out")
    assert (folder / "x/1.txt").read_bytes() == b"one"
    assert (folder / "2.txt").read_bytes() == b"two"
    with pytest.raises(download.DownloadError, match="exists already"):
        download.unpack(tmp_path / "a", tmp_path / "out")


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("name", ["../evil", "/evil", "x/../../evil", "..\\evil"])
def test_names_that_leave_the_folder_are_refused(tmp_path, pack, name):
    (tmp_path / "a").write_bytes(pack({"fine": b"1", name: b"2"}))
    with pytest.raises(download.DownloadError, match="lies outside"):
        download.unpack(tmp_path / "a", tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("*evil*")) and not list(tmp_path.rglob("fine"))


def test_links_are_left_out(tmp_path):
    links = [("link", "/etc"), ("link/passwd", "/etc/passwd")]
    (tmp_path / "a").write_bytes(tarred({"fine": b"1"}, links))
    folder = download.unpack(tmp_path / "a", tmp_path / "out")
    assert os.listdir(folder) == ["fine"]


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_damaged_archives_are_refused(tmp_path, pack, rng):
    data = bytearray(pack({"a": rng.bytes(50_000)}))
    data[20_000:20_100] = bytes(100)
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(download.DownloadError, match="damaged"):
        download.unpack(tmp_path / "a", tmp_path / "out")
    assert os.listdir(tmp_path) == ["a"]


def wav(rng, seconds=0.5):
    data = io.BytesIO()
    sf.write(data, rng.standard_normal(int(8000 * seconds)) * 0.1, 8000, format="WAV")
    return data.getvalue()


@pytest.fixture
def digits(site, rng):
    """A small set of the shape of the spoken digits, on the local server."""
    names = {
        f"fsdd-1.0.9/recordings/{digit}_{speaker}_{take}.wav": wav(rng)
        for speaker in ("jackson", "theo", "lucas", "nicolas")
        for digit in range(2)
        for take in range(2)
    }
    names["fsdd-1.0.9/README.md"] = b"text"
    names["fsdd-1.0.9/recordings/0_theo_9.wav"] = b"broken"
    names["fsdd-1.0.9/acquire/demo.wav"] = wav(rng)
    site.files["/v1.tar.gz"] = tarred(names)
    known = public.PUBLIC_SETS["spoken-digits"]
    return replace(known, url=site.url + "/v1.tar.gz")


def test_a_public_set_becomes_a_manifest(site, digits, tmp_path):
    site.cuts = [20_000]
    folder = tmp_path / "digits"
    clips, skipped = public.prepare_public(digits, folder, wait_s=0.0)
    assert len(clips) == 16 and {c.licence for c in clips} == {"CC BY-SA 4.0"}
    assert {c.group for c in clips} == {
        f"spoken-digits_{name}" for name in ("jackson", "theo", "lucas", "nicolas")
    }
    assert {c.split for c in clips} == {"train", "valid", "test"}
    split.check_leakage(clips)
    assert [Path(path).name for path, _ in skipped] == ["0_theo_9.wav"]
    assert manifest.load_collection(folder).clips == clips
    for clip in clips:
        assert audio.load(clip.file).samples.shape == (1, 4000)
    count = len(site.requests)
    with pytest.raises(manifest.ManifestError, match="exists already"):
        public.prepare_public(digits, folder)
    again = public.prepare_public(digits, folder, overwrite=True)
    assert again.clips == clips and len(site.requests) == count == 2


def test_a_set_of_another_shape_is_refused(site, digits, tmp_path, rng):
    site.files["/v1.tar.gz"] = tarred({"other/a.wav": wav(rng)})
    with pytest.raises(manifest.ManifestError, match="is of the set spoken-digits"):
        public.prepare_public(digits, tmp_path / "digits")


def test_the_table_of_public_sets_is_sound():
    examples = {
        "vctk": ("wav48_silence_trimmed/p225/p225_001_mic1.flac", "p225"),
        "daps": ("daps/clean/f10_script1_clean.wav", "f10"),
        "musdb18-hq": ("test/A Band - A Song/mixture.wav", "A Band - A Song"),
        "ljspeech": ("LJSpeech-1.1/wavs/LJ001-0001.wav", "LJ001"),
        "guitarset": ("00_BN1-129-Eb_comp_mic.wav", "00"),
        "esc-50": ("ESC-50-master/audio/1-100032-A-0.wav", "100032"),
        "nsynth-test": (
            "nsynth-test/audio/bass_electronic_018-022-100.wav",
            "bass_electronic_018",
        ),
        "libritts-dev-clean": (
            "LibriTTS/dev-clean/1272/128104/1272_128104_000001_000000.wav",
            "1272",
        ),
        "librispeech-dev-clean": (
            "LibriSpeech/dev-clean/1272/128104/1272-128104-0000.flac",
            "1272",
        ),
    }
    for name, (path, group) in examples.items():
        item = public.PUBLIC_SETS[name]
        [clip] = public._described([manifest.Clip(path)], item, Path("root"))
        assert clip.group == f"{name}_{group}"
        assert clip.path == f"{name}/{path}" and clip.origin == path
    names = [item.archive_name for item in public.PUBLIC_SETS.values()]
    assert len(set(names)) == len(names)
    for item in public.PUBLIC_SETS.values():
        digits = {"md5": 32, "sha256": 64}
        if item.known_hash:
            kind, _, value = item.known_hash.partition(":")
            assert len(value) == digits[kind] and int(value, 16)
    [song] = public._described(
        [manifest.Clip("test/A/mixture.wav")],
        public.PUBLIC_SETS["musdb18-hq"],
        Path("root"),
    )
    assert song.split == "test"


def test_public_through_the_command(
    site, digits, prepare_data, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(prepare_data.PUBLIC_SETS, "spoken-digits", digits)
    arguments = ["public", "spoken-digits", "--out", str(tmp_path / "d")]
    assert prepare_data.main(arguments) == 0
    assert "spoken-digits  16" in capsys.readouterr().out
    assert prepare_data.main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert prepare_data.main([*arguments, "--overwrite"]) == 0
    assert prepare_data.main(["public"]) == 0
    assert "vctk" in capsys.readouterr().out


def test_manifest_and_show(prepare_data, tmp_path, capsys, rng):
    for speaker in "abcd":
        (tmp_path / speaker).mkdir()
        for take in range(2):
            (tmp_path / speaker / f"{take}.wav").write_bytes(wav(rng))
    (tmp_path / "a" / "broken.flac").write_bytes(b"broken")
    out = tmp_path / "MANIFEST.csv"
    arguments = ["manifest", str(tmp_path), "--out", str(out), "--licence", "CC0 1.0"]
    assert prepare_data.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "all       8      4" in printed and "a/broken.flac: is not" in printed
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows][:3] == ["a/0.wav", "a/1.wav", "b/0.wav"]
    assert {row["licence"] for row in rows} == {"CC0 1.0"}
    assert rows[0]["sha256"] == manifest.file_sha256(tmp_path / "a/0.wav")
    assert {row["split"] for row in rows} == {"train", "valid", "test"}
    assert prepare_data.main(arguments) == 2
    assert "use --overwrite" in capsys.readouterr().err
    assert prepare_data.main([*arguments, "--overwrite"]) == 0

    capsys.readouterr()
    assert prepare_data.main(["show", str(tmp_path)]) == 0
    assert "all       8      4" in capsys.readouterr().out
    (tmp_path / "b" / "1.wav").unlink()
    assert prepare_data.main(["show", str(out)]) == 0
    assert "missing: 1 files" in capsys.readouterr().out


def test_practice_through_the_command(prepare_data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ddspx.data.practice.KINDS", ("drums",))
    arguments = ["practice", "--out", str(tmp_path / "p"), "--sample-rate", "8000"]
    assert prepare_data.main(arguments) == 0
    assert "drums     6      6" in capsys.readouterr().out
    assert prepare_data.main(arguments) == 2
    samples = audio.load(tmp_path / "p/drums/drums_0.flac").samples
    assert np.abs(samples).max() > 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "{0}/none"], "no such file"),
        (["show", "{0}"], "holds no readable audio"),
        (["manifest", "{0}/none", "--out", "{0}/m.csv"], "no such file or folder"),
        (["manifest", "{0}", "--out", "{0}/m.csv"], "holds no readable audio"),
        (["public", "nope", "--out", "{0}"], "no public set 'nope'; there are"),
        (["public", "vctk"], "name a folder with --out"),
        (["practice", "--out", "{0}/p", "--sample-rate", "10"], "8000 or more"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    prepare_data, tmp_path, capsys, arguments, message
):
    filled = [argument.format(tmp_path) for argument in arguments]
    assert prepare_data.main(filled) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1
    assert not printed.out and os.listdir(tmp_path) == []


def test_unknown_commands_leave_with_code_2(prepare_data, capsys):
    for arguments in (["practise"], ["practice"], ["show"]):
        with pytest.raises(SystemExit) as caught:
            prepare_data.main(arguments)
        assert caught.value.code == 2
        capsys.readouterr()
