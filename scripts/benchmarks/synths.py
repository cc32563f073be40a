"""Speed and memory of the synths against their plain formulation and the roofline.

    python scripts/benchmark.py synths
    python scripts/benchmark.py synths --seconds 1 --batches 4 --synths harmonic

A row is one synth at one length and batch; in the same rounds, in turn: plain forward,
forward, plain gradient, gradient. Plain is what others do op by op, in JAX and compiled
(`benchmarks.synths_plain`); the gradient is that of the sum of squares of the sound, to
all controls, frequencies included. Times are medians of the rounds, a ratio is that of
medians. Memory is what XLA allots for temporaries, in multiples of the sound; a program
that would take over 4 GB is compiled, not run.

The roof is the least time that the arithmetic of the form used takes on this device at
the rate of its matrix products, measured in the same run, or the least traffic
(controls in, sound out; in the gradient both ways) at its measured rate of copying,
whichever is longer. Operations for one sine of one sample: harmonic 8 forward, 24 with
the gradient; sinusoidal 34 and 90 (phase and sine by polynomials); for one sample of a
wavetable 40 and 100.

Targets on two cores at batch 4, 1 s, 100 harmonics, 16 kHz: forward 8 times faster than
plain, gradient 7 times; "!" marks what is less.
"""

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from benchmarks import synths_plain
from benchmarks.interleaved import interleaved

from ddspx.audio import written_aside
from ddspx.synths.base import Synth
from ddspx.synths.harmonic import harmonic
from ddspx.synths.sinusoidal import sinusoidal
from ddspx.synths.wavetable import wavetable
from styletransfer.hosts.host import usable_cores

Row = dict[str, Any]

MOST_BYTES = 4 << 30
TARGETS = {"forward": 8.0, "gradient": 7.0}
TABLE_SIZE = 512


@dataclass(frozen=True)
class Arguments:
    """What to measure.

    Attributes:
      synths: of harmonic, sinusoidal, wavetable.
      seconds: lengths of a sound.
      batches: sounds rendered by one call.
      harmonics: sines of the harmonic and of the sinusoidal synth.
      sample_rate: Hz.
      hop: samples from frame to frame.
      repeats: rounds; fewer, but three, where a row would take over `row_s`.
      row_s: seconds that the rounds of a row may take.
      quick: a twentieth of a second, batches of 1 and 2, two rounds: does it run?
      seed: of the controls.
      out: where to write; .json and .md are added.
    """

    synths: tuple[str, ...] = ("harmonic", "sinusoidal", "wavetable")
    seconds: tuple[float, ...] = (1.0, 10.0, 60.0)
    batches: tuple[int, ...] = (1, 4, 16)
    harmonics: int = 100
    sample_rate: int = 16000
    hop: int = 64
    repeats: int = 11
    row_s: float = 30.0
    quick: bool = False
    seed: int = 0
    out: Path | None = None


class Entry(NamedTuple):
    """A row's synth, its plain form, its controls, and operations for the roof."""

    make: Callable[[Arguments], Synth]
    plain: Callable[..., jax.Array]
    controls: Callable[[np.random.Generator, tuple[int, int], Arguments], dict]
    # Of one sample: forward, and with the gradient.
    operations: Callable[[Arguments], tuple[int, int]]


class Roof(NamedTuple):
    """What this device does at best."""

    operations_s: float
    bytes_s: float


def _harmonic_controls(rng, shape, options) -> dict:
    distribution = rng.uniform(0.0, 1.0, (*shape, options.harmonics))
    return {
        "f0_hz": 60.0 * 2.0 ** (rng.uniform(0.0, 0.3, shape) + _steps(rng, shape)),
        "amplitude": rng.uniform(0.1, 1.0, shape),
        "harmonic_distribution": distribution / distribution.sum(-1, keepdims=True),
    }


def _sinusoidal_controls(rng, shape, options) -> dict:
    count = options.harmonics
    base = np.geomspace(50.0, 0.4 * options.sample_rate, count)
    return {
        "frequencies_hz": base * 2.0 ** (0.1 * _steps(rng, shape))[..., None],
        "amplitudes": rng.uniform(0.0, 2.0 / count, (*shape, count)),
    }


def _wavetable_controls(rng, shape, options) -> dict:
    return {
        "f0_hz": 60.0 * 2.0 ** _steps(rng, shape),
        "amplitude": rng.uniform(0.1, 1.0, shape),
        "wavetable": rng.uniform(-1.0, 1.0, (*shape, TABLE_SIZE)),
    }


