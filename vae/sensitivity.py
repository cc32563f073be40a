"""How much each latent dimension matters to an output, without derivatives.

The output map g takes codes [m, latents] to features [m, ...]: a decoder, its log-mel
in dB, the parameters or the rendered sound of an effect that it drives. Variance is the
trace over features, so a rotation or a common scale of the features changes no share:

    Var g = E ||g - E g||^2
    T_i   = E Var(g | all but z_i) = 1/2 E ||g(A) - g(A_i)||^2      (Jansen 1999)
    V_i   = Var E[g | z_i]         = E <g(B) - m, g(A_i) - g(A)>    (Saltelli 2010)
    T_S   = E Var(g | all but z_S) = 1/2 E ||g(A) - g(A_S)||^2

with A, B independent draws of the codes, and A_S being A with the columns of S taken
from B. The analysis of variance needs independent columns: `shuffled` makes them so.
T_i do not add up to Var g where latents interact; T_S of nested sets is monotone and
ends at Var g, so sizes are proposed from it. Every estimate keeps its value for each
pair (A_n, B_n), so that intervals resample pairs, the same for all dimensions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats
from scipy.stats import qmc

from ddspx.types import AnyArray

OutputMap = Callable[[Any], Any]
# Most codes, and most features, that one call of the output map is asked for.
BATCH = 256
_FEATURES = 1 << 22
# Fewest rows whose mean stands for the output's.
_PILOT = 16


@dataclass(frozen=True)
class Effects:
    """Estimates for each pair of codes; the mean over pairs is the estimate.

    Attributes:
      total: [pairs, latents], 1/2 ||g(A) - g(A_i)||^2.
      first: [pairs, latents], <g(B) - m, g(A_i) - g(A)>; may be negative.
      variance: [pairs], 1/2 ||g(A) - g(B)||^2.
      by_group: for each grouping [latents, groups], total effects split over features.
      variance_by_group: for each grouping [groups], the variance split alike.
    """

    total: np.ndarray
    first: np.ndarray
    variance: np.ndarray
    by_group: Mapping[str, np.ndarray]
    variance_by_group: Mapping[str, np.ndarray]


def shuffled(
    codes: Float[AnyArray, "examples latents"], pairs: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two independent draws from the product of the codes' own marginals.

    Args:
      codes: posterior samples of held-out examples.
      pairs: rows wanted of each.
      rng: source of the draw.

    Returns:
      A and B, [pairs, latents] float32; every column is drawn on its own.
    """
    codes = np.asarray(codes, np.float32)
    rows = rng.integers(len(codes), size=(2, pairs, codes.shape[1]))
    drawn = np.take_along_axis(codes, rows.reshape(-1, codes.shape[1]), 0)
    first, second = drawn.reshape(2, pairs, -1)
    return first, second


