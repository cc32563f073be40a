"""Trained synthesis models from their run folders, at work on any sound.

    synthesizer = load_synthesizer("runs/violin")
    curves = synthesizer.analyze(audio)
    sound = synthesizer.render(curves, jax.random.key(0))

Nothing but the run folder is needed. What a `Synthesizer` is does not depend on what
was trained.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ddspx.tasks import ddsp_synthesizer, noisebandnet_synthesizer
from ddspx.tasks.ddsp_model import DdspRunConfig
from ddspx.tasks.noisebandnet import NoiseBandRunConfig
from ddspx.tasks.synthesizer import Synthesizer
from ddspx.training.checkpoint import CheckpointError, read_run, restore_params
from ddspx.training.configuration import ConfigurationError, from_dict

__all__ = ["Synthesizer", "load_synthesizer"]


def load_synthesizer(run_folder: str | Path, which: str = "best") -> Synthesizer:
    """A trained synthesis model.

    Args:
      run_folder: of a run that trained one.
      which: ``"best"`` or ``"last"`` checkpoint.

    Returns:
      A `Synthesizer`.

    Raises:
      CheckpointError: no such run, or nothing saved yet.
      ConfigurationError: a run of something that is no synthesis model.
    """
    if which not in ("best", "last"):
        raise CheckpointError(f"checkpoint {which!r} unknown; there are best and last")
    stored = read_run(run_folder)["config"]
    kind = _kind(stored)
    if kind not in _LOADERS:
        raise ConfigurationError(
            f"{run_folder} did not train a synthesis model (its configuration has"
            f" {', '.join(sorted(stored))}); give a run of"
            f" {' or '.join(sorted(_LOADERS))}"
        )
    return _LOADERS[kind](stored, run_folder, which)


def _kind(stored: Mapping[str, Any]) -> str:
    """What a configuration trained."""
    if "task" in stored:
        return str(stored["task"])
    return "noisebandnet" if {"source", "controls"} <= stored.keys() else ""


def _load_ddsp(
    stored: Mapping[str, Any], run_folder: str | Path, which: str
) -> Synthesizer:
    return ddsp_synthesizer.loaded(
        from_dict(DdspRunConfig, stored),
        restore_params(run_folder, which=which),
        restore_params(run_folder, ("extra", "ranges"), which=which),
    )


def _load_textures(
    stored: Mapping[str, Any], run_folder: str | Path, which: str
) -> Synthesizer:
    return noisebandnet_synthesizer.loaded(
        from_dict(NoiseBandRunConfig, stored),
        restore_params(run_folder, which=which),
        restore_params(run_folder, ("extra",), which=which),
    )


# By kind: (stored configuration, run folder, which) -> Synthesizer.
_LOADERS: dict[str, Callable[[Mapping[str, Any], str | Path, str], Synthesizer]] = {
    "ddsp": _load_ddsp,
    "noisebandnet": _load_textures,
}
