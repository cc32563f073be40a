"""Coefficients of second-order filters, from the sections of `ddspx.filters.analog`.

A biquad is a pair ``(b, a)`` of coefficients [..., 3] with a[..., 0] = 1:

    H(z) = (b0 + b1 z^-1 + b2 z^-2) / (1 + a1 z^-1 + a2 z^-2)

Designs take arrays of any equal shape; numbers and NumPy arrays are designed in float64
by NumPy, JAX arrays by JAX with gradients. Frequencies must lie below half the rate.
"""

from typing import Any

from ddspx.filters import analog
from ddspx.filters.analog import coefficients, section
from ddspx.types import Rate
from ddspx.units import array_module

Biquad = tuple[Any, Any]


def biquad(
    cutoff_hz: Any,
    sample_rate: Rate,
    numerator: tuple[Any, Any, Any],
    denominator: tuple[Any, Any, Any],
) -> Biquad:
    """The bilinear transform of an analog section, exact at its cutoff.

        H(s) = (B2 s^2 + B1 s + B0) / (A2 s^2 + A1 s + A0),
        s = (1 / tan(pi cutoff / rate)) (1 - z^-1) / (1 + z^-1)

    Args:
      cutoff_hz: Hz, the analog frequency s = j.
      sample_rate: Hz.
      numerator: (B2, B1, B0).
      denominator: (A2, A1, A0).

    Returns:
      ``(b, a)``, each [..., 3], a[..., 0] = 1.
    """
    return coefficients(section(cutoff_hz, sample_rate, numerator, denominator))


def low_pass(cutoff_hz: Any, q: Any, sample_rate: Rate) -> Biquad:
    """Resonant low pass, 12 dB per octave, gain `q` at the cutoff.

        H(s) = 1 / (s^2 + s / Q + 1)

    Args:
      cutoff_hz: Hz, any shape.
      q: quality; 1 / sqrt(2) is Butterworth.
      sample_rate: Hz.

    Returns:
      ``(b, a)``, each [..., 3].

    Reference: R. Bristow-Johnson, Audio EQ Cookbook; so are the others.
    """
    return coefficients(analog.low_pass(cutoff_hz, q, sample_rate))


def high_pass(cutoff_hz: Any, q: Any, sample_rate: Rate) -> Biquad:
    """Resonant high pass: ``H(s) = s^2 / (s^2 + s / Q + 1)``; see `low_pass`.

    Args:
      cutoff_hz: Hz, any shape.
      q: quality.
      sample_rate: Hz.

    Returns:
      ``(b, a)``, each [..., 3].
    """
    return coefficients(analog.high_pass(cutoff_hz, q, sample_rate))


def band_pass(center_hz: Any, q: Any, sample_rate: Rate) -> Biquad:
    """Band pass of gain 1 at its center: ``H(s) = (s / Q) / (s^2 + s / Q + 1)``.

    Args:
      center_hz: Hz, any shape.
      q: center over the width between the -3 dB points.
      sample_rate: Hz.

    Returns:
      ``(b, a)``, each [..., 3].
    """
    return coefficients(analog.band_pass(center_hz, q, sample_rate))


def notch(center_hz: Any, q: Any, sample_rate: Rate) -> Biquad:
    """Zero at the center: ``H(s) = (s^2 + 1) / (s^2 + s / Q + 1)``.

    Args:
      center_hz: Hz, any shape.
      q: center over the width between the -3 dB points.
      sample_rate: Hz.

    Returns:
      ``(b, a)``, each [..., 3].
    """
    return coefficients(analog.notch(center_hz, q, sample_rate))


def peak(center_hz: Any, gain_db: Any, q: Any, sample_rate: Rate) -> Biquad:
    """Bell: ``H(s) = (s^2 + s A / Q + 1) / (s^2 + s / (A Q) + 1)``, A^2 the gain.

    Args:
      center_hz: Hz, any shape.
      gain_db: gain at the center, dB.
      q: quality.
      sample_rate: Hz.

    Returns:
      ``(b, a)``, each [..., 3].
    """
    return coefficients(analog.peak(center_hz, gain_db, q, sample_rate))


def low_shelf(cutoff_hz: Any, gain_db: Any, q: Any, sample_rate: Rate) -> Biquad:
    """Gain below, none above; half of it, in dB, at the cutoff.

        H(s) = A (s^2 + s sqrt(A) / Q + A) / (A s^2 + s sqrt(A) / Q + 1), A^2 the gain

    Args:
      cutoff_hz: Hz, any shape.
      gain_db: gain at 0 Hz, dB.
      q: quality; above 1 / sqrt(2) the response overshoots.
      sample_rate: Hz.

    Returns:
      ``(b, a)``, each [..., 3].
    """
    return coefficients(analog.low_shelf(cutoff_hz, gain_db, q, sample_rate))


def high_shelf(cutoff_hz: Any, gain_db: Any, q: Any, sample_rate: Rate) -> Biquad:
    """Gain above, none below; half of it, in dB, at the cutoff.

        H(s) = A (A s^2 + s sqrt(A) / Q + 1) / (s^2 + s sqrt(A) / Q + A), A^2 the gain

    Args:
      cutoff_hz: Hz, any shape.
      gain_db: gain at half the rate, dB.
      q: quality; above 1 / sqrt(2) the response overshoots.
      sample_rate: Hz.

    Returns:
      ``(b, a)``, each [..., 3].
    """
    return coefficients(analog.high_shelf(cutoff_hz, gain_db, q, sample_rate))


def sections(*biquads: Biquad) -> Any:
    """Biquads in series, in the layout of scipy.

    Args:
      *biquads: pairs ``(b, a)``, each [..., 3], equal shapes.

    Returns:
      [..., sections, 6]: b0 b1 b2 a0 a1 a2.
    """
    xp = array_module(*(c for pair in biquads for c in pair))
    return xp.stack([xp.concatenate(pair, -1) for pair in biquads], -2)
