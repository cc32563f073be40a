"""Constant-Q spectra, and the rainbowgram drawn from them.

Bins lie at equal steps of log frequency and each has a window of as many periods. All
frames are centred on multiples of the hop, zeros around the sound.
"""

import math
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Complex, Float

from ddspx.signal import PRECISE, window
from ddspx.types import AnyArray, Rate, Signal
from ddspx.units import power_to_db

# C2 in equal temperament with A4 at 440 Hz.
C2_HZ = 440.0 * 2.0 ** (-33 / 12)
# Frames whose spectra are in memory at once.
_CHUNK = 64
# Share of a filter's spectrum, in amplitude, below which bins are left out.
_LEAST_RESPONSE = 1e-6


class _Group(NamedTuple):
    """Filters of one octave, by their spectra where these are not nothing.

    Attributes:
      fft_size: samples of a frame.
      first_bin: of the FFT, at which the responses begin.
      to_real: by what real parts of the bins are multiplied [bins, filters].
      to_imaginary: by what imaginary parts are.
    """

    fft_size: int
    first_bin: int
    to_real: np.ndarray
    to_imaginary: np.ndarray


@partial(
    jax.jit,
    static_argnames=(
        "sample_rate",
        "hop_length",
        "low_hz",
        "bins",
        "bins_per_octave",
        "filter_scale",
    ),
)
def constant_q(
    audio: Signal,
    sample_rate: Rate,
    *,
    hop_length: int = 256,
    low_hz: float = C2_HZ,
    bins: int = 84,
    bins_per_octave: int = 12,
    filter_scale: float = 1.0,
) -> Complex[AnyArray, "*batch bins frames"]:
    """Constant-Q transform, with the scale of librosa.cqt.

        C[k, m] = sqrt(N_k) / |w_k|_1
                  sum_n x[m hop + n] w_k[n] exp(-2 pi i n f_k / rate)
        N_k = Q rate / f_k,  Q = scale (q + 1) / (q - 1),  q = 2^(2 / bins_per_octave)

    with w_k a Hann window of N_k samples. Equal to librosa's filters at the full rate;
    librosa.cqt itself halves the rate from octave to octave, with filters cut anew at
    each rate, which moves its values by 2 to 4 % of the greatest.

    Args:
      audio: [..., time], at least one sample.
      sample_rate: Hz.
      hop_length: samples.
      low_hz: frequency of the first bin.
      bins: number of bins.
      bins_per_octave: of them in each octave.
      filter_scale: length of the windows; below 1 for better resolution in time.

    Returns:
      Complex [..., bins, 1 + time // hop_length].

    Raises:
      ValueError: the last bin reaches past half the rate, or a size is not positive.

    Reference: J. Brown, Calculation of a constant Q spectral transform (1991);
    C. Schoerkhuber, A. Klapuri, Constant-Q transform toolbox (2010).
    """
    audio = jnp.asarray(audio)
    if min(hop_length, bins, bins_per_octave, audio.shape[-1]) < 1:
        raise ValueError(
            f"audio {audio.shape}, hop_length {hop_length}, bins {bins},"
            f" bins_per_octave {bins_per_octave}: all must be 1 or more"
        )
    groups = _groups(float(sample_rate), low_hz, bins, bins_per_octave, filter_scale)
    frames = 1 + audio.shape[-1] // hop_length
    chunk = min(_CHUNK, frames)
    chunks = -(-frames // chunk)

    def of_signal(signal):
        return jnp.concatenate([of_group(signal, group) for group in groups], axis=-1)

    def of_group(signal, group):
        half = group.fft_size // 2
        span = (chunk - 1) * hop_length + group.fft_size
        after = (chunks * chunk - 1) * hop_length + half - signal.shape[0]
        padded = jnp.pad(signal, (half, max(0, after)))
        last = group.first_bin + group.to_real.shape[0]

        def of_chunk(number):
            piece = lax.dynamic_slice(padded, (number * chunk * hop_length,), (span,))
            starts = hop_length * jnp.arange(chunk)[:, None]
            spectra = jnp.fft.rfft(piece[starts + jnp.arange(group.fft_size)[None, :]])
            spectra = spectra[:, group.first_bin : last]
            return sum(
                jnp.matmul(part, jnp.asarray(by, spectra.dtype), precision=PRECISE)
                for part, by in (
                    (spectra.real.astype(spectra.dtype), group.to_real),
                    (spectra.imag.astype(spectra.dtype), group.to_imaginary),
                )
            )

        found = lax.map(of_chunk, jnp.arange(chunks))
        return found.reshape(chunks * chunk, -1)[:frames]

    lead = audio.shape[:-1]
    spectra = lax.map(of_signal, audio.reshape(-1, audio.shape[-1]))
    return jnp.moveaxis(spectra, -1, -2).reshape(*lead, bins, frames)


def constant_q_frequencies(
    bins: int, bins_per_octave: int, low_hz: float = C2_HZ
) -> np.ndarray:
    """Centres of the bins in Hz, float64 [bins]."""
    return low_hz * 2.0 ** (np.arange(bins) / bins_per_octave)


class Rainbowgram(NamedTuple):
    """What a rainbowgram shows.

    Attributes:
      phase_change: change of phase from frame to frame over pi, within [-1, 1]; of the
        first frame its phase [..., bins, frames]. The colour.
      level: within [0, 1], from `range_db` below the greatest to the greatest [...,
        bins, frames]. The brightness.
    """

    phase_change: Float[AnyArray, "*batch bins frames"]
    level: Float[AnyArray, "*batch bins frames"]


def rainbowgram(
    spectrum: Complex[AnyArray, "*batch bins frames"], *, range_db: float = 70.0
) -> Rainbowgram:
    """Instantaneous frequency as colour, level as brightness.

        phase_change[m] = wrap(arg C[m] - arg C[m - 1]) / pi
        level = max(20 log10(|C| / max |C|), -range) / range + 1

    Args:
      spectrum: from `constant_q` [..., bins, frames].
      range_db: levels shown below the greatest of each example.

    Returns:
      `Rainbowgram`; silence has level 0.

    Reference: J. Engel et al., Neural audio synthesis of musical notes (2017).
    """
    spectrum = jnp.asarray(spectrum)
    phase = jnp.angle(spectrum)
    first = phase[..., :1]
    change = jnp.diff(phase, axis=-1)
    # What numpy.unwrap leaves: within [-pi, pi], the sign kept at half a turn.
    wrapped = change - 2 * np.pi * jnp.round(change / (2 * np.pi))
    powers = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    # As the recipe has it, -130 dB of power is nothing.
    db = power_to_db(powers, -130.0)
    greatest = db.max(axis=(-2, -1), keepdims=True)
    level = jnp.clip((db - greatest) / range_db + 1.0, 0.0, 1.0)
    level = jnp.where(greatest > -130.0, level, 0.0)
    return Rainbowgram(jnp.concatenate([first, wrapped], axis=-1) / np.pi, level)


@lru_cache(maxsize=8)
def _groups(
    rate: float, low_hz: float, bins: int, bins_per_octave: int, filter_scale: float
) -> tuple[_Group, ...]:
    frequencies = constant_q_frequencies(bins, bins_per_octave, low_hz)
    square = 2.0 ** (2.0 / bins_per_octave)
    quality = filter_scale * (square + 1.0) / (square - 1.0)
    # The main lobe of a Hann window of N samples reaches 2 rate / N to either side.
    top = frequencies[-1] * (1.0 + 2.0 / quality)
    if low_hz <= 0.0 or top > rate / 2:
        raise ValueError(
            f"{bins} bins from {low_hz:.1f} Hz reach {top:.0f} Hz with their filters,"
            f" half the rate is {rate / 2:.0f} Hz; use fewer bins or a lower low_hz"
        )
    groups = []
    for start in range(0, bins, bins_per_octave):
        hz = frequencies[start : start + bins_per_octave]
        size = 2 ** math.ceil(math.log2(quality * rate / hz[0] + 2))
        spectra = np.stack([_filter_spectrum(f, quality, rate, size) for f in hz], 1)
        # The sum over all bins, of which those of a real sound repeat: X[-k] is the
        # conjugate of X[k]. A filter's side lobes reach to negative frequencies.
        half = size // 2 + 1
        positive, negative = spectra[:half], spectra[-np.arange(half)].copy()
        negative[[0, -1]] = 0.0
        to_real, to_imaginary = positive + negative, 1j * (positive - negative)
        heard = np.abs(positive) + np.abs(negative)
        (places,) = np.nonzero((heard > _LEAST_RESPONSE * heard.max(0)).any(axis=1))
        band = slice(places[0], places[-1] + 1)
        groups.append(_Group(size, int(places[0]), to_real[band], to_imaginary[band]))
    return tuple(groups)


def _filter_spectrum(hz: float, quality: float, rate: float, size: int) -> np.ndarray:
    """By which the spectrum of a centred frame is multiplied and summed [size]."""
    length = quality * rate / hz
    place = np.arange(-length // 2, length // 2)
    shape = window("hann", len(place)) * np.exp(2j * np.pi * place * hz / rate)
    shape *= math.sqrt(length) / np.abs(shape).sum()
    before = (size - len(shape)) // 2
    whole = np.pad(shape, (before, size - len(shape) - before))
    # Parseval: sum x conj(h) = sum X conj(H) / size.
    return np.conj(np.fft.fft(whole)) / size
