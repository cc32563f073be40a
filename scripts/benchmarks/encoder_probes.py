"""What the codes of an encoder of sounds tell: effect, settings and content.

    python scripts/benchmark.py encoder_probes --encoder RUN --data DATA --out FOUND
    python scripts/benchmark.py encoder_probes --latents SHARED.npz --data DATA
    python scripts/benchmark.py encoder_probes --encoder RUN --split valid --clips 60

Crops of speakers and pieces of the training split pass every effect with hidden
settings, and so do crops of others, which no encoder and no probe has heard and which
everything is judged by. Pairs are as controllers have them: one half of a crop dry, the
other treated. Codes of a treated sound:

* ``f``: of the encoder; ``untrained``: of the same before its first step;
* ``pca``: as many principal components of the log-mel image that f sees;
* ``moments``: as many of the mean and deviation over time of each band of it.

``f change`` and the like: code of the treated half less that of the dry one, which has
other content. ``z``: the latents of the pair, with --latents. Measured are

1. which of the effects it was, by a linear probe and a forest; of the six effects of
   the original study also at settings in the middle, which was its task;
2. information of the best axis about each parameter, nats, and by how much chance gives
   it (in brackets); R^2 of a ridge regression of each parameter on the codes of both;
3. what is left of the content: whether a linear probe tells the speaker or piece, from
   other places of the recordings, and how often the code nearest by angle, of 50
   settings, has the same settings, of another speaker or piece.

Intervals hold 95 % of bootstrap draws that resample speakers and pieces; differences
are of the same draws. Writes FOUND.md, FOUND.json and FOUND.png.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from benchmarks.embedding_probes import (
    PROBES,
    Labelled,
    Score,
    interval,
    predict,
    score,
)
from benchmarks.encoder_codes import (
    BASES,
    Coded,
    code_pairs,
    code_tables,
    reduced,
)
from benchmarks.encoder_measures import (
    axis_information,
    halves_by_place,
    recall,
    ridge_explains,
)
from benchmarks.encoder_report import draw, markdown
from benchmarks.encoder_sounds import balanced_crops
from benchmarks.recordings import collection
from benchmarks.recovery import MDA

from ddspx import plotting
from ddspx.audio import written_aside
from ddspx.training.checkpoint import tree_hash
from styletransfer.bundle import Shared, load_shared
from styletransfer.encoders import SoundEncoder, load_encoder
from styletransfer.presets import load_effect

# The effects that the original study told apart.
SIX = MDA[:6]
# Codes whose axes are looked at one by one.
_MEASURED = ("f", "f change", "pca", "pca change", "z")
_AMONG = 50
# Of judged crops that have their settings in common: what is looked for and found.
SHARE = 2

# What probes are fitted to and what they are asked, by the name of the codes.
Questions = dict[str, tuple[Labelled, Labelled]]


@dataclass(frozen=True)
class Arguments:
    """Command line of the suite."""

    encoder: Path | None = None
    """Run of train.py encoder, controller or vae; when not given that of --latents."""
    which: Literal["best", "last"] = "last"
    """Checkpoint of the encoder; latents stand on the last."""
    latents: Path | None = None
    """File of an encoder and of latents, shared.npz of train.py latents."""
    data: Path | None = None
    """Folder or manifest; when not given what DDSPX_DATA names, else practice music."""
    categories: tuple[str, ...] = ("speech", "music")
    """Use only the recordings of these folders of the collection, if any."""
    effects: tuple[str, ...] = ("channel_strip", *MDA)
    """Effect presets or YAML files."""
    split: Literal["test", "valid"] = "test"
    """What is judged by; choose settings on valid."""
    clips: int = 200
    """Crops of each split, each through every effect."""
    permutations: int = 10
    """Of the null of the information."""
    draws: int = 1000
    """Of the bootstrap."""
    seed: int = 0
    """Of crops, settings, the untrained encoder, forests and draws."""
    out: Path | None = None
    """Where to write; .md, .json and .png are added."""


def main(arguments: list[str] | None = None) -> None:
    """Renders, encodes, probes; prints the report, writes it, numbers and figure."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    if len(options.effects) < 2 or options.clips < 2 * SHARE:
        raise ValueError(
            f"{len(options.effects)} effects, {options.clips} clips: give two and"
            f" {2 * SHARE} at least"
        )
    for name in options.effects:
        load_effect(name)
    encoder, weights, shared = parts(options)
    with tempfile.TemporaryDirectory() as scratch:
        clips = collection(options.data, Path(scratch))
        crops = {
            split: balanced_crops(
                clips,
                split,
                options.categories,
                # Crops are halved.
                2 * encoder.length / encoder.sample_rate,
                encoder.sample_rate,
                count=options.clips // SHARE * SHARE,
                seed=options.seed,
            )
            for split in ("train", options.split)
        }
    known, judged = (
        code_pairs(
            each,
            options.effects,
            encoder,
            weights,
            shared,
            middle_of=SIX,
            # What is fitted knows the more the more settings it has seen.
            share=1 if split == "train" else SHARE,
            stream=(options.seed, *split.encode()),
            seed=options.seed,
        )
        for split, each in crops.items()
    )
    summary = measure(known, judged, encoder, options)
    text = markdown(summary)
    print(text)
    if options.out is None:
        return
    for suffix, content in (
        (".md", text),
        (".json", json.dumps(summary, indent=1) + "\n"),
    ):
        with written_aside(options.out.with_suffix(suffix), overwrite=True) as aside:
            aside.write_text(content)
    plotting.save(draw(summary), options.out.with_suffix(".png"), overwrite=True)


