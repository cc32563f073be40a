"""The faithful presets of VAEs against the modern one on the same images.

    python scripts/benchmark.py presets --data DATA --runs RUNS --out presets

A faithful preset and its modern counterpart have the same front-end, number of latents
and water level, are trained on the same recordings for the same time on this machine
(the number of steps follows from a few that are timed, and all schedules are scaled to
it), and are judged on the same recordings of speakers that neither has heard, by their
last checkpoints: mean square error of posterior means per element, the objective
``squared error / (2 tau) + KL`` in nats, and the multi-resolution STFT loss of the
sound with the input's phase. PCA of as many components stands beside them: of the
windows of the training recordings, and where the modern preset starts from random crops
too (``data.start_crops``) of the windows and those crops. Intervals resample speakers,
then their recordings. Trainings resume.
"""

import json
import tempfile
import time
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from benchmarks.latent_baselines import (
    NO_NOISE,
    images_of,
    linear_model,
    lower_by,
)
from benchmarks.recordings import collection
from tqdm import tqdm

from ddspx.audio import written_aside
from ddspx.data.dataset import audio_dataset
from ddspx.data.manifest import Clip
from ddspx.data.split import select
from ddspx.training.configuration import load_preset
from vae.examples import Examples, evaluation_batches, load_examples
from vae.pruned import Judged, judge_examples
from vae.run import LoadedVae, VaeRunConfig, load_vae
from vae.task import vae_task
from vae.training import MOST_AT_START, shortened, start_sounds, trained

PRESETS = Path(__file__).parents[2] / "configs/vae"
_TIMED = 3


@dataclass(frozen=True)
class Pair:
    """A faithful preset, its modern counterpart, and the recordings of both."""

    faithful: str
    modern: str
    only: str


PAIRS = {
    "tutorial": Pair("spoken_digit_tutorial", "spoken_digit_modern", "digits/*"),
    "original": Pair("original_spectrogram", "spectrogram_modern", "speech/*"),
}


@dataclass(frozen=True)
class Arguments:
    """Command line of the suite."""

    data: Path | None = None
    """Folder or manifest; when not given what DDSPX_DATA names, else practice music."""
    pairs: tuple[str, ...] = tuple(PAIRS)
    """Which: tutorial (spoken digits), original (speech)."""
    minutes: float = 8.0
    """Of training, each."""
    runs: Path | None = None
    """Folder of run folders, kept and resumed; a temporary one when not given."""
    examples: int = 400
    """Held-out examples, at most."""
    resamples: int = 2000
    """Of the bootstrap."""
    out: Path | None = None
    """Where to write; .json is added."""


