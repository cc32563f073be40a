"""Dynamics: compressor, expander, noise gate, and the family's table.

Audio is [channels, time], nominally in [-1, 1], and is not clipped. How a gain follows
from a signal (detector, smoothing, link, key) is said in `ddspx.effects.gain_path`;
here are the static curves and their controls.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ddspx.effects.base import Effect, make_effect
from ddspx.effects.gain_path import (
    Ballistics,
    Detector,
    GainPath,
    Smoothing,
    gain_processor,
)
from ddspx.effects.limiter import limiter
from ddspx.envelopes import Method
from ddspx.parameters import db, log, ms
from ddspx.types import Rate


def compressor(
    sample_rate: Rate,
    *,
    detector: Detector = "peak",
    rms_window_ms: Rate = 10.0,
    ballistics: Ballistics = "branching",
    smoothing: Smoothing = "gain",
    link: bool = True,
    sidechain: bool = False,
    method: Method = "auto",
) -> Effect:
    """Compressor: less gain above the threshold.

        gain_db = -(1 - 1 / ratio) h(level - threshold, knee) + make_up

    with h of `compression_db`. Identity: ratio 1 and make-up 0.

    Args:
      sample_rate: Hz.
      detector: ``"peak"`` follows |x|, ``"rms"`` the mean of x^2.
      rms_window_ms: time constant of that mean, ms.
      ballistics: how attack and release are made, see `ddspx.envelopes`.
      smoothing: what they act on, see `ddspx.effects.gain_path`.
      link: one gain for all channels, from the loudest; else one for each.
      sidechain: whether the last half of the channels is the key: it alone is
        listened to, and passes through unchanged. The gain is applied to the first.
      method: see `ddspx.envelopes`.

    Returns:
      An `Effect`; controls may move.

    Raises:
      ValueError: an unknown option; when rendering, a key that the channels lack.

    Reference:
      Giannoulis, Massberg and Reiss, "Digital Dynamic Range Compressor Design",
      J. Audio Eng. Soc. 60 (2012).
    """
    path = GainPath(
        float(sample_rate),
        detector,
        float(rms_window_ms),
        ballistics,
        smoothing,
        link,
        sidechain,
        method=method,
    )
    specs = (
        db("threshold_db", -60.0, 0.0, -20.0),
        log("ratio", 1.0, 20.0, 4.0, identity=1.0),
        db("knee_db", 0.0, 24.0, 6.0),
        ms("attack_ms", 0.1, 100.0, 5.0),
        ms("release_ms", 10.0, 1000.0, 100.0),
        db("make_up_db", -12.0, 24.0, 0.0, identity=0.0),
    )

    def curve(level_db, values):
        threshold, ratio = values["threshold_db"], values["ratio"]
        return compression_db(level_db, threshold, ratio, values["knee_db"])

    return make_effect(specs, gain_processor(path, curve, attack_lowers_gain=True))


def expander(
    sample_rate: Rate,
    *,
    detector: Detector = "peak",
    rms_window_ms: Rate = 10.0,
    ballistics: Ballistics = "branching",
    smoothing: Smoothing = "gain",
    link: bool = True,
    sidechain: bool = False,
    method: Method = "auto",
) -> Effect:
    """Downward expander: less gain below the threshold, by at most the range.

        gain_db = max(-(ratio - 1) h(threshold - level, knee), -range) + make_up

    Attack is the time to open, release the time to close. It starts open where the gain
    is smoothed, closed where the level is. Identity: ratio 1 or range 0, and make-up 0.

    Args:
      sample_rate: Hz.
      detector: as for `compressor`, like all that follow.
      rms_window_ms: ms.
      ballistics: see `ddspx.envelopes`.
      smoothing: see `ddspx.effects.gain_path`.
      link: one gain for all channels.
      sidechain: whether the last half of the channels is the key.
      method: see `ddspx.envelopes`.

    Returns:
      An `Effect`; controls may move.

    Raises:
      ValueError: an unknown option; when rendering, a key that the channels lack.
    """
    path = GainPath(
        float(sample_rate),
        detector,
        float(rms_window_ms),
        ballistics,
        smoothing,
        link,
        sidechain,
        method=method,
    )
    specs = (
        db("threshold_db", -80.0, 0.0, -40.0),
        log("ratio", 1.0, 10.0, 2.0, identity=1.0),
        db("knee_db", 0.0, 24.0, 6.0),
        db("range_db", 0.0, 80.0, 40.0, identity=0.0),
        ms("attack_ms", 0.1, 100.0, 5.0),
        ms("release_ms", 10.0, 1000.0, 100.0),
        db("make_up_db", -12.0, 24.0, 0.0, identity=0.0),
    )
    return make_effect(
        specs, gain_processor(path, _limited_expansion, attack_lowers_gain=False)
    )


def noise_gate(
    sample_rate: Rate,
    *,
    hold_ms: Rate = 0.0,
    detector: Detector = "peak",
    rms_window_ms: Rate = 10.0,
    ballistics: Ballistics = "branching",
    smoothing: Smoothing = "gain",
    link: bool = True,
    sidechain: bool = False,
    method: Method = "auto",
) -> Effect:
    """Noise gate: a steep expander that can be held open.

        gain_db = max(-(ratio - 1) h(threshold - level, knee), -range)

    Attack is the time to open, release the time to close. It starts open where the gain
    is smoothed, closed where the level is. Identity: ratio 1 or range 0.

    Args:
      sample_rate: Hz.
      hold_ms: how long the largest level counts on, ms; a number of samples, hence an
        option and no control.
      detector: as for `compressor`, like all that follow.
      rms_window_ms: ms.
      ballistics: see `ddspx.envelopes`.
      smoothing: see `ddspx.effects.gain_path`.
      link: one gain for all channels.
      sidechain: whether the last half of the channels is the key.
      method: see `ddspx.envelopes`.

    Returns:
      An `Effect`; controls may move.

    Raises:
      ValueError: an unknown option; when rendering, a key that the channels lack.
    """
    path = GainPath(
        float(sample_rate),
        detector,
        float(rms_window_ms),
        ballistics,
        smoothing,
        link,
        sidechain,
        float(hold_ms),
        method,
    )
    specs = (
        db("threshold_db", -100.0, -10.0, -50.0),
        log("ratio", 1.0, 40.0, 10.0, identity=1.0),
        db("knee_db", 0.0, 24.0, 3.0),
        db("range_db", 0.0, 100.0, 80.0, identity=0.0),
        ms("attack_ms", 0.1, 100.0, 1.0),
        ms("release_ms", 10.0, 1000.0, 100.0),
    )
    return make_effect(
        specs, gain_processor(path, _limited_expansion, attack_lowers_gain=False)
    )


def compression_db(level_db: Any, threshold_db: Any, ratio: Any, knee_db: Any) -> Any:
    """Static gain of a compressor with a soft knee.

        gain = -(1 - 1 / ratio) h(level - threshold, knee)
        h(d, w) = d above w / 2,  (d + w / 2)^2 / (2 w) within the knee,  0 below

    Args:
      level_db: dB, any shape.
      threshold_db: dB, a number or of the same number of axes, like all that follow.
      ratio: dB in for a dB out above the threshold, 1 or more.
      knee_db: width of the knee, dB, 0 or more.

    Returns:
      Gain in dB, 0 or less, same shape.

    Reference:
      Giannoulis, Massberg and Reiss (2012), equation 4.
    """
    return (1.0 / ratio - 1.0) * _hinge(level_db - threshold_db, knee_db)


def expansion_db(level_db: Any, threshold_db: Any, ratio: Any, knee_db: Any) -> Any:
    """Static gain of a downward expander with a soft knee.

        gain = -(ratio - 1) h(threshold - level, knee),  h of `compression_db`

    Args:
      level_db: dB, any shape.
      threshold_db: dB, a number or of the same number of axes, like all that follow.
      ratio: dB out for a dB in below the threshold, 1 or more.
      knee_db: width of the knee, dB, 0 or more.

    Returns:
      Gain in dB, 0 or less, same shape.
    """
    return (1.0 - ratio) * _hinge(threshold_db - level_db, knee_db)


@jax.custom_jvp
def _hinge(over, knee):
    """Equation 4 by the slope s in [0, 1]: w s^2 / 2, and what lies above the knee."""
    slope = _hinge_slope(over, knee)
    return 0.5 * knee * jnp.square(slope) + jnp.maximum(over - 0.5 * knee, 0.0)


def _hinge_slope(over, knee):
    # A hard knee is one of a millionth of a dB.
    return jnp.clip(over / jnp.maximum(knee, 1e-6) + 0.5, 0.0, 1.0)


# By hand: both derivatives are functions of the slope, which alone is kept.
@_hinge.defjvp
def _hinge_jvp(primals, tangents):
    slope = _hinge_slope(*primals)
    # The half goes to the control: before a sum XLA would write it out in full.
    of_knee = (slope - jnp.square(slope)) * (0.5 * tangents[1])
    return _hinge(*primals), slope * tangents[0] + of_knee


def _limited_expansion(level_db: jax.Array, values: Mapping[str, Any]) -> jax.Array:
    threshold, ratio = values["threshold_db"], values["ratio"]
    gain_db = expansion_db(level_db, threshold, ratio, values["knee_db"])
    return jnp.maximum(gain_db, -values["range_db"])


EFFECTS: dict[str, Callable[[Rate], Effect]] = {
    "compressor": compressor,
    "expander": expander,
    "noise_gate": noise_gate,
    "limiter": limiter,
}
