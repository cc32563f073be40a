"""An effect that misbehaves on demand; for tests and benchmarks of the pool only.

`fault_effect` describes it: two controls, ``plugin.gain`` and ``plugin.fault``, whose
choice says what the render does instead of multiplying by the gain. The faults that
happen once take a flag file away first, and behave when it is gone. Never open it
outside of a worker process: most faults kill or stop the process they happen in.
"""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ddspx.parameters import ParameterSpec
from styletransfer.hosts.description import HostEffect, Slot

THREAD_SAFE = False
FAULTS = (
    "none",
    "crash",
    "crash_once",
    "stop",
    "stop_once",
    "spin",
    "nan",
    "inf",
    "absurd",
    "raise",
    "raise_once",
    "slow",
)


def fault_effect(flag: str | Path = "", start: str = "none") -> HostEffect:
    """Describes the effect.

    Args:
      flag: path of the file that the ``_once`` faults take away.
      start: fault that happens when the effect is opened: none, crash or raise.
    """
    controls = (
        ParameterSpec("gain", 0.0, 2.0, default=1.0),
        ParameterSpec("fault", choices=FAULTS, default=0.0),
    )
    fixed = (("flag", str(flag)), ("start", start))
    slot = Slot("plugin", "scripted fault", controls, fixed, kind="fault")
    return HostEffect("fault", (slot,))


def fault_controls(faults: Sequence[str], gains: ArrayLike) -> np.ndarray:
    """Controls [items, 2] that set a gain (0 to 2) and a fault for each item."""
    indices = np.array([FAULTS.index(name) for name in faults])
    units = [np.asarray(gains) / 2.0, (indices + 0.5) / len(FAULTS)]
    return np.stack(units, axis=-1).astype(np.float32)


def open_segment(slots: Sequence[Slot], sample_rate: int | float) -> "FaultSegment":
    """Opens it; see `styletransfer.hosts.engine`."""
    del sample_rate
    return FaultSegment(slots)


class FaultSegment:
    """Multiplies by the gain, or does what the fault says.

    Args:
      slots: one slot for each `fault_effect` in the chain.
    """

    def __init__(self, slots: Sequence[Slot]):
        self._flags = [dict(slot.fixed)["flag"] for slot in slots]
        for slot in slots:
            start = dict(slot.fixed)["start"]
            # A flag of "once" lets the first start pass, as a file that vanishes does.
            if start != "none" and not self._taken(dict(slot.fixed)["flag"]):
                _misbehave(start, np.zeros((1, 1), np.float32))

    def render(
        self, audio: np.ndarray, settings: Sequence[dict[str, Any] | None]
    ) -> np.ndarray:
        """See `styletransfer.hosts.engine.Segment.render`."""
        for flag, values in zip(self._flags, settings, strict=True):
            if values is None:
                continue
            fault, once = values["fault"], False
            if fault.endswith("_once"):
                fault, once = fault.removesuffix("_once"), True
            if fault == "none" or (once and not self._taken(flag)):
                audio = audio * np.float32(values["gain"])
            else:
                audio = _misbehave(fault, audio)
        return audio

    @staticmethod
    def _taken(flag: str) -> bool:
        """Takes the flag away; False when it was gone."""
        try:
            os.unlink(flag)
        except FileNotFoundError:
            return False
        return True


def _misbehave(fault: str, audio: np.ndarray) -> np.ndarray:
    if fault == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if fault == "raise":
        raise ValueError("the plug-in raised")
    while fault == "spin":
        pass
    if fault == "slow":
        time.sleep(0.02)
        return audio.copy()
    level = {"nan": np.nan, "inf": np.inf, "absurd": 1e30}[fault]
    return np.full_like(audio, level)
