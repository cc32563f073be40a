"""Speed, memory and compile time of JAX effects, against C++ doing the forward pass.

    python scripts/benchmark.py effects
    python scripts/benchmark.py effects --effects peak compressor --seconds 1 --out RUN

A row is one effect at one length and batch. The baseline, pedalboard's C++ or scipy at
the same settings, renders the same signals one after another in the same rounds as the
JAX programs: baseline, forward, gradient, baseline, ... The gradient is value_and_grad
of the sum of squares of the output, to the audio and to all controls; its memory is
what XLA allots for temporaries, in multiples of the audio. Every number is the least of
the rounds, the median in brackets where there is one; signals lie on the device.

Targets on two cores, for the equalizers and the compressor: forward <= 1 x pedalboard
at batch 1 and <= 2.5 x at batch 16, gradient <= 4 x forward, memory <= 12 x the audio.
A "!" marks a number beyond its target, for any effect.
"""

import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from benchmarks.effects_baselines import ENTRIES, Baseline, Settings
from benchmarks.interleaved import interleaved
from matplotlib.figure import Figure

from ddspx import plotting
from ddspx.audio import written_aside
from ddspx.effects import Effect
from ddspx.parameters import to_physical
from styletransfer.hosts.host import usable_cores

Row = dict[str, Any]

# Beyond it a gradient is compiled, and its memory reported, but not run.
MOST_BYTES = 6 << 30


@dataclass(frozen=True)
class Arguments:
    """What to measure.

    Attributes:
      effects: names of the table; all when not given.
      seconds: lengths of a signal.
      batches: signals rendered by one call, each with settings of its own.
      channels: of a signal.
      sample_rate: Hz.
      repeats: rounds; fewer, but three, where a row would take over `row_s`.
      row_s: seconds that the rounds of a row may take.
      quick: a tenth of a second, batches of 1 and 2, two rounds: does it run?
      seed: of signals and settings.
      out: where to write; .json and .png are added.
    """

    effects: tuple[str, ...] = tuple(ENTRIES)
    seconds: tuple[float, ...] = (1.0, 10.0)
    batches: tuple[int, ...] = (1, 16)
    channels: int = 1
    sample_rate: int = 44100
    repeats: int = 20
    row_s: float = 20.0
    quick: bool = False
    seed: int = 0
    out: Path | None = None


def main(arguments: list[str] | None = None) -> None:
    """Parses, measures, prints one row at a time."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    unknown = [name for name in options.effects if name not in ENTRIES]
    if unknown:
        raise ValueError(f"effects {unknown} unknown; choose from {', '.join(ENTRIES)}")
    lengths = (0.1,) if options.quick else options.seconds
    batches = (1, 2) if options.quick else options.batches
    print(
        f"{jax.devices()[0].device_kind} ({jax.default_backend()}), {usable_cores()}"
        f" cores, jax {jax.__version__}, {options.sample_rate} Hz,"
        f" {options.channels} channel(s)\n"
        "targets (EQ and compressor): forward <= 1 x the baseline at batch 1, <= 2.5 x"
        " at batch 16;\ngradient <= 4 x forward; memory <= 12 x audio; ! beyond\n"
        f"{'effect':22}{'s':>5}{'batch':>6}  {'baseline':22}{'ms':>9}"
        f"{'forward ms':>11}{'x base (median)':>19}{'grad ms':>10}{'x forward':>13}"
        f"{'memory':>9}{'compile s':>13}{'x real time':>12}"
    )
    rows: list[Row] = []
    for name in options.effects:
        for seconds in lengths:
            for batch in batches:
                row = measure(name, seconds, batch, options)
                rows.append(row)
                print(line(row), flush=True)
    if options.out is None:
        return
    about = {
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "cores": usable_cores(),
        "jax": jax.__version__,
        "sample_rate": options.sample_rate,
        "channels": options.channels,
    }
    with written_aside(options.out.with_suffix(".json"), overwrite=True) as aside:
        aside.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    plotting.save(picture(rows), options.out.with_suffix(".png"), overwrite=True)


def measure(name: str, seconds: float, batch: int, options: Arguments) -> Row:
    """One row: compiles both programs, then times all in turn."""
    entry = ENTRIES[name]
    rate = options.sample_rate
    effect = entry.make(rate)
    rng = np.random.default_rng(options.seed)
    shape = (batch, options.channels, round(seconds * rate))
    audio = _signals(rng, shape)
    controls = rng.uniform(0.2, 0.8, (batch, len(effect.specs))).astype(np.float32)
    arrays = (audio, controls) if batch > 1 else (audio[0], controls[0])
    arrays = jax.device_put(arrays)
    forward, compile_forward = _compile(_forward(effect, batch), arrays)
    gradient, compile_gradient = _compile(_gradient(effect, batch), arrays)
    memory = [
        program.memory_analysis().temp_size_in_bytes / audio.nbytes
        for program in (forward, gradient)
    ]
    calls: dict[str, Callable[[], Any]] = {
        label: _each(open_one, rate, effect, audio, controls)
        for label, open_one in entry.baselines.items()
    }
    calls["forward"] = lambda: jax.block_until_ready(forward(*arrays))
    if memory[1] * audio.nbytes < MOST_BYTES:
        calls["gradient"] = lambda: jax.block_until_ready(gradient(*arrays))
    rounds = 2 if options.quick else options.repeats
    times = interleaved(calls, rounds, options.row_s)
    return {
        "effect": name,
        "seconds": seconds,
        "batch": batch,
        "baseline": next(iter(entry.baselines)),
        "ms": {label: [1e3 * t for t in found] for label, found in times.items()},
        "memory_forward": memory[0],
        "memory_gradient": memory[1],
        "compile_forward_s": compile_forward,
        "compile_gradient_s": compile_gradient,
    }


def _forward(effect: Effect, batch: int) -> Callable[..., Any]:
    return jax.vmap(effect.render) if batch > 1 else effect.render


def _gradient(effect: Effect, batch: int) -> Callable[..., Any]:
    render = _forward(effect, batch)

    def loss(audio, controls):
        return jnp.sum(render(audio, controls) ** 2)

    return jax.value_and_grad(loss, argnums=(0, 1))


def _compile(function: Callable[..., Any], arrays: tuple) -> tuple[Any, float]:
    """A program, and the seconds of tracing, lowering and compiling it."""
    began = time.perf_counter()
    program = jax.jit(function).lower(*arrays).compile()
    return program, time.perf_counter() - began


def _each(
    open_one: Baseline,
    rate: int,
    effect: Effect,
    audio: np.ndarray,
    controls: np.ndarray,
) -> Callable[[], Any]:
    """The baseline on every signal in turn, opened and set beforehand."""
    names = [spec.name for spec in effect.specs]
    renders = []
    for row in to_physical(effect.specs, controls.astype(np.float64)):
        settings: Settings = dict(zip(names, map(float, row), strict=True))
        renders.append(open_one(rate, settings))
    return lambda: [render(one) for render, one in zip(renders, audio, strict=True)]


def _signals(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Noise in bursts, so that dynamics have something to do."""
    noise = rng.standard_normal(shape)
    bursts = 0.05 + np.abs(np.sin(np.linspace(0, 12 * shape[-1] / 44100, shape[-1])))
    return (0.15 * noise * bursts).astype(np.float32)