def parts(options: Arguments) -> tuple[SoundEncoder, Any, Shared | None]:
    """The encoder, its weights, and the latents that stand on it, if any.

    Raises:
      ValueError: neither is named, or the latents stand on another encoder.
    """
    shared = None if options.latents is None else load_shared(options.latents)
    if options.encoder is not None:
        encoder, weights = load_encoder(options.encoder, options.which)
        if shared and tree_hash(weights) != tree_hash(shared.params["encoder"]):
            raise ValueError(
                f"{options.latents} stands on another encoder than the"
                f" {options.which} of {options.encoder}; leave --encoder out"
            )
        return encoder, weights, shared
    if shared is None:
        raise ValueError("name a run with --encoder, or a file with --latents")
    return shared.encoder, shared.params["encoder"], shared


# ------------------------------------------------------------------------- measurements


def measure(
    known: Coded, judged: Coded, encoder: SoundEncoder, options: Arguments
) -> dict[str, Any]:
    """Everything that is reported, plain JSON."""
    tables = code_tables(known, judged, encoder.size, options.seed)
    groups = sorted(set(judged.group))
    kinds = {
        str(kind): len(set(judged.crops.group[judged.crops.category == kind]))
        for kind in np.unique(judged.crops.category)
    }
    return {
        "encoder": str(
            options.latents
            if options.encoder is None
            else f"{options.which} checkpoint of {options.encoder}"
        ),
        "sizes": {name: int(table["train"].shape[1]) for name, table in tables.items()},
        "split": options.split,
        "groups": kinds,
        "groups_known": len(set(known.group)),
        "items": [len(known.effect), len(judged.effect)],
        "lost": [known.lost, judged.lost],
        "effects": list(judged.effects),
        "which_effect": which_effect(known, judged, tables, encoder, options),
        "information": information(judged, tables, options),
        "explained": explained(known, judged, tables, groups, options),
        "content": content(judged, tables, options),
        "recall": retrieval(known, judged, tables, options),
    }


def _cell(found: Score) -> dict[str, Any]:
    return {"value": found.accuracy, "interval": found.interval()}


def _less(ours: Score, theirs: Score) -> dict[str, Any]:
    return {
        "value": ours.accuracy - theirs.accuracy,
        "interval": interval(ours.draws[0] - theirs.draws[0]),
    }


