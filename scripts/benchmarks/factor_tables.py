"""Tables and figure of the suite of known factors."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.figure import Figure

Row = dict[str, Any]
RULES = ("fidelity", "audible", "active", "worth")
SCORES = {
    "mig": "MIG",
    "sap": "SAP",
    "dci_disentanglement": "DCI dis.",
    "dci_completeness": "DCI com.",
    "modularity": "modul.",
    "factor_vae": "F-VAE",
    "informativeness": "R2",
}
# Ways of asking, in the order of tables and figure, with the figure's colours.
_COLOURS = {
    ("fixed", "sound"): "#3b6fb6",
    ("varying", "difference"): "#4a9a5b",
    ("varying", "held"): "#d9822b",
    ("varying", "rendered"): "#8a5fb0",
    ("varying", "sound"): "#b63b3b",
}
_ORDER = list(_COLOURS)


def summarise(rows: Sequence[Row]) -> str:
    """All tables as text."""
    groups = _grouped(rows)
    words = [_proposals(groups), _scores(groups)]
    words += [_confounding(groups), _knobs(groups)]
    return "\n\n".join(w for w in words if w)


def _grouped(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that differ by the seed alone, in the order of the table."""

    def place(row: Row) -> tuple:
        way = _ORDER.index((row["content"], row["question"]))
        plain = row["label"].isdigit()
        return (not plain, way, row["engine"], row["parameters"], row["label"])

    ordered = sorted(rows, key=lambda r: (*place(r), r["seed"]))
    return [list(group) for _, group in groupby(ordered, place)]


def _name(row: Row) -> str:
    what = f"{row['content']}, {row['question']}"
    label = f"k={row['label']}" if row["label"].isdigit() else row["label"]
    return f"{row['engine']:<11}{what:<21}{label:<10}"


def _cell(row: Row, rule: str) -> str:
    if rule not in row["proposals"]:
        return "-"
    found = row["proposals"][rule]
    span = "" if found["low"] == found["high"] else f"[{found['low']},{found['high']}]"
    return f"{found['keep']}{span}"


def _proposals(groups: list[list[Row]]) -> str:
    words = [
        "Latents proposed of 16, for each seed; [90 % bootstrap interval] where it is"
        " not one number; directions: of the active subspace; expected: by the"
        " spectrum, before training.",
        f"{'engine':<11}{'content, asked':<21}{'effect':<10}{'known':>6}"
        f"{'expected':>10}"
        + "".join(f"{rule:>32}" for rule in RULES)
        + f"{'directions':>12}",
    ]
    for group in groups:
        first = group[0]
        expected = ""
        if "preflight" in first:
            low = min(r["preflight"]["wanted_lowest"] for r in group)
            high = max(r["preflight"]["wanted"] for r in group)
            expected = f"{low}" if low == high else f"{low}-{high}"
        cells = [" ".join(_cell(row, rule) for row in group) for rule in RULES]
        ways = " ".join(
            "-" if row["directions"] is None else str(row["directions"])
            for row in group
        )
        words.append(
            f"{_name(first)}{first['known']:>6}{expected:>10}"
            + "".join(f"{cell:>32}" for cell in cells)
            + f"{ways:>12}"
        )
    return "\n".join(words)


def _scores(groups: list[list[Row]]) -> str:
    words = [
        "Scores of held-out codes, means over seeds; all knobs count as factors, dead"
        " and duplicate ones too",
        f"{'engine':<11}{'content, seen':<21}{'effect':<10}"
        + "".join(f"{title:>10}" for title in SCORES.values()),
    ]
    for group in groups:
        if "scores" not in group[0]:
            continue
        means = [np.mean([row["scores"][name] for row in group]) for name in SCORES]
        words.append(_name(group[0]) + "".join(f"{mean:>10.2f}" for mean in means))
    return "\n".join(words)


def _confounding(groups: list[list[Row]]) -> str:
    words = []
    for group in groups:
        if "content_db" not in group[0]:
            continue
        content, effect = (
            float(np.mean([row[name] for row in group]))
            for name in ("content_db", "effect_db")
        )
        words.append(
            f"{_name(group[0])}content moves the features by {content:.1f} dB rms, the"
            f" effect by {effect:.1f} dB: {effect**2 / (content**2 + effect**2):.0%} of"
            " the variance"
        )
    return "\n".join(["Confounding", *words]) if words else ""


