"""Control curves in files, CSV and NPY; see `ddspx.curves` for what they hold."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddspx.audio import written_aside
from ddspx.curves.breakpoints import Breakpoints, CurveError, checked, sample
from ddspx.curves.frames import Curves

SUFFIXES = (".csv", ".npy")
Cells = Sequence[Any] | np.ndarray
_TIME = "time_s"
_SHAPE = ":shape"
# Times this close to a frame, in frames, are the frame's: decimals of seconds round.
_NEAR = 1e-3


def read_breakpoints(path: str | Path) -> dict[str, Breakpoints]:
    """Breakpoints by name from a CSV or NPY with the column ``time_s``.

    Raises:
      CurveError: the file is no such table.
    """
    path = Path(path)
    return _breakpoints(path, _table(path))


def write_breakpoints(
    path: str | Path, curves: Mapping[str, Breakpoints], *, overwrite: bool = False
) -> None:
    """Writes breakpoints as CSV: one row for each time of any curve.

    Args:
      path: ends in .csv.
      curves: by name.
      overwrite: whether the file may exist.

    Raises:
      CurveError: a curve or a name cannot be written.
      AudioFileError: the file exists, or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".csv":
        raise CurveError(f"{path}: breakpoints are written as .csv")
    _check_names(path, curves)
    sound = {name: checked(points, name) for name, points in curves.items()}
    header = [_TIME]
    for name, points in sound.items():
        header += [name, *([name + _SHAPE] if points.shapes else [])]
    # A jump has two rows of one time: the n-th value at a time is in its n-th row.
    rows: dict[tuple[float, int], dict[str, str]] = {}
    for name, points in sound.items():
        seen: dict[float, int] = {}
        for place, (time, value) in enumerate(
            zip(points.times_s.tolist(), points.values.tolist(), strict=True)
        ):
            number = seen[time] = seen.get(time, -1) + 1
            row = rows.setdefault((time, number), {_TIME: f"{time:.10g}"})
            row[name] = f"{value:.9g}"
            if points.shapes:
                row[name + _SHAPE] = points.shapes[place]
    lines = [[rows[at].get(column, "") for column in header] for at in sorted(rows)]
    _write_csv(path, header, lines, overwrite)


def read(
    path: str | Path,
    frame_rate_hz: float,
    frames: int | None = None,
    *,
    names: Sequence[str] = (),
) -> Curves:
    """Curves of a file, at a frame rate.

    Args:
      path: .csv or .npy, see above.
      frame_rate_hz: wanted. A file with one row a frame is taken to have it.
      frames: wanted; when None those up to the last breakpoint.
      names: of the columns of an NPY array without names.

    Returns:
      `Curves` of all columns.

    Raises:
      CurveError: the file cannot be read as curves, or has another number of frames
        than `frames` where there is one row a frame.
    """
    path = Path(path)
    table = _table(path, names)
    if _TIME in table:
        points = _breakpoints(path, table)
        end_s = max(float(curve.times_s[-1]) for curve in points.values())
        count = math.floor(max(0.0, end_s) * frame_rate_hz + _NEAR) + 1
        times = np.arange(count if frames is None else frames) / frame_rate_hz
        values = {}
        for name, curve in points.items():
            near = np.rint(curve.times_s * frame_rate_hz)
            off = np.abs(curve.times_s * frame_rate_hz - near) < _NEAR
            snapped = np.where(off, near / frame_rate_hz, curve.times_s)
            values[name] = sample(curve._replace(times_s=snapped), times)
        return Curves(frame_rate_hz, values)
    values = {}
    for name, cells in table.items():
        if name.endswith(_SHAPE):
            raise CurveError(f"{path}: the column {name!r} needs the column {_TIME}")
        values[name] = _numbers(path, name, cells)
    found = Curves(frame_rate_hz, values)
    # Whether a frame begins at the very end is a matter of rounding.
    if frames is not None and abs(found.frames - frames) > 1:
        raise CurveError(
            f"{path}: has one row a frame, {found.frames} of them, where"
            f" {frames} frames are expected ({frame_rate_hz:.6g} a second); give"
            f" {frames} rows, or a column {_TIME} with seconds"
        )
    return found if frames is None else found.lasting(frames)


