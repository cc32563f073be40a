"""Frames, short-time spectra, FFT convolution and resampling.

Audio is real, any leading dimensions, time last; nothing is clipped or normalised. All
sizes are Python integers fixed at trace time, all windows and filters are constants
designed in float64 and applied in the precision of the audio. The longer functions are
compiled, so that they are fast when called eagerly.
"""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
import scipy.signal
from jax import lax
from jaxtyping import Complex, Float

from ddspx.types import AnyArray, Signal

PadMode = Literal["reflect", "constant"]
Samples = Float[AnyArray, "*batch samples"]  # a signal of another length

# Real multiplications in full float32: the default of TPUs and of recent GPUs rounds
# the factors to bf16 or TF32, 3 decimal digits.
PRECISE = lax.Precision.HIGHEST

_SIZES = ("fft_size", "hop_length", "window_length", "window_name", "center")

# Above this many coefficients resampling goes by gathered phases, not by one matrix.
_MATRIX_LIMIT = 1 << 22


def map_examples(function: Callable, *arrays: AnyArray) -> Any:
    """A function of one example over the leading axis, as fast as the device allows.

    On CPU one example after the other, so that its spectra stay in the cache (2 to 5
    times faster than a batch of them), and its gradient keeps nothing but the arrays;
    elsewhere `jax.vmap`. Under `jax.vmap` it is a batch again: give leading axes.

    Args:
      function: of one example of each array, to a pytree of arrays.
      *arrays: [examples, ...].

    Returns:
      What the function returns, each array with a leading axis.
    """
    if jax.default_backend() != "cpu":
        return jax.vmap(function)(*arrays)
    one = jax.checkpoint(lambda example: function(*example), prevent_cse=False)
    return lax.map(one, arrays)


def frame(
    audio: Signal, frame_length: int, hop_length: int
) -> Float[AnyArray, "*batch frames frame_length"]:
    """Overlapping pieces: ``y[f, n] = x[f hop + n]``; samples past the last are lost.

    Args:
      audio: [..., time].
      frame_length: samples.
      hop_length: samples from one start to the next.

    Returns:
      [..., 1 + (time - frame_length) // hop_length, frame_length].

    Raises:
      ValueError: the audio is shorter than one frame, or a length is not positive.
    """
    _check_positive(frame_length=frame_length, hop_length=hop_length)
    time = audio.shape[-1]
    if time < frame_length:
        raise ValueError(
            f"{time} samples are shorter than one frame of {frame_length}; give more"
            " audio, pad it, or use shorter frames"
        )
    count = 1 + (time - frame_length) // hop_length
    # A gather of computed indices: on CPU 10 to 20 times faster than slices joined, its
    # gradient (a scatter) 2 times slower, both small beside the FFT that follows.
    starts = hop_length * jnp.arange(count)[:, None]
    return jnp.asarray(audio)[..., starts + jnp.arange(frame_length)[None, :]]


