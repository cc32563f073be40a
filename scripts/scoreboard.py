"""Runs a suite: every effect on every category of sounds, by every method.

    python scripts/evaluate.py --suite configs/suites/NAME.yaml --data DATA --out FOLDER
        [--items 200] [--checkpoint NAME=PATH ...] [--refine 500] [--jobs 2] [...]

FOLDER is written cell by cell, each method aside and then renamed. The same command
goes on where it stopped and leaves the same bytes; another configuration, another
effect, checkpoint or recording is refused. Every run is noted in looks.csv.

    board.md, board.png, board.json   the tables, the plot, every number
    items.csv                         every item of every method
    costs.csv                         seconds and renders a method took for an item
    cells/EFFECT.CATEGORY/            what they are made of; trials.csv has the hidden
                                      settings
"""

import csv
import hashlib
import io
import json
import multiprocessing
import queue
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import compiler
import numpy as np
import scoreboard_report as report
import tyro
from tqdm import tqdm

from ddspx.audio import written_aside
from ddspx.data.manifest import Clip, load_collection
from ddspx.training.checkpoint import CheckpointError
from ddspx.training.configuration import load_preset, to_dict, to_yaml
from styletransfer import metrics, suite
from styletransfer.controller import LoadedController, load_controller
from styletransfer.hosts import Host, open_host
from styletransfer.hosts.host import usable_cores
from styletransfer.presets import load_effect
from styletransfer.suite import SuiteConfig
from styletransfer.trials import Groups, Trial, grouped_sections

Told = Callable[[str, int], None]


@dataclass(frozen=True)
class SuiteArguments:
    """Command line of ``evaluate.py --suite``.

    Attributes:
      out: folder to write, or to go on with.
      data: manifest or folder of recordings, with splits.
      jobs: processes that work at once, each on effects of its own.
      suite: YAML file of the options below; what else is given comes on top.
    """

    out: Path
    data: Path
    config: Annotated[SuiteConfig, tyro.conf.OmitArgPrefixes]
    jobs: int = 1


