"""Meshes and host maps on one device (many devices: test_distributed)."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training_example import config, init, judge, make_batches, train_step

from ddspx.training.fit import fit
from ddspx.training.parallel import (
    any_process,
    by_row,
    compile_step,
    host_map,
    make_mesh,
    on_every_device,
    replicate,
    shard_batch,
)
from ddspx.training.task import Task


def test_a_mesh_of_one_device_is_the_plain_case(tmp_path):
    mesh = make_mesh()
    plain = Task(init, compile_step(train_step), compile_step(judge, donate=False))
    meshed = Task(
        init, compile_step(train_step, mesh), compile_step(judge, mesh, donate=False)
    )
    kept = {"evaluation": make_batches(2)}
    one = fit(plain, make_batches(), config(), tmp_path / "plain", **kept)
    two = fit(meshed, make_batches(), config(), tmp_path / "mesh", mesh=mesh, **kept)
    assert isinstance(two.params["taps"].sharding, jax.sharding.NamedSharding)
    np.testing.assert_array_equal(one.params["taps"], two.params["taps"])


def test_batches_are_split_and_states_are_whole():
    mesh = make_mesh(jax.devices()[:1])
    batch = shard_batch({"a": np.ones((4, 3)), "file": np.arange(4)}, mesh)
    assert batch["a"].sharding == by_row(mesh)
    state = replicate({"key": jax.random.key(1), "w": jnp.ones(3)}, mesh)
    assert state["w"].sharding == on_every_device(mesh)
    assert jax.random.key_data(state["key"]).tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"shape \(\) cannot be split among 1"):
        shard_batch({"a": np.float32(1.0)}, mesh)


def test_compile_step_donates_unless_told_not_to():
    for donate in (True, False):
        state = {"w": jnp.ones(1000)}
        step = compile_step(lambda s, b: ({"w": s["w"] + b}, {}), donate=donate)
        step(state, jnp.ones(1000))
        assert state["w"].is_deleted() is donate


@pytest.mark.parametrize("meshed", [False, True])
def test_host_map_is_the_function_on_rows(rng, meshed):
    x = rng.normal(size=(4, 8)).astype(np.float32)
    y = rng.integers(0, 5, (4, 2, 3)).astype(np.int32)
    arrays = jnp.asarray(x), jnp.asarray(y)
    if meshed:
        arrays = tuple(jax.device_put(a, by_row(make_mesh())) for a in arrays)

    def function(a, b):
        assert isinstance(a, np.ndarray) and not a.flags.writeable
        return {"sum": a.sum(-1) + b.sum((1, 2)), "twice": 2 * b}

    with ThreadPoolExecutor(2) as pool:
        for mapper in (map, pool.map):
            out = host_map(function, *arrays, map_shards=mapper)
            np.testing.assert_array_equal(
                out["sum"], (x.sum(-1) + y.sum((1, 2))).astype(np.float32)
            )
            np.testing.assert_array_equal(out["twice"], 2 * y)
            assert out["sum"].sharding.device_set == arrays[0].sharding.device_set


def test_host_map_says_what_is_wrong():
    x = jnp.ones((4, 2))
    with pytest.raises(ValueError, match=r"returned shape \(3, 2\) for 4 rows"):
        host_map(lambda a: a[:3], x)
    with pytest.raises(ValueError, match="split alike"):
        host_map(lambda a, b: a, x, jnp.ones((3, 2)))
    with pytest.raises(ZeroDivisionError):
        host_map(lambda a: 1 / 0, x)


def test_a_flag_of_one_process_is_itself():
    assert any_process(True) is True and any_process(False) is False
