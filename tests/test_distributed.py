"""Data parallel training: four devices, two processes, and from one to the other.

The step is the staged one through a real black box; four devices share one pool of
worker processes.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training_example import config, make_batches
from training_staged import render_targets, staged_task

from ddspx.training.fit import fit
from ddspx.training.logging import read_scalars

CHILD = Path(__file__).with_name("training_child.py")


def start(run, *, devices, index=0, count=1, port=0, steps):
    # NPROC: more threads than devices for XLA, or its pool may wait for itself.
    environment = {**os.environ, "NPROC": "8", "JAX_PLATFORMS": "cpu"}
    words = [run, devices, index, count, port, steps]
    return subprocess.Popen(
        [sys.executable, CHILD, "staged", *map(str, words)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(children):
    results = []
    try:
        for child in children:
            out, error = child.communicate(timeout=150)
            assert child.returncode == 0, error[-4000:]
            results.append(json.loads(out.splitlines()[-1]))
    finally:
        for child in children:
            child.kill()
    return results


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def losses(run):
    return dict(read_scalars(run / "logs")["train/loss"])


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    run = tmp_path_factory.mktemp("one") / "run"
    settings = config(steps=15, log_every=1, save_every=100)
    with staged_task() as task:
        state = fit(task, render_targets(make_batches()), settings, run)
    return losses(run), np.asarray(state.params["bias"])


@pytest.fixture(scope="module")
def four_devices(tmp_path_factory):
    run = tmp_path_factory.mktemp("four") / "run"
    (result,) = finish([start(run, devices=4, steps=5)])
    assert result["step"] == 5
    return run


def test_four_devices_give_the_loss_of_one(four_devices, one_device):
    expected, _ = one_device
    got = losses(four_devices)
    assert sorted(got) == [1, 2, 3, 4, 5]
    for step, loss in got.items():
        np.testing.assert_allclose(loss, expected[step], rtol=1e-5)
    assert expected[15] < 0.8 * expected[1]


def test_two_processes_continue_from_four_devices_and_one_from_them(
    tmp_path, four_devices, one_device
):
    run = tmp_path / "run"
    shutil.copytree(four_devices, run)
    port = free_port()
    first, second = finish(
        [start(run, devices=1, index=i, count=2, port=port, steps=10) for i in range(2)]
    )
    assert first == second and first["step"] == 10
    settings = config(steps=15, log_every=1, save_every=100)
    with staged_task() as task:
        state = fit(task, render_targets(make_batches()), settings, run)
    expected, bias = one_device
    got = losses(run)
    assert sorted(got) == list(range(1, 16))
    for step, loss in got.items():
        np.testing.assert_allclose(loss, expected[step], rtol=1e-5)
    np.testing.assert_allclose(state.params["bias"], bias, rtol=1e-5)
