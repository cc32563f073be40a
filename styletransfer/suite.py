"""A suite: every effect on every category of sounds, by every method, on equal terms.

A *cell* is an effect and a category, such as speech. Its trials are drawn evenly over
speakers or pieces; the pairs of sections are the same for every effect. All methods
answer the questions of the same trials, those that search only the first of them, and
are judged by `styletransfer.metrics`. What is fitted, a constant setting and a bank of
examples to retrieve from, is fitted on the training split of the same category.

All randomness comes from the seed and from names, so that any part of a suite can be
done again, alone, with the same result.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import tyro

from styletransfer import baselines, metrics
from styletransfer.controller import LoadedController, embed
from styletransfer.evaluation import (
    Answers,
    Embedding,
    Method,
    cached_embedding,
    predicted_method,
    transfer_method,
)
from styletransfer.hosts import Host
from styletransfer.transfer import TransferConfig
from styletransfer.trials import Groups, Trial, even_pairs, hide_settings

NOTHING, LEVEL = "do nothing", "level matched"
SPECTRUM, RANDOM = "spectrum matched", "random settings"
CONSTANT, NEAREST = "constant setting", "nearest setting"
TRUE, SEARCH = "true settings", "search"
REFINED = "{name}, refined"
TRIMMED = "{name}, level trimmed"
BY_CODES = "nearest by codes of {name}"
WRONG = "{name}, wrong reference"

_MDA = ("ambience", "combo", "delay", "dynamics", "leslie", "multiband", "overdrive")
# Pairs whose trials are drawn in one call to the host.
_AT_ONCE = 64
# Training trials on which the constant setting is judged; the bank has them all.
_CONSTANT_TRIALS = 48


@dataclass(frozen=True)
class SuiteConfig:
    """What is compared, on what.

    Attributes:
      effects: names of presets or paths of effect files.
      categories: folders of the manifest.
      split: judged on this one.
      sample_rate: Hz, to which all recordings are brought, in mono.
      section_s: length of input and reference each, seconds.
      items: trials a cell.
      refined_items: trials for methods that search.
      audible_db: mean change of the log spectrum by which a hidden setting counts as
        heard, as in training; 0 takes every setting.
      checkpoint: trained controllers, NAME=PATH; {effect} in a path is replaced by the
        effect's name; a name may have several paths, of different effects.
      refine: renders that improve each prediction; 0 leaves that method out.
      refine_only: names of those controllers whose predictions are refined and trimmed;
        all if empty.
      trim: share of what is left of the level that a gain behind each prediction takes
        away (`styletransfer.level_trim`); 0 leaves that method out.
      search: renders of the search without a controller; 0 leaves it out.
      prior: pull of that search towards settings that do nothing.
      codes: whether settings are also retrieved by the codes of each controller.
      train_examples: training examples to retrieve settings from.
      constant_renders: renders by which the best constant setting is found.
      metric: the metric that is minimised by it, and that the plot shows.
      pesq: "none"; "main" for speech, of the methods that count (no wrong references,
        random, true and retrieved settings); "all" for all of speech.
      seed: of everything.
    """

    effects: tuple[str, ...] = (
        "channel_strip",
        *(f"mda_{name}" for name in (*_MDA, "ring_mod", "thru_zero")),
    )
    categories: tuple[str, ...] = ("speech", "music")
    split: str = "test"
    sample_rate: int = 24000
    section_s: float = 3.0
    items: int = 200
    refined_items: int = 30
    audible_db: float = 0.5
    checkpoint: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    refine: int = 0
    refine_only: tuple[str, ...] = ()
    trim: float = 0.0
    search: int = 0
    prior: float = 3.0
    codes: bool = False
    train_examples: int = 512
    constant_renders: int = 3000
    metric: str = "original_mrstft"
    pesq: Literal["none", "main", "all"] = "main"
    seed: int = 0

    def __post_init__(self):
        known = [name for name in metrics.METRICS if name != "pesq"]
        if self.metric not in known:
            raise ValueError(
                f"metric {self.metric!r} unknown; choose one of {', '.join(known)}"
            )
        if min(self.items, self.refined_items, self.train_examples) < 1:
            raise ValueError(
                f"items {self.items}, refined_items {self.refined_items},"
                f" train_examples {self.train_examples}: each must be 1 or more"
            )
        if not self.effects or not self.categories:
            raise ValueError("name at least one effect and one category")
        for given in self.checkpoint:
            name, equals, path = given.partition("=")
            if not (name and equals and path):
                raise ValueError(f"checkpoint {given!r}: write NAME=PATH")
        if unknown := set(self.refine_only) - set(self.controllers):
            raise ValueError(
                f"refine_only {', '.join(sorted(unknown))}: no such checkpoint; there"
                f" are {', '.join(sorted(self.controllers)) or 'none'}"
            )

    @property
    def controllers(self) -> tuple[str, ...]:
        """Names of the checkpoints, each once."""
        return tuple(dict.fromkeys(g.partition("=")[0] for g in self.checkpoint))


class Entry(NamedTuple):
    """A method as it takes part.

    Attributes:
      name: in the table.
      method: what answers.
      items: on how many of the trials, from the first.
      wrong: whether it is given the wrong references.
      counts: whether it is of the methods whose PESQ is computed anyway.
      one_by_one: whether it gains nothing from many questions at once.
    """

    name: str
    method: Method
    items: int
    wrong: bool = False
    counts: bool = False
    one_by_one: bool = False


class Judged(NamedTuple):
    """What came of an entry.

    Attributes:
      values: ``{metric: [items]}``.
      renders: [items].
      failed: [items].
    """

    values: dict[str, np.ndarray]
    renders: np.ndarray
    failed: np.ndarray


class Fitted(NamedTuple):
    """What was fitted on training recordings: a constant [n], and banks by name."""

    constant: np.ndarray
    banks: dict[str, baselines.Bank]


def generator(seed: int, *words: str) -> np.random.Generator:
    """A generator that depends on the seed and on words, and on nothing else."""
    return np.random.default_rng([seed, *(zlib.crc32(w.encode()) for w in words)])


def draw_trials(
    config: SuiteConfig,
    groups: Groups,
    host: Host,
    count: int,
    *,
    effect: str,
    part: str,
) -> list[Trial]:
    """So many trials of a cell, evenly over groups, the first of them as well.

    Args:
      config: of the suite.
      groups: sections of the cell's category, of one shape.
      host: the opened effect.
      count: trials.
      effect: name of the effect; of the settings, not of the pairs.
      part: category and split, such as ``"speech test"``.

    Raises:
      ValueError: too few settings are heard.
    """
    pairing = generator(config.seed, "pairs", part)
    settings = generator(config.seed, "settings", part, effect)
    trials: list[Trial] = []
    for _ in range(3):
        pairs = even_pairs(groups, count - len(trials), pairing)
        for start in range(0, len(pairs), _AT_ONCE):
            trials += hide_settings(
                pairs[start : start + _AT_ONCE],
                host,
                settings,
                audible_db=config.audible_db,
            )
        if len(trials) == count:
            return trials
    raise ValueError(
        f"{effect}, {part}: only {len(trials)} of {count} trials have a setting that is"
        f" heard; lower audible_db from {config.audible_db}"
    )


def fit_on_training(
    config: SuiteConfig,
    groups: Groups,
    host: Host,
    embeddings: Mapping[str, Embedding],
    *,
    effect: str,
    category: str,
) -> Fitted:
    """The best constant setting, and a bank for each embedding.

    Args:
      config: of the suite.
      groups: sections of the training split.
      host: the opened effect.
      embeddings: by the name of the method that retrieves by them.
      effect: its name.
      category: of the sounds.

    Raises:
      ValueError: too few settings are heard.
    """
    trials = draw_trials(
        config,
        groups,
        host,
        config.train_examples,
        effect=effect,
        part=f"{category} train",
    )
    questions = [trial.question() for trial in trials]
    controls = np.stack([trial.hidden for trial in trials])
    banks = {
        name: baselines.make_bank(
            baselines.changes_of(questions, cached_embedding(embedding)), controls
        )
        for name, embedding in embeddings.items()
    }
    constant = baselines.best_constant(
        trials[:_CONSTANT_TRIALS],
        host,
        generator(config.seed, "constant", category, effect),
        distance=lambda made, truth: metrics.measure(
            made, truth, config.sample_rate, (config.metric,)
        )[config.metric],
        renders=config.constant_renders,
    )
    return Fitted(constant, banks)


def embeddings_for(
    config: SuiteConfig,
    controllers: Mapping[str, LoadedController],
    codes: Mapping[str, dict[str, np.ndarray]],
) -> dict[str, Embedding]:
    """The embeddings that settings are retrieved by, by the name of the method.

    Args:
      config: of the suite.
      controllers: by name.
      codes: of each controller, those known already.
    """
    found: dict[str, Embedding] = {NEAREST: baselines.style_embedding}
    for name, loaded in controllers.items() if config.codes else ():
        found[BY_CODES.format(name=name)] = cached_embedding(
            _codes_of(loaded), codes[name]
        )
    return found


def _codes_of(loaded: LoadedController) -> Embedding:
    return lambda audio, rate: embed(loaded, audio, rate)


def entries(
    config: SuiteConfig,
    trials: Sequence[Trial],
    fitted: Fitted,
    controllers: Mapping[str, LoadedController],
    codes: Mapping[str, dict[str, np.ndarray]],
) -> list[Entry]:
    """All methods of a cell, in the order of the table.

    Args:
      config: of the suite.
      trials: of the cell; only ``true settings`` is given what they hide.
      fitted: from `fit_on_training`.
      controllers: by name.
      codes: of each controller, those known already; filled.
    """
    count, few = len(trials), min(config.refined_items, len(trials))
    hidden = np.stack([trial.hidden for trial in trials])
    made = [
        Entry(NOTHING, baselines.do_nothing, count, counts=True),
        *_both(LEVEL, baselines.level_matched, count),
        *_both(SPECTRUM, baselines.spectrum_matched, count),
        Entry(RANDOM, baselines.random_settings, count),
        Entry(
            CONSTANT, baselines.constant_settings(fitted.constant), count, counts=True
        ),
    ]
    for name, embedding in embeddings_for(config, controllers, codes).items():
        nearest = baselines.nearest_setting(fitted.banks[name], embedding)
        made += [entry._replace(counts=False) for entry in _both(name, nearest, count)]
    search = TransferConfig(
        renders=max(config.search, 1),
        seed=config.seed,
        excerpt_s=config.section_s,
        prior=config.prior,
    )
    for name, loaded in controllers.items():
        made += _both(name, predicted_method(loaded, codes=codes[name]), count)
        if config.refine_only and name not in config.refine_only:
            continue
        if config.trim:
            trimmed = predicted_method(loaded, codes=codes[name], trim=config.trim)
            made.append(Entry(TRIMMED.format(name=name), trimmed, count, counts=True))
        if config.refine:
            # The prediction itself is the first render.
            further = TransferConfig(
                renders=1 + config.refine,
                seed=config.seed,
                excerpt_s=config.section_s,
            )
            method = predicted_method(loaded, refine=further, codes=codes[name])
            made.append(
                Entry(REFINED.format(name=name), method, few, False, True, True)
            )
    if config.search:
        made.append(Entry(SEARCH, transfer_method(search), few, False, True, True))
    return [*made, Entry(TRUE, baselines.true_settings(hidden), count)]


def _both(name: str, method: Method, count: int) -> list[Entry]:
    """A method that listens to the reference, and the same with the wrong one."""
    wrong = Entry(WRONG.format(name=name), method, count, wrong=True)
    return [Entry(name, method, count, counts=True), wrong]


def judge(
    entry: Entry,
    trials: Sequence[Trial],
    host: Host,
    rng: np.random.Generator,
    names: Sequence[str],
    *,
    answered: Callable[[int], None] = lambda done: None,
    finished: Callable[[], None] = lambda: None,
) -> Judged:
    """Has an entry answer its questions, and measures the answers.

    Args:
      entry: who answers; it sees questions, not trials.
      trials: of the cell.
      host: the opened effect.
      rng: of the entry alone.
      names: the metrics.
      answered: called with the number of answers so far, by those who search.
      finished: called when all are given, before they are measured.

    Raises:
      ValueError: the answers have another shape than the questions.
    """
    asked = trials[: entry.items]
    questions = [trial.question(wrong=entry.wrong) for trial in asked]
    if entry.one_by_one:
        parts = []
        for question in questions:
            parts.append(entry.method([question], host, rng))
            answered(len(parts))
        answers = Answers(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    else:
        answers = entry.method(questions, host, rng)
    finished()
    truths = np.stack([trial.truth for trial in asked])
    if answers.audio.shape != truths.shape:
        raise ValueError(
            f"{entry.name} answered {answers.audio.shape} to questions of"
            f" {truths.shape}; one answer each, as long as the input, is expected"
        )
    values = metrics.measure(answers.audio, truths, asked[0].sample_rate, names)
    return Judged(values, answers.renders, answers.failed)


def metrics_of(config: SuiteConfig, category: str, entry: Entry) -> tuple[str, ...]:
    """The metrics by which an entry is judged."""
    speech = category == "speech" and config.pesq != "none"
    wanted = speech and (entry.counts or config.pesq == "all")
    return (*metrics.ON_DEVICE, "pesq") if wanted else metrics.ON_DEVICE
