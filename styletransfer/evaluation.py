"""The scoreboard: does a transfer come nearer to the truth than doing nothing?

A *trial* takes two sections of one speaker or piece and one hidden setting of the
effect. The input is section A untouched, the reference is section B with the hidden
setting, and the truth, which no method sees, is A with the hidden setting. Every method
turns input and reference into audio, and is scored by the multi-resolution STFT loss to
the truth, on the same trials, so that differences are paired.

Intervals are hierarchical bootstraps: speakers or pieces are drawn first, then trials
within each, since sections of one speaker are not independent (Davison & Hinkley 1997,
section 3.8).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddspx import losses
from ddspx.data.dataset import Section
from ddspx.parameters import sample_controls
from styletransfer.controller import LoadedController, predict
from styletransfer.hosts import Host, Status
from styletransfer.transfer import TransferConfig, transfer

# A truth this quiet (a hidden setting can gate everything away) makes the loss, which
# is relative to the truth's magnitude, meaningless.
QUIETEST_TRUTH_DB = -60.0


class Trial(NamedTuple):
    """One question to every method; see the module.

    `wrong` is section B with another hidden setting: the reference that must lose.
    """

    group: str
    name: str
    sample_rate: int
    dry: np.ndarray
    reference: np.ndarray
    wrong: np.ndarray
    truth: np.ndarray
    hidden: np.ndarray


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


def make_trials(
    groups: Mapping[str, Sequence[tuple[str, Section]]],
    open_at: Callable[[int], Host],
    *,
    settings: int,
    seed: int,
) -> Iterator[Trial]:
    """Every pair of sections of a group, each with several hidden settings.

    Args:
      groups: ``{speaker or piece: [(name, section)]}``. A pair has one sample rate and
        number of channels; of the two orders, one is drawn.
      open_at: gives the effect's host at a sample rate.
      settings: hidden settings per pair, uniform in the unit cube.
      seed: of order and settings.

    Yields:
      Trials; those whose truth or reference is near silence are drawn again, and left
      out after ten draws.
    """
    rng = np.random.default_rng(seed)
    for group, members in groups.items():
        for first in range(len(members)):
            for second in range(first):
                pair = [members[first], members[second]]
                rng.shuffle(pair)
                (name, one), (other_name, other) = pair
                if one.sample_rate != other.sample_rate:
                    continue
                if one.samples.shape != other.samples.shape:
                    continue
                host = open_at(one.sample_rate)
                for draw in range(settings):
                    made = _trial(host, one.samples, other.samples, rng)
                    if made is not None:
                        label = f"{name} like {other_name} #{draw}"
                        yield Trial(group, label, one.sample_rate, *made)


def _trial(host, dry, other, rng):
    audio = np.stack([dry, other])
    for _ in range(10):
        hidden, another = sample_controls(host.specs, rng, (2,))
        rendered = host.render(
            audio, np.stack([hidden, hidden, another]), np.array([0, 1, 1], np.int32)
        )
        truth, reference, wrong = rendered.audio
        power = np.mean(np.square(rendered.audio, dtype=np.float64), axis=(1, 2))
        loud = 10 * np.log10(power + 1e-20) > QUIETEST_TRUTH_DB
        if loud.all() and (rendered.status == Status.OK).all():
            return dry, reference, wrong, truth, hidden
    return None


Method = Callable[[Trial, Host, np.random.Generator], np.ndarray]


def do_nothing(trial: Trial, host: Host, rng: np.random.Generator) -> np.ndarray:
    """The input as it is."""
    del host, rng
    return trial.dry


def level_matched(trial: Trial, host: Host, rng: np.random.Generator) -> np.ndarray:
    """The input with the reference's RMS: the strongest simple baseline."""
    del host, rng
    power = [np.mean(np.square(a, dtype=np.float64)) for a in trial[3:5]]
    return trial.dry * np.float32(np.sqrt(power[1] / power[0]))


def random_settings(trial: Trial, host: Host, rng: np.random.Generator) -> np.ndarray:
    """The effect at settings drawn blindly."""
    controls = sample_controls(host.specs, rng, (1,))
    return host.render(trial.dry[None], controls).audio[0]


def true_settings(trial: Trial, host: Host, rng: np.random.Generator) -> np.ndarray:
    """The effect at the hidden settings: what is attainable, 0 by construction."""
    del rng
    return host.render(trial.dry[None], trial.hidden[None]).audio[0]


def transfer_method(config: TransferConfig, *, wrong: bool = False) -> Method:
    """The system itself; with `wrong` it is given the reference that must lose."""

    def method(trial: Trial, host: Host, rng: np.random.Generator) -> np.ndarray:
        del rng
        reference = trial.wrong if wrong else trial.reference
        return transfer(host, trial.dry, reference, config=config).audio

    return method


def predicted_method(
    loaded: LoadedController,
    *,
    wrong: bool = False,
    refine: TransferConfig | None = None,
) -> Method:
    """The effect at the settings that a trained controller says.

    Args:
      loaded: a controller of the very effect that the trials hide settings of.
      wrong: give it the reference that must lose.
      refine: search on from the prediction; None for one render.
    """

    def method(trial: Trial, host: Host, rng: np.random.Generator) -> np.ndarray:
        del rng
        reference = trial.wrong if wrong else trial.reference
        rate = trial.sample_rate
        found = predict(loaded, trial.dry, reference, rate, rate)
        if refine is None:
            return host.render(trial.dry[None], found.controls[None]).audio[0]
        made = transfer(host, trial.dry, reference, config=refine, prediction=found)
        return made.audio

    return method


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
      An `Interval`; the mean is over trials, so a group counts by its trials.
    """
    values = np.asarray(values, np.float64)
    names = sorted(set(groups))
    members = [np.flatnonzero(np.asarray(groups) == name) for name in names]
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for draw in range(draws):
        chosen = rng.integers(len(members), size=len(members))
        sample = [members[g][rng.integers(len(members[g]), size=len(members[g]))]
                  for g in chosen]  # fmt: skip
        means[draw] = values[np.concatenate(sample)].mean()
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))


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
    return [
        Row(
            method=name,
            trials=len(values),
            mean=bootstrap(values, groups),
            median=float(np.median(values)),
            improvement=bootstrap(against - values, groups),
            wins=float(np.mean(values < against)),
        )
        for name, values in results.items()
    ]
