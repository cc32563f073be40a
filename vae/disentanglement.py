"""Disentanglement scores of codes whose generating factors are known.

Codes are [examples, latents] (posterior means), factors [examples, factors]; a factor
is discrete or is cut into equally filled bins. All scores lie in [0, 1].
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ddspx.types import AnyArray

BINS = 20


def mutual_information_matrix(
    codes: Float[AnyArray, "examples latents"],
    factors: Float[AnyArray, "examples factors"],
    bins: int = BINS,
) -> np.ndarray:
    """Information between each latent and each factor, in nats, by histograms.

    The bias of finite histograms, (cells - rows - columns + 1) / (2 N) to first order,
    is subtracted (Miller 1955), and what falls below 0 is set to 0.

    Args:
      codes: latents, cut into `bins` equally filled bins.
      factors: as they are when they have at most `bins` values, else cut as well.
      bins: of a continuous variable.

    Returns:
      [latents, factors].
    """
    left = [_labels(column, bins) for column in np.asarray(codes).T]
    right = [_labels(column, bins) for column in np.asarray(factors).T]
    return np.array([[_information(a, b) for b in right] for a in left])


def mig(
    codes: Float[AnyArray, "examples latents"],
    factors: Float[AnyArray, "examples factors"],
    bins: int = BINS,
) -> float:
    """Mutual information gap.

        MIG = mean over factors of (largest - second largest I(z_i; v)) / H(v)

    Args:
      codes: latents, two at least.
      factors: known causes.
      bins: see `mutual_information_matrix`.

    Returns:
      0 (every factor is spread) to 1 (one latent a factor).

    Raises:
      ValueError: fewer than two latents.

    Reference: R. Chen et al., Isolating sources of disentanglement (2018), eq. 6.
    """
    _two(codes)
    information = np.sort(mutual_information_matrix(codes, factors, bins), 0)
    entropy = [_entropy(_labels(column, bins)) for column in np.asarray(factors).T]
    gaps = (information[-1] - information[-2]) / np.maximum(entropy, 1e-12)
    return float(np.mean(np.clip(gaps, 0.0, 1.0)))


def modularity(
    codes: Float[AnyArray, "examples latents"],
    factors: Float[AnyArray, "examples factors"],
    bins: int = BINS,
) -> float:
    """Whether each latent tells of one factor only.

        1 - sum over other factors of I^2 / (I_max^2 (factors - 1)), mean over latents

    Latents that tell of nothing are left out.

    Args:
      codes: latents.
      factors: known causes, two at least.
      bins: see `mutual_information_matrix`.

    Returns:
      0 to 1; 0 when no latent tells of anything.

    Raises:
      ValueError: fewer than two factors.

    Reference: K. Ridgeway, M. Mozer, Learning deep disentangled embeddings (2018).
    """
    if np.shape(factors)[1] < 2:
        raise ValueError("modularity compares factors; give two or more")
    information = mutual_information_matrix(codes, factors, bins)
    largest = information.max(1)
    told = largest > 0.01 * max(largest.max(), 1e-12)
    if not told.any():
        return 0.0
    square = information[told] ** 2
    rest = square.sum(1) - largest[told] ** 2
    score = 1.0 - rest / (largest[told] ** 2 * (information.shape[1] - 1))
    return float(np.mean(score))


def sap(
    codes: Float[AnyArray, "examples latents"],
    factors: Float[AnyArray, "examples factors"],
) -> float:
    """Separated attribute predictability, for continuous factors.

        mean over factors of (largest - second largest R^2 of one latent)

    Args:
      codes: latents, two at least.
      factors: known causes.

    Returns:
      0 to 1. R^2 is that of a straight line.

    Raises:
      ValueError: fewer than two latents.

    Reference: A. Kumar et al., Variational inference of disentangled latent concepts
      (2018), section 4.
    """
    _two(codes)
    latents = np.shape(codes)[1]
    both = np.concatenate([np.asarray(codes), np.asarray(factors)], 1).astype(float)
    both = both - both.mean(0)
    norm = np.maximum(np.linalg.norm(both, axis=0), 1e-12)
    squares = np.sort(
        ((both.T @ both) / np.outer(norm, norm))[:latents, latents:] ** 2, 0
    )
    return float(np.mean(squares[-1] - squares[-2]))


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness.

    Attributes:
      disentanglement: each latent important for one factor only.
      completeness: each factor captured by one latent only.
      informativeness: how well factors are predicted from all latents, R^2.
    """

    disentanglement: float
    completeness: float
    informativeness: float


