"""What an embedding tells: probes of the effect, information about its parameters.

Probes are trained on one split and judged on groups (speakers, pieces) of another.
Intervals resample whole groups, for items of one speaker are no independent evidence.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import digamma
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

PROBES = ("linear", "forest")
_TREES = 300
# Inverse strength of the logistic regression's penalty, the same for every embedding:
# ten times below scikit-learn's, which costs ten times the time for the same accuracy.
_PENALTY = 0.1
_NEIGHBOURS = 3
# Ridges that the linear figure chooses from, per training item, on standardised axes.
_RIDGES = np.logspace(-2.0, 2.0, 9)
_SMALL = 1e-12


class Labelled(NamedTuple):
    """Embeddings [items, size] and what is known of each item.

    Attributes:
      embedding: float [items, size].
      label: int [items].
      group: [items], any values.
    """

    embedding: np.ndarray
    label: np.ndarray
    group: np.ndarray


def predict(probe: str, known: Labelled, judged: np.ndarray, seed: int) -> np.ndarray:
    """Labels [items] that a probe gives to embeddings that it has not seen.

    Args:
      probe: ``"linear"``, logistic regression of standardised axes, or ``"forest"``.
      known: what it is trained on.
      judged: embeddings [items, size].
      seed: of the forest.

    Raises:
      ValueError: an unknown probe.
    """
    if probe == "linear":
        readout = LogisticRegression(C=_PENALTY, max_iter=3000)
        model = make_pipeline(StandardScaler(), readout)
    elif probe == "forest":
        model = RandomForestClassifier(_TREES, random_state=seed, n_jobs=-1)
    else:
        raise ValueError(f"probe {probe!r} unknown; choose from {', '.join(PROBES)}")
    return model.fit(known.embedding, known.label).predict(judged)


@dataclass(frozen=True)
class Score:
    """How well labels were told, and over resampled groups.

    Attributes:
      accuracy: share of the items.
      macro_f1: mean over classes of the harmonic mean of precision and recall.
      confusion: int [true, told].
      draws: [2, draws], accuracy and macro F1 over resampled groups; draw i takes the
        same groups whatever the predictions, so that differences are paired.
    """

    accuracy: float
    macro_f1: float
    confusion: np.ndarray
    draws: np.ndarray

    def interval(self, measure: int = 0) -> tuple[float, float]:
        """Where 95 % of the draws lie; measure 0 is accuracy, 1 macro F1."""
        return interval(self.draws[measure])


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of draws."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def score(
    told: np.ndarray,
    label: np.ndarray,
    group: np.ndarray,
    classes: int,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Score:
    """Accuracy and macro F1 with bootstrap draws that resample groups.

    Args:
      told: predicted labels [items].
      label: true labels [items].
      group: of each item.
      classes: how many labels there are.
      draws: of the bootstrap.
      seed: of it.

    Returns:
      A `Score`.
    """
    _, index = np.unique(group, return_inverse=True)
    groups = int(index.max()) + 1
    counts = np.zeros((groups, classes, classes))
    np.add.at(counts, (index, label, told), 1)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(groups, np.full(groups, 1.0 / groups), size=draws)
    resampled = np.tensordot(weights, counts, 1)
    whole = counts.sum(0)
    return Score(
        float(_accuracy(whole)),
        float(_macro_f1(whole)),
        whole.astype(int),
        np.stack([_accuracy(resampled), _macro_f1(resampled)]),
    )


def _accuracy(confusion: np.ndarray) -> np.ndarray:
    right = np.trace(confusion, axis1=-2, axis2=-1)
    return right / confusion.sum((-2, -1))


def _macro_f1(confusion: np.ndarray) -> np.ndarray:
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    both = confusion.sum(-1) + confusion.sum(-2)
    f1 = 2.0 * right / np.maximum(both, 1.0)
    # A class of which a draw has no items has no F1.
    present = confusion.sum(-1) > 0
    return (f1 * present).sum(-1) / present.sum(-1)


@dataclass(frozen=True)
class Information:
    """How much an embedding tells of one parameter, in nats.

    Attributes:
      axis: largest information of a single axis, by nearest neighbours.
      axis_null: of permuted parameters: [permutations], each the largest of an axis.
      linear: -1/2 ln(1 - R^2), R^2 of a linear readout that was fitted to the training
        split and explains the judged one; 0 where it explains nothing.
      linear_null: of permuted parameters.
    """

    axis: float
    axis_null: np.ndarray
    linear: float
    linear_null: np.ndarray

    def p_value(self, kind: str = "axis") -> float:
        """Share of the null that is at least as large, itself included."""
        null = getattr(self, f"{kind}_null")
        return float((1 + np.sum(null >= getattr(self, kind))) / (1 + len(null)))


def parameter_information(
    known: tuple[np.ndarray, np.ndarray],
    judged: tuple[np.ndarray, np.ndarray],
    *,
    permutations: int,
    seed: int,
) -> list[Information]:
    """Information between an embedding and parameters, and the same of no relation.

    Parameters were drawn for each item by itself, so that any permutation of one is as
    likely as it is: the null is exact. The neighbours see ranks alone, of which every
    parameter has the same ones: all share one null.

    Args:
      known: (embedding [items, size], parameters [items, n]) to fit the linear readouts
        to.
      judged: the same, to measure on.
      permutations: of the null.
      seed: of the permutations.

    Returns:
      An `Information` for each of the n parameters.
    """
    embedding, parameters = judged
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(parameters)) for _ in range(permutations)]
    gaps = axis_gaps(embedding)
    null = np.array([nearest_neighbour_information(gaps, o).max() for o in orders])
    found = []
    for known_one, one in zip(known[1].T, parameters.T, strict=True):
        readout = linear_readout(known[0], known_one, embedding)
        found.append(
            Information(
                float(nearest_neighbour_information(gaps, one).max()),
                null,
                linear_information(readout, one),
                np.array([linear_information(readout, one[o]) for o in orders]),
            )
        )
    return found


def axis_gaps(embedding: np.ndarray) -> np.ndarray:
    """Distances along each axis between all items, [size, items, items] float32."""
    columns = np.asarray(embedding, np.float64).T
    # Ranks: the information is the same, and no axis has heavy tails.
    ranks = np.argsort(np.argsort(columns, 1), 1) / columns.shape[1]
    gaps = np.abs(ranks[:, :, None] - ranks[:, None, :]).astype(np.float32)
    diagonal = np.arange(gaps.shape[1])
    gaps[:, diagonal, diagonal] = np.inf
    return gaps


def nearest_neighbour_information(
    gaps: np.ndarray, parameter: np.ndarray, neighbours: int = _NEIGHBOURS
) -> np.ndarray:
    """Mutual information of each axis with a parameter, nats.

        I = psi(k) + psi(N) - mean[psi(n_x + 1) + psi(n_y + 1)]

    with n_x and n_y the items nearer along one than the k-th neighbour along both.

    Args:
      gaps: from `axis_gaps`.
      parameter: [items].
      neighbours: k.

    Returns:
      [size], 0 or more.

    Reference: A. Kraskov et al., Estimating mutual information (2004), eq. 8.
    """
    items = len(parameter)
    ranks = np.argsort(np.argsort(parameter)) / items
    other = np.abs(ranks[:, None] - ranks[None, :]).astype(np.float32)
    np.fill_diagonal(other, np.inf)
    reach = np.partition(np.maximum(gaps, other), neighbours - 1, -1)
    reach = reach[..., neighbours - 1, None]
    along = digamma(np.sum(gaps < reach, -1) + 1)
    across = digamma(np.sum(other < reach, -1) + 1)
    found = digamma(neighbours) + digamma(items) - np.mean(along + across, -1)
    return np.maximum(found, 0.0)


def linear_readout(
    embedding: np.ndarray, parameter: np.ndarray, judged: np.ndarray
) -> np.ndarray:
    """The parameter that ridge regression reads from embeddings [items].

    How strong the ridge is, leaving out each training item in turn decides.
    """
    ridges = _RIDGES * len(embedding)
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=ridges))
    return model.fit(embedding, parameter).predict(judged)


def linear_information(readout: np.ndarray, parameter: np.ndarray) -> float:
    """-1/2 ln(1 - R^2) of a readout as it stands, nats; 0 where R^2 is negative."""
    left = np.mean((parameter - readout) ** 2) / max(np.var(parameter), _SMALL)
    return float(0.5 * np.log(1.0 / np.clip(left, _SMALL, 1.0)))
