"""Objective and searches on problems whose answer is known in closed form."""

from collections import Counter
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.effects.base import Effect
from ddspx.parameters import ParameterSpec
from styletransfer import persistence, search
from styletransfer.hosts import Rendered, Status
from styletransfer.objective import GRADIENT_RENDERS, BudgetExhausted, Objective

N = 6


class EchoHost:
    """Renders the controls themselves, so that a score can be any function of them."""

    sample_rate = 1000
    effect = None

    def __init__(self, fail=lambda controls: np.zeros(len(controls), bool)):
        self.specs = tuple(
            ParameterSpec(f"p{i}", 0.0, 1.0, default=0.5, identity=0.5)
            for i in range(N)
        )
        self.calls = 0
        self.counts = Counter()
        self._fail = fail

    def render(self, audio, controls, source):
        self.calls += 1
        failed = self._fail(controls)
        out = np.where(failed[:, None], 0.0, controls)[:, None].astype(np.float32)
        status = np.where(failed, Status.FAILED, Status.OK).astype(np.int32)
        return Rendered(out, status)

    def close(self): ...

    def __enter__(self): ...

    def __exit__(self, *exception): ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Valley:
    """Residuals A (u - wanted) with A badly scaled, as effect controls are."""

    wanted: jax.Array
    curved: bool = field(default=False, metadata={"static": True})

    def residuals(self, render):
        apart = render[0] - self.wanted
        if self.curved:
            apart = apart + 0.5 * jnp.roll(apart, 1) ** 2
        mixing = jnp.eye(N) + 0.5 * jnp.eye(N, k=1)
        return mixing @ (jnp.linspace(1.0, 3.0, N) * apart)

    def loss(self, render):
        loss = jnp.sum(self.residuals(render) ** 2)
        return loss, {"valley": loss}


# The same in differentiable form; module-wide, so that it is compiled once.
ECHO = Effect(
    EchoHost().specs,
    lambda audio, controls: controls[None],
    lambda channels: (),
    lambda state, audio, controls: (state, controls[None]),
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ripple(Valley):
    """Troughs every seventh of each control beside a slope that leads to the lowest."""

    def residuals(self, render):
        apart = render[0] - self.wanted
        return jnp.concatenate([apart, 0.2 * jnp.sin(7 * jnp.pi * apart)])


def make(wanted, budget=2000, *, curved=False, host=None, score=Valley, **options):
    score = score(jnp.asarray(wanted, jnp.float32), curved)
    host = EchoHost() if host is None else host
    options = {"effect": ECHO, **options}
    audio = np.zeros((1, N), np.float32)
    options = {"center": np.full(N, 0.5), **options}
    return Objective(host, audio, score, budget=budget, **options)


INSIDE = np.array([0.3, 0.8, 0.5, 0.2, 0.7, 0.45])
CORNER = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0])


@pytest.mark.parametrize("wanted", [INSIDE, CORNER], ids=["inside", "corner"])
@pytest.mark.parametrize("name", search.SEARCHES)
def test_every_search_finds_the_minimum(name, wanted):
    objective = make(wanted, curved=True)
    start = float(objective.losses(np.full((1, N), 0.5))[0])
    assert not search.run(search.SEARCHES[name], objective, np.random.default_rng(0))
    assert objective.best_loss < 1e-2 * start
    np.testing.assert_allclose(objective.best_controls, wanted, atol=0.1)
    assert objective.renders <= objective.budget


@pytest.mark.parametrize("name", search.SEARCHES)
def test_same_seed_same_search_and_budget_is_kept(name):
    def history(seed):
        np.random.seed(seed + 5)  # noqa: NPY002 - nothing may depend on this state
        objective = make(INSIDE, 150, curved=True)
        search.run(search.SEARCHES[name], objective, np.random.default_rng(1))
        return objective.history

    one, two = history(0), history(1)
    assert one == two
    renders, loss = np.array(one).T
    assert renders[-1] <= 150 and (np.diff(renders) > 0).all()
    assert (np.diff(loss) <= 0).all()


def test_gauss_newton_solves_a_linear_problem_at_once():
    objective = make(INSIDE)
    search.gauss_newton(objective, np.full(N, 0.5), iterations=2)
    np.testing.assert_allclose(objective.best_controls, INSIDE, atol=2e-3)
    assert objective.renders <= 1 + 2 * (N + 4)


