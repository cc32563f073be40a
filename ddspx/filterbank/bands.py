"""Bands that cover all frequencies: narrow and evenly spaced below, wider above.

The lowest band is a low-pass, the highest a high-pass, and each begins where the one
below ends. What a band passes is known in closed form at any frequency, so that a bank
of thousands is designed in a moment. NumPy only, float64.
"""

from typing import Literal, NamedTuple

import numpy as np
import scipy.signal

from ddspx.filterbank.kaiser import band_responses, kaiser_taps
from ddspx.types import Rate

Response = Literal["kaiser", "cosine"]


class Bands(NamedTuple):
    """A partition of the frequencies from 0 Hz to half the sample rate.

    Attributes:
      sample_rate: Hz.
      edges_hz: [bands - 1], rising; band i lies between edges i - 1 and i.
      transition: width of the slope at an edge over the width of the band.
      attenuation_db: of the stop band.
      response: ``"kaiser"``, that of an FIR filter with a Kaiser window; or
        ``"cosine"``, a quarter of a cosine across each edge and nothing beyond, whose
        squares sum to 1 exactly.
    """

    sample_rate: Rate
    edges_hz: np.ndarray
    transition: float
    attenuation_db: float
    response: Response

    @property
    def count(self) -> int:
        """How many bands there are."""
        return len(self.edges_hz) + 1

    @property
    def limits_hz(self) -> np.ndarray:
        """Lower and upper end of each band, [bands, 2]."""
        ends = np.concatenate([[0.0], self.edges_hz, [self.sample_rate / 2]])
        return np.stack([ends[:-1], ends[1:]], -1)

    @property
    def center_hz(self) -> np.ndarray:
        """Middle of each band, [bands]."""
        return self.limits_hz.mean(-1)

    @property
    def taps(self) -> np.ndarray:
        """Taps of the filters that have these responses, [bands]."""
        width_hz = self.transition * np.diff(self.limits_hz)[:, 0]
        return kaiser_taps(self.sample_rate, width_hz, self.attenuation_db)


