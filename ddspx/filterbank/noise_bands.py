"""Bands of noise that repeat: each band of a bank as a loop, cut into hops.

A loop is the inverse FFT of a band's magnitudes with random phases, so that it joins
end to start without a seam, has the band's response exactly, and is the same for the
same key. It lies in memory as a synth reads it, hop after hop.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from ddspx.filterbank.bands import Bands, band_magnitudes
from ddspx.types import RandomKey, Rate

# RMS of the loudest band: its peaks are then near full scale.
_LOUDEST_RMS = 0.25
# Bands that are transformed together.
_TOGETHER = 32
# Hops repeated behind the last, so that some in a row can be read from any place.
_SPARE = 15


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("frames", "center_hz"),
    meta_fields=("sample_rate", "hops"),
)
@dataclass(frozen=True)
class NoiseBank:
    """Loops of band noise. A pytree: give it to compiled functions as an argument.

    Attributes:
      frames: [hops and some more, bands, hop]; sample t of a loop is
        ``frames[t // hop, :, t % hop]``. The first hops come again behind the last.
        float32, or uint16: the bits of bfloat16, which XLA on a CPU would make float32
        of, all at once, wherever it is sliced.
      center_hz: [bands].
      sample_rate: Hz.
      hops: after which the loops begin again.
    """

    frames: jax.Array
    center_hz: jax.Array
    sample_rate: Rate
    hops: int

    def loops(self) -> np.ndarray:
        """The loops as they are heard, float32 [bands, samples]."""
        frames = np.asarray(self.frames)[: self.hops]
        if frames.dtype == np.uint16:
            frames = frames.view(jnp.bfloat16).astype(np.float32)
        return frames.transpose(1, 0, 2).reshape(self.bands, -1)

    @property
    def hop(self) -> int:
        """Samples of a hop."""
        return self.frames.shape[2]

    @property
    def bands(self) -> int:
        """How many bands there are."""
        return self.frames.shape[1]


def noise_bank(
    bands: Bands,
    hop: int,
    key: RandomKey,
    *,
    samples: int = 1 << 16,
    level: Literal["rms", "peak"] = "rms",
    floor_db: float | None = -80.0,
    dtype: str = "float32",
) -> NoiseBank:
    """Noise of every band, deterministic from a key.

    Args:
      bands: from `ddspx.filterbank.make_bands`.
      hop: samples of a hop.
      key: of the phases.
      samples: least length of the loops; it is rounded up to whole hops of a number
        that an FFT likes.
      level: one gain for all bands: ``"rms"`` makes the RMS of the loudest 0.25,
        whatever the key; ``"peak"`` the greatest sample 1.
      floor_db: see `ddspx.filterbank.band_magnitudes`.
      dtype: ``"float32"``, or ``"bfloat16"`` for half of the memory; sound is then some
        -57 dB off, all arithmetic stays in the type of the amplitudes.

    Returns:
      A `NoiseBank` of 4 (or 2) bytes a sample and band.

    Raises:
      ValueError: hop or length are not positive, or a band is so narrow that no bin of
        the loop lies in it.
    """
    if hop < 1 or samples < 1:
        raise ValueError(f"hop {hop} and samples {samples} must be 1 or more")
    hops = scipy.fft.next_fast_len(-(-samples // hop))
    assert hops is not None
    length = hops * hop
    narrowest = float(np.diff(bands.limits_hz).min())
    if narrowest * length < 2.0 * bands.sample_rate:
        least = int(np.ceil(2.0 * bands.sample_rate / narrowest))
        raise ValueError(
            f"a loop of {length} samples has bins {bands.sample_rate / length:.3g} Hz"
            f" apart, and the narrowest band is {narrowest:.3g} Hz: give samples ="
            f" {least} or more, or fewer bands"
        )
    first, magnitudes = band_magnitudes(bands, length, floor_db=floor_db)
    # A phase would change the magnitude of the mean and of half the rate.
    bins = first[:, None] + np.arange(magnitudes.shape[-1])
    magnitudes[(bins == 0) | (2 * bins == length)] = 0.0
    turns = jax.random.uniform(key, magnitudes.shape, jnp.float32)
    phases = np.asarray(turns) * np.float32(2.0 * np.pi)
    energy = np.sum(np.square(magnitudes, dtype=np.float64), -1).max()
    gain = _LOUDEST_RMS * length / np.sqrt(2.0 * energy)
    frames = _aligned((hops + _SPARE, bands.count, hop), dtype)
    peak = 0.0
    for i in range(0, bands.count, _TOGETHER):
        some = slice(i, i + _TOGETHER)
        noise = shaped_noise(
            first[some], np.float32(gain) * magnitudes[some], phases[some], length
        )
        peak = max(peak, float(np.abs(noise).max())) if level == "peak" else peak
        frames[:hops, some] = noise.reshape(-1, hops, hop).transpose(1, 0, 2)
    if level == "peak":
        frames[:hops] *= np.asarray(1.0 / peak, frames.dtype)
    return _bank(frames, hops, bands.center_hz, bands.sample_rate)


def bank_of_loops(
    loops: np.ndarray,
    hop: int,
    sample_rate: Rate,
    center_hz: np.ndarray,
    *,
    dtype: str = "float32",
) -> NoiseBank:
    """A bank of loops that were made in another way.

    Args:
      loops: [bands, samples] of a whole number of hops.
      hop: samples of a hop.
      sample_rate: Hz.
      center_hz: [bands].
      dtype: see `noise_bank`.

    Returns:
      A `NoiseBank`.

    Raises:
      ValueError: the hop does not divide the samples, or the type is unknown.
    """
    bands, samples = loops.shape
    if hop < 1 or samples < 1 or samples % hop:
        raise ValueError(
            f"loops of {samples} samples are no whole hops of {hop}; cut or repeat them"
        )
    hops = samples // hop
    frames = _aligned((hops + _SPARE, bands, hop), dtype)
    frames[:hops] = loops.reshape(bands, hops, hop).transpose(1, 0, 2)
    return _bank(frames, hops, center_hz, sample_rate)


def shaped_noise(
    first: np.ndarray, magnitudes: np.ndarray, phases: np.ndarray, samples: int
) -> np.ndarray:
    """Periodic noise of given magnitudes and phases.

        n[t] = 2 / L sum_k M[k] cos(2 pi k t / L + phase[k]),   0 < k < L / 2

    Args:
      first: [bands], number of the first bin of each.
      magnitudes: [bands, width].
      phases: [bands, width], radians.
      samples: L.

    Returns:
      float32 [bands, samples], without a mean.
    """
    spectra = np.zeros((len(first), samples // 2 + 1), np.complex64)
    some = (magnitudes * np.exp(1j * phases)).astype(np.complex64)
    for row, start, values in zip(spectra, first, some, strict=True):
        row[start : start + len(values)] = values
    spectra[:, 0] = 0.0
    if samples % 2 == 0:
        spectra[:, -1] = 0.0
    return np.asarray(scipy.fft.irfft(spectra, samples, workers=-1))


def _bank(
    frames: np.ndarray, hops: int, center_hz: np.ndarray, sample_rate: Rate
) -> NoiseBank:
    frames[hops:] = frames[np.arange(len(frames) - hops) % hops]
    if frames.dtype != np.float32:
        frames = frames.view(np.uint16)
    center = jnp.asarray(center_hz, jnp.float32)
    return NoiseBank(jnp.asarray(frames), center, sample_rate, hops)


def _aligned(shape: tuple[int, ...], name: str) -> np.ndarray:
    """An empty array at an address that JAX can take over without a copy."""
    if name not in ("float32", "bfloat16"):
        raise ValueError(f"dtype {name!r} is unknown; use 'float32' or 'bfloat16'")
    dtype = np.dtype(jnp.dtype(name))
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