def test_gauss_newton_leaves_a_corner():
    objective = make(INSIDE)
    search.gauss_newton(objective, CORNER)
    np.testing.assert_allclose(objective.best_controls, INSIDE, atol=2e-3)


def test_exact_gradient_is_that_of_the_losses_and_is_counted():
    objective = make(INSIDE, curved=True, prior=2.0)
    points = np.stack([CORNER, np.full(N, 0.4)])
    loss, slope = objective.gradients(points)
    assert objective.renders == 2 * GRADIENT_RENDERS
    assert objective.history == [(2 * GRADIENT_RENDERS, loss.min())]
    np.testing.assert_allclose(loss, objective.losses(points), rtol=1e-5)
    step = 1e-2 * np.eye(N)
    for point, got in zip(points, slope, strict=True):
        inside = np.clip(point, 0.02, 0.98)
        ends = objective.losses(np.concatenate([inside + step, inside - step]))
        want = (ends[:N] - ends[N:]) / 2e-2
        if np.array_equal(inside, point):
            np.testing.assert_allclose(got, want, rtol=1e-2, atol=1e-2)
        else:
            assert got @ want > 0.99 * np.linalg.norm(got) * np.linalg.norm(want)


def test_gradient_of_the_squares_remembers_the_loss():
    objective = make(INSIDE, curved=True, prior=2.0)
    value, slope = objective.gradients(CORNER[None], of_squares=True)
    # The loss of this score is its sum of squares: both must agree.
    loss, other = objective.gradients(CORNER[None])
    np.testing.assert_allclose(value, loss, rtol=1e-6)
    np.testing.assert_allclose(slope, other, rtol=1e-5)
    assert objective.best_loss == pytest.approx(loss[0], rel=1e-6)


@pytest.mark.parametrize("name", search.EXACT)
def test_search_by_autodiff_refuses_a_black_box(name):
    objective = make(INSIDE, effect=None)
    with pytest.raises(ValueError, match="black box"):
        search.run(search.SEARCHES[name], objective, np.random.default_rng(0))


def test_gauss_newton_steps_are_no_finer_than_the_controls_tell_apart():
    class Coarse(EchoHost):
        def __init__(self):
            super().__init__()
            self.specs = tuple(replace(s, quantum=0.05) for s in self.specs)
            self.asked = []

        def render(self, audio, controls, source):
            self.asked.append(controls)
            return super().render(audio, controls, source)

    host = Coarse()
    start = np.full(N, 0.5)
    search.gauss_newton(make(INSIDE, host=host), start, iterations=1)
    np.testing.assert_allclose(host.asked[1] - start, 0.1 * np.eye(N), atol=1e-6)


def test_prior_pulls_as_far_as_it_says():
    # One direction of curvature 2 s^2 against the prior's 2 p^2: the minimum lies at
    # (s^2 w + p^2 c) / (s^2 + p^2) where the mixing is the identity.
    objective = make(INSIDE, prior=100.0)
    search.gauss_newton(objective, np.full(N, 0.5))
    np.testing.assert_allclose(objective.best_controls, 0.5, atol=0.01)
    at_centre = objective.losses(np.full((1, N), 0.5))
    assert at_centre[0] == pytest.approx(
        float(Valley(jnp.asarray(INSIDE)).loss(jnp.full((1, N), 0.5))[0]), rel=1e-5
    )


def test_failed_renders_are_counted_and_never_best():
    host = EchoHost(fail=lambda controls: controls[:, 0] > 0.6)
    objective = make(np.array([1.0, *INSIDE[1:]]), host=host)
    search.run(search.SEARCHES["combined"], objective, np.random.default_rng(0))
    assert objective.failures > 0
    assert objective.best_controls[0] <= 0.6
    assert np.isinf(objective.losses(np.ones((1, N)))[0])


def test_ctrl_c_keeps_the_best_so_far():
    class Impatient(EchoHost):
        def render(self, audio, controls, source):
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().render(audio, controls, source)

    objective = make(INSIDE, host=Impatient())
    assert search.run(search.SEARCHES["cma_es"], objective, np.random.default_rng(0))
    assert objective.renders == 48 and np.isfinite(objective.best_loss)


def test_budget_is_checked_before_rendering():
    objective = make(INSIDE, budget=3)
    with pytest.raises(BudgetExhausted, match="4 renders wanted, 3 left"):
        objective.losses(np.zeros((4, N)))
    assert objective.host.calls == 0 and objective.renders == 0


