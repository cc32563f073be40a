"""Trials: questions of which the answer is known, made from recordings.

A *trial* takes two sections of one speaker or piece and one hidden setting of the
effect. The input is section A untouched, the reference is section B with the hidden
setting, and the truth is A with the hidden setting, rendered as an answer is. What asks
for an answer is the trial's `Question`: input and reference, and nothing else.

The *wrong* reference is B with another setting, drawn in the same way. What a method
loses with it is what it learned from the reference, and not from the habits of the
effect.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ddspx.data.dataset import Section, sections
from ddspx.data.manifest import Clip
from ddspx.parameters import sample_controls
from styletransfer.hosts import Host, Status
from styletransfer.pairs import spectrum_change_db

# A truth this quiet (a hidden setting can gate everything away) makes the loss, which
# is relative to the truth's magnitude, meaningless.
QUIETEST_TRUTH_DB = -60.0
# Draws of hidden settings for a pair, before it is left out.
TRIES = 10

Groups = Mapping[str, Sequence[tuple[str, Section]]]


class Pair(NamedTuple):
    """Two sections [channels, time] of one speaker or piece, with their names."""

    group: str
    name: str
    reference_name: str
    sample_rate: int
    dry: np.ndarray
    other: np.ndarray


class Trial(NamedTuple):
    """One question with its answer; see the module.

    Attributes:
      group: speaker or piece.
      name: of the input's section, ``path@seconds``.
      reference_name: of the reference's section.
      sample_rate: Hz.
      dry: the input [channels, time].
      reference: the other section with the hidden setting.
      wrong: the other section with another hidden setting: the reference that must
        lose.
      truth: the input with the hidden setting.
      hidden: the setting [n] in [0, 1].
      tries: settings that were drawn until one was heard.
    """

    group: str
    name: str
    reference_name: str
    sample_rate: int
    dry: np.ndarray
    reference: np.ndarray
    wrong: np.ndarray
    truth: np.ndarray
    hidden: np.ndarray
    tries: int

    def question(self, *, wrong: bool = False) -> "Question":
        """What a method may see; with `wrong`, of the reference that must lose."""
        reference = self.wrong if wrong else self.reference
        return Question(self.sample_rate, self.dry, reference)


class Question(NamedTuple):
    """What a method sees of a trial: nothing of the hidden setting or the truth."""

    sample_rate: int
    dry: np.ndarray
    reference: np.ndarray


def grouped_sections(
    clips: Iterable[Clip],
    seconds: float,
    *,
    split: str,
    category: str | None = None,
    sample_rate: int | None = None,
    channels: int | None = None,
) -> dict[str, list[tuple[str, Section]]]:
    """Sections of every speaker or piece of a split that has two or more.

    Args:
      clips: of a manifest.
      seconds: length of a section.
      split: which split.
      category: only clips below this folder of the manifest; all when None.
      sample_rate: to resample to, in Hz; each file's own when None.
      channels: to bring every file to; its own when None.

    Returns:
      ``{group: [(path@seconds, section)]}``.

    Raises:
      ValueError: no group has two sections.
    """
    groups = defaultdict(list)
    for clip in clips:
        if clip.split != split or category not in (None, clip.category):
            continue
        for section in sections(
            clip, seconds, sample_rate=sample_rate, channels=channels
        ):
            name = f"{clip.path}@{section.start_s:.2f}"
            groups[clip.group].append((name, section))
    kept = {name: members for name, members in groups.items() if len(members) > 1}
    if not kept:
        raise ValueError(
            f"no speaker or piece of split {split!r}, category {category!r} has two"
            f" sections of {seconds} s; choose shorter sections or another split"
        )
    return kept


def make_trials(
    groups: Groups, open_at: Callable[[int], Host], *, settings: int, seed: int
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
                both = [members[first], members[second]]
                rng.shuffle(both)
                pair = _pair(group, *both)
                if pair is None:
                    continue
                host = open_at(pair.sample_rate)
                for _ in range(settings):
                    yield from hide_settings([pair], host, rng)


def even_pairs(groups: Groups, count: int, rng: np.random.Generator) -> list[Pair]:
    """So many pairs, as many of each speaker or piece as of any other.

    Groups take turns, in an order that is drawn anew for each round; so any opening of
    the list is even as well. Pairs are drawn, and repeat where there are too few.

    Args:
      groups: sections of one length, rate and number of channels.
      count: pairs.
      rng: source of all randomness.

    Raises:
      ValueError: sections of different rates or shapes.
    """
    names, pairs = sorted(groups), []
    while len(pairs) < count:
        for index in rng.permutation(len(names)):
            members = groups[names[index]]
            first, second = rng.choice(len(members), 2, replace=False)
            pairs.append(_alike(names[index], members[first], members[second]))
    return pairs[:count]


def every_section(groups: Groups, rng: np.random.Generator) -> list[Pair]:
    """Every section as the input once, with another of its group as reference.

    Args:
      groups: sections of one length, rate and number of channels.
      rng: draws the references.

    Raises:
      ValueError: sections of different rates or shapes.
    """
    pairs = []
    for group, members in groups.items():
        for index in range(len(members)):
            step = 1 + int(rng.integers(len(members) - 1))
            other = members[(index + step) % len(members)]
            pairs.append(_alike(group, members[index], other))
    return pairs


def hide_settings(
    pairs: Sequence[Pair],
    host: Host,
    rng: np.random.Generator,
    *,
    audible_db: float = 0.0,
    tries: int = TRIES,
) -> list[Trial]:
    """Draws a hidden setting for each pair and renders truth and references.

    A setting counts where truth and references are more than silence, and the truth
    differs from the input, and the wrong reference from its section, as much as
    training asks for; else it is drawn again.

    Args:
      pairs: all of one shape and of the host's rate.
      host: the opened effect.
      rng: of the settings, uniform in the unit cube.
      audible_db: least mean change of the log spectrum, see
        `styletransfer.pairs.spectrum_change_db`.
      tries: draws for a pair before it is left out.

    Returns:
      A trial for each pair, in order, less those for which no draw counted.
    """
    found: dict[int, Trial] = {}
    pending = list(range(len(pairs)))
    for number in range(tries):
        if not pending:
            break
        drawn = [sample_controls(host.specs, rng, (2,)) for _ in pending]
        # For each pair: its truth, its reference, and the wrong reference.
        audio = np.stack([s for k in pending for s in (pairs[k].dry, pairs[k].other)])
        controls = np.concatenate([[one, one, two] for one, two in drawn])
        starts = 2 * np.arange(len(pending))[:, None]
        source = (starts + np.array([0, 1, 1])).ravel().astype(np.int32)
        rendered = host.render(audio, controls, source)
        power = np.mean(np.square(rendered.audio, dtype=np.float64), axis=(1, 2))
        good = 10 * np.log10(power + 1e-20) > QUIETEST_TRUTH_DB
        good = (good & (rendered.status == Status.OK)).reshape(-1, 3).all(axis=1)
        made = rendered.audio.reshape(len(pending), 3, *rendered.audio.shape[1:])
        still = []
        for k, (hidden, _), (truth, reference, wrong), usable in zip(
            pending, drawn, made, good, strict=True
        ):
            pair = pairs[k]
            treated = ((pair.dry, truth), (pair.other, wrong)) if audible_db else ()
            if usable and all(spectrum_change_db(*t) >= audible_db for t in treated):
                found[k] = Trial(*pair[:5], reference, wrong, truth, hidden, number + 1)
            else:
                still.append(k)
        pending = still
    return [found[k] for k in sorted(found)]


def _alike(group, one, two) -> Pair:
    pair = _pair(group, one, two)
    if pair is None:
        raise ValueError(
            f"{one[0]} and {two[0]} differ in rate or shape; bring sections to one rate"
            " and number of channels"
        )
    return pair


def _pair(group, one, two) -> Pair | None:
    (name, dry), (other_name, other) = one, two
    if dry.sample_rate != other.sample_rate or dry.samples.shape != other.samples.shape:
        return None
    return Pair(group, name, other_name, dry.sample_rate, dry.samples, other.samples)
