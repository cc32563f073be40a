"""A trained controller at work: settings from an input and a reference.

Needs nothing but its run folder. Sounds of any length, rate and number of channels are
brought to the run's rate and cut into windows of the length that it was trained on;
codes are averaged over the windows that are not silent. Levels are left as they are:
the controller was trained on peaks of `PairConfig.peak_db`.

A setting is a physical value. At another sample rate than that of the run, ranges in Hz
may end elsewhere, and the controls follow the values.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from ddspx import audio as files
from ddspx.parameters import ParameterSpec, to_physical, to_unit
from ddspx.training.checkpoint import CheckpointError, read_run, restore_params
from ddspx.training.configuration import from_dict
from ddspx.types import Rate
from styletransfer import bundle
from styletransfer.controller_task import ControllerRunConfig
from styletransfer.hosts.description import HostEffect
from styletransfer.models import Controller, Prediction, make_controller
from styletransfer.presets import kept_effect

# Windows quieter than this, dBFS RMS, say nothing of an effect.
_SILENT_DB = -60.0


class LoadedController(NamedTuple):
    """A trained controller.

    Attributes:
      config: of its run.
      effect: that it controls, with the full ranges.
      controller: the functions.
      params: the weights.
    """

    config: ControllerRunConfig
    effect: HostEffect
    controller: Controller
    params: Any

    @property
    def specs(self) -> tuple[ParameterSpec, ...]:
        """The controls at the run's sample rate, which predictions are of."""
        return self.effect.at_sample_rate(self.config.sample_rate).specs


def load_controller(run_folder: str | Path, which: str = "best") -> LoadedController:
    """A trained controller from its run folder or file.

    Args:
      run_folder: of ``train.py controller``, ``decoder`` or ``tune``, or the file of an
        effect's decoder with the file of its encoders beside it (`bundle`).
      which: ``"best"`` or ``"last"`` checkpoint, of a folder of ``controller``.

    Raises:
      CheckpointError: no such run or file, nothing saved yet, no effect kept with it,
        or files that do not belong together.
      ConfigurationError: a run of another kind.
    """
    path = Path(run_folder)
    if (path / bundle.DECODER).is_file():
        path = path / bundle.DECODER
    if path.suffix == ".npz" or path.is_file():
        return _of_bundle(bundle.load_decoder(path))
    config = from_dict(ControllerRunConfig, read_run(run_folder)["config"])
    effect = kept_effect(Path(run_folder))
    if effect is None:
        raise CheckpointError(
            f"{run_folder} holds no effect.json: it is not known what it controls; copy"
            " the file of the run, or train again"
        )
    count = len(effect.at_sample_rate(config.sample_rate).specs)
    controller = _controller(config.model, count, config.sample_rate)
    return LoadedController(
        config, effect, controller, restore_params(run_folder, which=which)
    )


def _of_bundle(found: bundle.EffectController) -> LoadedController:
    encoder = found.shared.encoder
    config = ControllerRunConfig(
        effect=found.effect.name,
        sample_rate=encoder.sample_rate,
        seconds=encoder.seconds,
    )
    return LoadedController(config, found.effect, found.controller, found.params)


def embed(
    loaded: LoadedController, audio: Float[np.ndarray, "channels time"], rate: Rate
) -> np.ndarray:
    """The code [embedding] of a sound of any length, rate and number of channels.

    Args:
      loaded: from `load_controller`.
      audio: the sound.
      rate: its sample rate, Hz.

    Raises:
      ValueError: the sound is empty.
    """
    at_rate = files.resample(audio, round(rate), round(loaded.config.sample_rate))
    pieces = cut(at_rate, round(loaded.config.seconds * loaded.config.sample_rate))
    # Of the encoder alone, so that controllers that share one share what is compiled.
    weights = {k: v for k, v in loaded.params.items() if k == "encoder"}
    image, encode = loaded.controller.image, loaded.controller.encode
    codes = [jax.device_get(_encode(image, encode, weights, p)) for p in pieces]
    return np.mean(codes, axis=0)


def cut(audio: Float[np.ndarray, "channels time"], length: int) -> list[np.ndarray]:
    """Windows of `length` samples side by side, the last one ending with the sound.

    A shorter sound is followed by silence. Silent windows are left out, unless all are.

    Args:
      audio: the sound.
      length: samples.

    Raises:
      ValueError: the sound is empty.
    """
    time = audio.shape[-1]
    if not time:
        raise ValueError("the sound is empty; give one sample or more")
    if time < length:
        return [np.pad(audio, ((0, 0), (0, length - time)))]
    starts = [*range(0, time - length, length), time - length]
    pieces = [audio[:, start : start + length] for start in starts]
    power = [np.mean(piece.astype(np.float64) ** 2) for piece in pieces]
    loud = [
        piece
        for piece, level in zip(pieces, power, strict=True)
        if 10 * np.log10(level + 1e-20) >= _SILENT_DB
    ]
    return loud or pieces


def predict(
    loaded: LoadedController,
    audio: Float[np.ndarray, "channels time"],
    reference: Float[np.ndarray, "reference_channels reference_time"],
    rate: Rate,
    reference_rate: Rate,
) -> Prediction:
    """Controls of the effect at the rate of the input, deterministic.

    Args:
      loaded: from `load_controller`.
      audio: the input.
      reference: the sound to match.
      rate: of the input, Hz; the effect is rendered at it.
      reference_rate: of the reference, Hz.

    Returns:
      `Prediction`, NumPy arrays [n]: controls for
      ``loaded.effect.at_sample_rate(rate)``, and standard deviations.

    Raises:
      ValueError: a sound is empty.
    """
    codes = (embed(loaded, audio, rate), embed(loaded, reference, reference_rate))
    found = jax.device_get(_decide(loaded.controller, loaded.params, *codes))
    controls = at_rate(loaded, np.asarray(found.controls), rate)
    choices = tuple(np.asarray(shares) for shares in found.choices)
    return Prediction(controls, np.asarray(found.deviation), choices)


def at_rate(
    loaded: LoadedController, controls: Float[np.ndarray, "... n"], rate: Rate
) -> Float[np.ndarray, "... n"]:
    """Controls at the run's rate as those of the same physical values at another."""
    specs = loaded.effect.at_sample_rate(rate).specs
    physical = to_physical(loaded.specs, np.asarray(controls, np.float64))
    return np.clip(to_unit(specs, physical), 0.0, 1.0).astype(np.float32)


@functools.lru_cache(maxsize=16)
def _controller(model: Any, count: int, rate: Rate) -> Controller:
    """Equal runs share one, and with it what is compiled."""
    return make_controller(model, count, rate)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode(image: Any, encode: Any, params: Any, audio: Any) -> jax.Array:
    return encode(params, image(audio))


@functools.partial(jax.jit, static_argnums=0)
def _decide(controller: Controller, params: Any, code: Any, reference: Any) -> Any:
    return controller.decide(params, code, reference)
