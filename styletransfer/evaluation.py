"""Methods, and how sure the means of their losses are.

A *method* answers questions (`styletransfer.trials`): it turns input and reference into
audio, and is scored by its distance to the truth, on the same trials as every other
method, so that differences are paired. It sees nothing of the hidden settings: they are
not part of a `Question`.

Intervals are hierarchical bootstraps: speakers or pieces are drawn first, then trials
within each, since sections of one speaker are not independent (Davison & Hinkley 1997,
section 3.8).
"""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddspx import losses
from styletransfer.controller import LoadedController, embed, predict
from styletransfer.hosts import Host, Status
from styletransfer.level_trim import level_trim_db, with_gain
from styletransfer.models import Prediction
from styletransfer.transfer import TransferConfig, transfer
from styletransfer.trials import Question


class Answers(NamedTuple):
    """What a method gives to its questions.

    Attributes:
      audio: [items, channels, time].
      renders: [items], renders of the effect that each took.
      failed: [items], whether the effect failed; the audio is then silent, and judged
        as that.
    """

    audio: np.ndarray
    renders: np.ndarray
    failed: np.ndarray


Method = Callable[[Sequence[Question], Host, np.random.Generator], Answers]


class Interval(NamedTuple):
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One method on the scoreboard; losses are to the truth, lower is better."""

    method: str
    trials: int
    mean: Interval
    median: float
    improvement: Interval
    wins: float


def rendered_answers(
    questions: Sequence[Question], host: Host, controls: np.ndarray
) -> Answers:
    """The inputs rendered with settings [items, n]: one render each, one host call."""
    rendered = host.render(np.stack([q.dry for q in questions]), controls)
    failed = rendered.status != Status.OK
    return Answers(rendered.audio, np.ones(len(questions), np.int64), failed)


def transfer_method(config: TransferConfig) -> Method:
    """The search by renders, from the input and the reference alone."""

    def method(questions, host, rng):
        del rng
        return _joined(
            transfer(host, q.dry, q.reference, config=config) for q in questions
        )

    return method


def predicted_method(
    loaded: LoadedController,
    *,
    refine: TransferConfig | None = None,
    codes: dict[str, np.ndarray] | None = None,
    trim: float = 0.0,
) -> Method:
    """The effect at the settings that a trained controller says.

    Args:
      loaded: a controller of the very effect that the trials hide settings of.
      refine: search on from the prediction; None for one render.
      codes: codes of sounds that are known already, and where new ones are kept; see
        `cached_embedding`. Of this controller.
      trim: see `styletransfer.level_trim`; of one render. A refinement has its own in
        its configuration.
    """
    codes = {} if codes is None else codes

    def method(questions, host, rng):
        del rng
        predictions = predict_all(loaded, questions, codes)
        if refine is None:
            controls = np.stack([p.controls for p in predictions])
            answers = rendered_answers(questions, host, controls)
            return _trimmed(answers, questions, trim) if trim else answers
        return _joined(
            transfer(host, q.dry, q.reference, config=refine, prediction=found)
            for q, found in zip(questions, predictions, strict=True)
        )

    return method


def _trimmed(answers: Answers, questions: Sequence[Question], share: float) -> Answers:
    made = [
        with_gain(sound, level_trim_db(sound, question.reference, share))
        for sound, question in zip(answers.audio, questions, strict=True)
    ]
    return answers._replace(audio=np.stack(made))


def predict_all(
    loaded: LoadedController,
    questions: Sequence[Question],
    codes: dict[str, np.ndarray] | None = None,
) -> list[Prediction]:
    """What `styletransfer.controller.predict` says to each question.

    Every sound is embedded once, and all pairs are decided together.

    Args:
      loaded: a trained controller.
      questions: of any rates.
      codes: see `predicted_method`.

    Returns:
      For each question controls and deviations [n].
    """
    rates = {q.sample_rate for q in questions}
    if rates != {loaded.config.sample_rate}:
        return [
            predict(loaded, q.dry, q.reference, q.sample_rate, q.sample_rate)
            for q in questions
        ]
    known = cached_embedding(functools.partial(embed, loaded), codes)
    codes_of = {
        name: np.stack([known(getattr(q, name), q.sample_rate) for q in questions])
        for name in ("dry", "reference")
    }
    found = jax.device_get(
        _decide(
            loaded.controller.decide,
            loaded.params,
            codes_of["dry"],
            codes_of["reference"],
        )
    )
    return [
        jax.tree.map(lambda leaf, k=k: leaf[k], found) for k in range(len(questions))
    ]


Embedding = Callable[[np.ndarray, int], np.ndarray]


def cached_embedding(
    embedding: Embedding, codes: dict[str, np.ndarray] | None = None
) -> Embedding:
    """An embedding that is computed once for each sound, known by its samples.

    Args:
      embedding: ``(audio [channels, time], rate) -> code``.
      codes: by content; filled as it goes.
    """
    known = {} if codes is None else codes

    def cached(audio, rate):
        content = np.ascontiguousarray(audio, np.float32).tobytes()
        key = f"{rate}:{hashlib.sha256(content).hexdigest()}"
        if key not in known:
            known[key] = np.asarray(embedding(audio, rate))
        return known[key]

    return cached


@functools.partial(jax.jit, static_argnums=0)
def _decide(decide, params, codes, references):
    return jax.vmap(decide, (None, 0, 0))(params, codes, references)


def _joined(results) -> Answers:
    """Answers of searches; a result has the input's length, for no tail is asked."""
    audio, renders = zip(*((r.audio, r.renders) for r in results), strict=True)
    return Answers(np.stack(audio), np.array(renders), np.zeros(len(renders), bool))


