"""Opens a description and renders one item: the part that touches plug-ins.

Every backend renders through `Engine`, in whatever thread or process it lives, so all
of them give the same bits. Adjacent slots of one kind form a segment, opened by the
function that `_OPENERS` names for the kind; a new format is one more entry there.
"""

import importlib
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Protocol

import numpy as np

from ddspx.parameters import ParameterSpec
from styletransfer.hosts.description import BYPASS, HostEffect, Slot

# kind -> module with open_segment(slots, sample_rate) and THREAD_SAFE; imported only
# where it is opened, so that the training process never loads what it does not host.
_OPENERS = {
    "pedalboard": "styletransfer.hosts.pedalboard",
    "vst3": "styletransfer.hosts.vst3",
    "lv2": "styletransfer.hosts.lv2",
    "fault": "styletransfer.hosts.fault",
    "jax": "styletransfer.twins.segment",
}


class Segment(Protocol):
    """Adjacent slots of one kind, opened at a sample rate."""

    def render(
        self, audio: np.ndarray, settings: Sequence[dict[str, Any] | None]
    ) -> np.ndarray:
        """Renders audio [channels, time] from a cleared state.

        Args:
          audio: float32; must not be changed.
          settings: for each slot its physical parameter values by name, a choice as its
            text; None for a slot that is bypassed.

        Returns:
          audio of the same shape, float32.
        """
        ...


class Engine:
    """One opened chain; renders one item at a time and belongs to one thread.

    Args:
      effect: already limited to the sample rate (`HostEffect.at_sample_rate`).
      sample_rate: Hz.

    Raises:
      ValueError: unknown kind, plug-in or value, from the kind's own opener.
    """

    def __init__(self, effect: HostEffect, sample_rate: int | float):
        self._segments: list[Segment] = []
        self._layout: list[list[tuple[Slot, slice]]] = []
        start = 0
        slots = [slot for slot in effect.slots if not slot.bypass]
        for kind, group in groupby(slots, lambda slot: slot.kind):
            members = list(group)
            spans = []
            for slot in members:
                spans.append((slot, slice(start, start + len(slot.controls))))
                start += len(slot.controls)
            self._layout.append(spans)
            self._segments.append(_opener(kind).open_segment(members, sample_rate))

    def render(self, audio: np.ndarray, controls: np.ndarray) -> np.ndarray:
        """Renders one item from a cleared state.

        Args:
          audio: [channels, time] float32.
          controls: [n] in [0, 1], finite.

        Returns:
          [channels, time] float32; shares no memory with `audio`, except where every
          slot is bypassed.
        """
        values = [float(value) for value in controls]
        for segment, spans in zip(self._segments, self._layout, strict=True):
            settings = [_settings(slot, values[span]) for slot, span in spans]
            audio = segment.render(audio, settings)
        return audio


def runs_in_threads(effect: HostEffect) -> bool:
    """Whether every plug-in of the chain may be used in threads of this process."""
    return all(_opener(slot.kind).THREAD_SAFE for slot in effect.slots)


def slot_settings(
    effect: HostEffect, controls: Iterable[Any]
) -> dict[str, dict[str, Any] | None]:
    """Physical values of each slot by name, choices as text; None for a bypassed one.

    Args:
      effect: limited to the sample rate.
      controls: [n] in [0, 1].
    """
    found: dict[str, dict[str, Any] | None] = {}
    units = [float(value) for value in controls]
    start = 0
    for slot in effect.slots:
        if slot.bypass:
            found[slot.name] = None
            continue
        stop = start + len(slot.controls)
        found[slot.name], start = _settings(slot, units[start:stop]), stop
    return found


def _opener(kind: str) -> Any:
    if kind not in _OPENERS:
        raise ValueError(
            f"no engine opens plug-ins of kind {kind!r}; known: {', '.join(_OPENERS)}"
        )
    return importlib.import_module(_OPENERS[kind])


def _settings(slot: Slot, values: Sequence[float]) -> dict[str, Any] | None:
    table = {
        spec.name: _physical(spec, value)
        for spec, value in zip(slot.controls, values, strict=True)
    }
    if table.pop(BYPASS, "off") == "on":
        return None
    return table


def _physical(spec: ParameterSpec, value: float) -> float | str:
    physical = spec.to_physical(value)
    return spec.choices[int(physical)] if spec.choices else float(physical)
