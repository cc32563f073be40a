"""Render hosts: throughput against the limit of the machine, and what faults cost.

    python scripts/benchmark.py hosts
    python scripts/benchmark.py hosts --renders 24 --repeats 10 --no-faults

The limit is ``cores / DSP seconds``: what all cores could do if rendering cost nothing
but the DSP, whose time is measured in the same rounds as the backends, in one thread
and nothing else around it. Best compares the best times of each, median the medians.
"""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from ddspx.parameters import sample_controls
from styletransfer.hosts.description import HostEffect, Slot
from styletransfer.hosts.engine import Engine, runs_in_threads
from styletransfer.hosts.fault import fault_controls, fault_effect
from styletransfer.hosts.host import Host, usable_cores
from styletransfer.hosts.interface import PluginMissing
from styletransfer.hosts.open import Backend, open_host
from styletransfer.hosts.pool import Patience, RenderPool
from styletransfer.presets import load_effect


@dataclass(frozen=True)
class Arguments:
    """What to measure.

    Attributes:
      effects: presets, or names of pedalboard's built-ins, with default controls;
        third-party plug-ins have no thread backend, and are left out where they are
        not installed.
      renders: items per call, one table row each.
      signals: distinct signals in a call.
      seconds: length of a signal.
      sample_rate: Hz.
      repeats: rounds; every round measures the DSP and all backends once.
      pause_s: idle time before each measurement.
      faults: print the fault table as well.
    """

    effects: tuple[str, ...] = (
        "Gain",
        "Compressor",
        "Chorus",
        "Reverb",
        "channel_strip",
        "full_chain",
        "mda_ambience",
        "mda_overdrive",
        "mda_multiband",
        "zam_compressor",
        "zam_gate",
        "zam_tube",
    )
    renders: tuple[int, ...] = (24, 72)
    signals: int = 8
    seconds: float = 3.0
    sample_rate: int = 24000
    repeats: int = 12
    pause_s: float = 0.05
    faults: bool = True


