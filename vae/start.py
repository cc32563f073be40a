"""Starts a VAE with a linear path at the optimum of the linear beta-VAE.

Of `vae.linear`, with covariance eigenvectors u_i and eigenvalues lambda_i of the
training images and their mean m,

    mean_i = sqrt(lambda_i - tau) / lambda_i  <u_i, x - m>,   s_i^2 = tau / lambda_i
    image  = m + sum_i sqrt(lambda_i - tau) z_i u_i

Training then only has to find what a linear model cannot do. A path that sees blocks
of the image is at the optimum of those that make images which are flat in each block.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ddspx.types import AnyArray

# Latents below the water level are not left at zero, where no gradient wakes them.
_LEAST = 1.05


def start_linear(
    params: Any,
    images: Float[AnyArray, "examples rows columns"],
    tau: float,
    *,
    gain: float = 1.0,
) -> Any:
    """Weights whose linear path is at the optimum, and whose rest says nothing yet.

    Args:
      params: of a `vae.models.Vae` whose configuration has ``linear_path``.
      images: training images, more than one, as the linear path sees them: with
        ``linear_pool`` the blocks of `vae.models.pool`.
      tau: water level, positive.
      gain: ``linear_gain`` of the model.

    Returns:
      Parameters of the same shapes.

    Raises:
      ValueError: the weights have no linear path for such images, or tau or the number
        of images is too small.
    """
    flat = np.asarray(images, np.float32).reshape(len(images), -1)
    heads, first = params["encoder"]["mean"], params["decoder"]["from_latent"]
    elements, (seen, latents) = flat.shape[1], heads["kernel"].shape
    if seen < elements or first["kernel"].shape[1] < elements:
        raise ValueError(
            f"images of {elements} elements, but mean sees {seen}: give a model with"
            " linear_path"
        )
    if len(flat) < 2 or not tau > 0:
        raise ValueError(f"{len(flat)} images and tau {tau}: give two or more, above 0")
    centre = flat.mean(0)
    values, axes = _components(flat - centre, latents)
    values = np.maximum(values, _LEAST * tau)
    scale = np.sqrt(values - tau)
    read = np.zeros((seen, latents), np.float32)
    read[-elements:] = axes.T * (scale / values)
    write = np.array(first["kernel"])
    write[:, -elements:] = axes * scale[:, None]
    write_bias = np.array(first["bias"])
    write_bias[-elements:] = centre
    spread = jnp.asarray(np.log(tau / values), jnp.float32)
    encoder = {
        **params["encoder"],
        "mean": {
            "kernel": jnp.asarray(read / gain),
            "bias": jnp.asarray(-centre @ read[-elements:]),
        },
        "log_variance": {
            "kernel": jnp.zeros_like(params["encoder"]["log_variance"]["kernel"]),
            "bias": spread,
        },
    }
    decoder = {
        **params["decoder"],
        "from_latent": {"kernel": jnp.asarray(write), "bias": jnp.asarray(write_bias)},
    }
    return {**params, "encoder": encoder, "decoder": decoder}


def _components(centred: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors [most, elements] of the covariance."""
    count, elements = centred.shape
    # The smaller of the two Gram matrices has the same eigenvalues.
    gram = np.asarray(
        jax.jit(lambda x: jnp.matmul(x, x.T, precision="highest"))(
            centred if count <= elements else centred.T
        ),
        np.float64,
    )
    squares, vectors = np.linalg.eigh(gram)
    squares, vectors = squares[::-1][:most], vectors[:, ::-1][:, :most]
    if count <= elements:
        vectors = centred.T @ vectors.astype(centred.dtype)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=0), 1e-12)
    values, axes = np.zeros(most), np.zeros((most, elements))
    values[: len(squares)] = np.maximum(squares, 0.0) / count
    axes[: len(squares)] = vectors.T
    return values, axes
