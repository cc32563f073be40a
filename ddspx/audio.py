"""Audio files in and out: float32 arrays [channels, time], never clipped in silence.

Full scale is 1.0. An integer file of b bits maps code c to c / 2^(b-1), so that
[-1, 1) round-trips bit for bit; what lies outside survives in float files and is
refused by integer files unless the caller asks for clipping. Compressed formats are
decoded by libsndfile, which starts an MP3 at the first sample of the music (other
decoders are late by the encoder's delay).

The module imports NumPy, soundfile and soxr, nothing heavier.
"""

import io
import math
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile as sf
import soxr

# libsndfile reports this many frames when a stream does not say how long it is.
_UNKNOWN_LENGTH = 2**40
# Ogg Vorbis crashes inside libsndfile when a long array is written in one call.
_BLOCK_FRAMES = 65536
# Source samples that the resampler is given on each side of a section. soxr's very
# high quality filter rings for about 200 samples of the slower rate.
_RESAMPLER_MARGIN = 512
_INTEGER_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
# What a format holds when the caller names no subtype: the first that it accepts.
_PREFERRED_SUBTYPES = ("FLOAT", "PCM_24", "VORBIS", "MPEG_LAYER_III")
# Endings by which a folder is searched; `load` looks at the content, not the name.
SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc"}
SUFFIXES |= {".au", ".snd", ".caf", ".w64", ".rf64"}


class AudioFileError(ValueError):
    """A file that cannot be read or written; the message is one line and names it."""


class Audio(NamedTuple):
    """Samples float32 [channels, time] and their rate in Hz."""

    samples: np.ndarray
    sample_rate: int


class AudioInfo(NamedTuple):
    """What a file's header says; nothing is decoded.

    `frames` is -1 where a stream does not tell its length (rare).
    """

    frames: int
    sample_rate: int
    channels: int
    format: str
    subtype: str

    @property
    def seconds(self) -> float:
        """Length in seconds (negative where it is unknown)."""
        return self.frames / self.sample_rate


def info(path: str | Path) -> AudioInfo:
    """Reads the header of an audio file.

    Args:
      path: file in any format that libsndfile knows.

    Returns:
      Frames, rate in Hz, channels, and libsndfile's names of format and subtype
      (``"WAV"``, ``"PCM_16"``); the subtype can be handed to `save`.

    Raises:
      AudioFileError: the file is missing, is a folder, is empty or is not audio.
    """
    with _opened(path) as file:
        frames = -1 if file.frames >= _UNKNOWN_LENGTH else file.frames
        header = (frames, file.samplerate, file.channels, file.format, file.subtype)
    return AudioInfo(*header)


def load(
    path: str | Path,
    *,
    sample_rate: int | None = None,
    channels: int | None = None,
    start_s: float = 0.0,
    duration_s: float | None = None,
    allow_silence: bool = True,
) -> Audio:
    """Reads a file, or a section of it, as float32 [channels, time].

    A section of a resampled file equals the same section of the whole file resampled,
    to the length of the resampler's filter: it is given the samples around it.

    Args:
      path: file in any format that libsndfile knows.
      sample_rate: rate to resample to, in Hz; the file's own when None.
      channels: 1 averages the channels, and a mono file is repeated to any number;
        the file's own when None.
      start_s: where to begin, in seconds.
      duration_s: how much to read, in seconds; to the end when None. Fewer samples
        come back where the file ends earlier.
      allow_silence: False also refuses a section whose every sample is zero.

    Returns:
      `Audio`: samples float32 [channels, time], and the rate in Hz.

    Raises:
      AudioFileError: the file is missing, not audio, empty, cut short, holds NaN or
        infinity, ends before `start_s`, is silent, or cannot take `channels`.
    """
    if start_s < 0 or (duration_s is not None and duration_s <= 0):
        raise ValueError(
            f"start_s={start_s}, duration_s={duration_s}: a section starts at 0 or "
            "later and lasts more than 0 seconds"
        )
    with _opened(path) as file:
        own_rate = file.samplerate
        rate = sample_rate or own_rate
        start = round(start_s * rate)
        stop = None if duration_s is None else start + max(1, round(duration_s * rate))
        samples = _read_section(file, path, rate, start, stop)
    if not np.isfinite(samples).all():
        first = int(np.argmin(np.isfinite(samples).all(axis=0)))
        raise AudioFileError(
            f"{path}: holds NaN or infinite samples, the first at "
            f"{(start + first) / rate:.3f} s; repair or re-export the file"
        )
    if not allow_silence and not samples.any():
        raise AudioFileError(f"{path}: is silent, every sample is zero")
    return Audio(_with_channels(samples, channels, path), rate)


