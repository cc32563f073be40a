"""Trains a VAE on recordings: what `scripts/train.py vae` and the pruning both run.

Training examples are random crops of the split ``train``; the model is judged on whole
recordings of ``valid``, whose groups (speakers, pieces) are not trained on.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from ddspx.data.dataset import AudioDataset, audio_dataset, batches
from ddspx.data.manifest import Clip
from ddspx.data.split import select
from ddspx.training.fit import fit
from ddspx.training.task import TrainState
from vae.examples import evaluation_batches, load_examples
from vae.models import pool
from vae.run import LoadedVae, VaeRunConfig, load_vae, to_image
from vae.task import vae_task

# Windows that a linear start is computed from, at most.
MOST_AT_START = 2000
_AT_ONCE = 64


def train_vae(
    config: VaeRunConfig,
    run_folder: str | Path,
    clips: tuple[Clip, ...],
    *,
    mesh: Mesh | None = None,
    most_held_out: int | None = None,
) -> TrainState:
    """Trains, or resumes, a run.

    Args:
      config: of the run.
      run_folder: its folder.
      clips: recordings with splits.
      mesh: devices that share the batch; None for one.
      most_held_out: held-out examples to judge by, evenly spread; None for all.

    Returns:
      The last state.

    Raises:
      ManifestError: a split without examples.
      CheckpointError: see `ddspx.training.fit.fit`.
    """
    training = audio_dataset(select(clips, "train"), config.crops(augmented=True))
    held_out = load_examples(config, select(clips, "valid"), most=most_held_out)
    start = None
    if config.model.linear_path:
        sounds = start_sounds(config, select(clips, "train"), training)
        start = start_images(config, sounds)
    with vae_task(config, mesh, start=start) as task:
        return fit(
            task,
            batches(training, config.data.batch_size),
            config.fit,
            run_folder,
            evaluation=evaluation_batches(held_out, config.data.batch_size),
            run_config=config,
            file_names=training.files,
            mesh=mesh,
        )


def start_sounds(
    config: VaeRunConfig, clips: Iterable[Clip], training: AudioDataset
) -> np.ndarray:
    """What a linear start is computed from: windows of recordings, then crops.

    Args:
      config: of the run.
      clips: recordings that are trained on.
      training: endless examples, of which the first ``data.start_crops`` are taken.

    Returns:
      [examples, time].
    """
    windows = load_examples(config, clips, most=MOST_AT_START).audio
    draws = (training.examples[k] for k in range(config.data.start_crops))
    crops = [draw["audio"][:1] for draw in draws if draw is not None]
    return np.concatenate([windows, *crops])


def start_images(config: VaeRunConfig, sounds: np.ndarray) -> np.ndarray:
    """The images of sounds as the linear path of a model sees them.

    Args:
      config: of the run.
      sounds: [examples, time].

    Returns:
      [examples, blocks in time, blocks in frequency], see `vae.models.pool`.
    """

    @jax.jit
    def seen(audio):
        return pool(to_image(config, audio).image, config.model.linear_pool)

    parts = np.split(sounds, range(_AT_ONCE, len(sounds), _AT_ONCE))
    return np.concatenate([np.asarray(seen(part)) for part in parts])


def trained(
    config: VaeRunConfig,
    run_folder: str | Path,
    clips: tuple[Clip, ...],
    *,
    most_held_out: int | None = None,
) -> LoadedVae:
    """A run trained to its end, or found so.

    Args:
      config: of the run.
      run_folder: its folder.
      clips: recordings with splits.
      most_held_out: see `train_vae`.

    Returns:
      The model of the last checkpoint.

    Raises:
      KeyboardInterrupt: training was stopped: half a run may not be judged as a whole.
    """
    state = train_vae(config, run_folder, clips, most_held_out=most_held_out)
    if int(state.step) < config.fit.steps:
        raise KeyboardInterrupt(f"{run_folder} was stopped at step {int(state.step)}")
    return load_vae(run_folder, "last")


def shortened(config: VaeRunConfig, steps: int) -> VaeRunConfig:
    """The same run with fewer or more steps, its schedules as long as they.

    Args:
      config: of the run.
      steps: of training.

    Returns:
      A configuration; its learning rate ends, and beta arrives, at the same share of
      the run.

    Raises:
      ValueError: fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps {steps} must be 1 or more")
    share = steps / config.fit.steps
    warm_up = min(round(share * config.optimizer.warmup_steps), steps - 1)
    schedule = config.objective.schedule
    return replace(
        config,
        optimizer=replace(
            config.optimizer,
            warmup_steps=warm_up,
            decay_steps=max(round(share * config.optimizer.decay_steps), 1),
        ),
        objective=replace(
            config.objective,
            schedule=replace(schedule, steps=max(round(share * schedule.steps), 1)),
        ),
        fit=replace(
            config.fit,
            steps=steps,
            evaluate_every=min(config.fit.evaluate_every, steps),
            save_every=min(config.fit.save_every, steps),
        ),
    )


def fine_tuning(config: VaeRunConfig, steps: int) -> VaeRunConfig:
    """How a model that was trained by `config` is trained on after it was pruned.

    A third of the learning rate, falling to nothing, with beta at its whole value.

    Args:
      config: of the pruned model.
      steps: how many; evaluated and saved at the end.

    Returns:
      A configuration.

    Raises:
      ValueError: fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"steps {steps} must be 1 or more")
    return replace(
        config,
        optimizer=replace(
            config.optimizer,
            learning_rate=config.optimizer.learning_rate / 3.0,
            schedule="cosine",
            warmup_steps=0,
            decay_steps=steps,
        ),
        objective=replace(
            config.objective,
            schedule=replace(config.objective.schedule, kind="constant"),
        ),
        fit=replace(config.fit, steps=steps, evaluate_every=steps, save_every=steps),
    )


def retraining(config: VaeRunConfig, latents: int, seed: int) -> VaeRunConfig:
    """The same run from scratch with another number of latents, weights and crops.

    Args:
      config: of the model that it is compared with.
      latents: K.
      seed: of weights, noise and crops, added to those of `config`.

    Returns:
      A configuration.
    """
    return replace(
        config,
        model=replace(config.model, latents=latents),
        data=replace(config.data, seed=config.data.seed + seed),
        fit=replace(config.fit, seed=config.fit.seed + seed),
    )
