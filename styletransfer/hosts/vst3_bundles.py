"""Where VST3 bundles lie; nothing of them is loaded."""

import os
from pathlib import Path

from styletransfer.hosts.catalogue import nearest
from styletransfer.hosts.interface import PluginMissing


def bundle_folders() -> tuple[Path, ...]:
    """Where VST3 bundles are sought: VST3_PATH, then the standard folders."""
    own = os.environ.get("VST3_PATH", "")
    folders = [Path(p) for p in own.split(os.pathsep) if p]
    standard = ("/usr/lib/vst3", "/usr/local/lib/vst3")
    return (*folders, Path.home() / ".vst3", *map(Path, standard))


def bundles() -> tuple[Path, ...]:
    """All installed bundles, sorted by name; the first folder wins."""
    found: dict[str, Path] = {}
    for folder in bundle_folders():
        for path in sorted(folder.glob("*.vst3")):
            found.setdefault(path.name, path)
    return tuple(found[name] for name in sorted(found))


def find_bundle(plugin: str) -> tuple[Path, str | None]:
    """Path of a bundle and the name of a plug-in within, or None for its only one.

    Args:
      plugin: a path, or a bundle's name (``"ZamComp.vst3"``, ``"ZamComp"``); followed
        by ``#name`` for one plug-in of a bundle that holds several.

    Raises:
      PluginMissing: there is none; names the nearest and where it was sought.
    """
    place, _, inner = plugin.partition("#")
    wanted = place if place.endswith(".vst3") else f"{place}.vst3"
    known = {path.name: path for path in bundles()}
    path = Path(wanted).expanduser()
    if os.sep not in wanted:
        path = known.get(wanted, path)
    if not path.exists():
        folders = ", ".join(map(str, bundle_folders()))
        raise PluginMissing(
            f"no VST3 bundle {plugin!r}{nearest(wanted, known)}; sought in {folders}"
            " (VST3_PATH adds to them); scripts/probe_effect.py --list shows all"
        )
    return path, inner or None
