"""The gradient laboratory: black-box renders against the autodiff of a twin.

A `Question` is a clip, a setting and a target that a hidden setting made of the clip.
The truth is the gradient of the loss between the twin's render and the target, by
autodiff; what estimators see are pedalboard's renders of the same settings. `judge`
renders every point that any plan asks for once, and gives two numbers a render and
loss: the loss itself, for the scalar form, and the inner product of the change of the
audio with dL/dy at the centre, for the vector form. A difference of the second is what
`Estimator.vector` forms from the audio, so both forms go through one reduction.
"""

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddspx import losses
from ddspx.data.dataset import sections
from ddspx.data.manifest import Clip
from ddspx.effects.base import Effect
from ddspx.types import Rate
from styletransfer.gradients import Estimator, Plan, render_points
from styletransfer.hosts import Host, HostEffect, Slot
from styletransfer.hosts.description import BYPASS
from styletransfer.presets import load_effect
from styletransfer.transfer import TargetScore

# Renders judged per device call; rows are repeated up to a multiple of it.
CHUNK = 16
# A gradient this small beside the typical one has no direction worth a cosine.
VOID = 1e-4
TWINS = (
    "Gain", "LowShelfFilter", "HighShelfFilter", "PeakFilter", "HighpassFilter",
    "LowpassFilter", "Compressor", "Limiter", "NoiseGate", "Distortion", "Clipping",
    "Delay", "Chorus", "Phaser", "Reverb",
)  # fmt: skip
LossTable = Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]]


class Question(NamedTuple):
    """One draw; see the module.

    Attributes:
      audio: dry [1, time].
      controls: [n], where the gradient is asked for.
      target: [1, time], pedalboard's render of the clip at the hidden setting.
      centre: [1, time], pedalboard's render at `controls`.
    """

    audio: np.ndarray
    controls: np.ndarray
    target: np.ndarray
    centre: np.ndarray


class Numbers(NamedTuple):
    """What the renders of a plan say: [questions, keys, renders, losses] each."""

    scalar: np.ndarray
    vector: np.ndarray


@functools.cache
def loss_table(sample_rate: Rate, names: tuple[str, ...]) -> LossTable:
    """Losses by name, ``(render[channels, time], target) -> scalar``.

    ``mrstft`` is the multi-resolution STFT distance, ``mel`` the mel distance in dB,
    ``esr`` the waveform's squared error as a share of the target's energy, ``bands``
    the mean squared difference of band levels in dB that a paired search goes down.

    Raises:
      ValueError: an unknown name.
    """

    def bands(render, target):
        return jnp.sum(TargetScore(target, sample_rate).residuals(render) ** 2)

    table: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
        "mrstft": lambda y, t: jnp.mean(losses.multi_resolution_stft(y, t)[0]),
        "mel": lambda y, t: jnp.mean(
            losses.mel_distance(y, t, sample_rate=sample_rate)
        ),
        "esr": lambda y, t: jnp.mean(losses.esr(y, t)),
        "bands": bands,
    }
    unknown = set(names) - set(table)
    if unknown:
        raise ValueError(f"losses {sorted(unknown)} unknown; choose from {[*table]}")
    return {name: table[name] for name in names}


def lab_effect(name: str) -> HostEffect:
    """A built-in's or preset's description, with its continuous controls alone.

    ``long_strip`` is the channel strip with two of its peaks doubled: 25 controls.
    """
    if name == "long_strip":
        strip = load_effect("channel_strip")
        more = tuple(
            replace(slot, name=f"{slot.name}_again")
            for slot in strip.slots
            if slot.name in ("low_peak", "high_peak")
        )
        return replace(strip, name=name, slots=more + strip.slots)
    if name in TWINS:
        from styletransfer.hosts.catalogue import default_controls_of

        return HostEffect(name, (Slot("it", name, default_controls_of(name)),))
    effect = load_effect(name)
    slots = tuple(
        replace(
            slot,
            controls=tuple(s for s in slot.controls if not s.choices),
            fixed=(
                *slot.fixed,
                *(
                    (s.name, s.choices[int(s.default or 0)])
                    for s in slot.controls
                    if s.choices and s.name != BYPASS
                ),
            ),
        )
        for slot in effect.slots
    )
    return replace(effect, slots=slots)


