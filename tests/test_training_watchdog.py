"""Watchdogs: order, names, checksums."""

import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.training.configuration import FitConfig
from ddspx.training.watchdog import (
    NonFiniteError,
    SilenceError,
    Watchdog,
    stop_on_signals,
    survey,
)


def test_metrics_come_back_in_order_and_once():
    watchdog = Watchdog(FitConfig(in_flight=2))
    for step in range(1, 8):
        watchdog.add(step, {"loss": jnp.float32(step)}, ())
    assert watchdog.read() == [(s, {"loss": float(s)}) for s in range(1, 8)]
    assert watchdog.read() == []


class Pending:
    """A device value that notes whether it was waited for."""

    waited = False

    def block_until_ready(self):
        self.waited = True
        return self


def test_the_host_waits_only_for_steps_long_in_flight():
    watchdog = Watchdog(FitConfig(in_flight=3))
    values = [Pending() for _ in range(10)]
    for step, value in enumerate(values, 1):
        watchdog.add(step, {"loss": value}, ())
        assert [v.waited for v in values] == [i < step - 3 for i in range(10)]


def test_the_first_bad_step_is_named_with_all_its_bad_quantities_and_files():
    names = ("a.wav", "b.wav", "c.wav")
    watchdog = Watchdog(FitConfig(), names)
    for step in range(1, 6):
        bad = jnp.inf if step >= 3 else 1.0
        metrics = {"loss": bad, "norm": -bad, "fine": 2.0}
        watchdog.add(step, metrics, np.array([step % 3, 2, 2, 9]))
    with pytest.raises(NonFiniteError) as caught:
        watchdog.read()
    assert str(caught.value) == (
        "loss is inf, norm is -inf at step 3; files of this batch: a.wav, c.wav, #9"
    )


def test_silence_counts_in_a_row_and_continues_from_a_checkpoint():
    config = FitConfig(silence_steps=5, silence_threshold_db=-60.0)

    def run(levels, already=0):
        watchdog = Watchdog(config, silent_steps=already)
        for step, level in enumerate(levels, 1):
            watchdog.add(step, {"output_rms_db": level}, ())
        watchdog.read()
        return watchdog.silent_steps

    assert run([-61.0] * 4) == 4
    assert run([-61.0] * 4 + [-59.0] + [-70.0] * 3) == 3
    with pytest.raises(SilenceError, match=r"at step 5, .* for 5 steps"):
        run([-61.0] * 9)
    with pytest.raises(SilenceError, match="at step 2"):
        run([-61.0] * 2, already=3)


def test_survey_names_what_is_not_finite():
    tree = {"a": [jnp.ones(2), jnp.array([1.0, jnp.nan])], "n": jnp.arange(3)}
    tree |= {"key": jax.random.key(0), "h": jnp.array([jnp.inf], jnp.bfloat16)}
    assert survey(tree)[0] == ("a.1", "h")


def test_checksum_sees_every_bit_every_place_and_every_type():
    base = {
        "f": jnp.arange(5.0),
        "i": jnp.arange(3),
        "b": jnp.array([True, False]),
        "h": jnp.ones(3, jnp.bfloat16),
        "k": jax.random.key(1),
        "c": jnp.ones(2, jnp.complex64),
    }
    changed = [
        base,
        base | {"f": base["f"].at[3].set(jnp.nextafter(3.0, 4.0))},
        base | {"f": base["f"][::-1]},
        base | {"f": base["f"].at[0].set(-0.0)},
        base | {"i": jnp.array([0, 2, 1])},
        base | {"b": jnp.array([False, True])},
        base | {"h": base["h"].at[2].set(0.5)},
        base | {"k": jax.random.key(2)},
        base | {"c": base["c"].at[1].set(1 + 1e-6j)},
    ]
    sums = [survey(tree)[1] for tree in changed]
    assert len(set(sums)) == len(sums)
    assert survey(jax.tree.map(lambda x: x, base))[1] == sums[0]


def test_checksum_survives_every_single_bit_flip(rng):
    values = rng.normal(size=64).astype(np.float32)
    whole = survey({"x": jnp.asarray(values)})[1]
    for bit in range(32):
        flipped = values.copy()
        flipped.view(np.uint32)[rng.integers(64)] ^= np.uint32(1 << bit)
        assert survey({"x": jnp.asarray(flipped)})[1] != whole


def test_the_first_signal_asks_and_the_second_interrupts():
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), signal.SIGINT)
        assert stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_catch_no_signal():
    seen = []

    def work():
        with stop_on_signals() as stop:
            seen.append((bool(stop), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, signal.getsignal(signal.SIGINT))]