def main(arguments: list[str] | None = None) -> None:
    """Parses, measures, prints two tables."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    throughput(options)
    if options.faults:
        fault_table()


def throughput(options: Arguments) -> None:
    """Prints renders per second of each backend as a share of the limit."""
    cores = usable_cores()
    print(
        f"Throughput, {options.seconds:g} s at {options.sample_rate} Hz mono, {cores}"
        f" cores, {options.repeats} rounds; % of cores / DSP seconds, best (median)"
    )
    print(
        f"{'effect':16}{'M':>4}{'DSP us':>9}{'limit/s':>10}"
        f"{'serial':>12}{'thread':>12}{'process':>12}"
    )
    for name in options.effects:
        try:
            effect = _effect(name)
        except PluginMissing as error:
            print(f"{name:16}left out: {error}")
            continue
        for items in options.renders:
            dsp, times = _rounds(effect, items, options)
            row = f"{name:16}{items:4}{1e6 * min(dsp):9.0f}{cores / min(dsp):10.0f}"
            for backend in ("serial", "thread", "process"):
                if backend not in times:
                    row += f"{'-':>12}"
                    continue
                seconds = np.array(times[backend]) / items
                best = min(dsp) / cores / seconds.min()
                median = np.median(dsp) / cores / np.median(seconds)
                row += f"{100 * best:6.0f} ({100 * median:3.0f})"
            print(row, flush=True)


def _rounds(
    effect: HostEffect, items: int, options: Arguments
) -> tuple[list[float], dict[str, list[float]]]:
    """DSP seconds per render and seconds per call of each backend, per round."""
    rng = np.random.default_rng(0)
    shape = (options.signals, 1, int(options.seconds * options.sample_rate))
    audio = (0.1 * rng.standard_normal(shape)).astype(np.float32)
    controls = sample_controls(effect.specs, rng, (items,))
    source = (np.arange(items) % options.signals).astype(np.int32)
    engine = Engine(effect.at_sample_rate(options.sample_rate), options.sample_rate)
    backends: tuple[Backend, ...] = ("serial", "thread", "process")
    if not runs_in_threads(effect):
        backends = ("serial", "process")
    hosts: dict[str, Host] = {
        backend: open_host(effect, options.sample_rate, backend=backend)
        for backend in backends
    }
    dsp: list[float] = []
    times: dict[str, list[float]] = {backend: [] for backend in hosts}
    try:
        for _ in range(options.repeats):
            time.sleep(options.pause_s)
            began = time.perf_counter()
            for item in range(items):
                engine.render(audio[source[item]], controls[item])
            dsp.append((time.perf_counter() - began) / items)
            for backend, host in hosts.items():
                time.sleep(options.pause_s)
                began = time.perf_counter()
                host.render(audio, controls, source)
                times[backend].append(time.perf_counter() - began)
    finally:
        for host in hosts.values():
            host.close()
    return dsp, times


def _effect(name: str) -> HostEffect:
    if name[:1].islower():
        return load_effect(name)
    from styletransfer.hosts.catalogue import default_controls_of

    return HostEffect(name, (Slot("plugin", name, default_controls_of(name)),))


def fault_table() -> None:
    """Prints what each fault in one of 24 items costs, and what survives it."""
    logging.getLogger("styletransfer.hosts").setLevel(logging.ERROR)
    print("\nFaults, 24 items, 2 workers, time-out 0.5 s (item 5 misbehaves)")
    print(f"{'fault':34}{'wall ms':>9}{'correct':>9}{'excluded':>10}{'restarts':>10}")
    faults = ("none", "crash_once", "crash", "stop_once", "stop", "nan", "raise")
    names = {"crash": "SIGSEGV", "stop": "SIGSTOP", "nan": "NaN", "raise": "exception"}
    with tempfile.TemporaryDirectory() as folder:
        flag = Path(folder) / "flag"
        patience = Patience(timeout_s=0.5)
        effect = fault_effect(flag)
        with RenderPool(effect, 24000, workers=2, patience=patience) as pool:
            for fault in faults:
                flag.touch()
                _settle(pool)
                words = fault.partition("_")
                label = names.get(words[0], words[0])
                label += {"once": " once", "": " always"}[words[2]] * (fault != "none")
                _fault_row(label, pool, fault)
            _settle(pool)
            _fault_row("NaN and infinite parameters", pool, "none", spoil=True)
            for label, number in (("SIGSEGV", 11), ("SIGSTOP", 19)):
                _settle(pool)
                os.kill(pool.pids[0], number)
                _fault_row(f"worker {label} between calls", pool, "none")
    print(f"parent SIGKILLed: {_orphans()} workers left after it")


def _settle(pool: RenderPool) -> None:
    """Lets restarted workers come up, so that a row pays for its own fault alone."""
    for _ in range(2):
        pool.render(np.zeros((4, 1, 64)), fault_controls(["slow"] * 4, [1.0] * 4))
        time.sleep(0.3)


def _fault_row(label: str, pool: RenderPool, fault: str, spoil: bool = False) -> None:
    rng = np.random.default_rng(1)
    audio = rng.standard_normal((24, 1, 7200)).astype(np.float32)
    gains = np.linspace(0.1, 1.9, 24)
    faults = ["none"] * 24
    faults[5] = fault
    controls = fault_controls(faults, gains)
    if spoil:
        controls[3, 0], controls[4, 0], gains[3], gains[4] = np.nan, np.inf, 1.0, 2.0
    before = pool.counts.copy()
    began = time.perf_counter()
    rendered = pool.render(audio, controls)
    wall = time.perf_counter() - began
    expected = audio * gains[:, None, None]
    correct = sum(
        np.allclose(y, e, atol=1e-5)
        for y, e in zip(rendered.audio, expected, strict=True)
    )
    changed = pool.counts - before
    print(
        f"{label:34}{1e3 * wall:9.1f}{correct:6} /24{changed['excluded']:10}"
        f"{changed['restarts']:10}",
        flush=True,
    )


_PARENT = """
import time
from styletransfer.hosts.fault import fault_effect
from styletransfer.hosts.pool import RenderPool
pool = RenderPool(fault_effect(), 24000, workers=2)
print(*pool.pids, flush=True)
time.sleep(60)
"""


def _orphans() -> int:
    """Kills a process that owns a pool; workers of it that outlive it by a second."""
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    return _wait_for(lambda: sum(_lives(pid) for pid in pids))


def _lives(pid: int) -> bool:
    """Whether a process runs; one that is dead but not yet reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _wait_for(left: Callable[[], int]) -> int:
    """The count when it has fallen to zero, or after a second."""
    for _ in range(100):
        if left() == 0:
            break
        time.sleep(0.01)
    return left()
