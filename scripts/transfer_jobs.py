"""Which recordings transfer.py treats, like what, and where the results go.

One file has one output. Several files, folders, quoted patterns and the rows of a table
of pairs are a batch: their outputs lie in a folder, or each beside its input, under
names of their own. All is checked before any work. In a batch, a recording that cannot
be read is told and left out, and the others go on.
"""

import csv
import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ddspx import audio
from styletransfer.transfer import TransferError, check_audio

# Of a table of pairs; other columns are left alone.
_COLUMNS = ("input", "reference")


@dataclass(frozen=True)
class Job:
    """One recording to treat.

    Attributes:
      source: the recording.
      wanted: reference or target.
      output: sound to write; everything else lies beside it.
    """

    source: Path
    wanted: Path
    output: Path


@dataclass(frozen=True)
class Request:
    """What the command line says of files.

    Attributes:
      inputs: files, folders and patterns.
      wanted: reference or target; None where a table names one for each.
      role: "reference" or "target".
      pairs: table of inputs and references, CSV.
      output: file, or folder for a batch; None for names beside the inputs.
      batch: whether one input is a batch as well.
      label: ends names beside the inputs: that of the effect.
      overwrite: whether outputs may exist.
    """

    inputs: tuple[Path, ...]
    wanted: Path | None
    role: str
    pairs: Path | None
    output: Path | None
    batch: bool
    label: str
    overwrite: bool

    @property
    def many(self) -> bool:
        """Whether this is a batch."""
        return self.batch or self.pairs is not None or len(self.inputs) != 1


def plan(
    request: Request, written: Callable[[Path], Sequence[Path]]
) -> tuple[list[Job], list[str]]:
    """Every recording with its output, all of them checked.

    Args:
      request: from the command line.
      written: from the output of a recording to all files that are written for it.

    Returns:
      The jobs, and what is wrong with recordings of a batch that are left out.

    Raises:
      ValueError: nothing to do, an output that exists or is an input, two outputs of
        one name; and of a single recording, all that is wrong with it.
    """
    if not request.many:
        (source,) = request.inputs
        if source.is_dir():
            raise TransferError(f"{source}: is a folder; add --batch")
    elif request.role == "target":
        raise TransferError("--batch needs a --reference; a target fits one input only")
    elif request.output is not None and request.output.is_file():
        raise TransferError(f"{request.output}: is a file; a batch writes a folder")
    found = [
        Job(source, wanted, _output(request, source, wanted))
        for source, wanted in dict.fromkeys(_sources(request))
    ]
    if not found:
        named = ", ".join(str(path) for path in request.inputs)
        raise TransferError(
            f"{named or request.pairs}: holds no audio"
            f" ({', '.join(sorted(audio.SUFFIXES))})"
        )
    inputs = {path.resolve() for job in found for path in (job.source, job.wanted)}
    names: dict[Path, Job] = {}
    jobs, failed = [], []
    for job in found:
        other = names.setdefault(job.output.resolve(), job)
        if other is not job:
            raise TransferError(
                f"{job.source} and {other.source} would both become {job.output};"
                " rename one"
            )
        try:
            _check_sounds(job, request)
        except (audio.AudioFileError, TransferError) as error:
            if not request.many:
                raise
            failed.append(str(error))
            continue
        _check_written(written(job.output), inputs, request.overwrite)
        jobs.append(job)
    if not jobs:
        raise TransferError(f"none of the recordings can be used: {failed[0]}")
    for job in jobs:
        job.output.parent.mkdir(parents=True, exist_ok=True)
    return jobs, failed


def _sources(request: Request) -> Iterator[tuple[Path, Path]]:
    """Inputs with their references; folders give what they hold, sorted."""
    if request.pairs is not None:
        yield from _rows(request)
        return
    wanted = request.wanted
    assert wanted is not None
    for given in request.inputs:
        if given.is_dir():
            for path in sorted(given.iterdir()):
                if path.suffix.lower() in audio.SUFFIXES:
                    yield path, wanted
        elif not given.exists() and request.many and glob.has_magic(str(given)):
            paths = sorted(glob.glob(str(given), recursive=True))
            if not paths:
                raise TransferError(f"{given}: matches no file")
            yield from ((Path(path), wanted) for path in paths)
        else:
            yield given, wanted


def _rows(request: Request) -> Iterator[tuple[Path, Path]]:
    """Rows of the table; paths are relative to where it lies."""
    table = request.pairs
    assert table is not None
    if request.inputs or request.wanted is not None:
        raise TransferError(
            f"--pairs {table} names inputs and references; give no others"
        )
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TransferError(f"{table}: cannot be read as a table: {error}") from error
    rows = csv.DictReader(text.splitlines())
    missing = [name for name in _COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise TransferError(
            f"{table}: its first line must name the columns input and reference;"
            f" {' and '.join(missing)} is missing"
        )
    for row in rows:
        pair = [(row[name] or "").strip() for name in _COLUMNS]
        if not all(pair):
            raise TransferError(
                f"{table}, line {rows.line_num}: give input and reference"
            )
        source, wanted = (table.parent / name for name in pair)
        yield source, wanted


def _output(request: Request, source: Path, wanted: Path) -> Path:
    if request.output is not None and not request.many:
        return request.output
    stem = source.stem
    if request.pairs is not None:
        stem = f"{stem}_like_{wanted.stem}"
    if request.output is not None:
        return request.output / f"{stem}.wav"
    return source.with_name(f"{stem}_{request.label}.wav")


def _check_sounds(job: Job, request: Request) -> None:
    """Loads and forgets: a batch may be more than fits in memory."""
    sound = audio.load(job.source)
    check_audio(sound.samples, sound.sample_rate, f"input {job.source}")
    if request.pairs is not None:
        other = audio.load(job.wanted)
        check_audio(other.samples, other.sample_rate, f"reference {job.wanted}")
    audio.check_writable(job.output, sound.sample_rate, sound.samples.shape[0])
    if job.output.suffix.lower() in (".json", ".png"):
        raise TransferError(f"{job.output}: name an audio file, such as out.wav")


def _check_written(paths: Sequence[Path], inputs: set[Path], overwrite: bool) -> None:
    for path in paths:
        if path.exists() and not overwrite:
            raise TransferError(
                f"{path}: exists already; choose another name or add --overwrite"
            )
        if path.resolve() in inputs:
            raise TransferError(f"{path}: is an input; choose another output")
