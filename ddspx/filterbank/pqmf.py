"""A pseudo-quadrature mirror bank: M bands at an M-th of the sample rate, and back.

    h_k[n] = 2 p[n] cos((2k + 1) pi / (2M) (n - (N - 1) / 2) + (-1)^k pi / 4)

Critically sampled. The default prototype reconstructs perfectly, to the rounding of
float32. Analysis folds the windowed signal into 2 M numbers a frame and multiplies by
one small matrix; synthesis is its transpose. Audio has any leading dimensions.
"""

from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ddspx.filterbank.prototype import perfect_prototype
from ddspx.signal import PRECISE
from ddspx.types import AnyArray, Signal

Subbands = Float[AnyArray, "*batch bands frames"]
Samples = Float[AnyArray, "*batch samples"]


class Pqmf(NamedTuple):
    """A bank.

    Attributes:
      bands: M; a frame is M samples.
      prototype: float64 [N], N a multiple of 2 M, its middle at (N - 1) / 2 less half
        of `padding`.
      padding: zeros behind the prototype proper.
    """

    bands: int
    prototype: np.ndarray
    padding: int

    @property
    def latency(self) -> int:
        """Samples by which a stream through analysis and synthesis lags."""
        return len(self.prototype) - self.bands


def make_pqmf(
    bands: int,
    *,
    overlap: int = 8,
    attenuation_db: float = 100.0,
    prototype: np.ndarray | None = None,
) -> Pqmf:
    """A bank of cosine-modulated filters.

    Args:
      bands: M, even unless a prototype is given.
      overlap: the prototype has 2 M `overlap` taps; more are steeper and later.
      attenuation_db: of the Kaiser window that the design begins from.
      prototype: another one, [taps] and symmetric, as RAVE's; taken as it is, and
        reconstructs as well as it was designed to.

    Returns:
      A `Pqmf`.

    Raises:
      ValueError: see `ddspx.filterbank.prototype.perfect_prototype`; or the prototype
        is not symmetric.
    """
    if prototype is None:
        # Filters of gain 1 in their band: the powers of the bands add up.
        found = perfect_prototype(bands, overlap, float(attenuation_db))
        return Pqmf(bands, found / np.sqrt(bands), 0)
    taps = np.asarray(prototype, np.float64)
    if taps.ndim != 1 or bands < 2 or not np.allclose(taps, taps[::-1], atol=1e-7):
        raise ValueError(
            "a prototype is symmetric, [taps], for 2 bands or more; got shape"
            f" {taps.shape} and {bands} bands"
        )
    padding = -len(taps) % (2 * bands)
    return Pqmf(bands, np.pad(taps, (0, padding)), padding)


def analyze(bank: Pqmf, audio: Signal) -> jax.Array:
    """The bands of a signal.

        x_k[m] = sum_n h_k[n] x[m M + n - D],   D the middle of the prototype

    Args:
      bank: from `make_pqmf`.
      audio: [..., time], a multiple of M; silence surrounds it.

    Returns:
      [..., bands, time / M + 2 overlap - 1]: all frames that hear the signal, so
      that `synthesize` gives it back up to its ends; `frames_before(bank)` of them
      have their middle before the first sample.

    Raises:
      ValueError: the time is no multiple of the bands.
    """
    audio = jnp.asarray(audio)
    _check_time(bank, audio)
    around = len(bank.prototype) - bank.bands
    widths = [(0, 0)] * (audio.ndim - 1) + [(around, around)]
    return _fold(bank, jnp.pad(audio, widths))


def synthesize(bank: Pqmf, subbands: Subbands) -> jax.Array:
    """The signal of its bands: the transpose of `analyze`.

        y[t] = M sum_m sum_k h_k[t - m M] x_k[m]

    Args:
      bank: from `make_pqmf`.
      subbands: [..., bands, frames], from `analyze`.

    Returns:
      [..., time].

    Raises:
      ValueError: bands or frames are not what `analyze` gives.
    """
    subbands = jnp.asarray(subbands)
    least = len(bank.prototype) // bank.bands
    if subbands.ndim < 2 or subbands.shape[-2] != bank.bands:
        raise ValueError(
            f"subbands are [..., {bank.bands}, frames], got shape {subbands.shape}"
        )
    if subbands.shape[-1] < least:
        raise ValueError(
            f"the signal of a bank of {bank.bands} bands has {least} frames or more,"
            f" got {subbands.shape[-1]}"
        )
    around = len(bank.prototype) - bank.bands
    return _unfold(bank, subbands)[..., around:-around]


def frames_before(bank: Pqmf) -> int:
    """Frames of `analyze` whose middle lies before the signal's first sample."""
    middle = (len(bank.prototype) - bank.padding) // 2
    return (len(bank.prototype) - bank.bands - middle) // bank.bands


def analysis_state(bank: Pqmf, *batch: int) -> jax.Array:
    """State of `analyze_block` before the first sample: what was heard last."""
    return jnp.zeros((*batch, len(bank.prototype) - bank.bands))


