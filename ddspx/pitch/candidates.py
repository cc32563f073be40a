"""Candidates of a frame's period, with probabilities over all thresholds.

YIN takes the first dip of its difference function below a threshold; probabilistic YIN
takes every threshold, weighed by a beta distribution. A dip is then chosen by the
thresholds between its own depth and the deepest of all dips at shorter lags, so that

    p_i = max(F(min_{j < i} v_j) - F(v_i), 0),  F the beta distribution function

needs no loop over thresholds. With beta(2, b), F(v) = 1 - (1 - v)^b (1 + b v).

Noise raises all dips alike. So v is counted from the deepest dip of the frame, and
there the first dip that is nearly as deep is found in noise as in silence; that there
is a pitch at all is judged by the deepest dip alone.
"""

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ddspx.pitch.periodicity import Lags


class Candidates(NamedTuple):
    """Candidates of each frame, in the order of their lags.

    Attributes:
      lag: samples, fractional [frames, candidates].
      probability: that the frame has a pitch, of the likeliest candidate; of others in
        proportion [frames, candidates].
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
    dip_beta: float,
    voicing_beta: float,
    octave_cost: float,
) -> Candidates:
    """The most promising dips of each frame.

    Args:
      normalised: difference over power [frames, lags], from lag 0.
      mean_normalised: the same through `cumulative_mean_normalised`.
      first_lag: least lag allowed, samples; the last is left out as well, since a dip
        has a neighbour on either side.
      count: dips kept, the deepest after `octave_cost`.
      dip_beta: b of the thresholds, above the deepest dip, that choose among dips.
      voicing_beta: b of the thresholds that the deepest dip must pass for a pitch.
      octave_cost: depth that a dip at twice the lag must gain to count as much.

    Returns:
      `Candidates`; where a frame has fewer dips, probabilities are 0.
    """
    normalised, mean_normalised = jnp.asarray(normalised), jnp.asarray(mean_normalised)
    last = normalised.shape[-1] - 1
    inner = mean_normalised[:, first_lag:last]
    left = mean_normalised[:, first_lag - 1 : last - 1]
    right = mean_normalised[:, first_lag + 1 : last + 1]
    dip = (inner < left) & (inner <= right)
    lags = jnp.arange(first_lag, last, dtype=inner.dtype)
    cost = octave_cost * jnp.log2(lags / first_lag)
    # By the bottoms between lags: at whole lags the first dip of a high pitch can look
    # shallower than many of its multiples, and would be lost.
    _, bottom = parabola(left, inner, right)
    score = jnp.where(dip, -bottom - cost[None, :], -1e3)
    _, places = lax.top_k(score, count)
    places = jnp.sort(places, axis=-1)
    found = jnp.take_along_axis(dip, places, axis=-1)
    index = places + first_lag
    lag, depth = _between_lags(normalised, index)
    at = jnp.take_along_axis(normalised, index, axis=-1)
    mean = jnp.take_along_axis(mean_normalised, index, axis=-1)
    value = mean * depth / jnp.maximum(at, 1e-9)
    value = jnp.where(found, jnp.clip(value, 0.0, 1.0), 1.0)
    deepest = value.min(-1, keepdims=True)
    excess = (value - deepest) / jnp.maximum(1.0 - deepest, 1e-6)
    passed = _beta_distribution(jnp.where(found, excess, 1.0), dip_beta)
    before = lax.cummin(passed, axis=1)[:, :-1]
    before = jnp.concatenate([jnp.ones_like(passed[:, :1]), before], axis=1)
    chosen = jnp.where(found, jnp.maximum(before - passed, 0.0), 0.0)
    # Two dips that share the thresholds make a frame no less voiced.
    chosen = chosen / jnp.maximum(chosen.max(-1, keepdims=True), 1e-6)
    voiced = 1.0 - _beta_distribution(deepest, voicing_beta)
    return Candidates(
        lag, chosen * voiced, jnp.where(found, jnp.clip(1.0 - depth, 0.0, 1.0), 0.0)
    )


# Lags on either side from which values between lags are made, and steps a lag.
_REACH, _STEPS = 5, 4


@lru_cache(maxsize=1)
def _lag_interpolator() -> np.ndarray:
    """Lagrange's polynomials [2 reach + 1, places]: from whole lags to those between.

    Exact for slow dips, where a windowed sinc ripples, and good to half of Nyquist.
    """
    lags = np.arange(-_REACH, _REACH + 1)
    places = np.arange(-_STEPS, _STEPS + 1) / _STEPS
    rows = []
    for lag in lags:
        others = lags[lags != lag]
        rows.append(np.prod((places[:, None] - others) / (lag - others), axis=1))
    return np.stack(rows)


def _between_lags(values: Lags, index: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The bottom of the dip near each index: fractional lag, and depth.

    A parabola through whole lags is out by up to 8 cents at 8 lags a period; values a
    quarter of a lag apart bring that below 0.1.
    """
    frames, lags = values.shape
    around = index[:, :, None] + jnp.arange(-_REACH, _REACH + 1)[None, None, :]
    # The difference function is even in the lag.
    around = jnp.minimum(jnp.abs(around), lags - 1)
    near = jnp.take_along_axis(values, around.reshape(frames, -1), axis=-1)
    near = near.reshape(around.shape)
    # Relative to the dip, where rounding matters.
    middle = near[:, :, _REACH : _REACH + 1]
    fine = jnp.matmul(
        near - middle,
        jnp.asarray(_lag_interpolator(), values.dtype),
        precision=lax.Precision.HIGHEST,
    )
    place = jnp.argmin(fine[:, :, 1:-1], axis=-1) + 1
    left, at, right = (
        jnp.take_along_axis(fine, (place + step)[:, :, None], axis=-1)[..., 0]
        for step in (-1, 0, 1)
    )
    offset, depth = parabola(left, at, right)
    lag = index + (place - _STEPS + offset) / _STEPS
    return lag.astype(values.dtype), jnp.maximum(depth + middle[..., 0], 0.0)


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
