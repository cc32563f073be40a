"""How many latents g needs: proposals by `vae.size`, of what its forecasts vary by.

The output that counts is the forecast of the treated input's code, for a fixed few
inputs, in units of the deviation of each of its elements: what a latent does not change
in it, no decoder of an effect can be told by it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from styletransfer.latent_models import LatentVae
from vae import sensitivity
from vae.information import kl_divergence
from vae.size import (
    Proposal,
    drop_curve,
    net_worth,
    propose,
    propose_by_activity,
    propose_by_worth,
)

# Inputs that forecasts are compared on; pairs of latents; examples that are clamped.
_INPUTS, _PAIRS, _ORDER_PAIRS, _CLAMPED = 16, 256, 64, 512


class LatentSize(NamedTuple):
    """What the sizes are proposed from.

    Attributes:
      proposals: by rule.
      nats: of each latent [latents], mean divergence.
      worth: of each latent [latents], nats that it saves less those it costs.
      fidelity: share of the forecasts' variance with 0 ... latents kept.
    """

    proposals: tuple[Proposal, ...]
    nats: np.ndarray
    worth: np.ndarray
    fidelity: np.ndarray

    def table(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "proposals": [
                {
                    "rule": p.rule,
                    "threshold": p.threshold,
                    "keep": p.keep,
                    "low": p.low,
                    "high": p.high,
                }
                for p in self.proposals
            ],
            "nats": [round(float(v), 4) for v in self.nats],
            "worth": [round(float(v), 4) for v in self.worth],
            "fidelity": [round(float(v), 5) for v in self.fidelity],
        }

    def markdown(self) -> str:
        """The proposals as sentences, and a row for every latent."""
        lines = ["# Size of the controller's latent space", ""]
        lines += [f"- {p.rule}: {p.sentence()}" for p in self.proposals]
        lines += ["", "| latent | nats | worth, nats |", "|---|---|---|"]
        for k in np.argsort(-self.worth):
            lines.append(f"| {k} | {self.nats[k]:.3f} | {self.worth[k]:.3f} |")
        return "\n".join(lines) + "\n"


def size_of_latents(
    vae: LatentVae,
    params: Any,
    rows: Mapping[str, np.ndarray],
    scale: np.ndarray,
    tau: float,
    seed: int = 0,
) -> LatentSize:
    """Proposes sizes for a trained g from held-out pairs.

    Args:
      vae: g and its decoder.
      params: their weights.
      rows: ``dry``, ``reference``, ``target`` codes [pairs, size], of held-out pairs.
      scale: deviation of every element of a code [size].
      tau: of the training.
      seed: of the choice of inputs and pairs.

    Returns:
      A `LatentSize`.
    """
    rng = np.random.default_rng(seed)
    dry, reference, target = (
        jnp.asarray(rows[name]) for name in ("dry", "reference", "target")
    )
    mean, log_variance = jax.device_get(
        jax.jit(jax.vmap(vae.infer, (None, 0, 0)))(params, dry, reference)
    )
    weights = jnp.asarray(scale)[None]
    inputs = dry[rng.choice(len(dry), min(_INPUTS, len(dry)), replace=False)]

    @jax.jit
    def output(codes):
        every = jax.vmap(jax.vmap(vae.forecast, (None, 0, None)), (None, None, 0))
        forecast = every(params, inputs, codes) / weights[None]
        return forecast.reshape(len(codes), -1) / np.sqrt(forecast[0].size)

    noise = rng.normal(size=mean.shape).astype(np.float32)
    a, b = sensitivity.resampled(mean + np.exp(log_variance / 2) * noise, _PAIRS, rng)
    order = sensitivity.backward_elimination(output, a[:_ORDER_PAIRS], b[:_ORDER_PAIRS])
    curve = drop_curve(output, a, b, order)
    divergence = np.asarray(kl_divergence(mean, log_variance))
    some = rng.choice(len(dry), min(_CLAMPED, len(dry)), replace=False)
    clamp = _clamp(vae, params, dry[some], target[some], mean[some], weights)
    worth = net_worth(clamp, divergence[some], tau)
    proposals = (
        propose(curve, "fidelity", 0.95, seed),
        propose(curve, "fidelity", 0.99, seed),
        propose(curve, "knee", seed=seed),
        propose_by_activity(mean, log_variance, worth, seed=seed),
        propose_by_worth(worth, seed=seed),
    )
    return LatentSize(proposals, divergence.mean(0), worth.mean(0), curve.fidelity())


def _clamp(vae, params, dry, target, mean, weights) -> np.ndarray:
    """Growth of the squared error when one latent is held at its mean, [rows, K]."""

    @jax.jit
    def squares(codes):
        forecast = jax.vmap(vae.forecast, (None, 0, 0))(params, dry, codes)
        return jnp.sum(((target - forecast) / weights) ** 2, axis=-1)

    whole = np.asarray(squares(mean))
    grown = []
    for k in range(mean.shape[1]):
        held = np.array(mean)
        held[:, k] = mean[:, k].mean()
        grown.append(np.asarray(squares(held)) - whole)
    return np.stack(grown, axis=1)
