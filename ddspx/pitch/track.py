"""Audio to a continuous curve of f0, with confidence and voicing."""

import math
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ddspx.cache import cached, content_key
from ddspx.pitch.candidates import Candidates, find_candidates
from ddspx.pitch.path import best_path
from ddspx.pitch.periodicity import cumulative_mean_normalised, difference_function
from ddspx.types import AnyArray, Rate, Signal

Fill = Literal["interpolate", "hold"]

# Frames analysed at once: enough to fill vector units, few enough for the cache.
_CHUNK = 64
_VERSION = 1


class Pitch(NamedTuple):
    """f0 of each frame.

    Attributes:
      f0_hz: [..., frames], continuous: unvoiced frames are filled.
      confidence: share of the frame's power that repeats after a period, within [0, 1]
        [..., frames]; of unvoiced frames that of their best candidate.
      voiced: whether the frame has a pitch, bool [..., frames].
    """

    f0_hz: AnyArray
    confidence: AnyArray
    voiced: AnyArray


@partial(
    jax.jit,
    static_argnames=(
        "sample_rate",
        "hop_length",
        "low_hz",
        "high_hz",
        "periods",
        "candidates",
        "beta",
        "fill",
        "silence_db",
    ),
)
def track_f0(
    audio: Signal,
    sample_rate: Rate,
    hop_length: int,
    *,
    low_hz: float = 50.0,
    high_hz: float = 2000.0,
    periods: float = 3.0,
    candidates: int = 8,
    beta: float = 4.0,
    fill: Fill = "interpolate",
    silence_db: float = -80.0,
) -> Pitch:
    """f0 of monophonic sound: probabilistic YIN on a centred difference function.

    Frame m is centred on sample ``m hop_length`` (zeros around the audio); there are
    ``ceil(time / hop_length)``. Memory is that of the audio and about 150 bytes a
    frame: frames are analysed a few at a time.

    Args:
      audio: [..., time], at least one sample.
      sample_rate: Hz.
      hop_length: samples from frame to frame.
      low_hz: least f0.
      high_hz: greatest f0, at most a quarter of the rate.
      periods: length of a frame in periods of `low_hz`; longer frames bear more noise,
        shorter ones follow a faster pitch.
      candidates: kept a frame.
      beta: b of the beta(2, b) distribution of YIN's threshold.
      fill: unvoiced frames take f0 from the voiced ones around: ``"interpolate"`` on a
        line in log f0, held at the ends; ``"hold"`` that of the last voiced frame
        before. Where nothing is voiced f0 is the geometric mean of the limits.
      silence_db: frames below this level (dB relative to power 1) are unvoiced.

    Returns:
      `Pitch`, all [..., frames].

    Raises:
      ValueError: a range is empty, above a quarter of the rate, or there is no audio.

    Reference: M. Mauch, S. Dixon, pYIN (ICASSP 2014).
    """
    audio = jnp.asarray(audio)
    lead, time = audio.shape[:-1], audio.shape[-1]
    if not 0 < low_hz < high_hz <= sample_rate / 4:
        raise ValueError(
            f"f0 from {low_hz} to {high_hz} Hz at {sample_rate} Hz; need 0 < low < high"
            " <= a quarter of the rate"
        )
    if hop_length < 1 or time < 1:
        raise ValueError(
            f"audio {audio.shape} with hop_length {hop_length}; need samples, and a hop"
            " of 1 or more"
        )
    if fill not in ("interpolate", "hold"):
        raise ValueError(f"fill {fill!r}: use 'interpolate' or 'hold'")
    first_lag = max(2, math.floor(sample_rate / high_hz) - 1)
    lags = math.ceil(sample_rate / low_hz) + 3
    length = 2 * math.ceil(0.5 * periods * sample_rate / low_hz)
    frames = -(-time // hop_length)
    signals = audio.reshape(-1, time)

    def analyse(starts, padded):
        pieces = padded[starts[:, None] + jnp.arange(length)[None, :]]
        normalised, power = difference_function(pieces, lags)
        dips = find_candidates(
            normalised,
            cumulative_mean_normalised(normalised),
            first_lag,
            count=candidates,
            beta=beta,
            octave_cost=0.02,
        )
        loud = power > 10.0 ** (silence_db / 10.0)
        hz = sample_rate / dips.lag
        inside = (hz >= low_hz) & (hz <= high_hz) & loud[:, None]
        return Candidates(
            jnp.log2(jnp.clip(hz, low_hz, high_hz)),
            jnp.where(inside, dips.probability, 0.0),
            jnp.where(inside, dips.periodicity, 0.0),
        )

    def one(signal):
        chunk = min(_CHUNK, frames)
        chunks = -(-frames // chunk)
        after = (chunks * chunk - 1) * hop_length + length - length // 2 - time
        padded = jnp.pad(signal, (length // 2, max(0, after)))
        starts = hop_length * jnp.arange(chunks * chunk).reshape(chunks, chunk)
        found = lax.map(lambda s: analyse(s, padded), starts)
        found = jax.tree.map(
            lambda x: x.reshape(chunks * chunk, -1)[:frames], tuple(found)
        )
        log2_hz, probability, periodicity = found
        seconds = hop_length / sample_rate
        state, voiced = best_path(
            log2_hz,
            probability,
            octave_jump=0.5 / seconds * 0.1,
            most_jump=8.0,
            switch=4.0,
        )
        f0 = jnp.take_along_axis(log2_hz, state[:, None], axis=1)[:, 0]
        sure = jnp.take_along_axis(periodicity, state[:, None], axis=1)[:, 0]
        sure = jnp.where(voiced, sure, periodicity.max(-1))
        middle = 0.5 * math.log2(low_hz * high_hz)
        return jnp.exp2(_filled(f0, voiced, fill, middle)), sure, voiced

    f0_hz, confidence, voiced = lax.map(one, signals)
    shape = (*lead, frames)
    return Pitch(f0_hz.reshape(shape), confidence.reshape(shape), voiced.reshape(shape))


def cached_f0(
    folder: str | Path | None,
    audio: np.ndarray,
    sample_rate: Rate,
    hop_length: int,
    **options,
) -> Pitch:
    """`track_f0` from a cache on disk, found again by the content of the audio.

    Args:
      folder: of the cache, see `ddspx.cache.cached`; None computes each time.
      audio: [..., time].
      sample_rate: Hz.
      hop_length: samples.
      **options: of `track_f0`.

    Returns:
      `Pitch` of NumPy arrays.
    """
    key = content_key(
        "f0", _VERSION, np.asarray(audio), sample_rate, hop_length, options
    )
    kept = cached(
        folder,
        key,
        lambda: track_f0(audio, sample_rate, hop_length, **options)._asdict(),
    )
    return Pitch(**kept)


def _filled(
    log2_hz: jax.Array, voiced: jax.Array, fill: Fill, middle: float
) -> jax.Array:
    """Unvoiced values from the voiced ones around them."""
    frames = log2_hz.shape[0]
    places = jnp.arange(frames)
    before = lax.cummax(jnp.where(voiced, places, -1))
    after = lax.cummin(jnp.where(voiced, places, frames), reverse=True)
    first = jnp.where(before < 0, after, before)
    last = jnp.where(after >= frames, first, after)
    if fill == "hold":
        last = first
    first, last = (jnp.clip(p, 0, frames - 1) for p in (first, last))
    span = jnp.maximum(last - first, 1)
    share = ((places - first) / span).astype(log2_hz.dtype)
    share = jnp.where(last > first, share, 0.0)
    filled = log2_hz[first] + share * (log2_hz[last] - log2_hz[first])
    return jnp.where(voiced.any(), jnp.where(voiced, log2_hz, filled), middle)
