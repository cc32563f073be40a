"""Extremes and means of a window that slides along time, in log2(length) steps.

Signals are [..., time] of any unit. The window ends at the sample it belongs to. Every
function takes the length - 1 samples before its first and returns those before the next
block's first, so that blocks in sequence give what one call gives.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ddspx.types import AnyArray, Signal

History = Float[AnyArray, "*batch past"]


@partial(jax.jit, static_argnames="length")
def sliding_maximum(
    signal: Signal, length: int, history: History
) -> tuple[jax.Array, jax.Array]:
    """Maximum of the last samples, this one included.

        y[n] = max(x[n - length + 1], ..., x[n])

    Windows double: the maximum of 2 m samples is that of two neighbours of m. The
    gradient goes to the sample that won, the latest of equals.

    Args:
      signal: [..., time].
      length: samples in the window, 1 or more.
      history: the samples before, [..., length - 1].

    Returns:
      ``(maximum[..., time], next history[..., length - 1])``.

    Raises:
      ValueError: the length is not positive, or the history does not fit it.
    """
    return _slide(_windowed_maximum, signal, length, history)


@partial(jax.jit, static_argnames="length")
def sliding_minimum(
    signal: Signal, length: int, history: History
) -> tuple[jax.Array, jax.Array]:
    """Minimum of the last samples, this one included; see `sliding_maximum`.

    Args:
      signal: [..., time].
      length: samples in the window, 1 or more.
      history: the samples before, [..., length - 1].

    Returns:
      ``(minimum[..., time], next history[..., length - 1])``.

    Raises:
      ValueError: the length is not positive, or the history does not fit it.
    """
    maximum, after = _slide(_windowed_maximum, -signal, length, -history)
    return -maximum, -after


@partial(jax.jit, static_argnames="length")
def sliding_mean(
    signal: Signal, length: int, history: History
) -> tuple[jax.Array, jax.Array]:
    """Mean of the last samples, this one included.

        y[n] = (x[n - length + 1] + ... + x[n]) / length

    The sum of a tree: no running total that drifts, and a mean of equal samples is
    theirs to a rounding.

    Args:
      signal: [..., time].
      length: samples in the window, 1 or more.
      history: the samples before, [..., length - 1].

    Returns:
      ``(mean[..., time], next history[..., length - 1])``.

    Raises:
      ValueError: the length is not positive, or the history does not fit it.
    """
    total, after = _slide(_windowed_sum, signal, length, history)
    return total / length, after


def _slide(
    reduce: Callable, signal: AnyArray, length: int, history: AnyArray
) -> tuple[jax.Array, jax.Array]:
    if length < 1:
        raise ValueError(f"a window of {length} samples is empty; give 1 or more")
    if history.shape != (*signal.shape[:-1], length - 1):
        raise ValueError(
            f"history of shape {history.shape} does not fit a window of {length} on"
            f" {signal.shape}: give [..., {length - 1}]"
        )
    signal, history = jnp.asarray(signal), jnp.asarray(history)
    if length == 1:
        return signal, history
    joined = jnp.concatenate([history.astype(signal.dtype), signal], -1)
    return reduce(joined, length), joined[..., signal.shape[-1] :]


def _pairs(length: int) -> list[int]:
    """Shifts whose combination, one after the other, covers `length` samples."""
    doublings = int(math.log2(length))
    shifts = [2**i for i in range(doublings)]
    rest = length - 2**doublings
    return [*shifts, rest] if rest else shifts


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _windowed_maximum(joined, length):
    # An overlap of two windows does no harm to a maximum.
    for shift in _pairs(length):
        joined = jnp.maximum(
            joined[..., shift:], joined[..., : joined.shape[-1] - shift]
        )
    return joined


def _windowed_maximum_forward(joined, length):
    place = jnp.broadcast_to(jnp.arange(joined.shape[-1]), joined.shape)
    value = joined
    for shift in _pairs(length):
        end = value.shape[-1] - shift
        newer = value[..., shift:] >= value[..., :end]
        value = jnp.where(newer, value[..., shift:], value[..., :end])
        place = jnp.where(newer, place[..., shift:], place[..., :end])
    return value, place


def _windowed_maximum_backward(length, place, gradient):
    time = gradient.shape[-1] + length - 1
    flat = gradient.reshape(-1, gradient.shape[-1])
    spread = jax.vmap(lambda at, g: jnp.zeros(time, g.dtype).at[at].add(g))
    joined = spread(place.reshape(flat.shape), flat)
    return (joined.reshape(*gradient.shape[:-1], time),)


_windowed_maximum.defvjp(_windowed_maximum_forward, _windowed_maximum_backward)


def _windowed_sum(joined: jax.Array, length: int) -> jax.Array:
    time = joined.shape[-1] - length + 1
    # Windows of powers of two that lie end to end, one for each set bit of the length.
    total, covered, windows = 0.0, 0, joined
    for bit in range(length.bit_length()):
        width = 2**bit
        if bit:
            older = windows[..., : windows.shape[-1] - width // 2]
            windows = windows[..., width // 2 :] + older
        if length & width:
            total = total + windows[..., covered : covered + time]
            covered += width
    return jnp.asarray(total)
