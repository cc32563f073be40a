"""Baselines do what they say, and no more than they are told."""

import numpy as np
import pytest
import scipy.signal

from ddspx.data.dataset import Section
from ddspx.data.practice import render_piece
from styletransfer import baselines
from styletransfer.hosts import open_host
from styletransfer.presets import parse_effect
from styletransfer.style import style_bands
from styletransfer.trials import Question, Trial, even_pairs, hide_settings

RATE = 24000
EFFECT = (
    "slots: {gain: {plugin: Gain}, low: {plugin: LowShelfFilter, controls: [gain_db]}}"
)


@pytest.fixture(scope="module")
def host():
    with open_host(parse_effect(EFFECT, "tone"), RATE, backend="serial") as opened:
        yield opened


@pytest.fixture(scope="module")
def trials(host) -> list[Trial]:
    groups = {}
    for piece in range(3):
        audio = render_piece("strings", piece, sample_rate=RATE)[:1]
        groups[f"piece{piece}"] = [
            (f"{piece}@{k}", Section(audio[:, k * RATE : (k + 1) * RATE], RATE, k))
            for k in range(3)
        ]
    rng = np.random.default_rng(3)
    return hide_settings(even_pairs(groups, 9, rng), host, rng, audible_db=0.5)


@pytest.fixture(scope="module")
def questions(trials) -> list[Question]:
    return [trial.question() for trial in trials]


def distance(renders, truths):
    """Mean difference of the logarithms of two magnitude spectra."""
    p, t = (np.abs(np.fft.rfft(sounds)) for sounds in (renders, truths))
    return np.mean(np.abs(np.log((p + 1e-2) / (t + 1e-2))), axis=(1, 2))


def losses_to_the_truth(answers, trials):
    return distance(answers.audio, np.stack([trial.truth for trial in trials]))


def test_they_are_what_they_say(host, trials, questions, rng):
    level = baselines.level_matched(questions, host, rng)
    for made, question in zip(level.audio, questions, strict=True):
        wanted = np.mean(question.reference**2)
        assert np.mean(made**2) == pytest.approx(wanted, rel=1e-4)
    nothing = baselines.do_nothing(questions, host, rng)
    assert np.array_equal(nothing.audio[2], questions[2].dry)
    assert not (level.renders.any() or nothing.renders.any())
    blind = baselines.random_settings(questions, host, rng)
    assert (losses_to_the_truth(blind, trials) > 0).all()
    np.testing.assert_array_equal(blind.renders, 1)


def test_true_settings_are_told_and_reach_the_truth(host, trials, questions, rng):
    hidden = np.stack([trial.hidden for trial in trials])
    told = baselines.true_settings(hidden)(questions, host, rng)
    np.testing.assert_array_equal(told.audio, [t.truth for t in trials])
    with pytest.raises(ValueError, match="hidden settings for 2 questions"):
        baselines.true_settings(hidden)(questions[:2], host, rng)


def test_the_match_equalizer_has_the_response_that_was_asked_for():
    centres = style_bands(RATE, 0.45 * RATE).centres_hz
    wanted_db = np.interp(np.log(centres), np.log([100.0, 1e3, 1e4]), [6.0, 0.0, -9.0])
    taps = baselines.match_equalizer(wanted_db, RATE)
    np.testing.assert_allclose(taps, taps[::-1], atol=1e-6)
    _, response = scipy.signal.freqz(taps, worN=centres[4:], fs=RATE)
    found_db = 20 * np.log10(np.abs(response))
    np.testing.assert_allclose(found_db, wanted_db[4:], atol=0.5)
    # What is beyond the limit is the limit.
    most = baselines.match_equalizer(np.full_like(wanted_db, 90.0), RATE)
    assert 20 * np.log10(most.sum()) == pytest.approx(24.0, abs=0.1)


def test_spectrum_matching_gets_nearer_than_level_matching(host, trials, questions):
    rng = np.random.default_rng(0)
    level, spectrum = (
        losses_to_the_truth(method(questions, host, rng), trials)
        for method in (baselines.level_matched, baselines.spectrum_matched)
    )
    assert spectrum.mean() < 0.8 * level.mean()
    # Of the input itself as reference, nothing is changed.
    same = [q._replace(reference=q.dry) for q in questions[:2]]
    kept = baselines.spectrum_matched(same, host, rng)
    np.testing.assert_allclose(kept.audio, [q.dry for q in same], atol=1e-3)


def test_the_best_constant_is_the_setting_that_all_trials_hide(host, trials):
    """Gain and shelf of every trial are the same, so that one setting is right."""
    hidden = trials[0].hidden
    dry = np.stack([t.dry for t in trials])
    truths = host.render(dry, np.repeat(hidden[None], len(trials), 0)).audio
    alike = [t._replace(truth=truth) for t, truth in zip(trials, truths)]  # noqa: B905
    found, again = (
        baselines.best_constant(
            alike, host, np.random.default_rng(5), distance=distance, renders=900
        )
        for _ in range(2)
    )
    np.testing.assert_array_equal(found, again)
    made = baselines.constant_settings(found)(
        [t.question() for t in alike], host, np.random.default_rng(0)
    )
    reached = distance(made.audio, truths).mean()
    assert reached < 0.15 * distance(dry, truths).mean()
    with pytest.raises(ValueError, match="no training trials"):
        baselines.best_constant([], host, np.random.default_rng(0), distance=distance)


def test_the_constant_is_never_worse_than_the_identity_in_training(host, trials):
    found = baselines.best_constant(
        trials, host, np.random.default_rng(1), distance=distance, renders=100
    )
    dry = np.stack([t.dry for t in trials])
    truths = np.stack([t.truth for t in trials])
    made = host.render(dry, np.repeat(found[None], len(trials), 0)).audio
    assert distance(made, truths).mean() <= distance(dry, truths).mean() + 1e-6


def test_retrieval_finds_the_example_itself(host, trials, questions, rng):
    changes = baselines.changes_of(questions, baselines.style_embedding)
    hidden = np.stack([t.hidden for t in trials])
    bank = baselines.make_bank(changes, hidden)
    nearest = baselines.nearest_setting(bank, baselines.style_embedding)
    order = [4, 0, 7]
    found = nearest([questions[k] for k in order], host, rng)
    np.testing.assert_array_equal(found.audio, [trials[k].truth for k in order])


def test_an_entry_that_never_moves_in_training_does_not_decide(host, questions, rng):
    """A third entry, constant in the bank, is far off in what is asked."""
    changes = np.array([[0.0, 1.0, 3.0], [1.0, 0.0, 3.0]])
    bank = baselines.make_bank(changes, np.array([[0.2, 0.5], [0.8, 0.5]]))

    def embedding(audio, rate):
        treated = audio is questions[0].reference
        return np.array([1.0, 0.0, 500.0]) if treated else np.zeros(3)

    found = baselines.nearest_setting(bank, embedding)(questions[:1], host, rng)
    wanted = host.render(questions[0].dry[None], np.array([[0.8, 0.5]])).audio
    np.testing.assert_array_equal(found.audio, wanted)
    with pytest.raises(ValueError, match="no training examples"):
        baselines.make_bank(changes[:0], np.zeros((0, 2)))
