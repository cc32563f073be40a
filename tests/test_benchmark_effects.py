"""The benchmark of effects runs, says its targets, and writes what it printed."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from benchmarks.effects_baselines import ENTRIES

from ddspx.effects import EFFECTS, stereo
from ddspx.parameters import to_physical

RATE = 24000
SCRIPT = Path(__file__).parent.parent / "scripts" / "benchmark.py"


def run(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), "effects", *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_row_for_each_effect_and_batch_and_both_files(tmp_path):
    out = tmp_path / "speed"
    done = run("--quick", "--effects", "gain", "tanh_distortion", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "forward <= 1 x the baseline at batch 1, <= 2.5 x" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if "pedalboard " in line]
    wanted = [(name, batch) for name in ("gain", "tanh_distortion") for batch in "12"]
    assert [(row[0], row[2]) for row in rows] == wanted
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["sample_rate"] == 44100
    for (name, batch), row in zip(wanted, report["rows"], strict=True):
        assert (row["effect"], str(row["batch"])) == (name, batch)
        assert set(row["ms"]) == {row["baseline"], "forward", "gradient"}
        assert all(len(ms) == 2 and min(ms) > 0 for ms in row["ms"].values())
        assert row["memory_gradient"] > 0 and row["compile_gradient_s"] > 0
    assert out.with_suffix(".png").stat().st_size > 10_000


def test_an_unknown_effect_is_refused_in_a_line():
    done = run("--effects", "gian")
    assert done.returncode == 2
    assert "'gian'" in done.stderr and "gain" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_effect_has_a_row_and_a_baseline_that_renders_as_much(rng):
    level_and_place = set(stereo.EFFECTS) - {"gain", "dc_block"}
    assert set(EFFECTS) - set(ENTRIES) == level_and_place
    for entry in ENTRIES.values():
        effect = entry.make(RATE)
        controls = rng.uniform(0.2, 0.8, len(effect.specs))
        values = to_physical(effect.specs, controls)
        names = [spec.name for spec in effect.specs]
        settings = dict(zip(names, map(float, values), strict=True))
        audio = 0.1 * rng.standard_normal((1, 2000)).astype(np.float32)
        for label, opened in entry.baselines.items():
            found = opened(RATE, settings)(audio)
            assert found.shape == audio.shape and np.isfinite(found).all(), label
            assert label.split()[0] in ("pedalboard", "scipy", "NumPy")


@pytest.mark.parametrize(
    "name",
    ["peak", "low_shelf", "high_shelf", "first_order_high_pass", "band_pass", "notch",
     "state_variable_filter", "parametric_equalizer"],
)  # fmt: skip
def test_an_equalizer_s_baseline_is_the_same_filter(name, rng):
    entry = ENTRIES[name]
    effect = entry.make(RATE)
    controls = np.linspace(0.4, 0.6, len(effect.specs)).astype(np.float32)
    values = to_physical(effect.specs, controls.astype(float))
    names = [spec.name for spec in effect.specs]
    settings = dict(zip(names, map(float, values), strict=True))
    audio = rng.standard_normal((1, 3000)).astype(np.float32)
    found = np.asarray(jax.jit(effect.render)(audio, controls))
    for label, opened in entry.baselines.items():
        wanted = opened(RATE, settings)(audio)
        error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
        assert error < 1e-3, (label, error)
