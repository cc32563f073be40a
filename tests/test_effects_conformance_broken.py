"""Effects that break one promise each: the conformance suite must find every one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_effects_conformance import (
    Compiled,
    check_blocks,
    check_deterministic_and_eager,
    check_finite,
    check_identity,
    check_moving,
    check_shapes,
    check_size,
    check_slopes,
    check_specs,
)

from ddspx.effects import Effect, Processor, make_effect, without_memory
from ddspx.parameters import ParameterSpec, plain

# Effects that break one promise each, to show that the checks can fail.

GAIN = (plain("gain", 0.0, 2.0),)


def memoryless(process, specs=GAIN) -> Callable[[Any], Effect]:
    return lambda rate: make_effect(specs, without_memory(process))


def forgetful(rate) -> Effect:
    """Holds a sample back, but starts every block from silence."""

    def process(state, audio, values):
        late = jnp.pad(audio, ((0, 0), (1, 0)))[:, :-1]
        return state, values["gain"] * late

    return make_effect(GAIN, Processor(lambda channels: (), process))


def averaging(rate) -> Effect:
    """Takes moving controls, and reads only their mean."""
    return make_effect(
        GAIN, without_memory(lambda audio, v: audio * jnp.mean(v["gain"]))
    )


def unrolled(rate) -> Effect:
    def process(audio, values):
        parts = jnp.split(audio, list(range(1024, audio.shape[-1], 1024)), axis=-1)
        return values["gain"] * jnp.concatenate([2.0 * p for p in parts], axis=-1)

    return make_effect(GAIN, without_memory(process))


def moody(rate) -> Effect:
    """Another gain for every instance."""
    moods.append(1.0 + len(moods))
    mood = moods[-1]
    return make_effect(GAIN, without_memory(lambda x, v: mood * v["gain"] * x))


moods: list[float] = []

BROKEN: dict[str, tuple[Callable[[Any], Effect], Callable[..., None]]] = {
    "state forgotten": (forgetful, check_blocks),
    "moving controls averaged": (averaging, check_moving),
    "unrolled over time": (unrolled, check_size),
    "instances differ": (moody, check_deterministic_and_eager),
    "acausal": (
        memoryless(lambda x, v: v["gain"] * x[:, ::-1]),
        check_deterministic_and_eager,
    ),
    "slope cut": (
        memoryless(lambda x, v: x * (jax.lax.stop_gradient(v["gain"]) + 0 * v["gain"])),
        check_slopes,
    ),
    "audio slope cut": (
        memoryless(lambda x, v: v["gain"] * jax.lax.stop_gradient(x)),
        check_slopes,
    ),
    "deaf control": (memoryless(lambda x, v: x + 0.0 * v["gain"]), check_slopes),
    "NaN slope at silence": (
        memoryless(lambda x, v: v["gain"] * jnp.sign(x) * jnp.sqrt(jnp.abs(x))),
        check_finite,
    ),
    "no identity": (
        memoryless(
            lambda x, v: v["gain"] * x, (plain("gain", 0.0, 2.0, identity=0.5),)
        ),
        check_identity,
    ),
    "long table": (
        memoryless(lambda x, v: v["gain"] * x * np.ones(x.shape, np.float32)),
        check_size,
    ),
    "length changed": (memoryless(lambda x, v: v["gain"] * x[:, 1:]), check_shapes),
    "unit not in the name": (
        memoryless(lambda x, v: x, (ParameterSpec("gain", unit="dB"),)),
        check_specs,
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_effect_is_found(fault):
    factory, check = BROKEN[fault]
    takes_factory = check in (check_specs, check_shapes, check_size)
    with pytest.raises(AssertionError):
        check(factory if takes_factory else Compiled(factory))
    # The same check is content with a sound effect.
    sound = memoryless(
        lambda x, v: jnp.reshape(v["gain"], (1, -1)) * x,
        (plain("gain", 0.0, 2.0, 1.0, 1.0),),
    )
    check(sound if takes_factory else Compiled(sound))
