"""Gradient estimators against autodiff through the twin, renders by pedalboard.

    python scripts/benchmark.py gradients --out RUN
    python scripts/benchmark.py gradients --studies sizes --draws 24
    python scripts/benchmark.py gradients --studies stand-ins --effects channel_strip \
        --proxy-steps 1000 --draws 40 --seconds 2

The truth is the exact gradient, by autodiff through the JAX twin, of a loss between
the effect's output at a random setting and at another, hidden one. Estimators see
renders of pedalboard alone. Studies: ``estimators`` (cosine and relative error by
renders, loss and form), ``steps`` (the same by the step of exact differences),
``priors`` (the twin as control variate: exact, detuned, incomplete; and a learned
stand-in), ``sizes`` (which estimator for how many controls), ``stand-ins`` (learned
stand-ins against converged differences, for effects without a twin). Renders count the
centre. Medians over questions (a clip of the test split, a setting and a target), with
bootstrap 95 % intervals that resample them. RUN.json holds every loss, RUN_*.png are
the figures.
"""

import json
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from benchmarks import gradient_priors as stand_ins
from benchmarks import gradient_studies as studies
from benchmarks.gradient_figures import draw_figures
from benchmarks.gradient_lab import TWINS, Quality, ask, lab_effect, loss_table
from benchmarks.gradient_priors import Scene
from benchmarks.gradient_stand_ins import StandInOptions, measure, train_stand_in
from benchmarks.gradient_studies import Row
from benchmarks.recordings import clips_of, collection

from ddspx import plotting
from ddspx.audio import written_aside
from styletransfer.gradients import DEFAULT_STEP
from styletransfer.hosts import Host, open_host

STUDIES = ("estimators", "steps", "priors", "sizes", "stand-ins")


@dataclass(frozen=True)
class Arguments:
    """Command line of the suite."""

    data: Path | None = None
    """Folder or manifest; when not given what DDSPX_DATA names, else practice music."""
    category: str = "speech"
    """Use only the recordings of this folder of the collection, if any."""
    studies: tuple[str, ...] = ("estimators", "steps", "priors")
    """What to measure: estimators, steps, priors, sizes, stand-ins."""
    effects: tuple[str, ...] = (*TWINS, "channel_strip", "full_chain")
    """Twins by pedalboard's names, and presets (their continuous controls)."""
    losses: tuple[str, ...] = ("mrstft", "mel", "esr")
    """Of mrstft, mel, esr, bands; tables show the first."""
    renders: tuple[int, ...] = (3, 5, 9, 17, 33)
    """Budgets of a gradient, the centre included."""
    steps: tuple[float, ...] = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
    """Epsilons of the study of steps."""
    step: float = DEFAULT_STEP
    """Epsilon of the other studies."""
    shifts: tuple[float, ...] = (0.01, 0.03, 0.1)
    """By how much of its range every control of a detuned twin is off."""
    draws: int = 8
    """Questions of the tables, of the test split."""
    calibration: int = 8
    """Questions that the sizes for coordinates are measured on, of the valid split."""
    keys: int = 1
    """Random directions drawn for each question."""
    seconds: float = 1.5
    """Length of a clip."""
    sample_rate: int = 24000
    """Hz."""
    chain: str = "channel_strip"
    """Effect of the study of priors."""
    missing: str = "high_peak"
    """Slot that the incomplete twin of the chain lacks."""
    proxy_steps: int = 200
    """Training steps of learned stand-ins."""
    proxy_runs: Path | None = None
    """Folder where trained stand-ins are kept and looked for."""
    size_chain: str = "long_strip"
    """Effect of whose controls the study of sizes takes subsets."""
    sizes: tuple[int, ...] = (2, 4, 8, 13, 19, 25)
    """Numbers of controls of that study."""
    seed: int = 0
    """Of everything."""
    out: Path | None = None
    """Where to write; .json and _NAME.png are added."""


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints one table an effect and study."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    unknown = set(options.studies) - set(STUDIES)
    if unknown:
        raise ValueError(
            f"studies {sorted(unknown)} unknown; choose from {', '.join(STUDIES)}"
        )
    loss_table(options.sample_rate, options.losses)
    report: dict[str, Any] = {"options": _plain(options)}
    with tempfile.TemporaryDirectory() as scratch:
        clips = collection(options.data, Path(scratch))
        splits = {
            split: clips_of(clips, split, options.category, options.seconds)
            for split in ("train", "valid", "test")
        }
        runs = options.proxy_runs or Path(scratch) / "runs"
        if {"estimators", "steps"} & set(options.studies):
            report["effects"] = {
                name: _effect(name, splits, options) for name in options.effects
            }
            _say_means(report["effects"], options)
        if "priors" in options.studies:
            report["priors"] = _priors(splits, runs, options)
        if "sizes" in options.studies:
            report["sizes"] = _sizes(splits, options)
        if "stand-ins" in options.studies:
            report["stand-ins"] = {
                name: measure(name, splits, runs, _stand_in_options(options))
                for name in options.effects
                if name not in TWINS
            }
    if options.out is None:
        return
    with written_aside(options.out.with_suffix(".json"), overwrite=True) as aside:
        aside.write_text(json.dumps(report) + "\n")
    for name, figure in draw_figures(report).items():
        path = options.out.with_name(f"{options.out.name}_{name}.png")
        plotting.save(figure, path, overwrite=True)


