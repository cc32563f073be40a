"""Report and figure of the suite that probes an encoder, from its summary alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# What the original study found of its six effects, with codes of 128 numbers, on its
# own sounds: accuracy by probe, and nats of the best axis, mean over parameters. The
# accuracy of its codes and of PCA is that of its arrays, probes fitted to each.
ORIGINAL_ACCURACY = {
    "the original's codes": {"linear": 0.947, "forest": 0.873},
    "the original's PCA": {"linear": 0.950, "forest": 0.907},
}
ORIGINAL_NATS = {
    "mda_overdrive": 0.70,
    "mda_ring_mod": 0.69,
    "mda_combo": 0.45,
    "mda_delay": 0.29,
    "mda_ambience": 0.24,
    "mda_dynamics": 0.07,
}
# What is looked at parameter by parameter: the original was blind to it.
_CLOSE = "mda_dynamics"
_COLOURS = {
    "f": "tab:blue",
    "untrained": "lightgrey",
    "pca": "tab:red",
    "moments": "tab:orange",
    "z": "tab:green",
}


def mean_nats(parameters: Mapping[str, Any], code: str, kind: str = "nats") -> float:
    """Mean over an effect's parameters of ``nats`` or of their ``null``."""
    return float(np.mean([each[code][kind] for each in parameters.values()]))


def measured_codes(summary: Mapping[str, Any]) -> list[str]:
    """The codes whose information was measured."""
    return list(next(iter(next(iter(summary["information"].values())).values())))


def markdown(summary: Mapping[str, Any]) -> str:
    """The report."""
    parts = [_opening(summary), *_effect(summary), *_settings(summary)]
    parts += _content(summary)
    return "\n\n".join(parts) + "\n"


def _opening(summary: Mapping[str, Any]) -> str:
    groups = ", ".join(f"{n} of {kind}" for kind, n in summary["groups"].items())
    sizes = ", ".join(f"{name} {n}" for name, n in summary["sizes"].items())
    known, judged = summary["items"]
    return (
        f"# What codes of sounds tell\n\nEncoder f: {summary['encoder']}. Probes are"
        f" fitted to {known} pairs of {summary['groups_known']} speakers and pieces"
        f" (train) and judged on {judged} pairs of others ({summary['split']}:"
        f" {groups}); {sum(summary['lost'])} pairs were not heard and are left out."
        f" Numbers in a code: {sizes}. Intervals: 95 %"
        " over speakers and pieces."
    )


def _effect(summary: Mapping[str, Any]) -> list[str]:
    tasks = summary["which_effect"]
    headings = {
        "all": f"{len(summary['effects'])} effects",
        "six": "the original's six",
        "middle": "these, settings in the middle",
    }
    header = ["codes"]
    for task in tasks:
        header += [f"{headings[task]}: {probe}" for probe in ("linear", "forest")]
    names = list(tasks["all"]["accuracy"])
    rows = []
    for name in names:
        row = [name]
        for task in tasks.values():
            found = task["accuracy"].get(name)
            row += [_interval(each) for each in found.values()] if found else ["", ""]
        rows.append(row)
    for rival in tasks["all"]["f_less"]:
        row = [f"f - {rival}"]
        for task in tasks.values():
            row += [_interval(each, "+") for each in task["f_less"][rival].values()]
        rows.append(row)
    if "middle" in tasks:
        for name, found in ORIGINAL_ACCURACY.items():
            blank = [""] * (2 * len(tasks) - 2)
            rows.append([name, *blank, *map(_plain, found.values())])
    chance = [f"{task['chance']:.3f}" for task in tasks.values() for _ in range(2)]
    rows.append(["chance", *chance])
    recalls = [
        [name, *(f"{share:.2f}" for share in tasks["all"]["recall"][name])]
        for name in names
    ]
    return [
        "## Which effect, accuracy",
        _table(header, rows),
        "Share of each effect that the linear probe tells:",
        _table(["codes", *tasks["all"]["effects"]], recalls),
    ]


