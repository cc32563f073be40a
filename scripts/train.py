"""Trains a model: resumes where it stopped when called again.

    python scripts/train.py proxy RUN --config configs/proxy/channel_strip.yaml
        [--data MANIFEST_OR_FOLDER] [--fit.steps 500] [...]

    python scripts/train.py controller RUN --config configs/controller/smoke.yaml
        [--data MANIFEST_OR_FOLDER] [--effect NAME] [...]

    python scripts/train.py encoder RUN --config configs/encoder/smoke.yaml
        [--data MANIFEST_OR_FOLDER] [--effects NAME NAME] [...]

    python scripts/train.py latents RUN --config configs/latents/smoke.yaml
        --encoder ENCODER_RUN [--data MANIFEST_OR_FOLDER] [...]

    python scripts/train.py decoder RUN --config configs/decoder/smoke.yaml
        --latents LATENTS_RUN --effect NAME [--data MANIFEST_OR_FOLDER] [...]

    python scripts/train.py tune RUN --config configs/tune/smoke.yaml
        --start DECODER_RUN [--data MANIFEST_OR_FOLDER] [...]

    python scripts/train.py vae RUN --config configs/vae/digits.yaml
        [--data MANIFEST_OR_FOLDER] [--objective.tau 20] [...]

    python scripts/train.py ddsp RUN --config configs/ddspx/solo_violin.yaml
        [--data MANIFEST_OR_FOLDER] [...]

    python scripts/train.py noisebandnet RUN --config configs/noisebandnet/laptop.yaml
        [--data MANIFEST_OR_FOLDER] [...]

    python scripts/train.py --config configs/ddspx/solo_violin.yaml --data.path DIR

Tasks: proxy (a learned differentiable stand-in of an effect), controller (predicts an
effect's settings from input and reference), encoder (of sounds, for the settings of
many effects), latents (the encoder of a controller, on the codes of an encoder of
sounds), decoder (from latents to the controls of one effect), tune (a decoder, by the
sound of its settings), vae (a beta-VAE of spectrograms), ddsp (an instrument of
harmonics and noise, played by f0 and loudness), noisebandnet (textures of noise bands,
played by curves). RUN is the folder to write; `tensorboard --logdir RUN` shows curves,
sounds and pictures.
The task may be left out where the preset says it (``task:``, or by its folder), and
then RUN too, which is runs/PRESET. --data.path is another name of --data.
Without --data the practice corpus is rendered into a folder beside RUN. --only PATTERN
takes the recordings whose path matches, such as 'digits/*'.
Bad input: one line, exit code 2.
"""

import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import compiler
import jax
from jax.sharding import Mesh

from ddspx.data.manifest import Clip, load_collection
from ddspx.data.practice import render_practice_corpus
from ddspx.data.split import assign_splits
from ddspx.tasks.ddsp_autoencoder import train_ddsp
from ddspx.tasks.ddsp_model import DdspRunConfig
from ddspx.tasks.noisebandnet import NoiseBandRunConfig, train_noisebandnet
from ddspx.training.configuration import (
    ConfigurationError,
    parse_command_line,
    read_yaml,
)
from ddspx.training.fit import fit
from ddspx.training.parallel import make_mesh
from styletransfer import training, tuning
from styletransfer.controller_task import ControllerRunConfig
from styletransfer.decoder_task import DecoderRunConfig
from styletransfer.encoder_task import EncoderRunConfig
from styletransfer.hosts import open_host
from styletransfer.latent_task import LatentRunConfig
from styletransfer.presets import kept_with, load_effect
from styletransfer.proxy import make_proxy
from styletransfer.proxy_task import ProxyRunConfig, proxy_task, rendered_batches
from styletransfer.tuning import TuneRunConfig
from vae import training as vae_training
from vae.run import VaeRunConfig
from vae.task import describe_tau


