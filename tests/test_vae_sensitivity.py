"""Sensitivity estimates against outputs whose variance is known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae import jacobian, sensitivity, size

A, B, C = 1.0, 0.5, 0.3


def interacting(z):
    """g = (a z1 + b z1 z2, c z2^3): total variance a^2 + b^2 + 15 c^2."""
    z = jnp.asarray(z)
    return jnp.stack(
        [A * z[..., 0] + B * z[..., 0] * z[..., 1], C * z[..., 1] ** 3], -1
    )


def normal(seed, pairs, latents):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, pairs, latents)).astype(np.float32)


def test_interacting_output_and_the_sandwich():
    a, b = normal(0, 200_000, 2)
    found = sensitivity.effects(lambda z: np.asarray(interacting(z)), a, b)
    total = found.total.mean(0)
    first = found.first.mean(0)
    np.testing.assert_allclose(total, [A**2 + B**2, 15 * C**2 + B**2], rtol=0.03)
    np.testing.assert_allclose(first, [A**2, 15 * C**2], rtol=0.04)
    np.testing.assert_allclose(
        found.variance.mean(), A**2 + B**2 + 15 * C**2, rtol=0.03
    )
    squares = np.asarray(jacobian.squared_derivatives(interacting, a[:100_000]))
    bound = squares.mean(0)
    np.testing.assert_allclose(bound, [A**2 + B**2, 27 * C**2 + B**2], rtol=0.03)
    assert np.all(first <= total * 1.02) and np.all(total <= bound * 1.02)


def test_derivatives_explode_where_variance_saturates():
    a, b = normal(1, 4000, 1)

    def circle(z):
        return jnp.concatenate([jnp.cos(3.0 * z), jnp.sin(3.0 * z)], -1)

    found = sensitivity.effects(lambda z: np.asarray(circle(z)), a, b)
    np.testing.assert_allclose(found.total.mean(), 1 - np.exp(-9.0), rtol=0.05)
    bound = np.mean(jacobian.squared_derivatives(circle, a[:64]))
    np.testing.assert_allclose(bound, 9.0, rtol=1e-4)


@pytest.fixture(scope="module")
def decoder():
    """A linear decoder of known column norms: two live, one dead, two alike."""
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    columns = [3.0 * basis[0], basis[1], 0.0 * basis[2], 2 * basis[3], 2 * basis[3]]
    return np.stack(columns, 1).astype(np.float32)


def test_linear_decoder_is_exact(decoder):
    a, b = normal(4, 20_000, 5)
    found = sensitivity.effects(lambda z: z @ decoder.T, a, b)
    np.testing.assert_allclose(found.total.mean(0), [9, 1, 0, 4, 4], rtol=0.05)
    assert np.all(found.total[:, 2] == 0.0)
    squares = jacobian.squared_derivatives(lambda z: jnp.asarray(decoder) @ z, a[:3])
    np.testing.assert_allclose(squares, np.tile([9, 1, 0, 4, 4], (3, 1)), atol=1e-5)
    spread = np.full((3, 5), 0.5, np.float32)
    local = jacobian.local_variance(lambda z: jnp.asarray(decoder) @ z, a[:3], spread)
    np.testing.assert_allclose(local, 0.25 * np.asarray(squares), rtol=1e-5)


def test_groups_name_what_a_latent_does():
    a, b = normal(5, 5000, 2)

    def output(z):
        return np.stack([z[:, 0], 2 * z[:, 0], 3 * z[:, 1]], -1)

    found = sensitivity.effects(output, a, b, groups={"band": np.array([0, 0, 1])})
    np.testing.assert_allclose(found.by_group["band"], [[5, 0], [0, 9]], rtol=0.06)
    np.testing.assert_allclose(
        found.by_group["band"].sum(1), found.total.mean(0), rtol=1e-9
    )


def test_rotation_of_the_output_changes_nothing():
    a, b = normal(6, 300, 3)
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 6))
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    plain = sensitivity.effects(lambda z: np.tanh(z @ weights), a, b)
    turned = sensitivity.effects(lambda z: np.tanh(z @ weights) @ turn, a, b)
    np.testing.assert_allclose(plain.total, turned.total, rtol=1e-9)
    np.testing.assert_allclose(plain.first, turned.first, atol=1e-9)


def test_rotated_latents_are_seen_by_the_subspace_alone():
    rng = np.random.default_rng(8)
    norms = np.sqrt([8.0, 3.0, 1.0, 0.2, 0.0])
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    weights = jnp.asarray(np.diag(norms) @ turn, jnp.float32)
    codes = rng.normal(size=(20_000, 5)).astype(np.float32)
    spectrum = jacobian.subspace_spectrum(lambda z: weights @ z, codes)
    np.testing.assert_allclose(spectrum, norms**2, rtol=0.05, atol=1e-5)
    each = np.mean(jacobian.squared_derivatives(lambda z: weights @ z, codes[:4]), 0)
    assert each.min() > 0.2


def test_drop_curve_and_proposal(decoder):
    a, b = normal(9, 2000, 5)
    output = jax.jit(lambda z: z @ decoder.T)
    order = sensitivity.backward_elimination(output, a[:500], b[:500])
    # Dead first; the duplicate pair carries 8 + 8 as one direction, latent 1 least.
    assert order[0] == 2 and order[1] == 1
    curve = size.drop_curve(output, a, b, order)
    fidelity = curve.fidelity()
    assert fidelity[0] == 0.0 and fidelity[-1] == 1.0
    assert np.all(np.diff(fidelity) > -1e-9)
    found = size.propose(curve, "fidelity", 1.0)
    assert found.keep == 4 and found.latents == 5
    assert "4 of 5" in found.sentence()
    assert size.propose(curve, "fidelity", 0.9).keep == 3
    assert sum(found.frequency.values()) == pytest.approx(1.0)
    # Everything but latent 1 (deviation 1, so sqrt(2) when redrawn) is louder than 1.6.
    assert size.propose(curve, "audible", 1.6).keep == 3
    assert size.propose(curve, "audible", 0.1).keep == 4


def test_of_a_duplicate_only_one_may_go():
    """The first two latents are one number told twice, and half of each is used."""
    a, b = normal(10, 4000, 3)
    a[:, 1], b[:, 1] = a[:, 0], b[:, 0]
    weights = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.8]], np.float32)
    sets = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]], bool)
    lost = sensitivity.drop_sets(lambda z: z @ weights, a, b, sets).mean(0)
    np.testing.assert_allclose(lost, [1.0, 1.0, 4.0], rtol=0.06)


def test_shuffled_keeps_marginals_and_breaks_correlation(rng):
    x = rng.normal(size=2000)
    codes = np.stack([x, 2 * x + 0.01 * rng.normal(size=2000)], 1)
    a, b = sensitivity.shuffled(codes, 5000, rng)
    assert a.dtype == np.float32 and a.shape == b.shape == (5000, 2)
    assert abs(np.corrcoef(a.T)[0, 1]) < 0.05
    np.testing.assert_allclose(a.std(0), codes.std(0), rtol=0.05)


def test_interval_covers(rng):
    values = rng.normal(size=(400, 2)) + np.array([0.0, 5.0])
    estimate, low, high = sensitivity.interval(values, lambda v: v.mean(0), rng)
    assert np.all(low < estimate) and np.all(estimate < high)
    np.testing.assert_allclose(high - low, 2 * 1.96 / 20, rtol=0.25)


def test_bad_input():
    a, b = normal(0, 10, 2)
    with pytest.raises(ValueError, match="two draws"):
        sensitivity.effects(lambda z: z, a[:1], b[:1])
    with pytest.raises(ValueError, match="NaN"):
        sensitivity.effects(lambda z: z * np.nan, a, b)
    with pytest.raises(ValueError, match="permutation"):
        size.drop_curve(lambda z: z, a, b, np.array([0, 0]))
    curve = size.drop_curve(lambda z: z, a, b, np.array([0, 1]))
    with pytest.raises(ValueError, match="fidelity"):
        size.propose(curve, "fidelity", 1.5)
