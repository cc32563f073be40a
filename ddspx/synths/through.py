"""A synth with an effect behind it, which is a synth again."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ddspx.effects.base import Processor, Values
from ddspx.synths.base import Core, Synth, make_synth
from ddspx.synths.upsampling import between, crossfade


def through(
    synth: Synth,
    processor: Processor,
    values: Values | None = None,
    *,
    moving: Mapping[str, Callable[[jax.Array], jax.Array]] | None = None,
) -> Synth:
    """The sound of a synth, processed.

        y = process(x, values)

    The effect hears the sound from its first sample on, not what a filter rings before
    it. Values may be traced, such as an impulse response that is being trained.

    Args:
      synth: any.
      processor: an effect in physical units, as the families of `ddspx.effects` are
        made of, `ddspx.synths.reverb` and `ddspx.synths.modulated_delay`.
      values: of the processor, fixed.
      moving: values [time] that come as controls [frames] of their name, joined by
        straight lines; to each the function that makes its physical control of the
        network's output. The processor has to take moving values.

    Returns:
      A `Synth`, as late as both together.

    Raises:
      ValueError: a name is fixed and moving, moving though the processor takes no
        moving values, or an output of the synth itself.
    """
    fixed, moving = dict(values or {}), dict(moving or {})
    if moving and not processor.moving:
        raise ValueError(
            f"this processor takes no moving values, got {sorted(moving)}; give them"
            " as fixed values"
        )
    twice = moving.keys() & (fixed.keys() | synth.sizes.keys())
    if twice:
        raise ValueError(
            f"moving values have names of their own, got {sorted(twice)} twice"
        )
    core, hop = synth.core, synth.hop
    weights = crossfade(hop, "linear")
    # Samples of the core before the first of the sound.
    early = core.delay + (hop - core.frame_at if core.frame_at else 0)

    def init_state(key):
        waiting = {name: jnp.zeros(core.delay) for name in moving}
        to_come = jnp.asarray(early, jnp.int32)
        begun = jnp.zeros((), bool)
        return core.init_state(key), processor.init_state(1), (to_come, begun, waiting)

    def process(state, controls):
        inner, effect, (to_come, begun, waiting) = state
        inner, audio = core.process(inner, controls)
        time = audio.shape[-1]
        audio = jnp.where(jnp.arange(time) < to_come, 0.0, audio)
        curves, after = dict(fixed), {}
        for name in moving:
            curve = between(_one_a_frame(name, controls[name]), weights).reshape(-1)
            # As late as the sound that it belongs to.
            held = jnp.where(begun, waiting[name].astype(curve.dtype), curve[0])
            joined = jnp.concatenate([held, curve])
            curves[name], after[name] = joined[:time], joined[time:]
        effect, audio = processor.process(effect, audio[None], curves)
        timing = jnp.maximum(to_come - time, 0), jnp.ones((), bool), after
        return (inner, effect, timing), audio[0]

    def to_controls(outputs):
        found = synth.to_controls(outputs)
        for name, scale in moving.items():
            found[name] = scale(jnp.asarray(outputs[name])[..., 0])
        return found

    return make_synth(
        Core(init_state, process, core.delay + processor.latency, core.frame_at),
        hop,
        sizes={**synth.sizes, **dict.fromkeys(moving, 1)},
        to_controls=to_controls,
    )


def _one_a_frame(name: str, control: Any) -> jax.Array:
    control = jnp.asarray(control)
    if control.ndim != 1:
        raise ValueError(f"{name} is [frames], got shape {control.shape}")
    return control
