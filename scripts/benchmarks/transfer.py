"""Loss against renders for every search, when the treated input itself is given.

    python scripts/benchmark.py transfer --data MANIFEST --category speech --out RUN

Sections of the test split, hidden settings uniform in the cube; the loss is the
multi-resolution STFT loss to the target as a share of doing nothing's, its median over
trials. Writes RUN.json and RUN.png where --out is given.
"""

import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from ddspx import plotting
from ddspx.audio import written_aside
from ddspx.data.dataset import sections
from ddspx.data.manifest import load_collection
from ddspx.data.practice import render_practice_corpus
from ddspx.parameters import sample_controls
from styletransfer.hosts import open_host
from styletransfer.presets import load_effect
from styletransfer.search import SEARCHES
from styletransfer.transfer import TransferConfig, transfer

COLUMNS = (50, 100, 200, 300, 500, 700, 1000, 1500, 2000)


@dataclass(frozen=True)
class Arguments:
    """Command line of the suite."""

    data: Path | None = None
    """Manifest or folder; the practice corpus when not given."""
    category: str | None = None
    """Only clips below this folder of the manifest."""
    effect: str = "channel_strip"
    """Effect preset or YAML file."""
    methods: tuple[str, ...] = ("combined", "cma_es", "adam", "adam_spsa")
    """Searches to compare."""
    trials: int = 12
    """Sections, evenly spread over the test split, with one hidden setting each."""
    renders: int = 1000
    """Budget of each search."""
    section_s: float = 3.0
    """Length of a section in seconds."""
    sample_rate: int = 24000
    """Hz."""
    seed: int = 0
    """Of hidden settings and searches."""
    out: Path | None = None
    """Where to write; .json and .png are added."""


def main(arguments: list[str]) -> None:
    """Runs the comparison and prints the table."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    dry = _sections(options)
    rng = np.random.default_rng(options.seed)
    columns = [c for c in COLUMNS if c <= options.renders]
    curves = {name: np.empty((len(dry), len(columns))) for name in options.methods}
    seconds = dict.fromkeys(options.methods, 0.0)
    with open_host(load_effect(options.effect), options.sample_rate) as host:
        for index, audio in enumerate(tqdm(dry, unit="trial")):
            hidden = sample_controls(host.specs, rng, (1,))
            target = host.render(audio[None], hidden).audio[0]
            for name in options.methods:
                config = TransferConfig(
                    method=name, renders=options.renders, seed=options.seed
                )
                started = time.perf_counter()
                result = transfer(host, audio, target, paired=True, config=config)
                seconds[name] += time.perf_counter() - started
                renders, loss = np.array(result.history).T
                for column, limit in enumerate(columns):
                    best = np.min(loss[renders <= limit], initial=np.inf)
                    share = min(best / result.loss["before"], 1.0)
                    curves[name][index, column] = share
    medians = {name: np.median(rows, axis=0) for name, rows in curves.items()}
    print(f"{len(dry)} trials; median loss as a share of doing nothing, by renders")
    print(f"{'':<18}" + "".join(f"{c:>8}" for c in columns) + f"{'s/trial':>9}")
    for name, values in medians.items():
        cells = "".join(f"{value:>8.2%}" for value in values)
        print(f"{name:<18}{cells}{seconds[name] / len(dry):>9.2f}")
    if options.out is None:
        return
    with written_aside(options.out.with_suffix(".json"), overwrite=True) as aside:
        shares = {name: rows.tolist() for name, rows in curves.items()}
        aside.write_text(json.dumps({"renders": columns, "shares": shares}) + "\n")
    figure = plotting.curves(
        {name: (columns, values.tolist()) for name, values in medians.items()},
        x_label="renders",
        y_label="median loss as a share of doing nothing",
        title=f"{options.effect}, {len(dry)} trials, target given",
        log_x=True,
        log_y=True,
    )
    plotting.save(figure, options.out.with_suffix(".png"), overwrite=True)


def _sections(options: Arguments) -> list[np.ndarray]:
    unknown = set(options.methods) - set(SEARCHES)
    if unknown:
        raise SystemExit(
            f"methods {sorted(unknown)} unknown; choose from {[*SEARCHES]}"
        )
    with tempfile.TemporaryDirectory() as folder:
        if options.data is None:
            render_practice_corpus(folder, overwrite=True)
        made = [
            section.samples
            for clip in load_collection(options.data or folder).clips
            if clip.split == "test" and options.category in (None, clip.category)
            for section in sections(
                clip, options.section_s, sample_rate=options.sample_rate, channels=1
            )
        ]
    if not made:
        raise SystemExit(f"no test section of {options.section_s} s in {options.data}")
    count = min(options.trials, len(made))
    chosen = np.linspace(0, len(made) - 1, count).round().astype(int)
    return [made[i] for i in chosen]
