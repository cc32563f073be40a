import numpy as np
import pytest
from scipy import stats

from ddspx.data.dataset import Section
from ddspx.data.practice import render_piece
from styletransfer import evaluation
from styletransfer.evaluation import bootstrap, make_trials, scoreboard
from styletransfer.hosts import open_host
from styletransfer.presets import parse_effect

RATE = 16000
EFFECT = "slots: {gain: {plugin: Gain}, low: {plugin: LowShelfFilter}}"


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
    trials = list(make_trials(groups, lambda rate: host, settings=2, seed=4))
    assert len(trials) == 2 * 3 * 2
    assert len({t.name for t in trials}) == len(trials)
    for trial in trials:
        again = host.render(trial.dry[None], trial.hidden[None]).audio[0]
        np.testing.assert_array_equal(again, trial.truth)
        assert not np.array_equal(trial.reference, trial.wrong)
        assert not np.array_equal(trial.reference, trial.truth)
    same = list(make_trials(groups, lambda rate: host, settings=2, seed=4))
    assert [t.name for t in same] == [t.name for t in trials]
    assert all(
        np.array_equal(a.hidden, b.hidden) for a, b in zip(same, trials, strict=True)
    )


def test_baselines_are_what_they_say(host, groups, rng):
    trial = next(make_trials(groups, lambda rate: host, settings=1, seed=0))
    level = evaluation.level_matched(trial, host, rng)
    assert np.mean(level**2) == pytest.approx(np.mean(trial.reference**2), rel=1e-4)
    truth = evaluation.true_settings(trial, host, rng)
    assert float(evaluation.truth_loss(truth, trial.truth)) < 1e-6
    assert evaluation.do_nothing(trial, host, rng) is trial.dry
    blind = evaluation.random_settings(trial, host, rng)
    assert float(evaluation.truth_loss(blind, trial.truth)) > 0


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


def test_scoreboard_pairs_with_its_baseline():
    results = {"nothing": np.array([4.0, 2.0, 3.0]), "ours": np.array([1.0, 2.5, 1.0])}
    rows = {r.method: r for r in scoreboard(results, list("aab"), baseline="nothing")}
    assert rows["ours"].improvement.mean == pytest.approx(1.5)
    assert rows["ours"].wins == pytest.approx(2 / 3)
    assert rows["nothing"].improvement == (0.0, 0.0, 0.0)
    assert rows["ours"].median == 1.0 and rows["ours"].trials == 3
