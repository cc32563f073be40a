"""Renders chains of pedalboard built-ins; the only module that touches pedalboard.

Each render makes fresh instances (about a microsecond each): a used `Reverb` glides
from the values of the render before. `Phaser` maps its centre frequency with 44.1 kHz
until it was prepared, so it processes one sample at the right rate before it is set.
Only `Convolution`, whose impulse response is dear to load, keeps one instance.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pedalboard

from styletransfer.hosts.catalogue import PluginFacts, facts
from styletransfer.hosts.description import BYPASS, Slot

# Built-ins release the interpreter lock and share nothing between instances.
THREAD_SAFE = True
# pedalboard guesses which axis is time from the shape; longer than wide is certain.
_SHORTEST = 64


def open_segment(
    slots: Sequence[Slot], sample_rate: int | float
) -> "PedalboardSegment":
    """Opens adjacent built-ins; checks every fixed value by making one of each.

    Args:
      slots: pedalboard slots in order.
      sample_rate: Hz.

    Raises:
      ValueError: an unknown plug-in or parameter, or a value it refuses.
    """
    return PedalboardSegment(slots, sample_rate)


class PedalboardSegment:
    """Adjacent built-ins that pedalboard runs as one chain, with one copy in and out.

    Args:
      slots: pedalboard slots in order.
      sample_rate: Hz.
    """

    def __init__(self, slots: Sequence[Slot], sample_rate: int | float):
        self._sample_rate = float(sample_rate)
        self._makers = [_maker(slot, self._sample_rate) for slot in slots]
        limits = [(facts(slot.plugin).max_channels, slot) for slot in slots]
        self._channel_limits = [(n, slot.name) for n, slot in limits if n is not None]

    def render(
        self, audio: np.ndarray, settings: Sequence[dict[str, Any] | None]
    ) -> np.ndarray:
        """See `styletransfer.hosts.engine.Segment.render`."""
        channels, length = audio.shape
        for most, name in self._channel_limits:
            if channels > most:
                raise ValueError(
                    f"slot {name} renders at most {most} channels, got {channels}"
                )
        plugins = [
            make(values)
            for make, values in zip(self._makers, settings, strict=True)
            if values is not None
        ]
        if not plugins:
            return audio
        shortest = max(_SHORTEST, channels + 1)
        if length < shortest:
            audio = np.pad(audio, ((0, 0), (0, shortest - length)))
        # buffer_size is left at 8192: it changes no bit of a built-in.
        chain = plugins[0] if len(plugins) == 1 else pedalboard.Pedalboard(plugins)
        return chain.process(audio, self._sample_rate, reset=True)[:, :length]


def _maker(slot: Slot, sample_rate: int | float) -> Callable[[dict[str, Any]], Any]:
    """A function from settings to an instance that is set and clean."""
    known = facts(slot.plugin)
    plugin_class = getattr(pedalboard, slot.plugin)
    convert = _converters(plugin_class, known)
    fixed = {name: convert.get(name, _as_is)(value) for name, value in slot.fixed}
    construct = {k: v for k, v in fixed.items() if k in known.required}
    construct |= {k: v for k, v in fixed.items() if k in known.optional}
    attributes = {k: v for k, v in fixed.items() if k not in construct}
    for name in (*attributes, *(s.name for s in slot.controls if s.name != BYPASS)):
        try:
            known.parameter(name)
        except KeyError:
            raise ValueError(
                f"slot {slot.name}: {slot.plugin} has no parameter {name!r}"
            ) from None

    def converted(values: dict[str, Any]) -> dict[str, Any]:
        if not convert:
            return values
        return {k: convert.get(k, _as_is)(v) for k, v in values.items()}

    def fresh(values: dict[str, Any]) -> Any:
        return plugin_class(**construct, **attributes, **converted(values))

    def prepared(values: dict[str, Any]) -> Any:
        plugin = plugin_class(**construct)
        plugin.process(np.zeros((1, _SHORTEST), np.float32), sample_rate)
        for name, value in (attributes | converted(values)).items():
            setattr(plugin, name, value)
        return plugin

    try:
        first = fresh({})
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        raise ValueError(
            f"slot {slot.name}: {slot.plugin} refused {construct | attributes}: {error}"
        ) from error

    def reused(values: dict[str, Any]) -> Any:
        for name, value in (attributes | converted(values)).items():
            setattr(first, name, value)
        return first

    return prepared if known.prepare else reused if known.reuse else fresh


def _as_is(value: Any) -> Any:
    return value


def _converters(
    plugin_class: Any, known: PluginFacts
) -> dict[str, Callable[[str], Any]]:
    """From the text of a choice to the value that pedalboard takes."""
    enumerations = {"mode": "Mode", "quality": "Quality"}
    found: dict[str, Callable[[str], Any]] = {}
    for spec in known.parameters:
        if not spec.choices:
            continue
        if spec.name in enumerations:
            owner = plugin_class if spec.name == "mode" else pedalboard.Resample
            found[spec.name] = getattr(
                owner, enumerations[spec.name]
            ).__members__.__getitem__
        else:
            found[spec.name] = "on".__eq__
    return found
