"""How much each latent dimension matters to an output, by derivatives.

With g the output map of one code, J = dg/dz its Jacobian and v_i the variance of z_i:

    local      L_i = E ||J e_i||^2 s_i^2, s the posterior's deviation
    bound      D_i = v_i E ||J e_i||^2 >= T_i               (Lamboni et al. 2013)
    subspace   G   = S^(1/2) E[J'J] S^(1/2), S = Cov z; its eigenvalues say how many
                     directions matter, however the axes are turned

L_i saturates at the water level for every latent in use: a detector, not a ranking. D_i
proves that a latent is dead, and overrates one whose output oscillates. The Jacobian is
never held whole: one linearisation a code, its products with a few directions at a
time, and sums of squares.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from ddspx.types import AnyArray


def squared_derivatives(
    output: Callable[[jax.Array], jax.Array],
    codes: Float[AnyArray, "examples latents"],
    batch: int = 16,
) -> jax.Array:
    """``||J e_i||^2`` of every code and latent.

    Args:
      output: the map g of one code [latents] to features of any shape; pure JAX.
      codes: where.
      batch: directions evaluated at once; memory is `batch` times the features.

    Returns:
      [examples, latents].
    """
    return _map(partial(_squares, output, batch), jnp.asarray(codes))


def local_variance(
    output: Callable[[jax.Array], jax.Array],
    codes: Float[AnyArray, "examples latents"],
    deviation: Float[AnyArray, "examples latents"],
    batch: int = 16,
) -> jax.Array:
    """Output variance of each latent's posterior noise, to first order.

    Args:
      output: see `squared_derivatives`.
      codes: posterior means.
      deviation: posterior standard deviations s.
      batch: see `squared_derivatives`.

    Returns:
      [examples, latents]; the mean over examples is L_i.
    """
    return squared_derivatives(output, codes, batch) * jnp.asarray(deviation) ** 2


def grams(
    output: Callable[[jax.Array], jax.Array],
    codes: Float[AnyArray, "examples latents"],
    batch: int = 8,
) -> jax.Array:
    """``J'J`` of every code, a row ``J'(J e_i)`` at a time; J itself is never held.

    Args:
      output: see `squared_derivatives`.
      codes: where.
      batch: rows evaluated at once; memory is `batch` times that of a decoding.

    Returns:
      [examples, latents, latents]; the diagonals are those of `squared_derivatives`.
    """
    return _map(partial(_gram, output, batch), jnp.asarray(codes))


def gram(
    output: Callable[[jax.Array], jax.Array],
    codes: Float[AnyArray, "examples latents"],
    batch: int = 8,
) -> jax.Array:
    """``E[J'J]`` over codes [latents, latents]; arguments as for `grams`."""
    return jnp.mean(grams(output, codes, batch), 0)


def subspace_spectrum(
    output: Callable[[jax.Array], jax.Array],
    codes: Float[AnyArray, "examples latents"],
) -> np.ndarray:
    """Eigenvalues of G, descending: output variance by direction, to first order.

    Args:
      output: see `squared_derivatives`.
      codes: draws of the analysis distribution; their covariance is S.

    Returns:
      [latents] float64.

    Reference: P. Constantine, Active Subspaces (2015).
    """
    covariance = np.cov(np.asarray(codes, np.float64), rowvar=False)
    return spectrum(np.asarray(gram(output, codes)), np.atleast_2d(covariance))


def spectrum(
    matrix: Float[AnyArray, "latents latents"],
    covariance: Float[AnyArray, "latents latents"],
) -> np.ndarray:
    """`subspace_spectrum` from E[J'J] and S where both are known.

    Args:
      matrix: from `gram`.
      covariance: S of the codes.

    Returns:
      [latents] float64, descending.
    """
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    turned = root @ np.asarray(matrix, np.float64) @ root
    return np.maximum(np.linalg.eigvalsh(turned)[::-1], 0.0)


def subspace_axes(
    output: Callable[[jax.Array], jax.Array],
    codes: Float[AnyArray, "examples latents"],
) -> np.ndarray:
    """Orthogonal axes of the latent space by what they do to the output.

    Eigenvectors of E[J'J], the largest first: for codes of unit variance the directions
    of `subspace_spectrum`.

    Args:
      output: see `squared_derivatives`.
      codes: draws of the analysis distribution.

    Returns:
      [latents, latents] float64, an axis a column.
    """
    return np.linalg.eigh(np.asarray(gram(output, codes), np.float64))[1][:, ::-1]


def _squares(output: Any, batch: int, code: jax.Array) -> jax.Array:
    _, tangent = jax.linearize(output, code)
    eye = jnp.eye(code.size, dtype=code.dtype)
    return lax.map(
        lambda direction: jnp.sum(jnp.square(tangent(direction))),
        eye,
        batch_size=min(batch, code.size),
    )


def _gram(output: Any, batch: int, code: jax.Array) -> jax.Array:
    _, tangent = jax.linearize(output, code)
    transposed = jax.linear_transpose(tangent, code)
    eye = jnp.eye(code.size, dtype=code.dtype)
    return lax.map(
        lambda direction: transposed(tangent(direction))[0],
        eye,
        batch_size=min(batch, code.size),
    )


@partial(jax.jit, static_argnums=0)
def _map(one: Callable, codes: jax.Array) -> jax.Array:
    return lax.map(one, codes)