@jax.jit
def truth_loss(audio: jax.Array, truth: jax.Array) -> jax.Array:
    """Multi-resolution STFT loss [..., channels, time] to the truth, channel mean."""
    return jnp.mean(losses.multi_resolution_stft(audio, truth)[0], axis=-1)


def bootstrap(
    values: np.ndarray, groups: Sequence[str], *, draws: int = 10_000, seed: int = 0
) -> Interval:
    """Mean over trials and its 95 % interval; groups are resampled first.

    Args:
      values: [trials].
      groups: speaker or piece of each.
      draws: bootstrap replicates.
      seed: of the resampling.

    Returns:
      An `Interval`; the mean is over trials, so a group counts by its trials. See
      `bootstrap_columns` for values that are NaN.
    """
    columns = np.asarray(values)[:, None]
    return bootstrap_columns(columns, groups, draws=draws, seed=seed)[0]


def bootstrap_columns(
    values: np.ndarray, groups: Sequence[str], *, draws: int = 10_000, seed: int = 0
) -> list[Interval]:
    """`bootstrap` of several quantities of the same trials at once.

    Args:
      values: [trials, quantities]. A NaN is left out of the mean and of every
        replicate; who calls has to count them.
      groups: speaker or piece of each trial.
      draws: bootstrap replicates.
      seed: of the resampling.

    Returns:
      An `Interval` for each quantity; NaN where there is no value.
    """
    values = np.asarray(values, np.float64)
    weights = _resampled(tuple(groups), draws, seed)
    there = np.isfinite(values)
    filled = np.where(there, values, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = filled.sum(axis=0) / there.sum(axis=0)
        replicates = (weights @ filled) / (weights @ there.astype(np.float64))
    intervals = []
    for mean, column in zip(means, replicates.T, strict=True):
        column = column[np.isfinite(column)]
        ends = np.quantile(column, (0.025, 0.975)) if len(column) else (np.nan, np.nan)
        intervals.append(Interval(float(mean), float(ends[0]), float(ends[1])))
    return intervals


@functools.lru_cache(maxsize=4)
def _resampled(groups: tuple[str, ...], draws: int, seed: int) -> np.ndarray:
    """How often each trial is in each replicate [draws, trials].

    Drawing a group m times, and its n trials with replacement each time, draws m n
    trials with replacement: one multinomial distribution.
    """
    rng = np.random.default_rng(seed)
    names = sorted(set(groups))
    chosen = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), draws)
    weights = np.zeros((draws, len(groups)))
    for times, name in zip(chosen.T, names, strict=True):
        members = np.flatnonzero(np.asarray(groups) == name)
        share = np.full(len(members), 1 / len(members))
        weights[:, members] = rng.multinomial(times * len(members), share)
    return weights


def scoreboard(
    results: Mapping[str, np.ndarray], groups: Sequence[str], *, baseline: str
) -> list[Row]:
    """Rows of the table from losses by method, all on the same trials.

    Args:
      results: ``{method: losses [trials]}``.
      groups: speaker or piece of each trial.
      baseline: the method that improvements are against: baseline less method.
    """
    against = results[baseline]
    columns = np.stack([*results.values(), *(against - v for v in results.values())])
    intervals = bootstrap_columns(columns.T, groups)
    return [
        Row(
            method=name,
            trials=len(values),
            mean=mean,
            median=float(np.median(values)),
            improvement=improvement,
            wins=float(np.mean(values < against)),
        )
        for (name, values), mean, improvement in zip(
            results.items(),
            intervals[: len(results)],
            intervals[len(results) :],
            strict=True,
        )
    ]
