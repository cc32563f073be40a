"""Manifests: one CSV line a recording, and folders that become manifests.

Columns, of which only `path` is required: path (relative to the CSV), seconds,
sample_rate, channels, source, licence, split, group, origin, note, sha256. A *group*
is what must not be heard on two sides of a split: a speaker, a piece, a device take.
"""

import csv
import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ddspx import audio

MANIFEST_NAME = "MANIFEST.csv"


class ManifestError(ValueError):
    """A manifest or folder that cannot be used; the message is one line."""


@dataclass(frozen=True)
class Clip:
    """One recording of a manifest.

    Attributes:
      path: as written in the manifest, relative to `root` with forward slashes.
      root: folder of the manifest.
      seconds: length; 0 when unknown.
      sample_rate: in Hz; 0 when unknown.
      channels: 0 when unknown.
      source: where the recording comes from.
      licence: of the recording.
      split: "train", "valid", "test", or empty.
      group: speaker, piece: what a split keeps together.
      origin: path in the source.
      note: anything.
      sha256: of the file's bytes, or empty.
    """

    path: str
    root: str = ""
    seconds: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    source: str = ""
    licence: str = ""
    split: str = ""
    group: str = ""
    origin: str = ""
    note: str = ""
    sha256: str = ""

    @property
    def file(self) -> Path:
        """Where the recording lies."""
        return Path(self.root) / self.path

    @property
    def category(self) -> str:
        """First folder of the path, or "." for a file beside its manifest."""
        parts = [part for part in PurePosixPath(self.path).parts if part != ".."]
        return parts[0] if len(parts) > 1 else "."


COLUMNS = tuple(field.name for field in fields(Clip) if field.name != "root")


class Skipped(NamedTuple):
    """A file that was left out, and why (one line)."""

    path: str
    reason: str


class Collection(NamedTuple):
    """What a manifest or a folder holds, and what was left out of it."""

    clips: tuple[Clip, ...]
    skipped: tuple[Skipped, ...]


def group_by_folder(path: str) -> str:
    """The parent folder; the file's own stem where it has none."""
    parent = PurePosixPath(path).parent.as_posix()
    return PurePosixPath(path).stem if parent == "." else parent


def group_by_stem(path: str) -> str:
    """Every file is its own group, named by its path without the suffix."""
    return PurePosixPath(path).with_suffix("").as_posix()


GROUP_RULES: dict[str, Callable[[str], str]] = {
    "folder": group_by_folder,
    "stem": group_by_stem,
}


def load_collection(path: str | Path, *, group: str = "folder") -> Collection:
    """Reads a manifest, a folder with a manifest in it, or a folder of audio.

    Args:
      path: CSV file or folder.
      group: how files without a group get one: "folder" or "stem".

    Returns:
      The clips in the order of the manifest (a folder is sorted), and what was left
      out. A manifest's files are not opened here.

    Raises:
      ManifestError: nothing is there, or nothing in it is usable.
    """
    path = Path(path)
    if path.is_dir() and (path / MANIFEST_NAME).is_file():
        path = path / MANIFEST_NAME
    if path.is_dir():
        return scan_folder(path, group=group)
    return Collection(read_manifest(path, group=group), ())


def read_manifest(path: str | Path, *, group: str = "folder") -> tuple[Clip, ...]:
    """Reads a manifest CSV; only the column `path` is required.

    Args:
      path: the CSV file (UTF-8).
      group: rule for rows without a group: "folder" or "stem".

    Raises:
      ManifestError: the file is missing or is no CSV with a `path` column, a number
        cannot be read, a path is empty, stands twice, or leaves the folder.
    """
    path, rule = Path(path), _group_rule(group)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = (getattr(error, "strerror", None) or "it is not UTF-8 text").lower()
        raise ManifestError(f"{path}: cannot be read: {reason}") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if "path" not in (reader.fieldnames or []):
        raise ManifestError(
            f"{path}: has no column 'path' in its first line; a manifest has the "
            f"columns {', '.join(COLUMNS)}, of which only path is required"
        )
    clips: dict[str, Clip] = {}
    for row in reader:
        clip = _clip(row, path, reader.line_num, rule)
        if clip.path in clips:
            raise ManifestError(
                f"{path}: line {reader.line_num}: {clip.path!r} stands twice"
            )
        clips[clip.path] = clip
    if not clips:
        raise ManifestError(f"{path}: lists no files")
    return tuple(clips.values())


