"""Searches for the settings that minimise an `Objective`.

Every search is a function ``search(objective, start, rng, ...)`` that ends when it has
converged or when the objective's budget is spent; its result is what the objective
remembers as best. All renders of a step go to the host in one call. `SEARCHES` names
the complete ones:

* ``cma_es``: covariance matrix adaptation (Hansen & Ostermeier 2001, library `cma`).
* ``adam``: Adam (Kingma & Ba 2015), projected on the cube, from several starts at once,
  on gradients by the estimator that `styletransfer.gradients.default_estimator` names,
  for sizes that differences at the starts measure; ``adam_spsa`` and
  ``adam_orthogonal`` with four pairs of directions a step.
* ``combined``: starts wide with a space-filling sample, ends with Gauss-Newton steps
  whose Jacobian comes from finite differences of the rendered sound. Where a target is
  given, `styletransfer.persistence` goes on from there with what is left of the budget.
* `refinement`, of a controller's prediction, is made for its start.
* ``autodiff``, ``autodiff_lbfgs``: Adam and L-BFGS on exact gradients, through the
  effect in differentiable form (`EXACT`).
"""

import functools
import math
from collections.abc import Callable, Mapping

import cma
import jax
import numpy as np
import optax
import scipy.optimize
from scipy.stats import qmc

from ddspx.parameters import ParameterSpec, identity_controls
from styletransfer.gradients import (
    DEFAULT_STEP,
    Estimator,
    default_estimator,
    forward_differences,
    orthogonal,
    spsa,
    steps_for,
)
from styletransfer.objective import GRADIENT_RENDERS, BudgetExhausted, Objective

# Relative improvement that counts as progress, for every early stop.
PROGRESS = 1e-3
# What a step of ``adam`` spends on the gradient at each of its starts: with three
# directions it ends lower than with seven, or with exact differences of 19 controls.
RENDERS_A_STEP = 4
# A control is measured as if its gradient were never less than this share of the mean:
# what does little at the start may do more elsewhere.
LEAST_SIZE = 0.3
Search = Callable[[Objective, np.random.Generator], object]
# Controls [n] and the sum of their squared residuals.
Found = tuple[np.ndarray, float]


def wide_sample(
    objective: Objective, rng: np.random.Generator, count: int
) -> np.ndarray:
    """Evaluates identity and a Latin hypercube; one call to the host.

    Half of the sample is drawn towards the identity: most recordings that people
    match are treated gently, and gentle settings are closer to everything.

    Returns:
      Controls [count, n], those with the smallest residuals first.
    """
    centre = identity_controls(objective.specs)
    cube = qmc.LatinHypercube(len(centre), rng=rng).random(count - 1)
    cube[::2] = 0.5 * (cube[::2] + centre)
    controls = np.concatenate([centre[None], cube]).astype(np.float32)
    return controls[np.argsort(squares_of(objective, controls), kind="stable")]


def cma_es(
    objective: Objective,
    rng: np.random.Generator,
    *,
    start: np.ndarray | None = None,
    population: int = 16,
    sigma: float = 0.25,
    renders: int | None = None,
    of_squares: bool = False,
) -> Found:
    """CMA-ES in the unit cube; a population is one call to the host.

    Args:
      objective: what to minimise.
      rng: source of all randomness.
      start: controls [n]; the middle of the cube when None.
      population: settings per generation.
      sigma: initial standard deviation, in the unit of the cube.
      renders: stop after about this many; the whole budget when None.
      of_squares: minimise the sum of the squared residuals, which is computed sooner
        than the loss.

    Returns:
      The best of its settings and its value; the start and infinity where not one
      generation fits.
    """
    n = len(objective.specs)
    stop_at = objective.budget if renders is None else objective.renders + renders
    options = {
        "bounds": [0.0, 1.0],
        "popsize": population,
        "verbose": -9,
        # The library would seed NumPy's global generator otherwise.
        "seed": np.nan,
        "randn": lambda *shape: rng.standard_normal(shape),
        "tolfun": 1e-9,
        "tolx": 1e-6,
    }
    start = np.full(n, 0.5) if start is None else np.clip(start, 0.01, 0.99)
    strategy = cma.CMAEvolutionStrategy(start, sigma, options)
    best, least = start, np.inf
    while not strategy.stop() and objective.renders + population <= stop_at:
        points = strategy.ask()
        judge = squares_of if of_squares else Objective.losses
        value = judge(objective, np.asarray(points))
        strategy.tell(points, np.where(np.isfinite(value), value, 1e9).tolist())
        first = int(np.argmin(value))
        if value[first] < least:
            best, least = np.array(points[first]), float(value[first])
    return best, least


