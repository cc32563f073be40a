"""Does an unsupervised embedding of sound tell which effect it went through?

    python scripts/benchmark.py embedding --data DATA --out RUN
    python scripts/benchmark.py embedding --split valid --out TRY      while choosing

Every section of the recordings passes several effects of pedalboard at settings uniform
in their ranges, and every render is brought to one RMS. A VAE is trained on the renders
of the training split, without labels; it resumes when called again. Then a linear probe
and a forest are trained on embeddings of the training split and judged on speakers and
pieces that nothing was trained on, for the VAE and for rivals of the same size (see
`benchmarks.embedding_methods`; PCA sees the model's own images, windows and pooling).
Intervals hold 95 % of bootstrap draws that resample speakers and pieces; differences to
the VAE are of the same draws.

Information is between an embedding of the judged split and each parameter of each
effect, in nats: of the best single axis, by nearest neighbours, and of a linear readout
that was fitted to the training split; each with the null of permuted parameters.

Writes RUN.json, RUN.png and the folder RUN.model. Without --out the model is forgotten.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from benchmarks.embedding_data import (
    RandomWindows,
    Renders,
    dry_sections,
    find_effect,
    fixed_windows,
    render,
)
from benchmarks.embedding_figure import draw, print_tables
from benchmarks.embedding_methods import embeddings
from benchmarks.embedding_probes import (
    PROBES,
    Information,
    Labelled,
    Score,
    interval,
    parameter_information,
    predict,
    score,
)
from benchmarks.recordings import collection

from ddspx import plotting
from ddspx.audio import written_aside
from ddspx.data.manifest import Clip
from ddspx.training.configuration import load_preset
from ddspx.training.fit import fit
from vae.run import LoadedVae, VaeRunConfig, load_vae, to_image
from vae.task import describe_tau, vae_task
from vae.training import MOST_AT_START

PRESET = Path(__file__).parents[2] / "configs" / "vae" / "effect_embedding.yaml"
# Methods whose information about parameters is measured.
MEASURED = ("vae", "pca")
_EVALUATION_BATCHES = 4


@dataclass(frozen=True)
class Arguments:
    """Command line of the suite."""

    data: Path | None = None
    """Folder or manifest; when not given what DDSPX_DATA names, else practice music."""
    categories: tuple[str, ...] = ("speech", "music")
    """Use only the recordings of these folders of the collection, if any."""
    effects: tuple[str, ...] = (
        "Compressor",
        "Distortion",
        "Bitcrush",
        "Delay",
        "Reverb",
        "Chorus",
        "Phaser",
        "HighShelfFilter",
    )
    """Built-ins by class name, effect presets, or YAML files."""
    preset: Path = PRESET
    """Configuration of the VAE."""
    steps: int | None = None
    """Training ends at this step; the preset's when None."""
    split: Literal["test", "valid"] = "test"
    """What is judged by; choose settings on valid."""
    section_s: float = 3.0
    """Length of a section in seconds, at least the model's window."""
    sections: int | None = None
    """At most so many sections of a split, evenly spread; all when None."""
    settings: int = 2
    """Settings drawn for each section and effect."""
    permutations: int = 20
    """Of the null of the information."""
    draws: int = 2000
    """Of the bootstrap."""
    seed: int = 0
    """Of settings, windows, forests and draws."""
    out: Path | None = None
    """Where to write; .json, .png and .model are added."""


