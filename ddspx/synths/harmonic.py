"""The harmonic synthesiser: a sum of sines at the multiples of one frequency.

Amplitudes are linear, frequencies in Hz; nothing at or above half the sample rate is
heard. No array of [time, harmonics] is ever made: amplitudes between frames are formed
where they are needed, and sines come from a recurrence over harmonics.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ddspx.synths.base import Core, Synth, make_synth
from ddspx.synths.phase import (
    Angles,
    check_rates,
    held,
    hop_starts,
    sample_angles,
    start_phase,
)
from ddspx.synths.scaling import exp_sigmoid
from ddspx.synths.upsampling import Upsampling, between, crossfade, over_hops
from ddspx.types import AnyArray, Rate

# Harmonics a turn of the loops, forward and back, measured. On a CPU more spill
# registers or the cache; elsewhere a turn costs a launch (an H100 renders four sounds
# of a second in 0.14 ms with these and in 0.30 ms with the other), and all at once
# would take three times as long to compile.
_A_TURN = {"cpu": (8, 5)}
_A_TURN_ELSEWHERE = (25, 10)


def harmonic(
    sample_rate: Rate, hop: int, harmonics: int, *, upsampling: Upsampling = "window"
) -> Synth:
    """A sum of harmonics that follows frames of frequency and amplitudes.

        y[t] = sum_k a_k[t] sin(k phase[t]),   k f[t] < sample_rate / 2,
        phase[t] = 2 pi / sample_rate sum_{s <= t} f[s]

    where a_k is the upsampled ``amplitude harmonic_distribution[k]``, and f moves
    linearly between frames.

    Args:
      sample_rate: Hz, a multiple of 0.5.
      hop: samples from frame to frame.
      harmonics: how many, the fundamental included.
      upsampling: of amplitudes, see `ddspx.synths.upsampling.crossfade`.

    Returns:
      A `Synth` with controls f0_hz [frames], held within 0 and the sample rate,
      amplitude [frames] and harmonic_distribution [frames, harmonics]. ``to_controls``
      reads outputs amplitude [..., frames, 1] and harmonic_distribution [..., frames,
      harmonics], and f0_hz; the distribution sums to 1 over what is below half the
      sample rate. The state of a stream is the phase.

    Raises:
      ValueError: there is no harmonic, or rate or hop are out of range.

    Reference: Engel, Hantrakul, Gu and Roberts, DDSP: Differentiable Digital Signal
    Processing, ICLR 2020.
    """
    check_rates(sample_rate, hop)
    if harmonics < 1:
        raise ValueError(f"a harmonic synth has one harmonic or more, got {harmonics}")
    weights, ramp = crossfade(hop, upsampling), crossfade(hop, "linear")

    def init_state(key):
        return start_phase()

    def sound(frames, starts):
        f0_hz, amplitudes = frames
        angles = sample_angles(starts, f0_hz, sample_rate, hop)
        frequency = between(lax.stop_gradient(f0_hz), ramp)
        highest = highest_harmonic(frequency, sample_rate)
        return sum_harmonics(weights, amplitudes, angles, highest)

    def process(phase, controls):
        f0_hz = held(controls["f0_hz"], sample_rate)
        distribution = jnp.asarray(controls["harmonic_distribution"])
        if distribution.ndim != 2 or distribution.shape[-1] != harmonics:
            raise ValueError(
                f"harmonic_distribution is [frames, {harmonics}], got"
                f" {distribution.shape}"
            )
        amplitudes = jnp.asarray(controls["amplitude"])[:, None] * distribution
        starts, phase = hop_starts(phase, f0_hz, sample_rate, hop)
        audio = over_hops(sound, (f0_hz, amplitudes), starts, hop)
        return phase, audio.reshape(-1)

    def to_controls(outputs: Mapping[str, Any]) -> dict[str, jax.Array]:
        f0_hz = jnp.asarray(outputs["f0_hz"])
        distribution = exp_sigmoid(outputs["harmonic_distribution"])
        distribution = below_nyquist(distribution, f0_hz, sample_rate)
        return {
            "f0_hz": f0_hz,
            "amplitude": exp_sigmoid(outputs["amplitude"])[..., 0],
            "harmonic_distribution": normalized(distribution),
        }

    return make_synth(
        Core(init_state, process),
        hop,
        sizes={"amplitude": 1, "harmonic_distribution": harmonics},
        to_controls=to_controls,
    )


def below_nyquist(
    distribution: AnyArray, f0_hz: AnyArray, sample_rate: Rate
) -> jax.Array:
    """A distribution without the harmonics that cannot be heard.

    Args:
      distribution: [..., frames, harmonics].
      f0_hz: [..., frames], Hz.
      sample_rate: Hz; k f0 at half of it or above is zero.

    Returns:
      [..., frames, harmonics].
    """
    distribution = jnp.asarray(distribution)
    number = np.arange(1, distribution.shape[-1] + 1, dtype=np.float32)
    number = number.reshape((1,) * (distribution.ndim - 1) + (-1,))
    silent = jnp.asarray(f0_hz)[..., None] * number >= 0.5 * sample_rate
    return jnp.where(silent, 0.0, distribution)


def normalized(distribution: AnyArray, floor: float = 1e-7) -> jax.Array:
    """A distribution that sums to 1.

    Args:
      distribution: [..., harmonics], zero or more.
      floor: the divisor where all are zero, which they stay.

    Returns:
      Same shape.
    """
    distribution = jnp.asarray(distribution)
    total = jnp.sum(distribution, -1, keepdims=True)
    return distribution / jnp.where(total == 0.0, floor, total)


def highest_harmonic(frequency_hz: AnyArray, sample_rate: Rate) -> jax.Array:
    """The number of the highest harmonic below half the sample rate.

        k f < sample_rate / 2   where   k <= ceil(sample_rate / (2 f)) - 1

    Args:
      frequency_hz: Hz, any shape.
      sample_rate: Hz.

    Returns:
      Whole numbers as floats, same shape; infinite at 0 Hz.
    """
    return jnp.ceil(0.5 * sample_rate / jnp.asarray(frequency_hz)) - 1.0


def sum_harmonics(
    weights: np.ndarray, amplitudes: jax.Array, angles: Angles, highest: jax.Array
) -> jax.Array:
    """The sum of sines at the multiples of a phase.

        y[m, tau] = sum_{k <= highest} a_k[m, tau] sin(k phase[m, tau]),
        a_k[m, tau] = A[m, k] + w[tau] (A[m + 1, k] - A[m, k])

    Forward this is Reinsch's form of Clenshaw's recurrence, some -115 dB from exact in
    float32; gradients go to amplitudes and angles.

    Args:
      weights: [hop], share of the next frame.
      amplitudes: [n + 1, harmonics].
      angles: [n, hop], from `ddspx.synths.phase.sample_angles`.
      highest: [n, hop], number of the highest harmonic that is heard.

    Returns:
      [n, hop].
    """
    share = jnp.asarray(weights, amplitudes.dtype)
    return _sum(share, amplitudes, angles.angle, angles.sign, highest)


@jax.custom_vjp
def _sum(weights, amplitudes, angle, sign, highest):
    size, groups, amplitudes = _grouped(amplitudes, _a_turn()[0])
    now, change = amplitudes[:-1].T, jnp.diff(amplitudes, axis=0).T
    # 2 cos(phase) less 2 or plus 2, whichever does not cancel.
    half = jnp.sin(0.5 * angle)
    bend = -4.0 * half * half * sign

    def step(i, carry):
        u, d = carry
        first = (groups - 1 - i) * size
        a, b = (lax.dynamic_slice_in_dim(x, first, size) for x in (now, change))
        for j in reversed(range(size)):
            each = a[j][:, None] + weights[None] * b[j][:, None]
            each = jnp.where(first + j + 1 <= highest, each, 0.0)
            d = each + bend * u + sign * d
            u = d + sign * u
        return u, d

    zero = jnp.zeros_like(angle)
    u, _ = lax.fori_loop(0, groups, step, (zero, zero))
    return sign * jnp.sin(angle) * u


def _sum_forward(weights, amplitudes, angle, sign, highest):
    kept = weights, amplitudes, angle, sign, highest
    return _sum(*kept), kept


def _sum_backward(kept, cotangent):
    weights, amplitudes, angle, sign, highest = kept
    count = amplitudes.shape[-1]
    size, groups, amplitudes = _grouped(amplitudes, _a_turn()[1])
    now, change = amplitudes[:-1].T, jnp.diff(amplitudes, axis=0).T
    sine, cosine = sign * jnp.sin(angle), sign * jnp.cos(angle)
    taps = jnp.stack([1.0 - weights, weights], -1)

    def step(i, carry):
        s, c, found, slope = carry
        first = i * size
        a, b = (lax.dynamic_slice_in_dim(x, first, size) for x in (now, change))
        seen = []
        for j in range(size):
            number = first + j + 1
            heard = number <= highest
            each = a[j][:, None] + weights[None] * b[j][:, None]
            slope = slope + jnp.where(heard, each * number * c, 0.0)
            seen.append(jnp.where(heard, cotangent * s, 0.0))
            s, c = s * cosine + c * sine, c * cosine - s * sine
        # [size, n, hop] to the two frames of each hop.
        pair = jnp.matmul(jnp.stack(seen), taps, precision="highest")
        found = lax.dynamic_update_slice_in_dim(found, pair, first, 0)
        return s, c, found, slope

    found = jnp.zeros((groups * size, angle.shape[0], 2), angle.dtype)
    carry = sine, cosine, found, jnp.zeros_like(angle)
    _, _, found, slope = lax.fori_loop(0, groups, step, carry)
    found = found[:count]
    to_amplitudes = jnp.pad(found[..., 0].T, ((0, 1), (0, 0)))
    to_amplitudes += jnp.pad(found[..., 1].T, ((1, 0), (0, 0)))
    zero = jnp.zeros_like(angle)
    return jnp.zeros_like(weights), to_amplitudes, cotangent * slope, zero, zero


_sum.defvjp(_sum_forward, _sum_backward)


def _a_turn() -> tuple[int, int]:
    return _A_TURN.get(jax.default_backend(), _A_TURN_ELSEWHERE)


def _grouped(amplitudes: jax.Array, most: int) -> tuple[int, int, jax.Array]:
    """Harmonics in equal groups of that many or fewer, filled up with silent ones.

    A loop over groups reads and writes its state once a group.
    """
    count = amplitudes.shape[-1]
    groups = -(-count // most)
    size = -(-count // groups)
    silent = ((0, 0), (0, groups * size - count))
    return size, groups, jnp.pad(amplitudes, silent)
