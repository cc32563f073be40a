"""Gradient methods that train one controller by sound, at equal renders.

    python scripts/benchmark.py controller_gradients --out RUN
    python scripts/benchmark.py controller_gradients --run RUNS/strip --start cold \
        --budget 40000 --out RUN

One encoder, frozen, whose codes are computed once; one head, which every method trains
from the same weights on the same pairs by the multi-resolution STFT loss, until the
budget of renders is spent: a warm-started head (from ``--run``, a run of train.py
controller, or else from a small one that is trained here), or with ``--start cold`` an
untrained one on the same encoder. A method is NAME or NAME:RENDERS of an example, the
centre included; an example costs what it renders, and 3 renders for a gradient through
the effect or a stand-in in JAX. What the training of the learned stand-in rendered is
said apart. Learning rates fall to 0 by a cosine; of several, that of the least loss on
valid counts.

The loss of the render at the prediction is measured on valid clips along the way and on
test clips at the end, for the weights of the end. Intervals are 95 % bootstraps over
speakers or pieces, differences are paired. *gap closed* is the share of what autodiff
gains on the start. Writes RUN.json, RUN.md and RUN.png.
"""

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import tyro
from benchmarks.gradient_stand_ins import train_stand_in
from benchmarks.recordings import clips_of, collection
from tqdm import tqdm

from ddspx import plotting
from ddspx.audio import written_aside
from ddspx.data.dataset import CropConfig, audio_dataset
from ddspx.training.configuration import FitConfig
from ddspx.training.fit import fit
from ddspx.training.optimizer import OptimizerConfig
from styletransfer.audio_gradients import (
    WITH_STAND_IN,
    AudioTaskConfig,
    StandIn,
    gradient_sizes,
    renders_of,
)
from styletransfer.audio_losses import make_audio_loss
from styletransfer.audio_task import audio_task
from styletransfer.controller import load_controller
from styletransfer.controller_task import controller_task
from styletransfer.evaluation import bootstrap
from styletransfer.hosts import Host, open_host
from styletransfer.models import Controller, ControllerConfig, make_controller
from styletransfer.pairs import pair_batches
from styletransfer.prediction_metrics import at_level_of, audio_loss, is_loud
from styletransfer.presets import load_effect

SMALL = ControllerConfig(channels=(16, 32, 48, 64), embedding=64, hidden=(128, 64))
# Examples that the sizes for coordinates are measured on.
CALIBRATION = 16


@dataclass(frozen=True)
class Arguments:
    """Command line of the suite."""

    data: Path | None = None
    """Folder or manifest; when not given what DDSPX_DATA names, else practice music."""
    category: str = "speech"
    """Use only the recordings of this folder of the collection, if any."""
    effect: str = "channel_strip"
    """Preset; taken from --run where that is given."""
    run: Path | None = None
    """A run of train.py controller to begin with."""
    start: Literal["warm", "cold"] = "warm"
    """With the head of the run, or an untrained one on its encoder."""
    methods: tuple[str, ...] = (
        "autodiff",
        "spsa:3",
        "orthogonal:9",
        "coordinates:9",
        "control_variate:6",
        "proxy_full",
        "proxy_half",
    )
    """NAME or NAME:RENDERS."""
    budget: int = 30000
    """Renders of each method."""
    batch: int = 16
    """Pairs a step."""
    seconds: float = 1.0
    """Length of input and reference each."""
    sample_rate: int = 24000
    """Hz; that of --run where it is given."""
    pairs: tuple[int, int, int] = (1536, 64, 192)
    """Of train, valid and test."""
    rates: tuple[float, ...] = (1e-3,)
    """Learning rates tried; each takes the budget."""
    likelihood: float = 0.0
    """Weight of the likelihood of known settings, beside the sound."""
    warm_steps: int = 300
    """Steps of the small controller, without --run."""
    proxy_steps: int = 300
    """Steps of the stand-in."""
    proxy_runs: Path | None = None
    """Folder where trained stand-ins are kept and looked for."""
    looks: int = 6
    """Evaluations on valid along the way."""
    seed: int = 0
    """Of everything."""
    out: Path | None = None
    """Where to write; .json, .md and .png are added."""


