"""Reads one plug-in in a process of its own.

    python -P -m styletransfer.hosts.scanner

Standard input gives the question as JSON, the answer goes to what was standard output
when the process began; what plug-ins print goes to standard error. See
`styletransfer.hosts.scan`, which asks.
"""

import importlib
import json
import os
import sys
from typing import Any

from styletransfer.hosts.interface import PluginError, PluginMissing


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """What is asked for, or ``{"missing": ...}`` or ``{"refused": ...}``.

    Args:
      question: ``kind``, and ``do``: ``"list"``, ``"describe"`` (with ``plugin``), or
        ``"write"`` (see `styletransfer.hosts.exchange.write_settings`).
    """
    kind, task = question["kind"], question["do"]
    try:
        if task == "list":
            return {"plugins": _installed(kind)}
        if task == "write":
            from styletransfer.hosts.exchange import write_settings

            return write_settings(question)
        opener = importlib.import_module(f"styletransfer.hosts.{kind}")
        return {"interface": opener.describe(question["plugin"]).to_dict()}
    except PluginMissing as error:
        return {"missing": str(error)}
    except (PluginError, RuntimeError) as error:
        return {"refused": str(error)}


def _installed(kind: str) -> list[str]:
    if kind == "lv2":
        from styletransfer.hosts.lilv import lilv

        return lilv().uris()
    from styletransfer.hosts.vst3_bundles import bundles

    return [str(path) for path in bundles()]


def main() -> None:
    """Answers the question on standard input."""
    question = json.load(sys.stdin)
    out = os.dup(1)
    os.dup2(2, 1)
    text = json.dumps(answer(question)).encode()
    with os.fdopen(out, "wb") as file:
        file.write(text)
    # Some plug-ins crash when their library is unloaded; nothing is left to do.
    os._exit(0)


if __name__ == "__main__":
    main()
