"""The scoreboard of style transfer on held-out recordings, against its baselines.

    python scripts/evaluate.py --suite SUITE.yaml --data DATA --out FOLDER [...]
    python scripts/evaluate.py --rank-by-loss --checkpoint RUN --data DATA --out CSV
    python scripts/evaluate.py --data MANIFEST_OR_FOLDER --category speech --out RUN
    python scripts/evaluate.py --checkpoint CONTROLLER --no-search --out RUN [...]

The first runs a whole suite of effects, categories and methods (scoreboard.py), the
second lists the examples that a checkpoint fits worst (loss_ranking.py); --help after
either word tells their options. The others look at one effect:

Every pair of non-overlapping sections of a speaker or piece of the test split, times
several hidden settings; multi-resolution STFT loss to the truth; 95 % intervals that
resample speakers or pieces first. Writes RUN.json and RUN.png. Without --data the
practice corpus is rendered and used. With --checkpoint a trained controller stands on
the board too, in one render, on the effect that it was trained for.
"""

import json
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import compiler
import loss_ranking
import numpy as np
import scoreboard
import tyro
from tqdm import tqdm

from ddspx import audio, plotting
from ddspx.data.dataset import Section
from ddspx.data.manifest import load_collection
from ddspx.data.practice import render_practice_corpus
from ddspx.training.checkpoint import CheckpointError
from styletransfer import baselines, evaluation
from styletransfer.controller import load_controller
from styletransfer.hosts import Host, open_host
from styletransfer.presets import load_effect
from styletransfer.transfer import Method, TransferConfig
from styletransfer.trials import grouped_sections, make_trials

NOTHING, LEVEL = "do nothing", "level-matched dry"
RANDOM, TRUE = "random settings", "true settings"
TRANSFER, WRONG = "transfer", "transfer, wrong reference"
PREDICTED, PREDICTED_WRONG = "predicted", "predicted, wrong reference"


