"""Speed and memory of noise-band synthesis, against its plain form and the machine.

    python scripts/benchmark.py noisebandnet
    python scripts/benchmark.py noisebandnet --bands 512 --batches 4 --out RUN

A row is one number of bands at one batch. The plain form, the paper's in JAX, moves the
amplitudes to the sample rate ([batch, bands, time]), multiplies and sums; "fusible" is
the same sum in broadcasts over hops, of which XLA makes one loop. All programs of a row
are called in turn, round after round: the least counts, ratios are of these. The
gradient is value_and_grad of the mean square. The roofline is the greater of the time
of 4 batch bands time operations at the rate of a large matrix product, and of reading
bands and amplitudes once at the rate of a copy, both measured in the same rounds; the
gradient's is twice that. Memory is what XLA allots: temporaries, arguments and results.

Then the bank: seconds, wall and processor, to make it, design and noise together (there
is nothing to cache), and what the process grew by beyond the bank while it did. Last
the training step of the paper: batch 16, 65,536 samples, 2,048 bands, hop 32.

Targets on two cores: forward at least 40 times, gradient at least 10 times faster than
the plain form; the step under 3 GB; a bank in under a second. "!" marks what misses.
"""

import json
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from benchmarks.interleaved import interleaved

from ddspx.audio import written_aside
from ddspx.filterbank import NoiseBank, make_bands, noise_bank
from ddspx.synths.noise_band import render_batch
from styletransfer.hosts.host import usable_cores

Row = dict[str, Any]

# Beyond it the plain form is compiled, and its memory reported, but not run.
MOST_BYTES = 4 << 30
FASTER_FORWARD, FASTER_GRADIENT, STEP_BYTES, BANK_S = 40.0, 10.0, 3e9, 1.0


@dataclass(frozen=True)
class Arguments:
    """What to measure.

    Attributes:
      bands: numbers of bands.
      batches: sounds of one call.
      samples: of a sound.
      hop: samples of a hop.
      sample_rate: Hz.
      repeats: rounds, after one that is not counted.
      step: measures the training step of the paper as well.
      quick: few bands, short sounds, two rounds: does it run?
      seed: of noise and amplitudes.
      out: where to write; .json is added.
    """

    bands: tuple[int, ...] = (512, 2048)
    batches: tuple[int, ...] = (2, 4, 16)
    samples: int = 16384
    hop: int = 32
    sample_rate: int = 44100
    repeats: int = 5
    step: bool = True
    quick: bool = False
    seed: int = 0
    out: Path | None = None


