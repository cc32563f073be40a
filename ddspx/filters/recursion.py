"""Recursive filters, from rest or from a state: sections in series, in one call.

Audio is [..., time]. States are those of trapezoidal integrators, [..., n, 2], the same
for every method and for moving coefficients: a stream may change from one to the other.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ddspx.filters.analog import Section, from_coefficients, normalised
from ddspx.filters.block import block_filter
from ddspx.filters.response import sampled_filter
from ddspx.filters.scan import outputs, state_variable
from ddspx.types import AnyArray, Signal

Method = Literal["auto", "block", "scan", "fft"]


def filter_sections(
    audio: Signal,
    sections: Section,
    state: Any = None,
    method: Method = "auto",
) -> tuple[jax.Array, jax.Array]:
    """Sections in series, with gradients to audio, sections and state.

    "block" is a joint block state-space of the whole cascade, "scan" the recursion
    sample by sample with an analytic gradient, "fft" samples the damped response. All
    agree to rounding. "auto" is "block", on CPU and accelerators alike: it is matrix
    products, its cost hardly grows with the sections, and few steps wait in a row.

    Args:
      audio: [..., time].
      sections: stable, [..., n] from `series`; leading dimensions equal to the audio's,
        or 1, or left out.
      state: [..., n, 2], or None for rest. "fft" knows only rest.
      method: one of the four.

    Returns:
      Audio [..., time], and the state after it [..., n, 2]; rest again from "fft".

    Raises:
      ValueError: an unknown method, sections without their axis, or a state for "fft".
    """
    audio = jnp.asarray(audio)
    if np.ndim(sections.warp) == 0:
        raise ValueError(
            "expected sections along a last axis [..., n], got one section without it;"
            " wrap it as series(section)"
        )
    if method not in ("auto", "block", "scan", "fft"):
        raise ValueError(f"method {method!r} is not one of auto, block, scan, fft")
    if method == "fft" and state is not None:
        raise ValueError(
            "method 'fft' filters whole signals from rest, but was given a state; use"
            " 'block' for streams"
        )
    if method == "scan":
        still = Section(
            sections.numerator[..., None, :, :],
            sections.denominator[..., None, :, :],
            sections.warp[..., None, :],
        )
        return filter_moving(audio, still, state)
    state = _state(audio, sections, state)
    if audio.shape[-1] == 0:
        return audio, state
    if method == "fft":
        return sampled_filter(audio, sections), state
    flat = state.reshape(*state.shape[:-2], -1)
    audio, flat = block_filter(audio, normalised(sections), flat)
    return audio, flat.reshape(state.shape)


def filter_moving(
    audio: Signal, sections: Section, state: Any = None
) -> tuple[jax.Array, jax.Array]:
    """Sections in series whose coefficients may change with every sample.

    Each is a state-variable filter: constant coefficients give what `filter_sections`
    gives, moving ones neither click nor make it unstable.

    Args:
      audio: [..., time].
      sections: stable, [..., time, n]; time may be 1, leading dimensions as in
        `filter_sections`.
      state: [..., n, 2], or None for rest.

    Returns:
      Audio [..., time] and the state after it [..., n, 2].
    """
    audio = jnp.asarray(audio)
    state = _state(audio, sections, state)
    numerator, denominator, warp = (
        jnp.asarray(leaf, audio.dtype) for leaf in normalised(sections)[:3]
    )
    lead = (1,) * (audio.ndim + 1 - warp.ndim)
    numerator = numerator.reshape(lead + numerator.shape)
    denominator = denominator.reshape(lead + denominator.shape)
    warp = warp.reshape(lead + warp.shape)
    ends = []
    for index in range(warp.shape[-1]):
        g, r = warp[..., index], denominator[..., index, 1]
        first, second, end = state_variable(audio, g, r, state[..., index, :])
        high, band, low = outputs(audio, g, r, first, second)
        b2, b1, b0 = (numerator[..., index, i] for i in range(3))
        audio = b2 * high + b1 * band + b0 * low
        ends.append(end)
    return audio, jnp.stack(ends, -2)


def sosfilt(
    audio: Signal, sos: Float[AnyArray, "*#batch sections 6"]
) -> Float[AnyArray, "*batch time"]:
    """Sections in series from their coefficients, from rest.

        y[t] = b0 x[t] + b1 x[t-1] + b2 x[t-2] - a1 y[t-1] - a2 y[t-2], one by one

    Coefficients that are NumPy make their matrices in float64 while tracing. Those of a
    low cutoff in float32 hold it only roughly: prefer `filter_sections` there.

    Args:
      audio: [..., time].
      sos: [..., sections, 6] as scipy's, leading dimensions equal or 1, or left out.
        Coefficients may be traced, and have gradients.

    Returns:
      [..., time].
    """
    audio = jnp.asarray(audio)
    if audio.shape[-1] == 0:
        return audio
    sections = from_coefficients(sos[..., :3], sos[..., 3:])
    state = _state(audio, sections, None)
    return block_filter(audio, sections, state.reshape(*state.shape[:-2], -1))[0]


def sosfilt_fixed(
    audio: Signal, sos: np.ndarray, block_length: int = 128
) -> Float[AnyArray, "*batch time"]:
    """`sosfilt` for coefficients known beforehand, from which no gradient is asked.

    Args:
      audio: [..., time].
      sos: float64 NumPy [sections, 6].
      block_length: samples, a power of two.

    Returns:
      [..., time].
    """
    audio = jnp.asarray(audio)
    if audio.shape[-1] == 0:
        return audio
    sos = np.asarray(sos, float)
    sections = from_coefficients(sos[:, :3], sos[:, 3:])
    state = jnp.zeros((*audio.shape[:-1], 2 * len(sos)), audio.dtype)
    return block_filter(audio, sections, state, block_length)[0]


def _state(audio: jax.Array, sections: Section, state: Any) -> jax.Array:
    shape = (*audio.shape[:-1], np.shape(sections.warp)[-1], 2)
    if state is None:
        return jnp.zeros(shape, audio.dtype)
    if np.shape(state) != shape:
        raise ValueError(
            f"expected a state [..., sections, 2] of shape {shape}, got"
            f" {np.shape(state)}; None starts from rest"
        )
    return jnp.asarray(state, audio.dtype)
