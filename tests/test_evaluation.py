from types import SimpleNamespace

import numpy as np
import pytest
from level_controller import EFFECT, RATE, level_controller
from scipy import stats

from ddspx.data.dataset import Section
from ddspx.data.practice import render_piece
from styletransfer import evaluation, trials
from styletransfer.controller import embed, predict
from styletransfer.evaluation import bootstrap, bootstrap_columns, scoreboard
from styletransfer.hosts import open_host
from styletransfer.pairs import spectrum_change_db
from styletransfer.presets import parse_effect
from styletransfer.transfer import TransferConfig
from styletransfer.trials import even_pairs, every_section, hide_settings, make_trials


@pytest.fixture(scope="module")
def loaded():
    return level_controller()


@pytest.fixture(scope="module")
def host():
    with open_host(parse_effect(EFFECT, "tone"), RATE, backend="serial") as opened:
        yield opened


@pytest.fixture(scope="module")
def groups():
    pieces = {i: render_piece("strings", i, sample_rate=RATE)[:1] for i in (0, 1)}
    return {
        f"piece{i}": [
            (f"{i}@{k}", Section(audio[:, k * RATE : (k + 1) * RATE], RATE, float(k)))
            for k in range(3)
        ]
        for i, audio in pieces.items()
    }


def test_every_pair_times_settings_and_truth_is_the_input_treated(host, groups):
    made = list(make_trials(groups, lambda rate: host, settings=2, seed=4))
    assert len(made) == 2 * 3 * 2
    assert len({t.truth.tobytes() for t in made}) == len(made)
    for trial in made:
        again = host.render(trial.dry[None], trial.hidden[None]).audio[0]
        np.testing.assert_array_equal(again, trial.truth)
        assert not np.array_equal(trial.reference, trial.wrong)
        assert not np.array_equal(trial.reference, trial.truth)
    same = list(make_trials(groups, lambda rate: host, settings=2, seed=4))
    assert [t.name for t in same] == [t.name for t in made]
    assert all(
        np.array_equal(a.hidden, b.hidden) for a, b in zip(same, made, strict=True)
    )


def test_a_question_holds_nothing_of_the_answer(host, groups):
    trial = next(make_trials(groups, lambda rate: host, settings=1, seed=0))
    question = trial.question()
    assert question._fields == ("sample_rate", "dry", "reference")
    shown = (question.dry, question.reference)
    for secret in (trial.truth, trial.hidden, trial.wrong):
        assert not any(np.shares_memory(secret, array) for array in shown)
    assert trial.question(wrong=True).reference is trial.wrong


def test_pairs_are_even_over_groups_from_the_start(groups):
    uneven = {**groups, "piece0": groups["piece0"][:2]}
    pairs = even_pairs(uneven, 11, np.random.default_rng(0))
    for count in (2, 6, 11):
        of_first = sum(pair.group == "piece0" for pair in pairs[:count])
        assert abs(2 * of_first - count) <= 1
    assert all(pair.name != pair.reference_name for pair in pairs)
    sections = every_section(groups, np.random.default_rng(0))
    assert len({pair.name for pair in sections}) == len(sections) == 6
    assert all(pair.name != pair.reference_name for pair in sections)


def test_settings_that_are_not_heard_are_drawn_again_and_counted(host, groups):
    pairs = even_pairs(groups, 12, np.random.default_rng(1))
    heard, first = (
        hide_settings(pairs, host, np.random.default_rng(2), audible_db=db)
        for db in (6.0, 0.0)
    )
    assert all(spectrum_change_db(t.dry, t.truth) >= 6.0 for t in heard)
    assert max(t.tries for t in heard) > 1 and all(t.tries == 1 for t in first)
    assert any(spectrum_change_db(t.dry, t.truth) < 6.0 for t in first)
    # What is never heard is left out, in words of the caller.
    assert not hide_settings(
        pairs, host, np.random.default_rng(2), audible_db=1e3, tries=2
    )


def test_sections_of_another_shape_are_not_paired(groups):
    short = Section(np.zeros((1, 10), np.float32), RATE, 0.0)
    mixed = {"piece": [groups["piece0"][0], ("short@0.00", short)]}
    with pytest.raises(ValueError, match="differ in rate or shape"):
        even_pairs(mixed, 1, np.random.default_rng(0))


def test_sections_of_a_split_without_two_are_refused():
    with pytest.raises(ValueError, match="choose shorter sections"):
        trials.grouped_sections([], 3.0, split="test")


def test_a_list_of_questions_is_predicted_as_each_alone(loaded, host, groups, rng):
    pairs = even_pairs(groups, 4, rng)
    asked = [t.question() for t in hide_settings(pairs, host, rng)]
    found = evaluation.predict_all(loaded, asked)
    for question, prediction in zip(asked, found, strict=True):
        alone = predict(loaded, question.dry, question.reference, RATE, RATE)
        np.testing.assert_allclose(prediction.controls, alone.controls, atol=1e-5)
        np.testing.assert_allclose(prediction.deviation, alone.deviation, atol=1e-5)
    # At another rate, the controls follow the values.
    elsewhere = [q._replace(sample_rate=2 * RATE) for q in asked[:1]]
    moved = evaluation.predict_all(loaded, elsewhere)[0]
    question = elsewhere[0]
    wanted = predict(loaded, question.dry, question.reference, 2 * RATE, 2 * RATE)
    np.testing.assert_array_equal(moved.controls, wanted.controls)


