"""Twins of pedalboard's Delay, Chorus and Phaser.

Audio is [channels, time], not clipped; values are numbers, none may move. pedalboard's
oscillators add up their phase in float32, which makes them run fast or slow by up to a
few parts in a thousand; the same additions are made here, so that a twin stays with
pedalboard for any length. Gradients are those of an oscillator that keeps its time.

Relative RMS of the difference to pedalboard 0.9.26, worst of 72 random settings of the
catalogue (speech and music; 24, 44.1 and 48 kHz; mono and stereo), alike for 1, 5 and
10 s: Delay 1e-7, Chorus 6e-6, Phaser 6e-6.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ddspx import delay_lines
from ddspx.effects.base import Processor
from ddspx.effects.phaser import allpass_cascade, allpass_gain, start_cascade
from ddspx.types import Rate
from styletransfer.twins.twin import Twin

# Delays that a twin of Delay can hold, in seconds; pedalboard's go from 0 to 30.
_SHORTEST_S, _LONGEST_S = 1e-3, 2.0
# Chorus: its delay is limited from below; the wave moves it by 10 ms at depth 1.
_LEAST_MS, _MOST_MS, _SWEEP_MS = 1.0, 100.0, 20.0
_STAGES = 6
# Phaser: samples for which its filters stay as they are.
_HOLD = 4
_LOWEST_HZ, _HIGHEST_HZ = 20.0, 20e3


def _mixed(audio: jax.Array, wet: jax.Array, mix) -> jax.Array:
    return (1.0 - mix) * audio + mix * wet


def _delay(sample_rate: Rate) -> Processor:
    """Whole samples of delay, fed back.

        y[n] = (1 - mix) x[n] + mix w[n - D],  w[n] = x[n] + feedback w[n - D]

    D is delay_seconds in whole samples, rounded down; its gradient is that of a delay
    between samples. Delays are limited to 1 ms and 2 s.
    """
    held = delay_lines.history_length(_LONGEST_S * sample_rate + 1.0)
    least = int(_SHORTEST_S * sample_rate)

    def process(state, audio, values):
        seconds = jnp.asarray(values["delay_seconds"], audio.dtype)
        wet, state = delay_lines.feedback_delay(
            audio,
            _whole_samples(seconds, sample_rate),
            values["feedback"],
            state,
            min_delay_samples=least,
        )
        # A delay of zero switches pedalboard's effect off.
        mix = jnp.where(seconds > 0.0, values["mix"], 0.0)
        return state, _mixed(audio, wet, mix)

    def init_state(channels):
        return delay_lines.start_loop(channels, held)

    return Processor(init_state, process)


def _whole_samples(seconds: jax.Array, sample_rate: Rate) -> jax.Array:
    """floor(seconds sample_rate) as float64 has it, with the slope of the product."""
    product = seconds * sample_rate
    if seconds.dtype == jnp.float64 or sample_rate != int(sample_rate):
        whole = jnp.floor(product)
    else:
        # A float32 product may be rounded up to a whole number that it has not reached:
        # split into 1/256 s, whose product is exact in integers, and what is left.
        parts = jnp.floor(seconds * 256.0)
        rest = (seconds - parts / 256.0) * sample_rate
        exact = parts.astype(jnp.int32) * int(sample_rate)
        whole = (exact // 256).astype(seconds.dtype)
        whole = whole + jnp.floor((exact % 256).astype(seconds.dtype) / 256.0 + rest)
    return product + lax.stop_gradient(whole - product)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _phases(sample_rate: float, count: int, phase: jax.Array, rate_hz: jax.Array):
    """Phases [count + 1] of an oscillator in radians, added up in float32."""
    turn = np.float32(2.0 * np.pi)
    step = (turn / np.float32(sample_rate)) * rate_hz

    def advance(now, _):
        later = now + step
        return jnp.where(later >= turn, later - turn, later), now

    last, phases = lax.scan(advance, phase, length=count)
    return jnp.append(phases, last)


@_phases.defjvp
def _phases_jvp(sample_rate: float, count: int, primals, tangents):
    ramp = jnp.arange(count + 1, dtype=jnp.float32) * (2.0 * np.pi / sample_rate)
    return _phases(sample_rate, count, *primals), tangents[0] + ramp * tangents[1]


def _wave(sample_rate: float, count: int, phase: jax.Array, rate_hz, dtype):
    """Sine [count] that starts downwards, in pedalboard's time, and all phases."""
    rate_hz = jnp.asarray(rate_hz, jnp.float32)
    phases = _phases(sample_rate, count, phase.astype(jnp.float32), rate_hz)
    return jnp.sin(phases[:-1] - np.float32(np.pi)).astype(dtype), phases