def dci_from_importance(
    importance: Float[AnyArray, "latents factors"], informativeness: float = 1.0
) -> DCI:
    """DCI from a matrix of importances of any predictor.

        D = sum_i w_i (1 - H(P_i) / ln factors),  w_i the share of latent i
        C = sum_j u_j (1 - H(Q_j) / ln latents),  u_j the share of factor j

    Args:
      importance: zero or more.
      informativeness: passed through.

    Returns:
      `DCI`.

    Reference: C. Eastwood, C. Williams, A framework for the quantitative evaluation
      of disentangled representations (2018).
    """
    r = np.asarray(importance, float) + 1e-12

    def score(rows: np.ndarray) -> float:
        share = rows / rows.sum(1, keepdims=True)
        entropy = -np.sum(share * np.log(share), 1) / np.log(max(rows.shape[1], 2))
        weight = rows.sum(1) / rows.sum()
        return float(np.clip(np.sum(weight * (1.0 - entropy)), 0.0, 1.0))

    return DCI(score(r), score(r.T), informativeness)


def factor_vae_score(
    encode: Callable[[np.ndarray], np.ndarray],
    draw: Callable[[np.random.Generator, int], np.ndarray],
    factors: int,
    rng: np.random.Generator,
    *,
    votes: int = 400,
    batch: int = 64,
) -> float:
    """Whether holding one factor still is seen as one latent that stands still.

    For a random factor, a batch of examples shares its value; the vote is the latent
    with the least variance, relative to its variance over all data. A majority table
    of half the votes is judged on the other half. Latents that vary by less than 0.05
    of the largest are left out.

    Args:
      encode: from factors [batch, factors] to codes [batch, latents].
      draw: ``(rng, count)`` to independent factors [count, factors].
      factors: how many.
      rng: source of all randomness.
      votes: batches, for table and judgement together.
      batch: examples a vote.

    Returns:
      Share of right votes; 1 / factors is chance.

    Reference: H. Kim, A. Mnih, Disentangling by factorising (2018), section 4.
    """
    spread = np.std(encode(draw(rng, 20 * batch)), 0)
    live = np.flatnonzero(spread > 0.05 * max(spread.max(), 1e-12))
    if live.size == 0:
        return 0.0
    table = np.zeros((2, live.size, factors))
    for vote in range(votes):
        which = int(rng.integers(factors))
        values = draw(rng, batch)
        values[:, which] = values[0, which]
        still = np.var(encode(values)[:, live] / spread[live], 0)
        table[vote % 2, int(np.argmin(still)), which] += 1
    decided = table[0].argmax(1)
    return float(table[1][np.arange(live.size), decided].sum() / table[1].sum())


def _two(codes: AnyArray) -> None:
    if np.shape(codes)[1] < 2:
        raise ValueError("a gap needs two latents or more, got one")


def _labels(column: np.ndarray, bins: int) -> np.ndarray:
    values, labels = np.unique(column, return_inverse=True)
    if len(values) <= bins:
        return labels
    rank = np.argsort(np.argsort(column, kind="stable"), kind="stable")
    # Equal values share a bin, so that ties carry no accidental order.
    rank = np.bincount(labels, weights=rank)[labels] / np.bincount(labels)[labels]
    return np.minimum((rank * bins / len(column)).astype(int), bins - 1)


def _entropy(labels: np.ndarray) -> float:
    share = np.bincount(labels) / len(labels)
    share = share[share > 0]
    return float(-np.sum(share * np.log(share)))


def _information(a: np.ndarray, b: np.ndarray) -> float:
    rows, columns = a.max() + 1, b.max() + 1
    joint = np.bincount(a * columns + b, minlength=rows * columns) / len(a)
    joint = joint.reshape(rows, columns)
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    some = joint > 0
    plain = float(np.sum(joint[some] * np.log(joint[some] / outer[some])))
    used = np.sum(joint.sum(1) > 0), np.sum(joint.sum(0) > 0)
    bias = (np.sum(some) - used[0] - used[1] + 1) / (2 * len(a))
    return max(plain - float(bias), 0.0)
