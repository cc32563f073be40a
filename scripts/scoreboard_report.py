"""Tables, plot and files of a finished suite, from what its cells hold.

Everything is read back from the cells, so that a suite that was interrupted and one
that was not leave the same bytes. Seconds, which never repeat, are in costs.csv alone.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ddspx import plotting
from ddspx.audio import written_aside
from ddspx.training.configuration import to_dict
from styletransfer import suite
from styletransfer.comparison import Comparison, Standing, standings
from styletransfer.evaluation import Interval
from styletransfer.metrics import METRICS
from styletransfer.suite import SuiteConfig

# What every method is compared with; besides, each with itself, wrongly referred, and
# with the trained controllers.
BASELINES = (suite.NOTHING, suite.LEVEL, suite.CONSTANT)
# The plot ends here: twice the loss of doing nothing.
_MOST_SHARE = 1.0


@dataclass(frozen=True)
class Cell:
    """A finished cell.

    Attributes:
      effect: its name.
      category: of the sounds.
      groups: speaker or piece of each trial.
      rows: lines of the answers' files.
      renders: mean renders an item, by method.
      failed: renders that the effect failed, by method.
      standings: by method and metric.
    """

    effect: str
    category: str
    groups: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    renders: Mapping[str, float]
    failed: Mapping[str, int]
    standings: Mapping[tuple[str, str], Standing]

    @property
    def methods(self) -> list[str]:
        """In the order of the table."""
        return list(self.renders)


def write(folder: Path, config: SuiteConfig) -> None:
    """Writes all tables and the plot of a suite into its folder, and prints the gist.

    Args:
      folder: of the suite, its cells finished.
      config: of the suite.
    """
    cells = [
        _read_cell(
            folder / "cells" / f"{Path(effect).stem}.{category}",
            category,
            config.controllers,
        )
        for effect in config.effects
        for category in config.categories
    ]
    head = ["effect", "category", *cells[0].rows[0]]
    lines = [
        {"effect": c.effect, "category": c.category, **r} for c in cells for r in c.rows
    ]
    _write_csv(folder / "items.csv", head, lines)
    costs = _costs(folder, config)
    _write_csv(folder / "costs.csv", list(costs[0]), costs)
    text = json.dumps(_content(config, cells), indent=1) + "\n"
    _write(folder / "board.json", text)
    _write(folder / "board.md", markdown(config, cells))
    plotting.save(figure(config, cells), folder / "board.png", overwrite=True)
    print(overview(config, cells))
    print(f"{folder / 'board.md'}, {folder / 'board.png'}, {folder / 'items.csv'}")


def _read_cell(folder: Path, category: str, controllers: Sequence[str]) -> Cell:
    rows: list[dict[str, str]] = []
    results: dict[str, dict[str, np.ndarray]] = {}
    renders, failed = {}, {}
    for path in sorted(folder.glob("[0-9]*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            own = list(csv.DictReader(file))
        rows += own
        name = own[0]["method"]
        results[name] = {
            metric: np.array([float(row[metric]) for row in own])
            for metric in METRICS
            if own[0][metric]
        }
        renders[name] = float(np.mean([int(row["renders"]) for row in own]))
        failed[name] = sum(int(row["failed"]) for row in own)
    groups = [row["group"] for row in rows if row["method"] == suite.NOTHING]
    against = {
        name: [*BASELINES, suite.WRONG.format(name=name), *controllers]
        for name in results
    }
    found = standings(results, groups, against)
    return Cell(
        effect=folder.name.removesuffix(f".{category}"),
        category=category,
        groups=tuple(groups),
        rows=tuple(rows),
        renders=renders,
        failed=failed,
        standings={(s.method, s.metric): s for s in found},
    )


def _costs(folder: Path, config: SuiteConfig) -> list[dict[str, object]]:
    lines = []
    for effect in config.effects:
        for category in config.categories:
            cell = folder / "cells" / f"{Path(effect).stem}.{category}"
            for path in sorted(cell.glob("[0-9]*.csv")):
                with path.open(encoding="utf-8", newline="") as file:
                    own = list(csv.DictReader(file))
                cost = json.loads(path.with_suffix(".cost.json").read_text())
                count = cost["items"]
                lines.append(
                    {
                        "effect": Path(effect).stem,
                        "category": category,
                        "method": own[0]["method"],
                        "items": count,
                        "renders_per_item": sum(int(r["renders"]) for r in own) / count,
                        "seconds_per_item": round(cost["seconds"] / count, 5),
                        "measuring_seconds_per_item": round(
                            cost["measuring_seconds"] / count, 5
                        ),
                    }
                )
    return lines


# ---------------------------------------------------------------------------- tables


def overview(config: SuiteConfig, cells: Sequence[Cell]) -> str:
    """On how many cells each method is better than each baseline, intervals off zero.

    Args:
      config: of the suite.
      cells: all of them.

    Returns:
      A Markdown table.
    """
    columns = [*BASELINES, "its wrong reference", *config.controllers]
    shown = _shown(cells)
    lines = [
        f"Cells on which a method is better (worse) than a baseline by"
        f" {METRICS[config.metric].title}, 95 % interval off zero:",
        "",
        f"| method | cells | {' | '.join(columns)} |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for name in shown:
        own = [
            c.standings[name, config.metric]
            for c in cells
            if (name, config.metric) in c.standings
        ]
        marks = []
        for column in columns:
            wanted = column
            if column == "its wrong reference":
                wanted = suite.WRONG.format(name=name)
            verdicts = [
                comparison.verdict
                for standing in own
                for comparison in standing.comparisons
                if comparison.against == wanted
            ]
            better, worse = verdicts.count("better"), verdicts.count("worse")
            marks.append(f"{better} ({worse})" if verdicts else "")
        lines.append(f"| {name} | {len(own)} | {' | '.join(marks)} |")
    return "\n".join(lines)


def markdown(config: SuiteConfig, cells: Sequence[Cell]) -> str:
    """The whole board.

    Args:
      config: of the suite.
      cells: all of them.
    """
    metric = METRICS[config.metric]
    parts = [
        f"# Scoreboard on {config.split}",
        "",
        f"Sections of {config.section_s:g} s at {config.sample_rate} Hz, mono, at the"
        " level of the recording; hidden settings uniform in the unit cube, drawn again"
        f" where they change the log spectrum by less than {config.audible_db:g} dB."
        " Distances are to the truth. Brackets: 95 % intervals of a bootstrap that"
        " resamples speakers or pieces first. A gain is paired, and is positive where"
        " the method is better than the baseline; bold where its interval excludes 0."
        " No method but *true settings* sees hidden settings.",
        "",
        overview(config, cells),
    ]
    for cell in cells:
        parts += [
            "",
            f"## {cell.effect}, {cell.category}",
            "",
            f"{len(cell.groups)} trials of {len(set(cell.groups))} speakers or pieces.",
            "",
            f"| method | items | {metric.title} | gain on doing nothing | wins, losses"
            " | gain on level matched | gain on constant | gain on its wrong reference"
            " |"
            + "".join(f" gain on {name} |" for name in config.controllers)
            + " renders | failed |",
            "|---" * (10 + len(config.controllers)) + "|",
        ]
        parts += [_line(cell, name, config) for name in cell.methods]
        titles = [
            f"{m.title}{f' / {m.unit}' if m.unit else ''}" for m in METRICS.values()
        ]
        parts += [
            "",
            f"| method | {' | '.join(titles)} |",
            "|---" * (len(titles) + 1) + "|",
        ]
        for name in cell.methods:
            values = [_mean(cell.standings.get((name, key))) for key in METRICS]
            parts.append(f"| {name} | {' | '.join(values)} |")
    missing = [
        f"{c.effect}, {c.category}: {s.method}, {METRICS[s.metric].title}: {s.missing}"
        f" of {s.items} NaN"
        for c in cells
        for s in c.standings.values()
        if s.missing
    ]
    parts += ["", "## Values that do not exist", ""]
    parts += [f"- {line}" for line in missing] or ["None."]
    return "\n".join(parts) + "\n"


def _line(cell: Cell, name: str, config: SuiteConfig) -> str:
    standing = cell.standings[name, config.metric]
    by = {c.against: c for c in standing.comparisons}
    nothing = by.get(suite.NOTHING)
    counts = f"{nothing.wins}, {nothing.losses}" if nothing else ""
    others = suite.WRONG.format(name=name), *config.controllers
    gains = [_gain(by.get(key)) for key in (*BASELINES, *others)]
    return (
        f"| {name} | {standing.items} | {_interval(standing.mean)} | {gains[0]} |"
        f" {counts} | {' | '.join(gains[1:])} |"
        f" {cell.renders[name]:.4g} | {cell.failed[name]} |"
    )


def _interval(interval: Interval) -> str:
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _gain(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    text = _interval(comparison.gain)
    return f"**{text}**" if comparison.verdict == "better" else text


def _mean(standing: Standing | None) -> str:
    if standing is None:
        return ""
    note = f" ({standing.missing} NaN)" if standing.missing else ""
    return f"{standing.mean.mean:.4g}{note}"


def _content(config: SuiteConfig, cells: Sequence[Cell]) -> dict:
    return {
        "config": to_dict(config),
        "cells": [
            {
                "effect": cell.effect,
                "category": cell.category,
                "trials": len(cell.groups),
                "groups": len(set(cell.groups)),
                "methods": {
                    name: {
                        "renders": cell.renders[name],
                        "failed": cell.failed[name],
                        "metrics": {
                            s.metric: _plain(s)
                            for s in cell.standings.values()
                            if s.method == name
                        },
                    }
                    for name in cell.methods
                },
            }
            for cell in cells
        ],
    }


def _plain(standing: Standing) -> dict:
    return {
        "items": standing.items,
        "missing": standing.missing,
        **_numbers(standing.mean),
        "against": {
            c.against: {
                **_numbers(c.gain),
                "wins": c.wins,
                "losses": c.losses,
                "missing": c.missing,
                "verdict": c.verdict,
            }
            for c in standing.comparisons
        },
    }


def _numbers(interval: Interval) -> dict[str, float | None]:
    # JSON has no NaN.
    return {
        key: None if math.isnan(value) else value
        for key, value in interval._asdict().items()
    }


# ------------------------------------------------------------------------------ plot


def figure(config: SuiteConfig, cells: Sequence[Cell]) -> Figure:
    """Gain of every method on doing nothing, in per cent of its loss, cell by cell.

    Hollow: the same method with the wrong reference. What is worse than twice the loss
    of doing nothing lies at the left edge.

    Args:
      config: of the suite.
      cells: all of them.
    """
    shown = [n for n in _shown(cells) if n not in (suite.NOTHING, suite.TRUE)]
    colours = {name: f"C{k % 10}" for k, name in enumerate(shown)}
    markers = {name: "osD^vP"[k // 10 % 6] for k, name in enumerate(shown)}
    effects = list(dict.fromkeys(c.effect for c in cells))
    height = 1.2 + len(effects) * (0.35 + 0.11 * len(shown))
    made = Figure(figsize=(13.0, max(height, 4.0)), layout="constrained")
    axes = made.subplots(1, len(config.categories), sharey=True, squeeze=False)[0]
    for axis, category in zip(axes, config.categories, strict=True):
        for cell in (c for c in cells if c.category == category):
            row = effects.index(cell.effect)
            for k, name in enumerate(shown):
                place = row + 0.8 * ((k + 0.5) / len(shown) - 0.5)
                for method in (name, suite.WRONG.format(name=name)):
                    share = _share(cell.standings.get((method, config.metric)))
                    if share is None:
                        continue
                    mean, low, high = share
                    axis.errorbar(
                        mean,
                        place,
                        xerr=[[max(mean - low, 0.0)], [max(high - mean, 0.0)]],
                        fmt=markers[name],
                        color=colours[name],
                        markerfacecolor=colours[name] if method == name else "white",
                        markersize=4.5,
                        linewidth=1.1,
                    )
        for row in range(len(effects) - 1):
            axis.axhline(row + 0.5, color="0.85", linewidth=0.8)
        axis.axvline(0.0, color="black", linewidth=1.0)
        axis.set(
            title=category,
            xlim=(-103, 103),
            xlabel=f"gain in {METRICS[config.metric].title} / % of doing nothing",
        )
        axis.grid(True, axis="x", alpha=0.25)
    axes[0].set_yticks(range(len(effects)), effects)
    axes[0].set_ylim(len(effects) - 0.5, -0.5)
    handles = [
        Line2D([], [], color=colours[n], marker=markers[n], label=n) for n in shown
    ]
    made.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    made.suptitle(
        f"split {config.split}: 100 % is the truth, 0 doing nothing; 95 % intervals;"
        " hollow: wrong reference",
        fontsize=10,
    )
    return made


def _share(standing: Standing | None) -> np.ndarray | None:
    """Gain on doing nothing and its ends, in per cent of its loss on those trials."""
    by = {c.against: c.gain for c in standing.comparisons} if standing else {}
    if standing is None or suite.NOTHING not in by:
        return None
    gain = np.array(by[suite.NOTHING])
    nothing = standing.mean.mean + gain[0]
    return 100.0 * np.clip(gain / nothing, -_MOST_SHARE, _MOST_SHARE)


def _shown(cells: Sequence[Cell]) -> list[str]:
    """All methods, in the order of the tables, less those with wrong references."""
    wrong = suite.WRONG.format(name="")
    names = dict.fromkeys(n for cell in cells for n in cell.methods)
    return [name for name in names if not name.endswith(wrong)]


# ----------------------------------------------------------------------------- files


def _write(path: Path, text: str) -> None:
    with written_aside(path, overwrite=True) as aside:
        aside.write_text(text, encoding="utf-8")


def _write_csv(path: Path, head: Sequence[str], lines: Sequence[Mapping]) -> None:
    with (
        written_aside(path, overwrite=True) as aside,
        aside.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, head, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
