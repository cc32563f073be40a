"""Tones whose pitch is known, and what a room and noise do to them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.signal


class Known(NamedTuple):
    """A sound with its f0 and voicing at every sample."""

    audio: np.ndarray
    f0_hz: np.ndarray
    voiced: np.ndarray


def _tone(f0_hz, sample_rate: int, rng, *, first: int = 1) -> np.ndarray:
    """Harmonics below half the rate, with a slope and phases of chance."""
    phase = 2 * np.pi * np.cumsum(f0_hz) / sample_rate
    slope = rng.uniform(0.6, 1.6)
    audio = np.zeros(len(f0_hz))
    for k in range(first, 31):
        level = k**-slope * 10 ** (rng.normal(0.0, 4.0) / 20)
        heard = k * f0_hz < 0.45 * sample_rate
        audio += level * heard * np.sin(k * phase + rng.uniform(0, 2 * np.pi))
    return audio


def _scaled(audio: np.ndarray, voiced: np.ndarray, level: float = 0.1) -> np.ndarray:
    return audio * (level / np.sqrt(np.mean(audio[voiced] ** 2)))


def _edges(voiced: np.ndarray, sample_rate: int) -> np.ndarray:
    """1 where voiced, with ramps of 10 ms inside."""
    length = round(0.01 * sample_rate)
    ramp = np.convolve(voiced, np.ones(length) / length, "same")
    return np.where(voiced, np.clip(2 * ramp - 1, 0, 1), 0.0)


def _start(rng, low: float = 80.0, high: float = 1000.0) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def vibrato(sample_rate: int, time: int, rng) -> Known:
    """One note with a vibrato of 20 to 80 cents at 4 to 7 Hz."""
    seconds = np.arange(time) / sample_rate
    depth = rng.uniform(20, 80) / 1200
    f0 = _start(rng) * 2 ** (
        depth * np.sin(2 * np.pi * rng.uniform(4, 7) * seconds + rng.uniform(0, 6.3))
    )
    voiced = np.ones(time, bool)
    return Known(_scaled(_tone(f0, sample_rate, rng), voiced), f0, voiced)


def glissando(sample_rate: int, time: int, rng) -> Known:
    """A slide of one to two octaves, up or down, over the whole clip."""
    octaves = rng.uniform(1, 2) * rng.choice([-1, 1])
    f0 = _start(rng, 160.0, 500.0) * 2 ** (octaves * np.linspace(-0.5, 0.5, time))
    voiced = np.ones(time, bool)
    return Known(_scaled(_tone(f0, sample_rate, rng), voiced), f0, voiced)


def missing_fundamental(sample_rate: int, time: int, rng) -> Known:
    """As `vibrato`, from the second or third harmonic up."""
    known = vibrato(sample_rate, time, rng)
    audio = _tone(known.f0_hz, sample_rate, rng, first=int(rng.integers(2, 4)))
    return known._replace(audio=_scaled(audio, known.voiced))


def notes(sample_rate: int, time: int, rng) -> Known:
    """Notes of 0.15 to 0.5 s, half of them after a rest of 0.1 to 0.3 s."""
    f0, voiced = np.zeros(time), np.zeros(time, bool)
    place, pitch = 0, _start(rng, 120.0, 700.0)
    while place < time:
        if rng.random() < 0.5:
            rest = round(rng.uniform(0.1, 0.3) * sample_rate)
            f0[place : place + rest] = pitch
            place += rest
        length = round(rng.uniform(0.15, 0.5) * sample_rate)
        pitch = float(np.clip(pitch * 2 ** (rng.integers(-7, 8) / 12), 90.0, 1200.0))
        f0[place : place + length] = pitch
        voiced[place : place + length] = True
        place += length
    audio = _tone(f0, sample_rate, rng) * _edges(voiced, sample_rate)
    return Known(_scaled(audio, voiced), f0, voiced)


KINDS: dict[str, Callable[[int, int, np.random.Generator], Known]] = {
    "vibrato": vibrato,
    "glissando": glissando,
    "missing fundamental": missing_fundamental,
    "notes": notes,
}


def add_noise(known: Known, snr_db: float, exponent: float, rng) -> Known:
    """Noise whose power falls as 1 / f^exponent above 20 Hz, at an SNR where voiced."""
    time = len(known.audio)
    spectrum = np.fft.rfft(rng.standard_normal(time))
    spectrum *= np.maximum(np.arange(len(spectrum)), time / 800) ** (-exponent / 2)
    noise = np.fft.irfft(spectrum, time)
    power = np.mean(known.audio[known.voiced] ** 2)
    noise *= np.sqrt(power * 10 ** (-snr_db / 10) / np.mean(noise**2))
    return known._replace(audio=known.audio + noise)


def add_room(known: Known, sample_rate: int, rng, *, t60_s: float = 0.5) -> Known:
    """Decaying noise behind the direct sound, 6 dB below it in energy.

    Voicing stays that of the dry sound: the tail of a note counts as a rest.
    """
    time = np.arange(round(t60_s * sample_rate)) / sample_rate
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / t60_s)
    tail[: round(0.003 * sample_rate)] = 0.0
    tail *= 0.5 / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    wet = scipy.signal.fftconvolve(known.audio, tail)[: len(known.audio)]
    return known._replace(audio=wet)


def degraded(known: Known, condition: str, sample_rate: int, rng) -> Known:
    """A clip under one of `CONDITIONS`."""
    if condition == "clean":
        return known
    if condition == "reverb":
        return add_room(known, sample_rate, rng)
    if condition == "reverb + pink 20 dB":
        room = add_room(known, sample_rate, rng)
        return add_noise(room, 20.0, 1.0, rng)
    colour, level, _ = condition.split()
    return add_noise(known, float(level), 1.0 if colour == "pink" else 0.0, rng)


CONDITIONS = (
    "clean",
    "white 20 dB",
    "white 10 dB",
    "white 0 dB",
    "pink 20 dB",
    "pink 10 dB",
    "pink 0 dB",
    "reverb",
    "reverb + pink 20 dB",
)
