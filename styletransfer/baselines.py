"""What a system has to beat: methods that learn little or nothing.

    do nothing            the input as it is
    level matched         the input with the reference's RMS
    spectrum matched      an equalizer from long-term spectra, then the level: rules
    random settings       the effect at settings drawn blindly
    constant settings     the effect at the one setting that is best on training trials
    nearest setting       the setting of the training example whose change of an
                          embedding, from input to reference, is the most alike
    true settings         the effect at the hidden settings: what is attainable; the
                          only one that is given them, and not by its questions

Each is a `styletransfer.evaluation.Method`.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cma
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc

from ddspx.parameters import identity_controls, sample_controls
from ddspx.signal import fft_convolve
from ddspx.types import Rate
from styletransfer.evaluation import (
    Answers,
    Embedding,
    Method,
    cached_embedding,
    rendered_answers,
)
from styletransfer.hosts import Host
from styletransfer.style import style_bands, style_features
from styletransfer.trials import Question, Trial

# The match equalizer: length of its response, and the most that it lifts or lowers.
EQUALIZER_S = 0.043
MOST_CHANGE_DB = 24.0
# A constant setting is looked for on so many trials at first, then on all.
FIRST_TRIALS = 12
POPULATION = 12

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def do_nothing(
    questions: Sequence[Question], host: Host, rng: np.random.Generator
) -> Answers:
    """The inputs as they are."""
    del host, rng
    return _without_renders(np.stack([q.dry for q in questions]))


def level_matched(
    questions: Sequence[Question], host: Host, rng: np.random.Generator
) -> Answers:
    """The inputs with the references' RMS: the strongest simple baseline."""
    del host, rng
    made = [_with_level(q.dry, q.reference) for q in questions]
    return _without_renders(np.stack(made))


def spectrum_matched(
    questions: Sequence[Question], host: Host, rng: np.random.Generator
) -> Answers:
    """The inputs with the references' long-term spectrum and RMS.

    The difference of the third-octave spectra, within +-24 dB, is interpolated over the
    logarithm of frequency and becomes a filter of linear phase, 43 ms long, whose delay
    is taken off.
    """
    del host, rng
    made = []
    for question in questions:
        rate = question.sample_rate
        wanted, own = (
            jax.device_get(_style(np.asarray(sound, np.float32), rate))["spectrum"]
            for sound in (question.reference, question.dry)
        )
        taps = match_equalizer(wanted - own, rate)
        heard = np.asarray(fft_convolve(question.dry, taps, "same"))
        made.append(_with_level(heard, question.reference))
    return _without_renders(np.stack(made))


def match_equalizer(change_db: np.ndarray, sample_rate: Rate) -> np.ndarray:
    """Taps [length], odd and symmetric, of a filter that changes third-octave bands.

    Args:
      change_db: [bands], of `styletransfer.style.style_bands` at this rate; limited to
        +-24 dB. Beyond the outer bands the change is theirs.
      sample_rate: Hz.
    """
    centres = style_bands(sample_rate, 0.45 * sample_rate).centres_hz
    size = 2 ** math.ceil(math.log2(2 * EQUALIZER_S * sample_rate))
    bins = np.fft.rfftfreq(size, 1 / sample_rate)
    limited = np.clip(change_db, -MOST_CHANGE_DB, MOST_CHANGE_DB)
    place = np.log(np.maximum(bins, centres[0]))
    gain_db = np.interp(place, np.log(centres), limited)
    response = np.fft.irfft(10.0 ** (gain_db / 20.0))
    half = round(EQUALIZER_S * sample_rate / 2)
    taps = np.concatenate([response[-half:], response[: half + 1]])
    return (taps * np.hanning(len(taps) + 2)[1:-1]).astype(np.float32)


def random_settings(
    questions: Sequence[Question], host: Host, rng: np.random.Generator
) -> Answers:
    """The effect at settings drawn blindly."""
    controls = sample_controls(host.specs, rng, (len(questions),))
    return rendered_answers(questions, host, controls)


def true_settings(hidden: np.ndarray) -> Method:
    """The effect at the hidden settings: 0 by construction where it repeats itself.

    Args:
      hidden: [items, n], of the very trials that the questions are of, in order.
    """

    def method(questions, host, rng):
        del rng
        if len(hidden) != len(questions):
            raise ValueError(
                f"{len(hidden)} hidden settings for {len(questions)} questions; give"
                " the trials' own, one each"
            )
        return rendered_answers(questions, host, hidden)

    return method


def constant_settings(controls: np.ndarray) -> Method:
    """The effect at one setting [n] whatever is asked; see `best_constant`."""

    def method(questions, host, rng):
        del rng
        repeated = np.repeat(np.asarray(controls)[None], len(questions), axis=0)
        return rendered_answers(questions, host, repeated)

    return method


