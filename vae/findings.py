"""What an analysis of latents found: records that JSON holds, words for people."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from vae.outputs import Grouping
from vae.preflight import Preflight
from vae.size import Proposal

# Above this R^2 the importance of a single latent misleads.
REDUNDANT = 0.2
# A posterior that explains less than this of a latent's variance is the prior.
_SILENT = 0.05
# A latent's effect is named by the narrowest range that holds this share of it.
_NAMED = 0.8


@dataclass(frozen=True)
class Estimate:
    """A number with its bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Dimension:
    """What is known of one latent.

    Attributes:
      index: of the latent.
      rank: place by importance, 0 first: the reverse of the order of elimination.
      kl: divergence in nats, what it costs.
      information: with the data, nats.
      mean_variance: variance of its posterior mean.
      active: whether that exceeds 0.01.
      signal_fraction: r_i, 0 to 1.
      redundancy: R^2 of its code from the others; None without examples enough.
      local_variance: L_i; None where the output has no derivative.
      bound: D_i, not below T_i; None likewise.
      total: T_i, mean square.
      first: V_i, mean square.
      share: T_i / Var g.
      rms: sqrt(2 T_i), change of the output when it is redrawn.
      clamp: growth of the held-out squared error, summed over elements, when it is
        held at its mean; None without a loss.
      worth: ``C_i / (2 tau) - KL_i`` in nats; None without tau.
      groups: for each grouping, share of T_i in each group.
      does: where most of its effect is, in words.
    """

    index: int
    rank: int
    kl: Estimate
    information: Estimate
    mean_variance: float
    active: bool
    signal_fraction: Estimate
    redundancy: float | None
    local_variance: Estimate | None
    bound: Estimate | None
    total: Estimate
    first: Estimate
    share: Estimate
    rms: float
    clamp: Estimate | None
    worth: Estimate | None
    groups: Mapping[str, tuple[float, ...]]
    does: str


