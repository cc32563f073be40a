"""Spoken digits: a VAE against PCA and the linear beta-VAE, speaker by speaker.

    python scripts/benchmark.py digits --data DATA --runs RUNS --out digits

Each speaker in turn is held out: a model is trained by the preset on the others, and
PCA and the linear beta-VAE of the same number of latents and water level are fitted on
the same files and front-end. Judged on all recordings of the held-out speaker, last
checkpoint: mean square error of posterior means in dB^2, and the objective in nats,
``squared error / (2 tau) + KL`` of sampled codes. Intervals resample speakers first,
then their recordings; there are few speakers, so that the worst is shown as well.

One of the models is then analysed, pruned to the proposal, trained on, and compared
with models trained from scratch at that size: RUNS/SPEAKER_pruned holds the report of
analyze_latents.py. Trainings resume, so that a call that was stopped can be repeated.
"""

import dataclasses
import json
import shutil
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import analyze_latents
import numpy as np
import tyro
from benchmarks.latent_baselines import (
    NO_NOISE,
    images_of,
    linear_model,
    lower_by,
)
from benchmarks.recordings import collection
from matplotlib.figure import Figure

from ddspx import plotting
from ddspx.audio import written_aside
from ddspx.data.manifest import Clip
from ddspx.data.split import select
from ddspx.training.configuration import load_preset
from vae.examples import load_examples
from vae.pruned import Judged, judge_examples
from vae.run import VaeRunConfig, load_vae
from vae.size import Rule
from vae.training import shortened, trained


@dataclass(frozen=True)
class Arguments:
    """Command line of the suite."""

    data: Path | None = None
    """Folder or manifest; when not given what DDSPX_DATA names, else practice music."""
    only: str = "digits/*"
    """Recordings whose path matches, where any does."""
    config: Path = Path(__file__).parents[2] / "configs/vae/digits.yaml"
    """Preset of the model."""
    runs: Path | None = None
    """Folder of run folders, kept and resumed; a temporary one when not given."""
    steps: int | None = None
    """Training steps; those of the preset when not given."""
    latents: int | None = None
    """Of the model; those of the preset when not given."""
    tau: float | None = None
    """Water level; that of the preset when not given."""
    speakers: int = 5
    """Hold out so many speakers in turn, at most."""
    study: str | None = None
    """Speaker whose model is pruned; the last when not given."""
    rules: tuple[Rule, ...] = ("fidelity",)
    """Prune to the proposals of these."""
    fine_tune: int = 200
    """Steps that the pruned model is trained on."""
    retrain: int = 3
    """Models trained from scratch at the proposed size."""
    seconds: float = 120.0
    """Of an analysis, about."""
    resamples: int = 2000
    """Of the bootstrap."""
    out: Path | None = None
    """Where to write; .json and .png are added."""


@dataclass(frozen=True)
class Fold:
    """One speaker held out.

    Attributes:
      speaker: who.
      trained_on: recordings.
      tau: water level.
      unit: dB^2 of a squared unit over an image, or 1 where levels are not in dB.
      judged: method -> its figures on every held-out recording.
    """

    speaker: str
    trained_on: int
    tau: float
    unit: float
    judged: dict[str, Judged]

    def mse(self, method: str) -> np.ndarray:
        """Mean square error of posterior means, [recordings]."""
        return self.judged[method].squared_error * self.unit

    def objective(self, method: str) -> np.ndarray:
        """Nats, [recordings]; NaN for a method without a posterior."""
        if method in ("pca", "mean"):
            return np.full(len(self.judged[method].kl), np.nan)
        return self.judged[method].objective(self.tau)


METHODS = {
    "mean": "mean of the training images",
    "pca": "PCA",
    "linear": "linear beta-VAE",
    "trained": "trained VAE",
}


