"""Every twin by pedalboard's class name, and every effect that a description may name.

A description (`styletransfer.hosts.HostEffect`) names its plug-ins; in JAX a name is
that of a built-in that has a twin (``"Compressor"``), or that of an effect of
`ddspx.effects.registry` (``"feedback_delay_network"``), which has no counterpart.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from ddspx.effects.base import Effect, Processor
from ddspx.effects.registry import EFFECTS
from ddspx.parameters import ParameterSpec
from ddspx.types import Rate
from styletransfer.hosts import catalogue
from styletransfer.hosts.catalogue import PluginFacts, nearest
from styletransfer.twins import delay, distortion, dynamics, equalizer, reverb
from styletransfer.twins.twin import Twin

TWINS: dict[str, Twin] = {
    **equalizer.TWINS,
    **dynamics.TWINS,
    **distortion.TWINS,
    **delay.TWINS,
    **reverb.TWINS,
}
# Effects of the registry describe themselves at this rate, high enough that hardly any
# of their ranges in Hz ends below the one that people can hear.
_DESCRIBED_AT_HZ = 96000
_ROUNDING = 1e-4


class Member(NamedTuple):
    """One plug-in name, as JAX knows it.

    Attributes:
      facts: its parameters and their limits, as the catalogue has them of a built-in.
      defaults: of every parameter, a choice as its text.
      make: ``(sample_rate) -> Processor`` in physical units.
    """

    facts: PluginFacts
    defaults: Mapping[str, float | str]
    make: Callable[[Rate], Processor]


def member(plugin: str) -> Member:
    """What is known of a plug-in in JAX.

    Args:
      plugin: a built-in with a twin, or an effect of the registry.

    Raises:
      ValueError: there is neither; names the nearest spelling and all there are.
    """
    if plugin in TWINS:
        twin = TWINS[plugin]
        facts = catalogue.facts(plugin)
        facts = replace(facts, limits={**facts.limits, **twin.limits})
        return Member(facts, twin.defaults, twin.make)
    if plugin in EFFECTS:
        return _registered(plugin)
    known = [*sorted(EFFECTS), *sorted(TWINS)]
    if plugin in catalogue.BUILTINS:
        raise ValueError(
            f"{plugin} has no twin in JAX; use backend: pedalboard, or one of those"
            f" that have: {', '.join(sorted(TWINS))}"
        )
    raise ValueError(
        f"unknown plug-in {plugin!r}{nearest(plugin, known)}; known in JAX:"
        f" {', '.join(known)}"
    )


@functools.cache
def _registered(name: str) -> Member:
    specs = EFFECTS[name](_DESCRIBED_AT_HZ).specs
    ordered = sorted(specs, key=lambda spec: bool(spec.choices))
    return Member(
        PluginFacts(tuple(ordered), channels="linked"),
        {spec.name: _default(spec) for spec in specs},
        lambda sample_rate: _in_physical_units(EFFECTS[name](sample_rate)),
    )


def _default(spec: ParameterSpec) -> float | str:
    value = spec.default
    assert value is not None  # ParameterSpec fills it in
    return spec.choices[int(value)] if spec.choices else value


def _in_physical_units(effect: Effect) -> Processor:
    """The processor behind an effect that is known by its controls alone."""

    def process(state, audio, values):
        controls = jnp.broadcast_arrays(
            *(_unit(s, jnp.asarray(values[s.name], audio.dtype)) for s in effect.specs)
        )
        return effect.render_block(state, audio, jnp.stack(controls))

    return Processor(effect.init_state, process, moving=True, latency=effect.latency)


def _unit(spec: ParameterSpec, value: Array) -> Array:
    """The control of a value; the nearest where this sample rate allows no such value.

    Rounding is let through, so that the border of a range has a slope.
    """
    control = spec.to_unit(value)
    control = jnp.where(control < -_ROUNDING, 0.0, control)
    return jnp.where(control > 1.0 + _ROUNDING, 1.0, control)
