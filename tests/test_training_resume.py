"""A run that was killed at any moment gives the same bits as one that was not."""

import gc
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from training_example import config, make_batches, make_task

from ddspx.training.checkpoint import CheckpointError, restore_params
from ddspx.training.fit import fit
from ddspx.training.logging import read_scalars

CHILD = Path(__file__).with_name("training_child.py")
PARTS = ("step", "params", "opt_state", "key", "extra")


def train(run, **changes):
    task = make_task()
    return fit(task, make_batches(), config(**changes), run, evaluation=make_batches(2))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    run = tmp_path_factory.mktemp("unbroken") / "run"
    return run, train(run)


def assert_same_run(run, state, unbroken):
    whole_run, whole = unbroken
    for part in PARTS:
        ours, theirs = getattr(state, part), getattr(whole, part)
        if part == "key":
            ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    for which in ("last", "best"):
        jax.tree.map(
            np.testing.assert_array_equal,
            restore_params(run, which=which),
            restore_params(whole_run, which=which),
        )
    # Nothing is missing from the log, and nothing stands there twice.
    assert read_scalars(run / "logs") == read_scalars(whole_run / "logs")


@pytest.mark.parametrize(
    ("moment", "left"),
    [
        ("step", ["16", "8"]),
        pytest.param(
            "writing", ["16.orbax-checkpoint-tmp", "8"], marks=pytest.mark.slow
        ),
        ("commit", ["16.orbax-checkpoint-tmp", "8"]),
        pytest.param("deleting", ["16", "24", "8"], marks=pytest.mark.slow),
    ],
)
def test_kill_9_then_resume_is_bit_identical(tmp_path, unbroken, moment, left):
    run = tmp_path / "run"
    child = subprocess.run(
        [sys.executable, CHILD, "die", run, moment],
        timeout=120, capture_output=True, text=True,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert sorted(p.name for p in (run / "last").iterdir()) == left
    state = train(run)
    assert_same_run(run, state, unbroken)
    names = sorted(p.name for p in (run / "last").iterdir())
    assert set(names) >= {"16", "24"} and not any("tmp" in name for name in names)


def damage_flip(step):
    """Flips bits in the middle of the largest data file."""
    files = [p for p in (step / "state").rglob("*") if p.is_file()]
    path = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def damage_truncate(step):
    for path in (step / "state").rglob("*"):
        if path.is_file() and path.stat().st_size > 0:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_values(step):
    """Replaces the arrays by well-formed arrays of another step."""
    shutil.rmtree(step / "state")
    shutil.copytree(step.with_name("16") / "state", step / "state")


def damage_record(step):
    shutil.rmtree(step / "record")


def damage_metadata(step):
    for path in step.rglob("*METADATA"):
        path.write_text("{")


@pytest.mark.parametrize(
    "damage",
    [damage_flip, damage_truncate, damage_values, damage_record, damage_metadata],
)
def test_a_damaged_newest_checkpoint_falls_back_to_the_older(
    tmp_path, unbroken, damage, caplog
):
    run = tmp_path / "run"
    shutil.copytree(unbroken[0], run)
    damage(run / "last" / "24")
    state = train(run)
    gc.collect()  # what a failed read left behind would warn here, and fail
    assert_same_run(run, state, unbroken)
    assert "checkpoint 24" in caplog.text and "set aside" in caplog.text
    assert [p.name for p in (run / "damaged").iterdir()] == ["last-24"]


def test_when_no_checkpoint_is_readable_nothing_is_moved(tmp_path, unbroken):
    run = tmp_path / "run"
    shutil.copytree(unbroken[0], run)
    for step in ("16", "24"):
        damage_truncate(run / "last" / step)
    before = sorted(p.relative_to(run) for p in run.rglob("*"))
    with pytest.raises(CheckpointError, match=r"none of the checkpoints \[16, 24\]"):
        train(run)
    assert sorted(p.relative_to(run) for p in run.rglob("*")) == before


def test_resume_needs_no_log_and_survives_a_torn_one(tmp_path, unbroken):
    run = tmp_path / "run"
    shutil.copytree(unbroken[0], run)
    log = next((run / "logs").iterdir())
    log.write_bytes(log.read_bytes()[:-7])
    train(run, steps=30)
    steps = [s for s, _ in read_scalars(run / "logs")["evaluation/loss"]]
    assert steps == [0, 10, 20, 30]
    assert json.loads((run / "run.json").read_text())["config"]["steps"] == 30
