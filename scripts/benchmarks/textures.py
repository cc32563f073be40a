"""Textures: noise bands against filtered noise behind the same network.

    python scripts/benchmark.py textures --data DATA --out RUNS/textures
    python scripts/benchmark.py textures --data DATA --out RUNS/tonal
        --classes drill motor --models harmonic bands harmonic_bands

For each class one model a synth is trained from scratch on its recordings of the split
``train`` less their ends, each for the same time: what a step costs is measured
first, all models in turn, and gives the number of steps. All networks have as many
parameters as the first model's, by their number of units.

Judged on two things that no model saw: ``later``, the last fifth (half a second to a
second) of the recordings that it was trained on, and ``other``, recordings of the
splits valid and test, in pieces of half a second, driven by their own loudness and
centroid. Reported are the multi-resolution STFT loss of training, and how far loudness
and centroid are from those asked for (frames of 46 ms). Intervals of 95 % resample
recordings, then their pieces; differences to the first model are paired.

Everything stands in the folder OUT, training resumes, and a class that is done is not
done again: OUT/report.md, OUT/curves.png, OUT/CLASS/ with its runs, CLASS.json, a
figure of spectrograms and the sounds.
"""

import dataclasses
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from benchmarks.recordings import collection
from benchmarks.textures_report import write_report
from tqdm import tqdm

from ddspx import audio, plotting
from ddspx.audio import written_aside
from ddspx.data.dataset import batches
from ddspx.data.manifest import Clip
from ddspx.losses import spectral_distance
from ddspx.models.noisebandnet import count_parameters, hidden_for
from ddspx.tasks.noisebandnet import noisebandnet_task, prepare, tracking
from ddspx.tasks.noisebandnet_model import Model, NoiseBandRunConfig, make_model
from ddspx.tasks.sounds import (
    Sound,
    crops,
    load_sounds,
    piece,
    windows,
)
from ddspx.tasks.texture_start import first_crops
from ddspx.training.checkpoint import restore_params
from ddspx.training.configuration import load_preset
from ddspx.training.fit import LOGS, fit
from ddspx.training.logging import read_scalars
from ddspx.training.task import Task

CLASSES = ("rain", "fire", "sea_waves", "drill", "metal", "water", "motor", "chainsaw")
# A model's name: kind, then the number of bins where it is filtered noise.
MODELS = ("bands", "filtered_65", "filtered_257", "filtered_1025")
MEASURES = ("loss", "loudness_error_db", "centroid_error_octaves")
# Seconds of a held-out piece, and of a recording for one to be kept back.
PIECE_S, SHORTEST_S = 0.5, 1.5
# Steps that are timed at once, and how often.
TIMED, ROUNDS = 3, 5


@dataclass(frozen=True)
class Arguments:
    """Command line of the suite."""

    data: Path | None = None
    """Folder or manifest; when not given what DDSPX_DATA names."""
    category: str = "textures"
    """Folder of the collection that has a folder for each class."""
    classes: tuple[str, ...] = CLASSES
    """Which."""
    models: tuple[str, ...] = MODELS
    """bands, parallel (bands behind the parallel recurrence), harmonic, harmonic_bands,
    filtered_N; the first is what the others are compared with."""
    config: Path = Path(__file__).parents[2] / "configs/noisebandnet/laptop.yaml"
    """Preset of the models."""
    seconds: float = 60.0
    """Of training, a model and class."""
    clock: Literal["wall", "cpu"] = "cpu"
    """Whose seconds: cpu counts all cores, and is the fairer one on a busy machine."""
    steps: int | None = None
    """Train so many steps whatever they cost, for a quick look."""
    curve: int = 8
    """Points of a learning curve."""
    resamples: int = 10_000
    """Of the bootstrap."""
    out: Path | None = None
    """Folder to write; a temporary one when not given."""


@dataclass(frozen=True)
class Entry:
    """One model of the comparison, compiled once for all classes."""

    name: str
    config: NoiseBandRunConfig
    model: Model
    task: Task
    parameters: int


