"""Notes as control curves: pitch and velocity to f0 and loudness, and MIDI files.

One voice: a note that begins ends the one before. Times are seconds, pitches MIDI
numbers (69 is 440 Hz; fractions are welcome), velocities 1 to 127.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddspx.curves import Breakpoints, Curves, sample
from ddspx.units import midi_to_hz

# Semitones of a full pitch bend, unless the file says otherwise (RPN 0).
BEND_SEMITONES = 2.0
_DRUMS = 9
_PEDAL = 64
# Vibrato comes in over so many seconds.
_VIBRATO_RISE_S = 0.3
_RELEASED_DB = 60.0


class NoteError(ValueError):
    """Notes, or a MIDI file, that cannot be played; the message says why."""


class Note(NamedTuple):
    """One note.

    Attributes:
      start_s: seconds.
      end_s: seconds, later than the start.
      pitch: MIDI number.
      velocity: 1 to 127.
    """

    start_s: float
    end_s: float
    pitch: float
    velocity: float = 96.0


class Performance(NamedTuple):
    """What a MIDI file holds.

    Attributes:
      notes: in order of their starts.
      bend: semitones, standing still between its points; None if there is none.
      controllers: control changes by number, 0 to 127, standing still between them.
      seconds: length of the file.
    """

    notes: tuple[Note, ...]
    bend: Breakpoints | None
    controllers: dict[int, Breakpoints]
    seconds: float


@dataclass(frozen=True)
class Playing:
    """How notes are played.

    Attributes:
      attack_s: from silence, or from what rings, to the level of the velocity.
      release_s: in which a note that ends falls by 60 dB.
      decay_db_per_s: by which a note that is held grows quieter.
      glide_s: to the pitch of a note that follows without a gap.
      legato_s: a gap that is no longer is none: the level is not attacked anew.
      vibrato_cents: deviation to either side.
      vibrato_hz: rate.
      vibrato_after_s: that a note stands still first.
    """

    attack_s: float = 0.04
    release_s: float = 0.25
    decay_db_per_s: float = 1.0
    glide_s: float = 0.05
    legato_s: float = 0.03
    vibrato_cents: float = 0.0
    vibrato_hz: float = 5.5
    vibrato_after_s: float = 0.3

    def __post_init__(self):
        wrong = {
            n: v for n, v in vars(self).items() if not (math.isfinite(v) and v >= 0)
        }
        if wrong:
            raise NoteError(f"{wrong}: expected numbers of 0 or more")


def single_voice(notes: Iterable[Note]) -> tuple[tuple[Note, ...], int]:
    """Notes of which none sounds at the same time as another.

    A note ends where the next begins; of those that begin at once the highest stays.

    Args:
      notes: in any order.

    Returns:
      (notes in order of their starts, how many were cut or left out).

    Raises:
      NoteError: a note has no length, or a velocity out of range.
    """
    exact = [Note(*map(float, note)) for note in notes]
    ordered = sorted(exact, key=lambda note: (note.start_s, -note.pitch))
    kept: list[Note] = []
    changed = 0
    for note in ordered:
        _check(note)
        if kept and note.start_s == kept[-1].start_s:
            changed += 1
            continue
        if kept and note.start_s < kept[-1].end_s:
            changed += 1
            kept[-1] = kept[-1]._replace(end_s=note.start_s)
        kept.append(note)
    return tuple(kept), changed


def play(
    notes: Sequence[Note],
    frame_rate_hz: float,
    frames: int | None = None,
    *,
    loudness_db: tuple[float, float] = (-50.0, -20.0),
    floor_db: float = -80.0,
    playing: Playing | None = None,
    bend: Breakpoints | None = None,
) -> Curves:
    """Control curves of notes.

        loudness = quiet + (loud - quiet) (velocity - 1) / 126

    Levels rise and fall on lines in dB. Between notes f0 stays at the note that was,
    before the first it is at the first.

    Args:
      notes: one or more; made one voice by `single_voice`.
      frame_rate_hz: of the curves.
      frames: how many; when None up to the end of the last release.
      loudness_db: of velocities 1 and 127.
      floor_db: of silence.
      playing: how; the default when None.
      bend: semitones that are added to the pitch.

    Returns:
      `Curves` with f0_hz, loudness_db, and confidence, which is 1 in notes.

    Raises:
      NoteError: there is none, or one cannot be played.
    """
    how = Playing() if playing is None else playing
    voice, _ = single_voice(notes)
    if not voice:
        raise NoteError("there are no notes to play")
    if frames is None:
        end_s = voice[-1].end_s + how.release_s
        frames = max(1, math.ceil(end_s * frame_rate_hz - 1e-6))
    times = np.arange(frames) / frame_rate_hz
    pitch = np.full(frames, float(voice[0].pitch))
    level = np.full(frames, float(floor_db))
    sure = np.zeros(frames)
    before: Note | None = None
    ringing = _Ringing(0.0, floor_db)
    for place, note in enumerate(voice):
        until = voice[place + 1].start_s if place + 1 < len(voice) else math.inf
        here = slice(*np.searchsorted(times, [note.start_s - 1e-9, until - 1e-9]))
        since = np.maximum(times[here] - note.start_s, 0.0)
        tied = before is not None and note.start_s - before.end_s <= how.legato_s
        pitch[here] = _pitch(note, before if tied else None, since, how)
        wanted = loudness_db[0] + (loudness_db[1] - loudness_db[0]) * (
            (note.velocity - 1.0) / 126.0
        )
        begin = ringing.at(note.start_s, how, floor_db)
        if tied and before is not None:
            begin = ringing.level_db
        held = note.end_s - note.start_s
        level[here] = _level(since, held, begin, wanted, how, floor_db)
        last = _level(np.array([held]), math.inf, begin, wanted, how, floor_db)
        ringing = _Ringing(note.end_s, float(last[0]))
        sure[here] = since < held
        before = note
    if bend is not None:
        pitch = pitch + sample(bend, times)
    values = {"f0_hz": midi_to_hz(pitch), "loudness_db": level, "confidence": sure}
    return Curves(frame_rate_hz, values)


def read_midi(
    path: str | Path, *, channel: int | None = None, track: int | None = None
) -> Performance:
    """Notes, pitch bend and controllers of a standard MIDI file.

    Tempo changes are followed, the sustain pedal holds notes, drums are left out.

    Args:
      path: .mid.
      channel: 1 to 16; all but 10 (drums) when None.
      track: counted from 0; all when None.

    Returns:
      `Performance`; there may be no notes in it.

    Raises:
      NoteError: it is no MIDI file, or has no such track or channel.
    """
    import mido  # takes a tenth of a second, and only those who read MIDI need it

    path = Path(path)
    if channel is not None and not 1 <= channel <= 16:
        raise NoteError(f"channel {channel}: MIDI has channels 1 to 16")
    try:
        file = mido.MidiFile(path)
    except OSError as error:
        # mido says with OSError also that a file is none of its kind.
        reason = error.strerror or str(error) or "it ends too early"
        raise NoteError(
            f"{path}: is no MIDI file that can be read: {reason}"
        ) from error
    except (ValueError, EOFError, IndexError, KeyError) as error:
        raise NoteError(f"{path}: is no MIDI file that can be read: {error}") from error
    if file.type == 2:
        raise NoteError(
            f"{path}: holds separate songs (type 2); save it as type 0 or 1"
        )
    if track is not None:
        if not 0 <= track < len(file.tracks):
            raise NoteError(
                f"{path}: has tracks 0 to {len(file.tracks) - 1}, not {track}"
            )
        # Tempo stands in any track, mostly the first; only notes are left out.
        file.tracks = [
            one if number == track else _tempo_alone(one)
            for number, one in enumerate(file.tracks)
        ]
    wanted = set(range(16)) - {_DRUMS} if channel is None else {channel - 1}
    return _performance(file, wanted)


def automation(
    performance: Performance, controller: int, low: float, high: float
) -> Breakpoints:
    """A controller as a curve, 0 to `low` and 127 to `high`.

    Args:
      performance: from `read_midi`.
      controller: its number, 1 for the modulation wheel, 11 for expression.
      low: value of 0.
      high: value of 127.

    Returns:
      `Breakpoints` that stand still from each to the next.

    Raises:
      NoteError: the file never moves it.
    """
    if controller not in performance.controllers:
        moved = ", ".join(map(str, sorted(performance.controllers))) or "none"
        raise NoteError(f"controller {controller} is never moved; moved are: {moved}")
    points = performance.controllers[controller]
    return points._replace(values=low + (high - low) * points.values / 127.0)


# ---------------------------------------------------------------------- curves


class _Ringing(NamedTuple):
    """The level at the end of a note."""

    end_s: float
    level_db: float

    def at(self, time_s: float, how: Playing, floor_db: float) -> float:
        fallen = max(0.0, time_s - self.end_s) * _release_db_per_s(how)
        return max(floor_db, self.level_db - fallen)


def _release_db_per_s(how: Playing) -> float:
    return _RELEASED_DB / max(how.release_s, 1e-6)


def _level(
    since: np.ndarray,
    held: float,
    begin: float,
    wanted: float,
    how: Playing,
    floor_db: float,
) -> np.ndarray:
    """Attack, decay and release on lines in dB."""

    def during(time):
        share = np.clip(time / max(how.attack_s, 1e-6), 0.0, 1.0)
        after = np.maximum(time - how.attack_s, 0.0)
        return begin + share * (wanted - begin) - how.decay_db_per_s * after

    level = during(np.minimum(since, held))
    level = level - _release_db_per_s(how) * np.maximum(since - held, 0.0)
    return np.maximum(level, floor_db)


def _pitch(
    note: Note, before: Note | None, since: np.ndarray, how: Playing
) -> np.ndarray:
    """The note's pitch, reached by a glide, with vibrato."""
    pitch = np.full(len(since), float(note.pitch))
    if before is not None and how.glide_s > 0:
        x = np.clip(since / how.glide_s, 0.0, 1.0)
        pitch += (before.pitch - note.pitch) * (1.0 - x**2 * (3.0 - 2.0 * x))
    moving = np.maximum(since - how.vibrato_after_s, 0.0)
    depth = 0.01 * how.vibrato_cents * np.minimum(moving / _VIBRATO_RISE_S, 1.0)
    return pitch + depth * np.sin(2 * math.pi * how.vibrato_hz * moving)


