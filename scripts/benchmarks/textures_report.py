"""Tables and learning curves of the suite of textures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ddspx import plotting
from ddspx.audio import written_aside
from styletransfer.evaluation import Interval, bootstrap

PARTS = {
    "later": "ends of the recordings trained on",
    "other": "recordings not trained on",
}
MEASURES = {
    "loss": ("MRSTFT loss", 3),
    "loudness_error_db": ("loudness, dB off", 2),
    "centroid_error_octaves": ("centroid, octaves off", 3),
}


def write_report(
    results: Mapping[str, Mapping[str, Any]], folder: Path, resamples: int
) -> str:
    """Writes OUT/report.md and OUT/curves.png.

    Args:
      results: of each class, as `benchmarks.textures` keeps it.
      folder: OUT.
      resamples: of the bootstrap.

    Returns:
      The report.
    """
    text = report(results, resamples)
    with written_aside(folder / "report.md", overwrite=True) as aside:
        aside.write_text(text, encoding="utf-8")
    plotting.save(learning_curves(results), folder / "curves.png", overwrite=True)
    return text


def report(results: Mapping[str, Mapping[str, Any]], resamples: int) -> str:
    """Markdown: a table a part and measure, and how often the first model is ahead."""
    first = next(iter(results.values()))["models"]
    reference, *others = first
    lines = []
    for name, model in first.items():
        steps = sorted(one["models"][name]["steps"] for one in results.values())
        lines.append(
            f"{name}: {model['parameters']} parameters ({model['hidden']} units),"
            f" {1e3 * model['step_s']:.0f} ms a step, {steps[0]} to {steps[-1]} steps"
        )
    lines += ["", "MRSTFT loss of training, at its end: fit, not what carries over"]
    lines += ["", _table(["training loss", *first], _ends(results))]
    for part, meaning in PARTS.items():
        for measure, (label, digits) in MEASURES.items():
            header = [f"{label}, {part}", "pieces", reference]
            header += [f"{name} (less {reference})" for name in others]
            rows = [
                _row(name, one["models"], part, measure, digits, resamples)
                for name, one in results.items()
            ]
            lines += ["", f"{label}: {meaning}", "", _table(header, rows)]
            lines += ["", _standing(results, part, measure, resamples)]
    return "\n".join(lines) + "\n"


def _ends(results: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Loss of training of every class and model, the mean over its last fifth."""
    rows = []
    for name, one in results.items():
        row = [name]
        for model in one["models"].values():
            values = [value for _, value in model["curve"]["train/loss"]]
            row.append(f"{np.mean(values[-max(len(values) // 5, 1) :]):.3f}")
        rows.append(row)
    return rows


def difference(
    models: Mapping[str, Any], name: str, part: str, measure: str, resamples: int
) -> Interval:
    """Paired difference of a model to the first one, above 0 where the first is ahead.

    Args:
      models: of a class, the first one first.
      name: of the model.
      part: of the held-out sounds.
      measure: which.
      resamples: of the bootstrap.

    Returns:
      Mean over pieces and 95 % interval.
    """
    reference = models[next(iter(models))][part]
    values = np.array(models[name][part][measure]) - np.array(reference[measure])
    return bootstrap(values, reference["groups"], draws=resamples)


def _row(name, models, part, measure, digits, resamples):
    reference, *others = models
    own = models[reference][part]
    row = [name, f"{len(own[measure])} of {len(set(own['groups']))}"]
    for model in (reference, *others):
        found = models[model][part]
        mean = bootstrap(np.array(found[measure]), found["groups"], draws=resamples)
        cell = f"{mean.mean:.{digits}f}"
        if model == reference:
            cell += f" [{mean.low:.{digits}f}, {mean.high:.{digits}f}]"
        else:
            off = difference(models, model, part, measure, resamples)
            cell += (
                f" ({off.mean:+.{digits}f} [{off.low:+.{digits}f},"
                f" {off.high:+.{digits}f}])"
            )
        row.append(cell)
    return row


def _standing(results, part, measure, resamples):
    reference, *others = next(iter(results.values()))["models"]
    parts = []
    for name in others:
        found = [
            difference(one["models"], name, part, measure, resamples)
            for one in results.values()
        ]
        ahead = sum(one.mean > 0 for one in found)
        surely, surely_not = (
            sum(one.low > 0 for one in found),
            sum(one.high < 0 for one in found),
        )
        parts.append(
            f"{name}: {reference} lower in {ahead} of {len(found)} classes"
            f" ({surely} surely, {surely_not} surely higher)"
        )
    return "; ".join(parts)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def learning_curves(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Held-out loss over seconds of training, a panel a class."""
    columns = min(4, len(results))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.0 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.ravel()[len(results) :]:
        axis.set_visible(False)
    for axis, (name, one) in zip(axes.ravel(), results.items(), strict=False):
        for label, model in one["models"].items():
            steps, values = np.array(model["curve"]["evaluation/loss"]).T
            axis.plot(steps * model["step_s"], values, marker=".", label=label)
        axis.set(title=name, yscale="log", xlabel="training / s")
        axis.grid(True, which="both", alpha=0.25)
    axes[0, 0].set_ylabel("held-out MRSTFT loss")
    axes[0, 0].legend(fontsize=8)
    return figure
