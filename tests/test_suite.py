"""Suites: who sees what, paired comparisons, and that a suite goes on where it was."""

import csv
import dataclasses
import json
import shutil

import loss_ranking
import numpy as np
import pytest
import scoreboard
import scoreboard_report
import soundfile
from level_controller import EFFECT, RATE, level_controller

from ddspx.data.dataset import Section
from ddspx.data.practice import render_piece
from ddspx.training.configuration import load_preset
from styletransfer import metrics, suite
from styletransfer.comparison import standings
from styletransfer.evaluation import Answers
from styletransfer.hosts import open_host
from styletransfer.presets import parse_effect
from styletransfer.suite import SuiteConfig
from styletransfer.trials import Question

SMALL = SuiteConfig(
    effects=("tone",),
    categories=("speech",),
    sample_rate=RATE,
    section_s=1.0,
    items=6,
    refined_items=2,
    train_examples=5,
    constant_renders=40,
    metric="rms_error",
)


@pytest.fixture(scope="module")
def loaded():
    return level_controller()


@pytest.fixture(scope="module")
def host():
    with open_host(parse_effect(EFFECT, "tone"), RATE, backend="serial") as opened:
        yield opened


@pytest.fixture(scope="module")
def groups():
    made = {}
    for piece in range(3):
        audio = render_piece("vowels", piece, sample_rate=RATE)[:1]
        made[f"speaker{piece}"] = [
            (f"{piece}@{k}", Section(audio[:, k * RATE : (k + 1) * RATE], RATE, k))
            for k in range(3)
        ]
    return made


@pytest.fixture(scope="module")
def fitted(host, groups):
    return suite.fit_on_training(
        SMALL,
        groups,
        host,
        suite.embeddings_for(SMALL, {}, {}),
        effect="tone",
        category="speech",
    )


def drawn(host, groups, config=SMALL, effect="tone"):
    return suite.draw_trials(config, groups, host, 6, effect=effect, part="speech test")


def test_trials_repeat_and_effects_share_their_pairs(host, groups):
    first, same, other = (
        drawn(host, groups, effect=name) for name in ("tone", "tone", "else")
    )
    for a, b, c in zip(first, same, other, strict=True):
        np.testing.assert_array_equal(a.truth, b.truth)
        assert (a.name, a.reference_name) == (c.name, c.reference_name)
        assert not np.array_equal(a.hidden, c.hidden)
    assert {t.group for t in first[:3]} == set(groups)
    with pytest.raises(ValueError, match="only 0 of 6 trials"):
        drawn(host, groups, SuiteConfig(audible_db=500.0))


def test_methods_are_asked_questions_and_only_the_oracle_knows(host, groups, fitted):
    """Every method gets what a question holds; but for one, the hidden setting of a
    trial can be changed without any answer changing."""
    trials = drawn(host, groups)
    seen = []

    def spy(questions, host, rng):
        seen.extend(questions)
        audio = np.stack([q.dry for q in questions])
        return Answers(audio, np.zeros(len(audio), int), np.zeros(len(audio), bool))

    entry = suite.Entry("spy", spy, 2, wrong=True)
    rng = np.random.default_rng(0)
    suite.judge(entry, trials, host, rng, ("rms_error",))
    assert [type(q) for q in seen] == [Question, Question]
    assert seen[0].reference is trials[0].wrong

    moved = [t._replace(hidden=1.0 - t.hidden) for t in trials]
    changed = []
    for first, second in zip(
        suite.entries(SMALL, trials, fitted, {}, {}),
        suite.entries(SMALL, moved, fitted, {}, {}),
        strict=True,
    ):
        values = [
            suite.judge(e, t, host, np.random.default_rng(1), ("rms_error",)).values
            for e, t in ((first, trials), (second, moved))
        ]
        if not np.array_equal(*(v["rms_error"] for v in values)):
            changed.append(first.name)
    assert changed == [suite.TRUE]


