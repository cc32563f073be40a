"""Echoes: a fractional delay with damped feedback, one for each channel or crossed.

Audio is [channels, time], any level, not clipped; mix and feedback are shares of
amplitude. All controls may move; a delay that moves bends the pitch as tape does.
"""

import jax.numpy as jnp
import numpy as np

from ddspx import delay_lines
from ddspx.delay_lines import Interpolation, across_channels
from ddspx.effects.base import Effect, Processor, make_effect
from ddspx.parameters import hz, ms, plain
from ddspx.types import Rate

# Room between the limits of a spec and those of a line, for rounding.
_SLACK = 1.0


def delay(
    sample_rate: Rate,
    *,
    min_delay_ms: Rate = 10.0,
    max_delay_ms: Rate = 1000.0,
    interpolation: Interpolation = "linear",
    ping_pong: bool = False,
) -> Effect:
    """Echo with a low-pass in its feedback.

        y = (1 - mix) x + mix r,  r[n] = w(n - D),  w = x + feedback lowpass(r)

    where lowpass is v[n] = (1 - a) r[n] + a v[n-1], a = exp(-2 pi damping_hz / rate).
    Identity at mix 0.

    Args:
      sample_rate: Hz.
      min_delay_ms: shortest delay; the longer, the faster the feedback is computed.
      max_delay_ms: longest delay; the state holds as much audio.
      interpolation: ``"linear"`` or ``"lagrange3"``.
      ping_pong: echoes of the mean of both channels, first on the left, then on the
        right, and so on; mono audio echoes as without.

    Returns:
      An `Effect` with controls delay_ms, feedback, damping_hz and mix.

    Raises:
      ValueError: the range of delays is empty or too short for the rate, or ping-pong
        audio has more than two channels.
    """
    least = np.floor(min_delay_ms * 1e-3 * sample_rate - _SLACK)
    if not 0.0 < min_delay_ms < max_delay_ms or least < 2.0:
        raise ValueError(
            f"delays from {min_delay_ms} to {max_delay_ms} ms at {sample_rate} Hz: the"
            " shortest must be below the longest, and 3 samples or more"
        )
    longest = max_delay_ms * 1e-3 * sample_rate + _SLACK
    held = delay_lines.history_length(longest, interpolation)
    default = float(np.clip(250.0, min_delay_ms, max_delay_ms))
    brightest = min(18e3, 0.45 * sample_rate)
    specs = (
        ms("delay_ms", min_delay_ms, max_delay_ms, default),
        plain("feedback", 0.0, 0.95, 0.3),
        hz("damping_hz", 500.0, brightest, min(6000.0, brightest)),
        plain("mix", 0.0, 1.0, 0.35, identity=0.0),
    )

    def process(state, audio, values):
        if ping_pong and len(audio) > 2:
            raise ValueError(
                f"ping-pong is for one or two channels, got {len(audio)}; use"
                " ping_pong=False"
            )
        entering = audio
        if ping_pong and len(audio) == 2:
            middle = jnp.mean(audio, axis=0)
            entering = jnp.stack([middle, jnp.zeros_like(middle)])
        wet, state = delay_lines.feedback_delay(
            entering,
            values["delay_ms"] * (1e-3 * sample_rate),
            values["feedback"],
            state,
            min_delay_samples=least,
            interpolation=interpolation,
            damping=jnp.exp(values["damping_hz"] * (-2.0 * np.pi / sample_rate)),
            crossed=ping_pong,
        )
        mix = across_channels(values["mix"])
        return state, (1.0 - mix) * audio + mix * wet

    def init_state(channels):
        return delay_lines.start_loop(channels, held)

    return make_effect(specs, Processor(init_state, process, moving=True))


def ping_pong_delay(sample_rate: Rate) -> Effect:
    """`delay` with ``ping_pong=True``."""
    return delay(sample_rate, ping_pong=True)


EFFECTS = {"delay": delay, "ping_pong_delay": ping_pong_delay}
