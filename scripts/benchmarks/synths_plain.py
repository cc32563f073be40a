"""The synths as their equations are usually written in JAX: what others do, op by op.

Every control is written out at the sample rate, phases are cumulative sums of floats,
and all sines or distances are there at once. Numbers are those of magenta's DDSP, whose
steps these are; `benchmark.py synths` measures against them, tests compare with them in
float64, where the sums of phases are exact enough.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Controls = Mapping[str, Any]


def harmonic(
    controls: Controls, sample_rate: float, hop: int, upsampling: str = "window"
) -> jax.Array:
    """Sum of harmonics: controls as of `ddspx.synths.harmonic`, audio [frames hop]."""
    distribution = controls["harmonic_distribution"]
    number = jnp.arange(1, distribution.shape[-1] + 1, dtype=distribution.dtype)
    return sinusoidal(
        {
            "frequencies_hz": controls["f0_hz"][:, None] * number[None],
            "amplitudes": controls["amplitude"][:, None] * distribution,
        },
        sample_rate,
        hop,
        upsampling,
    )


def sinusoidal(
    controls: Controls, sample_rate: float, hop: int, upsampling: str = "window"
) -> jax.Array:
    """A bank of sines: controls as of `ddspx.synths.sinusoidal`, audio [frames hop]."""
    frequencies = linear(controls["frequencies_hz"], hop)
    resample = window if upsampling == "window" else linear
    amplitudes = resample(controls["amplitudes"], hop)
    amplitudes = jnp.where(frequencies >= 0.5 * sample_rate, 0.0, amplitudes)
    phases = jnp.cumsum(frequencies * (2.0 * np.pi / sample_rate), 0)
    return jnp.sum(amplitudes * jnp.sin(phases), -1)


def wavetable(
    controls: Controls, sample_rate: float, hop: int, upsampling: str = "window"
) -> jax.Array:
    """A moving table, read by a weight for every entry: audio [frames hop]."""
    steps = linear(controls["f0_hz"][:, None], hop)[:, 0] / sample_rate
    phases = jnp.mod(jnp.cumsum(steps) - steps, 1.0)
    tables = linear(controls["wavetable"], hop)
    size = tables.shape[-1]
    # The first entry comes again at the end of the turn.
    tables = jnp.concatenate([tables, tables[:, :1]], 1)
    places = jnp.arange(size + 1, dtype=tables.dtype)[None] / size
    distance = jnp.abs(phases[:, None] - places) * size
    wave = jnp.sum(jnp.maximum(1.0 - distance, 0.0) * tables, -1)
    resample = window if upsampling == "window" else linear
    return wave * resample(controls["amplitude"][:, None], hop)[:, 0]


def linear(frames: jax.Array, hop: int) -> jax.Array:
    """[frames, k] to [frames hop, k] by straight lines; the last frame holds."""
    frames = jnp.concatenate([frames, frames[-1:]])
    share = jnp.asarray(np.arange(hop) / hop, frames.dtype)[None, :, None]
    made = frames[:-1, None] * (1.0 - share) + frames[1:, None] * share
    return made.reshape(-1, frames.shape[-1])


def window(frames: jax.Array, hop: int) -> jax.Array:
    """[frames, k] to [frames hop, k] by overlapping Hann windows of two hops."""
    frames = jnp.concatenate([frames, frames[-1:]])
    hann = 0.5 - 0.5 * np.cos(np.pi * np.arange(2 * hop) / hop)
    pieces = frames[:, None] * jnp.asarray(hann, frames.dtype)[None, :, None]
    made = pieces[:-1, hop:] + pieces[1:, :hop]
    return made.reshape(-1, frames.shape[-1])