def test_entries_are_what_the_configuration_asks_for(host, groups, fitted, loaded):
    trials = drawn(host, groups)
    plain = suite.entries(SMALL, trials, fitted, {}, {})
    names = [entry.name for entry in plain]
    assert names[0] == suite.NOTHING and names[-1] == suite.TRUE
    assert suite.WRONG.format(name=suite.NEAREST) in names
    config = SuiteConfig(refine=20, trim=0.5, search=30, refined_items=2, items=6)
    known = {"mine": {}}
    full = suite.entries(config, trials, fitted, {"mine": loaded}, known)
    extra = [entry for entry in full if entry.name not in names]
    assert [entry.name for entry in extra] == [
        "mine", "mine, wrong reference", "mine, level trimmed", "mine, refined",
        "search",
    ]  # fmt: skip
    assert [entry.items for entry in extra] == [6, 6, 6, 2, 2]
    assert [entry.one_by_one for entry in extra] == [False, False, False, True, True]
    ours = dataclasses.replace(
        config, checkpoint=("mine=a", "other=b"), refine_only=("mine",)
    )
    both = {"mine": loaded, "other": loaded}
    with_other = suite.entries(ours, trials, fitted, both, known | {"other": {}})
    added = {e.name for e in with_other} - {e.name for e in full}
    assert added == {"other", "other, wrong reference"}
    # PESQ is for speech, and for those who count.
    with_pesq = {
        e.name for e in full if "pesq" in suite.metrics_of(config, "speech", e)
    }
    assert {suite.NOTHING, "mine", "mine, refined"} <= with_pesq
    assert suite.RANDOM not in with_pesq and "mine, wrong reference" not in with_pesq
    assert "pesq" not in suite.metrics_of(config, "music", full[0])


def test_searches_tell_how_far_they_are_and_wrong_answers_are_refused(host, groups):
    trials = drawn(host, groups)

    def short(questions, host, rng):
        audio = np.stack([q.dry[:, :-1] for q in questions])
        return Answers(audio, np.ones(len(audio), int), np.zeros(len(audio), bool))

    told = []
    entry = suite.Entry("short", short, 3, one_by_one=True)
    with pytest.raises(ValueError, match="short answered"):
        suite.judge(
            entry, trials, host, np.random.default_rng(0), (), answered=told.append
        )
    assert told == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metric": "pesq"}, "metric 'pesq' unknown"),
        ({"items": 0}, "each must be 1 or more"),
        ({"checkpoint": ("runs/strip",)}, "write NAME=PATH"),
        ({"effects": ()}, "at least one effect"),
        ({"checkpoint": ("a=b",), "refine_only": ("c",)}, "there are a"),
    ],
)
def test_configurations_that_cannot_be_run_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        SuiteConfig(**change)


# --------------------------------------------------------------------- comparisons


def test_gains_are_positive_where_better_whatever_the_metric():
    nothing = {"mrstft": np.array([2.0, 3.0, 4.0]), "pesq": np.array([1.0, np.nan, 2])}
    ours = {"mrstft": np.array([1.0, 1.0, 4.0]), "pesq": np.array([3.0, 2.0, 1.0])}
    few = {"mrstft": np.array([2.5, 2.5])}
    made = standings(
        {"nothing": nothing, "ours": ours, "few": few},
        list("aab"),
        {"ours": ["nothing", "absent"], "few": ["nothing"], "nothing": ["nothing"]},
        draws=200,
    )
    by = {(s.method, s.metric): s for s in made}
    (loss,) = by["ours", "mrstft"].comparisons
    assert loss.gain.mean == pytest.approx(1.0)
    assert (loss.wins, loss.losses, loss.missing) == (2, 0, 0)
    (score,) = by["ours", "pesq"].comparisons
    assert score.gain.mean == pytest.approx(0.5)
    assert (score.wins, score.losses, score.missing) == (1, 1, 1)
    assert by["nothing", "pesq"].missing == 1 and by["ours", "pesq"].missing == 0
    assert by["nothing", "pesq"].mean.mean == pytest.approx(1.5)
    # Fewer items are compared with the same, the first, of the baseline.
    (start,) = by["few", "mrstft"].comparisons
    assert start.gain.mean == pytest.approx(0.0) and by["few", "mrstft"].items == 2
    assert by["nothing", "mrstft"].comparisons == ()


def test_a_verdict_needs_an_interval_off_zero():
    rng = np.random.default_rng(0)
    base = {"mrstft": rng.normal(5.0, 1.0, 40)}
    results = {
        "base": base,
        "better": {"mrstft": base["mrstft"] - 1.0 + rng.normal(0, 0.5, 40)},
        "same": {"mrstft": base["mrstft"] + rng.normal(0, 0.5, 40)},
        "worse": {"mrstft": base["mrstft"] + 1.0 + rng.normal(0, 0.5, 40)},
    }
    groups = [f"g{k // 4}" for k in range(40)]
    made = standings(results, groups, {n: ["base"] for n in results}, draws=500)
    verdicts = {s.method: s.comparisons[0].verdict for s in made[1:]}
    assert verdicts == {"better": "better", "same": "", "worse": "worse"}