def which_effect(
    known: Coded,
    judged: Coded,
    tables: Mapping[str, Mapping[str, np.ndarray]],
    encoder: SoundEncoder,
    options: Arguments,
) -> dict[str, Any]:
    """Accuracy by task, code and probe, chance, and f less each rival.

    Tasks are ``all`` effects, the ``six`` of the original study, and these at settings
    in the ``middle``, with components fitted to sounds at those.
    """
    tasks = {"all": _question(known, judged, tables)}
    # Effects have one number each, whichever question they are in.
    six = [i for i, name in enumerate(judged.effects) if name in SIX]
    if len(six) > 1:
        tasks["six"] = _question(known, judged, tables, six)
        tasks["middle"] = _middle_question(known, judged, encoder, options)
    report: dict[str, Any] = {}
    for task, codes in tasks.items():
        scores: dict[str, dict[str, Score]] = {}
        for name, (ours, theirs) in codes.items():
            scores[name] = {}
            for probe in PROBES:
                told = predict(probe, ours, theirs.embedding, options.seed)
                scores[name][probe] = _score(told, theirs, len(judged.effects), options)
        truth = codes["f"][1].label
        report[task] = {
            "effects": [judged.effects[i] for i in np.unique(truth)],
            "chance": float(np.bincount(truth).max() / len(truth)),
            "accuracy": {
                name: {probe: _cell(found) for probe, found in by_probe.items()}
                for name, by_probe in scores.items()
            },
            "f_less": {
                rival: {
                    probe: _less(scores["f"][probe], scores[rival][probe])
                    for probe in PROBES
                }
                for rival in BASES[1:]
            },
            "recall": {
                name: _recalls(found["linear"].confusion)
                for name, found in scores.items()
            },
        }
    return report


def _question(
    known: Coded,
    judged: Coded,
    tables: Mapping[str, Mapping[str, np.ndarray]],
    effects: Sequence[int] | None = None,
) -> Questions:
    """Which effect each treated sound went through, of some or of all."""
    effects = range(len(judged.effects)) if effects is None else effects
    ours, theirs = (np.isin(coded.effect, effects) for coded in (known, judged))
    return {
        name: (
            Labelled(table["train"][ours], known.effect[ours], known.group[ours]),
            Labelled(
                table["judged"][theirs], judged.effect[theirs], judged.group[theirs]
            ),
        )
        for name, table in tables.items()
    }


def _middle_question(
    known: Coded, judged: Coded, encoder: SoundEncoder, options: Arguments
) -> Questions:
    """The same of sounds at settings in the middle."""
    images = {"train": known.middle["image"], "judged": judged.middle["image"]}
    pca, moments = reduced(images, encoder.size, options.seed)
    tables = {
        name: {"train": known.middle[name], "judged": judged.middle[name]}
        for name in ("f", "untrained")
    }
    return {
        name: (
            Labelled(table["train"], known.middle_effect, known.middle_group),
            Labelled(table["judged"], judged.middle_effect, judged.middle_group),
        )
        for name, table in {**tables, "pca": pca, "moments": moments}.items()
    }


def _score(
    told: np.ndarray, asked: Labelled, classes: int, options: Arguments
) -> Score:
    return score(
        told,
        asked.label,
        asked.group,
        classes,
        draws=options.draws,
        seed=options.seed,
    )


def _recalls(confusion: np.ndarray) -> list[float]:
    present = confusion.sum(1) > 0
    return (np.diag(confusion)[present] / confusion[present].sum(1)).tolist()


def information(
    judged: Coded,
    tables: Mapping[str, Mapping[str, np.ndarray]],
    options: Arguments,
) -> dict[str, Any]:
    """Nats of the best axis, and the null's, by effect, parameter and code."""
    report: dict[str, Any] = {}
    for number, effect in enumerate(judged.effects):
        own = judged.effect == number
        names = judged.parameters[number]
        report[effect] = {name: {} for name in names}
        for code in _MEASURED:
            if code not in tables:
                continue
            told = axis_information(
                tables[code]["judged"][own],
                judged.controls[number],
                judged.setting[own],
                permutations=options.permutations,
                seed=options.seed,
            )
            for name, nats, null in zip(names, *told, strict=True):
                report[effect][name][code] = {"nats": float(nats), "null": float(null)}
    return report


