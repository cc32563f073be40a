"""Instruments of the practice corpus: one function a voice, NumPy and SciPy only.

Every function takes its random numbers from the generator it is given and returns
float64 mono samples. Levels are relative; the corpus sets them.
"""

from collections.abc import Sequence

import numpy as np
from scipy import signal

# Centre frequencies (Hz), bandwidths (Hz) and levels (dB) of four formants; the source
# falls by 6 to 9 dB an octave of its own.
FORMANTS = {
    "a": ((730, 1090, 2440, 3400), (90, 110, 160, 200), (0, -2, -8, -11)),
    "e": ((530, 1840, 2480, 3500), (70, 110, 160, 200), (0, -5, -7, -10)),
    "i": ((280, 2250, 2950, 3600), (60, 110, 170, 210), (0, -7, -8, -10)),
    "o": ((500, 880, 2420, 3350), (70, 100, 160, 200), (0, -3, -10, -12)),
    "u": ((310, 800, 2250, 3300), (60, 90, 160, 200), (0, -5, -12, -14)),
}


def midi_to_hz(note: float | int | np.ndarray) -> np.ndarray:
    """Equal temperament, A4 = note 69 = 440 Hz."""
    return np.asarray(440.0 * 2.0 ** ((np.asarray(note) - 69.0) / 12.0))


def pluck(
    frequency_hz: float,
    seconds: float,
    sample_rate: int,
    rng: np.random.Generator,
    *,
    decay_s: float = 2.0,
    brightness: float = 0.6,
    position: float = 0.15,
) -> np.ndarray:
    """A plucked string (Karplus and Strong 1983; Jaffe and Smith 1983).

        y[n] = x[n] + g ((1 - a) y[n - N] + a y[n - N - 1]),   N + a = period - d

    A noise burst of one period x, low-passed and combed by the place of the plectrum,
    runs around a loop of one period. d is the delay of the damping filter
    (1 - s) + s z^-1, which the loop also holds.

    Args:
      frequency_hz: of the string.
      seconds: length rendered.
      sample_rate: in Hz.
      rng: for the noise burst.
      decay_s: time in which the fundamental falls by 60 dB.
      brightness: 0 is a soft finger, 1 a hard plectrum.
      position: of the plectrum, as a part of the string.

    Returns:
      Samples [round(seconds sample_rate)].
    """
    period = sample_rate / frequency_hz
    damping = 0.5 - 0.25 * brightness
    whole = int(period - damping)
    fraction = period - damping - whole
    loop = np.convolve([1 - fraction, fraction], [1 - damping, damping])
    # What the loop's filters take from the fundamental is given back, short of 1,
    # where the string would never stop.
    turn = np.exp(-2j * np.pi * frequency_hz / sample_rate)
    loss = abs(np.polyval(loop[::-1], turn))
    loop *= min(0.9999, 10 ** (-3 / (decay_s * frequency_hz)) / loss)
    burst = rng.uniform(-1, 1, int(period))
    # The plectrum's width is a length of time, whatever the sample rate.
    pole = np.exp(-2 * np.pi * (500 + 3000 * brightness**2) / sample_rate)
    burst = signal.lfilter([1 - pole], [1, -pole], burst - burst.mean())
    excitation = np.zeros(round(seconds * sample_rate))
    excitation[: len(burst)] = burst[: len(excitation)]
    delay = max(1, round(position * period))
    excitation[delay:] -= 0.9 * excitation[:-delay].copy()
    feedback = np.zeros(whole + 3)
    feedback[0] = 1.0
    feedback[whole:] -= loop
    return np.asarray(signal.lfilter([1.0], feedback, excitation))


