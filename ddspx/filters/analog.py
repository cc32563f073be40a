"""Analog second-order sections: the one description that designs and recursions share.

A `Section` is a rational function of s and the warped frequency of s = j,

    H(s) = (B2 s^2 + B1 s + B0) / (A2 s^2 + A1 s + A0),
    s = (1 / k) (1 - z^-1) / (1 + z^-1),   k = tan(pi cutoff / rate).

Coefficients ``(b, a)`` of a low cutoff differ from those of 0 Hz in their last digits,
which float32 has not; A, B and k keep their relative precision at any cutoff. Designs
take arrays of equal shape: numbers and NumPy arrays are designed in float64 by NumPy,
JAX arrays by JAX with gradients. Frequencies must lie below half the rate.

Reference: R. Bristow-Johnson, Audio EQ Cookbook (the analog prototypes); V. Zavalishin,
The Art of VA Filter Design (2018), 3.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from ddspx.types import Rate
from ddspx.units import array_module


class Section(NamedTuple):
    """Analog sections and where they lie in frequency.

    Attributes:
      numerator: B2, B1, B0 along the last axis, [..., 3].
      denominator: A2, A1, A0 along the last axis, [..., 3]; all positive for a stable
        filter.
      warp: k, [...].
      angle: pi cutoff / rate and what its rounding left out, [..., 2], or None where
        it is not known better than by k. At a sharp resonance two large terms cancel,
        and where they do, float32 alone does not hold well enough for responses.
    """

    numerator: Any
    denominator: Any
    warp: Any
    angle: Any = None


def section(
    cutoff_hz: Any,
    sample_rate: Rate,
    numerator: tuple[Any, Any, Any],
    denominator: tuple[Any, Any, Any],
) -> Section:
    """The section with s = j at the cutoff.

    Args:
      cutoff_hz: Hz, any shape.
      sample_rate: Hz.
      numerator: (B2, B1, B0), each of the cutoff's shape or a number.
      denominator: (A2, A1, A0).

    Returns:
      A `Section` of the shape of all arguments together.
    """
    xp = array_module(cutoff_hz, *numerator, *denominator)
    angle, rest = _angle(xp.asarray(cutoff_hz), sample_rate)
    k = xp.tan(angle)
    k = k + (1.0 + k * k) * rest
    shape = np.broadcast_shapes(*(np.shape(c) for c in (k, *numerator, *denominator)))

    def stack(coefficients):
        return xp.stack(
            [xp.broadcast_to(xp.asarray(c, k.dtype), shape) for c in coefficients], -1
        )

    return Section(
        stack(numerator),
        stack(denominator),
        xp.broadcast_to(k, shape),
        stack((angle, rest)),
    )


def low_pass(cutoff_hz: Any, q: Any, sample_rate: Rate) -> Section:
    """Resonant low pass: ``H(s) = 1 / (s^2 + s / Q + 1)``.

    Args:
      cutoff_hz: Hz, any shape.
      q: quality, the gain at the cutoff; 1 / sqrt(2) is Butterworth.
      sample_rate: Hz.

    Returns:
      A `Section`; so do all designs here.
    """
    return section(cutoff_hz, sample_rate, (0.0, 0.0, 1.0), (1.0, 1.0 / q, 1.0))


def high_pass(cutoff_hz: Any, q: Any, sample_rate: Rate) -> Section:
    """Resonant high pass: ``H(s) = s^2 / (s^2 + s / Q + 1)``; see `low_pass`."""
    return section(cutoff_hz, sample_rate, (1.0, 0.0, 0.0), (1.0, 1.0 / q, 1.0))


def band_pass(center_hz: Any, q: Any, sample_rate: Rate) -> Section:
    """Band pass of gain 1 at its center: ``H(s) = (s / Q) / (s^2 + s / Q + 1)``."""
    return section(center_hz, sample_rate, (0.0, 1.0 / q, 0.0), (1.0, 1.0 / q, 1.0))


def notch(center_hz: Any, q: Any, sample_rate: Rate) -> Section:
    """Zero at the center: ``H(s) = (s^2 + 1) / (s^2 + s / Q + 1)``."""
    return section(center_hz, sample_rate, (1.0, 0.0, 1.0), (1.0, 1.0 / q, 1.0))


def peak(center_hz: Any, gain_db: Any, q: Any, sample_rate: Rate) -> Section:
    """Bell: ``H(s) = (s^2 + s A / Q + 1) / (s^2 + s / (A Q) + 1)``, A^2 the gain.

    Args:
      center_hz: Hz, any shape.
      gain_db: gain at the center, dB.
      q: quality.
      sample_rate: Hz.

    Returns:
      A `Section`.
    """
    root = _root_gain(gain_db)
    return section(
        center_hz, sample_rate, (1.0, root / q, 1.0), (1.0, 1.0 / (root * q), 1.0)
    )


def low_shelf(cutoff_hz: Any, gain_db: Any, q: Any, sample_rate: Rate) -> Section:
    """Gain below, none above; half of it, in dB, at the cutoff.

        H(s) = A (s^2 + s sqrt(A) / Q + A) / (A s^2 + s sqrt(A) / Q + 1), A^2 the gain

    Args:
      cutoff_hz: Hz, any shape.
      gain_db: gain at 0 Hz, dB.
      q: quality; above 1 / sqrt(2) the response overshoots.
      sample_rate: Hz.

    Returns:
      A `Section`.
    """
    root = _root_gain(gain_db)
    slope = root**0.5 / q
    return section(
        cutoff_hz, sample_rate, (root, root * slope, root**2), (root, slope, 1.0)
    )


def high_shelf(cutoff_hz: Any, gain_db: Any, q: Any, sample_rate: Rate) -> Section:
    """Gain above, none below; half of it, in dB, at the cutoff.

        H(s) = A (A s^2 + s sqrt(A) / Q + 1) / (s^2 + s sqrt(A) / Q + A), A^2 the gain

    Args:
      cutoff_hz: Hz, any shape.
      gain_db: gain at half the rate, dB.
      q: quality; above 1 / sqrt(2) the response overshoots.
      sample_rate: Hz.

    Returns:
      A `Section`.
    """
    root = _root_gain(gain_db)
    slope = root**0.5 / q
    return section(
        cutoff_hz, sample_rate, (root**2, root * slope, root), (1.0, slope, root)
    )


def first_order_low_pass(cutoff_hz: Any, sample_rate: Rate) -> Section:
    """``H(s) = 1 / (s + 1)``, 6 dB per octave, -3 dB at the cutoff.

    It is written as (s + 1) / (s + 1)^2, so that a first-order filter is a section like
    any other; the hidden state decays as fast as the filter.

    Args:
      cutoff_hz: Hz, any shape.
      sample_rate: Hz.

    Returns:
      A `Section`.
    """
    return section(cutoff_hz, sample_rate, (0.0, 1.0, 1.0), (1.0, 2.0, 1.0))


def first_order_high_pass(cutoff_hz: Any, sample_rate: Rate) -> Section:
    """``H(s) = s / (s + 1)``; see `first_order_low_pass`."""
    return section(cutoff_hz, sample_rate, (1.0, 1.0, 0.0), (1.0, 2.0, 1.0))


def series(*sections: Section) -> Section:
    """Sections in series as one `Section` with the sections along its last axis.

    Args:
      *sections: of shapes that broadcast: numbers, or [time] where they move.

    Returns:
      A `Section` of shape [..., sections].

    Raises:
      ValueError: no section was given.
    """
    if not sections:
        raise ValueError("series() needs at least one section, such as peak(...)")
    xp = array_module(*(array for one in sections for array in one))
    angles = [angle_of(one) for one in sections]
    shape = np.broadcast_shapes(*(np.shape(one.warp) for one in sections))

    def stack(arrays, axis, end=()):
        arrays = [xp.broadcast_to(array, (*shape, *end)) for array in arrays]
        return xp.stack(arrays, axis)

    return Section(
        stack([one.numerator for one in sections], -2, (3,)),
        stack([one.denominator for one in sections], -2, (3,)),
        stack([one.warp for one in sections], -1),
        stack(angles, -2, (2,)),
    )


def angle_of(sections: Section) -> Any:
    """`Section.angle` [..., 2], from k where it is not known better."""
    if sections.angle is not None:
        return sections.angle
    xp = array_module(*sections)
    angle = xp.arctan(sections.warp)
    return xp.stack([angle, xp.zeros_like(angle)], -1)


def coefficients(sections: Section) -> tuple[Any, Any]:
    """The bilinear transform of sections, exact at their cutoffs.

    Args:
      sections: of any shape.

    Returns:
      ``(b, a)``, each [..., 3], a[..., 0] = 1.
    """
    xp = array_module(*sections)
    k = xp.asarray(sections.warp)

    def transform(analog):
        # Multiplied by k^2: no difference of cosines, which float32 would cancel.
        c2, c1, c0 = analog[..., 0], analog[..., 1] * k, analog[..., 2] * k * k
        return xp.stack([c0 + c1 + c2, 2.0 * (c0 - c2), c0 - c1 + c2], -1)

    b, a = transform(sections.numerator), transform(sections.denominator)
    return b / a[..., :1], a / a[..., :1]


def from_coefficients(b: Any, a: Any) -> Section:
    """The section, with k = 1, of which ``(b, a)`` is the bilinear transform.

        A2 = (1 - a1 + a2) / 4,  A1 = (1 - a2) / 2,  A0 = (1 + a1 + a2) / 4

    Args:
      b: [..., 3].
      a: [..., 3], any a[..., 0] but zero.

    Returns:
      A `Section` of shape [...].
    """
    xp = array_module(b, a)

    def invert(c):
        c0, c1, c2 = c[..., 0], c[..., 1], c[..., 2]
        even = c0 + c2
        return xp.stack([(even - c1) / 4, (c0 - c2) / 2, (even + c1) / 4], -1)

    b, a = b / a[..., :1], a / a[..., :1]
    return Section(invert(b), invert(a), xp.ones_like(a[..., 0]))


def normalised(sections: Section) -> Section:
    """The same filters with the denominator ``s^2 + r s + 1``.

        k' = k sqrt(A0 / A2),  r = A1 / sqrt(A0 A2)

    Args:
      sections: stable, so that A0 and A2 are positive; any shape.

    Returns:
      A `Section` of the same shape.
    """
    xp = array_module(*sections)
    a2, a1, a0 = (sections.denominator[..., i] for i in range(3))
    b2, b1, b0 = (sections.numerator[..., i] for i in range(3))
    bend = xp.sqrt(a0 / a2)
    one = xp.ones_like(a2)
    return Section(
        xp.stack([b2 / a2, b1 / (a2 * bend), b0 / a0], -1),
        xp.stack([one, a1 / (a2 * bend), one], -1),
        sections.warp * bend,
    )


def _angle(cutoff_hz: Any, sample_rate: Rate) -> tuple[Any, Any]:
    """``pi cutoff / rate``, and what float32 leaves out of it."""
    factor = np.pi / sample_rate
    if cutoff_hz.dtype != np.float32:
        return cutoff_hz * factor, 0.0 * cutoff_hz
    # Dekker's product: both factors in halves of 12 bits, whose products are exact.
    high = float(np.float32(factor))
    first = float(np.float32(4097.0 * high))
    first = float(np.float32(first - np.float32(first - high)))
    spread = 4097.0 * cutoff_hz
    upper = spread - (spread - cutoff_hz)
    lower = cutoff_hz - upper
    angle = cutoff_hz * high
    rest = (upper * first - angle) + upper * (high - first) + lower * first
    rest = rest + lower * (high - first) + cutoff_hz * (factor - high)
    if isinstance(rest, jax.Array):
        rest = lax.stop_gradient(rest)
    return angle, rest


def _root_gain(gain_db: Any) -> Any:
    """A = sqrt of the gain: ``10^(dB / 40)``."""
    return array_module(gain_db).power(10.0, gain_db / 40.0)
