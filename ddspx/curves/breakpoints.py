"""Curves by their corners, and how they go from one to the next."""

from typing import NamedTuple

import numpy as np

# From one breakpoint (share 0) to the next (share 1).
SHAPES = ("linear", "hold", "smooth", "exponential")


class CurveError(ValueError):
    """Control curves that cannot be used; the message says which and what to do."""


class Breakpoints(NamedTuple):
    """A curve by its corners.

    Attributes:
      times_s: seconds, in order [n]; two of one time are a jump.
      values: physical [n].
      shapes: of `SHAPES`, from each to the next, n of them; none is ``"linear"``.
    """

    times_s: np.ndarray
    values: np.ndarray
    shapes: tuple[str, ...] = ()


def sample(points: Breakpoints, times_s: np.ndarray) -> np.ndarray:
    """Values of a curve of breakpoints.

        y(t) = v[i] + s(x) (v[i + 1] - v[i]),  x = (t - t[i]) / (t[i + 1] - t[i])

    with s(x) = x (linear), 0 (hold), x^2 (3 - 2 x) (smooth); ``exponential`` is a line
    in the logarithm, as pitches and gains glide.

    Args:
      points: one or more.
      times_s: seconds [frames].

    Returns:
      float64 [frames].

    Raises:
      CurveError: the breakpoints are no curve.
    """
    points = checked(points)
    times, values = points.times_s, points.values
    times_s = np.asarray(times_s, np.float64)
    # At a jump the later value holds.
    left = np.searchsorted(times, times_s, side="right") - 1
    first = np.clip(left, 0, len(times) - 1)
    last = np.clip(left + 1, 0, len(times) - 1)
    span = times[last] - times[first]
    x = np.where(span > 0, times_s - times[first], 0.0) / np.where(span > 0, span, 1.0)
    start, end = values[first], values[last]
    if not points.shapes:
        return start + x * (end - start)
    shape = np.array([SHAPES.index(name) for name in points.shapes])[first]
    bent = np.select([shape == 1, shape == 2], [0.0 * x, x**2 * (3 - 2 * x)], x)
    line = start + bent * (end - start)
    glides = (shape == 3) & (span > 0)
    ratio = np.where(glides, end / np.where(glides, start, 1.0), 1.0)
    return np.where(glides, start * ratio**x, line)


def checked(points: Breakpoints, name: str = "") -> Breakpoints:
    """The same in float64, if they are a curve.

    Raises:
      CurveError: they are not.
    """
    curve = f"curve {name!r}" if name else "a curve"
    times = np.asarray(points.times_s, np.float64)
    values = np.asarray(points.values, np.float64)
    if times.shape != values.shape or times.ndim != 1 or not times.size:
        raise CurveError(
            f"{curve} has times {times.shape} and values {values.shape}; expected one"
            " or more, as many of each"
        )
    if not (np.isfinite(times).all() and np.isfinite(values).all()):
        raise CurveError(f"{curve} has breakpoints that are not finite")
    back = np.flatnonzero(np.diff(times) < 0)
    if back.size:
        raise CurveError(
            f"{curve} goes back in time, from {times[back[0]]:g} to"
            f" {times[back[0] + 1]:g} s; sort its breakpoints"
        )
    if points.shapes and len(points.shapes) != len(times):
        raise CurveError(f"{curve} has {len(points.shapes)} shapes for {len(times)}")
    for place, shape in enumerate(points.shapes):
        if shape not in SHAPES:
            raise CurveError(f"{curve}: shape {shape!r}; use {', '.join(SHAPES)}")
        if shape == "exponential" and values[place : place + 2].min() <= 0:
            raise CurveError(
                f"{curve} is exponential at {times[place]:g} s, where it is not"
                " positive; use linear"
            )
    return Breakpoints(times, values, points.shapes)
