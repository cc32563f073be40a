"""Phases as integers: exact in blocks and over minutes, with slopes of their rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.oscillators import advance, low_frequency, start_phase, wave

RATE = 8000


@pytest.mark.parametrize("kind", ["fixed", "moving"])
def test_two_minutes_in_blocks_are_the_whole_bit_for_bit(kind):
    time = 120 * RATE
    rate = np.full(time, 7.77, np.float32)
    if kind == "moving":
        rate += np.sin(np.arange(time) / 9000.0).astype(np.float32)
    whole, last = advance(start_phase(), rate if kind == "moving" else 7.77, RATE, time)
    parts, phase, start = [], start_phase(), 0
    for length in (1, 77_777, 3, time - 77_781):
        span = slice(start, start + length)
        part, phase = advance(
            phase, rate[span] if kind == "moving" else 7.77, RATE, length
        )
        parts.append(part)
        start += length
    assert start == time
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert phase == last and phase.dtype == jnp.uint32
    # Against float64: the rate as float32, rounded to 1e-6 of it, over 120 s.
    turns = np.cumsum(rate.astype(np.float64)) / RATE
    exact = 2 * np.pi * np.concatenate([[0.0], turns[:-1]])
    error = np.angle(np.exp(1j * (np.asarray(whole, np.float64) - exact)))
    assert np.max(np.abs(error)) < 1e-3


def test_slopes_of_rate_are_those_of_differences():
    @jax.jit
    def value(rate, turns):
        audio = jnp.zeros((1, 500), rate.dtype)
        weights = jnp.cos(jnp.arange(500, dtype=rate.dtype) / 7.0)
        moved, _ = low_frequency(start_phase(), rate, turns, audio, RATE)
        return jnp.sum(moved * weights)

    slope_of = jax.jit(jax.grad(value, (0, 1)))
    for wide in (False, True):
        with jax.enable_x64(wide):
            dtype = np.float64 if wide else np.float32
            turns = jnp.asarray(0.3, dtype)
            moving = 400 * np.sin(np.arange(500) / 60.0) + 900.0
            for rate in (np.array(31.0), moving):
                rate = jnp.asarray(rate, dtype)
                # In single precision steps are larger than the rounding of rates.
                step = 1e-4 if wide else 0.25
                ahead = value(rate + step, turns)
                behind = value(rate - step, turns)
                slope, by_turns = slope_of(rate, turns)
                wanted = float(ahead - behind) / (2 * step)
                found = float(np.sum(slope))
                assert found == pytest.approx(wanted, rel=1e-6 if wide else 3e-3)
                ahead, behind = value(rate, turns + 1e-3), value(rate, turns - 1e-3)
                wanted = float(ahead - behind) / 2e-3
                assert float(by_turns) == pytest.approx(wanted, rel=1e-3)


def test_waves_have_their_shape():
    angles = 2 * np.pi * np.array([-0.25, 0.0, 0.125, 0.25, 0.5, 0.75, 1.25])
    np.testing.assert_allclose(wave(angles, "sine"), np.sin(angles), atol=1e-6)
    np.testing.assert_allclose(
        wave(angles, "triangle"), [-1, 0, 0.5, 1, 0, -1, 1], atol=1e-6
    )
    slope = jax.vmap(jax.grad(lambda a: wave(a, "triangle")))(angles + 0.1)
    np.testing.assert_allclose(slope * np.pi / 2, [1, 1, 1, -1, -1, 1, -1], atol=1e-5)


def test_vmap_and_jit_change_nothing():
    rates = jnp.asarray([0.1, 5.0, 333.0])
    phases = jnp.asarray([0, 7, 2**32 - 1], jnp.uint32)
    many, after = jax.jit(
        jax.vmap(lambda p, r: advance(p, r, RATE, 100)), static_argnums=()
    )(phases, rates)
    for row in range(3):
        one, last = advance(phases[row], rates[row], RATE, 100)
        np.testing.assert_array_equal(many[row], one)
        assert after[row] == last
