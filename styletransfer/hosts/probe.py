"""What the project learns about an effect by rendering with it.

`probe_effect` measures cost, latency, tail, repeatability, stereo behaviour, and for
each control how finely it is resolved and how far it must move to be heard. The last
gives the step sizes of the gradient estimators: equal audible change for every control.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from ddspx.parameters import ParameterSpec, default_controls, sample_controls
from styletransfer.hosts.description import HostEffect
from styletransfer.hosts.host import Host
from styletransfer.hosts.open import Backend, open_host
from styletransfer.hosts.response import (
    decay_seconds,
    lag_samples,
    level_change_db,
    log_spectrum_db,
    probe_signal,
)

# Smallest step that is tried, a power of two. Built-ins resolve it easily; text-driven
# plug-ins resolve about 2^-10.
_FINEST = 16
_SETTINGS = 6
_TAIL_SECONDS = 6.0
SMALLEST_EPSILON = 1e-3
LARGEST_EPSILON = 0.1


@dataclass(frozen=True)
class ParameterProbe:
    """What was measured of one control.

    Attributes:
      name: ``"slot.parameter"``.
      low, high, unit, curve, choices: as in its spec at the probed sample rate.
      quantum: smallest step in [0, 1] that changes the output wherever the control has
        an effect at all; for choices one over their number.
      spectrum_db_per_unit: mean change of the log spectrum in dB for a small step,
        divided by the step; median over settings.
      rms_db_per_unit: the same for the level of the whole output.
      epsilon: step that changes the log spectrum by the target, from 0.001 to 0.1; at
        least two quanta, but never more than 0.5.
    """

    name: str
    low: float
    high: float
    unit: str
    curve: str
    choices: tuple[str, ...]
    quantum: float
    spectrum_db_per_unit: float
    rms_db_per_unit: float
    epsilon: float

    @property
    def does_nothing(self) -> bool:
        """Whether no setting was found at which it moves the sound."""
        return self.spectrum_db_per_unit < 1e-3 and self.rms_db_per_unit < 1e-3


@dataclass(frozen=True)
class Probe:
    """What was measured of an effect.

    Attributes:
      effect: its name.
      sample_rate: Hz.
      seconds_per_second: seconds of one core for a second of mono audio, median over
        settings; the fixed cost of a call is not in it.
      seconds_per_call: that fixed cost.
      latency_samples: lag of the largest cross-correlation at the default setting.
      latency_correlation: that correlation; below 0.3 the lag means little.
      tail_60db_s: seconds after the input's end until the output stays 60 dB under its
        peak; the longest of several settings.
      tail_80db_s: the same for 80 dB.
      deterministic: two freshly opened hosts give equal bits.
      history_free: a render has equal bits after other renders with other settings.
      noise_db: level of the difference of two freshly opened hosts under that of the
        output, the largest over settings; None where they are equal.
      random: controls that bring in chance: with them away from their defaults two
        freshly opened hosts differ, where at the defaults they do not.
      channels: ``"independent"``, ``"linked"`` or ``"mono only"``.
      unusable: share of random settings whose output was refused.
      target_db: change of the log spectrum that the epsilons aim at.
      parameters: one for each control, in order.
    """

    effect: str
    sample_rate: float
    seconds_per_second: float
    seconds_per_call: float
    latency_samples: int
    latency_correlation: float
    tail_60db_s: float
    tail_80db_s: float
    deterministic: bool
    history_free: bool
    noise_db: float | None
    random: tuple[str, ...]
    channels: str
    unusable: float
    target_db: float
    parameters: tuple[ParameterProbe, ...]

    @property
    def epsilon(self) -> np.ndarray:
        """Calibrated steps [n] float32 for gradient estimators."""
        return np.array([p.epsilon for p in self.parameters], np.float32)

    @property
    def quantum(self) -> np.ndarray:
        """Measured quanta [n] float32."""
        return np.array([p.quantum for p in self.parameters], np.float32)

    def to_json(self) -> str:
        """The whole report as indented JSON."""
        return json.dumps(asdict(self), indent=2)


def probe_effect(
    effect: HostEffect,
    sample_rate: int | float,
    *,
    audio: np.ndarray | None = None,
    backend: Backend = "serial",
    workers: int | None = None,
    target_db: int | float = 0.25,
    seed: int = 0,
) -> Probe:
    """Measures an effect.

    Args:
      effect: a description.
      sample_rate: Hz.
      audio: [channels, time] to measure responses on, its first channel, at most two
        seconds of it; None for a built-in test signal.
      backend: of `open_host`; third-party plug-ins need ``"process"``.
      workers: of `open_host`.
      target_db: mean change of the log spectrum, in dB, that each epsilon aims at.
      seed: of the random settings.

    Returns:
      A `Probe`. Times vary from run to run, everything else repeats.

    Raises:
      ValueError: the audio is silent or not finite, or the effect cannot be opened.
    """
    signal = _signal(audio, sample_rate)
    rng = np.random.default_rng(seed)
    opener = partial(open_host, effect, sample_rate, backend=backend, workers=workers)
    deterministic, history_free, noise_db, random = _repeatability(opener, signal, rng)
    with opener() as host:
        settings = _settings(host, rng)
        status = host.render(signal[None], settings).status
        usable = settings[status == 0]
        if not len(usable):
            raise ValueError(
                f"effect {effect.name!r}: none of {len(settings)} settings gave a"
                " usable output"
            )
        lag, correlation = _latency(host)
        tail_60, tail_80 = _tails(host, usable)
        per_second, per_call = _cost(host, usable)
        quanta = _quanta(host, signal, usable)
        steps, slopes, levels = _sensitivity(host, signal, usable, quanta, target_db)
        parameters = tuple(
            _report(spec, *row)
            for spec, *row in zip(
                host.specs, quanta, slopes, levels, steps, strict=True
            )
        )
        return Probe(
            effect=effect.name,
            sample_rate=float(sample_rate),
            seconds_per_second=per_second,
            seconds_per_call=per_call,
            latency_samples=lag,
            latency_correlation=correlation,
            tail_60db_s=tail_60,
            tail_80db_s=tail_80,
            deterministic=deterministic,
            history_free=history_free,
            noise_db=noise_db,
            random=random,
            channels=_channels(host, usable, rng),
            unusable=float(np.mean(status != 0)),
            target_db=target_db,
            parameters=parameters,
        )


def _signal(audio: np.ndarray | None, sample_rate: int | float) -> np.ndarray:
    """One channel [1, time], up to two seconds."""
    if audio is None:
        return probe_signal(sample_rate, 1.0)[None]
    signal = np.asarray(audio, np.float32)[:1, : int(2 * sample_rate)]
    if not np.isfinite(signal).all() or not signal.any():
        raise ValueError("the audio to probe with is silent or not finite")
    return signal


def _settings(host: Host, rng: np.random.Generator) -> np.ndarray:
    """The default and random settings [settings, n], away from the cube's faces."""
    random = 0.1 + 0.8 * sample_controls(host.specs, rng, (_SETTINGS - 1,))
    return np.concatenate([default_controls(host.specs)[None], random])


