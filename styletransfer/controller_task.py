"""Training of a controller: pairs with hidden settings, which are known and used.

The settings that the targets were made with cost no renders, so that training begins
with them: the negative log-likelihood of the hidden control under the predicted normal
distribution,

    L = mean over examples and controls of (c - m)^2 / (2 s^2) + ln s,

weighted by a stopped s (beta-NLL with beta 1/2, Seitzer et al. 2022, eq. 4), without
which controls that are hard to tell are given up early.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ddspx.training.configuration import FitConfig
from ddspx.training.optimizer import OptimizerConfig, apply_gradients, make_optimizer
from ddspx.training.parallel import compile_step
from ddspx.training.task import Task, create_state
from ddspx.types import AnyArray
from styletransfer.hosts.host import Host
from styletransfer.models import Controller, ControllerConfig, Prediction
from styletransfer.pairs import PairConfig
from styletransfer.prediction_metrics import (
    centred,
    judge_prediction,
    show_prediction,
)


@dataclass(frozen=True)
class ControllerRunConfig:
    """A training run of a controller.

    Attributes:
      effect: preset name or path of the effect.
      sample_rate: Hz.
      seconds: length of input and reference each.
      batch_size: pairs a step.
      pairs: how they are made.
      model: the network.
      optimizer: its optimizer.
      fit: how long, how often.
    """

    effect: str = "channel_strip"
    sample_rate: int = 24000
    seconds: float = 2.0
    batch_size: int = 32
    pairs: PairConfig = field(default_factory=PairConfig)
    model: ControllerConfig = field(default_factory=ControllerConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            name="adamw",
            learning_rate=1e-3,
            schedule="cosine",
            decay_steps=2900,
            warmup_steps=100,
            weight_decay=1e-2,
        )
    )
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(
            steps=3000, evaluate_every=500, save_every=500, evaluation_batches=4
        )
    )


def negative_log_likelihood(
    prediction: Prediction, controls: AnyArray, weights: AnyArray
) -> jax.Array:
    """The loss of a batch; see the module.

    Args:
      prediction: of [batch, n] controls.
      controls: what the targets were made with [batch, n].
      weights: [batch], 0 for examples that do not count.

    Returns:
      A scalar; 0 where nothing counts.
    """
    mean, deviation = prediction[:2]
    each = (jnp.asarray(controls) - mean) ** 2 / (2 * deviation**2) + jnp.log(deviation)
    each = jnp.mean(jax.lax.stop_gradient(deviation) * each, axis=-1)
    return jnp.sum(each * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def controller_task(
    controller: Controller,
    host: Host,
    optimizer_config: OptimizerConfig,
    mesh: Mesh | None = None,
) -> Task:
    """The task of predicting hidden settings, on `styletransfer.pairs.pair_batches`.

    Args:
      controller: what is trained.
      host: the opened effect, with which evaluations render predictions.
      optimizer_config: how.
      mesh: devices that share the batch; None for one.

    Returns:
      A `Task`; for what `evaluate` gives see `judge_prediction`.
    """
    optimizer = make_optimizer(optimizer_config)
    specs = host.specs
    predict = jax.vmap(controller.predict, (None, 0, 0))

    def init(key):
        first, second = jax.random.split(key)
        params = controller.init(first)
        return create_state(params, optimizer.init(params), second)

    def step(state, batch):
        labels = centred(specs, batch["controls"])
        counted = (batch["valid"] & batch["labelled"]).astype(jnp.float32)

        def total(params):
            prediction = predict(params, batch["audio"], batch["reference"])
            return negative_log_likelihood(prediction, labels, counted)

        loss, gradients = jax.value_and_grad(total)(state.params)
        state, norms = apply_gradients(state, gradients, optimizer)
        return state, {"loss": loss, "valid": jnp.mean(batch["valid"]), **norms}

    predicted = compile_step(
        lambda state, batch: predict(state.params, batch["audio"], batch["reference"]),
        mesh,
        donate=False,
    )

    def evaluate(state, batch):
        return judge_prediction(host, predicted(state, batch), batch)

    def show(state, batch):
        return show_prediction(host, predicted(state, batch), batch)

    return Task(init, compile_step(step, mesh), evaluate, show)
