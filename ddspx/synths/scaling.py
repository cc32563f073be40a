"""From unbounded network outputs to positive amplitudes and to frequencies.

Amplitudes are linear, frequencies in Hz. Formulas and constants are those of DDSP
(Engel et al., ICLR 2020) and its library, so that trained models can be compared.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ddspx.signal import PRECISE
from ddspx.types import AnyArray
from ddspx.units import hz_to_midi, midi_to_hz


def exp_sigmoid(
    outputs: AnyArray,
    exponent: float = 10.0,
    max_value: float = 2.0,
    threshold: float = 1e-7,
) -> jax.Array:
    """A positive amplitude that grows exponentially, then levels off.

        y = max_value sigmoid(x)^ln(exponent) + threshold

    Args:
      outputs: unbounded, any shape.
      exponent: factor of y for a step of 1 in x, far below 0.
      max_value: for large x.
      threshold: for x far below 0; keeps logarithms and gradients alive.

    Returns:
      Same shape, above 0.
    """
    outputs = jnp.asarray(outputs)
    # The power as a logarithm: its gradient is finite however small the sigmoid.
    power = jnp.exp(float(np.log(exponent)) * jax.nn.log_sigmoid(outputs))
    return max_value * power + threshold


def sym_exp_sigmoid(outputs: AnyArray, width: float = 8.0) -> jax.Array:
    """`exp_sigmoid` of the distance from zero: least at 0, the same for both signs.

        y = exp_sigmoid(width (|x| / 2 - 1))

    Args:
      outputs: unbounded, any shape.
      width: of the valley; the larger, the steeper.

    Returns:
      Same shape, above 0.
    """
    return exp_sigmoid(width * (0.5 * jnp.abs(jnp.asarray(outputs)) - 1.0))


def frequencies_softmax(
    outputs: AnyArray, low_hz: float = 20.0, high_hz: float = 8000.0
) -> jax.Array:
    """Frequencies as means of a distribution over evenly spaced pitches.

        p = sum_d softmax(x)_d d / (depth - 1),   f = low (high / low)^p

    Args:
      outputs: unbounded, [..., sinusoids, depth].
      low_hz: least frequency, above 0.
      high_hz: highest frequency.

    Returns:
      Hz, [..., sinusoids].
    """
    shares = jax.nn.softmax(jnp.asarray(outputs), -1)
    places = jnp.linspace(0.0, 1.0, shares.shape[-1], dtype=shares.dtype)
    where = jnp.matmul(shares, places, precision=PRECISE)
    return _pitched(where, low_hz, high_hz)


def frequencies_sigmoid(
    outputs: AnyArray, low_hz: float = 0.0, high_hz: float = 8000.0
) -> jax.Array:
    """Frequencies as sums of sigmoids, each of a smaller range than the one before.

        f = sum_d low_d (high_d / low_d)^sigmoid(x_d)

    With one sigmoid its range is that from low to high. With more, each takes the share
    ``1 - range^(-1 / depth)`` of what the earlier ones left of the range in Hz, and the
    last all of it.

    Args:
      outputs: unbounded, [..., sinusoids, depth].
      low_hz: least frequency; 0 stands for MIDI note 0, 8.18 Hz.
      high_hz: highest frequency, where one sigmoid gives ``high_hz - low_hz`` as the
        library has it.

    Returns:
      Hz, [..., sinusoids].
    """
    shares = jax.nn.sigmoid(jnp.asarray(outputs))
    depth = shares.shape[-1]
    left = high_hz - low_hz
    kept = left ** (-1.0 / depth)
    found = jnp.zeros(shares.shape[:-1], shares.dtype)
    for d in range(depth - 1):
        found += _pitched(shares[..., d], 0.0, left * (1.0 - kept))
        left *= kept
    return found + _pitched(shares[..., -1], low_hz, left)


def frequencies_critical_bands(
    outputs: AnyArray,
    low_hz: float = 20.0,
    high_hz: float = 8000.0,
    *,
    depth_scale: float = 10.0,
    bandwidth_scale: float = 1.0,
) -> jax.Array:
    """Frequencies near centres that are evenly spaced on the Bark scale.

        f = limit(centre + bandwidth_scale erb(centre) sum_d depth_scale^-d tanh(x_d))

    Args:
      outputs: unbounded, [..., sinusoids, depth].
      low_hz: first centre and least frequency, above 0.
      high_hz: last centre and highest frequency.
      depth_scale: how much less each further output moves the frequency.
      bandwidth_scale: how far a frequency moves, in equivalent rectangular bandwidths.

    Returns:
      Hz, [..., sinusoids].

    Reference: Traunmueller, Analytical expressions for the tonotopic sensory scale,
    JASA 1990; Moore and Glasberg, A revision of Zwicker's loudness model, 1996.
    """
    outputs = jnp.asarray(outputs)
    dtype = outputs.dtype
    low, high = (26.81 / (1.0 + 1960.0 / hz) - 0.53 for hz in (low_hz, high_hz))
    bark = np.linspace(low, high, outputs.shape[-2])
    centres = 1960.0 / (26.81 / (bark + 0.53) - 1.0)
    widths = bandwidth_scale * (0.108 * centres + 24.7)
    scales = jnp.asarray(depth_scale ** -np.arange(outputs.shape[-1], dtype=float))
    moved = jnp.matmul(jnp.tanh(outputs), scales.astype(dtype), precision=PRECISE)
    one = (1,) * (moved.ndim - 1) + (-1,)
    moved = jnp.asarray(centres.reshape(one), dtype) + (
        jnp.asarray(widths.reshape(one), dtype) * moved
    )
    span = high_hz - low_hz
    return jax.nn.softplus(moved) + low_hz - jax.nn.softplus(moved - span)


def _pitched(share: jax.Array, low_hz: float, high_hz: float) -> jax.Array:
    low = float(hz_to_midi(low_hz)) if low_hz > 0.0 else 0.0
    return midi_to_hz(low + (float(hz_to_midi(high_hz)) - low) * share)
