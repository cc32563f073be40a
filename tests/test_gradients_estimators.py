"""Estimators on functions whose gradient is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.parameters import ParameterSpec
from styletransfer.gradients import (
    central_differences,
    coordinates,
    forward_differences,
    orthogonal,
    spsa,
    steps_for,
)
from styletransfer.gradients.directions import orthogonal_signs, sign_basis

EPSILON = 0.05
FAMILY = {
    "spsa": spsa(EPSILON, 3),
    "orthogonal": orthogonal(EPSILON, 3),
    "orthogonal-forward": orthogonal(EPSILON, 3, one_sided=True),
    "central": central_differences(EPSILON),
    "forward": forward_differences(EPSILON),
}
PAIRED = {name: FAMILY[name] for name in ("spsa", "orthogonal", "central")}


def linear(slope):
    return lambda points: points @ slope


def estimates(estimator, function, controls, draws=4000, seed=0):
    """Gradients [draws, n] of `function` of points [renders, n] under many keys."""

    @jax.jit
    def one(key):
        plan = estimator.plan(key, controls)
        return estimator.scalar(plan, function(plan.points))

    return np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(seed), draws)))


def assert_mean(samples, truth, standard_errors=4.5, floor=1e-4):
    error = samples.std(0) / np.sqrt(len(samples))
    np.testing.assert_array_less(
        np.abs(samples.mean(0) - truth), standard_errors * error + floor
    )


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 8, 11, 12, 16, 21, 26, 28, 36, 52])
def test_sign_basis_is_a_regular_matrix_of_signs(n):
    basis = sign_basis(n)
    assert set(np.unique(basis)) <= {-1.0, 1.0}
    smallest = np.linalg.eigvalsh(basis @ basis.T)[0]
    assert smallest > 0.99
    if n in (1, 2, 8, 12, 16, 28, 36):
        np.testing.assert_array_equal(basis @ basis.T, n * np.eye(n))


def test_sign_basis_needs_a_control():
    with pytest.raises(ValueError, match="n = 0"):
        sign_basis(0)


def test_rows_of_a_hadamard_order_are_orthogonal_and_random():
    rows = np.asarray(orthogonal_signs(jax.random.key(1), 5, 12))
    np.testing.assert_array_equal(rows @ rows.T, 12 * np.eye(5))
    other = np.asarray(orthogonal_signs(jax.random.key(2), 5, 12))
    assert np.any(rows != other)


@pytest.mark.parametrize("name", FAMILY)
def test_plan_keeps_its_promises(name):
    estimator = FAMILY[name]
    controls = jnp.asarray([0.0, 0.02, 0.5, 0.99, 1.0, 1.3, -0.2])
    plan = jax.jit(estimator.plan)(jax.random.key(0), controls)
    assert plan.points.shape == (estimator.renders(7), 7)
    assert plan.points.dtype == jnp.float32
    np.testing.assert_array_equal(plan.points[0], np.clip(controls, 0, 1))
    assert plan.points.min() >= 0.0 and plan.points.max() <= 1.0
    assert np.all(np.isfinite(plan.weights))


@pytest.mark.parametrize("name", PAIRED)
def test_unbiased_on_a_quadratic(name, rng):
    root = rng.normal(size=(6, 6)).astype(np.float32)
    matrix, centre = root @ root.T, rng.random(6, dtype=np.float32) * 0.6 + 0.2

    def quadratic(points):
        return 0.5 * jnp.einsum("ri,ij,rj->r", points, matrix, points)

    samples = estimates(PAIRED[name], quadratic, centre)
    assert_mean(samples, matrix @ centre, floor=1e-3)


@pytest.mark.parametrize("name", FAMILY)
def test_unbiased_also_at_the_border_by_the_realised_difference(name, rng):
    slope = rng.normal(size=6).astype(np.float32)
    controls = np.asarray([0.0, 1.0, 0.01, 0.97, 0.5, 1.0], np.float32)
    if name == "orthogonal-forward":  # which holds controls still at the border
        controls = np.full(6, 0.4, np.float32)
    assert_mean(estimates(FAMILY[name], linear(slope), controls), slope)


@pytest.mark.parametrize("n,one_sided", [(7, True), (21, False)])
def test_orthogonal_equals_exact_differences_at_full_rank(n, one_sided, rng):
    slope = rng.normal(size=n).astype(np.float32)
    step = rng.uniform(0.01, 0.1, n).astype(np.float32)
    controls = rng.uniform(0.1, 0.9, n).astype(np.float32)
    estimator = orthogonal(step, n, one_sided=one_sided)
    got = estimates(estimator, linear(slope), controls, draws=5)
    exact = estimates(central_differences(step), linear(slope), controls, draws=1)
    np.testing.assert_allclose(got, np.tile(exact, (5, 1)), atol=2e-3)
    np.testing.assert_allclose(exact[0], slope, atol=2e-4)


def test_orthogonal_is_exact_in_a_corner_and_beyond_full_rank(rng):
    slope = rng.normal(size=5).astype(np.float32)
    corner = np.asarray([0, 1, 1, 0, 1], np.float32)
    for pairs in (13,):
        got = estimates(orthogonal(EPSILON, pairs), linear(slope), corner, draws=4)
        np.testing.assert_allclose(got, np.tile(slope, (4, 1)), atol=1e-4)


@pytest.mark.parametrize("n,pairs", [(13, 4)])
def test_relative_error_follows_the_formulas(n, pairs, rng):
    slope = rng.normal(size=n).astype(np.float32)
    controls = np.full(n, 0.5, np.float32)

    members = (
        spsa(EPSILON, pairs),
        orthogonal(EPSILON, pairs),
        orthogonal(EPSILON, pairs, scaling="projection"),
    )

    @jax.jit
    @jax.vmap
    def errors(key):
        plans = [member.plan(key, controls) for member in members]
        found = [
            m.scalar(p, p.points @ slope) for m, p in zip(members, plans, strict=True)
        ]
        return jnp.stack([jnp.sum((g - slope) ** 2) for g in found])

    got = np.mean(errors(jax.random.split(jax.random.key(0), 6000)), 0)
    want = np.asarray([(n - 1) / pairs, (n - pairs) / pairs, (n - pairs) / n])
    np.testing.assert_allclose(got / np.sum(slope**2), want, rtol=0.08)


@pytest.mark.parametrize("name", ["spsa", "orthogonal-forward"])
def test_a_prior_is_a_control_variate(name, rng):
    slope = rng.normal(size=7).astype(np.float32)
    proxy = slope + 0.1 * rng.normal(size=7).astype(np.float32)
    controls = np.full(7, 0.5, np.float32)
    estimator = FAMILY[name]

    @jax.jit
    @jax.vmap
    def both(key):
        plan = estimator.plan(key, controls)
        losses = plan.points @ slope
        values = losses - plan.points @ proxy
        return (
            estimator.scalar(plan, losses, proxy),
            proxy + estimator.scalar(plan, values),
            estimator.scalar(plan, losses),
        )

    keys = jax.random.split(jax.random.key(0), 2000)
    prior, subtracted, plain = map(np.asarray, both(keys))
    np.testing.assert_allclose(prior, subtracted, atol=2e-4)
    assert_mean(prior, slope)
    assert np.std(prior - slope) < 0.3 * np.std(plain - slope)


@pytest.mark.parametrize("name", FAMILY)
def test_vector_form_equals_scalar_form_on_a_linear_effect(name, rng):
    mixing = rng.normal(size=(7, 2 * 30)).astype(np.float32)
    cotangent = rng.normal(size=(2, 30)).astype(np.float32)
    controls = jnp.asarray(rng.random(7, dtype=np.float32))
    estimator = FAMILY[name]

    @jax.jit
    def both(controls, prior):
        plan = estimator.plan(jax.random.key(3), controls)
        audio = (plan.points @ mixing).reshape(-1, 2, 30)
        losses = jnp.einsum("rct,ct->r", audio, cotangent)
        return [
            (
                estimator.vector(plan, audio, cotangent, *guess),
                estimator.scalar(plan, losses, *guess),
            )
            for guess in ((), (prior,))
        ]

    for vector, scalar in both(controls, jnp.ones(7)):
        np.testing.assert_allclose(vector, scalar, rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize("name", ["orthogonal-forward"])
def test_jit_is_eager_and_vmap_is_a_loop(name, rng):
    estimator = FAMILY[name]
    controls = jnp.asarray(rng.random((3, 5), dtype=np.float32))
    keys = jax.random.split(jax.random.key(0), 3)
    slope = jnp.arange(5.0)

    def one(key, controls):
        plan = estimator.plan(key, controls)
        return plan.points, estimator.scalar(plan, plan.points @ slope)

    batched = jax.jit(jax.vmap(one))(keys, controls)
    for i in range(3):
        for got, alone in zip(batched, one(keys[i], controls[i]), strict=True):
            np.testing.assert_allclose(got[i], alone, rtol=1e-5, atol=1e-4)


def test_pairs_move_every_control_by_its_own_step():
    step = np.asarray([0.01, 0.1, 0.3], np.float32)
    for estimator in (spsa(step, 2), orthogonal(step, 2)):
        plan = jax.jit(estimator.plan)(jax.random.key(0), jnp.full(3, 0.5))
        np.testing.assert_allclose(
            np.abs(plan.moves), np.tile(2 * step, (2, 1)), rtol=1e-5
        )


SCALE = np.asarray([5.0, 0.1, 1.0, 0.5, 3.0, 0.2, 0.7])


@pytest.mark.parametrize("one_sided", [True, False])
def test_coordinates_measures_the_largest_and_trusts_the_prior(one_sided, rng):
    slope = rng.normal(size=7).astype(np.float32)
    prior = rng.normal(size=7).astype(np.float32)
    estimator = coordinates(EPSILON, SCALE, 3, one_sided=one_sided)
    controls = jnp.asarray([0.0, 1.0, 1.0, 0.5, 0.99, 0.3, 0.2])
    plan = estimator.plan(jax.random.key(0), controls)
    assert plan.points.shape == (estimator.renders(7), 7)
    assert plan.points.min() >= 0.0 and plan.points.max() <= 1.0
    got = estimator.scalar(plan, plan.points @ slope, prior)
    largest = [0, 2, 4]
    want = prior.copy()
    want[largest] = slope[largest]
    np.testing.assert_allclose(got, want, atol=2e-4)


def test_coordinates_drawn_by_chance_are_unbiased(rng):
    slope = (SCALE * rng.normal(size=7)).astype(np.float32)
    estimator = coordinates(EPSILON, SCALE, 3, scaling="unbiased")
    samples = estimates(estimator, linear(slope), np.full(7, 0.5, np.float32))
    assert_mean(samples, slope, floor=1e-3)
    # The two largest are always measured: min(1, c s) is 1 for them.
    np.testing.assert_allclose(samples[:, [0, 4]].std(0), 0.0, atol=1e-3)
    assert np.all((samples != 0).sum(1) <= 3)


def test_steps_are_two_quanta_at_least():
    specs = [
        ParameterSpec("fine_db"),
        ParameterSpec("coarse_hz", quantum=0.02),
        ParameterSpec("mode", choices=("a", "b", "c", "d")),
    ]
    np.testing.assert_allclose(steps_for(specs, 0.01), [0.01, 0.04, 0.5])
    np.testing.assert_allclose(steps_for(specs, [0.1, 0.1, 0.1]), [0.1, 0.1, 0.5])


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: spsa(0.0), "epsilon"),
        (lambda: orthogonal(0.6), "epsilon"),
        (lambda: central_differences([[0.1]]), "epsilon"),
        (lambda: spsa(0.1, 0), "pairs"),
        (lambda: orthogonal(0.1, 2, scaling="best"), "scaling 'best'"),
        (lambda: coordinates(0.1, [1.0, 0.0], 1), "scale must be positive"),
        (lambda: coordinates(0.1, [1.0, 2.0], 3), "count 3 exceeds the 2"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
