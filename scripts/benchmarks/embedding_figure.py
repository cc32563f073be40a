"""Tables and figure of the embedding suite, from its summary alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLOURS = {"linear": "tab:blue", "forest": "tab:orange"}
_MARKED = {"vae": "tab:blue", "pca": "tab:red"}


def print_tables(summary: Mapping[str, Any]) -> None:
    """Prints what the probes told, and the information about each parameter."""
    groups = ", ".join(f"{n} of {kind}" for kind, n in summary["groups"].items())
    print(
        f"{summary['items']} renders of {len(summary['effects'])} effects, split"
        f" {summary['split']}, held-out groups: {groups}; size {summary['size']};"
        f" chance {summary['chance']:.3f}"
    )
    for measure in ("accuracy", "macro_f1"):
        print(
            f"{measure.replace('_', ' '):<13}{'linear':>24}{'forest':>24}"
            f"{'vae - it, linear':>26}{'forest':>24}"
        )
        for method, found in summary["probes"].items():
            cells = "".join(_cell(each, measure) for each in found.values())
            rival = summary["differences"].get(method)
            if rival is not None:
                cells += "  " + "".join(
                    _cell(each, measure, "+") for each in rival.values()
                )
            print(f"  {method:<11}{cells}")
    print("recall by effect, linear probe")
    names = summary["effects"]
    print(f"  {'':<11}" + "".join(f"{name[:10]:>12}" for name in names))
    for method, found in summary["probes"].items():
        print(f"  {method:<11}" + "".join(f"{r:>12.2f}" for r in _recall(found)))
    print(
        f"{'information, nats':<42}{'best axis (95 % of null)':>44}"
        f"{'linear, held out (null)':>44}"
    )
    methods = methods_of(summary)
    print(f"  {'':<40}" + 2 * "".join(f"{method:>22}" for method in methods))
    for effect, parameters in summary["information"].items():
        for name, found in parameters.items():
            cells = "".join(
                f"{found[m][kind]['nats']:>11.2f} ({found[m][kind]['null_95']:.2f})"
                f"{'*' if above_null(found[m][kind]) else ' ':<4}"
                for kind in ("axis", "linear")
                for m in methods
            )
            print(f"  {effect + ' ' + name:<40}{cells}")
    for kind in ("axis", "linear"):
        said = ", ".join(
            f"{m} {_count(summary, m, kind)} (mean {_mean(summary, m, kind):.3f} nats)"
            for m in methods
        )
        rows = sum(len(each) for each in summary["information"].values())
        print(f"parameters above the null (*), {kind}, of {rows}: {said}")


def methods_of(summary: Mapping[str, Any]) -> list[str]:
    """The methods whose information was measured."""
    first = next(iter(next(iter(summary["information"].values())).values()))
    return list(first)


def above_null(found: Mapping[str, float]) -> bool:
    """Whether an information exceeds 95 % of its null."""
    return found["nats"] > found["null_95"]


def _cell(found: Mapping[str, Any], measure: str, sign: str = "") -> str:
    low, high = found[f"{measure}_interval"]
    value = f"{found[measure]:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"
    return f"{value:>24}"


def _recall(found: Mapping[str, Any], probe: str = "linear") -> np.ndarray:
    confusion = np.asarray(found[probe]["confusion"], float)
    return np.diag(confusion) / np.maximum(confusion.sum(1), 1.0)


def _rows(summary: Mapping[str, Any], method: str, kind: str) -> list[dict]:
    return [
        found[method][kind]
        for parameters in summary["information"].values()
        for found in parameters.values()
    ]


def _count(summary: Mapping[str, Any], method: str, kind: str) -> int:
    return sum(above_null(row) for row in _rows(summary, method, kind))


def _mean(summary: Mapping[str, Any], method: str, kind: str) -> float:
    return float(np.mean([row["nats"] for row in _rows(summary, method, kind)]))


def draw(summary: Mapping[str, Any]) -> Figure:
    """Accuracy by method, confusion of the VAE, information by parameter."""
    figure = Figure(figsize=(17.0, 6.2), layout="constrained")
    bars, matrix, lines = figure.subplots(
        1, 3, gridspec_kw={"width_ratios": [1.0, 1.0, 1.15]}
    )
    _draw_accuracy(bars, summary)
    _draw_confusion(matrix, summary)
    _draw_information(lines, summary)
    figure.suptitle(
        f"Telling {len(summary['effects'])} effects from {summary['size']} numbers,"
        f" {summary['items']} renders of held-out speakers and pieces"
        f" ({summary['split']})"
    )
    return figure


def _draw_accuracy(axes: Axes, summary: Mapping[str, Any]) -> None:
    methods = list(summary["probes"])
    places = np.arange(len(methods))
    for shift, probe in zip((-0.2, 0.2), _COLOURS, strict=True):
        found = [summary["probes"][method][probe] for method in methods]
        value = np.array([each["accuracy"] for each in found])
        ends = np.array([each["accuracy_interval"] for each in found]).T
        axes.barh(
            places + shift,
            value,
            0.36,
            xerr=np.abs(ends - value),
            color=_COLOURS[probe],
            error_kw={"lw": 1},
            label=probe,
        )
    axes.axvline(summary["chance"], color="grey", ls=":", label="chance")
    axes.set_yticks(places, methods)
    axes.invert_yaxis()
    axes.set_xlabel("accuracy, 95 % over speakers and pieces")
    axes.legend(fontsize=8)
    axes.grid(True, axis="x", alpha=0.3)


def _draw_confusion(axes: Axes, summary: Mapping[str, Any]) -> None:
    confusion = np.asarray(summary["probes"]["vae"]["linear"]["confusion"], float)
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1.0)
    axes.imshow(share, vmin=0.0, vmax=1.0, cmap="Blues")
    names = summary["effects"]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    for row, column in np.ndindex(share.shape):
        axes.text(
            column,
            row,
            f"{share[row, column]:.2f}",
            ha="center",
            va="center",
            fontsize=7,
            color="white" if share[row, column] > 0.5 else "black",
        )
    axes.set(xlabel="told", ylabel="true", title="VAE, linear probe")


def _draw_information(axes: Axes, summary: Mapping[str, Any]) -> None:
    names = [
        f"{effect} {parameter}"
        for effect, parameters in summary["information"].items()
        for parameter in parameters
    ]
    places = np.arange(len(names))
    methods = methods_of(summary)
    for shift, method in zip(
        np.linspace(-0.2, 0.2, len(methods)), methods, strict=True
    ):
        rows = _rows(summary, method, "axis")
        axes.barh(
            places + shift,
            [row["nats"] for row in rows],
            0.36,
            color=_MARKED.get(method),
            label=method,
        )
        axes.plot(
            [row["null_95"] for row in rows],
            places + shift,
            "|",
            color="black",
            ms=5,
            label="95 % of the null" if method == methods[-1] else None,
        )
    axes.set_yticks(places, names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("information of the best axis, nats")
    axes.legend(fontsize=8)
    axes.grid(True, axis="x", alpha=0.3)
