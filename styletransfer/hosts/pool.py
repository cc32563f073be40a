"""`RenderPool`: worker processes that render a batch and lose nothing to a bad plug-in.

The parent copies signals into shared memory, deals out runs of items that shrink as the
end nears (guided scheduling), and sleeps. A worker asks for more when it begins
the last item it has, so that it never waits for the parent; what it renders, it writes
where the caller will read it. A worker that dies or falls silent is replaced and its
items are rendered again, the one it was at by another worker; an item that fails twice
is excluded: zeros, a status, and a line in the log that names it and its settings.
"""

import json
import selectors
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from styletransfer.hosts import protocol as p
from styletransfer.hosts.description import HostEffect
from styletransfer.hosts.host import BaseHost, usable_cores
from styletransfer.hosts.memory import BlockStore
from styletransfer.hosts.process import WorkerProcess
from styletransfer.hosts.request import Rendered, Request, Status

_WORTH_A_MESSAGE_S = 2e-4
# A comparison with a member of an enumeration costs a microsecond.
_OK, _ERROR = int(Status.OK), int(Status.ERROR)


@dataclass(frozen=True)
class Patience:
    """When the pool gives up on something.

    Attributes:
      timeout_s: seconds for one item, as it is; None for `factor` times the measured
        cost plus `floor_s`, and four times that for an item's second chance.
      factor: see above.
      floor_s: see above.
      start_s: seconds for a worker to open the effect.
      tries: renders of an item before it is excluded.
      failures: deaths and silences of workers, without one good item or start between
        them, after which the pool ends with an error.
    """

    timeout_s: int | float | None = None
    factor: float = 20.0
    floor_s: float = 0.5
    start_s: float = 60.0
    tries: int = 2
    failures: int = 10


@dataclass
class _Call:
    """One call to `render` while it runs."""

    number: int
    request: p.RequestLayout
    request_block: int
    output_block: int
    output: np.ndarray
    audio: np.ndarray
    items: int
    least: int
    next_item: int = 0
    left: int = 0
    copied: set[int] = field(default_factory=set)
    tries: Counter = field(default_factory=Counter)
    # Items to be rendered again, and the worker that should not get each of them.
    again: deque[tuple[int, int]] = field(default_factory=deque)
    raised: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)


