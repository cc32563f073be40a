"""The wavetable synth against magenta, its plain form, and the spectrum it may have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks import synths_plain

from ddspx.synths.base import stream
from ddspx.synths.wavetable import wavetable

RATE, HOP, SIZE = 16000, 64, 32
KEY = jax.random.key(0)


def controls_of(rng, frames, dtype=np.float32):
    return {
        "f0_hz": rng.uniform(100.0, 2000.0, frames).astype(dtype),
        "amplitude": rng.uniform(0.1, 1.0, frames).astype(dtype),
        "wavetable": rng.normal(size=(frames, SIZE)).astype(dtype),
    }


def test_a_fixed_table_is_read_as_magenta_and_as_float64(golden):
    arrays = golden("ddsp_tf_synths")
    for example, table in enumerate(arrays["wavetable"]):
        controls = {
            "f0_hz": arrays["f0"][example, :, 0],
            "amplitude": arrays["ctl_amplitudes"][example, :, 0],
        }
        found = jax.jit(wavetable(RATE, HOP, table).render)(controls, KEY)
        moving = {**controls, "wavetable": np.tile(table, (50, 1))}
        with jax.enable_x64(True):
            wide = {name: jnp.asarray(c, jnp.float64) for name, c in moving.items()}
            wanted = np.asarray(synths_plain.wavetable(wide, RATE, HOP))
        np.testing.assert_allclose(found, wanted, atol=2e-5)
        # Magenta's float32 sum of phases is as far from float64 as from us.
        theirs = arrays["wavetable_synth"][example]
        drift = np.max(np.abs(theirs - wanted))
        assert drift < 5e-3
        assert np.max(np.abs(found - theirs)) < drift + 2e-5
        if example:
            continue
        same = jax.jit(wavetable(RATE, HOP, len(table)).render)(moving, KEY)
        np.testing.assert_allclose(same, found, atol=1e-6)


def test_sound_and_slopes_are_those_of_the_plain_form_in_float64(rng):
    synth = wavetable(RATE, HOP, SIZE)
    weights = rng.normal(size=6 * HOP)

    def ours(controls):
        return jnp.sum(synth.render(controls, KEY) * weights)

    def plain(controls):
        return jnp.sum(synths_plain.wavetable(controls, RATE, HOP) * weights)

    with jax.enable_x64(True):
        controls = controls_of(rng, 6, np.float64)
        # The first sample lies on an entry, where the wave has two slopes: start late.
        weights[0] = 0.0
        found, wanted = (
            jax.jit(jax.value_and_grad(f))(controls) for f in (ours, plain)
        )
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-8)
        for name, slope in wanted[1].items():
            scale = np.max(np.abs(slope))
            np.testing.assert_allclose(found[1][name], slope, atol=1e-8 * scale)


def test_a_limited_table_has_no_harmonic_that_reaches_half_the_sample_rate():
    # A saw of 256 entries at 1100 Hz: 7 harmonics fit.
    saw = np.linspace(-1.0, 1.0, 256, endpoint=False).astype(np.float32)
    frames = 250
    controls = {
        "f0_hz": np.full(frames, 1100.0, np.float32),
        "amplitude": np.ones(frames, np.float32),
    }
    levels = []
    for limit in (False, True):
        synth = wavetable(RATE, HOP, saw, band_limit=limit)
        audio = np.asarray(jax.jit(synth.render)(controls, KEY))
        spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
        hz = np.fft.rfftfreq(len(audio), 1 / RATE)
        beside = np.min(np.abs(hz[:, None] - 1100.0 * np.arange(8)), 1) > 10.0
        levels.append(20 * np.log10(np.max(spectrum[beside]) / np.max(spectrum)))
    # What is folded back, without and with the limit.
    assert levels[0] > -25.0 and levels[1] < -60.0


def test_long_sounds_in_blocks_are_streams(rng):
    frames = 201
    controls = controls_of(rng, frames)
    synth = wavetable(RATE, HOP, SIZE, band_limit=True)
    whole = np.asarray(jax.jit(synth.render)(controls, KEY))
    parts = (
        {name: c[start : start + 67] for name, c in controls.items()}
        for start in range(0, frames, 67)
    )
    joined = np.concatenate(list(stream(synth, parts, KEY)))
    # Phases are the same bits; XLA rounds sums of short loops differently.
    np.testing.assert_allclose(joined, whole, rtol=0, atol=2e-6)


def test_outputs_become_controls():
    outputs = {
        "amplitude": np.zeros((2, 3, 1), np.float32),
        "wavetable": np.ones((2, 3, SIZE), np.float32),
        "f0_hz": np.full((2, 3), 200.0, np.float32),
    }
    controls = wavetable(RATE, HOP, SIZE).to_controls(outputs)
    assert {name: c.shape for name, c in controls.items()} == {
        "f0_hz": (2, 3),
        "amplitude": (2, 3),
        "wavetable": (2, 3, SIZE),
    }
    fixed = wavetable(RATE, HOP, np.ones(8, np.float32))
    assert fixed.sizes == {"amplitude": 1} and "wavetable" not in fixed.to_controls(
        outputs
    )


def test_what_is_no_period_is_refused():
    for table, said in ((1, "got 1"), (np.zeros((2, 3)), r"shape \(2, 3\)")):
        with pytest.raises(ValueError, match=said):
            wavetable(RATE, HOP, table)
    controls = controls_of(np.random.default_rng(0), 3)
    with pytest.raises(ValueError, match=r"wavetable is \[frames, 8\]"):
        wavetable(RATE, HOP, 8).render(controls, KEY)