def _scene(host: Host, splits: dict, options: Arguments) -> Scene:
    table = loss_table(options.sample_rate, options.losses)
    known, tested = (
        ask(host, splits[split], count, seconds=options.seconds, seed=seed)
        for split, count, seed in (
            ("valid", options.calibration, 1),
            ("test", options.draws, 2),
        )
    )
    return stand_ins.set_scene(host, table, known, tested)


def _effect(name: str, splits: dict, options: Arguments) -> dict[str, Any]:
    started = time.perf_counter()
    report: dict[str, Any] = {}
    with open_host(lab_effect(name), options.sample_rate) as host:
        scene = _scene(host, splits, options)
        report["controls"] = scene.n
        report["waveform_error"] = stand_ins.waveform_error(scene)
        print(
            f"\n{name}: {scene.n} controls; twin's waveform"
            f" {report['waveform_error']:.1e} off",
            flush=True,
        )
        if "estimators" in options.studies:
            rows = studies.compare_estimators(
                scene,
                renders=options.renders,
                step=options.step,
                shift=0.03,
                keys=options.keys,
                seed=options.seed,
            )
            report["estimators"] = [row.record() for row in rows]
            _print_table(rows, options.losses[0])
        if "steps" in options.studies:
            rows = studies.compare_steps(scene, options.steps, seed=options.seed)
            report["steps"] = [row.record() for row in rows]
            _print_steps(rows, options)
        report["renders"] = scene.judge.renders
    print(f"  {time.perf_counter() - started:.0f} s", flush=True)
    return report


def _priors(splits: dict, runs: Path, options: Arguments) -> dict[str, Any]:
    name = options.chain
    with open_host(lab_effect(name), options.sample_rate) as host:
        scene = _scene(host, splits, options)
        print(f"\nstand-ins of {name}, {scene.n} controls", flush=True)
        missing = {slot.name for slot in host.effect.slots} & {options.missing}
        made = stand_ins.detuned_stand_ins(
            scene,
            shifts=options.shifts,
            missing=options.missing if missing else None,
            seed=options.seed,
        )
        renders = {"the twin": scene.twin.render}
        if options.proxy_steps and name not in TWINS:
            proxy, params, took = train_stand_in(
                name, host, splits["train"], runs, options.proxy_steps
            )

            def render(audio, controls):
                return proxy.render(params, audio, controls)

            print(f"learned: {took}", flush=True)
            renders["the learned stand-in"] = render
            label = f"learned, {options.proxy_steps} steps"
            made[label] = stand_ins.rendering_prior(scene, render)
        rows = studies.compare_priors(
            scene,
            made,
            renders=options.renders,
            step=options.step,
            keys=options.keys,
            seed=options.seed,
        )
        costs = stand_ins.costs(scene, renders)
    # The others are in the file: they are never better.
    shown = [
        r for r in rows if "SPSA" not in r.estimator and "pairs" not in r.estimator
    ]
    _print_table(shown, options.losses[0])
    for what, milliseconds in costs.items():
        print(f"  {what:<42}{milliseconds:8.1f} ms", flush=True)
    return {"rows": [row.record() for row in rows], "milliseconds": costs}


