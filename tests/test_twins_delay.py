"""Delay, Chorus and Phaser against pedalboard on real speech and music."""

import jax
import jax.numpy as jnp
import numpy as np
import pedalboard
import pytest

from ddspx.audio import load
from styletransfer.hosts.catalogue import facts
from styletransfer.twins.delay import TWINS

RATES = (24000, 44100, 48000)


def host(name, audio, rate, values):
    plugin = getattr(pedalboard, name)()
    if facts(name).prepare:
        plugin.process(np.zeros((1, 1), np.float32), rate)
    for parameter, value in values.items():
        setattr(plugin, parameter, float(value))
    return plugin.process(audio, rate)


def settings(name, rng):
    """A random setting, as float32, which is what pedalboard keeps."""
    return {
        spec.name: np.float32(spec.to_physical(rng.random()))
        for spec in facts(name).parameters
    }


def recording(root, kind, rate, channels, seconds):
    path = sorted((root / kind).rglob("*.flac"))[0]
    read = load(path, sample_rate=rate, channels=1, start_s=1.0, duration_s=seconds)
    mono = read.samples[0]
    return np.stack([mono, mono[::-1]])[:channels]


def error(found, wanted):
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("name", TWINS)
def test_defaults_are_those_of_pedalboard(name):
    plugin = getattr(pedalboard, name)()
    assert set(TWINS[name].defaults) == {spec.name for spec in facts(name).parameters}
    for parameter, value in TWINS[name].defaults.items():
        assert getattr(plugin, parameter) == pytest.approx(value)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("name", TWINS)
def test_twin_is_pedalboard_on_speech_and_music(name, rate, data_root):
    rng = np.random.default_rng(rate)
    processor = TWINS[name].make(rate)
    worst = 0.0
    for kind, channels in (("speech", 1), ("music", 2)):
        audio = recording(data_root, kind, rate, channels, 1.5)
        state = processor.init_state(channels)
        render = jax.jit(lambda x, v, s=state: processor.process(s, x, v)[1])
        for _ in range(4):
            values = settings(name, rng)
            wanted = host(name, audio, rate, values)
            worst = max(worst, error(np.asarray(render(audio, values)), wanted))
    assert worst < (1e-6 if name == "Delay" else 5e-5)


@pytest.mark.parametrize("name", ["Chorus", "Phaser"])
def test_twin_does_not_drift_from_pedalboard(name):
    """Ten seconds at a rate where pedalboard's oscillator is out by a radian."""
    rate = 44100
    rng = np.random.default_rng(0)
    audio = rng.uniform(-1, 1, (1, 10 * rate)).astype(np.float32)
    audio = np.cumsum(audio - np.mean(audio), axis=1) / 300
    values = {**TWINS[name].defaults, "rate_hz": np.float32(9.3), "depth": 1.0}
    processor = TWINS[name].make(rate)
    render = jax.jit(lambda x: processor.process(processor.init_state(1), x, values)[1])
    found, wanted = np.asarray(render(audio)), host(name, audio, rate, values)
    assert error(found[:, -rate:], wanted[:, -rate:]) < 1e-4


@pytest.mark.parametrize("name", TWINS)
def test_blocks_are_the_whole(name):
    rate, time = 24000, 3001
    rng = np.random.default_rng(2)
    audio = rng.uniform(-1, 1, (2, time)).astype(np.float32)
    values = settings(name, rng)
    processor = TWINS[name].make(rate)
    process = jax.jit(processor.process)
    whole = process(processor.init_state(2), audio, values)[1]
    state, parts, start = processor.init_state(2), [], 0
    for length in (1, 2, 1001, 1, 1996):
        state, part = process(state, audio[:, start : start + length], values)
        parts.append(part)
        start += length
    assert start == time
    np.testing.assert_allclose(np.concatenate(parts, -1), whole, atol=2e-5)


@pytest.mark.parametrize("name", TWINS)
def test_slopes_are_finite_and_those_of_differences(name):
    """All but the rate, whose slope is that of an oscillator that keeps its time."""
    rate, time = 24000, 2400
    rng = np.random.default_rng(3)
    smooth = np.cumsum(rng.uniform(-1, 1, (1, time)), axis=1) / 20
    weights = rng.standard_normal((1, time))
    processor = TWINS[name].make(rate)
    smoothly = {"rate_hz", "delay_seconds"}
    with jax.enable_x64(True):

        @jax.jit
        def value(values, audio):
            state = processor.init_state(1)
            return jnp.sum(weights * processor.process(state, audio, values)[1])

        values = {k: jnp.float64(v) for k, v in settings(name, rng).items()}
        audio = jnp.asarray(smooth)
        slopes = jax.jit(jax.grad(value))(values, audio)
        for parameter, slope in slopes.items():
            assert np.isfinite(slope) and slope != 0.0
            if parameter in smoothly:
                continue
            step = 1e-7 * max(1.0, float(values[parameter]))
            sides = [
                float(value({**values, parameter: values[parameter] + s}, audio))
                for s in (step, -step)
            ]
            wanted = (sides[0] - sides[1]) / (2 * step)
            assert float(slope) == pytest.approx(wanted, rel=1e-4, abs=1e-5), parameter


@pytest.mark.parametrize("name", TWINS)
def test_slopes_are_finite_at_the_ends_of_every_range(name):
    rate = 24000
    audio = np.random.default_rng(4).uniform(-1, 1, (2, 600)).astype(np.float32)
    processor = TWINS[name].make(rate)

    @jax.jit
    def slope(values, audio):
        def value(values, audio):
            state = processor.init_state(2)
            return jnp.sum(jnp.square(processor.process(state, audio, values)[1]))

        return jax.grad(value, (0, 1))(values, audio)

    specs = facts(name).parameters
    for corner in np.random.default_rng(5).integers(0, 2, (6, len(specs))):
        values = {
            spec.name: np.float32(spec.high if up else spec.low)
            for spec, up in zip(specs, corner, strict=True)
        }
        for signal in (audio, np.zeros_like(audio)):
            for part in jax.tree.leaves(slope(values, signal)):
                assert np.all(np.isfinite(part))


def test_delay_is_rounded_as_pedalboard_does():
    """Also where a float32 product of seconds and rate would reach the next sample."""
    impulse = np.zeros((1, 2000), np.float32)
    impulse[0, 0] = 1.0
    for rate in (24000, 44100):
        processor = TWINS["Delay"].make(rate)
        for samples in (700, 701, 997, 1001.5):
            for nudge in (-1, 0, 1):
                seconds = np.float32(samples / rate)
                seconds = np.float32(seconds + nudge * np.spacing(seconds))
                values = {"delay_seconds": seconds, "feedback": 0.4, "mix": 0.5}
                wanted = host("Delay", impulse, rate, values)
                state = processor.init_state(1)
                found = processor.process(state, jnp.asarray(impulse), values)[1]
                np.testing.assert_allclose(found, wanted, atol=1e-7)


def test_delay_of_zero_is_off():
    processor = TWINS["Delay"].make(24000)
    audio = jnp.ones((1, 100))
    values = {"delay_seconds": 0.0, "feedback": 0.9, "mix": 0.5}
    found = processor.process(processor.init_state(1), audio, values)[1]
    np.testing.assert_array_equal(
        found, host("Delay", np.ones((1, 100), np.float32), 24000, values)
    )
