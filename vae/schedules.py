"""Schedules of beta, or of a capacity, over training steps.

Each is a function from a step (integer or traced) to a float32 number, as optax's
schedules are, and can stand in their place.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

Schedule = Callable[[Any], Any]


def constant(value: float) -> Schedule:
    """The same value at every step."""
    return optax.constant_schedule(value)


def linear(first: float, last: float, steps: int) -> Schedule:
    """A straight line from `first` to `last` in `steps`, then `last`."""
    _positive(steps)
    return optax.linear_schedule(first, last, steps)


def cosine(first: float, last: float, steps: int) -> Schedule:
    """Half a cosine from `first` to `last` in `steps`, then `last`.

    value = last + (first - last) (1 + cos(pi step / steps)) / 2
    """
    _positive(steps)

    def schedule(step):
        share = jnp.clip(jnp.asarray(step) / steps, 0.0, 1.0)
        return last + (first - last) * 0.5 * (1.0 + jnp.cos(jnp.pi * share))

    return schedule


def cyclic(
    low: float, high: float, steps: int, cycles: int, ramp: float = 0.5
) -> Schedule:
    """A ramp from `low` to `high` and a plateau, repeated; `high` for good at the end.

    Args:
      low: at the start of each cycle.
      high: after the ramp.
      steps: of all cycles together.
      cycles: how many.
      ramp: share of a cycle that rises.

    Returns:
      A schedule.

    Raises:
      ValueError: no steps or cycles, or ramp not in (0, 1].

    Reference: H. Fu et al., Cyclical annealing schedule (2019), eq. 6.
    """
    _positive(steps)
    if cycles < 1 or not 0.0 < ramp <= 1.0:
        raise ValueError(f"cycles {cycles} must be 1 or more and ramp {ramp} in (0, 1]")

    def schedule(step):
        step = jnp.asarray(step)
        place = jnp.mod(step * (cycles / steps), 1.0)
        rising = low + (high - low) * jnp.minimum(place / ramp, 1.0)
        return jnp.where(step >= steps, high, rising)

    return schedule


def _positive(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"a schedule needs 1 step or more, got {steps}")
