"""Takes latents out of a model for good: an exact slice of three dense layers.

    pruned(z_keep) = full(z_keep, z_drop = c)

with c the value at which a dropped latent is held, its mean over data. The bias of the
decoder's first layer takes over what c contributed. Works on the parameters of any
`vae.models.Vae`, and on rotated ones (`rotate`), whose first directions can then be
kept instead of axes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ddspx.types import AnyArray


def prune(
    params: Any,
    keep: Int[AnyArray, " kept"],
    held: Float[AnyArray, " latents"] | None = None,
) -> Any:
    """Parameters of a model with the latents `keep` alone.

    Args:
      params: of a `Vae` with K latents.
      keep: latents that stay, in the order wanted; none twice.
      held: value of each latent when it is dropped; zeros when None.

    Returns:
      Parameters of the same model with ``len(keep)`` latents.

    Raises:
      ValueError: an index out of range or twice, or nothing kept.
    """
    heads = params["encoder"]
    latents = heads["mean"]["bias"].shape[0]
    keep = np.asarray(keep)
    if keep.size == 0 or len(set(keep.tolist())) != keep.size:
        raise ValueError(
            f"keep {keep.tolist()} must name one latent or more, each once"
        )
    if keep.min() < 0 or keep.max() >= latents:
        raise ValueError(f"keep {keep.tolist()} must lie in 0 ... {latents - 1}")
    dropped = np.setdiff1d(np.arange(latents), keep)
    held = np.zeros(latents, np.float32) if held is None else np.asarray(held)
    first = params["decoder"]["from_latent"]
    moved = jnp.matmul(
        jnp.asarray(held[dropped]), first["kernel"][dropped], precision="highest"
    )
    encoder = dict(heads)
    for head in ("mean", "log_variance"):
        encoder[head] = {
            "kernel": heads[head]["kernel"][:, keep],
            "bias": heads[head]["bias"][keep],
        }
    decoder = dict(params["decoder"])
    decoder["from_latent"] = {
        "kernel": first["kernel"][keep],
        "bias": first["bias"] + moved,
    }
    return {**params, "encoder": encoder, "decoder": decoder}


def rotate(params: Any, turn: Float[AnyArray, "latents latents"]) -> Any:
    """Parameters of the same model in turned axes: codes become ``turn' z``.

    Means are turned in the encoder and turned back in the decoder's first layer, so
    that decoding a mean is unchanged. Posterior variances of turned latents are not
    diagonal; the ``log_variance`` head is left as it is and must be trained again.

    Args:
      params: of a `Vae`.
      turn: orthogonal; its columns are the new axes, the most important first
        (`vae.jacobian.subspace_axes`).

    Returns:
      Parameters of the same shapes.

    Raises:
      ValueError: `turn` is not orthogonal.
    """
    turn = np.asarray(turn, np.float64)
    if not np.allclose(turn.T @ turn, np.eye(len(turn)), atol=1e-4):
        raise ValueError("turn must be orthogonal: its columns are the new axes")
    exact = jax.lax.Precision.HIGHEST
    matrix = jnp.asarray(turn, jnp.float32)
    mean = params["encoder"]["mean"]
    first = params["decoder"]["from_latent"]
    encoder = {
        **params["encoder"],
        "mean": {
            "kernel": jnp.matmul(mean["kernel"], matrix, precision=exact),
            "bias": jnp.matmul(mean["bias"], matrix, precision=exact),
        },
    }
    decoder = {
        **params["decoder"],
        "from_latent": {
            "kernel": jnp.matmul(matrix.T, first["kernel"], precision=exact),
            "bias": first["bias"],
        },
    }
    return {**params, "encoder": encoder, "decoder": decoder}