def adam(
    objective: Objective,
    rng: np.random.Generator,
    estimator: Estimator,
    *,
    starts: np.ndarray,
    learning_rate: float = 0.05,
    renders: int | None = None,
) -> None:
    """Adam on estimated gradients from several starts; a step is one call to the host.

    Controls are projected on the cube after each step. The projection cannot trap
    them: the estimator measures the slope at the border itself, one-sided.

    Args:
      objective: what to minimise.
      rng: source of the directions.
      estimator: from `styletransfer.gradients`.
      starts: controls [s, n].
      learning_rate: step in the unit of the cube at the start; decays by a cosine.
      renders: stop after this many; the whole budget when None.
    """
    count, n = starts.shape
    plan, gradient = _compiled(estimator)
    key = jax.random.key(int(rng.integers(2**31)))

    def slopes(step, controls):
        keys = jax.random.split(jax.random.fold_in(key, step), count)
        plans = plan(keys, controls)
        points = np.asarray(plans.points)
        loss = objective.losses(points.reshape(-1, n)).reshape(count, -1)
        finite = np.isfinite(loss)
        # After a failed render the differences say nothing: no slope from this start.
        loss = np.where(finite.all(axis=1, keepdims=True), loss, 0.0)
        return gradient(plans, loss)

    each = count * estimator.renders(n)
    steps = (objective.remaining if renders is None else renders) // each
    _descend(slopes, starts, steps, learning_rate)


def adam_exact(
    objective: Objective,
    *,
    starts: np.ndarray,
    learning_rate: float = 0.05,
    renders: int | None = None,
) -> None:
    """Adam on exact gradients by autodiff through the effect, from several starts.

    Args:
      objective: what to minimise; it has a differentiable effect.
      starts: controls [s, n].
      learning_rate: step in the unit of the cube at the start; decays by a cosine.
      renders: stop after this many, a gradient counting as `GRADIENT_RENDERS`; the
        whole budget when None.
    """

    def slopes(step, controls):
        return objective.gradients(controls)[1]

    each = len(starts) * GRADIENT_RENDERS
    steps = (objective.remaining if renders is None else renders) // each
    _descend(slopes, starts, steps, learning_rate)


def _descend(
    slopes: Callable[[int, np.ndarray], jax.Array | np.ndarray],
    starts: np.ndarray,
    steps: int,
    learning_rate: float,
) -> None:
    """Adam from all starts at once, projected on the cube after each step."""
    if steps == 0:
        return
    controls = np.asarray(starts, np.float32)
    state = _ADAM.init(controls)
    for step in range(steps):
        direction, state = _update(slopes(step, controls), state)
        rate = learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        moved = controls - np.float32(rate) * np.asarray(direction)
        controls = np.clip(moved, 0.0, 1.0)


_ADAM = optax.scale_by_adam(b1=0.8)
_update = jax.jit(_ADAM.update)


@functools.lru_cache(maxsize=16)
def _compiled(estimator: Estimator) -> tuple[Callable, Callable]:
    """Plan and reduction of several starts; kept, as compiling takes a second."""
    return jax.jit(jax.vmap(estimator.plan)), jax.jit(jax.vmap(estimator.scalar))


