"""The rule that picks an estimator: within budget, and no worse than its rivals."""

import jax
import numpy as np
import pytest

from ddspx.parameters import ParameterSpec
from styletransfer.gradients import (
    DEFAULT_STEP,
    default_estimator,
    orthogonal,
    spsa,
)


def relative_error(estimator, slope, prior=None, draws=400):
    """Root mean square error on a linear loss, as a share of the gradient."""
    n = len(slope)
    controls = np.full(n, 0.5, np.float32)

    @jax.jit
    @jax.vmap
    def estimate(key):
        plan = estimator.plan(key, controls)
        return estimator.scalar(plan, plan.points @ slope, prior)

    found = np.asarray(estimate(jax.random.split(jax.random.key(0), draws)))
    return float(np.sqrt(np.mean((found - slope) ** 2) / np.mean(slope**2)))


@pytest.mark.parametrize("n", [1, 2, 5, 19, 27])
@pytest.mark.parametrize("renders", [2, 3, 8, 28, 64])
def test_budget_is_kept_and_used(n, renders):
    for prior in (False, True):
        estimator = default_estimator(n, renders, prior=prior)
        assert min(renders, 1 + n) <= estimator.renders(n) <= renders


@pytest.mark.parametrize("n,renders", [(3, 4), (5, 11), (19, 20), (19, 64)])
def test_enough_renders_give_the_gradient(n, renders, rng):
    slope = rng.normal(size=n).astype(np.float32)
    assert relative_error(default_estimator(n, renders), slope, draws=2) < 1e-3


@pytest.mark.parametrize("n,renders", [(19, 9)])
def test_fewer_renders_beat_random_directions(n, renders, rng):
    slope = rng.normal(size=n).astype(np.float32)
    pairs = (renders - 1) // 2
    ours = relative_error(default_estimator(n, renders), slope)
    for rival in (spsa(DEFAULT_STEP, pairs), orthogonal(DEFAULT_STEP, pairs)):
        assert ours < 0.8 * relative_error(rival, slope)


def test_a_prior_is_never_made_worse(rng):
    slope = rng.normal(size=19).astype(np.float32)
    prior = slope + 0.3 * rng.normal(size=19).astype(np.float32)
    alone = np.sqrt(np.mean((prior - slope) ** 2) / np.mean(slope**2))
    estimator = default_estimator(19, 9, prior=True)
    assert relative_error(estimator, slope, prior) < 0.8 * alone


def test_known_sizes_are_spent_on_the_largest():
    slope = np.asarray([0.1, 5.0, 0.2, 3.0, 0.1, 0.1], np.float32)
    estimator = default_estimator(6, 3, sizes=np.abs(slope))
    assert estimator.renders(6) == 3
    blind = relative_error(default_estimator(6, 3), slope)
    assert relative_error(estimator, slope) < 0.4 * blind
    # With a prior the others are the prior's, and nothing is left to chance.
    estimator = default_estimator(6, 3, sizes=np.abs(slope), prior=True)
    assert relative_error(estimator, slope, 0.9 * slope, draws=2) < 0.01


def test_steps_are_those_the_controls_tell_apart():
    specs = [ParameterSpec("fine_db"), ParameterSpec("coarse_hz", quantum=0.02)]
    plan = default_estimator(specs, 5).plan(
        jax.random.key(0), np.full(2, 0.5, np.float32)
    )
    np.testing.assert_allclose(np.diag(plan.moves), [2 * DEFAULT_STEP, 0.08], rtol=1e-4)


@pytest.mark.parametrize(
    "arguments,options,message",
    [
        ((0, 8), {}, "1 control or more, got 0"),
        ((5, 1), {}, "renders 1: .*2 or more"),
        ((5, 3), {"sizes": np.ones(4)}, r"shape \(4,\) given for 5 controls"),
    ],
)
def test_bad_requests_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        default_estimator(*arguments, **options)