def resampled(
    codes: Float[AnyArray, "examples latents"], pairs: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two independent draws of whole codes, columns as correlated as they are.

    Args:
      codes: posterior samples of held-out examples.
      pairs: rows wanted of each.
      rng: source of the draw.

    Returns:
      A and B, [pairs, latents] float32; no row is paired with itself.
    """
    codes = np.asarray(codes, np.float32)
    rows = rng.integers(len(codes), size=pairs)
    others = (rows + rng.integers(1, len(codes), size=pairs)) % len(codes)
    return codes[rows], codes[others]


def normal_draws(
    latents: int, pairs: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two independent draws from the prior N(0, I), spread evenly (scrambled Sobol).

    For smooth outputs the estimates are far closer than those of random draws, and
    bootstrap intervals, which know nothing of the order, too wide.

    Args:
      latents: K.
      pairs: rows wanted of each; a power of two is best.
      rng: source of the scrambling.

    Returns:
      A and B, [pairs, latents] float32.
    """
    sobol = qmc.Sobol(2 * latents, rng=rng)
    points = sobol.random(1 << (pairs - 1).bit_length())[:pairs]
    drawn = stats.norm.ppf(np.clip(points, 1e-12, 1 - 1e-12)).astype(np.float32)
    return drawn[:, :latents], drawn[:, latents:]


def effects(
    output: OutputMap,
    a: Float[AnyArray, "pairs latents"],
    b: Float[AnyArray, "pairs latents"],
    groups: Mapping[str, AnyArray] | None = None,
) -> Effects:
    """Total and first-order effect of every latent; (latents + 2) evaluations a pair.

    Args:
      output: the map g; compiled if it is dear to trace. It is called with at most
        `BATCH` codes at once, fewer where features are many: memory is bounded.
      a: codes.
      b: codes, independent of `a`.
      groups: by name of the grouping, the number of the group of each (flattened)
        feature, from 0; they name what a latent does: a band, a frame, a parameter.

    Returns:
      `Effects`, float64.

    Raises:
      ValueError: shapes that differ, fewer than two pairs, or non-finite features.

    Reference: M. Jansen, Analysis of variance designs for model output (1999);
      A. Saltelli et al., Variance based sensitivity analysis (2010), table 2;
      F. Gamboa et al., Sensitivity analysis for multidimensional outputs (2014).
    """
    a, b = _pairs(a, b)
    count, latents = a.shape
    chunks = _chunks(output, a)
    groups = {} if groups is None else groups
    total, first = np.empty((2, count, latents))
    variance = np.empty(count)
    grouped = {
        name: np.zeros((latents + 1, int(np.max(ids)) + 1))
        for name, ids in groups.items()
    }

    def split(square: np.ndarray, row: int) -> None:
        if grouped:
            summed = square.sum(0, dtype=np.float64) / count
            for name, sums in grouped.items():
                sums[row] += np.bincount(groups[name], summed, minlength=sums.shape[1])

    # Any fixed centre would do. The mean of some rows holds their own g(B), which takes
    # 1/n from their products: it is given back.
    pilot = chunks[: -(-_PILOT // (chunks[0].stop - chunks[0].start))]
    known = pilot[-1].stop
    centre = sum(_features(output, b[rows]).sum(0) for rows in pilot) / known
    for rows in chunks:
        base, other = _features(output, a[rows]), _features(output, b[rows])
        weight = known / (known - 1.0) if rows.stop <= known else 1.0
        square = 0.5 * (base - other) ** 2
        variance[rows] = square.sum(1, dtype=np.float64)
        split(square, latents)
        other -= centre
        for i in range(latents):
            mixed = a[rows].copy()
            mixed[:, i] = b[rows, i]
            change = _features(output, mixed)
            change -= base
            first[rows, i] = weight * np.sum(other * change, 1, dtype=np.float64)
            square = np.square(change, out=change)
            square *= 0.5
            total[rows, i] = square.sum(1, dtype=np.float64)
            split(square, i)
    return Effects(
        total,
        first,
        variance,
        {name: sums[:-1] for name, sums in grouped.items()},
        {name: sums[-1] for name, sums in grouped.items()},
    )


def drop_sets(
    output: OutputMap,
    a: Float[AnyArray, "pairs latents"],
    b: Float[AnyArray, "pairs latents"],
    sets: Bool[AnyArray, "sets latents"],
) -> np.ndarray:
    """Closed effect T_S of sets of latents: what forgetting a set does to the output.

    Args:
      output: see `effects`.
      a: codes.
      b: codes, independent of `a`.
      sets: true where a latent belongs to the set.

    Returns:
      [pairs, sets], 1/2 ||g(A) - g(A_S)||^2, float64.

    Raises:
      ValueError: see `effects`.
    """
    a, b = _pairs(a, b)
    sets = np.asarray(sets, bool)
    found = np.empty((len(a), len(sets)))
    for rows in _chunks(output, a):
        base = _features(output, a[rows])
        for s, dropped in enumerate(sets):
            change = _features(output, np.where(dropped[None], b[rows], a[rows]))
            change -= base
            found[rows, s] = 0.5 * np.square(change).sum(1, dtype=np.float64)
    return found


def backward_elimination(
    output: OutputMap,
    a: Float[AnyArray, "pairs latents"],
    b: Float[AnyArray, "pairs latents"],
    candidates: int = 4,
    total: Float[AnyArray, " latents"] | None = None,
) -> np.ndarray:
    """Latents in the order in which they are best dropped, least important first.

    At each step the latent is dropped whose loss raises T_S least, S being all that
    are dropped already. Unlike sorting by T_i it sees that latents that interact may
    not all go. By how much a latent raises T_S can only fall while S grows, where
    columns are independent: so only `candidates` of them, least by what they last
    raised, are tried at each step.

    Args:
      output: see `effects`.
      a: codes; the order needs fewer pairs than the estimates.
      b: codes, independent of `a`.
      candidates: tried at each step; all of them when as many as there are latents.
      total: total effects to begin with, if they are known already.

    Returns:
      A permutation of the latents [latents].

    Raises:
      ValueError: see `effects`.
    """
    a, b = _pairs(a, b)
    latents = a.shape[1]
    if total is None:
        total = np.mean(drop_sets(output, a, b, np.eye(latents, dtype=bool)), 0)
    gain = np.array(total, np.float64)
    dropped = np.zeros(latents, bool)
    lost = 0.0
    order = []
    # What does nothing at all raises nothing: no need to try.
    for dead in np.flatnonzero(gain == 0.0):
        dropped[dead] = True
        order.append(int(dead))
    while len(order) < latents:
        left = np.flatnonzero(~dropped)
        tried = left[np.argsort(gain[left], kind="stable")][:candidates]
        if len(left) == 1:
            order.append(int(left[0]))
            break
        sets = np.repeat(dropped[None], len(tried), 0)
        sets[np.arange(len(tried)), tried] = True
        value = np.mean(drop_sets(output, a, b, sets), 0)
        gain[tried] = value - lost
        chosen = int(np.argmin(value))
        lost = float(value[chosen])
        dropped[tried[chosen]] = True
        order.append(int(tried[chosen]))
    return np.asarray(order)


def interval(
    values: Float[AnyArray, "pairs ..."],
    statistic: Callable[[np.ndarray], Any],
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    resamples: int = 500,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A statistic over pairs, with its bootstrap interval.

    Args:
      values: one row a pair; all columns are resampled together.
      statistic: from rows [pairs, ...] to a number or an array.
      rng: source of the resamples.
      level: of the interval.
      resamples: how many.

    Returns:
      (estimate, low, high), each of the statistic's shape.
    """
    values = np.asarray(values, np.float64)
    again = np.stack(
        [
            np.asarray(statistic(values[rng.integers(len(values), size=len(values))]))
            for _ in range(resamples)
        ]
    )
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(again, [tail, 1.0 - tail], axis=0)
    return np.asarray(statistic(values)), low, high


def _pairs(a: AnyArray, b: AnyArray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    if a.ndim != 2 or a.shape != b.shape or len(a) < 2:
        raise ValueError(
            "expected two draws of codes [pairs, latents] of one shape and at least two"
            f" pairs, got {a.shape} and {b.shape}"
        )
    return a, b


def _chunks(output: OutputMap, codes: np.ndarray) -> Sequence[slice]:
    """Rows for each call: a power of two, so that most calls have one shape."""
    features = max(_features(output, codes[:1]).size, 1)
    limit = max(_FEATURES // features, 1)
    size = min(BATCH, 1 << (limit.bit_length() - 1))
    starts = list(range(0, len(codes), size))
    return [slice(k, min(k + size, len(codes))) for k in starts]


def _features(output: OutputMap, codes: np.ndarray) -> np.ndarray:
    """Features [codes, features], the caller's to change; float32 or float64."""
    found = np.array(output(codes))
    if found.dtype != np.float64:
        found = found.astype(np.float32, copy=False)
    found = found.reshape(len(codes), -1)
    if not np.isfinite(found.sum(dtype=np.float64)):
        raise ValueError(
            "the output map gave NaN or infinity; a level in dB needs a floor"
        )
    return found