def main(arguments: list[str] | None = None) -> None:
    """Trains the pairs, judges, prints a table each."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    unknown = set(options.pairs) - set(PAIRS)
    if unknown:
        raise ValueError(
            f"pairs {sorted(unknown)} unknown; choose from {', '.join(PAIRS)}"
        )
    report = {}
    with tempfile.TemporaryDirectory() as scratch:
        clips = collection(options.data, Path(scratch))
        runs = options.runs or Path(scratch) / "runs"
        for name in options.pairs:
            report[name] = compare(PAIRS[name], clips, runs, options)
    if options.out is not None:
        numbers = options.out.with_suffix(".json")
        with written_aside(numbers, overwrite=True) as file:
            file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def compare(
    pair: Pair, clips: tuple[Clip, ...], runs: Path, options: Arguments
) -> dict[str, Any]:
    """Trains and judges one pair; prints its table."""
    clips = tuple(c for c in clips if fnmatch(c.path, pair.only)) or clips
    configs = {
        name: load_preset(PRESETS / f"{name}.yaml", VaeRunConfig)
        for name in (pair.faithful, pair.modern)
    }
    front = configs[pair.faithful].front
    tau = configs[pair.faithful].tau
    assert tau is not None
    # Nothing is chosen by held-out recordings here, so that both splits judge.
    wanted = tuple(c for split in ("valid", "test") for c in select(clips, split))
    held_out = load_examples(configs[pair.faithful], wanted, most=options.examples)
    images = images_of(configs[pair.faithful], held_out.audio)
    groups = np.array([clip.group for clip in held_out.clips])
    rows: dict[str, dict[str, Any]] = {}
    judged: dict[str, Judged] = {}
    for name, config in configs.items():
        if config.front != front or config.tau != tau:
            raise ValueError(f"{name} has another front-end or tau: nothing to compare")
        step_s = seconds_of_step(config)
        steps = max(round(60.0 * options.minutes / step_s), 2)
        folder = runs / name
        if (folder / "run.json").is_file():
            # What was begun goes on with the length that it was begun with.
            config = load_vae(folder, "last").config
        else:
            config = shortened(config, steps)
        began = time.perf_counter()
        most = 8 * config.data.batch_size
        loaded = trained(config, folder, clips, most_held_out=most)
        spent = time.perf_counter() - began
        judged[name] = judge_examples(loaded, images)
        rows[name] = {
            "steps": config.fit.steps,
            "step_s": step_s,
            "spent_s": spent,
            "weights": sum(int(np.size(x)) for x in jax.tree.leaves(loaded.params)),
            "mr_stft": evaluated(config, folder, held_out)["mr_stft"],
        }
    components = fitted_components(configs[pair.faithful], configs[pair.modern], clips)
    for name, (model, fitted_to) in components.items():
        judged[name] = judge_examples(model, images)
        rows[name] = {"fitted_to": fitted_to}
    for name, found in judged.items():
        rows.setdefault(name, {})["mse"] = (
            float(found.squared_error.mean()) / front.elements
        )
        if name not in components:
            rows[name] |= {
                "objective": float(found.objective(tau).mean()),
                "kl": float(found.kl.mean()),
            }
    for baseline in (pair.faithful, *components):
        ours, theirs = judged[pair.modern], judged[baseline]
        told = {"mse": (ours.squared_error, theirs.squared_error)}
        if baseline not in components:
            told["objective"] = ours.objective(tau), theirs.objective(tau)
        for measure, (one, two) in told.items():
            interval = lower_by(one, two, groups, options.resamples)
            rows[pair.modern][f"{measure}_below_{baseline}"] = list(interval)
            alone = [
                1.0 - one[groups == name].mean() / two[groups == name].mean()
                for name in sorted(set(groups))
            ]
            worst = float(min(alone))
            rows[pair.modern][f"worst_{measure}_below_{baseline}"] = worst
    print(
        f"\n{pair.faithful} and {pair.modern}: {rows['pca']['fitted_to']} training"
        f" windows, {len(images)} held out of {len(set(groups))} speakers or pieces;"
        f" tau {tau:.4g}, {front.elements} elements"
    )
    for name, row in rows.items():
        print(f"{name:24}" + "  ".join(f"{k} {_text(v)}" for k, v in row.items()))
    return {"rows": rows, "tau": tau, "elements": front.elements}


def fitted_components(
    faithful: VaeRunConfig, modern: VaeRunConfig, clips: tuple[Clip, ...]
) -> dict[str, tuple[LoadedVae, int]]:
    """PCA of the training windows, and of windows and crops: model and examples."""
    known = select(clips, "train")
    sounds = {"pca": load_examples(faithful, known, most=MOST_AT_START).audio}
    if modern.data.start_crops:
        training = audio_dataset(known, modern.crops(augmented=True))
        sounds["pca_crops"] = start_sounds(modern, known, training)
    return {
        name: (
            linear_model(faithful, images_of(faithful, each), NO_NOISE),
            len(each),
        )
        for name, each in sounds.items()
    }


def seconds_of_step(config: VaeRunConfig) -> float:
    """Time of a training step on noise, compiled before; the least of a few."""
    task = vae_task(config)
    rng = np.random.default_rng(0)
    shape = (config.data.batch_size, 1, config.front.samples)
    batch = {"audio": (0.1 * rng.normal(size=shape)).astype(np.float32)}
    state = task.init(jax.random.key(0))
    times = []
    for _ in range(_TIMED + 1):
        began = time.perf_counter()
        state, _ = task.step(state, batch)
        jax.block_until_ready(state.params)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def evaluated(
    config: VaeRunConfig, folder: Path, held_out: Examples
) -> dict[str, float]:
    """Means of the task's own evaluation over held-out examples."""
    loaded = load_vae(folder, "last")
    with vae_task(config) as task:
        state = task.init(jax.random.key(0))
        extra = {**state.extra, "model_state": loaded.model_state}
        state = state.replace(params=loaded.params, extra=extra)
        assert task.evaluate is not None
        found = [
            jax.device_get(task.evaluate(state, batch))
            for batch in tqdm(
                evaluation_batches(held_out, config.data.batch_size),
                desc="evaluating",
                leave=False,
            )
        ]
    return {k: float(np.mean([f[k] for f in found])) for k in found[0]}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"{100 * value[0]:.1f} % [{100 * value[1]:.1f}, {100 * value[2]:.1f}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
