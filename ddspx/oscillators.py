"""Low-frequency oscillators whose phase is exact for any length and any blocks.

A phase is an unsigned integer that wraps where it should: a turn is 2^32 (2^64 beside
float64 audio). Its sums are associative, so that the whole and a stream of blocks give
the same bits after any time. Frequencies are in Hz, angles in radians, waves within
[-1, 1].
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ddspx.types import Rate

Waveform = Literal["sine", "triangle"]
WAVEFORMS: tuple[Waveform, ...] = ("sine", "triangle")


def start_phase() -> jax.Array:
    """The phase at the start of a stream: uint32 zero."""
    return jnp.zeros((), jnp.uint32)


@partial(jax.jit, static_argnames=("sample_rate", "time", "dtype"))
def advance(
    phase: jax.Array, rate_hz, sample_rate: Rate, time: int, dtype=jnp.float32
) -> tuple[jax.Array, jax.Array]:
    """The angles of the next samples, and the phase to go on with.

        angle[n] = 2 pi (phase + sum_{m < n} rate[m] / sample_rate)   (mod 2 pi)

    Rates are rounded to sample_rate / 2^32; gradients are those of the equation, with
    nothing flowing through the phase handed on.

    Args:
      phase: from `start_phase` or the last call.
      rate_hz: number or [time], Hz, from 0 to half the sample rate.
      sample_rate: Hz.
      time: samples.
      dtype: of the angles, that of the audio.

    Returns:
      Angles [time] within [-pi, pi), and the phase.
    """
    wide = jnp.dtype(dtype) == jnp.float64
    if wide and phase.dtype == jnp.uint32:
        phase = phase.astype(jnp.uint64) << np.uint64(32)
    rate_hz = jnp.asarray(rate_hz, dtype)
    return _angles(float(sample_rate), time, phase, rate_hz)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _angles(sample_rate: float, time: int, phase: jax.Array, rate_hz: jax.Array):
    bits = 8 * phase.dtype.itemsize
    turn = jnp.asarray(2.0**bits / sample_rate, rate_hz.dtype)
    # Below half a turn a sample, what is asked is not representable anyway.
    steps = jnp.clip(jnp.round(rate_hz * turn), 0.0, 2.0 ** (bits - 1))
    steps = steps.astype(phase.dtype)
    if rate_hz.ndim == 0:
        ramp = jnp.arange(time, dtype=phase.dtype)
        phases, after = phase + steps * ramp, phase + steps * phase.dtype.type(time)
    else:
        sums = jnp.cumsum(steps, dtype=phase.dtype)
        phases = phase + jnp.concatenate([jnp.zeros_like(sums[:1]), sums[:-1]])
        after = phase + sums[-1] if time else phase
    signed = jnp.int32 if bits == 32 else jnp.int64
    half_turns = phases.astype(signed).astype(rate_hz.dtype) * (2.0 ** (1 - bits))
    return np.pi * half_turns, after


@_angles.defjvp
def _angles_jvp(sample_rate: float, time: int, primals, tangents):
    angles, after = _angles(sample_rate, time, *primals)
    rate = tangents[1]
    turn = 2.0 * np.pi / sample_rate
    if rate.ndim == 0:
        moved = turn * rate * jnp.arange(time, dtype=rate.dtype)
    else:
        moved = turn * (jnp.cumsum(rate) - rate)
    zero = np.zeros(np.shape(after), jax.dtypes.float0)
    return (angles, after), (moved, zero)


def wave(angles, waveform: Waveform = "sine") -> jax.Array:
    """A periodic wave within [-1, 1], zero and rising at angle 0.

        sine: sin(angle);  triangle: straight lines through its zeros and peaks

    Args:
      angles: radians, any shape.
      waveform: ``"sine"`` or ``"triangle"``.

    Returns:
      Same shape.
    """
    angles = jnp.asarray(angles)
    if waveform == "sine":
        return jnp.sin(angles)
    turns = angles * (0.5 / np.pi) + 0.25
    return 1.0 - 4.0 * jnp.abs(turns - jnp.floor(turns) - 0.5)


def low_frequency(
    phase: jax.Array,
    rate_hz,
    turns,
    audio: jax.Array,
    sample_rate: Rate,
    waveform: Waveform = "sine",
) -> tuple[jax.Array, jax.Array]:
    """The wave that moves an effect along its audio, and the phase to go on with.

        wave(angle[n] + 2 pi turns)

    Args:
      phase: from `start_phase` or the last call.
      rate_hz: number or [time], Hz.
      turns: number or [time], where in its period the wave starts, 1 for a whole one.
      audio: [channels, time], which gives length and dtype.
      sample_rate: Hz.
      waveform: as in `wave`.

    Returns:
      The wave [time], and the phase.
    """
    angles, phase = advance(phase, rate_hz, sample_rate, audio.shape[-1], audio.dtype)
    return wave(angles + 2.0 * np.pi * jnp.asarray(turns, audio.dtype), waveform), phase