def save(
    path: str | Path,
    samples: np.ndarray,
    sample_rate: int,
    *,
    overwrite: bool = False,
    subtype: str | None = None,
    clip: bool = False,
) -> Path:
    """Writes a file: first aside, then renamed, so that no half file is ever seen.

    Args:
      path: the suffix names the format (``.wav``, ``.flac``, ``.ogg``, ``.mp3`` ...).
      samples: float [channels, time].
      sample_rate: in Hz.
      overwrite: False refuses an existing file.
      subtype: libsndfile's name, such as ``"PCM_16"`` or `info(path).subtype` of the
        input. When None, 32-bit float where the format has it (it never clips), else
        24-bit integer, else the format's own codec.
      clip: True lets an integer subtype limit samples to full scale. False refuses
        samples that it cannot hold; one least significant bit over is let through.

    Returns:
      The path written.

    Raises:
      AudioFileError: samples are not finite or empty, the format or subtype cannot
        hold them, the file exists, or the folder cannot be written.
    """
    path = Path(path)
    samples = np.asarray(samples)
    if samples.ndim != 2 or 0 in samples.shape:
        raise AudioFileError(
            f"{path}: samples of shape {samples.shape} cannot be written; "
            "expected [channels, time] with at least one sample"
        )
    if not np.isfinite(samples).all():
        raise AudioFileError(f"{path}: not written, the samples hold NaN or infinity")
    blocks = (
        samples[:, at : at + _BLOCK_FRAMES]
        for at in range(0, samples.shape[1], _BLOCK_FRAMES)
    )
    return save_blocks(
        path,
        blocks,
        sample_rate,
        len(samples),
        overwrite=overwrite,
        subtype=subtype,
        clip=clip,
    )


def save_blocks(
    path: str | Path,
    blocks: Iterable[np.ndarray],
    sample_rate: int,
    channels: int,
    *,
    overwrite: bool = False,
    subtype: str | None = None,
    clip: bool = False,
) -> Path:
    """`save` for a sound of any length, of which one block is in memory at a time.

    Args:
      path: see `save`.
      blocks: float [channels, time] in sequence.
      sample_rate: in Hz.
      channels: of every block.
      overwrite: see `save`.
      subtype: see `save`.
      clip: see `save`.

    Returns:
      The path written.

    Raises:
      AudioFileError: as in `save`; nothing is left behind.
    """
    path = Path(path)
    file_format, subtype = _format_of(path, subtype)
    try:
        with written_aside(path, overwrite=overwrite) as aside:
            with sf.SoundFile(
                aside, "w", sample_rate, channels, subtype, format=file_format
            ) as file:
                for block in blocks:
                    if not np.isfinite(block).all():
                        raise AudioFileError(
                            f"{path}: not written, the samples hold NaN or infinity"
                        )
                    codes = _codes(np.asarray(block), subtype, clip, path)
                    file.write(np.ascontiguousarray(codes.T))
            _forget_time(aside)
    except sf.LibsndfileError as error:
        raise AudioFileError(
            f"{path}: {file_format} {subtype} cannot be written at {sample_rate} Hz "
            f"with {channels} channels ({_reason(error)})"
        ) from error
    return path


def check_writable(path: str | Path, sample_rate: int, channels: int) -> None:
    """Refuses an output path before any work is done for it.

    Raises:
      AudioFileError: the suffix names no format that holds this rate and number of
        channels, or the folder is missing or cannot be written.
    """
    path = Path(path)
    file_format, subtype = _format_of(path, None)
    if path.is_dir():
        raise AudioFileError(f"{path}: is a folder, name a file")
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise AudioFileError(f"{path}: {folder} is not a folder that can be written")
    try:
        with sf.SoundFile(
            io.BytesIO(), "w", sample_rate, channels, subtype, format=file_format
        ) as file:
            file.write(np.zeros((16, channels), np.float32))
    except sf.LibsndfileError as error:
        raise AudioFileError(
            f"{path}: {file_format} {subtype} cannot be written at {sample_rate} Hz "
            f"with {channels} channels ({_reason(error)})"
        ) from error


