"""Makes trained controllers fit to be kept: small files, each with a card.

    python scripts/export_controllers.py RUN [RUN ...] --out checkpoints
        [--board SUITE_FOLDER] [--name NAME] [--data DATA]

RUN is a folder of ``train.py decoder`` or ``tune``. Into --out go ``shared.npz``, the
encoders that all of them stand on, ``EFFECT.npz``, and the card ``EFFECT.md``: data and
licences, commands, numbers from the finished suite of ``evaluate.py --suite``, and what
the controller cannot do. Runs that stand on other encoders are refused.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from ddspx.audio import AudioFileError, written_aside
from ddspx.data.manifest import Clip, load_collection
from ddspx.data.split import select
from ddspx.training.checkpoint import CheckpointError, read_run
from styletransfer.bundle import (
    DECODER,
    SHARED,
    EffectController,
    Shared,
    load_decoder,
    load_shared,
    save_decoder,
    save_shared,
)

# Suite's names of what a controller is compared with.
_AGAINST = ("do nothing", "level matched", "constant setting")


@dataclass(frozen=True)
class Arguments:
    """Command line of export_controllers.py."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, one for each effect."""
    out: Path
    """Folder to write."""
    board: Path | None = None
    """Folder of a finished suite, for the numbers on the cards."""
    name: str = "predicted"
    """Of these controllers in that suite."""
    data: Path | None = None
    """Collection that they were trained on, for its licences."""
    overwrite: bool = False
    """Replace files of the same effects."""


