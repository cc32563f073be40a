"""What a latent is judged by: maps from codes to the output that matters.

An `Output` takes codes [m, latents] to features [m, elements]. Features are scaled by
the root of their number, so that the sum of squares of an example is a mean square in
the output's unit: sqrt(2 T) is then the rms change that redrawing a latent makes, in dB
for levels, in shares of the range for the controls of an effect. `vae` knows no hosts:
what renders sound is passed in, and where it is no JAX function the output is marked
as not differentiable and gets the estimators that need no derivative.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ddspx.features import log_mel, mel_filterbank
from ddspx.types import AnyArray, Rate
from ddspx.units import hz_to_mel, mel_to_hz
from vae.spectrogram import SpectrogramConfig, magnitude

# Bands and stretches of time that features are put together in, at most.
_GROUPS = 16


@dataclass(frozen=True)
class Grouping:
    """Features put together to name what a latent does.

    Attributes:
      ids: [elements], number of each feature's group, from 0.
      labels: of the groups.
      ordered: whether neighbours may be told as one range.
    """

    ids: Int[np.ndarray, " elements"]
    labels: tuple[str, ...]
    ordered: bool = True


@dataclass(frozen=True)
class Output:
    """An output map.

    Attributes:
      name: for people and for files.
      unit: of sqrt(T), after the scaling that the module describes.
      of: ``codes[m, latents] -> features[m, elements]``, compiled if it is JAX.
      elements: number of features.
      differentiable: whether `of` is a JAX function that has derivatives.
      groupings: by kind: band, frame, parameter.
    """

    name: str
    unit: str
    of: Callable[[Any], Any]
    elements: int
    differentiable: bool = True
    groupings: Mapping[str, Grouping] = field(default_factory=dict)


def decoder_output(
    decode: Callable[[Any], Any],
    shape: tuple[int, int],
    front: SpectrogramConfig | None = None,
) -> Output:
    """The decoder's image as it is; unit: that of the normalised features.

    Args:
      decode: ``codes[m, latents] -> images[m, frames, bins]``.
      shape: (frames, bins).
      front: names frames and bins by seconds and Hz; their numbers when None.

    Returns:
      An `Output`; ``T * elements`` compares with the water level.
    """

    def of(codes):
        return _flat(decode(codes))

    return Output(
        "decoder", "", jax.jit(of), math.prod(shape), True, _of_image(shape, front)
    )


def level_output(decode: Callable[[Any], Any], front: SpectrogramConfig) -> Output:
    """Levels of the decoder's image in dB: of mel bands, or of bins where they are dB.

    Linear scales go through the mel filterbank. All levels end at the front-end's
    floor: what cannot be heard below it counts for nothing.

    Args:
      decode: ``codes[m, latents] -> images[m, frames, bins]``.
      front: front-end; its offset and spread stand for those of single images.

    Returns:
      An `Output` in dB.
    """
    name = "log_stft" if front.scale == "decibel" else "log_mel"
    bands = front.bins if front.logarithmic else front.mel_bands
    shape = (front.hops, bands)

    def of(codes):
        image = decode(codes)
        if front.logarithmic:
            level = jnp.maximum(image * front.spread + front.offset, front.floor_db)
            return _flat(level)
        bank = jnp.asarray(
            mel_filterbank(front.sample_rate, front.fft_size, front.mel_bands),
            jnp.float32,
        )
        energy = jnp.square(jnp.swapaxes(magnitude(front, image), -1, -2))
        mel = jnp.matmul(energy, bank, precision=jax.lax.Precision.HIGHEST)
        return _flat(10.0 * jnp.log10(jnp.maximum(mel, 10.0 ** (front.floor_db / 10))))

    groupings = _of_image(shape, front, mel=front.scale != "decibel")
    return Output(name, "dB", jax.jit(of), math.prod(shape), True, groupings)


def parameters_output(
    predict: Callable[[Any], Any], names: Sequence[str], differentiable: bool = True
) -> Output:
    """The controls of an effect, each in [0, 1]; unit: share of the range.

    Args:
      predict: ``codes[m, latents] -> controls[m, parameters]``.
      names: of the parameters.
      differentiable: whether `predict` is a JAX function.

    Returns:
      An `Output`. A parameter may move and not be heard: see `rendered_output`.
    """
    names = tuple(names)

    def of(codes):
        return predict(codes) / math.sqrt(len(names))

    groups = {"parameter": Grouping(np.arange(len(names)), names, ordered=False)}
    return Output(
        "parameters",
        "of the range",
        jax.jit(of) if differentiable else of,
        len(names),
        differentiable,
        groups,
    )


def rendered_output(
    predict: Callable[[Any], Any],
    render: Callable[[Any, Any], Any],
    sounds: Float[AnyArray, "sounds channels time"],
    sample_rate: Rate,
    *,
    differentiable: bool = False,
    fft_size: int = 1024,
    hop_length: int = 512,
    mel_bands: int = 64,
    floor_db: float = -80.0,
) -> Output:
    """Log-mel levels in dB of what an effect makes of a few sounds.

    The sounds are the same for every code, so that variance between sounds does not
    count: only what the latents do.

    Args:
      predict: ``codes[m, latents] -> controls[m, parameters]`` in [0, 1].
      render: ``(audio[n, channels, time], controls[n, parameters]) -> audio[n,
        channels, time]``: `ddspx.effects.base.batched` of an effect, or the call of a
        render pool.
      sounds: the bank.
      sample_rate: Hz.
      differentiable: whether `predict` and `render` are JAX functions.
      fft_size: samples.
      hop_length: samples.
      mel_bands: number of bands.
      floor_db: least level.

    Returns:
      An `Output` in dB, [m, sounds * bands * frames].

    Raises:
      ValueError: `sounds` is not [sounds, channels, time].
    """
    bank = np.asarray(sounds, np.float32)
    if bank.ndim != 3 or not bank.size:
        raise ValueError(f"expected sounds [sounds, channels, time], got {bank.shape}")
    count, channels, _ = bank.shape

    @jax.jit
    def levels(audio):
        found = log_mel(
            audio,
            sample_rate,
            fft_size=fft_size,
            hop_length=hop_length,
            mel_bands=mel_bands,
            floor_db=floor_db,
        )
        return _flat(found.reshape(-1, count, *found.shape[1:]))

    def of(codes):
        controls = predict(codes)
        many = len(controls)
        repeat = jnp.repeat if differentiable else np.repeat
        tile = jnp.tile if differentiable else np.tile
        return levels(render(tile(bank, (many, 1, 1)), repeat(controls, count, 0)))

    elements = jax.eval_shape(levels, jax.ShapeDtypeStruct(bank.shape, np.float32)).size
    frames = elements // (count * channels * mel_bands)
    shape = (count, channels, mel_bands, frames)
    groups = {
        "band": _along(shape, 2, _band_labels(mel_bands, float(sample_rate), True))
    }
    if count > 1:
        labels = tuple(f"sound {k + 1}" for k in range(count))
        groups["sound"] = _along(shape, 0, labels, ordered=False)
    return Output(
        "rendered",
        "dB",
        jax.jit(of) if differentiable else of,
        elements,
        differentiable,
        groups,
    )


def _flat(values: Any) -> jax.Array:
    values = jnp.asarray(values)
    values = values.reshape(len(values), -1)
    return values / math.sqrt(values.shape[1])


def _of_image(
    shape: tuple[int, int], front: SpectrogramConfig | None, mel: bool | None = None
) -> dict[str, Grouping]:
    frames, bins = shape
    if front is None:
        bands = tuple(f"bin {k}" for k in range(bins + 1))
        times = tuple(f"frame {k}" for k in range(frames + 1))
    else:
        mel = front.scale == "log_mel" if mel is None else mel
        bands = _band_labels(bins, float(front.sample_rate), mel)
        step = front.hop_length / front.sample_rate
        times = tuple(f"{k * step:.2f} s" for k in range(frames + 1))
    return {"band": _along(shape, 1, bands), "frame": _along(shape, 0, times)}


def _along(
    shape: tuple[int, ...], axis: int, edges: Sequence[str], ordered: bool = True
) -> Grouping:
    """Groups of neighbours along an axis; `edges` has a label more where ordered."""
    size = shape[axis]
    groups = min(size, _GROUPS) if ordered else size
    starts = [-(-k * size // groups) for k in range(groups + 1)]
    numbers = np.arange(size) * groups // size
    wide = [1] * len(shape)
    wide[axis] = size
    ids = np.broadcast_to(numbers.reshape(wide), shape).ravel()
    if not ordered:
        return Grouping(ids, tuple(edges), ordered)
    labels = tuple(
        f"{edges[starts[k]]} to {edges[starts[k + 1]]}" for k in range(groups)
    )
    return Grouping(ids, labels, ordered)


def _band_labels(bins: int, sample_rate: float, mel: bool) -> tuple[str, ...]:
    share = np.linspace(0.0, 1.0, bins + 1)
    if mel:
        top = float(hz_to_mel(0.5 * sample_rate))
        edges = [float(mel_to_hz(top * s)) for s in share]
    else:
        edges = [0.5 * sample_rate * float(s) for s in share]
    return tuple(f"{e / 1000:.1f} kHz" if e >= 1000 else f"{e:.0f} Hz" for e in edges)