@dataclass(frozen=True)
class Analysis:
    """What `analyze` found; `to_json` writes it.

    Attributes:
      output: name of the output map.
      unit: of rms changes.
      elements: features of the output.
      latents: K.
      examples: held-out examples.
      distribution: of the codes that were drawn.
      pairs: of them.
      tau: water level, or None.
      variance: Var g, mean square.
      dimensions: in the model's order.
      order: latents, most important first.
      fidelity: f(k) for k = 0 ... K.
      dropped_rms: sqrt(2 T_drop(k)) for k = 0 ... K.
      evaluated: sizes at which these were evaluated; straight lines join them.
      proposals: one for each rule.
      noise_floor: largest T of the latents that no decoder sees.
      subspace: eigenvalues of the active subspace over the elements; None where the
        output has no derivative.
      directions: of them needed for the fidelity asked for.
      pca: eigenvalues of the covariance of the posterior means.
      pca_sizes: components that hold 80, 90, 95, 99 % of it: blind to the decoder.
      group_labels: names of the groups of each grouping.
      saturation: sum of L_i over tau (1 - E s_i^2), about 1 for the decoder's own
        output at convergence; None where it says nothing.
      warnings: what to mind before believing.
      advice: a sentence.
      seconds: that it took.
    """

    output: str
    unit: str
    elements: int
    latents: int
    examples: int
    distribution: str
    pairs: int
    tau: float | None
    variance: Estimate
    dimensions: tuple[Dimension, ...]
    order: tuple[int, ...]
    fidelity: tuple[Estimate, ...]
    dropped_rms: tuple[float, ...]
    evaluated: tuple[int, ...]
    proposals: tuple[Proposal, ...]
    noise_floor: float
    subspace: tuple[float, ...] | None
    directions: int | None
    pca: tuple[float, ...]
    pca_sizes: Mapping[str, int]
    group_labels: Mapping[str, tuple[str, ...]]
    saturation: float | None
    warnings: tuple[str, ...]
    advice: str
    seconds: float

    def to_json(self) -> str:
        """Everything as JSON text."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    def proposal(self, rule: str = "fidelity") -> Proposal:
        """The proposal of a rule.

        Raises:
          ValueError: that rule was not applied.
        """
        for found in self.proposals:
            if found.rule == rule:
                return found
        raise ValueError(
            f"no proposal by {rule!r}; there are {[p.rule for p in self.proposals]}"
        )


def describe(
    groups: Mapping[str, tuple[float, ...]], groupings: Mapping[str, Grouping]
) -> str:
    """Where most of a latent's effect is.

    Args:
      groups: for each grouping, share of the effect in each group.
      groupings: what the groups are.

    Returns:
      Words such as ``"84 % in 4.2 kHz to 8.0 kHz"``; empty for a latent without effect.
    """
    words = []
    for name, shares in groups.items():
        grouping = groupings[name]
        if sum(shares) <= 0 or len(shares) < 2:
            continue
        if not grouping.ordered:
            best = max(range(len(shares)), key=shares.__getitem__)
            words.append(f"{100 * shares[best]:.0f} % {grouping.labels[best]}")
            continue
        start, stop = _narrowest(shares)
        if stop - start > 0.6 * len(shares):
            words.append(f"all {name}s")
            continue
        ends = grouping.labels[start], grouping.labels[stop - 1]
        low, high = ends[0].split(" to ")[0], ends[1].split(" to ")[-1]
        words.append(f"{100 * sum(shares[start:stop]):.0f} % in {low} to {high}")
    return ", ".join(words)


def warnings_of(found: Analysis) -> tuple[str, ...]:
    """What to mind before believing an analysis.

    Args:
      found: analysis, its words still empty.

    Returns:
      Sentences; none where all is well.
    """
    words = []
    if found.noise_floor > 0:
        words.append(
            "The output is not a function of the codes: latents that no decoder sees"
            f" seem to change it by {(2 * found.noise_floor) ** 0.5:.3g} {found.unit}"
            " rms. Effects below that are noise."
        )
    repeated = [
        d for d in found.dimensions if d.redundancy and d.redundancy > REDUNDANT
    ]
    if repeated:
        worst = max(repeated, key=lambda d: d.redundancy or 0.0)
        words.append(
            f"{_latents(repeated, 'follows', 'follow')} from the others (R^2 up to"
            f" {worst.redundancy:.2f}): of those that say the same either may go, not"
            " both. Consider rotating before pruning."
        )
    if all(d.redundancy is None for d in found.dimensions):
        words.append(
            f"{found.examples} examples are too few to see whether {found.latents}"
            " latents repeat each other."
        )
    spurious = [d for d in found.dimensions if d.clamp and d.clamp.high < 0]
    if spurious:
        words.append(
            _latents(spurious, "makes", "make")
            + " held-out reconstructions worse, having fitted noise."
        )
    offset = [
        d for d in found.dimensions if d.kl.value > 0.1 and d.information.value < 0.01
    ]
    if offset:
        words.append(
            _latents(offset, "costs", "cost")
            + " divergence without information: an offset."
        )
    ignored = [
        d
        for d in found.dimensions
        if d.information.value > 0.1 and d.share.value < 1e-4
    ]
    if ignored:
        words.append(
            _latents(ignored, "carries", "carry")
            + " information that the output does not show."
        )
    noisy = [
        d
        for d in found.dimensions
        if d.signal_fraction.value < _SILENT and d.share.value > 0.005
    ]
    if noisy and found.distribution != "means":
        words.append(
            _latents(noisy, "changes", "change")
            + " the output without telling of the data: noise of the posterior that the"
            " decoder has not learned to ignore. Train longer, or judge by the"
            " posterior means."
        )
    directions = found.directions
    keep = found.proposal("fidelity").keep
    if directions is not None and directions < 0.75 * keep and keep - directions > 1:
        words.append(
            f"{keep} axes span {directions} directions that matter, to first order:"
            " rotating before pruning keeps fewer."
        )
    summed = sum(d.total.value for d in found.dimensions)
    if summed > 1.5 * found.variance.value > 0:
        words.append(
            f"Latents interact: total effects add up to"
            f" {summed / found.variance.value:.1f} times the variance."
        )
    return tuple(words)


def advice(found: Analysis, preflight: Preflight | None = None) -> str:
    """The proposal by fidelity in a sentence or two, with the reason for "all".

    Args:
      found: analysis, its words still empty.
      preflight: what the spectrum of the data predicts, if known.

    Returns:
      Text.
    """
    chosen = found.proposal("fidelity")
    words = [chosen.sentence()]
    others = [p for p in found.proposals if p.rule != "fidelity"]
    counts = ", ".join(
        f"{p.rule} {p.keep}" + ("" if p.low == p.high else f" ({p.low} to {p.high})")
        for p in others
    )
    words.append(f"By other rules: {counts}.")
    if found.variance.value <= 0:
        words.append("No latent changes the output at all.")
    if preflight is None:
        return " ".join(words)
    if preflight.tau is not None and preflight.predicted >= found.latents:
        kth = preflight.eigenvalues[found.latents - 1]
        reason = (
            f"The water level {preflight.tau:.3g} is below the data's eigenvalue"
            f" {found.latents} ({kth:.3g}): "
        )
        if chosen.keep == found.latents:
            words.append(
                f"{reason}nothing is redundant by the objective; the data would use"
                f" about {preflight.wanted} dimensions."
            )
        else:
            words.append(
                f"{reason}by the data's spectrum all are worth training; those that go"
                " carry a small share, or are not yet in use."
            )
    return " ".join(words)


def _latents(dimensions: list[Dimension], one: str, many: str) -> str:
    numbers = ", ".join(str(d.index) for d in dimensions[:8])
    more = len(dimensions) - 8
    tail = f" and {more} more" if more > 0 else ""
    if len(dimensions) == 1:
        return f"Latent {numbers} {one}"
    return f"Latents {numbers}{tail} {many}"


def _narrowest(shares: tuple[float, ...]) -> tuple[int, int]:
    """The shortest run of neighbours that holds most; of equals the one with more."""
    best = (0, len(shares))
    for width in range(1, len(shares) + 1):
        sums = [sum(shares[k : k + width]) for k in range(len(shares) - width + 1)]
        start = max(range(len(sums)), key=sums.__getitem__)
        if sums[start] >= _NAMED:
            return start, start + width
    return best
