"""Checkpoints: what is kept, partial reading, frozen weights, damage."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddspx.training.checkpoint import (
    CheckpointError,
    CheckpointStore,
    abstract_like,
    is_run,
    load_frozen,
    read_record,
    read_run,
    restore_params,
    save_frozen,
    tree_hash,
    write_run,
)
from ddspx.training.task import create_state
from ddspx.training.watchdog import survey


def make_state(scale=1.0):
    params = {
        "encoder": {"kernel": scale * jnp.arange(6.0).reshape(2, 3)},
        "decoder": [jnp.ones(2), jnp.arange(3, dtype=jnp.int8)],
        "half": jnp.full(3, 0.5, jnp.bfloat16),
    }
    optimizer = optax.adam(1e-3)
    opt_state = optimizer.init(params["encoder"])
    extra = {"flags": jnp.array([True, False]), "empty": {}}
    return create_state(params, opt_state, jax.random.key(7, impl="rbg"), extra)


def test_everything_comes_back_as_it_was(tmp_path):
    state = make_state()
    record = {"step": 3, "pi": 0.1 + 0.2, "none": None, "list": [], "text": "ü"}
    with CheckpointStore(tmp_path / "last") as store:
        store.save(3, state, record, wait=True)
        step, read, got = store.restore_newest(abstract_like(state))
    assert step == 3 and got == record
    assert jax.tree.structure(read) == jax.tree.structure(state)
    assert jax.random.key_impl(read.key) == jax.random.key_impl(state.key)
    for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(state), strict=True):
        assert a.dtype == b.dtype
    assert survey(read) == survey(state)
    np.testing.assert_array_equal(
        jax.random.uniform(read.step_key(), (3,)),
        jax.random.uniform(state.step_key(), (3,)),
    )


def test_saving_is_not_disturbed_by_donation(tmp_path):
    state = {"w": jnp.ones(100_000)}
    change = jax.jit(lambda s: {"w": s["w"] * 2}, donate_argnums=0)
    with CheckpointStore(tmp_path / "last") as store:
        abstract = abstract_like(state)
        store.save(1, state, {})
        state = change(state)
        store.save(2, state, {}, wait=True)
        one, two = store.restore(1, abstract)[0], store.restore(2, abstract)[0]
    assert (np.unique(one["w"]), np.unique(two["w"])) == (1.0, 2.0)


def test_the_newest_and_every_nth_are_kept(tmp_path):
    with CheckpointStore(tmp_path / "last", keep=2, keep_every=4) as store:
        for step in range(1, 8):
            store.save(step, {"w": jnp.ones(1)}, {}, wait=True)
        assert store.steps == [4, 6, 7]


def test_the_same_step_is_kept_if_equal_and_replaced_if_not(tmp_path):
    with CheckpointStore(tmp_path / "best") as store:
        store.save(1, {"w": jnp.zeros(1)}, {"checksum": 5, "n": 1}, wait=True)
        before = (tmp_path / "best/1").stat().st_ino
        store.save(1, {"w": jnp.zeros(1)}, {"checksum": 5, "n": 1}, wait=True)
        assert (tmp_path / "best/1").stat().st_ino == before
        store.save(1, {"w": jnp.ones(1)}, {"checksum": 6, "n": 2}, wait=True)
    assert read_record(tmp_path)["n"] == 2
    assert float(restore_params(tmp_path, ("w",))[0]) == 1.0


def test_an_empty_folder_holds_nothing(tmp_path):
    with CheckpointStore(tmp_path / "last") as store:
        assert store.restore_newest({}) is None
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        restore_params(tmp_path, which="last")


def test_a_wrong_checksum_is_damage(tmp_path):
    state = {"w": jnp.arange(4.0)}
    with CheckpointStore(tmp_path / "last") as store:
        store.save(1, state, {"checksum": survey(state)[1]})
        store.save(2, state, {"checksum": survey(state)[1] + 1}, wait=True)
        step, _, _ = store.restore_newest(abstract_like(state))
        assert step == 1 and store.steps == [1]
        store.save(2, state, {"checksum": survey(state)[1]}, wait=True)
        assert store.steps == [1, 2]


def test_another_model_is_an_error_and_moves_nothing(tmp_path):
    with CheckpointStore(tmp_path / "last") as store:
        store.save(1, {"w": jnp.ones(3)}, {}, wait=True)
        with pytest.raises(CheckpointError, match="name a new run folder"):
            store.restore_newest(abstract_like({"w": jnp.ones(4), "b": jnp.ones(1)}))
        assert store.steps == [1]


def test_a_part_is_read_without_the_program_that_wrote_it(tmp_path):
    state = make_state()
    with CheckpointStore(tmp_path / "best") as store:
        store.save(5, state, {"step": 5}, wait=True)
    encoder = restore_params(tmp_path, ("params", "encoder"))
    np.testing.assert_array_equal(encoder["kernel"], state.params["encoder"]["kernel"])
    assert list(encoder) == ["kernel"]
    params = restore_params(tmp_path)
    assert params["half"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(params["decoder"][1], [0, 1, 2])
    assert int(restore_params(tmp_path, ("step",))) == 0
    assert read_record(tmp_path) == {"step": 5}
    message = r"no part params\.encode; expected one of \['decoder', 'encoder', 'half'"
    with pytest.raises(CheckpointError, match=message):
        restore_params(tmp_path, ("params", "encode"))


def test_part_is_read_although_the_rest_is_damaged(tmp_path):
    """Only the arrays of the part are read: a cut neighbour does not matter."""
    state = {"big": jnp.asarray(np.random.default_rng(0).normal(size=200_000))}
    with CheckpointStore(tmp_path / "best") as store:
        store.save(1, {**state, "small": jnp.arange(3.0)}, {}, wait=True)
    data = [p for p in (tmp_path / "best/1/state").rglob("*") if p.is_file()]
    largest = max(data, key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    largest.write_bytes(content)
    np.testing.assert_array_equal(restore_params(tmp_path, ("small",)), [0, 1, 2])


def test_frozen_weights_are_saved_once_and_verified(tmp_path):
    tree = {"f": {"kernel": jnp.arange(4.0)}}
    digest = save_frozen(tmp_path, tree)
    write_run(tmp_path, {"frozen": digest}, "")
    folder = tmp_path / "frozen" / digest
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert save_frozen(tmp_path, tree) == digest
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    read = load_frozen(tmp_path)
    np.testing.assert_array_equal(read["f"]["kernel"], tree["f"]["kernel"])
    other = save_frozen(tmp_path, {"f": {"kernel": jnp.arange(4.0) + 1}})
    (tmp_path / "frozen" / other).rename(tmp_path / "swap")
    folder.rename(tmp_path / "frozen" / other)
    (tmp_path / "swap").rename(folder)
    with pytest.raises(CheckpointError, match="damaged"):
        load_frozen(tmp_path)
    write_run(tmp_path, {"frozen": None}, "")
    assert load_frozen(tmp_path) is None


def test_tree_hash_sees_names_types_shapes_and_bits():
    trees = [
        {"a": np.zeros(4, np.float32)},
        {"b": np.zeros(4, np.float32)},
        {"a": np.zeros(4, np.int32)},
        {"a": np.zeros((2, 2), np.float32)},
        {"a": np.array([0, 0, 0, -0.0], np.float32)},
    ]
    assert len({tree_hash(tree) for tree in trees}) == len(trees)
    assert tree_hash(trees[0]) == tree_hash({"a": jnp.zeros(4)})


def test_run_folders_are_told_from_others(tmp_path):
    assert not is_run(tmp_path / "new") and not is_run(tmp_path)
    write_run(tmp_path / "new", {"config": {"a": 1}}, "a: 1\n")
    assert is_run(tmp_path / "new")
    assert read_run(tmp_path / "new") == {"config": {"a": 1}}
    assert (tmp_path / "new/config.yaml").read_text() == "a: 1\n"
    with pytest.raises(CheckpointError, match="is not a run"):
        is_run(tmp_path)
    (tmp_path / "new/run.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a run folder"):
        read_run(tmp_path / "new")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is not a run"):
        is_run(tmp_path / "file")