def main(arguments: list[str] | None = None) -> None:
    """Trains, judges, compares; prints the table and writes everything."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch) / "textures"
        folder.mkdir(parents=True, exist_ok=True)
        clips = collection(options.data, Path(scratch))
        base = load_preset(options.config, NoiseBandRunConfig)
        wanted = {
            name: class_clips(clips, options.category, name) for name in options.classes
        }
        entries = make_entries(options.models, base)
        costs = step_costs(entries, options, folder)
        entries = tuple(
            lasting(
                entry, options.steps or options.seconds / costs[entry.name], options
            )
            for entry in entries
        )
        results = {}
        for name, own in wanted.items():
            path = folder / name / f"{name}.json"
            if path.is_file():
                results[name] = json.loads(path.read_text(encoding="utf-8"))
                continue
            results[name] = compare_class(name, own, entries, costs, folder)
            with written_aside(path, overwrite=True) as aside:
                aside.write_text(json.dumps(results[name], indent=1), encoding="utf-8")
            # After every class: what there is can be read while the next one trains.
            write_report(results, folder, options.resamples)
        print(write_report(results, folder, options.resamples))


def class_clips(clips: tuple[Clip, ...], category: str, name: str) -> tuple[Clip, ...]:
    """Recordings of a class.

    Raises:
      ValueError: there is none, or none to train on.
    """
    own = tuple(c for c in clips if c.path.startswith(f"{category}/{name}/"))
    if not any(clip.split == "train" for clip in own):
        raise ValueError(
            f"{category}/{name}/ has {len(own)} recordings, none of the split train"
        )
    return own


def make_entries(names: tuple[str, ...], base: NoiseBandRunConfig) -> tuple[Entry, ...]:
    """Models by their names, all with as many parameters as the first."""
    entries: list[Entry] = []
    for name in names:
        config = named_config(name, base)
        count = len(config.controls.names)
        model = make_model(config)
        sizes = model.synth.sizes
        if entries:
            units = hidden_for(entries[0].parameters, config.network, count, sizes)
            network = dataclasses.replace(config.network, hidden=units)
            config = dataclasses.replace(config, network=network)
            model = make_model(config)
        task = dataclasses.replace(
            noisebandnet_task(config, {}, model=model), show=None
        )
        parameters = count_parameters(config.network, count, sizes)
        entries.append(Entry(name, config, model, task, parameters))
    return tuple(entries)


def named_config(name: str, base: NoiseBandRunConfig) -> NoiseBandRunConfig:
    """The preset with another synth or recurrence.

    Raises:
      ValueError: no such model.
    """
    change = dataclasses.replace
    kind, _, size = name.partition("_")
    if kind == "filtered" and size.isdecimal():
        source = change(base.source, kind="filtered_noise", bins=int(size))
        return change(base, source=source)
    if name == "parallel":
        network = change(base.network, recurrence="parallel")
        return change(base, network=network)
    if name not in ("bands", "harmonic", "harmonic_bands"):
        raise ValueError(
            f"model {name!r} is unknown; there are bands, parallel, harmonic,"
            " harmonic_bands and filtered_N with N bins"
        )
    source = change(base.source, kind=name)
    names = dict.fromkeys(base.controls.names)
    if source.harmonic:
        names |= dict.fromkeys(("f0_hz", "confidence"))
    controls = change(base.controls, names=tuple(names))
    return change(base, source=source, controls=controls)


def step_costs(
    entries: tuple[Entry, ...], options: Arguments, folder: Path
) -> dict[str, float]:
    """Seconds of a training step of each model, measured in turn; kept in a file."""
    path = folder / "costs.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    key = f"{options.clock} {options.config.name} " + " ".join(options.models)
    if options.steps is not None:
        return {entry.name: float("nan") for entry in entries}
    if key in known:
        return known[key]
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    states, noise = {}, {}
    for entry in entries:
        noise[entry.name] = _noise_batch(entry.config)
        states[entry.name] = _task_for(entry, _noise_extra(entry)).init(
            jax.random.key(0)
        )
        states[entry.name], _ = entry.task.step(states[entry.name], noise[entry.name])
    taken: dict[str, list[float]] = {entry.name: [] for entry in entries}
    for _ in range(ROUNDS):
        for entry in entries:
            jax.block_until_ready(states[entry.name].params)
            start = clock()
            for _ in range(TIMED):
                states[entry.name], _ = entry.task.step(
                    states[entry.name], noise[entry.name]
                )
            jax.block_until_ready(states[entry.name].params)
            taken[entry.name].append((clock() - start) / TIMED)
    costs = {name: statistics.median(times) for name, times in taken.items()}
    with written_aside(path, overwrite=True) as aside:
        aside.write_text(json.dumps({**known, key: costs}, indent=1), encoding="utf-8")
    return costs


def lasting(entry: Entry, steps: float, options: Arguments) -> Entry:
    """The same model, its learning rate falling to the end of so many steps."""
    config, steps = entry.config, max(round(steps), 1)
    warm_up = min(config.optimizer.warmup_steps, steps - 1)
    every = max(steps // options.curve, 1)
    config = dataclasses.replace(
        config,
        optimizer=dataclasses.replace(
            config.optimizer, warmup_steps=warm_up, decay_steps=max(steps - warm_up, 1)
        ),
        fit=dataclasses.replace(
            config.fit,
            steps=steps,
            log_every=min(every, config.fit.log_every),
            evaluate_every=every,
            save_every=every,
            quiet=True,
        ),
    )
    task = noisebandnet_task(config, {}, model=entry.model)
    return dataclasses.replace(
        entry, config=config, task=dataclasses.replace(task, show=None)
    )


def _task_for(entry: Entry, extra: Any, start: Any = None) -> Task:
    """The entry's compiled functions with the statistics of a class."""
    own = noisebandnet_task(entry.config, extra, model=entry.model, start=start)
    return dataclasses.replace(entry.task, init=own.init)


