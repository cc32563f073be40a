"""The suite of known factors: knobs that are what they say, a tiny run end to end."""

import json

import numpy as np
import pytest
from benchmarks import factors
from benchmarks.factor_models import (
    information_against_chance,
    knob_directions,
    reader,
)
from benchmarks.factor_sounds import (
    GAIN_DB,
    LEVEL,
    PEAK_DB,
    SPREAD_DB,
    Knobs,
    examples,
    fixed_content,
    levels,
    opened,
    varying_content,
)
from benchmarks.recordings import collection

from ddspx.data.practice import render_practice_corpus

TINY = [
    *("--steps", "60", "--train", "48", "--held-out", "48", "--pairs", "16"),
    *("--votes", "8", "--counts", "2", "--seeds", "3", "--engines", "pedalboard"),
]
WAYS = ["sound", "held", "rendered", "difference"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "practice"
    render_practice_corpus(folder, sample_rate=16000)
    return folder


def seen(render, turned, sound):
    made = render(np.repeat(sound, len(turned), 0), np.float32(turned))
    return np.asarray(levels(np.asarray(made))) * SPREAD_DB


@pytest.mark.parametrize("engine", ["jax", "pedalboard"])
def test_knobs_do_what_their_names_say(engine):
    knobs = Knobs(peaks=2, gains=1)
    assert knobs.names == ("gain1", "peak1", "peak2") and knobs.directions == 3
    rest = [0.5, 0.5, 0.5]
    turned = [rest, [1.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 1.0]]
    sound = fixed_content().train
    with opened(engine, knobs) as render:
        still, louder, low, high = seen(render, turned, sound)
    np.testing.assert_allclose(
        still, np.asarray(levels(sound))[0] * SPREAD_DB, atol=0.01
    )
    np.testing.assert_allclose(louder - still, GAIN_DB, atol=0.01)
    change = (low - still).mean(0), (high - still).mean(0)
    # Mel bands are 91 Hz apart here; the peaks are at 400 and 1000 Hz.
    assert change[0].argmin() in (3, 4) and -PEAK_DB <= change[0].min() < -8.0
    assert change[1].argmax() in (9, 10, 11) and 8.0 < change[1].max() <= PEAK_DB
    assert all(abs(c[26:]).max() < 0.5 for c in change)


@pytest.mark.parametrize("label", ["dead", "duplicate"])
def test_both_engines_make_the_same_sound(label):
    knobs, sounds = factors.SPECIAL[label], fixed_content()
    made = []
    for engine in ("jax", "pedalboard"):
        rng = np.random.default_rng(5)
        with opened(engine, knobs) as render:
            drawn = knobs.draw(rng, 16)
            made.append(examples(render, sounds.train, drawn, rng).wet * SPREAD_DB)
    assert np.std(made[0], 0).mean() > 0.5
    np.testing.assert_allclose(*made, atol=0.01)


@pytest.mark.parametrize("engine", ["jax", "pedalboard"])
def test_dead_and_duplicate_knobs_are_seen_without_a_model(engine):
    sound = fixed_content().train[0]
    for label, rank in (("dead", 2), ("duplicate", 3)):
        knobs = factors.SPECIAL[label]
        assert knobs.directions == rank
        with opened(engine, knobs) as render:
            where = knobs.draw(np.random.default_rng(0), 8)
            cosine, found = knob_directions(render, sound, where)
        assert found == rank
        if label == "dead":
            assert np.all(cosine[0] == 0.0) and cosine[1, 1] == pytest.approx(1.0)
        else:
            assert cosine[0, 1] == pytest.approx(1.0, abs=1e-6)
            assert abs(cosine[2, 3]) < 0.5


def test_a_number_of_peaks_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="choose 1 to 5"):
        Knobs(6)


