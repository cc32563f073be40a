"""Accuracy of the DSP in float32, as SNR in dB against float64.

    python scripts/benchmark.py accuracy
    python scripts/benchmark.py accuracy --lengths 512 131072

Equalizer: four settings that are hard in float32, from float32 controls. "response" is
`ddspx.filters.section_response` on 65,537 frequencies, "fft", "block" and "scan" the
methods of `filter_sections` on white noise, "scipy" is scipy's sosfilt in float32 with
coefficients designed in float64 and rounded; the truth is sosfilt in float64. Dynamics:
see `benchmarks.accuracy_dynamics`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.signal
import tyro
from benchmarks.accuracy_dynamics import dynamics_rows

from ddspx.filters import analog, filter_sections, section_response
from ddspx.filters.analog import Section

_RATE = 44100
_FREQUENCIES = 65537
_METHODS = ("fft", "block", "scan")


class Case(NamedTuple):
    """A filter and the float32 controls at which it is hard."""

    name: str
    design: Callable[..., Section]
    controls: tuple[float, float, float]


WORST_CASES = (
    Case("+20 dB peak 80 Hz Q 6", analog.peak, (80.0, 20.0, 6.0)),
    Case("+12 dB low shelf 20 Hz", analog.low_shelf, (20.0, 12.0, 0.70710677)),
    Case("+12 dB low shelf 100 Hz", analog.low_shelf, (100.0, 12.0, 0.70710677)),
    Case("+20 dB peak 2 kHz Q 6", analog.peak, (2000.0, 20.0, 6.0)),
)


class EqualizerRow(NamedTuple):
    """SNR in dB of one case at one length."""

    case: str
    samples: int
    response_db: float
    fft_db: float
    block_db: float
    scan_db: float
    scipy_db: float


def equalizer_rows(lengths: Sequence[int]) -> list[EqualizerRow]:
    """The figures of all four cases.

    Args:
      lengths: samples of the noise that is filtered.

    Returns:
      A row for each case and length.
    """
    return [row for case in WORST_CASES for row in _case_rows(case, lengths)]


def snr_db(found: Any, truth: np.ndarray) -> float:
    """``10 log10(sum |truth|^2 / sum |found - truth|^2)``, in float64."""
    noise = np.sum(np.abs(np.asarray(found, truth.dtype) - truth) ** 2)
    return float(10.0 * np.log10(np.sum(np.abs(truth) ** 2) / noise))


def _case_rows(case: Case, lengths: Sequence[int]) -> list[EqualizerRow]:
    frequencies_hz = np.linspace(0.0, _RATE / 2, _FREQUENCIES)
    rounded = [np.float32(value) for value in case.controls]
    exact = analog.series(case.design(*map(float, rounded), _RATE))
    sos = np.concatenate(analog.coefficients(exact), -1)
    controls = [jnp.asarray(value) for value in rounded]

    truth = np.asarray(section_response(exact, frequencies_hz, _RATE))
    found = _respond(controls, case.design)
    response_db = snr_db(found, truth)
    rows = []
    for length in lengths:
        noise = np.random.default_rng(0).standard_normal(length).astype(np.float32)
        truth = np.asarray(scipy.signal.sosfilt(sos, noise.astype(float)))
        found = [_filter(noise, controls, case.design, m) for m in _METHODS]
        figures = [snr_db(audio, truth) for audio in found]
        single = scipy.signal.sosfilt(sos.astype(np.float32), noise)
        figures.append(snr_db(single, truth))
        rows.append(EqualizerRow(case.name, length, response_db, *figures))
    return rows


@partial(jax.jit, static_argnames="design")
def _respond(controls, design):
    frequencies_hz = np.linspace(0.0, _RATE / 2, _FREQUENCIES)
    sections = analog.series(design(*controls, _RATE))
    return section_response(sections, frequencies_hz, _RATE)


@partial(jax.jit, static_argnames=("design", "method"))
def _filter(audio, controls, design, method):
    sections = analog.series(design(*controls, _RATE))
    return filter_sections(audio, sections, method=method)[0]


ROWS: list[Callable[[Sequence[int]], list[Any]]] = [
    equalizer_rows,
    dynamics_rows,
]


@dataclass(frozen=True)
class Arguments:
    """Prints the accuracy of filters and dynamics in float32.

    Attributes:
      lengths: samples.
    """

    lengths: tuple[int, ...] = (512, 2048, 16384, 131072)


def main(rest: list[str]) -> None:
    """Runs the suite on the rest of the command line."""
    arguments = tyro.cli(
        Arguments, args=rest, prog="benchmark.py accuracy", description=__doc__
    )
    for rows in ROWS:
        table = rows(arguments.lengths)
        print(" | ".join(table[0]._fields))
        for row in table:
            cells = [f"{x:.1f}" if isinstance(x, float) else str(x) for x in row]
            print(" | ".join(cells), flush=True)
