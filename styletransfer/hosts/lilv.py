"""liblilv through ctypes: reads what LV2 plug-ins say of themselves, and opens them.

lilv is a system library (Debian: liblilv-0-0); without it everything else works. Its
functions are called by their C names without the prefix, ``lilv.plugin_get_uri(p)``.
lilv is not thread-safe; callers hold `LOCK` where they instantiate or free.
"""

import ctypes as c
import functools
import threading
from collections.abc import Iterator
from typing import Any

from styletransfer.hosts.interface import PluginMissing

LOCK = threading.RLock()
CORE = "http://lv2plug.in/ns/lv2core#"
ATOM = "http://lv2plug.in/ns/ext/atom#"
PORT_PROPERTIES = "http://lv2plug.in/ns/ext/port-props#"
UNITS = "http://lv2plug.in/ns/extensions/units#"
INSTALL = "install liblilv-0-0 (Debian, Ubuntu) or lilv (elsewhere)"

_pointer, _text, _float, _uint = c.c_void_p, c.c_char_p, c.c_float, c.c_uint32
_floats = c.POINTER(c.c_float)
# name: (result, arguments), from lilv/lilv.h.
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "world_new": (_pointer, ()),
    "world_load_all": (None, (_pointer,)),
    "world_load_bundle": (None, (_pointer, _pointer)),
    "world_load_resource": (c.c_int, (_pointer, _pointer)),
    "world_get_all_plugins": (_pointer, (_pointer,)),
    "world_get": (_pointer, (_pointer, _pointer, _pointer, _pointer)),
    "plugins_get_by_uri": (_pointer, (_pointer, _pointer)),
    "plugins_begin": (_pointer, (_pointer,)),
    "plugins_is_end": (c.c_bool, (_pointer, _pointer)),
    "plugins_next": (_pointer, (_pointer, _pointer)),
    "plugins_get": (_pointer, (_pointer, _pointer)),
    "plugin_get_uri": (_pointer, (_pointer,)),
    "plugin_get_name": (_pointer, (_pointer,)),
    "plugin_get_num_ports": (_uint, (_pointer,)),
    "plugin_get_port_by_index": (_pointer, (_pointer, _uint)),
    "plugin_get_port_ranges_float": (None, (_pointer, _floats, _floats, _floats)),
    "plugin_get_required_features": (_pointer, (_pointer,)),
    "plugin_instantiate": (_pointer, (_pointer, c.c_double, _pointer)),
    "instance_free": (None, (_pointer,)),
    "port_get_symbol": (_pointer, (_pointer, _pointer)),
    "port_get_name": (_pointer, (_pointer, _pointer)),
    "port_get": (_pointer, (_pointer, _pointer, _pointer)),
    "port_is_a": (c.c_bool, (_pointer, _pointer, _pointer)),
    "port_has_property": (c.c_bool, (_pointer, _pointer, _pointer)),
    "port_get_scale_points": (_pointer, (_pointer, _pointer)),
    "scale_points_begin": (_pointer, (_pointer,)),
    "scale_points_is_end": (c.c_bool, (_pointer, _pointer)),
    "scale_points_next": (_pointer, (_pointer, _pointer)),
    "scale_points_get": (_pointer, (_pointer, _pointer)),
    "scale_points_free": (None, (_pointer,)),
    "scale_point_get_label": (_pointer, (_pointer,)),
    "scale_point_get_value": (_pointer, (_pointer,)),
    "new_uri": (_pointer, (_pointer, _text)),
    "new_file_uri": (_pointer, (_pointer, _text, _text)),
    "node_as_string": (_text, (_pointer,)),
    "node_as_uri": (_text, (_pointer,)),
    "node_as_float": (_float, (_pointer,)),
    "node_free": (None, (_pointer,)),
    "nodes_begin": (_pointer, (_pointer,)),
    "nodes_is_end": (c.c_bool, (_pointer, _pointer)),
    "nodes_next": (_pointer, (_pointer, _pointer)),
    "nodes_get": (_pointer, (_pointer, _pointer)),
    "nodes_free": (None, (_pointer,)),
    "state_new_from_instance": (
        _pointer,
        (*(_pointer,) * 3, *(_text,) * 4, *(_pointer,) * 2, _uint, _pointer),
    ),
    "state_new_from_file": (_pointer, (_pointer, _pointer, _pointer, _text)),
    "state_new_from_world": (_pointer, (_pointer, _pointer, _pointer)),
    "state_set_label": (None, (_pointer, _text)),
    "state_get_label": (_text, (_pointer,)),
    "state_save": (c.c_int, (*(_pointer,) * 4, *(_text,) * 3)),
    "state_emit_port_values": (None, (_pointer, _pointer, _pointer)),
    "state_free": (None, (_pointer,)),
}


class Lilv:
    """The library with its signatures set; make it by `lilv`."""

    def __init__(self, library: Any):
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, f"lilv_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self.world: Any = self.world_new()
        self.world_load_all(self.world)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"lilv_{name} has no signature here; add it")

    @functools.cache  # noqa: B019  (lives as long as the process)
    def uri(self, text: str) -> Any:
        """A node of a URI, kept."""
        return self.new_uri(self.world, text.encode())

    def text(self, node: Any) -> str:
        """A node as text; empty for none."""
        return (self.node_as_string(node) or b"").decode() if node else ""

    def plugin(self, uri: str) -> Any:
        """The plug-in of a URI, or None."""
        plugins = self.world_get_all_plugins(self.world)
        return self.plugins_get_by_uri(plugins, self.uri(uri))

    def uris(self) -> list[str]:
        """All installed plug-ins, sorted."""
        plugins = self.world_get_all_plugins(self.world)
        each = self._iterate("plugins", plugins)
        return sorted(self.text(self.plugin_get_uri(p)) for p in each)

    def required_features(self, plugin: Any) -> set[str]:
        """URIs of what a host must offer."""
        nodes = self.plugin_get_required_features(plugin)
        found = {self.text(node) for node in self._iterate("nodes", nodes)}
        self.nodes_free(nodes)
        return found

    def scale_points(self, plugin: Any, port: Any) -> list[tuple[str, float]]:
        """(label, value) of a port's named values, by value."""
        points = self.port_get_scale_points(plugin, port)
        if not points:
            return []
        found = [
            (
                self.text(self.scale_point_get_label(point)),
                float(self.node_as_float(self.scale_point_get_value(point))),
            )
            for point in self._iterate("scale_points", points)
        ]
        self.scale_points_free(points)
        return sorted(found, key=lambda pair: pair[1])

    def _iterate(self, kind: str, collection: Any) -> Iterator[Any]:
        if not collection:
            return
        begin, is_end, following, get = (
            getattr(self, f"{kind}_{step}")
            for step in ("begin", "is_end", "next", "get")
        )
        place = begin(collection)
        while not is_end(collection, place):
            yield get(collection, place)
            place = following(collection, place)


@functools.cache
def lilv() -> Lilv:
    """The library, with the description of all installed plug-ins read.

    Plug-ins are sought in LV2_PATH, or where the system keeps them.

    Raises:
      PluginMissing: liblilv is not installed.
    """
    for name in ("liblilv-0.so.0", "liblilv-0.so"):
        try:
            return Lilv(c.CDLL(name))
        except OSError:
            continue
    raise PluginMissing(f"LV2 plug-ins need the library liblilv; {INSTALL}")
