"""The render pool: equal bits, and nothing lost to plug-ins that misbehave."""

import gc
import logging
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from ddspx.parameters import sample_controls
from styletransfer.hosts import HostEffect, Slot, Status, open_host
from styletransfer.hosts import process as process_module
from styletransfer.hosts.fault import fault_controls, fault_effect
from styletransfer.hosts.pool import Patience, RenderPool
from styletransfer.presets import load_effect

GAINS = np.linspace(0.1, 1.9, 12)


@pytest.fixture(scope="module")
def flag(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fault") / "flag"


@pytest.fixture(scope="module")
def pool(flag):
    """Shared by the fault tests: each must leave it fit for the next."""
    patience = Patience(timeout_s=1.0)
    with RenderPool(fault_effect(flag), 24000, workers=2, patience=patience) as pool:
        yield pool


def noise(*shape) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def expected(audio, gains=GAINS) -> np.ndarray:
    """What the fault effect gives where it does not misbehave."""
    unit = (np.asarray(gains) / 2.0).astype(np.float32).astype(np.float64)
    return audio * (2.0 * unit).astype(np.float32)[:, None, None]


def render_with(pool, fault, item=5):
    audio = noise(12, 1, 300)
    faults = ["none"] * 12
    faults[item] = fault
    before = pool.counts.copy()
    rendered = pool.render(audio, fault_controls(faults, GAINS))
    return rendered, expected(audio), pool.counts - before


# --- equal bits


@pytest.mark.parametrize("name", ["compressor", "reverb", "phaser", "channel_strip"])
def test_all_backends_give_equal_bits(name, rng):
    audio = noise(3, 2, 3000) * 0.2
    effect = load_effect(name)
    source = np.array([2, 0, 1, 1, 0, 2, 2])
    controls = sample_controls(effect.specs, rng, (len(source),))
    results = []
    for backend in ("serial", "thread", "process"):
        with open_host(effect, 24000, backend=backend, workers=2) as host:
            rendered = host.render(audio, controls, source)
            assert not rendered.status.any()
            results.append(rendered.audio)
    np.testing.assert_array_equal(results[1], results[0])
    np.testing.assert_array_equal(results[2], results[0])


def test_sizes_may_change_from_call_to_call(rng):
    effect = load_effect("compressor")
    with (
        open_host(effect, 24000, backend="serial") as serial,
        open_host(effect, 24000, workers=2) as pool,
    ):
        for items, channels, samples in [
            (1, 1, 1), (5, 1, 100), (2, 6, 4), (0, 1, 10), (3, 2, 200_000), (40, 1, 7),
        ]:  # fmt: skip
            audio = noise(max(items, 1), channels, samples)
            controls = sample_controls(effect.specs, rng, (items,))
            source = np.arange(items)[::-1]
            a, b = (h.render(audio, controls, source) for h in (serial, pool))
            assert a.audio.shape == (items, channels, samples)
            np.testing.assert_array_equal(a.audio, b.audio)


def test_source_may_be_left_out(pool):
    controls = fault_controls(["none"] * 12, GAINS)
    one = noise(1, 1, 50)
    each = np.repeat(one, 12, axis=0)
    np.testing.assert_array_equal(
        pool.render(one, controls).audio, pool.render(each, controls).audio
    )


def test_a_result_stays_while_it_is_held_and_its_memory_returns_after(pool):
    audio = noise(12, 1, 40_000)
    kept, copies = [], []
    for k in range(4):
        controls = fault_controls(["none"] * 12, GAINS[::-1] * (k + 1) / 4)
        kept.append(pool.render(audio, controls).audio[3:, :, 10:])
        copies.append(kept[-1].copy())
    for view, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(view, copy)
        view += 1.0  # it is the caller's own
    blocks = len(pool._store.blocks)
    del kept, view
    gc.collect()
    for _ in range(8):
        pool.render(audio, fault_controls(["none"] * 12, GAINS))
    assert len(pool._store.blocks) == blocks


def test_a_result_outlives_the_pool():
    with RenderPool(fault_effect(), 24000, workers=1) as pool:
        audio = noise(12, 1, 300)
        rendered = pool.render(audio, fault_controls(["none"] * 12, GAINS)).audio
    pool.close()
    np.testing.assert_array_equal(rendered, expected(audio))
    with pytest.raises(RuntimeError, match="is closed"):
        pool.render(audio, fault_controls(["none"] * 12, GAINS))


# --- faults


@pytest.mark.parametrize(
    ("fault", "restarts"), [("crash_once", 1), ("stop_once", 1), ("raise_once", 0)]
)
def test_what_fails_once_is_rendered_again(pool, flag, fault, restarts):
    flag.touch()
    rendered, wanted, changed = render_with(pool, fault)
    assert not flag.exists()
    assert not rendered.status.any()
    np.testing.assert_array_equal(rendered.audio, wanted)
    assert changed["restarts"] == restarts and changed["retries"] == 1


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("crash", Status.FAILED, "died of SIGSEGV"),
        ("stop", Status.FAILED, "silent beyond its time-out"),
        ("spin", Status.FAILED, "silent beyond its time-out"),
        ("nan", Status.NONFINITE, "not usable"),
        ("inf", Status.NONFINITE, "not usable"),
        ("absurd", Status.ABSURD, "not usable"),
        ("raise", Status.ERROR, "the plug-in raised"),
    ],
)
def test_what_fails_always_is_excluded_and_named(pool, caplog, fault, status, reason):
    with caplog.at_level(logging.WARNING):
        rendered, wanted, changed = render_with(pool, fault, item=7)
    assert rendered.status[7] == status
    assert not rendered.audio[7].any()
    good = np.arange(12) != 7
    assert not rendered.status[good].any()
    np.testing.assert_array_equal(rendered.audio[good], wanted[good])
    assert changed["excluded"] == 1
    (message,) = [r.getMessage() for r in caplog.records]
    assert "item 7 of 12 excluded" in message and reason in message
    assert f"plugin.fault={fault}" in message