def write(path: str | Path, curves: Curves, *, overwrite: bool = False) -> None:
    """Writes curves, one row a frame with its time; `read` gives the same values.

    Args:
      path: .csv, or .npy with named fields.
      curves: one or more.
      overwrite: whether the file may exist.

    Raises:
      CurveError: the suffix is another, or there is no curve.
      AudioFileError: the file exists, or cannot be written.
    """
    path = Path(path)
    _check_names(path, curves.values)
    times = curves.times_s
    if path.suffix.lower() == ".csv":
        columns = [curve.tolist() for curve in curves.values.values()]
        lines = (
            [f"{time:.10g}", *(f"{value:.9g}" for value in row)]
            for time, *row in zip(times.tolist(), *columns, strict=True)
        )
        _write_csv(path, [_TIME, *curves.names], lines, overwrite)
        return
    fields = [(_TIME, "<f8"), *((name, "<f4") for name in curves.names)]
    table: Any = np.empty(curves.frames, fields)
    for name, column in {_TIME: times, **curves.values}.items():
        table[name] = column
    buffer = io.BytesIO()
    np.save(buffer, table)
    with written_aside(path, overwrite=overwrite) as aside:
        aside.write_bytes(buffer.getvalue())


def read_beside(
    recording: str | Path, names: Sequence[str], frame_rate_hz: float, frames: int
) -> dict[str, np.ndarray]:
    """Drawn curves of a recording, from the file of its name beside it.

    Args:
      recording: ``rain.wav``, for which ``rain.csv`` or ``rain.npy`` is read.
      names: of the curves wanted; none reads no file.
      frame_rate_hz: of the model.
      frames: of the recording.

    Returns:
      float32 [frames] by name.

    Raises:
      CurveError: there is no such file, or a curve is not in it.
    """
    if not names:
        return {}
    recording = Path(recording)
    beside = [recording.with_suffix(suffix) for suffix in SUFFIXES]
    path = next((path for path in beside if path.is_file()), None)
    if path is None:
        raise CurveError(
            f"{recording}: the curves {', '.join(names)} are drawn, not measured;"
            f" expected them in {beside[0].name} or {beside[1].name} beside it"
        )
    found = read(path, frame_rate_hz, frames, names=names).values
    missing = [name for name in names if name not in found]
    if missing:
        raise CurveError(
            f"{path}: has the curves {', '.join(found)}, not {', '.join(missing)};"
            " add a column of that name"
        )
    return {name: found[name] for name in names}


