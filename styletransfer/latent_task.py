"""Pre-training of g: what was done to the reference, in a few latents.

    L = |c_t - forecast(c_x, z)|^2 / (2 tau s^2) + KL(q(z | c_x, c_r) || N(0, I))
        + w sum_i ( (u_i - m_i)^2 / (2 d_i^2) + ln d_i )

with c_x, c_r and c_t the codes of input, reference and treated input, z drawn from
q, and s^2 the variance of each element of c_t, so that tau is a share of it. The
reference has other content than the input, and content is what the forecast has from
c_x: all that pays for its nats in z is the treatment. The last term, in nats as well,
is the likelihood of the hidden settings u_i of the pair's own effect under a guess (m,
d) from z that is thrown away like the forecast. It costs nothing and tells z of what
changes the code of a sound little and its settings much.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddspx.training.configuration import FitConfig
from ddspx.training.optimizer import OptimizerConfig, apply_gradients, make_optimizer
from ddspx.training.parallel import compile_step
from ddspx.training.task import Task, create_state
from styletransfer.latent_models import LatentModelConfig, LatentVae
from styletransfer.models import Prediction
from styletransfer.pairs import PairConfig
from vae.information import kl_divergence


@dataclass(frozen=True)
class LatentRunConfig:
    """A training run of g, on codes of a frozen encoder.

    Attributes:
      encoder: run folder of the encoder.
      effects: presets names or paths.
      pairs_per_effect: pairs of each effect that are encoded.
      held_out_pairs: of each effect, from recordings held out.
      batch_size: pairs a step.
      tau: error variance worth half a nat an element, as a share of the codes' own.
      settings: weight w of the likelihood of the settings; 0 leaves it out.
      pairs: how pairs are made.
      model: sizes.
      optimizer: its optimizer.
      fit: how long, how often.
    """

    encoder: str = ""
    effects: tuple[str, ...] = ("channel_strip", "reverb", "distortion", "chorus")
    pairs_per_effect: int = 8192
    held_out_pairs: int = 1024
    batch_size: int = 256
    tau: float = 0.05
    settings: float = 3.0
    pairs: PairConfig = field(default_factory=PairConfig)
    model: LatentModelConfig = field(default_factory=LatentModelConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            name="adamw",
            learning_rate=1e-3,
            schedule="cosine",
            decay_steps=5900,
            warmup_steps=100,
            weight_decay=1e-2,
        )
    )
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(
            steps=6000, evaluate_every=500, save_every=1000, evaluation_batches=1
        )
    )

    def __post_init__(self):
        if not self.tau > 0 or not self.settings >= 0:
            raise ValueError(
                f"tau {self.tau} must be positive, settings {self.settings} 0 or more"
            )


def latent_task(
    vae: LatentVae,
    scale: np.ndarray,
    tau: float,
    optimizer_config: OptimizerConfig,
    mesh: Mesh | None = None,
    *,
    settings: int | float = 0.0,
) -> Task:
    """The task of pre-training g, on batches of `styletransfer.codes`.

    Args:
      vae: g and its decoder.
      scale: s [size], the deviation of every element of the codes of treated inputs.
      tau: see `LatentRunConfig`.
      optimizer_config: how.
      mesh: devices that share the batch; None for one.
      settings: weight of the settings' likelihood, see `LatentRunConfig`.

    Returns:
      A `Task`; `evaluate` gives ``loss`` with z at the posterior's mean; ``forecast``,
      the mean square error in units of s^2, beside ``forecast_blind``, that of the
      input's own code, and ``forecast_prior``, with z at 0, ``nats`` of all latents,
      ``active``: how many have half a hundredth of a nat or more, and the mean absolute
      ``control_error`` of the guess.
    """
    optimizer = make_optimizer(optimizer_config)
    weights = jnp.asarray(scale)

    def init(key):
        first, second = jax.random.split(key)
        params = vae.init(first)
        return create_state(params, optimizer.init(params), second)

    def squares(params, batch, z):
        forecast = jax.vmap(vae.forecast, (None, 0, 0))(params, batch["dry"], z)
        return jnp.sum(((batch["target"] - forecast) / weights[None]) ** 2, axis=-1)

    def step(state, batch):
        def total(params):
            mean, log_variance = jax.vmap(vae.infer, (None, 0, 0))(
                params, batch["dry"], batch["reference"]
            )
            noise = jax.random.normal(state.step_key(), mean.shape)
            z = mean + jnp.exp(0.5 * log_variance) * noise
            distortion = jnp.mean(squares(params, batch, z)) / (2.0 * tau)
            rate = jnp.mean(jnp.sum(kl_divergence(mean, log_variance), -1))
            guess = jax.vmap(vae.guess, (None, 0))(params, z)
            unlikely = _unlikelihood(guess, batch)
            parts = {"distortion": distortion, "nats": rate, "settings": unlikely}
            return distortion + rate + settings * unlikely, parts

        (loss, parts), gradients = jax.value_and_grad(total, has_aux=True)(state.params)
        state, norms = apply_gradients(state, gradients, optimizer)
        return state, {"loss": loss, **parts, **norms}

    def judge(state, batch):
        params = state.params
        mean, log_variance = jax.vmap(vae.infer, (None, 0, 0))(
            params, batch["dry"], batch["reference"]
        )
        divergence = jnp.mean(kl_divergence(mean, log_variance), 0)
        error = jnp.mean(squares(params, batch, mean)) / weights.size
        nothing = jnp.mean(squares(params, batch, jnp.zeros_like(mean)))
        guess = jax.vmap(vae.guess, (None, 0))(params, mean)
        own = batch["known"] & batch["labelled"][:, None]
        apart = jnp.where(own, jnp.abs(guess.controls - batch["controls"]), 0.0)
        blind = jnp.sum(((batch["target"] - batch["dry"]) / weights[None]) ** 2, -1)
        return {
            "loss": error * weights.size / (2.0 * tau)
            + jnp.sum(divergence)
            + settings * _unlikelihood(guess, batch),
            "control_error": jnp.sum(apart) / jnp.maximum(jnp.sum(own), 1),
            "forecast": error,
            "forecast_prior": nothing / weights.size,
            "forecast_blind": jnp.mean(blind) / weights.size,
            "nats": jnp.sum(divergence),
            "active": jnp.sum(divergence > 0.005).astype(jnp.float32),
        }

    judged = compile_step(judge, mesh, donate=False)

    def evaluate(state: Any, batch: Any) -> dict[str, float]:
        return {k: float(v) for k, v in jax.device_get(judged(state, batch)).items()}

    return Task(init, compile_step(step, mesh), evaluate)


def _unlikelihood(guess: Prediction, batch: Any) -> jax.Array:
    """Nats of the known settings under a guess, summed over an example's controls."""
    mean, deviation = guess[:2]
    each = (batch["controls"] - mean) ** 2 / (2 * deviation**2) + jnp.log(deviation)
    own = jnp.sum(jnp.where(batch["known"], each, 0.0), axis=-1)
    counted = batch["labelled"].astype(own.dtype)
    return jnp.sum(own * counted) / jnp.maximum(jnp.sum(counted), 1.0)