def ratios(row: Row) -> dict[str, float]:
    """Forward to the baseline and gradient to forward, of the least and the medians."""
    least = {label: min(times) for label, times in row["ms"].items()}
    middle = {label: float(np.median(times)) for label, times in row["ms"].items()}
    found = {
        "forward": least["forward"] / least[row["baseline"]],
        "forward_median": middle["forward"] / middle[row["baseline"]],
    }
    if "gradient" in least:
        found["gradient"] = least["gradient"] / least["forward"]
    return found


def line(row: Row) -> str:
    """A row of the table."""
    found = ratios(row)
    least = {label: min(times) for label, times in row["ms"].items()}
    real_time = 1e3 * row["seconds"] * row["batch"] / least["forward"]

    def marked(value: float, target: float, digits: int) -> str:
        return f"{value:.{digits}f}{'!' if value > target else ' '}"

    forward = marked(found["forward"], 1.0 if row["batch"] == 1 else 2.5, 2)
    gradient = marked(found["gradient"], 4.0, 2) if "gradient" in found else "- "
    took = f"{least['gradient']:.2f}" if "gradient" in least else "-"
    compiling = f"{row['compile_forward_s']:.1f}, {row['compile_gradient_s']:.1f}"
    others = [
        f"{'':35}{label:22}{ms:9.2f}"
        for label, ms in least.items()
        if label not in ("forward", "gradient", row["baseline"])
    ]
    own = (
        f"{row['effect']:22}{row['seconds']:5g}{row['batch']:6}  {row['baseline']:22}"
        f"{least[row['baseline']]:9.2f}{least['forward']:11.2f}"
        f"{forward:>9} ({found['forward_median']:7.2f}){took:>10}{gradient:>13}"
        f"{marked(row['memory_gradient'], 12.0, 1):>9}{compiling:>13}{real_time:12.0f}"
    )
    return "\n".join([own, *others])


def picture(rows: list[Row]) -> Figure:
    """Bars of forward over baseline above bars of gradient over forward."""
    names = list(dict.fromkeys(row["effect"] for row in rows))
    kinds = list(dict.fromkeys((row["seconds"], row["batch"]) for row in rows))
    figure = Figure(figsize=(3.0 + 0.75 * len(names), 7.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    panels = (
        (upper, "forward", "forward / baseline", (1.0, 2.5)),
        (lower, "gradient", "gradient / forward", (4.0,)),
    )
    width = 0.8 / len(kinds)
    for axis, key, label, targets in panels:
        for place, (seconds, batch) in enumerate(kinds):
            heights = {
                row["effect"]: ratios(row).get(key, np.nan)
                for row in rows
                if (row["seconds"], row["batch"]) == (seconds, batch)
            }
            axis.bar(
                np.arange(len(names)) + (place - (len(kinds) - 1) / 2) * width,
                [heights.get(name, np.nan) for name in names],
                width,
                label=f"{seconds:g} s, batch {batch}",
            )
        for target in targets:
            axis.axhline(target, color="black", linewidth=0.8, linestyle="--")
        axis.set(yscale="log", ylabel=label)
        axis.grid(True, axis="y", which="both", alpha=0.25)
    upper.legend(ncols=len(kinds), fontsize=8)
    upper.set_title(f"{jax.devices()[0].device_kind}; dashed: targets")
    lower.set_xticks(range(len(names)), names, rotation=40, ha="right")
    return figure
