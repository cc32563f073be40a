"""Products of signals are whole float32 on every device.

Left to itself an Nvidia card multiplies float32 matrices with ten bits of mantissa
(TF32), a TPU with seven; a CPU does not show it. So it is looked for in the programs:
each product that a sound, a feature, a loss or a gradient is made of has to ask for the
highest precision. Networks do not: theirs is the user's choice.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_effects_conformance as effects_cases
import test_synths_conformance as synths_cases
from jax import lax

from ddspx import constant_q, features, losses, pitch
from ddspx.comb_filters import feedback_comb
from ddspx.synths import scaling
from styletransfer.gradients import orthogonal, spsa
from styletransfer.hosts import HostEffect, Slot
from styletransfer.hosts.catalogue import facts
from styletransfer.scores import TargetScore
from styletransfer.style import StyleDistance
from styletransfer.twins import TWINS, twin_effect

RATE = 16000
PRODUCTS = ("dot_general", "conv_general_dilated")


def products(function, *arguments) -> Iterator[Any]:
    """Every product of matrices or convolution in the program of a function."""
    yield from _within(jax.make_jaxpr(function)(*arguments).jaxpr)


def _within(program) -> Iterator[Any]:
    for equation in program.eqns:
        if equation.primitive.name in PRODUCTS:
            yield equation
        for part in jax.tree.leaves(list(equation.params.values()), is_leaf=_inner):
            if _inner(part):
                yield from _within(getattr(part, "jaxpr", part))


def _inner(part) -> bool:
    return hasattr(part, "eqns") or hasattr(part, "jaxpr")


def check(function, *arguments) -> int:
    """How many products there are; none may be less than whole.

    Raises:
      AssertionError: one is left to the device.
    """
    found = list(products(function, *arguments))
    for equation in found:
        asked = equation.params["precision"]
        exact = np.issubdtype(equation.outvars[0].aval.dtype, np.integer)
        assert exact or asked in (
            lax.Precision.HIGHEST,
            (lax.Precision.HIGHEST, lax.Precision.HIGHEST),
        ), f"{equation} is left to the device"
    return len(found)


def slope(function):
    """Value and gradient of the sum of squares, to the first argument."""

    def value(first, *rest):
        leaves = jax.tree.leaves(function(first, *rest))
        return sum(jnp.sum(jnp.square(leaf)) for leaf in leaves)

    return jax.value_and_grad(value)


def test_a_product_left_to_the_device_is_seen():
    square, many = jnp.ones((3, 3)), jnp.ones((2, 3, 3))
    loose = jax.jit(lambda x: jnp.sin(x) @ square)
    with pytest.raises(AssertionError, match="left to the device"):
        check(loose, square)
    with pytest.raises(AssertionError, match="left to the device"):
        check(lambda x: lax.scan(lambda c, row: (loose(c), row), square, x), many)
    with pytest.raises(AssertionError, match="left to the device"):
        check(slope(lambda x: jnp.convolve(x, x)), jnp.ones(5))
    exact = lambda x: jnp.matmul(x, square, precision="highest")  # noqa: E731
    assert check(slope(jax.jit(exact)), square) >= 2


@pytest.mark.parametrize("name", effects_cases.CASES)
def test_effects(name):
    effect = effects_cases.CASES[name](RATE)
    controls = jnp.asarray(effects_cases.inner_controls(effect, 1)[0])
    audio = jnp.asarray(effects_cases.test_signal(400))

    def energy(audio, controls):
        return jnp.sum(jnp.square(effect.render(audio, controls)))

    check(jax.value_and_grad(energy, (0, 1)), audio, controls)


@pytest.mark.parametrize("name", synths_cases.CASES)
def test_synths(name):
    synth = synths_cases.CASES[name](RATE, synths_cases.HOP)
    outputs = synths_cases.outputs_of(synth)
    check(
        slope(lambda o: synth.render(synth.to_controls(o), jax.random.key(0))), outputs
    )


@pytest.mark.parametrize("head", ["softmax", "sigmoid", "critical_bands"])
def test_heads_of_frequency(head):
    check(slope(getattr(scaling, f"frequencies_{head}")), jnp.ones((4, 3, 2)))


def test_the_gain_of_a_comb():
    state, audio = jnp.ones(3), jnp.ones(20)
    assert check(
        slope(lambda gain: feedback_comb(state, audio, gain)), jnp.asarray(0.5)
    )


AUDIO = jnp.asarray(effects_cases.test_signal(8192)[0])
ANALYSES = {
    "log_mel": lambda x: features.log_mel(x, RATE),
    "mfcc": lambda x: features.mfcc(x, RATE),
    "a_weighted_loudness_db": lambda x: features.a_weighted_loudness_db(x, RATE),
    "integrated_loudness_lufs": lambda x: features.integrated_loudness_lufs(
        x[None], RATE
    ),
    "rms_db": features.rms_db,
    "spectral_centroid_hz": lambda x: features.spectral_centroid_hz(x, RATE),
    "constant_q": lambda x: jnp.abs(constant_q.constant_q(x, RATE, bins=60)),
    "track_f0": lambda x: pitch.track_f0(x, RATE, 256).f0_hz,
    "multi_resolution_stft": lambda x: losses.multi_resolution_stft(x, AUDIO[::-1])[0],
    "mel_distance": lambda x: losses.mel_distance(x, AUDIO[::-1], sample_rate=RATE),
    "si_sdr": lambda x: losses.si_sdr(x, AUDIO[::-1]),
    "target": TargetScore(AUDIO[None, ::-1], RATE).residuals,
}


@pytest.mark.parametrize("name", ANALYSES)
def test_analyses(name):
    function = ANALYSES[name]
    audio = AUDIO[None] if name == "target" else AUDIO
    check(function if name == "track_f0" else slope(function), audio)


@pytest.mark.parametrize("channels", [1, 2])
def test_style(channels):
    distance = StyleDistance(RATE, 7000.0)
    audio = jnp.stack([AUDIO, 0.5 * AUDIO[::-1]])[:channels]

    def apart(audio):
        return distance.residuals(
            distance.features(audio), distance.features(audio[:, ::-1])
        )

    assert check(slope(apart), audio) >= 3


@pytest.mark.parametrize("plugin", TWINS)
def test_twins(plugin):
    effect = HostEffect(plugin, (Slot("it", plugin, facts(plugin).parameters),))
    twin = twin_effect(effect, RATE)
    audio = jnp.asarray(effects_cases.test_signal(400))
    controls = jnp.full(len(twin.specs), 0.4)

    def energy(audio, controls):
        return jnp.sum(jnp.square(twin.render(audio, controls)))

    check(jax.value_and_grad(energy, (0, 1)), audio, controls)


@pytest.mark.parametrize("count", [2, 7])
def test_estimates_of_gradients(count):
    controls = jnp.full(5, 0.5)
    for estimator in (spsa(0.05, count), orthogonal(0.05, count)):
        plan = estimator.plan(jax.random.key(0), controls)
        renders = jnp.ones((len(plan.points), 40))
        for prior in (None, jnp.ones(5)):
            assert check(estimator.vector, plan, renders, jnp.ones(40), prior)
            assert check(estimator.scalar, plan, renders[:, 0], prior)
        check(estimator.plan, jax.random.key(0), controls)
