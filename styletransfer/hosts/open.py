"""`open_host`: the door through which everything else reaches an effect."""

from typing import Literal, get_args

from styletransfer.hosts.description import HostEffect
from styletransfer.hosts.host import Host, SerialHost, ThreadHost

Backend = Literal["process", "thread", "serial"]
# Where JAX takes part in a chain, a worker compiles before the first item of a shape,
# which must not be taken for hanging.
_COMPILING_S = 120.0


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
        built-ins; ``"serial"`` is the reference. All give the same bits. An effect that
        is in JAX from end to end is rendered in this process whatever is given, for
        there is no plug-in that could crash, and JAX uses the device as it is; a chain
        of both kinds is rendered where the backend says.
      workers: processes or threads, with JAX threads; the usable cores when None.
      timeout_s: seconds after which a silent worker process is taken to hang; None
        derives it from the cost that the pool measures.

    Returns:
      A `Host`; close it, or use it as a context manager. That of an effect in JAX is a
      `styletransfer.twins.host.JaxHost`, which also has the `Effect` to differentiate.

    Raises:
      ValueError: an unknown backend, or a description that cannot be opened.
      RuntimeError: the worker processes do not start; quotes what they said.

    Example:
      >>> with open_host(load_effect("compressor"), 24000) as host:
      ...     audio, status = host.render(signals, controls)
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers {workers} must be at least 1")
    if backend not in get_args(Backend):
        raise ValueError(f"backend {backend!r} is not process, thread or serial")
    if effect.kinds == {"jax"}:
        from styletransfer.twins.host import JaxHost

        return JaxHost(effect, sample_rate, workers)
    if backend == "serial":
        return SerialHost(effect, sample_rate)
    if backend == "thread":
        return ThreadHost(effect, sample_rate, workers)
    from styletransfer.hosts.pool import RenderPool

    if timeout_s is None and "jax" in effect.kinds:
        timeout_s = _COMPILING_S
    return RenderPool(effect, sample_rate, workers=workers, timeout_s=timeout_s)
