"""From unbounded network outputs to positive amplitudes.

Amplitudes are linear. Formulas and constants are those of DDSP (Engel et al., ICLR
2020) and its library, so that trained models can be compared.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ddspx.types import AnyArray


def exp_sigmoid(
    outputs: AnyArray,
    exponent: float = 10.0,
    max_value: float = 2.0,
    threshold: float = 1e-7,
) -> jax.Array:
    """A positive amplitude that grows exponentially, then levels off.

        y = max_value sigmoid(x)^ln(exponent) + threshold

    Args:
      outputs: unbounded, any shape.
      exponent: factor of y for a step of 1 in x, far below 0.
      max_value: for large x.
      threshold: for x far below 0; keeps logarithms and gradients alive.

    Returns:
      Same shape, above 0.
    """
    outputs = jnp.asarray(outputs)
    # The power as a logarithm: its gradient is finite however small the sigmoid.
    power = jnp.exp(float(np.log(exponent)) * jax.nn.log_sigmoid(outputs))
    return max_value * power + threshold


def sym_exp_sigmoid(outputs: AnyArray, width: float = 8.0) -> jax.Array:
    """`exp_sigmoid` of the distance from zero: least at 0, the same for both signs.

        y = exp_sigmoid(width (|x| / 2 - 1))

    Args:
      outputs: unbounded, any shape.
      width: of the valley; the larger, the steeper.

    Returns:
      Same shape, above 0.
    """
    return exp_sigmoid(width * (0.5 * jnp.abs(jnp.asarray(outputs)) - 1.0))
