"""Settings in the files that people's own tools read.

A VST3 slot becomes a ``.vstpreset``, an LV2 slot a preset bundle in Turtle (a folder
that belongs on LV2_PATH, such as ``~/.lv2``). Both are written by the plug-in's own
library in a process of its own, read back there, and compared with what was asked.
"""

import ctypes as c
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from styletransfer.hosts.description import HostEffect, Slot
from styletransfer.hosts.engine import slot_settings
from styletransfer.hosts.interface import PluginError, default_values
from styletransfer.hosts.scan import DESCRIBE_S, ask

SUFFIXES = {"vst3": ".vstpreset", "lv2": ".lv2"}
# Presets hold 32-bit floats, some plug-ins text of six digits.
_APART = 1e-5
_GET = c.CFUNCTYPE(
    c.c_void_p, c.c_char_p, c.c_void_p, c.POINTER(c.c_uint32), c.POINTER(c.c_uint32)
)
_SET = c.CFUNCTYPE(None, c.c_char_p, c.c_void_p, c.c_void_p, c.c_uint32, c.c_uint32)


def preset_paths(effect: HostEffect, stem: Path) -> dict[str, Path]:
    """Where `save_presets` writes: a path for each slot that has presets.

    Args:
      effect: a description.
      stem: path without suffix, such as that of the audio.
    """
    return {
        slot.name: stem.with_name(f"{stem.name}.{slot.name}{SUFFIXES[slot.kind]}")
        for slot in effect.slots
        if slot.kind in SUFFIXES and not slot.bypass
    }


def save_presets(
    effect: HostEffect, controls: Iterable[Any], stem: Path, label: str
) -> dict[str, Path]:
    """Writes a preset file or bundle for each LV2 and VST3 slot of an effect.

    Args:
      effect: a description, limited to the sample rate of the controls.
      controls: [n] in [0, 1].
      stem: see `preset_paths`; existing files there are replaced.
      label: name that the preset has in other tools.

    Returns:
      The paths by slot. A slot that is switched off by its control has none.

    Raises:
      PluginError: a plug-in is not installed, crashed, or read back something else.
    """
    paths = preset_paths(effect, stem)
    chosen = slot_settings(effect, controls)
    written = {}
    for slot in effect.slots:
        values = chosen.get(slot.name)
        if slot.name in paths and values is not None:
            _save(slot, values, paths[slot.name], label)
            written[slot.name] = paths[slot.name]
    return written


def _save(slot: Slot, values: dict[str, Any], path: Path, label: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".preset-") as folder:
        aside = Path(folder) / path.name
        question = {
            "do": "write",
            "kind": slot.kind,
            "plugin": slot.plugin,
            "values": dict(slot.fixed) | values,
            "path": str(aside.absolute()),
            "label": label,
        }
        ask(question, DESCRIBE_S)
        if path.is_dir():  # a folder cannot be renamed over one that holds something
            path.replace(Path(folder) / "old")
        aside.replace(path)


def write_settings(question: dict[str, Any]) -> dict[str, Any]:
    """Writes and reads back one preset; in the scanner's process only.

    Args:
      question: ``kind``, ``plugin``, ``values`` by name (what is left out keeps its
        default), ``path`` and ``label``.

    Returns:
      ``{"values": ...}``: raw values (VST3) or port values (LV2) by name, as read back.

    Raises:
      PluginError: what was read back is not what was written.
    """
    writer: Callable[..., tuple[dict[str, float], dict[str, float]]]
    writer = _write_vst3 if question["kind"] == "vst3" else _write_lv2
    asked, found = writer(
        question["plugin"],
        question["values"],
        Path(question["path"]),
        question["label"],
    )
    for name, value in asked.items():
        apart = abs(found.get(name, np.inf) - value)
        if not apart <= _APART * max(1.0, abs(value)):
            raise PluginError(
                f"{question['kind']} plug-in {question['plugin']}: the preset gives"
                f" {name} as {found.get(name)} where {value} was written; use the"
                " settings in the JSON"
            )
    return {"values": found}


def _write_vst3(plugin: str, values: dict[str, Any], path: Path, label: str) -> Any:
    from styletransfer.hosts.vst3 import Vst3Plugin

    del label  # the format names a preset by its file
    writer = Vst3Plugin(plugin, 44100)
    complete = default_values(writer.interface.parameters) | values
    path.write_bytes(writer.preset(complete))
    return writer.raw_values(complete), Vst3Plugin(plugin, 44100).load_preset(path)


def _write_lv2(plugin: str, values: dict[str, Any], path: Path, label: str) -> Any:
    from styletransfer.hosts.lilv import ATOM, lilv
    from styletransfer.hosts.lv2 import Lv2Plugin
    from styletransfer.hosts.lv2_features import MAP, UNMAP, number_of

    library, opened = lilv(), Lv2Plugin(plugin, 44100)
    specs = [control.spec for control in opened.ports.controls]
    port_values = opened.port_values(default_values(specs) | values)
    asked = {
        control.spec.name: float(port_values[control.index])
        for control in opened.ports.controls
    }
    held = {name: c.c_float(value) for name, value in asked.items()}
    real = number_of(f"{ATOM}Float")

    def get(symbol, _data, size, kind):
        value = held.get(symbol.decode())
        size[0], kind[0] = (4, real) if value is not None else (0, 0)
        return c.addressof(value) if value is not None else None

    map_, unmap = c.addressof(MAP), c.addressof(UNMAP)
    nothing = (None,) * 4
    state = library.state_new_from_instance(
        opened.native, opened.instance, map_, *nothing, _GET(get), None, 0, None
    )
    library.state_set_label(state, label.encode())
    path.mkdir()
    folder, name = str(path).encode(), b"preset.ttl"
    failed = library.state_save(library.world, map_, unmap, state, None, folder, name)
    library.state_free(state)
    if failed:
        raise PluginError(f"LV2 plug-in {plugin}: lilv could not write {path}")
    return asked, read_lv2_preset(path / "preset.ttl")


def read_lv2_preset(path: Path) -> dict[str, float]:
    """Port values of a preset in Turtle by symbol, as lilv reads them."""
    from styletransfer.hosts.lilv import ATOM, lilv
    from styletransfer.hosts.lv2_features import MAP, number_of

    library, real = lilv(), number_of(f"{ATOM}Float")
    state = library.state_new_from_file(
        library.world, c.addressof(MAP), None, str(path).encode()
    )
    if not state:
        raise PluginError(f"lilv cannot read the preset {path}")
    found: dict[str, float] = {}

    def take(symbol, _data, value, _size, kind):
        if kind == real:
            found[symbol.decode()] = c.cast(value, c.POINTER(c.c_float))[0]

    library.state_emit_port_values(state, _SET(take), None)
    library.state_free(state)
    return found
