"""How closely analyze_latents.py looks in the time it has, and the folder it writes."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ddspx import plotting
from vae import report
from vae.analysis import AnalysisOptions
from vae.findings import Analysis
from vae.outputs import Output
from vae.preflight import Preflight

_AT_ONCE = 16


class Row(Protocol):
    """A row of a table, for people and for JSON."""

    def row(self) -> dict[str, str]:
        """For a page."""
        ...

    def record(self) -> dict[str, Any]:
        """For JSON."""
        ...


def within(
    options: AnalysisOptions, output: Output, latents: int, seconds: float
) -> AnalysisOptions:
    """As close a look as fits the time: pairs first, then examples.

    Args:
      options: the closest look.
      output: whose cost is measured.
      latents: K.
      seconds: about how long it may take.

    Returns:
      `AnalysisOptions`.
    """
    some = np.zeros((_AT_ONCE, latents), np.float32)
    np.asarray(output.of(some))
    began = time.perf_counter()
    np.asarray(output.of(some))
    each = (time.perf_counter() - began) / _AT_ONCE
    while _evaluations(options, latents) * each > seconds and options.pairs > 32:
        options = dataclasses.replace(
            options,
            pairs=options.pairs // 2,
            order_pairs=max(min(options.order_pairs, options.pairs // 4), 8),
            candidates=2 if latents > 32 else 4,
            derivative_examples=max(options.derivative_examples // 2, 4),
            gram_examples=max(options.gram_examples // 2, 2),
            clamp_examples=max(options.clamp_examples // 2, 32),
        )
    return options


def write(
    out: Path,
    run: Path,
    found: Analysis,
    told: Preflight | None = None,
    *,
    table: Sequence[Row] = (),
    notes: Sequence[str] = (),
    sounds: Sequence[str] = (),
    pictures: Mapping[str, str] | None = None,
) -> None:
    """Writes report.md, analysis.json and the figures, and prints where the page is.

    Args:
      out: folder, which exists.
      run: that was analysed.
      found: by the analysis.
      told: what the data predict, where that is known.
      table: of a pruning.
      notes: paragraphs at the end.
      sounds: files in the folder.
      pictures: further ones in the folder, by caption.
    """
    figures = {
        "What each latent does": ("importance", report.importance_figure(found)),
        "How many to keep": ("curve", report.curve_figure(found, told)),
        "Where each latent acts": ("groups", report.group_figure(found)),
    }
    shown = {}
    for caption, (name, figure) in figures.items():
        if figure is not None:
            plotting.save(figure, out / f"{name}.png")
            shown[caption] = f"{name}.png"
    page = report.markdown(
        found,
        told,
        title=f"Latents of {run.name}",
        pictures={**shown, **(pictures or {})},
        sounds=sounds,
        table=[row.row() for row in table],
        notes=notes,
    )
    content = {
        "run": str(run),
        "analysis": json.loads(found.to_json()),
        "preflight": None if told is None else dataclasses.asdict(told),
        "verification": [row.record() for row in table],
    }
    text = json.dumps(content, indent=1, allow_nan=False)
    for name, written in (("analysis.json", text + "\n"), ("report.md", page)):
        aside = out / f".{name}.partial"
        aside.write_text(written, encoding="utf-8")
        aside.replace(out / name)
    print(out / "report.md")


def _evaluations(options: AnalysisOptions, latents: int) -> float:
    """Decodings that an analysis costs; a derivative about two, a Gram row five."""
    sizes = min(latents, 48)
    return (
        options.pairs * (latents + 4 + sizes)
        + options.order_pairs * latents * options.candidates
        + latents * (4 * options.derivative_examples + 5 * options.gram_examples)
        + options.clamp_examples * (latents + 1)
    )
