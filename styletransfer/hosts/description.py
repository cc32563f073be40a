"""What an effect is, as plain data: a chain of plug-ins and their controls.

A description can be pickled, compared, written to JSON and read back, and opens
nothing. `styletransfer.hosts.engine` turns it into something that renders, inside
whichever process it is opened in.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ddspx.parameters import ParameterSpec

# The control of a slot that decides whether the slot is skipped.
BYPASS = "bypass"
# Filters are tuned to at most this share of the sample rate. At Nyquist (0.5) the
# designs degenerate or blow up; 0.45 leaves the first-order high-pass well behaved.
HIGHEST_SHARE_OF_RATE = 0.45


@dataclass(frozen=True)
class Slot:
    """One plug-in of a chain.

    Attributes:
      name: unique in the effect; the prefix of its controls.
      plugin: what to open: the class name of a pedalboard built-in, in JAX also the
        name of an effect of `ddspx.effects.registry`, the URI of an LV2 plug-in, the
        name or path of a VST3 bundle.
      controls: the learned parameters, each named as the plug-in names it. A control
        named ``"bypass"`` with the choices off and on skips the slot when on.
      fixed: the other parameters that are not left at the plug-in's default.
      bypass: skip this slot always.
      kind: which engine opens it: ``"pedalboard"``, ``"vst3"``, ``"lv2"``, or ``"jax"``
        for the twin that can be differentiated; see `styletransfer.hosts.engine`.
      fresh: load the plug-in anew for every render; for a VST3 that keeps something
        through a reset. The others do so anyway.
      interface: the parameters that a third-party plug-in had when this was written, as
        `styletransfer.hosts.interface.Interface.signature`; one that has others is
        refused. Empty asks nothing.
    """

    name: str
    plugin: str
    controls: tuple[ParameterSpec, ...] = ()
    fixed: tuple[tuple[str, Any], ...] = ()
    bypass: bool = False
    kind: str = "pedalboard"
    fresh: bool = False
    interface: tuple[str, ...] = ()

    def __post_init__(self):
        if not self.name or "." in self.name:
            raise ValueError(
                f"slot name {self.name!r} must be a non-empty word without a dot"
            )
        names = [spec.name for spec in self.controls]
        doubled = {n for n in names if names.count(n) > 1}
        doubled |= set(names) & {n for n, _ in self.fixed}
        if doubled:
            raise ValueError(
                f"slot {self.name}: {sorted(doubled)} given twice; a parameter is"
                " either controlled or fixed"
            )


@dataclass(frozen=True)
class HostEffect:
    """A chain of plug-ins with a control for every learned parameter.

    Attributes:
      name: what people call it.
      slots: in the order the audio passes them; at least one.
      tail_s: seconds after which the effect has faded when its input stops; whoever
        wants the tail pads the input by that much, outputs are as long as inputs.
    """

    name: str
    slots: tuple[Slot, ...]
    tail_s: float = 0.0

    def __post_init__(self):
        if not self.slots:
            raise ValueError(f"effect {self.name!r} has no slots; give at least one")
        names = [slot.name for slot in self.slots]
        doubled = sorted({n for n in names if names.count(n) > 1})
        if doubled:
            raise ValueError(f"effect {self.name!r}: slot names {doubled} appear twice")
        if not 0.0 <= self.tail_s < 1e3:
            raise ValueError(
                f"effect {self.name!r}: tail_s {self.tail_s} must be 0 to 1000 seconds"
            )

    @property
    def specs(self) -> tuple[ParameterSpec, ...]:
        """All controls in order, each named ``"slot.parameter"``.

        A slot that is bypassed for good has none.
        """
        return tuple(
            replace(spec, name=f"{slot.name}.{spec.name}")
            for slot in self.slots
            if not slot.bypass
            for spec in slot.controls
        )

    @property
    def kinds(self) -> frozenset[str]:
        """Which engines the slots need, those bypassed for good left out."""
        return frozenset(slot.kind for slot in self.slots if not slot.bypass)

    def at_sample_rate(self, sample_rate: int | float) -> "HostEffect":
        """The same effect with every range in Hz limited to 0.45 of `sample_rate`.

        The upper end of a control in Hz that lies above the limit becomes the limit,
        and a lower end above half the limit becomes that half, so that at least an
        octave is left; default and identity follow. What `host.specs` reports is the
        result, so controls and physical values always agree.

        Args:
          sample_rate: Hz, positive.

        Returns:
          A `HostEffect`; `self` where nothing exceeds the limit.
        """
        limit = HIGHEST_SHARE_OF_RATE * sample_rate
        slots = tuple(
            replace(slot, controls=tuple(_limited(s, limit) for s in slot.controls))
            for slot in self.slots
        )
        return self if slots == self.slots else replace(self, slots=slots)

    def opened_by(self, kind: str) -> "HostEffect":
        """The same chain with every slot opened by one engine.

        Args:
          kind: such as ``"pedalboard"`` or ``"jax"``; a plug-in that the engine does
            not have is refused when the effect is opened.
        """
        return replace(
            self, slots=tuple(replace(slot, kind=kind) for slot in self.slots)
        )

    def to_json(self) -> str:
        """The description as JSON; `from_json` reads it back equal."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "HostEffect":
        """Reads what `to_json` wrote."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> "HostEffect":
        """Reads the table that `dataclasses.asdict` or JSON gives."""
        slots = tuple(_slot_from_dict(slot) for slot in table["slots"])
        return cls(table["name"], slots, float(table.get("tail_s", 0.0)))


def _limited(spec: ParameterSpec, limit: float) -> ParameterSpec:
    if spec.unit != "Hz" or spec.choices or spec.high <= limit:
        return spec
    low = min(spec.low, limit / 2)

    def inside(value: float | None) -> float | None:
        return None if value is None else min(max(value, low), limit)

    return replace(
        spec,
        low=low,
        high=limit,
        default=inside(spec.default),
        identity=inside(spec.identity),
    )


def _slot_from_dict(table: Mapping[str, Any]) -> Slot:
    controls = tuple(
        ParameterSpec(**{**c, "choices": tuple(c.get("choices", ()))})
        for c in table.get("controls", ())
    )
    fixed = tuple((str(name), value) for name, value in table.get("fixed", ()))
    interface = tuple(table.get("interface", ()))
    given = {**table, "controls": controls, "fixed": fixed, "interface": interface}
    return Slot(**given)