def main(arguments: list[str] | None = None) -> int:
    """Writes files and cards; returns the exit code."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    try:
        export(options)
    except (CheckpointError, AudioFileError, ValueError, OSError) as error:
        print(f"export_controllers.py: {error}", file=sys.stderr)
        return 2
    return 0


def export(options: Arguments) -> None:
    """Copies the files of all runs, and writes their cards.

    Raises:
      CheckpointError: a run has no controller, or they do not stand on the same
        encoders.
      AudioFileError: a file is there already and is not to be replaced.
    """
    loaded = [(run, load_decoder(run / DECODER)) for run in options.runs]
    if not loaded:
        raise ValueError("name one run or more")
    shared = loaded[0][1].shared
    for run, one in loaded:
        if one.shared.digest != shared.digest:
            raise CheckpointError(
                f"{run}: stands on the encoders {one.shared.digest[:12]},"
                f" {loaded[0][0]} on {shared.digest[:12]}; export them apart"
            )
    options.out.mkdir(parents=True, exist_ok=True)
    place = options.out / SHARED
    if not place.is_file() or load_shared(place).digest != shared.digest:
        save_shared(place, shared, overwrite=options.overwrite)
    with written_aside(place.with_suffix(".md"), overwrite=True) as to:
        to.write_text(shared_card(shared), encoding="utf-8")
    licences = _licences(options.data)
    board = None
    if options.board is not None:
        board = json.loads((options.board / "board.json").read_text())
    for run, one in loaded:
        path = options.out / f"{one.effect.name}.npz"
        save_decoder(path, one, overwrite=options.overwrite)
        text = card(run, one, path, board, options.name, licences)
        with written_aside(path.with_suffix(".md"), overwrite=options.overwrite) as to:
            to.write_text(text, encoding="utf-8")
    size = sum(file.stat().st_size for file in options.out.glob("*.npz")) / 1e6
    print(f"{options.out}: {len(loaded)} effects, {size:.2f} MB in all")


def shared_card(shared: Shared) -> str:
    """The card of f and g as Markdown."""
    encoder = shared.encoder
    run = encoder.config
    steps = run.get("fit", {}).get("steps", 0)
    effects = run.get("effects", ())
    rows = steps * run.get("pairs_per_effect", 0)
    return "\n".join(
        [
            "# shared.npz: the encoders that every controller here stands on",
            "",
            f"f, of kind `{encoder.kind}`: a code of {encoder.size} numbers of a sound"
            f" of {encoder.seconds:g} s at {encoder.sample_rate} Hz. Trained for"
            f" {steps} steps on {rows} pairs of each of {len(effects)} effects:"
            f" {', '.join(effects)}.",
            "",
            f"g: {shared.latents.latents} latents of the codes of input and reference.",
            "",
            f"Weights {shared.digest}; the file of an effect is refused beside others.",
            "",
        ]
    )


def card(
    run: Path,
    loaded: EffectController,
    path: Path,
    board: Mapping[str, Any] | None,
    name: str,
    licences: Mapping[str, float],
) -> str:
    """The card of a controller as Markdown."""
    effect, note = loaded.effect, loaded.note
    encoder = loaded.shared.encoder
    specs = effect.at_sample_rate(encoder.sample_rate).specs
    lines = [f"# {effect.name}", ""]
    controls = ", ".join(spec.name.split(".", 1)[-1] for spec in specs)
    plugins = ", ".join(f"`{slot.plugin}`" for slot in effect.slots)
    lines += [
        f"Controls of {plugins}: {controls}.",
        "",
        "    python scripts/transfer.py INPUT --reference REFERENCE --checkpoint"
        f" {path} --out OUTPUT.wav",
        "",
        "## How it was made",
        "",
    ]
    lines += [f"    {command}" for command in _commands(run, loaded)]
    renders = int(note.get("pairs", 0)) * 2
    tuning = int(note.get("tuning_renders", 0))
    valid = note.get("valid", {})
    lines += [
        "",
        f"{renders} renders of pairs for the decoder and {tuning} in tuning, besides"
        " those of the shared encoders. On the valid split before tuning the mean"
        f" absolute error of a control was {valid.get('control_error', np.nan):.3f};"
        " always saying the middle has"
        f" {valid.get('constant_error', np.nan):.3f}.",
    ]
    if licences:
        lines += ["", "Trained on recordings under these licences (minutes):", ""]
        lines += [f"- {licence}: {m:.1f}" for licence, m in licences.items()]
    if board is not None:
        lines += ["", "## Numbers", "", *_numbers(board, effect.name, name)]
    lines += [
        "",
        "## What it cannot do",
        "",
        f"It hears mono at {encoder.sample_rate} Hz, in windows of"
        f" {encoder.seconds:g} s: longer echoes and slower modulations are guessed."
        " It was trained on pairs of one recording's two halves; a reference by another"
        " voice or instrument is taken to differ by the effect alone. A control whose"
        " deviation is near that of a uniform distribution is not told by the pair, and"
        " its value means little.",
        "",
    ]
    return "\n".join(lines)


def _commands(run: Path, loaded: EffectController) -> list[str]:
    config = read_run(run)["config"]
    shared = loaded.shared
    effects = " ".join(shared.encoder.config.get("effects", ()))
    lines = [
        "python scripts/train.py encoder runs/encoder --config"
        " configs/encoder/effects.yaml --data DATA_24K",
        f"    # effects: {effects}" if effects else "",
        "python scripts/train.py latents runs/latents --config"
        " configs/latents/effects.yaml --encoder runs/encoder --data DATA_24K",
        f"    # {shared.latents.latents} latents",
        f"python scripts/train.py decoder runs/{loaded.effect.name} --latents"
        f" runs/latents --effect {loaded.effect.name} --data DATA_24K",
    ]
    if "audio" in config:
        lines.append(
            f"python scripts/train.py tune runs/tuned_{loaded.effect.name} --config"
            f" configs/tune/effect.yaml --start runs/{loaded.effect.name}"
            f" --audio.gradient {config['audio']['gradient']}"
            f" --audio.renders {config['audio']['renders']} --data DATA_24K"
        )
    return [line for line in lines if line]


def _numbers(board: Mapping[str, Any], effect: str, name: str) -> list[str]:
    metric = board["config"]["metric"]
    lines = [
        f"{metric} to the truth on the {board['config']['split']} split, mean [95 %],"
        " and how much nearer than other ways on the same items (above 0 is better):",
        "",
        "| sounds | items | " + name + " | " + " | ".join(_AGAINST) + " |",
        "|---|---|---|" + "---|" * len(_AGAINST),
    ]
    for cell in board["cells"]:
        own = cell["methods"].get(name)
        if cell["effect"] != effect or own is None:
            continue
        found = own["metrics"][metric]
        gains = [
            _interval(found["against"][other], 3) if other in found["against"] else ""
            for other in _AGAINST
        ]
        lines.append(
            f"| {cell['category']} | {found['items']} | {_interval(found, 3)} | "
            + " | ".join(gains)
            + " |"
        )
    return lines


def _interval(found: Mapping[str, Any], digits: int) -> str:
    low, high = found["low"], found["high"]
    return f"{found['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _licences(data: Path | None) -> dict[str, float]:
    """Minutes of the training split by licence."""
    minutes: dict[str, float] = defaultdict(float)
    clips: tuple[Clip, ...] = () if data is None else load_collection(data).clips
    for clip in select(clips, "train") if clips else ():
        minutes[clip.licence or "not stated"] += clip.seconds / 60.0
    return dict(sorted(minutes.items(), key=lambda pair: -pair[1]))


if __name__ == "__main__":
    sys.exit(main())
