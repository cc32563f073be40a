"""Accuracy of the dynamics in float32, as SNR in dB against loops in float64.

The signal is noise in bursts, decays and pauses. Each effect reads float32 controls;
the truth is computed sample by sample in float64 from the same controls, by code that
shares nothing with `ddspx`. "scan" and "parallel" are the methods of the envelopes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ddspx.effects import dynamics
from ddspx.parameters import to_unit

_RATE = 44100
_METHODS = ("scan", "parallel")
_LONGEST_PARALLEL = 16384

Values = Mapping[str, float]


class Case(NamedTuple):
    """An effect, its options and settings, and the gain it should have."""

    name: str
    make: Callable[..., Any]
    options: Mapping[str, Any]
    settings: Values


class DynamicsRow(NamedTuple):
    """SNR in dB of one case at one length; nan where a method was not run."""

    case: str
    samples: int
    scan_db: float
    parallel_db: float


_EXTREME = {"attack_ms": 0.1, "release_ms": 1000.0, "knee_db": 0.0}
CASES = (
    Case("compressor", dynamics.compressor, {}, {"make_up_db": 6.0}),
    Case(
        "compressor -60 dB 20:1, 0.1/1000 ms, hard knee",
        dynamics.compressor,
        {},
        {"threshold_db": -60.0, "ratio": 20.0, **_EXTREME},
    ),
    Case(
        "compressor, level, 0.1/1000 ms",
        dynamics.compressor,
        {"smoothing": "level"},
        {"threshold_db": -40.0, **_EXTREME},
    ),
    Case(
        "compressor, smooth decoupled",
        dynamics.compressor,
        {"ballistics": "smooth_decoupled"},
        {"threshold_db": -30.0, "release_ms": 1000.0},
    ),
    Case("gate", dynamics.noise_gate, {}, {"threshold_db": -30.0}),
    Case(
        "gate 40:1, 0.1/1000 ms, hard knee",
        dynamics.noise_gate,
        {},
        {"threshold_db": -20.0, "ratio": 40.0, "range_db": 100.0, **_EXTREME},
    ),
    Case("limiter", dynamics.limiter, {}, {"gain_db": 12.0}),
    Case(
        "limiter +24 dB, 10 ms, no look-ahead",
        dynamics.limiter,
        {"lookahead_ms": 0.0},
        {"gain_db": 24.0, "ceiling_db": -24.0, "release_ms": 10.0},
    ),
)


def dynamics_rows(lengths: Sequence[int]) -> list[DynamicsRow]:
    """The figures of all cases.

    Args:
      lengths: samples of the signal; the parallel method runs up to 16,384, as it is
        for other machines than this one.

    Returns:
      A row for each case and length.
    """
    return [_row(case, length) for case in CASES for length in lengths]


def _row(case: Case, length: int) -> DynamicsRow:
    audio = _bursts(length)
    specs = case.make(_RATE).specs
    wanted = [case.settings.get(spec.name, spec.default) for spec in specs]
    controls = np.asarray(to_unit(specs, np.asarray(wanted)), np.float32)
    settings = {
        spec.name: float(spec.to_physical(np.float64(u)))
        for spec, u in zip(specs, controls, strict=True)
    }
    reference = _limited if case.make is dynamics.limiter else _shaped
    truth = reference(audio.astype(float), settings, case)
    figures = []
    for method in _METHODS:
        if method == "parallel" and length > _LONGEST_PARALLEL:
            figures.append(float("nan"))
            continue
        effect = case.make(_RATE, **case.options, method=method)
        found = np.asarray(jax.jit(effect.render)(audio[None], controls), float)[0]
        noise = np.sum((found - truth) ** 2)
        figures.append(float(10.0 * np.log10(np.sum(truth**2) / noise)))
    return DynamicsRow(case.name, length, *figures)


def _bursts(length: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    time = np.arange(length) / _RATE
    level = np.exp(-8.0 * (time % 0.25)) * (time % 0.6 < 0.45) + 1e-4
    return (0.4 * level * rng.standard_normal(length)).astype(np.float32)


def _step(time_ms: float) -> float:
    return -float(np.expm1(-1000.0 / (time_ms * _RATE)))


def _ballistics(level: np.ndarray, settings: Values, kind: str) -> np.ndarray:
    attack, release = _step(settings["attack_ms"]), _step(settings["release_ms"])
    held = envelope = 0.0
    out = np.empty_like(level)
    for n, x in enumerate(level.tolist()):
        if kind == "branching":
            envelope += (attack if x > envelope else release) * (x - envelope)
        else:
            held = max(x, held + release * (x - held))
            envelope += attack * (held - envelope)
        out[n] = envelope
    return out


def _shaped(audio: np.ndarray, settings: Values, case: Case) -> np.ndarray:
    """Compressor and gate by equation 4 of Giannoulis et al., 2012."""
    kind = case.options.get("ballistics", "branching")
    compresses = case.make is dynamics.compressor

    def curve(amplitude):
        over = 20.0 * np.log10(np.maximum(amplitude, 1e-6)) - settings["threshold_db"]
        over, knee = (over if compresses else -over), settings["knee_db"]
        inside = (over + knee / 2) ** 2 / (2 * knee) if knee else 0.0 * over
        bent = np.where(2 * np.abs(over) <= knee, inside, np.maximum(over, 0.0))
        if compresses:
            return (1.0 / settings["ratio"] - 1.0) * bent
        return np.maximum((1.0 - settings["ratio"]) * bent, -settings["range_db"])

    if case.options.get("smoothing") == "level":
        gain_db = curve(_ballistics(np.abs(audio), settings, kind))
    else:
        sign = -1.0 if compresses else 1.0
        gain_db = sign * _ballistics(sign * curve(np.abs(audio)), settings, kind)
    return audio * 10.0 ** ((gain_db + settings.get("make_up_db", 0.0)) / 20.0)


def _limited(audio: np.ndarray, settings: Values, case: Case) -> np.ndarray:
    late = round(case.options.get("lookahead_ms", 2.0) * _RATE / 1000.0)
    audio = audio * 10.0 ** (settings["gain_db"] / 20.0)
    ceiling = 10.0 ** (settings["ceiling_db"] / 20.0)
    needed = np.minimum(1.0, ceiling / np.maximum(np.abs(audio), 1e-30))
    padded = np.concatenate([np.ones(late), needed])
    lowest = np.lib.stride_tricks.sliding_window_view(padded, late + 1).min(-1)
    release, gain = _step(settings["release_ms"]), 1.0
    followed = np.empty_like(lowest)
    for n, x in enumerate(lowest.tolist()):
        gain = min(x, gain + release * (x - gain))
        followed[n] = gain
    padded = np.concatenate([np.ones(late), followed])
    mean = np.lib.stride_tricks.sliding_window_view(padded, late + 1).mean(-1)
    return np.concatenate([np.zeros(late), audio])[: len(audio)] * mean