def _sizes(splits: dict, options: Arguments) -> dict[str, Any]:
    with open_host(lab_effect(options.size_chain), options.sample_rate) as host:
        scene = _scene(host, splits, options)
        found = studies.compare_sizes(
            scene,
            [size for size in options.sizes if size <= scene.n],
            renders=tuple(sorted({2, *options.renders, 65})),
            step=options.step,
            shift=0.03,
            keys=options.keys,
            seed=options.seed,
        )
    for size, rows in found.items():
        print(f"\n{size} of {scene.n} controls of {options.size_chain}", flush=True)
        _print_table(rows, options.losses[0])
    return {str(size): [r.record() for r in rows] for size, rows in found.items()}


def _print_table(rows: Iterable[Row], loss: str) -> None:
    """Cosine / relative error by renders, of both forms."""
    rows = [row for row in rows if row.loss == loss]
    columns = sorted({row.renders for row in rows})
    cells = {(r.estimator, r.form, r.renders): r.quality for r in rows}
    head = "".join(f"{c:>11}" for c in columns)
    title = f"{loss}: cosine/relative error, by renders"
    print(f"  {title:<52}{head}")
    for name in dict.fromkeys(row.estimator for row in rows):
        for form in studies.FORMS:
            line = ""
            for column in columns:
                found = cells.get((name, form, column))
                line += f"{_cell(found) if found else '':>11}"
            print(f"  {name:<42}{form:<10}{line}", flush=True)


def _cell(found: Quality) -> str:
    cosine = f"{found.cosine.value:.3f}".replace("0.", ".")
    return f"{cosine}/{min(found.error.value, 9.99):.2f}"


def _print_steps(rows: Iterable[Row], options: Arguments) -> None:
    cells = {(r.estimator, r.form, r.loss): r.quality for r in rows}
    head = "".join(f"{step:>10g}" for step in options.steps)
    print(f"  relative error of exact differences, by step{'':<8}{head}")
    for loss in options.losses:
        for form in studies.FORMS:
            for kind in ("central", "forward"):
                found = [cells[f"{kind} {s:g}", form, loss] for s in options.steps]
                line = "".join(f"{q.error.value:>10.4f}" for q in found)
                print(f"  {loss:<10}{kind + ' differences':<32}{form:<10}{line}")
        best = min(
            (cells[f"central {s:g}", "scalar", loss] for s in options.steps),
            key=lambda q: q.error.value,
        )
        print(
            f"  {loss:<10}converged: cosine {best.cosine.value:.5f}, relative error"
            f" {best.error.value:.4f}",
            flush=True,
        )


def _say_means(effects: dict[str, Any], options: Arguments) -> None:
    """The step with the least error over effects, for every loss and form."""
    if "steps" not in options.studies:
        return
    print("\nrelative error of exact differences, geometric mean over effects")
    for loss in options.losses:
        for form in studies.FORMS:
            for kind in ("central", "forward"):
                line = ""
                for step in options.steps:
                    errors = [
                        row["quality"]["error"].value
                        for effect in effects.values()
                        for row in effect["steps"]
                        if row["estimator"] == f"{kind} {step:g}"
                        and (row["form"], row["loss"]) == (form, loss)
                        and row["quality"]["questions"]
                    ]
                    mean = np.exp(np.mean(np.log(np.maximum(errors, 1e-6))))
                    line += f"{mean:>10.4f}"
                print(f"  {loss:<10}{kind + ' differences':<32}{form:<10}{line}")


def _stand_in_options(options: Arguments) -> StandInOptions:
    return StandInOptions(
        renders=options.renders,
        draws=options.draws,
        calibration=options.calibration,
        keys=options.keys,
        seconds=options.seconds,
        sample_rate=options.sample_rate,
        proxy_steps=options.proxy_steps,
        seed=options.seed,
    )


def _plain(options: Arguments) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(options).items()
    }
