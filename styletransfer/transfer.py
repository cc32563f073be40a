"""The main job: find the settings of an effect that carry a reference's sound over.

    settings = argmin over u of  D(effect(input; u), reference)

with D the content-robust `StyleDistance`, or, when the input's own treated version is
given as a *target*, the multi-resolution STFT loss. The search works on a typical
excerpt; the whole input is rendered with the result. Levels are never normalised: what
the effect gives is what is returned, and the loudness of the reference is one of the
things that are matched (unless `TransferConfig.match_level` is off).
"""

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ddspx.effects.base import Effect, aligned
from ddspx.parameters import identity_controls, settings
from ddspx.types import AnyArray, Rate
from styletransfer import search
from styletransfer.hosts import Host, HostEffect, Status
from styletransfer.level_trim import level_trim_db, with_gain
from styletransfer.models import Prediction
from styletransfer.objective import Objective, Score
from styletransfer.persistence import WITH_TARGET
from styletransfer.scores import TOLERANCE, StyleScore, TargetScore
from styletransfer.style import StyleDistance, style_bands
from styletransfer.twins import twin_effect

# Below this RMS a file holds nothing to match: 16-bit noise is at -98 dBFS.
SILENT_DB = -80.0
Method = Literal[
    "combined",
    "cma_es",
    "adam",
    "adam_spsa",
    "adam_orthogonal",
    "autodiff",
    "autodiff_lbfgs",
]


class TransferError(ValueError):
    """Input that cannot be transferred; the message is one line for people."""


@dataclass(frozen=True)
class TransferConfig:
    """How to search.

    Attributes:
      method: one of `search.SEARCHES`.
      renders: budget of renders.
      seed: of all randomness.
      excerpt_s: the search looks at the most typical stretch of this length.
      prior: pull towards the identity setting, see `Objective`; not used with a target.
      match_level: whether the reference's loudness is part of its style.
      trim: share of what is left of the level to the reference that a plain gain behind
        the effect takes away, see `styletransfer.level_trim`; not used with a target.
    """

    method: str = "combined"
    renders: int = 500
    seed: int = 0
    excerpt_s: float = 6.0
    prior: float = 3.0
    match_level: bool = True
    trim: float = 0.0

    def __post_init__(self):
        if self.method not in search.SEARCHES:
            raise TransferError(
                f"method {self.method!r} unknown; choose one of"
                f" {', '.join(search.SEARCHES)}"
            )
        if self.renders < 1:
            raise TransferError(f"renders {self.renders} must be 1 or more")
        if not self.excerpt_s > 0.1:
            raise TransferError(f"excerpt_s {self.excerpt_s} must exceed 0.1 seconds")
        if not self.prior >= 0:
            raise TransferError(f"prior {self.prior} must be 0 or more")
        if not 0.0 <= self.trim <= 1.0:
            raise TransferError(f"trim {self.trim} must be between 0 and 1")


@dataclass(frozen=True)
class TransferResult:
    """What a transfer gives.

    Attributes:
      audio: the whole input rendered [channels, time + tail], with the trim.
      controls: [n] in [0, 1].
      settings: the same in physical units, see `ddspx.parameters.settings`.
      loss: "before" (input untouched) and "after", of the excerpt, without the trim.
      terms: the parts of the loss, "before" and "after", by name.
      history: (renders, best loss) after each call to the host, of what was searched
        by: with the pull of the prior, and robust where a prediction was refined.
      renders: renders used by the search.
      failures: renders that the effect failed.
      seconds: of searching and rendering.
      interrupted: whether Ctrl-C ended the search.
      deviation: how sure a prediction was, standard deviations [n]; None without one.
      trim_db: gain behind the effect that `audio` has.
    """

    audio: np.ndarray
    controls: np.ndarray
    settings: dict[str, Any]
    loss: dict[str, float]
    terms: dict[str, dict[str, float]]
    history: list[tuple[int, float]]
    renders: int
    failures: int
    seconds: int | float
    interrupted: bool
    deviation: np.ndarray | None = None
    trim_db: float = 0.0


