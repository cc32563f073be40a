"""The search for a target that is known to the sample: on until the budget is spent.

A target is exact, so that whatever still differs from it is worth more renders; a
reference of other content is matched well enough where `search.combined` ends.
"""

from collections.abc import Mapping

import numpy as np

from styletransfer.objective import Objective
from styletransfer.search import (
    PROGRESS,
    SEARCHES,
    Found,
    Search,
    best_of_wide,
    cma_es,
    gauss_newton,
    squares_of,
)

# Sum of squared residuals that needs no further search: 0.01 dB RMS where a target is
# given.
ENOUGH = 1e-4
# What `persistent` spends of the rest on each evolution, settings in a generation, and
# settings along a control in a sweep.
EVOLUTION, POPULATION, SWEEP = 0.6, 16, 16
# Settings nearer than this in every control start the same search again.
APART = 0.15


def persistent(
    objective: Objective, rng: np.random.Generator, *, starts: int = 3, wide: int = 64
) -> None:
    """The same as `combined`, then on until nothing is left to gain or to spend.

    Delays, rates and carriers make landscapes with ripples, where Gauss-Newton ends in
    the next trough. CMA-ES steps over ripples; what it finds is refined, and swept
    along each control. Then all that again from a setting of the wide sample where
    nothing has started or ended so far.

    Args:
      objective: what to minimise; its squared residuals tell when it is `ENOUGH`.
      rng: source of all randomness.
      starts: how many of the best settings are refined first.
      wide: size of the wide sample.
    """
    points = best_of_wide(objective, rng, wide, wide, 1)
    ends = [gauss_newton(objective, start) for start in points[:starts]]
    known = [*points[:starts], *(controls for controls, _ in ends)]
    best = min(ends, key=_cost)
    start = best[0]
    while best[1] > ENOUGH:
        start, _ = cma_es(
            objective,
            rng,
            start=start,
            population=POPULATION,
            renders=int(EVOLUTION * objective.remaining),
            of_squares=True,
        )
        end = gauss_newton(objective, start)
        best = sweep(objective, rng, min(best, end, key=_cost))
        known += [end[0], best[0]]
        apart = np.abs(points[:, None] - np.stack(known)).max(axis=-1).min(axis=-1)
        far = np.flatnonzero(apart > APART)
        start = points[far[0]] if len(far) else rng.random(points.shape[1])
        known.append(start)


def _cost(found: Found) -> float:
    return found[1]


def sweep(objective: Objective, rng: np.random.Generator, found: Found) -> Found:
    """Moves one control at a time over its whole range, as long as that helps.

    The best place in another trough is looked at more closely, and where it is better
    than all so far it is refined by Gauss-Newton, for the other controls have to
    follow. Of a choice every one is tried.

    Args:
      objective: gives the residuals.
      rng: source of the order, and of where the places lie.
      found: where to begin.

    Returns:
      Where it ended.
    """
    helps = found[1] > ENOUGH
    while helps:
        helps = False
        for i in rng.permutation(len(objective.specs)).tolist():
            place, cost = _elsewhere(objective, rng, found, i)
            if cost < found[1] * (1.0 - PROGRESS):
                found = gauss_newton(objective, place, iterations=4)
                helps = True
            if found[1] <= ENOUGH:
                return found
    return found


def _elsewhere(
    objective: Objective, rng: np.random.Generator, found: Found, i: int
) -> Found:
    """The best setting that differs in control `i` alone, by more than a place."""
    choices = len(objective.specs[i].choices)
    count, offset = (choices, 0.5) if choices else (SWEEP, rng.random())
    places = (np.arange(count) + offset) / count
    if not choices:
        places = places[np.abs(places - found[0][i]) > 1.0 / count]
    best = _along(objective, found[0], i, places)
    if choices:
        return best
    closer = best[0][i] + np.array([-0.75, -0.5, -0.25, 0.25, 0.5, 0.75]) / count
    closer = _along(objective, found[0], i, np.clip(closer, 0.0, 1.0))
    return min(best, closer, key=_cost)


def _along(
    objective: Objective, controls: np.ndarray, i: int, places: np.ndarray
) -> Found:
    settings = np.tile(controls, (len(places), 1))
    settings[:, i] = places
    cost = squares_of(objective, settings)
    best = int(np.argmin(cost))
    return settings[best], float(cost[best])


# What takes the place of the searches where a target is given.
WITH_TARGET: Mapping[str, Search] = {**SEARCHES, "combined": persistent}