def test_a_serial_host_excludes_in_the_same_way(flag):
    with open_host(fault_effect(flag), 24000, backend="serial") as host:
        rendered, wanted, changed = render_with(host, "nan")
        assert rendered.status[5] == Status.NONFINITE and changed["excluded"] == 1
        assert not rendered.audio[5].any()
        flag.touch()
        rendered, wanted, changed = render_with(host, "raise_once")
        assert not rendered.status.any() and changed["retries"] == 1
        np.testing.assert_array_equal(rendered.audio, wanted)


def test_controls_are_clamped_before_the_plugin(pool):
    audio = noise(4, 1, 50)
    controls = fault_controls(["none"] * 4, [1.0] * 4)
    controls[:, 0] = [np.nan, np.inf, -np.inf, 7.0]
    before = pool.counts["clamped"]
    rendered = pool.render(audio, controls)
    np.testing.assert_array_equal(
        rendered.audio, audio * np.float32([1.0, 2.0, 0.0, 2.0])[:, None, None]
    )
    assert pool.counts["clamped"] - before == 4


def test_audio_that_is_not_finite_spoils_its_items_alone(pool):
    audio = noise(12, 1, 300)
    audio[4, 0, 9] = np.nan
    rendered = pool.render(audio, fault_controls(["none"] * 12, GAINS))
    assert list(np.flatnonzero(rendered.status)) == [4]


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGSTOP])
def test_workers_lost_between_calls_are_replaced(pool, number):
    for pid in pool.pids:
        os.kill(pid, number)
    rendered, wanted, changed = render_with(pool, "none")
    np.testing.assert_array_equal(rendered.audio, wanted)
    assert changed["restarts"] >= 1 and changed["excluded"] == 0


