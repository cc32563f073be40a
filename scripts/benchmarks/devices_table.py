"""Tables of the suite of real devices, from its report."""

from typing import Any


def markdown(report: dict[str, Any]) -> str:
    """Verdicts, settings and style as three Markdown tables."""
    lines = [
        "Chain that fits best, on held-out sound, against the best baseline there",
        "",
        "| device | loss | chain | its loss | best baseline | its loss | ahead by |"
        " sections won | clips |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in report.items():
        verdict = row["verdict"]
        lines.append(
            f"| {name} | {_TITLES[row['headline']]} | {verdict['chain']}"
            f" | {verdict['loss']:.3f} | {verdict['opponent']}"
            f" | {verdict['opponent_loss']:.3f} | {_interval(verdict['ahead'])}"
            f" | {verdict['wins']:.0%} | {row['clips']} |"
        )
    lines += [
        "",
        "Settings fitted with the output at hand, judged on held-out sound",
        "",
    ]
    lines += _table(report, "settings")
    lines += ["", "Style transfer from a reference of other content", ""]
    lines += _table(report, "style")
    return "\n".join(lines) + "\n"


_TITLES = {"mrstft": "MRSTFT", "style_distance": "style"}


def _table(report: dict[str, Any], question: str) -> list[str]:
    fitted = question == "settings"
    head = ["device", "method", *(["fit"] if fitted else []), "MRSTFT", "style"]
    head += ["loudness / LU", "crest / dB", "ahead of match EQ", "sections won"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name, device in report.items():
        for method, row in device[question].items():
            share = row.get("fit_share")
            cells = [name, f"**{method}**" if method == device["best"] else method]
            if fitted:
                cells.append("" if share is None else f"{share:.0%}")
            cells += [
                _interval(row["mrstft"]),
                _interval(row["style_distance"], 1),
                f"{row['loudness_error'][0]:.1f}",
                f"{row['crest_error'][0]:.1f}",
                "" if method == "match EQ" else _interval(row["ahead_of_match"]),
                "" if method == "match EQ" else f"{row['wins_match']:.0%}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _interval(values: list[float], digits: int = 2) -> str:
    mean, low, high = values
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