def _repeatability(
    opener: Callable[[], Host], signal: np.ndarray, rng: np.random.Generator
) -> tuple[bool, bool, float | None, tuple[str, ...]]:
    with opener() as host:
        settings = _settings(host, rng)
        each = _each_moved(host)
        names = [spec.name for spec in host.specs]
        fresh = [host.render(signal[None], s[None]).audio for s in settings]
        # Backwards, so that each follows another setting than the first time.
        again = [host.render(signal[None], s[None]).audio for s in settings[::-1]]
        moved = host.render(signal[None], each).audio
    with opener() as host:
        other = host.render(signal[None], settings).audio
        moved_other = host.render(signal[None], each).audio
    pairs = [(a[0], b) for a, b in zip(fresh, other, strict=True)]
    pairs += list(zip(moved, moved_other, strict=True))
    differs = [not np.array_equal(a, b) for a, b in pairs]
    history_free = all(
        np.array_equal(a, b) for a, b in zip(fresh, again[::-1], strict=True)
    )
    noise = [float(level_change_db(b, a - b).max()) for a, b in pairs]
    noise_db = max(noise) if any(differs) else None
    chance = np.atleast_1d(np.reshape(differs[len(settings) :], (-1, 2)).any(axis=1))
    random = tuple(name for k, name in enumerate(names) if chance[k])
    return not any(differs), history_free, noise_db, () if differs[0] else random


