"""Looks at third-party plug-ins from outside: which there are, and what each is.

Every look is a process of its own with a time-out, so that a plug-in that crashes or
hangs while it is loaded is named and nothing else happens.
"""

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from styletransfer.hosts.host import usable_cores
from styletransfer.hosts.interface import Interface, PluginError, PluginMissing
from styletransfer.hosts.process import worker_environment

KINDS = ("lv2", "vst3")
# ZamVerb builds its convolver for every text that its parameters are asked for.
DESCRIBE_S = 120.0


@dataclass(frozen=True)
class Found:
    """One installed plug-in.

    Attributes:
      kind: ``"lv2"`` or ``"vst3"``.
      plugin: URI or path.
      interface: what it is; None where it could not be opened.
      trouble: why not.
    """

    kind: str
    plugin: str
    interface: Interface | None
    trouble: str = ""


def describe(kind: str, plugin: str, timeout_s: int | float = DESCRIBE_S) -> Interface:
    """What a plug-in is; remembered for as long as the search paths stay the same.

    Args:
      kind: ``"lv2"`` or ``"vst3"``.
      plugin: URI, bundle name or path.
      timeout_s: seconds after which it is taken to hang.

    Raises:
      PluginMissing: it, or the library that opens it, is not installed.
      PluginError: it crashed, hung, or cannot be opened.
    """
    paths = tuple(os.environ.get(name, "") for name in ("LV2_PATH", "VST3_PATH"))
    return _described(kind, plugin, float(timeout_s), paths)


@functools.lru_cache(maxsize=256)
def _described(kind: str, plugin: str, timeout_s: float, _paths: Any) -> Interface:
    question = {"do": "describe", "kind": kind, "plugin": plugin}
    return Interface.from_dict(ask(question, timeout_s)["interface"])


def installed(kind: str) -> tuple[str, ...]:
    """URIs or paths of all plug-ins of a kind, sorted.

    Raises:
      PluginMissing: the library that opens them is not installed.
    """
    return tuple(ask({"do": "list", "kind": kind}, DESCRIBE_S)["plugins"])


def scan(
    plugins: Iterable[tuple[str, str]],
    *,
    timeout_s: int | float = 30.0,
    report: Callable[[Found], None] | None = None,
) -> list[Found]:
    """Looks at many plug-ins, as many at once as there are cores.

    Args:
      plugins: (kind, plugin) of each.
      timeout_s: seconds for each.
      report: called with each as it is done.

    Returns:
      One `Found` for each, in order; those that crashed or hung say so.
    """

    def look(each: tuple[str, str]) -> Found:
        kind, plugin = each
        try:
            found = Found(kind, plugin, describe(kind, plugin, timeout_s))
        except PluginError as error:
            found = Found(kind, plugin, None, str(error))
        if report is not None:
            report(found)
        return found

    with ThreadPoolExecutor(usable_cores(), "scan") as executor:
        return list(executor.map(look, plugins))


def ask(question: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Asks a scanner process; see `styletransfer.hosts.scanner.answer`.

    Raises:
      PluginMissing: what is needed is not installed.
      PluginError: the plug-in refused, crashed (with its signal) or hung.
    """
    subject = f"{question['kind']} plug-in {question.get('plugin', '')}".strip()
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "styletransfer.hosts.scanner"],
            input=json.dumps(question).encode(),
            capture_output=True,
            env=worker_environment((question["kind"],)),
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PluginError(
            f"{subject} hangs: it was given {timeout_s:g} s to load and did not; give"
            " more time, or take another plug-in"
        ) from error
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip().split("\n")[-1][:300]
        ending = f"code {done.returncode}"
        if done.returncode < 0:
            ending = signal.Signals(-done.returncode).name
        raise PluginError(
            f"{subject} crashes while it is loaded ({ending}{'; ' if said else ''}"
            f"{said}); take another plug-in"
        )
    reply = json.loads(done.stdout)
    if "missing" in reply:
        raise PluginMissing(reply["missing"])
    if "refused" in reply:
        raise PluginError(reply["refused"])
    return reply