def test_a_sound_is_embedded_once(loaded, host, groups, rng):
    calls = []

    def embedding(audio, rate):
        calls.append(rate)
        return embed(loaded, audio, rate)

    codes = {}
    known = evaluation.cached_embedding(embedding, codes)
    first, second = (groups["piece0"][k][1].samples for k in (0, 1))
    same = known(first, RATE)
    np.testing.assert_array_equal(known(first.copy(), RATE), same)
    assert not np.array_equal(known(second, RATE), same)
    assert calls == [RATE, RATE] and len(codes) == 2
    known(first, 2 * RATE)
    assert len(calls) == 3


def test_a_prediction_is_rendered_once_or_searched_on_from(
    loaded, host, groups, rng, monkeypatch
):
    pairs = even_pairs(groups, 2, rng)
    asked = [t.question() for t in hide_settings(pairs, host, rng)]
    found = evaluation.predict_all(loaded, asked)
    taken = evaluation.predicted_method(loaded)(asked, host, rng)
    controls = np.stack([p.controls for p in found])
    wanted = host.render(np.stack([q.dry for q in asked]), controls).audio
    np.testing.assert_array_equal(taken.audio, wanted)
    np.testing.assert_array_equal(taken.renders, 1)
    begun = []

    def search(host, dry, reference, *, config, prediction=None):
        begun.append(None if prediction is None else prediction.controls)
        return SimpleNamespace(audio=dry + reference, renders=config.renders)

    monkeypatch.setattr(evaluation, "transfer", search)
    config = TransferConfig(renders=12)
    refined = evaluation.predicted_method(loaded, refine=config)(asked, host, rng)
    np.testing.assert_array_equal(begun, controls)
    np.testing.assert_array_equal(refined.renders, 12)
    np.testing.assert_array_equal(refined.audio, [q.dry + q.reference for q in asked])
    evaluation.transfer_method(config)(asked[:1], host, rng)
    assert begun[2] is None


def test_bootstrap_is_wider_when_groups_agree_within_themselves():
    """With identical values inside groups the interval is that of the group means."""
    rng = np.random.default_rng(0)
    effects = rng.normal(1.0, 1.0, 12)
    clustered = np.repeat(effects, 20)
    names = [f"g{i}" for i in range(12) for _ in range(20)]
    interval = bootstrap(clustered, names, draws=4000)
    expected = 1.96 * effects.std() / np.sqrt(12)
    assert interval.mean == pytest.approx(effects.mean())
    assert (interval.high - interval.low) / 2 == pytest.approx(expected, rel=0.12)
    naive = bootstrap(clustered, [str(i) for i in range(240)], draws=2000)
    assert naive.high - naive.low < 0.4 * (interval.high - interval.low)


def test_bootstrap_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(120):
        values = (rng.normal(0, 1, (15, 1)) + rng.normal(0, 1, (15, 4))).ravel()
        names = [f"g{i // 4}" for i in range(60)]
        interval = bootstrap(values, names, draws=300)
        hits += interval.low <= 0 <= interval.high
    # Percentile intervals of 15 groups cover a little less than 95 %.
    assert stats.binomtest(hits, 120, 0.95).pvalue > 1e-3 and hits < 120


def test_bootstrap_is_that_of_resampling_one_by_one():
    """Groups of unequal size: the drawing itself, spelt out."""
    rng = np.random.default_rng(7)
    names = [f"g{i}" for i, size in enumerate((2, 9, 4, 6, 3)) for _ in range(size)]
    values = rng.normal(0, 1, len(names)) + np.array([int(n[1]) for n in names])
    members = [np.flatnonzero(np.array(names) == f"g{i}") for i in range(5)]
    means = []
    for _ in range(6000):
        drawn = [members[g] for g in rng.integers(5, size=5)]
        sample = [m[rng.integers(len(m), size=len(m))] for m in drawn]
        means.append(values[np.concatenate(sample)].mean())
    interval = bootstrap(values, names, draws=6000)
    np.testing.assert_allclose(
        interval[1:], np.quantile(means, (0.025, 0.975)), atol=0.12
    )


def test_a_value_that_does_not_exist_is_left_out_of_its_column_alone():
    values = np.array([[1.0, 2.0], [np.nan, 4.0], [3.0, 6.0], [np.nan, 8.0]])
    first, second = bootstrap_columns(values, list("aabb"), draws=500)
    assert first.mean == pytest.approx(2.0) and second.mean == pytest.approx(5.0)
    assert 1.0 <= first.low <= first.high <= 3.0
    nothing = bootstrap_columns(np.full((2, 1), np.nan), list("ab"), draws=10)[0]
    assert np.isnan(nothing).all()


def test_scoreboard_pairs_with_its_baseline():
    results = {"nothing": np.array([4.0, 2.0, 3.0]), "ours": np.array([1.0, 2.5, 1.0])}
    rows = {r.method: r for r in scoreboard(results, list("aab"), baseline="nothing")}
    assert rows["ours"].improvement.mean == pytest.approx(1.5)
    assert rows["ours"].wins == pytest.approx(2 / 3)
    assert rows["nothing"].improvement == (0.0, 0.0, 0.0)
    assert rows["ours"].median == 1.0 and rows["ours"].trials == 3