def test_content_is_of_other_recordings_where_it_is_judged(corpus):
    sounds = varying_content(collection(corpus, corpus), "speech", 32)
    assert sounds.train.shape == sounds.held_out.shape == (32, 1, 4096)
    rms = np.sqrt(np.mean(np.square([sounds.train, sounds.held_out]), (2, 3)))
    np.testing.assert_allclose(rms, LEVEL, rtol=1e-4)
    overlap = np.einsum("atn,btn->ab", sounds.train, sounds.held_out)
    assert abs(overlap).max() < 0.99 * LEVEL**2 * 4096


def test_a_difference_leaves_content_out(corpus):
    bank = varying_content(collection(corpus, corpus), "speech", 32).train
    knobs = Knobs(2)
    with opened("pedalboard", knobs) as render:
        rng = np.random.default_rng(0)
        same = np.repeat(knobs.draw(rng, 1), 64, 0)
        made = examples(render, bank, same, rng)
    spread = [made.images(q).std(0).mean() for q in ("sound", "difference")]
    assert spread[1] < 0.15 * spread[0]


def test_what_codes_tell_is_compared_with_chance(rng):
    codes, other = rng.normal(size=(400, 3)), rng.uniform(size=400)
    told, chance = information_against_chance(codes, codes[:, 1] ** 3, 0)
    assert told > 3.0 * chance
    told, chance = information_against_chance(codes, other, 0)
    assert told < 1.5 * chance


def test_a_reader_reads_linear_factors_and_nothing_of_others(rng):
    codes = rng.normal(size=(400, 4))
    known = 0.5 + 0.1 * codes[:, :1]
    targets = np.concatenate([known, rng.uniform(size=(400, 1))], 1)
    read = reader(codes[:200], targets[:200])
    found = read.informativeness(codes[200:], targets[200:])
    assert found[0] > 0.99 and found[1] < 0.1


def run(out, data, *words):
    factors.main([*TINY, *words, "--data", str(data), "--out", str(out)])
    return json.loads(out.with_suffix(".json").read_text())["rows"]


def check(row):
    assert row["known"] == 2 and row["seed"] == 3 and len(row["rms_db"]) == 16
    assert {"fidelity", "audible", "knee", "active"} <= set(row["proposals"])
    for found in row["proposals"].values():
        assert 0 <= found["low"] <= found["high"] <= 16
    for score in row.get("scores", {}).values():
        assert -1.0 <= score <= 1.0


def test_a_tiny_run_writes_what_it_prints_and_goes_on(
    tmp_path, corpus, capsys, monkeypatch
):
    out = tmp_path / "factors"
    fixed = ["--contents", "fixed"]
    (first,) = run(out, corpus, *fixed, "--special")
    capsys.readouterr()
    rows = run(out, corpus, *fixed, "--special", "dead")
    text = capsys.readouterr().out
    assert rows[0] == first and [r["label"] for r in rows] == ["2", "dead"]
    for row in rows:
        check(row)
    assert rows[1]["knobs"]["rank"] == 2 and rows[1]["knobs"]["rms_db"][0] < 1e-3
    assert "gain1     heard" in text and "MIG" in text and "varying" not in text
    assert out.with_suffix(".png").stat().st_size > 10_000

    def refuse(*_):
        raise AssertionError("what is there is not run again")

    monkeypatch.setattr(factors, "Study", refuse)
    assert run(out, corpus, *fixed, "--special", "dead") == rows
    assert capsys.readouterr().out == text
    with pytest.raises(ValueError, match="other options"):
        run(out, corpus, *fixed, "--steps", "61")
    with pytest.raises(SystemExit):
        run(out, corpus, "--special", "live")
    assert "'live'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_tiny_run_on_recordings_asks_in_four_ways(tmp_path, corpus, capsys):
    varying = ["--contents", "varying", "--special"]
    rows = run(tmp_path / "factors", corpus, *varying)
    assert [row["question"] for row in rows] == WAYS
    for row in rows:
        check(row)
    assert rows[0]["content_db"] > rows[0]["effect_db"] > 0.0
    text = capsys.readouterr().out
    for way in WAYS:
        assert f"varying, {way}" in text
    assert "of the variance" in text and "knobs move" not in text
