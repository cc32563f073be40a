"""Level, polarity, DC offset, and where a sound stands between two loudspeakers.

Audio is [channels, time], left before right, never clipped; all controls may move, but
for those of the DC block. What places sound (`pan`, `balance`, `stereo_width`,
`mid_side_gain`) works on two channels. A mono signal has no sides: it passes as it is,
so that a chain serves both. More than two channels raise ValueError.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ddspx.effects.base import Effect, make_effect, without_memory
from ddspx.effects.dc_block import dc_block
from ddspx.parameters import db, plain
from ddspx.types import Rate
from ddspx.units import db_to_gain

PanLaw = Literal["constant_power", "linear"]
Stereo = Float[jax.Array, "*batch 2 time"]


def gain(sample_rate: Rate) -> Effect:
    """``y = 10^(gain_db / 20) x``.

    Controls: ``gain_db`` -24 to 24 (identity 0).

    Args:
      sample_rate: Hz, without influence.

    Returns:
      An `Effect` for any number of channels.
    """
    del sample_rate

    def process(audio, values):
        return audio * _row(db_to_gain(values["gain_db"]), audio)

    return make_effect(
        (db("gain_db", -24.0, 24.0, 0.0, identity=0.0),), without_memory(process)
    )


def polarity(sample_rate: Rate) -> Effect:
    """``y = polarity x``, from inverted over silent to unchanged.

    Controls: ``polarity`` -1 (default) to 1 (identity), so that a search can turn it
    round on a slope.

    Args:
      sample_rate: Hz, without influence.

    Returns:
      An `Effect` for any number of channels.
    """
    del sample_rate

    def process(audio, values):
        return audio * _row(values["polarity"], audio)

    return make_effect(
        (plain("polarity", -1.0, 1.0, -1.0, identity=1.0),), without_memory(process)
    )


def dc_offset(sample_rate: Rate) -> Effect:
    """``y = x + offset``.

    Controls: ``offset`` -0.5 to 0.5 (identity 0).

    Args:
      sample_rate: Hz, without influence.

    Returns:
      An `Effect` for any number of channels.
    """
    del sample_rate

    def process(audio, values):
        return audio + _row(values["offset"], audio)

    return make_effect(
        (plain("offset", -0.5, 0.5, 0.0, identity=0.0),), without_memory(process)
    )


def pan(sample_rate: Rate, *, law: PanLaw = "constant_power") -> Effect:
    """Moves a stereo signal to one side: the other fades, this one grows.

        constant_power:  g_L = sqrt(2) cos((1 + p) pi / 4),  g_R = sqrt(2) sin(same)
        linear:          g_L = 1 - p,  g_R = 1 + p

    Both are 1 in the middle; g_L^2 + g_R^2, or g_L + g_R, is 2 everywhere, so a side
    reaches +3 or +6 dB.

    Controls: ``pan`` -1 (left) to 1 (right), identity 0.

    Args:
      sample_rate: Hz, without influence.
      law: ``"constant_power"`` or ``"linear"``.

    Returns:
      An `Effect` for stereo; mono passes.

    Raises:
      ValueError: the law is unknown.
    """
    del sample_rate
    if law not in ("constant_power", "linear"):
        raise ValueError(f"law {law!r} is unknown; use 'constant_power' or 'linear'")

    def gains(place):
        if law == "linear":
            return 1.0 - place, 1.0 + place
        # cos and sin of pi / 4 (1 + p) times sqrt(2), exactly 1 at p = 0.
        angle = place * (np.pi / 4.0)
        c, s = jnp.cos(angle), jnp.sin(angle)
        return c - s, c + s

    return _sides("pan", gains)


def balance(sample_rate: Rate) -> Effect:
    """Fades one side of a stereo signal: ``g_L = min(1, 1 - b), g_R = min(1, 1 + b)``.

    Controls: ``balance`` -1 (left alone) to 1 (right alone), identity 0, where the
    gradient is the mean of both slopes.

    Args:
      sample_rate: Hz, without influence.

    Returns:
      An `Effect` for stereo; mono passes.
    """
    del sample_rate

    def gains(place):
        return jnp.minimum(1.0, 1.0 - place), jnp.minimum(1.0, 1.0 + place)

    return _sides("balance", gains)


def stereo_width(sample_rate: Rate) -> Effect:
    """Scales the side signal: ``M' = M, S' = width S`` (see `encode_mid_side`).

    Controls: ``width`` 0 (mono) to 2, identity 1.

    Args:
      sample_rate: Hz, without influence.

    Returns:
      An `Effect` for stereo; mono passes.
    """
    del sample_rate

    def process(audio, values):
        if not _is_stereo(audio, "stereo_width"):
            return audio
        mid, side = encode_mid_side(audio)
        wide = side * jnp.asarray(values["width"], audio.dtype)
        return decode_mid_side(jnp.stack([mid, wide]))

    return make_effect(
        (plain("width", 0.0, 2.0, 1.0, identity=1.0),), without_memory(process)
    )


def mid_side_gain(sample_rate: Rate) -> Effect:
    """Levels of middle and sides: ``M' = g_M M, S' = g_S S`` (see `encode_mid_side`).

    Controls: ``mid_db`` and ``side_db``, -24 to 12 (identity 0).

    Args:
      sample_rate: Hz, without influence.

    Returns:
      An `Effect` for stereo; mono passes.
    """
    del sample_rate

    def process(audio, values):
        if not _is_stereo(audio, "mid_side_gain"):
            return audio
        mid, side = encode_mid_side(audio)
        mid = mid * jnp.asarray(db_to_gain(values["mid_db"]), audio.dtype)
        side = side * jnp.asarray(db_to_gain(values["side_db"]), audio.dtype)
        return decode_mid_side(jnp.stack([mid, side]))

    specs = tuple(
        db(name, -24.0, 12.0, 0.0, identity=0.0) for name in ("mid_db", "side_db")
    )
    return make_effect(specs, without_memory(process))


def encode_mid_side(audio: Stereo) -> Stereo:
    """Left and right to middle and side: ``M = (L + R) / 2, S = (L - R) / 2``.

    Args:
      audio: [..., 2, time].

    Returns:
      [..., 2, time].
    """
    left, right = audio[..., 0, :], audio[..., 1, :]
    return jnp.stack([0.5 * (left + right), 0.5 * (left - right)], axis=-2)


def decode_mid_side(audio: Stereo) -> Stereo:
    """Inverse of `encode_mid_side`: ``L = M + S, R = M - S``.

    Args:
      audio: [..., 2, time].

    Returns:
      [..., 2, time].
    """
    mid, side = audio[..., 0, :], audio[..., 1, :]
    return jnp.stack([mid + side, mid - side], axis=-2)


def _sides(name: str, gains: Callable[[Any], tuple[Any, Any]]) -> Effect:
    """An effect that weighs left and right by functions of one place in [-1, 1]."""

    def process(audio, values):
        if not _is_stereo(audio, name):
            return audio
        left, right = gains(jnp.asarray(values[name], audio.dtype))
        return jnp.stack([audio[0] * left, audio[1] * right])

    return make_effect(
        (plain(name, -1.0, 1.0, 0.0, identity=0.0),), without_memory(process)
    )


def _is_stereo(audio: jax.Array, name: str) -> bool:
    if audio.shape[0] > 2:
        raise ValueError(
            f"{name} works on stereo [2, time] and lets mono pass, got"
            f" {audio.shape[0]} channels"
        )
    return audio.shape[0] == 2


def _row(value: Any, audio: jax.Array) -> jax.Array:
    """A number as it is, [time] as [1, time], in the precision of the audio."""
    value = jnp.asarray(value, audio.dtype)
    return value[None] if value.ndim else value


EFFECTS: dict[str, Callable[[Rate], Effect]] = {
    "gain": gain,
    "pan": pan,
    "balance": balance,
    "stereo_width": stereo_width,
    "mid_side_gain": mid_side_gain,
    "polarity": polarity,
    "dc_offset": dc_offset,
    "dc_block": dc_block,
}