def gauss_newton(
    objective: Objective,
    start: np.ndarray,
    *,
    difference: float = DEFAULT_STEP,
    iterations: int = 20,
) -> Found:
    """Damped Gauss-Newton (Levenberg 1944, Marquardt 1963) inside the unit cube.

        J_ki = (r_k(u + h_i e_i) - r_k(u)) / h_i
        u' = clip(u - (J'J + m diag(J'J))^-1 J'r),   m from a grid, best kept

    The Jacobian's n renders are one call to the host, the grid of damping another.
    Controls at a border that the step would leave are held there for that step.

    Args:
      objective: gives the residuals.
      start: controls [n].
      difference: h in the unit of the cube, or what the control can tell apart if that
        is more; backward where forward would leave the cube.
      iterations: at most this many Jacobians.

    Returns:
      Where it ended.
    """
    active = np.array([not spec.choices for spec in objective.specs])
    steps = steps_for(objective.specs, difference).astype(np.float64)
    controls = np.clip(np.asarray(start, np.float64), 0.0, 1.0)
    residual = objective.residuals(controls[None])[0]
    damping = 1e-1
    for _ in range(iterations):
        step = np.where(controls + steps <= 1.0, steps, -steps)
        rows = objective.residuals(controls + np.diag(step)[active])
        jacobian = np.zeros((len(residual), len(controls)))
        jacobian[:, active] = (rows - residual).T / step[active]
        before = residual @ residual
        for _ in range(3):
            grid = damping * np.array([0.03, 0.3, 3.0, 30.0])
            candidates = [
                _projected_step(controls, jacobian, residual, m, active) for m in grid
            ]
            trial = objective.residuals(np.stack(candidates))
            cost = np.sum(trial**2, axis=1)
            best = int(np.argmin(cost))
            if cost[best] < before:
                break
            damping *= 100.0
        else:
            break
        damping = float(np.clip(grid[best], 1e-6, 1e4))
        controls, residual = candidates[best], trial[best]
        if cost[best] > before * (1.0 - PROGRESS):
            break
    return controls, float(residual @ residual)


def _projected_step(controls, jacobian, residual, damping, active) -> np.ndarray:
    """One damped step; controls that would leave the cube are held and it is redone."""
    free = active.copy()
    step = np.zeros_like(controls)
    for _ in range(len(controls)):
        columns = jacobian[:, free]
        normal = columns.T @ columns
        scale = np.diag(normal) + 1e-9 * max(np.trace(normal), 1e-12)
        step[:] = 0.0
        step[free] = -np.linalg.solve(
            normal + damping * np.diag(scale), columns.T @ residual
        )
        leaving = free & (
            ((controls <= 0.0) & (step < 0.0)) | ((controls >= 1.0) & (step > 0.0))
        )
        if not leaving.any():
            break
        free &= ~leaving
    return np.clip(controls + step, 0.0, 1.0)


def combined(
    objective: Objective, rng: np.random.Generator, *, starts: int = 3, wide: int = 64
) -> None:
    """Wide sample, then Gauss-Newton from the best of it.

    Args:
      objective: what to minimise.
      rng: source of all randomness.
      starts: how many of the best settings are refined, best first.
      wide: size of the wide sample.
    """
    for start in best_of_wide(objective, rng, starts, wide, 1):
        gauss_newton(objective, start)


def refinement(start: np.ndarray) -> Search:
    """A search that begins at a prediction: judges it, then Gauss-Newton from there.

    Args:
      start: controls [n].

    Returns:
      The search; with a budget of 1 the prediction is all that is rendered.
    """

    def refine(objective: Objective, rng: np.random.Generator) -> None:
        del rng
        objective.losses(np.asarray(start, np.float32)[None])
        gauss_newton(objective, start)

    return refine


def squares_of(objective: Objective, controls: np.ndarray) -> np.ndarray:
    """Sums of squared residuals [m] of settings [m, n]; one call to the host."""
    return np.sum(objective.residuals(controls) ** 2, axis=1)


def quasi_newton(
    objective: Objective, start: np.ndarray, *, renders: int | None = None
) -> None:
    """L-BFGS-B (Byrd et al. 1995) on the exact gradient of the squared residuals.

    Their sum is smooth where the loss has kinks. It goes by gradients alone, because
    effects have rules of their own for the reverse mode of autodiff and none for the
    forward mode, which a Jacobian for Gauss-Newton would take.

    Args:
      objective: what to minimise; it has a differentiable effect.
      start: controls [n].
      renders: stop after about this many, a gradient counting as `GRADIENT_RENDERS`;
        the whole budget when None.
    """
    renders = objective.remaining if renders is None else renders

    def squares(controls):
        value, slope = objective.gradients(controls[None], of_squares=True)
        return value[0], slope[0].astype(np.float64)

    scipy.optimize.minimize(
        squares,
        np.clip(np.asarray(start, np.float64), 0.0, 1.0),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, 1.0)] * len(start),
        # Valleys are long and flat: a small gain is no sign of their end.
        options={"ftol": 1e-9, "gtol": 1e-7, "maxfun": renders // GRADIENT_RENDERS},
    )