def best_constant(
    trials: Sequence[Trial],
    host: Host,
    rng: np.random.Generator,
    *,
    distance: Distance,
    renders: int = 3000,
) -> np.ndarray:
    """The one setting with the least mean distance over training trials.

    A Latin hypercube around the identity, then CMA-ES from the best of it, both on the
    first trials; the best of either, and the identity, are judged on all.

    Args:
      trials: of the training split, one shape.
      host: the opened effect.
      rng: source of all randomness.
      distance: ``(renders, truths) -> [items]``, what is minimised.
      renders: about as many are used, at least those of one wide sample.

    Returns:
      Controls [n].

    Raises:
      ValueError: no trials.
    """
    if not trials:
        raise ValueError("no training trials to fit a constant setting on")
    few = trials[:FIRST_TRIALS]
    identity = identity_controls(host.specs).astype(np.float32)

    def cost(controls, some):
        dry = np.stack([t.dry for t in some])
        source = np.tile(np.arange(len(some), dtype=np.int32), len(controls))
        made = host.render(dry, np.repeat(controls, len(some), axis=0), source).audio
        truth = np.stack([t.truth for t in some])[source]
        return distance(made, truth).reshape(len(controls), -1).mean(axis=1)

    # A quarter of the budget looks around, a little is left to judge on all trials.
    count = max(renders // (4 * len(few)), 4)
    cube = qmc.LatinHypercube(len(identity), rng=rng).random(count - 1)
    wide = np.concatenate([identity[None], cube]).astype(np.float32)
    judged = cost(wide, few)
    best = wide[np.argsort(judged, kind="stable")[:2]]
    strategy = cma.CMAEvolutionStrategy(
        np.clip(best[0], 0.02, 0.98),
        0.2,
        {
            "bounds": [0.0, 1.0],
            "popsize": POPULATION,
            "verbose": -9,
            # The library would seed NumPy's global generator otherwise.
            "seed": np.nan,
            "randn": lambda *shape: rng.standard_normal(shape),
        },
    )
    left = renders - count * len(few) - 5 * len(trials)
    for _ in range(left // (POPULATION * len(few))):
        points = strategy.ask()
        costs = cost(np.asarray(points, np.float32), few)
        strategy.tell(points, np.where(np.isfinite(costs), costs, 1e9).tolist())
    ends = [strategy.result.xfavorite, strategy.result.xbest]
    ends = [end for end in ends if end is not None]
    finalists = np.clip([identity, *best, *ends], 0.0, 1.0).astype(np.float32)
    return finalists[int(np.nanargmin(cost(finalists, trials)))]


class Bank(NamedTuple):
    """Training examples to retrieve from.

    Attributes:
      changes: change of the embedding from input to reference [examples, k], each
        entry divided by `scale`.
      scale: standard deviation of the entries [k].
      controls: the settings [examples, n].
    """

    changes: np.ndarray
    scale: np.ndarray
    controls: np.ndarray


def make_bank(changes: np.ndarray, controls: np.ndarray) -> Bank:
    """A bank of training examples.

    Args:
      changes: from `changes_of` [examples, k].
      controls: their hidden settings [examples, n].

    Raises:
      ValueError: no examples.
    """
    if not len(changes):
        raise ValueError("no training examples to retrieve from")
    scale = changes.std(axis=0)
    # An entry that never moves in training must not decide.
    scale = np.where(scale > 1e-6 * max(scale.max(), 1e-12), scale, np.inf)
    return Bank(changes / scale, scale, controls)


def changes_of(questions: Sequence[Question], embedding: Embedding) -> np.ndarray:
    """Change of an embedding from input to reference [items, k]."""
    return np.stack(
        [
            np.asarray(embedding(q.reference, q.sample_rate), np.float64)
            - embedding(q.dry, q.sample_rate)
            for q in questions
        ]
    )


def nearest_setting(bank: Bank, embedding: Embedding) -> Method:
    """The effect at the settings of the nearest example of a bank.

    Args:
      bank: from `make_bank`, of the same embedding.
      embedding: ``(audio [channels, time], rate) -> [k]``: `style_embedding`, or a
        controller's codes.
    """
    known = cached_embedding(embedding)

    def method(questions, host, rng):
        del rng
        asked = changes_of(questions, known) / bank.scale
        # |a - b|^2 for all pairs without an array [items, examples, k].
        apart = np.sum(bank.changes**2, axis=1) - 2.0 * asked @ bank.changes.T
        return rendered_answers(questions, host, bank.controls[apart.argmin(axis=1)])

    return method


def style_embedding(audio: np.ndarray, sample_rate: Rate) -> np.ndarray:
    """All of `styletransfer.style.style_features` of a sound in one vector [k]."""
    found = jax.device_get(_style(np.asarray(audio, np.float32), sample_rate))
    return np.concatenate([found[name] for name in sorted(found)])


@functools.partial(jax.jit, static_argnums=1)
def _style(audio, sample_rate):
    return style_features(jnp.asarray(audio), sample_rate, 0.45 * sample_rate)


def _with_level(audio: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The audio with the RMS of the reference."""
    power = [np.mean(np.square(a, dtype=np.float64)) for a in (audio, reference)]
    return audio * np.float32(np.sqrt(power[1] / max(power[0], 1e-20)))


def _without_renders(audio: np.ndarray) -> Answers:
    count = len(audio)
    return Answers(audio, np.zeros(count, np.int64), np.zeros(count, bool))
