"""Sounds and a picture of what latents do: one moved, the rest as they are."""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ddspx import audio, plotting
from ddspx.features import integrated_loudness_lufs
from vae.pictures import image_grid
from vae.run import LoadedVae, decode_audio, encode_audio

_LOUDNESS_LUFS = -23.0
_PEAK = 0.99
_GAP_S = 0.15
_SPAN = (-2.0, -1.0, 0.0, 1.0, 2.0)


def write_traversals(
    loaded: LoadedVae,
    latents: Sequence[int],
    sounds: np.ndarray,
    codes: tuple[np.ndarray, np.ndarray],
    folder: Path,
) -> list[str]:
    """Writes a sound for each latent, and one picture of all.

    Each sound is the same example five times, its latent moved from -2 to +2 deviations
    of the codes, matched in loudness; the phase is the example's own.

    Args:
      loaded: the model.
      latents: which, the most important first.
      sounds: held-out examples [examples, time]; the most ordinary is moved.
      codes: mean and log-variance of their posterior.
      folder: where to.

    Returns:
      Names of the sounds.
    """
    if not len(latents):
        return []
    mean, log_variance = codes
    deviation = np.sqrt(mean.var(0) + np.exp(log_variance).mean(0))
    # The most ordinary example, so that two deviations stay where data is.
    distance = np.sum(((mean - mean.mean(0)) / np.maximum(deviation, 1e-6)) ** 2, 1)
    base = int(np.argmin(distance))
    span = np.array(_SPAN)
    alike = np.tile(sounds[base], (len(span), 1))
    source = encode_audio(loaded, jnp.asarray(alike)).source
    rate = loaded.config.front.sample_rate
    names, pictures = [], {}
    for place, latent in enumerate(latents):
        moved = np.tile(mean[base], (len(span), 1))
        moved[:, latent] += span * deviation[latent]
        moved = jnp.asarray(moved, jnp.float32)
        made = np.asarray(decode_audio(loaded, moved, source, keep_phase=True))
        name = f"traversal_{place:02d}_latent_{latent}.wav"
        audio.save(folder / name, _matched(made, rate), rate)
        names.append(name)
        images = loaded.vae.decode(loaded.params, loaded.model_state, moved)
        pictures |= {
            f"latent {latent}: {step:+.0f} sd": np.asarray(image)
            for step, image in zip(span, images, strict=True)
        }
    grid = image_grid(pictures, loaded.config.front, columns=len(span))
    plotting.save(grid, folder / "traversals.png")
    return names


def _matched(sounds: np.ndarray, sample_rate: int) -> np.ndarray:
    """Sounds in a row, all as loud; all of them quieter where one would clip."""
    loudness = np.asarray(integrated_loudness_lufs(sounds[:, None], sample_rate))
    heard = loudness > -69.0
    gain = np.where(heard, 10.0 ** ((_LOUDNESS_LUFS - loudness) / 20.0), 1.0)
    scaled = sounds * gain[:, None]
    scaled *= min(1.0, _PEAK / max(float(np.abs(scaled).max()), 1e-9))
    gap = np.zeros(round(_GAP_S * sample_rate))
    parts = [part for sound in scaled for part in (sound, gap)][:-1]
    return np.concatenate(parts)[None].astype(np.float32)
