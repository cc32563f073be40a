"""Whole analyses against outputs whose answer is known in closed form."""

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from vae.analysis import AnalysisOptions, analyze
from vae.linear import linear_optimum, water_level
from vae.outputs import (
    Grouping,
    Output,
    decoder_output,
    level_output,
    parameters_output,
)
from vae.preflight import preflight
from vae.size import drop_curve, propose
from vae.spectrogram import SpectrogramConfig, features, from_spectrum, spectrum

EIGENVALUES = np.array([9.0, 4.0, 2.0, 1.2, 0.6, 0.3])
TAU, LATENTS = 1.0, 5
OPTIMUM = linear_optimum(EIGENVALUES, TAU, LATENTS)
FEW = AnalysisOptions(pairs=64, derivative_examples=2, gram_examples=2)


def exact_normal(rng, count, columns):
    """Normal draws of mean exactly 0 and covariance exactly the identity."""
    x = rng.normal(size=(count, columns))
    x -= x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / count)).T


def estimates(found, name):
    return np.array([getattr(d, name).value for d in found.dimensions])


def output_of(function, elements, **options):
    """An output from a JAX function of codes, scaled as outputs are."""

    def of(codes):
        return function(jnp.asarray(codes)).reshape(len(codes), -1) / elements**0.5

    return Output("test", "units", of, elements, **options)


def white_posterior(latents, count=64):
    """A posterior that has all of the prior's variance in its means."""
    rng = np.random.default_rng(0)
    mean = exact_normal(rng, count, latents) * np.sqrt(1 - 1e-6)
    return mean, np.full((count, latents), np.log(1e-6))


@pytest.fixture(scope="module")
def linear_vae():
    """The optimum of a linear VAE set by hand, on data of just these eigenvalues."""
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    x = (exact_normal(rng, 512, 6) * np.sqrt(EIGENVALUES)) @ turn.T
    gain = np.sqrt(OPTIMUM.total_effect)
    decoder = turn[:, :LATENTS] * gain
    mean = x @ turn[:, :LATENTS] * (gain / EIGENVALUES[:LATENTS])
    log_variance = np.tile(np.log(OPTIMUM.posterior_variance), (512, 1))
    return x, mean, log_variance, jnp.asarray(decoder, jnp.float32)


def squared_error_of(x, decoder):
    def squared_error(codes, rows):
        made = np.asarray(codes, np.float64) @ np.asarray(decoder, np.float64).T
        return np.sum((x[rows] - made) ** 2, 1)

    return squared_error


def analyze_linear(linear_vae, **options):
    x, mean, log_variance, decoder = linear_vae
    return analyze(
        mean,
        log_variance,
        decoder_output(lambda z: (z @ decoder.T).reshape(-1, 2, 3), (2, 3)),
        squared_error=squared_error_of(x, decoder),
        tau=TAU,
        preflight=preflight(x, LATENTS, TAU),
        options=AnalysisOptions(clamp_examples=512, **options),
    )


def test_linear_optimum_to_a_millionth(linear_vae):
    found = analyze_linear(linear_vae, distribution="prior", clamp_codes="mean")
    close: Any = {"rtol": 2e-6, "atol": 2e-6}
    np.testing.assert_allclose(estimates(found, "kl"), OPTIMUM.kl, **close)
    variance = [d.mean_variance for d in found.dimensions]
    np.testing.assert_allclose(variance, OPTIMUM.active_units, **close)
    share = estimates(found, "signal_fraction")
    np.testing.assert_allclose(share, OPTIMUM.active_units, **close)
    assert [d.active for d in found.dimensions] == [1, 1, 1, 1, 0]
    bound = 6 * estimates(found, "bound")
    np.testing.assert_allclose(bound, OPTIMUM.total_effect, **close)
    local = 6 * estimates(found, "local_variance")
    np.testing.assert_allclose(local, OPTIMUM.local_variance, **close)
    assert found.saturation == pytest.approx(1.0, rel=1e-5)
    np.testing.assert_allclose(
        6 * np.array(found.subspace), OPTIMUM.total_effect, **close
    )
    clamp = OPTIMUM.total_effect + TAU - TAU**2 / np.maximum(EIGENVALUES[:5], TAU)
    np.testing.assert_allclose(estimates(found, "clamp"), clamp, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.pca, OPTIMUM.active_units, **close)
    # Estimates by sampling: exact for the fourth, which is off, near for the others.
    total = 6 * estimates(found, "total")
    np.testing.assert_allclose(total, OPTIMUM.total_effect, rtol=0.02)
    first = 6 * estimates(found, "first")
    np.testing.assert_allclose(first, OPTIMUM.total_effect, rtol=0.05)
    assert total[4] == first[4] == found.noise_floor == 0.0
    assert found.order == (0, 1, 2, 3, 4)
    fidelity = [e.value for e in found.fidelity]
    np.testing.assert_allclose(fidelity[1:], OPTIMUM.fidelity(), atol=0.01)
    assert found.proposal("fidelity").keep == 3
    assert found.warnings == ()
    assert "Keep 3 of 5 latents" in found.advice


