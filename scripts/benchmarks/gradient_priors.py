"""Stand-ins in the gradient laboratory: a scene, and priors more or less right.

A `Scene` is an effect as black box and as twin with questions asked of both. A `Prior`
is what a stand-in says the gradients are: the twin itself, the twin with its controls
off, for another sample rate or without a slot, or any function learned from renders.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from benchmarks.gradient_lab import Judge, LossTable, Question, Slopes

from ddspx.effects.base import Effect, make_effect
from ddspx.types import Rate
from styletransfer.hosts import Host, HostEffect
from styletransfer.twins import twin_effect
from styletransfer.twins.effect import twin_processor


@dataclass(frozen=True)
class Scene:
    """An effect as black box and as twin, with questions asked of both.

    Attributes:
      host: the black box.
      table: losses.
      judge: renders and judges.
      twin: the differentiable one.
      slopes: its gradients.
      known: questions for calibration, of the valid split.
      tested: questions of the tables, of the test split.
      truth: [tested, losses, n].
      towards: dL/dy [tested, losses, 1, time] at the black box's renders.
      known_truth: [known, losses, n].
    """

    host: Host
    table: LossTable
    judge: Judge
    twin: Effect
    slopes: Slopes
    known: list[Question]
    tested: list[Question]
    truth: np.ndarray
    towards: np.ndarray
    known_truth: np.ndarray

    @property
    def n(self) -> int:
        """Number of controls."""
        return len(self.host.specs)


def set_scene(
    host: Host, table: LossTable, known: list[Question], tested: list[Question]
) -> Scene:
    """Computes what every study of an effect needs."""
    twin = twin_effect(host.effect, host.sample_rate)
    slopes, judge = Slopes(twin, table), Judge(host, table)
    return Scene(
        host, table, judge, twin, slopes, known, tested,
        slopes.own(tested), judge.towards(tested), slopes.own(known),
    )  # fmt: skip


def waveform_error(scene: Scene) -> float:
    """Median relative RMS error of the twin's renders at the tested questions."""
    render = jax.jit(scene.twin.render)
    apart = [
        np.linalg.norm(render(q.audio, q.controls) - q.centre)
        / max(float(np.linalg.norm(q.centre)), 1e-9)
        for q in scene.tested
    ]
    return float(np.median(apart))


class Prior(NamedTuple):
    """Gradients of a stand-in [questions, losses, n], as each form wants them."""

    scalar: np.ndarray
    vector: np.ndarray


def sizes_of(gradients: np.ndarray) -> np.ndarray:
    """Typical size of each control's gradient [n], of [questions, losses, n].

    Losses have units of their own: each is measured in its root mean square first.
    """
    scale = np.sqrt(np.mean(gradients**2, axis=(0, 2), keepdims=True)) + 1e-12
    return np.sqrt(np.mean((gradients / scale) ** 2, axis=(0, 1))) + 1e-3


def signs(n: int, seed: int) -> np.ndarray:
    """Signs [n], fixed by the seed: which way each control is off."""
    return np.random.default_rng(seed).choice([-1.0, 1.0], n)


def shifted_prior(scene: Scene, shift: np.ndarray) -> tuple[Prior, np.ndarray]:
    """The twin with its controls off by `shift` [n]; and what it gets wrong [n]."""
    prior = Prior(
        scene.slopes.own(scene.tested, shift),
        scene.slopes.pulled(scene.tested, scene.towards, shift),
    )
    wrong = sizes_of(scene.known_truth - scene.slopes.own(scene.known, shift))
    return prior, wrong


def effect_prior(
    scene: Scene, effect: Effect, kept: np.ndarray
) -> tuple[Prior, np.ndarray]:
    """Another effect in JAX as the stand-in; it has the controls `kept` [n] bool."""
    at = np.flatnonzero(kept)

    def inner(questions):
        return [q._replace(controls=q.controls[at]) for q in questions]

    def whole(gradients):
        padded = np.zeros((*gradients.shape[:-1], scene.n), np.float32)
        padded[..., at] = gradients
        return padded

    slopes = Slopes(effect, scene.table)
    prior = Prior(
        whole(slopes.own(inner(scene.tested))),
        whole(slopes.pulled(inner(scene.tested), scene.towards)),
    )
    return prior, sizes_of(scene.known_truth - whole(slopes.own(inner(scene.known))))


