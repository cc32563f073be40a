"""Controls that can always come back: from unbounded numbers to the unit interval.

A sigmoid's derivative is 1e-4 at 0.9999, and a clamp's is 0 outside: a control that
once got there stays. Two maps without that trap, for the two who need one:

* `controls_from_logits`, for networks: the sigmoid's value, with a derivative that
  never vanishes in the direction that leads back to the middle;
* `projected`, for a search that moves the controls themselves: take the step, then
  go to the nearest point of the cube. The estimators measure a one-sided difference at
  the border, so the gradient there is real and the next step can leave it.
"""

import jax
import jax.numpy as jnp

from ddspx.types import AnyArray

# Smallest derivative on the way back; the sigmoid's own is at most 0.25.
LEAST_DERIVATIVE = 0.1


@jax.custom_vjp
def controls_from_logits(logits: AnyArray) -> jax.Array:
    """Sigmoid whose gradient never vanishes on the way back to the middle.

        u = 1 / (1 + exp(-x)),  du/dx := max(u (1 - u), 0.1) if descent moves u towards
        1/2, else u (1 - u)

    Descent that pushes further out keeps the vanishing derivative, so that logits do
    not run away; descent that pulls back meets 0.1 at least, however far out they are.

    Args:
      logits: any shape.

    Returns:
      Controls of that shape in [0, 1].
    """
    return jax.nn.sigmoid(jnp.asarray(logits))


def _forward(logits):
    controls = jax.nn.sigmoid(jnp.asarray(logits))
    return controls, controls


def _backward(controls, cotangent):
    slope = controls * (1.0 - controls)
    # Descent moves against the cotangent: back means the signs agree.
    back = cotangent * (controls - 0.5) > 0.0
    floor = jnp.where(back, LEAST_DERIVATIVE, 0.0)
    return (cotangent * jnp.maximum(slope, floor),)


controls_from_logits.defvjp(_forward, _backward)


def logits_from_controls(controls: AnyArray, margin: float = 1e-4) -> jax.Array:
    """Logits of controls; the inverse of `controls_from_logits`.

    Args:
      controls: any shape, in [0, 1].
      margin: the logit is taken of a control at least this far from 0 and 1, so that
        a corner of the cube gets finite logits.

    Returns:
      Logits of that shape.
    """
    inside = jnp.clip(jnp.asarray(controls), margin, 1.0 - margin)
    return jnp.log(inside) - jnp.log1p(-inside)


def projected(controls: AnyArray) -> jax.Array:
    """The nearest point of the unit cube: the projection of a projected step.

    Args:
      controls: any shape; what an optimiser's step led to.

    Returns:
      ``clip(controls, 0, 1)``. Apply it to the iterate after the step, not inside a
      loss, where its derivative would be 0 outside.
    """
    return jnp.clip(jnp.asarray(controls), 0.0, 1.0)