def main(arguments: list[str] | None = None) -> None:
    """Parses, measures, prints one row at a time."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    counts, batches, samples = options.bands, options.batches, options.samples
    if options.quick:
        counts, batches, samples = (64,), (2,), 2048
    about = {
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "cores": usable_cores(),
        "jax": jax.__version__,
        "samples": samples,
        "hop": options.hop,
    }
    print(
        "faster: than the plain form, than the fusible one\n"
        f"{about['device']} ({jax.default_backend()}), {about['cores']} cores, jax"
        f" {jax.__version__}, {samples} samples, hop {options.hop}\n"
        f"{'bands':>6}{'batch':>6}{'plain ms':>10}{'forward ms':>12}{'faster':>9}"
        f"{'plain grad':>12}{'gradient ms':>13}{'faster':>11}{'x roofline':>12}"
        f"{'gradient':>10}{'MB forward':>12}{'gradient':>10}{'plain':>8}"
        f"{'gradient':>10}{'x real time':>13}"
    )
    rows: list[Row] = []
    for count in counts:
        length = options.hop * -(-samples // options.hop)
        bank = _bank(count, options, length)
        for batch in batches:
            row = measure(bank, batch, length, options)
            rows.append(row)
            print(line(row), flush=True)
        del bank
    built = [build(count, options) for count in counts]
    for row in built:
        print(_built_line(row), flush=True)
    step = paper_step(options) if options.step and not options.quick else None
    if step is not None:
        print(
            f"training step of the paper: {step['bytes'] / 1e9:.2f} GB"
            f"{_mark(step['bytes'] < STEP_BYTES)} (bank {step['bank_bytes'] / 1e9:.2f},"
            f" amplitudes and their gradient {step['array_bytes'] / 1e9:.2f}, temporary"
            f" {step['temporary_bytes'] / 1e9:.2f}), {step['s']:.2f} s"
        )
    if options.out is not None:
        found = {**about, "rows": rows, "built": built, "step": step}
        with written_aside(options.out.with_suffix(".json"), overwrite=True) as aside:
            aside.write_text(json.dumps(found, indent=1) + "\n")


def measure(bank: NoiseBank, batch: int, samples: int, options: Arguments) -> Row:
    """One row: compiles all programs, then calls them in turn."""
    frames = samples // bank.hop
    rng = np.random.default_rng(options.seed)
    shape = (batch, frames, bank.bands)
    amplitudes = jnp.asarray(rng.uniform(0.0, 1.0, shape).astype(np.float32))
    noise = jnp.asarray(bank.loops()[:, :samples])
    position = jnp.asarray(3, jnp.int32)
    ours = amplitudes, bank, position
    programs: dict[str, tuple[Any, tuple]] = {
        "forward": (_compiled(_forward, *ours), ours),
        "gradient": (_compiled(jax.value_and_grad(_loss), *ours), ours),
    }
    for name, form in (("plain", plain), ("fusible", fusible)):
        slope = jax.value_and_grad(lambda a, n, f=form: jnp.mean(f(a, n) ** 2))
        programs[name] = _compiled(form, amplitudes, noise), (amplitudes, noise)
        programs[f"{name} gradient"] = (
            _compiled(slope, amplitudes, noise),
            (amplitudes, noise),
        )
    memory = {name: _bytes(program) for name, (program, _) in programs.items()}
    calls: dict[str, Callable[[], Any]] = {
        name: lambda p=program, a=given: p(*a)
        for name, (program, given) in programs.items()
        if memory[name] < MOST_BYTES
    }
    square = jnp.asarray(rng.standard_normal((1024, 1024), np.float32))
    calls["matrix"] = lambda: _product(square)
    calls["copy"] = lambda: _copy(noise)
    rounds = 2 if options.quick else options.repeats
    times = {k: min(t) for k, t in interleaved(calls, rounds).items()}
    operations = 4.0 * batch * bank.bands * samples
    rate = 2.0 * 1024**3 / times["matrix"]
    # A copy reads and writes.
    bandwidth = 2.0 * noise.nbytes / times["copy"]
    least = max(
        operations / rate,
        (noise.nbytes + amplitudes.nbytes) / bandwidth,
    )
    return {
        "bands": bank.bands,
        "batch": batch,
        "s": times,
        "bytes": memory,
        "roofline_s": least,
        "matrix_gflops": rate / 1e9,
        "copy_gb_s": bandwidth / 1e9,
        "real_time": batch * samples / bank.sample_rate / times["forward"],
    }


def plain(amplitudes: jax.Array, noise: jax.Array) -> jax.Array:
    """The paper's way: amplitudes interpolated to the sample rate, times bands."""
    frames, time = amplitudes.shape[1], noise.shape[-1]
    at = (np.arange(time) + 0.5) * frames / time - 0.5
    at = np.clip(at, 0.0, frames - 1.0)
    left = np.minimum(at.astype(np.int32), frames - 2)
    share = jnp.asarray(at - left, amplitudes.dtype)
    rows = jnp.swapaxes(amplitudes, 1, 2)
    moving = (1 - share) * rows[..., left] + share * rows[..., left + 1]
    return jnp.sum(moving * noise, 1)


def fusible(amplitudes: jax.Array, noise: jax.Array) -> jax.Array:
    """The same sum by broadcasts over hops, which XLA makes one loop of."""
    batch, frames, bands = amplitudes.shape
    hop = noise.shape[-1] // frames
    weights = jnp.asarray((np.arange(hop) + 0.5) / hop, amplitudes.dtype)
    ends = jnp.pad(jnp.swapaxes(amplitudes, 1, 2), [(0, 0), (0, 0), (1, 1)], "edge")
    moving = (1 - weights) * ends[..., :-1, None] + weights * ends[..., 1:, None]
    moving = moving.reshape(batch, bands, -1)[..., hop // 2 : hop // 2 - hop]
    return jnp.sum(moving * noise, 1)


def build(count: int, options: Arguments) -> Row:
    """Seconds and memory of a bank of the paper's length."""
    jax.random.uniform(jax.random.key(0), (2, 2)).block_until_ready()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, busy = time.perf_counter(), time.process_time()
    bank = _bank(count, options, 2048 if options.quick else 1 << 16)
    bank.frames.block_until_ready()
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "bands": count,
        "s": wall,
        "processor_s": busy,
        "bank_bytes": bank.frames.nbytes,
        "transient_bytes": max(0, grown * 1024 - bank.frames.nbytes),
    }


