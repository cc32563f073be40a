"""Distortion: tanh, hard and soft clip, polynomials, bit-crush.

Each bends the driven signal and mixes it with the dry one,

    y = (1 - mix) x + mix 10^(output_db / 20) f(10^(drive_db / 20) x)

with curves that are odd, or zero at zero, and at most 1 in size. Signals are [channels,
time], nominally in [-1, 1]; channels are independent; controls may move. Each factory
but `bitcrush` has the options

* ``oversampling`` 1, 2, 4 or 8: the curve works at a multiple of the rate, between
  linear-phase filters (`ddspx.oversampling`). Output lags by 64 samples, dry and wet
  alike, and the effect says so in its ``latency``.
* ``antiderivative`` 0, 1 or 2: the order of anti-aliasing by averages of the curve
  (`ddspx.waveshaping`), which dulls the top of the spectrum (it needs oversampling
  least) and delays the wet part by half a sample (order 1) or one (order 2; then the
  latency is one, and the dry part waits).
* ``dc_block``: a high pass at 10 Hz after the curve.

The setting mix = 0 is the identity: the input, later by ``latency``.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from ddspx import oversampling as rates
from ddspx.effects import dc_block as dc
from ddspx.effects.base import Effect, Processor, in_blocks, make_effect
from ddspx.parameters import ParameterSpec, db, ms, plain
from ddspx.types import Rate
from ddspx.units import db_to_gain
from ddspx.waveshaping import (
    HARD_CLIP,
    SOFT_CLIP,
    TANH,
    Shape,
    antialiased,
    chebyshev,
    power_of_two,
    power_series,
    quantize,
    within_limits,
)

Basis = Literal["chebyshev", "power"]

_DC_CUTOFF_HZ = 10.0
_ORDERS = (0, 1, 2)
# Samples worked on at a time: fits the cache, and keeps an accelerator busy.
_BLOCK = 1 << 14
# Highest power of two in a phase of 32 bits.
_TURN = 4294967296.0


def tanh_distortion(
    sample_rate: Rate,
    *,
    oversampling: int = 1,
    antiderivative: int = 0,
    dc_block: bool = False,
) -> Effect:
    """Soft saturation: ``f(u) = tanh(u)``.

    Controls: ``drive_db`` 0 to 40, ``output_db`` -24 to 12, ``mix`` (identity 0).

    Args:
      sample_rate: Hz.
      oversampling: see the module.
      antiderivative: see the module.
      dc_block: see the module.

    Returns:
      An `Effect`.

    Raises:
      ValueError: an option has no such value.
    """
    return _distortion(
        (), lambda values: TANH, sample_rate, oversampling, antiderivative, dc_block
    )


def hard_clip(
    sample_rate: Rate,
    *,
    oversampling: int = 1,
    antiderivative: int = 0,
    dc_block: bool = False,
) -> Effect:
    """Hard clipping: ``f(u) = min(max(u, -1), 1)``; otherwise as `tanh_distortion`.

    Args:
      sample_rate: Hz.
      oversampling: see the module.
      antiderivative: see the module.
      dc_block: see the module.

    Returns:
      An `Effect`.
    """
    return _distortion(
        (),
        lambda values: HARD_CLIP,
        sample_rate,
        oversampling,
        antiderivative,
        dc_block,
    )


def soft_clip(
    sample_rate: Rate,
    *,
    oversampling: int = 1,
    antiderivative: int = 0,
    dc_block: bool = False,
) -> Effect:
    """Cubic clipping: ``f(u) = 1.5 v - 0.5 v^3``, v = u limited to [-1, 1].

    Small signals gain 3.5 dB; the curve and its slope are continuous. Otherwise as
    `tanh_distortion`.

    Args:
      sample_rate: Hz.
      oversampling: see the module.
      antiderivative: see the module.
      dc_block: see the module.

    Returns:
      An `Effect`.
    """
    return _distortion(
        (),
        lambda values: SOFT_CLIP,
        sample_rate,
        oversampling,
        antiderivative,
        dc_block,
    )


def polynomial_distortion(
    sample_rate: Rate,
    *,
    degree: int = 5,
    basis: Basis = "chebyshev",
    oversampling: int = 1,
    antiderivative: int = 0,
    dc_block: bool = True,
) -> Effect:
    """A trainable polynomial of the driven signal, limited to [-1, 1].

        chebyshev:  f(u) = sum_k c_k (T_k(v) - T_k(0))
        power:      f(u) = sum_k c_k v^k,    v = min(max(u, -1), 1), k = 1 ... degree

    With Chebyshev polynomials c_k is the amplitude of the k-th harmonic of a cosine of
    amplitude 1. Even terms make DC, which the block takes away.

    Controls: ``drive_db`` 0 to 40, ``c1`` ... each -1 to 1 (default 1, then 0),
    ``output_db`` -24 to 12, ``mix`` (identity 0).

    Args:
      sample_rate: Hz.
      degree: highest power, 1 to 16.
      basis: ``"chebyshev"`` or ``"power"``.
      oversampling: see the module.
      antiderivative: see the module.
      dc_block: see the module.

    Returns:
      An `Effect`.

    Raises:
      ValueError: an option has no such value.
    """
    if not 1 <= degree <= 16:
        raise ValueError(f"degree is {degree}; a polynomial here has 1 to 16")
    if basis not in ("chebyshev", "power"):
        raise ValueError(f"basis {basis!r} is unknown; use 'chebyshev' or 'power'")
    family = chebyshev if basis == "chebyshev" else power_series
    names = [f"c{k}" for k in range(1, degree + 1)]
    weights = tuple(plain(name, -1.0, 1.0, float(name == "c1")) for name in names)

    def shape_of(values):
        return within_limits(family([values[name] for name in names]), degree)

    return _distortion(
        weights, shape_of, sample_rate, oversampling, antiderivative, dc_block
    )


def bitcrush(sample_rate: Rate) -> Effect:
    """Fewer bits and fewer samples, with a surrogate gradient; the output is exact.

        y[t] = round(x[t'] n) / n,  n = 2^(bit_depth - 1),
        t' the last sample at which the hold began

    The true gradient is zero almost everywhere. The surrogate keeps two things fixed:
    the rounding error in steps (`ddspx.waveshaping.quantize`: straight through to the
    samples, -error / n to n), and the place in the cycle of the hold: a sample
    that is held for `lag` samples would lag in proportion if the hold were longer, so

        dy/dhold = -(lag / hold) (x[t'] - x[t' - 1])

    Controls: ``bit_depth`` 1 to 24 (identity 24, to 1e-7; fractions are possible),
    ``hold_ms`` from one sample (identity) to 2 ms: 1000 / hold_ms is the reduced rate,
    held without filters; ``mix`` (identity 0).

    Args:
      sample_rate: Hz.

    Returns:
      An `Effect`.
    """
    specs = (
        plain("bit_depth", 1.0, 24.0, 8.0, identity=24.0),
        _hold_spec(sample_rate),
        plain("mix", 0.0, 1.0, 1.0, identity=0.0),
    )

    def process(state, audio, values):
        state, held = hold(state, audio, values["hold_ms"] * (sample_rate / 1000.0))
        density = _row(power_of_two(_cast(values["bit_depth"], audio) - 1.0))
        crushed = quantize(held, jnp.broadcast_to(density, held.shape))
        return state, _mixed(audio, crushed, values["mix"])

    return make_effect(specs, Processor(start_hold, process, moving=True))


def _hold_spec(sample_rate: Rate) -> ParameterSpec:
    period_ms = 1000.0 / sample_rate
    return ms("hold_ms", period_ms, 2.0, period_ms, identity=period_ms)


def start_hold(channels: int) -> dict[str, jax.Array]:
    """State of `hold` before the first sample, at which a hold begins."""
    return {
        "phase": jnp.asarray(0xFFFFFFFF, jnp.uint32),
        "age": jnp.asarray(0, jnp.int32),
        "held": jnp.zeros((channels, 2)),
        "last": jnp.zeros((channels, 1)),
    }


def hold(
    state: dict[str, jax.Array], audio: jax.Array, hold_samples: Any
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Sample and hold at a reduced rate, which need not divide the rate.

    A phase of 32 bits advances by ``2^32 / hold`` a sample; where it turns over, a new
    sample is taken. Integers wrap exactly, so blocks join without drift.

    Args:
      state: from `start_hold` or the call before.
      audio: [channels, time].
      hold_samples: samples per hold, one or more, a number or [time].

    Returns:
      The state for the next call, and [channels, time]. See `bitcrush` for the
      surrogate gradient.
    """
    time = audio.shape[-1]
    hold_samples = jnp.broadcast_to(_cast(hold_samples, audio), (time,))
    share = lax.stop_gradient(1.0 / hold_samples)
    always = share >= 1.0 - 1e-6
    step = (jnp.where(always, 0.0, share) * _TURN).astype(jnp.uint32)
    phase = state["phase"] + jnp.cumsum(step, dtype=jnp.uint32)
    before = jnp.concatenate([state["phase"][None], phase])
    taken = always | (phase < before[:-1])
    place = lax.cummax(jnp.where(taken, jnp.arange(1, time + 1), 0))
    age = jnp.arange(1, time + 1) - place + jnp.where(place == 0, state["age"], 0)
    joined = jnp.concatenate([state["last"], audio], axis=-1)
    slope = joined[:, 1:] - joined[:, :-1]
    values = jnp.concatenate([state["held"][:, :1], audio], axis=-1)[:, place]
    slopes = jnp.concatenate([state["held"][:, 1:], slope], axis=-1)[:, place]
    # Zero, but for its derivative.
    longer = hold_samples - lax.stop_gradient(hold_samples)
    out = values - lax.stop_gradient(slopes) * (age * share * longer)[None]
    after = {
        "phase": before[-1],
        "age": jnp.concatenate([state["age"][None], age.astype(jnp.int32)])[-1],
        "held": jnp.stack(
            [
                jnp.concatenate([state["held"][:, :1], values], axis=-1)[:, -1],
                jnp.concatenate([state["held"][:, 1:], slopes], axis=-1)[:, -1],
            ],
            axis=-1,
        ),
        "last": joined[:, -1:],
    }
    return after, out


def _distortion(
    weights: tuple[ParameterSpec, ...],
    shape_of: Callable[[Mapping[str, Any]], Shape],
    sample_rate: Rate,
    oversampling: int,
    antiderivative: int,
    dc_block: bool,
) -> Effect:
    """The effect around a curve: drive, rates, averages, DC block, output, mix."""
    rates.check_factor(oversampling)
    if antiderivative not in _ORDERS:
        raise ValueError(
            f"antiderivative={antiderivative!r} is not possible; use one of {_ORDERS}"
        )
    # A whole sample can be made up for; half a one, or a part of one, cannot.
    own = antiderivative // 2 if oversampling == 1 else 0
    latency = rates.latency(oversampling) + own

    def init_state(channels):
        up, down = rates.start(oversampling, channels)
        return {
            "up": up,
            "down": down,
            "samples": jnp.zeros((channels, antiderivative)),
            "dry": jnp.zeros((channels, latency)),
            "dc": dc.start(channels if dc_block else 0),
        }

    def process(state, audio, values):
        after = dict(state)
        after["dry"], dry = rates.delay(state["dry"], audio)
        driven = audio * _gain(values["drive_db"], audio)
        after["up"], fast = rates.upsample(state["up"], driven, oversampling)
        joined = jnp.concatenate([state["samples"], fast], axis=-1)
        after["samples"] = joined[:, fast.shape[-1] :]
        shape = shape_of({s.name: held(values[s.name], audio) for s in weights})
        bent = antialiased(shape, antiderivative, joined)
        after["down"], wet = rates.downsample(state["down"], bent, oversampling)
        if dc_block:
            after["dc"], wet = dc.block_dc(state["dc"], wet, _DC_CUTOFF_HZ, sample_rate)
        wet = wet * _gain(values["output_db"], audio)
        return after, _mixed(dry, wet, values["mix"])

    def held(value, audio):
        """A weight at the higher rate: moving ones wait for the next sample."""
        value = _cast(value, audio)
        return jnp.repeat(value, oversampling)[None] if value.ndim else value

    specs = (
        db("drive_db", 0.0, 40.0, 12.0),
        *weights,
        db("output_db", -24.0, 12.0, 0.0),
        plain("mix", 0.0, 1.0, 1.0, identity=0.0),
    )
    processor = Processor(init_state, process, True, latency)
    if oversampling > 1 or antiderivative:
        # Intermediate signals are many, and many times as long as the audio.
        processor = in_blocks(processor, _BLOCK)
    return make_effect(specs, processor)


def _mixed(dry: jax.Array, wet: jax.Array, mix: Any) -> jax.Array:
    mix = _row(_cast(mix, dry))
    return (1.0 - mix) * dry + mix * wet


def _gain(level_db: Any, audio: jax.Array) -> jax.Array:
    return _row(_cast(db_to_gain(level_db), audio))


def _cast(value: Any, audio: jax.Array) -> jax.Array:
    return jnp.asarray(value, audio.dtype)


def _row(value: jax.Array) -> jax.Array:
    """[time] to [1, time], so that it meets [channels, time]."""
    return value[None] if value.ndim else value


EFFECTS: dict[str, Callable[[Rate], Effect]] = {
    "tanh_distortion": tanh_distortion,
    "hard_clip": hard_clip,
    "soft_clip": soft_clip,
    "polynomial_distortion": polynomial_distortion,
    "bitcrush": bitcrush,
}