def test_linear_optimum_of_sampled_codes(linear_vae):
    found = analyze_linear(linear_vae, clamp_codes="sampled")
    clamp, worth = estimates(found, "clamp"), estimates(found, "worth")
    np.testing.assert_allclose(clamp, OPTIMUM.total_effect, rtol=0.15, atol=0.2)
    for d, wanted in zip(found.dimensions, OPTIMUM.net_worth, strict=True):
        assert d.worth is not None
        assert d.worth.low - 0.05 < wanted < d.worth.high + 0.05
    assert worth[4] == 0.0
    assert found.proposal("worth").high >= 3 and found.proposal("active").keep <= 4
    # Var(mu)^2 under the codes' own distribution has covariance near the identity.
    np.testing.assert_allclose(
        6 * estimates(found, "total"), OPTIMUM.total_effect, rtol=0.2
    )
    for d, wanted in zip(found.dimensions, OPTIMUM.total_effect, strict=True):
        assert d.total.low <= d.total.value <= d.total.high
        assert 0.8 * d.total.low <= wanted / 6 <= 1.2 * d.total.high


def test_total_effect_of_a_linear_map_is_that_of_its_draws():
    """1/2 E (a_i - b_i)^2 ||w_i||^2, to the last digits of float32."""
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(4, 9)).astype(np.float32)
    mean, log_variance = white_posterior(4)
    drawn = []

    def of(codes):
        drawn.append(np.array(codes))
        return np.asarray(codes) @ weights / 3.0

    output = Output("test", "units", of, 9, differentiable=False)
    options = AnalysisOptions(pairs=64, distribution="aggregate")
    found = analyze(mean, log_variance, output, options=options)
    # Calls: one code to learn the size, the centre, then A and B of all pairs.
    a, b = drawn[2], drawn[3]
    spread = 0.5 * np.mean((a.astype(float) - b) ** 2, 0)
    wanted = spread * np.sum(weights.astype(float) ** 2, 1) / 9
    np.testing.assert_allclose(estimates(found, "total"), wanted, rtol=3e-6)
    assert found.subspace is None and found.dimensions[0].bound is None


def test_interaction_and_the_sandwich():
    """g = (a z1 + b z1 z2, c z2^3)."""
    a, b, c = 1.0, 0.5, 0.3

    def g(z):
        return jnp.stack([a * z[:, 0] + b * z[:, 0] * z[:, 1], c * z[:, 1] ** 3], 1)

    mean, log_variance = white_posterior(2)
    options = AnalysisOptions(
        "prior", pairs=16384, derivative_examples=8192, gram_examples=1
    )
    many = np.tile(mean, (128, 1)), np.tile(log_variance, (128, 1))
    found = analyze(*many, output_of(g, 2), options=options)
    total = [a**2 + b**2, 15 * c**2 + b**2]
    np.testing.assert_allclose(2 * estimates(found, "total"), total, rtol=0.02)
    first = 2 * estimates(found, "first")
    np.testing.assert_allclose(first, [a**2, 15 * c**2], rtol=0.03)
    bound = 2 * estimates(found, "bound")
    np.testing.assert_allclose(bound, [a**2 + b**2, 27 * c**2 + b**2], rtol=0.03)
    variance = 2 * found.variance.value
    assert variance == pytest.approx(a**2 + b**2 + 15 * c**2, rel=0.02)


def test_oscillation_is_overrated_by_derivatives_alone():
    def g(z):
        return jnp.concatenate([jnp.cos(3.0 * z), jnp.sin(3.0 * z)], 1)

    mean, log_variance = white_posterior(1)
    options = AnalysisOptions("prior", pairs=512)
    found = analyze(mean, log_variance, output_of(g, 2), options=options)
    one = found.dimensions[0]
    assert 2 * one.total.value == pytest.approx(1 - np.exp(-9.0), rel=0.03)
    assert one.bound is not None
    assert 2 * one.bound.value == pytest.approx(9.0, rel=1e-4)


