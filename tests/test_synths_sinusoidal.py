"""The sinusoidal synth against the plain form, the harmonic one and magenta's heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks import synths_plain

from ddspx.synths import scaling
from ddspx.synths.base import stream
from ddspx.synths.sinusoidal import sinusoidal

RATE, HOP, SINES = 16000, 40, 5
KEY = jax.random.key(0)


def controls_of(rng, frames, dtype=np.float32):
    """Frequencies that cross half the sample rate, from both sides."""
    return {
        "frequencies_hz": rng.uniform(100.0, 9000.0, (frames, SINES)).astype(dtype),
        "amplitudes": rng.uniform(0.1, 1.0, (frames, SINES)).astype(dtype),
    }


def test_heads_are_those_of_magenta(golden):
    arrays = golden("ddsp_tf_core")
    outputs = arrays["freqs_in"]
    for name, found in (
        ("softmax_d16", scaling.frequencies_softmax(outputs.reshape(2, 10, 4, 16))),
        ("sigmoid_d1", scaling.frequencies_sigmoid(outputs[..., None])),
        (
            "critical_bands",
            scaling.frequencies_critical_bands(outputs[..., :32, None]),
        ),
    ):
        np.testing.assert_allclose(found, arrays[f"frequencies_{name}"], rtol=2e-6)


def test_deep_sigmoids_share_the_range():
    high = scaling.frequencies_sigmoid(np.full((1, 3), 50.0, np.float32), 20.0, 8000.0)
    low = scaling.frequencies_sigmoid(np.full((1, 3), -50.0, np.float32), 20.0, 8000.0)
    # All at their highest give the whole range in Hz; the least is the last one's
    # lowest above two of MIDI note 0.
    np.testing.assert_allclose(high, 7980.0, rtol=1e-5)
    np.testing.assert_allclose(low, 20.0 + 2 * 8.1758, rtol=1e-5)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_sound_and_slopes_are_those_of_the_plain_form_in_float64(
    rng, elsewhere, monkeypatch
):
    if elsewhere:  # as on an accelerator; more sines a turn than there are, too
        monkeypatch.setattr("ddspx.synths.sinusoidal._A_TURN", {"cpu": SINES + 2})
    synth = sinusoidal(RATE, HOP, SINES, upsampling="linear")
    weights = rng.normal(size=9 * HOP)

    def ours(controls):
        return jnp.sum(synth.render(controls, KEY) * weights)

    def plain(controls):
        audio = synths_plain.sinusoidal(controls, RATE, HOP, "linear")
        return jnp.sum(audio * weights)

    with jax.enable_x64(True):
        controls = controls_of(rng, 9, np.float64)
        found, wanted = (
            jax.jit(jax.value_and_grad(f))(controls) for f in (ours, plain)
        )
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-8)
        for name, slope in wanted[1].items():
            scale = np.max(np.abs(slope))
            np.testing.assert_allclose(found[1][name], slope, atol=1e-8 * scale)


def test_long_sounds_in_blocks_are_streams_near_float64(rng):
    frames = 411
    controls = controls_of(rng, frames)
    synth = sinusoidal(RATE, HOP, SINES)
    whole = np.asarray(jax.jit(synth.render)(controls, KEY))
    parts = (
        {name: c[start : start + 137] for name, c in controls.items()}
        for start in range(0, frames, 137)
    )
    joined = np.concatenate(list(stream(synth, parts, KEY)))
    # Phases are the same bits; XLA rounds sums of short loops differently.
    np.testing.assert_allclose(joined, whole, rtol=0, atol=2e-6)
    with jax.enable_x64(True):
        wide = {name: jnp.asarray(c, jnp.float64) for name, c in controls.items()}
        wanted = synths_plain.sinusoidal(wide, RATE, HOP)
    np.testing.assert_allclose(whole, wanted, atol=1e-5)


@pytest.mark.parametrize("head", ["sigmoid", "softmax", "critical_bands"])
def test_outputs_become_controls_below_half_the_sample_rate(rng, head):
    synth = sinusoidal(RATE, HOP, SINES, head=head, depth=2)
    outputs = {
        name: 4.0 * rng.normal(size=(2, 3, size)).astype(np.float32)
        for name, size in synth.sizes.items()
    }
    controls = synth.to_controls(outputs)
    for control in controls.values():
        assert control.shape == (2, 3, SINES) and control.dtype == jnp.float32
    frequencies = np.asarray(controls["frequencies_hz"])
    assert np.all((frequencies > 0) & (frequencies <= RATE / 2))


def test_wrong_choices_are_refused_with_what_was_passed():
    with pytest.raises(ValueError, match="got 0 of depth 1"):
        sinusoidal(RATE, HOP, 0)
    controls = controls_of(np.random.default_rng(0), 3)
    with pytest.raises(ValueError, match=r"frequencies_hz is \[frames, 4\]"):
        sinusoidal(RATE, HOP, 4).render(controls, KEY)
