"""From a description to a differentiable effect: chains of twins with named controls.

The specs are the description's own, limited to the sample rate, so that one array of
controls means the same physical values in JAX and in pedalboard.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from ddspx.effects.base import Effect, Processor, make_effect
from ddspx.parameters import ParameterSpec
from ddspx.types import Rate
from styletransfer.hosts.catalogue import nearest
from styletransfer.hosts.description import BYPASS, HostEffect, Slot
from styletransfer.twins.collection import Member, member


def twin_effect(effect: HostEffect, sample_rate: Rate) -> Effect:
    """A description as a differentiable `Effect`, whichever engine it names.

    Args:
      effect: every slot that is not bypassed for good must have a twin, or name an
        effect of `ddspx.effects.registry`.
      sample_rate: Hz; ranges in Hz are limited to 0.45 of it, as `open_host` does.

    Returns:
      An `Effect` whose specs are ``effect.at_sample_rate(sample_rate).specs``.

    Raises:
      ValueError: a plug-in without a twin (the message names those that have one), or
        a parameter that the plug-in does not have.

    Example:
      >>> strip = twin_effect(load_effect("channel_strip"), 44100)
      >>> slope = jax.grad(lambda u: loss(strip.render(audio, u)))(controls)
    """
    limited = effect.at_sample_rate(sample_rate)
    return make_effect(limited.specs, twin_processor(limited, sample_rate))


def twin_processor(effect: HostEffect, sample_rate: Rate) -> Processor:
    """The same in physical units, by the names ``"slot.parameter"``.

    Args:
      effect: see `twin_effect`; its ranges are not looked at.
      sample_rate: Hz.

    Returns:
      A `Processor`; a choice arrives as its index in the control's own choices. Moving
      values are taken where every slot takes them.

    Raises:
      ValueError: see `twin_effect`.
    """
    members = {
        f"{slot.name}.": _slot_processor(slot, sample_rate)
        for slot in effect.slots
        if not slot.bypass
    }

    def init_state(channels):
        return tuple(each.init_state(channels) for each in members.values())

    def process(state, audio, values):
        after = []
        for (prefix, each), before in zip(members.items(), state, strict=True):
            own = {
                name.removeprefix(prefix): value
                for name, value in values.items()
                if name.startswith(prefix)
            }
            new, audio = each.process(before, audio, own)
            after.append(new)
        return tuple(after), audio

    return Processor(
        init_state,
        process,
        moving=all(each.moving for each in members.values()),
        latency=sum(each.latency for each in members.values()),
    )


def _slot_processor(slot: Slot, sample_rate: Rate) -> Processor:
    """One slot; values are its controls', the rest is filled in."""
    try:
        known = member(slot.plugin)
    except ValueError as error:
        raise ValueError(f"slot {slot.name}: {error}") from error
    _check_names(slot, known)
    held = dict(slot.fixed)
    constants = {
        name: _number(known, name, held.get(name, default))
        for name, default in known.defaults.items()
    }
    translate = {
        spec.name: _translation(spec, known.facts.parameter(spec.name))
        for spec in slot.controls
        if spec.choices and spec.name != BYPASS
    }
    most = known.facts.max_channels
    inner = known.make(sample_rate)

    def process(state, audio, values):
        if most is not None and audio.shape[0] > most:
            raise ValueError(
                f"slot {slot.name} renders at most {most} channels, got"
                f" {audio.shape[0]}"
            )
        own = {
            name: translate[name](value) if name in translate else value
            for name, value in values.items()
            if name != BYPASS
        }
        return inner.process(state, audio, {**constants, **own})

    member_processor = inner._replace(process=process)
    switched = any(spec.name == BYPASS for spec in slot.controls)
    return _with_switch(member_processor) if switched else member_processor


def _with_switch(inner: Processor) -> Processor:
    """Lets the value ``"bypass"`` choose the input instead, as late as the output."""

    def init_state(channels):
        return inner.init_state(channels), jnp.zeros((channels, inner.latency))

    def process(state, audio, values):
        held = jnp.concatenate([state[1].astype(audio.dtype), audio], axis=1)
        dry = held[:, : audio.shape[1]]
        after, wet = inner.process(state[0], audio, values)
        skipped = jnp.broadcast_to(values[BYPASS], audio.shape) > 0.5
        return (after, held[:, audio.shape[1] :]), jnp.where(skipped, dry, wet)

    return inner._replace(init_state=init_state, process=process)


def _check_names(slot: Slot, known: Member) -> None:
    given = [name for name, _ in slot.fixed]
    given += [spec.name for spec in slot.controls if spec.name != BYPASS]
    for name in given:
        if name not in known.defaults:
            raise ValueError(
                f"slot {slot.name}: {slot.plugin} has no parameter"
                f" {name!r}{nearest(name, known.defaults)}; it has:"
                f" {', '.join(known.defaults) or 'none'}"
            )


def _number(known: Member, name: str, value: Any) -> float:
    """A constant as a number; the text of a choice becomes its index."""
    if isinstance(value, str):
        return float(known.facts.parameter(name).choices.index(value))
    return float(value)


def _translation(chosen: ParameterSpec, whole: ParameterSpec) -> Callable[[Any], Any]:
    """From the index in a part of the choices to the index in all of them."""
    if chosen.choices == whole.choices:
        return lambda index: index
    places = [float(whole.choices.index(name)) for name in chosen.choices]

    def translated(index):
        table = jnp.asarray(places, jnp.float32)
        return table[jnp.asarray(index).astype(jnp.int32)]

    return translated
