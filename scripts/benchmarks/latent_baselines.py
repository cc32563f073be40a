"""What trained VAEs are compared with: PCA, the linear beta-VAE, and by how much."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from styletransfer.evaluation import Interval
from vae.models import ModelConfig, make_vae
from vae.run import LoadedVae, VaeRunConfig, compiled, to_image
from vae.start import start_linear

# A linear model with a water level this far below that of the run is PCA.
NO_NOISE = 1e-4
_AT_ONCE = 64


def images_of(config: VaeRunConfig, audio: np.ndarray) -> np.ndarray:
    """What the model sees of sounds, [examples, frames, bins]."""
    image = jax.jit(lambda sound: to_image(config, sound).image)
    parts = [
        np.asarray(image(jnp.asarray(audio[k : k + _AT_ONCE])))
        for k in range(0, len(audio), _AT_ONCE)
    ]
    return np.concatenate(parts)


def linear_model(config: VaeRunConfig, images: np.ndarray, share: float) -> LoadedVae:
    """The linear beta-VAE of images at its optimum; PCA for a small `share` of tau."""
    assert config.tau is not None
    model = ModelConfig("linear", latents=config.model.latents)
    vae = make_vae(model, config.shape)
    params, state = vae.init(jax.random.key(0))
    params = start_linear(params, images, share * config.tau)
    return LoadedVae(
        compiled(vae), params, state, dataclasses.replace(config, model=model)
    )


def lower_by(
    ours: np.ndarray, theirs: np.ndarray, groups: np.ndarray, draws: int
) -> Interval:
    """How much lower a mean is, as a share of the other's, with a 95 % interval.

    Args:
      ours: [examples].
      theirs: of the same examples.
      groups: speaker or piece of each, resampled first.
      draws: bootstrap replicates.

    Returns:
      An `Interval`.
    """
    members = [np.flatnonzero(groups == name) for name in sorted(set(groups))]
    rng = np.random.default_rng(0)
    shares = np.empty(draws)
    for draw in range(draws):
        chosen = rng.integers(len(members), size=len(members))
        rows = np.concatenate([rng.choice(members[k], len(members[k])) for k in chosen])
        # Both means move together: a share of the baseline's on the same examples.
        shares[draw] = 1.0 - ours[rows].mean() / theirs[rows].mean()
    low, high = np.quantile(shares, (0.025, 0.975))
    return Interval(float(1.0 - ours.mean() / theirs.mean()), float(low), float(high))