class Scene(NamedTuple):
    """What all methods share."""

    host: Host
    controller: Controller
    start: Mapping[str, Any]
    train: list[dict[str, Any]]
    valid: list[dict[str, Any]]
    test: list[dict[str, Any]]
    groups: list[str]
    stand_in: StandIn | None
    sizes: np.ndarray | None


def main(arguments: list[str] | None = None) -> None:
    """Trains by every method, prints and writes the comparison."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        report = _measure(options, Path(scratch))
    text = markdown(report)
    print(text)
    if options.out is None:
        return
    for suffix, content in (
        (".json", json.dumps(report, indent=1) + "\n"),
        (".md", text),
    ):
        path = options.out.with_name(options.out.name + suffix)
        with written_aside(path, overwrite=True) as aside:
            aside.write_text(content)
    figure = plotting.curves(
        {name: tuple(row["curve"]) for name, row in report["methods"].items()},
        x_label="renders",
        y_label="multi-resolution STFT loss on valid",
        title=f"{report['effect']}, {options.start} start",
    )
    path = options.out.with_name(options.out.name + ".png")
    plotting.save(figure, path, overwrite=True)


def _measure(options: Arguments, scratch: Path) -> dict[str, Any]:
    loaded = None if options.run is None else load_controller(options.run)
    effect = load_effect(options.effect) if loaded is None else loaded.effect
    rate = options.sample_rate if loaded is None else loaded.config.sample_rate
    clips = collection(options.data, scratch)
    crops = CropConfig(sample_rate=rate, seconds=2 * options.seconds)
    length = 2 * options.seconds
    parts = {
        split: clips_of(clips, split, options.category, length)
        for split in ("train", "valid", "test")
    }
    with open_host(effect, rate) as host:
        datasets = {split: audio_dataset(part, crops) for split, part in parts.items()}
        if loaded is None:
            controller, params = _warm_start(host, datasets, scratch, options)
        else:
            controller, params = loaded.controller, loaded.params
        made = {
            split: _pairs(host, controller, params, datasets[split], count, k, options)
            for k, (split, count) in enumerate(
                zip(datasets, options.pairs, strict=True)
            )
        }
        groups = [
            parts["test"][i].group or parts["test"][i].path
            for batch in made["test"]
            for i in np.asarray(batch["file"])[np.asarray(batch["valid"])]
        ]
        if options.start == "cold":
            fresh = controller.init(jax.random.key(options.seed))["head"]
            params = {**params, "head": fresh}
        stand_in, stand_in_renders, took = None, 0, ""
        if any(_split(method)[0] in WITH_STAND_IN for method in options.methods):
            folder = options.proxy_runs or scratch / "stand_ins"
            proxy, weights, took = train_stand_in(
                effect.name, host, parts["train"], folder, options.proxy_steps
            )
            stand_in, stand_in_renders = StandIn(proxy.render, weights), 32
            stand_in_renders *= options.proxy_steps
            print(f"stand-in: {took}, {stand_in_renders} renders", flush=True)
        scene = Scene(
            host,
            controller,
            params,
            made["train"],
            made["valid"],
            made["test"],
            groups,
            stand_in,
            None,
        )
        scene = scene._replace(sizes=_sizes(scene, options))
        rows = {name: _train(scene, name, options) for name in options.methods}
        baselines = _baselines(scene, options)
    return {
        "effect": effect.name,
        "options": {k: str(v) for k, v in vars(options).items()},
        "controls": len(host.specs),
        "stand_in_renders": stand_in_renders,
        "stand_in_took": took,
        "baselines": _compare(baselines, groups, baselines["start"]),
        "methods": {
            name: {
                **{k: v for k, v in row.items() if k != "test"},
                **_against(row["test"], rows, baselines["start"], groups),
            }
            for name, row in rows.items()
        },
    }


def _warm_start(host, datasets, scratch, options) -> tuple[Controller, Any]:
    """A small controller that has learned from known settings."""
    controller = make_controller(SMALL, len(host.specs), int(host.sample_rate))
    batches = pair_batches(datasets["train"], host, 32, seed=options.seed + 9)
    plan = FitConfig(
        steps=options.warm_steps, save_every=options.warm_steps, quiet=True
    )
    rule = OptimizerConfig(
        learning_rate=1e-3, schedule="cosine", decay_steps=options.warm_steps
    )
    with controller_task(controller, host, rule) as task:
        state = fit(task, batches, plan, scratch / "warm")
    return controller, jax.device_get(state.params)


def _pairs(host, controller, params, dataset, count, seed, options):
    """Batches of pairs with their codes; whole batches, not valid rows included."""
    source = pair_batches(dataset, host, options.batch, seed=options.seed + seed)

    @jax.jit
    def encode(params, sounds):
        return jax.lax.map(
            lambda sound: controller.encode(params, controller.image(sound)), sounds
        )

    made: list[dict[str, Any]] = []
    for index in range(max(count // options.batch, 1)):
        drawn: Any = source[index]
        batch = dict(drawn)
        batch["valid"] = batch["valid"] & np.asarray(is_loud(batch["target"]))
        coded = {
            "dry_code": np.asarray(encode(params, batch["audio"])),
            "reference_code": np.asarray(encode(params, batch["reference"])),
        }
        kept = ("audio", "reference", "target", "controls", "labelled", "valid", "file")
        made.append({**{name: batch[name] for name in kept}, **coded})
    return made


def _sizes(scene: Scene, options: Arguments) -> np.ndarray | None:
    """Of the gradients at the start's predictions, on valid."""
    if not any(method.startswith("coordinates") for method in options.methods):
        return None
    batch = scene.valid[0]
    decide = jax.vmap(scene.controller.decide, (None, 0, 0))
    said = decide(scene.start, batch["dry_code"], batch["reference_code"])
    few = {
        name: np.asarray(batch[name])[:CALIBRATION]
        for name in ("audio", "target", "valid")
    }
    loss = make_audio_loss(AudioTaskConfig().loss, scene.host.sample_rate)
    controls = np.asarray(said.controls)[:CALIBRATION]
    return gradient_sizes(scene.host, loss, few, controls)


