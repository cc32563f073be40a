"""The training loop on a small real task."""

import json
import os
import signal
from dataclasses import dataclass

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_example import FILES, STEP, config, init, make_batches, make_task, predict

from ddspx.training.checkpoint import (
    CheckpointError,
    load_frozen,
    read_record,
    restore_params,
)
from ddspx.training.configuration import ConfigurationError, FitConfig, load_preset
from ddspx.training.fit import fit, stream
from ddspx.training.logging import read_scalars
from ddspx.training.task import Sounds
from ddspx.training.watchdog import NonFiniteError, SilenceError


def checkpoints(run, which="last"):
    return sorted(int(p.name) for p in (run / which).glob("*") if p.name.isdecimal())


def test_training_learns_and_writes_a_complete_run(tmp_path):
    run = tmp_path / "run"
    shown = []

    def show(state, batch):
        shown.append(int(state.step))
        audio = np.asarray(predict(state.params, batch["audio"])[0])
        return Sounds(audio={"show/output": (audio, 8000.0)}, text={"show/x": "**a**"})

    state = fit(
        make_task(show=show), make_batches(), config(steps=60), run,
        evaluation=make_batches(3)[1:], file_names=FILES,
    )  # fmt: skip
    assert int(state.step) == 60
    curves = read_scalars(run / "logs")
    assert [s for s, _ in curves["evaluation/loss"]] == [0, 10, 20, 30, 40, 50, 60]
    assert [s for s, _ in curves["train/loss"]] == list(range(5, 61, 5))
    assert {"train/gradient_norm", "train/output_rms_db"} <= set(curves)
    first, last = curves["evaluation/loss"][0][1], curves["evaluation/loss"][-1][1]
    assert last < 0.2 * first
    assert shown == [0, 10, 20, 30, 40, 50, 60]
    taps = restore_params(run, ("params", "taps"), which="last")
    np.testing.assert_array_equal(taps, state.params["taps"])
    record = read_record(run)
    assert record["config"]["steps"] == 60
    evaluated = dict(curves["evaluation/loss"])
    assert record["step"] == record["memory"]["best_step"]
    assert np.isclose(evaluated[record["step"]], min(evaluated.values()))
    stored = json.loads((run / "run.json").read_text())
    assert stored["config"] == record["config"] and stored["git_revision"]
    assert checkpoints(run) == [56, 60]
    assert checkpoints(run, "best") == [record["step"]]


def test_logged_value_is_the_mean_since_the_last_entry(tmp_path):
    state, losses = init(jax.random.key(0)), []
    for batch in make_batches()[:10]:
        state, metrics = STEP(state, batch)
        losses.append(float(metrics["loss"]))
    fit(make_task(evaluate=None), make_batches(), config(steps=10), tmp_path / "run")
    logged = dict(read_scalars(tmp_path / "run" / "logs")["train/loss"])
    np.testing.assert_allclose(logged[5], np.mean(losses[:5]), rtol=1e-6)
    np.testing.assert_allclose(logged[10], np.mean(losses[5:]), rtol=1e-6)


def test_the_best_checkpoint_is_the_best_and_not_the_last(tmp_path):
    # The evaluation's loss falls until step 20 and rises after.
    def evaluate(state, batch):
        return {"score": -jnp.abs(state.step - 20.0)}

    settings = config(steps=40, best_metric="score", best_is="highest")
    fit(
        make_task(evaluate=evaluate), make_batches(), settings, tmp_path / "run",
        evaluation=make_batches(1),
    )  # fmt: skip
    assert read_record(tmp_path / "run")["step"] == 20
    assert int(restore_params(tmp_path / "run", ("step",))) == 20
    assert int(restore_params(tmp_path / "run", ("step",), which="last")) == 40


def test_an_unknown_best_metric_names_the_known_ones(tmp_path):
    with pytest.raises(ConfigurationError, match=r"'lose'.*\['loss'\]"):
        fit(
            make_task(), make_batches(), config(best_metric="lose"), tmp_path / "run",
            evaluation=make_batches(1),
        )  # fmt: skip


