"""Averages of curves against fine quadrature in float64, and their gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx import waveshaping
from ddspx.waveshaping import HARD_CLIP, SOFT_CLIP, TANH, triangle, within_limits

POLYNOMIAL = within_limits(waveshaping.chebyshev([0.5, 0.3, 0.2, -0.4, 0.1]), 5)
SHAPES = {
    "tanh": TANH,
    "hard": HARD_CLIP,
    "soft": SOFT_CLIP,
    "polynomial": POLYNOMIAL,
}
CORNERS = (-1.0, 0.0, 1.0)


def curve64(name, x):
    v = np.clip(x, -1.0, 1.0)
    series = np.polynomial.Chebyshev([0.0, 0.5, 0.3, 0.2, -0.4, 0.1])
    return {
        "tanh": lambda: np.tanh(x),
        "hard": lambda: v,
        "soft": lambda: 1.5 * v - 0.5 * v**3,
        "polynomial": lambda: series(v) - series(0.0),
    }[name]()


def averages(name, a, b, c):
    """(line of a and b, triangle of a, b and c), float64, one rule on each piece."""
    places, weights = np.polynomial.legendre.leggauss(60)

    def integral(u, v, weigh):
        """int over [u, v] of weigh(t) f(t), cut where f bends or has its corners."""
        cuts = np.linspace(-6.0, 6.0, 25)  # holds the corners; tanh is steep within
        edges = np.unique(np.concatenate([[u, v], cuts[(cuts > u) & (cuts < v)]]))
        total = 0.0
        for left, right in itertools.pairwise(edges):
            t = left + (places + 1) / 2 * (right - left)
            total += np.sum(weights * weigh(t) * curve64(name, t)) * (right - left) / 2
        return total

    low, high = min(a, b), max(a, b)
    flat = curve64(name, a)
    line = integral(low, high, np.ones_like) / (high - low) if high > low else flat
    low, middle, high = sorted((a, b, c))
    if high == low:
        return line, flat
    rising = falling = 0.0
    if middle > low:
        rising = integral(low, middle, lambda t: (t - low) / (middle - low))
    if high > middle:
        falling = integral(middle, high, lambda t: (high - t) / (high - middle))
    return line, 2.0 / (high - low) * (rising + falling)


def triples(rng, scale, count=12):
    """Samples as far apart as `scale`, around a place where the curve bends."""
    place = rng.choice(CORNERS, (count, 1)) + 0.5 * scale * rng.normal(size=(count, 1))
    return (place + scale * rng.normal(size=(count, 3))).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-5, 3e-3, 0.2, 3.0, 100.0])
@pytest.mark.parametrize("name", SHAPES)
def test_averages_are_exact_at_any_distance(name, scale, rng):
    shape = SHAPES[name]
    points = triples(rng, scale)
    found = [
        shape.line(*(jnp.asarray(points[:, k]) for k in (0, 1))),
        triangle(shape, *(jnp.asarray(points[:, k]) for k in range(3))),
    ]
    wanted = np.array([averages(name, *map(float, row)) for row in points]).T
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-6)
    # Below a spread of 1e-3 a fixed rule does not see the corner of a curve.
    np.testing.assert_allclose(found[1], wanted[1], atol=2e-6 if scale > 1e-4 else 1e-5)


def test_the_published_form_loses_its_digits_where_ours_does_not():
    """Order 1 as printed, (F(b) - F(a)) / (b - a), in float32, loud and slow."""
    a = jnp.asarray([60.0, 30.0, 2.0]) + 0.0
    b = a * (1.0 + 3e-6)

    def antiderivative(x):
        return jnp.abs(x) + jnp.log1p(jnp.exp(-2.0 * jnp.abs(x)))

    published = (antiderivative(b) - antiderivative(a)) / (b - a)
    assert np.max(np.abs(published - jnp.tanh(a))) > 1e-3
    np.testing.assert_allclose(TANH.line(a, b), jnp.tanh(a), atol=1e-6)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("name", SHAPES)
def test_equal_samples_give_the_curve(name, order):
    value = jnp.asarray([-30.0, -1.0, -0.3, 0.0, 1e-20, 0.7, 1.0, 30.0])
    joined = jnp.broadcast_to(value[:, None], (8, order + 1))
    shape = SHAPES[name]
    found = jax.jit(lambda x: waveshaping.antialiased(shape, order, x))(joined)[:, 0]
    np.testing.assert_allclose(found, SHAPES[name].curve(value), atol=1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_exact_zeros_beside_loud_samples(name):
    """A path that ends at zero has no sign there."""
    rows = [(4.0, 0.0, 0.0), (0.0, 4.0, 0.0), (0.0, 0.0, -4.0), (4.0, 0.0, -4.0)]
    for row in rows:
        line, corner = averages(name, *row)
        a, b, c = (jnp.asarray([x]) for x in row)
        assert float(SHAPES[name].line(a, b)[0]) == pytest.approx(line, abs=1e-6)
        found = float(triangle(SHAPES[name], a, b, c)[0])
        assert found == pytest.approx(corner, abs=1e-6)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", SHAPES)
def test_gradients_in_float64_and_float32(name, order, rng):
    shape = SHAPES[name]

    @jax.jit
    def value(x):
        return waveshaping.antialiased(shape, order, x)[:, 0]

    slope = jax.jit(jax.grad(lambda x: value(x).sum()))
    for scale in (0.01, 0.4, 5.0):
        with jax.enable_x64(True):
            joined = jnp.asarray(triples(rng, scale, 40)[:, : order + 1], jnp.float64)
            move = jnp.asarray(rng.normal(size=joined.shape))
            step = 1e-7
            ahead, behind = value(joined + step * move), value(joined - step * move)
            wanted = (ahead - behind) / (2 * step)
            exact = slope(joined)
            found = jnp.sum(exact * move, axis=1)
            np.testing.assert_allclose(found, wanted, atol=3e-5)
        single = slope(jnp.asarray(joined, jnp.float32))
        np.testing.assert_allclose(single, exact, atol=3e-4)


def test_chebyshev_makes_the_harmonics_it_is_told(rng):
    weights = rng.uniform(-1, 1, 6)
    angle = 2 * np.pi * np.arange(64) / 64
    cosine = jnp.asarray(np.cos(angle), jnp.float32)
    spectrum = np.fft.rfft(waveshaping.chebyshev(list(weights))(cosine)) / 32
    np.testing.assert_allclose(spectrum[1:7].real, weights, atol=1e-6)
    np.testing.assert_allclose(np.abs(spectrum[7:]), 0.0, atol=1e-6)
    assert float(waveshaping.chebyshev(list(weights))(jnp.zeros(1))[0]) == 0.0


def test_power_series_is_numpys_polynomial(rng):
    weights = rng.uniform(-1, 1, 5)
    x = rng.uniform(-1, 1, 50).astype(np.float32)
    wanted = np.polynomial.polynomial.polyval(x, [0.0, *weights])
    found = waveshaping.power_series(list(weights))(jnp.asarray(x))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_quantize_is_exact_and_its_surrogate_is_the_documented_one(rng):
    x = jnp.asarray(rng.uniform(-1, 1, 200), jnp.float32)
    density = jnp.full_like(x, 5.3)
    y = waveshaping.quantize(x, density)
    np.testing.assert_array_equal(y, np.round(x * density) * (1 / density))
    slopes = jax.grad(lambda x, n: jnp.sum(waveshaping.quantize(x, n)), (0, 1))(
        x, density
    )
    np.testing.assert_array_equal(slopes[0], 1.0)
    np.testing.assert_allclose(slopes[1], -(y - x) / 5.3, atol=1e-7)


def test_whole_powers_of_two_are_exact():
    exponent = jnp.arange(-30.0, 31.0)
    found = waveshaping.power_of_two(exponent)
    np.testing.assert_array_equal(found, 2.0 ** np.arange(-30, 31))
    slope = jax.grad(waveshaping.power_of_two)(3.7)
    assert float(slope) == pytest.approx(np.log(2) * 2**3.7, rel=1e-6)