def _table(path: Path, names: Sequence[str] = ()) -> dict[str, Cells]:
    """Columns by name, cells as they are."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CurveError(f"{path}: curves are read from {' or '.join(SUFFIXES)}")
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CurveError(f"{path}: cannot be read: {reason}") from error
    table = _npy(path, raw, names) if suffix == ".npy" else _csv(path, raw)
    curves = [n for n in table if n != _TIME and not n.endswith(_SHAPE)]
    if not curves or not len(next(iter(table.values()))):
        raise CurveError(
            f"{path}: holds no curve; expected a header such as"
            f" {_TIME},loudness_db and at least one row"
        )
    return table


def _csv(path: Path, raw: bytes) -> dict[str, Cells]:
    try:
        rows = list(csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise CurveError(f"{path}: is no CSV table ({error})") from error
    rows = [row for row in rows if any(cell.strip() for cell in row)]
    header = [cell.strip() for cell in rows[0]] if rows else []
    if not header or any(_is_number(cell) or not cell for cell in header):
        raise CurveError(
            f"{path}: the first line must name the columns, such as"
            f" {_TIME},loudness_db; got {','.join(header)[:60]!r}"
        )
    if len(set(header)) < len(header):
        raise CurveError(f"{path}: a column is named twice: {', '.join(header)}")
    for number, row in enumerate(rows[1:], 1):
        if len(row) != len(header):
            raise CurveError(
                f"{path}: row {number} has {len(row)} cells, expected {len(header)}"
                f" ({', '.join(header)})"
            )
    columns = zip(*rows[1:], strict=True) if len(rows) > 1 else ((),) * len(header)
    return dict(zip(header, columns, strict=True))


def _npy(path: Path, raw: bytes, names: Sequence[str]) -> dict[str, Cells]:
    try:
        array = np.load(io.BytesIO(raw), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise CurveError(f"{path}: is no NPY array ({error})") from error
    if not isinstance(array, np.ndarray):
        raise CurveError(f"{path}: is an archive of arrays; save one with numpy.save")
    if array.dtype.names and array.ndim == 1:
        return {name: array[name] for name in array.dtype.names}
    if array.ndim not in (1, 2) or array.dtype.kind not in "fiu":
        raise CurveError(
            f"{path}: array {array.shape} of {array.dtype}; expected numbers [frames],"
            " [frames, curves], or named fields [frames]"
        )
    columns = array[:, None] if array.ndim == 1 else array
    if len(names) != columns.shape[1]:
        raise CurveError(
            f"{path}: holds {columns.shape[1]} curves without names, expected"
            f" {len(names)} ({', '.join(names) or 'none is named'})"
        )
    return {name: columns[:, i] for i, name in enumerate(names)}


def _breakpoints(path: Path, table: Mapping[str, Cells]) -> dict[str, Breakpoints]:
    if _TIME not in table:
        raise CurveError(f"{path}: has no column {_TIME} with seconds")
    times = _numbers(path, _TIME, table[_TIME])
    found = {}
    for name, cells in table.items():
        if name == _TIME:
            continue
        if name.endswith(_SHAPE):
            if name.removesuffix(_SHAPE) not in table:
                raise CurveError(f"{path}: the column {name!r} is beside no curve")
            continue
        empty = _empty(cells)
        rows = np.flatnonzero(~empty)
        if not rows.size:
            raise CurveError(f"{path}: the curve {name!r} has no breakpoint")
        shapes = table.get(name + _SHAPE)
        words = (
            () if shapes is None else tuple(str(shapes[int(i)]).strip() for i in rows)
        )
        # Rows are counted in the file, so that an error names the right one.
        filled = np.where(empty, "0", cells) if empty.any() else cells
        points = Breakpoints(
            times[rows],
            _numbers(path, name, filled)[rows],
            tuple(word or "linear" for word in words),
        )
        try:
            found[name] = checked(points, name)
        except CurveError as error:
            raise CurveError(f"{path}: {error}") from error
    return found


def _check_names(path: Path, curves: Mapping[str, Any]) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise CurveError(f"{path}: curves are written to {' or '.join(SUFFIXES)}")
    wrong = [n for n in curves if not n.strip() or n == _TIME or n.endswith(_SHAPE)]
    if not curves or wrong:
        raise CurveError(f"{path}: curves need names, got {wrong or 'none'}")


def _write_csv(path: Path, header: Sequence[str], lines: Any, overwrite: bool) -> None:
    with (
        written_aside(path, overwrite=overwrite) as aside,
        aside.open("w", encoding="utf-8", newline="") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows(lines)


def _numbers(path: Path, name: str, cells: Cells) -> np.ndarray:
    """A column as float64; whatever is no finite number is refused."""
    try:
        values = np.asarray(cells, np.float64)
    except ValueError:
        values = np.array([float(c) if _is_number(c) else math.nan for c in cells])
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        raise CurveError(
            f"{path}: {name!r} has {str(cells[wrong[0]])[:20]!r} in row"
            f" {wrong[0] + 1}, expected a number"
        )
    return values


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _empty(cells: Cells) -> np.ndarray:
    if isinstance(cells, np.ndarray) and cells.dtype.kind == "f":
        return np.isnan(cells)
    return np.array([isinstance(c, str) and not c.strip() for c in cells])
