"""Figures of the gradient laboratory, from its report."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

# Lines of the figures by renders, in this order; the rest is in the tables.
SHOWN = ("SPSA", "orthogonal pairs", "orthogonal forward", "coordinates")


def draw_figures(report: Mapping[str, Any]) -> dict[str, Figure]:
    """``{name: figure}`` for whatever the report holds."""
    figures = {}
    loss = report["options"]["losses"][0]
    effects = report.get("effects", {})
    with_estimators = {k: e for k, e in effects.items() if "estimators" in e}
    if with_estimators:
        figures["renders"] = cosine_by_renders(with_estimators, loss)
        figures["map"] = heat_map(with_estimators, loss)
    with_steps = {k: e["steps"] for k, e in effects.items() if "steps" in e}
    if with_steps:
        figures["steps"] = error_by_step(
            with_steps, report["options"]["losses"], report["options"]["steps"]
        )
    if "priors" in report:
        figures["priors"] = priors(report["priors"]["rows"], loss)
    if "sizes" in report:
        figures["sizes"] = sizes(report["sizes"], loss)
    return figures


def _lines(
    rows, loss, form="scalar", what="cosine"
) -> dict[str, tuple[list, np.ndarray]]:
    """By estimator, renders and [value, low, high] of the cosine or the error."""
    found: dict[str, tuple[list, list]] = {}
    for row in sorted(rows, key=lambda row: row["renders"]):
        if (row["loss"], row["form"]) == (loss, form) and row["quality"]["questions"]:
            x, y = found.setdefault(row["estimator"], ([], []))
            x.append(row["renders"])
            y.append(row["quality"][what])
    return {name: (x, np.asarray(y)) for name, (x, y) in found.items()}


def _panel(axis, lines, names) -> None:
    for name in names:
        if name not in lines:
            continue
        x, y = lines[name]
        drawn = axis.plot(x, y[:, 0], marker="o", ms=3, lw=1.4, label=name)[0]
        axis.fill_between(x, y[:, 1], y[:, 2], color=drawn.get_color(), alpha=0.12)
    _renders_axis(axis)
    axis.set_ylim(-0.05, 1.03)
    axis.grid(alpha=0.3)


def cosine_by_renders(effects: Mapping[str, Any], loss: str) -> Figure:
    """One panel an effect: cosine against renders, scalar form."""
    columns = min(5, len(effects))
    rows = math.ceil(len(effects) / columns)
    figure = Figure(figsize=(3.0 * columns, 2.5 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axis in axes.ravel():
        axis.set_visible(False)
    for axis, (name, effect) in zip(axes.ravel(), effects.items(), strict=False):
        axis.set_visible(True)
        lines = _lines(effect["estimators"], loss)
        prior = [n for n in lines if n.startswith("detuned") and "coordinates" in n]
        _panel(axis, lines, [*SHOWN, *prior])
        exact = ("forward differences", "central differences")
        for kind, mark in zip(exact, ("s", "D"), strict=True):
            if kind in lines:
                x, y = lines[kind]
                axis.plot(x, y[:, 0], mark, color="black", ms=5, label=kind)
        axis.set_title(f"{name}, {effect['controls']} controls", fontsize=9)
    for axis in axes[:, 0]:
        axis.set_ylabel("median cosine to autodiff")
    for axis in axes[-1]:
        axis.set_xlabel("renders")
    handles: dict[str, Any] = {}
    for axis in axes.ravel():
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=4,
        fontsize=8,
    )
    figure.suptitle(f"{loss}, scalar form, renders by pedalboard, truth by autodiff")
    return figure


def heat_map(effects: Mapping[str, Any], loss: str) -> Figure:
    """Effects by estimators: cosine where about half as many renders as controls."""
    columns = [(name, form) for form in ("scalar", "vector") for name in SHOWN]
    columns += [("forward differences", form) for form in ("scalar", "vector")] + [
        ("central differences", form) for form in ("scalar", "vector")
    ]
    table = np.full((len(effects), len(columns)), np.nan)
    for i, effect in enumerate(effects.values()):
        for j, (name, form) in enumerate(columns):
            lines = _lines(effect["estimators"], loss, form)
            if name in lines:
                x, y = lines[name]
                wanted = 1 + effect["controls"] / 2
                table[i, j] = y[int(np.argmin(np.abs(np.asarray(x) - wanted))), 0]
    figure = Figure(figsize=(9.5, 0.36 * len(effects) + 2.4), layout="constrained")
    axis = figure.add_subplot()
    image = axis.imshow(table, vmin=0.0, vmax=1.0, cmap="viridis", aspect="auto")
    for i, j in np.ndindex(table.shape):
        if np.isfinite(table[i, j]):
            dark = table[i, j] < 0.6
            axis.text(
                j, i, f"{table[i, j]:.2f}", ha="center", va="center", fontsize=7,
                color="white" if dark else "black",
            )  # fmt: skip
    axis.set_yticks(
        range(len(effects)), [f"{k} ({e['controls']})" for k, e in effects.items()]
    )
    axis.set_xticks(
        range(len(columns)),
        [f"{name}, {form}" for name, form in columns],
        rotation=40,
        ha="right",
        fontsize=8,
    )
    axis.set_title(f"median cosine to autodiff, {loss}, renders near 1 + n / 2")
    figure.colorbar(image, ax=axis)
    return figure


def error_by_step(effects: Mapping[str, Any], losses, steps) -> Figure:
    """One panel a loss: relative error of exact differences against their step."""
    figure = Figure(figsize=(4.6 * len(losses), 4.6), layout="constrained")
    axes = figure.subplots(1, len(losses), squeeze=False, sharey=True)[0]
    styles = {"central": "-", "forward": "--"}
    colours = {"scalar": "tab:blue", "vector": "tab:orange"}
    for axis, loss in zip(axes, losses, strict=True):
        for kind, style in styles.items():
            for form, colour in colours.items():
                each = []
                for rows in effects.values():
                    table = {
                        row["estimator"]: row["quality"]["error"][0]
                        for row in rows
                        if (row["loss"], row["form"]) == (loss, form)
                    }
                    line = [table[f"{kind} {step:g}"] for step in steps]
                    each.append(line)
                    axis.plot(steps, line, style, color=colour, lw=0.5, alpha=0.25)
                axis.plot(
                    steps, np.nanmedian(each, axis=0), style, color=colour, lw=2.4,
                    label=f"{kind}, {form}",
                )  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel="epsilon", title=loss)
        axis.set_ylim(1e-4, 10)
        axis.grid(True, which="both", alpha=0.2)
    axes[0].set_ylabel("relative error to autodiff")
    axes[0].legend(title="median over effects")
    return figure


def priors(rows, loss: str) -> Figure:
    """Relative error by renders for every stand-in, with coordinates; and without."""
    figure = Figure(figsize=(12.0, 4.8), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, form in zip(axes, ("scalar", "vector"), strict=True):
        lines = _lines(rows, loss, form, "error")
        for name, (x, y) in lines.items():
            prior = name.removesuffix(" + coordinates")
            if prior != name:
                x, y = [1, *x], np.concatenate([lines[prior][1], y])
                axis.plot(x, y[:, 0], marker="o", ms=3, label=prior)
        for name, style in (("coordinates", "--"), ("orthogonal forward", ":")):
            x, y = lines[name]
            axis.plot(x, y[:, 0], style, color="black", label=f"{name}, no prior")
        _renders_axis(axis)
        axis.set(xlabel="renders (1: the stand-in alone)", title=f"{form} form")
        axis.set_yscale("log")
        axis.grid(True, which="both", alpha=0.2)
    axes[0].set_ylabel("median relative error to autodiff")
    handles = axes[1].get_legend_handles_labels()
    figure.legend(
        *handles, title="with coordinates", loc="outside right center", fontsize=8
    )
    figure.suptitle(f"control variates, {loss}")
    return figure


def _renders_axis(axis) -> None:
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(lambda renders, _: f"{renders:g}")


def sizes(found: Mapping[int, Any], loss: str) -> Figure:
    """One panel a number of controls: cosine by renders."""
    figure = Figure(figsize=(3.0 * len(found), 3.6), layout="constrained")
    axes = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for axis, (size, rows) in zip(axes, found.items(), strict=True):
        lines = _lines(rows, loss)
        _panel(axis, lines, [n for n in lines if "unbiased" not in n])
        axis.set(title=f"{size} controls", xlabel="renders")
    axes[0].set_ylabel("median cosine to autodiff")
    handles = axes[-1].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure
