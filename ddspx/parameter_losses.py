"""Distances between controls: what a synth was asked for, not what is heard.

For sounds whose controls are known (made by the synth itself), or for a model that
hears its own sound again. Controls have frames second to last or last, as in
`ddspx.synths`; values are means over all but the leading dimensions that frames have.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ddspx.types import AnyArray
from ddspx.units import gain_to_db, hz_to_midi

# Below it nothing is heard, and levels are not compared.
_SILENT_DB = -100.0


def f0_distance(prediction_hz: AnyArray, target_hz: AnyArray) -> jax.Array:
    """Mean distance of fundamentals in semitones.

        mean_m |12 log2(f_m / g_m)|

    Args:
      prediction_hz: [..., frames], Hz.
      target_hz: [..., frames], Hz.

    Returns:
      [...].
    """
    difference = jnp.asarray(hz_to_midi(prediction_hz) - hz_to_midi(target_hz))
    return jnp.mean(jnp.abs(difference), -1)


def harmonic_distance(
    prediction: Mapping[str, Any], target: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """Distances of the controls of a harmonic synth.

    Args:
      prediction: amplitude [..., frames], harmonic_distribution [..., frames, K],
        f0_hz [..., frames].
      target: the same.

    Returns:
      By name: ``parameters/amplitude_db``, mean difference in dB, levels below -100 dB
      counting as that; ``parameters/harmonic_distribution``, half the sum of absolute
      differences (0 to 1, the share that would have to move), frames weighted by the
      target's amplitude; ``parameters/f0_semitones``.
    """
    weight = jnp.asarray(target["amplitude"])
    weight = weight / jnp.maximum(jnp.sum(weight, -1, keepdims=True), 1e-7)
    moved = jnp.asarray(prediction["harmonic_distribution"]) - jnp.asarray(
        target["harmonic_distribution"]
    )
    share = 0.5 * jnp.sum(jnp.abs(moved), -1)
    return {
        "parameters/amplitude_db": _level_distance(
            prediction["amplitude"], target["amplitude"]
        ),
        "parameters/harmonic_distribution": jnp.sum(weight * share, -1),
        "parameters/f0_semitones": f0_distance(prediction["f0_hz"], target["f0_hz"]),
    }


def noise_distance(
    prediction: Mapping[str, Any], target: Mapping[str, Any]
) -> dict[str, jax.Array]:
    """Mean difference in dB of the magnitudes of a filtered noise.

    Args:
      prediction: noise_magnitudes [..., frames, bins].
      target: the same.

    Returns:
      ``parameters/noise_db`` [...].
    """
    distance = _level_distance(
        prediction["noise_magnitudes"], target["noise_magnitudes"]
    )
    return {"parameters/noise_db": jnp.mean(distance, -1)}


def latent_distance(prediction: AnyArray, target: AnyArray) -> jax.Array:
    """Mean absolute difference of latent curves.

    Args:
      prediction: [..., frames, latents].
      target: the same.

    Returns:
      [...].
    """
    difference = jnp.asarray(prediction) - jnp.asarray(target)
    return jnp.mean(jnp.abs(difference), (-2, -1))


def _level_distance(prediction: AnyArray, target: AnyArray) -> jax.Array:
    one, other = (gain_to_db(jnp.asarray(x), _SILENT_DB) for x in (prediction, target))
    return jnp.mean(jnp.abs(one - other), -1)
