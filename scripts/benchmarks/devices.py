"""How near chains of plug-ins come to real devices, given their inputs and outputs.

    python scripts/benchmark.py devices --data DATA/pairs --out RUN
    python scripts/benchmark.py devices --devices la2a tape --renders 500

Two optical compressors (one of them at three further settings), chorus, flanger and
phaser pedals, a tape machine, and an overdrive's gain stage simulated as a circuit at
three gains. What belongs together and how it is aligned is in `devices_pairs`. Two
questions, both judged on sound that no method has seen:

* *settings*: a search with the output at hand fits each chain to some clips (or to the
  first two fifths of a clip, where each has a setting of its own). Settings are then
  fixed and judged on other clips (or on the second half);
* *style*: input and a reference of other content out of the same device, as
  ``scripts/transfer.py`` has it, with the chain that fits best, and with the
  controllers that ``--checkpoint`` names.

Both against doing nothing, the level, and a matching equalizer, each fitted on what the
search is given. The *best* chain is that of the least loss on what was fitted. It is
compared with the best of the three baselines as it turns out on the held-out sound: the
chain is chosen in advance and its opponent in hindsight. Losses are multi-resolution
STFT losses; for chorus, flanger and phaser, whose sweeps are at an unknown place of
their cycle, settings are fitted and judged by the style distance. Intervals are 95 %
bootstraps, clips first; with two or three clips they say little.

Writes RUN.json, RUN.md and RUN_<device>.png.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from benchmarks.devices_baselines import filtered, level_gain, match_kernel
from benchmarks.devices_figure import draw
from benchmarks.devices_pairs import (
    DEVICES,
    Device,
    Unit,
    find_delay,
    join,
    load_device,
)
from benchmarks.devices_table import markdown
from tqdm import tqdm

from ddspx import plotting
from ddspx.audio import written_aside
from styletransfer.controller import LoadedController, load_controller, predict
from styletransfer.evaluation import bootstrap
from styletransfer.hosts import Host, open_host
from styletransfer.metrics import measure
from styletransfer.presets import load_effect
from styletransfer.transfer import TransferConfig, transfer

METRICS = ("mrstft", "style_distance", "loudness_error", "crest_error")
BASELINES = ("nothing", "level", "match EQ")
# Sections of about this length are judged; lengths are multiples of GRAIN, so that few
# shapes are compiled.
SECTION_S, GRAIN = 2.25, 4096
# Share of the budget that a chain gets which costs ten times the others.
DEAR = {"zam_tube": 0.25}
QUICK_RENDERS = 40
DRAWS = 2000


@dataclass(frozen=True)
class Arguments:
    """Command line of the suite."""

    data: Path | None = None
    """Folder of the pairs; when not given "pairs" below what DDSPX_DATA names."""
    devices: tuple[str, ...] = tuple(DEVICES)
    """Which of them."""
    chains: tuple[str, ...] = ()
    """Only these of the effects that suit a device; all of those when not given."""
    checkpoint: tuple[str, ...] = ()
    """NAME=PATH: a run of train.py controller of the effect NAME; asked for style
    wherever NAME is a chain of the device."""
    renders: int = 500
    """Budget of a search that has the output at hand."""
    style_renders: int = 300
    """Budget of a search that has a reference."""
    refine: int = 150
    """Renders that improve a prediction."""
    workers: int | None = None
    """Render workers; one per core by default."""
    seed: int = 0
    """Of the searches."""
    quick: bool = False
    """Two chains, one clip, a second of it, and few renders: to see that it works."""
    out: Path | None = None
    """Where to write; .json, .md and .png are added."""


@dataclass
class Board:
    """Renders of several methods on the same sections, and what they should be.

    Attributes:
      sample_rate: Hz.
      truths: sections [1, time].
      groups: clip of each.
      renders: ``{method: sections}``.
    """

    sample_rate: int
    truths: list[np.ndarray] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    renders: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def expect(self, group: str, truth: np.ndarray) -> None:
        """Adds the sections of one stretch [1, time]."""
        made = list(sections(truth, self.sample_rate))
        self.truths += made
        self.groups += [group] * len(made)

    def enter(self, method: str, render: np.ndarray) -> None:
        """Adds what a method made of the next stretch, in the order of `expect`."""
        self.renders.setdefault(method, []).extend(sections(render, self.sample_rate))

    def judged(self) -> dict[str, dict[str, np.ndarray]]:
        """``{method: {metric: [sections]}}``."""
        names = list(self.renders)
        values = {n: {m: np.empty(len(self.truths)) for m in METRICS} for n in names}
        lengths = np.array([truth.shape[-1] for truth in self.truths])
        for length in sorted(set(lengths)):
            places = np.flatnonzero(lengths == length)
            renders = np.stack([self.renders[n][k] for n in names for k in places])
            truths = np.stack([self.truths[k] for _ in names for k in places])
            found = measure(renders, truths, self.sample_rate, METRICS)
            for metric, row in found.items():
                for name, some in zip(names, row.reshape(len(names), -1), strict=True):
                    values[name][metric][places] = some
        return values


def sections(audio: np.ndarray, sample_rate: int) -> Iterator[np.ndarray]:
    """Equal parts of [1, time], of about `SECTION_S` each."""
    total = audio.shape[-1]
    count = max(1, round(total / (SECTION_S * sample_rate)))
    length = total // count // GRAIN * GRAIN
    if not length:
        raise ValueError(
            f"a clip of {total} samples is too short; give {GRAIN} or more"
        )
    for k in range(count):
        start = k * (total // count)
        yield audio[:, start : start + length]


def main(arguments: list[str] | None = None) -> None:
    """Runs all devices, prints the tables, writes numbers and figures."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    root = _folder(options.data)
    chosen = _chosen(options)
    loaded = _controllers(options, chosen)
    units = {
        name: load_device(root, device, quick=options.quick)
        for name, device in chosen.items()
    }
    about = {
        "renders": options.renders,
        "style_renders": options.style_renders,
        "refine": options.refine,
        "checkpoint": list(options.checkpoint),
        "seed": options.seed,
        "quick": options.quick,
    }
    started = time.perf_counter()
    total = sum(_cost(chosen[n], units[n], loaded) for n in chosen)
    report: dict[str, Any] = {}
    with tqdm(total=total, unit="search") as bar:
        for name, device in chosen.items():
            bar.set_postfix_str(name)
            report[name], sounds = run_device(
                device, units[name], loaded, options, bar.update
            )
            if options.out is None:
                continue
            rate = units[name][0].sample_rate
            figure = draw(name, device.kind, report[name], sounds, rate)
            path = options.out.with_name(f"{options.out.name}_{name}.png")
            plotting.save(figure, path, overwrite=True)
            # After each device: an hour's work is not lost with the last of them.
            _write(options.out, {**about, "devices": report})
    print(markdown(report))
    print(f"{time.perf_counter() - started:.0f} s")


