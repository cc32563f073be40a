"""Convolutions that make images larger, with gradients that a CPU computes quickly."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_AXES = ("NHWC", "HWIO", "NHWC")


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def transposed_convolution(
    images: jax.Array, kernel: jax.Array, strides: tuple[int, int]
) -> jax.Array:
    """``lax.conv_transpose(images, kernel, strides, "SAME")`` for 3 x 3 kernels.

    XLA's rule for the kernel's gradient is a convolution of the dilated input by the
    whole output, which takes a CPU tens of times as long as the convolution. Up is the
    transpose of down,

        <g, up(u, k)> = <down(g, k'), u>,   k'[i, j, o, c] = k[2 - i, 2 - j, c, o]

    so that the gradient is the one that a strided convolution of g has. Reverse mode
    only.

    Args:
      images: [batch, rows, columns, channels].
      kernel: [3, 3, channels, features].
      strides: 1 or 2 for rows and for columns.

    Returns:
      [batch, rows s, columns t, features].
    """
    return _up(images, kernel, strides)


def _up(images: jax.Array, kernel: jax.Array, strides: tuple[int, int]) -> jax.Array:
    return lax.conv_transpose(images, kernel, strides, "SAME", dimension_numbers=_AXES)


def _down(images: jax.Array, kernel: jax.Array, strides: tuple[int, int]) -> jax.Array:
    # What `SAME` of the transposed convolution leaves: one at both ends for a stride
    # of one, one at the far end for two.
    padding = [(2 - stride, 1) for stride in strides]
    return lax.conv_general_dilated(
        images, kernel, strides, padding, dimension_numbers=_AXES
    )


def _turned(kernel: jax.Array) -> jax.Array:
    return jnp.swapaxes(kernel[::-1, ::-1], 2, 3)


def _forward(images: Any, kernel: Any, strides: tuple[int, int]) -> tuple[Any, Any]:
    return _up(images, kernel, strides), (images, kernel)


def _backward(strides: tuple[int, int], saved: Any, gradient: Any) -> tuple[Any, Any]:
    images, kernel = saved
    pulled, pull = jax.vjp(
        lambda turned: _down(gradient, turned, strides), _turned(kernel)
    )
    return pulled, _turned(pull(images)[0])


transposed_convolution.defvjp(_forward, _backward)
