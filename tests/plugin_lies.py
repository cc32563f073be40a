"""Plug-ins that are not what they say, made of real ones: for tests of hosts."""

import os
from pathlib import Path

DETUNE = "http://drobilla.net/plugins/mda/Detune"
_CORE = "http://lv2plug.in/ns/lv2core#"


def lying_bundle(
    folder: Path,
    library: Path,
    *,
    name: str = "detune",
    high: str = "1.0",
    audio_ports: int = 4,
    says: str = "",
) -> str:
    """An LV2 bundle with the MDA Detune's code and a Turtle of our own.

    Args:
      folder: to be LV2_PATH.
      library: path of Detune.so, or of something else.
      name: symbol of the first control.
      high: its upper bound, whatever the code can bear.
      audio_ports: 4; with fewer the code writes to where nothing is connected.
      says: further Turtle of the plug-in.

    Returns:
      The URI.
    """
    bundle = folder / "lie.lv2"
    bundle.mkdir(parents=True, exist_ok=True)
    prefixes = (
        f"@prefix lv2: <{_CORE}> .\n"
        "@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .\n"
        "@prefix doap: <http://usefulinc.com/ns/doap#> .\n"
    )
    (bundle / "manifest.ttl").write_text(
        f"{prefixes}<{DETUNE}> a lv2:Plugin ; lv2:binary <file://{library}> ;"
        " rdfs:seeAlso <plugin.ttl> .\n"
    )
    symbols = (name, "mix", "output", "latency")
    ports = [
        f'[ a lv2:InputPort, lv2:ControlPort ; lv2:index {k} ; lv2:symbol "{symbol}" ;'
        f' lv2:name "{symbol}" ; lv2:default 0.5 ; lv2:minimum 0.0 ;'
        f" lv2:maximum {high if k == 0 else '1.0'} ]"
        for k, symbol in enumerate(symbols)
    ]
    audio = ["Input", "Input", "Output", "Output"]
    if audio_ports < 4:
        audio = ["Input", "Output"]
    for k, direction in enumerate(audio):
        ports.append(
            f"[ a lv2:{direction}Port, lv2:AudioPort ; lv2:index {4 + k} ;"
            f' lv2:symbol "a{k}" ; lv2:name "a{k}" ]'
        )
    (bundle / "plugin.ttl").write_text(
        f'{prefixes}<{DETUNE}> a lv2:Plugin ; doap:name "Lie" ; {says}'
        f" lv2:port {', '.join(ports)} .\n"
    )
    return DETUNE


def hanging_library(path: Path) -> Path:
    """A file that never ends being opened: a pipe that nobody writes to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


def vst3_bundle(folder: Path, name: str) -> Path:
    """Path of the library that a bundle of this name should hold."""
    library = folder / f"{name}.vst3" / "Contents" / "x86_64-linux" / f"{name}.so"
    library.parent.mkdir(parents=True, exist_ok=True)
    return library
