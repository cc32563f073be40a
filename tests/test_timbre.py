"""Rules of timbre transfer on curves whose statistics are known."""

import numpy as np
import pytest

from ddspx import timbre
from ddspx.curves import Curves
from ddspx.timbre import Edit, Rules, TimbreError

RATE = 100.0
SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def range_of(values):
    values = np.asarray(values, np.float64)
    return {
        "min": values.min(),
        "max": values.max(),
        "mean": values.mean(),
        "std": values.std(),
        "quantiles": dict(zip(SHARES, np.quantile(values, SHARES), strict=True)),
    }


@pytest.fixture
def ranges(rng):
    return {
        "loudness_db": range_of(rng.normal(-30.0, 6.0, 4000)),
        "f0_hz": range_of(440.0 * 2.0 ** rng.normal(0.0, 0.3, 4000)),
        "centroid_hz": range_of(rng.uniform(500.0, 3000.0, 4000)),
    }


@pytest.fixture
def sound(rng):
    """Two seconds of notes around 110 Hz, then half a second of nothing sure."""
    f0 = 110.0 * 2.0 ** (rng.integers(-3, 4, 25).repeat(10) / 12)
    loudness = rng.normal(-50.0, 3.0, 250)
    loudness[200:] = -85.0
    confidence = np.where(np.arange(250) < 200, 0.95, 0.3)
    values = {"f0_hz": f0, "loudness_db": loudness, "confidence": confidence}
    return Curves(RATE, values)


def test_the_median_note_comes_nearest_to_that_of_training(sound, ranges):
    fitted = timbre.fit(sound, ranges, Rules())
    assert fitted.steps["register"]["octaves"] == 2
    np.testing.assert_allclose(
        fitted.curves.values["f0_hz"], 4.0 * sound.values["f0_hz"], rtol=1e-6
    )
    # Seven semitones up already: an octave and a fifth is nearer than two and a fifth.
    fitted = timbre.fit(sound, ranges, Rules(semitones=7.0))
    assert fitted.steps["register"]["octaves"] == 1
    ratio = fitted.curves.values["f0_hz"] / sound.values["f0_hz"]
    np.testing.assert_allclose(ratio, 2.0 ** (19 / 12), rtol=1e-6)
    by_hand = timbre.fit(sound, ranges, Rules(octave=-1)).curves.values["f0_hz"]
    np.testing.assert_allclose(by_hand, 0.5 * sound.values["f0_hz"], rtol=1e-6)


def test_fitted_loudness_has_the_quantiles_of_training(sound, ranges):
    fitted = timbre.fit(sound, ranges, Rules())
    np.testing.assert_array_equal(fitted.voiced, np.arange(250) < 200)
    found = np.quantile(fitted.curves.values["loudness_db"][:200], SHARES)
    wanted = list(ranges["loudness_db"]["quantiles"].values())
    np.testing.assert_allclose(found, wanted, atol=0.3)
    # The order of levels stays.
    before, after = sound.values["loudness_db"], fitted.curves.values["loudness_db"]
    assert np.all(np.diff(after[np.argsort(before[:200])]) >= 0)


def test_what_is_not_voiced_is_turned_down(sound, ranges):
    kept = timbre.fit(sound, ranges, Rules(unvoiced="keep")).curves
    quieter = timbre.fit(sound, ranges, Rules(unvoiced="quieter", quiet_db=20.0)).curves
    silent = timbre.fit(sound, ranges, Rules(unvoiced="silent")).curves
    lower = kept.values["loudness_db"] - quieter.values["loudness_db"]
    np.testing.assert_array_equal(lower[:200], 0.0)
    np.testing.assert_allclose(lower[210:], 20.0, atol=1e-3)
    assert np.all(np.diff(lower[199:211]) >= -1e-4)
    assert silent.values["loudness_db"][210:].max() < -79.0
    # Silence was 35 dB below the median, and is so after the fit or lower.
    assert kept.values["loudness_db"][200:].max() < -30.0 - 30.0


def test_affine_keep_and_added(sound, ranges):
    voiced = np.arange(250) < 200
    affine = timbre.fit(sound, ranges, Rules(loudness="affine"))
    found = affine.curves.values["loudness_db"][voiced]
    known = ranges["loudness_db"]
    assert found.mean() == pytest.approx(known["mean"], abs=0.01)
    assert found.std() == pytest.approx(known["std"], rel=0.01)
    kept = timbre.fit(sound, ranges, Rules(loudness="keep", unvoiced="keep"))
    np.testing.assert_array_equal(
        kept.curves.values["loudness_db"], sound.values["loudness_db"]
    )
    added = timbre.fit(sound, ranges, Rules(loudness=6.0, unvoiced="keep"))
    difference = added.curves.values["loudness_db"] - sound.values["loudness_db"]
    np.testing.assert_allclose(difference, 6.0, atol=1e-5)


def test_a_level_that_never_moves_is_shifted_and_not_torn_apart(sound, ranges):
    still = sound.replaced(
        loudness_db=np.full(250, -50.0) + 0.01 * (np.arange(250) % 2)
    )
    fitted = timbre.fit(still, ranges, Rules(unvoiced="keep"))
    found = fitted.curves.values["loudness_db"]
    assert np.ptp(found) < 0.05
    wanted = ranges["loudness_db"]["quantiles"][0.5]
    assert found.mean() == pytest.approx(wanted, abs=0.05)


