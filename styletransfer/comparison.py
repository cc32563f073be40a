"""Who is better than whom on the trials of a cell, and how sure that is.

Differences are paired: method less baseline on the very same trials, turned so that
more is better for the method whatever the metric. Values that are NaN are left out of
means and differences, and counted.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from styletransfer.evaluation import Interval, bootstrap_columns
from styletransfer.metrics import METRICS


class Comparison(NamedTuple):
    """A method against a baseline, by one metric.

    Attributes:
      against: name of the baseline.
      gain: mean by which the method is better, in the metric's unit.
      wins: trials on which it is better.
      losses: trials on which it is worse; the rest are ties.
      missing: trials on which one of the two has no value.
    """

    against: str
    gain: Interval
    wins: int
    losses: int
    missing: int

    @property
    def verdict(self) -> str:
        """``"better"`` or ``"worse"`` where the interval excludes 0, else ``""``."""
        if self.gain.low > 0:
            return "better"
        return "worse" if self.gain.high < 0 else ""


class Standing(NamedTuple):
    """A method in a cell, by one metric.

    Attributes:
      method: its name.
      metric: of `styletransfer.metrics.METRICS`.
      items: trials that it took part in.
      missing: trials on which the metric has no value.
      mean: over the others.
      comparisons: with each baseline that has the metric and is another method.
    """

    method: str
    metric: str
    items: int
    missing: int
    mean: Interval
    comparisons: tuple[Comparison, ...]


def standings(
    results: Mapping[str, Mapping[str, np.ndarray]],
    groups: Sequence[str],
    baselines: Mapping[str, Sequence[str]],
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> list[Standing]:
    """Means and paired differences of all methods of a cell by all metrics.

    Args:
      results: ``{method: {metric: [items]}}``; fewer items are the first trials.
      groups: speaker or piece of each trial.
      baselines: names of the baselines of each method.
      draws: bootstrap replicates.
      seed: of the resampling.

    Returns:
      A standing for each method and metric, in the order given.
    """
    # All columns over the same trials are resampled together.
    columns: dict[tuple, np.ndarray] = {}
    for method, values in results.items():
        for metric, own in values.items():
            columns[method, metric, None] = own
            for baseline in baselines.get(method, ()):
                other = results.get(baseline, {}).get(metric)
                if other is None or baseline == method:
                    continue
                count = min(len(own), len(other))
                sign = 1.0 if METRICS[metric].higher_is_better else -1.0
                columns[method, metric, baseline] = sign * (own[:count] - other[:count])
    intervals: dict[tuple, Interval] = {}
    for count in {len(column) for column in columns.values()}:
        keys = [key for key, column in columns.items() if len(column) == count]
        stacked = np.stack([columns[key] for key in keys], axis=1)
        found = bootstrap_columns(stacked, groups[:count], draws=draws, seed=seed)
        intervals.update(zip(keys, found, strict=True))
    made = []
    for method, values in results.items():
        for metric, own in values.items():
            compared = tuple(
                _comparison(baseline, columns[key], intervals[key])
                for baseline in baselines.get(method, ())
                if (key := (method, metric, baseline)) in columns
            )
            missing = int(np.sum(~np.isfinite(own)))
            mean = intervals[method, metric, None]
            made.append(Standing(method, metric, len(own), missing, mean, compared))
    return made


def _comparison(baseline: str, gains: np.ndarray, gain: Interval) -> Comparison:
    return Comparison(
        against=baseline,
        gain=gain,
        wins=int(np.sum(gains > 0)),
        losses=int(np.sum(gains < 0)),
        missing=int(np.sum(~np.isfinite(gains))),
    )
