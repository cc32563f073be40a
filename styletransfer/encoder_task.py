"""Training of an encoder that many effects share: f.

Pairs of all effects are drawn with hidden settings that several recordings have in
common. What is trained is one encoder; the rest is thrown away. The loss is

    L = L_settings + c L_contrast + v L_vae

with L_settings the likelihood of the hidden settings (`controller_task`), by a head for
the controls of all effects; L_contrast the supervised contrast of pairs (Khosla et al.
2020, eq. 2): the directions of two pairs with the same settings and other content lie
nearer to each other than to any other pair's, so that content does not pay; and L_vae
that of a variational autoencoder whose posterior's mean is the code and whose decoder
gives the mean and deviation over time of every band:

    L_vae = |summary - decoder(code + noise)|^2 / (2 tau) + KL(N(code, s^2) || N(0, 1))

per element of the summary.
"""

from collections.abc import Sequence
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
from styletransfer.encoder_models import Trainer
from styletransfer.models import ControllerConfig, Prediction
from styletransfer.pairs import PairConfig
from vae.information import kl_divergence

# Error variance of the variational part, of bands in units of 25 dB.
_TAU = 0.02


@dataclass(frozen=True)
class EncoderRunConfig:
    """A training run of an encoder of sounds.

    Attributes:
      effects: presets names or paths of the effects whose settings it tells apart.
      sample_rate: Hz.
      seconds: length of input and reference each.
      pairs_per_effect: in a batch.
      contrast: weight c of the contrast; 0 leaves it out.
      temperature: of the contrast.
      variational: weight v of the variational part; 0 leaves it out.
      pairs: how pairs are made.
      model: the encoder, and the head that is thrown away.
      optimizer: its optimizer.
      fit: how long, how often.
    """

    effects: tuple[str, ...] = ("channel_strip", "reverb", "distortion", "chorus")
    sample_rate: int = 24000
    seconds: float = 2.0
    pairs_per_effect: int = 8
    contrast: float = 0.1
    temperature: float = 0.1
    variational: float = 0.0
    pairs: PairConfig = field(default_factory=lambda: PairConfig(share=2))
    model: ControllerConfig = field(
        default_factory=lambda: ControllerConfig(channels=(16, 32, 64, 96))
    )
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
            steps=3000,
            evaluate_every=500,
            save_every=500,
            evaluation_batches=4,
            # The likelihood falls behind first: deviations fit the recordings.
            best_metric="control_error",
        )
    )

    def __post_init__(self):
        if not self.effects:
            raise ValueError("effects: name one effect or more")
        if self.contrast > 0 and self.pairs.share < 2:
            raise ValueError(
                f"contrast {self.contrast} needs settings that pairs have in common:"
                f" set pairs.share to 2 or more, not {self.pairs.share}"
            )
        if self.pairs_per_effect % self.pairs.share:
            raise ValueError(
                f"pairs_per_effect {self.pairs_per_effect} must be a multiple of"
                f" pairs.share {self.pairs.share}"
            )


