"""Makes data sets ready: the practice corpus, manifests, public downloads.

python scripts/prepare_data.py practice --out practice
python scripts/prepare_data.py manifest RECORDINGS --out RECORDINGS/MANIFEST.csv
python scripts/prepare_data.py show RECORDINGS
python scripts/prepare_data.py public spoken-digits --out digits
python scripts/prepare_data.py convert RECORDINGS --out RECORDINGS_24K
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Literal

import pooch
import tyro
from tqdm import tqdm

from ddspx.audio import AudioFileError
from ddspx.data.convert import convert_collection
from ddspx.data.download import DownloadError
from ddspx.data.manifest import (
    Collection,
    ManifestError,
    load_collection,
    scan_folder,
    summary,
    write_manifest,
)
from ddspx.data.practice import render_practice_corpus
from ddspx.data.public import PUBLIC_SETS, prepare_public
from ddspx.data.split import assign_splits, check_leakage


@dataclass(frozen=True)
class Practice:
    """Render the practice corpus: 24 pieces, 5 minutes, with a manifest."""

    out: Path
    """Folder to write."""
    sample_rate: int = 44100
    """Of the files, in Hz."""
    seed: int = 0
    """Another seed, other melodies."""
    overwrite: bool = False
    """Replace a corpus that is there."""


@dataclass(frozen=True)
class Manifest:
    """List a folder of audio in a CSV, with groups, splits and checksums."""

    folder: tyro.conf.Positional[Path]
    """Searched with its subfolders."""
    out: Path
    """CSV to write."""
    group: Literal["folder", "stem"] = "folder"
    """What a split keeps together: the parent folder, or each file by itself."""
    seed: int = 0
    """Of the split."""
    source: str = ""
    """Written to the column source."""
    licence: str = ""
    """Written to the column licence."""
    overwrite: bool = False
    """Replace a CSV that is there."""


@dataclass(frozen=True)
class Show:
    """Print what a manifest or a folder holds."""

    path: tyro.conf.Positional[Path]
    """CSV, or a folder with or without a MANIFEST.csv."""
    group: Literal["folder", "stem"] = "folder"
    """Group of files that the manifest gives none."""


@dataclass(frozen=True)
class Public:
    """Download, verify and unpack a public set; without a name, list the sets."""

    name: tyro.conf.Positional[str] = ""
    """One of the sets listed by `public` alone."""
    out: Path | None = None
    """Folder to write; an interrupted download in it is continued."""
    overwrite: bool = False
    """Write an existing manifest anew."""


@dataclass(frozen=True)
class Convert:
    """Copy recordings at one sample rate, so that training need not resample."""

    path: tyro.conf.Positional[Path]
    """CSV, or a folder with or without a MANIFEST.csv."""
    out: Path
    """Folder to write; what is there already is kept."""
    sample_rate: int = 24000
    """Of the copies, in Hz."""
    channels: int = 1
    """Of the copies; 1 mixes down."""
    only: str = "*"
    """Recordings whose path matches this pattern, such as 'speech/*'."""


Command = (
    Annotated[Practice, tyro.conf.subcommand("practice")]
    | Annotated[Manifest, tyro.conf.subcommand("manifest")]
    | Annotated[Show, tyro.conf.subcommand("show")]
    | Annotated[Public, tyro.conf.subcommand("public")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses, does, prints; 0 when done, 2 when the input was refused."""
    command = tyro.cli(
        Command,  # pyright: ignore[reportArgumentType]
        args=arguments,
        prog="prepare_data.py",
        description=(__doc__ or "").splitlines()[0],
    )
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    # pooch announces every file on its own; the progress bar says it already.
    pooch.get_logger().setLevel("WARNING")
    try:
        _run(command)
    except (AudioFileError, DownloadError, ManifestError) as error:
        print(f"prepare_data.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prepare_data.py: stopped; the same command continues", file=sys.stderr)
        return 130
    return 0


def _run(command: Practice | Manifest | Show | Public | Convert) -> None:
    if isinstance(command, Practice):
        clips = render_practice_corpus(
            command.out,
            sample_rate=command.sample_rate,
            seed=command.seed,
            overwrite=command.overwrite,
        )
        print(summary(Collection(clips, ())))
    elif isinstance(command, Manifest):
        print(summary(_make_manifest(command)))
    elif isinstance(command, Show):
        _show(command)
    elif isinstance(command, Convert):
        print(summary(_convert(command)))
    else:
        _public(command)


def _make_manifest(command: Manifest) -> Collection:
    if command.out.exists() and not command.overwrite:
        raise ManifestError(f"{command.out}: exists already; use --overwrite")
    found = scan_folder(command.folder, group=command.group, checksums=True)
    described = [
        type(clip)(
            **{**vars(clip), "source": command.source, "licence": command.licence}
        )
        for clip in found.clips
    ]
    clips = assign_splits(described, seed=command.seed)
    write_manifest(command.out, clips, overwrite=command.overwrite)
    return Collection(clips, found.skipped)


def _show(command: Show) -> None:
    found = load_collection(command.path, group=command.group)
    missing = [clip for clip in found.clips if not clip.file.is_file()]
    print(summary(found))
    if missing:
        print(f"missing: {len(missing)} files, the first is {missing[0].file}")
    check_leakage(found.clips)


def _advance(bar: tqdm, path: str) -> None:
    bar.update()
    bar.set_postfix_str(path)


def _convert(command: Convert) -> Collection:
    clips = load_collection(command.path).clips
    chosen = [clip for clip in clips if fnmatch(clip.path, command.only)]
    if not chosen:
        raise ManifestError(f"--only {command.only!r} matches nothing")
    with tqdm(total=len(chosen), unit="file") as bar:
        return convert_collection(
            chosen,
            command.out,
            sample_rate=command.sample_rate,
            channels=command.channels,
            report=lambda path: _advance(bar, path),
        )


def _public(command: Public) -> None:
    if not command.name:
        width = max(map(len, PUBLIC_SETS))
        for item in PUBLIC_SETS.values():
            size = f"{item.megabytes} MB" if item.megabytes else "small"
            print(f"{item.name:<{width}}  {size:>8}  {item.licence}: {item.about}")
        return
    if command.name not in PUBLIC_SETS:
        raise ManifestError(
            f"no public set {command.name!r}; there are: {', '.join(PUBLIC_SETS)}"
        )
    if command.out is None:
        raise ManifestError("name a folder with --out")
    found = prepare_public(
        PUBLIC_SETS[command.name],
        command.out,
        overwrite=command.overwrite,
        progress=True,
    )
    print(summary(found))


if __name__ == "__main__":
    sys.exit(main())