def test_gains_of_an_equalizer_are_exactly_linear_in_db():
    """Curves in dB on the STFT of any sound: sqrt(T_j) is the deviation of gain j."""
    front = SpectrogramConfig(
        8000, 4096, 256, 128, scale="decibel", offset=0.0, spread=1.0, floor_db=-300.0
    )
    rng = np.random.default_rng(3)
    sound = spectrum(front, rng.normal(size=4096).astype(np.float32))
    deviation = np.array([6.0, 3.0, 1.5, 0.2])
    bins = np.arange(front.bins) + 0.5
    curves = np.sqrt(2) * np.cos(np.pi * np.outer(np.arange(1, 5), bins) / front.bins)

    def image(codes):
        gain_db = jnp.asarray(codes) @ (deviation[:, None] * curves)
        turned = 10 ** (gain_db / 20)
        return from_spectrum(front, sound[None] * turned[:, :, None])

    mean, log_variance = white_posterior(4, 256)
    options = AnalysisOptions("prior", pairs=256, audible=0.5, derivative_examples=4)
    found = analyze(mean, log_variance, level_output(image, front), options=options)
    assert found.output == "log_stft" and found.unit == "dB"
    rms = np.array([d.rms for d in found.dimensions])
    np.testing.assert_allclose(rms, np.sqrt(2) * deviation, rtol=0.03)
    bound = np.sqrt(estimates(found, "bound"))
    np.testing.assert_allclose(bound, deviation, rtol=1e-4)
    # The last is 0.28 dB rms when redrawn: not heard by the rule.
    assert found.proposal("audible").keep == 3
    data = np.asarray(image(mean.astype(np.float32)))
    for beta, active in ((0.1, 3), (10.0, 2)):
        tau = water_level(beta, front.elements, "mean")
        told = preflight(data, 8, tau)
        assert told.predicted == told.lowest == active
    values = np.array(told.eigenvalues[:4]) * 255 / 256 / front.elements
    np.testing.assert_allclose(np.sqrt(values), deviation, rtol=1e-3)
    low, high = told.beta_for(3)
    assert low < 0.1 < high


def test_dead_duplicate_and_offset():
    rng = np.random.default_rng(4)
    x = exact_normal(rng, 512, 3)
    mean = np.stack([x[:, 0], x[:, 1], np.full(512, 3.0), x[:, 0], x[:, 2]], 1)
    log_variance = np.log(np.array([0.01, 0.01, 1.0, 0.01, 0.01]))
    log_variance = np.tile(log_variance, (512, 1))
    weights = np.diag([1.0, 2.0, 0.0, 0.0, 0.0])
    weights[3, 0] = 1.0

    def g(z):
        return z @ jnp.asarray(weights, jnp.float32)

    found = analyze(mean, log_variance, output_of(g, 5))
    total = estimates(found, "total")
    assert total[2] == total[4] == 0.0 and total[[0, 1, 3]].min() > 0.1
    assert found.dimensions[2].kl.value == pytest.approx(4.5)
    assert abs(found.dimensions[2].information.value) < 1e-6
    redundancy: Any = [d.redundancy for d in found.dimensions]
    assert redundancy[0] > 0.9 and redundancy[3] > 0.9 and redundancy[1] < 0.05
    told = " ".join(found.warnings)
    assert "Latents 0, 3 follow from the others" in told
    assert "Latent 2 costs divergence without information" in told
    assert "Latent 4 carries information that the output does not show" in told
    # Directions that matter: the second axis and the sum of the duplicates.
    assert np.sum(np.array(found.subspace) > 1e-6) == 2
    assert found.proposal("fidelity").keep == 3
    assert set(found.order[:3]) == {0, 1, 3}


