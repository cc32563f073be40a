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
      ValueError: the sample rate is no multiple of 0.5 Hz up to 4 MHz, or the hop is
        not from 1 to 16384 samples.
    """
    if not 0 < sample_rate < 2**22 or 2 * sample_rate % 1:
        raise ValueError(
            f"the sample rate is a multiple of 0.5 Hz up to 4 MHz, got {sample_rate}"
        )
    if not 1 <= hop <= 2**14:
        raise ValueError(f"hop is from 1 to 16384 samples, got {hop}")


def advance(
    phase: Phase, f0_hz: AnyArray, sample_rate: Rate, hop: int, *, lead: int = 1
) -> tuple[Angles, Phase]:
    """Phases of the samples between frames, and the phase to go on with.

        phase[m, tau] = phase + 2 pi / sample_rate sum_{s < t + lead} f[s],
        t = m hop + tau,  f[m, tau] = f[m] + (f[m + 1] - f[m]) tau / hop

    Frequencies are taken at 2^-32 Hz and steps at some 2^-56 of a turn. Gradients are
    those of the equation; none flows through the phase that goes in or out.

    Args:
      phase: [2], from `start_phase` or the last call.
      f0_hz: [n + 1], Hz; held within 0 and half the sample rate.
      sample_rate: Hz, see `check_rates`.
      hop: samples from frame to frame.
      lead: 1 where the first sample has moved already, 0 where it is at `phase`.

    Returns:
      Angles [n, hop] in the dtype of f0_hz, and the phase [2].
    """
    f0_hz = jnp.clip(jnp.asarray(f0_hz), 0.0, 0.5 * sample_rate)
    angle, sign, phase = _advance(sample_rate, hop, lead, phase, f0_hz)
    return Angles(angle, sign), phase


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _advance(sample_rate, hop, lead, phase, f0_hz):
    high, low = _half_steps(f0_hz, sample_rate)
    ahead = np.uint32(hop + 1), np.uint32(hop - 1)
    # A hop: (hop + 1) steps of half f[m] and (hop - 1) of half f[m + 1], turns.
    hops = _plus(
        _times((high[:-1], low[:-1]), ahead[0]), _times((high[1:], low[1:]), ahead[1])
    )
    ends = _running(hops, phase)
    starts = [
        jnp.concatenate([first[None], word[:-1]])
        for first, word in zip(phase, ends, strict=True)
    ]
    tau = np.arange(hop, dtype=np.uint32)[None]
    straight = _times((high[:-1, None], low[:-1, None]), 2 * (tau + np.uint32(lead)))
    moved, rest = _plus((starts[0][:, None], starts[1][:, None]), straight)
    # The bend of the change of frequency, tau (tau + 2 lead - 1) / hop half steps:
    # whole ones as words, the rest is so little that floats will do.
    change = _plus((high[1:], low[1:]), _minus((high[:-1], low[:-1])))
    bend = np.arange(hop) * (np.arange(hop) + 2 * lead - 1)
    count, part = (bend // hop).astype(np.uint32)[None], (bend % hop)[None] / hop
    bent = _times((change[0][:, None], change[1][:, None]), count)
    moved, rest = _plus((moved, rest), bent)
    dtype = f0_hz.dtype
    slope = (f0_hz[1:] - f0_hz[:-1]) * dtype.type(0.5 / sample_rate)
    turns = slope[:, None] * jnp.asarray(part, dtype)
    if dtype == jnp.float64:
        moved = moved.astype(jnp.uint64) << np.uint64(32) | rest.astype(jnp.uint64)
        bits, signed = 64, jnp.int64
    else:
        bits, signed = 32, jnp.int32
    whole = moved.astype(signed) + (turns * 2.0**bits).astype(signed)
    # Near a half turn the sign turns instead: what is left has a bit more in a float.
    folded = (whole << 1) >> 1
    angle = np.pi * 2.0 ** (1 - bits) * folded.astype(dtype)
    sign = jnp.where(folded == whole, 1.0, -1.0).astype(dtype)
    after = [
        word[-1] if word.size else first
        for first, word in zip(phase, ends, strict=True)
    ]
    return angle, sign, jnp.stack(after)


@_advance.defjvp
def _advance_jvp(sample_rate, hop, lead, primals, tangents):
    out = _advance(sample_rate, hop, lead, *primals)
    rate = tangents[1] * (2.0 * np.pi / sample_rate)
    now, then = rate[:-1], rate[1:]
    hops = 0.5 * ((hop + 1) * now + (hop - 1) * then)
    before = jnp.cumsum(hops) - hops
    tau = np.arange(hop, dtype=np.float64)
    bend = jnp.asarray(tau * (tau + 2.0 * lead - 1.0) / (2 * hop), rate.dtype)[None]
    straight = jnp.asarray(tau + lead, rate.dtype)[None]
    moved = before[:, None] + now[:, None] * straight + (then - now)[:, None] * bend
    none = np.zeros(np.shape(out[2]), jax.dtypes.float0)
    return out, (moved, jnp.zeros_like(out[1]), none)


def _half_steps(f0_hz: jax.Array, sample_rate: Rate) -> tuple[jax.Array, jax.Array]:
    """Half of the turns a sample, as two words: f 2^64 / (2 sample_rate).

    A division in two digits: floats guess a digit, integers say what is left.
    """
    divisor = round(2 * sample_rate)
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