def transfer(
    host: Host,
    audio: Float[np.ndarray, "channels time"],
    reference: Float[np.ndarray, "reference_channels reference_time"],
    *,
    reference_rate: Rate | None = None,
    paired: bool = False,
    config: TransferConfig = TransferConfig(),
    tail_s: int | float = 0.0,
    report: Callable[[int, float], None] | None = None,
    prediction: Prediction | None = None,
) -> TransferResult:
    """Matches `audio` to `reference` with the host's effect and renders the result.

    Args:
      host: the effect, open at the sample rate of `audio`.
      audio: the input [channels, time].
      reference: the sound to match [channels, time]; with `paired`, the input's own
        treated version, aligned to the sample, at the input's rate and channels.
      reference_rate: Hz; the host's rate when None. Style is compared at each sound's
        own rate, below 0.45 of the lower of the two.
      paired: compare sample-aligned, by the multi-resolution STFT loss.
      config: how to search.
      tail_s: seconds of silence rendered after the input, for reverbs and delays.
      report: called with (renders, best loss) as the search goes.
      prediction: what a controller says (`styletransfer.controller.predict`). Then the
        search begins there, and is pulled back to it by how sure it was, instead of
        towards the identity; `TransferConfig.method` is not used. Style is then judged
        robustly (`styletransfer.scores`). With ``renders=1`` the prediction is what is
        returned.

    Returns:
      A `TransferResult`; with a prediction, `loss` also has ``"predicted"``.

    Raises:
      TransferError: audio or reference is silent, too short, not finite, or (paired)
        of another shape; or the method goes by autodiff and the effect has a plug-in
        that JAX does not have.
    """
    started = time.perf_counter()
    effect = _effect_for(host, config.method)
    excerpt, score = comparison(
        host,
        audio,
        reference,
        reference_rate=reference_rate,
        paired=paired,
        config=config,
    )
    searches = WITH_TARGET if paired else search.SEARCHES
    chosen, center = searches[config.method], identity_controls(host.specs)
    prior: float | np.ndarray = config.prior
    if prediction is not None:
        center = np.asarray(prediction.controls, np.float32)
        prior = 1.0 / (math.sqrt(2.0) * np.asarray(prediction.deviation))
        chosen = search.refinement(center)
    refined = prediction is not None and config.renders > 1
    objective = Objective(
        host,
        excerpt,
        _robust(score) if refined else score,
        budget=config.renders,
        prior=0.0 if paired else prior,
        center=center,
        report=report,
        effect=effect,
    )
    rng = np.random.default_rng(config.seed)
    interrupted = search.run(chosen, objective, rng)
    if interrupted and not objective.history:
        raise KeyboardInterrupt
    if not objective.history:
        raise TransferError(
            f"renders {config.renders}: not one step of {config.method} fits;"
            " give 50 or more"
        )
    if not np.isfinite(objective.best_loss):
        raise TransferError(
            f"{host.effect.name}: none of {objective.renders} renders gave usable"
            " audio; probe the effect with scripts/probe_effect.py"
        )
    untouched, terms = jax.device_get(_loss_once(score, excerpt))
    rendered = render_whole(host, audio, objective.best_controls, tail_s)
    trim_db = 0.0
    if config.trim and not paired:
        heard = rendered[:, : audio.shape[-1]]
        trim_db = level_trim_db(heard, reference, config.trim)
        rendered = with_gain(rendered, trim_db)
    before = {name: float(value) for name, value in terms.items()}
    terms, after = objective.best_terms, objective.best_loss
    after -= terms["prior"]
    predicted = after
    if refined:
        # The search goes by what counts of the distance; told is the distance.
        after, terms = _judged(host, excerpt, score, objective.best_controls)
        predicted, _ = _judged(host, excerpt, score, center)
    loss = {"before": float(untouched), "after": after}
    if prediction is not None:
        loss["predicted"] = predicted
    kept = {name: terms[name] for name in terms if name in before}
    return TransferResult(
        audio=rendered,
        controls=objective.best_controls,
        settings=settings(host.specs, objective.best_controls),
        loss=loss,
        terms={"before": before, "after": kept},
        history=objective.history,
        renders=objective.renders,
        failures=objective.failures,
        seconds=time.perf_counter() - started,
        interrupted=interrupted,
        deviation=None if prediction is None else np.asarray(prediction.deviation),
        trim_db=trim_db,
    )


