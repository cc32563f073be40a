"""Envelope followers: what a level does in time, exactly, with analytic gradients.

Levels are [..., time] and of any unit: amplitude, power or dB. A *step* is the share of
the distance that an envelope covers in one sample,

    y[n] = y[n-1] + k (x[n] - y[n-1]),   k = 1 - exp(-1 / (time * sample_rate))

which is the (1 - c) of the form ``y = c y + (1 - c) x``, but keeps its digits where c
is nearly 1: in float32 a release of a second is right to 1e-7 and not to 0.3 %.
Steps are numbers, or arrays [time] or [..., 1] or [..., time] where they differ by
signal or move. Every follower takes the state before its first sample and returns the
one after its last, so that blocks in sequence give what one call gives.

``method="scan"`` runs sample by sample, which is the fastest on a CPU; ``"parallel"``
gives the same values by associative scans, for machines on which a step of a loop
costs microseconds; ``"auto"`` takes the scan on CPUs, and the other elsewhere. The
gradients of both are one linear recurrence backwards in time, with every decision held.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from ddspx.types import Rate

Method = Literal["auto", "scan", "parallel"]

# Measured on jax 0.10.2: unrolling halves the time of one signal and doubles that of
# sixteen side by side. Not 4 or 8: XLA then runs what comes before and after the scan
# on rows of that length, at twice to four times the cost.
_UNROLL_ONE = 6
_SHORTEST_MS = 1e-4
# Of the policy iteration, before it gives way to the scan: noise, tones and swells of a
# second took 1 to 46. Not timed on an accelerator.
_MOST_ROUNDS = 48


def time_to_step(time_ms: Any, sample_rate: Rate) -> Any:
    """Step of a time constant.

        k = 1 - exp(-1000 / (time sample_rate))

    Args:
      time_ms: time in ms to cover 63 % of a jump, any shape; 0 is at once (k = 1).
      sample_rate: Hz.

    Returns:
      Steps in (0, 1], same shape.
    """
    return -jnp.expm1(
        -1000.0 / (jnp.maximum(time_ms, _SHORTEST_MS) * float(sample_rate))
    )


@partial(jax.jit, static_argnames="method")
def smooth(
    level: Any, step: Any, initial: Any = 0.0, *, method: Method = "auto"
) -> tuple[jax.Array, jax.Array]:
    """One-pole average with one time constant, or with a moving one.

        y[n] = y[n-1] + k[n] (x[n] - y[n-1])

    Args:
      level: [..., time].
      step: k, see the module.
      initial: y before the first sample, [...] or a number.
      method: see the module.

    Returns:
      ``(envelope[..., time], final[...])``.
    """
    return _along_time(partial(_smooth, method), level, (step,), initial)


@partial(jax.jit, static_argnames="method")
def branching(
    level: Any,
    attack: Any,
    release: Any,
    initial: Any = 0.0,
    *,
    method: Method = "auto",
) -> tuple[jax.Array, jax.Array]:
    """Attack and release by turns: one state, its step chosen by the direction.

        y[n] = y[n-1] + k (x[n] - y[n-1]),  k = attack if x[n] > y[n-1] else release

    In parallel it is solved by policy iteration: with the choices guessed the
    recurrence is linear, and one associative scan gives the envelope, from which the
    choices are made again until none changes. The first n are right after n rounds at
    most. Plateaus, and an attack at once, can take hundreds: after `_MOST_ROUNDS` it
    goes sample by sample instead.

    Args:
      level: [..., time].
      attack: step of a rise, see the module.
      release: step of a fall.
      initial: y before the first sample, [...] or a number.
      method: see the module.

    Returns:
      ``(envelope[..., time], final[...])``.

    Reference:
      Giannoulis, Massberg and Reiss, "Digital Dynamic Range Compressor Design",
      J. Audio Eng. Soc. 60 (2012), equation 16.
    """
    return _along_time(partial(_branching, method), level, (attack, release), initial)


@partial(jax.jit, static_argnames=("return_to_level", "method"))
def held(
    level: Any,
    release: Any,
    initial: Any = 0.0,
    *,
    return_to_level: bool = True,
    method: Method = "auto",
) -> tuple[jax.Array, jax.Array]:
    """A peak that is taken at once and released: `branching` with an attack of 1.

        h[n] = max(x[n], h[n-1] + release (t[n] - h[n-1]))

    with t = x, or t = 0. In parallel it is exact at once: maxima of affine maps are
    closed under composition.

    Args:
      level: [..., time]; zero or more where t = 0.
      release: step of a fall, see the module.
      initial: h before the first sample, [...] or a number.
      return_to_level: whether the release falls to the level rather than to zero.
      method: see the module.

    Returns:
      ``(envelope[..., time], final[...])``.
    """
    core = partial(_held, method, return_to_level)
    return _along_time(core, level, (release,), initial)


@partial(jax.jit, static_argnames=("return_to_level", "method"))
def decoupled(
    level: Any,
    attack: Any,
    release: Any,
    initial: Any = (0.0, 0.0),
    *,
    return_to_level: bool = True,
    method: Method = "auto",
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """A peak that is held and released, then smoothed by the attack.

        h[n] = max(x[n], h[n-1] + release (t[n] - h[n-1]))
        y[n] = y[n-1] + attack (h[n] - y[n-1])

    with t = x (*smooth decoupled*) or t = 0 (*decoupled*); the first line is `held`.

    Args:
      level: [..., time]; zero or more where t = 0.
      attack: step of the second line, see the module.
      release: step of the first line.
      initial: (h, y) before the first sample, each [...] or a number.
      return_to_level: whether the release falls to the level rather than to zero.
      method: see the module.

    Returns:
      ``(envelope[..., time], (h, y) after the last sample)``.

    Reference:
      Giannoulis, Massberg and Reiss (2012), equations 14 and 17.
    """
    peak, final_peak = held(
        level, release, initial[0], return_to_level=return_to_level, method=method
    )
    envelope, final = smooth(peak, attack, initial[1], method=method)
    return envelope, (final_peak, final)


def _along_time(
    core: Callable, level: Any, steps: tuple, initial: Any
) -> tuple[jax.Array, jax.Array]:
    """Runs a core, whose time comes first, on levels [..., time]."""
    level = jnp.asarray(level)
    if level.ndim == 0:
        raise ValueError("an envelope needs a level [..., time], got a single number")
    lead, time = level.shape[:-1], level.shape[-1]
    # One signal has no axis but time: its state then stays in a register.
    flat = () if math.prod(lead) == 1 else (math.prod(lead),)
    aligned = [_time_first(step, level, flat) for step in steps]
    initial = jnp.broadcast_to(jnp.asarray(initial, level.dtype), lead)
    first = level.reshape(*flat, time).T, *aligned, initial.reshape(1, *flat)
    envelope, final = core(*first)
    return envelope.T.reshape(level.shape), final.reshape(lead)


def _time_first(step: Any, level: jax.Array, flat: tuple) -> jax.Array:
    """A step as [1 or time, *flat], with 1 for an axis along which it is constant."""
    step = jnp.asarray(step, level.dtype)
    lead, time = level.shape[:-1], level.shape[-1]
    if step.ndim and step.shape[-1] not in (1, time):
        raise ValueError(
            f"a step of shape {step.shape} does not fit levels {level.shape}: give a"
            " number, or an array whose last axis is 1 or time"
        )
    last = step.shape[-1] if step.ndim else 1
    if all(size == 1 for size in step.shape[:-1]):
        return step.reshape(last, *(1 for _ in flat))
    return jnp.broadcast_to(step, (*lead, last)).reshape(*flat, last).T


# ---------------------------------------------------------------------------- machinery
# Cores work on arrays of one rank, [time, ...] or 1 for any axis: signals lie side by
# side, so that a step of a scan reads what is contiguous.


def _side_by_side(core: Callable) -> Callable:
    """A core that `jax.vmap` extends by an axis behind time instead of before it.

    Without this every pass over a batch reads it across its rows, several times over:
    half of the time of a gradient.
    """
    extended = jax.custom_batching.custom_vmap(
        lambda *operands: core(*_full(*operands))
    )

    @extended.def_vmap
    def _(size, batched, *operands):
        if size == 1:
            alone = [
                o[0] if own else o for o, own in zip(operands, batched, strict=True)
            ]
            outputs = extended(*alone)
            return tuple(o[None] for o in outputs), (True,) * len(outputs)
        behind = [
            jnp.moveaxis(operand, 0, 1) if own else jnp.expand_dims(operand, 1)
            for operand, own in zip(operands, batched, strict=True)
        ]
        outputs = extended(*behind)
        return tuple(jnp.moveaxis(o, 1, 0) for o in outputs), (True,) * len(outputs)

    return extended


def _choose(method: str, scan: Callable, parallel: Callable) -> Callable:
    if method == "auto":
        # Asked while tracing: `lax.platform_dependent` would trace both forms, which
        # costs a quarter of a second for every follower in a program.
        method = "scan" if jax.default_backend() == "cpu" else "parallel"
    if method not in ("scan", "parallel"):
        raise ValueError(f"method {method!r} is not auto, scan or parallel")
    return _side_by_side(scan if method == "scan" else parallel)


def _full(*operands: jax.Array) -> list[jax.Array]:
    """Operands with every axis but time at its full size."""
    shape = jnp.broadcast_shapes(*(operand.shape[1:] for operand in operands))
    return [jnp.broadcast_to(o, (o.shape[0], *shape)) for o in operands]


def _scan(
    body: Callable,
    state: jax.Array,
    signals: tuple,
    steps: tuple,
    reverse: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """``(state, output) = body(state, *signals[n], *steps)`` for every n.

    Returns the outputs [time, ...] and the last state, [1, ...].
    """
    time = signals[0].shape[0]
    moving = tuple(s for s in steps if s.shape[0] == time != 1)

    def turn(state, now):
        rest = list(now[len(signals) :])
        each = [rest.pop(0) if s.shape[0] == time != 1 else s[0] for s in steps]
        return body(state, *now[: len(signals)], *each)

    unroll = _UNROLL_ONE if state.ndim == 1 else 1
    inputs = (*signals, *moving)
    last, outputs = lax.scan(turn, state[0], inputs, reverse=reverse, unroll=unroll)
    return outputs, last[None]


def _before(envelope: jax.Array, initial: jax.Array) -> jax.Array:
    """y[n-1] for every n."""
    return jnp.concatenate([initial, envelope])[:-1]


def _with_last(envelope: jax.Array, initial: jax.Array) -> tuple[jax.Array, jax.Array]:
    return envelope, envelope[-1:] if envelope.shape[0] else initial


def _after(first: tuple, second: tuple) -> tuple:
    """Composition of two maps y -> y - k y + u; k keeps its digits near 0."""
    (k1, u1), (k2, u2) = first, second
    return k1 + k2 - k1 * k2, u1 + u2 - k2 * u1


def _linear(step: jax.Array, drive: jax.Array, initial: jax.Array) -> jax.Array:
    """All y[n] = y[n-1] - k[n] y[n-1] + u[n] by an associative scan."""
    step = jnp.broadcast_to(step, drive.shape)
    k, u = lax.associative_scan(_after, (step, drive))
    return initial - k * initial + u


def _sum_to(gradient: jax.Array, operand: jax.Array) -> jax.Array:
    """Sums a gradient along the axes on which its operand was constant."""
    axes = [i for i, size in enumerate(operand.shape) if size == 1 != gradient.shape[i]]
    return gradient.sum(axes, keepdims=True)


# ------------------------------------------------------------------------- the way back


def _adjoint(method: str, step: jax.Array, gradient: jax.Array, of_final: jax.Array):
    """Gradients q of the drive u of ``y[n] = (1 - k[n]) y[n-1] + u[n]``.

        q[n] = g[n] + (1 - k[n+1]) q[n+1]

    Returns q [time, ...], and the gradient [1, ...] of y before the first sample.
    """
    if method == "scan":

        def body(behind, g, k):
            q = g + behind
            return q - k * q, q

        return _scan(body, of_final, (gradient,), (step,), reverse=True)
    if not gradient.shape[0]:
        return gradient, of_final
    # The step of sample n acts on q[n-1]; behind the last comes the final state's.
    behind = jnp.concatenate([step[1:], jnp.zeros_like(step[:1])])
    q = jnp.flip(_linear(jnp.flip(behind, 0), jnp.flip(gradient, 0), of_final), 0)
    return q, q[:1] - step[:1] * q[:1]


def _go_back(method: str, core: Callable, kept: tuple, gradients: tuple) -> tuple:
    """Gradients of the operands, which `kept` holds before the envelope."""
    run = _choose(method, partial(core, "scan"), partial(core, "parallel"))
    found = run(*kept, *gradients)
    return tuple(map(_sum_to, found, kept[: len(found)]))


# ------------------------------------------------------------------------------- smooth


def _smooth_value(method, level, step, initial):
    def scan(level, step, initial):
        def body(y, x, k):
            y = y + k * (x - y)
            return y, y

        return _scan(body, initial, (level,), (step,))

    def parallel(level, step, initial):
        return _with_last(_linear(step, step * level, initial), initial)

    return _choose(method, scan, parallel)(level, step, initial)


def _smooth_forward(method, level, step, initial):
    envelope, final = _smooth_value(method, level, step, initial)
    return (envelope, final), (level, step, initial, envelope)


def _smooth_backward(method: str, kept: tuple, gradients: tuple) -> tuple:
    def back(form: str, level, step, initial, envelope, gradient, of_final):
        full = jnp.broadcast_to(step, envelope.shape)
        q, of_initial = _adjoint(form, full, gradient, of_final)
        return full * q, q * (level - _before(envelope, initial)), of_initial

    return _go_back(method, back, kept, gradients)


_smooth = jax.custom_vjp(_smooth_value, nondiff_argnums=(0,))
_smooth.defvjp(_smooth_forward, _smooth_backward)


# ---------------------------------------------------------------------------- branching


def _branching_value(method, level, attack, release, initial):
    def scan(level, attack, release, initial):
        def body(y, x, a, r):
            away = x - y
            # Both outcomes before the choice: it then waits for no product.
            y = jnp.where(x > y, y + a * away, y + r * away)
            return y, y

        return _scan(body, initial, (level,), (attack, release))

    def parallel(level, attack, release, initial):
        def body(state):
            rising, _, _, rounds = state
            step = jnp.where(rising, attack, release)
            envelope = _linear(step, step * level, initial)
            before = _before(envelope, initial)
            again = level > before
            # Where both are one but for rounding, either choice is right.
            apart = jnp.abs(level - before) > rounding * jnp.abs(level)
            return again, envelope, jnp.any((again != rising) & apart), rounds + 1

        def unsettled(state):
            return state[2] & (state[3] < _MOST_ROUNDS)

        rounding = 16.0 * float(jnp.finfo(level.dtype).eps)
        start = (level > initial, jnp.zeros_like(level), jnp.array(True), 0)
        _, envelope, wrong, _ = lax.while_loop(unsettled, body, start)
        return lax.cond(
            wrong,
            lambda: scan(level, attack, release, initial),
            lambda: _with_last(envelope, initial),
        )

    return _choose(method, scan, parallel)(level, attack, release, initial)


def _branching_forward(method, level, attack, release, initial):
    envelope, final = _branching_value(method, level, attack, release, initial)
    return (envelope, final), (level, attack, release, initial, envelope)


def _branching_backward(method: str, kept: tuple, gradients: tuple) -> tuple:
    def back(form: str, level, attack, release, initial, envelope, gradient, of_final):
        before = _before(envelope, initial)
        rising = level > before
        step = jnp.where(rising, attack, release)
        q, of_initial = _adjoint(form, step, gradient, of_final)
        of_step = q * (level - before)
        of_attack = jnp.where(rising, of_step, 0.0)
        return step * q, of_attack, of_step - of_attack, of_initial

    return _go_back(method, back, kept, gradients)


_branching = jax.custom_vjp(_branching_value, nondiff_argnums=(0,))
_branching.defvjp(_branching_forward, _branching_backward)


# --------------------------------------------------------------- held and released peak


def _held_value(method, return_to_level, level, release, initial):
    def scan(level, release, initial):
        def body(y, x, k):
            y = jnp.maximum(x, y + k * ((x - y) if return_to_level else -y))
            return y, y

        return _scan(body, initial, (level,), (release,))

    def parallel(level, release, initial):
        release = jnp.broadcast_to(release, level.shape)
        drive = release * level if return_to_level else jnp.zeros_like(level)

        def after(first, second):
            # Maps y -> max(m, y - k y + u).
            (m1, k1, u1), (m2, k2, u2) = first, second
            k, u = _after((k1, u1), (k2, u2))
            return jnp.maximum(m2, m1 - k2 * m1 + u2), k, u

        m, k, u = lax.associative_scan(after, (level, release, drive))
        return _with_last(jnp.maximum(m, initial - k * initial + u), initial)

    return _choose(method, scan, parallel)(level, release, initial)


def _held_forward(method, return_to_level, level, release, initial):
    envelope, final = _held_value(method, return_to_level, level, release, initial)
    return (envelope, final), (level, release, initial, envelope)


def _held_backward(method, return_to_level, kept: tuple, gradients: tuple):
    def back(form: str, level, release, initial, envelope, gradient, of_final):
        before = _before(envelope, initial)
        away = (level - before) if return_to_level else -before
        # Where the level is the larger, it replaces the state: a step of one.
        taken = level > before + release * away
        step = jnp.where(taken, jnp.ones_like(release), release)
        q, of_initial = _adjoint(form, step, gradient, of_final)
        of_level = q * step if return_to_level else jnp.where(taken, q, 0.0)
        return of_level, jnp.where(taken, 0.0, q * away), of_initial

    return _go_back(method, back, kept, gradients)


_held = jax.custom_vjp(_held_value, nondiff_argnums=(0, 1))
_held.defvjp(_held_forward, _held_backward)