def without_slot(
    effect: HostEffect, sample_rate: Rate, name: str
) -> tuple[Effect, np.ndarray]:
    """The twin with a slot missing, and which controls of the whole it has."""
    slots = tuple(slot for slot in effect.slots if slot.name != name)
    kept = np.array([not s.name.startswith(f"{name}.") for s in effect.specs])
    return twin_effect(replace(effect, slots=slots), sample_rate), kept


def at_wrong_rate(effect: HostEffect, sample_rate: Rate, wrong: Rate) -> Effect:
    """The twin made for another sample rate than the audio's, of the same ranges."""
    limited = effect.at_sample_rate(sample_rate)
    return make_effect(limited.specs, twin_processor(limited, wrong))


def slower_attack(host: Host, factor: float) -> np.ndarray:
    """Shift [n] that multiplies every attack time by `factor`."""
    return np.array(
        [
            np.log(factor) / np.log(spec.high / spec.low)
            if spec.name.endswith("attack_ms")
            else 0.0
            for spec in host.specs
        ]
    )


def detuned_stand_ins(
    scene: Scene, *, shifts: Sequence[float], missing: str | None, seed: int
) -> dict[str, tuple[Prior, np.ndarray]]:
    """The twin exact and slightly wrong, by name; see `compare_priors`."""
    made = {"exact twin": shifted_prior(scene, np.zeros(scene.n))}
    for shift in shifts:
        change = shift * signs(scene.n, seed)
        made[f"detuned {100 * shift:g} %"] = shifted_prior(scene, change)
    attack = slower_attack(scene.host, 2.0)
    if attack.any():
        made["attack twice as long"] = shifted_prior(scene, attack)
    rate = scene.host.sample_rate
    wrong = at_wrong_rate(scene.host.effect, rate, 0.9 * rate)
    everything = np.ones(scene.n, bool)
    made["rate 10 % too low"] = effect_prior(scene, wrong, everything)
    if missing is not None:
        effect, kept = without_slot(scene.host.effect, rate, missing)
        made[f"without {missing}"] = effect_prior(scene, effect, kept)
    return made


def rendering_prior(
    scene: Scene, render: Callable[..., jax.Array]
) -> tuple[Prior, np.ndarray]:
    """A learned stand-in ``(audio, controls) -> audio``; see `compare_priors`."""
    effect = Effect(
        scene.host.specs, render, lambda channels: (), lambda s, a, u: (s, render(a, u))
    )
    return effect_prior(scene, effect, np.ones(scene.n, bool))


def costs(scene: Scene, renders: dict[str, Callable], repeats: int = 5) -> dict:
    """Milliseconds of a black-box render and of a stand-in's loss gradient, least of n.

    Args:
      scene: the effect.
      renders: stand-ins by name, ``(audio, controls) -> audio``.
      repeats: rounds.
    """
    question = scene.tested[0]
    loss = next(iter(scene.table.values()))
    compiled = {
        name: jax.jit(
            jax.value_and_grad(lambda u, a, t, render=render: loss(render(a, u), t))
        )
        for name, render in renders.items()
    }
    score = jax.jit(loss)

    def black_box():
        return scene.host.render(question.audio[None], question.controls[None])

    tasks: dict[str, Callable[[], Any]] = {
        "render by the host": black_box,
        "loss of a render": lambda: jax.block_until_ready(
            score(question.centre, question.target)
        ),
    }
    for name, function in compiled.items():
        tasks[f"gradient through {name}"] = lambda f=function: jax.block_until_ready(
            f(question.controls, question.audio, question.target)
        )
    least = dict.fromkeys(tasks, np.inf)
    for task in tasks.values():
        task()
    for _ in range(repeats):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            least[name] = min(least[name], 1e3 * (time.perf_counter() - started))
    return least