def _each_moved(host: Host) -> np.ndarray:
    """The defaults with one control at 0.2 and at 0.8 in turn, [2 n, n]."""
    count = len(host.specs)
    settings = np.repeat(default_controls(host.specs)[None], 2 * count, axis=0)
    settings[np.arange(2 * count), np.arange(2 * count) // 2] = [0.2, 0.8] * count
    return settings


def _latency(host: Host) -> tuple[int, float]:
    noise = np.random.default_rng(1).standard_normal(int(host.sample_rate))
    noise = (0.1 * noise).astype(np.float32)
    output = host.render(noise[None, None], default_controls(host.specs)[None]).audio
    return lag_samples(noise, output[0, 0])


def _tails(host: Host, settings: np.ndarray) -> tuple[float, float]:
    rate = host.sample_rate
    burst = np.zeros(int((0.25 + _TAIL_SECONDS) * rate), np.float32)
    end = int(0.25 * rate)
    burst[:end] = 0.2 * np.random.default_rng(2).standard_normal(end)
    outputs = host.render(burst[None, None], settings).audio[:, 0]
    sixty, eighty = (
        max(decay_seconds(y, end, rate, drop) for y in outputs) for drop in (60.0, 80.0)
    )
    return sixty, eighty


def _cost(host: Host, settings: np.ndarray) -> tuple[float, float]:
    """Seconds per second of audio, and per call: the line through two lengths."""
    best = []
    for seconds in (0.5, 2.0):
        signal = probe_signal(host.sample_rate, seconds)[None, None]
        times = [
            min(_timed(host, signal, setting) for _ in range(3)) for setting in settings
        ]
        best.append(float(np.median(times)))
    slope = max((best[1] - best[0]) / 1.5, 0.0)
    return slope, max(best[0] - 0.5 * slope, 0.0)


def _timed(host: Host, signal: np.ndarray, setting: np.ndarray) -> float:
    began = time.perf_counter()
    host.render(signal, setting[None])
    return time.perf_counter() - began


def _quanta(host: Host, signal: np.ndarray, settings: np.ndarray) -> np.ndarray:
    """Smallest step [n], a power of two, that changes the output at every setting.

    A setting at which the control does nothing, whatever the step, does not count.
    """
    short = signal[None, :, : int(0.25 * host.sample_rate)]
    base = settings[: _SETTINGS // 2]
    exponents = np.arange(2, _FINEST + 1)
    steps = 2.0 ** -exponents.astype(np.float32)
    found = []
    for i, spec in enumerate(host.specs):
        if spec.choices:
            found.append(1.0 / len(spec.choices))
            continue
        moved = np.repeat(base[:, None], len(steps) + 1, axis=1)
        away = np.where(base[:, i] > 0.5, -1.0, 1.0)[:, None]
        moved[:, 1:, i] += away * steps
        flat = moved.reshape(-1, len(host.specs))
        output = host.render(short, flat).audio.reshape(len(base), len(steps) + 1, -1)
        differs = (output[:, 1:] != output[:, :1]).any(axis=-1)
        # Rounding alone is no effect: the widest step must move the sound.
        widest = np.abs(output[:, 1] - output[:, 0]).max(axis=-1)
        alive = differs[widest > 1e-4 * np.abs(output[:, 0]).max(axis=-1)]
        if not len(alive):
            found.append(2.0**-_FINEST)
            continue
        seen = alive.all(axis=0)
        first_blind = len(seen) if seen.all() else int(np.argmin(seen))
        found.append(float(steps[max(first_blind - 1, 0)]))
    return np.array(found)


def _sensitivity(
    host: Host,
    signal: np.ndarray,
    settings: np.ndarray,
    quanta: np.ndarray,
    target_db: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Epsilon, and slopes in dB per unit of spectrum and level, each [n].

    Starts with a step of 0.02 and corrects it once by what it changed.
    """
    least = np.maximum(2.0 * quanta, SMALLEST_EPSILON)
    least = np.minimum(least, 0.5)
    most = np.maximum(LARGEST_EPSILON, least)
    steps = np.clip(np.full(len(quanta), 0.02), least, most)
    spectrum, level = _responses(host, signal, settings, steps)
    for _ in range(2):
        wanted = steps * target_db / np.maximum(spectrum, 1e-6)
        steps = np.clip(
            wanted, np.maximum(least, steps / 8), np.minimum(most, steps * 8)
        )
        spectrum, level = _responses(host, signal, settings, steps)
    return steps, spectrum / steps, level / steps


def _responses(
    host: Host, signal: np.ndarray, settings: np.ndarray, steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Change of spectrum and of level in dB [n] for one step of each control.

    The median over the settings at which the control changes anything.
    """
    count = len(steps)
    moved = np.repeat(settings[:, None], count + 1, axis=1)
    away = np.where(settings > 0.5, -1.0, 1.0)
    moved[:, 1 + np.arange(count), np.arange(count)] += away * steps
    flat = np.clip(moved, 0.0, 1.0).reshape(-1, count)
    output = host.render(signal[None], flat).audio[:, 0]
    rows = output.reshape(len(settings), count + 1, -1)
    spectra = np.stack([[log_spectrum_db(y) for y in row] for row in rows])
    change = np.abs(spectra[:, 1:] - spectra[:, :1]).mean(axis=(-2, -1))
    levels = np.abs(level_change_db(rows[:, :1], rows[:, 1:]))
    return _median_of_moving(change), _median_of_moving(levels)


def _median_of_moving(change: np.ndarray) -> np.ndarray:
    counted = np.where(change > 1e-5, change, np.nan)
    alive = np.isfinite(counted).any(axis=0)
    counted[:, ~alive] = 0.0
    return np.nanmedian(counted, axis=0)


def _channels(host: Host, settings: np.ndarray, rng: np.random.Generator) -> str:
    stereo = 0.1 * rng.standard_normal((1, 2, int(0.5 * host.sample_rate)))
    stereo = stereo.astype(np.float32)
    together = host.render(stereo, settings)
    if together.status.any():
        return "mono only"
    alone = [host.render(stereo[:, k : k + 1], settings).audio for k in range(2)]
    apart = np.abs(together.audio - np.concatenate(alone, axis=1)).max()
    # Compiled for two channels, independent ones may round otherwise than alone.
    same = apart <= 1e-4 * np.abs(together.audio).max()
    return "independent" if same else "linked"


def _report(
    spec: ParameterSpec, quantum: float, slope: float, level: float, epsilon: float
) -> ParameterProbe:
    return ParameterProbe(
        spec.name,
        spec.low,
        spec.high,
        spec.unit,
        spec.curve,
        spec.choices,
        float(quantum),
        float(slope),
        float(level),
        float(epsilon),
    )
