"""Effects by name: reads ``configs/effects/*.yaml`` into a `HostEffect`.

    # a comment: what it is for
    description: one line
    backend: jax                      # optional: jax, lv2, vst3 or pedalboard (default)
    package: mda-lv2                  # optional: what to install for its plug-ins
    tail_s: 1.0                       # optional; else the longest tail of its plug-ins
    slots:
      tone:                           # the slot's name, chosen freely
        plugin: PeakFilter            # pedalboard's class name, LV2 URI, VST3 bundle
        controls:                     # optional; else all continuous ones not fixed
          cutoff_frequency_hz: {low: 200, high: 2000}   # narrows the catalogue's range
          gain_db:                    # the catalogue's range as it is
        fixed: {q: 1.0}
        bypass: control               # optional: true, false (default) or control
        backend: pedalboard           # optional: where this one slot differs
        fresh: true                   # optional: load it anew for every render (VST3)

A plug-in that comes in several formats is given as a table, ``plugin: {lv2: URI, vst3:
mdaDelay.vst3}``. Ranges of LV2 and VST3 plug-ins are their own, read from the plug-in
in a process of its own when the file is read; a parameter is named as the plug-in names
it (pedalboard's spelling for VST3), or by its index. A fixed value that only one format
has is given as a table as well, ``fixed: {stereo: {lv2: off}}``.

With ``backend: jax`` a built-in is its differentiable twin, at the same settings, and a
plug-in may also be any effect of `ddspx.effects.registry` (``feedback_delay_network``).
These say nothing of their tails: give tail_s. JAX is imported for such files only.

A control may give low, high, unit, curve (linear, log), default, identity, quantum,
epsilon, and for a discrete parameter choices (a part of the plug-in's). ``bypass:
control`` adds an on/off control to the slot.
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
from styletransfer.hosts.interface import PluginMissing, differences, signature_of
from styletransfer.hosts.scan import KINDS, describe

FOLDER = Path(__file__).resolve().parent.parent / "configs" / "effects"
_KEPT = "effect.json"
_EFFECT_KEYS = ("name", "description", "backend", "package", "tail_s", "slots")
_SLOT_KEYS = ("plugin", "controls", "fixed", "bypass", "backend", "fresh")
_CONTROL_KEYS = tuple(f.name for f in fields(ParameterSpec) if f.name != "name")


Engine = Literal["pedalboard", "jax", "lv2", "vst3"]


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
        and of its slots; ``"lv2"`` or ``"vst3"`` for the plug-ins that come in several
        formats; None to do as the file says.

    Returns:
      The description, with the full ranges; opening it at a sample rate limits them.

    Raises:
      EffectError: no such preset or file, or it says something that cannot be: one
        line with the file, the place in it, and the nearest spelling.
      PluginMissing: a third-party plug-in is not installed; says what to install.
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
    except PluginMissing as error:
        raise PluginMissing(f"{path}: {error}") from error
    except (ValueError, TypeError) as error:
        raise EffectError(f"{path}: {error}") from error


def kept_with(effect: HostEffect, run_folder: Path) -> dict[str, str]:
    """The description that a run is trained for, to be an attachment of `fit`.

    Args:
      effect: of the run.
      run_folder: where it is trained, or resumed.

    Returns:
      Text by file name; `kept_effect` reads it back.

    Raises:
      EffectError: the run was begun for another one; shows what differs: controls, or
        parameters of a plug-in that was exchanged.
    """
    kept = kept_effect(run_folder)
    if kept is not None and kept != effect:
        raise EffectError(
            f"{run_folder}: was trained for {kept.name!r} as it was then, which has"
            f" changed (- then, + now): {differences(_lines(kept), _lines(effect))}."
            " Give another run folder, or bring the effect or plug-in of then back"
        )
    return {_KEPT: effect.to_json() + "\n"}


def kept_effect(run_folder: Path) -> HostEffect | None:
    """The description that a run was trained for; None where it kept none."""
    path = run_folder / _KEPT
    if not path.is_file():
        return None
    return HostEffect.from_json(path.read_text(encoding="utf-8"))


def _lines(effect: HostEffect) -> list[str]:
    """What a description says, a line each, to be compared."""
    lines = []
    for slot in effect.slots:
        lines.append(f"{slot.name}: {slot.kind} {slot.plugin}")
        lines += [f"{slot.name} controls {signature_of(s)}" for s in slot.controls]
        lines += [f"{slot.name} fixes {name} at {value}" for name, value in slot.fixed]
        lines += [f"{slot.name} has {line}" for line in slot.interface]
    return lines


def plugin_kind(name: str) -> str | None:
    """``"lv2"`` for a URI, ``"vst3"`` for a bundle, None for anything else."""
    if "://" in name or name.startswith("urn:"):
        return "lv2"
    return "vst3" if name.split("#")[0].rstrip("/").endswith(".vst3") else None


def plugin_effect(plugin: str, *, fresh: bool = False) -> HostEffect:
    """A plug-in that has no effect file, with all its continuous parameters controlled.

    Args:
      plugin: URI of an LV2 plug-in, or a VST3 bundle.
      fresh: see `Slot`.

    Returns:
      A description of one slot, ``"plugin"``, named as the plug-in is.

    Raises:
      PluginMissing: it is not installed.
      ValueError: it is neither, cannot be opened, or has no continuous parameter.
    """
    kind = plugin_kind(plugin)
    if kind is None:
        raise ValueError(f"{plugin!r} is no LV2 URI and no VST3 bundle (.vst3)")
    face = describe(kind, plugin)
    if not face.continuous:
        raise ValueError(f"{plugin}: has no continuous parameter to control")
    slot = Slot(
        "plugin", plugin, face.continuous, (), False, kind, fresh, face.signature
    )
    return HostEffect(face.name, (slot,))


def parse_effect(text: str, name: str, engine: Engine | None = None) -> HostEffect:
    """Reads the text of an effect file.

    Args:
      text: YAML.
      name: the effect's, where the text gives none.
      engine: see `load_effect`.

    Raises:
      ValueError: what is wrong, and where in the text.
      PluginMissing: a third-party plug-in is not installed.
    """
    try:
        table = yaml.load(text, Loader=_StrictLoader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from error
    table = _mapping(table, "the file", _EFFECT_KEYS)
    backend = _engine(table.get("backend", "pedalboard"), "backend")
    try:
        slots = tuple(
            _read_slot(str(slot), content, backend, engine)
            for slot, content in _mapping(table.get("slots"), "slots").items()
        )
    except PluginMissing as error:
        # What it names holds the plug-ins of the file's own format.
        package = table.get("package") if engine in (None, backend) else None
        hint = f". On Debian or Ubuntu: apt-get install {package}" if package else ""
        raise PluginMissing(f"{error}{hint}") from error
    if not slots:
        raise ValueError("slots: name at least one plug-in")
    if engine in KINDS and not any(slot.kind == engine for slot in slots):
        raise ValueError(f"none of its plug-ins is given as {engine}")
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
    if kind in KINDS:
        return describe(kind, plugin).facts
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
    kind = _engine(table.get("backend", backend), f"{where}: backend")
    if table.get("bypass") is True:
        forced = None
    plugin, kind = _plugin_of(table["plugin"], kind, forced, where)
    try:
        known = _known(plugin, kind)
    except PluginMissing as error:
        raise PluginMissing(f"{where}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    held = {
        key: value.get(kind) if isinstance(value, dict) else value
        for key, value in _mapping(table.get("fixed"), f"{where}: fixed").items()
        if not isinstance(value, dict) or kind in value
    }
    fixed = tuple(
        _read_fixed(known, plugin, key, value, where) for key, value in held.items()
    )
    names = {key for key, _ in fixed}
    missing = set(known.required) - names
    if missing:
        raise ValueError(
            f"{where}: {plugin} needs {', '.join(sorted(missing))} under fixed"
        )
    if "controls" in table:
        listed = table["controls"]
        if isinstance(listed, list):
            listed = dict.fromkeys(listed)
        controls = tuple(
            _read_control(known, plugin, key, override, where)
            for key, override in _mapping(listed, f"{where}: controls").items()
        )
    else:
        offered = default_controls_of(plugin, known)
        controls = tuple(spec for spec in offered if spec.name not in names)
    bypass, fresh = table.get("bypass", False), table.get("fresh", False)
    if bypass == "control":
        spec = ParameterSpec(BYPASS, choices=ON_OFF, default=0.0, identity=1.0)
        controls, bypass = (*controls, spec), False
    if not isinstance(bypass, bool):
        raise ValueError(f"{where}: bypass {bypass!r} is not true, false or control")
    if not isinstance(fresh, bool) or (fresh and kind != "vst3"):
        raise ValueError(
            f"{where}: fresh {fresh!r} must be true or false, and true for vst3 only"
            " (every other format is made anew for each render as it is)"
        )
    signature = describe(kind, plugin).signature if kind in KINDS else ()
    return Slot(name, plugin, controls, fixed, bypass, kind, fresh, signature)


def _plugin_of(
    given: Any, kind: Engine, forced: Engine | None, where: str
) -> tuple[str, Engine]:
    """The plug-in of a slot and who opens it.

    A format is taken where it is asked for and the slot has it; pedalboard and jax are
    asked of every slot.
    """
    offers: dict[Any, Any] = {kind: given}
    if isinstance(given, dict):
        offers = dict(_mapping(given, f"{where}: plugin", get_args(Engine)))
    if forced in KINDS:
        kind = forced if forced in offers else kind
    elif forced is not None:
        kind = forced
        offers = offers if isinstance(given, dict) else {forced: given}
    if kind not in offers:
        raise ValueError(
            f"{where}: has no plug-in for {kind}, only for {', '.join(offers)}"
        )
    return str(offers[kind]), kind


def _same_word(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def _parameter(known: PluginFacts, plugin: str, key: Any, where: str) -> ParameterSpec:
    """A parameter by name or index; formats may differ by case and underscores."""
    specs = known.parameters
    names = [spec.name for spec in specs]
    if isinstance(key, int) and not isinstance(key, bool) and 0 <= key < len(specs):
        return specs[key]
    if key in names:
        return known.parameter(key)
    alike = [s for s in specs if _same_word(s.name) == _same_word(str(key))]
    if len(alike) == 1 and _same_word(str(key)):
        return alike[0]
    raise ValueError(
        f"{where}: {plugin} has no parameter {key!r}{nearest(str(key), names)};"
        f" it has: {', '.join(names) or 'none'}"
    )


def _read_control(
    known: PluginFacts, plugin: str, key: Any, override: Any, where: str
) -> ParameterSpec:
    spec = _parameter(known, plugin, key, where)
    key = spec.name
    place = f"{where}: {key}"
    change = dict(_mapping(override, place, _CONTROL_KEYS))
    if spec.choices:
        return _narrow_choices(spec, change, place)
    if "choices" in change:
        raise ValueError(f"{place}: it is continuous, choices do not apply")
    for name in ("low", "high", "default", "identity", "quantum", "epsilon"):
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
    elif isinstance(value, int | float) and f"{value:g}" in spec.choices:
        value = f"{value:g}"
    if value not in spec.choices:
        raise ValueError(
            f"{place}: {value!r} is not one of {', '.join(spec.choices)}"
            f"{nearest(str(value), spec.choices)}"
        )
    return str(value)


def _read_fixed(
    known: PluginFacts, plugin: str, key: Any, value: Any, where: str
) -> tuple[str, float | str]:
    if key in (*known.required, *known.optional):
        text = isinstance(value, str)
        return key, value if text else _number(value, f"{where}: {key}")
    spec = _parameter(known, plugin, key, where)
    key = spec.name
    if spec.choices:
        return key, _choice(spec, value, f"{where}: {key}")
    number = _number(value, f"{where}: {key}")
    least, most = known.accepted(key)
    if not least <= number <= most:
        raise ValueError(
            f"{where}: {key} {number:g} leaves what {plugin} can bear:"
            f" [{least:g}, {most:g}] {spec.unit}".rstrip()
        )
    return key, number


def _number(value: Any, place: str) -> float:
    bad = isinstance(value, bool) or not isinstance(value, int | float)
    if bad or not math.isfinite(value):
        raise ValueError(f"{place}: {value!r} is not a finite number")
    return float(value)


def _mapping(value: Any, place: str, keys: tuple[str, ...] = ()) -> Mapping[Any, Any]:
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
