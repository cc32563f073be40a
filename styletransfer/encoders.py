"""Encoders of sounds, frozen: what every controller with latents stands on.

One is trained on the settings of many effects (`encoder_task`); the encoder of a
direct controller, or of a spectrogram VAE (`vae`), serves as well. All of them make a
code of a sound that depends on nothing but the sound.
"""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ddspx.training.checkpoint import CheckpointError, read_run, restore_params
from ddspx.training.configuration import from_dict
from ddspx.types import AnyArray
from styletransfer.controller_task import ControllerRunConfig
from styletransfer.encoder_task import EncoderRunConfig
from styletransfer.models import make_controller
from vae.models import make_vae
from vae.run import VaeRunConfig, load_vae, to_image

# Sounds that are encoded at once.
_AT_ONCE = 32


class SoundEncoder(NamedTuple):
    """An encoder, without its weights.

    Attributes:
      kind: ``"effects"``, ``"direct"`` or ``"vae"``: how it was trained.
      config: of its run, as plain data.
      sample_rate: Hz, of the sounds.
      seconds: length of a sound that it was trained on.
      size: of a code.
      image: ``(audio[channels, time]) -> image``.
      encode: ``({"encoder": weights}, image) -> code [size]``.
    """

    kind: str
    config: Mapping[str, Any]
    sample_rate: int
    seconds: float
    size: int
    image: Callable[[Any], Any]
    encode: Callable[[Any, Any], Any]

    @property
    def length(self) -> int:
        """Samples of a sound."""
        return round(self.seconds * self.sample_rate)


def make_encoder(kind: str, config: Mapping[str, Any]) -> SoundEncoder:
    """An encoder from the kind and configuration of its run.

    Equal ones are one, and with it what is compiled: the controllers of all effects
    share theirs.

    Raises:
      ValueError: no such kind.
      ConfigurationError: the configuration is of another kind.
    """
    return _made(kind, json.dumps(config, sort_keys=True))


@functools.lru_cache(maxsize=16)
def _made(kind: str, text: str) -> SoundEncoder:
    config = json.loads(text)
    if kind == "vae":
        return _of_vae(config)
    kinds = {"effects": EncoderRunConfig, "direct": ControllerRunConfig}
    if kind not in kinds:
        raise ValueError(f"encoder {kind!r} unknown; there are effects, direct and vae")
    run: Any = from_dict(kinds[kind], config)
    # The encoder is the same whatever the head was for.
    controller = make_controller(run.model, 1, run.sample_rate)
    return SoundEncoder(
        kind=kind,
        config=config,
        sample_rate=run.sample_rate,
        seconds=run.seconds,
        size=run.model.embedding,
        image=controller.image,
        encode=controller.encode,
    )


def load_encoder(
    run_folder: str | Path, which: str = "best"
) -> tuple[SoundEncoder, Any]:
    """The encoder of a run, and its weights.

    Args:
      run_folder: of ``train.py encoder``, ``controller`` or ``vae``.
      which: ``"best"`` or ``"last"`` checkpoint.

    Raises:
      CheckpointError: no such run, nothing saved yet, or one of another kind.
    """
    config = read_run(run_folder)["config"]
    if "effects" in config and "contrast" in config:
        kind = "effects"
    elif "effect" in config and "pairs" in config:
        kind = "direct"
    elif "front" in config:
        loaded = load_vae(run_folder, which)
        weights = {"params": loaded.params, "state": loaded.model_state}
        return make_encoder("vae", config), weights
    else:
        raise CheckpointError(
            f"{run_folder} holds no encoder of sounds; give a run of train.py encoder,"
            " controller or vae"
        )
    weights = restore_params(run_folder, ("params", "encoder"), which=which)
    return make_encoder(kind, config), weights


def encode_sounds(
    encoder: SoundEncoder,
    weights: Any,
    audio: Float[np.ndarray, "sounds channels time"],
) -> np.ndarray:
    """Codes [sounds, size] of sounds of one length, each by itself.

    Args:
      encoder: from `load_encoder`.
      weights: its.
      audio: at its sample rate.
    """
    compiled = _compiled(encoder.image, encoder.encode)
    codes = []
    for start in range(0, len(audio), _AT_ONCE):
        some = np.asarray(audio[start : start + _AT_ONCE], np.float32)
        missing = _AT_ONCE - len(some) if len(audio) > _AT_ONCE else 0
        if missing:
            some = np.concatenate([some, np.repeat(some[:1], missing, 0)])
        found = jax.device_get(compiled(weights, some))
        codes.append(found[: len(found) - missing])
    return np.concatenate(codes) if codes else np.zeros((0, encoder.size), np.float32)


@functools.lru_cache(maxsize=16)
def _compiled(image: Any, encode: Any) -> Any:
    def codes(weights: Any, audio: Any) -> Any:
        return jax.vmap(lambda x: encode({"encoder": weights}, image(x)))(audio)

    return jax.jit(codes)


def _of_vae(config: Mapping[str, Any]) -> SoundEncoder:
    run = from_dict(VaeRunConfig, config)
    vae = make_vae(run.model, run.shape)
    front = run.front

    def image(audio: Float[AnyArray, "channels time"]) -> jax.Array:
        sound = jnp.mean(jnp.asarray(audio), axis=0)
        missing = front.samples - sound.shape[-1]
        sound = jnp.pad(sound, (0, max(missing, 0)))[: front.samples]
        return to_image(run, sound[None]).image[0]

    def encode(params: Any, image: Any) -> jax.Array:
        weights = params["encoder"]
        mean, _ = vae.encode(weights["params"], weights["state"], image[None])
        return mean[0]

    return SoundEncoder(
        kind="vae",
        config=config,
        sample_rate=round(front.sample_rate),
        seconds=front.samples / front.sample_rate,
        size=run.model.latents,
        image=image,
        encode=encode,
    )