def write_manifest(
    path: str | Path, clips: Iterable[Clip], *, overwrite: bool = False
) -> Path:
    """Writes clips as CSV with paths relative to the CSV's folder.

    Raises:
      AudioFileError: the file exists and `overwrite` is False, or cannot be written.
    """
    path = Path(path)
    folder = path.parent.resolve()
    with (
        audio.written_aside(path, overwrite=overwrite) as aside,
        aside.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for clip in clips:
            place = Path(os.path.relpath(clip.file.resolve(), folder)).as_posix()
            row = [getattr(replace(clip, path=place), name) for name in COLUMNS]
            writer.writerow("" if value in (0, 0.0) else value for value in row)
    return path


def scan_folder(
    folder: str | Path, *, group: str = "folder", checksums: bool = False
) -> Collection:
    """Lists the audio files under a folder, reading their headers.

    Args:
      folder: searched with its subfolders; hidden files are passed over.
      group: "folder" takes the parent folder, "stem" makes each file a group.
      checksums: also hash every file.

    Returns:
      Clips sorted by path, and the files with an audio suffix that are not readable.

    Raises:
      ManifestError: no folder, or no readable audio in it.
    """
    folder, rule = Path(folder), _group_rule(group)
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "no such file or folder"
        raise ManifestError(f"{folder}: {state}")
    clips: list[Clip] = []
    skipped: list[Skipped] = []
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in PurePosixPath(path).parts)
        if hidden or file.suffix.lower() not in audio.SUFFIXES or not file.is_file():
            continue
        try:
            facts = audio.info(file)
        except audio.AudioFileError as error:
            skipped.append(Skipped(path, _without_path(error, file)))
            continue
        clip = Clip(
            path=path,
            root=str(folder),
            seconds=round(max(0.0, facts.seconds), 4),
            sample_rate=facts.sample_rate,
            channels=facts.channels,
            group=rule(path),
            sha256=file_sha256(file) if checksums else "",
        )
        clips.append(clip)
    if not clips:
        bad = f", and {len(skipped)} that cannot be read" if skipped else ""
        raise ManifestError(f"{folder}: holds no readable audio files{bad}")
    return Collection(tuple(clips), tuple(skipped))


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def summary(collection: Collection) -> str:
    """A table by category, with files, groups, minutes, splits and sample rates."""
    rows: list[tuple[str, ...]] = [
        ("category", "files", "groups", "minutes", "by split", "by rate")
    ]
    categories = defaultdict(list)
    for clip in collection.clips:
        categories[clip.category].append(clip)
    for name in sorted(categories):
        rows.append(_summary_row(name, categories[name]))
    if len(categories) > 1:
        rows.append(_summary_row("all", list(collection.clips)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    if collection.skipped:
        lines.append(f"skipped: {len(collection.skipped)}")
        lines += [f"  {path}: {reason}" for path, reason in collection.skipped]
    return "\n".join(line.rstrip() for line in lines)


def _summary_row(name: str, clips: list[Clip]) -> tuple[str, ...]:
    by_split: dict[str, float] = defaultdict(float)
    by_rate: dict[int, float] = defaultdict(float)
    for clip in clips:
        by_split[clip.split or "unsplit"] += clip.seconds / 60
        by_rate[clip.sample_rate] += clip.seconds / 60
    return (
        name,
        str(len(clips)),
        str(len({clip.group for clip in clips})),
        f"{sum(by_split.values()):.1f}",
        ", ".join(f"{key} {by_split[key]:.1f}" for key in sorted(by_split)),
        ", ".join(f"{key} Hz {by_rate[key]:.1f}" for key in sorted(by_rate)),
    )


def _clip(
    row: dict[str, str], path: Path, line: int, rule: Callable[[str], str]
) -> Clip:
    values = {name: (row.get(name) or "").strip() for name in COLUMNS}
    place = PurePosixPath(values["path"])
    if not values["path"]:
        raise ManifestError(f"{path}: line {line}: the column path is empty")
    numbers = {}
    for name, kind in (("seconds", float), ("sample_rate", int), ("channels", int)):
        try:
            numbers[name] = kind(values[name] or 0)
        except ValueError as error:
            raise ManifestError(
                f"{path}: line {line}: {name} is {values[name]!r}, expected a number"
            ) from error
    values["group"] = values["group"] or rule(place.as_posix())
    return Clip(**{**values, **numbers, "root": str(path.parent)})


def _group_rule(name: str) -> Callable[[str], str]:
    if name not in GROUP_RULES:
        raise ManifestError(
            f"group rule {name!r} is unknown; expected one of {', '.join(GROUP_RULES)}"
        )
    return GROUP_RULES[name]


def _without_path(error: Exception, file: Path) -> str:
    return str(error).removeprefix(f"{file}: ")
