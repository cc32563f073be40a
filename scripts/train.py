"""Trains a model: resumes where it stopped when called again.

    python scripts/train.py proxy RUN --config configs/proxy/channel_strip.yaml
        [--data MANIFEST_OR_FOLDER] [--fit.steps 500] [...]

Tasks: proxy (a learned differentiable stand-in of an effect). RUN is the folder to
write; `tensorboard --logdir RUN` shows curves, sounds and pictures. Without --data the
practice corpus is rendered into a folder beside RUN. Bad input: one line, exit code 2.
"""

import sys
from pathlib import Path

import jax

from ddspx.data.dataset import CropConfig, audio_dataset
from ddspx.data.manifest import Clip, load_collection
from ddspx.data.practice import render_practice_corpus
from ddspx.data.split import assign_splits, select
from ddspx.training.configuration import parse_command_line
from ddspx.training.fit import fit
from ddspx.training.parallel import make_mesh
from styletransfer.hosts import open_host
from styletransfer.presets import load_effect
from styletransfer.proxy import make_proxy
from styletransfer.proxy_task import ProxyRunConfig, proxy_task, rendered_batches

CACHE = Path.home() / ".cache" / "ddspx-jax"


def main(arguments: list[str] | None = None) -> int:
    """Parses, trains; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if words else 2
    try:
        if words[0] != "proxy":
            raise ValueError(f"task {words[0]!r} unknown; there is: proxy")
        if len(words) < 2 or words[1].startswith("-"):
            raise ValueError("name the run folder after the task: train.py proxy RUN")
        data, rest = _take(words[2:], "--data")
        config = parse_command_line(ProxyRunConfig, rest, description=__doc__ or "")
        train_proxy(config, Path(words[1]), None if data is None else Path(data))
    except (ValueError, OSError, RuntimeError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    return 0


def train_proxy(config: ProxyRunConfig, run_folder: Path, data: Path | None) -> None:
    """Trains a stand-in of ``config.effect`` on random crops and controls."""
    effect = load_effect(config.effect)
    clips = _clips(data, run_folder)
    crops = CropConfig(sample_rate=config.sample_rate, seconds=config.seconds)
    training = audio_dataset(select(clips, "train"), crops)
    held_out = audio_dataset(select(clips, "valid"), crops)
    for skipped in (*training.skipped, *held_out.skipped):
        print(f"skipped: {skipped.path}: {skipped.reason}", file=sys.stderr)
    mesh = make_mesh() if jax.device_count() > 1 else None
    proxy = make_proxy(effect, config.sample_rate, config.proxy)
    task = proxy_task(proxy, config.optimizer, mesh, sample_rate=config.sample_rate)
    with open_host(effect, config.sample_rate) as host, task:
        made, judged = (
            rendered_batches(part, host, config.batch_size, gain_db=gain, seed=seed)
            for part, gain, seed in ((training, config.gain_db, 0), (held_out, 0.0, 1))
        )
        fit(
            task,
            made,
            config.fit,
            run_folder,
            evaluation=judged,
            run_config=config,
            file_names=training.files,
            mesh=mesh,
        )


def _clips(data: Path | None, run_folder: Path) -> tuple[Clip, ...]:
    if data is None:
        data = run_folder.parent / "practice"
        if not (data / "MANIFEST.csv").is_file():
            render_practice_corpus(data, overwrite=True)
    clips = load_collection(data).clips
    return clips if any(clip.split for clip in clips) else assign_splits(clips)


def _take(words: list[str], option: str) -> tuple[str | None, list[str]]:
    """The value of an option of this script, and the other words."""
    for index, word in enumerate(words):
        if word.startswith(f"{option}="):
            return word.removeprefix(f"{option}="), words[:index] + words[index + 1 :]
        if word == option:
            if index + 1 == len(words):
                raise ValueError(f"{option}: expected a path")
            return words[index + 1], words[:index] + words[index + 2 :]
    return None, words


if __name__ == "__main__":
    jax.config.update("jax_compilation_cache_dir", str(CACHE))
    sys.exit(main())
