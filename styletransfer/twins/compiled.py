"""Compiles a description in JAX once per shape, for hosts and mixed chains alike."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddspx.parameters import ParameterSpec
from styletransfer.hosts.description import HostEffect
from styletransfer.twins.effect import twin_processor

# Executables kept: a search needs one for its excerpt and one for the whole input.
_KEPT = 64
# Lengths are rounded up to this many steps an octave, so that a folder of recordings
# of all lengths compiles a few times only. Effects are causal, so that silence after
# the end changes nothing before it.
_STEPS_AN_OCTAVE = 16

Render = Callable[[Any, Any], Any]


@functools.lru_cache(_KEPT)
def compiled(
    effect: HostEffect, sample_rate: float, items: int, channels: int, time: int
) -> Render:
    """An executable ``(audio[items, channels, time], values[items, n]) -> audio``.

    Args:
      effect: limited to the sample rate.
      sample_rate: Hz.
      items: rendered by one call.
      channels: of the audio.
      time: samples, from `padded_length`.

    Returns:
      A function of float32 arrays that returns before the result is there; values are
      physical, in the order of ``effect.specs``. What lags behind its input is moved
      back, as pedalboard does.

    Raises:
      ValueError: see `styletransfer.twins.effect.twin_effect`, or more channels than
        an effect takes.
    """
    processor = twin_processor(effect, sample_rate)
    names = [spec.name for spec in effect.specs]

    def one(audio, values):
        state = processor.init_state(channels)
        by_name = {name: values[i] for i, name in enumerate(names)}
        late = jnp.pad(audio, ((0, 0), (0, processor.latency)))
        return processor.process(state, late, by_name)[1][:, processor.latency :]

    def several(audio, values):
        if items == 1:
            return one(audio[0], values[0])[None]
        return jax.vmap(one)(audio, values)

    audio = jax.ShapeDtypeStruct((items, channels, time), np.float32)
    values = jax.ShapeDtypeStruct((items, len(names)), np.float32)
    return jax.jit(several).lower(audio, values).compile()


def padded_length(time: int) -> int:
    """The length that is compiled for audio of `time` samples; at most 1/16 more."""
    step = max(1, 2 ** (time.bit_length() - 1) // _STEPS_AN_OCTAVE)
    return -(-time // step) * step


def physical_values(specs: Sequence[ParameterSpec], controls: np.ndarray) -> np.ndarray:
    """Physical values [items, n], float32, of controls [items, n].

    Computed in float64 as the black boxes have it, so that both hear the same number.
    """
    values = np.empty(controls.shape, np.float32)
    for i, spec in enumerate(specs):
        values[:, i] = spec.to_physical(controls[:, i].astype(np.float64))
    return values
