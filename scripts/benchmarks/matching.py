"""Recovering hidden settings of an effect from a dry and wet pair of real music.

    python scripts/benchmark.py matching --out RUN
    python scripts/benchmark.py matching --trials 24 --renders 2000 --out RUN

Pedalboard renders a section of the test split at a hidden setting, uniform in the
cube; every search is given dry and wet. ``autodiff`` and ``autodiff_lbfgs`` go
through the JAX twin, the others see pedalboard's renders alone. The loss is the
multi-resolution STFT loss to the target as a share of doing nothing's: median and
quartiles over trials, against steps (calls of the search), renders (a gradient by
autodiff counts as several, see `styletransfer.objective`) and seconds (compiled
before).

A setting counts as *identifiable* where moving it by a tenth of its range, the other
settings free to make up for it, changes the band levels of the target by 0.1 dB RMS or
more: by central differences of the band levels at the truth. Writes RUN.json and
RUN.png.
"""

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tyro
from benchmarks.recordings import clips_of, collection, spread_sections
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from tqdm import tqdm

from ddspx import plotting
from ddspx.audio import written_aside
from ddspx.parameters import identity_controls, sample_controls
from styletransfer.evaluation import truth_loss
from styletransfer.gradients import DEFAULT_STEP, steps_for
from styletransfer.hosts import Host, open_host
from styletransfer.objective import Objective
from styletransfer.presets import load_effect
from styletransfer.search import SEARCHES
from styletransfer.transfer import (
    TargetScore,
    TransferConfig,
    transfer,
)

RENDERS = (50, 100, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 5000)
STEPS = (1, 3, 10, 20, 30, 50, 70, 100, 150, 200, 300, 500)
SECONDS = (0.3, 0.5, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)
# A setting that may move this far while the bands change by less than this.
TOLERANCE, CHANGE_DB = 0.1, 0.1
# Budget of the search that compiles everything before the clock starts.
WARM_UP = 120


@dataclass(frozen=True)
class Arguments:
    """Command line of the suite."""

    data: Path | None = None
    """Folder or manifest; when not given what DDSPX_DATA names, else practice music."""
    category: str = "music"
    """Use only the recordings of this folder of the collection, if any."""
    effect: str = "channel_strip"
    """Effect preset or YAML file; all its plug-ins need twins."""
    methods: tuple[str, ...] = (
        "autodiff",
        "autodiff_lbfgs",
        "adam_spsa",
        "adam",
        "combined",
    )
    """Searches to compare."""
    trials: int = 8
    """Sections, evenly spread over the test split, with one hidden setting each."""
    renders: int = 1000
    """Budget of each search."""
    section_s: float = 3.0
    """Length of a section in seconds."""
    sample_rate: int = 24000
    """Hz."""
    seed: int = 0
    """Of hidden settings and searches."""
    out: Path | None = None
    """Where to write; .json and .png are added."""


@dataclass(frozen=True)
class Outcome:
    """One search of one trial.

    Attributes:
      renders: after each step [steps].
      seconds: likewise.
      loss: best so far after each step, as a share of doing nothing's.
      controls: what was found [n].
      bands_db: RMS difference of band levels to the target, frame by frame.
    """

    renders: np.ndarray
    seconds: np.ndarray
    loss: np.ndarray
    controls: np.ndarray
    bands_db: float


@dataclass(frozen=True)
class Trial:
    """One hidden setting.

    Attributes:
      name: of the recording.
      hidden: controls [n].
      identifiable: [n] bool, see the module.
      level_matched: loss of the input at the target's level, as a share.
      outcomes: by method.
    """

    name: str
    hidden: np.ndarray
    identifiable: np.ndarray
    level_matched: float
    outcomes: Mapping[str, Outcome]


