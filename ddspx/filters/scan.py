"""Recursions sample by sample, with gradients by the adjoint recursion run backwards.

Coefficients may change at every sample. What the gradient keeps is the signal, its
coefficients and the states: memory grows with the audio, by a small factor.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from ddspx.types import AnyArray


def state_variable(
    audio: Float[AnyArray, "*batch time"],
    warp: Float[AnyArray, "*#batch #time"],
    damping: Float[AnyArray, "*#batch #time"],
    state: Float[AnyArray, "*batch 2"],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A state-variable filter by trapezoidal integration, coefficients by the sample.

        high = (x - s2 - (r + g) s1) / (1 + g (r + g)),
        band = s1 + g high,  low = s2 + g band,
        s1' = s1 + 2 g high,  s2' = s2 + 2 g band

    High, band and low are ``s^2, s, 1`` over ``s^2 + r s + 1``, s = j at the frequency
    where g = tan(pi f / rate). States are the integrators' own, so that a change of the
    cutoff does not click and cannot make the filter unstable.

    Args:
      audio: [..., time].
      warp: g, [..., time], leading dimensions equal to the audio's or 1.
      damping: r = 1 / Q, as warp.
      state: s1, s2 before the first sample, [..., 2].

    Returns:
      s1 and s2 before each sample, [..., time] each, and the state at the end [..., 2].
      `outputs` makes high, band and low of them.

    Reference: V. Zavalishin, The Art of VA Filter Design (2018), 4 and 6; A. Simper,
      Solving the continuous SVF equations (2013).
    """
    shape = audio.shape
    return _state_variable(
        audio, jnp.broadcast_to(warp, shape), jnp.broadcast_to(damping, shape), state
    )


def outputs(audio, warp, damping, first, second):
    """High, band and low pass of `state_variable`, from its states, sample by sample.

    Args:
      audio: [..., time].
      warp: g, [..., time].
      damping: r, [..., time].
      first: s1, [..., time].
      second: s2, [..., time].

    Returns:
      High, band and low, each [..., time].
    """
    high = (audio - second - (damping + warp) * first) / (1 + warp * (damping + warp))
    band = first + warp * high
    return high, band, second + warp * band


@jax.custom_vjp
def _state_variable(audio, warp, damping, state):
    return _forward(audio, warp, damping, state)


def _forward(audio, warp, damping, state):
    def step(carry, at):
        s1, s2 = carry
        x, g, r = at
        high = (x - s2 - (r + g) * s1) / (1 + g * (r + g))
        band = s1 + g * high
        after = s1 + 2 * g * high, s2 + 2 * g * band
        return after, carry

    (end1, end2), (first, second) = lax.scan(
        step, (state[..., 0], state[..., 1]), _by_time(audio, warp, damping)
    )
    return (
        jnp.moveaxis(first, 0, -1),
        jnp.moveaxis(second, 0, -1),
        jnp.stack([end1, end2], -1),
    )


def _forward_rule(audio, warp, damping, state):
    first, second, end = _forward(audio, warp, damping, state)
    return (first, second, end), (audio, warp, damping, first, second)


def _backward_rule(kept, cotangents):
    *inputs, first, second = kept
    to_first, to_second, to_end = cotangents

    # With h = 1 / (1 + g (r + g)) the step is s1' = s1 + 2 g v, s2' = s2 + 2 g s1 +
    # 2 g^2 v, and v falls by (r + g) h and h with s1 and s2: its transpose.
    def step(carry, at):
        p1, p2 = carry
        g, r, d1, d2 = at
        into_v = 2 * g * (p1 + g * p2) / (1 + g * (r + g))
        before1 = p1 + 2 * g * p2 - (r + g) * into_v + d1
        before2 = p2 - into_v + d2
        return (before1, before2), carry

    end = (to_end[..., 0], to_end[..., 1])
    (start1, start2), (adjoint1, adjoint2) = lax.scan(
        step, end, _by_time(*inputs[1:], to_first, to_second), reverse=True
    )
    p1, p2 = jnp.moveaxis(adjoint1, 0, -1), jnp.moveaxis(adjoint2, 0, -1)

    # The adjoint of the state after each sample meets that sample's own step.
    def update(x, g, r, s1, s2):
        high, band, _ = outputs(x, g, r, s1, s2)
        return s1 + 2 * g * high, s2 + 2 * g * band

    pull = jax.vjp(lambda x, g, r: update(x, g, r, first, second), *inputs)[1]
    return (*pull((p1, p2)), jnp.stack([start1, start2], -1))


_state_variable.defvjp(_forward_rule, _backward_rule)


def all_pole(
    audio: Float[AnyArray, "*batch time"],
    feedback: Float[AnyArray, "*batch time order"],
    state: Float[AnyArray, "*batch order"],
) -> tuple[jax.Array, jax.Array]:
    """Recursive filter of any order with coefficients by the sample.

        y[t] = x[t] - sum_i a_i[t] y[t - i],  i = 1 .. order

    Its gradient is the same filter run backwards, with each coefficient taken at the
    sample where it acted:

        p[t] = dy[t] - sum_i a_i[t + i] p[t + i];   dx = p;   da_i[t] = -p[t] y[t - i]

    Args:
      audio: [..., time].
      feedback: a_1, a_2, ... along the last axis, [..., time, order].
      state: y[-1], y[-2], ..., [..., order].

    Returns:
      Audio [..., time] and the state at its end, [..., order].

    Reference: C.-Y. Yu, G. Fazekas, Differentiable time-varying linear prediction in
      the context of end-to-end analysis-by-synthesis, Interspeech (2024), 3.
    """
    out = _all_pole(audio, feedback, state)
    past = jnp.concatenate([state[..., ::-1], out], -1)[..., out.shape[-1] :]
    return out, past[..., ::-1]


@jax.custom_vjp
def _all_pole(audio, feedback, state):
    def step(past, at):
        x, a = at
        y = x - (a * past).sum(-1)
        return jnp.concatenate([y[..., None], past[..., :-1]], -1), y

    inputs = jnp.moveaxis(audio, -1, 0), jnp.moveaxis(feedback, -2, 0)
    return jnp.moveaxis(lax.scan(step, state, inputs)[1], 0, -1)


def _all_pole_forward(audio, feedback, state):
    out = _all_pole(audio, feedback, state)
    return out, (feedback, state, out)


def _all_pole_backward(kept, cotangent):
    feedback, state, out = kept

    # pending[i]: what later samples ask of y[t - i].
    def step(pending, at):
        dy, a = at
        p = dy + pending[..., 0]
        moved = jnp.concatenate(
            [pending[..., 1:], jnp.zeros_like(pending[..., :1])], -1
        )
        return moved - a * p[..., None], p

    inputs = jnp.moveaxis(cotangent, -1, 0), jnp.moveaxis(feedback, -2, 0)
    to_state, adjoint = lax.scan(step, jnp.zeros_like(state), inputs, reverse=True)
    adjoint = jnp.moveaxis(adjoint, 0, -1)
    order, time = state.shape[-1], out.shape[-1]
    past = jnp.concatenate([state[..., ::-1], out], -1)
    delayed = [past[..., order - i : order - i + time] for i in range(1, order + 1)]
    to_feedback = -adjoint[..., None] * jnp.stack(delayed, -1)
    return adjoint, to_feedback, to_state


_all_pole.defvjp(_all_pole_forward, _all_pole_backward)


def _by_time(*arrays):
    return tuple(jnp.moveaxis(array, -1, 0) for array in arrays)
