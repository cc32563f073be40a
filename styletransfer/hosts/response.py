"""Small measurements on signals that the probe is made of; NumPy only."""

import numpy as np

_FRAME = 1024


def probe_signal(
    sample_rate: int | float, seconds: int | float, seed: int = 0
) -> np.ndarray:
    """Tones with bursts of noise over them, loud and soft: something for any effect.

    Every quarter of a second another chord of three tones begins, with a decaying burst
    of noise; levels run through 0, -12, -24 and -6 dB, so that dynamics have work.

    Args:
      sample_rate: Hz.
      seconds: length.
      seed: of the noise and the tones.

    Returns:
      [time] float32, peak 0.7.
    """
    rng = np.random.default_rng(seed)
    length = max(int(seconds * sample_rate), 1)
    signal = np.zeros(length)
    stride = max(int(0.25 * sample_rate), 1)
    for k, start in enumerate(range(0, length, stride)):
        size = min(stride, length - start)
        t = np.arange(size) / sample_rate
        highest = min(3000.0, 0.3 * sample_rate)
        tones = np.exp(rng.uniform(np.log(80.0), np.log(highest), 3))
        phases = rng.uniform(0.0, 2 * np.pi, 3)
        chord = np.sin(2 * np.pi * np.outer(tones, t) + phases[:, None]).sum(axis=0)
        burst = rng.standard_normal(size) * np.exp(-t / 0.03)
        level = 10.0 ** ((0.0, -12.0, -24.0, -6.0)[k % 4] / 20.0)
        signal[start : start + size] = level * (0.3 * chord + 0.5 * burst)
    return (0.7 * signal / np.abs(signal).max()).astype(np.float32)


def log_spectrum_db(signal: np.ndarray) -> np.ndarray:
    """Level in dB of every band and frame, for comparing two renders.

        10 log10(sum of |X|^2 over the band + floor)

    Bands are half octaves of an FFT of 1024 points with a Hann window; the floor lies
    80 dB under a full-scale sine.

    Args:
      signal: [time].

    Returns:
      [frames, bands].
    """
    padded = np.pad(signal, (0, max(0, _FRAME - len(signal))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[:: _FRAME // 2]
    power = np.abs(np.fft.rfft(frames * np.hanning(_FRAME), axis=-1)) ** 2
    edges = np.unique(np.geomspace(1, _FRAME // 2 + 1, 20).astype(int))
    bands = np.add.reduceat(power, edges[:-1], axis=-1)
    full_scale = (_FRAME / 4) ** 2
    return 10.0 * np.log10(bands / full_scale + 1e-8)


def level_change_db(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Change of the RMS level in dB over the last axis; silence counts as -100 dB."""
    powers = [np.mean(x.astype(np.float64) ** 2, axis=-1) for x in (before, after)]
    return 10.0 * np.log10((powers[1] + 1e-10) / (powers[0] + 1e-10))


def lag_samples(before: np.ndarray, after: np.ndarray) -> tuple[int, float]:
    """Lag of the largest cross-correlation, and its normalised size.

    Args:
      before: [time], what went in.
      after: [time], what came out.

    Returns:
      Samples by which `after` comes later (negative: earlier), and the correlation
      there in [0, 1], whatever its sign.
    """
    size = 2 * len(before)
    spectrum = np.fft.rfft(after, size) * np.conj(np.fft.rfft(before, size))
    correlation = np.abs(np.fft.irfft(spectrum, size))
    scale = float(np.linalg.norm(before) * np.linalg.norm(after))
    lag = int(np.argmax(correlation))
    share = float(correlation[lag]) / scale if scale else 0.0
    return (lag if lag < len(before) else lag - size), min(share, 1.0)


def decay_seconds(
    signal: np.ndarray, end: int, sample_rate: int | float, drop_db: float
) -> float:
    """Seconds after `end` until the level stays `drop_db` under its peak.

    Levels are RMS over 10 ms. A signal that never gets there gives what was rendered.
    """
    size = max(int(0.01 * sample_rate), 1)
    count = len(signal) // size
    power = np.mean(signal[: count * size].reshape(count, size) ** 2, axis=-1)
    loud = np.flatnonzero(power > power.max() * 10.0 ** (-drop_db / 10.0))
    if not len(loud) or power.max() == 0.0:
        return 0.0
    return max(0.0, ((loud[-1] + 1) * size - end) / sample_rate)
