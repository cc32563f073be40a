"""A copy at a delay that moves: chorus, flanger and vibrato, with the delay as control.

The effects of `ddspx.effects.modulation` move it by an oscillator; here a curve does.
"""

import jax
import jax.numpy as jnp

from ddspx.delay_lines import Interpolation, across_channels, delay, history_length
from ddspx.effects.base import Processor
from ddspx.types import Rate


def modulated_delay(
    sample_rate: Rate,
    *,
    max_delay_ms: float = 20.0,
    add_dry: bool = True,
    interpolation: Interpolation = "lagrange3",
) -> Processor:
    """The signal and its copy at a moving delay.

        y[n] = x[n] + gain[n] x(n - D[n])

    Values are ``delay_gain``, linear, and ``delay_ms``, limited to 0 and a sample
    beyond `max_delay_ms`; numbers or [time]. In magenta's ModDelay the phase, the share
    of the longest delay, stands for ``delay_ms``.

    Args:
      sample_rate: Hz.
      max_delay_ms: longest delay.
      add_dry: whether x is added; without it the copy alone, a vibrato.
      interpolation: ``"linear"`` as magenta, or ``"lagrange3"``, which dulls less.

    Returns:
      A `Processor`.

    Raises:
      ValueError: the longest delay is less than a sample, or the interpolation unknown.
    """
    longest = max_delay_ms * 1e-3 * float(sample_rate)
    if longest < 1.0:
        raise ValueError(
            f"max_delay_ms {max_delay_ms} at {sample_rate} Hz is less than a sample"
        )
    held = history_length(longest, interpolation)

    def process(history, audio, values):
        samples = jnp.asarray(values["delay_ms"], audio.dtype) * (1e-3 * sample_rate)
        copy, history = delay(audio, samples, history, interpolation=interpolation)
        wet = across_channels(jnp.asarray(values["delay_gain"], audio.dtype)) * copy
        return history, audio + wet if add_dry else wet

    def init_state(channels: int) -> jax.Array:
        return jnp.zeros((channels, held))

    return Processor(init_state, process, moving=True)
