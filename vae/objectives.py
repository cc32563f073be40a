"""What a VAE minimises, per example and in nats.

Every objective is a function of the squared error of an example, summed over its D
elements, and of the divergence of its latents. The decoder is a Gaussian of variance
sigma_x^2, so that every one of them has a water level (`vae.linear.water_level`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ddspx.types import AnyArray, PerExample

PerLatent = Float[AnyArray, "*batch latents"]


def gaussian_distortion(
    squared_error: PerExample, elements: int, variance: Float[AnyArray, ""] | float
) -> jax.Array:
    """Negative log-likelihood of a Gaussian decoder, nats.

        -ln p = ||x - f||^2 / (2 sigma_x^2) + D/2 ln(2 pi sigma_x^2)

    Args:
      squared_error: ||x - f||^2 of each example.
      elements: D.
      variance: sigma_x^2, fixed or learned.

    Returns:
      Per example.
    """
    constant = 0.5 * elements * jnp.log(2.0 * jnp.pi * variance)
    return 0.5 * jnp.asarray(squared_error) / variance + constant


def optimal_variance(squared_error: PerExample, elements: int) -> jax.Array:
    """The decoder variance that minimises the distortion of a batch: its mean square.

    With it the distortion is D/2 ln(mean square) up to a constant. A linear model with
    beta = 1 and this variance uses every latent it is given: nothing prunes.

    Args:
      squared_error: of each example.
      elements: D.

    Returns:
      sigma_x^2, a number; gradients pass through.

    Reference: O. Rybkin et al., Simple and effective VAE training with calibrated
      decoders (2021).
    """
    return jnp.mean(jnp.asarray(squared_error)) / elements


def beta_rate(divergence: PerLatent, beta: Float[AnyArray, ""] | float) -> jax.Array:
    """``beta sum_i KL_i`` per example.

    Reference: I. Higgins et al., beta-VAE (2017), eq. 4.
    """
    return jnp.asarray(beta) * jnp.sum(jnp.asarray(divergence), -1)


def capacity_rate(
    divergence: PerLatent, gamma: float, capacity: Float[AnyArray, ""] | float
) -> jax.Array:
    """``gamma |KL - C|`` with KL the batch's mean, the same for each example.

    Args:
      divergence: of each example and latent.
      gamma: weight.
      capacity: C in nats, raised during training.

    Returns:
      A number, broadcast over the batch.

    Reference: C. Burgess et al., Understanding disentangling in beta-VAE (2018), eq. 8.
    """
    total = jnp.sum(jnp.asarray(divergence), -1)
    return jnp.broadcast_to(gamma * jnp.abs(jnp.mean(total) - capacity), total.shape)


def free_bits_rate(divergence: PerLatent, floor: float, beta: float = 1.0) -> jax.Array:
    """``beta sum_i max(floor, mean KL_i)``: no reward for a latent below the floor.

    It keeps latents alive, so that counting them by divergence says nothing.

    Args:
      divergence: of each example and latent.
      floor: nats for each latent, over the batch's mean.
      beta: weight.

    Returns:
      A number, broadcast over the batch.

    Reference: D. Kingma et al., Inverse autoregressive flow (2016), eq. 15.
    """
    divergence = jnp.asarray(divergence)
    mean = jnp.mean(divergence.reshape(-1, divergence.shape[-1]), 0)
    rate = beta * jnp.sum(jnp.maximum(mean, floor))
    return jnp.broadcast_to(rate, divergence.shape[:-1])


class Decomposition(NamedTuple):
    """The expected divergence in three parts, nats per example; they add up to it.

    Attributes:
      information: between examples and codes.
      total_correlation: between the latents of the aggregate posterior.
      dimension_wise: of each latent's marginal from the prior, summed.
    """

    information: jax.Array
    total_correlation: jax.Array
    dimension_wise: jax.Array


def decompose(
    codes: Float[AnyArray, "batch latents"],
    mean: Float[AnyArray, "batch latents"],
    log_variance: Float[AnyArray, "batch latents"],
    dataset_size: int,
) -> Decomposition:
    """Splits the divergence by minibatch stratified sampling.

        KL = I(x; z) + KL(q(z) || prod q(z_i)) + sum_i KL(q(z_i) || p(z_i))

    Args:
      codes: one posterior sample of each example.
      mean: mu.
      log_variance: ln s^2.
      dataset_size: N, at least the batch.

    Returns:
      `Decomposition`, each [batch].

    Raises:
      ValueError: fewer than two examples, or a data set smaller than the batch.

    Reference: R. Chen et al., Isolating sources of disentanglement (2018), eq. 2 and
      appendix C.2.
    """
    codes, mean = jnp.asarray(codes), jnp.asarray(mean)
    log_variance = jnp.asarray(log_variance)
    batch = len(codes)
    if batch < 2 or dataset_size < batch:
        raise ValueError(
            f"a batch of {batch} from {dataset_size} examples: give a batch of two or"
            " more, and the size of the whole data set"
        )
    weights = jnp.asarray(_stratified(batch, dataset_size), codes.dtype)
    pairs = _log_normal(codes[:, None], mean[None], log_variance[None])
    own = jnp.sum(_log_normal(codes, mean, log_variance), -1)
    joint = jax.nn.logsumexp(jnp.sum(pairs, -1) + weights, axis=1)
    marginal = jnp.sum(jax.nn.logsumexp(pairs + weights[:, :, None], axis=1), -1)
    zeros = jnp.zeros_like(codes)
    prior = jnp.sum(_log_normal(codes, zeros, zeros), -1)
    return Decomposition(own - joint, joint - marginal, marginal - prior)


def total_correlation_rate(
    parts: Decomposition, beta: Float[AnyArray, ""] | float
) -> jax.Array:
    """``I + beta TC + DW`` per example: beta-TCVAE.

    Reference: R. Chen et al., Isolating sources of disentanglement (2018), eq. 4.
    """
    return parts.information + beta * parts.total_correlation + parts.dimension_wise


def geco_multiplier(
    log_multiplier: Float[AnyArray, ""],
    moving_distortion: Float[AnyArray, ""],
    target: float,
    rate: float = 0.01,
    limits: tuple[float, float] = (-10.0, 10.0),
) -> jax.Array:
    """One step of GECO: the weight of the distortion grows while it is too large.

        ln w' = clip(ln w + rate (distortion - target) / target)

    The objective is ``KL + w distortion``; its water level is 1 / (2 w) where the
    distortion is a sum of squares.

    Args:
      log_multiplier: ln w.
      moving_distortion: exponential average of the distortion.
      target: distortion that is asked for, positive.
      rate: step.
      limits: of ln w.

    Returns:
      ln w'.

    Reference: D. Rezende, F. Viola, Taming VAEs (2018), algorithm 1.
    """
    error = (jnp.asarray(moving_distortion) - target) / target
    return jnp.clip(jnp.asarray(log_multiplier) + rate * error, *limits)


def _log_normal(z: jax.Array, mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    distance = jnp.square(z - mean) * jnp.exp(-log_variance)
    return -0.5 * (distance + log_variance + jnp.log(2.0 * jnp.pi))


def _stratified(batch: int, dataset_size: int) -> np.ndarray:
    """Logarithms of the weights [batch, batch] of other examples' posteriors.

    With M others in the batch: own 1/N, one other 1/M - 1/N, which stands for all that
    the batch has not, the rest 1/M. Rows sum to 1.
    """
    others, n = batch - 1, dataset_size
    weights = np.full((batch, batch), 1.0 / others)
    rows = np.arange(batch)
    weights[rows, rows] = 1.0 / n
    weights[rows, (rows + 1) % batch] = 1.0 / others - 1.0 / n
    return np.log(np.maximum(weights, 1e-30))
