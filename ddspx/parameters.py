"""Controls of an effect: one table of facts, and the map from the unit cube.

A *control* is a number in [0, 1]; a *physical* value is what a sound person reads
on a knob, in the unit of its `ParameterSpec`. Functions here take arrays whose last
axis runs over the specs, of NumPy or of JAX alike, and never clip: a value outside
[0, 1] maps to a value outside [low, high]. Whoever opens a plug-in clips.

The module imports no JAX, so that a render worker starts in milliseconds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Curve = Literal["linear", "log"]


@dataclass(frozen=True)
class ParameterSpec:
    """What is known of one control; the only place where it is written down.

    With control u in [0, 1] the physical value is

        linear:  low + (high - low) u
        log:     low (high / low)^u
        choices: floor(u n), limited to n - 1, an index into `choices`

    Attributes:
      name: unique in its effect, with the unit at its end (``"peak.cutoff_hz"``).
      low: physical value at u = 0.
      high: physical value at u = 1.
      unit: what a person reads: ``"dB"``, ``"Hz"``, ``"ms"`` or empty.
      curve: ``"linear"`` or ``"log"``; log needs low and high of one sign.
      default: physical value; the middle of the range when None.
      identity: physical value at which the effect does nothing, if there is one.
      choices: names of the positions of a discrete control; then low is 0 and
        high is the number of choices less one.
      quantum: smallest step of u that the effect can tell apart; 0 if none is known.
      epsilon: step of u for finite differences, calibrated to an audible change; None
        where nobody measured.
    """

    name: str
    low: float = 0.0
    high: float = 1.0
    unit: str = ""
    curve: Curve = "linear"
    default: float | None = None
    identity: float | None = None
    choices: tuple[str, ...] = ()
    quantum: float = 0.0
    epsilon: float | None = None

    def __post_init__(self):
        if self.choices:
            object.__setattr__(self, "low", 0.0)
            object.__setattr__(self, "high", float(len(self.choices) - 1))
            if len(self.choices) < 2:
                raise ValueError(
                    f"{self.name}: one choice {self.choices} is no control; give two or"
                    " more, or fix the parameter"
                )
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError(f"{self.name}: range [{self.low}, {self.high}] not finite")
        if not self.low < self.high:
            raise ValueError(
                f"{self.name}: low {self.low} must be less than high {self.high}"
            )
        if self.curve not in ("linear", "log"):
            raise ValueError(f"{self.name}: curve {self.curve!r} is not linear or log")
        if self.curve == "log" and self.low <= 0:
            raise ValueError(
                f"{self.name}: a log curve needs low > 0, got {self.low}; use linear"
            )
        if not 0.0 <= self.quantum < 1.0:
            raise ValueError(f"{self.name}: quantum {self.quantum} not in [0, 1)")
        if self.epsilon is not None and not 0.0 < self.epsilon <= 0.5:
            raise ValueError(f"{self.name}: epsilon {self.epsilon} not in (0, 0.5]")
        if self.default is None:
            middle = float(self.to_physical(np.float64(0.5)))
            object.__setattr__(self, "default", middle)
        for field in ("default", "identity"):
            value = getattr(self, field)
            if value is not None and not self.low <= value <= self.high:
                raise ValueError(
                    f"{self.name}: {field} {value} outside [{self.low}, {self.high}]"
                )

    def to_physical(self, control: Any) -> Any:
        """Physical value of a control u (any array or number); see the class."""
        xp = _namespace(control)
        if self.choices:
            count = len(self.choices)
            return xp.clip(xp.floor(control * count), 0, count - 1)
        if self.curve == "log":
            return self.low * xp.exp(control * math.log(self.high / self.low))
        return self.low + (self.high - self.low) * control

    def to_unit(self, physical: Any) -> Any:
        """Control of a physical value; a choice gives the middle of its interval."""
        xp = _namespace(physical)
        if self.choices:
            return (physical + 0.5) / len(self.choices)
        if self.curve == "log":
            return xp.log(physical / self.low) / math.log(self.high / self.low)
        return (physical - self.low) / (self.high - self.low)

    def text(self, control: float) -> str:
        """The setting as a person reads it: ``"1.25 kHz"``, ``"-3.0 dB"``."""
        value = float(self.to_physical(np.float64(control)))
        if self.choices:
            return self.choices[int(value)]
        if self.unit == "Hz" and abs(value) >= 1000:
            return f"{value / 1000:.3g} kHz"
        if self.unit == "dB":
            return f"{value:+.1f} dB"
        return f"{value:.3g} {self.unit}".strip()


def hz(name, low, high, default=None, identity=None) -> ParameterSpec:
    """A frequency in Hz on a log curve."""
    return ParameterSpec(name, low, high, "Hz", "log", default, identity)


def ms(name, low, high, default=None, identity=None) -> ParameterSpec:
    """A time in ms on a log curve."""
    return ParameterSpec(name, low, high, "ms", "log", default, identity)


def db(name, low, high, default=None, identity=None) -> ParameterSpec:
    """A level or a gain in dB."""
    return ParameterSpec(name, low, high, "dB", "linear", default, identity)


def plain(name, low, high, default=None, identity=None) -> ParameterSpec:
    """A number without a unit on a linear curve."""
    return ParameterSpec(name, low, high, "", "linear", default, identity)


def log(name, low, high, default=None, identity=None) -> ParameterSpec:
    """A number without a unit on a log curve: a ratio, a quality."""
    return ParameterSpec(name, low, high, "", "log", default, identity)


def choice(name: str, choices: Sequence[str], default: str) -> ParameterSpec:
    """A discrete control."""
    names = tuple(choices)
    return ParameterSpec(name, choices=names, default=float(names.index(default)))


def _namespace(value: Any) -> Any:
    get = getattr(value, "__array_namespace__", None)
    return np if get is None else get()


def to_physical(specs: Sequence[ParameterSpec], controls: Any) -> Any:
    """Maps controls [..., n] in [0, 1] to physical values [..., n]."""
    _check_width(specs, controls)
    xp = _namespace(controls)
    columns = [spec.to_physical(controls[..., i]) for i, spec in enumerate(specs)]
    return xp.stack(columns, axis=-1)


def to_unit(specs: Sequence[ParameterSpec], physical: Any) -> Any:
    """Maps physical values [..., n] to controls [..., n]; inverse of `to_physical`."""
    _check_width(specs, physical)
    xp = _namespace(physical)
    columns = [spec.to_unit(physical[..., i]) for i, spec in enumerate(specs)]
    return xp.stack(columns, axis=-1)


def default_controls(specs: Sequence[ParameterSpec]) -> np.ndarray:
    """Controls [n], float32, at every default."""
    return _controls_at(specs, [spec.default for spec in specs])


def identity_controls(specs: Sequence[ParameterSpec]) -> np.ndarray:
    """Controls [n], float32, that do least: each identity, else the default."""
    values = [s.default if s.identity is None else s.identity for s in specs]
    return _controls_at(specs, values)


def sample_controls(
    specs: Sequence[ParameterSpec], rng: np.random.Generator, shape: Sequence[int] = ()
) -> np.ndarray:
    """Controls [*shape, n], float32, uniform in the unit cube."""
    return rng.random((*shape, len(specs)), dtype=np.float32)


def settings(specs: Sequence[ParameterSpec], controls: Any) -> dict[str, Any]:
    """One setting [n] as a JSON-ready table: physical value, unit, control, text."""
    _check_width(specs, controls)
    table = {}
    for spec, control in zip(specs, np.asarray(controls, np.float64), strict=True):
        value = float(spec.to_physical(control))
        table[spec.name] = {
            "value": spec.choices[int(value)] if spec.choices else value,
            "unit": spec.unit,
            "control": float(control),
            "text": spec.text(float(control)),
        }
    return table


def _controls_at(specs: Sequence[ParameterSpec], values: Sequence[Any]) -> np.ndarray:
    units = [
        float(s.to_unit(np.float64(v))) for s, v in zip(specs, values, strict=True)
    ]
    return np.asarray(units, np.float32)


def _check_width(specs: Sequence[ParameterSpec], values: Any) -> None:
    if np.ndim(values) == 0 or values.shape[-1] != len(specs):
        raise ValueError(
            f"expected a last axis of {len(specs)} controls"
            f" ({', '.join(s.name for s in specs)}), got shape {np.shape(values)}"
        )
