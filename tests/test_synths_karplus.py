"""The plucked string: in tune, dying as asked, plucked where it is."""

from functools import lru_cache

import jax
import numpy as np
import pytest

from ddspx.synths.karplus_strong import karplus_strong

HOP = 128
FRAMES = 345


@lru_cache
def string(rate):
    return jax.jit(karplus_strong(rate, HOP).render)


def pluck(rate, f0, damping=0.0, decay_s=8.0, position=0.13, frames=FRAMES):
    fixed = {"f0_hz": f0, "decay_s": decay_s, "damping": damping}
    fixed["pluck_position"] = position
    controls = {n: np.full(frames, v, np.float32) for n, v in fixed.items()}
    controls["pluck_amplitude"] = np.eye(frames, dtype=np.float32)[0]
    return np.asarray(string(rate)(controls, jax.random.key(1)), np.float64)


def cents_off(audio, rate, f0):
    """From the peak of the spectrum near f0, by a parabola through its logarithm."""
    size = 1 << 19
    level = np.log(np.abs(np.fft.rfft(audio * np.hanning(len(audio)), size)))
    low, high = (int(f0 * 2.0 ** (c / 1200.0) * size / rate) for c in (-40.0, 40.0))
    top = low + int(np.argmax(level[low : high + 2]))
    assert low < top < high + 1
    before, at, after = level[top - 1 : top + 2]
    place = top + 0.5 * (before - after) / (before - 2.0 * at + after)
    return 1200.0 * np.log2(place * rate / size / f0)


@pytest.mark.parametrize(("rate", "damping"), [(44100, 0.2), (16000, 0.1)])
def test_it_is_in_tune(rate, damping):
    for f0 in (55.0, 82.4, 196.0, 440.0, 987.8, 1567.98, 2000.0):
        audio = pluck(rate, f0, damping)[rate // 20 : rate]
        assert abs(cents_off(audio, rate, f0)) < 2.0, f0


def test_it_dies_as_fast_as_it_is_asked_to():
    rate = 44100
    audio = pluck(rate, 220.5, decay_s=1.5)
    start, stop = rate // 10, rate // 10 + rate // 2
    # Whole periods, so that both windows see the same wave.
    levels = [np.sqrt(np.mean(audio[t : t + 2000] ** 2)) for t in (start, stop)]
    fall_db = 20.0 * np.log10(levels[0] / levels[1])
    assert fall_db == pytest.approx(60.0 * 0.5 / 1.5, rel=0.01)


def test_damping_takes_high_partials_first():
    rate, f0 = 44100, 220.5
    audio = pluck(rate, f0, damping=0.5)[rate // 4 : rate // 4 + rate // 2]
    plain = pluck(rate, f0)[rate // 4 : rate // 4 + rate // 2]
    spectra = [np.abs(np.fft.rfft(a * np.hanning(len(a)))) for a in (audio, plain)]
    bins = [round(k * f0 * len(audio) / rate) for k in range(1, 9)]
    falls = [
        max(spectra[0][b - 3 : b + 4]) / max(spectra[1][b - 3 : b + 4]) for b in bins
    ]
    assert np.all(np.diff(falls[:-1]) < 0.0) and falls[0] > 100.0 * falls[-1]


def test_a_string_plucked_in_the_middle_has_no_even_partials():
    rate, f0 = 44100, 441.0
    audio = pluck(rate, f0, position=0.5)[rate // 8 : rate // 8 + 22000]
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    levels = [
        max(spectrum[b - 3 : b + 4])
        for b in (round(k * f0 * len(audio) / rate) for k in range(1, 7))
    ]
    assert max(levels[1::2]) < 1e-2 * min(levels[::2])


def test_frequencies_stay_within_their_range_and_silence_is_silent():
    rate = 16000
    for f0, same in ((0.0, 27.5), (9000.0, 2100.0)):
        found, wanted = pluck(rate, f0), pluck(rate, same)
        np.testing.assert_array_equal(found, wanted)
        assert np.all(np.isfinite(found)) and np.max(np.abs(found)) > 0.01
    controls = {
        name: np.full(FRAMES, 0.3, np.float32)
        for name in ("f0_hz", "decay_s", "damping", "pluck_position")
    }
    controls["pluck_amplitude"] = np.zeros(FRAMES, np.float32)
    assert not np.any(string(rate)(controls, jax.random.key(0)))


def test_frequencies_out_of_order_are_refused():
    for low, high in ((0.0, 100.0), (200.0, 100.0), (50.0, 4100.0)):
        with pytest.raises(ValueError, match=r"lowest_hz < highest_hz.*at 16000 Hz"):
            karplus_strong(16000, HOP, lowest_hz=low, highest_hz=high)
