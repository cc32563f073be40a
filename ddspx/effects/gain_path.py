"""The path from a signal to its gain, common to compressor, expander and gate.

Audio is [channels, time], nominally in [-1, 1], and is not clipped. Levels are dB of
full scale, at least -120 dB (silence is taken for that). Time constants cover 63 % of a
jump. With x the signal that is listened to:

    level     |x|, or the root of the mean of x^2 in a window  (detector)
    linked    the largest of the channels, or each its own
    smoothing="level": attack and release act on the level, in amplitude; a loud
              moment is forgotten slowly
    smoothing="gain":  they act on the gain reduction, in dB: what is heard is smooth,
              and below the threshold nothing lags (return to threshold)
    gain      a static curve of the level, both in dB

Gradients of all controls are exact; see `ddspx.envelopes`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ddspx.effects.base import Processor
from ddspx.envelopes import (
    Method,
    branching,
    decoupled,
    sliding_maximum,
    smooth,
    time_to_step,
)

Detector = Literal["peak", "rms"]
Ballistics = Literal["branching", "smooth_decoupled"]
Smoothing = Literal["gain", "level"]

FLOOR_DB = -120.0
_FLOOR = 10.0 ** (FLOOR_DB / 20.0)
_DB_PER_NEPER = 20.0 / math.log(10.0)
_CHOICES = {
    "detector": ("peak", "rms"),
    "ballistics": ("branching", "smooth_decoupled"),
    "smoothing": ("gain", "level"),
    "method": ("auto", "scan", "parallel"),
}


@dataclass(frozen=True)
class GainPath:
    """How a gain follows from a signal; the options of the factories.

    Attributes:
      sample_rate: Hz.
      detector: ``"peak"`` or ``"rms"``.
      rms_window_ms: ms.
      ballistics: ``"branching"`` or ``"smooth_decoupled"``.
      smoothing: ``"gain"`` or ``"level"``.
      link: one gain for all channels.
      sidechain: whether the last half of the channels is the key.
      hold_ms: how long the largest level counts on, ms.
      method: of the followers.
    """

    sample_rate: float
    detector: str = "peak"
    rms_window_ms: float = 10.0
    ballistics: str = "branching"
    smoothing: str = "gain"
    link: bool = True
    sidechain: bool = False
    hold_ms: float = 0.0
    method: Method = "auto"

    def __post_init__(self):
        for option, known in _CHOICES.items():
            given = getattr(self, option)
            if given not in known:
                raise ValueError(f"{option} {given!r} is unknown; use one of {known}")
        if self.sample_rate <= 0 or self.rms_window_ms <= 0 or self.hold_ms < 0:
            raise ValueError(
                f"sample_rate {self.sample_rate} and rms_window_ms"
                f" {self.rms_window_ms} must be positive, hold_ms {self.hold_ms} at"
                " least 0"
            )

    @property
    def hold_samples(self) -> int:
        """Length of the window of the hold, 1 for none."""
        return 1 + round(self.hold_ms * self.sample_rate / 1000.0)


def gain_processor(
    path: GainPath,
    curve: Callable[[jax.Array, Mapping[str, Any]], jax.Array],
    attack_lowers_gain: bool,
) -> Processor:
    """A processor from a static curve.

    Args:
      path: the options.
      curve: ``(level_db, values) -> gain_db``, 0 or less.
      attack_lowers_gain: whether the attack is the fall of the gain (compressor) or
        its rise (gate), where the gain is smoothed.

    Returns:
      A `Processor` that reads ``attack_ms``, ``release_ms``, ``make_up_db`` if there
      is one, and what the curve reads.
    """

    def init_state(channels):
        listened = _split(path, channels)
        gains = 1 if path.link else listened
        zero = jnp.zeros(gains)
        return {
            "mean_square": zero,
            "held": jnp.zeros((gains, path.hold_samples - 1)),
            "envelope": (zero, zero) if path.ballistics != "branching" else zero,
        }

    def process(state, audio, values):
        listened = _split(path, audio.shape[0])
        values = rows(values, audio.dtype)
        key = audio[-listened:]
        amplitude, mean_square = _level(path, key, state["mean_square"])
        amplitude, held = sliding_maximum(amplitude, path.hold_samples, state["held"])

        def follow(level):
            attack = time_to_step(values["attack_ms"], path.sample_rate)
            release = time_to_step(values["release_ms"], path.sample_rate)
            how = branching if path.ballistics == "branching" else decoupled
            return how(level, attack, release, state["envelope"], method=path.method)

        if path.smoothing == "level":
            amplitude, envelope = follow(amplitude)
            gain_db = curve(_level_db(amplitude), values)
        else:
            gain_db = curve(_level_db(amplitude), values)
            followed, envelope = follow(-gain_db if attack_lowers_gain else gain_db)
            gain_db = -followed if attack_lowers_gain else followed
        # Scaled one by one: before a sum XLA would write the constant out in full.
        make_up = values.get("make_up_db", 0.0) / _DB_PER_NEPER
        output = audio[:listened] * jnp.exp(gain_db / _DB_PER_NEPER + make_up)
        if path.sidechain:
            output = jnp.concatenate([output, key])
        state = {"mean_square": mean_square, "held": held, "envelope": envelope}
        return state, output

    return Processor(init_state, process, moving=True)


def _split(path: GainPath, channels: int) -> int:
    """How many channels are listened to; all, or half of them."""
    if not path.sidechain:
        return channels
    if channels % 2:
        raise ValueError(
            f"an effect with a side-chain needs as many channels of key as of audio,"
            f" got {channels} in all; stack [audio, key] along the channels"
        )
    return channels // 2


def rows(values: Mapping[str, Any], dtype: Any) -> dict[str, jax.Array]:
    """Values to go with [channels, time]: numbers stay, [time] becomes [1, time].

    Args:
      values: by name, as a processor gets them.
      dtype: of the audio.
    """
    arrays = {name: jnp.asarray(value, dtype) for name, value in values.items()}
    return {name: v[None] if v.ndim else v for name, v in arrays.items()}


def _level(path: GainPath, key: jax.Array, mean_square: jax.Array) -> tuple:
    """Amplitude [gains, time] that is listened to, and the state of the mean."""
    if path.detector == "peak":
        level = jnp.abs(key)
        return (level.max(0, keepdims=True) if path.link else level), mean_square
    power = jnp.square(key)
    power = power.max(0, keepdims=True) if path.link else power
    step = -math.expm1(-1000.0 / (path.rms_window_ms * path.sample_rate))
    power, mean_square = smooth(power, step, mean_square, method=path.method)
    # No root of 0, whose slope is infinite.
    return jnp.sqrt(jnp.maximum(power, _FLOOR**2)), mean_square


@jax.custom_jvp
def _level_db(amplitude):
    return _DB_PER_NEPER * jnp.log(jnp.maximum(amplitude, _FLOOR))


# By hand, because autodiff of the maximum keeps two more arrays of the audio's size.
@_level_db.defjvp
def _level_db_jvp(primals, tangents):
    (amplitude,), (change,) = primals, tangents
    slope = jnp.where(amplitude > _FLOOR, _DB_PER_NEPER, 0.0)
    slope = slope.astype(amplitude.dtype) / jnp.maximum(amplitude, _FLOOR)
    return _level_db(amplitude), slope * change
