"""Configuration: frozen dataclasses, YAML presets that hold differences, tyro.

A configuration is a frozen dataclass whose defaults are the ordinary values; its fields
may be configurations again. A preset is a YAML file with only what differs. The command
line is `--config=preset.yaml --optimizer.learning_rate 1e-3`, later wins. Everything is
strict: unknown keys, duplicate keys and wrong types are refused by name.
"""

import dataclasses
import difflib
import enum
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro
import yaml

Config = TypeVar("Config")

MAY_CHANGE: Mapping[str, bool] = types.MappingProxyType({"may_change": True})
"""Metadata of a field that may differ when a run is resumed."""


class ConfigurationError(ValueError):
    """A configuration that cannot be used; the message names key and expectation."""


@dataclass(frozen=True)
class FitConfig:
    """How long to train and how often to look.

    Attributes:
        steps: the step at which training ends.
        seed: seed of the run's random key.
        log_every: steps between log entries (means over those steps).
        evaluate_every: steps between evaluations; one is made before step 1 as well.
        evaluation_batches: how many evaluation batches to use; None for all.
        save_every: steps between checkpoints.
        keep: how many of the newest checkpoints are kept.
        keep_every: keep in addition every checkpoint at a multiple of this step.
        best_metric: the evaluation metric that chooses the best checkpoint.
        best_is: whether its lowest or its highest value is best.
        silence_metric: the step metric that holds the output level in dB.
        silence_threshold_db: an output below this level counts as silent.
        silence_steps: this many silent steps in a row stop the run.
        data_threads: threads that prepare batches.
        prefetch: batches prepared ahead.
        in_flight: steps the device may be ahead of the host.
        quiet: no progress bar in the terminal.
    """

    steps: int = field(default=1000, metadata=MAY_CHANGE)
    seed: int = 0
    log_every: int = field(default=50, metadata=MAY_CHANGE)
    evaluate_every: int = field(default=500, metadata=MAY_CHANGE)
    evaluation_batches: int | None = field(default=None, metadata=MAY_CHANGE)
    save_every: int = field(default=500, metadata=MAY_CHANGE)
    keep: int = field(default=2, metadata=MAY_CHANGE)
    keep_every: int | None = field(default=None, metadata=MAY_CHANGE)
    best_metric: str = "loss"
    best_is: Literal["lowest", "highest"] = "lowest"
    silence_metric: str = field(default="output_rms_db", metadata=MAY_CHANGE)
    silence_threshold_db: float = field(default=-80.0, metadata=MAY_CHANGE)
    silence_steps: int = field(default=200, metadata=MAY_CHANGE)
    data_threads: int = field(default=2, metadata=MAY_CHANGE)
    prefetch: int = field(default=4, metadata=MAY_CHANGE)
    in_flight: int = field(default=4, metadata=MAY_CHANGE)
    quiet: bool = field(default=False, metadata=MAY_CHANGE)

    def __post_init__(self) -> None:
        for name in (
            "steps", "log_every", "evaluate_every", "save_every", "keep",
            "silence_steps", "data_threads", "prefetch", "in_flight",
            "evaluation_batches", "keep_every",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"{name}: got {value}, expected at least 1")


# -------------------------------------------------------------------- strict reading