def paper_step(options: Arguments) -> Row:
    """The synthesis of a training step at the paper's defaults, with its gradient."""
    bank = noise_bank(
        make_bands(44100, 2048), 32, jax.random.key(options.seed), samples=1 << 16
    )
    shape = (16, (1 << 16) // 32, 2048)
    amplitudes = jnp.full(shape, 0.1)
    program = _compiled(jax.value_and_grad(_loss), amplitudes, bank, jnp.asarray(0))
    calls = {"step": lambda: program(amplitudes, bank, jnp.asarray(0))}
    times = {k: min(t) for k, t in interleaved(calls, 2).items()}
    memory = program.memory_analysis()
    return {
        "bytes": _bytes(program),
        "bank_bytes": bank.frames.nbytes,
        "array_bytes": 2 * amplitudes.nbytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "s": times["step"],
    }


def line(row: Row) -> str:
    """A row as text."""
    times, memory = row["s"], row["bytes"]

    def ms(name):
        return f"{1e3 * times[name]:.1f}" if name in times else "-"

    def faster(name, target):
        found = []
        for form in ("plain", "fusible"):
            if f"{form}{name}" not in times:
                found.append("-")
                continue
            ratio = times[f"{form}{name}"] / times[name.strip() or "forward"]
            found.append(f"{ratio:.0f}")
            if form == "plain":
                found[-1] += _mark(ratio >= target)
        return " ".join(found)

    least = row["roofline_s"]
    return (
        f"{row['bands']:>6}{row['batch']:>6}{ms('plain'):>10}{ms('forward'):>12}"
        f"{faster('', FASTER_FORWARD):>11}{ms('plain gradient'):>12}"
        f"{ms('gradient'):>13}{faster(' gradient', FASTER_GRADIENT):>11}"
        f"{times['forward'] / least:>12.1f}{times['gradient'] / (2 * least):>10.1f}"
        f"{memory['forward'] / 1e6:>12.0f}{memory['gradient'] / 1e6:>10.0f}"
        f"{memory['plain'] / 1e6:>8.0f}{memory['plain gradient'] / 1e6:>10.0f}"
        f"{row['real_time']:>13.0f}"
    )


def _built_line(row: Row) -> str:
    return (
        f"bank of {row['bands']} bands, {row['bank_bytes'] / 1e6:.0f} MB:"
        f" {row['s']:.2f} s{_mark(row['s'] < BANK_S)} ({row['processor_s']:.2f} s of"
        f" processors), {row['transient_bytes'] / 1e6:.0f} MB beside it"
    )


def _mark(fine: bool) -> str:
    return "" if fine else "!"


def _bank(count: int, options: Arguments, samples: int) -> NoiseBank:
    bands = make_bands(options.sample_rate, count)
    key = jax.random.key(options.seed)
    # A short loop has no bin in the narrowest bands: for speed that does not matter.
    narrow = 2.0 * options.sample_rate / np.diff(bands.limits_hz).min()
    return noise_bank(bands, options.hop, key, samples=max(samples, int(narrow) + 1))


def _forward(amplitudes, bank, position):
    return render_batch(bank, amplitudes, position)


def _loss(amplitudes, bank, position):
    return jnp.mean(_forward(amplitudes, bank, position) ** 2)


@jax.jit
def _product(square):
    return square @ square


@jax.jit
def _copy(noise):
    return noise + 1.0


def _compiled(function: Callable[..., Any], *arrays: Any) -> Any:
    return jax.jit(function).lower(*arrays).compile()


def _bytes(program: Any) -> int:
    memory = program.memory_analysis()
    return (
        memory.temp_size_in_bytes
        + memory.argument_size_in_bytes
        + memory.output_size_in_bytes
    )
