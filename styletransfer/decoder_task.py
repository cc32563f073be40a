"""Training of h on known settings: the controls of one effect from the latents of g.

Targets are rendered at hidden settings of the very effect, which are known, so that h
begins with them and needs no render: the likelihood of continuous controls as in
`controller_task`, and of discrete ones the cross-entropy of the choice. f and g are
frozen. What follows is the loss of the audio (`audio_task`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddspx.parameters import ParameterSpec
from ddspx.training.configuration import FitConfig
from ddspx.training.optimizer import OptimizerConfig, apply_gradients, make_optimizer
from ddspx.training.parallel import compile_step
from ddspx.training.task import Task, create_state
from ddspx.types import AnyArray
from styletransfer.controller_task import centred
from styletransfer.latent_models import DecoderConfig
from styletransfer.models import Controller, Prediction
from styletransfer.pairs import PairConfig


@dataclass(frozen=True)
class DecoderRunConfig:
    """A training run of h, on latents of a frozen g.

    Attributes:
      latents: run folder of g.
      effect: preset name or path of the effect.
      pairs_per_effect: pairs that are encoded.
      sampled: whether h is trained on samples of the posterior of g, which it then does
        not mind; otherwise on its mean. Predictions go by the mean in either case.
      held_out_pairs: from recordings held out.
      batch_size: pairs a step.
      pairs: how pairs are made.
      model: sizes.
      optimizer: its optimizer.
      fit: how long, how often.
    """

    latents: str = ""
    effect: str = "channel_strip"
    pairs_per_effect: int = 8192
    held_out_pairs: int = 1024
    batch_size: int = 256
    sampled: bool = True
    pairs: PairConfig = field(default_factory=PairConfig)
    model: DecoderConfig = field(default_factory=DecoderConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            name="adamw",
            learning_rate=2e-3,
            schedule="cosine",
            decay_steps=1900,
            warmup_steps=100,
            weight_decay=1e-2,
        )
    )
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(
            steps=2000, evaluate_every=250, save_every=500, evaluation_batches=1
        )
    )


def settings_likelihood(
    specs: tuple[ParameterSpec, ...], prediction: Prediction, controls: AnyArray
) -> jax.Array:
    """Negative log-likelihood of the settings of one example, mean over controls.

        continuous: sg(s) ((c - m)^2 / (2 s^2) + ln s)      (`controller_task`)
        discrete:   -ln p_k of the choice k

    Args:
      specs: of n controls.
      prediction: of [n], with `choices` for the discrete ones.
      controls: hidden settings [n].

    Returns:
      A scalar.
    """
    labels = centred(specs, controls)
    choices = iter(prediction.choices)
    parts = []
    for index, spec in enumerate(specs):
        if spec.choices and prediction.choices:
            log_share = next(choices)
            wanted = spec.to_physical(labels[index]).astype(int)
            parts.append(-log_share[wanted])
            continue
        mean, deviation = prediction.controls[index], prediction.deviation[index]
        each = (labels[index] - mean) ** 2 / (2 * deviation**2) + jnp.log(deviation)
        parts.append(jax.lax.stop_gradient(deviation) * each)
    return jnp.mean(jnp.stack(parts))


def decoder_task(
    controller: Controller,
    frozen: Mapping[str, Any],
    specs: tuple[ParameterSpec, ...],
    optimizer_config: OptimizerConfig,
    mesh: Mesh | None = None,
    *,
    sampled: bool = False,
) -> Task:
    """The task of training h, on batches of codes of one effect.

    Args:
      controller: from `styletransfer.latent_models.make_latent_controller`.
      frozen: ``{"latents": weights of g}``.
      specs: of the controls.
      optimizer_config: how.
      mesh: devices that share the batch; None for one.
      sampled: see `DecoderRunConfig`; only where the controller has latents.

    Returns:
      A `Task` whose params are ``{"decoder": ...}``; `evaluate` gives ``loss``,
      ``control_error``, the mean absolute error of labelled controls, and
      ``constant_error``, that of always saying the middle.
    """
    optimizer = make_optimizer(optimizer_config)

    def init(key):
        first, second = jax.random.split(key)
        params = {"decoder": controller.init(first)["decoder"]}
        return create_state(params, optimizer.init(params), second)

    def predicted(params, batch):
        decide = jax.vmap(controller.decide, (None, 0, 0))
        return decide({**frozen, **params}, batch["dry"], batch["reference"])

    infer, settle = controller.latents, controller.settle

    def scattered(params, batch, key):
        assert infer is not None and settle is not None
        mean, log_variance = jax.vmap(infer, (None, 0, 0))(
            frozen, batch["dry"], batch["reference"]
        )
        noise = jax.random.normal(key, mean.shape)
        z = mean + jnp.exp(0.5 * log_variance) * noise
        return jax.vmap(settle, (None, 0))(params, z)

    def likelihood(params, batch, key=None):
        if key is None or settle is None or not sampled:
            prediction = predicted(params, batch)
        else:
            prediction = scattered(params, batch, key)
        each = jax.vmap(lambda p, c: settings_likelihood(specs, p, c))(
            prediction, batch["controls"]
        )
        counted = batch["labelled"].astype(jnp.float32)
        loss = jnp.sum(each * counted) / jnp.maximum(jnp.sum(counted), 1.0)
        return loss, prediction

    def step(state, batch):
        (loss, _), gradients = jax.value_and_grad(likelihood, has_aux=True)(
            state.params, batch, state.step_key()
        )
        state, norms = apply_gradients(state, gradients, optimizer)
        return state, {"loss": loss, **norms}

    judged = compile_step(
        lambda state, batch: likelihood(state.params, batch), mesh, donate=False
    )

    def evaluate(state: Any, batch: Any) -> dict[str, float]:
        loss, prediction = jax.device_get(judged(state, batch))
        labels = np.asarray(centred(specs, batch["controls"]))
        counted = np.asarray(batch["labelled"])
        apart = np.abs(prediction.controls - labels)[counted]
        return {
            "loss": float(loss),
            "control_error": float(apart.mean()),
            "constant_error": float(np.abs(0.5 - labels)[counted].mean()),
        }

    return Task(init, compile_step(step, mesh), evaluate, frozen=frozen)
