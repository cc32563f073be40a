"""How well a frame of sound repeats after each lag: a centred difference function.

For a frame x under a window w,

    d(tau) = sum_j w[j] w[j + tau] (x[j] - x[j + tau])^2 / sum_j w[j] w[j + tau]

All pairs lie symmetrically about the middle of the frame, whatever the lag, so that a
moving pitch is measured where the frame is. (YIN's own d compares a fixed window with
one that moves off to the right: its middle lies earlier for short lags, by up to half
the longest lag.) All lags come from three FFTs.
"""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from jaxtyping import Float

from ddspx.signal import PRECISE, window
from ddspx.types import AnyArray

Frames = Float[AnyArray, "frames time"]
Lags = Float[AnyArray, "frames lags"]

# Power below which a frame is silence to the last bit: 1 / 10 of a step of 24 bits.
_LEAST_POWER = 1e-16


@lru_cache(maxsize=16)
def _window_products(length: int, lags: int) -> tuple[np.ndarray, int]:
    """The window, and the size of the FFT that holds all lags without wrapping."""
    size = scipy.fft.next_fast_len(length + lags, real=True)
    assert size is not None
    return window("hann", length), size


def difference_function(frames: Frames, lags: int) -> tuple[Lags, jax.Array]:
    """Difference over twice the power of the pairs: 0 where the frame repeats.

        n(tau) = d(tau) / (2 P),  P = sum_j w[j] w[j + tau] (x[j]^2 + x[j + tau]^2) / 2
                                      / sum_j w[j] w[j + tau]

    For a periodic sound in white noise, n at the period is the share of the noise in
    the power; in noise alone it is about 1. Values are within [0, 2].

    Args:
      frames: [frames, time].
      lags: how many, from 0; less than the time.

    Returns:
      n [frames, lags], and the mean power under the window [frames].

    Reference: A. de Cheveigne, H. Kawahara, YIN (2002), eq. 6 to 7; P. McLeod,
    G. Wyvill, A smarter way to find pitch (2005), for the normalisation.
    """
    frames = jnp.asarray(frames)
    length = frames.shape[-1]
    weights, size = _window_products(length, lags)
    one = jnp.asarray(weights, frames.dtype)[None, :]
    # An offset would repeat after any lag.
    share = jnp.asarray(weights / weights.sum(), frames.dtype)
    frames = frames - jnp.matmul(frames, share, precision=PRECISE)[:, None]
    tapered = jnp.fft.rfft(frames * one, size)
    squares = jnp.fft.rfft(frames * frames * one, size)
    spectrum = jnp.asarray(np.fft.rfft(weights, size), tapered.dtype)[None, :]
    # Autocorrelation and pair power side by side: one complex inverse would do, two
    # real ones are as fast and plain.
    repeated = jnp.square(tapered.real) + jnp.square(tapered.imag)
    pairs = jnp.real(squares * jnp.conj(spectrum))
    correlation = jnp.fft.irfft(repeated, size)[:, :lags]
    powers = jnp.fft.irfft(pairs, size)[:, :lags]
    power = powers[:, 0] / np.sum(np.square(weights))
    least = _LEAST_POWER * np.sum(np.square(weights))
    normalised = 1.0 - correlation / jnp.maximum(powers, least)
    return jnp.clip(normalised, 0.0, 2.0), power


def cumulative_mean_normalised(difference: Lags) -> Lags:
    """YIN's d' (eq. 8): the difference over its own mean at all shorter lags.

        d'(tau) = d(tau) tau / sum_{1 <= t <= tau} d(t),  d'(0) = 1

    Args:
      difference: [frames, lags], from lag 0.

    Returns:
      Same shape; about 1 where nothing repeats, and at short lags.
    """
    difference = jnp.asarray(difference)
    sums = jnp.cumsum(difference.at[:, 0].set(0.0), axis=-1)
    lag = jnp.arange(difference.shape[-1], dtype=difference.dtype)[None, :]
    tiny = jnp.finfo(difference.dtype).tiny
    mean = sums / jnp.maximum(lag, 1.0)
    return jnp.where(mean > tiny, difference / jnp.maximum(mean, tiny), 1.0)
