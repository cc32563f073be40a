"""Brick-wall limiter with look-ahead.

Audio is [channels, time] of any level; the output never exceeds the ceiling, and is
later than the input by `latency_samples`.
"""

import jax.numpy as jnp

from ddspx.effects.base import Effect, Processor, make_effect
from ddspx.effects.gain_path import rows
from ddspx.envelopes import (
    Method,
    held,
    sliding_mean,
    sliding_minimum,
    time_to_step,
)
from ddspx.parameters import db, ms
from ddspx.types import Rate
from ddspx.units import db_to_gain


def limiter(
    sample_rate: Rate,
    *,
    lookahead_ms: Rate = 2.0,
    link: bool = True,
    method: Method = "auto",
) -> Effect:
    """Limiter: no sample of the output is above the ceiling.

        r[n] = min(1, ceiling / |x[n]|)                 the gain that sample n needs
        m[n] = min(r[n - L], ..., r[n])                 what is coming
        e[n] = min(m[n], e[n-1] + k (m[n] - e[n-1]))    release
        y[n] = x[n - L] mean(e[n - L], ..., e[n])       an attack of L samples

    Every e in the mean lies at or below r[n - L], so their mean does. What is left of
    rounding is clipped. With audio below the ceiling the effect is a delay; with no
    look-ahead and at gain 0 it is the identity there.

    Args:
      sample_rate: Hz.
      lookahead_ms: L in ms, 0 or more: the length of the attack and the latency.
      link: one gain for all channels, from the loudest; else one for each.
      method: see `ddspx.envelopes`.

    Returns:
      An `Effect`; controls may move.

    Raises:
      ValueError: a negative look-ahead, or an unknown method.
    """
    lookahead = latency_samples(sample_rate, lookahead_ms)
    if method not in ("auto", "scan", "parallel"):
        raise ValueError(f"method {method!r} is not auto, scan or parallel")
    specs = (
        db("gain_db", -12.0, 24.0, 0.0, identity=0.0),
        db("ceiling_db", -24.0, 0.0, -1.0),
        ms("release_ms", 10.0, 1000.0, 100.0),
    )

    def init_state(channels):
        gains = 1 if link else channels
        return {
            "delay": jnp.zeros((channels, lookahead)),
            "needed": jnp.ones((gains, lookahead)),
            "released": jnp.ones(gains),
            "gain": jnp.ones((gains, lookahead)),
        }

    def process(state, audio, values):
        values = rows(values, audio.dtype)
        ceiling = db_to_gain(values["ceiling_db"])
        audio = audio * db_to_gain(values["gain_db"])
        peak = jnp.abs(audio)
        peak = peak.max(0, keepdims=True) if link else peak
        needed = ceiling / jnp.maximum(peak, ceiling)
        lowest, needed = sliding_minimum(needed, lookahead + 1, state["needed"])
        # Upside down the fall of the gain is a rise, which is taken at once.
        release = time_to_step(values["release_ms"], sample_rate)
        followed, final = held(-lowest, release, -state["released"], method=method)
        gain, smoothed = sliding_mean(-followed, lookahead + 1, state["gain"])
        delayed = jnp.concatenate([state["delay"].astype(audio.dtype), audio], -1)
        time = audio.shape[-1]
        output = jnp.clip(delayed[:, :time] * gain, -ceiling, ceiling)
        state = {
            "delay": delayed[:, time:],
            "needed": needed,
            "released": -final,
            "gain": smoothed,
        }
        return state, output

    return make_effect(specs, Processor(init_state, process, True, lookahead))


def latency_samples(sample_rate: Rate, lookahead_ms: Rate) -> int:
    """How much later than its input a limiter's output is.

    Args:
      sample_rate: Hz.
      lookahead_ms: ms, 0 or more.

    Returns:
      Samples.

    Raises:
      ValueError: the look-ahead is negative, or the rate not positive.
    """
    if not (sample_rate > 0 and lookahead_ms >= 0):
        raise ValueError(
            f"sample_rate {sample_rate} must be positive and lookahead_ms"
            f" {lookahead_ms} at least 0"
        )
    return round(lookahead_ms * sample_rate / 1000.0)