class _StrictLoader(yaml.SafeLoader):
    """YAML as people mean it: 1e-3 is a number, a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(self.construct_object(key_node, deep=True))
            if key in seen:
                line = key_node.start_mark.line + 1
                raise ConfigurationError(f"line {line}: key '{key}' is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"
        r"|^[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*)$|^[-+]?\.(inf|Inf|INF)$"
    ),
    list("-+0123456789."),
)


def _nearest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _wrong(where: str, hint: Any, value: Any) -> ConfigurationError:
    return ConfigurationError(
        f"{where}: got {value!r} ({type(value).__name__}), expected {_name(hint)}"
    )


def _convert_union(hint: Any, value: Any, where: str, base: Any) -> Any:
    members = typing.get_args(hint)
    errors = []
    # The member whose type is already the value's comes first: `int | float` keeps 3.
    for member in sorted(members, key=lambda m: type(value) is not m):
        try:
            return _convert(member, value, where, base)
        except ConfigurationError as error:
            errors.append((member, error))
    if isinstance(value, Mapping):
        # A mapping was meant for the dataclass among the members: show its error.
        for member, error in errors:
            if dataclasses.is_dataclass(member):
                raise error
    raise _wrong(where, hint, value)


def _convert_sequence(hint: Any, value: Any, where: str) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _wrong(where, hint, value)
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        if len(inner) != len(value):
            raise ConfigurationError(
                f"{where}: got {len(value)} items, expected {len(inner)} ({hint})"
            )
        kinds = inner
    else:
        kinds = (inner[0] if inner else Any,) * len(value)
    items = [
        _convert(k, v, f"{where}[{i}]")
        for i, (k, v) in enumerate(zip(kinds, value, strict=True))
    ]
    return tuple(items) if origin is tuple or hint is tuple else items


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        if isinstance(value, hint):
            return value
        names = [member.name for member in hint]
        if value in names:
            return hint[value]
        near = _nearest(str(value), names)
        raise ConfigurationError(f"{where}: got {value!r}, expected {names}{near}")
    if isinstance(hint, type) and isinstance(value, hint):
        if isinstance(value, bool) and hint is not bool:
            raise _wrong(where, hint, value)
        return value
    raise _wrong(where, hint, value)


def _convert(hint: Any, value: Any, where: str, base: Any = None) -> Any:
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if hint is None or hint is type(None):
        if value is None:
            return None
        raise _wrong(where, "null", value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise _wrong(where, hint, value)
        return from_dict(
            hint, value, base=base if type(base) is hint else None, _where=where
        )
    if origin is Literal:
        options = typing.get_args(hint)
        if any(value == o and type(value) is type(o) for o in options):
            return value
        near = _nearest(str(value), [str(o) for o in options])
        raise ConfigurationError(
            f"{where}: got {value!r}, expected one of {list(options)}{near}"
        )
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, value, where, base)
    if origin in (tuple, list) or hint in (tuple, list):
        return _convert_sequence(hint, value, where)
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, Mapping):
            raise _wrong(where, hint, value)
        key_kind, kind = typing.get_args(hint) or (Any, Any)
        return {
            _convert(key_kind, k, f"{where} key"): _convert(kind, v, f"{where}.{k}")
            for k, v in value.items()
        }
    return _convert_scalar(hint, value, where)


def from_dict(
    cls: type[Config],
    values: Mapping[str, Any],
    *,
    base: Config | None = None,
    _where: str = "",
) -> Config:
    """A configuration from plain values, strictly.

    Args:
        cls: a frozen dataclass.
        values: only what differs from `base`; nested mappings for nested
            configurations, lists for tuples, strings for paths.
        base: what is changed; the defaults of `cls` when None.

    Returns:
        An instance of `cls`.

    Raises:
        ConfigurationError: for an unknown key (with the nearest spelling), a value of
            the wrong type, or a missing key that has no default.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    given = {}
    for key, value in values.items():
        dotted = f"{_where}.{key}" if _where else str(key)
        if key not in fields:
            raise ConfigurationError(
                f"unknown key '{dotted}'{_nearest(str(key), list(fields))} "
                f"({cls.__name__} has: {', '.join(fields)})"
            )
        given[key] = _convert(hints[key], value, dotted, _current(fields[key], base))
    if base is not None:
        return dataclasses.replace(base, **given)  # type: ignore[type-var]
    missing = [
        f"{_where}.{name}" if _where else name
        for name, f in fields.items()
        if name not in given
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigurationError(f"no value for {missing}, which have no default")
    return cls(**given)


def _current(entry: dataclasses.Field, base: Any) -> Any:
    if base is not None:
        return getattr(base, entry.name)
    if entry.default is not dataclasses.MISSING:
        return entry.default
    if entry.default_factory is not dataclasses.MISSING:
        return entry.default_factory()
    return None


def to_dict(config: Any) -> Any:
    """Plain values of a configuration (JSON and YAML can hold them).

    `from_dict(type(config), to_dict(config)) == config`.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {
            f.name: to_dict(getattr(config, f.name))
            for f in dataclasses.fields(config)
            if f.init
        }
    if isinstance(config, Mapping):
        return {str(k): to_dict(v) for k, v in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_dict(v) for v in config]
    if isinstance(config, enum.Enum):
        return config.name
    return str(config) if isinstance(config, Path) else config


def read_yaml(text: str) -> dict[str, Any]:
    """The mapping in a YAML text; `1e-3` is a number, a repeated key is refused.

    Raises:
        ConfigurationError: if it is not YAML, or not a mapping.
    """
    try:
        values = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"not YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigurationError(f"expected 'key: value' lines, got {values!r}")
    return values


def to_yaml(config: Any) -> str:
    """A configuration (or plain values) as YAML, in the order of its fields."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def load_preset(
    path: str | Path, cls: type[Config], *, base: Config | None = None
) -> Config:
    """Reads a YAML preset: only what differs from the defaults of `cls`.

    Args:
        path: the YAML file.
        cls: a frozen dataclass.
        base: what the preset changes; the defaults when None.

    Returns:
        An instance of `cls`.

    Raises:
        ConfigurationError: if the file is missing or says anything that `cls` does not
            know; the message begins with the path.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read preset {path}: {error}") from None
    try:
        return from_dict(cls, read_yaml(text), base=base)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def parse_command_line(
    cls: type[Config], arguments: Sequence[str], *, description: str = ""
) -> Config:
    """A configuration from a command line: defaults, then a preset, then options.

    Args:
        cls: a frozen dataclass; its docstring's `Attributes` become the help.
        arguments: the words after the program's name, for example
            `["--config=preset.yaml", "--optimizer.learning_rate", "1e-3"]`.
        description: the first lines of `--help`.

    Returns:
        An instance of `cls`.

    Raises:
        ConfigurationError: for a preset that cannot be used.
        SystemExit: with code 2 for an option that cannot be used, 0 for `--help`.
    """
    rest, presets, words = [], [], list(arguments)
    while words:
        word = words.pop(0)
        if word == "--config":
            if not words:
                raise ConfigurationError("--config: expected the path of a YAML preset")
            presets.append(words.pop(0))
        elif word.startswith("--config="):
            presets.append(word.removeprefix("--config="))
        else:
            rest.append(word)
    default: Config | None = None
    for preset in presets:
        default = load_preset(preset, cls, base=default)
    text = f"{description}\n\n--config=PRESET.yaml changes the defaults below.".strip()
    if default is None:
        return tyro.cli(cls, args=rest, description=text)
    return tyro.cli(cls, args=rest, description=text, default=default)
