"""More samples per second around a nonlinearity, and back: linear phase, by blocks.

A factor M uses one M-th band filter (half-band for M = 2), a Kaiser-windowed sinc whose
every M-th tap but the middle one is zero. Interpolation and decimation are polyphase:
each is two products of blocks of the signal with a small constant matrix, so are their
gradients. Each delays by `ZERO_CROSSINGS` samples of the lower rate, so the way there
and back has the whole latency ``2 ZERO_CROSSINGS``. Histories are carried in explicit
state, zeros at the start. Signals are [channels, time].
"""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import scipy.signal
from jaxtyping import Float

from ddspx.signal import PRECISE

FACTORS = (1, 2, 4, 8)
# Half-width of the sinc in samples of the lower rate. With 90 dB of rejection the
# transition is 0.09 wide: flat to 0.455 of the rate, 20 kHz at 44.1 kHz.
ZERO_CROSSINGS = 32
STOPBAND_DB = 90.0

# Samples of the lower rate in one block: as long as the filter reaches back.
_BLOCK = 2 * ZERO_CROSSINGS

_Kept = Float[jax.Array, "channels kept"]
_Audio = Float[jax.Array, "channels time"]
_Out = Float[jax.Array, "channels samples"]


def check_factor(factor: int) -> None:
    """Raises ValueError unless the factor is one of `FACTORS`."""
    if factor not in FACTORS:
        raise ValueError(
            f"oversampling={factor!r} is not possible; use one of {FACTORS}"
        )


def latency(factor: int) -> int:
    """Samples of the lower rate by which `upsample` and `downsample` delay together."""
    check_factor(factor)
    return 0 if factor == 1 else 2 * ZERO_CROSSINGS


@lru_cache(maxsize=8)
def kernel(factor: int) -> np.ndarray:
    """The M-th band low pass at the higher rate.

        h[k] = sinc(k / M) kaiser(k / (M Z)),  -M Z <= k <= M Z,  Z = ZERO_CROSSINGS

    scaled so that each of its M phases sums to one: a constant stays exactly itself.

    Args:
      factor: M.

    Returns:
      float64 [2 M Z + 1], symmetric.
    """
    check_factor(factor)
    half = factor * ZERO_CROSSINGS
    place = np.arange(-half, half + 1)
    beta = scipy.signal.kaiser_beta(STOPBAND_DB)
    taps = np.sinc(place / factor) * np.kaiser(2 * half + 1, beta)
    for phase in range(factor):
        taps[phase::factor] /= taps[phase::factor].sum()
    return taps


def start(factor: int, channels: int) -> tuple[jax.Array, jax.Array]:
    """State before the first sample: of `upsample` and of `downsample`."""
    check_factor(factor)
    if factor == 1:
        return jnp.zeros((channels, 0)), jnp.zeros((channels, 0))
    return jnp.zeros((channels, _BLOCK)), jnp.zeros((channels, _BLOCK * factor))


def upsample(history: _Kept, audio: _Audio, factor: int) -> tuple[_Kept, _Out]:
    """Interpolation, `ZERO_CROSSINGS` samples late.

        y[m] = sum_n x[n] h[m - n M - Z M]

    Args:
      history: [channels, kept], what the call before returned, or from `start`.
      audio: [channels, time], any length.
      factor: M.

    Returns:
      History for the next call, and [channels, time M].
    """
    if factor == 1:
        return history, audio
    joined = jnp.concatenate([history, audio], axis=-1)
    out = _blockwise(joined, _up_matrices(factor), _BLOCK)
    return joined[:, audio.shape[-1] :], out[:, : audio.shape[-1] * factor]


def downsample(history: _Kept, audio: _Audio, factor: int) -> tuple[_Kept, _Out]:
    """Low pass and decimation, `ZERO_CROSSINGS` samples of the lower rate late.

        y[n] = (1 / M) sum_m x[m] h[n M - m - Z M]

    Args:
      history: [channels, kept], what the call before returned, or from `start`.
      audio: [channels, time M].
      factor: M.

    Returns:
      History for the next call, and [channels, time].
    """
    if factor == 1:
        return history, audio
    joined = jnp.concatenate([history, audio], axis=-1)
    out = _blockwise(joined, _down_matrices(factor), _BLOCK * factor)
    return joined[:, audio.shape[-1] :], out[:, : audio.shape[-1] // factor]


def delay(history: _Kept, audio: _Audio) -> tuple[_Kept, _Out]:
    """A delay by as many whole samples as the history holds.

    Args:
      history: [channels, lag], zeros at the start.
      audio: [channels, time].

    Returns:
      History for the next call, and [channels, time].
    """
    joined = jnp.concatenate([history, audio], axis=-1)
    time = audio.shape[-1]
    return joined[:, time:], joined[:, :time]


def _blockwise(
    joined: jax.Array, matrices: tuple[np.ndarray, np.ndarray], block: int
) -> jax.Array:
    """Products of each block and of the one before it; `joined` starts with one."""
    before, now = (jnp.asarray(matrix, joined.dtype) for matrix in matrices)
    count = -(-joined.shape[-1] // block)
    padded = jnp.pad(joined, ((0, 0), (0, count * block - joined.shape[-1])))
    blocks = padded.reshape(joined.shape[0], count, block)
    out = jnp.matmul(blocks[:, :-1], before, precision=PRECISE)
    out = out + jnp.matmul(blocks[:, 1:], now, precision=PRECISE)
    return out.reshape(joined.shape[0], -1)


@lru_cache(maxsize=8)
def _up_matrices(factor: int) -> tuple[np.ndarray, np.ndarray]:
    return _placed(factor, np.arange(-_BLOCK, _BLOCK) * factor, range(_BLOCK * factor))


@lru_cache(maxsize=8)
def _down_matrices(factor: int) -> tuple[np.ndarray, np.ndarray]:
    span = _BLOCK * factor
    before, now = _placed(factor, np.arange(-span, span), range(0, span, factor))
    return before / factor, now / factor


def _placed(factor, sources, targets) -> tuple[np.ndarray, np.ndarray]:
    """Taps from each source to each target, places at the higher rate, in halves."""
    taps = kernel(factor)
    index = np.asarray(targets)[None, :] - np.asarray(sources)[:, None]
    reached = (index >= 0) & (index < taps.size)
    matrix = np.where(reached, taps[np.clip(index, 0, taps.size - 1)], 0.0)
    first, second = np.split(matrix, 2)
    return first, second
