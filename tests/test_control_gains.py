"""Gains on amplitudes of a synth: what is typed, what is chosen, how they walk."""

import numpy as np
import pytest

from ddspx.control_gains import (
    ControlGain,
    ControlGainError,
    chosen,
    frame_gains,
    louder_in_time,
    missing_level_db,
    parse_gain,
)
from ddspx.curves import CurveError

SIZES = {"harmonic_distribution": 6, "noise_magnitudes": 5}
CENTERS_HZ = {"noise_magnitudes": np.linspace(0.0, 8000.0, 5)}


def gains(*edits, **more):
    return frame_gains(edits, SIZES, CENTERS_HZ, frame_rate_hz=100.0, **more)


@pytest.mark.parametrize(
    ("words", "places"),
    [
        ("harmonic_distribution=-6", [0, 1, 2, 3, 4, 5]),
        ("harmonic_distribution[1::2]=-6", [1, 3, 5]),
        ("harmonic_distribution[2]=-6dB", [2]),
        ("harmonic_distribution[-1]=-6", [5]),
        ("harmonic_distribution[:2]=-6", [0, 1]),
        ("noise_magnitudes[2khz:6000hz]=-6", [1, 2]),
        ("noise_magnitudes[3.9kHz:] = -6", [2, 3, 4]),
    ],
)
def test_places_are_read_as_python_or_as_hertz(words, places):
    gain = parse_gain("level", words)
    found = gains(gain)(np.arange(3))[gain.name]
    expected = np.ones(SIZES[gain.name])
    expected[places] = 10 ** (-6 / 20)
    np.testing.assert_allclose(found, np.tile(expected, (3, 1)), rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "words", "says"),
    [
        ("level", "x", "expected NAME=DB"),
        ("level", "x=loud", "expected NAME=DB"),
        ("level", "x=nan", "expected NAME=DB"),
        ("level", "x[1=3", "expected NAME=DB"),
        ("level", "x[a:b]=3", "is no range"),
        ("level", "x[]=3", "is no range"),
        ("level", "x[1:5:0]=3", "is no range"),
        ("level", "x[1:2khz]=3", "is no range"),
        ("randomize", "x=-3", "DB of deviation"),
        ("randomize", "x=-inf", "DB of deviation"),
    ],
)
def test_what_reads_otherwise_is_told(kind, words, says):
    with pytest.raises(ControlGainError, match=says.replace("[", r"\[")):
        parse_gain(kind, words)


def test_what_is_not_there_is_told():
    with pytest.raises(ControlGainError, match=r"noise_magnitudes \(5\)"):
        gains(ControlGain("level", "bands", -6.0))
    with pytest.raises(ControlGainError, match="lie from 0 to 5"):
        gains(ControlGain("level", "harmonic_distribution", -6.0, 9, None))
    with pytest.raises(ControlGainError, match="0 to 8000 Hz"):
        gains(ControlGain("level", "noise_magnitudes", -6.0, 9e3, None, hertz=True))
    with pytest.raises(ControlGainError, match="instead of Hz"):
        chosen(ControlGain("level", "x", -6.0, 9e3, None, hertz=True), 3)
    walk = ControlGain("randomize", "noise_magnitudes", 3.0)
    with pytest.raises(CurveError, match=r"wander_hz 0\.0"):
        gains(walk, wander_hz=0.0)(np.arange(2))


def test_gains_multiply_and_silence_is_exact():
    one = ControlGain("level", "noise_magnitudes", 20.0, 0, 3)
    two = ControlGain("level", "noise_magnitudes", -np.inf, 2, None)
    found = gains(one, two)(np.arange(2))
    assert set(found) == {"noise_magnitudes"}
    np.testing.assert_allclose(found["noise_magnitudes"][1], [10, 10, 0, 0, 0])


def test_walks_differ_by_amplitude_and_seed_and_do_not_know_blocks():
    one = ControlGain("randomize", "harmonic_distribution", 6.0, 1, None)
    at = gains(one, seed=3)
    whole = at(np.arange(400))["harmonic_distribution"]
    parts = [at(np.arange(a, b)) for a, b in ((0, 17), (17, 300), (300, 400))]
    parts = np.concatenate([part["harmonic_distribution"] for part in parts])
    np.testing.assert_array_equal(parts, whole)
    np.testing.assert_array_equal(whole[:, 0], 1.0)
    correlation = np.corrcoef(np.log(whole[:, 1:]).T)
    assert np.abs(correlation - np.eye(5)).max() < 0.95
    other = gains(one, seed=4)(np.arange(400))["harmonic_distribution"]
    assert np.abs(other - whole).max() > 0.1
    # A path without jumps: 100 frames a second, one new point a second.
    assert np.abs(np.diff(20 * np.log10(whole), axis=0)).max() < 1.0


def test_a_walk_has_the_deviation_that_was_asked_for():
    one = ControlGain("randomize", "noise_magnitudes", 2.0)
    found = gains(one, wander_hz=10.0)(np.arange(100_000))
    level_db = 20 * np.log10(found["noise_magnitudes"])
    # Some 10,000 points a walk: the deviation is known to about a hundredth.
    np.testing.assert_allclose(level_db.std(0), 2.0, rtol=0.03)
    np.testing.assert_allclose(level_db.mean(0), 0.0, atol=0.1)


def test_what_is_missing_is_smooth_and_known_where_it_is_counted():
    wanted = np.zeros(200)
    heard = np.where(np.arange(200) < 100, -6.0, 2.0)
    counted = np.ones(200, bool)
    found = missing_level_db(wanted, heard, counted, 100.0, smooth_s=0.1)
    np.testing.assert_allclose(found[:95], 6.0, atol=1e-9)
    np.testing.assert_allclose(found[105:], -2.0, atol=1e-9)
    # Frame 99 lies amid eleven of which five are behind the step.
    assert found[99] == pytest.approx((6 * 6 - 5 * 2) / 11)
    assert np.all(np.diff(found[94:106]) < 0)
    # What is not counted has no say; between, a straight line; outside, as at its ends.
    heard[:20], heard[80:120] = -80.0, 55.0
    counted[:20] = counted[80:120] = False
    found = missing_level_db(wanted, heard, counted, 100.0, smooth_s=0.01)
    np.testing.assert_allclose(found[:80], 6.0, atol=1e-9)
    assert found[99] == pytest.approx(2.1, abs=0.2)
    # What is silent is not made loud without end.
    most = missing_level_db(wanted, np.full(200, -80.0), counted, 100.0)
    np.testing.assert_allclose(most, 20.0)
    nothing = missing_level_db(wanted, heard, np.zeros(200, bool), 100.0)
    np.testing.assert_array_equal(nothing, np.zeros(200))


def test_a_gain_in_time_is_on_all_that_sounds_once():
    sizes = {"amplitude": 1, **SIZES}
    others = gains(parse_gain("level", "noise_magnitudes[0]=-inf"))
    loud = louder_in_time(sizes, np.array([0.0, 20.0, -20.0]), others)
    found = loud(np.array([0, 1, 2, 5]))
    # The shares of the harmonics keep theirs: their level is the amplitude's.
    assert set(found) == {"amplitude", "noise_magnitudes"}
    steps = np.array([1.0, 10.0, 0.1, 0.1])
    np.testing.assert_allclose(found["amplitude"][:, 0], steps, rtol=1e-6)
    np.testing.assert_array_equal(found["noise_magnitudes"][:, 0], 0.0)
    np.testing.assert_allclose(
        found["noise_magnitudes"][:, 1:], np.tile(steps[:, None], (1, 4)), rtol=1e-6
    )
