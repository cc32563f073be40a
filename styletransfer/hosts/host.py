"""A host: an effect opened at a sample rate, and the two backends without processes.

`SerialHost` is the reference that every other backend must equal bit for bit, and the
one to debug with. `ThreadHost` runs pedalboard's built-ins on all cores (they release
the interpreter lock), but a crash takes the process along and a hang cannot be ended.
"""

import logging
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ddspx.parameters import ParameterSpec, settings
from styletransfer.hosts.description import HostEffect
from styletransfer.hosts.engine import Engine, runs_in_threads
from styletransfer.hosts.request import Rendered, Request, Status, check_request, judge

_log = logging.getLogger(__name__)


@runtime_checkable
class Host(Protocol):
    """An opened effect; a context manager that closes it.

    Attributes:
      effect: with its ranges limited to the sample rate.
      specs: the controls, in the order of their last axis.
      sample_rate: Hz.
      counts: what happened so far: items, clamped, retries, excluded; and, with
        processes, restarts and timeouts.
    """

    effect: HostEffect
    specs: tuple[ParameterSpec, ...]
    sample_rate: float
    counts: Counter

    def render(
        self,
        audio: np.ndarray,
        controls: np.ndarray,
        source: np.ndarray | None = None,
    ) -> Rendered:
        """Renders items; a failing item fails alone and is named in the log.

        Args:
          audio: [signals, channels, time]; the tail is cut at the end, so pad for it.
          controls: [items, n]; NaN becomes 0.5 and the rest is clipped into [0, 1].
          source: [items], the signal of each item; None for one each, or one for all.

        Returns:
          `Rendered`, in memory of its own.

        Raises:
          ValueError: shapes that do not fit.
          RuntimeError: the host is closed, or its workers cannot be kept alive.
        """
        ...

    def close(self) -> None:
        """Ends workers and frees memory; may be called twice."""
        ...

    def __enter__(self) -> Any: ...

    def __exit__(self, *exception: object) -> None: ...


class BaseHost:
    """What all backends share: checking, locking, naming of excluded items.

    Args:
      effect: a description; its ranges are limited to the sample rate.
      sample_rate: Hz, positive.
    """

    def __init__(self, effect: HostEffect, sample_rate: int | float):
        if not 1e3 <= sample_rate <= 1e6:
            raise ValueError(f"sample_rate {sample_rate} must be 1000 to 1000000 Hz")
        self.effect = effect.at_sample_rate(sample_rate)
        self.specs = self.effect.specs
        self.sample_rate = float(sample_rate)
        self.counts: Counter[str] = Counter()
        self._lock = threading.RLock()
        self._closed = False

    def render(
        self,
        audio: np.ndarray,
        controls: np.ndarray,
        source: np.ndarray | None = None,
    ) -> Rendered:
        """See `Host.render`."""
        request = check_request(self.specs, audio, controls, source)
        with self._lock:
            if self._closed:
                raise RuntimeError(f"the host of {self.effect.name!r} is closed")
            rendered, reasons = self._render(request)
            self.counts["items"] += len(request.controls)
            self.counts["clamped"] += request.clamped
            self.counts["excluded"] += len(reasons)
        for item, reason in sorted(reasons.items()):
            values = settings(self.specs, request.controls[item])
            _log.warning(
                "effect %s: item %d of %d excluded, %s: %s; controls %s",
                self.effect.name,
                item,
                len(request.controls),
                Status(rendered.status[item]).name,
                reason,
                ", ".join(f"{name}={v['text']}" for name, v in values.items()),
            )
        return rendered

    def close(self) -> None:
        """See `Host.close`."""
        self._closed = True

    def _render(self, request: Request) -> tuple[Rendered, dict[int, str]]:
        raise NotImplementedError

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class SerialHost(BaseHost):
    """Renders one item after the other in the calling thread."""

    def __init__(self, effect: HostEffect, sample_rate: int | float):
        super().__init__(effect, sample_rate)
        self._engines = [Engine(self.effect, self.sample_rate)]

    def _render(self, request: Request) -> tuple[Rendered, dict[int, str]]:
        rendered, reasons = _empty(request), {}
        for item in range(len(request.controls)):
            self._item(0, item, request, rendered, reasons)
        return rendered, reasons

    def _item(
        self,
        worker: int,
        item: int,
        request: Request,
        rendered: Rendered,
        reasons: dict[int, str],
    ) -> None:
        audio = request.audio[request.source[item]]
        status, reason = Status.OK, ""
        for attempt in range(2):
            try:
                output = self._engines[worker].render(audio, request.controls[item])
                rendered.audio[item] = output
                status, reason = judge(output), "output not usable"
            except Exception as error:  # whatever a plug-in raises
                status, reason = Status.ERROR, repr(error)
            if status == Status.OK:
                break
            if attempt == 0:
                self.counts["retries"] += 1
                self._engines[worker] = Engine(self.effect, self.sample_rate)
        rendered.status[item] = status
        if status != Status.OK:
            rendered.audio[item] = 0.0
            reasons[item] = reason


class ThreadHost(SerialHost):
    """Renders on several threads, each with instances of its own.

    Args:
      effect: built-ins only.
      sample_rate: Hz.
      workers: threads; the cores this process may use when None.
    """

    def __init__(
        self, effect: HostEffect, sample_rate: int | float, workers: int | None = None
    ):
        if not runs_in_threads(effect):
            raise ValueError(
                f"effect {effect.name!r} has plug-ins that may not run in threads of"
                ' this process; use backend="process"'
            )
        super().__init__(effect, sample_rate)
        threads = usable_cores() if workers is None else workers
        self._engines = [Engine(self.effect, self.sample_rate) for _ in range(threads)]
        self._executor = ThreadPoolExecutor(threads, "render")

    def _render(self, request: Request) -> tuple[Rendered, dict[int, str]]:
        rendered, reasons = _empty(request), {}
        ticket, items = count(), len(request.controls)
        stop = threading.Event()

        def work(worker: int) -> None:
            # next() on a counter is atomic, so each item is taken once.
            while (item := next(ticket)) < items and not stop.is_set():
                self._item(worker, item, request, rendered, reasons)

        busy = [self._executor.submit(work, k) for k in range(len(self._engines))]
        try:
            for future in busy:
                future.result()
        except BaseException:
            # Ctrl-C: let each thread end its item, so that the host stays usable.
            stop.set()
            for future in busy:
                future.exception()
            raise
        return rendered, reasons

    def close(self) -> None:
        """See `Host.close`."""
        super().close()
        self._executor.shutdown()


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def _empty(request: Request) -> Rendered:
    items = len(request.controls)
    shape = (items, *request.audio.shape[1:])
    return Rendered(np.empty(shape, np.float32), np.zeros(items, np.int32))
