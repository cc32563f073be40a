"""The gain behind a prediction: its decibels, and that it is nothing but a gain."""

import numpy as np
import pytest
from latent_controller import RATE, gain_and_shelf, latent_controller

from styletransfer.evaluation import predicted_method
from styletransfer.hosts import open_host
from styletransfer.hosts.response import probe_signal
from styletransfer.level_trim import MOST_DB, level_trim_db, with_gain
from styletransfer.trials import Question


def test_the_gain_is_a_share_of_the_difference():
    sound = probe_signal(RATE, 0.5)[None]
    louder = with_gain(sound, 6.0)
    assert level_trim_db(sound, louder, 1.0) == pytest.approx(6.0, abs=1e-5)
    assert level_trim_db(louder, sound, 0.5) == pytest.approx(-3.0, abs=1e-5)
    assert level_trim_db(sound, louder, 0.0) == 0.0
    # A level is a mean: half the length, or two channels alike, are as loud.
    two = np.concatenate([louder, louder])
    assert level_trim_db(sound, two, 1.0) == pytest.approx(6.0, abs=1e-5)
    assert level_trim_db(1e-4 * sound, sound, 1.0) == MOST_DB
    assert level_trim_db(sound, 0.0 * sound) == 0.0
    with pytest.raises(ValueError, match=r"share 1\.5"):
        level_trim_db(sound, louder, 1.5)


@pytest.fixture(scope="module")
def host():
    with open_host(gain_and_shelf(), RATE, backend="serial") as opened:
        yield opened


def test_a_trimmed_prediction_is_the_prediction_louder_or_softer(host):
    """All of the difference taken away leaves the level of the reference."""
    loaded = latent_controller()
    sounds = [probe_signal(RATE, 0.5, k)[None] for k in range(3)]
    questions = [
        Question(RATE, sounds[0], np.float32(0.3) * sounds[1]),
        Question(RATE, sounds[1], np.float32(2.0) * sounds[2]),
    ]
    rng = np.random.default_rng(0)
    plain = predicted_method(loaded)(questions, host, rng)
    whole = predicted_method(loaded, trim=1.0)(questions, host, rng)
    np.testing.assert_array_equal(whole.renders, plain.renders)
    for made, before, question in zip(whole.audio, plain.audio, questions, strict=True):
        wanted = np.sqrt(np.mean(question.reference**2))
        assert np.sqrt(np.mean(made**2)) == pytest.approx(wanted, rel=1e-5)
        ratio = np.vdot(made, before) / np.vdot(before, before)
        np.testing.assert_allclose(made, ratio * before, atol=1e-6)
        assert abs(ratio - 1.0) > 1e-3
