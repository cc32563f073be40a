"""The phase of an oscillator whose frequency is given at frames, exact for hours.

Frequencies move linearly from frame to frame, so that the phase of a sample has a
closed form and only hops are summed up. A turn is 2^64, kept as two words of 32 bits
that wrap where they should: sums are exact and associative, so that a stream of blocks
gives the bits of the whole, without 64-bit arithmetic. Frequencies are in Hz.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddspx.types import AnyArray, Rate

# Two words, high and low: [2, ...] uint32.
Phase = jax.Array
_WORD = np.uint32(16)
_LOW = np.uint32(0xFFFF)


class Angles(NamedTuple):
    """Phases of samples, such that sin(k phase) = sign^k sin(k angle).

    Attributes:
      angle: radians within [-pi / 2, pi / 2]; carries the gradient of the phase.
      sign: 1 or -1, same shape.
    """

    angle: jax.Array
    sign: jax.Array


def start_phase(shape: tuple[int, ...] = ()) -> Phase:
    """Phases at the start of a sound: zero.

    Args:
      shape: of the oscillators.

    Returns:
      [2, *shape] uint32.
    """
    return jnp.zeros((2, *shape), jnp.uint32)


def phase_turns(phase: Phase) -> jax.Array:
    """A phase as a part of a turn, for the eye.

    Args:
      phase: [2, ...].

    Returns:
      [...], from 0 up to 1.
    """
    high, low = phase.astype(jnp.float32)
    return (high + low * 2.0**-32) * 2.0**-32


def check_rates(sample_rate: Rate, hop: int) -> None:
    """Refuses what the phase cannot be exact for.

    Raises:
      ValueError: the sample rate is no multiple of 0.5 Hz up to 1 MHz, or the hop is
        not from 1 to 16384 samples.
    """
    if not 0 < sample_rate <= 1e6 or 2 * sample_rate % 1:
        raise ValueError(
            f"the sample rate is a multiple of 0.5 Hz up to 1 MHz, got {sample_rate}"
        )
    if not 1 <= hop <= 2**14:
        raise ValueError(f"hop is from 1 to 16384 samples, got {hop}")


class HopStarts(NamedTuple):
    """Phases where hops start.

    Attributes:
      words: [n, 2] uint32.
      moved: [n], zeros: what carries the gradient of the phase, radians.
    """

    words: Phase
    moved: jax.Array


def held(frequency_hz: AnyArray, sample_rate: Rate) -> jax.Array:
    """Frequencies held within 0 and the sample rate, where phases are exact.

    From half of it a sine is not heard, but how a frequency comes down from there is.

    Args:
      frequency_hz: any shape, Hz.
      sample_rate: Hz.

    Returns:
      Hz, same shape.
    """
    return jnp.clip(jnp.asarray(frequency_hz), 0.0, sample_rate)


def hop_starts(
    phase: Phase, f0_hz: AnyArray, sample_rate: Rate, hop: int
) -> tuple[HopStarts, Phase]:
    """Phases where the hops between frames start, and the phase to go on with.

        phase[m] = phase + 2 pi / sample_rate sum_{s < m hop} f[s],
        f[m hop + tau] = f[m] + (f[m + 1] - f[m]) tau / hop

    In float32 frequencies are taken at 2^-32 Hz, steps at 2^-56 of a turn or so.
    Gradients are those of the equation; none flows through the phase in or out.

    Args:
      phase: [2], from `start_phase` or the last call.
      f0_hz: [n + 1], Hz, from `held`.
      sample_rate: Hz, see `check_rates`.
      hop: samples from frame to frame.

    Returns:
      Starts of n hops, and the phase [2].
    """
    words, moved, phase = _starts(sample_rate, hop, phase, jnp.asarray(f0_hz))
    return HopStarts(words, moved), phase


def sample_angles(
    starts: HopStarts, f0_hz: AnyArray, sample_rate: Rate, hop: int, *, lead: int = 1
) -> Angles:
    """Phases of the samples of hops.

        phase[m, tau] = phase[m] + 2 pi / sample_rate sum_{s < tau + lead} f[m, s],
        f[m, tau] = f[m] + (f[m + 1] - f[m]) tau / hop

    Args:
      starts: of n hops, see `hop_starts`.
      f0_hz: [n + 1], Hz, the same as there.
      sample_rate: Hz.
      hop: samples from frame to frame.
      lead: 1 where the first sample has moved already, 0 where it is at the start.

    Returns:
      Angles [n, hop] in the dtype of f0_hz.
    """
    return Angles(*_angles(sample_rate, hop, lead, *starts, jnp.asarray(f0_hz)))


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _starts(sample_rate, hop, phase, f0_hz):
    high, low = _half_steps(f0_hz, sample_rate)
    # A hop is hop + 1 half steps of f[m] and hop - 1 of f[m + 1].
    now = _times((high[:-1], low[:-1]), np.uint32(hop + 1))
    then = _times((high[1:], low[1:]), np.uint32(hop - 1))
    ends = jnp.stack(_running(_plus(now, then), phase))
    words = jnp.concatenate([phase[:, None], ends], 1)
    return words[:, :-1].T, jnp.zeros_like(f0_hz[1:]), words[:, -1]


@_starts.defjvp
def _starts_jvp(sample_rate, hop, primals, tangents):
    words, moved, after = _starts(sample_rate, hop, *primals)
    rate = tangents[1] * (np.pi / sample_rate)
    hops = (hop + 1) * rate[:-1] + (hop - 1) * rate[1:]
    none = [np.zeros(np.shape(x), jax.dtypes.float0) for x in (words, after)]
    return (words, moved, after), (none[0], jnp.cumsum(hops) - hops, none[1])


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _angles(sample_rate, hop, lead, words, moved, f0_hz):
    del moved  # zero
    dtype = f0_hz.dtype
    high, low = (word[:, None] for word in _half_steps(f0_hz, sample_rate))
    now, then = (high[:-1], low[:-1]), (high[1:], low[1:])
    tau = np.arange(hop)[None]
    steps = _times(now, (2 * (tau + lead)).astype(np.uint32))
    high, low = _plus((words[:, :1], words[:, 1:]), steps)
    # The change of frequency bends it by tau (tau + 2 lead - 1) / hop half steps: whole
    # ones as words; the rest is so little that floats will do.
    bend = tau * (tau + 2 * lead - 1)
    bent = _times(_plus(then, _minus(now)), (bend // hop).astype(np.uint32))
    high, low = _plus((high, low), bent)
    slope = (f0_hz[1:] - f0_hz[:-1]) * dtype.type(0.5 / sample_rate)
    rest = slope[:, None] * jnp.asarray(bend % hop / hop, dtype)
    if dtype == jnp.float64:
        turn = high.astype(jnp.uint64) << np.uint64(32) | low.astype(jnp.uint64)
        bits, signed = 64, jnp.int64
    else:
        turn, bits, signed = high, 32, jnp.int32
    turn = turn.astype(signed) + (rest * 2.0**bits).astype(signed)
    # Near a half turn the sign turns instead: what is left has a bit more in a float.
    folded = (turn << 1) >> 1
    angle = np.pi * 2.0 ** (1 - bits) * folded.astype(dtype)
    # Whole numbers forget that a frequency was none: NaN stays NaN.
    angle = angle + 0.0 * rest
    return angle, jnp.where(folded == turn, 1.0, -1.0).astype(dtype)


@_angles.defjvp
def _angles_jvp(sample_rate, hop, lead, primals, tangents):
    angle, sign = _angles(sample_rate, hop, lead, *primals)
    moved, rate = tangents[1], tangents[2] * (2.0 * np.pi / sample_rate)
    tau = np.arange(hop)[None]
    straight = jnp.asarray(tau + lead, rate.dtype)
    bend = jnp.asarray(tau * (tau + 2 * lead - 1) / (2 * hop), rate.dtype)
    now, change = rate[:-1, None], (rate[1:] - rate[:-1])[:, None]
    angles = moved[:, None] + now * straight + change * bend
    return (angle, sign), (angles, jnp.zeros_like(sign))


def _half_steps(f0_hz: jax.Array, sample_rate: Rate) -> tuple[jax.Array, jax.Array]:
    """Half of the turns a sample, as two words: f 2^64 / (2 sample_rate).

    A division in two digits: floats guess a digit, integers say what is left.
    """
    divisor = round(2 * sample_rate)
    if f0_hz.dtype == jnp.float64:
        both = (f0_hz * (2.0**64 / divisor)).astype(jnp.uint64)
        return (both >> np.uint64(32)).astype(jnp.uint32), both.astype(jnp.uint32)
    whole = jnp.floor(f0_hz)
    # f 2^32 modulo 2^32, exact in a float.
    part = ((f0_hz - whole) * 2.0**32).astype(jnp.uint32)
    high = (f0_hz * f0_hz.dtype.type(2.0**32 / divisor)).astype(jnp.uint32)
    left = (part - high * np.uint32(divisor)).astype(jnp.int32)
    wrong = left // np.int32(divisor)
    high = high + wrong.astype(jnp.uint32)
    left = left - wrong * np.int32(divisor)
    low = left.astype(f0_hz.dtype) / f0_hz.dtype.type(divisor)
    return high, (low * 2.0**32).astype(jnp.uint32)


def _times(words: tuple, count) -> tuple[jax.Array, jax.Array]:
    """Two words times whole numbers below 2^16."""
    high, low = words
    right = (low & _LOW) * count
    left = (low >> _WORD) * count + (right >> _WORD)
    return high * count + (left >> _WORD), (left << _WORD) | (right & _LOW)


def _plus(one: tuple, other: tuple) -> tuple[jax.Array, jax.Array]:
    low = one[1] + other[1]
    return one[0] + other[0] + (low < other[1]).astype(jnp.uint32), low


def _minus(words: tuple) -> tuple[jax.Array, jax.Array]:
    low = ~words[1] + np.uint32(1)
    return ~words[0] + (low == 0).astype(jnp.uint32), low


def _running(words: tuple, start: Phase) -> tuple[jax.Array, jax.Array]:
    """Running sums along the first axis, the start included in all."""
    low = jnp.cumsum(words[1], dtype=jnp.uint32) + start[1]
    carried = (low < words[1]).astype(jnp.uint32)
    return jnp.cumsum(words[0] + carried, dtype=jnp.uint32) + start[0], low