def test_ctrl_c_leaves_the_pool_usable(pool, monkeypatch):
    wait, seen = RenderPool._wait, []

    def interrupted(self, call):
        if seen:
            raise KeyboardInterrupt
        seen.append(call)
        wait(self, call)

    with monkeypatch.context() as patch:
        patch.setattr(RenderPool, "_wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            render_with(pool, "spin")
    rendered, wanted, _ = render_with(pool, "none")
    np.testing.assert_array_equal(rendered.audio, wanted)


def test_ctrl_c_of_the_terminal_does_not_reach_the_workers(pool):
    assert os.getpgrp() not in {os.getpgid(pid) for pid in pool.pids}
    for pid in pool.pids:
        os.kill(pid, signal.SIGINT)
    rendered, wanted, changed = render_with(pool, "none")
    np.testing.assert_array_equal(rendered.audio, wanted)
    assert changed["restarts"] == 0


def test_several_threads_may_render_at_once(pool):
    results = {}

    def work(k):
        audio = noise(12, 1, 200) * k
        results[k] = (pool.render(audio, fault_controls(["none"] * 12, GAINS)), audio)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rendered, audio in results.values():
        np.testing.assert_array_equal(rendered.audio, expected(audio))


# --- start and end


def test_the_pool_outlives_the_thread_that_opened_it():
    # The kernel ties a worker's life to the thread that started it.
    opened = []
    thread = threading.Thread(
        target=lambda: opened.append(RenderPool(fault_effect(), 24000, workers=1))
    )
    thread.start()
    thread.join()
    with opened[0] as pool:
        _, _, changed = render_with(pool, "none")
        assert changed["restarts"] == 0


def test_workers_die_with_their_parent():
    script = (
        "import time\n"
        "from styletransfer.hosts.fault import fault_effect\n"
        "from styletransfer.hosts.pool import RenderPool\n"
        "pool = RenderPool(fault_effect(), 24000, workers=2)\n"
        "print(*pool.pids, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        handles = [os.pidfd_open(pid) for pid in pids]
        # A stopped worker cannot notice that its socket was closed.
        os.kill(pids[0], signal.SIGSTOP)
        parent.kill()
    for handle in handles:
        assert select.select([handle], [], [], 20.0)[0], "a worker outlived its parent"
        os.close(handle)


def test_a_worker_imports_no_jax():
    script = (
        "import sys, styletransfer.hosts.worker, styletransfer.hosts.pedalboard\n"
        "print({'jax', 'jaxtyping', 'flax', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=process_module.worker_environment(),
    )
    assert done.stdout.strip() == "set()"


def test_the_working_directory_does_not_matter(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    with RenderPool(fault_effect(), 24000, workers=1) as pool:
        rendered, wanted, _ = render_with(pool, "none")
    np.testing.assert_array_equal(rendered.audio, wanted)


def test_a_worker_that_does_not_start_ends_with_what_it_wrote(monkeypatch):
    monkeypatch.setattr(
        process_module, "worker_environment", lambda kinds: {"PYTHONHOME": "/none"}
    )
    with pytest.raises(RuntimeError, match=r"failed 3 times.*its log ends.*encodings"):
        RenderPool(fault_effect(), 24000, workers=1, patience=Patience(failures=2))


def test_an_effect_that_crashes_when_opened_ends_with_an_error():
    with pytest.raises(RuntimeError, match=r"failed 3 times in a row.*SIGSEGV"):
        RenderPool(
            fault_effect(start="crash"), 24000, workers=1, patience=Patience(failures=2)
        )


def test_an_effect_that_cannot_be_opened_says_why():
    effect = HostEffect("broken", (Slot("a", "Compresor"),))
    with pytest.raises(ValueError, match="did you mean 'Compressor'"):
        RenderPool(effect, 24000, workers=1)


def test_a_plugin_that_vanishes_does_not_restart_for_ever(flag):
    flag.touch()  # the first start passes, no later one does
    effect = fault_effect(flag, start="crash")
    pool = RenderPool(effect, 24000, workers=1, patience=Patience(failures=3))
    with pytest.raises(RuntimeError, match="failed 4 times in a row, the pool is"):
        render_with(pool, "crash")
    with pytest.raises(RuntimeError, match="is closed"):
        render_with(pool, "none")


# --- requests


def test_requests_that_do_not_fit_are_refused(pool):
    audio, controls = noise(3, 1, 10), np.zeros((3, 2))
    with pytest.raises(ValueError, match=r"signals, channels, time"):
        pool.render(audio[0], controls)
    with pytest.raises(ValueError, match=r"\[items, 2\], got shape \(3, 3\)"):
        pool.render(audio, np.zeros((3, 3)))
    with pytest.raises(ValueError, match="give source"):
        pool.render(audio, np.zeros((4, 2)))
    with pytest.raises(ValueError, match="source runs from 0 to 3"):
        pool.render(audio, controls, np.array([0, 1, 3]))
    with pytest.raises(ValueError, match=r"source must be \[3\]"):
        pool.render(audio, controls, np.array([0, 1]))


def test_doors_that_do_not_open():
    effect = load_effect("chorus")
    with pytest.raises(ValueError, match="workers 0"):
        open_host(effect, 24000, workers=0)
    with pytest.raises(ValueError, match="sample_rate 24 must be"):
        open_host(effect, 24, backend="serial")
    with pytest.raises(ValueError, match="may not run in threads"):
        open_host(fault_effect(), 24000, backend="thread")


def test_patience_grows_with_the_measured_cost_and_with_the_second_chance():
    with RenderPool(fault_effect(), 24000, workers=1) as pool:
        pool._cost = 1e-6
        assert pool.timeout_s == pytest.approx(0.5 + 20 * 0.024)
        assert pool._timeout(1000, 2, 3) == pytest.approx(4 * (0.5 + 20 * 0.003))


def test_the_benchmark_prints_a_row_for_each_effect_and_size():
    script = Path(__file__).parent.parent / "scripts" / "benchmark.py"
    words = "--effects Gain delay --renders 2 3 --seconds 0.05 --repeats 1 --pause-s 0"
    done = subprocess.run(
        [sys.executable, str(script), "hosts", *words.split(), "--no-faults"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split()[:2] for line in done.stdout.splitlines()[3:]]
    assert rows == [["Gain", "2"], ["Gain", "3"], ["delay", "2"], ["delay", "3"]]