def _steps(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A melody in octaves from 0 to 2, a note every 50 frames."""
    notes = rng.uniform(0.0, 2.0, (shape[0], -(-shape[1] // 50)))
    return np.repeat(notes, 50, 1)[:, : shape[1]]


ENTRIES: Mapping[str, Entry] = {
    "harmonic": Entry(
        lambda options: harmonic(options.sample_rate, options.hop, options.harmonics),
        synths_plain.harmonic,
        _harmonic_controls,
        lambda options: (8 * options.harmonics, 24 * options.harmonics),
    ),
    "sinusoidal": Entry(
        lambda options: sinusoidal(options.sample_rate, options.hop, options.harmonics),
        synths_plain.sinusoidal,
        _sinusoidal_controls,
        lambda options: (34 * options.harmonics, 90 * options.harmonics),
    ),
    "wavetable": Entry(
        lambda options: wavetable(options.sample_rate, options.hop, TABLE_SIZE),
        synths_plain.wavetable,
        _wavetable_controls,
        lambda options: (40, 100),
    ),
}


def main(arguments: list[str] | None = None) -> None:
    """Parses, measures, prints one row at a time."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    unknown = [name for name in options.synths if name not in ENTRIES]
    if unknown:
        raise ValueError(f"synths {unknown} unknown; choose from {', '.join(ENTRIES)}")
    lengths = (0.05,) if options.quick else options.seconds
    batches = (1, 2) if options.quick else options.batches
    roof = measure_roof(256 if options.quick else 2048)
    about = {
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "machine": platform.machine(),
        "cores": usable_cores(),
        "jax": jax.__version__,
        "sample_rate": options.sample_rate,
        "hop": options.hop,
        "harmonics": options.harmonics,
        "roof_gflops": roof.operations_s / 1e9,
        "roof_gb_s": roof.bytes_s / 1e9,
    }
    lines = [
        f"{about['device']} ({about['backend']}), {about['cores']} cores, jax"
        f" {about['jax']}, {options.sample_rate} Hz, hop {options.hop},"
        f" {options.harmonics} sines; roof {about['roof_gflops']:.0f} GFLOP/s,"
        f" {about['roof_gb_s']:.1f} GB/s",
        "",
        "| synth | s | batch | plain ms | forward ms | faster | x real time | of roof |"
        " plain grad ms | grad ms | faster | of roof | memory fwd, plain | memory grad,"
        " plain |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    print("\n".join(lines), flush=True)
    rows: list[Row] = []
    for name in options.synths:
        for seconds in lengths:
            for batch in batches:
                row = measure(name, seconds, batch, options, roof)
                rows.append(row)
                lines.append(line(row))
                print(lines[-1], flush=True)
    if options.out is None:
        return
    with written_aside(options.out.with_suffix(".json"), overwrite=True) as aside:
        aside.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    with written_aside(options.out.with_suffix(".md"), overwrite=True) as aside:
        aside.write_text("\n".join(lines) + "\n")


def measure_roof(size: int) -> Roof:
    """Operations of a matrix product and bytes of a copy, per second, at best of 10."""
    one = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda a: a @ a).lower(one).compile()
    # Longer than caches; read once and written once.
    long = jnp.ones(size * size * 16, jnp.float32)
    copy = jax.jit(lambda a: a + 1.0).lower(long).compile()

    def least(program, argument) -> float:
        times = []
        for _ in range(11):
            began = time.perf_counter()
            jax.block_until_ready(program(argument))
            times.append(time.perf_counter() - began)
        return min(times[1:])

    return Roof(
        2.0 * size**3 / least(product, one), 2.0 * long.nbytes / least(copy, long)
    )


def measure(
    name: str, seconds: float, batch: int, options: Arguments, roof: Roof
) -> Row:
    """One row: compiles four programs, then times them in turn."""
    entry = ENTRIES[name]
    frames = max(1, round(seconds * options.sample_rate / options.hop))
    rng = np.random.default_rng(options.seed)
    controls = {
        label: jnp.asarray(values, jnp.float32)
        for label, values in entry.controls(rng, (batch, frames), options).items()
    }
    synth, key = entry.make(options), jax.random.key(options.seed)
    renders = {
        "plain": lambda one: entry.plain(one, options.sample_rate, options.hop),
        "ours": lambda one: synth.render(one, key),
    }
    programs = {}
    for kind in ("forward", "gradient"):
        for label, render in renders.items():
            many = jax.vmap(render)
            function = many if kind == "forward" else jax.grad(_energy(many))
            programs[label, kind] = jax.jit(function).lower(controls).compile()
    sound = 4 * batch * frames * options.hop
    memory = {
        place: program.memory_analysis().temp_size_in_bytes
        for place, program in programs.items()
    }
    calls = {
        place: lambda program=program: jax.block_until_ready(program(controls))
        for place, program in programs.items()
        if memory[place] < MOST_BYTES
    }
    times = interleaved(calls, 2 if options.quick else options.repeats, options.row_s)
    traffic = sound + sum(values.nbytes for values in controls.values())
    operations = entry.operations(options)
    return {
        "synth": name,
        "seconds": frames * options.hop / options.sample_rate,
        "batch": batch,
        "ms": {
            f"{label}_{kind}": [1e3 * t for t in found]
            for (label, kind), found in times.items()
        },
        "memory": {
            f"{label}_{kind}": size / sound for (label, kind), size in memory.items()
        },
        "roof_ms": {
            kind: 1e3
            * max(work * (sound / 4) / roof.operations_s, ways * traffic / roof.bytes_s)
            for kind, work, ways in (
                ("forward", operations[0], 1),
                ("gradient", operations[1], 2),
            )
        },
    }


def _energy(render: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return lambda controls: jnp.sum(render(controls) ** 2)


def line(row: Row) -> str:
    """A row of the table."""
    middle = {label: float(np.median(times)) for label, times in row["ms"].items()}
    cells = [row["synth"], f"{row['seconds']:g}", str(row["batch"])]
    judged = (row["synth"], row["batch"]) == ("harmonic", 4) and row["seconds"] == 1.0
    for kind in ("forward", "gradient"):
        plain, ours = middle.get(f"plain_{kind}"), middle[f"ours_{kind}"]
        faster = "-"
        if plain is not None:
            short = judged and plain / ours < TARGETS[kind]
            faster = f"{plain / ours:.1f}{'!' if short else ''}"
        cells += ["-" if plain is None else f"{plain:.2f}", f"{ours:.2f}", faster]
        if kind == "forward":
            cells.append(f"{1e3 * row['seconds'] * row['batch'] / ours:.0f}")
        cells.append(f"{row['roof_ms'][kind] / ours:.1%}")
    for kind in ("forward", "gradient"):
        ours, plain = (row["memory"][f"{label}_{kind}"] for label in ("ours", "plain"))
        cells.append(f"{ours:.1f}, {plain:.0f}")
    return f"| {' | '.join(cells)} |"
