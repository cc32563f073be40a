"""Encoder-side measures against closed forms, disentanglement on known codes."""

import jax
import numpy as np
import pytest

from vae import disentanglement as scores
from vae import information


def test_divergence_of_known_posteriors():
    mean = np.array([[0.0, 3.0, 1.0]], np.float32)
    log_variance = np.log(np.array([[1.0, 1.0, 0.25]], np.float32))
    found = information.kl_divergence(mean, log_variance)
    wanted = [0.0, 4.5, 0.5 * (1 + 0.25 - np.log(0.25) - 1)]
    np.testing.assert_allclose(found[0], wanted, rtol=1e-6)


def test_information_of_a_gaussian_channel_and_of_an_offset(rng):
    """z = x + n: I = 1/2 ln(1 + signal / noise). An offset has 4.5 nats and none."""
    x = rng.normal(size=1500)
    noise = np.array([0.25, 1.0, 1.0])
    mean = np.stack([x, x, np.full_like(x, 3.0)], 1).astype(np.float32)
    log_variance = np.tile(np.log(noise), (1500, 1)).astype(np.float32)
    found = information.mutual_information(mean, log_variance, jax.random.key(0))
    np.testing.assert_allclose(found[:2], 0.5 * np.log1p(1 / noise[:2]), atol=0.03)
    assert abs(float(found[2])) < 1e-5
    with pytest.raises(ValueError, match="two examples"):
        information.mutual_information(mean[:1], log_variance[:1], jax.random.key(0))


def test_signal_fraction_of_the_linear_optimum(rng):
    """Var(mu) = 1 - tau/lambda and s^2 = tau/lambda add up to 1."""
    ratio = np.array([0.1, 0.5, 1.0])
    mean = rng.normal(size=(20_000, 3)) * np.sqrt(1 - ratio)
    log_variance = np.tile(np.log(ratio), (20_000, 1))
    found = information.signal_fraction(
        mean.astype(np.float32), log_variance.astype(np.float32)
    )
    np.testing.assert_allclose(found, 1 - ratio, atol=0.02)
    variance = information.mean_variance(mean.astype(np.float32))
    assert list(np.asarray(variance) > information.ACTIVE_VARIANCE) == [1, 1, 0]


def test_redundancy_sees_what_repeats(rng):
    x = rng.normal(size=(4000, 3))
    rho = 0.9
    codes = np.stack(
        [x[:, 0], rho * x[:, 0] + np.sqrt(1 - rho**2) * x[:, 1], x[:, 2]], 1
    )
    found = information.redundancy(np.append(codes, np.ones((4000, 1)), 1))
    np.testing.assert_allclose(found, [rho**2, rho**2, 0, 0], atol=0.02)
    exact = information.redundancy(np.append(codes[:, [0, 2]], codes[:, :1], 1))
    np.testing.assert_allclose(exact, [1, 0, 1], atol=0.01)
    with pytest.raises(ValueError, match="more than 3"):
        information.redundancy(codes[:3])


@pytest.fixture(scope="module")
def factors():
    return np.random.default_rng(1).random((5000, 3))


def test_scores_of_a_perfect_code(factors):
    codes = np.append(factors[:, [2, 0, 1]] * [1, -2, 5], np.zeros((5000, 1)), 1)
    assert scores.mig(codes, factors) > 0.97
    assert scores.modularity(codes, factors) > 0.99
    assert scores.sap(codes, factors) > 0.97
    table = scores.mutual_information_matrix(codes, factors)
    assert table.shape == (4, 3) and np.all(table[3] == 0)
    np.testing.assert_allclose(table.max(0), np.log(20), rtol=0.02)
    found = scores.dci_from_importance(table)
    assert found.disentanglement > 0.97 and found.completeness > 0.97


def test_scores_of_mixed_and_of_empty_codes(factors):
    # Each latent has 4/9, 4/9 and 1/9 of the factors' variance: two lead, no gap.
    mixed = (factors - 0.5) @ (np.eye(3) - 2.0 / 3.0)
    assert scores.mig(mixed, factors) < 0.05
    assert scores.sap(mixed, factors) < 0.05
    noise = np.random.default_rng(2).random((5000, 4))
    assert scores.mig(noise, factors) < 0.01
    assert scores.sap(noise, factors) < 0.01
    even = scores.dci_from_importance(np.ones((4, 3)))
    assert even.disentanglement < 1e-9 and even.completeness < 1e-9
    assert scores.modularity(np.zeros((5000, 2)), factors) == 0.0


def test_spread_codes_are_modular_but_leave_no_gap(factors):
    """Each factor told by two latents: modular, disentangled, not complete."""
    codes = np.concatenate([factors, factors**3], 1)
    assert scores.modularity(codes, factors) > 0.99
    assert scores.mig(codes, factors) < 0.02
    found = scores.dci_from_importance(scores.mutual_information_matrix(codes, factors))
    assert found.disentanglement > 0.95 and found.completeness < 0.7


def test_factor_vae_score(rng):
    def draw(source, count):
        return source.random((count, 3))

    turn = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    options = {"votes": 200, "batch": 32}
    right = scores.factor_vae_score(lambda f: 3 * f[:, ::-1], draw, 3, rng, **options)
    mixed = scores.factor_vae_score(lambda f: f @ turn, draw, 3, rng, **options)
    assert right == 1.0 and 0.2 < mixed < 0.9
    assert scores.factor_vae_score(lambda f: 0 * f, draw, 3, rng) == 0.0


def test_gaps_need_two(factors):
    with pytest.raises(ValueError, match="two latents"):
        scores.mig(factors[:, :1], factors)
    with pytest.raises(ValueError, match="two or more"):
        scores.modularity(factors, factors[:, :1])
