"""Moved latents and alternatives, on a controller whose every answer is known."""

import dataclasses

import jax
import numpy as np
import pytest
from latent_controller import (
    DEVIATION,
    RATE,
    SLOPES,
    VARIANCE,
    direct_controller,
    latent_controller,
)
from scipy.stats import truncnorm

from ddspx.parameters import ParameterSpec
from styletransfer.alternatives import (
    Move,
    alternatives,
    at_rate,
    candidates,
    check_moves,
    codes_of,
    differences,
    draws_for,
    latent_count,
    medoids,
    moved,
    parse_move,
    predict_moved,
)
from styletransfer.controller import predict
from styletransfer.hosts import HostEffect, Slot, open_host
from styletransfer.hosts.response import probe_signal
from styletransfer.models import Prediction
from styletransfer.transfer import TransferConfig, TransferError, comparison


@pytest.fixture(scope="module")
def loaded():
    return latent_controller()


@pytest.fixture(scope="module")
def sounds():
    """Input and a reference that is 6 dB louder."""
    dry, other = (probe_signal(RATE, 0.9, seed)[None] for seed in (1, 2))
    return 0.2 * dry, 0.4 * other


@pytest.fixture(scope="module")
def codes(loaded, sounds):
    return codes_of(loaded, sounds[0], sounds[1], RATE, RATE)


@pytest.mark.parametrize(
    ("text", "move"),
    [
        ("3=+1.5", Move(3, 1.5, True)),
        ("0=-2", Move(0, -2.0, True)),
        ("12==0.5", Move(12, 0.5, False)),
        (" 1 == -1e-1 ", Move(1, -0.1, False)),
    ],
)
def test_wishes_are_read(text, move):
    assert parse_move(text) == move


@pytest.mark.parametrize(
    "text",
    ["3", "3=1.5", "=+1", "-1=+1", "a=+1", "3=+x", "3==", "3=+nan", "3=+inf", "3=+-1"],
)
def test_other_words_are_refused(text):
    with pytest.raises(TransferError, match="such as 3="):
        parse_move(text)


def test_what_cannot_be_moved_is_refused(loaded):
    assert latent_count(loaded) == 4 and latent_count(direct_controller()) == 0
    check_moves(direct_controller(), ())
    for controller, moves, words in (
        (direct_controller(), [Move(0, 1.0, True)], "has no latents"),
        (loaded, [Move(4, 1.0, True)], "latents 0 to 3"),
        (loaded, [Move(1, 1.0, False), Move(1, 1.0, True)], "not both"),
    ):
        with pytest.raises(TransferError, match=words):
            check_moves(controller, moves)


def test_moves_add_up_and_setting_ignores_what_was_said():
    z = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    moves = [Move(0, 0.5, True), Move(0, 0.25, True), Move(2, -1.0, False)]
    np.testing.assert_allclose(moved(z, moves), [[1.75, 2, -1], [4.75, 5, -1]])
    np.testing.assert_array_equal(z[0], [1.0, 2.0, 3.0])


def test_a_moved_latent_moves_its_controls_and_no_others(loaded, sounds, codes):
    said = predict(loaded, sounds[0], sounds[1], RATE, RATE)
    same = predict_moved(loaded, codes, RATE, ())
    np.testing.assert_allclose(same.controls, said.controls, atol=1e-6)
    np.testing.assert_array_equal(same.deviation, said.deviation)
    up = predict_moved(loaded, codes, RATE, [Move(0, 0.4, True), Move(1, 0.0, False)])
    np.testing.assert_allclose(
        up.controls, [said.controls[0] + 0.4 * SLOPES[0, 0], 0.5], atol=1e-6
    )
    dead = predict_moved(loaded, codes, RATE, [Move(2, 3.0, True)])
    np.testing.assert_array_equal(dead.controls, same.controls)


def test_controls_keep_their_hertz_at_another_rate():
    cutoff = ParameterSpec("cutoff_frequency_hz", 200.0, 20000.0, "Hz", "log")
    effect = HostEffect("low", (Slot("l", "LowpassFilter", (cutoff,)),))
    loaded = latent_controller(SLOPES[:1], effect)
    here, there = (effect.at_sample_rate(r).specs[0] for r in (RATE, 44100))
    assert here.high < there.high
    controls = np.array([[0.3], [0.9]])
    found = at_rate(loaded, controls, 44100)
    np.testing.assert_allclose(
        there.to_physical(found.astype(np.float64)), here.to_physical(controls), 1e-5
    )
    np.testing.assert_allclose(at_rate(loaded, controls, RATE), controls, atol=1e-6)


def test_candidates_of_a_direct_controller_are_the_truncated_normal():
    direct = direct_controller()
    said = Prediction(np.array([0.9, 0.5]), np.array([0.2, 0.01]))
    drawn = candidates(direct, (np.zeros(16), np.zeros(16)), said, RATE, 4096)
    assert drawn.shape == (4096, 2) and drawn.min() >= 0.0 and drawn.max() <= 1.0
    wanted = truncnorm(-4.5, 0.5, loc=0.9, scale=0.2)
    np.testing.assert_allclose(drawn[:, 0].mean(), wanted.mean(), atol=2e-3)
    np.testing.assert_allclose(drawn[:, 0].std(), wanted.std(), atol=2e-3)
    np.testing.assert_allclose(drawn[:, 1].std(), 0.01, rtol=0.05)


