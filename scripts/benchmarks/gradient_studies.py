"""The questions of the gradient laboratory; each returns rows for JSON and tables.

* `compare_estimators`: every estimator against autodiff by the number of renders, in
  scalar and vector form, without a prior and with that of a detuned twin.
* `compare_steps`: exact differences against autodiff by the step: how wrong the step
  alone makes an estimate, and how far the converged difference is from the truth.
* `compare_priors`: control variates from exact, detuned, incomplete and learned
  stand-ins, at equal renders.
* `compare_sizes`: the best estimator for every number of controls, on random subsets
  of the controls of one chain.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from benchmarks.gradient_lab import (
    Judge,
    Numbers,
    Quality,
    combine,
    make_plans,
    quality,
)
from benchmarks.gradient_priors import Prior, Scene, shifted_prior, signs, sizes_of

from styletransfer.gradients import (
    Estimator,
    Plan,
    central_differences,
    coordinates,
    forward_differences,
    orthogonal,
    spsa,
)

# One object an estimator, so that effects of one size share what is compiled.
_spsa, _orthogonal = functools.cache(spsa), functools.cache(orthogonal)
_central = functools.cache(central_differences)
_forward = functools.cache(forward_differences)
FORMS = ("scalar", "vector")


class Row(NamedTuple):
    """One cell of a table: an estimator at a number of renders, under one loss."""

    estimator: str
    renders: int
    form: str
    loss: str
    quality: Quality

    def record(self) -> dict[str, Any]:
        """The row as plain JSON."""
        return {**self._asdict(), "quality": self.quality._asdict()}


class Entry(NamedTuple):
    """An estimator of a table, with the prior it is given by name."""

    name: str
    renders: int
    estimator: Estimator
    prior: str | None = None


def measure(
    scene: Scene,
    entries: Sequence[Entry],
    priors: dict[str, Prior],
    *,
    keys: int,
    seed: int,
) -> list[Row]:
    """Quality of every entry under every loss, in both forms."""
    plans, numbers = _plans_and_numbers(scene, entries, keys, seed)
    rows = []
    for entry in entries:
        plan, found = plans[entry.estimator], numbers[entry.estimator]
        for form in FORMS:
            prior = None
            if entry.prior is not None:
                prior = getattr(priors[entry.prior], form)
            estimates = combine(entry.estimator, plan, getattr(found, form), prior)
            rows += _rows(scene, entry.name, entry.renders, form, estimates)
    return rows


def _plans_and_numbers(
    scene, entries, keys, seed
) -> tuple[dict[Any, Plan], dict[Any, Numbers]]:
    chosen = {entry.estimator for entry in entries}
    plans: dict[Any, Plan] = {
        estimator: make_plans(estimator, scene.tested, keys, seed)
        for estimator in chosen
    }
    return plans, scene.judge.numbers(scene.tested, plans)


def _rows(scene, name, renders, form, estimates) -> list[Row]:
    return [
        Row(name, renders, form, loss, quality(estimates[:, :, k], scene.truth[:, k]))
        for k, loss in enumerate(scene.table)
    ]


def alone(scene: Scene, name: str, prior: Prior) -> list[Row]:
    """Rows of a stand-in's gradient taken as it is; it costs no render."""
    rows = []
    for form in FORMS:
        rows += _rows(scene, name, 1, form, getattr(prior, form)[:, None])
    return rows


def estimator_entries(
    n: int,
    renders: Iterable[int],
    step: float,
    sizes: np.ndarray,
    unknown: dict[str, np.ndarray],
) -> list[Entry]:
    """The table's estimators, for every number of renders that makes sense for n.

    Args:
      n: controls.
      renders: budgets, the centre included.
      step: epsilon.
      sizes: typical size of each control's gradient [n].
      unknown: by prior, the typical size of what the prior gets wrong [n].
    """
    entries = [
        Entry("forward differences", 1 + n, _forward(step)),
        Entry("central differences", 1 + 2 * n, _central(step)),
    ]
    # One control has one direction: every estimator is one of the two.
    for budget in renders if n > 1 else ():
        pairs, ahead = (budget - 1) // 2, budget - 1
        few = min(ahead, n)
        if pairs and pairs <= 2 * n:
            entries += [
                Entry("SPSA", budget, _spsa(step, pairs)),
                Entry("orthogonal pairs", budget, _orthogonal(step, pairs)),
            ]
        if ahead <= 2 * n:
            forward = _orthogonal(step, ahead, one_sided=True)
            entries.append(Entry("orthogonal forward", budget, forward))
        if ahead <= n:
            by_chance = coordinates(step, sizes, few, scaling="unbiased")
            entries += [
                Entry("coordinates", budget, coordinates(step, sizes, few)),
                Entry("coordinates, unbiased", budget, by_chance),
            ]
        for prior, wrong in unknown.items():
            if pairs and pairs <= 2 * n:
                entries += [
                    Entry(f"{prior} + SPSA", budget, _spsa(step, pairs), prior),
                    Entry(
                        f"{prior} + orthogonal pairs, unbiased", budget,
                        _orthogonal(step, pairs), prior,
                    ),
                ]  # fmt: skip
            if ahead <= 2 * n:
                projected = _orthogonal(
                    step, ahead, one_sided=True, scaling="projection"
                )
                entries.append(
                    Entry(f"{prior} + forward, projected", budget, projected, prior)
                )
            if ahead <= n:
                least = coordinates(step, wrong, few)
                entries.append(Entry(f"{prior} + coordinates", budget, least, prior))
    return entries