def test_rotation_and_scale_of_latents():
    rng = np.random.default_rng(5)
    norms = np.sqrt([8.0, 3.0, 1.0, 0.2, 0.0, 0.0, 0.0, 0.0])
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    mean, log_variance = white_posterior(8, 256)
    fast: Any = {"pairs": 512, "derivative_examples": 4, "gram_examples": 4}
    options = AnalysisOptions("aggregate", **fast)

    def run(weights, scale: Any = 1.0):
        weights = jnp.asarray(weights / scale, jnp.float32)
        moved = log_variance + 2 * np.log(scale) * np.ones(8)
        return analyze(
            mean * scale, moved, output_of(lambda z: z @ weights, 8), options=options
        )

    plain, turned = run(np.diag(norms)), run(turn @ np.diag(norms))
    assert np.all(estimates(turned, "total") > 0.02)
    np.testing.assert_allclose(
        np.array(turned.subspace), np.array(plain.subspace), atol=1e-5
    )
    np.testing.assert_allclose(8 * np.array(turned.subspace), norms**2, atol=1e-4)
    assert turned.directions == 3 < turned.proposal("fidelity").keep
    assert any("directions" in words for words in turned.warnings)
    scale = np.array([10.0, 1.0, 1.0, 0.1, 1.0, 1.0, 1.0, 1.0])
    scaled = run(np.diag(norms) / scale[:, None] * scale, scale[None])
    ratio = [d.mean_variance for d in scaled.dimensions]
    before = np.array([d.mean_variance for d in plain.dimensions])
    np.testing.assert_allclose(ratio / before, scale**2, rtol=1e-6)


def test_noise_of_the_output_is_its_floor():
    rng = np.random.default_rng(6)
    mean, log_variance = white_posterior(3)

    def noisy(codes):
        found = np.stack([np.asarray(codes)[:, 0], np.zeros(len(codes))], 1)
        return found + 0.1 * rng.normal(size=found.shape)

    output = Output("host", "dB", noisy, 2, differentiable=False)
    found = analyze(mean, log_variance, output, options=AnalysisOptions(pairs=256))
    assert found.noise_floor == pytest.approx(2 * 0.01, rel=0.3)
    assert "no decoder sees" in found.warnings[0]


def test_controls_of_an_effect_name_what_a_latent_does():
    mean, log_variance = white_posterior(3, 256)

    def predict(codes):
        codes = jnp.asarray(codes)
        return 0.5 + jnp.stack([0.01 * codes[:, 2], 0.1 * codes[:, 0]], 1)

    output = parameters_output(predict, ["drive_db", "tone_hz"])
    found = analyze(
        mean, log_variance, output, options=AnalysisOptions(pairs=128, audible=0.01)
    )
    assert found.order[0] == 0 and found.unit == "of the range"
    names = [d.does for d in found.dimensions]
    assert names == ["100 % tone_hz", "", "100 % drive_db"]
    assert found.dimensions[0].rms == pytest.approx(0.1, rel=0.2)
    text = json.loads(found.to_json())
    assert text["group_labels"] == {"parameter": ["drive_db", "tone_hz"]}
    assert (
        text["dimensions"][0]["total"]["low"] < text["dimensions"][0]["total"]["high"]
    )


def test_bands_and_frames_name_what_a_latent_does():
    front = SpectrogramConfig(8000, 2048, 256, 128, mel_bands=32, offset=-40.0)
    image = np.zeros((2, front.frames, front.bins), np.float32)
    image[0, :, 28:] = 1.0
    image[1, :3] = 1.0

    def decode(codes):
        return jnp.tensordot(jnp.asarray(codes), jnp.asarray(image), 1)

    mean, log_variance = white_posterior(2)
    output = level_output(decode, front)
    found = analyze(mean, log_variance, output, options=AnalysisOptions(pairs=64))
    first, second = (d.does for d in found.dimensions)
    assert "to 4.0 kHz" in first and "all frames" in first
    assert "all bands" in second and "in 0.00 s to" in second
    assert set(found.group_labels) == {"band", "frame"}
    # What lies below the floor is not heard: the same change from silence is nothing.
    quiet = level_output(lambda z: decode(z) * 0.1 - 5.0, front)
    silent = analyze(mean, log_variance, quiet, options=AnalysisOptions(pairs=64))
    assert silent.variance.value == 0.0 and "at all" in silent.advice


@pytest.mark.parametrize("scale", ["power_law", "waveform"])
def test_linear_front_ends_are_judged_in_db_of_mel_bands(rng, scale):
    sound = (0.1 * rng.normal(size=2048)).astype(np.float32)
    options: Any = {
        "sample_rate": 8000,
        "samples": 2048,
        "fft_size": 256,
        "hop_length": 128,
    }
    wanted = SpectrogramConfig(**options, mel_bands=16, offset=0.0, spread=1.0)
    linear = SpectrogramConfig(
        **options, mel_bands=16, scale=scale, offset=0.2, spread=0.5
    )
    image = features(linear, sound)
    output = level_output(lambda z: image[None] + 0.0 * z[:, :, None], linear)
    levels = np.asarray(output.of(np.zeros((1, 1), np.float32)))[0]
    expected = np.asarray(features(wanted, sound)).ravel() / output.elements**0.5
    np.testing.assert_allclose(levels, expected, atol=1e-3 / output.elements**0.5)
    assert set(output.groupings["frame"].ids) == set(range(16))


