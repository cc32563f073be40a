"""The engine of slots of kind ``"jax"`` in chains that also hold other kinds.

It is what lets a chain of twins and black boxes render in any backend; a chain of
nothing but JAX is opened as a `styletransfer.twins.host.JaxHost`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from styletransfer.hosts.description import BYPASS, HostEffect, Slot
from styletransfer.twins.compiled import compiled, padded_length
from styletransfer.twins.effect import twin_processor

# JAX runs executables from any thread.
THREAD_SAFE = True


def open_segment(slots: Sequence[Slot], sample_rate: int | float) -> "JaxSegment":
    """Opens adjacent slots; checks every name and fixed value.

    Args:
      slots: of kind ``"jax"``, in order.
      sample_rate: Hz.

    Raises:
      ValueError: see `styletransfer.twins.effect.twin_effect`.
    """
    return JaxSegment(slots, sample_rate)


class JaxSegment:
    """Adjacent slots as one executable for each shape of audio.

    Args:
      slots: of kind ``"jax"``, in order.
      sample_rate: Hz.
    """

    def __init__(self, slots: Sequence[Slot], sample_rate: int | float):
        self._effect = HostEffect("segment", tuple(slots))
        self._sample_rate = float(sample_rate)
        twin_processor(self._effect, sample_rate)

    def render(
        self, audio: np.ndarray, settings: Sequence[dict[str, Any] | None]
    ) -> np.ndarray:
        """See `styletransfer.hosts.engine.Segment.render`."""
        values = [
            _number(spec, setting)
            for slot, setting in zip(self._effect.slots, settings, strict=True)
            for spec in slot.controls
        ]
        channels, time = audio.shape
        length = padded_length(time)
        render = compiled(self._effect, self._sample_rate, 1, channels, length)
        padded = np.pad(audio, ((0, 0), (0, length - time)))
        output = render(padded[None], np.array([values], np.float32))
        return np.asarray(output)[0, :, :time]


def _number(spec, setting: dict[str, Any] | None) -> float:
    """A setting as the processor takes it; a bypassed slot is skipped by its switch."""
    if spec.name == BYPASS:
        return 1.0 if setting is None else 0.0
    value = spec.default if setting is None else setting[spec.name]
    return float(spec.choices.index(value)) if isinstance(value, str) else float(value)
