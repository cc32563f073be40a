"""What an LV2 plug-in's Turtle says of its ports, as parameters of ours.

Control inputs become `ParameterSpec`s: toggles, enumerations and short ranges of whole
numbers are choices, a logarithmic range is a log curve, a range given in shares of the
sample rate keeps that unit. Nothing of the plug-in itself is loaded.
"""

import ctypes as c
import math
from dataclasses import dataclass
from typing import Any

from ddspx.parameters import ParameterSpec
from styletransfer.hosts.catalogue import ON_OFF, nearest
from styletransfer.hosts.interface import Interface, PluginError, PluginMissing, unique
from styletransfer.hosts.lilv import ATOM, CORE, PORT_PROPERTIES, UNITS, lilv
from styletransfer.hosts.lv2_features import SUPPORTED

# Whole numbers of at most as many values are choices.
_MOST_CHOICES = 32
OF_RATE = "x rate"
_UNITS = {"db": "dB", "hz": "Hz", "khz": "kHz", "ms": "ms", "s": "s", "pc": "%"}
# Designations of ports that belong to the host, not to the sound.
_HOSTS_OWN = ("freeWheeling", "http://lv2plug.in/ns/ext/time#")


@dataclass(frozen=True)
class Control:
    """One control input.

    Attributes:
      index: of the port.
      spec: as a parameter of ours.
      values: port value of each choice; empty for a continuous one.
      whole: whether values are rounded.
    """

    index: int
    spec: ParameterSpec
    values: tuple[float, ...] = ()
    whole: bool = False

    def port_value(self, value: Any, sample_rate: float) -> float:
        """What to write to the port for a physical value or the text of a choice."""
        if self.values:
            return self.values[self.spec.choices.index(value)]
        number = min(max(float(value), self.spec.low), self.spec.high)
        if self.spec.unit == OF_RATE:
            return number * sample_rate
        return float(round(number)) if self.whole else number


@dataclass(frozen=True)
class Ports:
    """The ports of a plug-in by what they are for, as indices.

    Attributes:
      audio_in, audio_out: main audio, one or two each.
      silent_in: side chains and CV inputs, which are given silence.
      ignored_out: CV outputs.
      controls: what can be set.
      held: control inputs that belong to the host, with their defaults.
      meters: control outputs, and their symbols.
      atoms_in, atoms_out: event ports.
      latency: the control output that reports it, or None.
      count: of all ports.
    """

    audio_in: tuple[int, ...]
    audio_out: tuple[int, ...]
    silent_in: tuple[int, ...]
    ignored_out: tuple[int, ...]
    controls: tuple[Control, ...]
    held: tuple[tuple[int, float], ...]
    meters: tuple[tuple[int, str], ...]
    atoms_in: tuple[int, ...]
    atoms_out: tuple[int, ...]
    latency: int | None
    count: int


def installed_plugin(uri: str) -> Any:
    """Lilv's plug-in of a URI.

    Raises:
      PluginMissing: none is installed.
      PluginError: it needs what this host does not have.
    """
    library = lilv()
    plugin = library.plugin(uri)
    if not plugin:
        raise PluginMissing(
            f"no LV2 plug-in {uri!r} is installed{nearest(uri, library.uris())}; sought"
            " in LV2_PATH or the system's folders, scripts/probe_effect.py --list shows"
            " all"
        )
    missing = library.required_features(plugin) - SUPPORTED
    if missing:
        raise PluginError(
            f"LV2 plug-in {uri} needs of its host {', '.join(sorted(missing))}, which"
            " this one does not have; take another plug-in"
        )
    return plugin