def settings_loss(
    prediction: Prediction, controls: AnyArray, known: AnyArray, weights: AnyArray
) -> jax.Array:
    """The likelihood loss of `controller_task`, of the columns that are known.

    Args:
      prediction: of [batch, total] controls.
      controls: what the targets were made with [batch, total].
      known: [batch, total], the columns of each example's own effect.
      weights: [batch], 0 for examples that do not count.

    Returns:
      A scalar, the mean over what counts; 0 where nothing does.
    """
    mean, deviation = prediction[:2]
    each = (jnp.asarray(controls) - mean) ** 2 / (2 * deviation**2) + jnp.log(deviation)
    each = jax.lax.stop_gradient(deviation) * each
    own = jnp.sum(jnp.where(known, each, 0.0), -1) / jnp.maximum(jnp.sum(known, -1), 1)
    return jnp.sum(own * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def contrast_loss(
    directions: AnyArray,
    setting: AnyArray,
    counted: AnyArray,
    temperature: int | float,
) -> jax.Array:
    """Supervised contrast (Khosla et al. 2020, eq. 2) of directions of length 1.

        L_i = - mean over j with the same settings of
                ln( exp(d_i . d_j / t) / sum over k != i of exp(d_i . d_k / t) )

    Args:
      directions: [batch, size].
      setting: [batch], equal for the same settings.
      counted: [batch], whether an example takes part.
      temperature: t.

    Returns:
      The mean over examples with a partner; 0 where there is none.
    """
    directions, setting, counted = map(jnp.asarray, (directions, setting, counted))
    other = ~jnp.eye(len(setting), dtype=bool) & counted[:, None] & counted[None, :]
    same = other & (setting[:, None] == setting[None, :])
    likeness = jnp.where(other, directions @ directions.T / temperature, -1e9)
    log_share = likeness - jax.nn.logsumexp(likeness, axis=1, keepdims=True)
    partners = jnp.sum(same, axis=1)
    each = -jnp.sum(jnp.where(same, log_share, 0.0), 1) / jnp.maximum(partners, 1)
    paired = partners > 0
    return jnp.sum(jnp.where(paired, each, 0.0)) / jnp.maximum(jnp.sum(paired), 1)


def encoder_task(
    trainer: Trainer,
    specs: tuple[ParameterSpec, ...],
    widths: Sequence[int],
    config: EncoderRunConfig,
    mesh: Mesh | None = None,
) -> Task:
    """The task of training an encoder, on `styletransfer.mixtures.mixed_batches`.

    Args:
      trainer: the encoder with the parts that train it.
      specs: the controls of all effects side by side.
      widths: how many each effect has.
      config: weights and optimizer.
      mesh: devices that share the batch; None for one.

    Returns:
      A `Task`; `evaluate` gives ``loss``, the likelihood loss on recordings held out,
      the mean absolute ``control_error`` of all and of each effect
      (``error/<effect>``), ``constant_error``, that of always saying the middle, and
      ``contrast``.
    """
    optimizer = make_optimizer(config.optimizer)
    controller = trainer.controller
    names = [
        effect.rsplit("/", 1)[-1].removesuffix(".yaml") for effect in config.effects
    ]
    assert len(names) == len(widths)

    def init(key):
        first, second = jax.random.split(key)
        params = trainer.init(first)
        return create_state(params, optimizer.init(params), second)

    def codes(params, sounds):
        # One at a time would leave the convolutions without work for the cores.
        return jax.vmap(lambda x: controller.encode(params, controller.image(x)))(
            jnp.asarray(sounds)
        )

    def parts(params, batch, key):
        sounds = jnp.concatenate([batch["audio"], batch["reference"]])
        both = codes(params, sounds)
        dry, wet = jnp.split(both, 2)
        prediction = jax.vmap(trainer.decide, (None, 0, 0))(params, dry, wet)
        counted = (batch["valid"] & batch["labelled"]).astype(jnp.float32)
        labels = centred(specs, batch["controls"])
        found = {
            "settings": settings_loss(prediction, labels, batch["known"], counted),
            "contrast": jnp.zeros(()),
            "variational": jnp.zeros(()),
        }
        if config.contrast:
            ways = jax.vmap(trainer.project, (None, 0, 0))(params, dry, wet)
            takes_part = batch["valid"] & batch["treated"]
            found["contrast"] = contrast_loss(
                ways, batch["setting"], takes_part, config.temperature
            )
        if config.variational:
            found["variational"] = _variational(trainer, params, sounds, both, key)
        return found, prediction, labels

    def step(state, batch):
        def total(params):
            found, _, _ = parts(params, batch, state.step_key())
            whole = (
                found["settings"]
                + config.contrast * found["contrast"]
                + config.variational * found["variational"]
            )
            return whole, found

        (loss, found), gradients = jax.value_and_grad(total, has_aux=True)(state.params)
        state, norms = apply_gradients(state, gradients, optimizer)
        valid = jnp.mean(batch["valid"])
        return state, {"loss": loss, **found, "valid": valid, **norms}

    judged = compile_step(
        lambda state, batch: parts(state.params, batch, state.key), mesh, donate=False
    )

    def evaluate(state, batch):
        found, prediction, labels = jax.device_get(judged(state, batch))
        batch = jax.device_get(batch)
        rows = (batch["valid"] & batch["labelled"])[:, None] & batch["known"]
        apart = np.abs(prediction.controls - labels)
        metrics = {
            "loss": float(found["settings"]),
            "contrast": float(found["contrast"]),
            "control_error": _mean(apart, rows),
            "constant_error": _mean(np.abs(0.5 - labels), rows),
        }
        for number, name in enumerate(names):
            own = rows & (batch["effect"] == number)[:, None]
            metrics[f"error/{name}"] = _mean(apart, own)
        return metrics

    return Task(init, compile_step(step, mesh), evaluate)


def _variational(trainer: Trainer, params, sounds, codes, key) -> jax.Array:
    """The variational part, per element of the summary; see the module."""
    images = jax.vmap(trainer.controller.image)(sounds)
    wanted = jnp.stack([jnp.mean(images, 1), jnp.std(images, 1)], 1)
    log_variance = jnp.broadcast_to(params["log_variance"], codes.shape)
    noise = jax.random.normal(key, codes.shape) * jnp.exp(0.5 * log_variance)
    given = jax.vmap(trainer.summarise, (None, 0))(params, codes + noise)
    distortion = jnp.mean((wanted - given) ** 2) / (2.0 * _TAU)
    rate = jnp.mean(jnp.sum(kl_divergence(codes, log_variance), -1))
    return distortion + rate / wanted[0].size


def _mean(values: Any, counted: np.ndarray) -> float:
    kept = np.asarray(values)[np.asarray(counted)]
    return float(kept.mean()) if kept.size else 0.0