def overlap_add(
    frames: Float[AnyArray, "*batch frames frame_length"], hop_length: int
) -> Samples:
    """Transpose of `frame`: pieces summed where they overlap.

        y[t] = sum_f frames[f, t - f hop]

    Args:
      frames: [..., frames, frame_length].
      hop_length: samples from one start to the next.

    Returns:
      [..., (frames - 1) hop_length + frame_length].
    """
    _check_positive(hop_length=hop_length)
    count, length = frames.shape[-2:]
    total = (count - 1) * hop_length + length
    lead = frames.shape[:-2]
    pieces = -(-length // hop_length)
    frames = _pad_last(jnp.asarray(frames), 0, pieces * hop_length - length)
    if pieces > 64:
        # Many overlaps: one scatter instead of a long unrolled sum.
        steps = hop_length * jnp.arange(count)[:, None]
        places = steps + jnp.arange(pieces * hop_length)[None, :]
        out = jnp.zeros((*lead, (count + pieces) * hop_length), frames.dtype)
        return out.at[..., places].add(frames)[..., :total]
    blocks = frames.reshape(*lead, count, pieces, hop_length)
    none = [(0, 0)] * len(lead)
    out = sum(
        jnp.pad(blocks[..., k, :], [*none, (k, pieces - 1 - k), (0, 0)])
        for k in range(pieces)
    )
    return jnp.asarray(out).reshape(*lead, -1)[..., :total]


def window(name: str, length: int) -> np.ndarray:
    """A periodic window, for analysis by FFT.

    Args:
      name: any name of scipy.signal.get_window that needs no parameter (``"hann"``).
      length: samples.

    Returns:
      float64 [length].
    """
    return np.asarray(scipy.signal.get_window(name, length, fftbins=True))


@partial(jax.jit, static_argnames=(*_SIZES, "pad_mode"))
def stft_frames(
    audio: Signal,
    *,
    fft_size: int,
    hop_length: int | None = None,
    window_length: int | None = None,
    window_name: str = "hann",
    center: bool = True,
    pad_mode: PadMode = "reflect",
) -> Complex[AnyArray, "*batch frames bins"]:
    """`stft` with the axes as the FFT leaves them, which spares a transposition.

    Args: all as in `stft`.

    Returns:
      Complex [..., frames, fft_size // 2 + 1].
    """
    hop_length, window_length = _stft_sizes(fft_size, hop_length, window_length)
    audio = jnp.asarray(audio)
    if center:
        audio = _pad_center(audio, fft_size // 2, pad_mode)
    elif audio.shape[-1] < fft_size:
        raise ValueError(
            f"{audio.shape[-1]} samples are shorter than fft_size {fft_size}; pad the"
            " audio or use center=True"
        )
    # Only the support of the window is framed; the zeros around it come afterwards.
    before = (fft_size - window_length) // 2
    after = fft_size - window_length - before
    audio = audio[..., before : audio.shape[-1] - after]
    weights = jnp.asarray(window(window_name, window_length), audio.dtype)
    frames = jnp.asarray(frame(audio, window_length, hop_length))
    frames = frames * _left(weights, frames.ndim)
    return jnp.fft.rfft(_pad_last(frames, before, after))


def stft(
    audio: Signal,
    *,
    fft_size: int,
    hop_length: int | None = None,
    window_length: int | None = None,
    window_name: str = "hann",
    center: bool = True,
    pad_mode: PadMode = "reflect",
) -> Complex[AnyArray, "*batch bins frames"]:
    """Short-time Fourier transform, not normalised.

        X[k, f] = sum_n w[n] x[f hop + n] exp(-2 pi i k n / fft_size)

    Args:
      audio: [..., time], any length when centred.
      fft_size: samples per transform.
      hop_length: samples between frames; a quarter of the window if None.
      window_length: samples, at most fft_size, centred in it; fft_size if None.
      window_name: see `window`.
      center: frame f is centred on sample f hop (the ends are padded), else starts
        there and no frame reaches past the end.
      pad_mode: ``"reflect"`` or ``"constant"`` (zeros) for the padding of `center`.

    Returns:
      Complex [..., fft_size // 2 + 1, frames], as torch.stft and librosa.stft;
      frames = 1 + time // hop when centred and fft_size is even.

    Raises:
      ValueError: sizes do not fit together, or the audio is shorter than a frame.
    """
    spectra = stft_frames(
        audio,
        fft_size=fft_size,
        hop_length=hop_length,
        window_length=window_length,
        window_name=window_name,
        center=center,
        pad_mode=pad_mode,
    )
    return jnp.moveaxis(spectra, -1, -2)


@partial(jax.jit, static_argnames=("length", *_SIZES))
def istft(
    spectrum: Complex[AnyArray, "*batch bins frames"],
    *,
    length: int | None = None,
    fft_size: int | None = None,
    hop_length: int | None = None,
    window_length: int | None = None,
    window_name: str = "hann",
    center: bool = True,
) -> Samples:
    """Inverse of `stft`, in the least-squares sense for a spectrum that is none.

        x[t] = sum_f w[t - f hop] frame_f[t - f hop] / sum_f w[t - f hop]^2

    Exact wherever a frame reaches; without `center` the first samples, where the
    window rises from zero, are scaled by at most 1e5 and their rounding with them.

    Args:
      spectrum: complex [..., bins, frames].
      length: samples to return; what the frames cover if None.
      fft_size: ``2 (bins - 1)`` if None; give it when it was odd.
      hop_length: as in `stft`.
      window_length: as in `stft`.
      window_name: as in `stft`.
      center: as in `stft`.

    Returns:
      [..., length].

    Raises:
      ValueError: window and hop leave samples that no frame weighs.
    """
    bins, frames = spectrum.shape[-2:]
    size = 2 * (bins - 1) if fft_size is None else fft_size
    if size // 2 + 1 != bins:
        raise ValueError(
            f"{bins} bins do not belong to fft_size {size}, which has {size // 2 + 1}"
        )
    hop_length, window_length = _stft_sizes(size, hop_length, window_length)
    weights = window(window_name, window_length)
    overlap = window_length - hop_length
    if overlap < 0 or not scipy.signal.check_NOLA(weights, window_length, overlap):
        raise ValueError(
            f"a {window_name} window of {window_length} every {hop_length} samples"
            " leaves gaps; use a hop of at most half the window"
        )
    before = (size - window_length) // 2
    pieces = jnp.fft.irfft(jnp.moveaxis(spectrum, -1, -2), size)
    pieces = pieces[..., before : before + window_length]
    pieces = pieces * _left(jnp.asarray(weights, pieces.dtype), pieces.ndim)
    total = jnp.asarray(overlap_add(pieces, hop_length))
    norm = np.zeros(total.shape[-1])
    for f in range(frames):
        norm[f * hop_length : f * hop_length + window_length] += weights**2
    norm = np.where(norm > 1e-10 * weights.max() ** 2, norm, np.inf)
    audio = total / _left(jnp.asarray(norm, total.dtype), total.ndim)
    # In the padded signal of `stft` the first window starts at `before`.
    start = (size // 2 if center else 0) - before
    end_pad = size // 2 - before if center else 0
    covered = max(audio.shape[-1] - start - end_pad, 0)
    samples = covered if length is None else length
    audio = audio[..., start:] if start >= 0 else _pad_last(audio, -start, 0)
    return _pad_last(audio, 0, max(0, samples - audio.shape[-1]))[..., :samples]


def power(
    spectrum: Complex[AnyArray, "*batch bins frames"],
) -> Float[AnyArray, "*batch bins frames"]:
    """Squared magnitude, ``re^2 + im^2``, with gradient zero (not NaN) at zero.

    Args:
      spectrum: complex, any shape of two axes or more.

    Returns:
      Real, same shape.
    """
    return jnp.square(jnp.real(spectrum)) + jnp.square(jnp.imag(spectrum))


@partial(jax.jit, static_argnames="mode")
def fft_convolve(
    audio: Signal,
    impulse_response: Float[AnyArray, "*#batch taps"],
    mode: Literal["full", "same", "valid", "causal"] = "full",
) -> Samples:
    """Linear convolution by one FFT of the whole.

        y[t] = sum_k h[k] x[t - k]

    Args:
      audio: [..., time].
      impulse_response: [..., taps]; leading dimensions equal or 1, or [taps] alone.
      mode: ``"full"`` time + taps - 1 samples; ``"causal"`` the first `time` of them;
        ``"same"`` the middle `time` (a symmetric FIR then delays nothing);
        ``"valid"`` those that need no padding, max - min + 1.

    Returns:
      [..., samples] as `mode` says.

    Raises:
      ValueError: the mode is unknown.
    """
    time, taps = audio.shape[-1], impulse_response.shape[-1]
    spans = {
        "full": (0, time + taps - 1),
        "causal": (0, time),
        "same": ((taps - 1) // 2, time),
        "valid": (min(time, taps) - 1, abs(time - taps) + 1),
    }
    if mode not in spans:
        raise ValueError(f"mode {mode!r} is unknown; use one of {sorted(spans)}")
    size = _fft_length(time + taps - 1)
    response = _left(jnp.fft.rfft(impulse_response, size), audio.ndim)
    start, length = spans[mode]
    out = jnp.fft.irfft(jnp.fft.rfft(audio, size) * response, size)
    return out[..., start : start + length]


@partial(
    jax.jit,
    static_argnames=("from_hz", "to_hz", "zero_crossings", "rolloff", "stopband_db"),
)
def resample(
    audio: Signal,
    from_hz: int,
    to_hz: int,
    *,
    zero_crossings: int = 32,
    rolloff: float = 0.95,
    stopband_db: float = 90.0,
) -> Samples:
    """Change of sample rate by a windowed sinc, no delay.

        y[m] = sum_n x[n] h(m from / to - n),  h a Kaiser-windowed sinc

    Every `to / g` outputs (g the common divisor of the rates) use the same
    coefficients, so that all is one product of frames with a small matrix; pairs of
    rates with a huge matrix gather their phases instead.

    Args:
      audio: [..., time].
      from_hz: rate of the audio, integer.
      to_hz: wanted rate, integer.
      zero_crossings: half-width of the sinc in periods of the lower rate; cost and
        steepness grow with it.
      rolloff: middle of the transition band over the lower Nyquist frequency.
      stopband_db: rejection of images and aliases that sets the Kaiser window.

    Returns:
      [..., ceil(time to_hz / from_hz)].

    Raises:
      ValueError: a rate is not a positive integer.
    """
    _check_positive(from_hz=from_hz, to_hz=to_hz, zero_crossings=zero_crossings)
    divisor = math.gcd(from_hz, to_hz)
    up, down = to_hz // divisor, from_hz // divisor
    audio = jnp.asarray(audio)
    if up == down:
        return audio
    time = audio.shape[-1]
    length = -(-time * up // down)
    # Half-width in input samples, and whole periods of `up` outputs in one frame.
    half = math.ceil(zero_crossings * max(1.0, down / up))
    periods = max(1, 128 // up)
    outputs, stride = periods * up, periods * down
    width = 2 * half + ((outputs - 1) * down) // up + 1
    design = (up, down, half, rolloff, stopband_db)
    if width * outputs > _MATRIX_LIMIT:
        return _resample_phases(audio, length, design)
    count = -(-length // outputs)
    audio = _pad_last(audio, half, max(0, (count - 1) * stride + width - half - time))
    frames = frame(audio, width, stride)[..., :count, :]
    matrix = jnp.asarray(_resample_matrix(outputs, width, *design), audio.dtype)
    out = jnp.matmul(frames, matrix, precision=PRECISE)
    return out.reshape(*out.shape[:-2], -1)[..., :length]


def _kaiser_sinc(
    offset: np.ndarray,
    up: int,
    down: int,
    half: int,
    rolloff: float,
    stopband_db: float,
) -> np.ndarray:
    """Interpolation kernel at `offset` input samples from its middle, float64."""
    cutoff = rolloff * min(1.0, up / down)
    beta = scipy.signal.kaiser_beta(stopband_db)
    inside = np.clip(1.0 - np.square(offset / half), 0.0, None)
    shape = np.i0(beta * np.sqrt(inside)) / np.i0(beta)
    return np.where(np.abs(offset) <= half, cutoff * np.sinc(cutoff * offset), 0.0) * (
        shape
    )


@lru_cache(maxsize=16)
def _resample_matrix(outputs: int, width: int, *design) -> np.ndarray:
    up, down, half = design[:3]
    # Input n of a frame lies at n - half, output m at m down / up.
    places = np.arange(outputs) * down / up
    return _kaiser_sinc(np.arange(width)[:, None] - half - places[None, :], *design)


def _resample_phases(audio: jax.Array, length: int, design: tuple) -> jax.Array:
    """Outputs one tap at a time, for rates with few common periods."""
    up, down, half = design[:3]
    # In Python integers: position times rate passes 2^31 within a minute.
    position = np.arange(length, dtype=np.int64) * down
    nearest = jnp.asarray(position // up, jnp.int32)
    phase = jnp.asarray(position % up, jnp.int32)
    taps = np.arange(-half, half + 1)
    table = _kaiser_sinc(taps[:, None] - np.arange(up)[None, :] / up, *design)
    padded = _pad_last(audio, half, half)

    def add(total, tap):
        offset, weights = tap
        return total + padded[..., nearest + offset] * _left(
            weights[phase], padded.ndim
        ), None

    start = jnp.zeros((*audio.shape[:-1], length), audio.dtype)
    steps = (jnp.arange(2 * half + 1), jnp.asarray(table, audio.dtype))
    return lax.scan(add, start, steps)[0]


def _stft_sizes(
    fft_size: int, hop_length: int | None, window_length: int | None
) -> tuple[int, int]:
    window_length = fft_size if window_length is None else window_length
    hop_length = max(1, window_length // 4) if hop_length is None else hop_length
    _check_positive(
        fft_size=fft_size, hop_length=hop_length, window_length=window_length
    )
    if window_length > fft_size:
        raise ValueError(
            f"window_length {window_length} is longer than fft_size {fft_size}; use a"
            " larger fft_size"
        )
    return hop_length, window_length


def _pad_center(audio: jax.Array, width: int, pad_mode: str) -> jax.Array:
    if pad_mode == "constant":
        return _pad_last(audio, width, width)
    if pad_mode != "reflect":
        raise ValueError(
            f"pad_mode {pad_mode!r} is unknown; use 'reflect' or 'constant'"
        )
    if audio.shape[-1] == 0:
        raise ValueError("audio of 0 samples has no spectrum; give at least one")
    none = [(0, 0)] * (audio.ndim - 1)
    return jnp.pad(audio, [*none, (width, width)], mode="reflect")


def _pad_last(array: jax.Array, before: int, after: int) -> jax.Array:
    if before == 0 and after == 0:
        return array
    return jnp.pad(array, [*[(0, 0)] * (array.ndim - 1), (before, after)])


def _left(array: jax.Array, ndim: int) -> jax.Array:
    """Leading axes of length 1, so that nothing is promoted silently."""
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)


@lru_cache(maxsize=64)
def _fft_length(samples: int) -> int:
    size = scipy.fft.next_fast_len(samples, real=True)
    assert size is not None
    return size


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; it must be 1 or more")
