"""How many latent dimensions to keep: from estimates to a number, with an interval.

Sizes are read off the drop curve f(k) = 1 - T_drop(k) / Var g, the share of the
output's variance that k latents keep when the others are forgotten, in the order of
`vae.sensitivity.backward_elimination`, or are the number of latents that are worth
their nats. Every rule is applied to bootstrap resamples of the pairs, or examples, as
well, so that a proposal comes with the sizes it might have been.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from ddspx.types import AnyArray
from vae.sensitivity import OutputMap, drop_sets

Rule = Literal["fidelity", "audible", "knee", "worth", "active"]
RESAMPLES = 400
# Nats that a latent must be worth to count: those of dead ones scatter about 0.
WORTH = 0.01
# Curves of more latents than this are evaluated at about so many sizes, then wherever
# a threshold is crossed; straight lines join them.
_SIZES = 33


@dataclass(frozen=True)
class DropCurve:
    """What is lost when all but the k most important latents are forgotten.

    Attributes:
      order: latents, least important first, [latents].
      lost: [pairs, latents + 1], T_S of each pair when k = 0 ... latents are kept.
      evaluated: [latents + 1], false where `lost` was interpolated.
    """

    order: np.ndarray
    lost: np.ndarray
    evaluated: np.ndarray

    def fidelity(self) -> np.ndarray:
        """f(k) for k = 0 ... latents: 0 with nothing kept, 1 with everything."""
        return _fidelity(self.lost)


@dataclass(frozen=True)
class Proposal:
    """A number of latents to keep.

    Attributes:
      rule: which rule.
      threshold: its threshold; 0 where it has none.
      keep: latents proposed.
      low: lower end of the 90 % bootstrap interval of `keep`.
      high: upper end.
      frequency: share of the resamples that gave each size.
      latents: size of the model.
      unit: of the output, for ``audible``.
    """

    rule: Rule
    threshold: float
    keep: int
    low: int
    high: int
    frequency: Mapping[int, float]
    latents: int
    unit: str = ""

    def sentence(self) -> str:
        """The proposal as advice for people."""
        span = "" if self.low == self.high else f" (between {self.low} and {self.high})"
        reason = {
            "fidelity": f"for {self.threshold:.4g} of the output's variance",
            "audible": f"so that what is forgotten changes the output by less than"
            f" {self.threshold:g} {self.unit}".rstrip()
            + " rms",
            "knee": "where the curve bends",
            "worth": f"those that save {self.threshold:g} nats more than they cost",
            "active": "those whose posterior says something and that are worth it",
        }[self.rule]
        if self.keep == self.latents:
            return f"Keep all {self.latents} latents{span}: they are needed {reason}."
        return f"Keep {self.keep} of {self.latents} latents{span}, {reason}."


def drop_curve(
    output: OutputMap,
    a: Float[AnyArray, "pairs latents"],
    b: Float[AnyArray, "pairs latents"],
    order: Int[AnyArray, " latents"],
    crossings: Sequence[float] = (0.8, 0.9, 0.95, 0.99),
    audible: float | None = None,
) -> DropCurve:
    """Evaluates the drop curve along an order.

    Up to 48 latents every size is evaluated. For more of them about 33 sizes are, and
    then all sizes between two of these where the fidelity crosses a threshold.

    Args:
      output: see `vae.sensitivity.effects`.
      a: codes.
      b: codes, independent of `a`.
      order: latents, least important first.
      crossings: fidelities around which a long curve is evaluated at every size.
      audible: rms difference around which it is, too.

    Returns:
      A `DropCurve`.

    Raises:
      ValueError: `order` is no permutation of the latents.
    """
    order = np.asarray(order)
    latents = np.shape(a)[1]
    if sorted(order.tolist()) != list(range(latents)):
        raise ValueError(f"order {order} is no permutation of {latents} latents")
    rank = np.empty(latents, int)
    rank[order] = np.arange(latents)
    # Row k keeps the k last of the order.
    sets = rank[None] < latents - np.arange(latents + 1)[:, None]
    lost = np.zeros((len(a), latents + 1))
    known = np.zeros(latents + 1, bool)

    def evaluate(sizes: np.ndarray) -> None:
        sizes = sizes[~known[sizes]]
        if sizes.size:
            lost[:, sizes] = drop_sets(output, a, b, sets[sizes])
            known[sizes] = True

    if latents <= 48:
        evaluate(np.arange(latents + 1))
        return DropCurve(order, lost, known)
    # Sizes are dense where they are small: there the curve is steep.
    evaluate(
        np.unique(np.round(latents * np.linspace(0.0, 1.0, _SIZES) ** 1.5).astype(int))
    )
    sizes = np.flatnonzero(known)
    mean = lost[:, sizes].mean(0)
    wanted = [(1.0 - share) * mean[0] for share in crossings]
    if audible is not None:
        wanted.append(0.5 * audible**2)
    for level in wanted:
        below = np.flatnonzero(mean <= level)
        if below.size and below[0]:
            low, high = sizes[below[0] - 1 : below[0] + 1].tolist()
            evaluate(np.arange(low, high))
    sizes = np.flatnonzero(known)
    for row in lost:
        row[~known] = np.interp(np.flatnonzero(~known), sizes, row[sizes])
    return DropCurve(order, lost, known)


def propose(
    curve: DropCurve,
    rule: Rule = "fidelity",
    threshold: float = 0.95,
    seed: int = 0,
    unit: str = "",
) -> Proposal:
    """Applies a rule to the drop curve and to its bootstrap resamples.

        fidelity: least k with f(k) >= threshold
        audible:  least k with sqrt(2 T_drop(k)) < threshold, in the output's unit: the
                  rms difference between the output and one whose dropped latents are
                  redrawn; features must be scaled so that their squares average
        knee:     k farthest above the chord from (0, 0) to (latents, 1)

    Args:
      curve: from `drop_curve`.
      rule: which.
      threshold: share of variance, or rms difference.
      seed: of the resamples.
      unit: of the threshold of ``audible``, for people.

    Returns:
      A `Proposal`.

    Raises:
      ValueError: an unknown rule or a threshold that it cannot have.

    Reference: for the knee V. Satopaa et al., Finding a Kneedle in a Haystack (2011).
    """
    if rule not in ("fidelity", "audible", "knee"):
        raise ValueError(
            f"rule {rule!r} reads no curve; choose fidelity, audible or knee"
        )
    if rule == "fidelity" and not 0.0 < threshold <= 1.0:
        raise ValueError(f"fidelity {threshold} must be in (0, 1]")
    if rule == "audible" and not threshold > 0.0:
        raise ValueError(f"audible threshold {threshold} must be positive")
    kept = 0.0 if rule == "knee" else float(threshold)
    latents = curve.lost.shape[1] - 1

    def size(rows):
        return _size(curve.lost[rows], rule, threshold)

    return _bootstrap(size, len(curve.lost), rule, kept, latents, seed, unit)


def propose_by_worth(
    worth: Float[AnyArray, "examples latents"],
    threshold: float = WORTH,
    seed: int = 0,
) -> Proposal:
    """Counts the latents that save the objective more than they cost it.

    Args:
      worth: of held-out examples, from `net_worth`.
      threshold: nats that a latent must be worth.
      seed: of the resamples.

    Returns:
      A `Proposal` by the rule ``worth``.
    """
    worth = np.asarray(worth)

    def size(rows):
        return int(np.sum(worth[rows].mean(0) > threshold))

    return _bootstrap(size, len(worth), "worth", threshold, worth.shape[1], seed)


def propose_by_activity(
    mean: Float[AnyArray, "examples latents"],
    log_variance: Float[AnyArray, "examples latents"],
    worth: Float[AnyArray, "some latents"] | None = None,
    threshold: float = 0.01,
    seed: int = 0,
) -> Proposal:
    """Counts the latents whose posterior tells examples apart.

        r_i = Var(mu_i) / (Var(mu_i) + E s_i^2) > threshold, W_i > 0.01 nats if known

    Args:
      mean: mu of held-out examples.
      log_variance: ln s^2.
      worth: of some examples, from `net_worth`.
      threshold: of r_i.
      seed: of the resamples.

    Returns:
      A `Proposal` by the rule ``active``.
    """
    mean = np.asarray(mean, np.float64)
    noise = np.exp(np.asarray(log_variance, np.float64))
    worthy = True if worth is None else np.mean(worth, 0) > WORTH

    def size(rows):
        signal = mean[rows].var(0)
        share = signal / np.maximum(signal + noise[rows].mean(0), 1e-30)
        return int(np.sum((share > threshold) & worthy))

    return _bootstrap(size, len(mean), "active", threshold, mean.shape[1], seed)


def net_worth(
    clamp: Float[AnyArray, "examples latents"],
    divergence: Float[AnyArray, "examples latents"],
    tau: float,
) -> np.ndarray:
    """What each latent saves the objective, in nats, of each example.

        W_i / beta = C_i / (2 tau) - KL_i

    Args:
      clamp: how much the squared error of each held-out example, summed over elements,
        grows when one latent is held at its mean.
      divergence: of each example and latent, nats.
      tau: water level, see `vae.linear.water_level`.

    Returns:
      [examples, latents].

    Raises:
      ValueError: tau is not positive.
    """
    if not tau > 0:
        raise ValueError(f"tau {tau} must be positive")
    return np.asarray(clamp, np.float64) / (2.0 * tau) - np.asarray(divergence)


def _bootstrap(
    size: Callable[[np.ndarray], int],
    count: int,
    rule: Rule,
    threshold: float,
    latents: int,
    seed: int,
    unit: str = "",
) -> Proposal:
    rng = np.random.default_rng(seed)
    sizes = [size(rng.integers(count, size=count)) for _ in range(RESAMPLES)]
    low, high = np.quantile(sizes, [0.05, 0.95], method="nearest")
    frequency = {k: n / RESAMPLES for k, n in sorted(Counter(sizes).items())}
    keep = size(np.arange(count))
    return Proposal(
        rule, threshold, keep, int(low), int(high), frequency, latents, unit
    )


def _fidelity(lost: np.ndarray) -> np.ndarray:
    mean = np.mean(lost, 0)
    # The whole set is Var g; a constant output keeps everything with nothing.
    share = mean / mean[0] if mean[0] > 0 else np.zeros_like(mean)
    return 1.0 - share


def _size(lost: np.ndarray, rule: Rule, threshold: float) -> int:
    latents = lost.shape[1] - 1
    if rule == "audible":
        enough = np.sqrt(2.0 * np.mean(lost, 0)) < threshold
    elif rule == "fidelity":
        # Rounding must not ask for a latent that carries nothing.
        enough = _fidelity(lost) >= threshold - 1e-12
    else:
        above = _fidelity(lost) - np.arange(latents + 1) / latents
        return int(np.argmax(above))
    return int(np.argmax(enough)) if enough.any() else latents
