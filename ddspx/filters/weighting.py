"""Weightings of hearing: K (loudness meters) and A (sound level meters).

Responses are of float64 NumPy: they are tables, never traced.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import scipy.signal

from ddspx.filters.design import biquad, high_pass, sections
from ddspx.types import Rate

# IEC 61672-1 annex E: corner frequencies of the A-weighting, Hz.
_A_CORNERS_HZ = (20.598997, 107.65265, 737.86223, 12194.217)
_A_GAIN_1KHZ_DB = 1.9997


def k_weighting(sample_rate: Rate) -> np.ndarray:
    """The two sections of BS.1770's K-weighting, at any rate.

    The standard lists coefficients at 48 kHz; these are the analog sections they come
    from, transformed at the rate asked for, equal to the list at 48 kHz to 1e-7.

    Args:
      sample_rate: Hz.

    Returns:
      Second-order sections, float64 [2, 6]: high shelf of +4 dB (the head), then high
      pass at 38 Hz, whose pass-band gain is the standard's at 48 kHz (+0.04 dB) at
      every rate. Meters that keep its numerator [1, -2, 1] at every rate read 0.24 dB
      more at 8 kHz than at 48.

    Reference: ITU-R BS.1770-4, annex 1; B. De Man, Evaluation of implementations of
      the EBU R128 loudness measurement, AES 145 (2018).
    """
    high = 10.0 ** (3.999843853973347 / 20.0)
    middle = high**0.4996667741545416
    q = 0.7071752369554196
    shelf = biquad(
        1681.974450955533, sample_rate, (high, middle / q, 1.0), (1.0, 1.0 / q, 1.0)
    )
    cut = (38.13547087602444, 0.5003270373238773)
    b, a = high_pass(*cut, sample_rate)
    standard, _ = high_pass(*cut, 48000)
    return np.asarray(sections(shelf, (b / standard[0], a)))


def a_weighting_db(frequency_hz: Any, floor_db: float = -80.0) -> Any:
    """A-weighting of IEC 61672-1, 0 dB at 1 kHz.

        A(f) = 20 log10(f4^2 f^4 / ((f^2 + f1^2) sqrt(f^2 + f2^2) sqrt(f^2 + f3^2)
               (f^2 + f4^2))) + 2 dB

    Args:
      frequency_hz: Hz, any shape.
      floor_db: least value, dB; 0 Hz would be minus infinity.

    Returns:
      dB, float64, same shape.
    """
    f2 = np.square(np.asarray(frequency_hz, dtype=float))
    c1, c2, c3, c4 = (c * c for c in _A_CORNERS_HZ)
    gain = c4 * f2 * f2 / ((f2 + c1) * np.sqrt((f2 + c2) * (f2 + c3)) * (f2 + c4))
    level = 20.0 * np.log10(np.maximum(gain, 1e-20)) + 2.0
    return np.maximum(level, floor_db)


@lru_cache(maxsize=16)
def a_weighting_fir(sample_rate: Rate, taps: int = 101) -> np.ndarray:
    """A-weighting as a symmetric FIR, for weighting a waveform without phase change.

    Least-squares fit to the magnitude of the bilinear transform of the analog filter;
    the low end is only as good as `taps / sample_rate` allows.

    Args:
      sample_rate: Hz.
      taps: odd number of coefficients.

    Returns:
      float64 [taps].

    Reference: IEC 61672-1; C. Steinmetz, J. Reiss, auraloss (2020), for the fit.
    """
    w1, w2, w3, w4 = (2.0 * np.pi * c for c in _A_CORNERS_HZ)
    gain = w4**2 * 10.0 ** (_A_GAIN_1KHZ_DB / 20.0)
    poles = [-w4, -w4, -w1, -w1, -w3, -w2]
    zpk = scipy.signal.bilinear_zpk([0.0] * 4, poles, gain, fs=sample_rate)
    frequency_hz, response = scipy.signal.freqz_zpk(*zpk, worN=512, fs=sample_rate)
    return scipy.signal.firls(taps, frequency_hz, np.abs(response), fs=sample_rate)
