"""Phases of frames: exact over minutes, the same in blocks, refused where not exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.synths.phase import (
    check_rates,
    held,
    hop_starts,
    phase_turns,
    sample_angles,
    start_phase,
)
from ddspx.synths.upsampling import between, crossfade, over_hops

RATE, HOP = 48000, 192


@jax.jit
def angles_of(f0_hz):
    starts, after = hop_starts(start_phase(), f0_hz, RATE, HOP)
    return sample_angles(starts, f0_hz, RATE, HOP), after


def exact_turns(f0_hz):
    """Turns after each sample, of frequencies as they are, in extended precision."""
    f0_hz = np.asarray(f0_hz, np.longdouble)
    tau = np.arange(HOP) / np.longdouble(HOP)
    moved = f0_hz[:-1, None] + tau * (f0_hz[1:] - f0_hz[:-1])[:, None]
    return np.cumsum(moved.ravel() / RATE) % 1.0


def test_a_minute_at_48_khz_is_within_a_millionth_of_a_radian(rng):
    frames = 60 * RATE // HOP + 1
    place = np.arange(frames)
    for f0_hz in (
        np.full(frames, 440.0),
        np.full(frames, 61.3),
        220.0 * 2.0 ** np.sin(place / 90.0) + rng.normal(size=frames),
        rng.uniform(30.0, 4000.0, frames),
    ):
        f0_hz = f0_hz.astype(np.float32)
        (angle, sign), after = angles_of(f0_hz)
        found = np.asarray(angle, np.float64).ravel()
        found += np.where(np.ravel(sign) > 0, 0.0, np.pi)
        turns = exact_turns(f0_hz)
        wanted = 2 * np.pi * turns.astype(np.float64)
        assert np.max(np.abs(np.angle(np.exp(1j * (found - wanted))))) < 1e-6
        last = float(phase_turns(after)) - float(turns[-1])
        assert abs(last - round(last)) < 1e-7


def test_the_phase_handed_on_is_that_of_the_whole_bit_for_bit(rng):
    f0_hz = rng.uniform(50.0, 9000.0, 301).astype(np.float32)
    run = jax.jit(lambda phase, f0_hz: hop_starts(phase, f0_hz, RATE, HOP))
    starts, after = run(start_phase(), f0_hz)
    phase, words = start_phase(), []
    for begin in (0, 100, 200):
        part, phase = run(phase, f0_hz[begin : begin + 101])
        words.append(part.words)
    np.testing.assert_array_equal(np.concatenate(words), starts.words)
    np.testing.assert_array_equal(phase, after)


def test_no_frequency_stays_none_and_others_are_held():
    run = jax.jit(
        lambda f: sample_angles(hop_starts(start_phase(), f, RATE, 8)[0], f, RATE, 8)
    )
    angle, _ = run(np.array([100.0, np.nan, 200.0, 200.0], np.float32))
    assert np.all(np.isnan(np.asarray(angle)[:2, 1:]))
    np.testing.assert_array_equal(held(np.array([-1.0, 5e4]), RATE), [0.0, RATE])


@pytest.mark.parametrize("rate, hop", [(0, 64), (44100.3, 64), (2e6, 64), (48000, 0)])
def test_rates_that_would_not_be_exact_are_refused(rate, hop):
    with pytest.raises(ValueError, match=str(hop if hop == 0 else rate)):
        check_rates(rate, hop)


def test_both_ways_of_upsampling_are_those_of_magenta(golden):
    arrays = golden("ddsp_tf_core")
    frames = arrays["resample_in"]
    for way in ("linear", "window"):
        weights = crossfade(16, way)
        for example, wanted in zip(frames, arrays[f"resample_{way}_320"], strict=True):
            ends = np.concatenate([example, example[-1:]])
            found = jax.vmap(lambda x, w=weights: between(x, w).ravel(), 1, 1)(ends)
            np.testing.assert_allclose(found, wanted, atol=1e-6)
    with pytest.raises(ValueError, match="got 0"):
        crossfade(0)


def test_hops_in_blocks_are_hops_at_once_with_their_slopes(rng):
    # Three blocks of unequal fill: one hop is left over.
    hop, count = 100, 202
    frames = jnp.asarray(rng.normal(size=(count + 1, 2)), jnp.float32)
    hops = jnp.asarray(rng.normal(size=count), jnp.float32)
    ramp = crossfade(hop, "linear")

    def sound(frames, hops):
        return jnp.sin(between(frames[:, 0], ramp) * frames[1:, 1:] + hops[:, None])

    def value(frames, hops, blocks):
        made = over_hops(sound, frames, hops, hop) if blocks else sound(frames, hops)
        return jnp.sum(made**3), made

    slope = jax.grad(value, (0, 1), has_aux=True)
    wanted, whole = slope(frames, hops, False)
    found, made = slope(frames, hops, True)
    np.testing.assert_allclose(made, whole, atol=1e-6)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
