"""Effects by name: reads ``configs/effects/*.yaml`` into a `HostEffect`.

    # a comment: what it is for
    description: one line
    backend: jax                      # optional: jax or pedalboard (default)
    tail_s: 1.0                       # optional; else the longest tail of its plug-ins
    slots:
      tone:                           # the slot's name, chosen freely
        plugin: PeakFilter            # pedalboard's class name
        controls:                     # optional; else all continuous ones not fixed
          cutoff_frequency_hz: {low: 200, high: 2000}   # narrows the catalogue's range
          gain_db:                    # the catalogue's range as it is
        fixed: {q: 1.0}
        bypass: control               # optional: true, false (default) or control
        backend: pedalboard           # optional: where this one slot differs

With ``backend: jax`` a built-in is its differentiable twin, at the same settings, and a
plug-in may also be any effect of `ddspx.effects.registry` (``feedback_delay_network``).
These say nothing of their tails: give tail_s. JAX is imported for such files only.

A control may give low, high, unit, curve (linear, log), default, identity, quantum, and
for a discrete parameter choices (a part of the plug-in's). ``bypass: control`` adds an
on/off control to the slot.
"""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from ddspx.parameters import ParameterSpec
from styletransfer.hosts.catalogue import (
    BUILTINS,
    ON_OFF,
    PluginFacts,
    default_controls_of,
    facts,
    nearest,
)
from styletransfer.hosts.description import BYPASS, HostEffect, Slot

FOLDER = Path(__file__).resolve().parent.parent / "configs" / "effects"
_EFFECT_KEYS = ("name", "description", "backend", "tail_s", "slots")
_SLOT_KEYS = ("plugin", "controls", "fixed", "bypass", "backend")
_CONTROL_KEYS = tuple(f.name for f in fields(ParameterSpec) if f.name != "name")


Engine = Literal["pedalboard", "jax"]


class EffectError(ValueError):
    """An effect description that cannot be used; the message names the file."""


def available_effects() -> tuple[str, ...]:
    """Names of the presets, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load_effect(name_or_path: str | Path, engine: Engine | None = None) -> HostEffect:
    """Reads an effect.

    Args:
      name_or_path: a preset's name (``"channel_strip"``) or the path of a YAML file.
      engine: ``"jax"`` or ``"pedalboard"``, whatever the file's backend says of itself
        and of its slots; None to do as it says.

    Returns:
      The description, with the full ranges; opening it at a sample rate limits them.

    Raises:
      EffectError: no such preset or file, or it says something that cannot be: one
        line with the file, the place in it, and the nearest spelling.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = FOLDER / f"{name_or_path}.yaml"
        if not path.is_file():
            known = available_effects()
            raise EffectError(
                f"unknown effect {str(name_or_path)!r}"
                f"{nearest(str(name_or_path), known)}; presets:"
                f" {', '.join(known) or 'none'}; or give the path of a .yaml file"
            )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EffectError(f"cannot read effect file {path}: {error}") from error
    try:
        return parse_effect(text, path.stem, engine)
    except (ValueError, TypeError) as error:
        raise EffectError(f"{path}: {error}") from error


