"""Networks of the controller: an encoder of sounds, and a head that sets controls.

Both are pure functions of (params, inputs). The encoder sees a log-mel image of any
number of frames and gives one code; it pools over time, so that the code neither
depends on the length nor on what else is in the batch. The head sees the codes of input
and reference and gives, for each control, a mean and a standard deviation in the unit
cube: how well the pair determines it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from ddspx.features import log_mel
from ddspx.types import AnyArray, Rate
from styletransfer.gradients.unit_interval import controls_from_logits

# Levels in dB to numbers about 1.
_FLOOR_DB, _CENTRE_DB, _SPREAD_DB = -100.0, -50.0, 25.0
# Deviations of a control: from a hundredth of the cube to more than all of it.
LOG_DEVIATION = (math.log(0.01), math.log(1.0))
# Of a control uniform in the unit interval: what is known before anything is heard.
UNIFORM_DEVIATION = math.sqrt(1.0 / 12.0)
# Above this a pair tells next to nothing of a control.
NOT_TOLD = 0.9 * UNIFORM_DEVIATION


@dataclass(frozen=True)
class ControllerConfig:
    """What the encoder and the head are made of.

    Attributes:
      window_s: analysis window in seconds, rounded up to a power of two samples.
      hop_s: between frames, seconds.
      bands: mel bands.
      channels: of each level of convolutions; every level halves frames and bands.
      embedding: size of a code.
      hidden: units of each layer of the head.
    """

    window_s: float = 0.04
    hop_s: float = 0.016
    bands: int = 64
    channels: tuple[int, ...] = (24, 48, 72, 96)
    embedding: int = 128
    hidden: tuple[int, ...] = (256, 128)


class Prediction(NamedTuple):
    """Controls [..., n] in [0, 1], and their standard deviations [..., n].

    Attributes:
      controls: in [0, 1].
      deviation: of each, in the unit cube.
      choices: logarithms of the probabilities of the choices, [..., choices], of each
        discrete control in turn, from a network that tells them apart; else empty.
    """

    controls: Any
    deviation: Any
    choices: tuple[Any, ...] = ()


class Controller(NamedTuple):
    """From a pair of sounds to controls; batch it with ``jax.vmap``.

    Attributes:
      init: ``(key) -> params``, ``{"encoder": ..., "head": ...}``.
      image: ``(audio[channels, time]) -> [frames, bands]``, the encoder's input.
      encode: ``(params, image) -> code [embedding]``.
      decide: ``(params, input code, reference code) -> Prediction``.
      predict: ``(params, audio, reference) -> Prediction``, all of these in turn.
      latents: ``(params, input code, reference code) -> (mean, log variance)``, each
        [latents], of a controller with latents between codes and controls; or None.
      settle: ``(params, latents) -> Prediction``, the rest of `decide`; or None.
    """

    init: Callable[[jax.Array], Any]
    image: Callable[[Any], jax.Array]
    encode: Callable[[Any, Any], jax.Array]
    decide: Callable[[Any, Any, Any], Prediction]
    predict: Callable[[Any, Any, Any], Prediction]
    latents: Callable[[Any, Any, Any], tuple[jax.Array, jax.Array]] | None = None
    settle: Callable[[Any, Any], Prediction] | None = None


def make_controller(
    config: ControllerConfig, controls: int, sample_rate: Rate
) -> Controller:
    """A controller of an effect with so many controls.

    Args:
      config: sizes.
      controls: n.
      sample_rate: Hz, of the sounds.

    Returns:
      A `Controller`. Untrained it predicts the middle of the cube with the deviation
      of a uniform distribution.
    """
    encoder, head = Encoder(config), Head(config, controls)
    fft_size = 2 ** math.ceil(math.log2(config.window_s * sample_rate))
    hop_length = max(round(config.hop_s * sample_rate), 1)

    def image(audio: Float[AnyArray, "channels time"]):
        bands = log_mel(
            jnp.asarray(audio),
            sample_rate,
            fft_size=fft_size,
            hop_length=hop_length,
            mel_bands=config.bands,
            floor_db=_FLOOR_DB,
        )
        return (jnp.mean(bands, 0).T - _CENTRE_DB) / _SPREAD_DB

    def init(key):
        first, second = jax.random.split(key)
        smallest = jnp.zeros((2 ** len(config.channels), config.bands))
        code = jnp.zeros(config.embedding)
        return {
            "encoder": encoder.init(first, smallest)["params"],
            "head": head.init(second, code, code)["params"],
        }

    def encode(params, image):
        code: Any = encoder.apply({"params": params["encoder"]}, image)
        return code

    def decide(params, code, reference):
        found: Any = head.apply({"params": params["head"]}, code, reference)
        return Prediction(*found)

    def predict(params, audio, reference):
        codes = (encode(params, image(sound)) for sound in (audio, reference))
        return decide(params, *codes)

    return Controller(init, image, encode, decide, predict)


class Encoder(nn.Module):
    """Image [frames, bands] to code [embedding]; mean and deviation over frames."""

    config: ControllerConfig

    @nn.compact
    def __call__(self, image):
        """See the class."""
        hidden = image[..., None]
        for channels in self.config.channels:
            hidden = nn.Conv(channels, (3, 3), (2, 2))(hidden)
            hidden = nn.silu(_norm(hidden))
            inner = nn.Conv(channels, (3, 3))(hidden)
            hidden = hidden + nn.silu(_norm(inner))
        # Frequency stays where it is; only time is pooled.
        frames = nn.silu(nn.Dense(self.config.embedding)(_flat(hidden)))
        mean = jnp.mean(frames, 0, keepdims=True)
        deviation = jnp.sqrt(jnp.mean((frames - mean) ** 2, 0) + 1e-6)
        pooled = jnp.concatenate([mean[0], deviation])
        return nn.LayerNorm()(nn.Dense(self.config.embedding)(pooled))


class Head(nn.Module):
    """Codes of input and reference to (controls, deviations), each [controls]."""

    config: ControllerConfig
    controls: int

    @nn.compact
    def __call__(self, code, reference):
        """See the class."""
        hidden = jnp.concatenate([code, reference, reference - code])
        for size in self.config.hidden:
            hidden = nn.silu(nn.LayerNorm()(nn.Dense(size)(hidden)))
        small = nn.initializers.variance_scaling(0.01, "fan_in", "normal")
        out = nn.Dense(2 * self.controls, kernel_init=small)(hidden)
        logits, width = jnp.split(out, 2)
        log_deviation = jnp.clip(math.log(UNIFORM_DEVIATION) + width, *LOG_DEVIATION)
        return controls_from_logits(logits), jnp.exp(log_deviation)


def _norm(hidden):
    return nn.GroupNorm(math.gcd(8, hidden.shape[-1]))(hidden)


def _flat(hidden):
    return hidden.reshape(hidden.shape[0], -1)
