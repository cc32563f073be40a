"""Audio effects as pure JAX functions.

    effect = make("compressor", 44100)                # or its factory, with options
    audio = effect.render(audio, controls)            # [channels, time], [n] in [0, 1]

The nouns are here; an effect's own factory and its options are in the module of its
family, and `EFFECTS` lists them all.
"""

from ddspx.effects.base import (
    Effect,
    Processor,
    aligned,
    batched,
    make_effect,
    without_memory,
)
from ddspx.effects.combine import bypassable, chain, dry_wet, mid_side, parallel
from ddspx.effects.registry import EFFECTS, make

__all__ = [
    "EFFECTS",
    "Effect",
    "Processor",
    "aligned",
    "batched",
    "bypassable",
    "chain",
    "dry_wet",
    "make",
    "make_effect",
    "mid_side",
    "parallel",
    "without_memory",
]
