"""Candidates of a frame's period, with probabilities over all thresholds.

YIN takes the first dip of its difference function below a threshold; probabilistic YIN
takes every threshold, weighed by a beta distribution. A dip is then chosen by the
thresholds between its own depth and the deepest of all dips at shorter lags, so that

    p_i = max(F(min_{j < i} v_j) - F(v_i), 0),  F the beta distribution function

needs no loop over thresholds. With beta(2, b), F(v) = 1 - (1 - v)^b (1 + b v).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ddspx.pitch.periodicity import Lags


class Candidates(NamedTuple):
    """Candidates of each frame, in the order of their lags.

    Attributes:
      lag: samples, fractional [frames, candidates].
      probability: that the frame has this period; the sum over candidates is the
        probability that it has any [frames, candidates].
      periodicity: share of the power that repeats, within [0, 1].
    """

    lag: jax.Array
    probability: jax.Array
    periodicity: jax.Array


def find_candidates(
    normalised: Lags,
    mean_normalised: Lags,
    first_lag: int,
    *,
    count: int,
    beta: float,
    octave_cost: float,
    fallback: float = 0.01,
) -> Candidates:
    """The most promising dips of each frame.

    Args:
      normalised: difference over power [frames, lags], from lag 0.
      mean_normalised: the same through `cumulative_mean_normalised`.
      first_lag: least lag allowed, samples; the last is left out as well, since a dip
        has a neighbour on either side.
      count: dips kept, the deepest after `octave_cost`.
      beta: b of the distribution of thresholds, whose mean is 2 / (2 + b).
      octave_cost: depth that a dip at twice the lag must gain to count as much.
      fallback: probability of the deepest dip where it passes no threshold.

    Returns:
      `Candidates`; where a frame has fewer dips, probabilities are 0.
    """
    last = normalised.shape[-1] - 1
    inner = mean_normalised[:, first_lag:last]
    left = mean_normalised[:, first_lag - 1 : last - 1]
    right = mean_normalised[:, first_lag + 1 : last + 1]
    dip = (inner < left) & (inner <= right)
    lags = jnp.arange(first_lag, last, dtype=inner.dtype)
    cost = octave_cost * jnp.log2(lags / first_lag)
    score = jnp.where(dip, -inner - cost[None, :], -1e3)
    _, places = lax.top_k(score, count)
    places = jnp.sort(places, axis=-1)
    found = jnp.take_along_axis(dip, places, axis=-1)
    index = places + first_lag
    below, at, above = (
        jnp.take_along_axis(normalised, index + step, axis=-1) for step in (-1, 0, 1)
    )
    offset, depth = parabola(below, at, above)
    scale = jnp.take_along_axis(mean_normalised, index, axis=-1) / jnp.maximum(
        at, 1e-12
    )
    value = jnp.where(found, jnp.clip(depth * scale, 0.0, 1.0), 1.0)
    passed = _beta_distribution(value, beta)
    deepest = lax.cummin(passed, axis=1)
    before = jnp.concatenate([jnp.ones_like(deepest[:, :1]), deepest[:, :-1]], axis=1)
    probability = jnp.maximum(before - passed, 0.0)
    last_resort = (passed == deepest[:, -1:]) & found
    last_resort = last_resort & (jnp.cumsum(last_resort, axis=1) == 1)
    probability = probability + jnp.where(last_resort, fallback * passed, 0.0)
    return Candidates(
        index.astype(inner.dtype) + offset,
        jnp.where(found, probability, 0.0),
        jnp.where(found, jnp.clip(1.0 - depth, 0.0, 1.0), 0.0),
    )


def parabola(
    left: jax.Array, middle: jax.Array, right: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Extremum of the parabola through three points at -1, 0, 1.

    Returns:
      Its place, within [-1, 1], and its value.
    """
    curvature = left - 2.0 * middle + right
    slope = 0.5 * (right - left)
    safe = jnp.where(curvature > 0, curvature, 1.0)
    place = jnp.where(curvature > 0, jnp.clip(-slope / safe, -1.0, 1.0), 0.0)
    return place, middle + place * (slope + 0.5 * curvature * place)


def _beta_distribution(value: jax.Array, beta: float) -> jax.Array:
    return 1.0 - (1.0 - value) ** beta * (1.0 + beta * value)
