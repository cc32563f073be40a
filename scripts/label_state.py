"""Curves that are being drawn: undo, saving, and what a crash leaves behind."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ddspx import curves
from ddspx.curves import Curves

# Strokes that can be taken back.
_MOST_UNDO = 200


@dataclass(frozen=True)
class Wish:
    """A curve that is to be drawn.

    Attributes:
      name: of it.
      low: end of its axis.
      high: end of its axis.
    """

    name: str
    low: float = 0.0
    high: float = 1.0


def parse_wish(words: str) -> Wish:
    """A curve as it is typed: ``mood``, or ``loudness_db:-60:0`` with its ends.

    Raises:
      ValueError: it reads otherwise.
    """
    name, *ends = words.split(":")
    try:
        low, high = map(float, ends) if ends else (0.0, 1.0)
    except ValueError:
        low = high = 0.0
    if not name.isidentifier() or not low < high:
        raise ValueError(
            f"curve {words!r}: expected NAME or NAME:LOW:HIGH, such as mood:0:1; names"
            " have letters, digits and _"
        )
    return Wish(name, low, high)


@dataclass
class Drawing:
    """What is drawn of one recording.

    Attributes:
      path: of the CSV.
      frame_rate_hz: of the curves.
      frames: of the curves.
      values: by name [frames].
      ends: of the axes, by name.
      saved: whether the file has all strokes.
    """

    path: Path
    frame_rate_hz: float
    frames: int
    values: dict[str, np.ndarray] = field(default_factory=dict)
    ends: dict[str, tuple[float, float]] = field(default_factory=dict)
    saved: bool = True
    _undo: list[tuple[str, np.ndarray]] = field(default_factory=list)
    _redo: list[tuple[str, np.ndarray]] = field(default_factory=list)

    @property
    def aside(self) -> Path:
        """What is written after every stroke, until it is saved."""
        return self.path.with_name(f".{self.path.stem}.autosave.csv")

    @property
    def times_s(self) -> np.ndarray:
        """Of the frames."""
        return np.arange(self.frames) / self.frame_rate_hz

    def restore(self) -> str:
        """Reads what was drawn before, and says what that is."""
        said = ""
        for path in (self.path, self.aside):
            if not path.exists():
                continue
            found = curves.read(path, self.frame_rate_hz, self.frames).values
            for name, curve in found.items():
                self.values[name] = curve.astype(np.float64)
                low, high = self.ends.get(name, (0.0, 1.0))
                self.ends[name] = (
                    min(low, float(curve.min())),
                    max(high, float(curve.max())),
                )
            said = f"opened {path.name}"
            if path == self.aside:
                self.saved = False
                said = "restored what was drawn and not saved"
        return said

    def add(self, wish: Wish) -> None:
        """A curve that stands in the middle; one of that name is only rescaled."""
        self.ends[wish.name] = (wish.low, wish.high)
        if wish.name not in self.values:
            middle = 0.5 * (wish.low + wish.high)
            self.values[wish.name] = np.full(self.frames, middle)

    def stroke(self, name: str, values: np.ndarray) -> bool:
        """Takes a stroke over; False if it changes nothing.

        Raises:
          ValueError: it is no curve of this drawing.
        """
        values = np.asarray(values, np.float64)
        if name not in self.values or values.shape != (self.frames,):
            raise ValueError(f"stroke of {name!r} {values.shape}, not [{self.frames}]")
        if not np.isfinite(values).all():
            raise ValueError(f"stroke of {name!r} is not finite")
        if np.array_equal(values, self.values[name]):
            return False
        self._undo = [*self._undo, (name, self.values[name])][-_MOST_UNDO:]
        self._redo = []
        self._take(name, values)
        return True

    def undo(self) -> str | None:
        """Takes the last stroke back; the name of its curve, None if there is none."""
        return self._swap(self._undo, self._redo)

    def redo(self) -> str | None:
        """Draws again what was taken back last."""
        return self._swap(self._redo, self._undo)

    def save(self) -> None:
        """Writes the CSV; what was kept aside is no longer needed."""
        curves.write(self.path, self._all(), overwrite=True)
        self.aside.unlink(missing_ok=True)
        self.saved = True

    def _swap(
        self, source: list[tuple[str, np.ndarray]], other: list[tuple[str, np.ndarray]]
    ) -> str | None:
        if not source:
            return None
        name, values = source.pop()
        other.append((name, self.values[name]))
        self._take(name, values)
        return name

    def _take(self, name: str, values: np.ndarray) -> None:
        self.values[name] = values
        self.saved = False
        curves.write(self.aside, self._all(), overwrite=True)

    def _all(self) -> Curves:
        return Curves(self.frame_rate_hz, self.values)
