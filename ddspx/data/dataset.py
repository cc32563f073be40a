"""Endless, deterministic examples from recordings: example = f(seed, index).

The file, the place in it and every augmentation are drawn from a generator made of
the seed and the index alone. Nothing that happens to one example can change another:
a file that cannot be decoded leads to another draw from the same generator. So the
stream is the same for any number of threads, worker processes or machines, and its
state is one integer.
"""

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import grain
import numpy as np

from ddspx import audio
from ddspx.data.augment import (
    Augmentation,
    AugmentationRanges,
    apply_augmentation,
    draw_augmentation,
)
from ddspx.data.manifest import Clip, ManifestError, Skipped

_LOG = logging.getLogger(__name__)
_ENDLESS = 10**9
# A corpus of which 99 % is silence still finds a crop (0.99^1000 = 4e-5).
_MAX_DRAWS = 1000


@dataclass(frozen=True)
class CropConfig:
    """How examples are cut from recordings.

    Attributes:
      sample_rate: of the examples, in Hz; files are resampled by soxr.
      seconds: length of an example.
      channels: 1 mixes down; 2 repeats mono files.
      silence_db: a crop whose RMS (loudest channel) is below this many dB re full
        scale is drawn again; None keeps everything.
      pad_short: True pads files shorter than an example with zeros at their end;
        False skips and reports them.
      weighting: "duration" draws every second of audio as often as any other; "file"
        draws every file as often.
      augmentation: ranges to draw from; None leaves recordings as they are.
      seed: of the whole stream.
    """

    sample_rate: int = 44100
    seconds: float = 1.0
    channels: int = 1
    silence_db: float | None = -50.0
    pad_short: bool = False
    weighting: str = "duration"
    augmentation: AugmentationRanges | None = None
    seed: int = 0

    def __post_init__(self):
        if self.sample_rate < 1 or self.channels < 1 or self.length < 1:
            raise ValueError(
                f"sample_rate={self.sample_rate} Hz, channels={self.channels}, "
                f"seconds={self.seconds}: expected positive numbers"
            )
        if self.weighting not in ("duration", "file"):
            raise ValueError(
                f"weighting={self.weighting!r}: expected 'duration' or 'file'"
            )

    @property
    def length(self) -> int:
        """Samples in an example."""
        return round(self.seconds * self.sample_rate)


class SkipReport:
    """Files left out, each named once; safe to share between threads."""

    def __init__(self, skipped: Iterable[Skipped] = ()):
        self._reasons = {item.path: item.reason for item in skipped}
        self._lock = threading.Lock()

    def add(self, path: str, reason: str, *, log: bool = True) -> None:
        """Notes a file and logs it, the first time only."""
        with self._lock:
            if path in self._reasons:
                return
            self._reasons[path] = reason
        if log:
            _LOG.warning("skipped %s: %s", path, reason)

    def __iter__(self):
        with self._lock:
            return iter([Skipped(*item) for item in self._reasons.items()])

    def __len__(self) -> int:
        return len(self._reasons)

    def __reduce__(self):
        # A worker process gets a copy with a lock of its own.
        return SkipReport, (list(self),)