def _noise_batch(config: NoiseBandRunConfig) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    rows, frames = config.crops.batch_size, config.frames
    batch = {"audio": rng.normal(0.0, 0.1, (rows, frames * config.source.hop))}
    for name in config.controls.names:
        low, high = (100.0, 1000.0) if name.endswith("_hz") else (-20.0, 0.0)
        batch[name] = rng.uniform(low, high, (rows, frames))
    made = {name: value.astype(np.float32) for name, value in batch.items()}
    return {**made, "file": np.zeros(rows, np.int32)}


def _noise_extra(entry: Entry) -> dict[str, Any]:
    batch = _noise_batch(entry.config)
    curves = {name: batch[name][0] for name in entry.config.controls.names}
    sound = Sound("noise", batch["audio"][0], curves)
    return prepare(entry.config, [sound], [sound]).extra


def compare_class(
    name: str,
    clips: tuple[Clip, ...],
    entries: tuple[Entry, ...],
    costs: dict[str, float],
    folder: Path,
) -> dict[str, Any]:
    """Trains every model on a class and judges it; figures and sounds are written."""
    result: dict[str, Any] = {"class": name, "models": {}}
    sounds: dict[str, tuple[np.ndarray, int]] = {}
    for entry in tqdm(entries, desc=name):
        parted = part(entry, clips, folder / "curves")
        run = folder / name / entry.name
        extra = train(entry, parted["train"], parted["later"], run)
        params = restore_params(run, which="last")
        judged = {
            part_name: judge(entry, params, extra, parted[part_name])
            for part_name in ("later", "other")
        }
        result["models"][entry.name] = {
            "parameters": entry.parameters,
            "hidden": entry.config.network.hidden,
            "steps": entry.config.fit.steps,
            "step_s": costs[entry.name],
            "curve": learning_curve(run),
            **judged,
        }
        if not sounds:
            sounds = _recordings(entry.config, parted)
        sounds |= _rendered(entry, params, extra, parted)
    for kind in ("later", "other"):
        chosen = {
            label.removeprefix(f"{kind} "): pair
            for label, pair in sounds.items()
            if label.startswith(kind)
        }
        figure = plotting.compare_sounds(chosen, title=f"{name}, {kind}")
        plotting.save(figure, folder / name / f"{kind}.png", overwrite=True)
    for label, (samples, rate) in sounds.items():
        wav = folder / name / f"{label.replace(' ', '_')}.wav"
        audio.save(wav, samples, rate, overwrite=True)
    return result