def test_autotune_goes_to_semitones_of_the_sounds_own_tuning(ranges, rng):
    semitones = 57.25 + rng.integers(0, 5, 30).repeat(10)
    off = 0.2 * rng.standard_normal(300).clip(-2, 2)
    values = {
        "f0_hz": 440.0 * 2 ** ((semitones + off - 69) / 12),
        "loudness_db": np.full(300, -30.0),
        "confidence": np.ones(300),
    }
    rules = Rules(autotune=1.0, octave=0)
    fitted = timbre.fit(Curves(RATE, values), ranges, rules)
    found = 69 + 12 * np.log2(fitted.curves.values["f0_hz"] / 440.0)
    assert fitted.steps["autotune"]["tuning_cents"] == pytest.approx(25.0, abs=3.0)
    np.testing.assert_allclose(found - semitones, found[0] - semitones[0], atol=1e-3)


def test_sounds_without_pitch_are_fitted_over_all_frames(ranges, rng):
    values = {
        "loudness_db": rng.normal(-60.0, 10.0, 500),
        "centroid_hz": rng.uniform(100.0, 200.0, 500),
    }
    rules = Rules(also_fit=("centroid_hz",))
    fitted = timbre.fit(Curves(RATE, values), ranges, rules, over="all")
    for name in values:
        found = np.quantile(fitted.curves.values[name], SHARES)
        wanted = np.array(list(ranges[name]["quantiles"].values()))
        if name == "centroid_hz":
            # Three times as steep is steep enough.
            wanted = wanted[3] + 3.0 * (np.quantile(values[name], SHARES) - 150.0)
        np.testing.assert_allclose(found, wanted, rtol=0.02)
    assert "register" not in fitted.steps and "unvoiced" not in fitted.steps


def test_silence_keeps_to_itself(ranges):
    values = {
        "loudness_db": np.full(50, -120.0),
        "f0_hz": np.full(50, 100.0),
        "confidence": np.zeros(50),
    }
    fitted = timbre.fit(Curves(RATE, values), ranges, Rules())
    assert not fitted.voiced.any()
    assert "nothing is voiced" in fitted.steps["voiced"]["note"]


def test_frames_outside_the_training_range_are_counted(ranges):
    low, high = ranges["f0_hz"]["min"], ranges["f0_hz"]["max"]
    curves = Curves(RATE, {"f0_hz": np.array([low, high, 1.01 * high, 0.5 * low])})
    found = timbre.outside(curves, ranges, np.array([True, True, True, False]))
    assert found == {"f0_hz": pytest.approx(1 / 3)}


def test_edits_by_hand(sound, ranges):
    edits = (
        timbre.parse_edit("scale", "f0_hz=2"),
        timbre.parse_edit("scale", "loudness_db = 0.5"),
        timbre.parse_edit("offset", "loudness_db=+1sd"),
        timbre.parse_edit("offset", "confidence=-0.1"),
    )
    assert edits[2] == Edit("offset", "loudness_db", 1.0, True)
    found = timbre.edit(sound, edits, ranges).values
    level = sound.values["loudness_db"].astype(np.float64)
    middle = np.median(level)
    wanted = middle + 0.5 * (level - middle) + ranges["loudness_db"]["std"]
    np.testing.assert_allclose(found["loudness_db"], wanted, rtol=1e-6)
    np.testing.assert_allclose(found["f0_hz"], 2 * sound.values["f0_hz"], rtol=1e-6)
    difference = found["confidence"] - sound.values["confidence"]
    np.testing.assert_allclose(difference, -0.1, atol=1e-6)


def test_wandering_is_slow_random_and_repeats_with_its_seed():
    still = Curves(RATE, {"centroid_hz": np.full(20_000, 1000.0)})
    edits = (Edit("wander", "centroid_hz", 100.0),)
    one, two, other = (
        timbre.edit(still, edits, {}, seed=s, wander_hz=2.0).values["centroid_hz"]
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, two)
    assert np.abs(np.corrcoef(one, other)[0, 1]) < 0.2
    # Four hundred points in 200 s: known to a twentieth, twice that is allowed.
    assert one.std() == pytest.approx(100.0, rel=0.1)
    # Between two of its corners, 50 frames apart, nothing turns.
    assert np.abs(np.diff(one)).max() < 1.5 * np.ptp(one) / 50


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda s: timbre.parse_edit("offset", "z3"), "expected NAME=NUMBER or NAME="),
        (lambda s: timbre.parse_edit("scale", "z3=1sd"), "expected NAME=NUMBER"),
        (lambda s: timbre.parse_edit("scale", "z3=nan"), "expected NAME=NUMBER"),
        (lambda s: timbre.edit(s, (Edit("scale", "z", 2.0),), {}), "no such curve"),
        (
            lambda s: timbre.edit(s, (Edit("offset", "f0_hz", 1.0, True),), {}),
            "deviation in training is not known",
        ),
        (lambda s: Rules(autotune=2.0), "autotune 2.0 is 0 to 1"),
        (lambda s: Rules(confidence_threshold=-1.0), "expected 0 to 1"),
        (lambda s: timbre.fit(s, {}, Rules(also_fit=("z",))), "cannot be fitted"),
        (
            lambda s: timbre.fit(
                Curves(RATE, {"loudness_db": np.zeros(3)}), {}, Rules(octave=1)
            ),
            "move f0_hz, which is not here",
        ),
    ],
)
def test_what_cannot_be_applied_is_said(sound, call, says):
    with pytest.raises(TimbreError, match=says):
        call(sound)
