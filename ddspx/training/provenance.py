"""What a run remembers of how it was made, and what a resumed run may change."""

import dataclasses
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddspx.training.configuration import ConfigurationError, to_dict


def flat(values: Any, _where: str = "") -> dict[str, Any]:
    """Plain values by dotted key, for comparison and for hyper-parameter tables."""
    if isinstance(values, Mapping) and values:
        found: dict[str, Any] = {}
        for key, value in values.items():
            found |= flat(value, f"{_where}.{key}" if _where else str(key))
        return found
    return {_where: values}


def changeable(config: Any, _where: str = "") -> frozenset[str]:
    """Dotted keys of the fields that carry `metadata=MAY_CHANGE`."""
    found: set[str] = set()
    if dataclasses.is_dataclass(config):
        for entry in dataclasses.fields(config):
            dotted = f"{_where}.{entry.name}" if _where else entry.name
            if entry.metadata.get("may_change"):
                found.add(dotted)
            found |= changeable(getattr(config, entry.name, None), dotted)
    return frozenset(found)


def refuse_changes(stored: Any, config: Any) -> None:
    """Refuses to resume a run whose configuration changed where it may not.

    Args:
        stored: plain values that the run was started with (`to_dict`).
        config: the configuration it would be resumed with.

    Raises:
        ConfigurationError: naming every differing key with both values.
    """
    old, new = flat(json.loads(json.dumps(stored))), flat(
        json.loads(json.dumps(to_dict(config)))
    )  # fmt: skip
    free = changeable(config)

    def may(key: str) -> bool:
        return any(key == name or key.startswith(f"{name}.") for name in free)

    absent = "(not there)"
    differing = [
        f"{key}: was {old.get(key, absent)!r}, is now {new.get(key, absent)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, absent) != new.get(key, absent) and not may(key)
    ]
    if differing:
        raise ConfigurationError(
            "this run was started with another configuration; resume with the same "
            "one, or name a new run folder. Differing: " + "; ".join(differing)
        )


def git_revision(folder: str | Path | None = None) -> str:
    """The git commit of a folder, with `-dirty` if files differ from it.

    Args:
        folder: any folder of a checkout; the one of this package when None.

    Returns:
        The hash, or `unknown` where there is no git or no checkout.
    """
    where = Path(__file__).parent if folder is None else Path(folder)
    command = [
        "git",
        "-C",
        str(where),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
    ]
    command.append("--exclude=*")
    try:
        found = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
