"""The harmonic synth against magenta's numbers and its plain form in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks import synths_plain

from ddspx.synths.base import stream
from ddspx.synths.harmonic import harmonic, highest_harmonic, normalized
from ddspx.synths.phase import phase_turns
from ddspx.synths.scaling import exp_sigmoid, sym_exp_sigmoid

RATE, HOP, HARMONICS = 16000, 64, 12
KEY = jax.random.key(0)


def controls_of(rng, frames, harmonics, dtype=np.float32, lead=()):
    """Glides of an octave and more, so that harmonics come and go within hops."""
    return {
        "f0_hz": rng.uniform(200.0, 1500.0, (*lead, frames)).astype(dtype),
        "amplitude": rng.uniform(0.1, 1.0, (*lead, frames)).astype(dtype),
        "harmonic_distribution": rng.uniform(0, 1, (*lead, frames, harmonics)).astype(
            dtype
        ),
    }


def exact(controls, upsampling="window", hop=HOP):
    """The plain form in float64."""
    with jax.enable_x64(True):
        wide = {name: jnp.asarray(c, jnp.float64) for name, c in controls.items()}
        return np.asarray(synths_plain.harmonic(wide, RATE, hop, upsampling))


def test_scalings_are_those_of_magenta(golden):
    arrays = golden("ddsp_tf_core")
    found = exp_sigmoid(arrays["scale_in"])
    np.testing.assert_allclose(found, arrays["exp_sigmoid"], rtol=2e-6)
    found = sym_exp_sigmoid(arrays["scale_in"])
    np.testing.assert_allclose(found, arrays["sym_exp_sigmoid"], rtol=2e-6)
    slope = jax.grad(lambda x: jnp.sum(exp_sigmoid(x)))(jnp.array([-200.0, 0.0, 90.0]))
    assert np.all(np.isfinite(slope)) and slope[1] > 0


@pytest.mark.parametrize("upsampling", ["window", "linear"])
def test_controls_and_sound_are_those_of_magenta(golden, upsampling):
    arrays = golden("ddsp_tf_synths")
    synth = harmonic(RATE, HOP, HARMONICS, upsampling=upsampling)
    outputs = {"amplitude": arrays["amps"], "harmonic_distribution": arrays["hd"]}
    controls = synth.to_controls({**outputs, "f0_hz": arrays["f0"][..., 0]})
    for name, wanted in (
        ("amplitude", arrays["ctl_amplitudes"][..., 0]),
        ("harmonic_distribution", arrays["ctl_hd"]),
    ):
        np.testing.assert_allclose(controls[name], wanted, rtol=1e-5, atol=1e-6)
    audio = np.asarray(jax.jit(jax.vmap(synth.render, (0, None)))(controls, KEY))
    for example, found in enumerate(audio):
        wanted = exact({n: c[example] for n, c in controls.items()}, upsampling)
        np.testing.assert_allclose(found, wanted, atol=2e-5)
        # Magenta adds up phases in float32: we are as far from it as float64 is.
        for angular in "01":
            theirs = arrays[f"harmonic_{upsampling}_ang{angular}"][example]
            drift = np.max(np.abs(theirs - wanted))
            assert drift < 2e-2
            assert np.max(np.abs(found - theirs)) < drift + 2e-5


def test_streaming_ends_at_the_phase_of_magenta(golden):
    arrays = golden("ddsp_tf_synths")
    synth = harmonic(RATE, HOP, HARMONICS, upsampling="linear")
    process = jax.jit(synth.core.process)
    for example in range(2):
        controls = {
            "f0_hz": arrays["f0"][example, :, 0],
            "amplitude": arrays["ctl_amplitudes"][example, :, 0],
            "harmonic_distribution": arrays["ctl_hd"][example],
        }
        held = {name: np.concatenate([c, c[-1:]]) for name, c in controls.items()}
        phase, audio = process(synth.core.init_state(KEY), held)
        wanted = arrays["streaming_final_phase"][example, 0, 0] / (2 * np.pi)
        apart = float(phase_turns(phase)) - wanted
        assert abs(apart - round(apart)) < 1e-4
        # Their sum of float32 phases is some 2e-2 off by the end.
        found = np.asarray(audio)[: 10 * HOP]
        theirs = arrays["streaming_audio"][example][: 10 * HOP]
        np.testing.assert_allclose(found, theirs, atol=5e-3)


def test_a_hundred_harmonics_are_100_db_from_float64(rng):
    controls = controls_of(rng, 40, 100)
    controls["f0_hz"] *= np.float32(0.1)
    found = np.asarray(jax.jit(harmonic(RATE, HOP, 100).render)(controls, KEY))
    wanted = exact(controls)
    # Phases themselves are 1e-7 rad off, a hundred times that in the last harmonic.
    noise = np.sum((found - wanted) ** 2) / np.sum(wanted**2)
    assert -10 * np.log10(noise) > 100.0


def test_nothing_from_half_the_sample_rate_is_heard():
    render = jax.jit(harmonic(RATE, HOP, 2).render)

    def sound(f0_hz, shares):
        controls = {
            "f0_hz": np.full(3, f0_hz, np.float32),
            "amplitude": np.ones(3, np.float32),
            "harmonic_distribution": np.tile(np.float32(shares), (3, 1)),
        }
        return np.asarray(render(controls, KEY))

    assert np.all(sound(8000.0, [1.0, 1.0]) == 0.0)
    assert np.all(sound(4000.0, [0.0, 1.0]) == 0.0)
    assert np.max(np.abs(sound(3990.0, [0.0, 1.0]))) > 0.9
    numbers = highest_harmonic(np.array([0.0, 4000.0, 4001.0, 2666.0]), RATE)
    np.testing.assert_array_equal(numbers, [np.inf, 1.0, 1.0, 3.0])
    # A share of nothing stays nothing.
    assert np.all(np.asarray(normalized(np.zeros((2, 3), np.float32))) == 0.0)


@pytest.mark.parametrize("harmonics, elsewhere", [(1, False), (13, False), (13, True)])
def test_slopes_are_those_of_the_plain_form_in_float64(
    rng, harmonics, elsewhere, monkeypatch
):
    if elsewhere:  # as on an accelerator
        monkeypatch.setattr("ddspx.synths.harmonic._A_TURN", {})
    hop, frames = 40, 9
    controls = controls_of(rng, frames, harmonics, np.float64, (2,))
    weights = rng.normal(size=(2, frames * hop))
    synth = harmonic(RATE, hop, harmonics)

    def ours(controls, weights):
        return jnp.sum(synth.render(controls, KEY) * weights)

    def plain(controls, weights):
        return jnp.sum(synths_plain.harmonic(controls, RATE, hop) * weights)

    with jax.enable_x64(True):
        slopes = [jax.jit(jax.vmap(jax.value_and_grad(f))) for f in (ours, plain)]
        controls = {name: jnp.asarray(c) for name, c in controls.items()}
        found, wanted = (slope(controls, weights) for slope in slopes)
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-8)
        for name, slope in wanted[1].items():
            assert slope.dtype == jnp.float64
            scale = np.max(np.abs(slope))
            np.testing.assert_allclose(found[1][name], slope, atol=1e-8 * scale)


def test_long_sounds_in_blocks_are_streams_and_have_their_slopes(rng):
    # Longer than what is rendered at once, and no multiple of it.
    frames = 301
    controls = controls_of(rng, frames, 5)
    synth = harmonic(RATE, HOP, 5)

    whole = jax.jit(synth.render)(controls, KEY)
    assert whole.shape == (frames * HOP,)
    parts = (
        {name: c[start : start + 7] for name, c in controls.items()}
        for start in range(0, frames, 7)
    )
    joined = np.concatenate(list(stream(synth, parts, KEY)))
    # Phases are the same bits; XLA rounds sums of short loops differently.
    np.testing.assert_allclose(joined, whole, rtol=0, atol=2e-6)
    slopes = jax.jit(jax.grad(lambda c: jnp.sum(synth.render(c, KEY) ** 2)))(controls)
    with jax.enable_x64(True):
        wide = {name: jnp.asarray(c, jnp.float64) for name, c in controls.items()}
        wanted = jax.jit(
            jax.grad(lambda c: jnp.sum(synths_plain.harmonic(c, RATE, HOP) ** 2))
        )(wide)
    for name, slope in wanted.items():
        scale = np.max(np.abs(slope))
        np.testing.assert_allclose(slopes[name], slope, atol=1e-3 * scale)


def test_none_is_heard_as_none():
    controls = controls_of(np.random.default_rng(0), 4, 5)
    controls["f0_hz"][2] = np.nan
    audio = np.asarray(jax.jit(harmonic(RATE, HOP, 5).render)(controls, KEY))
    assert np.all(np.isfinite(audio[:HOP])) and np.any(np.isnan(audio[HOP:]))


def test_wrong_sizes_are_refused_with_what_was_passed():
    with pytest.raises(ValueError, match="got 0"):
        harmonic(RATE, HOP, 0)
    controls = controls_of(np.random.default_rng(0), 4, 5)
    with pytest.raises(ValueError, match=r"\[frames, 6\], got \(5, 5\)"):
        harmonic(RATE, HOP, 6).render(controls, KEY)
