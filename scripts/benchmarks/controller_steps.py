"""Where the time of a controller's training step goes: device, host, and nothing.

    python scripts/benchmark.py controller_steps
    python scripts/benchmark.py controller_steps --effects mda_ambience --micro 1 2 4

A step of `styletransfer.audio_task` on examples that are all valid, their codes made by
the step as in training. Milliseconds, medians over steps:

* *wall*: of the whole step, its result awaited;
* *host*: inside the host's render;
* *device*: of the step when its renders are there at once: compiled functions, copies
  and Python, with all cores to themselves;
* *overlap*: host + device - wall, what micro-batches gain by doing both at once;
* *waiting*: the share of the wall that Python waited for the device before it could
  render, or after;
* *idle*: the share of all cores' time in which neither this process nor a worker ran;
* *limit*: the share of ``cores / DSP seconds`` that is reached: what the renders would
  take if all cores did nothing but the DSP, over the wall; and of the host alone.

Where device and host are the same cores, limit cannot exceed host / (host + device).
"""

import os
import time
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro

from ddspx.training.optimizer import OptimizerConfig
from styletransfer.audio_gradients import AudioTaskConfig, make_estimator
from styletransfer.audio_task import audio_task
from styletransfer.hosts import Host, Rendered, open_host
from styletransfer.hosts.engine import Engine
from styletransfer.hosts.host import usable_cores
from styletransfer.hosts.interface import PluginMissing
from styletransfer.hosts.response import probe_signal
from styletransfer.models import ControllerConfig, make_controller
from styletransfer.presets import load_effect

# Renders that the DSP's time is the median of.
DSP_RENDERS = 12
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Arguments:
    """Command line of the suite."""

    effects: tuple[str, ...] = ("channel_strip", "full_chain", "mda_ambience")
    """Presets; plug-ins that are not installed are left out."""
    forms: tuple[Literal["vector", "scalar"], ...] = ("vector", "scalar")
    """Whether the centre or every render is judged."""
    micro: tuple[int, ...] = (1, 2, 4)
    """Micro-batches; 1 is without."""
    batch: int = 16
    """Pairs a step; a multiple of the micro-batches."""
    renders: int = 9
    """Of an example."""
    seconds: float = 1.0
    """Length of input and reference each."""
    sample_rate: int = 24000
    """Hz."""
    steps: int = 10
    """Measured, after one that compiles."""


class Replaying:
    """A host that can have its renders at once: those of the first call of a shape.

    Attributes:
      live: whether it renders after all.
    """

    def __init__(self, host: Host):
        self.live = True
        self.effect, self.specs, self.sample_rate = (
            host.effect,
            host.specs,
            host.sample_rate,
        )
        self.counts: Counter[str] = Counter()
        self._host = host
        self._known: dict[tuple[int, ...], Rendered] = {}

    def render(self, audio, controls, source=None) -> Rendered:
        """See the class."""
        if self.live:
            return self._host.render(audio, controls, source)
        shape = (*audio.shape, *controls.shape)
        if shape not in self._known:
            self._known[shape] = self._host.render(audio, controls, source)
        return self._known[shape]

    def close(self) -> None:
        """The host's owner closes it."""

    def __enter__(self) -> "Replaying":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints one row a variant."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    cores = usable_cores()
    print(
        f"{options.batch} pairs of {options.seconds:g} s at {options.sample_rate} Hz,"
        f" {options.renders} renders of each, {cores} cores, median of {options.steps}"
    )
    print(
        f"{'effect':14}{'form':>8}{'micro':>6}{'DSP us':>8}{'wall ms':>9}{'host':>8}"
        f"{'device':>8}{'overlap':>9}{'waiting':>9}{'idle':>7}{'limit':>7}{'host':>7}"
    )
    for name in options.effects:
        try:
            effect = load_effect(name)
        except PluginMissing as error:
            print(f"{name:14}left out: {error}")
            continue
        with open_host(effect, options.sample_rate) as host:
            batch = _batch(host, options)
            dsp = _dsp_seconds(host, batch)
            for form in options.forms:
                for micro in options.micro:
                    found = _variant(host, batch, form, micro, options)
                    print(_row(name, form, micro, dsp, found, cores), flush=True)