def main(arguments: list[str] | None = None) -> None:
    """Trains, compares, prunes; prints the tables and writes numbers and figure."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    config = load_preset(options.config, VaeRunConfig)
    if options.steps is not None:
        config = shortened(config, options.steps)
    if options.latents is not None:
        model = dataclasses.replace(config.model, latents=options.latents)
        config = dataclasses.replace(config, model=model)
    if options.tau is not None:
        objective = dataclasses.replace(config.objective, beta=None, tau=options.tau)
        config = dataclasses.replace(config, objective=objective)
    with tempfile.TemporaryDirectory() as scratch:
        clips = collection(options.data, Path(scratch))
        clips = tuple(c for c in clips if fnmatch(c.path, options.only)) or clips
        runs = options.runs or Path(scratch) / "runs"
        speakers = sorted({clip.group for clip in clips})
        if len(speakers) < 2:
            raise ValueError(
                f"one speaker or piece, {speakers}: two or more are needed"
            )
        study = options.study or speakers[-1]
        if study not in speakers:
            raise ValueError(f"study {study!r}: choose one of {', '.join(speakers)}")
        held_out = speakers[-max(options.speakers, 1) :]
        if study not in held_out:
            held_out = [study, *held_out[1:]]
        folds = []
        for speaker in held_out:
            folds.append(fold_of(config, speaker, clips, runs))
            print(line(folds[-1]), flush=True)
        table = compared(folds, options.resamples)
        for row in table:
            print(row["text"], flush=True)
        pruned = {
            rule: prune_study(options, config, study, clips, runs, rule)
            for rule in options.rules
        }
    report = {
        "options": {k: str(v) for k, v in vars(options).items()},
        "folds": [
            {
                "speaker": fold.speaker,
                "trained_on": fold.trained_on,
                "mse": {m: float(fold.mse(m).mean()) for m in METHODS},
                "objective": {
                    m: float(fold.objective(m).mean()) for m in ("linear", "trained")
                },
                "kl": {
                    m: float(fold.judged[m].kl.mean()) for m in ("linear", "trained")
                },
            }
            for fold in folds
        ],
        "compared": table,
        "pruned": pruned,
    }
    if options.out is not None:
        numbers = options.out.with_suffix(".json")
        with written_aside(numbers, overwrite=True) as file:
            file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        plotting.save(figure(folds), options.out.with_suffix(".png"), overwrite=True)


def held_out_from(clips: tuple[Clip, ...], speaker: str) -> tuple[Clip, ...]:
    """The recordings split anew: those of a speaker are ``valid``, the rest train."""
    return tuple(
        dataclasses.replace(clip, split="valid" if clip.group == speaker else "train")
        for clip in clips
    )


def fold_of(
    config: VaeRunConfig, speaker: str, clips: tuple[Clip, ...], runs: Path
) -> Fold:
    """Trains, or finds trained, the model that has not heard a speaker, and judges.

    Args:
      config: of the run.
      speaker: group held out.
      clips: recordings of all.
      runs: folder of run folders.
    """
    clips = held_out_from(clips, speaker)
    assert config.tau is not None
    loaded = trained(config, runs / speaker, clips)
    images = {
        split: images_of(config, load_examples(config, select(clips, split)).audio)
        for split in ("train", "valid")
    }
    known, wanted = images["train"], images["valid"]
    judged = {
        name: judge_examples(model, wanted)
        for name, model in (
            ("pca", linear_model(config, known, NO_NOISE)),
            ("linear", linear_model(config, known, 1.0)),
            ("trained", loaded),
        )
    }
    error = np.sum(np.square(wanted - known.mean(0), dtype=np.float64), (1, 2))
    zero = np.zeros_like(error)
    judged["mean"] = Judged(error, error, zero, 0.0)
    elements = config.front.elements
    unit = (config.front.db_per_unit or 1.0) ** 2 / elements
    return Fold(speaker, len(known), config.tau, unit, judged)


def line(fold: Fold) -> str:
    """A fold on one line."""
    errors = "  ".join(f"{m} {fold.mse(m).mean():.2f}" for m in METHODS)
    nats = "  ".join(
        f"{m} {fold.objective(m).mean():.1f}" for m in ("linear", "trained")
    )
    return f"{fold.speaker}: mean square error / dB^2  {errors};  objective  {nats}"


def compared(folds: list[Fold], resamples: int) -> list[dict[str, Any]]:
    """The trained model against each baseline, in percent, with intervals.

    Args:
      folds: all speakers.
      resamples: of speakers, then of their recordings.

    Returns:
      A row for each baseline and measure: how much lower the trained model's mean is,
      as a share of the baseline's; ``low`` and ``high`` hold 95 %.
    """
    groups = np.concatenate([[f.speaker] * len(f.mse("mean")) for f in folds])
    rows = []
    for measure, baseline in (
        ("mse", "mean"),
        ("mse", "pca"),
        ("mse", "linear"),
        ("objective", "linear"),
    ):
        ours, theirs = (
            np.concatenate([getattr(f, measure)(method) for f in folds])
            for method in ("trained", baseline)
        )
        value, low, high = lower_by(ours, theirs, groups, resamples)
        alone = [
            1.0 - ours[groups == f.speaker].mean() / theirs[groups == f.speaker].mean()
            for f in folds
        ]
        row = {
            "measure": measure,
            "baseline": baseline,
            "lower_by": value,
            "low": low,
            "high": high,
            "worst_speaker": float(min(alone)),
            "best_speaker": float(max(alone)),
        }
        row["text"] = (
            f"{measure}: trained is {100 * value:.1f} %"
            f" [{100 * low:.1f}, {100 * high:.1f}] below {METHODS[baseline]};"
            f" by speaker {100 * min(alone):.1f} to {100 * max(alone):.1f} %"
        )
        rows.append(row)
    return rows


def prune_study(
    options: Arguments,
    config: VaeRunConfig,
    speaker: str,
    clips: tuple[Clip, ...],
    runs: Path,
    rule: Rule,
) -> dict[str, Any]:
    """Analyses, prunes, fine-tunes and retrains; what analyze_latents.py wrote."""
    out = runs / f"{speaker}_pruned_by_{rule}"
    if not (out / "analysis.json").is_file():
        # The report comes last: without it the folder is what a stopped call left.
        shutil.rmtree(out, ignore_errors=True)
        words = analyze_latents.Arguments(
            run=runs / speaker,
            out=out,
            seconds=options.seconds,
            prune=0,
            rule=rule,
            fine_tune=options.fine_tune,
            retrain=options.retrain,
            which="last",
        )
        analyze_latents.run(
            words, load_vae(runs / speaker, "last"), held_out_from(clips, speaker)
        )
    found = json.loads((out / "analysis.json").read_text())
    table = found["verification"]
    print(f"\n{speaker}, pruned by {rule}: {found['analysis']['advice']}")
    for row in table:
        cost = 100.0 * (row["objective"] / table[0]["objective"] - 1.0)
        mse = row["mse"] * (config.front.db_per_unit or 1.0) ** 2
        print(
            f"{row['model']:22}{row['latents']:4} latents  {mse:7.2f} dB^2"
            f"  {row['kl']:6.1f} nats  objective {row['objective']:7.1f}"
            f" ({cost:+.1f} %)  {row['parameters']} weights",
            flush=True,
        )
    return {
        "proposals": {p["rule"]: p for p in found["analysis"]["proposals"]},
        "advice": found["analysis"]["advice"],
        "verification": table,
    }


def figure(folds: list[Fold]) -> Figure:
    """Errors by speaker and method, and by recording."""
    drawn = Figure(figsize=(10, 4), layout="constrained")
    bars, cloud = drawn.subplots(1, 2)
    colours = {"mean": "#9a9a9a", "pca": "#d9822b", "linear": "#4a9a5b"}
    colours["trained"] = "#3b6fb6"
    shown = [m for m in METHODS if m != "mean"]
    for place, method in enumerate(shown):
        for k, fold in enumerate(folds):
            values = fold.mse(method)
            spread = 1.96 * values.std() / len(values) ** 0.5
            bars.bar(
                k + 0.27 * (place - 1),
                values.mean(),
                0.27,
                yerr=spread,
                color=colours[method],
                label=METHODS[method] if k == 0 else None,
            )
    bars.set_xticks(range(len(folds)), [f.speaker.split("_")[-1] for f in folds])
    bars.set_ylabel("mean square error / dB²")
    bars.set_xlabel("speaker held out")
    bars.legend(fontsize=8)
    theirs = np.concatenate([f.mse("pca") for f in folds])
    ours = np.concatenate([f.mse("trained") for f in folds])
    cloud.plot(theirs, ours, ".", markersize=2, color=colours["trained"])
    ends = [min(theirs.min(), ours.min()), max(theirs.max(), ours.max())]
    cloud.plot(ends, ends, color="black", linewidth=0.8)
    cloud.set(
        xscale="log", yscale="log", xlabel="PCA / dB²", ylabel="trained VAE / dB²"
    )
    below = 100.0 * np.mean(ours < theirs)
    cloud.set_title(f"every recording: {below:.0f} % below the line", fontsize=9)
    return drawn
