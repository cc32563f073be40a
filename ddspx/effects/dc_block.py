"""DC block: a first-order high pass, exact, in parallel over time, by blocks.

The recursion is one product of blocks of the signal with a triangular matrix of powers
of the pole; the ends of the blocks obey the same recursion with a power of the pole,
and so on: a signal of a minute takes four levels. Output levels are at most those of
the input plus its DC.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ddspx.effects.base import Effect, Processor, make_effect
from ddspx.parameters import hz
from ddspx.signal import PRECISE
from ddspx.types import Rate

_BLOCK = 128
# Above, the pole leaves the positive axis, where its logarithm is real.
_HIGHEST_SHARE_OF_RATE = 0.2


def dc_block(sample_rate: Rate) -> Effect:
    """High pass of 6 dB per octave for what is too low to be heard; see `block_dc`.

    Controls: ``cutoff_hz``, 1 to 200 Hz, -3 dB there. There is no identity.

    Args:
      sample_rate: Hz.

    Returns:
      An `Effect` for any number of channels, each alone.
    """
    high = min(200.0, _HIGHEST_SHARE_OF_RATE * sample_rate)

    def process(state, audio, values):
        return block_dc(state, audio, values["cutoff_hz"], sample_rate)

    return make_effect((hz("cutoff_hz", 1.0, high, 10.0),), Processor(start, process))


def start(channels: int) -> jax.Array:
    """State before the first sample: last input and output, [channels, 2]."""
    return jnp.zeros((channels, 2))


def block_dc(
    state: Float[jax.Array, "channels 2"],
    audio: Float[jax.Array, "channels time"],
    cutoff_hz: Any,
    sample_rate: Rate,
) -> tuple[Float[jax.Array, "channels 2"], Float[jax.Array, "channels time"]]:
    """First-order high pass, the bilinear transform of ``s / (s + 1)``.

        y[t] = R y[t-1] + (x[t] - x[t-1]) / (1 + k),
        R = (1 - k) / (1 + k),  k = tan(pi cutoff / rate)

    Args:
      state: from `start` or the call before.
      audio: [channels, time].
      cutoff_hz: Hz, one number, below a fifth of the rate.
      sample_rate: Hz.

    Returns:
      The state for the next call, and [channels, time].
    """
    k = jnp.tan(np.pi * jnp.asarray(cutoff_hz, audio.dtype) / sample_rate)
    joined = jnp.concatenate([state[:, :1], audio], axis=-1)
    steps = (joined[:, 1:] - joined[:, :-1]) / (1.0 + k)
    # log R from the small k itself: 1 - R would lose its digits at low cutoffs.
    out = _one_pole(steps, jnp.log1p(-2.0 * k / (1.0 + k)), state[:, 1])
    last = jnp.concatenate([state[:, 1:], out], axis=-1)[:, -1:]
    return jnp.concatenate([joined[:, -1:], last], axis=-1), out


def _one_pole(x: jax.Array, log_pole: jax.Array, before: jax.Array) -> jax.Array:
    """``y[t] = exp(log_pole) y[t-1] + x[t]``, x [channels, time], before [channels]."""
    channels, time = x.shape
    block = min(time, _BLOCK)
    if block == 0:
        return x
    lag = np.arange(block)[:, None] - np.arange(block)[None, :]
    powers = jnp.exp(np.maximum(lag, 0) * log_pole) * (lag >= 0)
    decay = jnp.exp(np.arange(1, block + 1) * log_pole)
    count = -(-time // block)
    padded = jnp.pad(x, ((0, 0), (0, count * block - time)))
    blocks = padded.reshape(channels, count, block)
    out = jnp.matmul(blocks, powers.T, precision=PRECISE)
    arriving = before[:, None]
    if count > 1:
        ends = _one_pole(out[:, :-1, -1], block * log_pole, before)
        arriving = jnp.concatenate([arriving, ends], axis=-1)
    out = out + arriving[..., None] * decay[None, None]
    return out.reshape(channels, -1)[:, :time]