def test_nan_names_quantity_step_and_files_and_keeps_the_last_good(tmp_path):
    # Batch 17 is that of step 18; entries are made at 5, 10, 15, 20: two steps later.
    batches = make_batches(poison=17)
    with pytest.raises(NonFiniteError) as caught:
        fit(make_task(), batches, config(), tmp_path / "run", file_names=FILES)
    message = str(caught.value)
    assert "loss is nan" in message and "gradient_norm is nan" in message
    assert "at step 18;" in message
    for index in batches[17]["file"]:
        assert FILES[index] in message
    assert "last good checkpoint is step 16" in caught.value.__notes__[0]
    assert checkpoints(tmp_path / "run") == [8, 16]
    taps = restore_params(tmp_path / "run", which="last")["taps"]
    assert np.isfinite(taps).all()


def test_nan_in_the_state_alone_is_found_before_it_is_saved(tmp_path):
    def step(state, batch):
        state, metrics = STEP(state, batch)
        taps = jnp.where(state.step == 16, jnp.nan, state.params["taps"])
        return state.replace(params={**state.params, "taps": taps}), metrics

    with pytest.raises(NonFiniteError, match=r"params\.taps not finite after step 16"):
        fit(make_task(step=step), make_batches(), config(), tmp_path / "run")
    assert checkpoints(tmp_path / "run") == [8]


def test_nan_in_an_evaluation_stops(tmp_path):
    def evaluate(state, batch):
        return {"loss": jnp.where(state.step == 10, jnp.inf, 1.0)}

    with pytest.raises(NonFiniteError, match="evaluation/loss is inf at step 10"):
        fit(
            make_task(evaluate=evaluate), make_batches(), config(), tmp_path / "run",
            evaluation=make_batches(2),
        )  # fmt: skip


def test_collapse_to_silence_stops_with_the_step(tmp_path):
    def step(state, batch):
        quiet = (state.step >= 4) & (state.step != 6)
        state, metrics = STEP(state, batch)
        return state, {**metrics, "output_rms_db": jnp.where(quiet, -120.0, -20.0)}

    # Steps 5, 6 are silent, 7 is not, 8 ... are: the tenth silent one in a row is 17.
    settings = config(silence_steps=10)
    with pytest.raises(SilenceError, match=r"-120\.0 dB at step 17"):
        fit(make_task(step=step), make_batches(), settings, tmp_path / "run")


def test_a_step_that_does_not_count_is_refused(tmp_path):
    def step(state, batch):
        new, metrics = STEP(jax.tree.map(lambda x: x.copy(), state), batch)
        return new.replace(step=state.step), metrics

    with pytest.raises(ValueError, match="returned step 0 after 8 steps"):
        fit(make_task(step=step), make_batches(), config(), tmp_path / "run")


