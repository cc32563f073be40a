"""From frames to samples: what controls are between two frames.

Both ways are two-tap convex combinations, so that no synth has to write out a control
at the sample rate: hop m sees frames m and m + 1 alone.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ddspx.types import AnyArray

Upsampling = Literal["linear", "window"]
UPSAMPLINGS: tuple[Upsampling, ...] = ("linear", "window")


def crossfade(hop: int, upsampling: Upsampling = "window") -> np.ndarray:
    """The share of the next frame in each sample of a hop.

        linear: w[tau] = tau / hop;  window: w[tau] = (1 - cos(pi tau / hop)) / 2

    The second equals overlap-add of Hann windows of two hops.

    Args:
      hop: samples from frame to frame.
      upsampling: ``"linear"`` or ``"window"``.

    Returns:
      float64 [hop], from 0.

    Raises:
      ValueError: hop is less than 1, or the way is unknown.
    """
    if hop < 1:
        raise ValueError(f"hop is 1 sample or more, got {hop}")
    if upsampling not in UPSAMPLINGS:
        raise ValueError(f"upsampling {upsampling!r} is unknown; use {UPSAMPLINGS}")
    ramp = np.arange(hop) / hop
    return ramp if upsampling == "linear" else 0.5 - 0.5 * np.cos(np.pi * ramp)


def between(frames: AnyArray, weights: np.ndarray) -> jax.Array:
    """A control of one number a frame, at every sample of the hops between frames.

        x[m, tau] = x[m] + w[tau] (x[m + 1] - x[m])

    Args:
      frames: [n + 1].
      weights: [hop], see `crossfade`.

    Returns:
      [n, hop].
    """
    frames = jnp.asarray(frames)
    share = jnp.asarray(weights, frames.dtype)[None]
    return frames[:-1, None] + share * (frames[1:] - frames[:-1])[:, None]
