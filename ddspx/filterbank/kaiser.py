"""Responses of Kaiser-windowed filters in closed form, without their taps.

A band at audio rates is a few hertz wide and its filter a hundred thousand taps long;
what is wanted of it is its response at a few frequencies. All in float64, NumPy only.
"""

from functools import lru_cache

import numpy as np

from ddspx.types import Rate

# The step response is tabulated up to here and an asymptotic series beyond.
_TABLE_END = 400.0
_TABLE_STEP = 0.02
# Shorter filters are summed tap by tap: the closed form is of a sampled integral.
_SHORTEST = 128


def kaiser_taps(
    sample_rate: Rate, width_hz: np.ndarray, attenuation_db: float
) -> np.ndarray:
    """Taps of filters with a transition of given width, odd numbers.

        N = (A - 7.95) / (2.285 dw) + 1,   dw the width in radians per sample

    Args:
      sample_rate: Hz.
      width_hz: of the transition between pass and stop, any shape.
      attenuation_db: of the stop band.

    Returns:
      int64, that shape: Kaiser's estimate, made odd, so that the filter has a middle.

    Reference: J. F. Kaiser, Nonrecursive digital filter design using the I0-sinh window
    function, ISCAS 1974; `scipy.signal.kaiserord`.
    """
    width = 2.0 * np.pi * np.asarray(width_hz) / sample_rate
    taps = np.ceil((attenuation_db - 7.95) / (2.285 * width) + 1.0).astype(np.int64)
    return 2 * (taps // 2) + 1


def lowpass_response(
    omega: np.ndarray, cutoff: np.ndarray, half: np.ndarray, beta: float
) -> np.ndarray:
    """Zero-phase response of a sinc under a Kaiser window.

        H(w) = sum_{|n| <= a} I0(b sqrt(1 - (n/a)^2)) / I0(b) sin(c n) / (pi n) e^{jwn}
             = S(a (w + c)) - S(a (w - c)) + what sampling the window adds,
        S(x) = 1 / (pi I0(b)) int_0^x sinh(sqrt(b^2 - u^2)) / sqrt(b^2 - u^2) du

    What sampling adds is the images of both steps, to the second order of 1 / a, and
    the half of the first and the last tap that an integral leaves out. Some 3e-8 from
    the sum at 1,600 taps, 1e-11 at 120,000; the shortest filters are summed.

    Args:
      omega: [filters, n] radians per sample, any number of turns.
      cutoff: [filters] radians per sample.
      half: [filters], (taps - 1) / 2.
      beta: of the window.

    Returns:
      float64 [filters, n]; not normalised, near 1 below the cutoff.
    """
    omega = np.asarray(omega, np.float64)
    found = np.empty_like(omega)
    short = half < _SHORTEST
    for i in np.flatnonzero(short):
        found[i] = _summed(omega[i], cutoff[i], int(half[i]), beta)
    at, c, a = omega[~short], cutoff[~short, None], half[~short, None]
    ends = np.sin(c * a) / (np.pi * a * np.i0(beta)) * np.cos(at * a)
    found[~short] = _step(at + c, a, beta) - _step(at - c, a, beta) + ends
    return found


def band_responses(
    omega: np.ndarray, limits: np.ndarray, taps: np.ndarray, beta: float
) -> np.ndarray:
    """Responses of bands as `scipy.signal.firwin` scales them: 1 in their middle.

    Args:
      omega: [bands, n] radians per sample, in [0, pi].
      limits: [bands, 2] radians per sample; a band from 0 is a low-pass scaled at 0,
        one up to pi a high-pass scaled at pi.
      taps: [bands], odd.
      beta: of the Kaiser window.

    Returns:
      float64 [bands, n], negative in every other ripple of the stop band.
    """
    low, high = limits[:, 0], limits[:, 1]
    is_low, is_high = low <= 0.0, high >= np.pi
    middle = np.where(is_low, 0.0, np.where(is_high, np.pi, 0.5 * (low + high)))
    # A band is a low-pass moved up and down; a high-pass is all but a low-pass.
    cutoff = np.where(is_low, high, np.where(is_high, low, 0.5 * (high - low)))
    moved = np.where(is_low | is_high, 0.0, middle)[:, None]
    at = np.concatenate([np.asarray(omega, np.float64), middle[:, None]], -1)
    found = lowpass_response(at - moved, cutoff, taps // 2, beta)
    both = ~(is_low | is_high)
    found[both] += lowpass_response(
        (at + moved)[both], cutoff[both], taps[both] // 2, beta
    )
    found[is_high] = 1.0 - found[is_high]
    return found[:, :-1] / found[:, -1:]


def _step(omega: np.ndarray, half: np.ndarray, beta: float) -> np.ndarray:
    """The step S at ``half omega``, with its images at all multiples of 2 pi."""
    turns = np.round(omega / (2.0 * np.pi))
    omega = omega - 2.0 * np.pi * turns
    x = half * omega
    inside = np.abs(x) < _TABLE_END
    found = np.empty_like(x)
    found[inside] = _near(x[inside], beta)
    found[~inside] = _far(x[~inside], beta)
    # Far from a step S is +-1/2 - (cos x / x + b^2 sin x / (2 x^2)) / (pi I0), whose
    # sum over images is a cotangent.
    t = 0.5 * omega
    small = np.abs(t) < 1e-3
    t = np.where(small, 1.0, t)
    first = np.where(small, -omega / 12.0, 0.5 / np.tan(t) - 0.5 / t)
    second = np.where(small, 1.0 / 12.0, 0.25 / np.sin(t) ** 2 - 0.25 / t**2)
    ripple = np.cos(x) * first / half
    ripple += (0.5 * beta**2 - 1.0) * np.sin(x) * second / half**2
    # Each image that was passed is a whole step.
    return found + turns - ripple / (np.pi * np.i0(beta))


@lru_cache(maxsize=8)
def _table(beta: float) -> tuple[np.ndarray, np.ndarray]:
    """S and its slope on a grid; the slope is analytic, S a Gauss sum of it."""
    grid = np.arange(0.0, _TABLE_END + 2 * _TABLE_STEP, _TABLE_STEP)
    nodes, weights = np.polynomial.legendre.leggauss(4)
    inner = grid[:-1, None] + 0.5 * _TABLE_STEP * (1.0 + nodes)
    cells = 0.5 * _TABLE_STEP * (_slope(inner, beta) @ weights)
    return np.concatenate([[0.0], np.cumsum(cells)]), _slope(grid, beta)


def _slope(x: np.ndarray, beta: float) -> np.ndarray:
    """dS/dx: the window's transform, sinh below beta and sin above."""
    square = beta**2 - x**2
    root = np.sqrt(np.abs(square))
    safe = np.where(root < 1e-6, 1.0, root)
    small = np.minimum(safe, beta + 1.0)
    found = np.where(square > 0, np.sinh(small) / small, np.sin(safe) / safe)
    return np.where(root < 1e-6, 1.0, found) / (np.pi * np.i0(beta))


def _near(x: np.ndarray, beta: float) -> np.ndarray:
    """S by Hermite interpolation of the table."""
    values, slopes = _table(beta)
    place = np.abs(x) / _TABLE_STEP
    cell = place.astype(np.int64)
    t = place - cell
    y0, y1 = values[cell], values[cell + 1]
    d0, d1 = _TABLE_STEP * slopes[cell], _TABLE_STEP * slopes[cell + 1]
    bend = (2.0 * t - 3.0) * t * t * (y0 - y1)
    tilt = ((t - 2.0) * t + 1.0) * t * d0 + (t - 1.0) * t * t * d1
    return np.sign(x) * (y0 + bend + tilt)


def _far(x: np.ndarray, beta: float) -> np.ndarray:
    """S by parts: 1/2 less the integral of sin y / sqrt(y^2 + b^2) beyond."""
    size = np.abs(x)
    y = np.sqrt(size**2 - beta**2)
    level = 1.0 / size - (2.0 * y**2 - beta**2) / size**5
    slope = -y / size**3 + (6.0 * y**3 - 9.0 * beta**2 * y) / size**7
    tail = np.cos(y) * level - np.sin(y) * slope
    return np.sign(x) * (0.5 - tail / (np.pi * np.i0(beta)))


def _summed(omega: np.ndarray, cutoff: float, half: int, beta: float) -> np.ndarray:
    """The sum over taps."""
    weights = np.kaiser(2 * half + 1, beta)[half:]
    total = weights[0] * cutoff / np.pi
    for n in range(1, half + 1):
        tap = weights[n] * np.sin(cutoff * n) / (np.pi * n)
        total = total + 2.0 * tap * np.cos(omega * n)
    return total
