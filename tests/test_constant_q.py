import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from ddspx.constant_q import (
    C2_HZ,
    constant_q,
    constant_q_frequencies,
    rainbowgram,
)

RATE = 8000
SMALL = dict(hop_length=128, bins=36, bins_per_octave=12, filter_scale=0.5)
# The recipe of the rainbowgram.
RAINBOW = dict(hop_length=256, bins=240, bins_per_octave=40, filter_scale=0.8)


def by_librosa_s_filters(audio, rate, hop_length, bins, bins_per_octave, filter_scale):
    """librosa's wavelets applied at the full rate, in float64."""
    filters, lengths = librosa.filters.wavelet(
        freqs=constant_q_frequencies(bins, bins_per_octave),
        sr=rate,
        filter_scale=filter_scale,
        pad_fft=True,
    )
    size = filters.shape[1]
    padded = np.pad(audio.astype(float), (size // 2, size // 2))
    starts = range(0, len(audio) + 1, hop_length)
    frames = np.stack([padded[s : s + size] for s in starts], axis=1)
    return np.sqrt(lengths)[:, None] * (np.conj(filters) @ frames)


@pytest.mark.optimized
def test_bins_are_librosa_s_filters(rng):
    audio = rng.standard_normal(9000).astype(np.float32)
    expected = by_librosa_s_filters(audio, RATE, **SMALL)
    found = constant_q(audio, RATE, **SMALL)
    assert found.shape == (36, 71)
    np.testing.assert_allclose(found, expected, atol=3e-6 * np.abs(expected).max())


@pytest.mark.golden
def test_the_recipe_s_spectrum_is_near_librosa_s(golden):
    arrays = golden("rainbowgram")
    found = np.asarray(constant_q(arrays["audio"], 16000, **RAINBOW))
    scale = np.abs(arrays["cqt"]).max()
    np.testing.assert_allclose(found, arrays["cqt"], atol=0.025 * scale)


@pytest.mark.golden
def test_the_rainbowgram_is_the_recipe_s(golden):
    arrays = golden("rainbowgram")
    drawn = rainbowgram(arrays["cqt"])
    np.testing.assert_allclose(drawn.phase_change, arrays["dphase_over_pi"], atol=1e-5)
    np.testing.assert_allclose(drawn.level, arrays["mag01"], atol=1e-6)


def test_a_tone_has_its_level_its_bin_and_its_change_of_phase():
    frequencies = constant_q_frequencies(36, 12)
    hz = frequencies[20]
    audio = 0.5 * np.cos(2 * np.pi * hz * np.arange(8000) / RATE)
    spectrum = np.asarray(constant_q(audio.astype(np.float32), RATE, **SMALL))
    inner = spectrum[:, 20:-20]
    assert (np.abs(inner).argmax(0) == 20).all()
    square = 2 ** (2 / 12)
    length = 0.5 * (square + 1) / (square - 1) * RATE / hz
    np.testing.assert_allclose(np.abs(inner[20]), 0.25 * np.sqrt(length), rtol=1e-2)
    drawn = rainbowgram(spectrum)
    turns = hz * 128 / RATE
    change = 2 * (turns - np.round(turns))
    np.testing.assert_allclose(drawn.phase_change[20, 20:-20], change, atol=1e-3)


def test_jit_is_eager_batch_is_a_loop_and_gradients_are_those_of_a_linear_map(rng):
    audio = jnp.asarray(rng.standard_normal((2, 3000)), jnp.float32)
    whole = constant_q(audio, RATE, **SMALL)
    for one, spectrum in zip(audio, whole, strict=True):
        np.testing.assert_allclose(constant_q(one, RATE, **SMALL), spectrum, atol=1e-6)
    with jax.enable_x64(True):
        x, v = jnp.asarray(rng.standard_normal((2, 3000)))
        w = jnp.asarray(rng.standard_normal((36, 24)))

        def total(a):
            return jnp.sum(w * jnp.real(constant_q(a, RATE, **SMALL)))

        along = jnp.sum(jax.grad(total)(x) * v)
        np.testing.assert_allclose(along, total(v), rtol=1e-9)


def test_silence_is_black_and_bins_past_the_rate_are_refused():
    drawn = rainbowgram(constant_q(np.zeros(3000, np.float32), RATE, **SMALL))
    assert not np.asarray(drawn.level).any()
    with pytest.raises(ValueError, match="84 bins from 65"):
        constant_q(np.zeros(100, np.float32), 2000)
    with pytest.raises(ValueError, match="must be 1 or more"):
        constant_q(np.zeros(0, np.float32), RATE)
    assert pytest.approx(65.406, abs=1e-3) == C2_HZ
