"""What a posterior alone says of each latent: divergence, information, activity.

The posterior of example x is N(mu(x), diag s(x)^2), the prior N(0, I). These measures
never look at the decoder: a latent that carries information may still not be heard.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from ddspx.types import AnyArray

# Burda et al. (2016): a unit is active when its mean varies by more than this.
ACTIVE_VARIANCE = 0.01


def kl_divergence(
    mean: Float[AnyArray, "*batch latents"],
    log_variance: Float[AnyArray, "*batch latents"],
) -> jax.Array:
    """Divergence of the posterior from the standard normal, in nats.

        KL = 1/2 (mu^2 + s^2 - ln s^2 - 1)

    Args:
      mean: mu.
      log_variance: ln s^2.

    Returns:
      [..., latents], per latent; sum over the last axis for the whole.
    """
    mean, log_variance = jnp.asarray(mean), jnp.asarray(log_variance)
    return 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - log_variance - 1.0)


def mutual_information(
    mean: Float[AnyArray, "examples latents"],
    log_variance: Float[AnyArray, "examples latents"],
    key: jax.Array,
    samples: int = 8,
) -> jax.Array:
    """Information between the data and each latent [latents], in nats.

    The mean over examples of `information_of_examples`, where arguments are described.
    """
    return jnp.mean(information_of_examples(mean, log_variance, key, samples), 0)


def information_of_examples(
    mean: Float[AnyArray, "examples latents"],
    log_variance: Float[AnyArray, "examples latents"],
    key: jax.Array,
    samples: int = 8,
) -> jax.Array:
    """What each example adds to the information between the data and each latent.

        I_i = E_x E_q(z|x) [ln q(z_i | x) - ln 1/N sum_m q(z_i | x_m)]

    The mixture includes the example itself, so that the estimate lies between 0 and
    ln N, and is too low where the truth comes near ln N. Unlike the divergence it is 0
    for a latent that is merely offset.

    Args:
      mean: mu of N examples.
      log_variance: ln s^2.
      key: of the draws.
      samples: draws of each posterior.

    Returns:
      [examples, latents]; the mean over examples is I_i.

    Raises:
      ValueError: fewer than two examples.

    Reference: Y. Liu et al., Discovering influential factors in VAEs (2018).
    """
    mean, log_variance = jnp.asarray(mean), jnp.asarray(log_variance)
    if len(mean) < 2:
        raise ValueError(f"information needs two examples or more, got {len(mean)}")
    noise = jax.random.normal(key, (samples, *mean.shape), mean.dtype)
    return _information(mean, log_variance, noise)


# Compiled once for a shape: models are analysed by the dozen.
@jax.jit
def _information(mean: jax.Array, log_variance: jax.Array, noise: jax.Array):
    def density(z, centre, log_var):
        distance = jnp.square(z - centre) * jnp.exp(-log_var)
        return -0.5 * (distance + log_var + jnp.log(2.0 * jnp.pi))

    def one_latent(columns):
        mu, log_var, eps = columns

        def one_draw(e):
            z = mu + jnp.exp(0.5 * log_var) * e
            own = density(z, mu, log_var)
            each = density(z[:, None], mu[None, :], log_var[None, :])
            mixture = jax.nn.logsumexp(each, axis=1) - jnp.log(len(mu))
            return own - mixture

        return jnp.mean(lax.map(one_draw, eps), 0)

    columns = (mean.T, log_variance.T, jnp.moveaxis(noise, 2, 0))
    return lax.map(one_latent, columns).T


def mean_variance(mean: Float[AnyArray, "examples latents"]) -> jax.Array:
    """Variance of each posterior mean over the data [latents].

    A latent is an active unit when it exceeds `ACTIVE_VARIANCE`.

    Reference: Y. Burda et al., Importance weighted autoencoders (2016).
    """
    return jnp.var(jnp.asarray(mean), axis=0)


def signal_fraction(
    mean: Float[AnyArray, "examples latents"],
    log_variance: Float[AnyArray, "examples latents"],
) -> jax.Array:
    """Share of a latent's variance that the data explains.

        r_i = Var(mu_i) / (Var(mu_i) + E s_i^2)

    Near 1 where the latent is used, near 0 where it repeats the prior; between where
    the posterior is used for some examples only. Free of the latent's scale.

    Args:
      mean: mu.
      log_variance: ln s^2.

    Returns:
      [latents], in [0, 1].

    Reference: M. Rolinek et al., Variational autoencoders pursue PCA directions (2019).
    """
    signal = mean_variance(mean)
    noise = jnp.mean(jnp.exp(jnp.asarray(log_variance)), axis=0)
    return signal / (signal + noise)


def redundancy(codes: Float[AnyArray, "examples latents"]) -> np.ndarray:
    """How well each latent is predicted linearly from all the others, R^2.

    Above about 0.2 importances of single latents mislead: of two that say the same,
    either may go and not both.

    Args:
      codes: posterior samples or means, more examples than latents.

    Returns:
      [latents] float64, 0 for a constant latent.

    Raises:
      ValueError: not more examples than latents.
    """
    codes = np.asarray(codes, np.float64)
    examples, latents = codes.shape
    if examples <= latents:
        raise ValueError(
            f"redundancy of {latents} latents needs more than {latents} examples, got"
            f" {examples}"
        )
    deviation = codes.std(0)
    live = deviation > 0
    found = np.zeros(latents)
    if live.any():
        scaled = (codes[:, live] - codes[:, live].mean(0)) / deviation[live]
        inverse = np.linalg.pinv(scaled.T @ scaled / examples, hermitian=True)
        found[live] = np.clip(1.0 - 1.0 / np.maximum(np.diag(inverse), 1.0), 0.0, 1.0)
        # A repeated column has no inverse; the pseudo-inverse shares it out instead.
        singular = np.linalg.matrix_rank(scaled) < scaled.shape[1]
        if singular:
            found[live] = [_explained(scaled, i) for i in range(scaled.shape[1])]
    return found


def _explained(columns: np.ndarray, index: int) -> float:
    others = np.delete(columns, index, 1)
    wanted = columns[:, index]
    fit = others @ np.linalg.lstsq(others, wanted, rcond=None)[0]
    return float(np.clip(1.0 - np.mean((wanted - fit) ** 2), 0.0, 1.0))
