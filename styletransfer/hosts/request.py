"""What goes into a render call and what comes out, the same for every backend."""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from ddspx.parameters import ParameterSpec

# 120 dB over full scale: above what the widest equalizer in range can add up to, and
# below what an unstable filter reaches within milliseconds.
ABSURD_PEAK = 1e6


class Status(IntEnum):
    """What became of one item; everything but OK has zeros for audio.

    OK: rendered. NONFINITE: NaN or infinity in the output. FAILED: the workers that
    rendered it crashed or hung. ERROR: the plug-in raised. ABSURD: a peak above 1e6.
    """

    OK = 0
    NONFINITE = 1
    FAILED = 2
    ERROR = 3
    ABSURD = 4


class Rendered(NamedTuple):
    """Result of a render call.

    Attributes:
      audio: [items, channels, time] float32; zeros where status is not OK.
      status: [items] int32, values of `Status`.
    """

    audio: np.ndarray
    status: np.ndarray


class Request(NamedTuple):
    """A checked render call; see `check_request`."""

    audio: np.ndarray
    controls: np.ndarray
    source: np.ndarray
    clamped: int


def check_request(
    specs: Sequence[ParameterSpec],
    audio: np.ndarray,
    controls: np.ndarray,
    source: np.ndarray | None,
) -> Request:
    """Checks shapes and clamps controls: NaN to 0.5, the rest into [0, 1].

    No plug-in ever sees a control that is not finite: some crash on it.

    Args:
      specs: the n controls of the effect.
      audio: [signals, channels, time], any real type.
      controls: [items, n].
      source: [items], which signal each item renders; None for one each, or one
        signal for all.

    Returns:
      float32 C-contiguous audio, float32 controls, int32 source, and how many control
      values had to be clamped.

    Raises:
      ValueError: shapes that do not fit, or a source out of range.
    """
    audio = np.ascontiguousarray(audio, np.float32)
    if audio.ndim != 3 or 0 in audio.shape:
        raise ValueError(
            f"audio must be [signals, channels, time] with none empty, got shape"
            f" {audio.shape}"
        )
    given = np.asarray(controls, np.float32)
    if given.ndim != 2 or given.shape[1] != len(specs):
        raise ValueError(
            f"controls must be [items, {len(specs)}], got shape {given.shape}"
        )
    clean = np.clip(np.nan_to_num(given, nan=0.5, posinf=1.0, neginf=0.0), 0.0, 1.0)
    clamped = int(np.count_nonzero(clean != given))
    items, signals = len(given), len(audio)
    if source is None:
        if signals not in (1, items):
            raise ValueError(
                f"{signals} signals and {items} controls: give source[items], which"
                " signal each item renders"
            )
        source = np.zeros(items) if signals == 1 else np.arange(items)
    index = np.asarray(source)
    if index.shape != (items,):
        raise ValueError(f"source must be [{items}], got shape {index.shape}")
    if items and (index.min() < 0 or index.max() >= signals):
        raise ValueError(
            f"source runs from {index.min()} to {index.max()}, but there are {signals}"
            " signals"
        )
    return Request(audio, clean, index.astype(np.int32), clamped)


def judge(audio: np.ndarray) -> Status:
    """OK, NONFINITE or ABSURD; one pass over sound audio, by its energy."""
    flat = audio.ravel()
    with np.errstate(all="ignore"):
        if np.dot(flat, flat) <= ABSURD_PEAK**2:
            return Status.OK
    if not np.isfinite(flat).all():
        return Status.NONFINITE
    return Status.ABSURD if np.abs(flat).max() > ABSURD_PEAK else Status.OK
