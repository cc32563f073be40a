"""Networks of a controller with latents: g, what pre-trains it, and h.

    codes of input and reference --g--> latents z --h--> controls of one effect

g is the encoder of a beta-VAE whose decoder, thrown away later, predicts the code of
the treated input from the code of the input and z: what z has to carry is what was done
to the reference, whatever was played in it. h is a small network for one effect. g
serves all effects and every h.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ddspx.parameters import ParameterSpec
from styletransfer.encoders import SoundEncoder
from styletransfer.gradients.unit_interval import controls_from_logits
from styletransfer.models import (
    LOG_DEVIATION,
    UNIFORM_DEVIATION,
    Controller,
    Prediction,
)

# Posterior variances of a latent: from next to nothing to that of the prior and more.
_LOG_VARIANCE = (-10.0, 4.0)


@dataclass(frozen=True)
class LatentModelConfig:
    """Sizes of g and of what pre-trains it.

    Attributes:
      latents: K.
      hidden: units of each layer of g.
      forward: units of each layer of the decoder that is thrown away.
      guess: the same, of its part that guesses settings.
    """

    latents: int = 32
    hidden: tuple[int, ...] = (512, 256)
    forward: tuple[int, ...] = (512, 512)
    guess: tuple[int, ...] = (256, 128)

    def __post_init__(self):
        if self.latents < 1:
            raise ValueError(f"latents {self.latents} must be 1 or more")


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of h, and what it sees.

    Attributes:
      hidden: units of each layer.
      source: ``"latents"`` of g; or, to compare with, the codes of f themselves:
        ``"pair"`` (input, reference, and their difference: a direct controller) or
        ``"difference"`` (that alone: Siamese regression).
    """

    hidden: tuple[int, ...] = (128, 64)
    source: Literal["latents", "pair", "difference"] = "latents"


class LatentVae(NamedTuple):
    """g with the decoder that pre-trains it, as functions of one set of weights.

    Attributes:
      init: ``(key) -> {"latents": ..., "forward": ...}``.
      infer: ``(params, input code, reference code) -> (mean, log variance)``.
      forecast: ``(params, input code, latents) -> code of the treated input``.
      guess: ``(params, latents) -> Prediction`` of the settings of all effects.
    """

    init: Callable[[Any], Any]
    infer: Callable[[Any, Any, Any], tuple[Any, Any]]
    forecast: Callable[[Any, Any, Any], Any]
    guess: Callable[[Any, Any], Prediction]


def make_latent_vae(
    config: LatentModelConfig, size: int, controls: int = 1
) -> LatentVae:
    """G and its decoder for codes of so many elements.

    Args:
      config: sizes.
      size: of a code.
      controls: of all effects together, that the decoder guesses beside the forecast.
    """
    inference, forward = Inference(config), Forward(config)
    guesser = Decoder(DecoderConfig(config.guess), 2 * controls)
    code, latents = jnp.zeros(size), jnp.zeros(config.latents)

    def init(key):
        first, second, third = jax.random.split(key, 3)
        return {
            "latents": inference.init(first, code, code)["params"],
            "forward": forward.init(second, code, latents)["params"],
            "guess": guesser.init(third, latents)["params"],
        }

    def infer(params, code, reference):
        found: Any = inference.apply({"params": params["latents"]}, code, reference)
        return found

    def forecast(params, code, latents):
        return forward.apply({"params": params["forward"]}, code, latents)

    def guess(params, latents):
        out: Any = guesser.apply({"params": params["guess"]}, latents)
        logits, width = jnp.split(out, 2)
        wide = jnp.clip(jnp.log(UNIFORM_DEVIATION) + width, *LOG_DEVIATION)
        return Prediction(controls_from_logits(logits), jnp.exp(wide))

    return LatentVae(init, infer, forecast, guess)


