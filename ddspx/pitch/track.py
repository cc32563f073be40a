"""Audio to a continuous curve of f0, with confidence and voicing."""

import math
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import scipy.signal
from jax import lax

from ddspx.pitch.candidates import find_candidates
from ddspx.pitch.path import best_path
from ddspx.pitch.periodicity import cumulative_mean_normalised, difference_function
from ddspx.signal import PRECISE, fft_convolve
from ddspx.types import AnyArray, Rate, Signal

Fill = Literal["interpolate", "hold"]

# Frames analysed at once: enough to fill vector units, few enough for the cache.
_CHUNK = 64
# Lags in the shortest period, at least; above, samples are left out after the low-pass.
_LAGS_A_PERIOD = 8
# Share of the frame's power density that its middle has to carry.
_LEAST_SHARE = 0.1
# Part of the keys of caches: to be counted up when tracking changes.
VERSION = 3


class Prior(NamedTuple):
    """What `track_f0` expects of pitches before it hears the sound.

    Attributes:
      candidates: dips of a frame that are kept.
      dip_beta: b of the beta(2, b) distribution of thresholds, mean 2 / (2 + b), that
        choose among the dips of a frame: by how much the first may be less deep than
        the deepest. The greater, the sooner a pitch is an octave too low than too high;
        18, probabilistic YIN's own, does so in the reverberation of strings.
      voicing_beta: b of those that decide whether there is a pitch: the greater, the
        fewer frames are voiced.
      octave_cost: depth that a dip at twice the lag must gain to be kept as early.
      independent_s: frames so far apart count as independent evidence; closer ones
        count less, so that results hardly depend on the hop.
      octave_jump: cost of moving by an octave, in nats.
      most_jump: most that a step between two frames costs, in nats.
      switch: cost of beginning or ending a voiced stretch, in nats.
    """

    candidates: int = 8
    dip_beta: float = 10.0
    voicing_beta: float = 1.2
    octave_cost: float = 0.02
    independent_s: float = 0.01
    octave_jump: float = 10.0
    most_jump: float = 12.0
    switch: float = 4.0