def _settings(summary: Mapping[str, Any]) -> list[str]:
    codes = measured_codes(summary)
    rows = []
    for effect, parameters in summary["information"].items():
        cells = [
            f"{mean_nats(parameters, c):.3f} ({mean_nats(parameters, c, 'null'):.3f})"
            for c in codes
        ]
        rows.append([effect, *cells, _plain(ORIGINAL_NATS.get(effect))])
    parts = [
        "## Settings",
        "Information of the best axis, nats, mean over parameters (in brackets: by"
        " chance):",
        _table(["effect", *codes, "the original"], rows),
    ]
    explained = summary["explained"]
    names = [name for name in explained["all"] if name != "f_less"]
    rivals = list(explained["all"]["f_less"])
    rows = []
    for effect, found in (*explained["effects"].items(), ("all", explained["all"])):
        row = [effect, *(_interval(found[name]) for name in names)]
        rows.append(row + [_interval(found["f_less"][r], "+") for r in rivals])
    parts += [
        "R^2 of a ridge regression on the codes of the dry half and of the treated"
        " other half, mean over parameters:",
        _table(["effect", *names, *(f"f - {r}" for r in rivals)], rows),
    ]
    if _CLOSE in summary["information"]:
        parts += _closely(summary, codes, names)
    return parts


def _closely(summary: Mapping[str, Any], codes: list[str], names: list[str]):
    found = summary["explained"]["effects"][_CLOSE]
    rows = [
        [parameter]
        + [f"{told[c]['nats']:.3f} ({told[c]['null']:.3f})" for c in codes]
        + [f"{found[name]['parameters'][parameter]:.2f}" for name in names]
        for parameter, told in summary["information"][_CLOSE].items()
    ]
    header = [
        "parameter",
        *(f"{c}, nats" for c in codes),
        *(f"{n}, R^2" for n in names),
    ]
    return [f"{_CLOSE}, parameter by parameter:", _table(header, rows)]


def _content(summary: Mapping[str, Any]) -> list[str]:
    told, found = summary["content"], summary["recall"]
    header = ["codes"]
    if told:
        header.append(f"which of {told['groups']} speakers and pieces")
    header += [f"same settings, of {e['among']} of {k}" for k, e in found.items()]
    rows = []
    for name in next(iter(found.values()))["accuracy"]:
        row = [name] + ([_interval(told["accuracy"][name])] if told else [])
        rows.append(row + [_interval(e["accuracy"][name]) for e in found.values()])
    for rival in next(iter(found.values()))["f_less"]:
        cells = [_interval(each["f_less"][rival], "+") for each in found.values()]
        rows.append([f"f - {rival}", *([""] if told else []), *cells])
    chance = ["chance"] + ([f"{told['chance']:.3f}"] if told else [])
    rows.append(chance + [f"{1.0 / each['among']:.3f}" for each in found.values()])
    return [
        "## Content",
        "What a linear probe tells of who or what is heard (less is better), and how"
        " often the nearest code has the same settings with other content:",
        _table(header, rows),
    ]


def _interval(found: Mapping[str, Any], sign: str = "") -> str:
    low, high = found["interval"]
    return f"{found['value']:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(summary: Mapping[str, Any]) -> Figure:
    """Accuracy by code, information and R^2 by effect, content against retrieval."""
    figure = Figure(figsize=(15.0, 9.5), layout="constrained")
    axes = figure.subplots(2, 2)
    _draw_accuracy(axes[0, 0], summary)
    _draw_nats(axes[0, 1], summary)
    _draw_explained(axes[1, 0], summary)
    _draw_content(axes[1, 1], summary)
    figure.suptitle(
        f"Codes of an encoder of sounds, {summary['items'][1]} pairs of held-out"
        f" speakers and pieces ({summary['split']})"
    )
    return figure


