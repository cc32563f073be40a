"""Recurrent layers over frames: one that goes step by step, one that does not.

Both take [..., frames, features] and give [..., frames, units] with the state after the
last frame, so that a sound in blocks is the sound as a whole. All products with the
inputs are made for all frames at once.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


class GruLayer(nn.Module):
    """Gated recurrent unit in the form of cuDNN, PyTorch and Keras (reset_after).

        r = sigmoid(x W_r + h U_r + b_r),   z = sigmoid(x W_z + h U_z + b_z)
        n = tanh(x W_n + b_n + r * (h U_n + c_n))
        h' = (1 - z) * n + z * h

    Weights ``input/kernel`` [features, 3 units], ``input/bias`` [3 units],
    ``hidden_kernel`` [units, 3 units] and ``hidden_bias`` [3 units], in the order r, z,
    n.

    Attributes:
      units: of the state.

    Reference: K. Cho et al., EMNLP 2014.
    """

    units: int

    @nn.compact
    def __call__(self, inputs: Any, state: Any = None) -> tuple[jax.Array, jax.Array]:
        """Runs over frames.

        Args:
          inputs: [..., frames, features].
          state: [..., units] before the first frame; zeros if None.

        Returns:
          (states [..., frames, units], the last of them [..., units]).
        """
        driven = nn.Dense(3 * self.units, name="input")(inputs)
        kernel = self.param(
            "hidden_kernel",
            nn.initializers.orthogonal(),
            (self.units, 3 * self.units),
        )
        bias = self.param("hidden_bias", nn.initializers.zeros, (3 * self.units,))
        if state is None:
            state = jnp.zeros((*driven.shape[:-2], self.units), driven.dtype)
        bias = jnp.broadcast_to(bias, (*state.shape[:-1], 3 * self.units))

        def step(h, x):
            own = h @ kernel + bias
            (xr, xz, xn), (hr, hz, hn) = jnp.split(x, 3, -1), jnp.split(own, 3, -1)
            keep = nn.sigmoid(xz + hz)
            new = nn.tanh(xn + nn.sigmoid(xr + hr) * hn)
            h = new + keep * (h - new)
            return h, h

        state, states = lax.scan(step, state, jnp.moveaxis(driven, -2, 0))
        return jnp.moveaxis(states, 0, -2), jnp.asarray(state)


class ParallelRecurrence(nn.Module):
    """A gated recurrence that is linear in its state, all frames at once (minGRU).

        z = sigmoid(x W_z + b_z),   n = x W_n + b_n
        h' = (1 - z) * h + z * n

    Gates do not see the state, so that an associative scan takes as many rounds as the
    logarithm of the frames.

    Attributes:
      units: of the state.

    Reference: L. Feng et al., Were RNNs all we needed? (2024).
    """

    units: int

    @nn.compact
    def __call__(self, inputs: Any, state: Any = None) -> tuple[jax.Array, jax.Array]:
        """Runs over frames.

        Args:
          inputs: [..., frames, features].
          state: [..., units] before the first frame; zeros if None.

        Returns:
          (states [..., frames, units], the last of them [..., units]).
        """
        driven = nn.Dense(2 * self.units, name="input")(inputs)
        gate, new = jnp.split(driven, 2, -1)
        gate = nn.sigmoid(gate)
        keep, drive = 1.0 - gate, gate * new
        if state is not None:
            first = drive[..., 0, :] + keep[..., 0, :] * state
            drive = drive.at[..., 0, :].set(first)

        def after(one, two):
            return one[0] * two[0], two[0] * one[1] + two[1]

        _, states = lax.associative_scan(after, (keep, drive), axis=-2)
        return states, states[..., -1, :]