def _knobs(groups: list[list[Row]]) -> str:
    words = []
    for group in groups:
        if "knobs" not in group[0]:
            continue
        words.append(_name(group[0]).rstrip())
        for place, name in enumerate(group[0]["knobs"]["names"]):
            rms, bound = (
                [row["knobs"][key][place] for row in group]
                for key in ("rms_db", "bound_db")
            )
            proof = "" if None in bound else f" (bound {max(bound):.2g})"
            words.append(
                f"  {name:<9} heard {max(rms):.2g} dB rms{proof}; {_told(group, name)}"
            )
        ranks = [row["knobs"]["rank"] for row in group]
        words.append(f"  the knobs move the sound in {ranks} directions")
        if group[0]["label"] == "duplicate":
            apart = max(1.0 - row["knobs"]["cosine"][0][1] for row in group)
            r2 = ", ".join(f"{r['factors']['contrast']['r2']:.3f}" for r in group)
            # The sum of two uniform gains bounds their contrast: the information on the
            # latter is not 0, so that it is compared by R^2.
            words.append(
                f"  cosine of what gain1 and gain2 do: 1 - {apart:.1g}; latents tell of"
                f" their sum: {_told(group, 'sum')}; of their contrast: R2 {r2}"
            )
    return "\n".join(
        ["Knobs themselves, and what latents tell", *words] if words else []
    )


def _told(group: list[Row], name: str) -> str:
    found = [row["factors"][name] for row in group]
    r2, most, chance = (
        ", ".join(f"{f[key]:.3f}" for f in found)
        for key in ("r2", "information", "chance")
    )
    return f"R2 {r2}; most nats {most} (chance reaches {chance})"


def draw(rows: Sequence[Row]) -> Figure:
    """Proposals against what is known, what is lost, and scores."""
    figure = Figure(figsize=(15.0, 4.8), layout="constrained")
    sizes, curves, bars = figure.subplots(1, 3)
    plain = [row for row in rows if row["label"].isdigit()]
    _draw_sizes(sizes, plain)
    _draw_curves(curves, plain)
    _draw_scores(bars, plain)
    return figure


def _ways(rows: Sequence[Row]):
    for way in _ORDER:
        chosen = [r for r in rows if (r["content"], r["question"]) == way]
        if chosen:
            yield way, chosen


def _draw_sizes(axis, rows: Sequence[Row]) -> None:
    counts = sorted({row["known"] for row in rows})
    place_of = {count: k for k, count in enumerate(counts)}
    for at, (way, chosen) in enumerate(_ways(rows)):
        for row in chosen:
            engine = -0.03 if row["engine"] == "jax" else 0.03
            x = place_of[row["known"]] + 0.15 * (at - 2) + engine
            x += 0.012 * (row["seed"] - 1)
            found = row["proposals"]["fidelity"]
            axis.plot([x, x], [found["low"], found["high"]], color=_COLOURS[way], lw=1)
            mark = "o" if row["engine"] == "jax" else "s"
            axis.plot(x, found["keep"], mark, color=_COLOURS[way], ms=4)
            if way[1] in ("held", "rendered") and row["directions"] is not None:
                axis.plot(x, row["directions"], "_", color=_COLOURS[way], ms=9, mew=2)
        axis.plot([], [], "o", color=_COLOURS[way], label=", ".join(way))
    for count, k in place_of.items():
        axis.plot([k - 0.45, k + 0.45], [count, count], color="black", lw=0.8)
    axis.plot([], [], "_", color="grey", ms=9, mew=2, label="directions")
    axis.plot([], [], color="black", lw=0.8, label="known")
    axis.set_xticks(range(len(counts)), [str(c) for c in counts])
    axis.set(
        xlabel="independent parameters",
        ylabel="latents proposed by fidelity, of 16",
        ylim=(0, 20),
        title="JAX round, pedalboard square; a mark a seed",
    )
    axis.set_yticks(range(0, 17, 2))
    axis.legend(fontsize=7, ncols=2, loc="upper center")


def _draw_curves(axis, rows: Sequence[Row]) -> None:
    known = sorted({row["known"] for row in rows})
    if not known:
        return
    count = known[len(known) // 2]
    for way, chosen in _ways([row for row in rows if row["known"] == count]):
        curve = np.mean([row["dropped_db"] for row in chosen], 0)
        # With all latents kept nothing is forgotten, which a log axis cannot show.
        axis.plot(curve[:-1], "o-", ms=3, color=_COLOURS[way])
    axis.axhline(0.5, color="grey", ls=":", label="audible: 0.5 dB")
    axis.axvline(count, color="black", lw=0.8, label=f"known: {count}")
    axis.set(
        yscale="log",
        ylim=(0.02, None),
        xlabel="latents kept",
        ylabel="change by what is forgotten / dB rms",
        title=f"{count} parameters, mean over runs; colours as on the left",
    )
    axis.legend(fontsize=8)


def _draw_scores(axis, rows: Sequence[Row]) -> None:
    scored = [row for row in rows if "scores" in row]
    ways = list(_ways(scored))
    for at, (way, chosen) in enumerate(ways):
        values = np.array([[row["scores"][name] for name in SCORES] for row in chosen])
        x = np.arange(len(SCORES)) + 0.27 * (at - (len(ways) - 1) / 2)
        axis.bar(x, values.mean(0), 0.27, color=_COLOURS[way], label=", ".join(way))
        axis.vlines(x, values.min(0), values.max(0), color="black", lw=0.8)
    axis.set_xticks(range(len(SCORES)), list(SCORES.values()), fontsize=7, rotation=30)
    axis.set(ylim=(0, 1.05), title="scores: mean, and range over all runs")
    axis.legend(fontsize=7)