def tine(
    frequency_hz: float, seconds: float, sample_rate: int, *, hardness: float = 1.0
) -> np.ndarray:
    """An electric piano: two operators, the modulator dying first (Chowning 1973)."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    phase = 2 * np.pi * frequency_hz * time
    bell = 0.5 * hardness * np.exp(-time / 0.15) * np.sin(14 * phase)
    body = 2.0 * hardness * np.exp(-time / 0.9) * np.sin(phase)
    # The bell would alias when its 14th harmonic passes half the sample rate.
    bell *= 15 * frequency_hz < 0.45 * sample_rate
    return np.exp(-time / 1.6) * (np.sin(phase + body) + 0.15 * bell)


def organ(
    frequency_hz: float,
    seconds: float,
    sample_rate: int,
    drawbars: Sequence[float] = (0.5, 1.0, 0.6, 0.4, 0.2, 0.15),
) -> np.ndarray:
    """Sines at 1/2, 1, 2, 3, 4, 6 times the frequency, with a slow tremolo."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    made = np.zeros(len(time))
    for ratio, level in zip((0.5, 1, 2, 3, 4, 6), drawbars, strict=True):
        if ratio * frequency_hz < 0.45 * sample_rate:
            made += level * np.sin(2 * np.pi * ratio * frequency_hz * time)
    return made * (1 + 0.12 * np.sin(2 * np.pi * 6.2 * time))


def saw(phase: np.ndarray) -> np.ndarray:
    """A saw-tooth from a phase in turns, its step rounded off (polyBLEP).

    Args:
      phase: turns [time], rising.

    Returns:
      Samples in about [-1, 1], without most of the aliasing of a plain saw.
    """
    step = np.maximum(np.diff(phase, prepend=2 * phase[0] - phase[1]), 1e-9)
    turn = phase % 1.0
    before, after = (turn - 1) / step, turn / step
    made = 2 * turn - 1
    made -= np.where(after < 1, 2 * after - after**2 - 1, 0.0)
    made -= np.where(before > -1, before**2 + 2 * before + 1, 0.0)
    return made


