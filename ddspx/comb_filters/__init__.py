"""Recirculating delays of fixed length: combs, all-passes and networks of delay lines.

Audio is one signal [time] or, for `delay_network`, [inputs, time]; levels are never
clipped. Delays are whole samples, fixed at trace time; gains and damping are traced and
have gradients. Every function takes a state and returns the next one, and a signal cut
into blocks of any length gives what the whole gives.

A loop with a delay of D samples can be computed D samples at a time, since no sample of
a block depends on another of the same block. The gradient is the same network run
backwards: the adjoint of a linear recursion.
"""

from ddspx.comb_filters.network import (
    DelayGains,
    DelayState,
    comb_bank,
    delay_network,
    delay_network_state,
)
from ddspx.comb_filters.recursion import delayed, feedback_comb, schroeder_allpass

__all__ = [
    "DelayGains",
    "DelayState",
    "comb_bank",
    "delay_network",
    "delay_network_state",
    "delayed",
    "feedback_comb",
    "schroeder_allpass",
]
