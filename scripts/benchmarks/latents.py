"""What training and analysing VAEs costs, beside what the machine can do.

    python scripts/benchmark.py latents --data DATA --out latents

Training: seconds of a step of each preset on noise, compiled before, the least of a few
rounds; its floating-point operations as XLA counts them; and the roofline, those
operations at the rate of a large float32 matrix product measured in the same run.
Analysis: wall time and peak memory of ``analyze_latents.py`` as its own process, on the
faithful preset of 128 latents after two steps of training (what the weights are does
not matter to the cost), everything included: start, compilation, figures, sounds.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from ddspx.audio import written_aside
from ddspx.training.configuration import load_preset
from vae.run import VaeRunConfig
from vae.task import vae_task

ROOT = Path(__file__).parents[2]
PRESETS = ROOT / "configs/vae"
_MATRIX = 2048


@dataclass(frozen=True)
class Arguments:
    """Command line of the suite."""

    data: Path | None = None
    """Folder or manifest; when not given what DDSPX_DATA names, else practice music."""
    presets: tuple[str, ...] = (
        "digits",
        "spoken_digit_modern",
        "spoken_digit_tutorial",
        "spectrogram_modern",
        "original_spectrogram",
    )
    """Whose training steps are timed."""
    rounds: int = 5
    """Of steps and matrix products, interleaved; the least counts."""
    analysed: str | None = "original_spectrogram"
    """Preset whose analysis is timed; none with `--analysed None`."""
    only: str = "speech/*"
    """Recordings of that analysis."""
    words: tuple[str, ...] = ()
    """More words for analyze_latents.py, such as --seconds 60."""
    out: Path | None = None
    """Where to write; .json is added."""


def main(arguments: list[str] | None = None) -> None:
    """Times steps and an analysis; prints a table each."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    report: dict[str, Any] = {"steps": {}, "analysis": None}
    print(
        f"{'preset':24}{'batch':>6}{'GFLOP':>9}{'step ms':>9}{'steps/s':>9}"
        f"{'GFLOP/s':>9}{'matmul':>8}{'of it':>7}"
    )
    for name in options.presets:
        row = timed_step(name, options.rounds)
        report["steps"][name] = row
        print(
            f"{name:24}{row['batch']:6}{row['gflop']:9.2f}{1e3 * row['step_s']:9.0f}"
            f"{1 / row['step_s']:9.2f}{row['gflop'] / row['step_s']:9.1f}"
            f"{row['matmul_gflops']:8.0f}{100 * row['roofline_share']:6.0f} %",
            flush=True,
        )
    if options.analysed is not None:
        report["analysis"] = timed_analysis(options)
        print(
            "analysis of {latents} latents of {preset}: {wall_s:.0f} s, {peak_gib:.2f}"
            " GiB at most".format(**report["analysis"])
        )
    if options.out is not None:
        numbers = options.out.with_suffix(".json")
        with written_aside(numbers, overwrite=True) as file:
            file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def timed_step(name: str, rounds: int) -> dict[str, Any]:
    """Cost of a training step of a preset.

    Args:
      name: of the preset.
      rounds: of a step and a matrix product, in turns.

    Returns:
      batch, gflop, step_s, matmul_gflops and roofline_share: the time that the
      operations would take at the product's rate, over the time that they take.
    """
    config = load_preset(PRESETS / f"{name}.yaml", VaeRunConfig)
    task = vae_task(config)
    rng = np.random.default_rng(0)
    shape = (config.data.batch_size, 1, config.front.samples)
    batch = {"audio": (0.1 * rng.normal(size=shape)).astype(np.float32)}
    state = task.init(jax.random.key(0))
    lowered = jax.jit(lambda s, b: task.step(s, b)).lower(state, batch)
    found: Any = lowered.cost_analysis()
    flops = float((found[0] if isinstance(found, list) else found)["flops"])
    square = jnp.asarray(rng.normal(size=(_MATRIX, _MATRIX)), jnp.float32)
    product = jax.jit(lambda x: x @ x)
    state, _ = task.step(state, batch)
    jax.block_until_ready((state.params, product(square)))
    steps, products = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        state, _ = task.step(state, batch)
        jax.block_until_ready(state.params)
        steps.append(time.perf_counter() - began)
        began = time.perf_counter()
        jax.block_until_ready(product(square))
        products.append(time.perf_counter() - began)
    rate = 2.0 * _MATRIX**3 / min(products)
    return {
        "batch": config.data.batch_size,
        "gflop": 1e-9 * flops,
        "step_s": min(steps),
        "matmul_gflops": 1e-9 * rate,
        "roofline_share": flops / rate / min(steps),
    }


def timed_analysis(options: Arguments) -> dict[str, Any]:
    """Trains two steps, then analyses; both by the commands that users call."""
    data = options.data or os.environ.get("DDSPX_DATA")
    chosen = [] if data is None else ["--data", str(data), "--only", options.only]
    config = PRESETS / f"{options.analysed}.yaml"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        begun = ["--fit.steps", "2", "--fit.evaluation_batches", "1", "--fit.quiet"]
        train = ["train.py", "vae", str(folder), "--config", str(config)]
        _call([*train, *chosen, *begun])
        analyse = ["analyze_latents.py", str(folder), "--out", f"{scratch}/out"]
        wall, peak = _call([*analyse, *chosen, *options.words])
        found = json.loads((Path(scratch) / "out/analysis.json").read_text())
    return {
        "preset": options.analysed,
        "latents": found["analysis"]["latents"],
        "pairs": found["analysis"]["pairs"],
        "wall_s": wall,
        "peak_gib": peak,
    }


def _call(words: list[str]) -> tuple[float, float]:
    """Runs a script; its wall time in seconds and its peak memory in GiB."""
    began = time.perf_counter()
    script = [sys.executable, str(ROOT / "scripts" / words[0]), *words[1:]]
    process = subprocess.Popen(script, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(f"{' '.join(words[:2])} ended with {process.returncode}")
    return time.perf_counter() - began, used.ru_maxrss / 2**20
