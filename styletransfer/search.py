"""Searches for the settings that minimise an `Objective`.

Every search is a function ``search(objective, start, rng, ...)`` that ends when it has
converged or when the objective's budget is spent; its result is what the objective
remembers as best. All renders of a step go to the host in one call. `SEARCHES` names
the complete ones:

* ``cma_es``: covariance matrix adaptation (Hansen & Ostermeier 2001, library `cma`).
* ``adam_spsa``, ``adam_orthogonal``: Adam (Kingma & Ba 2015), projected on the cube, on
  gradients from `styletransfer.gradients`, from several starts at once.
* ``combined``: starts wide with a space-filling sample, ends with Gauss-Newton steps
  whose Jacobian comes from finite differences of the rendered sound.
"""

from collections.abc import Callable, Mapping

import cma
import jax
import numpy as np
import optax
from scipy.stats import qmc

from ddspx.parameters import identity_controls
from styletransfer.gradients import Estimator, orthogonal, spsa
from styletransfer.objective import BudgetExhausted, Objective

# Relative improvement that counts as progress, for every early stop.
PROGRESS = 1e-3
Search = Callable[[Objective, np.random.Generator], None]


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
    cost = np.sum(objective.residuals(controls) ** 2, axis=1)
    return controls[np.argsort(cost, kind="stable")]


def cma_es(
    objective: Objective,
    rng: np.random.Generator,
    *,
    start: np.ndarray | None = None,
    population: int = 16,
    sigma: float = 0.25,
    renders: int | None = None,
) -> None:
    """CMA-ES in the unit cube; a population is one call to the host.

    Args:
      objective: what to minimise.
      rng: source of all randomness.
      start: controls [n]; the middle of the cube when None.
      population: settings per generation.
      sigma: initial standard deviation, in the unit of the cube.
      renders: stop after about this many; the whole budget when None.
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
    while not strategy.stop() and objective.renders + population <= stop_at:
        points = strategy.ask()
        loss = objective.losses(np.asarray(points))
        strategy.tell(points, np.where(np.isfinite(loss), loss, 1e9).tolist())


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
    each = count * estimator.renders(n)
    steps = (objective.remaining if renders is None else renders) // each
    if steps == 0:
        return
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps), b1=0.8)
    plan = jax.jit(jax.vmap(estimator.plan))
    gradient = jax.jit(jax.vmap(estimator.scalar))
    update = jax.jit(optimizer.update)
    controls = np.asarray(starts, np.float32)
    state = optimizer.init(controls)
    key = jax.random.key(int(rng.integers(2**31)))
    for step in range(steps):
        keys = jax.random.split(jax.random.fold_in(key, step), count)
        plans = plan(keys, controls)
        points = np.asarray(plans.points)
        loss = objective.losses(points.reshape(-1, n)).reshape(count, -1)
        finite = np.isfinite(loss)
        # After a failed render the differences say nothing: no slope from this start.
        loss = np.where(finite.all(axis=1, keepdims=True), loss, 0.0)
        updates, state = update(gradient(plans, loss), state)
        controls = np.clip(controls + np.asarray(updates), 0.0, 1.0)


def gauss_newton(
    objective: Objective,
    start: np.ndarray,
    *,
    difference: float = 0.01,
    iterations: int = 20,
) -> None:
    """Damped Gauss-Newton (Levenberg 1944, Marquardt 1963) inside the unit cube.

        J_ki = (r_k(u + h e_i) - r_k(u)) / h
        u' = clip(u - (J'J + m diag(J'J))^-1 J'r),   m from a grid, best kept

    The Jacobian's n renders are one call to the host, the grid of damping another.
    Controls at a border that the step would leave are held there for that step.

    Args:
      objective: gives the residuals.
      start: controls [n].
      difference: h, in the unit of the cube; backward where forward would leave it.
      iterations: at most this many Jacobians.
    """
    n = len(start)
    active = np.array([not spec.choices for spec in objective.specs])
    controls = np.clip(np.asarray(start, np.float64), 0.0, 1.0)
    residual = objective.residuals(controls[None])[0]
    damping = 1e-1
    for _ in range(iterations):
        step = np.where(controls + difference <= 1.0, difference, -difference)
        rows = objective.residuals(controls + np.diag(step)[active])
        jacobian = np.zeros((len(residual), n))
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
            return
        damping = float(np.clip(grid[best], 1e-6, 1e4))
        controls, residual = candidates[best], trial[best]
        if cost[best] > before * (1.0 - PROGRESS):
            return


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
    # A small budget is better spent on going down than on looking around.
    wide = min(wide, max(1, objective.remaining // 5))
    controls = wide_sample(objective, rng, wide)
    for start in controls[:starts]:
        gauss_newton(objective, start)


def _adam_with(make: Callable[..., Estimator]) -> Search:
    def search(objective: Objective, rng: np.random.Generator) -> None:
        controls = wide_sample(
            objective, rng, min(32, max(2, objective.remaining // 5))
        )
        adam(objective, rng, make(0.02, pairs=4), starts=controls[:2])

    return search


SEARCHES: Mapping[str, Search] = {
    "combined": combined,
    "cma_es": cma_es,
    "adam_spsa": _adam_with(spsa),
    "adam_orthogonal": _adam_with(orthogonal),
}


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
