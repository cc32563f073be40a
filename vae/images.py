"""Spectrogram images as pictures: augmentation and similarity, both by dm-pix.

Images are [batch, frames, bins], in any unit: for dm-pix, which expects [0, 1], each
pair is brought there by the range of its target. What an image holds least is taken
for silence.
"""

from dataclasses import dataclass
from typing import Any

import dm_pix
import jax
import jax.numpy as jnp
from jaxtyping import Float

from ddspx.types import AnyArray, RandomKey

# Smallest range that is divided by: an image all of one level has none.
_FLAT = 1e-6
_SSIM_SIZE = 11
_BLUR_SIZE = 7


@dataclass(frozen=True)
class ImageAugmentation:
    """Random changes of training images; the defaults change nothing.

    Attributes:
      shift_frames: a crop of the image padded by silence so many frames on either
        side: the sound moves in time by up to as many.
      shift_bins: as well in frequency, with the outermost bins repeated; in mel bands
        that comes near another size of vocal tract.
      gain: levels move by up to this, up or down, in units of the image.
      contrast: differences from the image's mean grow or shrink by up to this share;
        below 1.
      blur: largest deviation of a Gaussian blur in pixels, one for the whole batch.
    """

    shift_frames: int = 0
    shift_bins: int = 0
    gain: float = 0.0
    contrast: float = 0.0
    blur: float = 0.0

    def __post_init__(self):
        if min(self.shift_frames, self.shift_bins, self.gain, self.blur) < 0:
            raise ValueError("shift_frames, shift_bins, gain, blur must be 0 or more")
        if not 0 <= self.contrast < 1:
            raise ValueError(f"contrast {self.contrast} must be in [0, 1)")


def augment(
    config: ImageAugmentation,
    images: Float[AnyArray, "batch frames bins"],
    key: RandomKey,
) -> Float[AnyArray, "batch frames bins"]:
    """Changes each image by a draw of its own; cells at silence stay there.

    Args:
      config: ranges.
      images: features.
      key: of the draws.

    Returns:
      Images of the same shape.
    """
    changed: Any = jnp.asarray(images)
    batch = len(changed)
    shifts, gains, contrasts, blur = jax.random.split(key, 4)
    lowest = jnp.min(changed, (1, 2), keepdims=True)
    heard = changed > lowest
    if config.contrast:
        factor = 1.0 + config.contrast * _uniform(contrasts, batch)
        contrast = jax.vmap(dm_pix.adjust_contrast)(changed[..., None], factor)
        changed = jnp.asarray(contrast)[..., 0]
    if config.gain:
        delta = config.gain * _uniform(gains, batch)
        changed = jax.vmap(dm_pix.adjust_brightness)(changed, delta)
    if config.contrast or config.gain:
        changed = jnp.where(heard, jnp.maximum(changed, lowest), lowest)
    if config.shift_frames or config.shift_bins:
        frames, bins = config.shift_frames, config.shift_bins

        def move(key, image):
            padded = jnp.pad(image, [(0, 0), (bins, bins)], mode="edge")
            padded = jnp.pad(
                padded, [(frames, frames), (0, 0)], constant_values=jnp.min(image)
            )
            return dm_pix.random_crop(key, padded, image.shape)

        changed = jax.vmap(move)(jax.random.split(shifts, batch), changed)
    if config.blur:
        sigma = config.blur * jax.random.uniform(blur, minval=0.05)
        blurred = dm_pix.gaussian_blur(changed[..., None], sigma, _BLUR_SIZE)
        changed = jnp.asarray(blurred)[..., 0]
    return changed


def similarity(
    images: Float[AnyArray, "batch frames bins"],
    targets: Float[AnyArray, "batch frames bins"],
) -> dict[str, jax.Array]:
    """Structural similarity and peak signal-to-noise ratio of each image.

    Both are of images scaled by the target's range to [0, 1]; what lies outside is
    clipped, as it would be shown.

    Args:
      images: to judge.
      targets: what they should be.

    Returns:
      ``ssim`` (1 for equal images) and ``psnr_db``, each [batch]; PSNR ends at 120 dB.
    """
    targets = jnp.asarray(targets)
    low = jnp.min(targets, (1, 2), keepdims=True)
    wide = jnp.maximum(jnp.max(targets, (1, 2), keepdims=True) - low, _FLAT)
    ours, wanted = (
        jnp.clip((jnp.asarray(each) - low) / wide, 0.0, 1.0)[..., None]
        for each in (images, targets)
    )
    size = min(_SSIM_SIZE, *targets.shape[1:])
    return {
        "ssim": jnp.asarray(dm_pix.ssim(ours, wanted, filter_size=size)),
        "psnr_db": jnp.minimum(jnp.asarray(dm_pix.psnr(ours, wanted)), 120.0),
    }


def _uniform(key: jax.Array, batch: int) -> jax.Array:
    return jax.random.uniform(key, (batch,), minval=-1.0, maxval=1.0)