@dataclass(frozen=True)
class AudioDataset:
    """Examples and the recordings they come from.

    Attributes:
      clips: usable recordings; `example["file"]` is an index into them.
      examples: endless map from index to dict(audio float32 [channels, time], file
        int32, offset int64 in samples of the example's rate, and with augmentation
        gain_db, polarity, pitch_semitones, tempo).
      skipped: files left out so far; it grows when a file fails to decode.
    """

    clips: tuple[Clip, ...]
    examples: grain.MapDataset
    skipped: SkipReport = field(default_factory=SkipReport)

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the recordings."""
        return tuple(str(clip.file) for clip in self.clips)


class Section(NamedTuple):
    """A piece of a recording for evaluation."""

    samples: np.ndarray
    sample_rate: int
    start_s: float


def audio_dataset(clips: Iterable[Clip], config: CropConfig) -> AudioDataset:
    """Turns recordings into an endless dataset of random crops.

    Every header is read once; files that are missing, not audio or too short are
    reported by name and left out.

    Args:
      clips: usually of one split (`ddspx.data.split.select`).
      config: how examples are cut.

    Returns:
      The dataset.

    Raises:
      ManifestError: no usable file is left.
    """
    report = SkipReport()
    kept: list[Clip] = []
    lengths: list[int] = []
    for clip in clips:
        try:
            length = _length_at(clip.file, config.sample_rate)
        except audio.AudioFileError as error:
            reason = str(error).removeprefix(f"{clip.file}: ")
            report.add(str(clip.file), reason, log=False)
            continue
        if length < config.length and not config.pad_short:
            seconds = length / config.sample_rate
            reason = f"lasts {seconds:.2f} s, shorter than {config.seconds:.2f} s"
            report.add(str(clip.file), reason, log=False)
            continue
        kept.append(clip)
        lengths.append(length)
    if not kept:
        first = next(iter(report), None)
        example = f", for example {first.path}: {first.reason}" if first else ""
        raise ManifestError(f"no usable audio among {len(report)} files{example}")
    if report:
        # One record for all, or a folder of short files would bury everything else.
        lines = "".join(f"\n  {path}: {reason}" for path, reason in report)
        _LOG.warning(
            "skipped %d of %d files:%s", len(report), len(report) + len(kept), lines
        )
    draw = _Draw(tuple(str(clip.file) for clip in kept), tuple(lengths), config, report)
    endless = grain.MapDataset.range(_ENDLESS).seed(config.seed)
    return AudioDataset(tuple(kept), endless.random_map(draw), report)


def batches(
    dataset: AudioDataset | grain.MapDataset,
    batch_size: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """Stacks examples; each of several processes gets its rows of every batch.

    Batch k is made of the examples k B ... k B + B - 1. Process p of P holds the
    rows p B / P and following, so that the batches of all processes, one below the
    other, are those of a single process.

    Args:
      dataset: from `audio_dataset`, or any map dataset of dicts of arrays.
      batch_size: rows B over all processes.
      process_index: this process, from 0.
      process_count: number of processes P; must divide B.

    Returns:
      Map from batch number to dict of arrays [B / P, ...].

    Raises:
      ValueError: the sizes do not fit.
    """
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size={batch_size} cannot be shared by {process_count} processes"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index={process_index} of {process_count} processes")
    examples = dataset.examples if isinstance(dataset, AudioDataset) else dataset
    stack = _Stack(examples, batch_size, batch_size // process_count, process_index)
    return grain.MapDataset.range(len(examples) // batch_size).map(stack)


def stream(
    dataset: grain.MapDataset, *, threads: int = 2, buffered: int = 8
) -> grain.DatasetIterator:
    """Reads ahead with threads (libsndfile and soxr run outside Python's lock).

    Args:
      dataset: from `batches`.
      threads: 0 decodes in the calling thread. The stream does not depend on it.
      buffered: elements made ahead of their use.

    Returns:
      An iterator; `get_state()` after element k is ``{"next_index": k + 1}``, and
      `set_state` continues from there, with any number of threads.
    """
    options = grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=buffered if threads else 0
    )
    return iter(dataset.to_iter_dataset(options))


def sections(
    clip: Clip | str | Path,
    seconds: float,
    *,
    sample_rate: int | None = None,
    channels: int | None = None,
    silence_db: float | None = -50.0,
) -> list[Section]:
    """Cuts a recording into non-overlapping sections from its start, in order.

    Args:
      clip: a clip or a path.
      seconds: length of a section; what is left at the end is dropped.
      sample_rate: to resample to, in Hz; the file's own when None.
      channels: as in `ddspx.audio.load`.
      silence_db: sections whose RMS is below this are left out; None keeps all.

    Returns:
      Sections with samples float32 [channels, time]; empty when the file is too short
      or silent.

    Raises:
      AudioFileError: the file cannot be read.
    """
    path = clip.file if isinstance(clip, Clip) else Path(clip)
    samples, rate = audio.load(path, sample_rate=sample_rate, channels=channels)
    length = round(seconds * rate)
    if length < 1:
        raise ValueError(f"seconds={seconds}: a section lasts more than 0 seconds")
    cut = [
        Section(np.ascontiguousarray(samples[:, at : at + length]), rate, at / rate)
        for at in range(0, samples.shape[1] - length + 1, length)
    ]
    return [part for part in cut if not _is_silent(part.samples, silence_db)]


class _Draw(grain.transforms.RandomMap):
    """Makes example `index` from a generator that grain derives from seed and index."""

    def __init__(
        self,
        files: tuple[str, ...],
        lengths: tuple[int, ...],
        config: CropConfig,
        report: SkipReport,
    ):
        self.files, self.lengths, self.config = files, lengths, config
        self.report = report
        by_duration = config.weighting == "duration"
        weights = np.asarray(lengths if by_duration else np.ones(len(files)), float)
        self.cumulative = np.cumsum(weights / weights.sum())

    def random_map(self, element: int, rng: np.random.Generator) -> dict:
        reasons = []
        for _ in range(_MAX_DRAWS):
            chosen = int(np.searchsorted(self.cumulative, rng.random(), side="right"))
            chosen = min(chosen, len(self.files) - 1)
            position = rng.random()
            ranges = self.config.augmentation or AugmentationRanges()
            change = draw_augmentation(ranges, rng)
            try:
                samples, offset = self._crop(chosen, position, change)
            except audio.AudioFileError as error:
                path = self.files[chosen]
                reasons.append(str(error).removeprefix(f"{path}: "))
                self.report.add(path, reasons[-1])
                continue
            if _is_silent(samples, self.config.silence_db):
                reasons.append(f"RMS below {self.config.silence_db} dB")
                continue
            return self._example(samples, chosen, offset, change)
        raise ManifestError(
            f"example {element}: {_MAX_DRAWS} draws from {len(self.files)} files gave "
            f"nothing usable (the last: {reasons[-1]}); check the files or silence_db"
        )

    def _crop(
        self, chosen: int, position: float, change: Augmentation
    ) -> tuple[np.ndarray, int]:
        length, whole = self.config.length, self.lengths[chosen]
        # A faster tempo uses up more of the file; near its end, what there is.
        wanted = min(max(1, round(length * change.tempo)), whole)
        offset = int(position * (whole - wanted + 1))
        rate = self.config.sample_rate
        samples = audio.load(
            self.files[chosen],
            sample_rate=rate,
            channels=self.config.channels,
            start_s=offset / rate,
            duration_s=wanted / rate,
        ).samples
        if self.config.augmentation is not None:
            samples = apply_augmentation(samples, rate, change)
        missing = length - samples.shape[1]
        if missing > 0:
            samples = np.pad(samples, ((0, 0), (0, missing)))
        return np.ascontiguousarray(samples[:, :length]), offset

    def _example(
        self, samples: np.ndarray, chosen: int, offset: int, change: Augmentation
    ) -> dict:
        example = {
            "audio": samples,
            "file": np.int32(chosen),
            "offset": np.int64(offset),
        }
        if self.config.augmentation is not None:
            example |= {
                "gain_db": np.float32(change.gain_db),
                "polarity": np.int32(change.polarity),
                "pitch_semitones": np.float32(change.pitch_semitones),
                "tempo": np.float32(change.tempo),
            }
        return example


class _Stack(grain.transforms.Map):
    def __init__(
        self, examples: grain.MapDataset, batch_size: int, rows: int, process: int
    ):
        self.examples, self.batch_size = examples, batch_size
        self.rows, self.first = rows, process * rows

    def map(self, element: int) -> dict:
        start = element * self.batch_size + self.first
        made: list[dict] = [self.examples[start + row] for row in range(self.rows)]  # type: ignore[misc]
        return {key: np.stack([example[key] for example in made]) for key in made[0]}


def _length_at(path: Path, sample_rate: int) -> int:
    facts = audio.info(path)
    frames = facts.frames
    if frames < 0:
        frames = audio.load(path).samples.shape[1]
    return -(-frames * sample_rate // facts.sample_rate)


def _is_silent(samples: np.ndarray, silence_db: float | None) -> bool:
    if silence_db is None:
        return False
    power = np.mean(np.square(samples, dtype=np.float64), axis=-1).max()
    return bool(power < 10 ** (silence_db / 10))
