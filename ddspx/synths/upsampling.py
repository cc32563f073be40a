"""From frames to samples: what controls are between two frames.

Both ways are two-tap convex combinations, so that no synth has to write out a control
at the sample rate: hop m sees frames m and m + 1 alone.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

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


def over_hops(
    function: Callable[[Any, Any], jax.Array], frames: Any, hops: Any, hop: int
) -> jax.Array:
    """Samples of many hops, made block by block so that what is between fits a cache.

    Nothing is kept for gradients but frames and hops: blocks are computed again.

    Args:
      function: ``(frames[m + 1], hops[m]) -> [m, hop]`` for any number m, sample by
        sample alike.
      frames: a tree of arrays [n + 1, ...]: what holds at frames.
      hops: a tree of arrays [n, ...]: what belongs to hops.
      hop: samples from frame to frame.

    Returns:
      [n, hop].
    """
    count = jax.tree.leaves(hops)[0].shape[0]
    # Kernels of an accelerator are short: there, few blocks.
    most = 2**13 if jax.default_backend() == "cpu" else 2**20
    blocks = -(-count * hop // most)
    if blocks <= 1:
        return function(frames, hops)
    size = -(-count // blocks)

    def split(x):
        rest = blocks * size - count
        x = jnp.pad(x, [(0, rest), *[(0, 0)] * (x.ndim - 1)], mode="edge")
        return x[: blocks * size].reshape(blocks, size, *x.shape[1:])

    def split_frames(x):
        # A block ends with the frame that the next begins with.
        ends = [min((block + 1) * size, count) for block in range(blocks)]
        return jnp.concatenate([split(x), x[np.array(ends)][:, None]], 1)

    each = jax.tree.map(split_frames, frames), jax.tree.map(split, hops)
    made = lax.map(jax.checkpoint(lambda block: function(*block)), each)
    return made.reshape(blocks * size, hop)[:count]