def holds_any_level(path: str | Path) -> bool:
    """Whether `save` keeps samples above full scale in a file of this name."""
    return _format_of(Path(path), None)[1] in ("FLOAT", "DOUBLE")


def resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Resamples along the last axis with soxr, very high quality, linear phase.

    Args:
      samples: float [..., time].
      from_hz: rate of `samples`, in Hz.
      to_hz: rate asked for, in Hz.

    Returns:
      Float32 [..., ceil(time to_hz / from_hz)], aligned with the input in time.
    """
    samples = np.asarray(samples, np.float32)
    if from_hz == to_hz:
        return samples
    length = -(-samples.shape[-1] * to_hz // from_hz)
    flat = samples.reshape(-1, samples.shape[-1])
    out = np.zeros((len(flat), length), np.float32)
    for row, signal in zip(out, flat, strict=True):
        made = soxr.resample(signal, from_hz, to_hz, quality="VHQ")[:length]
        row[: len(made)] = made
    return out.reshape(*samples.shape[:-1], length)


@contextmanager
def written_aside(path: str | Path, *, overwrite: bool) -> Iterator[Path]:
    """Gives a temporary path in the same folder, renamed to `path` on success.

    Raises:
      AudioFileError: `path` exists and `overwrite` is False, or the folder is missing
        or cannot be written. Nothing is left behind when the body fails.
    """
    path = Path(path)
    _refuse_existing(path, overwrite)
    aside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    try:
        aside.touch(exist_ok=False)
    except OSError as error:
        raise AudioFileError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        yield aside
        _refuse_existing(path, overwrite)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise AudioFileError(f"{path}: is a folder, name a file")
    if path.exists() and not overwrite:
        raise AudioFileError(
            f"{path}: exists already; choose another name or overwrite"
        )


@contextmanager
def _opened(path: str | Path) -> Iterator[sf.SoundFile]:
    path = Path(path)
    if path.is_dir():
        raise AudioFileError(f"{path}: is a folder, expected an audio file")
    try:
        size = path.stat().st_size
        # Opening by hand tells "may not be read" from "is not audio".
        with path.open("rb"):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise AudioFileError(f"{path}: cannot be read: {reason}") from error
    if size == 0:
        raise AudioFileError(f"{path}: the file is empty (0 bytes)")
    if path.suffix.lower() == ".raw":
        raise AudioFileError(f"{path}: has no header; convert it to WAV or FLAC")
    try:
        with sf.SoundFile(path) as file:
            if file.frames == 0:
                raise AudioFileError(f"{path}: holds no samples")
            yield file
    except sf.LibsndfileError as error:
        raise AudioFileError(
            f"{path}: is not a readable audio file ({_reason(error)})"
        ) from error


def _read_section(
    file: sf.SoundFile, path: str | Path, rate: int, start: int, stop: int | None
) -> np.ndarray:
    """Samples [start, stop) at `rate`, as if the whole file had been resampled."""
    own_rate: int = file.samplerate
    frames: int | None = file.frames if file.frames < _UNKNOWN_LENGTH else None
    if frames is None:
        # A stream of unknown length cannot be asked for its end: read it all.
        samples = resample(_read(file, path, None), own_rate, rate)[:, start:stop]
        return _not_past_the_end(samples, path, start / rate)
    total = -(-frames * rate // own_rate)
    stop = total if stop is None else min(stop, total)
    _not_past_the_end(np.empty((1, max(0, stop - start))), path, start / rate)
    if rate == own_rate:
        file.seek(start)
        return _read(file, path, stop - start)
    # The block must begin where both rates have a sample, or the section shifts by a
    # fraction of one.
    divisor = math.gcd(rate, own_rate)
    step = own_rate // divisor
    margin = _RESAMPLER_MARGIN * max(1, own_rate // rate)
    first = max(0, (start * own_rate // rate - margin) // step * step)
    last = min(frames, -(-stop * own_rate // rate) + margin)
    file.seek(first)
    block = resample(_read(file, path, last - first), own_rate, rate)
    skipped = first // step * (rate // divisor)
    return np.ascontiguousarray(block[:, start - skipped : stop - skipped])


def _not_past_the_end(
    samples: np.ndarray, path: str | Path, start_s: float
) -> np.ndarray:
    if samples.shape[-1] == 0:
        raise AudioFileError(f"{path}: ends before {start_s:.3f} s, nothing to read")
    return samples


def _read(file: sf.SoundFile, path: str | Path, frames: int | None) -> np.ndarray:
    if frames is None:
        blocks = list(file.blocks(_BLOCK_FRAMES, dtype="float32", always_2d=True))
        return np.concatenate(blocks).T if blocks else np.empty((1, 0), np.float32)
    samples = file.read(frames, dtype="float32", always_2d=True)
    if len(samples) < frames:
        raise AudioFileError(
            f"{path}: is cut short, {frames - len(samples)} of {frames} samples "
            "that its header promises are missing"
        )
    return np.ascontiguousarray(samples.T)


def _with_channels(
    samples: np.ndarray, channels: int | None, path: str | Path
) -> np.ndarray:
    own = len(samples)
    if channels is None or channels == own:
        return samples
    if channels == 1:
        return samples.mean(axis=0, keepdims=True, dtype=np.float32)
    if own == 1:
        return np.repeat(samples, channels, axis=0)
    raise AudioFileError(f"{path}: has {own} channels, which do not map to {channels}")


def _format_of(path: Path, subtype: str | None) -> tuple[str, str]:
    suffix = path.suffix.lower().lstrip(".")
    aliases = {"aif": "AIFF", "aifc": "AIFF", "oga": "OGG", "opus": "OGG", "snd": "AU"}
    file_format = aliases.get(suffix, suffix.upper())
    if file_format not in sf.available_formats():
        raise AudioFileError(
            f"{path}: the suffix {path.suffix!r} names no audio format that can be "
            "written; use .wav, .flac, .ogg, .mp3 or .aiff"
        )
    known = sf.available_subtypes(file_format)
    if subtype is None:
        preferred = ("OPUS",) if suffix == "opus" else _PREFERRED_SUBTYPES
        subtype = next((s for s in preferred if s in known), None)
        subtype = subtype or sf.default_subtype(file_format)
    if subtype not in known:
        raise AudioFileError(
            f"{path}: {file_format} has no subtype {subtype!r}; it has "
            f"{', '.join(sorted(known))}"
        )
    return file_format, subtype


def _codes(samples: np.ndarray, subtype: str, clip: bool, path: Path) -> np.ndarray:
    """Samples as they are handed to libsndfile: integer codes or floats."""
    if subtype not in _INTEGER_BITS:
        return samples.astype(np.float64 if subtype == "DOUBLE" else np.float32)
    bits = _INTEGER_BITS[subtype]
    full_scale = 2 ** (bits - 1)
    codes = np.rint(samples.astype(np.float64) * full_scale)
    if not clip and (codes.max() > full_scale or codes.min() < -full_scale):
        peak_db = 20 * math.log10(float(np.abs(samples).max()))
        raise AudioFileError(
            f"{path}: the peak is {peak_db:+.2f} dB over full scale, which {subtype} "
            "cannot hold; lower the level, write a float file, or ask for clipping"
        )
    codes = np.clip(codes, -full_scale, full_scale - 1).astype(np.int64)
    # libsndfile takes the upper bits of a 32-bit integer.
    return (codes << (32 - bits)).astype(np.int32)


def _forget_time(path: Path) -> None:
    """Zeroes the time of writing that libsndfile puts into the header of float files.

    It stands in the PEAK chunk (identifier, size, version 1, seconds since 1970) and
    would make the bytes of equal sounds differ.
    """
    with path.open("r+b") as file:
        header = file.read(4096)
        at = header.find(b"PEAK")
        if at >= 0 and 1 in (header[at + 8], header[at + 11]):
            file.seek(at + 12)
            file.write(bytes(4))


def _reason(error: Exception) -> str:
    text = str(getattr(error, "error_string", error)).strip().rstrip(".")
    return " ".join(text.split())
