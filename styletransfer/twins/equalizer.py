"""Twins of pedalboard's filters: shelves, peak, first-order high and low pass.

pedalboard computes coefficients and recursion in float32. The coefficients of a low
cutoff lie within 1e-5 of those of 0 Hz, of which float32 keeps a few digits: a shelf at
20 Hz is up to some per cent away from the filter that it names. The twins of shelves
and peak therefore render with coefficients rounded where JUCE rounds them, operation by
operation, and have the gradient of the exact filter, for rounding has none. Their
recursion is not rounded; what is left of a difference is pedalboard's own, in the
transposed direct form (a recursion like it, in float32, meets most settings bit for
bit). In float64 a twin is the exact filter.

Reference: JUCE, dsp::IIR::ArrayCoefficients, whose shelves and peaks are those of the
  Audio EQ Cookbook with the same Q, and whose first-order passes are bilinear
  transforms.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ddspx.effects.base import Processor
from ddspx.effects.equalizer import sections_processor
from ddspx.filters import analog
from ddspx.filters.analog import Section
from ddspx.types import Rate
from styletransfer.twins.twin import Twin

_NAMES = ("cutoff_frequency_hz", "gain_db", "q")
# JUCE takes no lower cutoff.
_LOWEST_HZ = 2.0


def _gained(design: Callable[..., Section], rounded: Callable[..., Any]) -> Twin:
    def make(sample_rate: Rate) -> Processor:
        def sections(values):
            three = [values[name] for name in _NAMES]
            exact = analog.series(design(*three, sample_rate))
            if exact.warp.dtype == np.float64:
                return exact
            return _rendered_as(analog.normalised(exact), rounded, three, sample_rate)

        inner = sections_processor(sections, 1)

        def process(state, audio, values):
            # pedalboard's parameters are float32, fixed ones too.
            values = {name: jnp.asarray(values[name], audio.dtype) for name in _NAMES}
            return inner.process(state, audio, values)

        return inner._replace(process=process)

    # JUCE's float32 of 1 / sqrt(2).
    defaults = {"cutoff_frequency_hz": 440.0, "gain_db": 0.0, "q": 0.7071067690849304}
    return Twin(defaults, make)


def _rendered_as(
    exact: Section, rounded: Callable[..., Any], three: list, sample_rate: Rate
) -> Section:
    """The section of JUCE's float32 coefficients, with the slopes of the exact one."""
    # Float32 operations are float64 ones, rounded: that is exact for + - * / and root.
    with jax.enable_x64(True):
        double = [
            lax.convert_element_type(lax.stop_gradient(value), np.dtype(np.float64))
            for value in three
        ]
        b, a = rounded(*double, sample_rate)
        heard = analog.normalised(analog.series(analog.from_coefficients(b, a)))
        heard = [
            lax.convert_element_type(leaf, np.dtype(np.float32)) for leaf in heard[:3]
        ]
    # So far below the catalogue's cutoffs that no pole is left inside the circle, the
    # exact filter is as good a guess as any.
    stable = heard[2] > 0.0

    def replaced(exact, heard):
        usable = stable.reshape(stable.shape + (1,) * (heard.ndim - stable.ndim))
        return exact + lax.stop_gradient(jnp.where(usable, heard - exact, 0.0))

    return Section(*map(replaced, exact[:3], heard))


def _single(value: Any) -> Any:
    """What float32 keeps of a float64."""
    return lax.reduce_precision(value, exponent_bits=8, mantissa_bits=23)


def _angle(cutoff_hz: Any, sample_rate: Rate) -> Any:
    turn = float(np.float32(2.0) * np.float32(np.pi))
    cutoff_hz = jnp.maximum(cutoff_hz, _LOWEST_HZ)
    return _single(_single(turn * cutoff_hz) / float(np.float32(sample_rate)))


def _root_gain(gain_db: Any) -> Any:
    exponent = _single(gain_db * float(np.float32(0.05)))
    return _single(jnp.sqrt(_single(jnp.power(10.0, exponent))))


def _scaled(b: tuple[Any, ...], a: tuple[Any, ...]) -> tuple[Any, Any]:
    """Both over a0, by the product with its inverse."""
    inverse = _single(1.0 / a[0])
    b, a = (tuple(_single(c * inverse) for c in both) for both in (b, a))
    one = jnp.ones_like(a[1])
    return jnp.stack(b, -1), jnp.stack((one, *a[1:]), -1)


def _peak(cutoff_hz: Any, gain_db: Any, q: Any, sample_rate: Rate) -> tuple[Any, Any]:
    angle, root = _angle(cutoff_hz, sample_rate), _root_gain(gain_db)
    alpha = _single(_single(jnp.sin(angle)) / (2.0 * q))
    times, over = _single(alpha * root), _single(alpha / root)
    c1 = -2.0 * _single(jnp.cos(angle))
    return _scaled(
        (_single(1.0 + times), c1, _single(1.0 - times)),
        (_single(1.0 + over), c1, _single(1.0 - over)),
    )


def _shelf(high: bool) -> Callable[..., tuple[Any, Any]]:
    # The high shelf is the low one with the signs of the cosine, b1 and a1 changed.
    sign = -1.0 if high else 1.0

    def rounded(cutoff_hz, gain_db, q, sample_rate):
        angle, root = _angle(cutoff_hz, sample_rate), _root_gain(gain_db)
        cosine = sign * _single(jnp.cos(angle))
        less, more = _single(root - 1.0), _single(root + 1.0)
        beta = _single(_single(jnp.sin(angle)) * _single(jnp.sqrt(root)))
        beta = _single(beta / q)
        less_cosine, more_cosine = _single(less * cosine), _single(more * cosine)
        outer, inner = _single(more - less_cosine), _single(more + less_cosine)
        return _scaled(
            (
                _single(root * _single(outer + beta)),
                sign * _single(2.0 * root * _single(less - more_cosine)),
                _single(root * _single(outer - beta)),
            ),
            (
                _single(inner + beta),
                -2.0 * sign * _single(less + more_cosine),
                _single(inner - beta),
            ),
        )

    return rounded


def _first_order(design: Callable[..., Section]) -> Twin:
    def make(sample_rate: Rate) -> Processor:
        def sections(values):
            return analog.series(design(values["cutoff_frequency_hz"], sample_rate))

        return sections_processor(sections, 1)

    return Twin({"cutoff_frequency_hz": 50.0}, make)


TWINS: dict[str, Twin] = {
    "LowShelfFilter": _gained(analog.low_shelf, _shelf(high=False)),
    "HighShelfFilter": _gained(analog.high_shelf, _shelf(high=True)),
    "PeakFilter": _gained(analog.peak, _peak),
    "HighpassFilter": _first_order(analog.first_order_high_pass),
    "LowpassFilter": _first_order(analog.first_order_low_pass),
}
