"""The `Effect`: a small tuple of functions, and `chain`, which gives an Effect again.

An effect works on one signal, audio [channels, time] float32; batch it with
``jax.vmap``. Controls are numbers in [0, 1], one per spec, and are mapped to physical
units inside `render`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax

from ddspx.parameters import ParameterSpec

State = Any


class Effect(NamedTuple):
    """An audio effect at one sample rate.

    Attributes:
      specs: the controls, in the order of the last axis of ``controls``.
      render: ``(audio[channels, time], controls[n]) -> audio[channels, time]``.
      init_state: ``(channels) -> state`` at the start of a stream.
      render_block: ``(state, audio[channels, block], controls[n]) -> (state, audio)``;
        blocks in sequence give what `render` gives for the whole.
    """

    specs: tuple[ParameterSpec, ...]
    render: Callable[[jax.Array, jax.Array], jax.Array]
    init_state: Callable[[int], State]
    render_block: Callable[[State, jax.Array, jax.Array], tuple[State, jax.Array]]


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
    specs: list[ParameterSpec] = []
    spans: list[slice] = []
    for name, effect in effects.items():
        start = len(specs)
        specs += [replace(spec, name=f"{name}.{spec.name}") for spec in effect.specs]
        spans.append(slice(start, len(specs)))
    members = list(zip(effects.values(), spans, strict=True))

    def render(audio, controls):
        for effect, span in members:
            audio = effect.render(audio, controls[..., span])
        return audio

    def init_state(channels):
        return tuple(effect.init_state(channels) for effect, _ in members)

    def render_block(state, audio, controls):
        states = []
        for (effect, span), before in zip(members, state, strict=True):
            after, audio = effect.render_block(before, audio, controls[..., span])
            states.append(after)
        return tuple(states), audio

    return Effect(tuple(specs), render, init_state, render_block)