def _chorus(sample_rate: Rate) -> Processor:
    """One copy at a moving delay, whose last sample is fed back with a minus sign.

    w[n] = x[n] - feedback r[n-1],  r[n] = w(n - D[n]),  y = (1 - mix) x + mix r
    D = max(1 ms, centre_delay_ms + 10 ms depth sin(2 pi rate_hz t - pi)), linear
    """
    per_ms = sample_rate * 1e-3
    longest = (_MOST_MS + 0.5 * _SWEEP_MS) * per_ms + 2.0
    held = delay_lines.history_length(longest)
    coarse = float(np.float32(per_ms))
    fine = per_ms - coarse

    def process(state, audio, values):
        history, earlier, phase = state
        time = audio.shape[-1]
        moved, phases = _wave(
            float(sample_rate), time, phase, values["rate_hz"], audio.dtype
        )
        centre = jnp.clip(values["centre_delay_ms"], _LEAST_MS, _MOST_MS)
        sweep = _SWEEP_MS * (moved * (values["depth"] * 0.5))
        delays_ms = jnp.maximum(_LEAST_MS, sweep + centre)
        # In two parts, because 44.1 is no float32 and pedalboard multiplies in double.
        delays = delays_ms * coarse + delays_ms * fine
        # r[n-1] is what a line that is one sample longer gives at n.
        before = jnp.concatenate([earlier[None].astype(audio.dtype), delays])
        loop = delay_lines.Loop(history, jnp.zeros((len(audio), 1), audio.dtype))
        read, _ = delay_lines.feedback_delay(
            jnp.pad(audio, ((0, 0), (0, 1))),
            before + 1.0,
            -values["feedback"],
            loop,
            min_delay_samples=int(_LEAST_MS * per_ms),
        )
        entered = audio - values["feedback"] * read[:, :-1]
        line = jnp.concatenate([history.astype(audio.dtype), entered], axis=-1)
        state = line[:, time:], before[-1], phases[-1]
        return state, _mixed(audio, read[:, 1:], values["mix"])

    def init_state(channels):
        zero = jnp.zeros((), jnp.float32)
        return jnp.zeros((channels, held)), zero, zero

    return Processor(init_state, process)


def _phaser(sample_rate: Rate) -> Processor:
    """Six all-passes with negative feedback, moved every fourth sample.

        y = (1 - mix) x + mix w,  w = allpass^6(x - feedback w[n-1])
        f = 20 (top / 20)^c,  c = c0 + depth / 2 sin(2 pi rate_hz t - pi), in [0, 1]

    with top = min(20 kHz, 0.49 sample rate) and c0 that of centre_frequency_hz.
    """
    top = min(_HIGHEST_HZ, 0.49 * sample_rate)
    octaves = np.log(top / _LOWEST_HZ)

    def process(state, audio, values):
        cascade, gain, counter, phase = state
        time = audio.shape[-1]
        if time == 0:
            return state, audio
        # One tick more than ever needed, for the first may come after three samples.
        ticks = time // _HOLD + 1
        moved, phases = _wave(
            sample_rate / _HOLD, ticks, phase, values["rate_hz"], audio.dtype
        )
        centre = jnp.log(values["centre_frequency_hz"] / _LOWEST_HZ) / octaves
        place = jnp.clip(moved * (values["depth"] * 0.5) + centre, 0.0, 1.0)
        frequency = _LOWEST_HZ * jnp.exp(place * octaves)
        held = allpass_gain(frequency, sample_rate)
        first = (-counter) % _HOLD
        tick = (jnp.arange(time) - first) // _HOLD
        gains = jnp.where(tick < 0, gain, held[jnp.maximum(tick, 0)])
        wet, cascade = allpass_cascade(audio, gains, -values["feedback"], cascade)
        done = (time - first + _HOLD - 1) // _HOLD
        state = cascade, gains[-1], (counter + time) % _HOLD, phases[done]
        return state, _mixed(audio, wet, values["mix"])

    def init_state(channels):
        zero = jnp.zeros((), jnp.float32)
        return start_cascade(_STAGES, channels), zero, jnp.zeros((), jnp.int32), zero

    return Processor(init_state, process)


TWINS = {
    "Delay": Twin(
        {"delay_seconds": 0.5, "feedback": 0.0, "mix": 0.5},
        _delay,
        {"delay_seconds": (_SHORTEST_S, _LONGEST_S)},
    ),
    "Chorus": Twin(
        {
            "rate_hz": 1.0,
            "depth": 0.25,
            "centre_delay_ms": 7.0,
            "feedback": 0.0,
            "mix": 0.5,
        },
        _chorus,
    ),
    "Phaser": Twin(
        {
            "rate_hz": 1.0,
            "depth": 0.5,
            "centre_frequency_hz": 1300.0,
            "feedback": 0.0,
            "mix": 0.5,
        },
        _phaser,
    ),
}
