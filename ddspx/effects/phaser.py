"""The phaser: a cascade of moving first-order all-passes with feedback.

Audio is [channels, time], any level, not clipped. The cascade is recursive sample by
sample and its coefficients move, so that it runs as a scan over time. An all-pass step
is its own inverse, so that the gradient scans backwards from the last state and keeps
no state of any sample in between.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ddspx.delay_lines import across_channels
from ddspx.effects.base import Effect, Processor, make_effect
from ddspx.oscillators import WAVEFORMS, Waveform, low_frequency, start_phase
from ddspx.parameters import ParameterSpec, hz, plain
from ddspx.types import Rate


class Cascade(NamedTuple):
    """State of the all-passes.

    Attributes:
      stages: [stages, channels], the memory of each.
      last: [channels], the last output, which is fed back.
    """

    stages: jax.Array
    last: jax.Array


def start_cascade(stages: int, channels: int, dtype=jnp.float32) -> Cascade:
    """The silent state of `allpass_cascade`."""
    return Cascade(jnp.zeros((stages, channels), dtype), jnp.zeros(channels, dtype))


def allpass_gain(frequency_hz: jax.Array, sample_rate: Rate) -> jax.Array:
    """Coefficient G of the all-pass whose phase is -90 degrees at a frequency.

        g = tan(pi f / rate),  G = g / (1 + g)

    Args:
      frequency_hz: any shape, Hz, between 0 and half the sample rate.
      sample_rate: Hz.

    Returns:
      Same shape, between 0 and 1.
    """
    g = jnp.tan(frequency_hz * (np.pi / sample_rate))
    return g / (1.0 + g)


@jax.jit
def allpass_cascade(
    audio: jax.Array, gains: jax.Array, feedback, state: Cascade
) -> tuple[jax.Array, Cascade]:
    """First-order all-passes in series, with the last output fed back to the first.

        u_1[n] = x[n] + feedback[n] y[n-1]
        s_k[n+1] = (1 - 2 G) s_k[n] + 2 G u_k[n]
        u_k+1[n] = (2 - 2 G) s_k[n] + (2 G - 1) u_k[n],   y = u_N+1

    Args:
      audio: [channels, time].
      gains: [time], G between 0 and 1, from `allpass_gain`.
      feedback: number or [time], between -1 and 1.
      state: from `start_cascade`, which also says how many stages there are.

    Returns:
      y [channels, time] and the state to go on with. Gradients reach everything and
      cost a few times the memory of the audio, whatever the number of stages.

    Reference:
      Zavalishin, "The Art of VA Filter Design", rev. 2.1.0, section 3.10 (first-order
      all-pass with trapezoidal integrator).
    """
    feedback = jnp.broadcast_to(jnp.asarray(feedback, audio.dtype), audio.shape[-1:])
    stages, last = (part.astype(audio.dtype) for part in state)
    out, stages, last = _cascade(audio, gains, feedback, stages, last)
    return out, Cascade(stages, last)


def _cascade_primal(audio, gains, feedback, stages, last):
    def step(carry, now):
        stages, last = carry
        u, gain, back = now
        u = u + back * last
        after = []
        for s in stages:
            # The step is affine in u - s, which is what rounds least.
            twice = 2.0 * gain * (u - s)
            after.append(s + twice)
            u = twice + 2.0 * s - u
        return (tuple(after), u), u

    (stages, last), out = lax.scan(
        step, (tuple(stages), last), (audio.T, gains, feedback)
    )
    return out.T, jnp.stack(stages), last


def _cascade_forward(audio, gains, feedback, stages, last):
    out, after, final = _cascade_primal(audio, gains, feedback, stages, last)
    return (out, after, final), (gains, feedback, last, out, after)


def _cascade_backward(kept, cotangents):
    gains, feedback, last, out, after = kept
    to_out, to_stages, to_last = cotangents
    before = jnp.concatenate([last[None], out.T[:-1]])

    def step(carry, now):
        stages, to_stages, to_last = carry
        gain, back, y, previous, to_y = now
        to_u, u = to_y + to_last, y
        to_gain = jnp.zeros_like(u)
        earlier, to_earlier = [], []
        for s, to_s in zip(reversed(stages), reversed(to_stages), strict=True):
            # The step undone by itself: its matrix squared is one.
            twice = 2.0 * gain * (u - s)
            s, u = s + twice, twice + 2.0 * s - u
            to_gain = to_gain + 2.0 * (u - s) * (to_s + to_u)
            change = 2.0 * gain * (to_s + to_u)
            to_earlier.append(to_s + 2.0 * to_u - change)
            to_u = change - to_u
            earlier.append(s)
        carry = (tuple(earlier[::-1]), tuple(to_earlier[::-1]), back * to_u)
        return carry, (to_u, jnp.sum(to_gain), jnp.sum(to_u * previous))

    start = (tuple(after), tuple(to_stages), to_last)
    times = (gains, feedback, out.T, before, to_out.T)
    (_, to_first, to_last), found = lax.scan(step, start, times, reverse=True)
    to_audio, to_gains, to_feedback = found
    return to_audio.T, to_gains, to_feedback, jnp.stack(to_first), to_last


_cascade = jax.custom_vjp(_cascade_primal)
_cascade.defvjp(_cascade_forward, _cascade_backward)


def phaser(
    sample_rate: Rate, *, stages: int = 6, waveform: Waveform = "sine"
) -> Effect:
    """Notches that sweep, one for every two stages.

        y = (1 - mix) x + mix allpass^stages(x + feedback y),
        f = centre_hz 2^(depth_octaves wave(angle + 2 pi phase))

    where f is the frequency at which one all-pass turns the phase by 90 degrees,
    limited to 0.45 of the sample rate. Identity at mix 0.

    Args:
      sample_rate: Hz.
      stages: number of all-passes.
      waveform: ``"sine"`` or ``"triangle"``.

    Returns:
      An `Effect` with controls rate_hz, centre_hz, depth_octaves, feedback, phase and
      mix.

    Raises:
      ValueError: stages is less than 1, or the waveform is unknown.
    """
    if stages < 1:
        raise ValueError(f"a phaser needs one stage or more, got {stages}")
    if waveform not in WAVEFORMS:
        raise ValueError(f"waveform {waveform!r} is unknown; use one of {WAVEFORMS}")
    highest = 0.45 * sample_rate
    specs = (
        hz("rate_hz", 0.05, 8.0, 0.5),
        hz("centre_hz", 100.0, min(4000.0, highest), 800.0),
        ParameterSpec("depth_octaves", 0.0, 3.0, "octaves", default=1.0),
        plain("feedback", -0.9, 0.9, 0.3),
        plain("phase", 0.0, 1.0, 0.0),
        plain("mix", 0.0, 1.0, 0.5, identity=0.0),
    )

    def process(state, audio, values):
        phase, cascade = state
        moved, phase = low_frequency(
            phase, values["rate_hz"], values["phase"], audio, sample_rate, waveform
        )
        frequency = values["centre_hz"] * jnp.exp2(values["depth_octaves"] * moved)
        gains = allpass_gain(jnp.minimum(frequency, highest), sample_rate)
        wet, cascade = allpass_cascade(audio, gains, values["feedback"], cascade)
        mix = across_channels(values["mix"])
        return (phase, cascade), (1.0 - mix) * audio + mix * wet

    def init_state(channels):
        return start_phase(), start_cascade(stages, channels)

    return make_effect(specs, Processor(init_state, process, moving=True))
