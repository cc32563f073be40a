"""What this host offers to an LV2 plug-in: numbers for URIs, options, and work.

Features live as long as the process, except `Scheduler`, of which every instance has
its own. A plug-in that wants to work in another thread (``work:schedule``) gets its
work done at once, which offline rendering may do and which repeats.
"""

import ctypes as c
from typing import Any

from styletransfer.hosts.lilv import ATOM, CORE

BUFFER = "http://lv2plug.in/ns/ext/buf-size#"
WORK = "http://lv2plug.in/ns/ext/worker#"
OPTIONS = "http://lv2plug.in/ns/ext/options#options"
URID = "http://lv2plug.in/ns/ext/urid#"
# Samples a plug-in is given at once. It is part of what some effects are (they update
# their modulation once a block), and it is what pedalboard gives to a VST3.
BLOCK_LENGTH = 8192

_pointer = c.c_void_p
_MAP = c.CFUNCTYPE(c.c_uint32, _pointer, c.c_char_p)
_UNMAP = c.CFUNCTYPE(c.c_char_p, _pointer, c.c_uint32)
_RESPOND = c.CFUNCTYPE(c.c_uint32, _pointer, c.c_uint32, _pointer)
_SCHEDULE = c.CFUNCTYPE(c.c_uint32, _pointer, c.c_uint32, _pointer)


class Feature(c.Structure):
    """LV2_Feature."""

    _fields_ = [("uri", c.c_char_p), ("data", _pointer)]


class _Mapper(c.Structure):
    _fields_ = [("handle", _pointer), ("map", _MAP)]


class _Unmapper(c.Structure):
    _fields_ = [("handle", _pointer), ("unmap", _UNMAP)]


class _Option(c.Structure):
    _fields_ = [
        ("context", c.c_uint32),
        ("subject", c.c_uint32),
        ("key", c.c_uint32),
        ("size", c.c_uint32),
        ("type", c.c_uint32),
        ("value", _pointer),
    ]


class _Schedule(c.Structure):
    _fields_ = [("handle", _pointer), ("schedule", _SCHEDULE)]


class _WorkerInterface(c.Structure):
    _fields_ = [
        (
            "work",
            c.CFUNCTYPE(c.c_uint32, _pointer, _RESPOND, _pointer, c.c_uint32, _pointer),
        ),
        ("respond", c.CFUNCTYPE(c.c_uint32, _pointer, c.c_uint32, _pointer)),
        ("end", c.CFUNCTYPE(c.c_uint32, _pointer)),
    ]


_numbers: dict[bytes, int] = {}
_uris: list[bytes] = []


def _number(_handle: Any, uri: bytes) -> int:
    if uri not in _numbers:
        _uris.append(uri)
        _numbers[uri] = len(_uris)
    return _numbers[uri]


def _uri(_handle: Any, number: int) -> bytes | None:
    return _uris[number - 1] if 0 < number <= len(_uris) else None


MAP = _Mapper(None, _MAP(_number))
UNMAP = _Unmapper(None, _UNMAP(_uri))


def number_of(uri: str) -> int:
    """The number that stands for a URI in this process."""
    return _number(None, uri.encode())


# Held here, because the plug-ins get pointers into them.
_block = c.c_int32(BLOCK_LENGTH)
_least = c.c_int32(0)
_rates: dict[float, Any] = {}


def _options(sample_rate: float) -> Any:
    """The array of options for a rate, kept for good."""
    if sample_rate not in _rates:
        rate = c.c_float(sample_rate)
        whole, real = number_of(f"{ATOM}Int"), number_of(f"{ATOM}Float")
        entries = [
            (f"{BUFFER}maxBlockLength", whole, _block),
            (f"{BUFFER}minBlockLength", whole, _least),
            (f"{BUFFER}nominalBlockLength", whole, _block),
            ("http://lv2plug.in/ns/ext/parameters#sampleRate", real, rate),
        ]
        rows = [
            _Option(0, 0, number_of(uri), 4, kind, c.addressof(value))
            for uri, kind, value in entries
        ]
        rows.append(_Option(0, 0, 0, 0, 0, None))
        _rates[sample_rate] = ((_Option * len(rows))(*rows), rate)
    return _rates[sample_rate][0]


# Features without data, or that only promise how the host behaves.
_PROMISES = (f"{BUFFER}boundedBlockLength", f"{BUFFER}powerOf2BlockLength")
SUPPORTED = {
    f"{URID}map",
    f"{URID}unmap",
    OPTIONS,
    f"{WORK}schedule",
    *_PROMISES,
    f"{CORE}isLive",
    f"{CORE}inPlaceBroken",
    f"{CORE}hardRTCapable",
    # Only asks that no state be kept between threads, which one thread does not.
    "http://lv2plug.in/ns/ext/state#threadSafeRestore",
}


class Scheduler:
    """Does a plug-in's work when it asks for it, and hands the answers back.

    Attributes:
      feature: LV2_Worker_Schedule, whose address the plug-in gets.
    """

    def __init__(self):
        self._answers: list[bytes] = []
        self._interface: Any = None
        self._handle: Any = None
        # The callbacks are held, or ctypes would free them.
        self._schedule = _SCHEDULE(self._work)
        self._respond = _RESPOND(self._answer)
        self.feature = _Schedule(None, self._schedule)

    def connect(self, handle: Any, extension: Any) -> None:
        """Tells whose work it is; `extension` is its LV2_Worker_Interface or None."""
        self._handle = handle
        if extension:
            pointer = c.cast(extension, c.POINTER(_WorkerInterface))
            self._interface = pointer.contents

    def deliver(self) -> None:
        """After each run: what the work gave goes to the plug-in."""
        interface = self._interface
        if interface is None:
            return
        answers, self._answers = self._answers, []
        for answer in answers:
            if interface.respond:
                interface.respond(self._handle, len(answer), answer)
        if interface.end:
            interface.end(self._handle)

    def _work(self, _handle: Any, size: int, data: Any) -> int:
        if self._interface is None:  # while it is being made
            return 1
        return self._interface.work(
            self._handle, self._respond, None, size, c.cast(data, _pointer)
        )

    def _answer(self, _handle: Any, size: int, data: Any) -> int:
        self._answers.append(c.string_at(data, size))
        return 0


def features(sample_rate: float, scheduler: Scheduler) -> tuple[Any, Any]:
    """A null-terminated array of features, and what must be held while it is used.

    Args:
      sample_rate: Hz.
      scheduler: of the instance that is made with it.
    """
    listed = [
        Feature(f"{URID}map".encode(), c.addressof(MAP)),
        Feature(f"{URID}unmap".encode(), c.addressof(UNMAP)),
        Feature(OPTIONS.encode(), c.addressof(_options(sample_rate))),
        Feature(f"{WORK}schedule".encode(), c.addressof(scheduler.feature)),
        *(Feature(uri.encode(), None) for uri in _PROMISES),
    ]
    array = (_pointer * (len(listed) + 1))(*map(c.addressof, listed), None)
    return array, listed
