"""The benchmark of effects runs, says its targets, and writes what it printed."""

import json
import subprocess
import sys
from pathlib import Path

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