def make_bands(
    sample_rate: Rate,
    count: int,
    *,
    low_hz: float = 20.0,
    split_hz: float | None = None,
    high_hz: float | None = None,
    transition: float = 0.2,
    attenuation_db: float = 50.0,
    response: Response = "kaiser",
) -> Bands:
    """Half of the edges evenly spaced, half in equal ratios.

        linear:      low + j (split - low) / (n/2 - 1),      j = 0 ... n/2 - 1
        logarithmic: split (high / split)^(j / (n/2)),       j = 1 ... n/2 - 1

    Args:
      sample_rate: Hz.
      count: n, bands in all, at least 4.
      low_hz: lowest edge.
      split_hz: where ratios begin; an eighth of the rate if None, as in the paper.
        ``high_hz`` or more spaces all edges evenly, the last at `high_hz` less a step.
      high_hz: where edges end, itself not one; half of the rate if None. What lies
        above the last edge belongs to the last band.
      transition: width of the slopes over the width of the band, in (0, 1].
      attenuation_db: of the stop band, 21 or more.
      response: see `Bands`.

    Returns:
      `Bands`.

    Raises:
      ValueError: there are too few bands, or the range is empty or passes half of the
        sample rate.

    Reference: Barahona-Rios and Collins, NoiseBandNet: Controllable Time-Varying Neural
    Synthesis of Sound Effects Using Filterbanks, 2023, section 3.
    """
    nyquist = sample_rate / 2
    high_hz = nyquist if high_hz is None else high_hz
    split_hz = min(sample_rate / 8, high_hz) if split_hz is None else split_hz
    if count < 4:
        raise ValueError(f"a bank has 4 bands or more, got {count}")
    if not 0.0 < low_hz < high_hz <= nyquist or not low_hz < split_hz:
        raise ValueError(
            f"edges from {low_hz} Hz over {split_hz} Hz to {high_hz} Hz at"
            f" {sample_rate} Hz; need 0 < low < split and low < high <= {nyquist}"
        )
    if not 0.0 < transition <= 1.0:
        raise ValueError(f"transition is {transition}; it must be in (0, 1]")
    if attenuation_db < 21.0:
        raise ValueError(
            f"attenuation is {attenuation_db} dB; a Kaiser window gives 21 or more"
        )
    if response not in ("kaiser", "cosine"):
        raise ValueError(f"response {response!r} is unknown; use 'kaiser' or 'cosine'")
    if split_hz >= high_hz:
        edges = np.linspace(low_hz, high_hz, count)[:-1]
    else:
        linear = np.linspace(low_hz, split_hz, count // 2)
        ratios = np.geomspace(split_hz, high_hz, count - count // 2, endpoint=False)
        edges = np.concatenate([linear, ratios[1:]])
    return Bands(sample_rate, edges, transition, attenuation_db, response)


def band_magnitudes(
    bands: Bands,
    samples: int,
    *,
    floor_db: float | None = -80.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Magnitudes of the bands at the bins of an FFT, where they are heard at all.

    Args:
      bands: from `make_bands`.
      samples: of the FFT; bin k lies at k sample_rate / samples.
      floor_db: ripples below it are left out; None gives all bins.

    Returns:
      The number of the first bin [bands], and magnitudes float32 [bands, width] of the
      bins from there on; those before 0 or past samples // 2 are zero.
    """
    bins = samples // 2 + 1
    to_bin = samples / bands.sample_rate
    limits = bands.limits_hz * to_bin
    if floor_db is None:
        own = np.zeros(bands.count, np.int64)
        widths = np.full(bands.count, bins)
    else:
        reach = _reach(bands, floor_db) * to_bin
        own = np.clip(np.floor(limits[:, 0] - reach), 0, None).astype(np.int64)
        last = np.minimum(np.ceil(limits[:, 1] + reach).astype(np.int64), bins - 1)
        widths = last - own + 1
    first = np.minimum(own, bins - widths.max())
    found = np.zeros((bands.count, widths.max()), np.float32)
    # Some at a time, of like width, so that what lies between stays in the cache.
    groups = np.cumsum(widths) // (1 << 16)
    for group in np.unique(groups):
        some = np.flatnonzero(groups == group)
        columns = (own - first)[some, None] + np.arange(widths[some].max())
        columns = np.minimum(columns, found.shape[-1] - 1)
        hz = (first[some, None] + columns) / to_bin
        found[some[:, None], columns] = _magnitudes(bands, hz, some)
    return first, found


def flatness_db(bands: Bands, samples: int = 1 << 17) -> tuple[float, float]:
    """How far the sum of all bands is from white, at equal amplitudes.

        10 log10 sum_i |H_i(f)|^2

    Args:
      bands: from `make_bands`.
      samples: of the FFT at whose bins the sum is taken.

    Returns:
      Least and greatest, dB: 0 and 0 for ``"cosine"``; filters with a Kaiser window
      leave dips at their edges, 3 dB between like bands and up to 6 dB where a wide
      band meets a narrow one.
    """
    total = np.zeros(samples // 2 + 1)
    first, found = band_magnitudes(bands, samples)
    for start, row in zip(first, found, strict=True):
        total[start : start + len(row)] += np.square(row, dtype=np.float64)
    levels = 10.0 * np.log10(np.maximum(total, 1e-12))
    return float(levels.min()), float(levels.max())


def _reach(bands: Bands, floor_db: float) -> np.ndarray:
    """Hz beyond its ends where a band has ripples above the floor, [bands]."""
    width = bands.transition * np.diff(bands.limits_hz)[:, 0]
    if bands.response == "cosine":
        return width
    beta = float(scipy.signal.kaiser_beta(bands.attenuation_db))
    # Ripples fall as 1 / (pi I0(beta) x), x = 2 pi f half / sample_rate, and those of
    # both edges add.
    x = 2.0 * 10.0 ** (-floor_db / 20.0) / (np.pi * np.i0(beta))
    far = x * bands.sample_rate / (np.pi * bands.taps)
    return np.maximum(far, width)


def _magnitudes(bands: Bands, hz: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Of the bands of these numbers, each at its own frequencies [bands, n]."""
    if bands.response == "cosine":
        rows = [_cosine(row, bands, int(i)) for row, i in zip(hz, some, strict=True)]
        return np.stack(rows)
    to_radians = 2.0 * np.pi / bands.sample_rate
    beta = float(scipy.signal.kaiser_beta(bands.attenuation_db))
    limits = bands.limits_hz[some] * to_radians
    # Half of the rate is pi, whatever the rounding.
    limits[some == bands.count - 1, 1] = np.pi
    return np.abs(band_responses(hz * to_radians, limits, bands.taps[some], beta))


def _cosine(hz: np.ndarray, bands: Bands, i: int) -> np.ndarray:
    """A quarter of a cosine at either end, as wide as the narrower neighbour allows."""
    low, high = bands.limits_hz[i]
    found = np.ones(len(hz))
    widths = np.diff(bands.limits_hz)[:, 0]
    for edge, j, sign in ((low, i - 1, 1.0), (high, i, -1.0)):
        if 0 <= j < bands.count - 1:
            slope = bands.transition * min(widths[j], widths[j + 1])
            place = np.clip(sign * (hz - edge) / slope + 0.5, 0.0, 1.0)
            found = found * np.sin(0.5 * np.pi * place)
    return found
