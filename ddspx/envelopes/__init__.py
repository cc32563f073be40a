"""Levels in time: followers with attack and release, extremes of moving windows."""

from ddspx.envelopes.followers import (
    Method,
    branching,
    decoupled,
    held,
    smooth,
    time_to_step,
)
from ddspx.envelopes.sliding import sliding_maximum, sliding_mean, sliding_minimum

__all__ = [
    "Method",
    "branching",
    "decoupled",
    "held",
    "sliding_maximum",
    "sliding_mean",
    "sliding_minimum",
    "smooth",
    "time_to_step",
]
