"""How a DDSP model is judged: spectra, f0, loudness, and whether its harmonics train.

All of sounds [batch, time] and curves [batch, frames]; means over the batch, scalars.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ddspx.features import a_weighted_loudness_db
from ddspx.losses import multi_resolution_stft, spectral_distance
from ddspx.pitch import track_f0
from ddspx.signal import map_examples
from ddspx.tasks.ddsp_model import DdspRunConfig, Rendered
from ddspx.types import AnyArray, Signal

# A frame counts as voiced where this share of its power repeats, less than so much
# below the loudest of its example.
SURE, _RANGE_DB = 0.8, 40.0
_NEAR_CENTS = 50.0


def voiced_frames(loudness_db: AnyArray, confidence: AnyArray) -> jax.Array:
    """Frames that have a pitch and are heard.

    Args:
      loudness_db: [..., frames].
      confidence: of f0, [..., frames].

    Returns:
      Bool [..., frames].
    """
    loudness_db = jnp.asarray(loudness_db)
    loud = loudness_db > jnp.max(loudness_db, -1, keepdims=True) - _RANGE_DB
    return loud & (jnp.asarray(confidence) > SURE)


def loudness_of(config: DdspRunConfig, audio: Signal) -> jax.Array:
    """Loudness as the curves of recordings have it, [..., frames] in dB."""
    frames = -(-jnp.shape(audio)[-1] // config.hop)
    window = config.controls.window(config.synth.sample_rate)
    found = a_weighted_loudness_db(
        audio, config.synth.sample_rate, fft_size=window, hop_length=config.hop
    )
    return found[..., :frames]


def tracking(
    config: DdspRunConfig, audio: Signal, curves: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """How well a sound has the f0 and the loudness that it was asked for.

    Args:
      config: of the run.
      audio: [batch, time], what the model made.
      curves: loudness_db, f0_hz and confidence [batch, frames] that it was driven by,
        measured.

    Returns:
      Over frames that are voiced in what was asked for: ``loudness_error_db``, mean
      absolute difference; ``voiced``, the share that is voiced in the sound too; over
      those ``f0_error_cents``, the median absolute difference, and ``f0_near``, the
      share within 50 cents.
    """
    found = track_f0(
        audio,
        config.synth.sample_rate,
        config.hop,
        low_hz=config.pitch.low_hz,
        high_hz=config.pitch.high_hz,
    )
    wanted = voiced_frames(curves["loudness_db"], curves["confidence"])
    level = jnp.abs(loudness_of(config, audio) - curves["loudness_db"])
    both = wanted & jnp.asarray(found.voiced)
    cents = 1200.0 * jnp.abs(jnp.log2(found.f0_hz / jnp.asarray(curves["f0_hz"])))
    median = jnp.nanmedian(jnp.where(both, cents, jnp.nan))
    return {
        "loudness_error_db": _share(level, wanted),
        "voiced": _share(both, wanted),
        "f0_error_cents": jnp.where(jnp.any(both), median, 0.0),
        "f0_near": _share(cents < _NEAR_CENTS, both),
    }


def spectral(
    config: DdspRunConfig, audio: Signal, target: Signal
) -> dict[str, jax.Array]:
    """Distances of spectra.

    Args:
      config: of the run.
      audio: [batch, time].
      target: [batch, time].

    Returns:
      ``spectral``: magenta/ddsp's multi-scale loss with both weights 1, linear and
      logarithmic terms summed over scales; ``mr_stft``: auraloss's.
    """
    loss, _ = spectral_distance(audio, target, config.recipe(magenta=True))
    # One at a time: the STFT frames of a whole batch would not fit a cache.
    other = map_examples(lambda p, t: multi_resolution_stft(p, t)[0], audio, target)
    return {"spectral": jnp.mean(loss), "mr_stft": jnp.mean(other)}


def harmonic_share(made: Rendered) -> jax.Array:
    """Share of the harmonic part in the energy of both parts, in [0, 1]."""
    harmonic, noise = (
        jnp.einsum("bt,bt->", x, x, precision="highest")
        for x in (made.harmonic, made.noise)
    )
    return harmonic / jnp.maximum(harmonic + noise, 1e-20)


def harmonic_gradient_share(gradients: Any, sizes: Mapping[str, int]) -> jax.Array:
    """Share of the harmonic outputs in the gradient of the last layer, in [0, 1].

    Args:
      gradients: of the parameters of the model.
      sizes: of the outputs, in order.

    Returns:
      Of the sum of squares over the layer's columns.
    """
    kernel = gradients["decoder"]["output"]["kernel"]
    total = jnp.einsum("io,io->o", kernel, kernel, precision="highest")
    columns = sum(n for name, n in sizes.items() if name != "noise_magnitudes")
    return jnp.sum(total[:columns]) / jnp.maximum(jnp.sum(total), 1e-30)


def describe_harmonics(step: int, share: float) -> str:
    """A warning in words if the harmonic part does not train, else nothing.

    Args:
      step: of training.
      share: of the harmonic part in the energy.

    Returns:
      A sentence, or ``""``.
    """
    if share >= 0.1:
        return ""
    return (
        f"the harmonic part has {100 * share:.2g} % of the energy at step {step}: noise"
        ' does its work, and it may never come back. Begin again with start "level" or'
        " a lower learning rate; are recordings monophonic, and pitch.low_hz and"
        " high_hz right for them?"
    )


def _share(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the frames of a mask; 0 where it is empty."""
    total = jnp.sum(jnp.where(mask, values, 0))
    return total / jnp.maximum(jnp.sum(mask), 1)
