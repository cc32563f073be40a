"""The suite that recovers hidden settings of plug-ins, on cases of known answers."""

import json

import numpy as np
import pytest
from benchmarks import recovery
from jax import numpy as jnp

from ddspx import audio
from ddspx.data.practice import render_piece
from styletransfer.hosts import open_host
from styletransfer.presets import parse_effect
from styletransfer.transfer import TargetScore

RATE = 16000
TONE = """
description: tilt and gain
slots:
  shelf:
    plugin: HighShelfFilter
    controls: {gain_db: {low: -18, high: 18}}
    fixed: {cutoff_frequency_hz: 1000, q: 0.7071}
  gain:
    plugin: Gain
"""
# Two gains in a row make up for each other, and nothing exceeds the threshold.
VAGUE = """
slots:
  compressor:
    plugin: Compressor
    controls: [ratio]
    fixed: {threshold_db: 0}
  one: {plugin: Gain}
  two: {plugin: Gain}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six pieces of three voices, some of them held out."""
    made = tmp_path_factory.mktemp("pieces")
    for k in range(6):
        piece = render_piece("strings", k, sample_rate=RATE)[:1, : 2 * RATE]
        path = made / "speech" / f"voice{k // 2}" / f"{k}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        audio.save(path, 0.3 * piece, RATE)
    return made


def run(folder, out, *extra):
    recovery.main(
        [
            *("--data", str(folder), "--sample-rate", str(RATE)),
            *("--section-s", "1.5", "--clips", "2", "--workers", "1"),
            *("--out", str(out), *extra),
        ]
    )
    return json.loads(out.with_suffix(".json").read_text())


def test_suite_recovers_a_tone_and_repeats_to_the_bit(folder, tmp_path, capsys):
    (tmp_path / "tone.yaml").write_text(TONE)
    name = str(tmp_path / "tone.yaml")
    report = run(folder, tmp_path / "a", "--effects", name, "--renders", "60")
    row = report["effects"][name]
    loss = {key: values[0] for key, values in row["losses"].items()}
    # The loss of equal sounds is 0 but for the rounding of sums in float32.
    assert row["repeats"] == 1.0 and row["truth_most"] < 1e-12
    assert loss["result"] < 0.05 * loss["nothing"]
    assert loss["result"] < loss["best_random"] < loss["random"]
    assert row["beats_nothing"] == row["recovered"] == 1.0
    for found in row["controls"].values():
        assert found["error"] < 0.02 and found["told"] == 1.0
    for case in row["cases"]:
        assert case["losses"]["nothing"] >= 0.1 and case["renders"] <= 60
    printed = capsys.readouterr().out
    assert "to the bit in every case" in printed and "gain_db" in printed
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    again = run(folder, tmp_path / "b", "--effects", name, "--renders", "60")
    again["effects"][name]["seconds"] = report["effects"][name]["seconds"]
    assert again == report


def test_suite_takes_an_installed_plugin(folder, tmp_path, installed_effect):
    installed_effect("mda_overdrive")  # or skips with the reason
    report = run(
        folder, tmp_path / "a", "--effects", "mda_overdrive", "--renders", "120"
    )
    row = report["effects"]["mda_overdrive"]
    assert row["repeats"] == 1.0 and row["truth_most"] < 1e-12
    assert row["beats_nothing"] == 1.0
    assert set(row["controls"]) == {
        f"overdrive.{name}" for name in ("drive", "muffle", "output")
    }


def test_silent_and_traded_controls_are_told_apart():
    dry = 0.1 * render_piece("strings", 0, sample_rate=RATE)[:1, :RATE]
    truth = np.array([0.5, 0.5, 0.6], np.float32)
    with open_host(parse_effect(VAGUE, "vague"), RATE, backend="serial") as host:
        target = host.render(dry[None], truth[None]).audio[0]
        score = TargetScore(jnp.asarray(target), RATE)
        found = recovery.told(host, np.float32(dry), score, truth)
    assert not found.told.any()
    np.testing.assert_array_equal(found.silent, [True, False, False])
    assert found.moved_db[0] < 0.01 and (found.moved_db[1:] > 1.0).all()
    with open_host(parse_effect(TONE, "tone"), RATE, backend="serial") as host:
        target = host.render(dry[None], truth[None, :2]).audio[0]
        score = TargetScore(jnp.asarray(target), RATE)
        found = recovery.told(host, np.float32(dry), score, truth[:2])
    assert found.told.all()


def test_hidden_settings_that_nothing_hears_are_refused(folder, tmp_path):
    (tmp_path / "tone.yaml").write_text(TONE)
    with pytest.raises(ValueError, match="lower --least-loss"):
        run(
            folder,
            tmp_path / "a",
            *("--effects", str(tmp_path / "tone.yaml"), "--least-loss", "1e6"),
        )
    assert not (tmp_path / "a.json").exists()
