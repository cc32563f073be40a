"""DDSP networks: parity with the original, recurrences in blocks, sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx import parameter_losses as distances
from ddspx.models import ddsp_autoencoder as models
from ddspx.models.ddsp_autoencoder import DecoderConfig, count_parameters, make_networks
from ddspx.models.recurrence import GruLayer, ParallelRecurrence
from ddspx.rates import fft_size, sizes_at

SIZES = {"amplitude": 1, "harmonic_distribution": 6, "noise_magnitudes": 5}
SMALL = DecoderConfig(channels=8, layers=1, units=8)


@pytest.mark.golden
def test_the_decoder_is_that_of_ddsp(golden, monkeypatch):
    arrays = golden("ddsp_tf_decoder")
    config = DecoderConfig(channels=16, layers=2, units=16)
    weights = [arrays[name] for name in sorted(arrays) if name[0] == "w"]
    params = models.from_keras(weights, config)
    # The stored inputs are in network units already.
    monkeypatch.setattr(models, "network_unit", lambda name, curve: curve)
    inputs = {"loudness_db": arrays["ld"], "f0_hz": arrays["f0s"]}
    outputs, _ = jax.jit(make_networks(config, SIZES).decode)(params, inputs)
    names = ("out_amps", "out_harmonic_distribution", "out_noise_magnitudes")
    for made, name in zip(outputs.values(), names, strict=True):
        np.testing.assert_allclose(made, arrays[name], atol=5e-6)
    with pytest.raises(ValueError, match="28 arrays of weights"):
        models.from_keras(weights[:-1], config)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (DecoderConfig(), 4_801_150),
        (DecoderConfig(layers=0, units=256, channels=256), 232_314),
    ],
)
def test_presets_of_ddsp_have_their_number_of_weights(config, count):
    sizes = {"amplitude": 1, "harmonic_distribution": 60, "noise_magnitudes": 65}
    # The second is its tiny preset, whose last stack has no layer either.
    assert count_parameters(config, sizes) == count


@pytest.mark.parametrize("layer", [GruLayer(4), ParallelRecurrence(4)])
def test_recurrences_in_blocks_are_the_whole(layer, rng):
    sound = jnp.asarray(rng.normal(size=(2, 9, 3)), jnp.float32)
    params = layer.init(jax.random.key(0), sound)
    whole, last = jax.jit(layer.apply)(params, sound)
    state, parts = None, []
    for at in (slice(0, 2), slice(2, 3), slice(3, 9)):
        part, state = layer.apply(params, sound[:, at], state)
        parts.append(part)
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-6)
    np.testing.assert_allclose(state, last, atol=1e-6)
    np.testing.assert_allclose(last, whole[:, -1], atol=1e-6)


def test_the_parallel_recurrence_is_its_equation(rng):
    sound = rng.normal(size=(7, 3)).astype(np.float32)
    layer = ParallelRecurrence(2)
    params = layer.init(jax.random.key(1), sound)
    driven = sound @ np.asarray(params["params"]["input"]["kernel"])
    gate, new = 1 / (1 + np.exp(-driven[:, :2])), driven[:, 2:]
    h, wanted = np.zeros(2), []
    for z, n in zip(gate, new, strict=True):
        h = (1 - z) * h + z * n
        wanted.append(h)
    np.testing.assert_allclose(layer.apply(params, sound)[0], wanted, atol=1e-6)


def test_latents_do_not_hear_the_level_and_drive_the_decoder(rng):
    config = DecoderConfig(
        channels=8, layers=1, units=8, latents=3, encoder_units=8, coefficients=5
    )
    networks = make_networks(config, SIZES)
    encode, decode = jax.jit(networks.encode), jax.jit(networks.decode)
    params = jax.jit(networks.init)(jax.random.key(0))
    mfcc = rng.normal(size=(6, 5)).astype(np.float32)
    z = encode(params, mfcc)
    # The norm over frames takes off what is constant: a gain in dB.
    np.testing.assert_allclose(encode(params, mfcc + 3.0), z, atol=1e-4)
    curves = {"f0_hz": np.full(6, 440.0), "loudness_db": np.zeros(6), "z": z}
    one = decode(params, curves)[0]["amplitude"]
    other = decode(params, {**curves, "z": z + 1.0})[0]["amplitude"]
    assert not np.allclose(one, other)
    with pytest.raises(ValueError, match="no curve for z"):
        networks.decode(params, {"f0_hz": one, "loudness_db": one})


def test_network_units():
    np.testing.assert_allclose(models.network_unit("f0_hz", [440.0]), [[69 / 127]])
    np.testing.assert_allclose(
        models.network_unit("loudness_db", [-80.0, 0.0]), [[0.0], [1.0]]
    )


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"units": 0}, "units 0"),
        ({"inputs": ("loudness_db",)}, "driven by"),
        ({"latents": -1}, "latents -1"),
    ],
)
def test_bad_decoders_are_refused(given, named):
    with pytest.raises(ValueError, match=named):
        DecoderConfig(**given)


# ------------------------------------------------------------------------------- sizes


def test_sizes_at_16_khz_are_those_of_ddsp():
    sizes = sizes_at(16000)
    assert sizes.hop == 64 and sizes.frame_rate_hz == 250.0
    assert sizes.harmonics == 60 and sizes.noise_bins == 65
    assert sizes.fft_sizes == (2048, 1024, 512, 256, 128, 64)
    assert sizes.loudness_fft == 512


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_sizes_follow_the_rate(rate):
    sizes = sizes_at(rate)
    assert sizes.harmonics * 132.0 < rate / 2 <= (sizes.harmonics + 1) * 132.0
    assert abs(sizes.frame_rate_hz / 250.0 - 1) < 0.02
    for size, at_16_khz in zip(sizes.fft_sizes, sizes_at(16000).fft_sizes, strict=True):
        # Within a sixth of an octave of the same length in seconds, and whole hops.
        assert 0.8 < (size / rate) / (at_16_khz / 16000) < 1.25 and size % 4 == 0
    spacing = rate / 2 / (sizes.noise_bins - 1)
    assert abs(spacing / 125.0 - 1) < 0.02


def test_the_nearest_length_is_a_power_of_two_or_three_times_one():
    assert [fft_size(s, 1) for s in (1.0, 5.0, 96.0, 110.0, 120.0)] == [
        4,
        4,
        96,
        96,
        128,
    ]
    with pytest.raises(ValueError, match="hop 0"):
        sizes_at(100)
    with pytest.raises(ValueError, match="must be positive"):
        sizes_at(16000, frame_rate_hz=0.0)


# --------------------------------------------------------------------------- distances


def test_distances_of_parameters():
    target = {
        "f0_hz": np.array([220.0, 440.0]),
        "amplitude": np.array([0.1, 0.3]),
        "harmonic_distribution": np.array([[0.5, 0.5], [1.0, 0.0]]),
        "noise_magnitudes": np.array([[0.01, 0.1], [1.0, 1.0]]),
    }
    moved = {
        "f0_hz": np.array([440.0, 440.0]),
        "amplitude": np.array([0.01, 0.3]),
        "harmonic_distribution": np.array([[1.0, 0.0], [0.0, 1.0]]),
        "noise_magnitudes": np.array([[0.1, 0.1], [1.0, 1.0]]),
    }
    found = distances.harmonic_distance(moved, target)
    assert found["parameters/f0_semitones"] == pytest.approx(6.0, rel=1e-5)
    assert found["parameters/amplitude_db"] == pytest.approx(10.0, rel=1e-5)
    # A quarter of the amplitude is in the first frame, of which half is moved.
    assert found["parameters/harmonic_distribution"] == pytest.approx(0.875, rel=1e-5)
    found = distances.noise_distance(moved, target)
    assert found["parameters/noise_db"] == pytest.approx(5.0, rel=1e-5)
    assert distances.latent_distance(np.ones((2, 3, 4)), np.zeros((2, 3, 4))).shape == (
        2,
    )
    none = {**distances.harmonic_distance(target, target)}
    assert max(float(value) for value in none.values()) == 0.0