def explained(
    known: Coded,
    judged: Coded,
    tables: Mapping[str, Mapping[str, np.ndarray]],
    groups: Sequence[str],
    options: Arguments,
) -> dict[str, Any]:
    """R^2 by effect and code, of each parameter and their mean, and f less rivals."""
    both = {name: (name, f"{name} change") for name in BASES}
    both |= {"z": ("z",)} if "z" in tables else {}
    inputs = {
        name: {
            split: np.concatenate([tables[part][split] for part in used], 1)
            for split in ("train", "judged")
        }
        for name, used in both.items()
    }
    report: dict[str, Any] = {}
    draws: dict[str, list[np.ndarray]] = {name: [] for name in inputs}
    each: dict[str, list[np.ndarray]] = {name: [] for name in inputs}
    for number, effect in enumerate(judged.effects):
        ours, theirs = known.effect == number, judged.effect == number
        report[effect] = {}
        for name, table in inputs.items():
            found = ridge_explains(
                (table["train"][ours], known.controls[number]),
                (table["judged"][theirs], judged.controls[number]),
                judged.group[theirs],
                np.asarray(groups),
                draws=options.draws,
                seed=options.seed,
            )
            each[name].append(found.each)
            draws[name].append(found.draws)
            report[effect][name] = {
                "parameters": dict(
                    zip(judged.parameters[number], found.each.tolist(), strict=True)
                ),
                **_mean_of(found.each, found.draws),
            }
        report[effect]["f_less"] = {
            rival: _mean_of(
                each["f"][-1] - each[rival][-1], draws["f"][-1] - draws[rival][-1]
            )
            for rival in BASES[1:]
        }
    whole = {name: np.concatenate(parts) for name, parts in each.items()}
    all_draws = {name: np.concatenate(parts) for name, parts in draws.items()}
    total = {name: _mean_of(whole[name], all_draws[name]) for name in inputs}
    less = {
        rival: _mean_of(whole["f"] - whole[rival], all_draws["f"] - all_draws[rival])
        for rival in BASES[1:]
    }
    return {"effects": report, "all": {**total, "f_less": less}}


def _mean_of(each: np.ndarray, draws: np.ndarray) -> dict[str, Any]:
    return {"value": float(each.mean()), "interval": interval(draws.mean(0))}


def content(
    judged: Coded, tables: Mapping[str, Mapping[str, np.ndarray]], options: Arguments
) -> dict[str, Any]:
    """How well a linear probe tells speakers and pieces that no encoder has heard."""
    crops = judged.crops
    # Both halves of a crop are in a pair.
    length = crops.audio.shape[-1]
    earlier, later = halves_by_place(crops.group, crops.file, crops.offset, length)
    fitted, asked = (np.isin(judged.crop, part) for part in (earlier, later))
    if not fitted.any() or not asked.any():
        return {}
    names, label = np.unique(judged.group, return_inverse=True)
    accuracy = {}
    for name, table in tables.items():
        ours, theirs = (
            Labelled(table["judged"][own], label[own], judged.group[own])
            for own in (fitted, asked)
        )
        told = predict("linear", ours, theirs.embedding, options.seed)
        accuracy[name] = _cell(_score(told, theirs, len(names), options))
    share = np.bincount(label[asked]).max() / np.count_nonzero(asked)
    return {
        "groups": len(np.unique(label[asked])),
        "chance": float(share),
        "accuracy": accuracy,
    }


def retrieval(
    known: Coded,
    judged: Coded,
    tables: Mapping[str, Mapping[str, np.ndarray]],
    options: Arguments,
) -> dict[str, Any]:
    """Recall at 1 of the same settings with other content, of one effect and of any."""
    report: dict[str, Any] = {}
    for kind, within in (("one effect", True), ("any effect", False)):
        found: dict[str, Score] = {}
        among = 0
        for name, table in tables.items():
            mean, deviation = table["train"].mean(0), table["train"].std(0)
            codes = (table["judged"] - mean) / np.maximum(deviation, 1e-6)
            found[name], among = recall(
                codes,
                judged.setting,
                judged.group,
                judged.effect,
                among=_AMONG,
                within=within,
                seed=options.seed,
                draws=options.draws,
            )
        report[kind] = {
            "among": among,
            "accuracy": {name: _cell(each) for name, each in found.items()},
            "f_less": {rival: _less(found["f"], found[rival]) for rival in BASES[1:]},
        }
    return report
