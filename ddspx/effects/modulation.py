"""Effects moved by an oscillator: chorus, flanger, vibrato, tremolo, ring, auto-pan.

Audio is [channels, time], any level, not clipped. Every effect starts its oscillator
at `phase` turns (0: rising through zero) and keeps an exact integer phase, so that it
never drifts; rate and phase have gradients. All controls may move. The phaser is in
`ddspx.effects.phaser`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ddspx import delay_lines
from ddspx.delay_lines import Interpolation, across_channels
from ddspx.effects.base import Effect, Processor, make_effect
from ddspx.effects.phaser import phaser
from ddspx.oscillators import WAVEFORMS, Waveform, low_frequency, start_phase
from ddspx.parameters import ParameterSpec, hz, ms, plain
from ddspx.types import Rate

# Room between the limits of a spec and those of a line, for rounding.
_SLACK = 1.0


def chorus(
    sample_rate: Rate,
    *,
    voices: int = 2,
    spread: float = 0.25,
    waveform: Waveform = "sine",
    interpolation: Interpolation = "linear",
) -> Effect:
    """Copies at slowly moving delays, mixed with the signal.

        y_c = (1 - mix) x_c + mix mean_v x_c(n - D_vc[n])
        D_vc = centre_delay_ms + depth_ms wave(angle + 2 pi turns)
        turns = phase + v / voices + c spread

    for voice v and channel c. Identity at mix 0.

    Args:
      sample_rate: Hz.
      voices: number of copies, evenly spread over a period.
      spread: turns by which the oscillator of a channel is ahead of the one before;
        what makes a chorus wide.
      waveform: ``"sine"`` or ``"triangle"``.
      interpolation: ``"linear"`` or ``"lagrange3"``.

    Returns:
      An `Effect` with controls rate_hz, depth_ms, centre_delay_ms, phase and mix.

    Raises:
      ValueError: voices is less than 1, or the waveform is unknown.
    """
    _check_waveform(waveform)
    if voices < 1:
        raise ValueError(f"a chorus needs one voice or more, got {voices}")
    specs = (
        hz("rate_hz", 0.1, 10.0, 0.8),
        _time("depth_ms", 4.0, 1.5),
        ms("centre_delay_ms", 5.0, 40.0, 12.0),
        plain("phase", 0.0, 1.0, 0.0),
        plain("mix", 0.0, 1.0, 0.5, identity=0.0),
    )
    held = delay_lines.history_length(44.0e-3 * sample_rate + _SLACK, interpolation)

    def read(audio, samples, history):
        one, after = delay_lines.delay(
            audio[None], samples, history[None], interpolation=interpolation
        )
        return one[0], after[0]

    read_channels = jax.vmap(read)

    def process(state, audio, values):
        phase, history = state
        waves = []
        for voice in range(voices):
            for channel in range(len(audio)):
                turns = values["phase"] + voice / voices + channel * spread
                moved, after = low_frequency(
                    phase, values["rate_hz"], turns, audio, sample_rate, waveform
                )
                waves.append(moved)
        depth, centre = (
            across_channels(values[name]) for name in ("depth_ms", "centre_delay_ms")
        )
        delays = (centre + depth * jnp.stack(waves)) * (1e-3 * sample_rate)
        delays = delays.reshape(voices, *audio.shape)

        def add(wet, voice):
            copy, later = read_channels(audio, voice, history)
            return wet + copy / voices, later

        # One voice after the other, which takes less memory than all at once.
        wet, later = lax.scan(add, jnp.zeros_like(audio), delays)
        mix = across_channels(values["mix"])
        return (after, later[0]), (1.0 - mix) * audio + mix * wet

    def init_state(channels):
        return start_phase(), jnp.zeros((channels, held))

    return make_effect(specs, Processor(init_state, process, moving=True))


def flanger(
    sample_rate: Rate,
    *,
    waveform: Waveform = "sine",
    interpolation: Interpolation = "linear",
) -> Effect:
    """One copy at a short moving delay, fed back: a comb filter that sweeps.

        y = (1 - mix) x + mix r,  r[n] = w(n - D[n]),  w = x + feedback r
        D = delay_ms + depth_ms (1 + wave(angle + 2 pi phase)) / 2

    Identity at mix 0.

    Args:
      sample_rate: Hz.
      waveform: ``"sine"`` or ``"triangle"``.
      interpolation: ``"linear"`` or ``"lagrange3"``.

    Returns:
      An `Effect` with controls rate_hz, delay_ms, depth_ms, feedback, phase and mix.

    Raises:
      ValueError: the waveform is unknown, or the rate is below 8 kHz.
    """
    _check_waveform(waveform)
    shortest = 0.5
    least = np.floor(shortest * 1e-3 * sample_rate - _SLACK)
    if least < 2.0:
        raise ValueError(f"a flanger needs 8000 Hz or more, got {sample_rate} Hz")
    specs = (
        hz("rate_hz", 0.05, 5.0, 0.3),
        ms("delay_ms", shortest, 5.0, 1.0),
        _time("depth_ms", 5.0, 2.0),
        plain("feedback", -0.95, 0.95, 0.5),
        plain("phase", 0.0, 1.0, 0.0),
        plain("mix", 0.0, 1.0, 0.5, identity=0.0),
    )
    held = delay_lines.history_length(10.0e-3 * sample_rate + _SLACK, interpolation)

    def process(state, audio, values):
        phase, loop = state
        moved, phase = low_frequency(
            phase, values["rate_hz"], values["phase"], audio, sample_rate, waveform
        )
        delays = values["delay_ms"] + values["depth_ms"] * (0.5 + 0.5 * moved)
        wet, loop = delay_lines.feedback_delay(
            audio,
            delays * (1e-3 * sample_rate),
            values["feedback"],
            loop,
            min_delay_samples=least,
            interpolation=interpolation,
        )
        mix = across_channels(values["mix"])
        return (phase, loop), (1.0 - mix) * audio + mix * wet

    def init_state(channels):
        return start_phase(), delay_lines.start_loop(channels, held)

    return make_effect(specs, Processor(init_state, process, moving=True))


def vibrato(
    sample_rate: Rate,
    *,
    waveform: Waveform = "sine",
    interpolation: Interpolation = "lagrange3",
) -> Effect:
    """Pitch that moves up and down: the signal at a moving delay.

        y[n] = x(n - D[n]),  D = depth_ms (1 + wave(angle + 2 pi phase))

    A sine wave moves the pitch by at most the factor 1 +- 2 pi rate_hz depth_ms / 1000.
    Identity at depth 0.

    Args:
      sample_rate: Hz.
      waveform: ``"sine"`` or ``"triangle"``.
      interpolation: ``"linear"`` or ``"lagrange3"``, which dulls less.

    Returns:
      An `Effect` with controls rate_hz, depth_ms and phase.

    Raises:
      ValueError: the waveform is unknown.
    """
    _check_waveform(waveform)
    deepest = 5.0
    specs = (
        hz("rate_hz", 0.1, 14.0, 5.0),
        _time("depth_ms", deepest, 0.5, identity=0.0),
        plain("phase", 0.0, 1.0, 0.0),
    )
    longest = 2.0 * deepest * 1e-3 * sample_rate + _SLACK
    held = delay_lines.history_length(longest, interpolation)

    def process(state, audio, values):
        phase, history = state
        moved, phase = low_frequency(
            phase, values["rate_hz"], values["phase"], audio, sample_rate, waveform
        )
        delays = values["depth_ms"] * (1.0 + moved) * (1e-3 * sample_rate)
        out, history = delay_lines.delay(
            audio, delays, history, interpolation=interpolation
        )
        return (phase, history), out

    def init_state(channels):
        return start_phase(), jnp.zeros((channels, held))

    return make_effect(specs, Processor(init_state, process, moving=True))


def tremolo(sample_rate: Rate, *, waveform: Waveform = "sine") -> Effect:
    """Loudness that moves down and up again.

        y = x (1 - depth (1 - wave(angle + 2 pi phase)) / 2)

    Identity at depth 0.

    Args:
      sample_rate: Hz.
      waveform: ``"sine"`` or ``"triangle"``.

    Returns:
      An `Effect` with controls rate_hz, depth and phase.

    Raises:
      ValueError: the waveform is unknown.
    """
    specs = (
        hz("rate_hz", 0.1, 20.0, 5.0),
        plain("depth", 0.0, 1.0, 0.5, identity=0.0),
        plain("phase", 0.0, 1.0, 0.0),
    )

    def gains(moved, values, channels):
        gain = 1.0 - values["depth"] * (0.5 - 0.5 * moved)
        return jnp.broadcast_to(gain[None], (channels, len(gain)))

    return _amplitude(sample_rate, specs, waveform, gains)


def ring_modulation(sample_rate: Rate) -> Effect:
    """The signal times a sine: every partial is split into sum and difference.

        y = x (1 - mix + mix sin(2 pi (rate_hz t + phase)))

    Identity at mix 0.

    Args:
      sample_rate: Hz.

    Returns:
      An `Effect` with controls rate_hz, phase and mix.
    """
    specs = (
        hz("rate_hz", 5.0, min(5000.0, 0.45 * sample_rate), 220.0),
        plain("phase", 0.0, 1.0, 0.0),
        plain("mix", 0.0, 1.0, 1.0, identity=0.0),
    )

    def gains(moved, values, channels):
        gain = 1.0 - values["mix"] * (1.0 - moved)
        return jnp.broadcast_to(gain[None], (channels, len(gain)))

    return _amplitude(sample_rate, specs, "sine", gains)


def auto_pan(sample_rate: Rate, *, waveform: Waveform = "sine") -> Effect:
    """A signal that wanders between left and right at constant power.

        p = depth wave(angle + 2 pi phase),
        left, right = sqrt(2) (cos, sin)(pi / 4 (1 + p)) x

    Even channels are left, odd ones right, so that mono audio hears the left side.
    Identity at depth 0.

    Args:
      sample_rate: Hz.
      waveform: ``"sine"`` or ``"triangle"``.

    Returns:
      An `Effect` with controls rate_hz, depth and phase.

    Raises:
      ValueError: the waveform is unknown.
    """
    specs = (
        hz("rate_hz", 0.05, 10.0, 0.5),
        plain("depth", 0.0, 1.0, 0.7, identity=0.0),
        plain("phase", 0.0, 1.0, 0.0),
    )

    def gains(moved, values, channels):
        angle = (np.pi / 4.0) * (1.0 + values["depth"] * moved)
        sides = np.sqrt(2.0) * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        return sides[np.arange(channels) % 2]

    return _amplitude(sample_rate, specs, waveform, gains)


def _amplitude(sample_rate: Rate, specs, waveform: Waveform, gains) -> Effect:
    """An effect that multiplies the audio by ``gains(wave, values, channels)``."""
    _check_waveform(waveform)

    def process(phase, audio, values):
        moved, phase = low_frequency(
            phase, values["rate_hz"], values["phase"], audio, sample_rate, waveform
        )
        return phase, audio * gains(moved, values, len(audio))

    return make_effect(
        specs, Processor(lambda channels: start_phase(), process, moving=True)
    )


def _time(name: str, high: float, default: float, identity=None) -> ParameterSpec:
    """A time in ms from 0 on, which a log curve cannot reach."""
    return ParameterSpec(name, 0.0, high, "ms", "linear", default, identity)


def _check_waveform(waveform: str) -> None:
    if waveform not in WAVEFORMS:
        raise ValueError(f"waveform {waveform!r} is unknown; use one of {WAVEFORMS}")


EFFECTS = {
    "chorus": chorus,
    "flanger": flanger,
    "vibrato": vibrato,
    "tremolo": tremolo,
    "ring_modulation": ring_modulation,
    "auto_pan": auto_pan,
    "phaser": phaser,
}
