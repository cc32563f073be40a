"""How much each latent dimension matters to an output, and how many to keep.

`analyze` puts the measures of a posterior (`vae.information`), the estimators of what a
latent does to an output (`vae.sensitivity`, `vae.jacobian`) and the rules of size
(`vae.size`) together into one `Analysis`, plain numbers that JSON can hold. It works on
the posterior of held-out examples and an `Output`, and needs no model.

T_i ranks: the output's variance that goes when latent i is redrawn. The divergence says
what a latent costs, the local variance whether it is used at all (it saturates), the
clamp increase what the model's own loss says on held-out data. Sums of squares are
divided by the number of features: sqrt(2 T) is an rms change in the output's unit.
Latents that no decoder sees are put beside the model's and analysed alike: what they
seem to do is the noise floor, exactly 0 for an output that is a function.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float

from ddspx.types import AnyArray
from vae import information, jacobian, sensitivity
from vae.findings import Analysis, Dimension, Estimate, advice, describe, warnings_of
from vae.outputs import Output
from vae.preflight import Preflight
from vae.size import (
    DropCurve,
    Proposal,
    drop_curve,
    net_worth,
    propose,
    propose_by_activity,
    propose_by_worth,
)

Distribution = Literal["product", "aggregate", "means", "prior"]
# Latents without a decoder that are analysed with the others.
_DUMMIES = 2
# Examples whose mixture is the aggregate posterior; its cost grows with their square.
_MIXTURE = 1024
_FEATURES = 1 << 22


@dataclass(frozen=True)
class AnalysisOptions:
    """How closely to look.

    Attributes:
      distribution: of codes: ``product`` of the marginals of posterior samples, which
        the analysis of variance asks for; ``aggregate``, whole posterior samples;
        ``means``, product of the marginals of posterior means, which are what is
        decoded where nothing is drawn; ``prior``, the generator's point of view.
      pairs: pairs of codes; the relative standard error of a T is about
        sqrt(2 / pairs). A power of two.
      order_pairs: of them, for the order of elimination.
      candidates: latents tried at each step of it.
      derivative_examples: codes whose derivatives are taken.
      gram_examples: codes of the active subspace.
      clamp_examples: held-out examples whose loss is taken with a latent held.
      clamp_codes: ``sampled`` from the posterior, as the objective has it, or ``mean``.
      level: of the intervals.
      resamples: of the bootstrap.
      fidelity: share of the output's variance that a proposal keeps.
      audible: rms change in the output's unit that counts as none.
      seed: of all draws.
    """

    distribution: Distribution = "product"
    pairs: int = 1024
    order_pairs: int = 128
    candidates: int = 4
    derivative_examples: int = 64
    gram_examples: int = 32
    clamp_examples: int = 256
    clamp_codes: Literal["sampled", "mean"] = "sampled"
    level: float = 0.95
    resamples: int = 400
    fidelity: float = 0.95
    audible: float = 0.5
    seed: int = 0

    def __post_init__(self):
        if self.distribution not in ("product", "aggregate", "means", "prior"):
            raise ValueError(
                f"distribution {self.distribution!r} is unknown; choose product,"
                " aggregate, means or prior"
            )
        if min(self.pairs, self.order_pairs, self.clamp_examples) < 2:
            raise ValueError("pairs, order_pairs and clamp_examples must be 2 or more")
        if min(self.candidates, self.derivative_examples, self.gram_examples) < 1:
            raise ValueError(
                "candidates, derivative_examples and gram_examples must be 1 or more"
            )
        if not 0.0 < self.level < 1.0 or not 0.0 < self.fidelity <= 1.0:
            raise ValueError(
                f"level {self.level} must be in (0, 1) and fidelity {self.fidelity} in"
                " (0, 1]"
            )


def analyze(
    mean: Float[AnyArray, "examples latents"],
    log_variance: Float[AnyArray, "examples latents"],
    output: Output,
    *,
    squared_error: Callable[[Any, Any], Any] | None = None,
    tau: float | None = None,
    preflight: Preflight | None = None,
    options: AnalysisOptions | None = None,
) -> Analysis:
    """Analyses the latents of a model by the posterior of held-out examples.

    Args:
      mean: posterior means.
      log_variance: ln s^2.
      output: what the latents are judged by.
      squared_error: ``(codes[m, latents], rows[m]) -> [m]``, squared error of the
        model's reconstruction of these examples, summed over elements.
      tau: water level of the objective in the same unit, see `vae.linear`.
      preflight: what the data's spectrum predicts: says why, where all are needed.
      options: how closely to look.

    Returns:
      An `Analysis`.

    Raises:
      ValueError: arrays of other shapes, fewer than 8 examples, or an output that is
        not finite.
    """
    started = time.monotonic()
    options = AnalysisOptions() if options is None else options
    mean, log_variance = _posterior(mean, log_variance)
    count, latents = mean.shape
    rng = np.random.default_rng(options.seed)
    boot = _Bootstrap(options, np.random.default_rng(options.seed + 1))
    samples = _samples(mean, log_variance, rng, at_least=4096)
    a, b = _draws(options, samples, mean, rng)
    wide_a, wide_b = (
        np.concatenate([x, rng.normal(size=(len(x), _DUMMIES))], 1, dtype=np.float32)
        for x in (a, b)
    )
    effects = sensitivity.effects(
        lambda codes: output.of(codes[:, :latents]),
        wide_a,
        wide_b,
        {name: group.ids for name, group in output.groupings.items()},
    )
    total = effects.total[:, :latents]
    few = min(options.order_pairs, len(a))
    order = sensitivity.backward_elimination(
        output.of, a[:few], b[:few], options.candidates, total.mean(0)
    )
    curve = drop_curve(
        output.of, a, b, order, (0.8, 0.9, options.fidelity, 0.99), options.audible
    )
    rank = np.empty(latents, int)
    rank[order[::-1]] = np.arange(latents)
    kl = np.asarray(information.kl_divergence(mean, log_variance), np.float64)
    some = slice(0, min(count, _MIXTURE))
    told = information.information_of_examples(
        mean[some], log_variance[some], jax.random.key(options.seed), 4
    )
    local, bound, spectrum = _derivatives(output, options, mean, log_variance, a, rng)
    clamp, rows = None, np.arange(0)
    if squared_error is not None:
        rows = rng.permutation(count)[: options.clamp_examples]
        clamp = _clamp(
            squared_error, mean, log_variance, rows, options, output.elements, rng
        )
    worth = None
    if clamp is not None and tau is not None:
        worth = net_worth(clamp, kl[rows], tau)
    known = {
        "kl": boot.means(kl),
        "information": boot.means(np.asarray(told, np.float64)),
        "signal_fraction": boot.signal(mean, log_variance),
        "total": boot.means(total),
        "first": boot.means(effects.first[:, :latents]),
        "share": boot.ratios(total, effects.variance),
    }
    optional = {
        name: [None] * latents if rows is None else boot.means(rows)
        for name, rows in {
            "local_variance": local,
            "bound": bound,
            "clamp": clamp,
            "worth": worth,
        }.items()
    }
    redundancy = information.redundancy(samples) if count > latents else None
    variances = np.asarray(information.mean_variance(mean), np.float64)
    dimensions = []
    for i in range(latents):
        groups = {
            name: tuple(_shares(found[i]).tolist())
            for name, found in effects.by_group.items()
        }
        dimensions.append(
            Dimension(
                index=i,
                rank=int(rank[i]),
                mean_variance=float(variances[i]),
                active=bool(variances[i] > information.ACTIVE_VARIANCE),
                redundancy=None if redundancy is None else float(redundancy[i]),
                rms=float(np.sqrt(2.0 * total[:, i].mean())),
                groups=groups,
                does=describe(groups, output.groupings),
                **{name: estimates[i] for name, estimates in known.items()},
                **{name: estimates[i] for name, estimates in optional.items()},
            )
        )
    pca = np.maximum(
        np.linalg.eigvalsh(np.cov(mean.T, bias=True).reshape(latents, -1))[::-1], 0
    )
    saturation = None
    if local is not None and tau is not None and output.name == "decoder":
        used = tau * np.sum(1.0 - np.exp(log_variance).mean(0))
        saturation = float(local.mean(0).sum() * output.elements / max(used, 1e-30))
    found = Analysis(
        output=output.name,
        unit=output.unit,
        elements=output.elements,
        latents=latents,
        examples=count,
        distribution=options.distribution,
        pairs=len(a),
        tau=None if tau is None else float(tau),
        variance=boot.means(effects.variance[:, None])[0],
        dimensions=tuple(dimensions),
        order=tuple(order[::-1].tolist()),
        fidelity=boot.fidelity(curve),
        dropped_rms=tuple(np.sqrt(2.0 * curve.lost.mean(0)).tolist()),
        evaluated=tuple(np.flatnonzero(curve.evaluated).tolist()),
        proposals=_proposals(curve, options, output.unit, mean, log_variance, worth),
        noise_floor=float(effects.total[:, latents:].mean(0).max()),
        subspace=None if spectrum is None else tuple(spectrum.tolist()),
        directions=None if spectrum is None else _reach(spectrum, options.fidelity),
        pca=tuple(pca.tolist()),
        pca_sizes={f"{s:g}": _reach(pca, s) for s in (0.8, 0.9, 0.95, 0.99)},
        group_labels={n: tuple(g.labels) for n, g in output.groupings.items()},
        saturation=saturation,
        warnings=(),
        advice="",
        seconds=0.0,
    )
    return replace(
        found,
        warnings=warnings_of(found),
        advice=advice(found, preflight),
        seconds=time.monotonic() - started,
    )


def _posterior(mean: Any, log_variance: Any) -> tuple[np.ndarray, np.ndarray]:
    mean = np.asarray(mean, np.float64)
    log_variance = np.asarray(log_variance, np.float64)
    if mean.ndim != 2 or mean.shape != log_variance.shape or len(mean) < 8:
        raise ValueError(
            "expected mean and log_variance [examples, latents] of one shape and 8"
            f" examples or more, got {mean.shape} and {log_variance.shape}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(log_variance).all()):
        raise ValueError("the posterior holds NaN or infinity: the model has diverged")
    return mean, log_variance


def _samples(
    mean: np.ndarray, log_variance: np.ndarray, rng: np.random.Generator, at_least: int
) -> np.ndarray:
    """Posterior samples, as many of each example as it takes."""
    times = -(-at_least // len(mean))
    noise = rng.normal(size=(times, *mean.shape))
    found = mean + np.exp(0.5 * log_variance) * noise
    return found.reshape(-1, mean.shape[1]).astype(np.float32)


def _draws(
    options: AnalysisOptions,
    samples: np.ndarray,
    mean: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    if options.distribution == "prior":
        return sensitivity.normal_draws(mean.shape[1], options.pairs, rng)
    if options.distribution == "aggregate":
        return sensitivity.resampled(samples, options.pairs, rng)
    codes = mean if options.distribution == "means" else samples
    return sensitivity.shuffled(codes, options.pairs, rng)


def _derivatives(
    output: Output,
    options: AnalysisOptions,
    mean: np.ndarray,
    log_variance: np.ndarray,
    a: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Local variance and bound of each code and latent, and the subspace spectrum."""
    if not output.differentiable:
        return None, None, None

    def one(code):
        return output.of(code[None])[0]

    batch = int(np.clip(_FEATURES // output.elements, 1, 16))
    rows = rng.permutation(len(mean))[: options.derivative_examples]
    deviation = np.exp(0.5 * log_variance[rows])
    codes = mean[rows] + deviation * rng.normal(size=deviation.shape)
    squares = jacobian.squared_derivatives(
        one, np.concatenate([codes, a[: len(rows)]]).astype(np.float32), batch
    )
    squares = np.asarray(squares, np.float64)
    if options.distribution == "prior":
        covariance = np.eye(mean.shape[1])
    else:
        covariance = np.atleast_2d(np.cov(mean.T, bias=True))
        if options.distribution != "means":
            covariance = covariance + np.diag(np.exp(log_variance).mean(0))
    gram = jacobian.gram(
        one, codes[: options.gram_examples].astype(np.float32), max(batch // 2, 1)
    )
    local = squares[: len(rows)] * deviation**2
    spectrum = jacobian.spectrum(np.asarray(gram), covariance)
    return local, squares[len(rows) :] * np.diag(covariance), spectrum


def _clamp(
    squared_error: Callable[[Any, Any], Any],
    mean: np.ndarray,
    log_variance: np.ndarray,
    rows: np.ndarray,
    options: AnalysisOptions,
    elements: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Growth of the squared error of each example when one latent is held [rows, K]."""
    codes = mean[rows]
    if options.clamp_codes == "sampled":
        # The same noise with and without: only what the held latent does differs.
        deviation = np.exp(0.5 * log_variance[rows])
        codes = codes + deviation * rng.normal(size=codes.shape)
    held = mean.mean(0)
    size = int(np.clip(_FEATURES // elements, 1, sensitivity.BATCH))
    size = 1 << (size.bit_length() - 1)
    found = np.empty(codes.shape)
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        which = rows[part]
        whole = _errors(squared_error, codes[part], which)
        for i in range(codes.shape[1]):
            changed = codes[part].copy()
            changed[:, i] = held[i]
            found[part, i] = _errors(squared_error, changed, which) - whole
    return found


def _errors(
    squared_error: Callable[[Any, Any], Any], codes: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    return np.asarray(squared_error(codes.astype(np.float32), rows), np.float64)


def _proposals(
    curve: DropCurve,
    options: AnalysisOptions,
    unit: str,
    mean: np.ndarray,
    log_variance: np.ndarray,
    worth: np.ndarray | None,
) -> tuple[Proposal, ...]:
    seed = options.seed
    found = [
        propose(curve, "fidelity", options.fidelity, seed),
        propose(curve, "audible", options.audible, seed, unit),
        propose(curve, "knee", seed=seed),
        propose_by_activity(mean, log_variance, worth, seed=seed),
    ]
    if worth is not None:
        found.append(propose_by_worth(worth, seed=seed))
    return tuple(found)


def _shares(values: np.ndarray) -> np.ndarray:
    total = values.sum()
    return values / total if total > 0 else np.zeros_like(values)


def _reach(eigenvalues: np.ndarray, share: float) -> int:
    """Fewest eigenvalues that hold a share of the sum; counted from one."""
    total = float(np.sum(eigenvalues))
    if total <= 0:
        return 0
    held = np.cumsum(eigenvalues) / total
    return int(np.argmax(held >= share - 1e-9)) + 1


class _Bootstrap:
    """Intervals of many columns at once; the same rows for all of them."""

    def __init__(self, options: AnalysisOptions, rng: np.random.Generator) -> None:
        tail = (1.0 - options.level) / 2.0
        self._ends = [tail, 1.0 - tail]
        self._resamples = options.resamples
        self._rng = rng
        self._known: dict[int, np.ndarray] = {}

    def _weights(self, count: int) -> np.ndarray:
        """How often each row is drawn in each resample, over the number of rows."""
        if count not in self._known:
            even = np.full(count, 1.0 / count)
            drawn = self._rng.multinomial(count, even, size=self._resamples)
            self._known[count] = drawn / count
        return self._known[count]

    def _estimates(self, value: np.ndarray, again: np.ndarray) -> list[Estimate]:
        low, high = np.quantile(again, self._ends, axis=0)
        return [
            Estimate(float(v), float(min(lo, v)), float(max(hi, v)))
            for v, lo, hi in zip(value, low, high, strict=True)
        ]

    def means(self, rows: np.ndarray) -> list[Estimate]:
        return self._estimates(rows.mean(0), self._weights(len(rows)) @ rows)

    def ratios(self, rows: np.ndarray, whole: np.ndarray) -> list[Estimate]:
        weights = self._weights(len(rows))
        under = np.maximum(weights @ whole, 1e-300)[:, None]
        value = rows.mean(0) / max(float(whole.mean()), 1e-300)
        return self._estimates(value, (weights @ rows) / under)

    def signal(self, mean: np.ndarray, log_variance: np.ndarray) -> list[Estimate]:
        noise = np.exp(log_variance)

        def share(first, second, spread):
            signal = np.maximum(second - first**2, 0.0)
            return signal / np.maximum(signal + spread, 1e-30)

        centred = mean - mean.mean(0)
        weights = self._weights(len(mean))
        value = share(0.0, (centred**2).mean(0), noise.mean(0))
        again = share(weights @ centred, weights @ centred**2, weights @ noise)
        return self._estimates(value, again)

    def fidelity(self, curve: DropCurve) -> tuple[Estimate, ...]:
        again = self._weights(len(curve.lost)) @ curve.lost
        again = 1.0 - again / np.maximum(again[:, :1], 1e-300)
        return tuple(self._estimates(curve.fidelity(), again))