def ask(
    host: Host,
    clips: Sequence[Clip],
    count: int,
    *,
    seconds: float,
    seed: int,
) -> list[Question]:
    """Draws questions; clip by clip in turn, so that few of them meet every speaker.

    Raises:
      ValueError: no clip is long enough.
    """
    rng = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    for index in rng.permutation(len(clips)):
        parts = sections(
            clips[index], seconds, sample_rate=int(host.sample_rate), channels=1
        )
        if parts:
            found.append(parts[rng.integers(len(parts))].samples)
        if len(found) == count:
            break
    if not found:
        raise ValueError(f"none of {len(clips)} clips lasts {seconds} s")
    audio = np.stack([found[i % len(found)] for i in range(count)])
    n = len(host.specs)
    controls, hidden = rng.random((2, count, n), dtype=np.float32)
    target, centre = (host.render(audio, at).audio for at in (hidden, controls))
    rows = zip(audio, controls, target, centre, strict=True)
    return [Question(*row) for row in rows]


@dataclass(frozen=True)
class Slopes:
    """Gradients through an effect in JAX, one compiled function for all of them."""

    effect: Effect
    table: LossTable

    @functools.cached_property
    def _both(self):
        render, table = self.effect.render, tuple(self.table.values())

        @jax.jit
        def both(audio, controls, target, given):
            wet, pull = jax.vjp(lambda u: render(audio, u), controls)
            own = jnp.stack([jax.grad(loss)(wet, target) for loss in table])
            found = jax.lax.map(lambda c: pull(c)[0], jnp.concatenate([own, given]))
            return jnp.split(found, 2)

        return both

    def own(self, questions: Sequence[Question], shift: Any = 0.0) -> np.ndarray:
        """Gradients [questions, losses, n] of the losses of the effect's own render.

        Args:
          questions: where.
          shift: [n] added to the controls (inside the cube): a detuned effect.
        """
        nothing = [np.zeros((len(self.table), *q.audio.shape)) for q in questions]
        return self._pairs(questions, nothing, shift)[0]

    def pulled(
        self, questions: Sequence[Question], towards: np.ndarray, shift: Any = 0.0
    ) -> np.ndarray:
        """The same from given dL/dy [questions, losses, 1, time]: the vector form's."""
        return self._pairs(questions, towards, shift)[1]

    def _pairs(self, questions, towards, shift):
        pairs = [
            self._both(q.audio, _shifted(q, shift), q.target, np.float32(given))
            for q, given in zip(questions, towards, strict=True)
        ]
        return [np.stack(each) for each in zip(*pairs, strict=True)]


def _shifted(question: Question, shift: Any) -> np.ndarray:
    moved = np.clip(question.controls + np.asarray(shift, np.float32), 0.0, 1.0)
    return moved.astype(np.float32)


@functools.cache
def _judging(functions: tuple[Callable, ...]) -> tuple[Callable, Callable]:
    """dL/dy and the numbers of renders, compiled once for all effects."""

    @jax.jit
    def towards(centre, target):
        return jnp.stack([jax.grad(loss)(centre, target) for loss in functions])

    @jax.jit
    def judge(audio, centre, target, towards):
        flat = towards.reshape(len(functions), -1)

        def one(render):
            moved = (render - centre).ravel()
            values = jnp.stack([loss(render, target) for loss in functions])
            return values, flat @ moved

        return jax.lax.map(one, audio)

    return towards, judge


class Judge:
    """Renders points through the host and reduces each render to its numbers.

    Args:
      host: the black box.
      table: the losses.
    """

    def __init__(self, host: Host, table: LossTable):
        self.host, self.renders = host, 0
        self._towards, self._judge = _judging(tuple(table.values()))

    def towards(self, questions: Sequence[Question]) -> np.ndarray:
        """dL/dy [questions, losses, 1, time] at the black box's own render."""
        return np.stack([self._towards(q.centre, q.target) for q in questions])

    def numbers(
        self, questions: Sequence[Question], plans: Mapping[Hashable, Plan]
    ) -> dict[Hashable, Numbers]:
        """Every plan's `Numbers`; a point that several plans share is rendered once.

        Args:
          questions: [questions].
          plans: by key; points are [questions, keys, renders, n].

        Raises:
          RuntimeError: the effect failed.
        """
        points = {key: np.asarray(plan.points) for key, plan in plans.items()}
        found: dict[Hashable, list[tuple[np.ndarray, np.ndarray]]] = {
            key: [] for key in plans
        }
        for index, question in enumerate(questions):
            n = len(question.controls)
            rows = [p[index].reshape(-1, n) for p in points.values()]
            unique, back = np.unique(np.concatenate(rows), axis=0, return_inverse=True)
            scalar, vector = self._answer(question, unique)
            parts = np.split(back.ravel(), np.cumsum([len(r) for r in rows])[:-1])
            for key, part in zip(points, parts, strict=True):
                shape = (*points[key].shape[1:-1], -1)
                found[key].append(
                    (scalar[part].reshape(shape), vector[part].reshape(shape))
                )
        return {
            key: Numbers(*(np.stack(each) for each in zip(*rows, strict=True)))
            for key, rows in found.items()
        }

    def _answer(self, question, unique) -> tuple[np.ndarray, np.ndarray]:
        rendered, status = render_points(
            self.host.render, question.audio[None], unique[None]
        )
        if np.any(status):
            raise RuntimeError(f"{self.host.effect.name}: renders failed, {status}")
        self.renders += len(unique)
        audio = rendered[0]
        missing = -len(audio) % CHUNK
        audio = np.concatenate([audio, np.repeat(audio[-1:], missing, 0)])
        towards = self._towards(question.centre, question.target)
        parts = [
            self._judge(audio[i : i + CHUNK], question.centre, question.target, towards)
            for i in range(0, len(audio), CHUNK)
        ]
        scalar, vector = (
            np.concatenate([np.asarray(part[k]) for part in parts])[: len(unique)]
            for k in (0, 1)
        )
        return scalar, vector


