"""How much each style term moves when only the content changes.

    python scripts/benchmark.py style --data MANIFEST

Differences of style features between untreated sections of the same speaker or piece,
training split: their standard deviation is a term's scale, and their correlation over
octaves its correlation length, see `styletransfer.style`.
"""

import itertools
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from ddspx.data.dataset import sections
from ddspx.data.manifest import load_collection
from styletransfer.style import BANDS_PER_OCTAVE, TERMS, style_features


@dataclass(frozen=True)
class Arguments:
    """Command line of the suite."""

    data: Path | None = None
    """Manifest or folder of recordings; needed, practice sounds say nothing here."""
    categories: tuple[str, ...] = ("speech", "music")
    """Measured one by one."""
    section_s: float = 5.0
    """Length of a section in seconds."""
    sample_rate: int = 16000
    """Hz; all recordings are brought to it so that bands agree."""


def main(arguments: list[str]) -> None:
    """Prints scale and correlation of every term, by category."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    if options.data is None:
        print("style: needs --data, skipped")
        return
    print(f"{'term':<20}{'in use':>8}", end="")
    print("".join(f"{c:>10}" for c in options.categories), "  pairs", end="")
    measured = {c: _differences(options, c) for c in options.categories}
    print(" ", {c: len(next(iter(d.values()))) for c, d in measured.items()})
    for name, term in TERMS.items():
        cells = "".join(
            f"{np.sqrt(np.mean(measured[c][name] ** 2)):>10.2f}"
            if name in measured[c]
            else f"{'-':>10}"
            for c in options.categories
        )
        print(f"{name:<20}{term.scale:>8.2f}{cells}")
    print("correlation of the spectrum term over octaves")
    for category, rows in measured.items():
        spectrum = rows["spectrum"]
        correlation = np.corrcoef(spectrum.T)
        by_gap = [
            f"{gap / BANDS_PER_OCTAVE:.2f}: {np.mean(np.diag(correlation, gap)):.2f}"
            for gap in range(0, len(correlation), 2)
        ]
        print(f"  {category}: ", ", ".join(by_gap))


def _differences(options: Arguments, category: str) -> dict[str, np.ndarray]:
    assert options.data is not None
    groups = defaultdict(list)
    for clip in load_collection(options.data).clips:
        if clip.split == "train" and clip.category == category:
            for section in sections(
                clip, options.section_s, sample_rate=options.sample_rate, channels=1
            ):
                features = style_features(
                    section.samples, options.sample_rate, 0.45 * options.sample_rate
                )
                groups[clip.group].append(
                    {name: np.asarray(value) for name, value in features.items()}
                )
    rows = defaultdict(list)
    for members in groups.values():
        for one, other in itertools.islice(itertools.combinations(members, 2), 30):
            for name in one:
                rows[name].append(one[name] - other[name])
    return {name: np.stack(values) for name, values in rows.items()}
