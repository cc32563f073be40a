"""Renders VST3 plug-ins through pedalboard, on the main thread of a worker process.

Parameters are set by ``raw_value``, in [0, 1], which nothing checks: they are clipped
and finite when they arrive here. Setting by attribute would snap to the plug-in's text.

A render is ``reset()``, then all values, then ``process(reset=False)``. The other order
loses values: pedalboard resets some plug-ins by making them anew, from a state that
values which were set but not yet rendered with are not part of. It guesses once, when
it loads a plug-in, whether that is necessary, by what noise leaves behind, and guesses
wrong now and then (ZamTube: 1 time in 8); a slot that says ``fresh`` is loaded until
pedalboard makes it anew at each reset, and where it never does, for every render.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pedalboard

from ddspx.parameters import ParameterSpec
from styletransfer.hosts.catalogue import ON_OFF
from styletransfer.hosts.description import Slot
from styletransfer.hosts.interface import (
    Interface,
    PluginError,
    check_interface,
    held_values,
    position,
    unique,
)
from styletransfer.hosts.routing import Stage, StagedSegment, seed_chance
from styletransfer.hosts.vst3_bundles import find_bundle

# Loading, and resetting some plug-ins, works on the main thread only.
THREAD_SAFE = False
# Added by the DPF framework, or by hosts; they change nothing that is rendered.
_PSEUDO = ("buffer_size_frames", "sample_rate_frames", "current_program", "bypass")
# Parameters of at most as many steps are choices.
_MOST_CHOICES = 64
# Where a linear parameter may be at most off its line, as a share of its range.
_BEND = 0.01
_SHORTEST = 64
# Loads of a plug-in that has to be made anew, until pedalboard sees that it has.
_MOST_LOADS = 24


@dataclass(frozen=True)
class Parameter:
    """One parameter that can be set, and how its values become raw ones."""

    key: str
    spec: ParameterSpec

    def raw(self, value: Any) -> float:
        """Raw value in [0, 1] of a physical value or of the text of a choice."""
        spec = self.spec
        place = (position(spec, value) - spec.low) / (spec.high - spec.low)
        return min(max(place, 0.0), 1.0)


def open_segment(slots: Sequence[Slot], sample_rate: int | float) -> StagedSegment:
    """Loads adjacent VST3 plug-ins.

    Args:
      slots: of kind ``"vst3"``, in order.
      sample_rate: Hz.

    Raises:
      PluginError: not installed, not to be loaded, or has changed.
    """
    return StagedSegment([_stage(slot, sample_rate) for slot in slots])


def _stage(slot: Slot, sample_rate: int | float) -> Stage:
    plugin = Vst3Plugin(slot.plugin, sample_rate, slot.fresh)
    face = plugin.interface
    check_interface(slot, face)
    return Stage(
        face.inputs, face.outputs, held_values(slot, face.parameters), plugin.run
    )


def describe(plugin: str, sample_rate: int | float = 44100) -> Interface:
    """Loads a plug-in to tell its parameters, channels and latency.

    Raises:
      PluginError: see `open_segment`.
    """
    return Vst3Plugin(plugin, sample_rate).interface


class Vst3Plugin:
    """A loaded plug-in.

    Args:
      plugin: see `find_bundle`.
      sample_rate: Hz.
      fresh: whether each render needs the plug-in made anew.

    Attributes:
      interface: what it says of itself.
    """

    def __init__(self, plugin: str, sample_rate: int | float, fresh: bool = False):
        self._path, self._inner = find_bundle(plugin)
        self._rate = float(sample_rate)
        self._fresh = fresh
        self._instance = self._load(_MOST_LOADS if fresh else 1)
        parameters = self._instance.parameters
        settable = {
            key: spec
            for key, parameter in parameters.items()
            if (spec := _spec(key, parameter)) is not None
        }
        self._parameters = tuple(Parameter(k, spec) for k, spec in settable.items())
        channels = self._channels()
        self.interface = Interface(
            "vst3",
            plugin,
            str(self._instance.name),
            channels,
            channels,
            tuple(settable.values()),
            tuple(key for key in parameters if key not in settable),
            int(self._instance.reported_latency_samples),
        )
        self._move_all()

    def set(self, values: Mapping[str, Any]) -> None:
        """Sets physical values by name."""
        live = self._instance.parameters
        for parameter in self._parameters:
            if parameter.key in values:
                live[parameter.key].raw_value = parameter.raw(values[parameter.key])

    def run(self, audio: np.ndarray, values: Mapping[str, Any]) -> np.ndarray:
        """Renders audio [channels, time] from a cleared state; takes latency away."""
        seed_chance()
        if self._fresh and not self._anew:
            self._instance = self._load(1)
            self._move_all()
        if self._anew:
            self._rest()
        self._instance.reset()
        self.set(values)
        length = audio.shape[1]
        # pedalboard guesses which axis is time, and holds back what is latent.
        rest = int(self._instance.reported_latency_samples)
        rest += max(_SHORTEST - length, 0)
        padded = np.pad(audio, ((0, 0), (0, rest))) if rest else audio
        output = self._instance.process(padded, self._rate, reset=False)
        return np.asarray(output, np.float32)[:, :length]

    def preset(self, values: dict[str, Any]) -> bytes:
        """The contents of a ``.vstpreset`` file with physical values by name."""
        self.set(values)
        self._hush()
        return bytes(self._instance.preset_data)

    def load_preset(self, path: Path) -> dict[str, float]:
        """Loads a ``.vstpreset`` and gives the raw values that it left, by name."""
        self._instance.load_preset(str(path))
        live = self._instance.parameters
        return {p.key: float(live[p.key].raw_value) for p in self._parameters}

    def raw_values(self, values: dict[str, Any]) -> dict[str, float]:
        """Raw values by name for physical ones."""
        return {p.key: p.raw(values[p.key]) for p in self._parameters}

    def _load(self, times: int) -> Any:
        for _ in range(times):
            try:
                instance: Any = pedalboard.load_plugin(
                    str(self._path.resolve()), plugin_name=self._inner
                )
            except (ImportError, ValueError, RuntimeError) as error:
                raise PluginError(
                    f"VST3 bundle {self._path} cannot be loaded:"
                    f" {' '.join(str(error).split())}"
                ) from error
            if self._inner not in (None, str(instance.name)):
                raise PluginError(
                    f"VST3 bundle {self._path} holds no plug-in {self._inner!r}, but"
                    f" {instance.name!r}"
                )
            self._anew = "Persists" in str(instance._reload_type)
            if self._anew:
                break
        return instance

    def _move_all(self) -> None:
        """Moves every parameter once.

        One that never moved keeps the plug-in's own idea of its default, which differs
        from what the same raw value sets by rounding.
        """
        live = self._instance.parameters
        for parameter in self._parameters:
            raw = float(live[parameter.key].raw_value)
            live[parameter.key].raw_value = raw + (0.25 if raw < 0.5 else -0.25)
        self._hush()

    def _rest(self) -> None:
        """Back to the defaults before it is made anew, for its state goes along.

        The DPF framework compares what is set with the defaults of the new one, not
        with what the state made of it, and leaves out what seems to be there already.
        """
        live = self._instance.parameters
        for parameter in self._parameters:
            raw = float(live[parameter.key].default_raw_value)
            live[parameter.key].raw_value = raw
        self._hush()

    def _hush(self) -> None:
        """Has what was set arrive: values travel with audio."""
        silence = np.zeros((self.interface.inputs, _SHORTEST), np.float32)
        self._instance.process(silence, self._rate, reset=False)

    def _channels(self) -> int:
        """Channels of the main bus: stereo if it takes that, else mono."""
        for channels in (2, 1):
            try:
                silence = np.zeros((channels, 4 * _SHORTEST), np.float32)
                self._instance.process(silence, self._rate, reset=True)
            except ValueError as error:
                refusal = str(error)
                continue
            return channels
        raise PluginError(
            f"VST3 bundle {self._path} renders neither mono nor stereo: {refusal}"
        )


def _spec(key: str, parameter: Any) -> ParameterSpec | None:
    """A parameter as one of ours; None for what is not to be set."""
    if key in _PSEUDO or not parameter.is_automatable:
        return None
    steps, default = int(parameter.num_steps), float(parameter.default_raw_value)
    if parameter.is_boolean or (steps == 2 and parameter.type is not str):
        return ParameterSpec(key, choices=ON_OFF, default=float(default >= 0.5))
    if 2 <= steps <= _MOST_CHOICES:
        raws = [k / (steps - 1) for k in range(steps)]
        texts = [_text_at(parameter, raw).strip() or f"{raw:g}" for raw in raws]
        place = round(default * (steps - 1))
        return ParameterSpec(key, choices=unique(texts), default=float(place))
    if parameter.type is str:
        return ParameterSpec(key, 0.0, 1.0, default=_inside(default, 0.0, 1.0))
    low, high = (float(v) for v in parameter.range[:2])
    if not low < high or not _is_linear(parameter, low, high):
        # The plug-in's text bends: its own scale, which is what it is set by.
        return ParameterSpec(key, 0.0, 1.0, default=_inside(default, 0.0, 1.0))
    unit = str(parameter.label or "").strip()
    value = _inside(low + (high - low) * default, low, high)
    return ParameterSpec(key, low, high, unit, default=value)


def _inside(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _text_at(parameter: Any, raw: float) -> str:
    return str(parameter.get_text_for_raw_value(raw))


def _is_linear(parameter: Any, low: float, high: float) -> bool:
    for raw in (0.25, 0.5, 0.75):
        words = _text_at(parameter, raw).split()
        try:
            value = float(words[0])
        except (IndexError, ValueError):
            return False
        if abs(value - (low + (high - low) * raw)) > _BEND * (high - low):
            return False
    return True
