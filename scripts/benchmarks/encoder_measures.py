"""What codes tell of settings and of content, measured on speakers not fitted to.

Draws of a bootstrap resample whole speakers and pieces, the same ones for every code,
so that differences are paired.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from benchmarks.embedding_probes import Score, linear_readout, score

from vae.disentanglement import mutual_information_matrix

# Bins of an axis and of a parameter, and items for each of their cells: with emptier
# ones any parameter would seem to be told.
_MOST_BINS, _ITEMS_PER_CELL = 8, 5
_SMALL = 1e-12


class Told(NamedTuple):
    """Information about each of n parameters, in nats.

    Attributes:
      nats: of the best axis [n].
      null: the same of settings dealt out at random, mean over deals [n].
    """

    nats: np.ndarray
    null: np.ndarray


def axis_information(
    codes: np.ndarray,
    controls: np.ndarray,
    setting: np.ndarray,
    *,
    permutations: int,
    seed: int,
) -> Told:
    """Information of the best axis about each parameter, with that of chance.

    The best of many axes tells something of anything by chance; how much, settings that
    are dealt out anew say. Items that share settings still share them then.

    Args:
      codes: [items, size].
      controls: [items, n].
      setting: [items], equal for items with the same settings.
      permutations: deals of the null.
      seed: of them.

    Returns:
      `Told`.
    """
    bins = int(np.clip(np.sqrt(len(codes) / _ITEMS_PER_CELL), 2, _MOST_BINS))
    best = mutual_information_matrix(codes, controls, bins).max(0)
    _, first, which = np.unique(setting, return_index=True, return_inverse=True)
    rng = np.random.default_rng(seed)
    nulls = [
        mutual_information_matrix(
            codes, controls[first[rng.permutation(len(first))][which]], bins
        ).max(0)
        for _ in range(permutations)
    ]
    return Told(best, np.mean(nulls, 0))


@dataclass(frozen=True)
class Explained:
    """R^2 of readouts of n parameters.

    Attributes:
      each: [n]; below 0 where the mean of the judged would be nearer.
      draws: [n, draws], over resampled groups.
    """

    each: np.ndarray
    draws: np.ndarray


def ridge_explains(
    known: tuple[np.ndarray, np.ndarray],
    judged: tuple[np.ndarray, np.ndarray],
    group: np.ndarray,
    groups: np.ndarray,
    *,
    draws: int,
    seed: int,
) -> Explained:
    """R^2 of a ridge regression of each parameter on speakers it was not fitted to.

        R^2 = 1 - sum (y - readout)^2 / sum (y - mean y)^2

    Args:
      known: (codes [items, size], controls [items, n]) to fit to.
      judged: the same, to judge by.
      group: of each judged item.
      groups: all that are resampled, those without an item here as well.
      draws: of the bootstrap.
      seed: of it.

    Returns:
      `Explained`.
    """
    (codes, controls), (others, truth) = known, judged
    readout = np.stack([linear_readout(codes, y, others) for y in controls.T], 1)
    groups = np.unique(groups)
    index = np.searchsorted(groups, group)
    sums = np.zeros((len(groups), 4, truth.shape[1]))
    ones = np.ones_like(truth, float)
    parts = np.stack([ones, truth, truth**2, (truth - readout) ** 2], 1)
    np.add.at(sums, index, parts)
    rng = np.random.default_rng(seed)
    shares = np.full(len(groups), 1.0 / len(groups))
    weights = rng.multinomial(len(groups), shares, size=draws)
    return Explained(_explained(sums.sum(0)), _explained(weights @ sums.swapaxes(0, 1)))


def _explained(sums: np.ndarray) -> np.ndarray:
    """R^2 from sums of 1, y, y^2 and squared errors: [4, n], or [4, draws, n]."""
    count, first, second, error = sums
    spread = second - first**2 / np.maximum(count, 1.0)
    return (1.0 - error / np.maximum(spread, _SMALL)).T


def recall(
    codes: np.ndarray,
    setting: np.ndarray,
    group: np.ndarray,
    effect: np.ndarray,
    *,
    among: int,
    within: bool,
    seed: int,
    draws: int,
) -> tuple[Score, int]:
    """How often the code nearest to a sound's has the same settings, other content.

    Of every setting with two items one is looked for and the other lies among those of
    other settings, then the other way round. Near is a small angle between codes.

    Args:
      codes: [items, size], standardised.
      setting: [items], equal for items with the same settings of one effect.
      group: speaker or piece of each.
      effect: of each.
      among: settings to find one among.
      within: whether all of them are of one effect, or of any.
      seed: of which settings are together.
      draws: of the bootstrap over groups of what is looked for.

    Returns:
      (`Score` whose accuracy is the recall at 1, settings that there were to find one
      among: fewer than `among` where an effect has fewer).

    Raises:
      ValueError: no setting has two items.
    """
    rng = np.random.default_rng(seed)
    _, which, count = np.unique(setting, return_inverse=True, return_counts=True)
    order = np.argsort(which, kind="stable")
    twos = order[np.isin(which[order], np.flatnonzero(count == 2))].reshape(-1, 2)
    if not len(twos):
        raise ValueError("no setting has two items; give more clips of each effect")
    direction = codes / np.maximum(np.linalg.norm(codes, axis=1, keepdims=True), _SMALL)
    found, sought, sizes = [], [], []
    kinds = np.unique(effect) if within else [None]
    for kind in kinds:
        own = twos if kind is None else twos[effect[twos[:, 0]] == kind]
        own = own[rng.permutation(len(own))]
        size = min(among, len(own))
        for first in range(0, len(own) - size + 1, max(size, 1)):
            some = own[first : first + size]
            likeness = direction[some[:, 0]] @ direction[some[:, 1]].T
            right = np.arange(size)
            found += [likeness.argmax(1) == right, likeness.argmax(0) == right]
            sought += [some[:, 0], some[:, 1]]
            sizes.append(size)
    hit = np.concatenate(found).astype(int)
    places = np.concatenate(sought)
    told = score(hit, np.ones_like(hit), group[places], 2, draws=draws, seed=seed)
    return told, min(sizes)


def halves_by_place(
    group: np.ndarray, file: np.ndarray, offset: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Crops of each group in two parts that have no sample in common.

    Args:
      group: of each crop.
      file: of each.
      offset: its place in the file, samples.
      length: of a crop, samples.

    Returns:
      (earlier, later): indices; the first crops of each group in the order of file
      and place, and those after them that do not reach into one of these, parted where
      the smaller part is largest. Groups with nothing on one side are left out.
    """
    earlier, later = [], []
    for name in np.unique(group):
        own = np.flatnonzero(group == name)
        own = own[np.lexsort((offset[own], file[own]))]
        parted = [(own[:0], own[:0])]
        for count in range(1, len(own)):
            last, rest = own[count - 1], own[count:]
            apart = (file[rest] != file[last]) | (offset[rest] >= offset[last] + length)
            parted.append((own[:count], rest[apart]))
        first, second = max(parted, key=lambda parts: min(map(len, parts)))
        earlier.append(first if len(second) else second)
        later.append(second)
    return np.concatenate(earlier), np.concatenate(later)