def _check(note: Note) -> None:
    if not (math.isfinite(note.pitch) and 0 <= note.start_s < note.end_s < math.inf):
        raise NoteError(
            f"{note}: a note starts at 0 s or later, ends after that, and has a pitch"
        )
    if not 1 <= note.velocity <= 127:
        raise NoteError(f"{note}: velocities go from 1 to 127")


# ----------------------------------------------------------------------- MIDI


def _tempo_alone(track: Any) -> Any:
    """The track with its messages of channels made silent, times kept."""
    kept = type(track)()
    waiting = 0
    for message in track:
        waiting += message.time
        if message.is_meta:
            kept.append(message.copy(time=waiting))
            waiting = 0
    return kept


def _performance(file: Any, channels: set[int]) -> Performance:
    now = 0.0
    notes: list[Note] = []
    # By channel and pitch: when and how hard notes were struck.
    struck: dict[tuple[int, int], list[tuple[float, int]]] = {}
    held: dict[int, list[tuple[int, float, int]]] = {}
    pedal: set[int] = set()
    bends: list[tuple[float, float]] = []
    moved: dict[int, list[tuple[float, float]]] = {}
    ranges = dict.fromkeys(range(16), BEND_SEMITONES)
    selected: dict[int, list[int]] = {}

    def ended(pitch, begin, velocity):
        if now > begin:
            notes.append(Note(begin, now, float(pitch), float(velocity)))

    def release(channel):
        for pitch, begin, velocity in held.pop(channel, []):
            ended(pitch, begin, velocity)

    for message in file:
        now += message.time
        if message.is_meta or getattr(message, "channel", None) not in channels:
            continue
        channel = message.channel
        if message.type == "note_on" and message.velocity > 0:
            struck.setdefault((channel, message.note), []).append(
                (now, message.velocity)
            )
        elif message.type in ("note_on", "note_off"):
            waiting = struck.get((channel, message.note))
            if waiting:
                begin, velocity = waiting.pop(0)
                if channel in pedal:
                    held.setdefault(channel, []).append((message.note, begin, velocity))
                else:
                    ended(message.note, begin, velocity)
        elif message.type == "pitchwheel":
            bends.append((now, ranges[channel] * message.pitch / 8192.0))
        elif message.type == "control_change":
            _selected(message, selected.setdefault(channel, [127, 127]), ranges)
            moved.setdefault(message.control, []).append((now, float(message.value)))
            if message.control == _PEDAL and message.value >= 64:
                pedal.add(channel)
            elif message.control == _PEDAL:
                pedal.discard(channel)
                release(channel)
    for channel in list(held):
        release(channel)
    # What is never let go ends with the file.
    for (_, pitch), waiting in struck.items():
        for begin, velocity in waiting:
            ended(pitch, begin, velocity)
    controllers = {number: _steps(points, None) for number, points in moved.items()}
    return Performance(
        tuple(sorted(notes)),
        _steps(bends, 0.0) if bends else None,
        controllers,
        now,
    )


def _selected(message: Any, chosen: list[int], ranges: dict[int, float]) -> None:
    """Follows registered parameter 0, the range of the pitch bend, in semitones."""
    if message.control in (100, 101):
        chosen[message.control - 100] = message.value
    elif message.control == 6 and chosen == [0, 0]:
        ranges[message.channel] = float(message.value)


def _steps(points: list[tuple[float, float]], before: float | None) -> Breakpoints:
    if before is not None:
        points = [(0.0, before), *points]
    times, values = np.array(points).T
    return Breakpoints(times, values, ("hold",) * len(points))
