"""Memoryless curves, and their averages over the path of the signal.

A curve bends the spectrum beyond half the sample rate, and what lies there folds back.
Anti-derivative anti-aliasing takes, instead of the curve at each sample, its average
over the straight line between two samples (order 1), or over the triangle of three
(order 2). The published forms are differences of antiderivatives, divided by
differences of samples, and lose all digits in float32 where samples are nearly equal.
Here every form is an average: weights in [0, 1] that sum to one, times values of the
curve, from quadrature on pieces where the curve is smooth, exact for polynomials.

Input and output are arrays of any equal shape, nominally in [-1, 1], not clipped.

Reference: J. Parker, V. Zavalishin, E. Le Bivic, Reducing the aliasing of nonlinear
  waveshaping using continuous-time convolution, DAFx-16; S. Bilbao, F. Esqueda,
  J. Parker, V. Valimaki, Antiderivative antialiasing for memoryless nonlinearities,
  IEEE SPL 24(7), 2017. Averages over the simplex: the Hermite-Genocchi formula.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax import lax

Curve = Callable[[jax.Array], jax.Array]

# Radon's rule for triangles, exact to degree 5: barycentric places and weights.
_ROOT = np.sqrt(15.0)
_INNER, _OUTER = (6.0 - _ROOT) / 21.0, (6.0 + _ROOT) / 21.0
_TRIANGLE = (
    ((1 / 3, 1 / 3, 1 / 3), 9 / 40),
    *(
        (tuple(1 - 2 * side if corner == k else side for k in range(3)), weight)
        for side, weight in (
            (_INNER, (155 - _ROOT) / 1200),
            (_OUTER, (155 + _ROOT) / 1200),
        )
        for corner in range(3)
    ),
)
# Largest spread of samples for which a smooth curve is a polynomial to float32.
_SMOOTH_SPREAD = 0.5
_TRIANGLE_SPREAD = 0.1
# The same for curves with corners, which rules do not see.
_CORNER_SPREAD = 1e-3


class Shape(NamedTuple):
    """A curve and its averages.

    Attributes:
      curve: ``f(x)``.
      line: ``(a, b) -> int_0^1 f(a + s (b - a)) ds``.
      ramp: ``(a, b) -> int_0^1 2 s f(a + s (b - a)) ds``: more weight to b.
      spread: distance between samples below which `triangle` uses a fixed rule.
    """

    curve: Curve
    line: Callable[[jax.Array, jax.Array], jax.Array]
    ramp: Callable[[jax.Array, jax.Array], jax.Array]
    spread: float


def triangle(shape: Shape, a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """Average of a curve over the triangle of three samples, symmetric in them.

        y = 2 int int f(p a + q b + (1 - p - q) c) dp dq
          = w ramp(low, middle) + (1 - w) ramp(high, middle),
        w = (middle - low) / (high - low)

    Args:
      shape: the curve.
      a: any shape.
      b: same shape.
      c: same shape.

    Returns:
      Same shape.

    Reference: equals Bilbao et al. (2017), equation 17, without its divisions.
    """
    low = jnp.minimum(jnp.minimum(a, b), c)
    high = jnp.maximum(jnp.maximum(a, b), c)
    middle = jnp.maximum(jnp.minimum(a, b), jnp.minimum(jnp.maximum(a, b), c))
    near = high - low < shape.spread
    share = (middle - low) / jnp.where(near, 1.0, high - low)
    far = share * shape.ramp(low, middle) + (1.0 - share) * shape.ramp(high, middle)
    rule = sum(
        weight * shape.curve(p * a + q * b + r * c) for (p, q, r), weight in _TRIANGLE
    )
    return jnp.where(near, rule, far)


def antialiased(shape: Shape, order: int, joined: jax.Array) -> jax.Array:
    """The curve along time, averaged over the last ``order + 1`` samples.

    A straight curve gives the mean of these samples: the delay is half the order, in
    samples, and the top of the spectrum is dulled (oversample by two to keep it).

    Args:
      shape: the curve.
      order: 0, 1 or 2.
      joined: [..., order + time], beginning with the last samples of before.

    Returns:
      [..., time].
    """
    if order == 0:
        return shape.curve(joined)
    if order == 1:
        return shape.line(joined[..., :-1], joined[..., 1:])
    return triangle(shape, joined[..., :-2], joined[..., 1:-1], joined[..., 2:])


def within_limits(polynomial: Curve, degree: int) -> Shape:
    """A polynomial between -1 and 1, held constant outside.

        f(x) = p(clip(x, -1, 1))

    Its averages are exact: the path is cut where it crosses -1 and 1, and the piece
    between is integrated by a Gauss rule of sufficient degree.

    Args:
      polynomial: p, for any array.
      degree: of p, sets the number of points.

    Returns:
      A `Shape`.
    """
    places, weights = np.polynomial.legendre.leggauss(degree // 2 + 1)
    ramp_places, ramp_weights = np.polynomial.legendre.leggauss((degree + 1) // 2 + 1)

    def curve(x):
        return polynomial(jnp.clip(x, -1.0, 1.0))

    def cuts(a, b):
        # Shares of the path before -1 and 1 are crossed. The curve is continuous, so
        # moving a cut changes nothing: its gradient is zero, and would be all noise.
        step = b - a
        safe = jnp.where(step == 0.0, 1.0, step)
        to_low = jnp.where(step == 0.0, 0.0, jnp.clip((-1.0 - a) / safe, 0.0, 1.0))
        to_high = jnp.where(step == 0.0, 1.0, jnp.clip((1.0 - a) / safe, 0.0, 1.0))
        first, last = jnp.minimum(to_low, to_high), jnp.maximum(to_low, to_high)
        return lax.stop_gradient(first), lax.stop_gradient(last)

    def line(a, b):
        first, last = cuts(a, b)
        inside = last - first
        total = first * curve(a) + (1.0 - last) * curve(b)
        for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
            s = first + float(place) * inside
            total = total + float(weight) * inside * curve(a + s * (b - a))
        return total

    def ramp(a, b):
        first, last = cuts(a, b)
        inside = last - first
        total = first**2 * curve(a) + (1.0 - last**2) * curve(b)
        for place, weight in zip((ramp_places + 1) / 2, ramp_weights, strict=True):
            s = first + float(place) * inside
            total = total + float(weight) * inside * s * curve(a + s * (b - a))
        return total

    return Shape(curve, line, ramp, _CORNER_SPREAD)


HARD_CLIP = within_limits(lambda x: x, 1)
SOFT_CLIP = within_limits(lambda x: 1.5 * x - 0.5 * x**3, 3)


def _dilogarithm_fit() -> np.ndarray:
    """Chebyshev coefficients of -Li2(-z) / z for z in [0, 1], error below 1e-12."""
    places = 0.5 + 0.5 * np.cos(np.pi * (np.arange(32) + 0.5) / 32)
    values = -scipy.special.spence(1.0 + places) / places
    return np.polynomial.chebyshev.chebfit(2.0 * places - 1.0, values, 15)


_DILOGARITHM = _dilogarithm_fit()


def _first_rest(x: jax.Array) -> jax.Array:
    """R1(|x|) of `_tanh_shape`."""
    return jnp.log1p(jnp.exp(-2.0 * jnp.abs(x)))


@jax.custom_jvp
def _second_rest(x: jax.Array) -> jax.Array:
    """The odd antiderivative of `_first_rest`: ``sign x (R2(0) - R2(|x|))``."""
    z = jnp.exp(-2.0 * jnp.abs(x))
    place = 2.0 * z - 1.0
    later, now = jnp.zeros_like(z), jnp.zeros_like(z)
    for weight in _DILOGARITHM[:0:-1]:
        later, now = now, float(weight) + 2.0 * place * now - later
    fit = float(_DILOGARITHM[0]) + place * now - later
    return jnp.sign(x) * (float(np.pi**2 / 24.0) - 0.5 * z * fit)


@_second_rest.defjvp
def _second_rest_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    return _second_rest(x), _first_rest(x) * x_dot


def _tanh_shape() -> Shape:
    """``tanh``, its averages by quadrature or by bounded antiderivatives.

    Near samples (less than 0.5 apart) take a Gauss rule of five points. Others split
    ``tanh x = sign x (1 - r(|x|))``: the sign has piecewise linear averages, and the
    rest r(t) = 2 / (1 + e^2t) antiderivatives that do not grow,

        R1(t) = int_t^inf r = log(1 + e^-2t),  R2(t) = int_t^inf R1 = -Li2(-e^-2t) / 2

    so that no large numbers are subtracted at any drive.

    Returns:
      A `Shape`.
    """
    places, weights = np.polynomial.legendre.leggauss(5)
    rule = list(zip((places + 1.0) / 2.0, weights / 2.0, strict=True))
    rule = [(float(place), float(weight)) for place, weight in rule]

    def apart(a, b):
        near = jnp.abs(b - a) < _SMOOTH_SPREAD
        # Where near, any two far points keep the unused branch finite.
        return near, jnp.where(near, -1.0, a), jnp.where(near, 1.0, b)

    def line(a, b):
        near, u, v = apart(a, b)
        close = sum(w * jnp.tanh(a + s * (b - a)) for s, w in rule)
        step = v - u
        far = (jnp.abs(v) - jnp.abs(u) + (_first_rest(v) - _first_rest(u))) / step
        return jnp.where(near, close, far)

    def ramp(a, b):
        near, u, v = apart(a, b)
        close = sum(2.0 * s * w * jnp.tanh(a + s * (b - a)) for s, w in rule)
        step = v - u
        crossing = jnp.where(u * v < 0.0, -u / step, 0.0)
        side = jnp.sign(jnp.where(v == 0.0, u, v))
        signs = side * (1.0 - 2.0 * crossing**2)
        second = _second_rest(v) - _second_rest(u)
        rest = _first_rest(v) / step - second / step**2
        return jnp.where(near, close, signs + 2.0 * rest)

    return Shape(jnp.tanh, line, ramp, _TRIANGLE_SPREAD)


TANH = _tanh_shape()


def chebyshev(coefficients: Any) -> Curve:
    """A sum of Chebyshev polynomials that is zero at zero.

        p(x) = sum_k c_k (T_k(x) - T_k(0)),  k = 1 ... n

    On a cosine of amplitude 1, c_k is the amplitude of the k-th harmonic.

    Args:
      coefficients: c_1 ... c_n, numbers or arrays that broadcast with the input.

    Returns:
      The polynomial.
    """

    def polynomial(x):
        before, now = jnp.ones_like(x), x
        total = coefficients[0] * x
        for k, weight in enumerate(coefficients[1:], start=2):
            before, now = now, 2.0 * x * now - before
            at_zero = (1.0, 0.0, -1.0, 0.0)[k % 4]
            total = total + weight * (now - at_zero)
        return total

    return polynomial


def power_series(coefficients: Any) -> Curve:
    """``p(x) = sum_k c_k x^k``, k = 1 ... n; see `chebyshev`."""

    def polynomial(x):
        total = coefficients[-1] * x
        for weight in coefficients[-2::-1]:
            total = (total + weight) * x
        return total

    return polynomial


def power_of_two(exponent: jax.Array) -> jax.Array:
    """``2^x``, exact where x is whole, which `jnp.exp2` is not in float32.

    Args:
      exponent: any shape.

    Returns:
      Same shape.
    """
    whole = lax.stop_gradient(jnp.floor(exponent))
    part = jnp.power(jnp.asarray(2.0, exponent.dtype), exponent - whole)
    return jnp.ldexp(part, whole.astype(jnp.int32))


@jax.custom_jvp
def quantize(x: jax.Array, density: jax.Array) -> jax.Array:
    """Rounds to the nearest of `density` values a unit: ``round(x n) / n``.

    The gradient is a surrogate, since the true one is zero almost everywhere: the
    rounding error *in steps* is held constant, so the samples pass straight through,
    and finer steps shrink the error that was made:

        dy/dx = 1,  dy/dn = -(y - x) / n

    Args:
      x: any shape.
      density: n, values a unit, greater than 0, same shape.

    Returns:
      Same shape, exactly quantised; halves go to the even neighbour.

    Reference: Y. Bengio et al., Estimating or propagating gradients through stochastic
      neurons (2013); S. Esser et al., Learned step size quantization, ICLR 2020.
    """
    return jnp.round(x * density) * (1.0 / density)


@quantize.defjvp
def _quantize_jvp(primals, tangents):
    x, density = primals
    x_dot, density_dot = tangents
    y = quantize(x, density)
    return y, x_dot - (y - x) / density * density_dot
