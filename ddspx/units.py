"""Units of sound and the maps between them, each with its inverse.

A NumPy array or a Python number gives NumPy in float64, a JAX array gives JAX, so that
filter design at trace time keeps full precision. Logarithms have a floor: their values
and gradients are finite at zero, and the gradient is zero below the floor.
"""

from types import ModuleType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

MelScale = Literal["slaney", "htk"]

# Slaney's Auditory Toolbox: linear below 1 kHz, 27 logarithmic steps per factor 6.4.
_SLANEY_HZ_PER_MEL = 200.0 / 3.0
_SLANEY_BREAK_HZ = 1000.0
_SLANEY_BREAK_MEL = _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL
_SLANEY_LOG_STEP = np.log(6.4) / 27.0


def array_module(*values: Any) -> ModuleType:
    """The array library of the values: jax.numpy if one of them is JAX's, else NumPy.

    Args:
      *values: arrays or numbers.

    Returns:
      ``jax.numpy`` or ``numpy``.
    """
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def power_to_db(power: Any, floor_db: float = -200.0) -> Any:
    """Power as a level.

        level = 10 log10(max(power, 10^(floor_db / 10)))

    Args:
      power: any shape, zero or more; full scale is 1.
      floor_db: the least level returned, dB.

    Returns:
      dB, same shape.
    """
    xp = array_module(power)
    return 10.0 * xp.log10(xp.maximum(power, 10.0 ** (floor_db / 10.0)))


def db_to_power(level_db: Any) -> Any:
    """Inverse of `power_to_db`: ``10^(level / 10)``.

    Args:
      level_db: dB, any shape.

    Returns:
      Power, same shape.
    """
    return array_module(level_db).power(10.0, _real(level_db) / 10.0)


def gain_to_db(gain: Any, floor_db: float = -200.0) -> Any:
    """Amplitude ratio as a level.

        level = 20 log10(max(|gain|, 10^(floor_db / 20)))

    Args:
      gain: any shape; the sign is ignored.
      floor_db: the least level returned, dB.

    Returns:
      dB, same shape.
    """
    xp = array_module(gain)
    return 20.0 * xp.log10(xp.maximum(xp.abs(gain), 10.0 ** (floor_db / 20.0)))


def db_to_gain(level_db: Any) -> Any:
    """Inverse of `gain_to_db`: ``10^(level / 20)``.

    Args:
      level_db: dB, any shape.

    Returns:
      Amplitude ratio, same shape.
    """
    return array_module(level_db).power(10.0, _real(level_db) / 20.0)


def amplitude_to_power(amplitude: Any) -> Any:
    """Square of an amplitude.

    Args:
      amplitude: any shape.

    Returns:
      Power, same shape.
    """
    return amplitude * amplitude


def power_to_amplitude(power: Any, floor: float = 1e-20) -> Any:
    """Inverse of `amplitude_to_power` with a finite gradient at zero.

        amplitude = sqrt(power) for power > floor, else 0

    Args:
      power: any shape.
      floor: the power taken for silence.

    Returns:
      Amplitude, same shape.
    """
    xp = array_module(power)
    # Two selections: the inner one keeps 0 * inf out of the gradient.
    audible = xp.asarray(power) > floor
    return xp.where(audible, xp.sqrt(xp.where(audible, power, 1.0)), 0.0)


def hz_to_midi(frequency_hz: Any, floor_hz: float = 1e-3) -> Any:
    """Frequency as a MIDI note number, A4 = 69 = 440 Hz.

        note = 69 + 12 log2(f / 440)

    Args:
      frequency_hz: any shape.
      floor_hz: the least frequency; an unvoiced 0 Hz becomes this.

    Returns:
      Note numbers, real, same shape.
    """
    xp = array_module(frequency_hz)
    return 69.0 + 12.0 * xp.log2(xp.maximum(frequency_hz, floor_hz) / 440.0)


def midi_to_hz(note: Any) -> Any:
    """Inverse of `hz_to_midi`: ``440 * 2^((note - 69) / 12)``.

    Args:
      note: MIDI note numbers, any shape.

    Returns:
      Hz, same shape.
    """
    return 440.0 * array_module(note).power(2.0, (_real(note) - 69.0) / 12.0)


def hz_to_mel(frequency_hz: Any, scale: MelScale = "slaney") -> Any:
    """Frequency on a mel scale.

        slaney: 3 f / 200 below 1 kHz, then 15 + 27 ln(f / 1000) / ln(6.4)
        htk:    2595 log10(1 + f / 700)

    Args:
      frequency_hz: zero or more, any shape.
      scale: ``"slaney"`` (librosa's default) or ``"htk"``.

    Returns:
      Mel, same shape.
    """
    _check_scale(scale)
    xp = array_module(frequency_hz)
    frequency_hz = _real(frequency_hz)
    if scale == "htk":
        return 2595.0 * xp.log10(1.0 + frequency_hz / 700.0)
    above = xp.maximum(frequency_hz, _SLANEY_BREAK_HZ) / _SLANEY_BREAK_HZ
    logarithmic = _SLANEY_BREAK_MEL + xp.log(above) / _SLANEY_LOG_STEP
    linear = frequency_hz / _SLANEY_HZ_PER_MEL
    return xp.where(frequency_hz < _SLANEY_BREAK_HZ, linear, logarithmic)


def mel_to_hz(mel: Any, scale: MelScale = "slaney") -> Any:
    """Inverse of `hz_to_mel`.

    Args:
      mel: any shape.
      scale: ``"slaney"`` or ``"htk"``.

    Returns:
      Hz, same shape.
    """
    _check_scale(scale)
    xp = array_module(mel)
    mel = _real(mel)
    if scale == "htk":
        return 700.0 * (xp.power(10.0, mel / 2595.0) - 1.0)
    above = xp.maximum(mel - _SLANEY_BREAK_MEL, 0.0)
    logarithmic = _SLANEY_BREAK_HZ * xp.exp(_SLANEY_LOG_STEP * above)
    return xp.where(mel < _SLANEY_BREAK_MEL, mel * _SLANEY_HZ_PER_MEL, logarithmic)


def ms_to_samples(duration_ms: Any, sample_rate: int | float) -> Any:
    """Duration in samples, not rounded.

    Args:
      duration_ms: any shape.
      sample_rate: Hz.

    Returns:
      Samples, same shape.
    """
    return _real(duration_ms) * (sample_rate / 1000.0)


def samples_to_ms(samples: Any, sample_rate: int | float) -> Any:
    """Inverse of `ms_to_samples`.

    Args:
      samples: any shape.
      sample_rate: Hz.

    Returns:
      Milliseconds, same shape.
    """
    return _real(samples) * (1000.0 / sample_rate)


def _real(value: Any) -> Any:
    return value if isinstance(value, jax.Array) else np.asarray(value, dtype=float)


def _check_scale(scale: str) -> None:
    if scale not in ("slaney", "htk"):
        raise ValueError(f"mel scale {scale!r} is unknown; use 'slaney' or 'htk'")
