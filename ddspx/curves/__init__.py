"""Control curves of a sound: drawn, measured, edited, kept in files.

`Curves` hold one value a frame, frame m at the time ``m / frame_rate_hz``;
`Breakpoints` hold values at any times, and how the curve goes from one to the next.
Files:

- CSV with a header, UTF-8. With the column ``time_s`` the rows are breakpoints, in
  seconds: an empty cell is no breakpoint of that curve, before the first and after the
  last breakpoint the curve stands still. A column ``NAME:shape`` beside ``NAME`` says
  how it goes on from each (see `SHAPES`), as automation in a sequencer does; without
  it, on a line. Without ``time_s`` there is one row a frame.
- NPY: an array with named fields is read like a CSV of these columns; [frames] or
  [frames, n] without names is one row a frame, named by whoever reads it.

Nothing here imports JAX.
"""

from ddspx.curves.breakpoints import SHAPES, Breakpoints, CurveError, sample
from ddspx.curves.files import (
    SUFFIXES,
    read,
    read_beside,
    read_breakpoints,
    write,
    write_breakpoints,
)
from ddspx.curves.frames import Curves
from ddspx.curves.walks import smooth_walk

__all__ = [
    "SHAPES",
    "SUFFIXES",
    "Breakpoints",
    "CurveError",
    "Curves",
    "read",
    "read_beside",
    "read_breakpoints",
    "sample",
    "smooth_walk",
    "write",
    "write_breakpoints",
]
