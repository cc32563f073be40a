"""Objectives and schedules against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae import objectives, schedules
from vae.information import kl_divergence


def test_distortion_is_a_likelihood(rng):
    error = rng.normal(size=(3, 7)).astype(np.float32)
    found = objectives.gaussian_distortion((error**2).sum(1), 7, 0.5)
    density = np.exp(-(error.astype(float) ** 2) / (2 * 0.5)) / np.sqrt(2 * np.pi * 0.5)
    np.testing.assert_allclose(found, -np.log(density).sum(1), rtol=1e-5)


def test_optimal_variance_minimises_the_distortion(rng):
    squared = (rng.normal(size=16) ** 2 * 5 + 1).astype(np.float32)
    best = objectives.optimal_variance(squared, 5)

    def mean(variance):
        return jnp.mean(objectives.gaussian_distortion(squared, 5, variance))

    assert abs(float(jax.grad(mean)(best))) < 1e-4
    assert mean(best) < min(mean(best * 1.1), mean(best * 0.9))


def test_rates_of_a_batch():
    divergence = jnp.array([[1.0, 0.0, 2.0], [3.0, 0.2, 0.0]])
    np.testing.assert_allclose(objectives.beta_rate(divergence, 2.0), [6.0, 6.4])
    np.testing.assert_allclose(
        objectives.capacity_rate(divergence, 10.0, 4.0), [9.0, 9.0], rtol=1e-5
    )
    np.testing.assert_allclose(
        objectives.free_bits_rate(divergence, 0.5), [3.5, 3.5], rtol=1e-6
    )
    slope = jax.grad(lambda d: jnp.sum(objectives.free_bits_rate(d, 0.5)))(divergence)
    assert np.all(slope[:, 1] == 0.0) and np.all(slope[:, 0] > 0.0)


def test_decomposition_adds_up_and_sees_correlation(rng):
    """Codes whose two latents are equal have total correlation; independent ones none.

    z ~ N(0, rho): the aggregate is Gaussian, TC = -1/2 ln(1 - rho^2).
    """
    n, noise = 2000, 0.2
    x = rng.normal(size=(n, 2)) * np.sqrt(1 - noise)
    for columns, wanted in (((0, 1), 0.0), ((0, 0), -0.5 * np.log(1 - 0.8**2))):
        mean = x[:, columns].astype(np.float32)
        log_variance = np.full((n, 2), np.log(noise), np.float32)
        codes = mean + np.sqrt(noise) * rng.normal(size=(n, 2)).astype(np.float32)
        parts = objectives.decompose(codes, mean, log_variance, n)
        assert float(jnp.mean(parts.total_correlation)) == pytest.approx(
            wanted, abs=0.08
        )
        total = sum(float(jnp.mean(part)) for part in parts)
        divergence = float(jnp.mean(kl_divergence(mean, log_variance).sum(-1)))
        assert total == pytest.approx(divergence, abs=0.06)
        assert abs(float(jnp.mean(parts.dimension_wise))) < 0.05
        plain = objectives.total_correlation_rate(parts, 1.0)
        np.testing.assert_allclose(jnp.mean(plain), total, rtol=1e-4)
    with pytest.raises(ValueError, match="batch"):
        objectives.decompose(codes, mean, log_variance, 10)


def test_stratified_weights_sum_to_one():
    weights = np.exp(objectives._stratified(8, 1000))
    np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-12)


def test_geco_raises_the_weight_until_the_target_is_met():
    """Distortion 1 / w: the fixed point is w = 1 / target."""
    log_weight = jnp.array(0.0)
    for _ in range(400):
        log_weight = objectives.geco_multiplier(
            log_weight, jnp.exp(-log_weight), 0.1, rate=0.02
        )
    np.testing.assert_allclose(jnp.exp(log_weight), 10.0, rtol=1e-2)


def test_schedules():
    line = schedules.linear(0.0, 4.0, 100)
    np.testing.assert_allclose([line(0), line(50), line(500)], [0, 2, 4])
    wave = schedules.cosine(1.0, 0.0, 10)
    np.testing.assert_allclose([wave(0), wave(5), wave(99)], [1, 0.5, 0], atol=1e-7)
    saw = schedules.cyclic(0.0, 1.0, 100, cycles=4)
    steps = [0, 5, 12, 20, 24, 25, 30, 99, 100, 1000]
    np.testing.assert_allclose(
        [saw(k) for k in steps], [0, 0.4, 0.96, 1, 1, 0, 0.4, 1, 1, 1], atol=1e-6
    )
    assert schedules.constant(3.0)(7) == 3.0
    with pytest.raises(ValueError, match="step"):
        schedules.linear(0.0, 1.0, 0)
    with pytest.raises(ValueError, match="ramp"):
        schedules.cyclic(0.0, 1.0, 10, 1, ramp=0.0)