class Comparison(NamedTuple):
    """What settings of one transfer are judged by.

    Attributes:
      excerpt: the stretch of the input that is rendered [channels, time].
      score: how renders of it are judged.
    """

    excerpt: np.ndarray
    score: Score


def comparison(
    host: Host,
    audio: Float[np.ndarray, "channels time"],
    reference: Float[np.ndarray, "reference_channels reference_time"],
    *,
    reference_rate: Rate | None = None,
    paired: bool = False,
    config: TransferConfig = TransferConfig(),
) -> Comparison:
    """The excerpt of an input and the score of its renders; arguments of `transfer`.

    Raises:
      TransferError: audio that `transfer` refuses.
    """
    rate = host.sample_rate
    reference_rate = rate if reference_rate is None else reference_rate
    highest_hz = 0.45 * min(rate, reference_rate)
    check_audio(audio, rate, "input")
    check_audio(reference, reference_rate, "target" if paired else "reference")
    score: Score
    if paired:
        _check_pair(audio, reference, rate, reference_rate)
        start, stop = 0, _opening(audio, rate, config.excerpt_s)
        score = TargetScore(jnp.asarray(reference[:, :stop], jnp.float32), rate)
    else:
        start, stop = typical_excerpt(audio, rate, config.excerpt_s)
        own = StyleDistance(reference_rate, highest_hz, config.match_level)
        wanted = _features(own, np.asarray(reference, np.float32))
        score = StyleScore(wanted, StyleDistance(rate, highest_hz, config.match_level))
    return Comparison(np.ascontiguousarray(audio[:, start:stop]), score)


def _robust(score: Score) -> Score:
    """A style score that doubts what other content may explain; others as they are."""
    if isinstance(score, StyleScore):
        return replace(score, tolerance=TOLERANCE)
    return score


def _judged(
    host: Host, excerpt: np.ndarray, score: Score, controls: np.ndarray
) -> tuple[float, dict[str, float]]:
    """Loss and terms of one setting, infinite where the effect fails."""
    single = Objective(host, excerpt, score, budget=1, center=controls)
    single.losses(controls[None])
    return single.best_loss, single.best_terms


def differentiable_effect(host: Host) -> Effect:
    """The effect of a host in differentiable form: its own, or the twins of its slots.

    Equal hosts share one, and with it what is compiled. It has no latency: hosts take
    it away, and so does the effect's ``render``.

    Raises:
      ValueError: a plug-in that JAX does not have.
    """
    own = getattr(host, "differentiable", None)
    return _on_time(_twin(host.effect, host.sample_rate) if own is None else own)


@functools.lru_cache(maxsize=16)
def _twin(effect: HostEffect, sample_rate: float) -> Effect:
    return twin_effect(effect, sample_rate)


@functools.lru_cache(maxsize=16)
def _on_time(effect: Effect) -> Effect:
    if effect.latency == 0:
        return effect
    return effect._replace(render=aligned(effect), latency=0)


def _effect_for(host: Host, method: str) -> Effect | None:
    if method not in search.EXACT:
        return None
    try:
        return differentiable_effect(host)
    except ValueError as error:
        raise TransferError(
            f"method {method}: {host.effect.name} is not differentiable: {error}; take"
            " method combined"
        ) from error


