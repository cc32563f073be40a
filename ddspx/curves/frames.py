"""The control curves of a sound, one value a frame."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ddspx.curves.breakpoints import CurveError

# Counts of frames that are this close to whole are whole.
_NEAR = 1e-3


@dataclass(frozen=True)
class Curves:
    """The control curves of a sound.

    Attributes:
      frame_rate_hz: frames a second.
      values: by name, float32 [frames], as many in each.
    """

    frame_rate_hz: float
    values: Mapping[str, np.ndarray]

    def __post_init__(self):
        if not (math.isfinite(self.frame_rate_hz) and self.frame_rate_hz > 0):
            raise CurveError(
                f"frame_rate_hz {self.frame_rate_hz} must be a positive number"
            )
        values = {n: np.asarray(v, np.float32) for n, v in self.values.items()}
        shapes = {name: curve.shape for name, curve in values.items()}
        sizes = set(shapes.values())
        if len(sizes) > 1 or not all(len(s) == 1 and s[0] for s in sizes):
            raise CurveError(
                f"curves are [frames], as many in each and at least one, got {shapes}"
            )
        for name, curve in values.items():
            if not np.isfinite(curve).all():
                first = int(np.argmin(np.isfinite(curve)))
                raise CurveError(
                    f"curve {name!r} is not finite at {first / self.frame_rate_hz:.3f}"
                    f" s (frame {first}); repair it there"
                )
        object.__setattr__(self, "values", values)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the curves."""
        return tuple(self.values)

    @property
    def frames(self) -> int:
        """Frames of each curve."""
        return len(next(iter(self.values.values()))) if self.values else 0

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.frame_rate_hz

    @property
    def times_s(self) -> np.ndarray:
        """Time of each frame, float64 [frames]."""
        return np.arange(self.frames) / self.frame_rate_hz

    def resampled(self, frame_rate_hz: float, frames: int | None = None) -> "Curves":
        """The same curves at another frame rate.

        Between frames a curve is a line, behind the last it stands still. At a lower
        rate a frame is the mean of those around it, weighted by a triangle as wide as
        two frames, so that what moves too fast to be kept does not alias.

        Args:
          frame_rate_hz: frames a second.
          frames: how many; those that the length has when None.

        Returns:
          `Curves`.
        """
        count = frames
        if count is None:
            count = max(1, math.ceil(self.seconds * frame_rate_hz - _NEAR))
        ratio = frame_rate_hz / self.frame_rate_hz
        if ratio == 1.0:
            return Curves(frame_rate_hz, _cut(self.values, count))
        values = {}
        for name, curve in self.values.items():
            places = np.arange(count) / ratio
            values[name] = np.interp(places, np.arange(len(curve)), curve)
            if ratio < 1.0:
                values[name] = _averaged(curve, ratio, values[name])
        return Curves(frame_rate_hz, values)

    def stretched(self, factor: float) -> "Curves":
        """The same course in `factor` times the time; pitch stays.

        Args:
          factor: 2 is half as fast.

        Returns:
          `Curves` at the same frame rate, ``ceil(frames factor)`` of them.
        """
        if not (math.isfinite(factor) and factor > 0):
            raise CurveError(f"stretch {factor} must be a positive number")
        slower = Curves(self.frame_rate_hz / factor, self.values)
        count = max(1, math.ceil(self.frames * factor - _NEAR))
        return slower.resampled(self.frame_rate_hz, count)

    def lasting(
        self, frames: int, *, loop: bool = False, fade_frames: int = 0
    ) -> "Curves":
        """Cut, or made longer by standing still or by beginning again.

        Args:
          frames: wanted.
          loop: whether the curves begin again at their end.
          fade_frames: of a loop: over so many, at most half of it, the end goes over
            into the start, and the loop is shorter by them.

        Returns:
          `Curves` of that many frames.
        """
        if frames < 1 or fade_frames < 0:
            raise CurveError(f"frames {frames} and fade {fade_frames} are too few")
        if not loop or frames <= self.frames:
            return Curves(self.frame_rate_hz, _cut(self.values, frames))
        fade = min(fade_frames, self.frames // 2)
        turn = self.frames - fade
        share = (np.arange(fade) + 1.0) / (fade + 1.0)
        places = np.arange(frames)
        values = {}
        for name, curve in self.values.items():
            begin = curve.copy()
            begin[:fade] += (1.0 - share) * (curve[turn:] - curve[:fade])
            again = begin[np.mod(places, turn)]
            values[name] = np.where(places < turn, curve[:turn][places % turn], again)
        return Curves(self.frame_rate_hz, values)

    def replaced(self, **values: np.ndarray) -> "Curves":
        """With other or more curves of as many frames."""
        return Curves(self.frame_rate_hz, {**self.values, **values})


def _cut(values: Mapping[str, np.ndarray], frames: int) -> dict[str, np.ndarray]:
    """So many frames; behind the last its value holds."""
    return {
        name: np.pad(curve[:frames], (0, max(0, frames - len(curve))), mode="edge")
        for name, curve in values.items()
    }


def _averaged(curve: np.ndarray, ratio: float, line: np.ndarray) -> np.ndarray:
    """Means over triangles, frames at `ratio` times the rate; `line` at the ends."""
    places = np.arange(len(curve)) * ratio
    left = np.floor(places).astype(int)
    share = places - left
    total, weight = np.zeros(len(line) + 1), np.zeros(len(line) + 1)
    for frame, part in ((left, 1.0 - share), (left + 1, share)):
        frame = np.minimum(frame, len(line))
        total += np.bincount(frame, part * curve, len(line) + 1)
        weight += np.bincount(frame, part, len(line) + 1)
    # Half a triangle, at the ends, would lean inwards.
    frames = np.arange(len(line))
    whole = (frames >= 1) & (frames + 1 <= places[-1] + _NEAR)
    return np.where(whole, total[:-1] / np.maximum(weight[:-1], 1e-9), line)
