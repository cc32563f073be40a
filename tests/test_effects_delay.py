"""Echoes against a loop in float64, and their controls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.effects.delay import delay, ping_pong_delay
from ddspx.parameters import to_unit

RATE = 8000


def controls(effect, **values):
    physical = [values.get(spec.name, spec.default) for spec in effect.specs]
    return jnp.asarray(to_unit(effect.specs, np.array(physical)), jnp.float32)


def test_echo_is_the_loop_over_samples():
    effect = delay(RATE, max_delay_ms=100.0)
    values = dict(delay_ms=31.3, feedback=0.8, damping_hz=1500.0, mix=0.4)
    audio = np.random.default_rng(0).uniform(-1, 1, (2, 1500)).astype(np.float32)
    found = jax.jit(effect.render)(audio, controls(effect, **values))
    samples = values["delay_ms"] * RATE / 1000
    whole, share = int(samples), samples % 1
    pole = np.exp(-2 * np.pi * 1500.0 / RATE)
    past = 400
    line = np.zeros((2, past + 1500))
    v, wanted = np.zeros(2), np.zeros_like(audio, np.float64)
    for n in range(1500):
        at = past + n - whole
        r = (1 - share) * line[:, at] + share * line[:, at - 1]
        v = (1 - pole) * r + pole * v
        line[:, past + n] = audio[:, n] + 0.8 * v
        wanted[:, n] = 0.6 * audio[:, n] + 0.4 * r
    np.testing.assert_allclose(found, wanted, atol=5e-5)


def test_damping_takes_treble_from_later_echoes():
    effect = delay(RATE, max_delay_ms=100.0)
    impulse = np.zeros((1, 4000), np.float32)
    impulse[0, 0] = 1.0
    setting = controls(effect, delay_ms=50, feedback=0.9, damping_hz=500, mix=1)
    out = np.asarray(jax.jit(effect.render)(impulse, setting))[0]
    # An echo of order k is 0.9^k times k low-passes, whose gain at 0 Hz is one.
    pole = np.exp(-2 * np.pi * 500.0 / RATE)
    for order in range(1, 4):
        echo = out[400 * (order + 1) - 5 : 400 * (order + 2) - 5]
        spectrum = np.abs(np.fft.rfft(echo))
        shape = (1 - pole) / np.abs(
            1 - pole * np.exp(-2j * np.pi * np.arange(201) / 400)
        )
        np.testing.assert_allclose(
            spectrum, 0.9**order * shape**order, rtol=2e-2, atol=1e-4
        )


def test_ping_pong_goes_left_right_left():
    effect = ping_pong_delay(RATE)
    impulse = np.zeros((2, 3000), np.float32)
    impulse[:, 0] = (2.0, 0.0)
    setting = controls(effect, delay_ms=100, feedback=0.5, damping_hz=3600, mix=1)
    out = np.asarray(jax.jit(effect.render)(impulse, setting))
    energy = [
        np.sum(np.square(out[:, 800 * k - 10 : 800 * k + 200]), axis=1)
        for k in (1, 2, 3)
    ]
    for order, side in enumerate((0, 1, 0)):
        assert energy[order][side] > 0.0
        assert energy[order][1 - side] == pytest.approx(0.0, abs=1e-12)
    mono = np.asarray(jax.jit(effect.render)(impulse[:1], setting))
    plain = np.asarray(jax.jit(delay(RATE).render)(impulse[:1], setting))
    np.testing.assert_array_equal(mono, plain)
    with pytest.raises(ValueError, match="one or two channels, got 3"):
        effect.render(jnp.zeros((3, 10)), setting)


def test_bad_ranges_are_refused():
    for least, most in ((200.0, 100.0), (0.1, 100.0), (-1.0, 100.0)):
        with pytest.raises(ValueError, match="shortest must be below the longest"):
            delay(RATE, min_delay_ms=least, max_delay_ms=most)