def test_keep_all_says_why(linear_vae):
    x, _, _, _ = linear_vae
    mean, log_variance = white_posterior(2, 128)
    told = preflight(x, 2, TAU)
    assert told.predicted == 2 and told.wanted == 4
    assert "below eigenvalue 2" in told.sentence()
    found = analyze(
        mean,
        log_variance,
        output_of(lambda z: z, 2),
        preflight=told,
        options=AnalysisOptions(pairs=128),
    )
    assert found.proposal("fidelity").keep == 2
    assert "Keep all 2 latents" in found.advice
    assert "would use about 4 dimensions" in found.advice


def test_long_curves_are_refined_where_they_cross(rng):
    latents = 80
    gains = (0.9 ** np.arange(latents)).astype(np.float32)
    a, b = rng.normal(size=(2, 128, latents)).astype(np.float32)
    order = np.arange(latents)[::-1]
    calls = []

    def output(codes):
        calls.append(len(codes))
        return codes * gains

    curve = drop_curve(output, a, b, order, (0.9, 0.95))
    assert curve.evaluated.sum() < 60 and len(calls) < 65
    whole = np.cumsum((0.5 * (a - b) ** 2 * gains**2)[:, ::-1], 1)[:, ::-1].mean(0)
    fidelity = 1 - np.append(whole, 0) / whole[0]
    for share in (0.9, 0.95):
        assert propose(curve, "fidelity", share).keep == np.argmax(fidelity >= share)
    np.testing.assert_allclose(curve.fidelity(), fidelity, atol=0.02)


def test_prediction_where_noise_pretends_to_be_factors(rng):
    """3 factors in noise: 48 eigenvalues exceed the noise, 3 its edge."""
    x = rng.normal(size=(1000, 100))
    x[:, :3] *= 4.0
    found = preflight(x, 64, 1.0)
    assert found.noise == pytest.approx(1.0, rel=0.05)
    assert found.edge == pytest.approx((1 + np.sqrt(0.1)) ** 2, rel=0.05)
    assert 40 < found.wanted < 56
    assert sum(v > 1.05 * found.edge for v in found.eigenvalues) == 3
    # Judged on the other half, only factors stay above what noise can reach.
    cautious = preflight(x, 64, 1.5)
    assert cautious.lowest == 3 < cautious.predicted
    np.testing.assert_allclose(found.variance, 3 * 16 + 97, rtol=0.05)
    assert "no fixed water level" in preflight(x, 4).sentence()


def test_spectra_found_at_random_are_those_found_exactly(rng, monkeypatch):
    x = rng.normal(size=(300, 40)) * 0.8 ** np.arange(40)
    whole = preflight(x, 4, 0.1)
    monkeypatch.setattr("vae.preflight._EXACT", 16)
    some = preflight(x, 4, 0.1, components=12)
    np.testing.assert_allclose(some.eigenvalues, whole.eigenvalues[:12], rtol=1e-4)
    wanted = np.sort(np.linalg.eigvalsh(np.cov(x.T)))[::-1]
    np.testing.assert_allclose(whole.eigenvalues[:20], wanted[:20], rtol=1e-4)
    assert some.predicted == whole.predicted


def test_bad_input():
    mean, log_variance = white_posterior(2)
    output = output_of(lambda z: z, 2)
    with pytest.raises(ValueError, match="8 examples"):
        analyze(mean[:4], log_variance[:4], output)
    with pytest.raises(ValueError, match="NaN"):
        analyze(mean * np.nan, log_variance, output)
    with pytest.raises(ValueError, match="pairs"):
        AnalysisOptions(pairs=1)
    with pytest.raises(ValueError, match="fidelity"):
        AnalysisOptions(fidelity=1.5)
    with pytest.raises(ValueError, match="no proposal"):
        analyze(mean, log_variance, output, options=FEW).proposal("worth")
    with pytest.raises(ValueError, match="8 examples"):
        preflight(np.zeros((4, 3)), 2)
    assert Grouping(np.zeros(1, int), ("one",)).ordered
