"""Input and output of real devices: which recordings belong together, aligned.

A recording of a device is later than its input, may be upside down, and may sit on a
constant voltage. Delay and polarity are read from the whitened cross-correlation,

    c(tau) = IFFT( X* Y / |X* Y|^p ),    p = 0.8,

whose largest peak in size is taken: plain correlation (p = 0) of a few low notes is as
large a period off. Recordings of one box are pooled, for its delay is one; those of a
tape machine are not, for its speed wanders. Then delay and sign are
taken off, and of both sides what lies below 15 Hz: the offset of an overdrive comes and
goes with the sound, so that no constant would do.

What is left: wow and flutter of the tape, +-5 samples within seconds, and the phase of
the devices' filters. Only magnitudes can be compared, no waveforms. The sweeps of
chorus, flanger and phaser are at an unknown place of their cycle, and settings are
compared by style.

Reference: Knapp & Carter 1976, The generalized correlation method for estimation of
time delay.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import scipy.signal

from ddspx import audio as files
from ddspx.types import Rate

WHITENING = 0.8
LOWEST_HZ = 15.0
# Between clips that are joined: compressors let go, filters ring out.
GAP_S = 0.1
Kind = Literal["compressor", "modulation", "tape", "drive"]


class Excerpt(NamedTuple):
    """Part of a clip: which, from where, seconds at most."""

    clip: str
    start_s: float = 0.0
    seconds: float = 60.0


@dataclass(frozen=True)
class Device:
    """One device at one unknown setting, or at several of them, one a clip.

    Attributes:
      folder: below that of the pairs.
      kind: says how it is compared.
      chains: effects that may do the same.
      fit: what settings are fitted on.
      held: clips that they are judged on. Where there is none each of `fit` has a
        setting of its own: that is fitted on its beginning and judged on its end.
      target: stem of the file of its output.
      lags: samples, from the least to the most that its output may be late.
      asked: clips of which the first half is to sound like the output of the second.
        Where there is none, what is held back is to sound like what was fitted.
    """

    folder: str
    kind: Kind
    chains: tuple[str, ...]
    fit: tuple[Excerpt, ...]
    held: tuple[str, ...] = ()
    target: str = "target"
    lags: tuple[int, int] = (-100, 100)
    asked: tuple[str, ...] = ()


_COMPRESSORS = (
    "compressor",
    "optical_chain",
    "mda_dynamics",
    "zam_compressor",
    "channel_strip",
)
_SWEEPS = ("chorus", "phaser", "mda_thru_zero", "mda_leslie", "modulation_chain")
_DRIVES = (
    "mda_overdrive",
    "distortion",
    "zam_tube",
    "mixed_chain",
    "overdrive_chain",
    "channel_strip",
)


def _cl1b(setting: str) -> Device:
    # The sweep from 6 to 10 s: what comes before and after is outside most sounds.
    return Device(
        f"compressor_cl1b_{setting}",
        "compressor",
        _COMPRESSORS,
        fit=(Excerpt("bass"), Excerpt("sweep", 6.0, 4.0)),
        held=("drumhh", "drumkick"),
        asked=("bass",),
    )


def _pedal(name: str) -> Device:
    return Device(
        f"egfx_{name}",
        "modulation",
        _SWEEPS,
        fit=(Excerpt("6"), Excerpt("7")),
        held=("8", "10"),
    )


def _klon(gain: int) -> Device:
    return Device(
        "klon_gainstage_spice",
        "drive",
        _DRIVES,
        fit=(Excerpt("train", 0.0, 5.0),),
        held=("valid", "test"),
        target=f"target_gain{gain}",
        asked=("valid", "test"),
    )


DEVICES = {
    "la2a": Device(
        "compressor_la2a",
        "compressor",
        _COMPRESSORS,
        fit=tuple(Excerpt(c) for c in ("0_la2a", "2_la2a", "la2a_ed1", "la2a_ed3")),
    ),
    "cl1b": Device(
        "compressor_cl1b",
        "compressor",
        _COMPRESSORS,
        fit=(Excerpt("cl1b_1_ed"), Excerpt("cl1b_3_ed")),
    ),
    **{f"cl1b_{s}": _cl1b(s) for s in ("gentle", "medium", "heavy")},
    **{s: _pedal(s) for s in ("chorus", "flanger", "phaser")},
    "tape": Device(
        "tape_akai_maxell",
        "tape",
        ("channel_strip", "tape_chain", "mda_overdrive", "zam_tube", "zam_equalizer"),
        fit=tuple(Excerpt(c, 0.5, 2.0) for c in ("io1", "e70", "e84")),
        held=("io4", "e52", "e98"),
        lags=(6900, 7300),
        asked=("io4", "e52", "e98"),
    ),
    **{f"klon_{gain}": _klon(gain) for gain in (0, 50, 100)},
}


class Delay(NamedTuple):
    """How an output lies to its input.

    Attributes:
      samples: by which it is late.
      polarity: 1 or -1.
      clearness: the peak of the whitened correlation over its RMS.
    """

    samples: int
    polarity: int
    clearness: float


class Pair(NamedTuple):
    """Input and output of one clip, mono float32 [1, time], aligned.

    Attributes:
      name: of the clip.
      before: input, from `LOWEST_HZ` on.
      after: output, likewise, on time and upright.
      delay: what was taken off.
      constant: mean of the output as it was.
    """

    name: str
    before: np.ndarray
    after: np.ndarray
    delay: Delay
    constant: float


class Held(NamedTuple):
    """What a setting is judged on: a pair, from a sample on."""

    pair: Pair
    start: int


class Query(NamedTuple):
    """Style transfer: input, a reference of other content, and what is wanted."""

    name: str
    before: np.ndarray
    reference: np.ndarray
    wanted: np.ndarray


class Unit(NamedTuple):
    """One setting of a device: aligned material to fit, to judge and to ask."""

    name: str
    sample_rate: int
    before: np.ndarray
    after: np.ndarray
    held: tuple[Held, ...]
    queries: tuple[Query, ...]
    delays: dict[str, Delay]
    constants: dict[str, float]


def load_device(root: Path, device: Device, *, quick: bool = False) -> list[Unit]:
    """The settings of a device, with what belongs to each.

    Args:
      root: folder of the pairs.
      device: which.
      quick: one setting, a second to fit, one clip to judge.

    Raises:
      AudioFileError: a file is missing.
      ValueError: the clips' sample rates differ.
    """
    names = [e.clip for e in device.fit] + list(device.held)
    raw = {name: _read(root / device.folder / name, device.target) for name in names}
    rates = {rate for *_, rate in raw.values()}
    if len(rates) > 1:
        raise ValueError(f"{root / device.folder}: sample rates {rates}; give one")
    rate = rates.pop()
    pooled = find_delay([raw[name][:2] for name in raw], device.lags)
    pairs = {}
    for name, (before, after, _) in raw.items():
        wanders = device.kind == "tape"
        delay = find_delay([(before, after)], device.lags) if wanders else pooled
        pairs[name] = align(name, before, after, delay, rate)
    if device.held:
        parts = [cut(pairs[e.clip], e, rate) for e in device.fit]
        held = tuple(Held(pairs[name], 0) for name in device.held)
        unit = _unit(device.folder, rate, parts, held, ())
        units = [unit._replace(queries=_queries(device, pairs, unit))]
    else:
        units = [_split(pairs[e.clip], rate) for e in device.fit]
    if quick:
        units = [_shortened(units[0])]
    return units


def find_delay(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], lags: tuple[int, int]
) -> Delay:
    """Delay and polarity that several pairs of [time] have in common; see the module.

    Args:
      pairs: (input, output), each of its own length.
      lags: samples, the least and the most to look at, both included.
    """
    places = np.arange(lags[0], lags[1] + 1)
    total = np.zeros(len(places))
    for before, after in pairs:
        size = 1 << (len(before) + len(after) - 1).bit_length()
        spectra = [np.fft.rfft(x - x.mean(), size) for x in (before, after)]
        cross = np.conj(spectra[0]) * spectra[1]
        magnitude = np.abs(cross)
        cross /= (magnitude + 1e-3 * magnitude.mean() + 1e-30) ** WHITENING
        found = np.fft.irfft(cross, size)
        total += found[places % size] / np.sqrt(np.mean(found**2) + 1e-30)
    best = int(np.argmax(np.abs(total)))
    scale = np.sqrt(len(pairs))
    return Delay(
        int(places[best]),
        1 if total[best] >= 0 else -1,
        float(abs(total[best]) / scale),
    )


def align(
    name: str, before: np.ndarray, after: np.ndarray, delay: Delay, sample_rate: Rate
) -> Pair:
    """Takes delay and sign off an output [time], and off both what is too low to hear.

    Args:
      name: of the clip.
      before: input.
      after: output.
      delay: of the output.
      sample_rate: Hz.
    """
    late = delay.samples
    before, after = before[max(0, -late) :], after[max(0, late) :]
    length = min(len(before), len(after))
    constant = float(np.mean(after, dtype=np.float64))
    high = scipy.signal.butter(2, LOWEST_HZ, "highpass", fs=sample_rate, output="sos")
    both = np.stack([before[:length], delay.polarity * after[:length]])
    # Forwards and backwards: nothing is moved.
    heard = scipy.signal.sosfiltfilt(high, both).astype(np.float32)
    return Pair(
        name,
        heard[:1],
        heard[1:],
        delay,
        constant,
    )


def cut(pair: Pair, excerpt: Excerpt, sample_rate: Rate) -> Pair:
    """Part of a pair."""
    start = round(excerpt.start_s * sample_rate)
    stop = start + round(excerpt.seconds * sample_rate)
    return pair._replace(
        before=pair.before[:, start:stop], after=pair.after[:, start:stop]
    )


def pulse_delays(
    folder: Path, lags: tuple[int, int], *, window_s: float = 0.05
) -> np.ndarray:
    """Delay in samples [windows] that the pulses beside a tape recording tell.

    They are recorded with the sound, 100 a second, so that a window of 50 ms shows
    wow and flutter up to some 10 Hz. Delays are whole samples.
    """
    before, after, rate = _read(folder, "pulse_target", "pulse_input")
    length, (low, high) = round(window_s * rate), lags
    found = []
    for start in range(0, len(before) - length - high, length):
        piece = before[start : start + length]
        late = after[start + low : start + length + high]
        found.append(low + int(np.argmax(np.abs(np.correlate(late, piece, "valid")))))
    return np.array(found)


def _read(
    folder: Path, target: str, source: str = "input"
) -> tuple[np.ndarray, np.ndarray, int]:
    before = files.load(folder / f"{source}.flac", channels=1)
    after = files.load(folder / f"{target}.flac", channels=1)
    if before.sample_rate != after.sample_rate:
        raise ValueError(
            f"{folder}: input at {before.sample_rate} Hz, {target} at"
            f" {after.sample_rate} Hz; give both at one rate"
        )
    return before.samples[0], after.samples[0], before.sample_rate


def _split(pair: Pair, rate: int) -> Unit:
    """A clip with a setting of its own: two fifths to fit, the second half held back.

    What is held back is rendered from the beginning, so that it has its past.
    """
    whole = pair.before.shape[-1]
    half = whole // 2
    early = cut(pair, Excerpt(pair.name, 0.0, 0.4 * whole / rate), rate)
    return _unit(pair.name, rate, [early], (Held(pair, half),), (_halves(pair),))


def _halves(pair: Pair) -> Query:
    """The first half, which begins as it was played, like the output of the second."""
    half = pair.before.shape[-1] // 2
    return Query(
        pair.name, pair.before[:, :half], pair.after[:, half:], pair.after[:, :half]
    )


def _queries(device: Device, pairs: dict[str, Pair], unit: Unit) -> tuple[Query, ...]:
    if device.asked:
        return tuple(_halves(pairs[name]) for name in device.asked)
    return tuple(
        Query(held.pair.name, held.pair.before, unit.after, held.pair.after)
        for held in unit.held
    )


def _unit(name, rate, parts, held, queries) -> Unit:
    every = [*parts, *(h.pair for h in held)]
    return Unit(
        name,
        rate,
        join([part.before for part in parts], rate),
        join([part.after for part in parts], rate),
        held,
        queries,
        {pair.name: pair.delay for pair in every},
        {pair.name: pair.constant for pair in every},
    )


def join(parts: Sequence[np.ndarray], sample_rate: Rate) -> np.ndarray:
    """Sounds [1, time] one after another with a little silence between."""
    gap = np.zeros((1, round(GAP_S * sample_rate)), np.float32)
    pieces = [piece for part in parts for piece in (part, gap)]
    return np.concatenate(pieces[:-1], axis=-1)


def _shortened(unit: Unit) -> Unit:
    short = round(1.0 * unit.sample_rate)
    first = unit.held[0]
    last = first.start + short
    held = first.pair._replace(
        before=first.pair.before[:, :last], after=first.pair.after[:, :last]
    )
    queries = tuple(
        Query(q.name, q.before[:, :short], q.reference[:, :short], q.wanted[:, :short])
        for q in unit.queries[:1]
    )
    return unit._replace(
        before=unit.before[:, :short],
        after=unit.after[:, :short],
        held=(Held(held, first.start),),
        queries=queries,
    )
