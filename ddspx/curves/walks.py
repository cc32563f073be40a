"""Smooth random paths: what wanders slowly around zero."""

import math

import numpy as np

from ddspx.curves.breakpoints import CurveError

# Mean of s^2 + (1 - s)^2 for s = x^2 (3 - 2 x), x from 0 to 1: the power of a smooth
# path through independent points, relative to theirs.
_PATH_POWER = 26.0 / 35.0


def smooth_walk(
    seed: tuple[int, ...], times_s: np.ndarray, wander_hz: float, size: int = 1
) -> np.ndarray:
    """Random paths of unit power, a new independent point so many times a second.

        w(t) = ((1 - s(x)) p[i] + s(x) p[i + 1]) / sqrt(26 / 35),  i + x = wander_hz t

    with s(x) = x^2 (3 - 2 x) and p normal. A value depends on the seed and its time
    alone: parts of a path are the whole, and no path is kept in memory.

    Args:
      seed: integers from 0.
      times_s: seconds [n], from 0.
      wander_hz: points a second.
      size: how many paths.

    Returns:
      float64 [n, size].

    Raises:
      CurveError: `wander_hz` is not above 0.
    """
    if not (math.isfinite(wander_hz) and wander_hz > 0):
        raise CurveError(f"wander_hz {wander_hz} must be a positive number")
    place = np.asarray(times_s, np.float64) * wander_hz
    first = np.floor(place).astype(int)
    known, where = np.unique(first, return_inverse=True)
    start, end = (
        np.stack([_points(seed, int(i) + off, size) for i in known])[where]
        for off in (0, 1)
    )
    x = (place - first)[:, None]
    rise = x**2 * (3.0 - 2.0 * x)
    return (start + rise * (end - start)) / math.sqrt(_PATH_POWER)


def _points(seed: tuple[int, ...], number: int, size: int) -> np.ndarray:
    return np.random.default_rng([*seed, number]).standard_normal(size)
