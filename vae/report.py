"""An analysis of latents as figures and as a page: what a person looks at.

Figures return, never show, and nothing is written here. Latents stand in the order of
their importance; bars carry bootstrap intervals, curves their band.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vae.findings import Analysis, Estimate
from vae.preflight import Preflight

# Bars and rows beyond this many are not drawn: what matters stands first.
MOST_BARS = 64
_MOST_ROWS = 40
_BLUE, _ORANGE, _GREEN, _GREY = "#3b6fb6", "#d9822b", "#4a9a5b", "#9a9a9a"
_NAMES = {
    "fidelity": "share of the output's variance kept",
    "audible": "change that is not heard",
    "knee": "knee of the curve",
    "worth": "latents worth their nats",
    "active": "latents in use",
}


def importance_figure(analysis: Analysis) -> Figure:
    """What each latent does to the output, says of the data, and is worth.

    Args:
      analysis: from `vae.analysis.analyze`.

    Returns:
      A figure of bars with intervals, the most important latent first.
    """
    shown = [analysis.dimensions[i] for i in analysis.order[:MOST_BARS]]
    places = np.arange(len(shown))
    worth = all(d.worth is not None for d in shown)
    panels = 3 if worth else 2
    width = min(4.0 + 0.22 * len(shown), 18.0)
    figure = Figure(figsize=(width, 2.7 * panels), layout="constrained")
    axes = figure.subplots(panels, 1, sharex=True)
    unit = f" / {analysis.unit}" if analysis.unit else ""
    rms = [_rooted(d.total) for d in shown]
    _bars(axes[0], places, rms, _BLUE, "redrawn: sqrt(2 T)")
    if all(d.bound is not None for d in shown):
        limits = [d.bound for d in shown if d.bound is not None]
        most = [_rooted(limit).value for limit in limits]
        axes[0].plot(places, most, "_", color=_GREY, label="bound by derivatives")
    floor = (2.0 * analysis.noise_floor) ** 0.5
    if floor > 0:
        axes[0].axhline(floor, color=_ORANGE, linestyle=":", label="noise floor")
    axes[0].set_ylabel(f"rms change{unit}")
    axes[0].legend(fontsize=8)
    axes[0].set_title(
        f"{analysis.latents} latents by what they do to {_title(analysis)}"
    )
    _bars(axes[1], places - 0.2, [d.kl for d in shown], _ORANGE, "divergence", 0.4)
    told = [d.information for d in shown]
    _bars(axes[1], places + 0.2, told, _GREEN, "information", 0.4)
    axes[1].set_ylabel("nats")
    axes[1].legend(fontsize=8)
    if worth:
        values = [d.worth for d in shown if d.worth is not None]
        _bars(axes[2], places, values, _GREEN, "worth")
        axes[2].axhline(0.0, color="black", linewidth=0.8)
        if max(v.high for v in values) > 20.0:
            axes[2].set_yscale("symlog", linthresh=1.0)
        axes[2].set_ylabel("net worth / nats")
    axes[-1].set_xticks(places, [str(d.index) for d in shown], fontsize=7)
    axes[-1].tick_params(axis="x", rotation=90 if len(shown) > 20 else 0)
    axes[-1].set_xlabel("latent, most important first")
    return figure


def curve_figure(analysis: Analysis, preflight: Preflight | None = None) -> Figure:
    """The drop curve with its band and the proposals, and the spectra.

    Args:
      analysis: from `vae.analysis.analyze`.
      preflight: spectrum of the data, drawn against the water level.

    Returns:
      A figure.
    """
    figure = Figure(figsize=(12.5, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    sizes = np.arange(analysis.latents + 1)
    value = np.array([e.value for e in analysis.fidelity])
    low = np.array([e.low for e in analysis.fidelity])
    high = np.array([e.high for e in analysis.fidelity])
    left.fill_between(sizes, low, high, color=_BLUE, alpha=0.25)
    left.plot(sizes, value, color=_BLUE)
    known = list(analysis.evaluated)
    left.plot(known, value[known], ".", color=_BLUE, markersize=4)
    colours = [_ORANGE, _GREEN, "#8e5fb0", "#b04a4a", _GREY]
    for found, colour in zip(analysis.proposals, colours, strict=False):
        spread = "" if found.low == found.high else f" ({found.low} to {found.high})"
        label = f"{found.rule}: {found.keep}{spread}"
        left.axvline(found.keep, color=colour, linestyle="--", label=label)
    left.set(
        xlabel="latents kept",
        ylabel="share of the output's variance",
        title="what is kept",
        ylim=(0.0, 1.03),
    )
    left.legend(fontsize=8, loc="lower right", framealpha=0.95)
    for axis in (left, middle, right):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    middle.plot(sizes, analysis.dropped_rms, color=_BLUE)
    unit = f" / {analysis.unit}" if analysis.unit else ""
    middle.set(
        xlabel="latents kept",
        ylabel=f"rms change by what is forgotten{unit}",
        title="what is lost",
        ylim=(0.0, None),
    )
    numbers = np.arange(1, analysis.latents + 1)
    ranked = sorted((d.total.value for d in analysis.dimensions), reverse=True)
    curves = {"axes: T": ranked, "PCA of the means": analysis.pca}
    if analysis.subspace is not None:
        curves["active subspace"] = analysis.subspace
    for name, spectrum in curves.items():
        share = np.asarray(spectrum) / max(float(np.max(spectrum)), 1e-300)
        right.plot(numbers, np.maximum(share, 1e-7), ".-", label=name, markersize=4)
    if preflight is not None:
        values = np.asarray(preflight.eigenvalues)[: 4 * analysis.latents]
        top = max(float(values[0]), 1e-300)
        right.plot(
            np.arange(1, len(values) + 1), values / top, color=_GREY, label="data"
        )
        if preflight.tau is not None:
            right.axhline(
                preflight.tau / top, color=_GREY, linestyle=":", label="water level"
            )
    right.set(
        yscale="log",
        xlabel="number",
        ylabel="share of the largest",
        title="spectra",
        ylim=(1e-6, 1.5),
    )
    right.legend(fontsize=8)
    return figure


def group_figure(analysis: Analysis) -> Figure | None:
    """Where each latent acts: share of its effect by band, frame or parameter.

    Args:
      analysis: from `vae.analysis.analyze`.

    Returns:
      A figure; None where the output has no groups.
    """
    kinds = [name for name, labels in analysis.group_labels.items() if len(labels) > 1]
    if not kinds:
        return None
    shown = [analysis.dimensions[i] for i in analysis.order[:_MOST_ROWS]]
    height = 1.6 + 0.2 * len(shown)
    figure = Figure(figsize=(5.6 * len(kinds), height), layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axis, kind in zip(axes, kinds, strict=True):
        labels = analysis.group_labels[kind]
        table = np.array([d.groups[kind] for d in shown])
        image = axis.imshow(table, aspect="auto", cmap="viridis", vmin=0.0)
        axis.set_yticks(range(len(shown)), [str(d.index) for d in shown], fontsize=7)
        starts = [label.split(" to ")[0] for label in labels]
        axis.set_xticks(range(len(labels)), starts, rotation=60, fontsize=7, ha="right")
        axis.set(title=f"by {kind}", ylabel="latent, most important first")
        figure.colorbar(image, ax=axis, label="share of its effect")
    return figure


def markdown(
    analysis: Analysis,
    preflight: Preflight | None = None,
    *,
    title: str = "Latents",
    pictures: Mapping[str, str] | None = None,
    sounds: Sequence[str] = (),
    table: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
) -> str:
    """The report as a page.

    Args:
      analysis: from `vae.analysis.analyze`.
      preflight: what the data predict.
      title: of the page.
      pictures: caption -> file beside the page.
      sounds: files beside the page, the most important latent first.
      table: rows of the verification of a pruned model, one dictionary each.
      notes: paragraphs at the end.

    Returns:
      Markdown text.
    """
    lines = [f"# {title}", "", analysis.advice, ""]
    if preflight is not None:
        lines += [f"From the data alone: {preflight.sentence()}", ""]
    lines += [f"- **Mind:** {words}" for words in analysis.warnings]
    lines += ["", "| rule | keep | interval (90 %) | what |", "|---|---|---|---|"]
    for found in analysis.proposals:
        limit = f" ({found.threshold:g})" if found.threshold else ""
        lines.append(
            f"| {found.rule}{limit} | {found.keep} | {found.low} to {found.high}"
            f" | {_NAMES[found.rule]} |"
        )
    if table:
        lines += ["", "## Pruned", "", *_table(table)]
    for caption, file in (pictures or {}).items():
        lines += ["", f"![{caption}]({file})"]
    lines += ["", "## Latents, most important first", "", *_table(_rows(analysis)), ""]
    if sounds:
        lines += ["## Traversals", ""]
        lines += [f"- [{file}]({file})" for file in sounds]
        lines.append("")
    lines += ["## How this was measured", "", _method(analysis), ""]
    for note in notes:
        lines += [note, ""]
    return "\n".join(lines)


def _method(analysis: Analysis) -> str:
    unit = f" {analysis.unit}" if analysis.unit else ""
    words = [
        f"{analysis.pairs} pairs of codes ({analysis.distribution}) from"
        f" {analysis.examples} held-out examples, {analysis.elements} features of"
        f" {_title(analysis)}, {analysis.seconds:.0f} s.",
        f"The output varies by {_rooted(analysis.variance, 1.0).value:.3g}{unit} rms.",
        "Latents that no decoder sees change it by"
        f" {(2 * analysis.noise_floor) ** 0.5:.3g}{unit}.",
    ]
    if analysis.tau is not None:
        words.append(f"Water level {analysis.tau:.4g}.")
    if analysis.saturation is not None:
        words.append(
            f"Local variance over its value at convergence: {analysis.saturation:.2f}"
            " (1 where training has converged and the decoder is smooth)."
        )
    if analysis.directions is not None:
        words.append(
            f"The active subspace needs {analysis.directions} directions, the means'"
            f" PCA {analysis.pca_sizes.get('0.95', 0)} for 95 % (blind to the decoder)."
        )
    return " ".join(words)


def _rows(analysis: Analysis) -> list[dict[str, str]]:
    unit = f" / {analysis.unit}" if analysis.unit else ""
    rows = []
    for index in analysis.order:
        d = analysis.dimensions[index]
        row = {
            "latent": str(index),
            f"rms change{unit}": _interval(_rooted(d.total)),
            "share": f"{100 * d.share.value:.2g} %",
            "first order": f"{100 * _share(d.first.value, analysis):.2g} %",
            "KL": f"{d.kl.value:.3g}",
            "information": f"{d.information.value:.3g}",
            "signal": f"{d.signal_fraction.value:.2f}",
        }
        if d.local_variance is not None and d.bound is not None:
            row["local"] = f"{_rooted(d.local_variance).value:.3g}"
            row["bound"] = f"{_rooted(d.bound).value:.3g}"
        if d.clamp is not None:
            row["clamp"] = _interval(d.clamp)
        if d.worth is not None:
            row["worth"] = _interval(d.worth)
        if d.redundancy is not None:
            row["R^2"] = f"{d.redundancy:.2f}"
        row["where"] = d.does or "nowhere"
        rows.append(row)
    return rows


def _share(value: float, analysis: Analysis) -> float:
    return value / analysis.variance.value if analysis.variance.value > 0 else 0.0


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += [
        "| " + " | ".join(str(row.get(name, "")) for name in names) + " |"
        for row in rows
    ]
    return lines


def _rooted(estimate: Estimate, factor: float = 2.0) -> Estimate:
    """An rms change from a mean square; intervals never reach below 0."""
    return Estimate(
        *(
            float(np.sqrt(max(factor * value, 0.0)))
            for value in (estimate.value, estimate.low, estimate.high)
        )
    )


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3g} ({estimate.low:.3g} to {estimate.high:.3g})"


def _bars(
    axis: Any,
    places: np.ndarray,
    values: Sequence[Estimate],
    colour: str,
    label: str,
    width: float = 0.8,
) -> None:
    value = np.array([v.value for v in values])
    low = np.array([v.low for v in values])
    high = np.array([v.high for v in values])
    axis.bar(places, value, width, color=colour, label=label)
    axis.errorbar(
        places,
        value,
        np.stack([value - low, high - value]),
        fmt="none",
        ecolor="black",
        elinewidth=0.8,
    )


def _title(analysis: Analysis) -> str:
    names = {
        "decoder": "the decoder's image",
        "log_mel": "log-mel levels",
        "log_stft": "spectrogram levels",
        "parameters": "the controls",
        "rendered": "the rendered sound",
    }
    return names.get(analysis.output, f"{analysis.output!r}")
