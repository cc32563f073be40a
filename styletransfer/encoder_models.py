"""The parts that train an encoder of sounds, and are thrown away after it."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from styletransfer.models import Controller, ControllerConfig, Prediction


class Trainer(NamedTuple):
    """An encoder with what it is trained by, as functions of one set of weights.

    Attributes:
      controller: the encoder, and a head for the controls of all effects.
      init: ``(key) -> params``: the controller's, ``projector``, ``summary``, and
        ``log_variance`` [embedding], of the posterior around a code.
      project: ``(params, input code, reference code) -> direction``.
      summarise: ``(params, code) -> [2, bands]``.
    """

    controller: Controller
    init: Any
    project: Any
    summarise: Any

    def decide(self, params: Any, code: Any, reference: Any) -> Prediction:
        """Controls of all effects, from the codes of a pair."""
        return self.controller.decide(params, code, reference)


def make_trainer(controller: Controller, config: ControllerConfig) -> Trainer:
    """The parts around an encoder.

    Args:
      controller: whose ``params["encoder"]`` is what is wanted.
      config: its sizes.
    """
    projector, summary = Projector(), Summary(config.bands)
    code = jnp.zeros(config.embedding)

    def init(key):
        first, second, third = jax.random.split(key, 3)
        return {
            **controller.init(first),
            "projector": projector.init(second, code, code)["params"],
            "summary": summary.init(third, code)["params"],
            "log_variance": jnp.full(config.embedding, -4.0),
        }

    def project(params, code, reference):
        return projector.apply({"params": params["projector"]}, code, reference)

    def summarise(params, code):
        return summary.apply({"params": params["summary"]}, code)

    return Trainer(controller, init, project, summarise)


class Projector(nn.Module):
    """Codes of input and reference to a direction [size] of length 1.

    Of use while an encoder is trained, to compare pairs with each other; then thrown
    away.
    """

    size: int = 64

    @nn.compact
    def __call__(self, code, reference):
        """See the class."""
        hidden = jnp.concatenate([code, reference, reference - code])
        hidden = nn.silu(nn.LayerNorm()(nn.Dense(4 * self.size)(hidden)))
        out = nn.Dense(self.size)(hidden)
        return out / jnp.sqrt(jnp.sum(out**2) + 1e-9)


class Summary(nn.Module):
    """A code to the mean and deviation of every band over time [2, bands].

    The decoder of an encoder's variational part, thrown away after training.
    """

    bands: int

    @nn.compact
    def __call__(self, code):
        """See the class."""
        hidden = nn.silu(nn.LayerNorm()(nn.Dense(256)(code)))
        return nn.Dense(2 * self.bands)(hidden).reshape(2, self.bands)
