"""The sinusoidal synthesiser: sines of free frequencies and amplitudes.

Amplitudes are linear, frequencies in Hz; nothing at or above half the sample rate is
heard. Sines are added one after another, so that no array of [time, sinusoids] is made.
"""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from ddspx.synths import scaling
from ddspx.synths.base import Core, Synth, make_synth
from ddspx.synths.phase import (
    HopStarts,
    check_rates,
    held,
    hop_starts,
    sample_angles,
    start_phase,
)
from ddspx.synths.upsampling import Upsampling, between, crossfade, over_hops
from ddspx.types import Rate

FrequencyHead = Literal["sigmoid", "softmax", "critical_bands"]
HEADS = {
    "sigmoid": scaling.frequencies_sigmoid,
    "softmax": scaling.frequencies_softmax,
    "critical_bands": scaling.frequencies_critical_bands,
}
# Sines a turn of the loop, measured: on an H100 five are 2.5 times faster than one,
# twenty take ten seconds to compile.
_A_TURN = {"cpu": 1}
_A_TURN_ELSEWHERE = 5


def sinusoidal(
    sample_rate: Rate,
    hop: int,
    sinusoids: int,
    *,
    upsampling: Upsampling = "window",
    head: FrequencyHead = "sigmoid",
    depth: int = 1,
) -> Synth:
    """A sum of sines, each with a frequency of its own: bells, plates, any partials.

        y[t] = sum_k a_k[t] sin(phase_k[t]),   f_k[t] < sample_rate / 2,
        phase_k[t] = 2 pi / sample_rate sum_{s <= t} f_k[s]

    where a_k is upsampled, and f_k moves linearly between frames.

    Args:
      sample_rate: Hz, a multiple of 0.5.
      hop: samples from frame to frame.
      sinusoids: how many.
      upsampling: of amplitudes, see `ddspx.synths.upsampling.crossfade`.
      head: how outputs become frequencies up to half the sample rate, see
        `ddspx.synths.scaling`.
      depth: outputs to a frequency.

    Returns:
      A `Synth` with controls frequencies_hz [frames, sinusoids], held within 0 and the
      sample rate, and amplitudes [frames, sinusoids]. ``to_controls`` reads outputs
      frequencies [..., frames, sinusoids depth] and amplitudes [..., frames,
      sinusoids]. The state of a stream is the phases.

    Raises:
      ValueError: there is no sinusoid or no output to one, the head is unknown, or rate
        or hop are out of range.
    """
    check_rates(sample_rate, hop)
    if sinusoids < 1 or depth < 1:
        raise ValueError(
            "a sinusoidal synth has one sinusoid or more, of depth 1 or more, got"
            f" {sinusoids} of depth {depth}"
        )
    if head not in HEADS:
        raise ValueError(f"head {head!r} is unknown; use one of {tuple(HEADS)}")
    weights, ramp = crossfade(hop, upsampling), crossfade(hop, "linear")
    nyquist = 0.5 * sample_rate

    def init_state(key):
        return start_phase((sinusoids,))

    def starts_of(phase, frequencies):
        return hop_starts(phase, frequencies, sample_rate, hop)

    @jax.checkpoint
    def sine(frequency, amplitude, starts):
        angle, sign = sample_angles(starts, frequency, sample_rate, hop)
        heard = between(lax.stop_gradient(frequency), ramp) < nyquist
        a = jnp.where(heard, between(amplitude, weights), 0.0)
        return a * sign * jnp.sin(angle)

    def sound(frames, starts):
        frequencies, amplitudes = frames
        each = HopStarts(jnp.swapaxes(starts.words, 0, 1), starts.moved.T)

        def add(total, one):
            return total + sine(*one), None

        zero = jnp.zeros((each.moved.shape[1], hop), amplitudes.dtype)
        along = frequencies.T, amplitudes.T, each
        together = _A_TURN.get(jax.default_backend(), _A_TURN_ELSEWHERE)
        return lax.scan(add, zero, along, unroll=together)[0]

    def process(phase, controls):
        frequencies = held(controls["frequencies_hz"], sample_rate)
        amplitudes = jnp.asarray(controls["amplitudes"], frequencies.dtype)
        for name, control in (
            ("frequencies_hz", frequencies),
            ("amplitudes", amplitudes),
        ):
            if control.ndim != 2 or control.shape[-1] != sinusoids:
                raise ValueError(
                    f"{name} is [frames, {sinusoids}], got {control.shape}"
                )
        starts, phase = jax.vmap(starts_of, 1, 1)(phase, frequencies)
        audio = over_hops(sound, (frequencies, amplitudes), starts, hop)
        return phase, audio.reshape(-1)

    def to_controls(outputs: Mapping[str, Any]) -> dict[str, jax.Array]:
        deep = jnp.asarray(outputs["frequencies"])
        deep = deep.reshape(*deep.shape[:-1], sinusoids, depth)
        frequencies = HEADS[head](deep, high_hz=nyquist)
        amplitudes = scaling.exp_sigmoid(outputs["amplitudes"])
        return {
            "frequencies_hz": frequencies,
            "amplitudes": jnp.where(frequencies >= nyquist, 0.0, amplitudes),
        }

    return make_synth(
        Core(init_state, process),
        hop,
        sizes={"frequencies": sinusoids * depth, "amplitudes": sinusoids},
        to_controls=to_controls,
    )
