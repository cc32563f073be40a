"""Second-order filters: their only design, their response, exact recursion.

A biquad is a pair ``(b, a)`` of coefficients [..., 3] with a[..., 0] = 1:

    H(z) = (b0 + b1 z^-1 + b2 z^-2) / (1 + a1 z^-1 + a2 z^-2)

Designs take arrays of any equal shape; numbers and NumPy arrays are designed in float64
by NumPy, JAX arrays by JAX with gradients. Frequencies must lie below half the rate.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.signal
from jax import lax
from jaxtyping import Complex, Float

from ddspx.types import AnyArray, Rate, Signal
from ddspx.units import array_module

Biquad = tuple[Any, Any]

# Full float32 in products: the default of accelerators rounds to bf16 or TF32.
_PRECISE = lax.Precision.HIGHEST

# IEC 61672-1 annex E: corner frequencies of the A-weighting, Hz.
_A_CORNERS_HZ = (20.598997, 107.65265, 737.86223, 12194.217)
_A_GAIN_1KHZ_DB = 1.9997


def biquad(
    cutoff_hz: Any,
    sample_rate: Rate,
    numerator: tuple[Any, Any, Any],
    denominator: tuple[Any, Any, Any],
) -> Biquad:
    """The bilinear transform of an analog section, exact at its cutoff.

        H(s) = (B2 s^2 + B1 s + B0) / (A2 s^2 + A1 s + A0),
        s = (1 / tan(pi cutoff / rate)) (1 - z^-1) / (1 + z^-1)

    Args:
      cutoff_hz: Hz, the analog frequency s = j.
      sample_rate: Hz.
      numerator: (B2, B1, B0).
      denominator: (A2, A1, A0).

    Returns:
      ``(b, a)``, each [..., 3], a[..., 0] = 1.
    """
    xp = array_module(cutoff_hz, *numerator, *denominator)
    k = xp.tan(np.pi * xp.asarray(cutoff_hz) / sample_rate)

    def transform(c2, c1, c0):
        # Multiplied by k^2: no difference of cosines, which float32 would cancel.
        c0, c1 = c0 * k * k, c1 * k
        return c0 + c1 + c2, 2.0 * (c0 - c2), c0 - c1 + c2

    b, a = transform(*numerator), transform(*denominator)
    shape = np.broadcast_shapes(*(xp.shape(c) for c in (*b, *a)))
    b = xp.stack([xp.broadcast_to(c, shape) for c in b], -1)
    a = xp.stack([xp.broadcast_to(c, shape) for c in a], -1)
    return b / a[..., :1], a / a[..., :1]


def low_pass(cutoff_hz: Any, q: Any, sample_rate: Rate) -> Biquad:
    """Resonant low pass, 12 dB per octave, gain `q` at the cutoff.

        H(s) = 1 / (s^2 + s / Q + 1)

    Args:
      cutoff_hz: Hz, any shape.
      q: quality; 1 / sqrt(2) is Butterworth.
      sample_rate: Hz.

    Returns:
      ``(b, a)``, each [..., 3].

    Reference: R. Bristow-Johnson, Audio EQ Cookbook; so are the others.
    """
    return biquad(cutoff_hz, sample_rate, (0.0, 0.0, 1.0), (1.0, 1.0 / q, 1.0))


def high_pass(cutoff_hz: Any, q: Any, sample_rate: Rate) -> Biquad:
    """Resonant high pass: ``H(s) = s^2 / (s^2 + s / Q + 1)``; see `low_pass`.

    Args:
      cutoff_hz: Hz, any shape.
      q: quality.
      sample_rate: Hz.

    Returns:
      ``(b, a)``, each [..., 3].
    """
    return biquad(cutoff_hz, sample_rate, (1.0, 0.0, 0.0), (1.0, 1.0 / q, 1.0))


def band_pass(center_hz: Any, q: Any, sample_rate: Rate) -> Biquad:
    """Band pass of gain 1 at its center: ``H(s) = (s / Q) / (s^2 + s / Q + 1)``.

    Args:
      center_hz: Hz, any shape.
      q: center over the width between the -3 dB points.
      sample_rate: Hz.

    Returns:
      ``(b, a)``, each [..., 3].
    """
    return biquad(center_hz, sample_rate, (0.0, 1.0 / q, 0.0), (1.0, 1.0 / q, 1.0))


def notch(center_hz: Any, q: Any, sample_rate: Rate) -> Biquad:
    """Zero at the center: ``H(s) = (s^2 + 1) / (s^2 + s / Q + 1)``.

    Args:
      center_hz: Hz, any shape.
      q: center over the width between the -3 dB points.
      sample_rate: Hz.

    Returns:
      ``(b, a)``, each [..., 3].
    """
    return biquad(center_hz, sample_rate, (1.0, 0.0, 1.0), (1.0, 1.0 / q, 1.0))


def peak(center_hz: Any, gain_db: Any, q: Any, sample_rate: Rate) -> Biquad:
    """Bell: ``H(s) = (s^2 + s A / Q + 1) / (s^2 + s / (A Q) + 1)``, A^2 the gain.

    Args:
      center_hz: Hz, any shape.
      gain_db: gain at the center, dB.
      q: quality.
      sample_rate: Hz.

    Returns:
      ``(b, a)``, each [..., 3].
    """
    root = _root_gain(gain_db)
    return biquad(
        center_hz, sample_rate, (1.0, root / q, 1.0), (1.0, 1 / (root * q), 1)
    )


def low_shelf(cutoff_hz: Any, gain_db: Any, q: Any, sample_rate: Rate) -> Biquad:
    """Gain below, none above; half of it, in dB, at the cutoff.

        H(s) = A (s^2 + s sqrt(A) / Q + A) / (A s^2 + s sqrt(A) / Q + 1), A^2 the gain

    Args:
      cutoff_hz: Hz, any shape.
      gain_db: gain at 0 Hz, dB.
      q: quality; above 1 / sqrt(2) the response overshoots.
      sample_rate: Hz.

    Returns:
      ``(b, a)``, each [..., 3].
    """
    root = _root_gain(gain_db)
    slope = root**0.5 / q
    return biquad(
        cutoff_hz, sample_rate, (root, root * slope, root**2), (root, slope, 1.0)
    )


def high_shelf(cutoff_hz: Any, gain_db: Any, q: Any, sample_rate: Rate) -> Biquad:
    """Gain above, none below; half of it, in dB, at the cutoff.

        H(s) = A (A s^2 + s sqrt(A) / Q + 1) / (s^2 + s sqrt(A) / Q + A), A^2 the gain

    Args:
      cutoff_hz: Hz, any shape.
      gain_db: gain at half the rate, dB.
      q: quality; above 1 / sqrt(2) the response overshoots.
      sample_rate: Hz.

    Returns:
      ``(b, a)``, each [..., 3].
    """
    root = _root_gain(gain_db)
    slope = root**0.5 / q
    return biquad(
        cutoff_hz, sample_rate, (root**2, root * slope, root), (1.0, slope, root)
    )


def k_weighting(sample_rate: Rate) -> np.ndarray:
    """The two sections of BS.1770's K-weighting, at any rate.

    The standard lists coefficients at 48 kHz; these are the analog sections they come
    from, transformed at the rate asked for, equal to the list at 48 kHz to 1e-7.

    Args:
      sample_rate: Hz.

    Returns:
      Second-order sections, float64 [2, 6]: high shelf of +4 dB (the head), then high
      pass at 38 Hz, whose pass-band gain is the standard's at 48 kHz (+0.04 dB) at
      every rate. Meters that keep its numerator [1, -2, 1] at every rate read 0.24 dB
      more at 8 kHz than at 48.

    Reference: ITU-R BS.1770-4, annex 1; B. De Man, Evaluation of implementations of
      the EBU R128 loudness measurement, AES 145 (2018).
    """
    high = 10.0 ** (3.999843853973347 / 20.0)
    middle = high**0.4996667741545416
    q = 0.7071752369554196
    shelf = biquad(
        1681.974450955533, sample_rate, (high, middle / q, 1.0), (1.0, 1.0 / q, 1.0)
    )
    cut = (38.13547087602444, 0.5003270373238773)
    b, a = high_pass(*cut, sample_rate)
    standard, _ = high_pass(*cut, 48000)
    return np.asarray(sections(shelf, (b / standard[0], a)))


def a_weighting_db(frequency_hz: Any, floor_db: float = -80.0) -> Any:
    """A-weighting of IEC 61672-1, 0 dB at 1 kHz.

        A(f) = 20 log10(f4^2 f^4 / ((f^2 + f1^2) sqrt(f^2 + f2^2) sqrt(f^2 + f3^2)
               (f^2 + f4^2))) + 2 dB

    Args:
      frequency_hz: Hz, any shape.
      floor_db: least value, dB; 0 Hz would be minus infinity.

    Returns:
      dB, float64, same shape.
    """
    f2 = np.square(np.asarray(frequency_hz, dtype=float))
    c1, c2, c3, c4 = (c * c for c in _A_CORNERS_HZ)
    gain = c4 * f2 * f2 / ((f2 + c1) * np.sqrt((f2 + c2) * (f2 + c3)) * (f2 + c4))
    level = 20.0 * np.log10(np.maximum(gain, 1e-20)) + 2.0
    return np.maximum(level, floor_db)


@lru_cache(maxsize=16)
def a_weighting_fir(sample_rate: Rate, taps: int = 101) -> np.ndarray:
    """A-weighting as a symmetric FIR, for weighting a waveform without phase change.

    Least-squares fit to the magnitude of the bilinear transform of the analog filter;
    the low end is only as good as `taps / sample_rate` allows.

    Args:
      sample_rate: Hz.
      taps: odd number of coefficients.

    Returns:
      float64 [taps].

    Reference: IEC 61672-1; C. Steinmetz, J. Reiss, auraloss (2020), for the fit.
    """
    w1, w2, w3, w4 = (2.0 * np.pi * c for c in _A_CORNERS_HZ)
    gain = w4**2 * 10.0 ** (_A_GAIN_1KHZ_DB / 20.0)
    poles = [-w4, -w4, -w1, -w1, -w3, -w2]
    zpk = scipy.signal.bilinear_zpk([0.0] * 4, poles, gain, fs=sample_rate)
    frequency_hz, response = scipy.signal.freqz_zpk(*zpk, worN=512, fs=sample_rate)
    return scipy.signal.firls(taps, frequency_hz, np.abs(response), fs=sample_rate)


def sections(*biquads: Biquad) -> Any:
    """Biquads in series, in the layout of scipy.

    Args:
      *biquads: pairs ``(b, a)``, each [..., 3], equal shapes.

    Returns:
      [..., sections, 6]: b0 b1 b2 a0 a1 a2.
    """
    xp = array_module(*(c for pair in biquads for c in pair))
    return xp.stack([xp.concatenate(pair, -1) for pair in biquads], -2)


def frequency_response(
    b: Float[AnyArray, "*batch 3"],
    a: Float[AnyArray, "*batch 3"],
    frequencies_hz: Float[AnyArray, " frequencies"],
    sample_rate: Rate,
) -> Complex[AnyArray, "*batch frequencies"]:
    """``H(exp(2 pi i f / rate))`` of a biquad.

    Args:
      b: [..., 3].
      a: [..., 3].
      frequencies_hz: [frequencies].
      sample_rate: Hz.

    Returns:
      Complex [..., frequencies].
    """
    xp = array_module(b, a, frequencies_hz)
    angle = 2.0 * np.pi * xp.asarray(frequencies_hz) / sample_rate
    delays = xp.exp(-1j * xp.arange(3)[:, None] * angle[None, :])

    def evaluate(c):
        delay = delays.reshape((1,) * (c.ndim - 1) + delays.shape)
        return (c[..., :, None] * delay).sum(-2)

    return evaluate(xp.asarray(b)) / evaluate(xp.asarray(a))


def sosfilt(
    audio: Signal, sos: Float[AnyArray, "*#batch sections 6"]
) -> Float[AnyArray, "*batch time"]:
    """Sections in series by exact recursion, transposed direct form II, from rest.

        y[t] = b0 x[t] + s1[t-1];  s1[t] = b1 x[t] - a1 y[t] + s2[t-1];
        s2[t] = b2 x[t] - a2 y[t]

    Args:
      audio: [..., time].
      sos: [..., sections, 6], leading dimensions equal or 1, or [sections, 6] alone.
        Coefficients may be traced, and have gradients.

    Returns:
      [..., time].
    """
    audio = jnp.asarray(audio)
    sos = jnp.asarray(sos, audio.dtype)
    lead = audio.shape[:-1]
    sos = sos.reshape((1,) * (len(lead) + 2 - sos.ndim) + sos.shape)
    sos = sos / sos[..., 3:4]
    signal = jnp.moveaxis(audio, -1, 0)
    for index in range(sos.shape[-2]):
        signal = lax.scan(
            *_section_step(sos[..., index, :], lead, audio.dtype), signal
        )[1]
    return jnp.moveaxis(signal, 0, -1)


def _section_step(c: jax.Array, lead: tuple, dtype: Any) -> tuple[Callable, tuple]:
    b0, b1, b2, _, a1, a2 = (c[..., i] for i in range(6))

    def step(state, x):
        s1, s2 = state
        y = b0 * x + s1
        return (b1 * x - a1 * y + s2, b2 * x - a2 * y), y

    return step, (jnp.zeros(lead, dtype), jnp.zeros(lead, dtype))


def sosfilt_fixed(
    audio: Signal, sos: np.ndarray, block_length: int = 128
) -> Float[AnyArray, "*batch time"]:
    """`sosfilt` for constant coefficients, block by block: exact and much faster.

        y_block = x_block T + s O;  s' = x_block C + s A^block

    The products over all blocks are two matrix products; only the state, a few numbers
    a signal, is passed from block to block. The matrices are made in float64.

    Args:
      audio: [..., time].
      sos: float64 NumPy [sections, 6].
      block_length: samples; the recursion has time / block_length steps.

    Returns:
      [..., time].
    """
    audio = jnp.asarray(audio)
    lead, time = audio.shape[:-1], audio.shape[-1]
    key = (np.asarray(sos, float).tobytes(), block_length)
    from_input, from_state, to_state, state_to_state = (
        jnp.asarray(matrix, audio.dtype) for matrix in _block_matrices(*key)
    )
    count = -(-time // block_length)
    padding = [(0, 0)] * len(lead) + [(0, count * block_length - time)]
    blocks = jnp.pad(audio, padding).reshape(*lead, count, block_length)
    arriving = jnp.matmul(blocks, to_state, precision=_PRECISE)

    def step(state, arrival):
        moved = jnp.matmul(state, state_to_state, precision=_PRECISE)
        return moved + arrival, state

    start = jnp.zeros((*lead, state_to_state.shape[0]), audio.dtype)
    states = jnp.moveaxis(
        lax.scan(step, start, jnp.moveaxis(arriving, -2, 0))[1], 0, -2
    )
    out = jnp.matmul(blocks, from_input, precision=_PRECISE)
    out = out + jnp.matmul(states, from_state, precision=_PRECISE)
    return out.reshape(*lead, count * block_length)[..., :time]


@lru_cache(maxsize=16)
def _block_matrices(key: bytes, block_length: int) -> tuple[np.ndarray, ...]:
    """A block's linear map, read off by filtering unit inputs and unit states."""
    sos = np.frombuffer(key).reshape(-1, 6).copy()
    size = 2 * sos.shape[0]
    inputs = np.eye(block_length + size, block_length)
    states = np.eye(block_length + size, size, k=-block_length)
    # scipy keeps the states as [sections, signals, 2].
    states = np.moveaxis(states.reshape(-1, sos.shape[0], 2), 0, 1)
    outputs, states = scipy.signal.sosfilt(sos, inputs, zi=states)
    states = np.moveaxis(states, 0, 1).reshape(-1, size)
    return (
        outputs[:block_length],
        outputs[block_length:],
        states[:block_length],
        states[block_length:],
    )


def _root_gain(gain_db: Any) -> Any:
    """A = sqrt of the gain: ``10^(dB / 40)``."""
    return array_module(gain_db).power(10.0, gain_db / 40.0)