def compare_estimators(
    scene: Scene,
    *,
    renders: Sequence[int],
    step: float,
    shift: float,
    keys: int = 1,
    seed: int = 0,
) -> list[Row]:
    """Every estimator against autodiff; the prior is a twin detuned by `shift`."""
    name = f"detuned {100 * shift:g} %"
    change = shift * signs(scene.n, seed)
    prior, wrong = shifted_prior(scene, change)
    sizes = sizes_of(scene.known_truth)
    entries = estimator_entries(scene.n, renders, step, sizes, {name: wrong})
    rows = alone(scene, name, prior)
    return rows + measure(scene, entries, {name: prior}, keys=keys, seed=seed)


def compare_steps(scene: Scene, steps: Sequence[float], *, seed: int = 0) -> list[Row]:
    """Exact differences by their step, which is the number in the name."""
    entries = []
    for step in steps:
        entries += [
            Entry(f"central {step:g}", 1 + 2 * scene.n, _central(step)),
            Entry(f"forward {step:g}", 1 + scene.n, _forward(step)),
        ]
    return measure(scene, entries, {}, keys=1, seed=seed)


def compare_priors(
    scene: Scene,
    stand_ins: dict[str, tuple[Prior, np.ndarray]],
    *,
    renders: Sequence[int],
    step: float,
    keys: int = 1,
    seed: int = 0,
) -> list[Row]:
    """Control variates at equal renders.

    Args:
      scene: the effect.
      stand_ins: by name, the prior and the size [n] of what it gets wrong.
      renders: budgets, the centre included; a stand-in alone is 1.
      step: epsilon.
      keys: random directions a question.
      seed: of the directions.
    """
    entries, priors, rows = [], {}, []
    for name, (prior, wrong) in stand_ins.items():
        made = estimator_entries(scene.n, renders, step, wrong, {name: wrong})
        entries += [entry for entry in made if entry.prior is not None]
        priors[name] = prior
        rows += alone(scene, name, prior)
    sizes = sizes_of(scene.known_truth)
    plain = estimator_entries(scene.n, renders, step, sizes, {})
    return rows + measure(scene, plain + entries, priors, keys=keys, seed=seed)


def compare_sizes(
    scene: Scene,
    sizes: Sequence[int],
    *,
    renders: Sequence[int],
    step: float,
    shift: float,
    keys: int = 1,
    seed: int = 0,
) -> dict[int, list[Row]]:
    """Rows by number of controls: random subsets of the chain's, the others held."""
    change = shift * signs(scene.n, seed)
    prior, wrong = shifted_prior(scene, change)
    rng = np.random.default_rng(seed)
    found = {}
    for size in sizes:
        chosen = [
            np.sort(rng.choice(scene.n, size, replace=False)) for _ in scene.tested
        ]
        found[size] = _on_subsets(
            scene, chosen, prior, wrong, renders=renders, step=step, keys=keys,
            seed=seed, name=f"detuned {100 * shift:g} %",
        )  # fmt: skip
    return found


def _on_subsets(
    scene, chosen, prior, wrong, *, renders, step, keys, seed, name
) -> list[Row]:
    """`measure` on the cube of each question's chosen controls."""
    size = len(chosen[0])
    at = np.stack(chosen)[:, None, :]
    part = replace(
        scene,
        truth=np.take_along_axis(scene.truth, at, -1),
        tested=[
            q._replace(controls=q.controls[c])
            for q, c in zip(scene.tested, chosen, strict=True)
        ],
        judge=_EmbeddingJudge(scene.judge, scene.tested, chosen),
    )
    priors = {name: Prior(*(np.take_along_axis(values, at, -1) for values in prior))}
    entries = estimator_entries(
        size, renders, step, np.ones(size), {name: np.ones(size)}
    )
    # Sizes of gradients differ from subset to subset: no table of them here.
    entries = [entry for entry in entries if "coordinates" not in entry.name]
    rows = alone(part, name, priors[name])
    return rows + measure(part, entries, priors, keys=keys, seed=seed)


class _EmbeddingJudge:
    """Renders points of some of the controls, the others held where they are."""

    def __init__(self, judge: Judge, questions, chosen):
        self._judge, self._questions, self._chosen = judge, questions, chosen

    def numbers(self, questions, plans):
        whole = {}
        for key, plan in plans.items():
            points = np.asarray(plan.points)
            full = np.stack(
                [
                    np.broadcast_to(
                        q.controls, (*points.shape[1:-1], len(q.controls))
                    ).copy()
                    for q in self._questions
                ]
            )
            for i, at in enumerate(self._chosen):
                full[i][..., at] = points[i]
            whole[key] = Plan(jnp.asarray(full), plan.weights)
        return self._judge.numbers(self._questions, whole)
