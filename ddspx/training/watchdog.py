"""What stops a run: numbers that are not finite, an output that went silent, Ctrl-C.

The device runs ahead of the host: `Watchdog` keeps the metrics of the steps in flight
and reads them together, in order, so that the first bad step is named although nothing
waited for it.
"""

import contextlib
import signal
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddspx.training.configuration import FitConfig


class NonFiniteError(FloatingPointError):
    """A quantity became NaN or infinite; the message names it, its step and files."""


class SilenceError(RuntimeError):
    """The output collapsed to silence; the message names the step and the level."""


class Watchdog:
    """Collects the metrics of each step and checks them in order.

    Attributes:
        silent_steps: silent steps in a row so far (goes into checkpoints).
    """

    def __init__(
        self, config: FitConfig, file_names: Sequence[str] = (), silent_steps: int = 0
    ) -> None:
        self._config = config
        self._file_names = file_names
        self._waiting: deque[tuple[int, Any, np.ndarray]] = deque()
        self.silent_steps = silent_steps

    def add(self, step: int, metrics: Mapping[str, Any], files: Any) -> None:
        """Notes the metrics of a step, which may still be computing.

        Waits for the step `in_flight` steps ago, so that the host cannot run away.
        """
        self._waiting.append((step, dict(metrics), np.asarray(files, np.int64)))
        if len(self._waiting) > self._config.in_flight:
            jax.block_until_ready(self._waiting[-1 - self._config.in_flight][1])

    def read(self) -> list[tuple[int, dict[str, float]]]:
        """Fetches all metrics not yet read, checks them, and returns them by step.

        Raises:
            NonFiniteError: for the first step with a metric that is not finite.
            SilenceError: when the output was silent for too many steps in a row.
        """
        waiting, self._waiting = list(self._waiting), deque()
        fetched = jax.device_get([metrics for _, metrics, _ in waiting])
        read = []
        for (step, _, files), metrics in zip(waiting, fetched, strict=True):
            values = {name: _scalar(name, value) for name, value in metrics.items()}
            self.check_finite(step, values, files)
            self._check_silence(step, values)
            read.append((step, values))
        return read

    def check_finite(
        self, step: int, values: Mapping[str, float], files: Any = ()
    ) -> None:
        """Raises `NonFiniteError` if a value is not finite, naming all that are not."""
        bad = {name: value for name, value in values.items() if not np.isfinite(value)}
        if bad:
            what = ", ".join(f"{name} is {value}" for name, value in bad.items())
            raise NonFiniteError(
                f"{what} at step {step}; files of this batch: {self.names(files)}"
            )

    def names(self, files: Any) -> str:
        """The names of a batch's files (their numbers where no names are known)."""
        known = self._file_names
        indices = dict.fromkeys(int(i) for i in np.ravel(files))
        if not indices:
            return "(the batch has no `file` entry)"
        return ", ".join(
            str(known[i]) if 0 <= i < len(known) else f"#{i}" for i in indices
        )

    def _check_silence(self, step: int, values: Mapping[str, float]) -> None:
        config = self._config
        level = values.get(config.silence_metric)
        if level is None:
            return
        silent = level < config.silence_threshold_db
        self.silent_steps = self.silent_steps + 1 if silent else 0
        if self.silent_steps >= config.silence_steps:
            raise SilenceError(
                f"the output collapsed to silence: {config.silence_metric} is "
                f"{level:.1f} dB at step {step}, and was below "
                f"{config.silence_threshold_db} dB for {self.silent_steps} steps; "
                "lower the learning rate or look at the loss, then resume from the "
                "checkpoint before"
            )


def _scalar(name: str, value: Any) -> float:
    if np.ndim(value):
        raise ValueError(
            f"metric '{name}' has shape {np.shape(value)}; expected a scalar: average "
            "it over the batch in the step"
        )
    return float(value)


@jax.jit
def _survey(leaves: list[jax.Array]) -> tuple[list[jax.Array], jax.Array]:
    finite, total = [], jnp.zeros((), jnp.uint32)
    for leaf in leaves:
        inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
        finite.append(jnp.isfinite(leaf).all() if inexact else jnp.bool_(True))
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            leaf = jnp.stack([leaf.real, leaf.imag])
        if leaf.dtype == bool:
            leaf = leaf.astype(jnp.uint8)
        # Bits as unsigned words, each times an odd number of its place: a changed
        # word, or two exchanged ones, change the sum.
        bits = 8 * leaf.dtype.itemsize
        unsigned = jnp.dtype(f"uint{min(bits, 32)}")
        words = jax.lax.bitcast_convert_type(leaf, unsigned).ravel().astype(jnp.uint32)
        place = jax.lax.iota(jnp.uint32, words.size) * jnp.uint32(0x9E3779B2)
        total = total * jnp.uint32(31) + jnp.sum(
            words * (place + jnp.uint32(1)), dtype=jnp.uint32
        )
    return finite, total


def survey(tree: Any) -> tuple[tuple[str, ...], int]:
    """Looks through a state on its device: what is not finite, and a checksum.

    Args:
        tree: pytree of arrays.

    Returns:
        The names of leaves with NaN or infinity, and a 32-bit checksum of all bits.
    """
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    leaves = [
        jax.random.key_data(leaf)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else leaf
        for _, leaf in paths
    ]
    finite, checksum = jax.device_get(_survey(leaves))
    bad = tuple(
        jax.tree_util.keystr(path, simple=True, separator=".")
        for (path, _), good in zip(paths, finite, strict=True)
        if not good
    )
    return bad, int(checksum)


class StopRequest:
    """Becomes true when the user or the machine's keeper asks the run to stop."""

    def __init__(self) -> None:
        self._set = False

    def __bool__(self) -> bool:
        return self._set

    def set(self) -> None:
        """Asks for a stop after the current step."""
        self._set = True


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turns the first Ctrl-C (or SIGTERM) into a request; the second one interrupts.

    Outside the main thread, where Python handles no signals, nothing is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, frame: Any) -> None:
        if request and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.set()

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