def main(words: Sequence[str]) -> int:
    """Runs the suite of a command line; returns the exit code."""
    try:
        options = _parse(list(words))
        if options.config.pesq != "none":
            metrics.check_pesq()
        clips = load_collection(options.data).clips
        _claim(options, clips)
        _note_look(options, words)
        _run(options, clips)
        report.write(options.out, options.config)
    except (ValueError, OSError, ImportError, CheckpointError, RuntimeError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    return 0


def _parse(words: list[str]) -> SuiteArguments:
    default = SuiteConfig()
    rest = []
    while words:
        word = words.pop(0)
        if word == "--suite":
            default = load_preset(words.pop(0), SuiteConfig) if words else default
        elif word.startswith("--suite="):
            default = load_preset(word.removeprefix("--suite="), SuiteConfig)
        else:
            rest.append(word)
    return tyro.cli(
        SuiteArguments,
        args=rest,
        description=__doc__,
        default=SuiteArguments(tyro.MISSING, tyro.MISSING, default),
    )


# --------------------------------------------------------- what a folder belongs to


def _claim(options: SuiteArguments, clips: Sequence[Clip]) -> None:
    """Writes what the folder is of, or refuses a folder that is of something else."""
    config = options.config
    used = [c for c in clips if c.split in (config.split, "train")]
    heard = [
        [clip.path, clip.split, clip.group, clip.sha256]
        for clip in used
        if clip.category in config.categories
    ]
    identity = {
        "config": to_dict(config),
        "recordings": _digest(json.dumps(heard).encode()),
        "effects": {
            name: _digest(load_effect(name).to_json().encode())
            for name in config.effects
        },
        "checkpoints": {
            f"{name}: {path}": _digest_of_path(Path(path))
            for effect in config.effects
            for name, path in _paths(config, effect)
        },
    }
    text = json.dumps(identity, indent=1) + "\n"
    path = options.out / "suite.json"
    if not path.exists():
        options.out.mkdir(parents=True, exist_ok=True)
        _write(path, text)
        _write(options.out / "suite.yaml", to_yaml(config))
        return
    known = json.loads(path.read_text())
    wanted = json.loads(text)
    if known != wanted:
        apart = _differences(known, wanted)
        raise ValueError(
            f"{options.out} holds another suite: {'; '.join(apart)}; choose another"
            " --out, or repeat the command that made it"
        )


def _differences(known, wanted, place: str = "") -> list[str]:
    if not (isinstance(known, dict) and isinstance(wanted, dict)):
        return [] if known == wanted else [f"{place} was {known!r}, now {wanted!r}"]
    keys = [*known, *(key for key in wanted if key not in known)]
    return [
        line
        for key in keys
        for line in _differences(
            known.get(key), wanted.get(key), f"{place}.{key}".lstrip(".")
        )
    ]


def _paths(config: SuiteConfig, effect: str) -> Iterator[tuple[str, str]]:
    """Names and paths of the checkpoints that may be of an effect."""
    for given in config.checkpoint:
        name, _, path = given.partition("=")
        filled = path.replace("{effect}", Path(effect).stem)
        if filled == path or Path(filled).exists():
            yield name, filled


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _digest_of_path(path: Path) -> str:
    """Of a file, or of the files of a run that say what it predicts."""
    if not path.exists():
        raise ValueError(f"checkpoint {path}: no such file or folder")
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    passing = {"logs", "last"}
    parts = [
        (str(file.relative_to(path)), _digest(file.read_bytes()))
        for file in files
        if file.is_file() and not passing & set(file.relative_to(path).parts)
    ]
    return _digest(json.dumps(parts).encode())


def _note_look(options: SuiteArguments, words: Sequence[str]) -> None:
    """Appends to the list of all looks at a split."""
    path = options.out / "looks.csv"
    header = "" if path.exists() else "date,split,command\n"
    line = io.StringIO()
    command = "evaluate.py " + shlex.join(words)
    when = datetime.now(UTC).isoformat(timespec="seconds")
    csv.writer(line, lineterminator="\n").writerow(
        [when, options.config.split, command]
    )
    with path.open("a", encoding="utf-8") as file:
        file.write(header + line.getvalue())


# -------------------------------------------------------------------------- running


def _run(options: SuiteArguments, clips: Sequence[Clip]) -> None:
    """All effects, in this process or in several; a bar tells how far it is."""
    config, jobs = options.config, min(options.jobs, len(options.config.effects))
    cells = len(config.effects) * len(config.categories)
    with tqdm(total=cells, unit="cell", mininterval=2.0) as bar:

        def tell(text: str, done: int) -> None:
            bar.set_description_str(text, refresh=False)
            bar.update(done)

        if jobs <= 1:
            for effect in config.effects:
                run_effect(options, tuple(clips), effect, tell, usable_cores())
            return
        context = multiprocessing.get_context("spawn")
        told = context.Queue()
        workers = max(1, usable_cores() // jobs)
        with ProcessPoolExecutor(jobs, context, _begin, (told,)) as pool:
            futures = [
                pool.submit(_effect_elsewhere, options, tuple(clips), effect, workers)
                for effect in config.effects
            ]
            while True:
                over = all(future.done() for future in futures)
                try:
                    tell(*told.get(timeout=0.2))
                except queue.Empty:
                    if over:
                        break
                failed = [f for f in futures if f.done() and f.exception()]
                if failed:
                    pool.shutdown(cancel_futures=True, wait=False)
                    failed[0].result()


_TOLD: Any = None


def _begin(told) -> None:
    global _TOLD
    compiler.prepare()
    _TOLD = told


def _effect_elsewhere(options, clips, effect, workers) -> None:
    run_effect(
        options, clips, effect, lambda text, done: _TOLD.put((text, done)), workers
    )


def run_effect(
    options: SuiteArguments,
    clips: tuple[Clip, ...],
    effect: str,
    tell: Told,
    workers: int,
) -> None:
    """All cells of an effect that are not finished.

    Args:
      options: of the command line.
      clips: of the manifest.
      effect: name or path.
      tell: called with what is done and the number of cells just finished.
      workers: processes of the host.
    """
    config = options.config
    name = Path(effect).stem
    tell(f"{name}: opening", 0)
    controllers = _controllers(config, effect)
    codes: dict[str, dict[str, np.ndarray]] = {key: {} for key in controllers}
    with open_host(load_effect(effect), config.sample_rate, workers=workers) as host:
        for category in config.categories:
            folder = options.out / "cells" / f"{name}.{category}"
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "finished").exists():
                cell = _Cell(config, folder, name, category, clips, host, tell)
                cell.run(controllers, codes)
            tell(f"{name}, {category}: finished", 1)


def _controllers(config: SuiteConfig, effect: str) -> dict[str, LoadedController]:
    """The trained controllers of an effect, by name."""
    own = load_effect(effect).at_sample_rate(config.sample_rate)
    found = {}
    for name, path in _paths(config, effect):
        loaded = load_controller(path)
        if loaded.effect.name != own.name:
            continue
        theirs = loaded.effect.at_sample_rate(config.sample_rate)
        if theirs.to_json() != own.to_json():
            raise ValueError(
                f"checkpoint {path} is of another {own.name} than {effect}: its"
                " controls differ; train it again, or judge it on the effect that it"
                " was trained for"
            )
        if name in found:
            raise ValueError(
                f"two checkpoints named {name!r} are of {own.name}; name one another"
            )
        found[name] = loaded
    return found


@dataclass(frozen=True)
class _Cell:
    """A cell at work; `run` does what is not finished."""

    config: SuiteConfig
    folder: Path
    effect: str
    category: str
    clips: tuple[Clip, ...]
    host: Host
    tell: Told

    def run(self, controllers, codes) -> None:
        """Draws, fits, has everybody answer, and keeps what they answered."""
        config = self.config
        self.tell(f"{self.effect}, {self.category}: drawing trials", 0)
        trials = suite.draw_trials(
            config,
            self._groups(config.split),
            self.host,
            config.items,
            effect=self.effect,
            part=f"{self.category} {config.split}",
        )
        if not (self.folder / "trials.csv").exists():
            _write(self.folder / "trials.csv", _trials_csv(trials, self.host.specs))
        embeddings = suite.embeddings_for(config, controllers, codes)
        fitted = self._fitted(embeddings)
        made = suite.entries(config, trials, fitted, controllers, codes)
        for number, entry in enumerate(made):
            path = self.folder / f"{number:02d}.csv"
            if not path.exists():
                self._judge(entry, trials, path)
        _write(self.folder / "finished", "".join(f"{e.name}\n" for e in made))

    def _groups(self, split: str) -> Groups:
        return grouped_sections(
            self.clips,
            self.config.section_s,
            split=split,
            category=self.category,
            sample_rate=self.config.sample_rate,
            channels=1,
        )

    def _fitted(self, embeddings) -> suite.Fitted:
        """What is fitted on the training split; kept, as it takes a while."""
        path = self.folder / "fitted.npz"
        if not path.exists():
            self.tell(f"{self.effect}, {self.category}: fitting on training", 0)
            fitted = suite.fit_on_training(
                self.config,
                self._groups("train"),
                self.host,
                embeddings,
                effect=self.effect,
                category=self.category,
            )
            arrays: dict[str, Any] = {"constant": fitted.constant}
            for name, bank in fitted.banks.items():
                arrays |= {f"{name}/{key}": v for key, v in bank._asdict().items()}
            with written_aside(path, overwrite=False) as aside:
                np.savez(aside, **arrays)
        with np.load(path) as arrays:
            banks = {
                name: suite.baselines.Bank(
                    *(arrays[f"{name}/{key}"] for key in suite.baselines.Bank._fields)
                )
                for name in embeddings
            }
            return suite.Fitted(arrays["constant"], banks)

    def _judge(self, entry: suite.Entry, trials: list[Trial], path: Path) -> None:
        title = f"{self.effect}, {self.category}: {entry.name}"
        self.tell(title, 0)
        names = suite.metrics_of(self.config, self.category, entry)
        rng = suite.generator(
            self.config.seed, "method", self.effect, self.category, entry.name
        )
        start = time.perf_counter()
        clock: list[float] = []
        judged = suite.judge(
            entry,
            trials,
            self.host,
            rng,
            names,
            answered=lambda done: self.tell(f"{title}, {done} of {entry.items}", 0),
            finished=lambda: clock.append(time.perf_counter() - start),
        )
        cost = {
            "seconds": clock[0],
            "measuring_seconds": time.perf_counter() - start - clock[0],
            "items": entry.items,
        }
        # The answers' file says that the entry is done, so that it comes last.
        _write(path.with_suffix(".cost.json"), json.dumps(cost) + "\n")
        _write(path, _answers_csv(entry, judged, trials))


# ---------------------------------------------------------------------------- files


def _write(path: Path, text: str) -> None:
    with written_aside(path, overwrite=True) as aside:
        aside.write_text(text, encoding="utf-8")


def _table(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _trials_csv(trials: Sequence[Trial], specs) -> str:
    names = [spec.name for spec in specs]
    head = ["item", "group", "input", "reference", "tries", *names]
    rows = [
        [k, t.group, t.name, t.reference_name, t.tries, *(f"{u:.6f}" for u in t.hidden)]
        for k, t in enumerate(trials)
    ]
    return _table([head, *rows])


def _answers_csv(entry: suite.Entry, judged: suite.Judged, trials) -> str:
    """One line an item; a metric that was not asked for is empty, NaN is ``nan``."""
    head = ["method", "item", "group", "input", "reference", *metrics.METRICS]
    rows: list[list[object]] = [[*head, "renders", "failed"]]
    for k, trial in enumerate(trials[: entry.items]):
        values = [
            f"{judged.values[name][k]:.7g}" if name in judged.values else ""
            for name in metrics.METRICS
        ]
        about = [entry.name, k, trial.group, trial.name, trial.reference_name]
        rows.append(
            [*about, *values, int(judged.renders[k]), int(bool(judged.failed[k]))]
        )
    return _table(rows)