def main(arguments: list[str] | None = None) -> int:
    """Parses, trains; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if words else 2
    try:
        words = _with_task(words)
        if words[0] not in TASKS:
            raise ValueError(
                f"task {words[0]!r} unknown; there are: {', '.join(TASKS)}"
            )
        if len(words) < 2 or words[1].startswith("-"):
            raise ValueError(f"name the run folder: train.py {words[0]} RUN")
        data, rest = _take(words[2:], "--data", "a path")
        again, rest = _take(rest, "--data.path", "a path")
        data = again if data is None else data
        only, rest = _take(rest, "--only", "a pattern")
        kind, train = TASKS[words[0]]
        config = parse_command_line(kind, rest, description=__doc__ or "")
        clips = _clips(None if data is None else Path(data), Path(words[1]), only)
        mesh = make_mesh() if jax.device_count() > 1 else None
        train(config, Path(words[1]), clips, mesh=mesh)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    return 0


def train_proxy(
    config: ProxyRunConfig,
    run_folder: Path,
    clips: tuple[Clip, ...],
    *,
    mesh: Mesh | None = None,
) -> None:
    """Trains a stand-in of ``config.effect`` on random crops and controls."""
    effect = load_effect(config.effect)
    attachments = kept_with(effect, run_folder)
    known, held_out = training.crops_of(clips, config.sample_rate, config.seconds)
    proxy = make_proxy(effect, config.sample_rate, config.proxy)
    task = proxy_task(proxy, config.optimizer, mesh, sample_rate=config.sample_rate)
    with open_host(effect, config.sample_rate) as host, task:
        made, judged = (
            rendered_batches(part, host, config.batch_size, gain_db=gain, seed=seed)
            for part, gain, seed in ((known, config.gain_db, 0), (held_out, 0.0, 1))
        )
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


def train_vae(
    config: VaeRunConfig,
    run_folder: Path,
    clips: tuple[Clip, ...],
    *,
    mesh: Mesh | None = None,
) -> None:
    """Trains a VAE on random crops; judges it on whole recordings of other groups."""
    print(describe_tau(config))
    vae_training.train_vae(config, run_folder, clips, mesh=mesh)


# Configuration, and what trains: (config, run folder, clips, mesh=...).
TASKS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "proxy": (ProxyRunConfig, train_proxy),
    "controller": (ControllerRunConfig, training.train_controller),
    "encoder": (EncoderRunConfig, training.train_encoder),
    "latents": (LatentRunConfig, training.train_latents),
    "decoder": (DecoderRunConfig, training.train_decoder),
    "tune": (TuneRunConfig, tuning.tune_decoder),
    "vae": (VaeRunConfig, train_vae),
    "ddsp": (DdspRunConfig, train_ddsp),
    "noisebandnet": (NoiseBandRunConfig, train_noisebandnet),
}
# Folders of presets that are not called as their task.
_FOLDERS = {"ddspx": "ddsp"}


def _with_task(words: list[str]) -> list[str]:
    """The words with task and run in front, where they leave it to the preset."""
    if words[0] in TASKS:
        return words
    preset = _take(words, "--config", "a preset")[0]
    if preset is None:
        return words
    task = _task_of(Path(preset))
    if task is None:
        return words
    run = [] if not words[0].startswith("-") else [f"runs/{Path(preset).stem}"]
    return [task, *run, *words]


def _task_of(preset: Path) -> str | None:
    """The task that a preset names, or that its folder is called."""
    try:
        named = read_yaml(preset.read_text(encoding="utf-8")).get("task")
    except ConfigurationError as error:
        raise ConfigurationError(f"{preset}: {error}") from None
    folder = preset.resolve().parent.name
    task = named or _FOLDERS.get(folder, folder)
    return task if task in TASKS else None


def _clips(data: Path | None, run_folder: Path, only: str | None) -> tuple[Clip, ...]:
    if data is None:
        data = run_folder.parent / "practice"
        if not (data / "MANIFEST.csv").is_file():
            render_practice_corpus(data, overwrite=True)
    clips = load_collection(data).clips
    if only is not None:
        clips = tuple(clip for clip in clips if fnmatch(clip.path, only))
        if not clips:
            raise ValueError(f"--only {only!r} matches no recording of {data}")
    return clips if any(clip.split for clip in clips) else assign_splits(clips)


def _take(words: list[str], option: str, what: str) -> tuple[str | None, list[str]]:
    """The value of an option of this script, and the other words."""
    for index, word in enumerate(words):
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}="), words[:index] + words[index + 1 :]
        if word == option:
            if index + 1 == len(words):
                raise ValueError(f"{option}: expected {what}")
            return words[index + 1], words[:index] + words[index + 2 :]
    return None, words


if __name__ == "__main__":
    compiler.prepare()
    sys.exit(main())
