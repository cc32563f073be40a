"""The embeddings that are compared, all of the same renders and of one size.

``vae``: `vae.run.embed_audio`. ``vae_turned``: the same turned to its principal axes on
the training split, none dropped: trees look along axes, and a mean over windows has
others than a code. ``untrained``: the same model before its first step.
``pca``: principal components of the model's own windows, averaged as its codes are.
``pca_whole``: of the image of the whole section at once. ``average``: of the long-term
average spectrum. ``moments``: of the average and the deviation of each band over time.
``crest``: peak over RMS, a single number, which is what level still says.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.decomposition import PCA

from vae.models import make_vae
from vae.run import (
    LoadedVae,
    VaeRunConfig,
    compiled,
    embed_audio,
    to_image,
    windows,
)

METHODS = (
    "vae",
    "vae_turned",
    "pca",
    "pca_whole",
    "average",
    "moments",
    "untrained",
    "crest",
)
# Sections that are in the device's memory at once.
_AT_ONCE = 16
# Windows that components are found from; more change them little and cost minutes.
_MOST_FOR_PCA = 8000


def by_batches(function: Callable, audio: np.ndarray) -> np.ndarray:
    """``function(audio)`` for a few items at a time; the last batch is filled up."""
    missing = -len(audio) % _AT_ONCE
    padded = np.concatenate([audio, np.resize(audio, (missing, *audio.shape[1:]))])
    made = [
        np.asarray(function(jnp.asarray(padded[first : first + _AT_ONCE])))
        for first in range(0, len(padded), _AT_ONCE)
    ]
    return np.concatenate(made)[: len(audio)]


def window_images(config: VaeRunConfig, audio: np.ndarray) -> np.ndarray:
    """What the model sees of each window: float32 [items, windows, frames, bins]."""
    cut = jax.jit(lambda batch: to_image(config, windows(config, batch)).image)
    return by_batches(cut, audio)


def embeddings(
    loaded: LoadedVae, audio: Mapping[str, np.ndarray], *, seed: int = 0
) -> dict[str, dict[str, np.ndarray]]:
    """Every method's embedding of every split.

    Args:
      loaded: trained model; its number of latents is every method's largest size.
      audio: float32 [items, time] by split; whatever is fitted is fitted to ``train``.
      seed: of the untrained model and of the choice of windows.

    Returns:
      By method and split [items, size].
    """
    config, size = loaded.config, loaded.vae.latents
    found: dict[str, dict[str, np.ndarray]] = {}
    found["vae"] = _each(audio, lambda batch: embed_audio(loaded, batch))
    found["vae_turned"] = components(found["vae"], size)
    blank = make_vae(config.model, config.shape)
    params, state = jax.jit(blank.init)(jax.random.key(seed))
    untrained = LoadedVae(compiled(blank), params, state, config)
    found["untrained"] = _each(audio, lambda batch: embed_audio(untrained, batch))
    images = {split: window_images(config, each) for split, each in audio.items()}
    found["pca"] = pooled_components(images, size, seed)
    averages = {split: each.mean((1, 2)) for split, each in images.items()}
    found["average"] = components(averages, size)
    both = {
        split: np.concatenate([averages[split], each.std((1, 2))], -1)
        for split, each in images.items()
    }
    found["moments"] = components(both, size)
    del images
    samples = audio["train"].shape[-1]
    whole = replace(config, front=replace(config.front, samples=samples))
    images = {split: window_images(whole, each) for split, each in audio.items()}
    found["pca_whole"] = pooled_components(images, size, seed)
    found["crest"] = {
        split: 20.0
        * np.log10(
            np.abs(each).max(-1, keepdims=True)
            / np.sqrt(np.mean(each**2, -1, keepdims=True))
        )
        for split, each in audio.items()
    }
    return {name: found[name] for name in METHODS}


def _each(audio: Mapping[str, np.ndarray], function: Callable) -> dict[str, np.ndarray]:
    whole = jax.jit(function)
    return {split: by_batches(whole, each) for split, each in audio.items()}


def pooled_components(
    images: Mapping[str, np.ndarray], size: int, seed: int
) -> dict[str, np.ndarray]:
    """Principal components of windows, averaged over the windows of an item.

    Args:
      images: [items, windows, frames, bins] by split; fitted to ``train``.
      size: how many components, or as many as there are.
      seed: of the windows that they are found from.

    Returns:
      [items, size] by split.
    """
    known = images["train"].reshape(-1, np.prod(images["train"].shape[2:]))
    rng = np.random.default_rng(seed)
    if len(known) > _MOST_FOR_PCA:
        known = known[np.sort(rng.permutation(len(known))[:_MOST_FOR_PCA])]
    fitted = PCA(
        min(size, *known.shape),
        svd_solver="randomized",
        n_oversamples=32,
        random_state=seed,
    ).fit(known)
    # The average of components is the component of the average.
    return {
        split: fitted.transform(each.mean(1).reshape(len(each), -1))
        for split, each in images.items()
    }


def components(features: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """Principal components of features [items, n], fitted to ``train``."""
    fitted = PCA(min(size, *features["train"].shape)).fit(features["train"])
    return {split: fitted.transform(each) for split, each in features.items()}