def test_a_metric_that_is_no_scalar_is_refused(tmp_path):
    def step(state, batch):
        state, metrics = STEP(state, batch)
        return state, {**metrics, "levels": jnp.zeros(3)}

    with pytest.raises(ValueError, match=r"metric 'levels' has shape \(3,\)"):
        fit(make_task(step=step), make_batches(), config(), tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_resumes_exactly(tmp_path, number):
    def step(state, batch):
        if int(state.step) == 10:
            os.kill(os.getpid(), number)
        return STEP(state, batch)

    stopped = fit(make_task(step=step), make_batches(), config(), tmp_path / "run")
    assert int(stopped.step) == 11
    assert checkpoints(tmp_path / "run")[-1] == 11
    resumed = fit(make_task(), make_batches(), config(), tmp_path / "run")
    whole = fit(make_task(), make_batches(), config(), tmp_path / "whole")
    assert int(resumed.step) == 24
    np.testing.assert_array_equal(resumed.params["taps"], whole.params["taps"])
    assert read_scalars(tmp_path / "run/logs") == read_scalars(tmp_path / "whole/logs")


def test_more_steps_continue_and_another_configuration_is_refused(tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    fit(make_task(), make_batches(), config(steps=12), run, file_names=FILES)
    with pytest.raises(ConfigurationError, match="seed: was 0, is now 1") as caught:
        fit(make_task(), make_batches(), config(seed=1), run, file_names=FILES)
    assert "steps" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="list of data files"):
        fit(make_task(), make_batches(), config(), run, file_names=FILES[1:])
    with pytest.raises(ConfigurationError, match="frozen weights"):
        task = make_task(frozen={"w": jnp.ones(2)})
        fit(task, make_batches(), config(), run, file_names=FILES)
    # The files may have moved, and the run may be longer.
    moved = [f"/elsewhere/{name}" for name in FILES]
    resumed = fit(make_task(), make_batches(), config(), run, file_names=moved)
    straight = fit(make_task(), make_batches(), config(), whole, file_names=FILES)
    np.testing.assert_array_equal(resumed.params["taps"], straight.params["taps"])
    done = fit(make_task(), make_batches(), config(), run, file_names=FILES)
    np.testing.assert_array_equal(done.params["taps"], resumed.params["taps"])


def test_a_folder_with_other_things_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="exists and is not a run"):
        fit(make_task(), make_batches(), config(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@dataclass(frozen=True)
class Experiment:
    fit: FitConfig
    width: int = 3


def test_a_whole_configuration_is_stored_and_compared(tmp_path):
    run, settings = tmp_path / "run", config(steps=8)
    frozen = {"f": jnp.arange(3.0)}
    task = make_task(frozen=frozen)
    whole = Experiment(settings)
    fit(task, make_batches(), settings, run, run_config=whole)
    assert load_preset(run / "config.yaml", Experiment, base=whole) == whole
    assert read_record(run, which="last")["config"]["width"] == 3
    np.testing.assert_array_equal(load_frozen(run)["f"], frozen["f"])
    longer = config(steps=9)
    other = Experiment(longer, width=4)
    with pytest.raises(ConfigurationError, match="width: was 3, is now 4") as caught:
        fit(task, make_batches(), longer, run, run_config=other)
    assert "fit.steps" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="do not hold the FitConfig"):
        fit(task, make_batches(), longer, run, run_config=whole)
    state = fit(task, make_batches(), longer, run, run_config=Experiment(longer))
    assert int(state.step) == 9


class Draw(grain.transforms.RandomMap):
    def random_map(self, element, rng):
        return {"i": np.int64(element), "x": rng.normal()}


@pytest.mark.parametrize("length", [10, 10**9])
def test_stream_of_a_grain_dataset_starts_anywhere(length):
    data = grain.MapDataset.range(length).seed(3).random_map(Draw()).batch(2)
    whole = stream(data, 0, config())
    first = [next(whole) for _ in range(12)]
    part = stream(data, 7, config(data_threads=3))
    for batch in first[7:]:
        again = next(part)
        np.testing.assert_array_equal(batch["i"], again["i"])
        np.testing.assert_array_equal(batch["x"], again["x"])
    assert len({float(b["x"][0]) for b in first}) == 12  # each epoch draws anew


def test_a_filtered_batch_is_refused(tmp_path):
    batches = [*make_batches(2), None]
    with pytest.raises(ValueError, match="batch 2 is None"):
        fit(make_task(), batches, config(), tmp_path / "run")


@pytest.mark.parametrize("threads", [1, 4])
def test_stream_gives_the_same_batches_from_any_position(threads):
    batches = make_batches(5)
    source = stream(batches, 3, config(data_threads=threads))
    got = [next(source) for _ in range(9)]
    for i, batch in enumerate(got):
        np.testing.assert_array_equal(batch["audio"], batches[(3 + i) % 5]["audio"])


def test_quiet_writes_nothing_and_otherwise_a_line_with_loss_and_rate(tmp_path, capfd):
    fit(make_task(), make_batches(), config(), tmp_path / "quiet")
    assert capfd.readouterr() == ("", "")
    fit(
        make_task(), make_batches(), config(quiet=False), tmp_path / "run",
        evaluation=make_batches(1),
    )  # fmt: skip
    shown = capfd.readouterr().err
    assert "24/24" in shown and "loss" in shown and "step/s" in shown
    assert "step 0: loss" in shown
