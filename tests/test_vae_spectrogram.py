"""Front-ends: there and back, at any rate."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.features import log_mel
from vae import spectrogram
from vae.spectrogram import SpectrogramConfig

SMALL = SpectrogramConfig(
    sample_rate=16000, samples=8192, fft_size=512, hop_length=128, mel_bands=64
)


@pytest.fixture(scope="module")
def sound():
    """A gliding harmonic tone over soft noise."""
    rng = np.random.default_rng(0)
    t = np.arange(SMALL.samples) / SMALL.sample_rate
    phase = 2 * np.pi * (180 * t + 60 * t**2)
    tone = sum(np.sin(k * phase) / k for k in range(1, 8))
    noise = 0.01 * rng.normal(size=t.size)
    return (0.2 * tone * np.hanning(t.size) + noise).astype(np.float32)


def test_log_mel_is_the_one_of_features(sound):
    wanted = log_mel(
        sound, 16000, fft_size=512, hop_length=128, mel_bands=64, floor_db=-80.0
    )
    found = spectrogram.features(SMALL, sound)
    assert found.shape == (SMALL.frames, SMALL.bins) == (65, 64)
    assert SMALL.elements == 65 * 64
    np.testing.assert_allclose(found * 20 - 40, wanted.T, atol=1e-3)


@pytest.mark.parametrize(
    ("scale", "least_db"),
    [("magnitude", 90), ("power_law", 90), ("decibel", 70), ("log_mel", 12)],
)
def test_there_and_back_with_the_phase(sound, scale, least_db):
    config = dataclasses.replace(SMALL, scale=scale)
    image = spectrogram.features(config, sound)
    phase = spectrogram.spectrum(config, sound)
    back = spectrogram.synthesize(config, image, phase)
    assert back.shape == sound.shape
    error = np.mean((np.asarray(back) - sound) ** 2) / np.mean(sound**2)
    assert -10 * np.log10(error) > least_db


def test_a_waveform_is_its_own_image(sound):
    config = dataclasses.replace(
        SMALL, scale="waveform", offset=0.0, spread=0.1, hop_length=256
    )
    assert (config.frames, config.bins) == (32, 256)
    image = spectrogram.features(config, sound)
    np.testing.assert_allclose(0.1 * image.ravel(), sound, atol=1e-6)
    back = spectrogram.synthesize(config, image)
    np.testing.assert_allclose(back, sound, atol=1e-6)
    spectra = spectrogram.spectrum(config, sound)
    levels = spectrogram.magnitude(config, image)
    np.testing.assert_allclose(levels, np.abs(spectra), atol=1e-4)
    with pytest.raises(ValueError, match="multiple of hop_length 300"):
        dataclasses.replace(config, hop_length=300)


@pytest.mark.parametrize("scale", ["power_law", "log_mel"])
def test_griffin_lim_finds_a_sound_of_these_magnitudes(sound, scale):
    """Spectral convergence in dB; zero phase, as the tutorial has it, is far worse."""
    config = dataclasses.replace(SMALL, scale=scale)
    wanted = spectrogram.magnitude(config, spectrogram.features(config, sound))

    def convergence(audio):
        found = jnp.abs(spectrogram.spectrum(config, audio))
        return float(jnp.linalg.norm(found - wanted) / jnp.linalg.norm(wanted))

    image = spectrogram.features(config, sound)
    ours = convergence(spectrogram.synthesize(config, image))
    zero = convergence(
        spectrogram.synthesize(config, image, jnp.ones_like(wanted) + 0j)
    )
    assert ours < 0.12 and ours < 0.3 * zero
    again = spectrogram.synthesize(config, image, key=jax.random.key(0))
    np.testing.assert_array_equal(again, spectrogram.synthesize(config, image))


def test_silence_and_gradients_are_finite():
    for scale in ("magnitude", "power_law", "decibel", "log_mel"):
        config = dataclasses.replace(SMALL, scale=scale)
        quiet = jnp.zeros(SMALL.samples)
        image, slope = jax.value_and_grad(
            lambda x, c=config: jnp.sum(spectrogram.features(c, x))
        )(quiet)
        assert np.isfinite(image) and np.all(np.isfinite(slope))
        back = spectrogram.synthesize(config, spectrogram.features(config, quiet))
        np.testing.assert_allclose(back, 0.0, atol=1e-6)


def test_short_sound_is_padded_and_long_refused(sound):
    padded = np.pad(sound[:1000], (0, SMALL.samples - 1000))
    np.testing.assert_array_equal(
        spectrogram.features(SMALL, sound[:1000]), spectrogram.features(SMALL, padded)
    )
    with pytest.raises(ValueError, match="8193 samples"):
        spectrogram.features(SMALL, np.zeros(8193, np.float32))


def test_bad_configuration():
    with pytest.raises(ValueError, match="spread"):
        SpectrogramConfig(spread=0.0)
    with pytest.raises(ValueError, match="1 or more"):
        SpectrogramConfig(hop_length=0)
    assert SpectrogramConfig().db_per_unit == 20.0
    assert SpectrogramConfig(scale="magnitude").db_per_unit is None
