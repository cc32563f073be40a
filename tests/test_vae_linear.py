"""The closed forms of the linear beta-VAE, against figures and against a solver."""

import numpy as np
import pytest

from vae.linear import (
    linear_optimum,
    marchenko_pastur_edge,
    tau_for_active,
    water_level,
)

EIGENVALUES = np.array([9.0, 4.0, 2.0, 1.2, 0.6, 0.3])


def test_values_of_a_known_spectrum():
    found = linear_optimum(EIGENVALUES[::-1], tau=1.0, latents=5)
    assert found.active == 4
    np.testing.assert_allclose(found.kl, [1.0986, 0.6931, 0.3466, 0.0912, 0], atol=1e-4)
    np.testing.assert_allclose(
        found.active_units, [0.8889, 0.75, 0.5, 0.1667, 0], atol=1e-4
    )
    np.testing.assert_allclose(found.total_effect, [8, 3, 1, 0.2, 0], atol=1e-12)
    np.testing.assert_allclose(found.reconstruction(), 4.9)
    np.testing.assert_allclose(found.reconstruction(sampled=False), 2.594, atol=1e-3)
    np.testing.assert_allclose(found.fidelity(), np.cumsum([8, 3, 1, 0.2, 0]) / 12.2)


def test_the_closed_form_minimises_the_objective():
    """Per component: encoder gain v, decoder gain w, posterior variance d."""
    tau, found = 1.0, linear_optimum(EIGENVALUES, 1.0, 6)

    def objective(lam, v, w, d):
        squared = lam * (1 - w * v) ** 2 + w**2 * d
        return 0.5 * squared / tau + 0.5 * (lam * v**2 + d - np.log(d) - 1)

    for i, lam in enumerate(EIGENVALUES):
        w = np.sqrt(found.total_effect[i])
        v = w / lam if lam > tau else 0.0
        d = found.posterior_variance[i]
        best = objective(lam, v, w, d)
        rng = np.random.default_rng(i)
        for step in rng.normal(scale=0.05, size=(200, 3)):
            other = objective(lam, v + step[0], w + step[1], d * np.exp(step[2]))
            assert other >= best - 1e-12
        # What a latent saves is its net worth.
        off = objective(lam, 0.0, 0.0, 1.0)
        np.testing.assert_allclose(off - best, found.net_worth[i], atol=1e-12)


def test_water_levels_of_losses():
    assert water_level(2.0, 10, "half_sum") == 2.0
    assert water_level(2.0, 10, "sum") == 1.0
    assert water_level(1e-4, 264321, "mean") == pytest.approx(13.216, abs=1e-3)
    # Velardo: 1e6 x mean squared error + KL over 256 x 64 pixels.
    assert water_level(1.0, 16384, "mean", weight=1e6) == pytest.approx(
        0.00819, rel=1e-3
    )
    with pytest.raises(ValueError, match="weight"):
        water_level(1.0, 10, "sum", weight=0.0)


def test_tau_for_a_wanted_size():
    for k in range(7):
        low, high = tau_for_active(EIGENVALUES, k)
        tau = min(max(low, 1e-3) * 1.01, 100.0)
        assert low < tau < high
        assert linear_optimum(EIGENVALUES, tau, 6).active == k
    with pytest.raises(ValueError, match="no tau"):
        tau_for_active(np.array([2.0, 1.0, 1.0]), 2)
    with pytest.raises(ValueError, match="0 to 6"):
        tau_for_active(EIGENVALUES, 7)


def test_noise_stays_below_its_edge(rng):
    noise = rng.normal(size=(1000, 100))
    largest = np.linalg.eigvalsh(np.cov(noise, rowvar=False))[-1]
    edge = marchenko_pastur_edge(1.0, 100, 1000)
    assert 0.9 * edge < largest < 1.05 * edge


def test_bad_input():
    with pytest.raises(ValueError, match="eigenvalues"):
        linear_optimum(np.array([1.0, -1.0]), 1.0, 2)
    with pytest.raises(ValueError, match="tau"):
        linear_optimum(np.array([1.0]), 0.0, 2)
