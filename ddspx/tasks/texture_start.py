"""Where a texture model begins: as loud as the recordings, with their mean spectrum.

A network of hundreds of outputs takes hundreds of steps to find the level and the mean
spectrum of its recordings, which can be measured. What remains to be learned is what
moves. Only the biases of the last layer are changed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.signal

from ddspx.data.dataset import batches
from ddspx.features import rms_db
from ddspx.tasks.noisebandnet_model import Model, NoiseBandRunConfig
from ddspx.tasks.sounds import Sound, crops
from ddspx.tasks.texture_synths import centers_hz
from ddspx.types import Rate

# Crops that level and spectrum are measured of.
CROPS = 16
# Between which the level of the start is looked for, and how finely.
_SHIFTS, _HALVINGS = (-12.0, 12.0), 12
# Far below its upper end an output of x is an amplitude of 10^x: one more is 20 dB.
_ROUNDS, _MOST = 4, 2.0
_RESOLUTION_HZ = 6.0
_FLOOR = 1e-12


def first_crops(
    config: NoiseBandRunConfig, sounds: Sequence[Sound]
) -> dict[str, np.ndarray] | None:
    """What the start is measured of, where the configuration asks for one.

    Args:
      config: of the run.
      sounds: that it is trained on.

    Returns:
      The first crops of training, or None.
    """
    if config.start == "plain":
        return None
    found = crops(sounds, config.crops, config.frames, config.source.hop)
    return batches(found, CROPS)[0]


def begin(
    config: NoiseBandRunConfig,
    model: Model,
    params: Any,
    extra: Mapping[str, Any],
    batch: Mapping[str, Any],
) -> Any:
    """Biases of the outputs as ``config.start`` says.

    Args:
      config: of the run.
      model: of the run.
      params: of the network, as drawn.
      extra: of the train state: ``controls`` and ``gain``.
      batch: of training sounds, see `first_crops`.

    Returns:
      ``params`` with another bias of the last layer.
    """
    curves = {name: jnp.asarray(batch[name]) for name in config.controls.names}
    target = jnp.asarray(batch["audio"]) * extra["gain"]
    bias = params["output"]["bias"]

    @jax.jit
    def sound(bias, bank):
        moved = {**params, "output": {**params["output"], "bias": bias}}
        return model.render(moved, extra, curves, jax.random.key(0), bank)

    wanted = rms_db(target.reshape(-1))
    low, high = _SHIFTS
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        level = rms_db(sound(bias + middle, model.bank).reshape(-1))
        low, high = (middle, high) if level < wanted else (low, middle)
    bias = bias + 0.5 * (low + high)
    centres = centers_hz(config.source, model.bank, model.synth.sizes)
    if config.start == "spectrum" and centres:
        rate = config.source.sample_rate
        aim = {n: band_levels(target, rate, c) for n, c in centres.items()}
        for _ in range(_ROUNDS):
            made = sound(bias, model.bank)
            has = {n: band_levels(made, rate, c) for n, c in centres.items()}
            bias = bias + _shifts(model.synth.sizes, aim, has)
    return {**params, "output": {**params["output"], "bias": bias}}


def band_levels(audio: Any, sample_rate: Rate, centre_hz: np.ndarray) -> np.ndarray:
    """Density of power around frequencies, typical of a sound.

    Its mean over the band that ends half way to the neighbours, and the geometric mean
    over frames: a loud moment counts as one, as in a loss of logarithms.

    Args:
      audio: [batch, time].
      sample_rate: Hz.
      centre_hz: [n], rising.

    Returns:
      Base-10 logarithms [n].
    """
    size = 2 ** round(float(np.log2(sample_rate / _RESOLUTION_HZ)))
    size = min(size, audio.shape[-1])
    bins, _, spectra = scipy.signal.stft(
        np.asarray(audio),
        sample_rate,
        nperseg=size,
        boundary=None,  # pyright: ignore[reportArgumentType] - stub knows only str
        padded=False,
    )
    power = np.abs(spectra) ** 2
    ends = np.concatenate(
        [[0.0], 0.5 * (centre_hz[1:] + centre_hz[:-1]), [sample_rate / 2]]
    )
    # As a difference of running sums, so that bands may be narrower than a bin.
    sums = np.cumsum(power, -2)
    place = np.clip(np.interp(ends, bins, np.arange(len(bins))), 0, len(bins) - 1)
    left = np.minimum(place.astype(int), len(bins) - 2)
    share = (place - left)[:, None]
    run = (1.0 - share) * sums[..., left, :] + share * sums[..., left + 1, :]
    width = np.maximum(np.diff(place), 1e-6)[:, None]
    density = np.maximum(np.diff(run, axis=-2) / width, _FLOOR)
    return np.log10(density).mean((0, 2))


def _shifts(sizes, aim, has):
    """What to add to each bias; decades of amplitude are half those of power."""
    parts = [
        np.clip(0.5 * (aim[name] - has[name]), -_MOST, _MOST)
        if name in aim
        else np.zeros(size)
        for name, size in sizes.items()
    ]
    return jnp.asarray(np.concatenate(parts), jnp.float32)
