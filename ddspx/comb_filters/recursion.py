"""The recursive comb without a filter in its loop, and the all-pass made of it."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ddspx.signal import PRECISE
from ddspx.types import AnyArray


def feedback_comb(
    state: AnyArray, audio: AnyArray, feedback: Any, method: str = "auto"
) -> tuple[jax.Array, jax.Array]:
    """Recursive comb; the state's length is the delay.

        w[n] = x[n] + g w[n - D]

    Args:
      state: [delay], the last samples of w; zeros at the start of a stream.
      audio: [time].
      feedback: g, number or traced scalar.
      method: ``"loop"`` goes delay by delay, ``"doubling"`` in log2(time / delay)
        passes, for devices where a step costs more than its samples; ``"auto"``
        takes the loop on CPU, doubling elsewhere.

    Returns:
      The next state [delay] and w [time].

    Raises:
      ValueError: the delay is less than one sample, or the method is unknown.
    """
    if method not in ("auto", "loop", "doubling"):
        raise ValueError(f"method {method!r} is unknown; use auto, loop or doubling")
    state, audio = jnp.asarray(state), jnp.asarray(audio)
    if state.shape[-1] < 1:
        raise ValueError(f"a comb needs a delay of a sample or more: {state.shape}")
    if audio.shape[-1] == 0:
        return state, audio
    if method == "auto":
        # At trace time: the program of one device needs no other's.
        method = "loop" if jax.default_backend() == "cpu" else "doubling"
    # A Python number has no gradient, and nothing need be kept for it.
    fixed = isinstance(feedback, int | float)
    gain = jnp.asarray(feedback, audio.dtype)
    w = _compiled_comb(method, fixed, state, audio, gain)
    return jnp.concatenate([state, w])[audio.shape[-1] :], w


def schroeder_allpass(
    state: AnyArray, audio: AnyArray, gain: Any
) -> tuple[jax.Array, jax.Array]:
    """All-pass of a long delay; the state's length is the delay.

        H(z) = (z^-D - g) / (1 - g z^-D)

    Args:
      state: [delay], zeros at the start of a stream.
      audio: [time].
      gain: g in (-1, 1), number or traced scalar.

    Returns:
      The next state [delay] and audio [time].

    Reference:
      Schroeder, "Natural sounding artificial reverberation", JAES 10(3), 1962.
    """
    after, w = feedback_comb(state, audio, gain)
    return after, delayed(state, w) - gain * w


def delayed(state: AnyArray, audio: AnyArray) -> jax.Array:
    """The signal as many samples late as the state, what went before, is long."""
    return jnp.concatenate([state, audio])[: audio.shape[-1]]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _comb(method, fixed, state, audio, gain):
    delay, time = state.shape[0], audio.shape[0]
    count = -(-time // delay)
    if method == "loop":
        # One buffer, written in place.
        buffer = jnp.concatenate([state, audio])
        buffer = jnp.pad(buffer, (0, count * delay - time))

        def step(row, buffer):
            before, now = _row(buffer, row, delay), _row(buffer, row + 1, delay)
            return _put_row(buffer, now + gain * before, row + 1, delay)

        return lax.fori_loop(0, count, step, buffer)[delay : delay + time]
    rows = jnp.pad(audio, (0, count * delay - time)).reshape(count, delay)
    rows = rows.at[0].add(gain * state)
    reach, power = 1, gain
    while reach < count:
        rows = rows.at[reach:].add(power * rows[:-reach])
        reach, power = 2 * reach, power * power
    return rows.reshape(-1)[:time]


def _row(buffer, row, delay):
    return lax.dynamic_slice_in_dim(buffer, row * delay, delay)


def _put_row(buffer, values, row, delay):
    return lax.dynamic_update_slice_in_dim(buffer, values, row * delay, 0)


def _comb_forward(method, fixed, state, audio, gain):
    w = _comb(method, fixed, state, audio, gain)
    return w, (state, None if fixed else w, gain)


def _comb_backward(method, fixed, saved, cotangent):
    # The adjoint of a recursion is the recursion in reversed time.
    state, w, gain = saved
    delay, time = state.shape[0], cotangent.shape[0]
    silent = jnp.zeros_like(state)
    backwards = jnp.asarray(_comb(method, fixed, silent, cotangent[::-1], gain))
    to_audio = backwards[::-1]
    to_state = gain * jnp.pad(to_audio[:delay], (0, max(0, delay - time)))
    to_gain = jnp.zeros_like(gain)
    if not fixed:
        to_gain = jnp.vdot(to_audio, delayed(state, w), precision=PRECISE)
    return to_state, to_audio, to_gain


_comb.defvjp(_comb_forward, _comb_backward)
_compiled_comb = jax.jit(_comb, static_argnums=(0, 1))
