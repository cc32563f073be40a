"""Whole training runs: recordings and a configuration in, a run folder out."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from jax.sharding import Mesh

from ddspx.data.dataset import CropConfig, audio_dataset
from ddspx.data.manifest import Clip
from ddspx.data.split import select
from ddspx.training.fit import fit
from styletransfer.encoder_models import make_trainer
from styletransfer.encoder_task import EncoderRunConfig, encoder_task
from styletransfer.hosts import Host, open_host
from styletransfer.mixtures import joint_specs, mixed_batches
from styletransfer.models import make_controller
from styletransfer.presets import load_effect


@contextlib.contextmanager
def opened(effects: Sequence[str], sample_rate: int) -> Iterator[list[Host]]:
    """Hosts of several effects, by preset name or path, closed together."""
    with contextlib.ExitStack() as stack:
        found = [load_effect(effect) for effect in effects]
        yield [stack.enter_context(open_host(one, sample_rate)) for one in found]


def train_encoder(
    config: EncoderRunConfig,
    run_folder: Path,
    clips: tuple[Clip, ...],
    *,
    mesh: Mesh | None = None,
) -> None:
    """Trains an encoder of sounds on pairs of all of ``config.effects``.

    Args:
      config: of the run.
      run_folder: to write, or to go on with.
      clips: recordings with splits; train is trained on, valid judged.
      mesh: devices that share the batch; None for one.
    """
    crops = CropConfig(sample_rate=config.sample_rate, seconds=2 * config.seconds)
    known = audio_dataset(select(clips, "train"), crops)
    held_out = audio_dataset(select(clips, "valid"), crops)
    with opened(config.effects, config.sample_rate) as hosts:
        specs, widths = joint_specs(hosts), [len(host.specs) for host in hosts]
        controller = make_controller(config.model, len(specs), config.sample_rate)
        made, judged = (
            mixed_batches(
                part, hosts, config.pairs_per_effect, config=config.pairs, seed=seed
            )
            for part, seed in ((known, 0), (held_out, 1))
        )
        trainer = make_trainer(controller, config.model)
        with encoder_task(trainer, specs, widths, config, mesh) as task:
            fit(
                task,
                made,
                config.fit,
                run_folder,
                evaluation=judged,
                run_config=config,
                file_names=known.files,
                mesh=mesh,
            )
