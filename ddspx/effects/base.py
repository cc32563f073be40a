"""The `Effect`: a small tuple of functions, made from a `Processor` in physical units.

An effect works on one signal, audio [channels, time] float32; batch it with
``jax.vmap`` or `batched`. Controls are numbers in [0, 1], one per spec, and are mapped
to physical units inside `render`. Levels are nominally in [-1, 1] and never clipped on
their way. Combinations of effects are in `ddspx.effects.combine`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddspx.parameters import ParameterSpec
from ddspx.types import Rate

State = Any
# Physical values by parameter name: numbers, or [time] where they move.
Values = Mapping[str, Any]


class Effect(NamedTuple):
    """An audio effect at one sample rate.

    Attributes:
      specs: the controls, in the order of their axis in ``controls``.
      render: ``(audio[channels, time], controls) -> audio[channels, time]``, where
        controls are [n], or [n, frames] where the effect lets them move: frames are
        spread evenly over the audio and joined by straight lines.
      init_state: ``(channels) -> state`` at the start of a stream.
      render_block: ``(state, audio[channels, block], controls) -> (state, audio)``;
        blocks in sequence give what `render` gives for the whole.
      latency: samples by which the output lags the input, in `render` and in blocks
        alike: what looks ahead or filters with linear phase cannot stream without.
        `aligned` takes it away from a whole signal.
    """

    specs: tuple[ParameterSpec, ...]
    render: Callable[[jax.Array, jax.Array], jax.Array]
    init_state: Callable[[int], State]
    render_block: Callable[[State, jax.Array, jax.Array], tuple[State, jax.Array]]
    latency: int = 0


class Processor(NamedTuple):
    """An effect in physical units, at one sample rate.

    Attributes:
      init_state: ``(channels) -> state`` at the start of a stream; a pytree of arrays,
        ``()`` for an effect without memory.
      process: ``(state, audio[channels, time], values) -> (state, audio)``. Values are
        the physical values by parameter name, each a number (Python or traced), or
        [time] where the effect takes moving controls; a discrete one is the index of
        its choice as a float. Any length may be processed; a sequence of blocks gives
        what one call gives.
      moving: whether values may be [time].
      latency: samples by which the output lags the input.
    """

    init_state: Callable[[int], State]
    process: Callable[[State, jax.Array, Values], tuple[State, jax.Array]]
    moving: bool = False
    latency: int = 0


def make_effect(specs: Sequence[ParameterSpec], processor: Processor) -> Effect:
    """An `Effect` from a processor and the facts of its controls.

    Args:
      specs: one for each value that the processor reads, by name.
      processor: the DSP in physical units.

    Returns:
      An `Effect`; its functions raise ValueError where audio is not [channels, time] of
      floating point, or controls are not [n] or, for processors that allow it,
      [n, frames].
    """
    specs = tuple(specs)

    def render_block(state, audio, controls):
        audio, controls = jnp.asarray(audio), jnp.asarray(controls)
        values = _values(specs, processor.moving, audio, controls)
        return processor.process(state, audio, values)

    def render(audio, controls):
        audio, controls = jnp.asarray(audio), jnp.asarray(controls)
        # Before a state is made of a shape that is none.
        check_shapes(specs, audio, controls)
        return render_block(processor.init_state(audio.shape[0]), audio, controls)[1]

    return Effect(specs, render, processor.init_state, render_block, processor.latency)


def without_memory(
    process: Callable[[jax.Array, Values], jax.Array], moving: bool = True
) -> Processor:
    """A processor without state from ``(audio, values) -> audio``."""

    def with_state(state, audio, values):
        return state, process(audio, values)

    return Processor(lambda channels: (), with_state, moving)


def in_blocks(processor: Processor, length: int) -> Processor:
    """The same processor, which works through a long signal block by block.

    What a block needs on its way is forgotten, and computed again for the gradient: its
    memory is the signals and one block, however many steps the processor takes.

    Args:
      processor: any; blocks in sequence give what one call gives, as always.
      length: samples in a block.

    Returns:
      A `Processor`. A signal shorter than two blocks is processed at once.
    """
    once = jax.checkpoint(processor.process)

    def process(state, audio, values):
        channels, time = audio.shape
        count = time // length
        if count < 2:
            return processor.process(state, audio, values)
        whole = count * length
        fixed = {name: v for name, v in values.items() if not jnp.ndim(v)}
        moving = {name: v for name, v in values.items() if jnp.ndim(v)}

        def step(state, block):
            audio, moved = block
            return once(state, audio, {**fixed, **moved})

        blocks = jnp.moveaxis(audio[:, :whole].reshape(channels, count, length), 1, 0)
        moves = {name: v[:whole].reshape(count, length) for name, v in moving.items()}
        # A fresh state may be of another precision than the audio makes it.
        kinds, _ = jax.eval_shape(processor.process, state, audio, values)
        state = jax.tree.map(lambda s, kind: s.astype(kind.dtype), state, kinds)
        state, out = jax.lax.scan(step, state, (blocks, moves))
        out = jnp.moveaxis(out, 0, 1).reshape(channels, whole)
        if whole == time:
            return state, out
        rest = {name: v[whole:] for name, v in moving.items()}
        state, last = once(state, audio[:, whole:], {**fixed, **rest})
        return state, jnp.concatenate([out, last], axis=-1)

    return processor._replace(process=process)


def batched(effect: Effect) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """``render`` for any leading dimensions.

    Args:
      effect: any.

    Returns:
      ``(audio[..., channels, time], controls[..., n]) -> audio[..., channels, time]``;
      leading dimensions broadcast as NumPy's do, moving controls are not taken.
    """

    def render(audio, controls):
        audio, controls = jnp.asarray(audio), jnp.asarray(controls)
        lead = jnp.broadcast_shapes(audio.shape[:-2], controls.shape[:-1])
        audio = jnp.broadcast_to(audio, (*lead, *audio.shape[-2:]))
        controls = jnp.broadcast_to(controls, (*lead, controls.shape[-1]))
        flat = jax.vmap(effect.render)(
            audio.reshape(-1, *audio.shape[-2:]),
            controls.reshape(-1, controls.shape[-1]),
        )
        return flat.reshape(*lead, *flat.shape[-2:])

    return render


def aligned(effect: Effect) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """``render`` without the effect's latency, for whole signals.

        y[t] = render(x, then `latency` zeros)[t + latency]

    Args:
      effect: any; one without latency is rendered as it is.

    Returns:
      ``(audio[channels, time], controls) -> audio[channels, time]``. Moving controls
      [n, frames] are spread over the audio alone, and hold their last value after it.
    """

    def render(audio, controls):
        if effect.latency == 0:
            return effect.render(audio, controls)
        audio, controls = jnp.asarray(audio), jnp.asarray(controls)
        check_shapes(effect.specs, audio, controls)
        if controls.ndim == 2:
            controls = per_sample(controls, audio.shape[-1])
            controls = jnp.pad(controls, ((0, 0), (0, effect.latency)), mode="edge")
        padded = jnp.pad(audio, ((0, 0), (0, effect.latency)))
        return effect.render(padded, controls)[:, effect.latency :]

    return render


def check_rate(sample_rate: Rate) -> None:
    """Raises ValueError unless a sample rate is a positive, finite number of Hz."""
    if not (
        isinstance(sample_rate, Real) and math.isfinite(sample_rate) and sample_rate > 0
    ):
        raise ValueError(
            f"a sample rate is a positive number of Hz, such as 44100, got"
            f" {sample_rate!r}"
        )


def check_shapes(
    specs: Sequence[ParameterSpec], audio: jax.Array, controls: jax.Array
) -> None:
    """Raises ValueError unless audio is [channels, time], controls [n(, frames)].

    Audio of integers is refused too: its full scale is not known here. So is that of 16
    bits, which no recursion survives, and audio without a channel.
    """
    if not jnp.issubdtype(audio.dtype, jnp.floating):
        raise ValueError(
            f"an effect renders floating-point audio in [-1, 1], got {audio.dtype};"
            " divide it by its full scale, as ddspx.audio.load does"
        )
    if jnp.finfo(audio.dtype).bits < 32:
        raise ValueError(
            f"an effect renders float32 or float64, got {audio.dtype}; convert the"
            " audio with astype(jnp.float32)"
        )
    if audio.ndim != 2:
        raise ValueError(
            f"an effect renders one signal [channels, time], got shape {audio.shape};"
            " batch it with jax.vmap or ddspx.effects.batched"
        )
    if audio.shape[0] == 0:
        raise ValueError(
            f"an effect renders one channel or more, got audio of shape {audio.shape}"
        )
    if controls.ndim not in (1, 2) or controls.shape[0] != len(specs):
        raise ValueError(
            f"expected {len(specs)} controls ({', '.join(s.name for s in specs)}) as"
            f" [n] or [n, frames], got shape {controls.shape}"
        )


def _values(
    specs: tuple[ParameterSpec, ...],
    moving: bool,
    audio: jax.Array,
    controls: jax.Array,
) -> dict[str, jax.Array]:
    check_shapes(specs, audio, controls)
    if controls.ndim == 2:
        if not moving:
            raise ValueError(
                "this effect takes one setting [n] for the whole signal, got controls"
                f" of shape {controls.shape}; render blocks to change them on the way"
            )
        controls = per_sample(controls, audio.shape[-1])
    return {spec.name: spec.to_physical(controls[i]) for i, spec in enumerate(specs)}


def per_sample(controls: jax.Array, time: int) -> jax.Array:
    """[n, frames] to [n, time] by straight lines; frame k lies at sample k hop.

    The hop is time / frames; after the last frame its value holds.
    """
    frames = controls.shape[1]
    if frames == time:
        return controls
    place = jnp.minimum(jnp.arange(time) * (frames / time), frames - 1.0)
    first = jnp.clip(place.astype(jnp.int32), 0, max(frames - 2, 0))
    second = jnp.minimum(first + 1, frames - 1)
    share = (place - first)[None]
    return controls[:, first] * (1.0 - share) + controls[:, second] * share
