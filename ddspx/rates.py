"""All sizes of a synthesis model from its sample rate alone.

What DDSP fixed at 16 kHz is kept in seconds and Hz: frames of 4 ms, noise bins 125 Hz
apart, spectra of 128 to 4 ms, loudness over 32 ms; harmonics go up to half the rate.
"""

import math
from typing import NamedTuple

# Of DDSP at 16 kHz: 2048 to 64 samples, and 512 for loudness.
_SPECTRA_S = (0.128, 0.064, 0.032, 0.016, 0.008, 0.004)
_LOUDNESS_S = 0.032
_NOISE_SPACING_HZ = 125.0


class Sizes(NamedTuple):
    """What follows from a sample rate.

    Attributes:
      sample_rate: Hz.
      hop: samples from frame to frame.
      frame_rate_hz: frames a second with that hop.
      harmonics: of the lowest fundamental, below half the rate.
      noise_bins: from 0 Hz to half the rate.
      fft_sizes: of the multi-scale spectral loss, longest first.
      loudness_fft: samples of a frame of loudness.
    """

    sample_rate: int
    hop: int
    frame_rate_hz: float
    harmonics: int
    noise_bins: int
    fft_sizes: tuple[int, ...]
    loudness_fft: int


def sizes_at(
    sample_rate: int, *, frame_rate_hz: float = 250.0, lowest_hz: float = 132.0
) -> Sizes:
    """The sizes of a model at a sample rate.

    Args:
      sample_rate: Hz.
      frame_rate_hz: frames a second, met as nearly as a whole hop can.
      lowest_hz: fundamental whose harmonics fill the band.

    Returns:
      `Sizes`; at 16 kHz those of DDSP: hop 64, 60 harmonics, 65 noise bins, spectra of
      2048 to 64 samples, loudness over 512.

    Raises:
      ValueError: a rate is not positive, or leaves no hop or no harmonic.
    """
    if sample_rate < 1 or not frame_rate_hz > 0 or not lowest_hz > 0:
        raise ValueError(
            f"sample_rate {sample_rate}, frame_rate_hz {frame_rate_hz} and lowest_hz"
            f" {lowest_hz} must be positive"
        )
    hop = round(sample_rate / frame_rate_hz)
    harmonics = math.ceil(0.5 * sample_rate / lowest_hz) - 1
    if hop < 1 or harmonics < 1:
        raise ValueError(
            f"{sample_rate} Hz with {frame_rate_hz} frames a second and a lowest"
            f" fundamental of {lowest_hz} Hz leave hop {hop} and {harmonics} harmonics;"
            " both must be 1 or more"
        )
    return Sizes(
        sample_rate,
        hop,
        sample_rate / hop,
        harmonics,
        1 + round(0.5 * sample_rate / _NOISE_SPACING_HZ),
        tuple(fft_size(seconds, sample_rate) for seconds in _SPECTRA_S),
        fft_size(_LOUDNESS_S, sample_rate),
    )


def fft_size(seconds: float, sample_rate: int) -> int:
    """The length nearest in ratio among 2^k and 3 2^k, a multiple of 4.

    Args:
      seconds: wanted.
      sample_rate: Hz.

    Returns:
      Samples, at least 4.
    """
    wanted = max(seconds * sample_rate, 1.0)
    near = range(2, math.ceil(math.log2(wanted)) + 3)
    sizes = [2**k for k in near] + [3 * 2**k for k in near]
    return min(sizes, key=lambda size: abs(math.log2(size / wanted)))