class RenderPool(BaseHost):
    """The process backend of `styletransfer.hosts.open.open_host`.

    Args:
      effect: a description; its ranges are limited to the sample rate.
      sample_rate: Hz.
      workers: processes; the usable cores when None.
      timeout_s: short for ``Patience(timeout_s=...)``.
      patience: when to give up.

    Raises:
      ValueError: the effect cannot be opened.
      RuntimeError: a worker does not start; quotes what it wrote.
    """

    def __init__(
        self,
        effect: HostEffect,
        sample_rate: int | float,
        *,
        workers: int | None = None,
        timeout_s: int | float | None = None,
        patience: Patience | None = None,
    ):
        super().__init__(effect, sample_rate)
        self.patience = patience or Patience(timeout_s=timeout_s)
        self._store = BlockStore()
        self._selector = selectors.DefaultSelector()
        # Workers die with the *thread* that started them, so one thread that lives as
        # long as the pool starts them all, whichever thread renders.
        self._starter = ThreadPoolExecutor(1, "render-start")
        self._workers: list[WorkerProcess] = []
        self._failures = 0
        self._calls = 0
        self._cost = 0.0
        try:
            for index in range(usable_cores() if workers is None else workers):
                self._workers.append(self._start(index))
            while not all(worker.ready for worker in self._workers):
                self._wait(None)
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers, as they are now."""
        return tuple(worker.pid for worker in self._workers)

    @property
    def timeout_s(self) -> float:
        """Seconds granted to one second of one channel, as measured so far."""
        return self._timeout(int(self.sample_rate), 1)

    def close(self) -> None:
        """Ends the workers. Results that are still held stay valid."""
        with self._lock:
            if self._closed:
                return
            super().close()
            for worker in self._workers:
                worker.kill()
            self._selector.close()
            self._store.close()
            self._starter.shutdown(wait=False)

    def _render(self, request: Request) -> tuple[Rendered, dict[int, str]]:
        items = len(request.controls)
        size = (items, *request.audio.shape[1:])
        if not items:
            return Rendered(np.zeros(size, np.float32), np.zeros(0, np.int32)), {}
        signals, channels, samples = request.audio.shape
        shape = p.Shape(
            signals, channels, samples, items, len(self.specs), len(self._workers)
        )
        block = self._take(shape.request_bytes())
        output_block = self._take(shape.output_bytes())
        output = self._store.lease(output_block, size)
        layout = p.request_layout(block.mapping, shape)
        layout.status[:] = p.PENDING
        layout.began[:] = 0.0
        layout.source[:] = request.source
        layout.controls[:] = request.controls
        self._calls += 1
        call = _Call(
            self._calls,
            layout,
            block.number,
            output_block.number,
            output,
            request.audio,
            items,
            # A run of items is worth a message when it takes this long.
            int(_WORTH_A_MESSAGE_S / max(self._cost * channels * samples, 1e-7)),
            left=items,
        )
        try:
            for worker in self._workers:
                self._feed(worker, call)
            while call.left:
                self._wait(call)
        except BaseException:
            # Ctrl-C, or an error of ours: nobody may go on writing into the blocks.
            self._abandon()
            raise
        finally:
            self._store.give_back(block)
        self._learn(layout, shape)
        for worker in self._workers:
            worker.trim_log()
        return Rendered(output, layout.status.copy()), call.reasons

    def _take(self, size: int):
        block, new, dropped = self._store.take(size)
        for worker in self._workers:
            for old in dropped:
                worker.send(p.DROP + p.BLOCK_BODY.pack(old.number, old.size))
            if new:
                worker.send_block(block)
        return block

    # --- scheduling

    def _feed(self, worker: WorkerProcess, call: _Call) -> None:
        """Sends a worker its next items, unless it has enough or there are none."""
        if not worker.ready or len(worker.todo) > 1:
            return
        first, count = self._next_items(worker, call)
        if not count:
            return
        if not worker.todo:
            worker.since = time.monotonic()
        worker.todo.extend(range(first, first + count))
        # Signals are copied when they are first needed: the first worker starts after
        # one of them, and the rest are copied while it renders.
        source = call.request.source
        for signal in {int(source[k]) for k in range(first, first + count)}:
            if signal not in call.copied:
                call.copied.add(signal)
                call.request.audio[signal] = call.audio[signal]
        more = bool(call.again) or call.next_item < call.items
        body = (call.number, call.request_block, call.output_block, first, count, more)
        worker.send(p.JOB + p.JOB_BODY.pack(*body))

    def _next_items(self, worker: WorkerProcess, call: _Call) -> tuple[int, int]:
        alone = len(self._workers) == 1
        for position, (item, avoid) in enumerate(call.again):
            if alone or avoid != worker.index:
                del call.again[position]
                return item, 1
        remaining, workers = call.items - call.next_item, len(self._workers)
        share = max(1, remaining // (2 * workers))
        if share < call.least:  # cheap items: rather a message less than even shares
            share = min(call.least, -(-remaining // workers))
        elif call.next_item < workers:
            share = 1  # to have all workers busy as soon as can be
        count = min(remaining, share)
        first = call.next_item
        call.next_item += count
        return first, count

    def _wait(self, call: _Call | None) -> None:
        """Sleeps until a worker speaks, dies or runs out of time, and deals with it."""
        now = time.monotonic()
        deadline = min(self._deadline(w, call) for w in self._workers)
        events = self._selector.select(max(0.0, min(deadline - now, 3600.0)))
        for key, _ in events:
            self._listen(key.data, call)
        if not events:
            now = time.monotonic()
            for worker in self._workers:
                if call is not None:
                    self._collect(worker, call)
                if now > self._deadline(worker, call):
                    self.counts["timeouts"] += 1
                    self._lost(worker, call, "silent beyond its time-out")
        if call is not None:
            for worker in self._workers:
                self._feed(worker, call)

    def _listen(self, worker: WorkerProcess, call: _Call | None) -> None:
        message = worker.receive()
        if message is None:
            return
        kind, body = message[:1], message[1:]
        if not message:
            self._lost(worker, call, "")
        elif kind == p.READY:
            worker.ready = True
            self._failures = 0
            self._cost = max(self._cost, p.READY_BODY.unpack(body)[0])
        elif kind == p.REFUSED:
            refusal = json.loads(body)
            text = f"cannot open effect {self.effect.name!r}: {refusal['text']}"
            if call is not None:  # it could be opened before, so it may be again
                self._lost(worker, call, text)
                return
            if refusal["type"] == "ValueError":
                raise ValueError(text)
            raise RuntimeError(f"{text} ({refusal['type']})")
        elif call is not None:
            if kind == p.RAISED:
                _note_reason(body, call)
            self._collect(worker, call)

    def _collect(self, worker: WorkerProcess, call: _Call) -> None:
        """Notes which of its items a worker has done."""
        status = call.request.status
        while worker.todo and status[worker.todo[0]] != p.PENDING:
            item = worker.todo.popleft()
            if status[item] == _OK:
                self._failures = 0
                call.left -= 1
                continue
            if status[item] == _ERROR and item not in call.raised:
                # What it raised was sent before the status was set. Whatever else lies
                # before it asks for what follows here anyway.
                while message := worker.receive():
                    if message[:1] == p.RAISED:
                        _note_reason(message[1:], call)
            reason = call.raised.pop(item, "output not usable")
            self._failed(item, worker, call, Status(int(status[item])), reason)

    # --- failures

    def _failed(
        self,
        item: int,
        worker: WorkerProcess,
        call: _Call,
        status: Status,
        reason: str,
    ) -> None:
        """An item went wrong: another try by another worker, or excluded."""
        call.tries[item] += 1
        if call.tries[item] < self.patience.tries:
            self.counts["retries"] += 1
            call.request.status[item] = p.PENDING
            call.again.append((item, worker.index))
            return
        call.request.status[item] = status
        call.output[item] = 0.0
        call.reasons[item] = reason
        call.left -= 1

    def _lost(self, worker: WorkerProcess, call: _Call | None, why: str) -> None:
        """A worker died or is silent: replaces it and deals its items out again."""
        if call is not None:
            self._collect(worker, call)
        how = self._kill(worker, hung_up=not why)
        why = f"worker {why}, {how}" if why else f"worker {how}"
        self._failures += 1
        if self._failures > self.patience.failures:
            self.close()
            raise RuntimeError(
                f"workers of effect {self.effect.name!r} failed {self._failures} times"
                f" in a row, the pool is closed; the last one: {why}"
            )
        if call is not None and worker.todo:
            # It went through them in order, so the first one is to blame.
            blamed = worker.todo.popleft()
            call.again.extend((item, -1) for item in worker.todo)
            self._failed(blamed, worker, call, Status.FAILED, why)
        self.counts["restarts"] += 1
        self._workers[worker.index] = self._start(worker.index)

    def _abandon(self) -> None:
        """Replaces every worker that may still be rendering."""
        if self._closed:
            return
        for worker in list(self._workers):
            if worker.todo:
                self._kill(worker)
                self.counts["restarts"] += 1
                self._workers[worker.index] = self._start(worker.index)

    def _start(self, index: int) -> WorkerProcess:
        worker = self._starter.submit(
            WorkerProcess, self.effect, self.sample_rate, index
        ).result()
        worker.since = time.monotonic()
        self._selector.register(worker.connection, selectors.EVENT_READ, worker)
        for block in self._store.blocks.values():
            worker.send_block(block)
        return worker

    def _kill(self, worker: WorkerProcess, hung_up: bool = False) -> str:
        self._selector.unregister(worker.connection)
        return worker.kill(hung_up)

    # --- time

    def _deadline(self, worker: WorkerProcess, call: _Call | None) -> float:
        """Monotonic time at which a worker is taken to hang."""
        if not worker.ready:
            return worker.since + self.patience.start_s
        if call is None or not worker.todo:
            return float("inf")
        _, channels, samples = call.request.audio.shape
        timeout = self._timeout(samples, call.tries[worker.todo[0]] + 1, channels)
        # The worker itself notes when it began an item, so its queue costs no time.
        return max(worker.since, float(call.request.began[worker.index])) + timeout

    def _timeout(self, samples: int, attempt: int, channels: int = 1) -> float:
        if self.patience.timeout_s is not None:
            return self.patience.timeout_s
        cost = self._cost * samples * channels
        once = self.patience.floor_s + self.patience.factor * cost
        # A busy machine may have slowed the first try down; be sure of the second.
        return once if attempt == 1 else 4.0 * once

    def _learn(self, request: p.RequestLayout, shape: p.Shape) -> None:
        """Keeps the dearest call's median cost per channel and sample."""
        done = request.seconds[request.status == Status.OK]
        if len(done):
            cost = float(np.median(done)) / (shape.channels * shape.samples)
            self._cost = max(self._cost, cost)


def _note_reason(body: bytes, call: _Call) -> None:
    number, item = p.REASON_BODY.unpack(body[: p.REASON_BODY.size])
    if number == call.number:
        call.raised[item] = body[p.REASON_BODY.size :].decode(errors="replace")
