"""A render worker: ``python -P -m styletransfer.hosts.worker``, started by the pool.

Its standard input is the socket to the parent, standard output and error go to a log.
It loads plug-ins and uses them on its main thread only, ignores Ctrl-C, and dies with
its parent. It imports no JAX, and is ready in about 0.2 s.
"""

import ctypes
import json
import mmap
import os
import signal
import socket
import struct
import sys
import time
from typing import Any

import numpy as np

from ddspx.parameters import default_controls
from styletransfer.hosts import protocol as p
from styletransfer.hosts.description import HostEffect
from styletransfer.hosts.engine import Engine
from styletransfer.hosts.request import Status, judge

_PR_SET_PDEATHSIG = 1
_TRIAL_SECONDS = 0.1
_DESCRIPTOR = struct.Struct("i")


def serve(connection: socket.socket) -> None:
    """Does what the parent says until the parent hangs up.

    Args:
      connection: SEQPACKET, whose first message is `protocol.CONFIGURE`.
    """
    message = connection.recv(p.LARGEST_MESSAGE)
    if not message:
        return
    config = json.loads(message[1:])
    _die_with(config["parent"])
    try:
        effect = HostEffect.from_dict(config["effect"])
        engine = Engine(effect, config["sample_rate"])
        cost = _trial(engine, effect, config["sample_rate"])
    except Exception as error:  # whatever a plug-in raises, the parent must hear it
        kind = ValueError if isinstance(error, ValueError) else type(error)
        refusal = {"type": kind.__name__, "text": str(error)[:4000]}
        connection.send(p.REFUSED + json.dumps(refusal).encode())
        return
    connection.send(p.READY + p.READY_BODY.pack(cost))
    _Worker(connection, engine, config["index"]).run()


class _Worker:
    def __init__(self, connection: socket.socket, engine: Engine, index: int):
        self._connection = connection
        self._engine = engine
        self._index = index
        self._blocks: dict[int, mmap.mmap] = {}
        self._call = -1
        self._request: p.RequestLayout
        self._output: np.ndarray

    def run(self) -> None:
        idle = True
        while True:
            message = self._receive(wait=idle)
            if message is None:
                self._send(p.IDLE + p.CALL_BODY.pack(self._call))
                idle = True
                continue
            if not message:
                return
            idle = message[:1] != p.JOB
            if not idle:
                self._job(message[1:])

    def _receive(self, wait: bool) -> bytes | None:
        """The next message but those about blocks; None when there is none yet."""
        flags = 0 if wait else socket.MSG_DONTWAIT
        try:
            # Not socket.recv_fds: it drops its flags, and would wait.
            message, ancillary, _, _ = self._connection.recvmsg(
                p.LARGEST_MESSAGE, socket.CMSG_SPACE(_DESCRIPTOR.size), flags
            )
        except BlockingIOError:
            return None
        if message[:1] == p.BLOCK:
            number, size = p.BLOCK_BODY.unpack(message[1:])
            (descriptor,) = _DESCRIPTOR.unpack(ancillary[0][2])
            self._blocks[number] = mmap.mmap(descriptor, size)
            os.close(descriptor)
        elif message[:1] == p.DROP:
            self._blocks.pop(p.BLOCK_BODY.unpack(message[1:])[0], None)
        return message

    def _send(self, message: bytes) -> None:
        try:
            self._connection.send(message)
        except OSError:  # the parent hung up, and there is nobody left to tell
            sys.exit(0)

    def _job(self, body: bytes) -> None:
        call, request, output, first, count, more = p.JOB_BODY.unpack(body)
        if call != self._call:
            self._open(call, request, output)
        for item in range(first, first + count):
            if more and item == first + count - 1:
                # Asked for early, so that the next job lies here when this one ends.
                self._send(p.WANT + p.CALL_BODY.pack(call))
            self._item(item)

    def _open(self, call: int, request: int, output: int) -> None:
        self._call = call
        self._request = p.request_layout(self._blocks[request])
        shape = p.Shape(*(int(n) for n in self._request.shape))
        size = (shape.items, shape.channels, shape.samples)
        count = shape.items * shape.channels * shape.samples
        flat = np.frombuffer(self._blocks[output], np.float32, count)
        self._output = flat.reshape(size)

    def _item(self, item: int) -> None:
        request = self._request
        began = time.monotonic()
        request.began[self._index] = began
        status = Status.ERROR
        try:
            audio = request.audio[request.source[item]]
            rendered = self._engine.render(audio, request.controls[item])
            status = judge(rendered)
            if status == Status.OK:
                self._output[item] = rendered
        except Exception as error:  # whatever a plug-in raises
            head = p.RAISED + p.REASON_BODY.pack(self._call, item)
            self._send(head + repr(error).encode()[:4000])
        request.seconds[item] = time.monotonic() - began
        request.status[item] = status  # last: it says that the item is done


def _die_with(parent: int) -> None:
    """Has the kernel kill this process when the thread that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # If the parent died before the call, nobody will send the signal any more.
    if os.getppid() != parent:
        sys.exit(0)


def _trial(engine: Engine, effect: HostEffect, sample_rate: int | float) -> float:
    """Renders a little noise, which warms everything up; seconds per sample."""
    length = max(int(_TRIAL_SECONDS * sample_rate), 1)
    noise = np.random.default_rng(0).standard_normal((1, length), np.float32) * 0.1
    controls = default_controls(effect.specs)
    engine.render(noise, controls)
    began = time.monotonic()
    engine.render(noise, controls)
    return (time.monotonic() - began) / length


def main() -> None:
    """Serves the socket on standard input, which plug-ins then find empty."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=os.dup(0))
    null: Any = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    serve(connection)


if __name__ == "__main__":
    main()
