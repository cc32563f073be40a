"""A controller's decoder, tuned by the sound of its settings: a whole run.

What comes out has the same f and g, bit for bit, and is kept in the same small files.
"""

from dataclasses import dataclass, field
from pathlib import Path

import jax
from jax.sharding import Mesh

from ddspx.data.manifest import Clip
from ddspx.training.checkpoint import restore_params
from ddspx.training.configuration import FitConfig, to_dict
from ddspx.training.fit import fit
from ddspx.training.optimizer import OptimizerConfig
from styletransfer.audio_gradients import AudioTaskConfig
from styletransfer.audio_task import audio_task
from styletransfer.bundle import (
    DECODER,
    SHARED,
    EffectController,
    load_decoder,
    make_effect_controller,
    save_decoder,
    save_shared,
)
from styletransfer.hosts import open_host
from styletransfer.pairs import PairConfig, pair_batches
from styletransfer.presets import kept_with
from styletransfer.training import crops_of


@dataclass(frozen=True)
class TuneRunConfig:
    """A run that tunes the decoder of one effect by sound.

    Attributes:
      start: run folder of ``train.py decoder``, or its file.
      batch_size: pairs a step.
      evaluation_size: pairs of an evaluation's batch.
      pairs: how they are made.
      audio: the loss, and how its gradient is got.
      optimizer: its optimizer.
      fit: how long, how often.
    """

    start: str = ""
    batch_size: int = 32
    evaluation_size: int = 64
    pairs: PairConfig = field(default_factory=PairConfig)
    audio: AudioTaskConfig = field(
        default_factory=lambda: AudioTaskConfig(trained=("decoder",), renders=5)
    )
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            name="adamw",
            learning_rate=1e-3,
            schedule="cosine",
            decay_steps=290,
            warmup_steps=10,
            weight_decay=1e-2,
        )
    )
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(
            steps=300, evaluate_every=50, save_every=100, evaluation_batches=4
        )
    )


def tune_decoder(
    config: TuneRunConfig,
    run_folder: Path,
    clips: tuple[Clip, ...],
    *,
    mesh: Mesh | None = None,
) -> EffectController:
    """Tunes the decoder of an effect by the loss of the sound.

    Args:
      config: of the run.
      run_folder: to write, or to go on with.
      clips: recordings with splits; train is trained on, valid judged.
      mesh: devices that share the batch; None for one.

    Returns:
      The controller with the weights of the best evaluation, which is also in
      ``decoder.npz`` and ``shared.npz`` of the run folder.
    """
    start = Path(config.start)
    loaded = load_decoder(start / DECODER if start.is_dir() else start)
    encoder, effect = loaded.shared.encoder, loaded.effect
    attachments = kept_with(effect, run_folder)
    known, held_out = crops_of(clips, encoder.sample_rate, 2 * encoder.seconds)
    with open_host(effect, encoder.sample_rate) as host:
        made, judged = (
            pair_batches(part, host, size, config=config.pairs, seed=seed)
            for part, size, seed in (
                (known, config.batch_size, 10),
                (held_out, config.evaluation_size, 11),
            )
        )
        task = audio_task(
            loaded.controller, host, loaded.params, config.audio, config.optimizer, mesh
        )
        with task:
            fit(
                task,
                made,
                config.fit,
                run_folder,
                evaluation=judged,
                run_config=config,
                file_names=known.files,
                mesh=mesh,
                attachments=attachments,
            )
    weights = jax.device_get(restore_params(run_folder, ("params", "decoder")))
    rendered = config.fit.steps * config.batch_size * config.audio.renders
    note = {**loaded.note, "tuned": to_dict(config), "tuning_renders": rendered}
    found = make_effect_controller(loaded.shared, effect, loaded.decoder, weights, note)
    save_shared(run_folder / SHARED, loaded.shared, overwrite=True)
    save_decoder(run_folder / DECODER, found, overwrite=True)
    return found