def _write(out: Path, report: dict[str, Any]) -> None:
    with written_aside(out.with_suffix(".json"), overwrite=True) as aside:
        aside.write_text(json.dumps(report, indent=1) + "\n")
    with written_aside(out.with_suffix(".md"), overwrite=True) as aside:
        aside.write_text(markdown(report["devices"]))


def run_device(
    device: Device,
    units: list[Unit],
    loaded: dict[str, LoadedController],
    options: Arguments,
    advance: Callable[[], Any],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Both questions on one device.

    Args:
      device: which.
      units: its settings.
      loaded: controllers by name of their effect.
      options: of the command line.
      advance: called after each search.

    Returns:
      The report as plain JSON, and for a picture what was held back of the first
      setting, joined [1, time]: ``"input"``, ``"device"``, and by method.
    """
    headline = "style_distance" if device.kind == "modulation" else "mrstft"
    rate = units[0].sample_rate
    board, asked = Board(rate), Board(rate)
    parts: dict[str, list[np.ndarray]] = {}

    def show(unit: Unit, name: str, sound: np.ndarray) -> None:
        # One setting is shown: others have another curve.
        if unit is units[0]:
            parts.setdefault(name, []).append(sound)

    for unit in units:
        gain = np.float32(level_gain(unit.before, unit.after))
        kernel = match_kernel(unit.before, unit.after, rate)
        for pair, start in unit.held:
            board.expect(pair.name, pair.after[:, start:])
            made = (pair.before, gain * pair.before, filtered(pair.before, kernel))
            for method, render in zip(BASELINES, made, strict=True):
                board.enter(method, render[:, start:])
                show(unit, method, render[:, start:])
            show(unit, "input", pair.before[:, start:])
            show(unit, "device", pair.after[:, start:])
    fits: dict[str, list[dict[str, Any]]] = {}
    for chain in device.chains:
        with open_host(load_effect(chain), rate, workers=options.workers) as host:
            for unit in units:
                fits.setdefault(chain, []).append(_fit(host, unit, device, options))
                controls = np.asarray(fits[chain][-1]["controls"], np.float32)
                for pair, start in unit.held:
                    render = host.render(pair.before[None], controls[None]).audio[0]
                    board.enter(chain, render[:, start:])
                    show(unit, chain, render[:, start:])
                advance()
    best = min(fits, key=lambda chain: np.mean([f["share"] for f in fits[chain]]))
    _ask(asked, units, best, device, loaded, options, advance)
    settings = _summary(board, headline)
    for chain, row in fits.items():
        settings[chain] |= {
            "fit_share": float(np.mean([f["share"] for f in row])),
            "found": row,
            **_facts(board.renders[chain], board.truths),
        }
    return {
        "headline": headline,
        "units": {unit.name: _plain(unit) for unit in units},
        "sections": len(board.truths),
        "clips": len(set(board.groups)),
        "best": best,
        "settings": settings,
        "verdict": _verdict(board, headline, best),
        "style_sections": len(asked.truths),
        "style_clips": len(set(asked.groups)),
        "style": _summary(asked, headline),
    }, {name: join(some, rate) for name, some in parts.items()}


def _fit(host: Host, unit: Unit, device: Device, options: Arguments) -> dict[str, Any]:
    seconds = unit.before.shape[-1] / unit.sample_rate
    budget = QUICK_RENDERS if options.quick else options.renders
    config = TransferConfig(
        renders=max(1, round(DEAR.get(host.effect.name, 1.0) * budget)),
        seed=options.seed,
        excerpt_s=seconds + 1.0,
    )
    # Whatever a sweep does at a moment, it does not do it at that of the chain's.
    paired = device.kind != "modulation"
    made = transfer(host, unit.before, unit.after, paired=paired, config=config)
    return {
        "unit": unit.name,
        "share": made.loss["after"] / made.loss["before"],
        **made.loss,
        "controls": np.asarray(made.controls).tolist(),
        "settings": made.settings,
        "renders": made.renders,
        "failures": made.failures,
    }


def _ask(asked, units, best, device, loaded, options, advance) -> None:
    """Style transfer of every query by every method, onto the board `asked`."""
    rate = units[0].sample_rate
    queries = [query for unit in units for query in unit.queries]
    budget = QUICK_RENDERS if options.quick else options.style_renders
    refine = QUICK_RENDERS if options.quick else options.refine
    search = TransferConfig(renders=budget, seed=options.seed)
    refined = TransferConfig(renders=refine, seed=options.seed)
    for query in queries:
        asked.expect(query.name, query.wanted)
        gain = np.float32(level_gain(query.before, query.reference))
        kernel = match_kernel(query.before, query.reference, rate)
        matched = filtered(query.before, kernel)
        made = (query.before, gain * query.before, matched)
        for method, render in zip(BASELINES, made, strict=True):
            asked.enter(method, render)
    known = [name for name in loaded if name in device.chains]
    for chain in dict.fromkeys([best, *known]):
        effect = loaded[chain].effect if chain in known else load_effect(chain)
        with open_host(effect, rate, workers=options.workers) as host:
            for query in queries:
                made = transfer(host, query.before, query.reference, config=search)
                asked.enter(f"{chain}, search", made.audio)
                advance()
                if chain not in known:
                    continue
                found = predict(
                    loaded[chain], query.before, query.reference, rate, rate
                )
                render = host.render(query.before[None], found.controls[None]).audio
                asked.enter(f"{chain}, predicted", render[0])
                made = transfer(
                    host,
                    query.before,
                    query.reference,
                    config=refined,
                    prediction=found,
                )
                asked.enter(f"{chain}, refined", made.audio)


def _summary(board: Board, headline: str) -> dict[str, dict[str, Any]]:
    """Means and intervals by method, and how far below the matching equalizer."""
    values = board.judged()
    made = {}
    for method, row in values.items():
        ahead = values["match EQ"][headline] - row[headline]
        made[method] = {
            metric: list(bootstrap(some, board.groups, draws=DRAWS))
            for metric, some in row.items()
        } | {
            "ahead_of_match": list(bootstrap(ahead, board.groups, draws=DRAWS)),
            "wins_match": float(np.mean(ahead > 0)),
            "by_section": {m: some.tolist() for m, some in row.items()},
        }
    return made


def _verdict(board: Board, headline: str, best: str) -> dict[str, Any]:
    """The chain that fits best against the best baseline of the held-out sound."""
    values = board.judged()
    means = {name: float(np.mean(values[name][headline])) for name in BASELINES}
    opponent = min(means, key=lambda name: means[name])
    ahead = values[opponent][headline] - values[best][headline]
    return {
        "chain": best,
        "opponent": opponent,
        "loss": float(np.mean(values[best][headline])),
        "opponent_loss": means[opponent],
        "ahead": list(bootstrap(ahead, board.groups, draws=DRAWS)),
        "wins": float(np.mean(ahead > 0)),
    }


def _facts(renders: list[np.ndarray], truths: list[np.ndarray]) -> dict[str, Any]:
    """Level against the device's, constant, polarity and delay of a chain's renders."""
    flat = [
        (truth[0], render[0]) for truth, render in zip(truths, renders, strict=True)
    ]
    delay = find_delay(flat, (-50, 50))
    gains = [20 * np.log10(level_gain(*pair) + 1e-10) for pair in flat]
    return {
        "level_db": float(np.mean(gains)),
        "constant": float(np.mean([np.mean(render) for _, render in flat])),
        "polarity": delay.polarity,
        "late_samples": delay.samples,
    }


def _plain(unit: Unit) -> dict[str, Any]:
    gain = level_gain(unit.before, unit.after)
    return {
        "sample_rate": unit.sample_rate,
        "fitted_s": unit.before.shape[-1] / unit.sample_rate,
        "gain_db": float(20 * np.log10(gain)),
        "delays": {name: delay._asdict() for name, delay in unit.delays.items()},
        "constants": unit.constants,
    }


def _cost(device: Device, units: list[Unit], loaded: dict) -> int:
    queries = sum(len(unit.queries) for unit in units)
    known = [name for name in loaded if name in device.chains]
    # Whether the best chain is one of those is not known yet: the bar may end early.
    return len(device.chains) * len(units) + queries * (len(known) + 1)


def _folder(data: Path | None) -> Path:
    if data is None and "DDSPX_DATA" not in os.environ:
        raise ValueError(
            "no recordings of devices: give --data with their folder, or name the"
            " folder above it in DDSPX_DATA"
        )
    return data or Path(os.environ["DDSPX_DATA"]) / "pairs"


def _chosen(options: Arguments) -> dict[str, Device]:
    unknown = sorted(set(options.devices) - set(DEVICES))
    if unknown:
        raise ValueError(f"devices {unknown} unknown; choose from {', '.join(DEVICES)}")
    chosen = {}
    for name in options.devices:
        suits = DEVICES[name].chains
        chains = tuple(c for c in suits if not options.chains or c in options.chains)
        if not chains:
            raise ValueError(
                f"chains {options.chains}: none of them suits {name}; it has"
                f" {', '.join(suits)}"
            )
        chains = chains[:2] if options.quick else chains
        chosen[name] = replace(DEVICES[name], chains=chains)
    for chain in {chain for device in chosen.values() for chain in device.chains}:
        load_effect(chain)
    return chosen


def _controllers(
    options: Arguments, chosen: dict[str, Device]
) -> dict[str, LoadedController]:
    loaded = {}
    for text in options.checkpoint:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise ValueError(f"checkpoint {text!r}: give NAME=PATH, as in strip=RUN")
        if not any(name in device.chains for device in chosen.values()):
            raise ValueError(
                f"checkpoint {text!r}: {name} is a chain of none of the devices; give"
                " one of their chains, and do not leave it out of --chains"
            )
        loaded[name] = load_controller(path)
    return loaded