def check_audio(audio: np.ndarray, sample_rate: Rate, role: str) -> None:
    """Refuses audio that cannot be compared; `role` names it in the message.

    Raises:
      TransferError: not finite, empty, shorter than an analysis window, or silent.
    """
    window = style_bands(sample_rate, 0.45 * sample_rate).window_length
    if audio.shape[-1] < 4 * window:
        raise TransferError(
            f"{role}: {audio.shape[-1] / sample_rate:.3f} s is too short to compare;"
            f" give {4 * window / sample_rate:.2f} s or more"
        )
    if not np.isfinite(audio).all():
        raise TransferError(f"{role}: holds NaN or infinite samples; repair the file")
    level = 10 * np.log10(np.mean(np.square(audio, dtype=np.float64)) + 1e-20)
    if level < SILENT_DB:
        raise TransferError(
            f"{role}: silent ({level:.0f} dBFS RMS); give a sound above {SILENT_DB:.0f}"
        )


def _check_pair(audio, target, rate, target_rate):
    if target_rate != rate or target.shape != audio.shape:
        raise TransferError(
            f"target: {target.shape[0]} channels x {target.shape[1]} samples at"
            f" {target_rate:.0f} Hz, but the input is {audio.shape[0]} x"
            f" {audio.shape[1]} at {rate:.0f} Hz; a target is the input's own treated"
            " version, use a reference for anything else"
        )


def _opening(audio: np.ndarray, sample_rate: Rate, seconds: int | float) -> int:
    """End of the excerpt for paired search, which always begins with the file.

    A compressor's or reverb's state is known only there. A silent beginning is no use,
    so that the excerpt lasts until it holds `seconds` times the mean power.
    """
    energy = np.cumsum(np.mean(np.square(audio, dtype=np.float64), axis=0))
    wanted = min(seconds * sample_rate * energy[-1] / len(energy), energy[-1])
    return max(round(seconds * sample_rate), int(np.searchsorted(energy, wanted)) + 1)


def typical_excerpt(
    audio: Float[np.ndarray, "channels time"], sample_rate: Rate, seconds: int | float
) -> tuple[int, int]:
    """The stretch whose style is nearest to that of the whole, (start, stop) samples.

    Stretches start every half length; the whole is returned where it is not longer.
    """
    length = round(seconds * sample_rate)
    total = audio.shape[-1]
    if total <= length:
        return 0, total
    distance = StyleDistance(sample_rate, 0.45 * sample_rate)
    whole = _features(distance, audio)
    starts = range(0, total - length + 1, max(1, length // 2))
    apart = [
        float(distance(_features(distance, audio[:, s : s + length]), whole)[0])
        for s in starts
    ]
    start = starts[int(np.argmin(apart))]
    return start, start + length


def render_whole(
    host: Host, audio: np.ndarray, controls: np.ndarray, tail_s: int | float = 0.0
) -> np.ndarray:
    """The input and a tail of silence through the effect at one setting.

    Raises:
      TransferError: the effect failed on the whole input.
    """
    tail = round(tail_s * host.sample_rate)
    padded = np.pad(audio, [(0, 0), (0, tail)]).astype(np.float32)
    rendered = host.render(padded[None], np.asarray(controls, np.float32)[None])
    status = Status(int(rendered.status[0]))
    if status != Status.OK:
        raise TransferError(
            f"{host.effect.name}: rendering the whole input ended with {status.name};"
            " try other --renders or --seed, or probe the effect"
        )
    return rendered.audio[0]


@functools.partial(jax.jit, static_argnums=0)
def _features(distance: StyleDistance, audio: AnyArray) -> dict[str, jax.Array]:
    return distance.features(jnp.asarray(audio))


@jax.jit
def _loss_once(score: Score, audio: AnyArray) -> tuple[jax.Array, Mapping]:
    return score.loss(jnp.asarray(audio))
