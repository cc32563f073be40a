import numpy as np
import pytest
from benchmarks.pitch import Found, explained_db, measures
from benchmarks.pitch_sounds import CONDITIONS, KINDS, Known, add_noise, degraded

RATE, HOP = 8000, 80


def test_measures_count_what_they_say():
    truth = np.full(800, 200.0)
    voiced = np.arange(800) < 640
    known = Known(np.zeros(800), truth, voiced)
    f0 = np.full(10, 200.0 * 2 ** (10 / 1200))
    f0[1] = 400.0  # an octave off
    f0[2] = 200.0 * 2 ** (100 / 1200)  # a semitone off
    found = Found(f0, np.array([1, 1, 1, 1, 1, 1, 0, 0, 1, 0], bool))
    result = measures(found, known, HOP)
    assert result == pytest.approx(
        dict(rpa=6 / 8, rca=7 / 8, recall=6 / 8, false=1 / 2, gross=1 / 8, cents=10.0)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_sounds_have_the_pitch_that_they_claim(kind):
    known = KINDS[kind](RATE, RATE, np.random.default_rng(1))
    assert np.sqrt(np.mean(known.audio[known.voiced] ** 2)) == pytest.approx(0.1)
    # Harmonics of the truth explain the spectrum, those of a wrong pitch do not.
    frames = np.flatnonzero(known.voiced[::HOP])[20:30]
    truth = known.f0_hz[::HOP][frames]
    right = explained_db(known.audio, truth, frames, RATE, HOP).mean()
    wrong = explained_db(known.audio, truth * 2**0.3, frames, RATE, HOP).mean()
    assert right > wrong + 5.0


def test_conditions_are_what_their_names_say():
    known = KINDS["vibrato"](RATE, RATE, np.random.default_rng(2))
    for exponent in (0.0, 1.0):
        noisy = add_noise(known, 10.0, exponent, np.random.default_rng(3))
        noise = np.mean((noisy.audio - known.audio) ** 2)
        assert 10 * np.log10(0.01 / noise) == pytest.approx(10.0)
    for condition in CONDITIONS:
        made = degraded(known, condition, RATE, np.random.default_rng(4))
        assert (made.audio is known.audio) == (condition == "clean")
        assert np.isfinite(made.audio).all()