def analyze_block(
    bank: Pqmf, state: jax.Array, audio: Signal
) -> tuple[jax.Array, jax.Array]:
    """The bands of the next samples of a stream.

    Args:
      bank: from `make_pqmf`.
      state: from `analysis_state` or the block before.
      audio: [..., time], a multiple of M.

    Returns:
      The state, and [..., bands, time / M]: the frames of `analyze` in their order.
    """
    audio = jnp.asarray(audio)
    _check_time(bank, audio)
    joined = jnp.concatenate([state.astype(audio.dtype), audio], -1)
    return joined[..., audio.shape[-1] :], _fold(bank, joined)


def synthesis_state(bank: Pqmf, *batch: int) -> jax.Array:
    """State of `synthesize_block` before the first frame: what is still to come."""
    return jnp.zeros((*batch, len(bank.prototype) - bank.bands))


def synthesize_block(
    bank: Pqmf, state: jax.Array, subbands: Subbands
) -> tuple[jax.Array, jax.Array]:
    """The next samples of a stream of bands.

    Args:
      bank: from `make_pqmf`.
      state: from `synthesis_state` or the block before.
      subbands: [..., bands, frames].

    Returns:
      The state, and [..., frames M]; `Pqmf.latency` samples late.
    """
    subbands = jnp.asarray(subbands)
    whole = _unfold(bank, subbands)
    time = subbands.shape[-1] * bank.bands
    whole = whole.at[..., : state.shape[-1]].add(state.astype(whole.dtype))
    return whole[..., time:], whole[..., :time]


def reconstruction_db(bank: Pqmf, audio: Signal) -> float:
    """Level of a signal over that of what the bank changes in it.

        10 log10(sum x^2 / sum (synthesize(analyze(x)) - x)^2)

    Args:
      bank: from `make_pqmf`.
      audio: [..., time], a multiple of M.

    Returns:
      dB.
    """
    audio = np.asarray(audio)
    found = np.asarray(synthesize(bank, analyze(bank, audio)), np.float64)
    error = np.sum(np.square(found - audio))
    return float(10.0 * np.log10(np.sum(np.square(audio, dtype=np.float64)) / error))


def _check_time(bank: Pqmf, audio: jax.Array) -> None:
    if not audio.shape[-1] or audio.shape[-1] % bank.bands:
        raise ValueError(
            f"{audio.shape[-1]} samples are no multiple of {bank.bands} bands; pad them"
        )


def _fold(bank: Pqmf, audio: jax.Array) -> jax.Array:
    """Frames of the whole prototype, one every M samples."""
    return _folded(audio, *_factors(bank, audio.dtype))


def _unfold(bank: Pqmf, subbands: jax.Array) -> jax.Array:
    return _unfolded(subbands, *_factors(bank, subbands.dtype))


@jax.jit
def _folded(audio: jax.Array, window: jax.Array, matrix: jax.Array) -> jax.Array:
    pieces = audio.reshape(*audio.shape[:-1], -1, window.shape[-1])
    window = window.reshape(len(window), *(1,) * (pieces.ndim - 1), -1)
    count = pieces.shape[-2] - len(window) + 1
    # Every second piece goes to the same half of the 2 M numbers.
    halves = [
        sum(window[j] * pieces[..., j : j + count, :] for j in range(h, len(window), 2))
        for h in (0, 1)
    ]
    folded = jnp.concatenate([jnp.asarray(half) for half in halves], -1)
    return jnp.einsum("rk,...mr->...km", matrix, folded, precision=PRECISE)


@jax.jit
def _unfolded(subbands: jax.Array, window: jax.Array, matrix: jax.Array) -> jax.Array:
    m = window.shape[-1]
    window = window.reshape(len(window), *(1,) * (subbands.ndim - 1), -1)
    folded = m * jnp.einsum("rk,...km->...mr", matrix, subbands, precision=PRECISE)
    none = [(0, 0)] * (subbands.ndim - 2)
    last = len(window) - 1
    total = sum(
        jnp.pad(
            window[j] * folded[..., (j % 2) * m : (j % 2 + 1) * m],
            [*none, (j, last - j), (0, 0)],
        )
        for j in range(len(window))
    )
    total = jnp.asarray(total)
    return total.reshape(*total.shape[:-2], -1)


def _factors(bank: Pqmf, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """The window in pieces of M and the matrix."""
    window, matrix = _design(bank.bands, bank.prototype.tobytes(), bank.padding)
    return jnp.asarray(window, dtype), jnp.asarray(matrix, dtype)


@lru_cache(maxsize=16)
def _design(bands: int, taps: bytes, padding: int) -> tuple[np.ndarray, np.ndarray]:
    """The window [2 overlap, M] with its signs, the matrix [2 M, M]."""
    prototype = np.frombuffer(taps, np.float64)
    # cos moves by half a turn, and by its sign alone, every 2 M samples.
    signs = np.where(np.arange(len(prototype)) // (2 * bands) % 2, -1.0, 1.0)
    middle = 0.5 * (len(prototype) - padding - 1)
    r, k = np.arange(2 * bands)[:, None] - middle, np.arange(bands)[None]
    turn = np.where(k % 2, -0.25, 0.25) * np.pi
    matrix = 2.0 * np.cos((2 * k + 1) * np.pi / (2 * bands) * r + turn)
    return (signs * prototype).reshape(-1, bands), matrix