def best_of_wide(
    objective: Objective,
    rng: np.random.Generator,
    count: int = 2,
    wide: int = 32,
    least: int = 2,
) -> np.ndarray:
    """The best [count, n] of a wide sample, best first."""
    # A small budget is better spent on going down than on looking around.
    wide = min(wide, max(least, objective.remaining // 5))
    return wide_sample(objective, rng, wide)[:count]


def _adam_with(make: Callable[[tuple[ParameterSpec, ...]], Estimator]) -> Search:
    # One estimator for each effect, so that the second search finds it compiled.
    known = functools.lru_cache(maxsize=16)(make)

    def search(objective: Objective, rng: np.random.Generator) -> None:
        starts = best_of_wide(objective, rng)
        adam(objective, rng, known(objective.specs), starts=starts)

    return search


def _default_adam(objective: Objective, rng: np.random.Generator) -> None:
    starts = best_of_wide(objective, rng)
    specs, n = objective.specs, starts.shape[1]
    sizes = None
    if n >= RENDERS_A_STEP and objective.remaining > 4 * len(starts) * (1 + n):
        slopes = _differences(objective, starts)
        sizes = np.sqrt(np.mean(slopes**2, axis=0))
        sizes += LEAST_SIZE * np.mean(sizes) + 1e-12
    estimator = default_estimator(specs, RENDERS_A_STEP, sizes=sizes)
    adam(objective, rng, estimator, starts=starts)


def _differences(objective: Objective, starts: np.ndarray) -> np.ndarray:
    """Gradients [s, n] by forward differences; 0 at a start where a render failed."""
    n = starts.shape[1]
    estimator = forward_differences(steps_for(objective.specs, DEFAULT_STEP))
    key = jax.random.key(0)  # not used: there is nothing to draw
    plans = jax.vmap(lambda controls: estimator.plan(key, controls))(starts)
    loss = objective.losses(np.asarray(plans.points).reshape(-1, n))
    loss = loss.reshape(len(starts), -1)
    finite = np.isfinite(loss).all(axis=1, keepdims=True)
    return np.asarray(jax.vmap(estimator.scalar)(plans, np.where(finite, loss, 0.0)))


def _autodiff(objective: Objective, rng: np.random.Generator) -> None:
    adam_exact(objective, starts=best_of_wide(objective, rng))


def _autodiff_lbfgs(objective: Objective, rng: np.random.Generator) -> None:
    starts = best_of_wide(objective, rng, 3, 64, 1)
    for done, start in enumerate(starts):
        share = objective.remaining // (len(starts) - done)
        quasi_newton(objective, start, renders=share)


SEARCHES: Mapping[str, Search] = {
    "combined": combined,
    "cma_es": cma_es,
    "adam": _default_adam,
    "adam_spsa": _adam_with(lambda specs: spsa(steps_for(specs, DEFAULT_STEP), 4)),
    "adam_orthogonal": _adam_with(
        lambda specs: orthogonal(steps_for(specs, DEFAULT_STEP), 4)
    ),
    "autodiff": _autodiff,
    "autodiff_lbfgs": _autodiff_lbfgs,
}
# Those that go by autodiff: they need an effect in differentiable form.
EXACT = ("autodiff", "autodiff_lbfgs")


def run(search: Search, objective: Objective, rng: np.random.Generator) -> bool:
    """Runs a search to its end; Ctrl-C and a spent budget end it early.

    Returns:
      True if Ctrl-C ended it; the objective holds the best setting in every case.
    """
    try:
        search(objective, rng)
    except BudgetExhausted:
        pass
    except KeyboardInterrupt:
        return True
    return False
