"""What a third-party plug-in says of itself: its parameters, channels and latency.

Read from the plug-in in a process of its own (`styletransfer.hosts.scan`), it gives an
effect file its ranges, and a description the lines by which a plug-in that was
exchanged for another version is told.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import unified_diff
from typing import Any

from ddspx.parameters import ParameterSpec
from styletransfer.hosts.catalogue import PluginFacts
from styletransfer.hosts.description import Slot


class PluginError(ValueError):
    """A third-party plug-in that cannot be opened, or is not what it was."""


class PluginMissing(PluginError):
    """A plug-in, or the library that opens it, is not installed."""


@dataclass(frozen=True)
class Interface:
    """One plug-in as it can be seen from outside.

    Attributes:
      kind: ``"lv2"`` or ``"vst3"``.
      plugin: URI, or path of the bundle.
      name: what people call it.
      inputs: audio channels in, side chains left out.
      outputs: audio channels out.
      parameters: all that can be set, in the plug-in's order and units; discrete ones
        have choices.
      read_only: meters and pseudo parameters, which are never set.
      latency_samples: at the default setting.
    """

    kind: str
    plugin: str
    name: str
    inputs: int
    outputs: int
    parameters: tuple[ParameterSpec, ...]
    read_only: tuple[str, ...] = ()
    latency_samples: int = 0

    @property
    def continuous(self) -> tuple[ParameterSpec, ...]:
        """The parameters without choices."""
        return tuple(spec for spec in self.parameters if not spec.choices)

    @property
    def signature(self) -> tuple[str, ...]:
        """One line for each parameter: name, range, unit, or choices."""
        return tuple(signature_of(spec) for spec in self.parameters)

    @property
    def facts(self) -> PluginFacts:
        """The same as the catalogue says it of built-ins."""
        return PluginFacts(
            self.parameters,
            channels="independent" if self.inputs == 1 else "linked",
            max_channels=2,
        )

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> "Interface":
        """Reads what `to_dict` gave, also by way of JSON."""
        parameters = tuple(
            ParameterSpec(**{**p, "choices": tuple(p["choices"])})
            for p in table["parameters"]
        )
        read_only = tuple(table["read_only"])
        return cls(**{**table, "parameters": parameters, "read_only": read_only})

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return asdict(self)


def signature_of(spec: ParameterSpec) -> str:
    """``"ratio 1..20"`` or ``"mode a|b"``: what must not change under a checkpoint."""
    if spec.choices:
        return f"{spec.name} {'|'.join(spec.choices)}"
    return f"{spec.name} {spec.low:g}..{spec.high:g} {spec.unit}".rstrip()


def check_interface(slot: Slot, found: Interface) -> None:
    """Refuses a plug-in whose parameters are not those that the slot was made for.

    Args:
      slot: with ``interface``, the lines of `Interface.signature`; empty asks nothing.
      found: what the plug-in is now.

    Raises:
      PluginError: the difference, line by line; or controls that it does not have.
    """
    if slot.interface and slot.interface != found.signature:
        changes = differences(slot.interface, found.signature)
        raise PluginError(
            f"slot {slot.name}: {found.kind} plug-in {slot.plugin} has other parameters"
            f" than when this effect was made (- then, + now): {changes}. Install the"
            " version of then, or make the effect anew and train again"
        )


def differences(then: Sequence[str], now: Sequence[str]) -> str:
    """Lines that went and came: ``"- ratio 1..20; + ratio 1..10"``."""
    lines = list(unified_diff(then, now, n=0, lineterm=""))
    return "; ".join(f"{s[0]} {s[1:]}" for s in lines[2:] if s[0] in "+-")


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """The names, with a number added to those that came before."""
    found: list[str] = []
    for name in names:
        word, count = name, 2
        while word in found:
            word, count = f"{name} {count}", count + 1
        found.append(word)
    return tuple(found)


def position(spec: ParameterSpec, value: Any) -> float:
    """Where a value lies on its parameter: index of a choice, or the number itself."""
    return float(spec.choices.index(value)) if spec.choices else float(value)


def held_values(slot: Slot, parameters: Sequence[ParameterSpec]) -> dict[str, Any]:
    """The fixed values of a slot, the defaults for what it says nothing of.

    Raises:
      PluginError: a fixed or controlled parameter that the plug-in does not have, or a
        fixed value that is no number or none of its choices.
    """
    known = {spec.name: spec for spec in parameters}
    held = dict(slot.fixed)
    for name in (*held, *(s.name for s in slot.controls)):
        if name not in known and name != "bypass":
            raise PluginError(
                f"slot {slot.name}: {slot.plugin} has no parameter {name!r}; it has:"
                f" {', '.join(known) or 'none'}"
            )
    for name, value in held.items():
        # Some plug-ins end the process on NaN, and controls alone are clipped.
        choices = known[name].choices
        number = isinstance(value, int | float) and math.isfinite(value)
        good = value in choices if choices else number
        if not good:
            wanted = f"one of {', '.join(choices)}" if choices else "a finite number"
            raise PluginError(f"slot {slot.name}: {name} {value!r} is not {wanted}")
    return default_values(parameters) | held


def default_values(parameters: Iterable[ParameterSpec]) -> dict[str, Any]:
    """Physical defaults by name, choices as text."""
    return {
        spec.name: spec.choices[int(spec.default or 0)]
        if spec.choices
        else spec.default
        for spec in parameters
    }
