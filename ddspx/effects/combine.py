"""Combinations of effects, each an `Effect` again.

A combination streams as its members do, keeps their specs (prefixed by a name where
there are several), and takes moving controls where all members do. Where members lag by
different latencies, the shorter paths are delayed, and the combination lags by the
longest.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ddspx.effects.base import Effect, check_shapes, per_sample
from ddspx.effects.stereo import decode_mid_side, encode_mid_side
from ddspx.parameters import ParameterSpec, plain


def chain(**effects: Effect) -> Effect:
    """Effects in series, in the order given; each spec is prefixed by its name.

        y = effect_k( ... effect_1(x, u_1) ..., u_k)

    Args:
      **effects: at least one, by name: ``chain(eq=..., compressor=...)``.

    Returns:
      An `Effect` whose specs are ``"eq.cutoff_hz"`` and so on.

    Raises:
      ValueError: no effect was given.
    """
    if not effects:
        raise ValueError(
            "chain() needs at least one effect, such as chain(eq=peak(sr))"
        )
    specs, spans = prefixed(effects)
    members = list(zip(effects.values(), spans, strict=True))

    def init_state(channels):
        return tuple(effect.init_state(channels) for effect, _ in members)

    def render_block(state, audio, controls):
        audio, controls = _checked(specs, audio, controls)
        states = []
        for (effect, span), before in zip(members, state, strict=True):
            after, audio = effect.render_block(before, audio, controls[span])
            states.append(after)
        return tuple(states), audio

    latency = sum(effect.latency for effect in effects.values())
    return _combined(specs, init_state, render_block, latency)


def parallel(**effects: Effect) -> Effect:
    """Effects side by side on the same input, summed by level.

        y = sum_k level_k effect_k(x, u_k)

    Controls: those of the members, prefixed by their names, each followed by
    ``"<name>.level"`` from 0 to 1. The default of a level is 1; its identity is 1 / K,
    so that K members at their identities sum to the input.

    Args:
      **effects: at least one, by name: ``parallel(dry=gain(sr), room=reverb(sr))``.

    Returns:
      An `Effect`.

    Raises:
      ValueError: no effect was given, or one has a spec named ``"level"``.
    """
    if not effects:
        raise ValueError(
            "parallel() needs at least one effect, such as parallel(low=..., high=...)"
        )
    level = plain("level", 0.0, 1.0, 1.0, identity=1.0 / len(effects))
    branches = {
        name: effect._replace(specs=_with(effect.specs, level))
        for name, effect in effects.items()
    }
    specs, spans = prefixed(branches)
    latency = max(effect.latency for effect in effects.values())
    members = list(zip(effects.values(), spans, strict=True))

    def init_state(channels):
        return tuple(
            (effect.init_state(channels), _silence(channels, latency - effect.latency))
            for effect, _ in members
        )

    def render_block(state, audio, controls):
        audio, controls = _checked(specs, audio, controls)
        total, states = jnp.zeros_like(audio), []
        for (effect, span), (before, early) in zip(members, state, strict=True):
            own = controls[span]
            before, out = effect.render_block(before, audio, own[:-1])
            early, out = _delayed(early, out)
            states.append((before, early))
            total = total + _amount(own[-1], audio) * out
        return tuple(states), total

    return _combined(specs, init_state, render_block, latency)


def dry_wet(effect: Effect, *, name: str = "mix") -> Effect:
    """An effect mixed with its input, which waits for the effect's latency.

        y[t] = (1 - mix) x[t - latency] + mix effect(x)[t]

    Controls: those of the effect, then ``mix``: 0 is the identity, 1 the default.

    Args:
      effect: any.
      name: of the new control, where the effect already has a ``"mix"``.

    Returns:
      An `Effect`.

    Raises:
      ValueError: the effect has a spec of that name.
    """
    spec = plain(name, 0.0, 1.0, 1.0, identity=0.0)
    return _crossfaded(effect, spec, lambda amount: amount)


def bypassable(effect: Effect, *, hard: bool = False, name: str = "active") -> Effect:
    """An effect with a switch that can be learned.

        y[t] = (1 - a) x[t - latency] + a effect(x)[t]

    soft: a is the control, so between its ends both are heard. hard: a is 0 below 0.5
    and 1 from there on, so that one of both is heard, and its gradient is that of the
    soft form (straight-through): the direction in which the switch should move.

    Controls: those of the effect, then ``active``: 0 is bypassed, the identity; 1, the
    default, is the effect alone.

    Args:
      effect: any.
      hard: switch instead of crossfading.
      name: of the new control.

    Returns:
      An `Effect`.

    Raises:
      ValueError: the effect has a spec of that name.
    """

    def switched(amount):
        step = jnp.where(amount >= 0.5, 1.0, 0.0).astype(amount.dtype)
        # In this order the forward pass is exact: the last term is zero.
        return lax.stop_gradient(step) + (amount - lax.stop_gradient(amount))

    spec = plain(name, 0.0, 1.0, 1.0, identity=0.0)
    return _crossfaded(effect, spec, switched if hard else lambda amount: amount)


def mid_side(effect: Effect) -> Effect:
    """An effect that hears middle and side as its two channels.

        (M, S) = ((L + R) / 2, (L - R) / 2);  (L', R') = (M' + S', M' - S')

    Args:
      effect: any that takes two channels; linked channels are linked M and S.

    Returns:
      An `Effect` for stereo, with the same specs. A mono signal is its own middle, and
      goes to the effect as one channel.
    """

    def render_block(state, audio, controls):
        audio, controls = _checked(effect.specs, audio, controls)
        if audio.shape[0] == 1:
            return effect.render_block(state, audio, controls)
        if audio.shape[0] != 2:
            raise ValueError(
                f"mid_side works on stereo [2, time] or mono, got {audio.shape[0]}"
                " channels"
            )
        state, out = effect.render_block(state, encode_mid_side(audio), controls)
        return state, decode_mid_side(out)

    return _combined(effect.specs, effect.init_state, render_block, effect.latency)


def prefixed(
    effects: Mapping[str, Effect],
) -> tuple[tuple[ParameterSpec, ...], list[slice]]:
    """All specs, each prefixed by its effect's name, and each effect's span of them."""
    specs: list[ParameterSpec] = []
    spans: list[slice] = []
    for name, effect in effects.items():
        start = len(specs)
        specs += [replace(spec, name=f"{name}.{spec.name}") for spec in effect.specs]
        spans.append(slice(start, len(specs)))
    return tuple(specs), spans


def _crossfaded(effect: Effect, spec: ParameterSpec, amount_of: Any) -> Effect:
    specs = _with(effect.specs, spec)

    def init_state(channels):
        return effect.init_state(channels), _silence(channels, effect.latency)

    def render_block(state, audio, controls):
        audio, controls = _checked(specs, audio, controls)
        before, early = state
        before, wet = effect.render_block(before, audio, controls[:-1])
        early, dry = _delayed(early, audio)
        amount = amount_of(_amount(controls[-1], audio))
        return (before, early), (1.0 - amount) * dry + amount * wet

    return _combined(specs, init_state, render_block, effect.latency)


def _combined(specs, init_state, render_block, latency: int) -> Effect:
    def render(audio, controls):
        audio, controls = _checked(specs, audio, controls)
        return render_block(init_state(audio.shape[0]), audio, controls)[1]

    return Effect(specs, render, init_state, render_block, latency)


def _checked(
    specs: tuple[ParameterSpec, ...], audio: Any, controls: Any
) -> tuple[jax.Array, jax.Array]:
    """A combination slices its controls, so a wrong number would pass unseen."""
    audio, controls = jnp.asarray(audio), jnp.asarray(controls)
    check_shapes(specs, audio, controls)
    return audio, controls


def _with(
    specs: tuple[ParameterSpec, ...], spec: ParameterSpec
) -> tuple[ParameterSpec, ...]:
    if spec.name in {known.name for known in specs}:
        raise ValueError(
            f"the effect already has a control {spec.name!r}; give another name, or put"
            " the effect in a chain(), which prefixes its controls"
        )
    return (*specs, spec)


def _amount(control: jax.Array, audio: jax.Array) -> jax.Array:
    """A control in [0, 1], [] or [frames], ready to weigh audio."""
    control = control.astype(audio.dtype)
    return per_sample(control[None], audio.shape[-1]) if control.ndim else control


def _silence(channels: int, samples: int) -> jax.Array:
    return jnp.zeros((channels, samples))


def _delayed(early: jax.Array, audio: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A delay by as many samples as are kept, none if that is none."""
    if early.shape[-1] == 0:
        return early, audio
    joined = jnp.concatenate([early, audio], axis=-1)
    return joined[:, audio.shape[-1] :], joined[:, : audio.shape[-1]]
