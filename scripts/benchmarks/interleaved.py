"""Calls timed in turn, so that what slows the machine slows all of them alike."""

import math
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

import jax

# Rounds that are made however long they take.
FEWEST_ROUNDS = 3

Label = TypeVar("Label", bound=Hashable)


def interleaved(
    calls: Mapping[Label, Callable[[], Any]], rounds: int, limit_s: float = math.inf
) -> dict[Label, list[float]]:
    """Seconds of each call, all called in turn, after one round that is not counted.

    Args:
      calls: by label; device work that they return is waited for.
      rounds: at most.
      limit_s: after that many seconds `FEWEST_ROUNDS` have to do.

    Returns:
      Seconds by label, one a round.
    """
    times: dict[Label, list[float]] = {label: [] for label in calls}
    began = time.perf_counter()
    for count in range(rounds + 1):
        for label, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if count:
                times[label].append(time.perf_counter() - start)
        if count >= FEWEST_ROUNDS and time.perf_counter() - began > limit_s:
            break
    return times