def main(arguments: list[str] | None = None) -> None:
    """Renders, trains, probes, prints the tables, writes numbers and figure."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    config = load_preset(options.preset, VaeRunConfig)
    if options.steps is not None:
        config = replace(config, fit=replace(config.fit, steps=options.steps))
    if len(options.effects) < 2 or min(options.settings, options.permutations) < 1:
        raise ValueError(
            f"{len(options.effects)} effects, {options.settings} settings,"
            f" {options.permutations} permutations: give two, one and one at least"
        )
    window_s = config.front.samples / config.front.sample_rate
    if options.section_s < window_s:
        raise ValueError(
            f"section_s {options.section_s}: the model's window is {window_s:.2f} s"
        )
    for name in options.effects:
        find_effect(name)
    with tempfile.TemporaryDirectory() as scratch:
        clips = collection(options.data, Path(scratch))
        splits = ("train", "valid", options.split)
        renders = {
            split: _renders(clips, split, options, config)
            for split in dict.fromkeys(splits)
        }
        folder = Path(scratch) / "model"
        if options.out is not None:
            folder = options.out.with_suffix(".model")
        loaded = train(config, folder, renders["train"], renders["valid"])
    found = embeddings(
        loaded,
        {split: renders[split].audio for split in ("train", options.split)},
        seed=options.seed,
    )
    known, judged = renders["train"], renders[options.split]
    scores = judge(found, known, judged, options)
    told = information(found, known, judged, options)
    summary = summarise(scores, told, judged, options, loaded)
    print_tables(summary)
    if options.out is None:
        return
    with written_aside(options.out.with_suffix(".json"), overwrite=True) as aside:
        aside.write_text(json.dumps(summary, indent=1) + "\n")
    plotting.save(draw(summary), options.out.with_suffix(".png"), overwrite=True)


def _renders(
    clips: tuple[Clip, ...], split: str, options: Arguments, config: VaeRunConfig
) -> Renders:
    rate = config.front.sample_rate
    dry = dry_sections(
        clips,
        split,
        options.categories,
        options.section_s,
        rate,
        most=options.sections,
    )
    # Each split has draws of its own.
    seed = (options.seed, *split.encode())
    return render(dry, options.effects, rate, settings=options.settings, seed=seed)


def train(
    config: VaeRunConfig, folder: Path, known: Renders, held_out: Renders
) -> LoadedVae:
    """Trains a model on random windows of renders, without labels, or resumes.

    Args:
      config: of the model.
      folder: of the run.
      known: what it is trained on.
      held_out: what it is judged by while it trains.

    Returns:
      The model after its last step.

    Raises:
      ValueError: it was interrupted.
    """
    print(describe_tau(config))
    window, size = config.front.samples, config.data.batch_size
    data = RandomWindows(known.audio, window, size, config.data.seed)
    start = None
    if config.model.linear_path:
        start = _start_images(config, data)
    names = tuple(
        f"{known.group[i]}/{known.section[i]}/{known.effects[known.effect[i]]}"
        for i in range(len(known.audio))
    )
    with vae_task(config, start=start) as task:
        state = fit(
            task,
            data,
            config.fit,
            folder,
            evaluation=fixed_windows(held_out.audio, window, size, _EVALUATION_BATCHES),
            run_config=config,
            file_names=names,
        )
    if int(state.step) < config.fit.steps:
        raise ValueError(
            f"stopped at step {int(state.step)} of {config.fit.steps}; the same command"
            " goes on from there"
        )
    return load_vae(folder, "last")


def _start_images(config: VaeRunConfig, data: RandomWindows) -> np.ndarray:
    """Images that a linear path starts from: of the first training batches."""
    batches = -(-MOST_AT_START // config.data.batch_size)
    image = jax.jit(lambda audio: to_image(config, audio).image)
    return np.concatenate(
        [np.asarray(image(data[index]["audio"][:, 0])) for index in range(batches)]
    )


def judge(
    found: Mapping[str, Mapping[str, np.ndarray]],
    known: Renders,
    judged: Renders,
    options: Arguments,
) -> dict[str, dict[str, Score]]:
    """How well each probe tells the effect from each embedding, by method and probe."""
    scores: dict[str, dict[str, Score]] = {}
    for method, each in found.items():
        scores[method] = {}
        for probe in PROBES:
            labelled = Labelled(each["train"], known.effect, known.group)
            told = predict(probe, labelled, each[options.split], options.seed)
            scores[method][probe] = score(
                told,
                judged.effect,
                judged.group,
                len(judged.effects),
                draws=options.draws,
                seed=options.seed,
            )
    return scores


def information(
    found: Mapping[str, Mapping[str, np.ndarray]],
    known: Renders,
    judged: Renders,
    options: Arguments,
) -> dict[str, dict[str, dict[str, Information]]]:
    """What embeddings tell of parameters, by effect, parameter and method."""
    told: dict[str, dict[str, dict[str, Information]]] = {}
    for index, effect in enumerate(judged.effects):
        ours, theirs = known.effect == index, judged.effect == index
        names = [spec.name.split(".", 1)[1] for spec in judged.specs[index]]
        told[effect] = {name: {} for name in names}
        for method in MEASURED:
            each = parameter_information(
                (found[method]["train"][ours], known.controls[index]),
                (found[method][options.split][theirs], judged.controls[index]),
                permutations=options.permutations,
                seed=options.seed,
            )
            for name, information_of_one in zip(names, each, strict=True):
                told[effect][name][method] = information_of_one
    return told


def summarise(
    scores: Mapping[str, Mapping[str, Score]],
    told: Mapping[str, Mapping[str, Mapping[str, Information]]],
    judged: Renders,
    options: Arguments,
    loaded: LoadedVae,
) -> dict[str, Any]:
    """Everything that is printed and drawn, plain JSON."""
    groups = {
        str(kind): len(set(judged.group[judged.category == kind]))
        for kind in np.unique(judged.category)
    }
    return {
        "split": options.split,
        "items": len(judged.audio),
        "groups": groups,
        "effects": list(judged.effects),
        "size": loaded.vae.latents,
        "chance": float(np.bincount(judged.effect).max() / len(judged.effect)),
        "probes": {
            method: {
                probe: {
                    "accuracy": found.accuracy,
                    "accuracy_interval": found.interval(0),
                    "macro_f1": found.macro_f1,
                    "macro_f1_interval": found.interval(1),
                    "confusion": found.confusion.tolist(),
                }
                for probe, found in by_probe.items()
            }
            for method, by_probe in scores.items()
        },
        "differences": {
            method: {
                probe: _difference(scores["vae"][probe], found)
                for probe, found in by_probe.items()
            }
            for method, by_probe in scores.items()
            if method != "vae"
        },
        "information": {
            effect: {
                parameter: {
                    method: {
                        kind: {
                            "nats": getattr(each, kind),
                            "null_mean": float(getattr(each, f"{kind}_null").mean()),
                            "null_95": float(
                                np.quantile(getattr(each, f"{kind}_null"), 0.95)
                            ),
                            "p": each.p_value(kind),
                        }
                        for kind in ("axis", "linear")
                    }
                    for method, each in by_method.items()
                }
                for parameter, by_method in parameters.items()
            }
            for effect, parameters in told.items()
        },
    }


def _difference(ours: Score, theirs: Score) -> dict[str, Any]:
    """The VAE's measures less another's, of the same draws of groups."""
    draws = ours.draws - theirs.draws
    return {
        "accuracy": ours.accuracy - theirs.accuracy,
        "accuracy_interval": interval(draws[0]),
        "macro_f1": ours.macro_f1 - theirs.macro_f1,
        "macro_f1_interval": interval(draws[1]),
    }
