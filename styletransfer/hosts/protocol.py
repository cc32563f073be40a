"""What the parent and its workers say to each other, and how a call lies in memory.

Messages are datagrams of a SEQPACKET socket pair: one byte for the kind, then a struct
or JSON. Audio never travels: it lies in blocks of shared memory, whose file
descriptors are sent once. A call has a *request* block (`RequestLayout`) and an output
block, audio [items, channels, samples] float32 alone.
"""

import struct
from typing import NamedTuple

import numpy as np

# Parent to worker.
CONFIGURE = b"C"  # JSON: effect, sample_rate, parent, index
BLOCK = b"B"  # BLOCK_BODY, with the descriptor
DROP = b"D"  # BLOCK_BODY
JOB = b"J"  # JOB_BODY
# Worker to parent.
READY = b"R"  # READY_BODY: seconds per channel and sample of a trial render
REFUSED = b"X"  # JSON: type, text; the worker ends
WANT = b"W"  # the last item of all that was sent is begun; call number
IDLE = b"I"  # nothing is left to do; call number
RAISED = b"E"  # REASON_BODY, then what the plug-in raised, as UTF-8

BLOCK_BODY = struct.Struct("<qq")  # block, bytes
# call, request block, output block, first item, count, whether more may follow
JOB_BODY = struct.Struct("<qqqqqq")
READY_BODY = struct.Struct("<d")
CALL_BODY = struct.Struct("<q")
REASON_BODY = struct.Struct("<qq")  # call, item
LARGEST_MESSAGE = 1 << 16

PENDING = -1
_PAGE = 4096


class RequestLayout(NamedTuple):
    """Views into a request block.

    Attributes:
      shape: int64 [signals, channels, samples, items, controls, workers].
      status: int32 [items], `PENDING` until the item is done.
      seconds: float64 [items], what the render took.
      began: float64 [workers], CLOCK_MONOTONIC at which a worker began its item.
      source: int32 [items].
      controls: float32 [items, n].
      audio: float32 [signals, channels, samples].
    """

    shape: np.ndarray
    status: np.ndarray
    seconds: np.ndarray
    began: np.ndarray
    source: np.ndarray
    controls: np.ndarray
    audio: np.ndarray


class Shape(NamedTuple):
    """Sizes of one call."""

    signals: int
    channels: int
    samples: int
    items: int
    controls: int
    workers: int

    def request_bytes(self) -> int:
        """Size of the request block."""
        return _offsets(self)[-1]

    def output_bytes(self) -> int:
        """Size of the output block."""
        return max(4 * self.items * self.channels * self.samples, 1)


def request_layout(buffer: object, shape: Shape | None = None) -> RequestLayout:
    """Views into a request block.

    Args:
      buffer: writable memory of the block.
      shape: sizes, which are written into the block; None reads them from it.
    """
    header = _view(buffer, np.int64, 0, (len(Shape._fields),))
    if shape is None:
        shape = Shape(*(int(n) for n in header))
    else:
        header[:] = shape
    offsets = _offsets(shape)
    views = [
        _view(buffer, kind, offset, size)
        for (kind, size), offset in zip(_fields(shape), offsets[1:], strict=False)
    ]
    return RequestLayout(header, *views)


def _fields(shape: Shape) -> list[tuple[type, tuple[int, ...]]]:
    return [
        (np.int32, (shape.items,)),
        (np.float64, (shape.items,)),
        (np.float64, (shape.workers,)),
        (np.int32, (shape.items,)),
        (np.float32, (shape.items, shape.controls)),
        (np.float32, (shape.signals, shape.channels, shape.samples)),
    ]


def _offsets(shape: Shape) -> list[int]:
    """Offset of the header and of every field, then the size; 64-byte aligned."""
    offsets = [0, 64]
    for kind, size in _fields(shape):
        length = int(np.prod(size)) * np.dtype(kind).itemsize
        offsets.append((offsets[-1] + length + 63) // 64 * 64)
    offsets[-1] = (offsets[-1] + _PAGE - 1) // _PAGE * _PAGE
    return offsets


def _view(
    buffer: object, kind: type, offset: int, shape: tuple[int, ...]
) -> np.ndarray:
    count = int(np.prod(shape))
    return np.frombuffer(buffer, kind, count, offset).reshape(shape)  # pyright: ignore
