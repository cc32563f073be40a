"""`JaxHost`: effects in JAX behind the interface of a host, in this process.

It takes and gives what every host does (clamped controls, a status for each item, zeros
where the output is not usable), and besides has what a black box has not: the
differentiable effect itself.
"""

from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from ddspx.effects.base import Effect
from styletransfer.hosts.description import HostEffect
from styletransfer.hosts.host import BaseHost, usable_cores
from styletransfer.hosts.request import Rendered, Request, Status, judge
from styletransfer.twins.compiled import compiled, padded_length, physical_values
from styletransfer.twins.effect import twin_effect

# Renders in one call on an accelerator.
_BATCH = 16


class JaxHost(BaseHost):
    """Renders descriptions whose plug-ins are twins or effects of `ddspx.effects`.

    An executable is compiled for each shape of audio. On CPU it renders one item, in
    as many threads as there are cores, and so an item has the same bits whatever it is
    rendered with; on accelerators it renders 16. Nothing ever has to be restarted.

    Args:
      effect: a description; its ranges are limited to the sample rate.
      sample_rate: Hz, positive.
      workers: threads on CPU; the cores this process may use when None.

    Attributes:
      differentiable: the `Effect` that is rendered, for searches and experiments that
        take its gradient; its controls are those of `render`. The host takes its
        latency away, as `ddspx.effects.base.aligned` does.

    Raises:
      ValueError: a plug-in that JAX does not have.
    """

    def __init__(
        self, effect: HostEffect, sample_rate: int | float, workers: int | None = None
    ):
        super().__init__(effect, sample_rate)
        self.differentiable: Effect = twin_effect(self.effect, sample_rate)
        on_cpu = jax.default_backend() == "cpu"
        self._batch = 1 if on_cpu else _BATCH
        threads = (usable_cores() if workers is None else workers) if on_cpu else 1
        self._executor = ThreadPoolExecutor(threads, "render")

    def _render(self, request: Request) -> tuple[Rendered, dict[int, str]]:
        items = len(request.controls)
        _, channels, time = request.audio.shape
        rendered = Rendered(
            np.zeros((items, channels, time), np.float32), np.zeros(items, np.int32)
        )
        reasons: dict[int, str] = {}
        length = padded_length(time)
        try:
            render = compiled(
                self.effect, self.sample_rate, self._batch, channels, length
            )
        except Exception as error:  # whatever a factory raises, every item would meet
            rendered.status[:] = Status.ERROR
            return rendered, dict.fromkeys(range(items), repr(error))
        audio = np.pad(request.audio, ((0, 0), (0, 0), (0, length - time)))
        values = physical_values(self.specs, request.controls)

        def work(start: int) -> None:
            # The last batch is filled up with its last item.
            chosen = np.minimum(np.arange(start, start + self._batch), items - 1)
            wanted = range(start, min(start + self._batch, items))
            try:
                chunk = np.asarray(
                    render(audio[request.source[chosen]], values[chosen])
                )
            except Exception as error:  # the device itself failed
                rendered.status[wanted.start : wanted.stop] = Status.ERROR
                reasons.update(dict.fromkeys(wanted, repr(error)))
                return
            for item, output in zip(wanted, chunk, strict=False):
                rendered.audio[item] = output[:, :time]
                status = judge(rendered.audio[item])
                if status != Status.OK:
                    rendered.audio[item] = 0.0
                    rendered.status[item] = status
                    reasons[item] = "output not usable"

        # An interruption here cancels what has not begun.
        for _ in self._executor.map(work, range(0, items, self._batch)):
            pass
        return rendered, reasons

    def close(self) -> None:
        """See `styletransfer.hosts.host.Host.close`."""
        super().close()
        self._executor.shutdown()
