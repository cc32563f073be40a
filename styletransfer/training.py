"""Whole training runs: recordings and a configuration in, a run folder out."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from ddspx.data.dataset import AudioDataset, CropConfig, audio_dataset
from ddspx.data.manifest import Clip
from ddspx.data.split import select
from ddspx.training.fit import fit
from styletransfer.bundle import (
    DECODER,
    SHARED,
    EffectController,
    Shared,
    load_shared,
    make_effect_controller,
    make_shared,
    save_decoder,
    save_shared,
    write_report,
)
from styletransfer.codes import CodeBank, code_bank, drawn_batches, joined
from styletransfer.controller_task import ControllerRunConfig, controller_task
from styletransfer.decoder_task import DecoderRunConfig, decoder_task
from styletransfer.encoder_models import make_trainer
from styletransfer.encoder_task import EncoderRunConfig, encoder_task
from styletransfer.encoders import SoundEncoder, load_encoder
from styletransfer.hosts import Host, open_host
from styletransfer.latent_models import make_latent_controller, make_latent_vae
from styletransfer.latent_size import size_of_latents
from styletransfer.latent_task import LatentRunConfig, latent_task
from styletransfer.mixtures import joint_specs, mixed_batches
from styletransfer.models import make_controller
from styletransfer.pairs import pair_batches
from styletransfer.presets import kept_with, load_effect

CACHE = "cache"


@contextlib.contextmanager
def opened(effects: Sequence[str], sample_rate: int) -> Iterator[list[Host]]:
    """Hosts of several effects, by preset name or path, closed together."""
    with contextlib.ExitStack() as stack:
        found = [load_effect(effect) for effect in effects]
        yield [stack.enter_context(open_host(one, sample_rate)) for one in found]


def crops_of(
    clips: tuple[Clip, ...], sample_rate: int, seconds: int | float
) -> tuple[AudioDataset, AudioDataset]:
    """Crops of the recordings to train on, and of those held out for choices.

    Args:
      clips: recordings with splits.
      sample_rate: Hz.
      seconds: length of a crop.

    Raises:
      ManifestError: no usable recording in one of the splits.
    """
    crops = CropConfig(sample_rate=sample_rate, seconds=seconds)
    known, held_out = (
        audio_dataset(select(clips, split), crops) for split in ("train", "valid")
    )
    return known, held_out


def train_controller(
    config: ControllerRunConfig,
    run_folder: Path,
    clips: tuple[Clip, ...],
    *,
    mesh: Mesh | None = None,
) -> None:
    """Trains a direct controller of ``config.effect`` on pairs.

    Args:
      config: of the run.
      run_folder: to write, or to go on with.
      clips: recordings with splits; train is trained on, valid judged.
      mesh: devices that share the batch; None for one.
    """
    effect = load_effect(config.effect)
    attachments = kept_with(effect, run_folder)
    known, held_out = crops_of(clips, config.sample_rate, 2 * config.seconds)
    with open_host(effect, config.sample_rate) as host:
        controller = make_controller(config.model, len(host.specs), config.sample_rate)
        made, judged = (
            pair_batches(part, host, config.batch_size, config=config.pairs, seed=seed)
            for part, seed in ((known, 0), (held_out, 1))
        )
        with controller_task(controller, host, config.optimizer, mesh) as task:
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
    known, held_out = crops_of(clips, config.sample_rate, 2 * config.seconds)
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


def train_latents(
    config: LatentRunConfig,
    run_folder: Path,
    clips: tuple[Clip, ...],
    *,
    mesh: Mesh | None = None,
) -> Shared:
    """Pre-trains g on codes of pairs of all of ``config.effects``.

    Args:
      config: of the run.
      run_folder: to write, or to go on with; codes are kept in ``cache`` beside it.
      clips: recordings with splits; train is trained on, valid judged.
      mesh: devices that share the batch; None for one.

    Returns:
      f and g, which are also in ``shared.npz`` of the run folder; beside it lie the
      proposals of a size, ``size.md`` and ``size.json``.
    """
    # The end of a schedule; deviations may have been judged better before it.
    encoder, weights = load_encoder(config.encoder, "last")
    cache = run_folder.parent / CACHE
    known, held_out = [], []
    with opened(config.effects, encoder.sample_rate) as hosts:
        for host in hosts:
            one, other = _banks(encoder, weights, clips, host, config, cache)
            known.append(one)
            held_out.append(other)
    whole, judged = joined(known), joined(held_out)
    vae = make_latent_vae(config.model, encoder.size, whole["controls"].shape[1])
    scale = np.std(whole["target"], axis=0) + 1e-6
    with latent_task(
        vae, scale, config.tau, config.optimizer, mesh, settings=config.settings
    ) as task:
        state = fit(
            task,
            drawn_batches(whole, config.batch_size),
            config.fit,
            run_folder,
            evaluation=[judged],
            run_config=config,
            mesh=mesh,
        )
    params = {"encoder": weights, "latents": state.params["latents"]}
    shared = make_shared(encoder, config.model, params)
    save_shared(run_folder / SHARED, shared, overwrite=True)
    size = size_of_latents(vae, state.params, judged, scale, config.tau)
    write_report(run_folder, "size", size.table(), size.markdown())
    return shared


def train_decoder(
    config: DecoderRunConfig,
    run_folder: Path,
    clips: tuple[Clip, ...],
    *,
    mesh: Mesh | None = None,
) -> EffectController:
    """Trains the h of ``config.effect`` on known settings.

    Args:
      config: of the run.
      run_folder: to write, or to go on with; codes are kept in ``cache`` beside it.
      clips: recordings with splits; train is trained on, valid judged.
      mesh: devices that share the batch; None for one.

    Returns:
      The controller, which is also in ``decoder.npz`` and ``shared.npz`` of the run
      folder.
    """
    effect = load_effect(config.effect)
    attachments = kept_with(effect, run_folder)
    place = Path(config.latents)
    shared = load_shared(place / SHARED if place.is_dir() else place)
    encoder, weights = shared.encoder, shared.params["encoder"]
    with open_host(effect, encoder.sample_rate) as host:
        specs = host.specs
        cache = run_folder.parent / CACHE
        known, held_out = _banks(encoder, weights, clips, host, config, cache)
    controller = make_latent_controller(encoder, shared.latents, config.model, specs)
    frozen = {"latents": shared.params["latents"]}
    judged = joined([held_out])
    with decoder_task(
        controller, frozen, specs, config.optimizer, mesh, sampled=config.sampled
    ) as task:
        state = fit(
            task,
            drawn_batches(joined([known]), config.batch_size),
            config.fit,
            run_folder,
            evaluation=[judged],
            run_config=config,
            mesh=mesh,
            attachments=attachments,
        )
        found = task.evaluate(state, judged) if task.evaluate else {}
    weights = jax.device_get(state.params["decoder"])
    note = {"pairs": config.pairs_per_effect, "valid": dict(found)}
    made = make_effect_controller(shared, effect, config.model, weights, note)
    save_shared(run_folder / SHARED, shared, overwrite=True)
    save_decoder(run_folder / DECODER, made, overwrite=True)
    return made


def _banks(
    encoder: SoundEncoder,
    weights: Any,
    clips: tuple[Clip, ...],
    host: Host,
    config: LatentRunConfig | DecoderRunConfig,
    cache: Path,
) -> tuple[CodeBank, CodeBank]:
    """Codes of pairs of one effect, of recordings known and held out."""
    datasets = crops_of(clips, encoder.sample_rate, 2 * encoder.seconds)
    counts = (config.pairs_per_effect, config.held_out_pairs)
    made = []
    for seed, (dataset, count) in enumerate(zip(datasets, counts, strict=True)):
        title = f"{host.effect.name}, {('known', 'held out')[seed]}"
        with tqdm(total=count, unit="pair", desc=title) as bar:
            bank = code_bank(
                encoder,
                weights,
                dataset,
                host,
                count,
                pairs=config.pairs,
                seed=seed,
                folder=cache,
                report=lambda done, bar=bar: bar.update(done - bar.n),
            )
        made.append(bank)
    return made[0], made[1]
