"""The latents of a controller, for analyze_latents.py: importance, size, pruning.

Pairs are made of held-out recordings by the controller's own effect. A pruned
controller is verified on pairs of recordings that the choice of latents has not seen.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import latent_report
import numpy as np

from ddspx import audio
from ddspx.data.manifest import Clip
from ddspx.data.split import select
from styletransfer.bundle import DECODER, load_decoder
from styletransfer.controller import LoadedController, load_controller
from styletransfer.controller_analysis import (
    PairSet,
    controls_output,
    make_pairs,
    ordinary_sounds,
    posterior,
    settler,
    sound_output,
)
from styletransfer.controller_prune import Verified, pruned, save_pruned, verify
from styletransfer.hosts import Host, open_host
from vae.analysis import AnalysisOptions, analyze
from vae.findings import Analysis
from vae.size import Rule

# Untreated recordings that the effect is heard on.
_SOUNDS = 4
_SPAN = (-2.0, -1.0, 0.0, 1.0, 2.0)
_GAP_S = 0.15
_PEAK = 0.99


@dataclass(frozen=True)
class Wishes:
    """What the command line says.

    Attributes:
      run: folder or file of the controller.
      out: folder to write.
      output: by what latents are judged.
      examples: pairs.
      seconds: about how long the analysis may take.
      traversals: latents to make sounds of.
      prune: latents to keep; 0 for the proposal, None for no pruning.
      rule: whose proposal that is.
      split: of the recordings that latents are judged on.
      seed: of all draws.
    """

    run: Path
    out: Path
    output: Literal["sound", "controls"]
    examples: int
    seconds: float
    traversals: int
    prune: int | None
    rule: Rule
    split: str
    seed: int


def is_controller(run: Path) -> bool:
    """Whether a path is that of a controller rather than of a VAE."""
    return run.suffix == ".npz" or any(
        (run / name).is_file() for name in (DECODER, "effect.json")
    )


def analyse(
    wishes: Wishes, clips: tuple[Clip, ...], options: AnalysisOptions
) -> Analysis:
    """Analyses, prunes if asked, and writes the folder.

    Args:
      wishes: the command line.
      clips: recordings with their splits.
      options: the closest look at the latents.

    Raises:
      ValueError: no latents, no such split, or no such number of latents.
      CheckpointError: a file of the controller is missing or damaged.
    """
    loaded = load_controller(wishes.run)
    if loaded.controller.latents is None:
        raise ValueError(
            f"{wishes.run}: this controller has no latents to analyse; train one with"
            " train.py encoder, latents and decoder"
        )
    with open_host(loaded.effect, loaded.config.sample_rate) as host:
        judged = select(clips, wishes.split)
        pairs = make_pairs(loaded, host, judged, wishes.examples, seed=wishes.seed)
        mean, log_variance = posterior(loaded, pairs)
        latents = mean.shape[1]
        if wishes.prune is not None and not 0 <= wishes.prune <= latents:
            raise ValueError(
                f"--prune {wishes.prune}: the controller has {latents} latents"
            )
        sounds = ordinary_sounds(pairs, _SOUNDS)
        on_controls = controls_output(loaded)
        output = on_controls
        if wishes.output == "sound":
            output = sound_output(loaded, host, sounds)
        look = latent_report.within(options, output, latents, wishes.seconds)
        found = analyze(mean, log_variance, output, options=look)
        print(found.advice)
        for words in found.warnings:
            print(f"mind: {words}")
        notes = [_of_controls(loaded, mean, log_variance, look, found)]
        wishes.out.mkdir(parents=True, exist_ok=True)
        table: list[Verified] = []
        if wishes.prune is not None:
            table, words = _prune(wishes, loaded, host, clips, found, mean)
            notes.append(words)
        files = _traversals(wishes, loaded, host, pairs, found, mean, log_variance)
    latent_report.write(
        wishes.out, wishes.run, found, table=table, notes=notes, sounds=files
    )
    return found


def _of_controls(
    loaded: LoadedController,
    mean: np.ndarray,
    log_variance: np.ndarray,
    options: AnalysisOptions,
    found: Analysis,
) -> str:
    """What each latent does to the controls, as a table in Markdown."""
    told = analyze(mean, log_variance, controls_output(loaded), options=options)
    lines = [
        "| latent | change of a control / % of its range | mostly |",
        "|---|---|---|",
    ]
    for index in found.order:
        row = told.dimensions[index]
        lines.append(f"| {index} | {100 * row.rms:.3g} | {row.does or 'none'} |")
    return "\n".join(["What each latent does to the controls:", "", *lines])


def _prune(
    wishes: Wishes,
    loaded: LoadedController,
    host: Host,
    clips: tuple[Clip, ...],
    found: Analysis,
    mean: np.ndarray,
) -> tuple[list[Verified], str]:
    """Writes OUT/pruned and verifies it."""
    assert wishes.prune is not None
    keep = sorted(
        found.order[: wishes.prune or max(found.proposal(wishes.rule).keep, 1)]
    )
    held = mean.mean(0)
    path = wishes.run / DECODER if wishes.run.is_dir() else wishes.run
    save_pruned(wishes.out / "pruned", pruned(load_decoder(path), np.array(keep), held))
    small = load_controller(wishes.out / "pruned")
    unseen = "test" if wishes.split == "valid" else "valid"
    words = f"The table has {wishes.examples} pairs of the split {unseen}"
    if not any(clip.split == unseen for clip in clips):
        unseen = wishes.split
        words = f"The table has {wishes.examples} other pairs of the same recordings"
    some = select(clips, unseen)
    pairs = make_pairs(loaded, host, some, wishes.examples, seed=wishes.seed + 1)
    table, apart = verify(loaded, small, pairs, host, keep, held)
    for row in table:
        print("  ".join(f"{name} {value}" for name, value in row.row().items()))
    return table, (
        f"`pruned/` keeps latents {', '.join(map(str, keep))}. {words}, the same for"
        " all rows; intervals resample speakers or pieces first. Pruned and held agree"
        f" to {apart:.2g} of the range of a control."
    )


def _traversals(
    wishes: Wishes,
    loaded: LoadedController,
    host: Host,
    pairs: PairSet,
    found: Analysis,
    mean: np.ndarray,
    log_variance: np.ndarray,
) -> list[str]:
    """The most ordinary input with one latent from -2 to +2 deviations; levels kept."""
    deviation = np.sqrt(mean.var(0) + np.exp(log_variance).mean(0))
    away = (mean - mean.mean(0)) / np.maximum(deviation, 1e-6)
    base = int(np.argmin(np.sum(away**2, axis=1)))
    span = np.array(_SPAN, np.float32)
    source = np.zeros(len(span), np.int32)
    gap = np.zeros((pairs.audio.shape[1], round(_GAP_S * host.sample_rate)), "f4")
    names = []
    for place, latent in enumerate(found.order[: wishes.traversals]):
        moved = np.repeat(mean[base][None], len(span), 0)
        moved[:, latent] += span * deviation[latent]
        controls = np.asarray(settler(loaded)(moved).controls)
        made = host.render(pairs.audio[base][None], controls, source).audio
        parts = [part for sound in made for part in (sound, gap)][:-1]
        row = np.concatenate(parts, axis=1)
        row *= min(1.0, _PEAK / max(float(np.abs(row).max()), 1e-9))
        name = f"traversal_{place:02d}_latent_{latent}.wav"
        audio.save(wishes.out / name, row, round(host.sample_rate))
        names.append(name)
    return names