def pad(
    frequency_hz: float, seconds: float, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """Three detuned saws through a low-pass at four times the frequency."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    made = np.zeros(len(time))
    for cents in (-7.0, 0.0, 6.0):
        detuned = frequency_hz * 2 ** (cents / 1200)
        made += saw(detuned * time + rng.random())
    cutoff = min(0.4 * sample_rate, 4 * frequency_hz + 600)
    sections = signal.butter(2, cutoff, fs=sample_rate, output="sos")
    return np.asarray(signal.sosfilt(sections, made))


def voice(
    notes: np.ndarray,
    vowels: Sequence[str],
    changes_s: Sequence[float],
    sample_rate: int,
    rng: np.random.Generator,
    *,
    tract: float = 1.0,
) -> np.ndarray:
    """A singer: a glottal source through vowels that melt into each other.

    Args:
      notes: pitch as MIDI note [time], slides included; vibrato is added here.
      vowels: keys of `FORMANTS`, one for each sung note.
      changes_s: when each vowel begins, in seconds; the first is 0.
      sample_rate: in Hz.
      rng: for jitter, breath and the depth of the vibrato.
      tract: factor on the formant frequencies; above 1 is a shorter vocal tract.

    Returns:
      Samples [time].
    """
    time = np.arange(len(notes)) / sample_rate
    rate_hz, depth = rng.uniform(5.0, 6.2), rng.uniform(0.2, 0.4)
    swell = np.clip((time % 2.0) / 0.6, 0, 1)
    knots = np.arange(0, time[-1] + 1, 0.11)
    wander = np.interp(time, knots, rng.normal(0, 0.06, len(knots)))
    vibrato = depth * swell * np.sin(2 * np.pi * rate_hz * time)
    frequency = midi_to_hz(notes + vibrato + wander)
    source = saw(np.cumsum(frequency) / sample_rate)
    breath = rng.standard_normal(len(time)) * 0.02
    source = np.asarray(signal.lfilter([0.45], [1, -0.55], source + breath))
    # Each vowel is rendered whole; weights that sum to one fade from one to the next.
    made = np.zeros(len(time))
    edges = np.asarray(changes_s)
    fade = 0.06
    for index, vowel in enumerate(vowels):
        start = -np.inf if index == 0 else edges[index]
        stop = np.inf if index + 1 == len(vowels) else edges[index + 1]
        first = 0 if index == 0 else max(0, int((start - fade) * sample_rate))
        last = len(time) if np.isinf(stop) else int((stop + fade) * sample_rate) + 1
        part = slice(first, min(last, len(time)))
        weight = np.clip((time[part] - start) / fade, 0, 1)
        weight -= np.clip((time[part] - stop) / fade, 0, 1)
        made[part] += weight * _tract(source[part], vowel, sample_rate, tract)
    return made


def _tract(
    source: np.ndarray, vowel: str, sample_rate: int, tract: float
) -> np.ndarray:
    made = np.zeros(len(source))
    for centre, width, level_db in zip(*FORMANTS[vowel], strict=True):
        centre *= tract
        if centre > 0.45 * sample_rate:
            continue
        numerator, denominator = signal.iirpeak(centre, centre / width, fs=sample_rate)
        resonance = np.asarray(signal.lfilter(numerator, denominator, source))
        made += 10 ** (level_db / 20) * resonance
    return made


def kick(
    sample_rate: int, rng: np.random.Generator, *, pitch_hz: float = 50.0
) -> np.ndarray:
    """A bass drum: a sine that falls to its pitch, and the beater's click."""
    time = np.arange(round(0.45 * sample_rate)) / sample_rate
    turns = pitch_hz * time + 2.6 * pitch_hz * 0.035 * (1 - np.exp(-time / 0.035))
    click = rng.standard_normal(len(time)) * np.exp(-time / 0.003)
    body = np.sin(2 * np.pi * turns) * np.exp(-time / 0.13)
    return _faded(body + 0.12 * click, sample_rate)


def snare(
    sample_rate: int, rng: np.random.Generator, *, pitch_hz: float = 185.0
) -> np.ndarray:
    """A snare drum: two modes of the skin and the wires' noise."""
    time = np.arange(round(0.3 * sample_rate)) / sample_rate
    skin = np.sin(2 * np.pi * pitch_hz * time) + 0.6 * np.sin(
        2 * np.pi * 1.78 * pitch_hz * time
    )
    wires = rng.standard_normal(len(time))
    high = signal.butter(2, 1500, "highpass", fs=sample_rate, output="sos")
    wires = np.asarray(signal.sosfilt(high, wires))
    made = 0.5 * skin * np.exp(-time / 0.06) + 0.5 * wires * np.exp(-time / 0.09)
    return _faded(made, sample_rate)


def hihat(
    sample_rate: int, rng: np.random.Generator, *, is_open: bool = False
) -> np.ndarray:
    """A hi-hat: six squares that share no harmonics, and noise, above 6 kHz."""
    time = np.arange(round((0.4 if is_open else 0.12) * sample_rate)) / sample_rate
    metal = np.zeros(len(time))
    for frequency_hz in (317.0, 465.0, 553.0, 808.0, 1181.0, 1547.0):
        metal += np.sign(np.sin(2 * np.pi * (frequency_hz * time + rng.random())))
    made = metal / 6 + 0.5 * rng.standard_normal(len(time))
    cutoff = min(6000.0, 0.35 * sample_rate)
    high = signal.butter(3, cutoff, "highpass", fs=sample_rate, output="sos")
    made = np.asarray(signal.sosfilt(high, made))
    return _faded(made * np.exp(-time / (0.15 if is_open else 0.03)), sample_rate)


def _faded(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """The first half millisecond in, the last 10 ms out, so that nothing clicks."""
    rise, fall = max(2, round(0.0005 * sample_rate)), round(0.01 * sample_rate)
    samples = samples.copy()
    samples[:rise] *= np.linspace(0, 1, rise)
    samples[-fall:] *= np.linspace(1, 0, fall)
    return samples