@dataclass(frozen=True)
class Arguments:
    """Command line of evaluate.py."""

    out: Path
    """Where to write; .json and .png are added."""
    data: Path | None = None
    """Manifest or folder of recordings; the practice corpus when not given."""
    category: str | None = None
    """Only clips below this folder of the manifest, such as speech or music."""
    split: str = "test"
    """Which split; tune on another one."""
    effect: str = "channel_strip"
    """Effect preset or YAML file; that of the checkpoint where one is given."""
    checkpoint: Path | None = None
    """Run folder of a controller."""
    refine: int = 0
    """Renders that improve the prediction; 0 leaves that method out."""
    search: bool = True
    """Whether the search by renders takes part."""
    section_s: float = 5.0
    """Length of a section in seconds."""
    settings: int = 3
    """Hidden settings per pair."""
    renders: int = 500
    """Renders each search may use."""
    method: Method = "combined"
    """Search."""
    prior: float = 3.0
    """Pull towards settings that do nothing."""
    most: int | None = None
    """Use only this many trials, evenly spread."""
    seed: int = 0
    """Of trials and searches."""
    overwrite: bool = False
    """Replace existing output."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the scoreboard; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if any(word.split("=")[0] == "--suite" for word in words):
        return scoreboard.main(words)
    if loss_ranking.OPTION in words:
        return loss_ranking.main([w for w in words if w != loss_ranking.OPTION])
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    table = options.out.with_suffix(".json")
    picture = options.out.with_suffix(".png")
    try:
        for path in (table, picture):
            if path.exists() and not options.overwrite:
                raise ValueError(f"{path}: exists already; add --overwrite")
        loaded = None
        if options.checkpoint is not None:
            loaded = load_controller(options.checkpoint)
        if loaded is None and not options.search:
            raise ValueError("--no-search leaves nothing to judge; give --checkpoint")
        effect = load_effect(options.effect) if loaded is None else loaded.effect
        config = TransferConfig(
            method=options.method,
            renders=options.renders,
            seed=options.seed,
            excerpt_s=options.section_s,
            prior=options.prior,
        )
        groups = _groups(options)
    except (ValueError, CheckpointError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    hosts: dict[int, Host] = {}

    def open_at(rate: int) -> Host:
        if rate not in hosts:
            hosts[rate] = open_host(effect, rate)
        return hosts[rate]

    try:
        names, results = _run(options, groups, open_at, config, loaded)
    finally:
        for host in hosts.values():
            host.close()
    _report(options, table, picture, names, results)
    return 0


def _groups(options: Arguments) -> dict[str, list[tuple[str, Section]]]:
    with tempfile.TemporaryDirectory() as folder:
        if options.data is None:
            render_practice_corpus(folder, overwrite=True)
        collection = load_collection(options.data or folder)
        return grouped_sections(
            collection.clips,
            options.section_s,
            split=options.split,
            category=options.category,
        )


def _run(options, groups, open_at, config, loaded):
    # Each with the question whether it is given the wrong reference.
    methods: dict[str, tuple[evaluation.Method, bool]] = {
        NOTHING: (baselines.do_nothing, False),
        LEVEL: (baselines.level_matched, False),
        RANDOM: (baselines.random_settings, False),
    }
    if options.search:
        transfer = evaluation.transfer_method(config)
        methods |= {TRANSFER: (transfer, False), WRONG: (transfer, True)}
    if loaded is not None:
        predicted = evaluation.predicted_method(loaded)
        methods |= {PREDICTED: (predicted, False), PREDICTED_WRONG: (predicted, True)}
        if options.refine:
            further = replace(config, renders=1 + options.refine)
            refined = evaluation.predicted_method(loaded, refine=further)
            methods["predicted and refined"] = (refined, False)
    trials = list(
        make_trials(groups, open_at, settings=options.settings, seed=options.seed)
    )
    if options.most is not None and options.most < len(trials):
        chosen = np.linspace(0, len(trials) - 1, options.most).round().astype(int)
        trials = [trials[i] for i in chosen]
    # Trials of one shape after another compile once.
    trials.sort(key=lambda t: (t.sample_rate, t.dry.shape), reverse=True)
    names = []
    order = [*list(methods)[:3], TRUE, *list(methods)[3:]]
    results = {name: np.empty(len(trials)) for name in order}
    rng = np.random.default_rng(options.seed + 1)
    for index, trial in enumerate(tqdm(trials, unit="trial", mininterval=2.0)):
        host = open_at(trial.sample_rate)
        names.append((trial.group, f"{trial.name} like {trial.reference_name}"))
        told = baselines.true_settings(trial.hidden[None])
        for name, (method, wrong) in (methods | {TRUE: (told, False)}).items():
            made = method([trial.question(wrong=wrong)], host, rng).audio[0]
            results[name][index] = float(evaluation.truth_loss(made, trial.truth))
    return names, results


def _report(options, table, picture, names, results) -> None:
    groups = [group for group, _ in names]
    same = np.array([_one_recording(name) for _, name in names])
    parts = {"all pairs": np.ones(len(names), bool)}
    if same.any() and not same.all():
        parts |= {"pairs of one recording": same, "of two recordings": ~same}
    boards = {
        title: _board(title, groups, results, chosen) for title, chosen in parts.items()
    }
    content = {
        "arguments": {k: str(v) for k, v in asdict(options).items() if k != "data"},
        "boards": boards,
        "trials": [
            {"group": g, "name": n, **{m: results[m][i] for m in results}}
            for i, (g, n) in enumerate(names)
        ],
    }
    with audio.written_aside(table, overwrite=options.overwrite) as aside:
        aside.write_text(json.dumps(content, indent=1) + "\n")
    # The true settings are at zero, which a log axis cannot show.
    shown = {name: values for name, values in results.items() if values.max() > 1e-6}
    figure = plotting.distributions(
        shown,
        y_label="multi-resolution STFT loss to the truth",
        title=f"{options.effect}, {options.category or 'all'}, {len(names)} trials",
    )
    plotting.save(figure, picture, overwrite=options.overwrite)


def _one_recording(name: str) -> bool:
    """Whether both sections of a trial were cut from the same file."""
    one, other = name.split(" like ")
    return one.rsplit("@", 1)[0] == other.rsplit("@", 1)[0]


def _board(title, groups, results, chosen) -> dict:
    """Prints the table of the chosen trials and returns it for the JSON."""
    groups = [group for group, take in zip(groups, chosen, strict=True) if take]
    results = {name: values[chosen] for name, values in results.items()}
    rows = evaluation.scoreboard(results, groups, baseline=NOTHING)
    against_level = evaluation.scoreboard(results, groups, baseline=LEVEL)
    against_wrong = {
        right: evaluation.bootstrap(results[wrong] - results[right], groups)
        for right, wrong in ((TRANSFER, WRONG), (PREDICTED, PREDICTED_WRONG))
        if right in results
    }
    print(
        f"{title}: {len(groups)} trials of {len(set(groups))} groups; loss to the"
        " truth, lower is better; brackets: 95 % interval"
    )
    print(
        f"{'method':<28}{'mean':>8}{'median':>9}   {'better than doing nothing by':<34}"
        f"{'better than level-matched by':<34}"
    )
    for row, level in zip(rows, against_level, strict=True):
        gain = [
            f"{i.mean:.3f} [{i.low:.3f}, {i.high:.3f}] {wins:.0%}"
            for i, wins in (
                (row.improvement, row.wins),
                (level.improvement, level.wins),
            )
        ]
        print(
            f"{row.method:<28}{row.mean.mean:>8.3f}{row.median:>9.3f}   "
            f"{gain[0]:<34}{gain[1]:<34}"
        )
    for name, apart in against_wrong.items():
        print(
            f"{name}: wrong reference less right reference: {apart.mean:.3f}"
            f" [{apart.low:.3f}, {apart.high:.3f}]"
        )
    return {
        "rows": [asdict(row) for row in rows],
        "against_level_matched": [asdict(row) for row in against_level],
        "wrong_less_right": {k: v._asdict() for k, v in against_wrong.items()},
    }


if __name__ == "__main__":
    compiler.prepare()
    sys.exit(main())