def read_ports(uri: str) -> Ports:
    """The ports of a plug-in, sorted.

    Raises:
      PluginError: see `installed_plugin`; or it has no audio in and out.
    """
    library, plugin = lilv(), installed_plugin(uri)
    count = library.plugin_get_num_ports(plugin)
    lows, highs, defaults = ((c.c_float * count)() for _ in range(3))
    library.plugin_get_port_ranges_float(plugin, lows, highs, defaults)
    found: dict[str, list[Any]] = {name: [] for name in Ports.__annotations__}
    latency = None
    for index in range(count):
        port = library.plugin_get_port_by_index(plugin, index)
        is_input = _is(plugin, port, f"{CORE}InputPort")
        if _is(plugin, port, f"{CORE}AudioPort"):
            side = _has(
                plugin, port, f"{CORE}isSideChain", f"{PORT_PROPERTIES}sidechain"
            )
            place = "audio_in" if is_input else "audio_out"
            found["silent_in" if is_input and side else place].append(index)
        elif _is(plugin, port, f"{ATOM}AtomPort"):
            found["atoms_in" if is_input else "atoms_out"].append(index)
        elif not _is(plugin, port, f"{CORE}ControlPort"):
            found["silent_in" if is_input else "ignored_out"].append(index)
        elif not is_input:
            symbol = library.text(library.port_get_symbol(plugin, port))
            found["meters"].append((index, symbol))
            if _designation(plugin, port) == f"{CORE}latency" or _has(
                plugin, port, f"{CORE}reportsLatency"
            ):
                latency = index
        else:
            # Turtle has decimals, the port 32-bit floats: 0.7 is meant by 0.69999999.
            low, high, default = (
                float(f"{table[index]:.7g}") for table in (lows, highs, defaults)
            )
            if any(own in _designation(plugin, port) for own in _HOSTS_OWN):
                value = 0.0 if math.isnan(default) else default
                found["held"].append((index, value))
            else:
                control = _control(plugin, port, index, low, high, default)
                held = (index, 0.0 if math.isnan(default) else default)
                found["controls" if control else "held"].append(control or held)
    if not found["audio_in"] or not found["audio_out"]:
        raise PluginError(
            f"LV2 plug-in {uri} has {len(found['audio_in'])} audio inputs and"
            f" {len(found['audio_out'])} outputs; an effect has at least one of each"
        )
    # The third input and beyond belong to surround, or to side chains without a mark.
    found["silent_in"] += found["audio_in"][2:]
    found["ignored_out"] += found["audio_out"][2:]
    found["audio_in"], found["audio_out"] = (
        found[name][:2] for name in ("audio_in", "audio_out")
    )
    lists = {k: tuple(v) for k, v in found.items() if k not in ("latency", "count")}
    return Ports(**lists, latency=latency, count=count)


def read_interface(uri: str, ports: Ports) -> Interface:
    """The plug-in as others see it; latency is filled in by who runs it."""
    library = lilv()
    node = library.plugin_get_name(library.plugin(uri))
    name = library.text(node)
    library.node_free(node)
    return Interface(
        "lv2",
        uri,
        name or uri,
        len(ports.audio_in),
        len(ports.audio_out),
        tuple(control.spec for control in ports.controls),
        tuple(symbol for _, symbol in ports.meters),
    )


def _is(plugin: Any, port: Any, uri: str) -> bool:
    return lilv().port_is_a(plugin, port, lilv().uri(uri))


def _has(plugin: Any, port: Any, *uris: str) -> bool:
    library = lilv()
    return any(library.port_has_property(plugin, port, library.uri(u)) for u in uris)


def _designation(plugin: Any, port: Any) -> str:
    library = lilv()
    return library.text(
        library.port_get(plugin, port, library.uri(f"{CORE}designation"))
    )


def _control(
    plugin: Any, port: Any, index: int, low: float, high: float, default: float
) -> Control | None:
    """The control of a port; None where its range holds one value only."""
    library = lilv()
    name = library.text(library.port_get_symbol(plugin, port))
    low = low if math.isfinite(low) else 0.0
    high = high if math.isfinite(high) else max(low + 1.0, 1.0)
    if not low < high:
        return None
    default = min(max(default, low), high) if math.isfinite(default) else low
    if _has(plugin, port, f"{CORE}toggled"):
        spec = ParameterSpec(
            name, choices=ON_OFF, default=float(default > 0.5 * (low + high))
        )
        return Control(index, spec, (low, high))
    points = library.scale_points(plugin, port)
    whole = _has(plugin, port, f"{CORE}integer")
    if _has(plugin, port, f"{CORE}enumeration") and len(points) > 1:
        values = tuple(value for _, value in points)
        return _chosen(
            index, name, unique(label for label, _ in points), values, default
        )
    if whole and high - low < _MOST_CHOICES:
        values = tuple(float(v) for v in range(math.ceil(low), math.floor(high) + 1))
        if len(values) < 2:
            return None
        return _chosen(index, name, tuple(f"{v:g}" for v in values), values, default)
    of_rate = _has(plugin, port, f"{CORE}sampleRate")
    logarithmic = _has(plugin, port, f"{PORT_PROPERTIES}logarithmic") and low > 0
    unit = library.text(library.port_get(plugin, port, library.uri(f"{UNITS}unit")))
    spec = ParameterSpec(
        name,
        low,
        high,
        OF_RATE if of_rate else _UNITS.get(unit.removeprefix(UNITS), ""),
        "log" if logarithmic else "linear",
        default,
        quantum=min(1.0 / (high - low), 0.5) if whole else 0.0,
    )
    return Control(index, spec, whole=whole)


def _chosen(
    index: int,
    name: str,
    labels: tuple[str, ...],
    values: tuple[float, ...],
    default: float,
) -> Control:
    place = min(range(len(values)), key=lambda k: abs(values[k] - default))
    spec = ParameterSpec(name, choices=labels, default=float(place))
    return Control(index, spec, values)