def test_candidates_come_from_the_latents_and_moved_ones_stay(loaded, codes):
    """Variance of a control: what its latent leaves, and what it leaves itself."""
    said = predict_moved(loaded, codes, RATE, [Move(0, 0.0, False)])
    free = candidates(loaded, codes, said, RATE, 2048)
    held = candidates(loaded, codes, said, RATE, 2048, moves=[Move(0, 0.0, False)])
    again = candidates(loaded, codes, said, RATE, 2048)
    np.testing.assert_array_equal(free, again)
    assert not np.array_equal(free, candidates(loaded, codes, said, RATE, 2048, seed=1))
    from_latent = SLOPES[0, 0] ** 2 * VARIANCE
    np.testing.assert_allclose(
        free[:, 0].var(), from_latent + DEVIATION[0] ** 2, rtol=0.05
    )
    np.testing.assert_allclose(held[:, 0].var(), DEVIATION[0] ** 2, rtol=0.05)
    np.testing.assert_allclose(held[:, 0].mean(), 0.5, atol=2e-3)


def test_choices_are_drawn_by_their_probabilities():
    kind = ParameterSpec("kind", choices=("a", "b", "c"))
    gain = ParameterSpec("gain_db", -20.0, 20.0, "dB")
    effect = HostEffect("two", (Slot("g", "Gain", (gain, kind)),))
    direct = direct_controller()._replace(effect=effect)
    share = np.array([0.5, 0.2, 0.3])
    said = Prediction(np.array([0.5, 1 / 6]), np.array([0.1, 0.3]), (np.log(share),))
    drawn = candidates(direct, (np.zeros(16), np.zeros(16)), said, RATE, 1024)
    centres, counts = np.unique(drawn[:, 1], return_counts=True)
    np.testing.assert_allclose(centres, [1 / 6, 3 / 6, 5 / 6], atol=1e-6)
    np.testing.assert_allclose(counts / 1024, share, atol=0.005)
    np.testing.assert_allclose(drawn[:, 0].std(), 0.1, rtol=0.02)


def test_medoids_stand_for_clusters_other_than_those_taken(rng):
    centres = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
    points = np.concatenate([c + 0.3 * rng.normal(size=(40, 2)) for c in centres])
    found = medoids(points, 2, centres[:1])
    assert sorted(found // 40) == [1, 2]
    # The nearest to all others of its cluster, by trying every one.
    for row in found:
        cluster = points[row // 40 * 40 :][:40]
        spread = [np.linalg.norm(cluster - p, axis=1).sum() for p in cluster]
        assert row % 40 == int(np.argmin(spread))
    assert len(medoids(np.repeat(points[:1], 9, 0), 4, centres[:1])) == 1
    assert len(medoids(np.repeat(centres[:1], 9, 0), 4, centres[:1])) == 0


def test_alternatives_are_distinct_and_ranked_by_what_they_sound_like(
    loaded, sounds, codes
):
    said = predict_moved(loaded, codes, RATE, ())
    with open_host(loaded.effect, RATE, backend="serial") as host:
        judge = comparison(host, *sounds, config=TransferConfig(excerpt_s=1.0))
        drawn = candidates(loaded, codes, said, RATE, draws_for(3))
        one, two = (
            alternatives(host, judge, drawn, said.controls, said.deviation, 3)
            for _ in range(2)
        )
        renders = host.render(
            judge.excerpt[None], np.stack([found.controls for found in one])
        ).audio
        loss = jax.jit(judge.score.loss)
        judged = [float(loss(render)[0]) for render in renders]
        every = host.render(judge.excerpt[None], drawn).audio
        best = min(float(loss(r)[0]) for r in every)
    assert len(one) == 3
    assert [found.settings for found in one] == [found.settings for found in two]
    np.testing.assert_allclose([found.loss for found in one], judged, rtol=1e-4)
    assert judged == sorted(judged) and judged[0] < 3.0 * best
    for found in one:
        first = found.differs[0]
        assert first["here"] == found.settings[first["control"]]["text"]
        assert first["here"] != first["result"]
        sizes = [abs(row["deviations"]) for row in found.differs]
        assert sizes == sorted(sizes, reverse=True)
    every = np.stack([said.controls, *(found.controls for found in one)]) / DEVIATION
    apart = np.linalg.norm(every[:, None] - every[None], axis=-1)
    assert apart[~np.eye(4, dtype=bool)].min() > 0.5


def test_what_reads_the_same_is_no_alternative(loaded, sounds):
    chosen = np.array([0.62, 0.48], np.float32)
    nearly = chosen + np.float32(1e-5) * np.arange(16, dtype="f4")[:, None]
    other = np.array([[0.7, 0.48], [0.70001, 0.48]], np.float32)
    deviation = np.full(2, 1e-5)
    with open_host(loaded.effect, RATE, backend="serial") as host:
        judge = comparison(host, *sounds, config=TransferConfig(excerpt_s=1.0))
        assert not alternatives(host, judge, nearly, chosen, deviation, 3)
        drawn = np.concatenate([nearly, other])
        (found,) = alternatives(host, judge, drawn, chosen, deviation, 3)
    assert [row["control"] for row in found.differs] == ["level.gain_db"]


def test_positions_of_a_choice_are_compared_as_chosen():
    specs = (
        ParameterSpec("kind", choices=("soft", "hard")),
        dataclasses.replace(ParameterSpec("drive_db", 0.0, 40.0, "dB"), default=0.0),
    )
    ours, theirs = np.array([0.1, 0.5]), np.array([0.4, 0.75])
    (row,) = differences(specs, ours, theirs, np.array([0.1, 0.1]))
    assert row == {
        "control": "drive_db",
        "result": "+20.0 dB",
        "here": "+30.0 dB",
        "deviations": 2.5,
    }
    rows = differences(specs, ours, np.array([0.9, 0.5]), np.array([0.1, 0.1]))
    assert [(r["control"], r["here"]) for r in rows] == [("kind", "hard")]