def main(arguments: list[str] | None = None) -> None:
    """Runs the searches, prints the tables, writes numbers and figure."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    unknown = set(options.methods) - set(SEARCHES)
    if unknown:
        raise ValueError(
            f"methods {sorted(unknown)} unknown; choose from {', '.join(SEARCHES)}"
        )
    with tempfile.TemporaryDirectory() as scratch:
        clips = clips_of(
            collection(options.data, Path(scratch)),
            "test",
            options.category,
            options.section_s,
        )
        dry = spread_sections(
            clips, options.trials, options.section_s, options.sample_rate
        )
        with open_host(load_effect(options.effect), options.sample_rate) as host:
            names = [spec.name for spec in host.specs]
            trials = run_trials(
                host,
                [(name, section.samples) for name, section in dry],
                options.methods,
                renders=options.renders,
                seed=options.seed,
            )
    summary = summarise(trials, names)
    _print(summary, trials, options)
    if options.out is None:
        return
    with written_aside(options.out.with_suffix(".json"), overwrite=True) as aside:
        aside.write_text(json.dumps(summary, indent=1) + "\n")
    figure = draw(
        summary, f"{options.effect}, {len(trials)} pairs of {options.category}"
    )
    plotting.save(figure, options.out.with_suffix(".png"), overwrite=True)


def run_trials(
    host: Host,
    dry: list[tuple[str, np.ndarray]],
    methods: tuple[str, ...],
    *,
    renders: int,
    seed: int,
) -> list[Trial]:
    """Every search on every section, all with the same hidden settings and seed.

    Args:
      host: pedalboard's effect, open.
      dry: (name, audio [1, time]), all of one length.
      methods: of `SEARCHES`.
      renders: budget of each.
      seed: of everything.
    """
    rng = np.random.default_rng(seed)
    hidden = sample_controls(host.specs, rng, (len(dry),))
    warm = _wet(host, dry[0][1], hidden[0])
    for method in methods:
        _search(host, dry[0][1], warm, method, min(WARM_UP, renders), seed)
    trials = []
    for (name, audio), setting in zip(tqdm(dry, unit="trial"), hidden, strict=True):
        target = _wet(host, audio, setting)
        nothing = float(truth_loss(audio, target))
        gain = np.sqrt(np.mean(target**2) / np.mean(audio**2))
        outcomes = {
            method: _search(host, audio, target, method, renders, seed)
            for method in methods
        }
        trials.append(
            Trial(
                name,
                setting,
                identifiable(host, audio, target, setting),
                float(truth_loss(gain * audio, target)) / nothing,
                outcomes,
            )
        )
    return trials


def _wet(host: Host, audio: np.ndarray, setting: np.ndarray) -> np.ndarray:
    return host.render(audio[None], setting[None]).audio[0]


def _search(host, audio, target, method, renders, seed) -> Outcome:
    config = TransferConfig(
        method=method,
        renders=renders,
        seed=seed,
        excerpt_s=audio.shape[-1] / host.sample_rate,
    )
    curve: list[tuple[int, float, float]] = []
    started = time.perf_counter()

    def report(count: int, loss: float) -> None:
        curve.append((count, time.perf_counter() - started, loss))

    result = transfer(host, audio, target, paired=True, config=config, report=report)
    spent, seconds, loss = np.array(curve).T
    score = TargetScore(jnp.asarray(target), host.sample_rate)
    apart = score.residuals(jnp.asarray(_wet(host, audio, result.controls)))
    return Outcome(
        spent,
        seconds,
        np.minimum(loss / result.loss["before"], 1.0),
        result.controls,
        float(jnp.sqrt(jnp.sum(apart**2))),
    )


def identifiable(
    host: Host, audio: np.ndarray, target: np.ndarray, setting: np.ndarray
) -> np.ndarray:
    """Which controls [n] bool the target determines; see the module.

    With J the Jacobian of the band levels (RMS over bands and frames), control i may
    move by d sqrt([(J'J)^-1]_ii) for a change of d, the others making up for it.
    """
    n, center = len(setting), identity_controls(host.specs)
    score = TargetScore(jnp.asarray(target), host.sample_rate)
    objective = Objective(host, audio, score, budget=2 * n, center=center)
    steps = np.diag(steps_for(host.specs, DEFAULT_STEP))
    ends = np.clip(np.concatenate([setting + steps, setting - steps]), 0.0, 1.0)
    levels = objective.residuals(ends)
    moved = np.sum(ends[:n] - ends[n:], axis=1)
    jacobian = ((levels[:n] - levels[n:]) / moved[:, None]).T
    curvature = jacobian.T @ jacobian
    # A control without any effect has no inverse: it may then move anywhere.
    curvature += 1e-6 * np.eye(len(setting))
    may_move = CHANGE_DB * np.sqrt(np.diag(np.linalg.inv(curvature)))
    return may_move <= TOLERANCE


def summarise(trials: list[Trial], names: list[str]) -> dict[str, Any]:
    """Medians and quartiles by method, plain JSON."""
    methods = list(trials[0].outcomes)
    told = np.stack([trial.identifiable for trial in trials])
    report: dict[str, Any] = {
        "trials": [trial.name for trial in trials],
        "level_matched": _quartiles([trial.level_matched for trial in trials]),
        "identifiable": dict(zip(names, told.mean(axis=0).tolist(), strict=True)),
        "methods": {},
    }
    for method in methods:
        outcomes = [trial.outcomes[method] for trial in trials]
        apart = np.stack(
            [
                np.abs(outcome.controls - trial.hidden)
                for outcome, trial in zip(outcomes, trials, strict=True)
            ]
        )
        ends = [outcome.loss[-1] for outcome in outcomes]
        report["methods"][method] = {
            "renders": _curve(outcomes, "renders", RENDERS),
            "steps": _curve(outcomes, "steps", STEPS),
            "seconds": _curve(outcomes, "seconds", SECONDS),
            "loss": _quartiles(ends),
            "bands_db": _quartiles([outcome.bands_db for outcome in outcomes]),
            "settings": _quartiles(apart.ravel()),
            "identifiable_settings": _quartiles(apart[told]) if told.any() else None,
            "by_control": dict(
                zip(names, np.median(apart, axis=0).tolist(), strict=True)
            ),
            "total_seconds": float(np.median([o.seconds[-1] for o in outcomes])),
            "total_steps": float(np.median([len(o.loss) for o in outcomes])),
            "found": float(np.mean(np.asarray(ends) < 0.05)),
        }
    return report


def _curve(outcomes, axis: str, grid) -> dict[str, list]:
    """Quartiles of the best loss at places on an axis; up to where searches end."""
    rows, ends = [], []
    for outcome in outcomes:
        x = (
            np.arange(1, len(outcome.loss) + 1)
            if axis == "steps"
            else getattr(outcome, axis)
        )
        ends.append(x[-1])
        rows.append([np.min(outcome.loss[x <= place], initial=1.0) for place in grid])
    reached = [place for place in grid if place <= np.median(ends)]
    low, middle, high = np.quantile(rows, (0.25, 0.5, 0.75), axis=0)
    keep = len(reached)
    return {
        axis: reached,
        "low": low[:keep].tolist(),
        "median": middle[:keep].tolist(),
        "high": high[:keep].tolist(),
    }


def _quartiles(values) -> list[float]:
    return np.quantile(np.asarray(values), (0.25, 0.5, 0.75)).tolist()


def _print(summary: dict, trials: list[Trial], options: Arguments) -> None:
    print(
        f"{len(trials)} pairs; median loss as a share of doing nothing's; the input at"
        f" the target's level has {summary['level_matched'][1]:.1%}"
    )
    for axis, grid in (("renders", RENDERS), ("steps", STEPS), ("seconds", SECONDS)):
        places = [
            place
            for place in grid
            if any(place in m[axis][axis] for m in summary["methods"].values())
        ]
        print(f"{axis:<24}" + "".join(f"{place:>8g}" for place in places))
        for name, found in summary["methods"].items():
            known = dict(zip(found[axis][axis], found[axis]["median"], strict=True))
            cells = "".join(
                f"{known[p]:>8.1%}" if p in known else " " * 8 for p in places
            )
            print(f"  {name:<22}{cells}")
    print(
        f"{'at the end, medians':<24}{'loss':>8}{'< 5 %':>8}{'bands':>9}"
        f"{'settings':>10}{'of those told':>15}{'steps':>7}{'seconds':>9}"
    )
    for name, found in summary["methods"].items():
        told = found["identifiable_settings"]
        print(
            f"  {name:<22}{found['loss'][1]:>8.2%}{found['found']:>8.0%}"
            f"{found['bands_db'][1]:>6.2f} dB{found['settings'][1]:>10.3f}"
            f"{told[1] if told else float('nan'):>15.3f}{found['total_steps']:>7.0f}"
            f"{found['total_seconds']:>9.1f}"
        )
    hidden = {k: v for k, v in summary["identifiable"].items() if v < 0.5}
    print(
        "told by less than half of the targets: "
        + (", ".join(f"{k} ({v:.0%})" for k, v in hidden.items()) or "none")
    )


def draw(summary: dict, title: str) -> Figure:
    """Loss against steps, renders and seconds: medians, and quartiles as bands."""
    figure = Figure(figsize=(14.0, 4.8), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for axis, kind in zip(axes, ("steps", "renders", "seconds"), strict=True):
        for name, found in summary["methods"].items():
            curve = found[kind]
            line = axis.plot(curve[kind], curve["median"], marker="o", ms=3, label=name)
            axis.fill_between(
                curve[kind],
                curve["low"],
                curve["high"],
                alpha=0.13,
                color=line[0].get_color(),
            )
        axis.axhline(
            summary["level_matched"][1], color="grey", ls=":", label="level-matched"
        )
        axis.set(xscale="log", yscale="log", xlabel=kind)
        curves = (found[kind][kind] for found in summary["methods"].values())
        places = sorted({place for curve in curves for place in curve})
        axis.set_xticks(places, [f"{place:g}" for place in places], fontsize=7)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(True, which="both", alpha=0.2)
    axes[0].set_ylabel("loss as a share of doing nothing's")
    axes[0].legend(fontsize=8)
    figure.suptitle(title)
    return figure