def test_padding_a_chunk_changes_nothing(rng):
    points = rng.random((21, N), np.float32)
    together = make(INSIDE).losses(points)
    alone = [make(INSIDE).losses(point[None])[0] for point in points[[0, 15, 16, 20]]]
    np.testing.assert_allclose(together[[0, 15, 16, 20]], alone, rtol=1e-6)
    residuals = make(INSIDE).residuals(points)
    np.testing.assert_allclose(np.sum(residuals**2, axis=1), together, rtol=1e-4)


def test_a_sweep_leaves_the_troughs_of_a_ripple():
    objective = make(INSIDE, score=Ripple)
    start = np.add(INSIDE, [0.0, -0.43, 0.29, 0.0, 0.0, 0.43])
    stuck = search.gauss_newton(objective, start)
    assert stuck[1] > 0.1
    controls, cost = persistence.sweep(objective, np.random.default_rng(0), stuck)
    np.testing.assert_allclose(controls, INSIDE, atol=1e-3)
    assert cost < persistence.ENOUGH
    assert cost == pytest.approx(objective.best_loss, abs=1e-6)


def test_a_sweep_tries_every_choice():
    class Chosen(EchoHost):
        def __init__(self):
            super().__init__()
            names = tuple("abcde")
            chosen = ParameterSpec("p1", 0.0, 4.0, default=0.0, choices=names)
            self.specs = (self.specs[0], chosen, *self.specs[2:])

        def render(self, audio, controls, source):
            stairs = np.minimum(np.floor(controls[:, 1] * 5), 4) / 4
            controls = np.insert(np.delete(controls, 1, axis=1), 1, stairs, axis=1)
            return super().render(audio, controls, source)

    wanted = np.array([0.3, 0.75, 0.5, 0.2, 0.7, 0.45])
    objective = make(wanted, host=Chosen())
    search.run(persistence.persistent, objective, np.random.default_rng(0))
    assert objective.best_loss < 1e-4
    assert int(objective.best_controls[1] * 5) == 3


def test_persistent_finds_the_lowest_trough_where_combined_ends_in_another():
    def ended(name, budget=1500):
        objective = make(INSIDE, budget, score=Ripple)
        searches = persistence.WITH_TARGET if name == "with" else search.SEARCHES
        search.run(searches["combined"], objective, np.random.default_rng(2))
        return objective

    stuck, done, again = ended("without"), ended("with"), ended("with")
    assert stuck.best_loss > 0.01 and stuck.renders < 500
    # It begins in the same way, so that it is never worse.
    assert done.history[: len(stuck.history)] == stuck.history
    assert done.history == again.history
    np.testing.assert_allclose(done.best_controls, INSIDE, atol=1e-3)
    assert done.renders < 1500  # nothing is left to gain


@pytest.mark.parametrize("budget", [1, 2, 7, 30, 64, 151, 400])
def test_persistent_keeps_its_budget(budget):
    # Nothing renders what is wanted, so that it never has enough.
    objective = make(INSIDE + 2.0, budget, score=Ripple)
    assert not search.run(
        persistence.persistent, objective, np.random.default_rng(budget)
    )
    assert 0 < objective.renders <= budget
    assert objective.renders > budget - 20
    assert np.isfinite(objective.best_loss)


def test_persistent_is_interrupted_like_every_search():
    class Impatient(EchoHost):
        def render(self, audio, controls, source):
            if self.calls == 60:
                raise KeyboardInterrupt
            return super().render(audio, controls, source)

    objective = make(INSIDE + 2.0, score=Ripple, host=Impatient())
    assert search.run(persistence.persistent, objective, np.random.default_rng(0))
    assert objective.best_loss == objective.history[-1][1] < np.inf


def test_evolution_tells_what_it_found():
    objective = make(INSIDE, 320, curved=True)
    controls, value = search.cma_es(
        objective, np.random.default_rng(0), of_squares=True, renders=160
    )
    assert objective.renders == 160
    assert value == pytest.approx(float(objective.losses(controls[None])[0]), rel=1e-4)
    start = np.full(N, 0.3)
    nothing = search.cma_es(objective, np.random.default_rng(0), start=start, renders=3)
    assert nothing[1] == np.inf and objective.renders == 161
    np.testing.assert_allclose(nothing[0], start)