def _bars(axes: Axes, labels: list[str], series: Mapping[str, list], **kwargs) -> None:
    """Grouped bars; a value is a number, or a cell with its interval."""
    places = np.arange(len(labels))
    width = 0.8 / len(series)
    for k, (name, cells) in enumerate(series.items()):
        shift = (k - (len(series) - 1) / 2) * width
        plain = not isinstance(cells[0], Mapping)
        value = np.array(cells if plain else [cell["value"] for cell in cells])
        ends = None
        if not plain:
            limits = np.array([cell["interval"] for cell in cells]).T
            ends = np.abs(limits - value)
        axes.bar(
            places + shift,
            value,
            width,
            yerr=ends,
            error_kw={"lw": 0.8},
            label=name,
            color=_COLOURS.get(name.removesuffix(" change")),
            hatch="///" if name.endswith("change") else None,
            edgecolor="white" if name.endswith("change") else None,
            **kwargs,
        )
    axes.set_xticks(places, labels, rotation=35, ha="right", fontsize=8)
    axes.grid(True, axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8)


def _draw_accuracy(axes: Axes, summary: Mapping[str, Any]) -> None:
    tasks = summary["which_effect"]
    names = [n for n in tasks["all"]["accuracy"] if n in _COLOURS and n != "z"]
    labels = [f"{task}, {probe}" for task in tasks for probe in ("linear", "forest")]
    series = {
        name: [
            found
            for task in tasks.values()
            for found in task["accuracy"][name].values()
        ]
        for name in names
    }
    _bars(axes, labels, series)
    if "middle" in tasks:
        places = np.arange(len(labels))[-2:]
        for (name, found), style in zip(
            ORIGINAL_ACCURACY.items(), ("x", "+"), strict=True
        ):
            axes.plot(places, list(found.values()), style, color="black", label=name)
    for k, task in enumerate(tasks.values()):
        axes.hlines(task["chance"], 2 * k - 0.45, 2 * k + 1.45, "black", ":", lw=1)
    axes.legend(fontsize=8, loc="upper left", ncols=2)
    axes.set_ylim(0.0, 1.02)
    axes.set_title("which effect, accuracy (dotted: chance)", fontsize=10)


def _draw_nats(axes: Axes, summary: Mapping[str, Any]) -> None:
    told = summary["information"]
    codes = measured_codes(summary)
    series = {
        code: [mean_nats(each, code) - mean_nats(each, code, "null")
               for each in told.values()]
        for code in codes
    }  # fmt: skip
    _bars(axes, list(told), series)
    for place, effect in enumerate(told):
        if effect in ORIGINAL_NATS:
            value = ORIGINAL_NATS[effect]
            axes.hlines(value, place - 0.45, place + 0.45, "black", lw=1.5)
    axes.set_title(
        "information of the best axis less that of chance, nats (line: the original)",
        fontsize=10,
    )


def _draw_explained(axes: Axes, summary: Mapping[str, Any]) -> None:
    found = summary["explained"]
    rows = {**found["effects"], "all": found["all"]}
    names = [name for name in found["all"] if name != "f_less"]
    _bars(axes, list(rows), {n: [row[n] for row in rows.values()] for n in names})
    lowest = min(row[n]["value"] for row in rows.values() for n in names)
    axes.set_ylim(bottom=min(0.0, max(lowest, -0.3)) - 0.02)
    axes.set_title("R^2 of a ridge regression, mean over parameters", fontsize=10)


def _draw_content(axes: Axes, summary: Mapping[str, Any]) -> None:
    told, found = summary["content"], summary["recall"]
    columns = {f"same settings, {kind}": each for kind, each in found.items()}
    if told:
        columns = {"speaker or piece": told, **columns}
    names = list(next(iter(found.values()))["accuracy"])
    series = {n: [each["accuracy"][n] for each in columns.values()] for n in names}
    _bars(axes, list(columns), series)
    axes.set_title(
        "content that is left (less is better), and the same settings found",
        fontsize=10,
    )