# ------------------------------------------------------------------------- scripts


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A manifest of two speakers a split, and an effect."""
    root = tmp_path_factory.mktemp("recordings")
    lines = ["path,split,group"]
    for k, split in enumerate(("train", "train", "test", "test")):
        audio = render_piece("vowels", k, sample_rate=RATE)[:1, : 3 * RATE]
        path = root / "speech" / f"{k}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, audio.T, RATE, subtype="FLOAT")
        lines.append(f"speech/{k}.wav,{split},speaker{k}")
    (root / "MANIFEST.csv").write_text("\n".join(lines) + "\n")
    (root / "tone.yaml").write_text(EFFECT)
    return root


@pytest.fixture
def run(recordings, monkeypatch, tmp_path):
    """Runs a small suite with hosts in this process and metrics that compile soon."""
    few = ("rms_error", "crest_error")
    monkeypatch.setattr(metrics, "ON_DEVICE", few)
    monkeypatch.setattr(metrics, "CHUNK", 6)
    monkeypatch.setattr(
        scoreboard,
        "open_host",
        lambda effect, rate, workers: open_host(effect, rate, backend="serial"),
    )

    def command(out, *more):
        return scoreboard.main(
            [
                "--suite", str(tmp_path / "suite.yaml"),
                "--data", str(recordings),
                "--out", str(tmp_path / out),
                *more,
            ]
        )  # fmt: skip

    (tmp_path / "suite.yaml").write_text(
        f"effects: [{recordings / 'tone.yaml'}]\ncategories: [speech]\nitems: 6\n"
        f"sample_rate: {RATE}\nsection_s: 1.0\ntrain_examples: 4\npesq: none\n"
        "constant_renders: 30\nmetric: rms_error\n"
    )
    return command


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def contents(folder):
    names = ("items.csv", "board.md", "board.json", "board.png", "suite.json")
    return {name: (folder / name).read_bytes() for name in names}


def test_a_suite_that_was_cut_short_goes_on_and_leaves_the_same_bytes(run, tmp_path):
    assert run("whole") == 0
    whole = tmp_path / "whole"
    (cell,) = (whole / "cells").iterdir()
    # As if it had been killed while the fourth method was being written.
    shutil.copytree(whole, tmp_path / "cut")
    broken = tmp_path / "cut" / "cells" / cell.name
    for name in ("board.md", "board.json", "board.png", "items.csv", "costs.csv"):
        (tmp_path / "cut" / name).unlink()
    (broken / "finished").unlink()
    for path in sorted(broken.glob("[0-9]*.csv"))[3:]:
        path.unlink()
    (broken / ".03.abcd.csv").write_text("method,item\ndo no")
    kept = (broken / "01.csv").stat().st_mtime_ns
    assert run("cut") == 0
    assert contents(tmp_path / "cut") == contents(whole)
    assert (broken / "01.csv").stat().st_mtime_ns == kept
    looks = table(tmp_path / "cut" / "looks.csv")
    assert [look["split"] for look in looks] == ["test", "test"]
    assert "--suite" in looks[1]["command"]


def test_a_folder_of_another_suite_is_refused(run, tmp_path, capsys):
    out = tmp_path / "known"
    out.mkdir()
    (out / "suite.json").write_text('{"config": {"items": 5}}')
    assert run("known") == 2
    said = capsys.readouterr().err
    assert "holds another suite" in said and "config.items was 5, now 6" in said
    assert not (out / "looks.csv").exists()


def test_the_board_says_what_was_measured(run, tmp_path, capsys):
    assert run("board", "--items", "4") == 0
    folder = tmp_path / "board"
    board = json.loads((folder / "board.json").read_text())
    (cell,) = board["cells"]
    assert board["config"]["items"] == cell["trials"] == 4
    told = cell["methods"][suite.TRUE]["metrics"]["rms_error"]
    assert told["mean"] == pytest.approx(0.0, abs=1e-4)
    assert told["against"][suite.NOTHING]["wins"] == 4
    items = table(folder / "items.csv")
    own = [float(i["rms_error"]) for i in items if i["method"] == suite.LEVEL]
    mean = cell["methods"][suite.LEVEL]["metrics"]["rms_error"]["mean"]
    assert np.mean(own) == pytest.approx(mean, rel=1e-5)
    assert {i["pesq"] for i in items} == {""}
    text = (folder / "board.md").read_text()
    assert "## tone, speech" in text and f"| {suite.TRUE} | 4 |" in text
    assert "0.000 [0.000, 0.000]" in text
    assert suite.NEAREST in capsys.readouterr().out
    costs = table(folder / "costs.csv")
    assert {c["method"] for c in costs} == set(cell["methods"])
    # Controllers are what others are compared with; a method stands in for one here.
    config = load_preset(folder / "suite.yaml", SuiteConfig)
    given = (f"{suite.RANDOM}=somewhere", f"{suite.RANDOM}=elsewhere")
    scoreboard_report.write(folder, dataclasses.replace(config, checkpoint=given))
    text = (folder / "board.md").read_text()
    assert text.count(f"| gain on {suite.RANDOM} |") == 1
    assert f"its wrong reference | {suite.RANDOM} |" in text
    board = json.loads((folder / "board.json").read_text())
    methods = board["cells"][0]["methods"]
    gain = methods[suite.TRUE]["metrics"]["rms_error"]["against"][suite.RANDOM]["mean"]
    random = methods[suite.RANDOM]["metrics"]["rms_error"]["mean"]
    assert gain == pytest.approx(random, abs=1e-4) and random > 0.1


def test_checkpoints_are_of_the_very_effect(loaded, monkeypatch, recordings, tmp_path):
    paths = [tmp_path / name for name in ("one", "two", "tone")]
    for path in paths:
        path.mkdir()
        (path / "weights").write_text(path.name)
    monkeypatch.setattr(scoreboard, "load_controller", lambda path: loaded)
    effect = str(recordings / "tone.yaml")

    def found(*given):
        config = SuiteConfig(effects=(effect,), sample_rate=RATE, checkpoint=given)
        return scoreboard._controllers(config, effect)

    assert set(found(f"a={paths[0]}", f"b={tmp_path}/{{effect}}")) == {"a", "b"}
    assert found(f"b={tmp_path}/no_{{effect}}") == {}
    with pytest.raises(ValueError, match="two checkpoints named 'a'"):
        found(f"a={paths[0]}", f"a={paths[1]}")
    other = loaded.effect.__class__("tone", loaded.effect.slots[:1])
    monkeypatch.setattr(
        scoreboard, "load_controller", lambda path: loaded._replace(effect=other)
    )
    with pytest.raises(ValueError, match="controls differ"):
        found(f"a={paths[0]}")
    # Another training at the same place is another checkpoint; its log is not.
    before = scoreboard._digest_of_path(paths[0])
    (paths[0] / "logs").mkdir()
    (paths[0] / "logs" / "events").write_text("more")
    assert scoreboard._digest_of_path(paths[0]) == before
    (paths[0] / "weights").write_text("others")
    assert scoreboard._digest_of_path(paths[0]) != before
    with pytest.raises(ValueError, match="no such file"):
        scoreboard._digest_of_path(tmp_path / "absent")


def test_the_examples_that_fit_worst_come_first(
    recordings, loaded, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(loss_ranking, "load_controller", lambda path: loaded)
    monkeypatch.setattr(
        loss_ranking,
        "open_host",
        lambda effect, rate: open_host(effect, rate, backend="serial"),
    )
    monkeypatch.setattr(metrics, "CHUNK", 6)
    out = tmp_path / "worst.csv"
    words = ["--checkpoint", "RUN", "--data", str(recordings), "--out", str(out)]
    words += ["--section-s", "1.0", "--settings", "2", "--show", "3"]
    assert loss_ranking.main(words) == 0
    lines = table(out)
    lost = [float(line["loss"]) for line in lines]
    assert lost == sorted(lost, reverse=True) and lost[0] > lost[-1] > 0
    # Two speakers of the training split, three sections each, two settings.
    assert len(lines) == 12
    assert {line["file"] for line in lines} == {"speech/0.wav", "speech/1.wav"}
    assert {float(line["offset_s"]) for line in lines} == {0.0, 1.0, 2.0}
    assert "gain_db" in lines[0]["settings"]
    said = capsys.readouterr().out
    assert lines[0]["settings"] in said and lines[3]["settings"] not in said
    assert loss_ranking.main(words) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_leave_what_one_leaves(recordings, tmp_path):
    clips = recordings
    second = recordings / "second.yaml"
    second.write_text(EFFECT)
    for out, jobs in (("one", 1), ("two", 2)):
        code = scoreboard.main(
            [
                "--suite=" + str(_preset(tmp_path, clips)),
                "--data", str(clips), "--out", str(tmp_path / out),
                "--jobs", str(jobs),
            ]
        )  # fmt: skip
        assert code == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def _preset(folder, root):
    path = folder / "two.yaml"
    path.write_text(
        f"effects: [{root / 'tone.yaml'}, {root / 'second.yaml'}]\n"
        f"categories: [speech]\nitems: 4\nsample_rate: 24000\nsection_s: 1.0\n"
        "train_examples: 4\npesq: none\nconstant_renders: 30\nmetric: rms_error\n"
    )
    return path
