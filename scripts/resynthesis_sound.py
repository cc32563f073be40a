"""What resynthesize.py reads and renders: files of any length, a part at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from ddspx import audio, timbre
from ddspx.control_gains import FrameGains, louder_in_time, missing_level_db
from ddspx.curves import Curves
from ddspx.resynthesis import Synthesizer

# An input is analysed in sections of so many seconds, with so many around them.
_SECTION_S, _AROUND_S = 300.0, 5.0
_MINUTE_S = 60
LEAST_DB = -80.0


def analysed(path: Path, synthesizer: Synthesizer) -> Curves:
    """Curves of a file, the mean of its channels.

    Args:
      path: audio.
      synthesizer: whose curves.

    Returns:
      `Curves` at the frame rate of the model.

    Raises:
      AudioFileError: the file cannot be read.
    """
    rate, hop = synthesizer.sample_rate, synthesizer.hop
    info = audio.info(path)
    total = math.ceil(info.frames * rate / info.sample_rate)
    frames = math.ceil(total / hop)
    section = math.ceil(_SECTION_S * rate / hop)
    around = math.ceil(_AROUND_S * rate / hop)
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, frames, section):
        first = max(0, start - around)
        last = min(frames, start + section + around)
        sound = audio.load(
            path,
            sample_rate=rate,
            channels=1,
            start_s=first * hop / rate,
            duration_s=(last - first) * hop / rate,
        ).samples[0]
        found = synthesizer.analyze(sound)
        inside = slice(start - first, min(start + section, frames) - first)
        parts.append({name: curve[inside] for name, curve in found.items()})
    values = {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}
    return Curves(rate / hop, values)


@dataclass(frozen=True)
class Performance:
    """What is played, by what.

    Attributes:
      synthesizer: plays.
      curves: with all that it needs.
      seed: of the noise.
      gains: of the amplitudes that drive the synth.
      threshold: of confidence, of frames that count as voiced.
    """

    synthesizer: Synthesizer
    curves: Curves
    seed: int
    gains: FrameGains
    threshold: float


def counted_frames(
    synthesizer: Synthesizer, curves: Curves, threshold: float
) -> np.ndarray:
    """Frames that are judged: notes, or all where the model has no notes.

    Args:
      synthesizer: plays.
      curves: what it plays.
      threshold: of confidence.

    Returns:
      bool [frames].
    """
    if synthesizer.kind != "ddsp":
        return np.ones(curves.frames, bool)
    voiced = timbre.voiced_frames(curves, threshold)
    return voiced if voiced.any() else np.ones_like(voiced)


def followed_loudness(
    performance: Performance, folder: Path, rounds: int
) -> tuple[Performance, list[float]]:
    """Corrects what a model makes of the loudness that it is asked for.

    Args:
      performance: what is played.
      folder: for what is heard in between.
      rounds: how often it is heard and corrected.

    Returns:
      The performance with gains that correct it, and how far its loudness was from what
      was asked before each round, mean dB.

    Raises:
      ValueError: nothing is asked of the loudness.
    """
    asked, errors = performance.curves.values.get("loudness_db"), []
    if not rounds:
        return performance, errors
    if asked is None:
        raise ValueError(
            "--follow-loudness: the model is not driven by the curve loudness_db"
        )
    synthesizer = performance.synthesizer
    counted = counted_frames(synthesizer, performance.curves, performance.threshold)
    # Below what any sound is heard at, levels are those of rounding.
    asked = np.maximum(asked, LEAST_DB)
    gain_db = np.zeros(len(asked))
    others, corrected = performance.gains, performance
    for _ in range(rounds):
        (path,) = rendered(corrected, folder, 1)
        heard = analysed(path, synthesizer).lasting(len(asked)).values["loudness_db"]
        errors.append(float(np.abs(asked - heard)[counted].mean()))
        rate = performance.curves.frame_rate_hz
        gain_db += missing_level_db(asked, heard, counted, rate)
        gains = louder_in_time(synthesizer.sizes, gain_db, others)
        corrected = replace(corrected, gains=gains)
    return corrected, errors


def rendered(performance: Performance, folder: Path, count: int) -> list[Path]:
    """Sounds of the curves at the model's rate, as files, rendered block by block.

    Args:
      performance: what is played.
      folder: to write to.
      count: of sounds, each with noise of its own.

    Returns:
      Their files, mono.
    """
    synthesizer, found = performance.synthesizer, performance.curves
    driven = {name: found.values[name] for name in synthesizer.control_names}
    written = []
    for number in range(count):
        key = jax.random.fold_in(jax.random.key(performance.seed), number)
        blocks = synthesizer.blocks(driven, key, performance.gains)
        blocks = (block[None] for block in blocks)
        path = folder / f"{number}.wav"
        audio.save_blocks(path, blocks, synthesizer.sample_rate, 1, overwrite=True)
        written.append(path)
    return written


def channel_levels(source: Path | None, channels: int) -> np.ndarray:
    """Gain of each channel [channels]: the balance of a file, mean square 1."""
    if source is None or channels == 1:
        return np.ones(channels)
    power = np.zeros(channels)
    for part in sections(source, audio.info(source).sample_rate):
        power += np.square(part.astype(np.float64)).sum(axis=1)
    return np.sqrt(power / power.mean()) if power.any() else np.ones(channels)


def loudest(sounds: list[Path]) -> float:
    """The greatest sample of all."""
    return max(
        float(np.abs(block).max())
        for path in sounds
        for block in sections(path, audio.info(path).sample_rate)
    )


def sections(
    path: Path,
    rate: int,
    samples: int | None = None,
    *,
    seconds: int = _MINUTE_S,
    channels: int | None = None,
) -> Iterator[np.ndarray]:
    """A file part by part, resampled.

    Args:
      path: audio.
      rate: Hz.
      samples: at that rate, after which to stop; None for all.
      seconds: of a part.
      channels: 1 for their mean; None for its own.

    Yields:
      float32 [channels, time].
    """
    info = audio.info(path)
    left = math.ceil(info.frames * rate / info.sample_rate)
    left = left if samples is None else min(left, samples)
    for start in range(0, left, seconds * rate):
        duration_s = min(seconds * rate, left - start) / rate
        yield audio.load(
            path,
            sample_rate=rate,
            channels=channels,
            start_s=start / rate,
            duration_s=duration_s,
        ).samples


def mixed(
    sounds: list[Path], rate: int, samples: int, gains: np.ndarray
) -> Iterator[np.ndarray]:
    """The output in parts [channels, time], from one sound or one a channel."""
    for parts in zip(*(sections(path, rate, samples) for path in sounds), strict=True):
        yield (gains[:, None] * np.concatenate(parts)).astype(np.float32)
