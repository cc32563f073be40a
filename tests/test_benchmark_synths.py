"""The benchmark of synths measures what it says, and writes what it printed."""

import json

import pytest
from benchmarks import synths


@pytest.mark.slow
def test_a_row_for_each_batch_and_both_files(tmp_path, capsys):
    out = tmp_path / "speed"
    words = ["--quick", "--synths", "harmonic", "--harmonics", "3", "--out", str(out)]
    synths.main(words)
    printed = capsys.readouterr().out
    assert printed == out.with_suffix(".md").read_text()
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["harmonics"] == 3 and report["roof_gflops"] > 0
    assert [row["batch"] for row in report["rows"]] == [1, 2]
    for row in report["rows"]:
        assert {len(ms) for ms in row["ms"].values()} == {2}
        assert set(row["ms"]) == set(row["memory"])
        assert len(row["ms"]) == 4 and min(row["roof_ms"].values()) > 0
    assert sum(line.startswith("| harmonic |") for line in printed.splitlines()) == 2


def test_a_ratio_below_its_target_is_marked():
    times = {"plain_forward": [7.0], "plain_gradient": [80.0]}
    ours = {"ours_forward": [1.0], "ours_gradient": [10.0]}
    row = {
        "synth": "harmonic",
        "seconds": 1.0,
        "batch": 4,
        "ms": {**times, **ours},
        "memory": {name: 1.0 for name in (*times, *ours)},
        "roof_ms": {"forward": 0.5, "gradient": 1.0},
    }
    cells = synths.line(row).split(" | ")
    assert cells[5] == "7.0!" and cells[10] == "8.0"
    assert "!" not in synths.line({**row, "batch": 1})


def test_an_unknown_synth_is_refused():
    with pytest.raises(ValueError, match="flute"):
        synths.main(["--synths", "flute"])
