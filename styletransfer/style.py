"""What of a sound survives a change of content, and how far two sounds are apart in it.

`style_features` describes audio of any length by a few hundred numbers in dB (and
octaves) in named terms; `StyleDistance` compares two descriptions. The distance is a
chi-square: each term's difference is measured against how much that term differs
between two *untreated* sections of the same speaker or piece, so that a term that
content moves by itself counts little:

    D(a, b) = sum_t w_t (a_t - b_t)' C_t^-1 (a_t - b_t)

    C_t[i, j] = s_t^2 (c_t + (1 - c_t) (0.9 exp(-|o_i - o_j| / l_t) + 0.1 [i = j]))

with o_i the centre of band i in octaves. Neighbouring bands move together when the
content changes (correlation length l), and all bands move together when the level does
(share c). Scales s_t and l_t are measured on training recordings by
``python scripts/benchmark.py style``; the weights w_t discount terms that say the same
thing twice. `TERMS` is the table.

Audio is [channels, time]; bands sum the power of the channels, so mono and stereo
compare; a stereo pair also compares width.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ddspx import signal
from ddspx.types import AnyArray, Rate

# 43 ms: a third octave at 60 Hz is 14 Hz wide, the least that bands need, while the
# envelopes still see syllables and drum hits.
WINDOW_S = 0.043
LOWEST_HZ = 50.0
BANDS_PER_OCTAVE = 3
# Envelopes need fewer, wider bands: four thirds of an octave each.
BANDS_PER_GROUP = 4
# A band 60 dB below the mean power counts as empty: below lies the recording's own
# noise floor, on which a compressor or a gate would otherwise be judged.
FLOOR_SHARE = 1e-6
SILENCE = 1e-12
LEVEL_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.97)
BAND_QUANTILES = (0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Term:
    """One term of the distance; see the module for the formula.

    Attributes:
      meaning: what it measures, in words, with its unit.
      scale: s, content's own standard deviation in the term's unit.
      weight: w.
      correlation_octaves: l; 0 for terms without bands.
      shared: c, the share of the variance that all entries have in common.
    """

    meaning: str
    scale: float
    weight: float = 1.0
    correlation_octaves: float = 0.0
    shared: float = 0.0


TERMS: Mapping[str, Term] = {
    "spectrum": Term("long-term power in third-octave bands, dB", 5.5, 1.0, 1.0, 0.3),
    "loudness": Term("level of the mean power, dB", 2.7, 1.0),
    "level_distribution": Term(
        "quantiles of the frame level against the mean, dB", 6.0, 0.5, 0.0, 0.5
    ),
    "band_distribution": Term(
        "quantiles of each band's level against its mean, dB", 5.0, 0.25, 1.0, 0.3
    ),
    "rise": Term("mean rise of each band's level, 10 dB/s", 2.0, 0.5, 1.0, 0.3),
    "decay": Term("mean fall of each band's level, 10 dB/s", 2.0, 0.5, 1.0, 0.3),
    "modulation": Term("fluctuation of each band, 4 to 20 Hz, dB", 1.2, 0.5, 1.0, 0.3),
    "centroid": Term("centre of gravity of the spectrum, octaves", 0.5, 0.5),
    "crest": Term("peak against mean power, dB", 2.4, 0.5),
    "width": Term("side against mid power, dB", 3.0, 1.0),
}


class StyleBands(NamedTuple):
    """The analysis at one sample rate: geometry and weights, plain NumPy."""

    window_length: int
    hop_length: int
    centres_hz: np.ndarray  # [bands]
    weights: np.ndarray  # [bands, bins]
    groups: np.ndarray  # [groups, bands]
    frame_rate_hz: float


@functools.lru_cache(maxsize=32)
def style_bands(sample_rate: Rate, highest_hz: Rate) -> StyleBands:
    """Third-octave bands from 50 Hz to `highest_hz`, triangular in log frequency.

    Args:
      sample_rate: Hz.
      highest_hz: upper end; two sounds compare only where both have a spectrum, so
        give 0.45 of the lower of their sample rates.

    Raises:
      ValueError: fewer than four bands fit.
    """
    length = 2 ** round(math.log2(sample_rate * WINDOW_S))
    octaves = math.log2(min(highest_hz, 0.45 * sample_rate) / LOWEST_HZ)
    count = math.floor(octaves * BANDS_PER_OCTAVE) + 1
    if count < BANDS_PER_GROUP:
        raise ValueError(
            f"style needs a spectrum up to {4 * LOWEST_HZ:.0f} Hz or more, got"
            f" {highest_hz:.0f} Hz at a sample rate of {sample_rate:.0f} Hz;"
            " resample to 1 kHz or more"
        )
    place = np.arange(count) / BANDS_PER_OCTAVE
    centres = LOWEST_HZ * 2.0**place
    bins = np.fft.rfftfreq(length, 1 / sample_rate)
    distance = np.abs(np.log2(np.maximum(bins, 1e-3) / centres[:, None]))
    weights = np.maximum(0.0, 1.0 - distance * BANDS_PER_OCTAVE)
    # Low bands may fall between two bins; such a band takes the nearest one.
    for row, nearest in enumerate(distance.argmin(axis=1)):
        weights[row, nearest] = max(weights[row, nearest], 0.5)
    group = _group_of(count)
    groups = (group == np.arange(group[-1] + 1)[:, None]).astype(np.float32)
    return StyleBands(
        window_length=length,
        hop_length=length // 2,
        centres_hz=centres.astype(np.float32),
        weights=weights.astype(np.float32),
        groups=groups,
        frame_rate_hz=sample_rate / (length // 2),
    )


def style_features(
    audio: Float[AnyArray, "channels time"], sample_rate: Rate, highest_hz: Rate
) -> dict[str, jax.Array]:
    """Describes one sound; keys are those of `TERMS`.

    Args:
      audio: [channels, time]; time at least one analysis window (43 ms).
      sample_rate: Hz.
      highest_hz: upper end of the bands, see `style_bands`.

    Returns:
      ``{term: [entries]}``; for terms with bands, the bands run fastest.

    Raises:
      ValueError: audio is shorter than one window.
    """
    bands = style_bands(sample_rate, highest_hz)
    if audio.shape[-1] < bands.window_length:
        raise ValueError(
            f"audio of {audio.shape[-1]} samples is shorter than one analysis window"
            f" of {bands.window_length}; give a longer sound"
        )
    spectrum = signal.stft(
        jnp.asarray(audio),
        fft_size=bands.window_length,
        hop_length=bands.hop_length,
        center=False,
    )
    power = jnp.mean(jnp.abs(spectrum) ** 2, axis=0) / bands.window_length**2
    # [frames, bands]
    power = jnp.matmul(bands.weights, power, precision=signal.PRECISE).T
    frame_power = power.sum(axis=-1)
    mean_power = frame_power.mean()
    floor = FLOOR_SHARE * mean_power + SILENCE

    loudness = _decibels(mean_power + SILENCE)
    frame_level = _decibels(frame_power + floor) - loudness
    grouped = jnp.matmul(power, bands.groups.T, precision=signal.PRECISE)
    level = _decibels(grouped + floor)
    relative = level - _decibels(grouped.mean(axis=0, keepdims=True) + floor)
    step = jnp.diff(level, axis=0) * bands.frame_rate_hz / 10.0
    flatness = jnp.diff(level, n=2, axis=0)
    share = power.mean(axis=0) / (mean_power + SILENCE)
    features = {
        "spectrum": _decibels(power.mean(axis=0) + 0.1 * floor),
        "loudness": loudness[None],
        "level_distribution": jnp.quantile(frame_level, jnp.array(LEVEL_QUANTILES)),
        "band_distribution": jnp.quantile(
            relative, jnp.array(BAND_QUANTILES), axis=0
        ).ravel(),
        "rise": jnp.maximum(step, 0.0).mean(axis=0),
        "decay": jnp.minimum(step, 0.0).mean(axis=0),
        "modulation": jnp.sqrt(jnp.mean(flatness**2, axis=0) + 1e-6),
        "centroid": jnp.vdot(
            share, jnp.log2(bands.centres_hz), precision=signal.PRECISE
        )[None],
        "crest": (
            _decibels(jnp.max(jnp.square(audio)) + SILENCE)
            - _decibels(jnp.mean(jnp.square(audio)) + SILENCE)
        )[None],
    }
    if audio.shape[0] == 2:
        side = jnp.mean(jnp.square(audio[0] - audio[1]))
        middle = jnp.mean(jnp.square(audio[0] + audio[1]))
        # Below -30 dB the ear hears mono; without a floor, exact mono would be -inf.
        width = _decibels((side + 1e-3 * middle + SILENCE) / (middle + SILENCE))
        features["width"] = width[None]
    return features


@dataclass(frozen=True)
class StyleDistance:
    """Distance between style descriptions, as residuals whose squares sum to it.

    Terms that one of the two sounds lacks (width of a mono file) are left out. The
    value is hashable, so that a compiled function can be reused for every sound.

    Attributes:
      sample_rate: Hz, of the sound that `features` takes.
      highest_hz: upper end of the bands, see `style_bands`.
      match_level: whether loudness is part of style; if not, spectra are compared
        after each sound's own loudness is taken off.
      terms: names and table rows; a weight of 0 drops a term.
    """

    sample_rate: Rate
    highest_hz: Rate
    match_level: bool = True
    terms: tuple[tuple[str, Term], ...] = tuple(TERMS.items())

    def _compared(self, *descriptions: Mapping[str, jax.Array]) -> list[str]:
        return [
            name
            for name, term in self.terms
            if term.weight > 0
            and (self.match_level or name != "loudness")
            and all(name in features for features in descriptions)
        ]

    def features(self, audio: Float[AnyArray, "channels time"]) -> dict[str, jax.Array]:
        """`style_features` at this distance's rate and bands."""
        features = style_features(audio, self.sample_rate, self.highest_hz)
        if self.match_level:
            return features
        return {**features, "spectrum": features["spectrum"] - features["loudness"]}

    def residuals(
        self, features: Mapping[str, jax.Array], reference: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Whitened, weighted differences ``{term: [entries]}`` of two descriptions."""
        bands = style_bands(self.sample_rate, self.highest_hz)
        table = dict(self.terms)
        return {
            name: jnp.matmul(
                _whitening(name, table[name], bands.centres_hz.size),
                jnp.clip(features[name] - reference[name], -60.0, 60.0),
                precision=signal.PRECISE,
            )
            for name in self._compared(features, reference)
        }

    def __call__(
        self, features: Mapping[str, jax.Array], reference: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The distance D and its terms ``{"style/<term>": value}``, which sum to D."""
        terms = {
            f"style/{name}": jnp.sum(residual**2)
            for name, residual in self.residuals(features, reference).items()
        }
        return sum(terms.values(), jnp.zeros(())), terms


@functools.lru_cache(maxsize=256)
def _whitening(name: str, term: Term, bands: int) -> np.ndarray:
    """W [k, k] with W'W = w C^-1, for the entries of a term over so many bands."""
    octaves = _places(name, bands)
    count = len(octaves)
    own = np.eye(count)
    if term.correlation_octaves:
        gaps = np.abs(octaves[:, None] - octaves[None, :])
        own = 0.9 * np.exp(-gaps / term.correlation_octaves) + 0.1 * own
    covariance = term.scale**2 * (term.shared + (1.0 - term.shared) * own)
    inverse = np.linalg.inv(np.linalg.cholesky(covariance))
    return (math.sqrt(term.weight) * inverse).astype(np.float32)


def _places(name: str, bands: int) -> np.ndarray:
    """Where a term's entries lie on the frequency axis, in octaves."""
    if name == "spectrum":
        return np.arange(bands) / BANDS_PER_OCTAVE
    if name == "level_distribution":
        return np.zeros(len(LEVEL_QUANTILES))
    group = _group_of(bands)
    octaves = np.bincount(group, np.arange(bands)) / np.bincount(group)
    octaves /= BANDS_PER_OCTAVE
    if name == "band_distribution":
        return np.tile(octaves, len(BAND_QUANTILES))
    return octaves if name in ("rise", "decay", "modulation") else np.zeros(1)


def _group_of(bands: int) -> np.ndarray:
    """Index of the group of each band; the last group takes the remainder."""
    last = max(1, bands // BANDS_PER_GROUP) - 1
    return np.minimum(np.arange(bands) // BANDS_PER_GROUP, last)


def _decibels(power: jax.Array) -> jax.Array:
    return 10.0 * jnp.log10(power)