def _train(scene: Scene, name: str, options: Arguments) -> dict[str, Any]:
    """The best of the learning rates on valid: its curve, and its losses on test."""
    tried = [_run(scene, name, rate, options) for rate in options.rates]
    return min(tried, key=lambda row: row["curve"][1][-1])


def _run(scene, name, rate, options) -> dict[str, Any]:
    method, renders = _split(name)
    config = AudioTaskConfig(
        gradient=method, renders=renders, likelihood=options.likelihood
    )
    each = renders_of(config, scene.host.specs)
    steps = max(options.budget // (each * options.batch), 1)
    rule = OptimizerConfig(learning_rate=rate, schedule="cosine", decay_steps=steps)
    task = audio_task(
        scene.controller,
        scene.host,
        scene.start,
        config,
        rule,
        stand_in=scene.stand_in,
        sizes=scene.sizes,
    )
    state = task.init(jax.random.key(options.seed))
    looks = {round(k * steps / options.looks) for k in range(options.looks + 1)}
    curve: tuple[list[float], list[float]] = ([], [])
    rng = np.random.default_rng(options.seed)
    order, seconds, failed = rng.permutation(len(scene.train)), 0.0, []
    for step in tqdm(range(steps + 1), desc=f"{name} {rate:g}", leave=False):
        if step in looks:
            judged = _losses(scene, state.params, scene.valid)
            curve[0].append(step * each * options.batch)
            curve[1].append(float(judged.mean()))
        if step == steps:
            break
        batch = scene.train[order[step % len(order)]]
        began = time.perf_counter()
        state, metrics = task.step(state, batch)
        jax.block_until_ready(state.params)
        seconds += time.perf_counter() - began if step else 0.0
        failed.append(float(metrics["failed"]))
    print(
        f"{name} at {rate:g}: {steps} steps, {seconds:.0f} s, valid"
        f" {curve[1][0]:.4f} -> {curve[1][-1]:.4f}",
        flush=True,
    )
    return {
        "rate": rate,
        "steps": steps,
        "renders_of_an_example": each,
        "seconds": seconds,
        "failed": float(np.mean(failed)),
        "curve": curve,
        "test": _losses(scene, state.params, scene.test),
    }


def _losses(scene: Scene, params: Any, batches: list[dict[str, Any]]) -> np.ndarray:
    """Losses of the renders at the predictions, of the examples that are valid."""
    found = []
    for batch in batches:
        said = _decide(scene.controller)(
            {**scene.start, **params}, batch["dry_code"], batch["reference_code"]
        )
        rendered = scene.host.render(batch["audio"], np.asarray(said.controls))
        values = np.asarray(audio_loss(rendered.audio, batch["target"]))
        # A render that failed is what was there before: the input.
        dry = np.asarray(audio_loss(batch["audio"], batch["target"]))
        values = np.where(rendered.status == 0, values, dry)
        found.append(values[np.asarray(batch["valid"])])
    return np.concatenate(found)


_DECIDING: dict[Controller, Any] = {}


def _decide(controller: Controller):
    if controller not in _DECIDING:
        _DECIDING[controller] = jax.jit(jax.vmap(controller.decide, (None, 0, 0)))
    return _DECIDING[controller]


def _baselines(scene: Scene, options: Arguments) -> dict[str, np.ndarray]:
    del options

    def judged(sound):
        return np.concatenate(
            [
                np.asarray(audio_loss(sound(batch), batch["target"]))[batch["valid"]]
                for batch in scene.test
            ]
        )

    return {
        "nothing": judged(lambda batch: batch["audio"]),
        "level": judged(lambda batch: at_level_of(batch["reference"], batch["audio"])),
        "start": _losses(scene, scene.start, scene.test),
    }


def _compare(rows, groups, start) -> dict[str, Any]:
    return {
        name: {
            "loss": list(bootstrap(values, groups)),
            "gain": list(bootstrap(start - values, groups)),
        }
        for name, values in rows.items()
    }


def _against(values, rows, start, groups) -> dict[str, Any]:
    """Test loss, gain on the start, and what autodiff is ahead by, with intervals."""
    found = _compare({"own": values}, groups, start)["own"]
    if "autodiff" in rows:
        best = rows["autodiff"]["test"]
        found["behind_autodiff"] = list(bootstrap(values - best, groups))
        found["of_autodiff"] = float(values.mean() / best.mean())
        found["gap_closed"] = float(
            (start.mean() - values.mean()) / (start.mean() - best.mean())
        )
    return found


def markdown(report: dict[str, Any]) -> str:
    """The comparison as a Markdown table."""
    lines = [
        f"{report['effect']}, {report['controls']} controls,"
        f" {report['options']['start']} start, {report['options']['budget']} renders a"
        f" method; the stand-in was trained on {report['stand_in_renders']} more",
        "",
        "| method | renders of an example | steps | seconds | test loss [95 %] |"
        " gain on the start | behind autodiff | of autodiff | gap closed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in report["baselines"].items():
        lines.append(
            f"| *{name}* | | | | {_interval(row['loss'])} | {_interval(row['gain'])}"
            " | | | |"
        )
    for name, row in report["methods"].items():
        told = ["", "", ""]
        if "behind_autodiff" in row:
            told = [
                _interval(row["behind_autodiff"]),
                f"{row['of_autodiff']:.3f}",
                f"{row['gap_closed']:.0%}",
            ]
        lines.append(
            f"| {name} | {row['renders_of_an_example']} | {row['steps']}"
            f" | {row['seconds']:.0f} | {_interval(row['loss'])}"
            f" | {_interval(row['gain'])} | {' | '.join(told)} |"
        )
    return "\n".join(lines) + "\n"


def _interval(values: list[float]) -> str:
    return f"{values[0]:.4f} [{values[1]:.4f}, {values[2]:.4f}]"


def _split(name: str) -> tuple[Any, int]:
    """Method and renders of an example."""
    method, _, renders = name.partition(":")
    return method, int(renders) if renders else AudioTaskConfig().renders
