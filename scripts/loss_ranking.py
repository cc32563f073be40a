"""Which recordings a trained controller fits worst: the ones to listen to first.

    python scripts/evaluate.py --rank-by-loss --checkpoint RUN --data DATA --out CSV
        [--split train] [--category speech] [--settings 2] [--show 20]

Every section of the split is an input, once for each of several hidden settings, with
another section of the same speaker or piece as reference. The CSV has a line for each,
the greatest loss first, and the first of them are printed: damaged, silent, mislabelled
or already treated recordings gather there. The loss is the multi-resolution STFT loss
of the render at the prediction to the truth; `do_nothing` is that of the input itself.
"""

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from ddspx.audio import written_aside
from ddspx.data.manifest import load_collection
from ddspx.parameters import settings
from ddspx.training.checkpoint import CheckpointError
from styletransfer import metrics
from styletransfer.controller import load_controller
from styletransfer.evaluation import Method, predicted_method
from styletransfer.hosts import Host, open_host
from styletransfer.suite import generator
from styletransfer.trials import Trial, every_section, grouped_sections, hide_settings

OPTION = "--rank-by-loss"
_AT_ONCE = 64


@dataclass(frozen=True)
class RankingArguments:
    """Command line of ``evaluate.py --rank-by-loss``.

    Attributes:
      checkpoint: run folder of a controller.
      data: manifest or folder of recordings, with splits.
      out: CSV file to write.
      split: which split.
      category: only clips below this folder of the manifest.
      section_s: length of a section, seconds.
      settings: hidden settings for each section.
      audible_db: mean change of the log spectrum by which a setting counts as heard.
      show: lines to print.
      seed: of references and settings.
      overwrite: replace an existing file.
    """

    checkpoint: Path
    data: Path
    out: Path
    split: str = "train"
    category: str | None = None
    section_s: float = 3.0
    settings: int = 2
    audible_db: float = 0.5
    show: int = 20
    seed: int = 0
    overwrite: bool = False


def main(words: Sequence[str]) -> int:
    """Ranks by a command line; returns the exit code."""
    options = tyro.cli(RankingArguments, args=words, description=__doc__)
    try:
        if options.out.exists() and not options.overwrite:
            raise ValueError(f"{options.out}: exists already; add --overwrite")
        loaded = load_controller(options.checkpoint)
        rate = loaded.config.sample_rate
        groups = grouped_sections(
            load_collection(options.data).clips,
            options.section_s,
            split=options.split,
            category=options.category,
            sample_rate=rate,
            channels=1,
        )
        pairs = every_section(groups, generator(options.seed, "references"))
        pairs = [pair for pair in pairs for _ in range(options.settings)]
        method = predicted_method(loaded)
        lines = []
        with open_host(loaded.effect, rate) as host:
            rng = generator(options.seed, "settings")
            for start in tqdm(range(0, len(pairs), _AT_ONCE), unit="batch"):
                trials = hide_settings(
                    pairs[start : start + _AT_ONCE],
                    host,
                    rng,
                    audible_db=options.audible_db,
                )
                lines += ranked_lines(trials, method, host, rng)
        if not lines:
            raise ValueError(f"no setting of {loaded.effect.name} was heard")
        lines.sort(key=lambda line: -line["loss"])
        with (
            written_aside(options.out, overwrite=options.overwrite) as aside,
            aside.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
    except (ValueError, OSError, CheckpointError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    print(f"{len(lines)} examples; the worst:")
    print(f"{'loss':>8}{'nothing':>9}{'offset/s':>10}  file: hidden settings")
    for line in lines[: options.show]:
        print(
            f"{line['loss']:>8.3f}{line['do_nothing']:>9.3f}{line['offset_s']:>10.2f}"
            f"  {line['file']}: {line['settings']}"
        )
    return 0


def ranked_lines(
    trials: Sequence[Trial], method: Method, host: Host, rng: np.random.Generator
) -> list[dict]:
    """A line for each trial, in their order.

    Args:
      trials: all of one shape.
      method: whose loss it is.
      host: the opened effect.
      rng: for the method.

    Returns:
      ``file``, ``offset_s``, ``group``, ``reference``, ``loss``, ``do_nothing``, and
      ``settings``, the hidden ones in physical units as text.
    """
    if not trials:
        return []
    truths = np.stack([trial.truth for trial in trials])
    dry = np.stack([trial.dry for trial in trials])
    made = method([trial.question() for trial in trials], host, rng).audio
    loss, untouched = (
        metrics.measure(audio, truths, trials[0].sample_rate, ("mrstft",))["mrstft"]
        for audio in (made, dry)
    )
    lines = []
    for trial, own, nothing in zip(trials, loss, untouched, strict=True):
        file, _, offset = trial.name.rpartition("@")
        hidden = settings(host.specs, trial.hidden)
        lines.append(
            {
                "file": file,
                "offset_s": float(offset),
                "group": trial.group,
                "reference": trial.reference_name,
                "loss": round(float(own), 5),
                "do_nothing": round(float(nothing), 5),
                "settings": ", ".join(f"{k}={v['text']}" for k, v in hidden.items()),
            }
        )
    return lines
