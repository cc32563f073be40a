"""Augmentation of recordings: parameters are drawn first, then applied.

`draw_augmentation` is the only place with randomness, so that what happened to an
example can be stored, repeated, or applied to a second signal.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import librosa
import numpy as np

_FRAME_S = 0.046


@dataclass(frozen=True)
class AugmentationRanges:
    """From where parameters are drawn; the defaults change nothing.

    Attributes:
      gain_db: lowest and highest gain in dB, uniform.
      flip_polarity: probability of a change of sign.
      pitch_semitones: lowest and highest transposition, uniform.
      tempo: slowest and fastest speed, uniform in the logarithm; 2 is twice as fast.
    """

    gain_db: tuple[float, float] = (0.0, 0.0)
    flip_polarity: float = 0.0
    pitch_semitones: tuple[float, float] = (0.0, 0.0)
    tempo: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self):
        for name in ("gain_db", "pitch_semitones", "tempo"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name}={low, high}: expected lowest, then highest")
        if not 0.25 <= self.tempo[0] <= self.tempo[1] <= 4:
            raise ValueError(f"tempo={self.tempo}: expected factors in [0.25, 4]")
        if not 0 <= self.flip_polarity <= 1:
            raise ValueError(f"flip_polarity={self.flip_polarity} is no probability")


class Augmentation(NamedTuple):
    """What is done to one example."""

    gain_db: float = 0.0
    polarity: int = 1
    pitch_semitones: float = 0.0
    tempo: float = 1.0


def draw_augmentation(
    ranges: AugmentationRanges, rng: np.random.Generator
) -> Augmentation:
    """Draws parameters; always four numbers from `rng`, whatever the ranges."""
    gain, flip, pitch, speed = rng.random(4)
    slow, fast = ranges.tempo
    return Augmentation(
        gain_db=_between(ranges.gain_db, gain),
        polarity=-1 if flip < ranges.flip_polarity else 1,
        pitch_semitones=_between(ranges.pitch_semitones, pitch),
        tempo=float(slow * (fast / slow) ** speed),
    )


def apply_augmentation(
    samples: np.ndarray, sample_rate: int, augmentation: Augmentation
) -> np.ndarray:
    """Applies gain, polarity, transposition and change of tempo.

    Transposition and tempo go through librosa's phase vocoder with frames of about 50
    ms, which smears attacks a little. Nothing is clipped.

    Args:
      samples: float32 [channels, time].
      sample_rate: in Hz.
      augmentation: what to do.

    Returns:
      Float32 [channels, round(time / tempo)].
    """
    length = round(samples.shape[-1] / augmentation.tempo)
    # librosa's 2048 samples suit 44.1 kHz; at 8 kHz they are a quarter of a second.
    n_fft = 1 << math.ceil(math.log2(_FRAME_S * sample_rate))
    if augmentation.tempo != 1.0:
        samples = librosa.effects.time_stretch(
            samples, rate=augmentation.tempo, n_fft=n_fft
        )
        samples = librosa.util.fix_length(samples, size=length)
    if augmentation.pitch_semitones != 0.0:
        samples = librosa.effects.pitch_shift(
            samples,
            sr=sample_rate,
            n_steps=augmentation.pitch_semitones,
            n_fft=n_fft,
            res_type="soxr_hq",
        )
    gain = augmentation.polarity * 10 ** (augmentation.gain_db / 20)
    return (samples * np.float32(gain)).astype(np.float32, copy=False)


def _between(bounds: tuple[float, float], position: float) -> float:
    low, high = bounds
    return float(low + (high - low) * position)