def parse_effect(text: str, name: str, engine: Engine | None = None) -> HostEffect:
    """Reads the text of an effect file.

    Args:
      text: YAML.
      name: the effect's, where the text gives none.
      engine: see `load_effect`.

    Raises:
      ValueError: what is wrong, and where in the text.
    """
    try:
        table = yaml.load(text, Loader=_StrictLoader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from error
    table = _mapping(table, "the file", _EFFECT_KEYS)
    backend = _engine(table.get("backend", "pedalboard"), "backend")
    slots = tuple(
        _read_slot(str(slot), content, backend, engine)
        for slot, content in _mapping(table.get("slots"), "slots").items()
    )
    if not slots:
        raise ValueError("slots: name at least one plug-in")
    tails = [_known(slot.plugin, slot.kind).tail_s for slot in slots]
    tail_s = _number(table.get("tail_s", max(tails)), "tail_s")
    return HostEffect(str(table.get("name", name)), slots, tail_s)


def _engine(value: Any, place: str) -> Engine:
    if value not in get_args(Engine):
        raise ValueError(
            f"{place}: {value!r} is not one of {', '.join(get_args(Engine))}"
            f"{nearest(str(value), get_args(Engine))}"
        )
    return value


def _known(plugin: str, kind: str) -> PluginFacts:
    """The facts of a plug-in, for the engine that opens it."""
    if kind == "jax":
        from styletransfer.twins.collection import member

        return member(plugin).facts
    if plugin not in BUILTINS:
        from ddspx.effects.registry import EFFECTS

        if plugin in EFFECTS:
            raise ValueError(
                f"{plugin} is an effect in JAX, which needs backend: jax"
                f"{nearest(plugin, BUILTINS)}"
            )
    return facts(plugin)


def _read_slot(name: str, content: Any, backend: Engine, forced: Engine | None) -> Slot:
    where = f"slot {name}"
    table = _mapping(content, where, _SLOT_KEYS)
    if "plugin" not in table:
        raise ValueError(f"{where}: needs the key plugin")
    plugin = str(table["plugin"])
    kind = _engine(table.get("backend", backend), f"{where}: backend")
    if forced is not None and table.get("bypass") is not True:
        kind = forced
    try:
        known = _known(plugin, kind)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    fixed = tuple(
        (str(key), _read_fixed(known, plugin, str(key), value, where))
        for key, value in _mapping(table.get("fixed"), f"{where}: fixed").items()
    )
    missing = set(known.required) - {key for key, _ in fixed}
    if missing:
        raise ValueError(
            f"{where}: {plugin} needs {', '.join(sorted(missing))} under fixed"
        )
    if "controls" in table:
        listed = table["controls"]
        if isinstance(listed, list):
            listed = dict.fromkeys(listed)
        controls = tuple(
            _read_control(known, plugin, str(key), override, where)
            for key, override in _mapping(listed, f"{where}: controls").items()
        )
    else:
        held = {key for key, _ in fixed}
        offered = default_controls_of(plugin, known)
        controls = tuple(spec for spec in offered if spec.name not in held)
    bypass = table.get("bypass", False)
    if bypass == "control":
        spec = ParameterSpec(BYPASS, choices=ON_OFF, default=0.0, identity=1.0)
        return Slot(name, plugin, (*controls, spec), fixed, kind=kind)
    if not isinstance(bypass, bool):
        raise ValueError(f"{where}: bypass {bypass!r} is not true, false or control")
    return Slot(name, plugin, controls, fixed, bypass, kind)


def _parameter(known: PluginFacts, plugin: str, key: str, where: str) -> ParameterSpec:
    try:
        return known.parameter(key)
    except KeyError:
        names = [spec.name for spec in known.parameters]
        raise ValueError(
            f"{where}: {plugin} has no parameter {key!r}{nearest(key, names)};"
            f" it has: {', '.join(names) or 'none'}"
        ) from None


def _read_control(
    known: PluginFacts, plugin: str, key: str, override: Any, where: str
) -> ParameterSpec:
    spec = _parameter(known, plugin, key, where)
    place = f"{where}: {key}"
    change = dict(_mapping(override, place, _CONTROL_KEYS))
    if spec.choices:
        return _narrow_choices(spec, change, place)
    if "choices" in change:
        raise ValueError(f"{place}: it is continuous, choices do not apply")
    for name in ("low", "high", "default", "identity", "quantum"):
        if change.get(name) is not None:
            change[name] = _number(change[name], f"{place}: {name}")
    low, high = change.get("low", spec.low), change.get("high", spec.high)
    least, most = known.accepted(key)
    if low < least or high > most:
        raise ValueError(
            f"{place}: [{low:g}, {high:g}] leaves what {plugin} can bear:"
            f" [{least:g}, {most:g}] {spec.unit}".rstrip()
        )
    for name in ("default", "identity"):
        inherited = getattr(spec, name)
        if name not in change and inherited is not None:
            change[name] = inherited if low <= inherited <= high else None
    return replace(spec, **change)


def _narrow_choices(spec: ParameterSpec, change: dict, place: str) -> ParameterSpec:
    unknown = set(change) - {"choices", "default"}
    if unknown:
        raise ValueError(
            f"{place}: {sorted(unknown)} do not apply to a discrete parameter;"
            " give choices and default"
        )
    chosen = change.get("choices", list(spec.choices))
    if not isinstance(chosen, list) or not chosen:
        raise ValueError(f"{place}: choices {chosen!r} is not a list of names")
    names = tuple(_choice(spec, value, place) for value in chosen)
    inherited = spec.choices[int(spec.default or 0)]
    default = _choice(spec, change.get("default", inherited), place)
    if default not in names:
        if "default" in change:
            raise ValueError(f"{place}: default {default!r} is not among {names}")
        default = names[0]
    return ParameterSpec(spec.name, choices=names, default=float(names.index(default)))


def _choice(spec: ParameterSpec, value: Any, place: str) -> str:
    if isinstance(value, bool):  # YAML reads the words on and off as booleans
        value = ON_OFF[int(value)]
    if value not in spec.choices:
        raise ValueError(
            f"{place}: {value!r} is not one of {', '.join(spec.choices)}"
            f"{nearest(str(value), spec.choices)}"
        )
    return str(value)


def _read_fixed(
    known: PluginFacts, plugin: str, key: str, value: Any, where: str
) -> float | str:
    if key in (*known.required, *known.optional):
        return value if isinstance(value, str) else _number(value, f"{where}: {key}")
    spec = _parameter(known, plugin, key, where)
    if spec.choices:
        return _choice(spec, value, f"{where}: {key}")
    number = _number(value, f"{where}: {key}")
    least, most = known.accepted(key)
    if not least <= number <= most:
        raise ValueError(
            f"{where}: {key} {number:g} leaves what {plugin} can bear:"
            f" [{least:g}, {most:g}] {spec.unit}".rstrip()
        )
    return number


def _number(value: Any, place: str) -> float:
    bad = isinstance(value, bool) or not isinstance(value, int | float)
    if bad or not math.isfinite(value):
        raise ValueError(f"{place}: {value!r} is not a finite number")
    return float(value)


def _mapping(value: Any, place: str, keys: tuple[str, ...] = ()) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(
            f"{place}: expected a table of keys, got {type(value).__name__}"
        )
    for key in value:
        if keys and key not in keys:
            raise ValueError(
                f"{place}: unknown key {key!r}{nearest(str(key), keys)};"
                f" known: {', '.join(keys)}"
            )
    return value


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error instead of the last one."""


def _construct_unique(loader: _StrictLoader, node: yaml.MappingNode) -> dict:
    table: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in table:
            line = key_node.start_mark.line + 1
            raise ValueError(f"line {line}: key {key!r} is given twice")
        table[key] = loader.construct_object(value_node, deep=True)
    return table


_StrictLoader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_unique
)
