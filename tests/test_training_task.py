"""The state as a pytree, its keys, and the mean over an evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.training.task import Task, create_state, mean_metrics


def make_state(step=0):
    state = create_state({"w": jnp.ones(2)}, (), jax.random.key(5))
    return state.replace(step=jnp.asarray(step, jnp.int32))


def test_a_state_is_a_pytree_and_starts_at_zero():
    state = make_state()
    assert int(state.step) == 0 and state.extra == {}
    double = jax.jit(lambda s: s.replace(params=jax.tree.map(jnp.exp2, s.params)))
    doubled = double(state)
    np.testing.assert_array_equal(doubled.params["w"], 2.0)
    np.testing.assert_array_equal(state.params["w"], 1.0)
    assert jax.tree.structure(doubled) == jax.tree.structure(state)


def test_the_key_of_a_step_is_fold_in_of_the_runs_key():
    keys = [jax.random.key_data(make_state(s).step_key()).tolist() for s in range(5)]
    root = jax.random.key(5)
    for step, key in enumerate(keys):
        expected = jax.random.key_data(jax.random.fold_in(root, step)).tolist()
        assert key == expected
    assert len({tuple(key) for key in keys}) == 5


def test_evaluation_averages_each_metric_over_batches():
    task = Task(init=lambda key: make_state(), step=lambda s, b: (s, {}))
    with pytest.raises(ValueError, match="no `evaluate`"):
        mean_metrics(task, make_state(), [{}])

    def evaluate(state, batch):
        return {"loss": jnp.mean(batch["x"]), "w": state.params["w"][0]}

    task = Task(init=task.init, step=task.step, evaluate=evaluate)
    batches = [{"x": np.full(3, v, np.float32)} for v in (1.0, 2.0, 6.0)]
    assert mean_metrics(task, make_state(), batches) == {"loss": 3.0, "w": 1.0}
    batches[1]["x"][0] = np.nan
    assert np.isnan(mean_metrics(task, make_state(), batches)["loss"])
    with pytest.raises(ValueError, match="0 evaluation batches"):
        mean_metrics(task, make_state(), [])


def test_leaving_a_task_closes_what_it_owns():
    closed = []
    task = Task(
        init=lambda key: make_state(), step=lambda s, b: (s, {}),
        close=lambda: closed.append(True),
    )  # fmt: skip
    with pytest.raises(RuntimeError), task as entered:
        assert entered is task and not closed
        raise RuntimeError
    assert closed == [True]
