"""`open_host`: the door through which everything else reaches a black-box effect."""

from typing import Literal

from styletransfer.hosts.description import HostEffect
from styletransfer.hosts.host import Host, SerialHost, ThreadHost

Backend = Literal["process", "thread", "serial"]


def open_host(
    effect: HostEffect,
    sample_rate: int | float,
    *,
    backend: Backend = "process",
    workers: int | None = None,
    timeout_s: int | float | None = None,
) -> Host:
    """Opens an effect at a sample rate.

    Args:
      effect: a description, from `styletransfer.presets.load_effect` or made by hand.
      sample_rate: Hz; ranges in Hz are limited to 0.45 of it, see `host.specs`.
      backend: ``"process"`` survives anything a plug-in does; ``"thread"`` is for
        built-ins; ``"serial"`` is the reference. All give the same bits.
      workers: processes or threads; the usable cores when None.
      timeout_s: seconds after which a silent worker process is taken to hang; None
        derives it from the cost that the pool measures.

    Returns:
      A `Host`; close it, or use it as a context manager.

    Raises:
      ValueError: an unknown backend, or a description that cannot be opened.
      RuntimeError: the worker processes do not start; quotes what they said.

    Example:
      >>> with open_host(load_effect("compressor"), 24000) as host:
      ...     audio, status = host.render(signals, controls)
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers {workers} must be at least 1")
    if backend == "serial":
        return SerialHost(effect, sample_rate)
    if backend == "thread":
        return ThreadHost(effect, sample_rate, workers)
    if backend == "process":
        from styletransfer.hosts.pool import RenderPool

        return RenderPool(effect, sample_rate, workers=workers, timeout_s=timeout_s)
    raise ValueError(f"backend {backend!r} is not process, thread or serial")
