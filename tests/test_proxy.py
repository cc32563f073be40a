"""Learned stand-ins: shape, gradient, training on renders, and back from a folder."""

from dataclasses import replace
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.training.configuration import load_preset
from ddspx.training.fit import fit
from styletransfer.hosts import open_host
from styletransfer.hosts.description import HostEffect, Slot
from styletransfer.presets import load_effect
from styletransfer.proxy import ProxyConfig, make_proxy
from styletransfer.proxy_task import (
    ProxyRunConfig,
    load_proxy,
    proxy_task,
    rendered_batches,
)

RATE = 8000
PRESETS = sorted((Path(__file__).parent.parent / "configs/proxy").glob("*.yaml"))
SMALL = ProxyConfig(
    bands=24, static_width=32, dynamic_width=24, channels=4, dilations=(1, 8)
)
KINDS = ("spectral", "tcn", "identity")


class Bursts(grain.transforms.RandomMap):
    """Decaying noise bursts of random level, [1, time]."""

    def random_map(self, element, rng):
        audio = np.zeros(3000, np.float32)
        for start in rng.integers(0, 2500, 4):
            length = 3000 - start
            decay = np.exp(-np.arange(length) / rng.uniform(100, 1500))
            audio[start:] += rng.uniform(0.02, 0.3) * decay * rng.normal(size=length)
        return {"audio": audio[None], "file": np.int32(0)}


def bursts(seed):
    return grain.MapDataset.range(10_000).seed(seed).random_map(Bursts())


def batch_of(batches, number) -> dict:
    return batches[number]


@pytest.fixture(scope="module")
def equalizer():
    effect = load_effect("channel_strip")
    chosen = {"low_shelf", "high_shelf", "gain"}
    slots = tuple(slot for slot in effect.slots if slot.name in chosen)
    with open_host(replace(effect, slots=slots), RATE, backend="serial") as host:
        yield host


@pytest.mark.parametrize("kind", KINDS)
def test_proxy_keeps_shape_and_has_a_finite_gradient(kind, rng):
    effect = load_effect("compressor")
    proxy = make_proxy(effect, RATE, replace(SMALL, kind=kind))
    params = proxy.init(jax.random.key(0))
    audio = rng.normal(size=(2, 2, 1000)).astype(np.float32)
    audio[1] = 0.0
    target = jnp.asarray(audio * 0.5)
    controls = jnp.full((2, len(effect.specs)), 0.3)

    @jax.jit
    def both(audio, controls, target):
        def power(u):
            wet = proxy.render(params, audio, u)
            return jnp.mean((wet - target) ** 2), wet

        return jax.grad(power, has_aux=True)(controls)

    for row in range(2):
        slope, wet = both(audio[row], controls[row], target[row])
        assert wet.shape == audio[row].shape and wet.dtype == jnp.float32
        assert np.all(np.isfinite(wet)) and np.all(np.isfinite(slope))
        if kind == "identity":
            np.testing.assert_array_equal(wet, audio[row])
        elif row == 0:
            assert np.any(np.asarray(slope) != 0)


def test_the_spectral_gain_of_zero_db_is_the_identity(rng):
    proxy = make_proxy(load_effect("compressor"), RATE, SMALL)
    params = jax.tree.map(jnp.zeros_like, proxy.init(jax.random.key(0)))
    audio = rng.normal(size=(1, 1500)).astype(np.float32)
    wet = jax.jit(proxy.render)(params, audio, jnp.full(5, 0.5))
    np.testing.assert_allclose(wet, audio, atol=2e-5)


def test_batches_are_a_function_of_their_number(equalizer):
    made = rendered_batches(bursts(0), equalizer, 3, seed=5)
    first, again, other = (batch_of(made, i) for i in (4, 4, 5))
    assert set(first) == {"audio", "controls", "target", "valid", "file"}
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert np.any(first["controls"] != other["controls"])
    target, status = equalizer.render(first["audio"], first["controls"])
    np.testing.assert_array_equal(first["target"], target)
    np.testing.assert_array_equal(first["valid"], status == 0)


@pytest.fixture(scope="module")
def smoke():
    """The smoke preset, its host, and its task, compiled once for all tests."""
    config = load_preset(next(p for p in PRESETS if p.stem == "smoke"), ProxyRunConfig)
    effect = load_effect(config.effect)
    with open_host(effect, config.sample_rate, backend="serial") as host:
        proxy = make_proxy(host.effect, config.sample_rate, config.proxy)
        with proxy_task(proxy, config.optimizer) as task:
            yield config, host, proxy, task


def test_training_beats_the_identity_on_held_out_clips(smoke, tmp_path):
    config, host, proxy, task = smoke
    config = replace(config, fit=replace(config.fit, steps=60, quiet=True))
    config = replace(config, fit=replace(config.fit, evaluate_every=60, save_every=60))
    batches = rendered_batches(bursts(0), host, 8)
    held_out = [batch_of(rendered_batches(bursts(1), host, 8, seed=9), 0)]
    state = fit(
        task, batches, config.fit, tmp_path / "run",
        evaluation=held_out, run_config=config,
    )  # fmt: skip
    assert int(state.step) == 60
    judged = task.evaluate(state, held_out[0])
    assert judged["loss"] < 0.6 * judged["identity"]

    loaded, params = load_proxy(tmp_path / "run", "last")
    audio, controls = held_out[0]["audio"][0], held_out[0]["controls"][0]
    np.testing.assert_allclose(
        jax.jit(loaded.render)(params, audio, controls),
        jax.jit(proxy.render)(state.params, audio, controls),
        rtol=1e-6,
    )


def test_a_failed_render_does_not_count(smoke):
    _, host, _, task = smoke
    batch = batch_of(rendered_batches(bursts(0), host, 8), 0)
    batch["valid"] = np.arange(8) != 1
    spoiled = {k: v.copy() for k, v in batch.items()}
    spoiled["target"][1] = 0.0
    losses = [
        float(task.step(task.init(jax.random.key(0)), b)[1]["loss"])
        for b in (batch, spoiled)
    ]
    assert losses[0] == losses[1] > 0


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_presets_are_valid(preset):
    config = load_preset(preset, ProxyRunConfig)
    make_proxy(load_effect(config.effect), config.sample_rate, config.proxy)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_every_preset_runs_two_steps(preset, tmp_path):
    config = load_preset(preset, ProxyRunConfig)
    config = replace(config, batch_size=2, fit=replace(config.fit, steps=2, quiet=True))
    effect = load_effect(config.effect)
    with open_host(effect, config.sample_rate, backend="serial") as host:
        proxy = make_proxy(host.effect, config.sample_rate, config.proxy)
        batches = rendered_batches(bursts(0), host, config.batch_size)
        task = proxy_task(proxy, config.optimizer)
        state = fit(task, batches, config.fit, tmp_path / "run", run_config=config)
    assert int(state.step) == 2


def test_bypassed_slots_have_no_network():
    effect = load_effect("compressor")
    with_idle = HostEffect(
        "idle", (*effect.slots, Slot("off", "Reverb", bypass=True)), 0.0
    )
    shapes = [
        jax.eval_shape(make_proxy(e, RATE, SMALL).init, jax.random.key(0))
        for e in (effect, with_idle)
    ]
    assert shapes[0] == shapes[1]
