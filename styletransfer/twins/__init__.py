"""Differentiable twins of pedalboard's built-ins, and effects in JAX behind a host.

strip = twin_effect(load_effect("channel_strip"), 44100)
strip.render(audio, controls)            # differentiable, equal to pedalboard's
"""

from styletransfer.twins.collection import TWINS, member
from styletransfer.twins.effect import twin_effect, twin_processor
from styletransfer.twins.twin import Twin

__all__ = ["TWINS", "Twin", "member", "twin_effect", "twin_processor"]
