"""Freeverb: eight damped combs in parallel and four all-passes in series a channel.

Audio [1 or 2, time]; levels are not clipped. Structure, tunings and scales are those of
Jezar's public-domain Freeverb as JUCE and pedalboard use it, so that settings carry
over. The wet signal of both channels comes from the sum of both.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddspx.comb_filters import (
    DelayState,
    comb_bank,
    delay_network_state,
    delayed,
    feedback_comb,
)
from ddspx.effects.base import Effect, Processor, make_effect
from ddspx.parameters import plain
from ddspx.types import Rate

# Samples at 44.1 kHz; the right channel's are longer by the spread.
COMB_TUNINGS = (1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617)
ALLPASS_TUNINGS = (556, 441, 341, 225)
STEREO_SPREAD = 23
TUNING_RATE_HZ = 44100
ALLPASS_GAIN = 0.5
INPUT_GAIN = 0.015
WET_SCALE = 3.0
DRY_SCALE = 2.0
DAMPING_SCALE = 0.4
ROOM_SCALE, ROOM_OFFSET = 0.28, 0.7


class FreeverbState(NamedTuple):
    """What the combs and, by channel and stage, the all-passes remember."""

    combs: DelayState
    allpasses: tuple[tuple[jax.Array, ...], ...]


def freeverb(sample_rate: Rate) -> Effect:
    """Freeverb with its five knobs; see `freeverb_processor`.

    The effect has an identity: wet 0 and dry 0.5.

    Args:
      sample_rate: Hz.

    Returns:
      An `Effect` for one or two channels.

    Raises:
      ValueError: the rate is too low for the shortest delay to be a sample.
    """
    specs = (
        plain("room_size", 0.0, 1.0, 0.5),
        plain("damping", 0.0, 1.0, 0.5),
        plain("wet_level", 0.0, 1.0, 0.33, identity=0.0),
        plain("dry_level", 0.0, 1.0, 0.4, identity=0.5),
        plain("width", 0.0, 1.0, 1.0),
    )
    return make_effect(specs, freeverb_processor(sample_rate))


def freeverb_processor(sample_rate: Rate) -> Processor:
    """Freeverb in its own units, which are all 0 to 1.

        s    = 0.015 (x_l + x_r), or 0.015 x for one channel
        c_j  = sum_i comb(s; D_ij, f = 0.7 + 0.28 room_size, d = 0.4 damping)
        w_j  = all-passes of c_j
        y_l  = 2 dry x_l + 1.5 wet ((1 + width) w_l + (1 - width) w_r)

    and y_r with left and right exchanged; one channel has no w_r. The all-passes are
    Freeverb's, ``w[n] = b[n - D] - v[n], b[n] = v[n] + b[n - D] / 2``, flat only
    nearly. A value ``freeze`` of 0.5 or more, if given, shuts the input and holds what
    sounds for ever.

    Args:
      sample_rate: Hz; tunings are scaled and rounded down as JUCE does.

    Returns:
      A `Processor` of room_size, damping, wet_level, dry_level, width and optionally
      freeze.

    Raises:
      ValueError: the rate is too low for the shortest delay to be a sample.

    Reference:
      Jezar, Freeverb, 2000; Schroeder, "Natural sounding artificial reverberation",
      JAES 10(3), 1962.
    """
    combs = [_scaled(COMB_TUNINGS, s, sample_rate) for s in (0, STEREO_SPREAD)]
    stages = [_scaled(ALLPASS_TUNINGS, s, sample_rate) for s in (0, STEREO_SPREAD)]

    def init_state(channels):
        if channels not in (1, 2):
            raise ValueError(f"Freeverb renders one or two channels, got {channels}")
        flat = [delay for group in combs[:channels] for delay in group]
        allpasses = [tuple(jnp.zeros(d) for d in row) for row in stages[:channels]]
        return FreeverbState(delay_network_state(flat), tuple(allpasses))

    def process(state, audio, values):
        channels = len(audio)
        feedback = ROOM_OFFSET + ROOM_SCALE * values["room_size"]
        damping = DAMPING_SCALE * values["damping"]
        gain = INPUT_GAIN
        if "freeze" in values:
            frozen = jnp.asarray(values["freeze"]) >= 0.5
            feedback = jnp.where(frozen, 1.0, feedback)
            damping = jnp.where(frozen, 0.0, damping)
            gain = jnp.where(frozen, 0.0, gain)
        state = jax.tree.map(lambda leaf: leaf.astype(audio.dtype), state)
        after, wet = comb_bank(
            state.combs, gain * audio.sum(0), combs[:channels], feedback, damping
        )
        allpasses, rows = [], []
        for before, row in zip(state.allpasses, wet, strict=True):
            ends, row = _allpasses(before, row)
            allpasses.append(ends)
            rows.append(row)
        wet = jnp.stack(rows)
        level, width = 0.5 * WET_SCALE * values["wet_level"], values["width"]
        mixed = level * (1.0 + width) * wet
        if channels == 2:
            mixed = mixed + level * (1.0 - width) * wet[::-1]
        dry = DRY_SCALE * values["dry_level"] * audio
        return FreeverbState(after, tuple(allpasses)), dry + mixed

    return Processor(init_state, process)


def _allpasses(
    states: Sequence[jax.Array], audio: jax.Array
) -> tuple[tuple[Any, ...], jax.Array]:
    ends = []
    for state in states:
        after, looped = feedback_comb(state, audio, ALLPASS_GAIN)
        audio = delayed(state, looped) - audio
        ends.append(after)
    return tuple(ends), audio


def _scaled(tunings: Sequence[int], spread: int, sample_rate: Rate) -> tuple[int, ...]:
    scaled = [int(sample_rate) * (t + spread) // TUNING_RATE_HZ for t in tunings]
    if min(scaled) < 1:
        raise ValueError(
            f"at {sample_rate} Hz the shortest delay of Freeverb is less than a sample;"
            f" use {TUNING_RATE_HZ // min(ALLPASS_TUNINGS) + 1} Hz or more"
        )
    return tuple(scaled)
