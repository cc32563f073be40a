"""What a device's sound is compared with: a gain, and a matching equalizer.

    G(f)^2 = (P_after(f) + g^2 e(f)) / (P_before(f) + e(f)),   e(f) = 1e-3 sum P / (k f)

with P the average power spectra, smoothed over an octave, g the gain in level, and k
such that e sums to 1e-3 of the input's power. Where the input has next to nothing the
equalizer gives g. It is linear phase and takes no time; of a device that is linear and
does not change it is the best that magnitudes allow, which makes it the strongest
simple baseline. Share, slope and width are those that did well on these very devices,
to the baseline's advantage: with a constant floor at 1e-6 and thirds of octaves it is
misled by what lies between the partials of a few notes, and by far worse.
"""

import numpy as np
import scipy.signal
from jaxtyping import Float

from ddspx.types import Rate

WINDOW = 4096
OCTAVES = 1.0
FLOOR_SHARE = 1e-3
# No equalizer for people goes further.
MOST_DB = 30.0


def level_gain(before: np.ndarray, after: np.ndarray) -> float:
    """Factor that gives `before` the RMS of `after`."""
    powers = [np.mean(np.square(x, dtype=np.float64)) for x in (before, after)]
    return float(np.sqrt(powers[1] / (powers[0] + 1e-20)))


def match_kernel(
    before: Float[np.ndarray, "1 time"],
    after: Float[np.ndarray, "1 length"],
    sample_rate: Rate,
) -> Float[np.ndarray, " taps"]:
    """Symmetric impulse response that gives `before` the spectrum of `after`.

    Args:
      before: input.
      after: the device's output of it, or any sound whose spectrum is wanted.
      sample_rate: Hz.
    """
    powers = [_smooth(_power(x[0], sample_rate)) for x in (before, after)]
    gain = level_gain(before, after)
    slope = 1.0 / np.maximum(np.arange(len(powers[0])), 1)
    floor = FLOOR_SHARE * np.sum(powers[0]) * slope / np.sum(slope) + 1e-20
    square = (powers[1] + gain**2 * floor) / (powers[0] + floor)
    reach = 10.0 ** (MOST_DB / 20.0)
    magnitude = np.clip(np.sqrt(square), gain / reach, gain * reach)
    kernel = np.roll(np.fft.irfft(magnitude), WINDOW // 2)
    return kernel * scipy.signal.get_window("hann", WINDOW)


def filtered(
    audio: Float[np.ndarray, "1 time"], kernel: Float[np.ndarray, " taps"]
) -> Float[np.ndarray, "1 time"]:
    """A sound through a symmetric impulse response, on time."""
    long = scipy.signal.fftconvolve(audio, kernel[None], axes=-1)
    start = len(kernel) // 2
    return long[:, start : start + audio.shape[-1]].astype(np.float32)


def _power(audio: np.ndarray, sample_rate: Rate) -> np.ndarray:
    padded = np.pad(audio, (0, max(0, WINDOW - len(audio))))
    return scipy.signal.welch(padded, sample_rate, nperseg=WINDOW)[1]


def _smooth(power: np.ndarray) -> np.ndarray:
    """Means over an octave around each bin."""
    bins = np.arange(len(power))
    low = np.floor(bins * 2 ** (-OCTAVES / 2)).astype(int)
    high = np.minimum(np.ceil(bins * 2 ** (OCTAVES / 2)), len(power) - 1).astype(int)
    total = np.concatenate([[0.0], np.cumsum(power)])
    return (total[high + 1] - total[low]) / (high + 1 - low)
