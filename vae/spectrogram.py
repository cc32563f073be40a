"""Front-ends: sound to an image of fixed size that a VAE models, and back.

    features = (level - offset) / spread,  level = scale(|STFT(x)|)   [frames, bins]

Scales: ``magnitude`` |X|; ``power_law`` |X|^p (0.3 by default, near loudness);
``decibel`` 20 log10 |X| and ``log_mel`` mel power in dB, both floored. The way back is
exact but for the floor; log-mel has fewer bands than bins and goes through the
non-negative least-squares inverse of its filterbank. Phase is stored, or found anew by
`griffin_lim`. ``waveform`` is the samples themselves, a hop a row, and needs no phase.
Sizes and normalisation are configuration, so that a checkpoint says all.

Offset and spread are constants of the configuration (``normalize="fixed"``), so that
level is part of the image. The faithful presets take them from each image instead, its
mean and deviation (``"standard"``) or its range (``"range"``): then `analyze` returns
them, the way back needs them, and an image that came from no sound, a sample of the
prior, takes the configuration's.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Complex, Float

from ddspx.features import mel_filterbank
from ddspx.signal import istft, power, stft
from ddspx.types import AnyArray, RandomKey, Signal

Scale = Literal["magnitude", "power_law", "decibel", "log_mel", "waveform"]
Normalize = Literal["fixed", "standard", "range"]
_LOWEST = 1e-10
# Images that vary by less are all one level: they are divided by `spread` instead.
_FLAT = 1e-6
# Multiplicative updates of the mel inverse: the error no longer falls after these.
_MEL_UPDATES = 30


@dataclass(frozen=True)
class SpectrogramConfig:
    """Size and scale of the image.

    Attributes:
      sample_rate: Hz.
      samples: of the audio; shorter sound is padded by zeros, longer is refused.
      fft_size: samples.
      hop_length: samples.
      window_length: samples; `fft_size` when 0.
      scale: see the module.
      exponent: p of ``power_law``.
      mel_bands: of ``log_mel``.
      floor_db: least level of ``decibel`` and ``log_mel``.
      range_db: in ``decibel``, nothing lies further below the loudest cell of its
        image; None for no such limit.
      nyquist: whether the topmost bin of the linear scales is kept.
      normalize: where offset and spread come from, see the module.
      offset: subtracted from the scaled magnitudes.
      spread: then divided by; positive.
    """

    sample_rate: int = 24000
    samples: int = 65536
    fft_size: int = 1024
    hop_length: int = 256
    window_length: int = 0
    scale: Scale = "log_mel"
    exponent: float = 0.3
    mel_bands: int = 128
    floor_db: float = -80.0
    range_db: float | None = None
    nyquist: bool = True
    normalize: Normalize = "fixed"
    offset: float = -40.0
    spread: float = 20.0

    def __post_init__(self):
        if self.scale not in get_args(Scale):
            raise ValueError(
                f"scale {self.scale!r} is unknown; choose one of"
                f" {', '.join(get_args(Scale))}"
            )
        if self.normalize not in ("fixed", "standard", "range"):
            raise ValueError(
                f"normalize {self.normalize!r} is unknown; choose fixed, standard or"
                " range"
            )
        if self.range_db is not None and not self.range_db > 0:
            raise ValueError(f"range_db {self.range_db} must be positive")
        if not self.spread > 0 or not 0 < self.exponent <= 1 or not self.floor_db < 0:
            raise ValueError(
                f"spread {self.spread} must be positive, exponent {self.exponent} in"
                f" (0, 1] and floor_db {self.floor_db} below 0"
            )
        if min(self.samples, self.fft_size, self.hop_length) < 1:
            raise ValueError("samples, fft_size and hop_length must be 1 or more")
        if self.scale == "waveform" and self.samples % self.hop_length:
            raise ValueError(
                f"samples {self.samples} of a waveform must be a multiple of hop_length"
                f" {self.hop_length}, its row"
            )

    @property
    def hops(self) -> int:
        """Columns of the STFT."""
        return 1 + self.samples // self.hop_length

    @property
    def frames(self) -> int:
        """Columns of time of the image; a waveform has no half frame at its ends."""
        return self.hops - int(self.scale == "waveform")

    @property
    def bins(self) -> int:
        """Bins of frequency, mel bands, or samples of a row."""
        if self.scale == "log_mel":
            return self.mel_bands
        if self.scale == "waveform":
            return self.hop_length
        return self.fft_size // 2 + int(self.nyquist)

    @property
    def elements(self) -> int:
        """Numbers in an image, the D of `vae.linear`."""
        return self.frames * self.bins

    @property
    def db_per_unit(self) -> float | None:
        """How many dB a unit of the features is; None where that is no constant."""
        constant = self.logarithmic and self.normalize == "fixed"
        return self.spread if constant else None

    @property
    def logarithmic(self) -> bool:
        """Whether levels are in dB."""
        return self.scale in ("decibel", "log_mel")


class Normalization(NamedTuple):
    """How the levels of each image were scaled: arrays of the batch's shape.

    Attributes:
      offset: subtracted from the levels.
      spread: then divided by.
    """

    offset: jax.Array
    spread: jax.Array


def spectrum(
    config: SpectrogramConfig, audio: Signal
) -> Complex[AnyArray, "*batch bins hops"]:
    """The STFT behind the features.

    Args:
      config: sizes.
      audio: [..., time], at most ``config.samples``.

    Returns:
      Complex [..., fft_size // 2 + 1, frames].

    Raises:
      ValueError: the audio is too long.
    """
    audio = jnp.asarray(audio)
    missing = config.samples - audio.shape[-1]
    if missing < 0:
        raise ValueError(
            f"{audio.shape[-1]} samples exceed the {config.samples} of this front-end;"
            " cut the audio into pieces"
        )
    audio = jnp.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(0, missing)])
    return stft(audio, **_sizes(config), pad_mode="constant")


def features(
    config: SpectrogramConfig, audio: Signal
) -> Float[AnyArray, "*batch frames bins"]:
    """What the model sees.

    Args:
      config: front-end.
      audio: [..., time], at most ``config.samples``.

    Returns:
      [..., frames, bins], normalised.

    Raises:
      ValueError: the audio is too long.
    """
    return from_spectrum(config, spectrum(config, audio))


def from_spectrum(
    config: SpectrogramConfig, spectra: Complex[AnyArray, "*batch linear_bins hops"]
) -> Float[AnyArray, "*batch frames bins"]:
    """`features` of a spectrum from `spectrum`."""
    return analyze(config, spectra)[0]


def analyze(
    config: SpectrogramConfig, spectra: Complex[AnyArray, "*batch linear_bins hops"]
) -> tuple[Float[AnyArray, "*batch frames bins"], Normalization]:
    """`features` of a spectrum, and how their levels were scaled.

    Args:
      config: front-end.
      spectra: from `spectrum`.

    Returns:
      Features, and the normalisation that `magnitude` needs to undo them.
    """
    if config.scale == "waveform":
        audio = istft(spectra, length=config.samples, **_sizes(config))
        level = audio.reshape(*audio.shape[:-1], config.frames, config.bins)
        found = _normalization(config, level)
        return (level - _each(found.offset)) / _each(found.spread), found
    energy = jnp.swapaxes(power(spectra), -1, -2)
    if config.scale == "log_mel":
        energy = jnp.matmul(energy, _bank(config), precision=lax.Precision.HIGHEST)
    elif not config.nyquist:
        energy = energy[..., :-1]
    if config.logarithmic:
        floor = 10.0 ** (config.floor_db / 10.0)
        level = 10.0 * jnp.log10(jnp.maximum(energy, floor))
        if config.range_db is not None:
            loudest = jnp.max(level, (-2, -1), keepdims=True)
            level = jnp.maximum(level, loudest - config.range_db)
    else:
        # The slope of a root is infinite at zero; there is nothing to be heard there.
        loud = energy > _LOWEST
        root = 0.5 if config.scale == "magnitude" else 0.5 * config.exponent
        level = jnp.where(loud, jnp.where(loud, energy, 1.0) ** root, 0.0)
    found = _normalization(config, level)
    return (level - _each(found.offset)) / _each(found.spread), found


def _normalization(config: SpectrogramConfig, level: jax.Array) -> Normalization:
    if config.normalize == "fixed":
        batch = level.shape[:-2]
        return Normalization(
            jnp.full(batch, config.offset, level.dtype),
            jnp.full(batch, config.spread, level.dtype),
        )
    if config.normalize == "standard":
        offset, wide = jnp.mean(level, (-2, -1)), jnp.var(level, (-2, -1))
        some = wide > _FLAT**2
        spread = jnp.sqrt(jnp.where(some, wide, 1.0))
    else:
        offset = jnp.min(level, (-2, -1))
        spread = jnp.max(level, (-2, -1)) - offset
        some = spread > _FLAT
    return Normalization(offset, jnp.where(some, spread, config.spread))


def magnitude(
    config: SpectrogramConfig,
    image: Float[AnyArray, "*batch frames bins"],
    normalization: Normalization | None = None,
) -> Float[AnyArray, "*batch linear_bins hops"]:
    """Linear magnitudes of features, the inverse of `features` but for the phase.

    Levels at the floor become silence; so does a Nyquist bin that was left out.

    Args:
      config: front-end.
      image: features, of data or of a decoder (anything is accepted).
      normalization: from `analyze`; the configuration's offset and spread when None.

    Returns:
      [..., fft_size // 2 + 1, frames], zero or more.
    """
    level = _levels(config, image, normalization)
    if config.scale == "waveform":
        return jnp.sqrt(power(spectrum(config, level.reshape(*level.shape[:-2], -1))))
    if config.logarithmic:
        heard = level > config.floor_db + 1e-3
        energy = jnp.where(heard, 10.0 ** (level / 10.0), 0.0)
        if config.scale == "log_mel":
            energy = _from_mel(config, energy)
        found = jnp.sqrt(energy)
    else:
        found = jnp.maximum(level, 0.0)
        if config.scale == "power_law":
            found = found ** (1.0 / config.exponent)
    if config.scale != "log_mel" and not config.nyquist:
        found = jnp.pad(found, [(0, 0)] * (found.ndim - 1) + [(0, 1)])
    return jnp.swapaxes(found, -1, -2)


def synthesize(
    config: SpectrogramConfig,
    image: Float[AnyArray, "*batch frames bins"],
    phase: Complex[AnyArray, "*batch linear_bins hops"] | None = None,
    *,
    normalization: Normalization | None = None,
    key: RandomKey | None = None,
    iterations: int = 64,
) -> Float[AnyArray, "*batch time"]:
    """Sound of features.

    Args:
      config: front-end.
      image: features.
      phase: a spectrum whose phase is taken, such as the input's; None to find one by
        `griffin_lim`; a waveform has its own.
      normalization: as in `magnitude`.
      key: of the phase that it starts from; a fixed one when None.
      iterations: of it.

    Returns:
      [..., config.samples].
    """
    if config.scale == "waveform":
        level = _levels(config, image, normalization)
        return level.reshape(*level.shape[:-2], -1)
    wanted = magnitude(config, image, normalization)
    if phase is not None:
        spectra = jnp.asarray(wanted) * _direction(phase)
        return istft(spectra, length=config.samples, **_sizes(config))
    return griffin_lim(config, wanted, key=key, iterations=iterations)


@partial(jax.jit, static_argnames=("config", "iterations"))
def griffin_lim(
    config: SpectrogramConfig,
    wanted: Float[AnyArray, "*batch linear_bins hops"],
    *,
    key: RandomKey | None = None,
    iterations: int = 64,
    momentum: float = 0.99,
) -> Float[AnyArray, "*batch time"]:
    """A sound whose STFT has about these magnitudes.

        c_k = A P(t_{k-1});  t_k = c_k + momentum (c_k - c_{k-1})

    with A the magnitudes' projection and P that onto spectra of sounds.

    Args:
      config: sizes.
      wanted: magnitudes.
      key: of the random phase at the start; a fixed one when None.
      iterations: how often.
      momentum: 0 is the original algorithm.

    Returns:
      [..., config.samples].

    Reference: N. Perraudin et al., A fast Griffin-Lim algorithm (2013).
    """
    wanted = jnp.asarray(wanted)
    key = jax.random.key(0) if key is None else key
    angle = jax.random.uniform(key, wanted.shape, wanted.dtype, 0.0, 2.0 * math.pi)

    def sound(spectra):
        return istft(spectra, length=config.samples, **_sizes(config))

    def step(carry, _):
        before, moved = carry
        projected = stft(sound(moved), **_sizes(config), pad_mode="constant")
        now = wanted * _direction(projected)
        return (now, now + momentum * (now - before)), None

    start = wanted * jnp.exp(1j * angle)
    (last, _), _ = lax.scan(step, (start, start), None, length=iterations)
    return sound(last)


def _sizes(config: SpectrogramConfig) -> dict[str, Any]:
    return {
        "fft_size": config.fft_size,
        "hop_length": config.hop_length,
        "window_length": config.window_length or None,
    }


def _levels(
    config: SpectrogramConfig, image: AnyArray, normalization: Normalization | None
) -> jax.Array:
    """Features with offset and spread undone."""
    if normalization is None:
        return jnp.asarray(image) * config.spread + config.offset
    level = jnp.asarray(image) * _each(normalization.spread)
    return level + _each(normalization.offset)


def _each(value: AnyArray) -> jax.Array:
    return jnp.asarray(value)[..., None, None]


def _direction(spectra: AnyArray) -> jax.Array:
    spectra = jnp.asarray(spectra)
    size = jnp.abs(spectra)
    some = size > 0
    return jnp.where(some, spectra / jnp.where(some, size, 1.0), 1.0)


def _bank(config: SpectrogramConfig) -> jax.Array:
    bank = mel_filterbank(config.sample_rate, config.fft_size, config.mel_bands)
    return jnp.asarray(bank, jnp.float32)


def _from_mel(config: SpectrogramConfig, bands: jax.Array) -> jax.Array:
    """Energy of the bins, zero or more, whose bands fit best (Lee and Seung 2001)."""
    bank = np.asarray(
        mel_filterbank(config.sample_rate, config.fft_size, config.mel_bands)
    )
    gram = jnp.asarray(bank @ bank.T, jnp.float32)
    transposed = jnp.asarray(bank.T, jnp.float32)
    exact = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    pull = exact(bands, transposed)
    # Each band spread over its bins as they weigh: no bin below the first band's edge.
    spread = jnp.asarray(
        bank.T / np.maximum((bank**2).sum(0)[:, None], 1e-30), jnp.float32
    )
    start = exact(bands, spread)

    def step(energy, _):
        return energy * pull / jnp.maximum(exact(energy, gram), 1e-30), None

    return lax.scan(step, start, None, length=_MEL_UPDATES)[0]