def part(
    entry: Entry, clips: tuple[Clip, ...], cache: Path
) -> dict[str, tuple[Sound, ...]]:
    """``train``, ``later`` and ``other`` of a class; see the module."""
    config, place = entry.config, entry.model.synth.core.frame_at
    rate, hop = config.source.sample_rate, config.source.hop
    least = round(PIECE_S * rate / hop)
    parts: dict[str, list[Sound]] = {"train": [], "later": [], "other": []}
    sounds = load_sounds(clips, config.controls, rate, hop, frame_at=place, cache=cache)
    for clip, sound in zip(clips, sounds, strict=True):
        frames = len(sound.audio) // hop
        if clip.split != "train":
            parts["other"].append(sound)
        elif frames * hop < SHORTEST_S * rate:
            parts["train"].append(sound)
        else:
            keep = min(max(frames // 5, least), 2 * least)
            parts["train"].append(piece(sound, 0, frames - keep, hop))
            parts["later"].append(piece(sound, frames - keep, frames, hop))
    if not parts["later"] or not parts["other"]:
        raise ValueError(
            f"{clips[0].path}: its class needs recordings to train on that last"
            f" {SHORTEST_S} s or more, and some of another split"
        )
    return {name: tuple(found) for name, found in parts.items()}


def train(
    entry: Entry,
    known: tuple[Sound, ...],
    held_out: tuple[Sound, ...],
    run: Path,
) -> dict[str, Any]:
    """Trains, or resumes, one model; returns what its state remembers of the sounds."""
    config, hop, steps = entry.config, entry.config.source.hop, entry.config.fit.steps
    prepared = prepare(config, known, held_out)
    rows = config.crops.batch_size
    state = fit(
        _task_for(entry, prepared.extra, first_crops(entry.config, known)),
        batches(crops(known, config.crops, config.frames, hop), rows),
        config.fit,
        run,
        evaluation=windows(held_out, config.frames, hop, rows),
        run_config=config,
        file_names=[sound.name for sound in known],
    )
    if int(state.step) < steps:
        raise KeyboardInterrupt(f"{run} was stopped at step {int(state.step)}")
    return prepared.extra


def judge(
    entry: Entry, params: Any, extra: dict[str, Any], sounds: tuple[Sound, ...]
) -> dict[str, Any]:
    """Measures of every held-out piece of half a second, and whose piece it is.

    Pieces 50 dB below the loudest sample that was trained on are left out: a quotient
    by silence says nothing.
    """
    rate, hop = entry.config.source.sample_rate, entry.config.source.hop
    frames = round(PIECE_S * rate / hop)
    rows = entry.config.crops.batch_size
    count = sum(max(len(sound.audio) // hop // frames, 1) for sound in sounds)
    found: dict[str, list[np.ndarray]] = {name: [] for name in MEASURES}
    groups: list[str] = []
    loud: list[np.ndarray] = []
    measured = _measured(entry)
    for batch in windows(sounds, frames, hop, rows):
        values = measured(params, extra, batch, entry.model.bank)
        for name in MEASURES:
            found[name].append(np.asarray(values[name], np.float64))
        groups += [sounds[index].name for index in batch["file"]]
        loud.append(np.mean(np.square(extra["gain"] * batch["audio"]), -1) > 1e-5)
    heard = np.concatenate(loud)[:count]
    return {
        "groups": [g for g, h in zip(groups[:count], heard, strict=True) if h],
        **{
            name: np.concatenate(each)[:count][heard].tolist()
            for name, each in found.items()
        },
    }


def _measured(entry: Entry) -> Any:
    recipe = entry.config.loss.recipe(entry.config.source.sample_rate)
    names = entry.config.controls.names

    @jax.jit
    def measured(params, extra, batch, bank):
        curves = {name: batch[name] for name in names}
        sound = entry.model.render(params, extra, curves, jax.random.key(0), bank)
        target = batch["audio"] * extra["gain"]
        errors = tracking(sound, target, entry.config.source.sample_rate)
        return {"loss": spectral_distance(sound, target, recipe)[0], **errors}

    return measured


def learning_curve(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Points (step, value) of the training loss and of the held-out one."""
    scalars = read_scalars(run / LOGS)
    return {tag: scalars[tag] for tag in ("train/loss", "evaluation/loss")}


def _shown(parted: dict[str, tuple[Sound, ...]]) -> dict[str, Sound]:
    """One sound of each held-out part."""
    return {name: parted[name][0] for name in ("later", "other")}


def _recordings(
    config: NoiseBandRunConfig, parted: dict[str, tuple[Sound, ...]]
) -> dict[str, tuple[np.ndarray, int]]:
    return {
        f"{name} recording": (sound.audio[None], config.source.sample_rate)
        for name, sound in _shown(parted).items()
    }


def _rendered(
    entry: Entry, params: Any, extra: Any, parted: dict[str, tuple[Sound, ...]]
) -> dict[str, tuple[np.ndarray, int]]:
    """The same sounds of a model, at their own level."""
    made, render = {}, jax.jit(entry.model.render)
    for name, sound in _shown(parted).items():
        curves = {control: curve[None] for control, curve in sound.curves.items()}
        key = jax.random.key(0)
        samples = render(params, extra, curves, key, entry.model.bank)
        rate = entry.config.source.sample_rate
        made[f"{name} {entry.name}"] = (np.asarray(samples / extra["gain"]), rate)
    return made
