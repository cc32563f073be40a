"""Figure of the suite that recovers hidden settings, from its report."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

# Losses by what has them, in the order of table and figure.
LABELS = {
    "nothing": "nothing",
    "level": "level",
    "default": "default",
    "random": "random",
    "best_random": "best rnd",
    "result": "search",
}
_ERROR, _TOLD, _TRADED, _SILENT = "slategrey", "tab:blue", "tab:orange", "lightgrey"


def draw(report: dict[str, Any], title: str) -> Figure:
    """Losses by effect above, errors of the controls and what is told of them below."""
    columns = 3
    rows = -(-len(report) // columns)
    heights = [1.5] + [1.0] * rows
    figure = Figure(figsize=(13.0, 4.2 + 2.5 * rows), layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=heights)
    _draw_losses(figure.add_subplot(grid[0, :]), report)
    for k, (effect, row) in enumerate(report.items()):
        axis = figure.add_subplot(grid[1 + k // columns, k % columns])
        _draw_controls(axis, effect, row["controls"])
    handles = [
        Patch(color=_TOLD, label="told"),
        Patch(color=_TRADED, label="traded for others"),
        Patch(color=_SILENT, label="silent"),
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=3,
        title="bars: median error of a control, 1 is its range; dots: the same where"
        " the sound was recovered; strips: share of the targets in which it is",
    )
    figure.suptitle(title)
    return figure


def _draw_losses(axis, report: dict[str, Any]) -> None:
    # A recovered sound has a loss of almost 0, which a log axis cannot show.
    floor = 1e-3
    width = 0.8 / len(LABELS)
    for k, (key, label) in enumerate(LABELS.items()):
        mean, low, high = np.maximum(
            np.array([row["losses"][key] for row in report.values()]), floor
        ).T
        axis.bar(
            np.arange(len(report)) + (k - (len(LABELS) - 1) / 2) * width,
            mean - floor,
            width,
            bottom=floor,
            yerr=np.clip([mean - low, high - mean], 0.0, None),
            color=f"C{k}" if key != "result" else "black",
            error_kw={"lw": 0.9, "ecolor": "0.4"},
            label=label,
        )
    labels = [
        f"{Path(name).stem}\n{row['beats_nothing']:.0%} < nothing"
        f"\n{row['recovered']:.0%} < 5 %"
        for name, row in report.items()
    ]
    axis.set_xticks(np.arange(len(report)), labels, fontsize=9)
    axis.set(yscale="log", ylabel="MR-STFT loss, mean and 95 %")
    # Room for the legend above.
    axis.set_ylim(floor, 8 * axis.get_ylim()[1])
    axis.grid(True, axis="y", which="major", alpha=0.3)
    axis.legend(ncols=len(LABELS), fontsize=9, loc="upper left")


def _draw_controls(axis, effect: str, controls: dict[str, Any]) -> None:
    names = [name.split(".")[-1] for name in controls]
    low, thick, wide = -0.13, 0.09, 0.8
    for k, found in enumerate(controls.values()):
        axis.bar(k, found["error"], 0.6, color=_ERROR)
        traded = 1.0 - found["told"] - found["silent"]
        start = k - wide / 2
        shares = (found["told"], traded, found["silent"])
        for share, color in zip(shares, (_TOLD, _TRADED, _SILENT), strict=True):
            axis.bar(start, thick, wide * share, bottom=low, color=color, align="edge")
            start += wide * share
        known = found["error_where_recovered"]
        if known is not None:
            axis.plot(k, known, "o", color="black", ms=4)
    axis.axhline(0.0, color="black", lw=0.8)
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    axis.set_yticks([0.0, 0.25, 0.5, 0.75])
    axis.set(ylim=(low - 0.02, 0.85), title=Path(effect).stem)
    axis.grid(True, axis="y", alpha=0.3)
    axis.set_axisbelow(True)