def make_latent_controller(
    encoder: SoundEncoder,
    latents: LatentModelConfig,
    decoder: DecoderConfig,
    specs: Sequence[ParameterSpec],
) -> Controller:
    """f, g and h as one controller.

    Args:
      encoder: f, whose weights are ``params["encoder"]``.
      latents: sizes of g, whose weights are ``params["latents"]``.
      decoder: sizes of h, whose weights are ``params["decoder"]``.
      specs: the controls of the effect.

    Returns:
      A `Controller`, with `latents` and `settle` where h sees latents. Its ``init``
      makes the weights of h, and of g; those of f come from elsewhere.
    """
    inference = Inference(latents)
    network = Decoder(decoder, output_width(specs))
    code = jnp.zeros(encoder.size)
    width = {
        "latents": latents.latents,
        "pair": 3 * encoder.size,
        "difference": encoder.size,
    }[decoder.source]

    def init(key):
        first, second = jax.random.split(key)
        return {
            "latents": inference.init(first, code, code)["params"],
            "decoder": network.init(second, jnp.zeros(width))["params"],
        }

    def infer(params, code, reference):
        found: Any = inference.apply({"params": params["latents"]}, code, reference)
        return found

    def settle(params, latents):
        out: Any = network.apply({"params": params["decoder"]}, latents)
        return settled(specs, out)

    def decide(params, code, reference):
        apart = reference - code
        if decoder.source == "pair":
            return settle(params, jnp.concatenate([code, reference, apart]))
        if decoder.source == "difference":
            return settle(params, apart)
        # The mean: a prediction is the same every time.
        return settle(params, infer(params, code, reference)[0])

    def predict(params, audio, reference):
        codes = (encoder.encode(params, encoder.image(s)) for s in (audio, reference))
        return decide(params, *codes)

    made = Controller(init, encoder.image, encoder.encode, decide, predict)
    if decoder.source == "latents":
        made = made._replace(latents=infer, settle=settle)
    return made


def output_width(specs: Sequence[ParameterSpec]) -> int:
    """Numbers that a network gives for controls: 2, or one for each choice."""
    return sum(len(spec.choices) or 2 for spec in specs)


def settled(specs: Sequence[ParameterSpec], out: Any) -> Prediction:
    """A network's numbers as controls with deviations.

    A continuous control has a logit and a logarithm of its deviation. A discrete one
    has a logit for each choice, p = softmax. Its control is the middle of the most
    likely choice's interval, where a host takes that choice; its derivative is that of
    the relaxed choice sum_k p_k c_k (straight through), and its deviation the root of
    sum_k p_k (c_k - sum p c)^2.

    Args:
      specs: of n controls.
      out: [output_width(specs)].

    Returns:
      `Prediction` of n controls, with ``choices``, the logarithms of p of each discrete
      one.
    """
    controls, deviations, choices, at = [], [], [], 0
    for spec in specs:
        count = len(spec.choices)
        if not count:
            controls.append(controls_from_logits(out[at]))
            wide = jnp.log(UNIFORM_DEVIATION) + out[at + 1]
            deviations.append(jnp.exp(jnp.clip(wide, *LOG_DEVIATION)))
            at += 2
            continue
        log_share = jax.nn.log_softmax(out[at : at + count])
        centres = (jnp.arange(count) + 0.5) / count
        relaxed = jnp.sum(jnp.exp(log_share) * centres)
        hard = centres[jnp.argmax(log_share)]
        controls.append(relaxed + jax.lax.stop_gradient(hard - relaxed))
        spread = jnp.sum(jnp.exp(log_share) * (centres - relaxed) ** 2)
        least = math.exp(LOG_DEVIATION[0])
        deviations.append(jnp.sqrt(jnp.maximum(spread, least**2)))
        choices.append(log_share)
        at += count
    return Prediction(jnp.stack(controls), jnp.stack(deviations), tuple(choices))


class Inference(nn.Module):
    """g: codes of input and reference to (mean, log variance), each [latents]."""

    config: LatentModelConfig

    @nn.compact
    def __call__(self, code, reference):
        """See the class."""
        hidden = jnp.concatenate([code, reference, reference - code])
        hidden = _layers(self.config.hidden, hidden)
        out = nn.Dense(2 * self.config.latents)(hidden)
        mean, log_variance = jnp.split(out, 2)
        return mean, jnp.clip(log_variance, *_LOG_VARIANCE)


class Forward(nn.Module):
    """Code of the input and latents to the code of the treated input."""

    config: LatentModelConfig

    @nn.compact
    def __call__(self, code, latents):
        """See the class."""
        hidden = _layers(self.config.forward, jnp.concatenate([code, latents]))
        return code + nn.Dense(code.shape[-1])(hidden)


class Decoder(nn.Module):
    """h: latents, or codes, to the numbers that `settled` reads."""

    config: DecoderConfig
    width: int

    @nn.compact
    def __call__(self, source):
        """See the class."""
        hidden = _layers(self.config.hidden, source)
        small = nn.initializers.variance_scaling(0.01, "fan_in", "normal")
        return nn.Dense(self.width, kernel_init=small)(hidden)


def _layers(sizes: Sequence[int], hidden: jax.Array) -> jax.Array:
    for size in sizes:
        hidden = nn.silu(nn.LayerNorm()(nn.Dense(size)(hidden)))
    return hidden
