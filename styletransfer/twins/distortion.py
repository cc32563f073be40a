"""Twins of pedalboard's built-ins without memory: Gain, Distortion, Clipping, Bitcrush.

All are one formula a sample, channels alone, and take moving values. A level in dB
becomes a factor as in JUCE, 10^(dB / 20), and 0 at -100 dB or less.

On speech and music at 24, 44.1 and 48 kHz, 20 random settings each, pedalboard 0.9.26
gives the same bits for all but Distortion, whose tanh differs by 1.1e-7 relative RMS
(tests/test_twins_distortion.py). On other processors a fractional number of bits may
differ in the last digit of 2^bits, and single samples on an edge then fall to the other
side, up to 1e-4.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ddspx.effects.base import Processor, without_memory
from ddspx.types import Rate
from ddspx.units import db_to_gain
from ddspx.waveshaping import TANH, power_of_two, quantize
from styletransfer.twins.twin import Twin

# JUCE's Decibels: at and below this level a gain is zero.
_SILENT_DB = -100.0


def gain(sample_rate: Rate) -> Processor:
    """``y = g(gain_db) x``.

    Args:
      sample_rate: Hz, without influence; so it is in the others.

    Returns:
      A `Processor` of pedalboard's parameters.
    """
    del sample_rate
    return without_memory(lambda audio, v: audio * _gain(v["gain_db"], audio))


def distortion(sample_rate: Rate) -> Processor:
    """``y = tanh(g(drive_db) x)``."""
    del sample_rate

    def process(audio, values):
        return TANH.curve(audio * _gain(values["drive_db"], audio))

    return without_memory(process)


def clipping(sample_rate: Rate) -> Processor:
    """``y = min(max(x, -g), g)``, ``g = g(threshold_db)``."""
    del sample_rate

    def process(audio, values):
        limit = jnp.broadcast_to(_gain(values["threshold_db"], audio), audio.shape)
        return jnp.clip(audio, -limit, limit)

    return without_memory(process)


def bitcrush(sample_rate: Rate) -> Processor:
    """``y = round(x n) / n``, ``n = 2^bit_depth``: 2 n + 1 values within [-1, 1].

    The gradient is the surrogate of `ddspx.waveshaping.quantize`.
    """
    del sample_rate

    def process(audio, values):
        density = power_of_two(_row(values["bit_depth"], audio))
        return quantize(audio, jnp.broadcast_to(density, audio.shape))

    return without_memory(process)


def invert(sample_rate: Rate) -> Processor:
    """``y = -x``."""
    del sample_rate
    return without_memory(lambda audio, values: -audio)


def _gain(level_db: Any, audio: jax.Array) -> jax.Array:
    level_db = _row(level_db, audio)
    return jnp.where(level_db > _SILENT_DB, db_to_gain(level_db), 0.0)


def _row(value: Any, audio: jax.Array) -> jax.Array:
    """A number as it is, [time] as [1, time], in the precision of the audio."""
    value = jnp.asarray(value, audio.dtype)
    return value[None] if value.ndim else value


TWINS: dict[str, Twin] = {
    "Bitcrush": Twin({"bit_depth": 8.0}, bitcrush),
    "Clipping": Twin({"threshold_db": -6.0}, clipping),
    "Distortion": Twin({"drive_db": 25.0}, distortion),
    "Gain": Twin({"gain_db": 1.0}, gain),
    "Invert": Twin({}, invert),
}
