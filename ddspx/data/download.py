"""Downloads that continue where they stopped, are verified, and unpack safely.

pooch keeps the cache and checks the sums; it cannot continue a partial file, so it is
given a downloader that can. A partial file lies beside the target as
``<name>.partial``, with ``<name>.partial.json`` naming the version of the remote file
that it belongs to (ETag or Last-Modified), so that two versions are never spliced.
"""

import gzip
import json
import logging
import lzma
import os
import secrets
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pooch
import requests
from tqdm import tqdm

_LOG = logging.getLogger(__name__)
# What a broken connection can lose at most of what had arrived.
_CHUNK_BYTES = 2**14
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
)
CHECKSUMS_NAME = "CHECKSUMS.json"


class DownloadError(ValueError):
    """A download that failed or is not what it should be; the message is one line."""


class ResumingDownloader:
    """A downloader for pooch that continues a partial file by HTTP Range.

    Args:
      partial: where the partial file is kept between attempts and between runs.
      attempts: how many in a row may bring nothing new before it gives up.
      wait_s: pause before the next attempt, times the number of those that failed.
      timeout_s: for a connection, and for the next bytes.
      progress: True shows a bar on standard error.
    """

    def __init__(
        self,
        partial: Path,
        *,
        attempts: int = 5,
        wait_s: float = 2.0,
        timeout_s: float = 30.0,
        progress: bool = False,
    ):
        self.partial = partial
        self.state_path = partial.with_name(partial.name + ".json")
        self.attempts, self.wait_s = attempts, wait_s
        self.timeout_s, self.progress = timeout_s, progress

    def __call__(
        self,
        url: str,
        output_file: str | os.PathLike,
        pooch: Any,
        check_only: bool = False,
    ) -> None:
        """Fetches `url` to `output_file`, as pooch asks a downloader to."""
        if check_only:
            raise NotImplementedError("only downloads, does not check availability")
        failures = 0
        with requests.Session() as session:
            while True:
                before = _size(self.partial)
                try:
                    if self._continue(session, url):
                        break
                    reason = "the connection closed early"
                except (requests.ConnectionError, requests.Timeout) as error:
                    reason = _plain(error)
                except requests.exceptions.ChunkedEncodingError:
                    reason = "the connection broke"
                except OSError as error:
                    if isinstance(error, requests.RequestException):
                        raise DownloadError(f"{url}: {_plain(error)}") from error
                    raise DownloadError(
                        f"{self.partial}: cannot be written: {error.strerror}"
                    ) from error
                failures = 0 if _size(self.partial) > before else failures + 1
                if failures >= self.attempts:
                    raise DownloadError(
                        f"{url}: {reason}; gave up after {failures} attempts without "
                        f"progress, {_size(self.partial)} bytes are kept for next time"
                    )
                _LOG.warning("%s: %s; trying again", url, reason)
                time.sleep(self.wait_s * failures)
        os.replace(self.partial, output_file)
        self.state_path.unlink(missing_ok=True)

    def _continue(self, session: requests.Session, url: str) -> bool:
        """One request; True when the file is complete."""
        have, headers = _size(self.partial), {"Accept-Encoding": "identity"}
        version = self._version(url)
        if have and version:
            headers |= {"Range": f"bytes={have}-", "If-Range": version}
        else:
            have = 0
        with session.get(
            url, headers=headers, stream=True, timeout=self.timeout_s
        ) as reply:
            if reply.status_code == 416:
                # Nothing left to send, or another file: only a fresh start can tell.
                whole = reply.headers.get("Content-Range", "").rpartition("/")[2]
                if whole == str(have):
                    return True
                self.partial.unlink(missing_ok=True)
                return False
            if reply.status_code >= 500 or reply.status_code == 429:
                raise requests.ConnectionError(
                    f"the server answers {reply.status_code}"
                )
            if reply.status_code not in (200, 206):
                raise DownloadError(
                    f"{url}: the server answers {reply.status_code} {reply.reason}"
                )
            if reply.status_code == 200 or not _starts_at(reply, have):
                if reply.status_code == 206:
                    self.partial.unlink(missing_ok=True)
                    return False
                have = 0
            length = reply.headers.get("Content-Length")
            total = have + int(length) if length else None
            self._remember(url, reply)
            self._write(reply, have, total)
        return total is None or _size(self.partial) == total

    def _write(self, reply: requests.Response, have: int, total: int | None) -> None:
        with (
            self.partial.open("ab" if have else "wb") as file,
            tqdm(
                desc=self.partial.name.removesuffix(".partial"),
                initial=have,
                total=total,
                unit="B",
                unit_scale=True,
                disable=not self.progress,
            ) as bar,
        ):
            for chunk in reply.iter_content(_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))

    def _version(self, url: str) -> str | None:
        try:
            state = json.loads(self.state_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return state.get("version") if state.get("url") == url else None

    def _remember(self, url: str, reply: requests.Response) -> None:
        etag = reply.headers.get("ETag", "")
        # A weak ETag may not stand in If-Range (RFC 9110, 13.1.5).
        version = etag if etag.startswith('"') else reply.headers.get("Last-Modified")
        state = json.dumps({"url": url, "version": version})
        self.state_path.write_text(state, encoding="utf-8")


def fetch(
    url: str,
    target: str | Path,
    *,
    known_hash: str | None = None,
    progress: bool = False,
    attempts: int = 5,
    wait_s: float = 2.0,
) -> Path:
    """Downloads a file once, continuing a partial one, and verifies it.

    When no hash is known, that of the first download is recorded beside the target in
    CHECKSUMS.json and every later one must agree with it (trust on first use).

    Args:
      url: http or https.
      target: the file to make; one that is there and verified is left alone.
      known_hash: "sha256:..." or "md5:...".
      progress: True shows a bar on standard error.
      attempts: see `ResumingDownloader`.
      wait_s: see `ResumingDownloader`.

    Returns:
      The path of the verified file.

    Raises:
      DownloadError: the server refuses, the connection stays broken, or the sum is
        wrong. A file with a wrong sum is deleted; a partial file is kept.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    recorded = _recorded(target.parent)
    expected = known_hash or recorded.get(target.name)
    downloader = ResumingDownloader(
        target.with_name(target.name + ".partial"),
        attempts=attempts,
        wait_s=wait_s,
        progress=progress,
    )
    try:
        pooch.retrieve(
            url,
            known_hash=expected,
            fname=target.name,
            path=target.parent,
            # pooch's protocol for downloaders describes its processors by mistake.
            downloader=downloader,  # pyright: ignore[reportArgumentType]
        )
    except DownloadError:
        raise
    except ValueError as error:
        raise DownloadError(
            f"{url}: the download does not have the sum {expected}; it was deleted. "
            "Try again; if it stays so, the file was changed at its source"
        ) from error
    if expected is None:
        recorded[target.name] = f"sha256:{pooch.file_hash(str(target), alg='sha256')}"
        path = target.parent / CHECKSUMS_NAME
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        aside.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
        os.replace(aside, path)
    return target


def unpack(archive: str | Path, folder: str | Path) -> Path:
    """Unpacks a zip or tar archive: first aside, then renamed to `folder`.

    Only plain files are written; links and devices are left out.

    Args:
      archive: .zip, .tar, .tar.gz, .tgz, .tar.bz2 or .tar.xz.
      folder: must not exist.

    Returns:
      The folder.

    Raises:
      DownloadError: the archive is damaged, or a name in it leaves the folder.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists():
        raise DownloadError(f"{folder}: exists already")
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    members = _zip_members if zipfile.is_zipfile(archive) else _tar_members
    try:
        aside.mkdir(parents=True)
        for name, source in members(archive):
            target = aside / _safe_name(name, archive)
            target.parent.mkdir(parents=True, exist_ok=True)
            with source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
        os.replace(aside, folder)
    except _DAMAGED as error:
        raise DownloadError(f"{archive}: is a damaged archive ({error})") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise DownloadError(f"{archive}: cannot be unpacked: {reason}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as file:
        for entry in file.infolist():
            # The upper half of the attributes is the Unix mode; 0o12 is a link.
            if not entry.is_dir() and entry.external_attr >> 28 != 0o12:
                yield entry.filename, file.open(entry)


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive, "r:*") as file:
        for entry in file:
            source = file.extractfile(entry) if entry.isfile() else None
            if source is not None:
                yield entry.name, source
        # The compressor's checksum stands behind the last entry: read to it.
        while file.fileobj is not None and file.fileobj.read(_CHUNK_BYTES):
            pass


def _safe_name(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise DownloadError(
            f"{archive}: names {name!r}, which lies outside of the folder; not unpacked"
        )
    return path


def _starts_at(reply: requests.Response, have: int) -> bool:
    return reply.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _recorded(folder: Path) -> dict[str, str]:
    path = folder / CHECKSUMS_NAME
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise DownloadError(f"{path}: is not readable JSON; delete it") from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _plain(error: Exception) -> str:
    """The first line of what is often a nest of three exceptions."""
    reason = error.args[0] if error.args else error
    reason = getattr(reason, "reason", reason)
    return str(reason).splitlines()[0] if str(reason) else type(error).__name__