def _batch(host: Host, options: Arguments) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    count = options.batch
    sounds = [
        probe_signal(options.sample_rate, options.seconds, k)[None]
        for k in range(count)
    ]
    audio = 0.3 * np.stack(sounds).astype(np.float32)
    controls = rng.random((count, len(host.specs)), dtype=np.float32)
    target = host.render(audio, controls).audio
    return {
        "audio": audio,
        "reference": target[::-1].copy(),
        "target": target,
        "controls": controls,
        "labelled": np.ones(count, bool),
        "valid": np.ones(count, bool),
    }


def _dsp_seconds(host: Host, batch: dict[str, np.ndarray]) -> float:
    """Of one render, in one thread, with nothing else around it."""
    engine = Engine(host.effect, host.sample_rate)
    times = []
    for k in range(DSP_RENDERS):
        row = k % len(batch["audio"])
        began = time.perf_counter()
        engine.render(batch["audio"][row], batch["controls"][row])
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def _variant(
    host: Host, batch: dict[str, Any], form: Any, micro: int, options: Arguments
) -> dict[str, float]:
    """Seconds by kind, medians over steps."""
    config = AudioTaskConfig(
        gradient="orthogonal", renders=options.renders, form=form, micro_batches=micro
    )
    model = ControllerConfig()
    controller = make_controller(model, len(host.specs), options.sample_rate)
    start = controller.init(jax.random.key(0))
    stamps: list[tuple[str, float]] = []

    def timer(name: str) -> None:
        stamps.append((name, time.perf_counter()))

    rule, switched = OptimizerConfig(learning_rate=1e-4), Replaying(host)
    task = audio_task(controller, switched, start, config, rule, timer=timer)
    measured: list[dict[str, float]] = []
    state = task.init(jax.random.key(1))
    for step in range(options.steps + 1):
        switched.live, began = False, time.perf_counter()
        state = task.step(state, batch)[0]
        jax.block_until_ready(state)
        device = time.perf_counter() - began
        switched.live = True
        stamps.clear()
        busy, began = _cpu_seconds(host), time.perf_counter()
        state = task.step(state, batch)[0]
        timer("finished")
        jax.block_until_ready(state)
        timer("ready")
        wall = time.perf_counter() - began
        if step:
            measured.append(
                {
                    "wall": wall,
                    "host": _between("render", stamps),
                    "device": device,
                    "waiting": _between("wait", stamps) + _between("finished", stamps),
                    "cpu": _cpu_seconds(host) - busy,
                }
            )
    found = {
        name: float(np.median([row[name] for row in measured])) for name in measured[0]
    }
    # CPU time of workers comes in ticks of 10 ms: only its sum over steps is true.
    found["cpu"] = float(np.mean([row["cpu"] for row in measured]))
    found["items"] = options.batch * make_estimator(config, host.specs).renders(
        len(host.specs)
    )
    return found


def _between(name: str, stamps: list[tuple[str, float]]) -> float:
    """Seconds from each stamp of a name to the next stamp."""
    return sum(
        after[1] - before[1] for before, after in pairwise(stamps) if before[0] == name
    )


def _cpu_seconds(host: Host) -> float:
    """CPU time so far of this process and of the host's workers."""
    total = time.process_time()
    for pid in getattr(host, "pids", ()):
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(words[11]) + int(words[12])) / TICKS_A_SECOND
    return total


def _row(
    name: str, form: str, micro: int, dsp: float, found: dict[str, float], cores: int
) -> str:
    wall, host, device = found["wall"], found["host"], found["device"]
    least = found["items"] * dsp / cores
    idle = 1.0 - found["cpu"] / (cores * wall)
    return (
        f"{name:14}{form:>8}{micro:6}{1e6 * dsp:8.0f}{1e3 * wall:9.1f}{1e3 * host:8.1f}"
        f"{1e3 * device:8.1f}{1e3 * (host + device - wall):9.1f}"
        f"{found['waiting'] / wall:9.0%}{idle:7.0%}{least / wall:7.0%}"
        f"{least / host:7.0%}"
    )
