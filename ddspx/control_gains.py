"""Gains on what drives a synth: harmonics, bands and bins, each by itself.

A network says how loud each harmonic and each band is; these gains are put between the
network and the synth, so that a trained model is a mixing desk, too. A gain of one
frame depends on its number alone: blocks of any length give the same sound.

Random gains for each band are the amplitude randomisation of A. Barahona-Rios and
T. Collins, NoiseBandNet (IEEE/ACM TASLP 2024), here as slow walks.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage

from ddspx.curves import smooth_walk

# name -> [frames, size], linear.
FrameGains = Callable[[np.ndarray], dict[str, np.ndarray]]
# Shares of a whole, whose level is another control's.
_SHARES = ("harmonic_distribution",)
# What a model plays too soft by more it does not play at all.
_MOST_MISSING_DB = 20.0
_RANGE = re.compile(r"(?P<name>\w+)(\[(?P<range>[^\]]*)\])?")
_HERTZ = re.compile(r"(?P<number>[0-9.]+)\s*(?P<kilo>k?)hz", re.IGNORECASE)


class ControlGainError(ValueError):
    """A gain that cannot be applied; the message says why."""


class ControlGain(NamedTuple):
    """A gain on some of the amplitudes that drive a synth.

    Attributes:
      kind: ``"level"`` is the same all the time; ``"randomize"`` walks at random,
        slowly, each amplitude by itself.
      name: of the control, such as ``harmonic_distribution`` or ``band_amplitudes``.
      amount_db: dB added, -inf for silence; of a walk its standard deviation.
      low: first place, counted from 0, or Hz; None for the first of all.
      high: the place behind the last, or Hz; None for the end.
      step: from place to place.
      hertz: whether `low` and `high` are Hz.
    """

    kind: Literal["level", "randomize"]
    name: str
    amount_db: float
    low: float | None = None
    high: float | None = None
    step: int = 1
    hertz: bool = False


def parse_gain(kind: Literal["level", "randomize"], words: str) -> ControlGain:
    """A gain as it is typed.

    ``noise_magnitudes=-6``, ``harmonic_distribution[1::2]=-inf`` (places from 0, as
    Python has them: the even harmonics), ``band_amplitudes[2khz:8khz]=+3``.

    Args:
      kind: see `ControlGain`.
      words: NAME=DB, NAME[START:STOP]=DB or NAME[START:STOP:STEP]=DB.

    Returns:
      A `ControlGain`.

    Raises:
      ControlGainError: it reads otherwise.
    """
    place, equals, amount = (part.strip() for part in words.partition("="))
    found = _RANGE.fullmatch(place)
    try:
        number = float(amount.lower().removesuffix("db"))
    except ValueError:
        number = math.nan
    silent = kind == "level" and number == -math.inf
    if (
        not (found and equals)
        or not (math.isfinite(number) or silent)
        or (kind == "randomize" and number < 0)
    ):
        what = "DB, -inf for silence" if kind == "level" else "DB of deviation"
        raise ControlGainError(
            f"--{kind} {words!r}: expected NAME={what}, or NAME[START:STOP]=DB with"
            " places from 0 or, of noise, as in [500hz:2khz]"
        )
    gain = ControlGain(kind, found["name"], number)
    return gain if found["range"] is None else _ranged(gain, found["range"], words)


def _ranged(gain: ControlGain, text: str, words: str) -> ControlGain:
    """With the places that stand in brackets."""
    parts = [part.strip() for part in text.split(":")]
    hertz = any(_HERTZ.fullmatch(part) for part in parts)
    try:
        if len(parts) == 1 and not hertz:
            first = int(parts[0])
            return gain._replace(low=first, high=first + 1 or None)
        if len(parts) > (2 if hertz else 3) or len(parts) < 2:
            raise ValueError
        read = _hertz if hertz else int
        low, high = (read(part) if part else None for part in parts[:2])
        step = int(parts[2]) if len(parts) > 2 and parts[2] else 1
        if step < 1:
            raise ValueError
    except ValueError:
        raise ControlGainError(
            f"--{gain.kind} {words!r}: [{text}] is no range; expected [START:STOP],"
            " [START:STOP:STEP] with a step of 1 or more, [PLACE] or [500hz:2khz]"
        ) from None
    return gain._replace(low=low, high=high, step=step, hertz=hertz)


def _hertz(text: str) -> float:
    found = _HERTZ.fullmatch(text)
    if found is None:
        raise ValueError
    return float(found["number"]) * (1e3 if found["kilo"] else 1.0)


def chosen(
    gain: ControlGain, size: int, center_hz: np.ndarray | None = None
) -> np.ndarray:
    """Places of the amplitudes that a gain is for.

    Args:
      gain: the gain.
      size: how many amplitudes its control has.
      center_hz: their frequencies [size]; None where they are multiples of f0.

    Returns:
      int [places], one or more.

    Raises:
      ControlGainError: there is none, or Hz are given where there are no frequencies.
    """
    if gain.hertz:
        if center_hz is None:
            raise ControlGainError(
                f"--{gain.kind} {gain.name}: its {size} places have no frequency of"
                " their own; give places from 0 instead of Hz"
            )
        low = -math.inf if gain.low is None else gain.low
        high = math.inf if gain.high is None else gain.high
        found = np.flatnonzero((center_hz >= low) & (center_hz < high))
        span = f"{center_hz.min():.0f} to {center_hz.max():.0f} Hz"
    else:
        low, high = (None if e is None else int(e) for e in (gain.low, gain.high))
        found = np.arange(size)[low : high : gain.step]
        span = f"0 to {size - 1}"
    if not found.size:
        raise ControlGainError(
            f"--{gain.kind} {gain.name}: no amplitude lies from"
            f" {'the first' if gain.low is None else f'{gain.low:g}'} to"
            f" {'the last' if gain.high is None else f'{gain.high:g}'}; they lie from"
            f" {span}"
        )
    return found


def frame_gains(
    gains: tuple[ControlGain, ...],
    sizes: Mapping[str, int],
    centers_hz: Mapping[str, np.ndarray],
    *,
    frame_rate_hz: float,
    seed: int = 0,
    wander_hz: float = 1.0,
) -> FrameGains:
    """Linear gains of frames, all edits multiplied.

        g[m, k] = 10^(a / 20)                             level
        g[m, k] = 10^(a w_k(m / frame_rate) / 20)         randomize

    with w_k from `ddspx.curves.smooth_walk`, a path of its own for each k.

    Args:
      gains: edits.
      sizes: amplitudes of each control that may be edited.
      centers_hz: their frequencies, of those controls that have any.
      frame_rate_hz: frames a second.
      seed: of the walks.
      wander_hz: how fast they go.

    Returns:
      ``(numbers of frames [n]) -> gains``, float32 [n, size] by name, of the controls
      that have one.

    Raises:
      ControlGainError: no such control, or nothing at that place.
      CurveError: (of what is returned) a walk at a `wander_hz` that is not above 0.
    """
    steady: dict[str, np.ndarray] = {}
    walks: list[tuple[int, ControlGain, np.ndarray]] = []
    for number, gain in enumerate(gains):
        if gain.name not in sizes:
            raise ControlGainError(
                f"--{gain.kind} {gain.name}: the synth has no such amplitudes; it has"
                f" {', '.join(f'{n} ({size})' for n, size in sizes.items())}"
            )
        size = sizes[gain.name]
        places = chosen(gain, size, centers_hz.get(gain.name))
        level = steady.setdefault(gain.name, np.ones(size, np.float32))
        if gain.kind == "level":
            level[places] *= 10.0 ** (gain.amount_db / 20.0)
        else:
            walks.append((number, gain, places))

    def at(numbers: np.ndarray) -> dict[str, np.ndarray]:
        found = {
            name: np.tile(level, (len(numbers), 1)) for name, level in steady.items()
        }
        times_s = np.asarray(numbers) / frame_rate_hz
        for number, gain, places in walks:
            walk = smooth_walk((seed, number), times_s, wander_hz, len(places))
            found[gain.name][:, places] *= 10.0 ** (gain.amount_db * walk / 20.0)
        return found

    return at


def missing_level_db(
    wanted_db: np.ndarray,
    heard_db: np.ndarray,
    counted: np.ndarray,
    frame_rate_hz: float,
    *,
    smooth_s: float = 0.1,
) -> np.ndarray:
    """What a sound lacks in loudness, smooth in time.

        d[m] = clip(wanted[m] - heard[m], -20 dB, 20 dB)    where m is counted

    straight between counted frames and held outside of them, then the mean over
    `smooth_s` around m.

    Args:
      wanted_db: loudness that was asked for, [frames].
      heard_db: loudness of the sound, [frames].
      counted: frames at which the two can be compared, bool [frames].
      frame_rate_hz: frames a second.
      smooth_s: seconds.

    Returns:
      dB to add, float64 [frames]; zeros where nothing is counted.
    """
    places = np.flatnonzero(counted)
    if not places.size:
        return np.zeros(len(wanted_db))
    apart = np.asarray(wanted_db, np.float64)[places] - np.asarray(heard_db)[places]
    apart = np.clip(apart, -_MOST_MISSING_DB, _MOST_MISSING_DB)
    whole = np.interp(np.arange(len(wanted_db)), places, apart)
    size = 2 * round(0.5 * smooth_s * frame_rate_hz) + 1
    return ndimage.uniform_filter1d(whole, size, mode="nearest")


def louder_in_time(
    sizes: Mapping[str, int], gain_db: np.ndarray, others: FrameGains
) -> FrameGains:
    """One gain on all that sounds, frame by frame, beside gains of single amplitudes.

    Args:
      sizes: amplitudes of each control of the synth; shares of a level keep theirs.
      gain_db: [frames]; frames behind the last have its gain.
      others: gains that stay.

    Returns:
      See `frame_gains`.
    """
    linear = (10.0 ** (np.asarray(gain_db) / 20.0)).astype(np.float32)

    def at(numbers: np.ndarray) -> dict[str, np.ndarray]:
        found = others(numbers)
        now = linear[np.minimum(numbers, len(linear) - 1), None]
        for name, size in sizes.items():
            if name not in _SHARES:
                one = found.get(name, np.ones((len(numbers), size), np.float32))
                found[name] = one * now
        return found

    return at
