"""One worker process as its parent sees it: started, spoken to, killed."""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from styletransfer.hosts import protocol as p
from styletransfer.hosts.description import HostEffect
from styletransfer.hosts.memory import Block

_ROOT = Path(__file__).resolve().parents[2]
_LOG_BYTES = 1 << 22
_MOMENT_S = 1.0
# Large blocks stay on the heap and are never returned: without this the kernel clears
# about a hundred pages per render, and a cheap effect runs at a quarter of the rate.
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(1 << 25),
}
# Some third-party plug-ins read memory that they never wrote (MDA Delay: a cell of its
# line). glibc fills what malloc gives with the complement of `perturb`, zeros, unless
# it comes from a thread's own cache.
_ZEROED = {"GLIBC_TUNABLES": "glibc.malloc.perturb=255:glibc.malloc.tcache_count=0"}


class WorkerProcess:
    """A process that renders; the caller does the scheduling.

    Args:
      effect: limited to the sample rate.
      sample_rate: Hz.
      index: of the worker in its pool.

    Attributes:
      connection: non-blocking SEQPACKET socket; readable when the worker speaks or is
        dead.
      ready: whether it has opened the effect.
      todo: items that were sent and are not known to be done, in their order.
      since: monotonic time of the start, or when `todo` was last filled from empty.
    """

    def __init__(self, effect: HostEffect, sample_rate: int | float, index: int):
        self.index = index
        self.ready = False
        self.todo: deque[int] = deque()
        self.since = 0.0
        self._ending = ""
        self._log = os.memfd_create("render-log", os.MFD_CLOEXEC)
        # Appending, so that a log may be emptied under a process that writes to it.
        fcntl.fcntl(self._log, fcntl.F_SETFL, os.O_APPEND)
        self.connection, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET
        )
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "styletransfer.hosts.worker"],
                stdin=theirs.fileno(),
                stdout=self._log,
                stderr=self._log,
                env=worker_environment(effect.kinds),
                # A Ctrl-C of the terminal goes to the group of the parent alone.
                process_group=0,
            )
        except BaseException:
            self.connection.close()
            os.close(self._log)
            raise
        finally:
            theirs.close()
        self.connection.setblocking(False)
        config = {
            "effect": asdict(effect),
            "sample_rate": sample_rate,
            "parent": os.getpid(),
            "index": index,
        }
        self.send(p.CONFIGURE + json.dumps(config).encode())

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def send(self, message: bytes) -> bool:
        """Sends; False when the worker is dead, which reading will tell as well."""
        try:
            self.connection.send(message)
        except OSError:
            return False
        return True

    def send_block(self, block: Block) -> None:
        """Makes a block of shared memory known to the worker."""
        head = p.BLOCK + p.BLOCK_BODY.pack(block.number, block.size)
        try:
            socket.send_fds(self.connection, [head], [block.descriptor])
        except OSError:
            return

    def receive(self) -> bytes | None:
        """One message; empty when the worker is dead, None when it said nothing."""
        try:
            return self.connection.recv(p.LARGEST_MESSAGE)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def kill(self, hung_up: bool = False) -> str:
        """Ends the process for certain; says how it ended and what it wrote last.

        May be called again, and then says the same.

        Args:
          hung_up: the worker closed its socket, so it is about to end by itself, and
            how it does is worth a moment.
        """
        if self._ending:
            return self._ending
        self.connection.close()
        if hung_up:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_MOMENT_S)
        died = self._process.poll()
        self._process.kill()
        self._process.wait()
        said = self.last_words()
        os.close(self._log)
        how = "killed" if died is None else _ending(died)
        self._ending = f"{how}; its log ends: {said}" if said else how
        return self._ending

    def last_words(self) -> str:
        """The end of what the process wrote, on one line."""
        size = os.fstat(self._log).st_size
        tail = os.pread(self._log, 1000, max(0, size - 1000))
        return " | ".join(tail.decode(errors="replace").split("\n")[-6:]).strip(" |")

    def trim_log(self) -> None:
        """Forgets a log that plug-ins have filled."""
        if os.fstat(self._log).st_size > _LOG_BYTES:
            os.ftruncate(self._log, 0)


def worker_environment(kinds: Collection[str] = ()) -> dict[str, str]:
    """The environment of this process, made fit for a worker.

    Args:
      kinds: of the plug-ins that it will open.
    """
    environment = {**os.environ, **_ALLOCATOR}
    if {"lv2", "vst3"} & set(kinds):
        environment |= _ZEROED
    environment.pop("DISPLAY", None)
    environment.update(
        CUDA_VISIBLE_DEVICES="-1",
        JAX_PLATFORMS="cpu",
        OMP_NUM_THREADS="1",
        OPENBLAS_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
    )
    # The package is found whatever the working directory is, and however the parent
    # found it; an installed one needs no help.
    if _ROOT.name not in ("site-packages", "dist-packages"):
        paths = [str(_ROOT), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"died of {signal.Signals(-code).name}"
    except ValueError:
        return f"died of signal {-code}"