DEFAULT_PRIOR = Prior()


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
        "prior",
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
    prior: Prior = DEFAULT_PRIOR,
    fill: Fill = "interpolate",
    silence_db: float = -80.0,
) -> Pitch:
    """f0 of monophonic sound: probabilistic YIN on a centred difference function.

    Frame m is centred on sample ``m hop_length`` (zeros around the audio); there are
    ``ceil(time / hop_length)``. Memory is a copy of the audio and about 130 bytes a
    frame: frames are analysed a few at a time.

    Args:
      audio: [..., time], at least one sample.
      sample_rate: Hz.
      hop_length: samples from frame to frame.
      low_hz: least f0.
      high_hz: greatest f0, at most a quarter of the rate.
      periods: length of a frame in periods of `low_hz`; longer frames bear more noise,
        shorter ones follow a faster pitch.
      prior: what is expected of pitches before the sound is heard.
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
    design = _Design.of(sample_rate, low_hz, high_hz, periods)
    frames = -(-time // hop_length)
    signals = audio.reshape(-1, time)
    loud = 10.0 ** (silence_db / 10.0)

    def one(signal):
        chunk = min(_CHUNK, frames)
        chunks = -(-frames // chunk)
        reach = design.reach
        span = (chunk - 1) * hop_length + 2 * reach + 1
        after = (chunks * chunk - 1) * hop_length + reach + 1 - time
        padded = jnp.pad(signal, (reach, max(0, after)))

        def analyse(number):
            piece = lax.dynamic_slice(padded, (number * chunk * hop_length,), (span,))
            pieces = _frames(piece, chunk, hop_length, design)
            normalised, power = difference_function(pieces, design.lags)
            dips = find_candidates(
                normalised,
                cumulative_mean_normalised(normalised),
                design.first_lag,
                count=prior.candidates,
                dip_beta=prior.dip_beta,
                voicing_beta=prior.voicing_beta,
                octave_cost=prior.octave_cost,
            )
            sounds = (power > loud) & _sounds_in_the_middle(pieces, power, design)
            hz = design.rate / dips.lag
            inside = (hz >= low_hz) & (hz <= high_hz) & (power > loud)[:, None]
            return (
                jnp.log2(jnp.clip(hz, low_hz, high_hz)),
                jnp.where(inside & sounds[:, None], dips.probability, 0.0),
                jnp.where(inside, dips.periodicity, 0.0),
            )

        found = lax.map(analyse, jnp.arange(chunks))
        found = jax.tree.map(lambda x: x.reshape(chunks * chunk, -1)[:frames], found)
        log2_hz, probability, periodicity = found
        state, voiced = best_path(
            log2_hz,
            probability,
            evidence=hop_length / sample_rate / prior.independent_s,
            octave_jump=prior.octave_jump,
            most_jump=prior.most_jump,
            switch=prior.switch,
        )
        f0 = jnp.take_along_axis(log2_hz, state[:, None], axis=1)[:, 0]
        sure = jnp.take_along_axis(periodicity, state[:, None], axis=1)[:, 0]
        sure = jnp.where(voiced, sure, periodicity.max(-1))
        middle = 0.5 * math.log2(low_hz * high_hz)
        return jnp.exp2(_filled(f0, voiced, fill, middle)), sure, voiced

    f0_hz, confidence, voiced = lax.map(one, signals)
    shape = (*lead, frames)
    return Pitch(f0_hz.reshape(shape), confidence.reshape(shape), voiced.reshape(shape))


class _Design(NamedTuple):
    """Sizes that follow from rate and range: all in analysed samples but `reach`."""

    step: int
    rate: float
    length: int
    lags: int
    first_lag: int
    low_pass: tuple[float, ...]
    reach: int

    @classmethod
    def of(cls, sample_rate: Rate, low_hz: float, high_hz: float, periods: float):
        step = max(1, int(sample_rate // (_LAGS_A_PERIOD * high_hz)))
        rate = sample_rate / step
        length = 2 * math.ceil(0.5 * periods * rate / low_hz)
        low_pass = _low_pass(sample_rate, high_hz)
        return cls(
            step,
            rate,
            length,
            lags=math.ceil(rate / low_hz) + 3,
            first_lag=max(2, math.floor(rate / high_hz) - 1),
            low_pass=low_pass,
            reach=step * length // 2 + len(low_pass) // 2,
        )


@lru_cache(maxsize=16)
def _low_pass(sample_rate: Rate, high_hz: float) -> tuple[float, ...]:
    """A symmetric FIR that passes the first two harmonics of the highest f0.

    What lies above says little about the period, and in noise it hides it.
    """
    half = 0.5 * sample_rate
    if 3.0 * high_hz >= half:
        return (1.0,)
    taps, beta = scipy.signal.kaiserord(60.0, high_hz / half)
    taps += 1 - taps % 2
    cutoff = 2.5 * high_hz / half
    kaiser: Any = ("kaiser", beta)  # the stub of firwin knows names alone
    return tuple(scipy.signal.firwin(taps, cutoff, window=kaiser))


def _frames(piece: jax.Array, count: int, hop: int, design: _Design) -> jax.Array:
    """Low-passed frames [count, length], every `step`-th sample, centred."""
    taps = jnp.asarray(design.low_pass, piece.dtype)
    if taps.shape[0] > 1:
        piece = jnp.asarray(fft_convolve(piece, taps, "valid"))
    starts = hop * jnp.arange(count)[:, None]
    return piece[starts + design.step * jnp.arange(design.length)[None, :]]


def _sounds_in_the_middle(pieces: jax.Array, power: jax.Array, design: _Design):
    """Whether one longest period about the centre carries its share of the power.

    Beside a note a frame still holds some of it: measured by its whole length it would
    be voiced half a frame too early and too late.
    """
    width = min(design.length, design.lags)
    start = (design.length - width) // 2
    middle = pieces[:, start : start + width]
    middle = jnp.einsum("ft,ft->f", middle, middle, precision=PRECISE) / width
    return middle > _LEAST_SHARE * power


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
