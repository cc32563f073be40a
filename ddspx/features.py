"""What is measured of a sound: level, loudness, timbre.

Audio has any leading dimensions, time last; full scale is 1 (0 dB). Nothing is
normalised. Levels have a floor, so that they and their gradients are finite on silence;
the gradient is zero below the floor. All are compiled; every argument but the audio is
fixed at trace time.
"""

from functools import lru_cache, partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from jax import lax
from jaxtyping import Float

from ddspx.filters import a_weighting_db, k_weighting, sosfilt_fixed
from ddspx.signal import PadMode, frame, power, stft_frames
from ddspx.types import AnyArray, Audio, PerExample, Rate, Signal
from ddspx.units import (
    MelScale,
    gain_to_db,
    hz_to_mel,
    mel_to_hz,
    power_to_amplitude,
    power_to_db,
)

Frames = Float[AnyArray, "*batch frames"]
Padding = Literal["center", "same", "valid"]

# BS.1770-4: left, right, centre, left surround, right surround.
_CHANNEL_WEIGHTS = (1.0, 1.0, 1.0, 1.41, 1.41)
_LOUDNESS_OFFSET_DB = -0.691
ABSOLUTE_GATE_LUFS = -70.0
_PRECISE = lax.Precision.HIGHEST


@lru_cache(maxsize=32)
def mel_filterbank(
    sample_rate: Rate,
    fft_size: int,
    mel_bands: int,
    *,
    low_hz: float = 0.0,
    high_hz: float | None = None,
    scale: MelScale = "slaney",
    norm: Literal["slaney"] | None = "slaney",
) -> np.ndarray:
    """Triangles, linear in Hz, with corners equally spaced in mel.

    Args:
      sample_rate: Hz.
      fft_size: samples per transform.
      mel_bands: number of triangles.
      low_hz: lower corner of the first.
      high_hz: upper corner of the last; half the rate if None.
      scale: ``"slaney"`` or ``"htk"``, see `ddspx.units.hz_to_mel`.
      norm: ``"slaney"`` gives each triangle the same area, 1 Hz; None the height 1.

    Returns:
      float64 [fft_size // 2 + 1, mel_bands]; multiply spectra [..., bins] from the
      left. Treat it as read-only: calls share it.

    Raises:
      ValueError: the range is empty or passes half the rate.
    """
    high_hz = sample_rate / 2 if high_hz is None else high_hz
    if not 0 <= low_hz < high_hz <= sample_rate / 2:
        raise ValueError(
            f"mel range {low_hz} to {high_hz} Hz at {sample_rate} Hz; need 0 <= low <"
            " high <= half the rate"
        )
    ends = hz_to_mel(np.array([low_hz, high_hz]), scale)
    corners = mel_to_hz(np.linspace(ends[0], ends[1], mel_bands + 2), scale)
    bins = np.arange(fft_size // 2 + 1)[:, None] * (sample_rate / fft_size)
    rise = (bins - corners[:-2]) / np.diff(corners)[:-1]
    fall = (corners[2:] - bins) / np.diff(corners)[1:]
    weights = np.maximum(0.0, np.minimum(rise, fall))
    if norm == "slaney":
        weights = weights * (2.0 / (corners[2:] - corners[:-2]))
    weights.flags.writeable = False
    return weights


@partial(
    jax.jit,
    static_argnames=(
        "sample_rate",
        "fft_size",
        "hop_length",
        "mel_bands",
        "low_hz",
        "high_hz",
        "floor_db",
        "pad_mode",
    ),
)
def log_mel(
    audio: Signal,
    sample_rate: Rate,
    *,
    fft_size: int = 2048,
    hop_length: int = 512,
    mel_bands: int = 128,
    low_hz: float = 0.0,
    high_hz: float | None = None,
    floor_db: float = -100.0,
    pad_mode: PadMode = "constant",
) -> Float[AnyArray, "*batch mel_bands frames"]:
    """Mel power spectrogram in dB; librosa's melspectrogram through power_to_db.

        10 log10(max(sum_k M[k, m] |X[k, f]|^2, floor))

    Args:
      audio: [..., time].
      sample_rate: Hz.
      fft_size: samples; Hann window of that length.
      hop_length: samples.
      mel_bands: number of bands, Slaney's scale and norm.
      low_hz: lower end of the bands.
      high_hz: upper end; half the rate if None.
      floor_db: least level.
      pad_mode: see `ddspx.signal.stft`.

    Returns:
      dB [..., mel_bands, frames], frames = 1 + time // hop_length.
    """
    spectra = power(
        stft_frames(audio, fft_size=fft_size, hop_length=hop_length, pad_mode=pad_mode)
    )
    bank = mel_filterbank(
        sample_rate, fft_size, mel_bands, low_hz=low_hz, high_hz=high_hz
    )
    bank = jnp.asarray(bank, spectra.dtype)
    bands = jnp.matmul(spectra, bank, precision=_PRECISE)
    return jnp.moveaxis(power_to_db(bands, floor_db), -1, -2)


@partial(
    jax.jit,
    static_argnames=(
        "sample_rate",
        "coefficients",
        "fft_size",
        "hop_length",
        "mel_bands",
        "floor_db",
    ),
)
def mfcc(
    audio: Signal,
    sample_rate: Rate,
    *,
    coefficients: int = 20,
    fft_size: int = 2048,
    hop_length: int = 512,
    mel_bands: int = 128,
    floor_db: float = -100.0,
) -> Float[AnyArray, "*batch coefficients frames"]:
    """Mel-frequency cepstrum: the orthonormal DCT-II of `log_mel` over its bands.

    Args:
      audio: [..., time].
      sample_rate: Hz.
      coefficients: how many, from the lowest.
      fft_size: samples.
      hop_length: samples.
      mel_bands: bands of the mel spectrogram, at least `coefficients`.
      floor_db: least level of a band.

    Returns:
      [..., coefficients, frames]; the first is the mean level times sqrt(mel_bands).

    Raises:
      ValueError: more coefficients than bands.
    """
    if coefficients > mel_bands:
        raise ValueError(
            f"{coefficients} coefficients of {mel_bands} mel bands; ask for at most as"
            " many as there are bands"
        )
    levels = log_mel(
        audio,
        sample_rate,
        fft_size=fft_size,
        hop_length=hop_length,
        mel_bands=mel_bands,
        floor_db=floor_db,
    )
    basis = scipy.fft.dct(np.eye(mel_bands), norm="ortho", axis=0)[:coefficients]
    return jnp.einsum(
        "cm,...mf->...cf", jnp.asarray(basis, levels.dtype), levels, precision=_PRECISE
    )


@partial(
    jax.jit,
    static_argnames=("sample_rate", "fft_size", "hop_length", "padding", "floor_db"),
)
def a_weighted_loudness_db(
    audio: Signal,
    sample_rate: Rate,
    *,
    fft_size: int = 512,
    hop_length: int = 64,
    padding: Padding = "center",
    floor_db: float = -80.0,
) -> Frames:
    """A-weighted level a frame, as DDSP conditions its decoder on.

        10 log10(max(mean_k |X[k, f]|^2 10^(A(k) / 10), floor))

    X is not normalised: white noise of power 1 lies near 10 log10(3 fft_size / 8).
    The defaults are DDSP's at 16 kHz (250 frames a second); scale them with the rate.

    Args:
      audio: [..., time].
      sample_rate: Hz.
      fft_size: samples; Hann window of that length.
      hop_length: samples.
      padding: ``"center"`` frame f is centred on sample f hop, between zeros;
        ``"same"`` time / hop frames, frame f begins at sample f hop, zeros after the
        end; ``"valid"`` no padding.
      floor_db: least level.

    Returns:
      dB [..., frames].

    Reference: J. Engel et al., DDSP (ICLR 2020), and its code, version 3.
    """
    audio = _pad_frames(jnp.asarray(audio), fft_size, hop_length, padding)
    spectra = power(
        stft_frames(audio, fft_size=fft_size, hop_length=hop_length, center=False)
    )
    bins_hz = np.arange(fft_size // 2 + 1) * (sample_rate / fft_size)
    weights = 10.0 ** (a_weighting_db(bins_hz) / 10.0) / bins_hz.size
    weighted = jnp.matmul(
        spectra, jnp.asarray(weights, spectra.dtype), precision=_PRECISE
    )
    return power_to_db(weighted, floor_db)


@partial(jax.jit, static_argnames="sample_rate")
def integrated_loudness_lufs(audio: Audio, sample_rate: Rate) -> PerExample:
    """Gated loudness of a programme, ITU-R BS.1770-4 / EBU R 128.

        l_j = -0.691 + 10 log10 sum_c G_c z_cj        (400 ms blocks, 100 ms apart)
        L   = -0.691 + 10 log10 mean_{j in J} sum_c G_c z_cj

    z is the mean square after K-weighting; J holds the blocks above -70 LUFS and above
    the mean of those less 10 LU. The 100 ms are rounded to whole samples; an incomplete
    block at the end is dropped. Audio shorter than 400 ms is one block of its own
    length, for which the standard says nothing. Where no block passes, the loudness is
    -70 LUFS, the least value possible, with gradient zero.

    Args:
      audio: [..., channels, time]; 1 to 5 channels in the order left, right, centre,
        left surround, right surround (no LFE).
      sample_rate: Hz.

    Returns:
      LUFS [...].

    Raises:
      ValueError: more than 5 channels, or no samples.
    """
    channels, time = audio.shape[-2:]
    if not 1 <= channels <= len(_CHANNEL_WEIGHTS):
        raise ValueError(
            f"audio {audio.shape} has {channels} channels; loudness is defined for 1 to"
            " 5 [..., channels, time]"
        )
    if time < 1:
        raise ValueError("audio of 0 samples has no loudness; give at least one")
    weighted = sosfilt_fixed(audio, k_weighting(sample_rate))
    hop = round(0.1 * sample_rate)
    if time < 4 * hop:
        energy = _sum_squares(weighted)[..., None] / time
    else:
        steps = weighted[..., : time // hop * hop]
        steps = _sum_squares(steps.reshape(*steps.shape[:-1], -1, hop))
        count = steps.shape[-1] - 3
        energy = sum(steps[..., k : k + count] for k in range(4)) / (4 * hop)
    gains = jnp.asarray(_CHANNEL_WEIGHTS[:channels], weighted.dtype)
    energy = jnp.einsum("...cb,c->...b", energy, gains, precision=_PRECISE)
    floor = 10.0 ** ((ABSOLUTE_GATE_LUFS - _LOUDNESS_OFFSET_DB) / 10.0)
    gate = energy > floor
    gate &= energy > 0.1 * _masked_mean(energy, gate)[..., None]
    mean = jnp.maximum(_masked_mean(energy, gate), floor)
    return _LOUDNESS_OFFSET_DB + 10.0 * jnp.log10(mean)


@partial(jax.jit, static_argnames=("frame_length", "hop_length", "floor_db"))
def rms_db(
    audio: Signal,
    *,
    frame_length: int | None = None,
    hop_length: int | None = None,
    floor_db: float = -120.0,
) -> PerExample | Frames:
    """Root-mean-square level: ``10 log10(max(mean x^2, floor))``.

    Args:
      audio: [..., time].
      frame_length: samples; the whole if None.
      hop_length: samples; a quarter of the frame if None.
      floor_db: least level.

    Returns:
      dB [...], or [..., frames] with a frame length (frames as `ddspx.signal.frame`).
    """
    pieces = _pieces(audio, frame_length, hop_length)
    return power_to_db(_sum_squares(pieces) / pieces.shape[-1], floor_db)


@partial(jax.jit, static_argnames=("frame_length", "hop_length", "floor_db"))
def crest_factor_db(
    audio: Signal,
    *,
    frame_length: int | None = None,
    hop_length: int | None = None,
    floor_db: float = -120.0,
) -> PerExample | Frames:
    """Peak over RMS, both at least the floor: 0 dB for a square wave and for silence.

        20 log10 max |x| - 10 log10 mean x^2

    Args:
      audio: [..., time].
      frame_length: samples; the whole if None.
      hop_length: samples; a quarter of the frame if None.
      floor_db: least peak and least RMS.

    Returns:
      dB [...], or [..., frames] with a frame length.
    """
    pieces = _pieces(audio, frame_length, hop_length)
    mean_square = _sum_squares(pieces) / pieces.shape[-1]
    peak = jnp.max(jnp.abs(pieces), -1)
    return gain_to_db(peak, floor_db) - power_to_db(mean_square, floor_db)


@partial(jax.jit, static_argnames=("sample_rate", "fft_size", "hop_length", "pad_mode"))
def spectral_centroid_hz(
    audio: Signal,
    sample_rate: Rate,
    *,
    fft_size: int = 2048,
    hop_length: int = 512,
    pad_mode: PadMode = "constant",
) -> Frames:
    """Mean frequency of each frame, weighted by magnitude; 0 Hz on silence.

        sum_k f_k |X_k| / sum_k |X_k|

    Args:
      audio: [..., time].
      sample_rate: Hz.
      fft_size: samples; Hann window of that length.
      hop_length: samples.
      pad_mode: see `ddspx.signal.stft`.

    Returns:
      Hz [..., frames].
    """
    spectra = power_to_amplitude(
        power(
            stft_frames(
                audio, fft_size=fft_size, hop_length=hop_length, pad_mode=pad_mode
            )
        )
    )
    bins_hz = np.arange(fft_size // 2 + 1) * (sample_rate / fft_size)
    columns = np.stack([bins_hz, np.ones_like(bins_hz)], -1)
    moments = jnp.matmul(
        spectra, jnp.asarray(columns, spectra.dtype), precision=_PRECISE
    )
    return moments[..., 0] / jnp.maximum(moments[..., 1], 1e-10)


def _sum_squares(audio: AnyArray) -> jax.Array:
    # A contraction: on CPU many times faster than a fused square and reduction.
    return jnp.einsum("...t,...t->...", audio, audio, precision=_PRECISE)


def _masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    count = jnp.maximum(mask.sum(-1), 1)
    return jnp.where(mask, values, 0.0).sum(-1) / count


def _pieces(
    audio: Signal, frame_length: int | None, hop_length: int | None
) -> jax.Array:
    if frame_length is None:
        return jnp.asarray(audio)
    hop_length = max(1, frame_length // 4) if hop_length is None else hop_length
    return jnp.asarray(frame(audio, frame_length, hop_length))


def _pad_frames(
    audio: jax.Array, frame_length: int, hop_length: int, padding: str
) -> jax.Array:
    if padding == "valid":
        return audio
    if padding == "center":
        before = after = frame_length // 2
    elif padding == "same":
        time = audio.shape[-1]
        count = -(-time // hop_length)
        before, after = 0, max(0, (count - 1) * hop_length + frame_length - time)
    else:
        raise ValueError(
            f"padding {padding!r} is unknown; use 'center', 'same' or 'valid'"
        )
    return jnp.pad(audio, [*[(0, 0)] * (audio.ndim - 1), (before, after)])