def make_plans(
    estimator: Estimator, questions: Sequence[Question], keys: int, seed: int
) -> Plan:
    """Plans of every question under several keys: leading axes [questions, keys]."""
    controls = np.stack([q.controls for q in questions])
    seeds = jax.random.split(jax.random.key(seed), (len(questions), keys))
    return _planner(estimator, controls.shape, keys)(seeds, controls)


@functools.lru_cache(maxsize=512)
def _planner(estimator: Estimator, shape: tuple[int, ...], keys: int):
    plan = jax.jit(jax.vmap(jax.vmap(estimator.plan, (0, None))))
    seeds = jax.random.split(jax.random.key(0), (shape[0], keys))
    # Dozens of plans run a few times each: compiling them is all they cost.
    return plan.lower(seeds, np.zeros(shape, np.float32)).compile(
        compiler_options={
            "xla_backend_optimization_level": "0",
            "xla_llvm_disable_expensive_passes": True,
        }
    )


@functools.partial(jax.jit, static_argnums=0)
def _combined(scalar, plan, values, prior):
    over_losses = jax.vmap(scalar, (None, 0, 0))
    over_keys = jax.vmap(over_losses, (0, 0, None))
    return jax.vmap(over_keys)(plan, values, prior)


def combine(
    estimator: Estimator, plan: Plan, values: np.ndarray, prior: np.ndarray | None
) -> np.ndarray:
    """Estimates [questions, keys, losses, n].

    Args:
      estimator: whose plan it is.
      plan: leading axes [questions, keys].
      values: [questions, keys, renders, losses], either field of `Numbers`.
      prior: [questions, losses, n]; None for none.
    """
    values = np.moveaxis(values, -1, -2)
    if prior is None:
        n = plan.points.shape[-1]
        prior = np.zeros((values.shape[0], values.shape[2], n), np.float32)
    return np.asarray(_combined(estimator.scalar, plan, values, prior))


class Interval(NamedTuple):
    """A statistic and its bootstrap 95 % interval over questions."""

    value: float
    low: float
    high: float


class Quality(NamedTuple):
    """How good estimates are, for one loss: medians over questions and keys.

    Attributes:
      cosine: to the truth.
      mean_cosine: the mean in the median's place.
      error: |estimate - truth| / |truth|.
      questions: those that count: the truth there is not void.
    """

    cosine: Interval
    mean_cosine: Interval
    error: Interval
    questions: int


def quality(estimates: np.ndarray, truth: np.ndarray) -> Quality:
    """Cosine and relative error of estimates [questions, keys, n], with intervals.

    Args:
      estimates: of one loss.
      truth: [questions, n]. Questions whose truth is void (0, or `VOID` times the
        median length) have no direction and are left out.
    """
    length = np.linalg.norm(truth, axis=-1)
    kept = length > max(VOID * float(np.median(length)), 1e-9)
    if not kept.any():
        nothing = Interval(np.nan, np.nan, np.nan)
        return Quality(nothing, nothing, nothing, 0)
    estimates = estimates[kept].astype(np.float64)
    wanted = truth[kept][:, None].astype(np.float64)
    norm = np.linalg.norm(wanted, axis=-1)
    both = np.linalg.norm(estimates, axis=-1) * norm
    cosine = np.sum(estimates * wanted, axis=-1) / np.maximum(both, 1e-300)
    error = np.linalg.norm(estimates - wanted, axis=-1) / norm
    return Quality(
        interval(cosine, np.median),
        interval(cosine, np.mean),
        interval(error, np.median),
        int(kept.sum()),
    )


def interval(
    values: np.ndarray, statistic: Callable[..., Any], draws: int = 400
) -> Interval:
    """A statistic of values [questions, ...]; questions are resampled."""
    rng = np.random.default_rng(0)
    count = len(values)
    again = [statistic(values[rng.integers(count, size=count)]) for _ in range(draws)]
    low, high = np.quantile(again, [0.025, 0.975])
    return Interval(float(statistic(values)), float(low), float(high))
