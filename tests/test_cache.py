"""The cache finds what was made of the same content, and makes anew what is damaged."""

import numpy as np
import pytest

from ddspx.cache import cached, content_key


def test_a_key_is_of_content_and_nothing_else():
    array = np.arange(6, dtype=np.float32)
    key = content_key("a", {"x": array, "y": [1, 2.5, None, True]})
    assert key == content_key("a", {"y": (1, 2.5, None, True), "x": array.copy()})
    others = [
        content_key("a", {"x": array.reshape(2, 3), "y": [1, 2.5, None, True]}),
        content_key("a", {"x": array.astype(np.float64), "y": [1, 2.5, None, True]}),
        content_key("a", {"x": array + 1, "y": [1, 2.5, None, True]}),
        content_key("a", {"x": array, "y": [1, 2.5, None, False]}),
        content_key({"x": array, "y": [1, 2.5, None, True]}, "a"),
    ]
    assert len({key, *others}) == 6
    # Texts that run into each other are not the same texts.
    assert content_key("ab", "c") != content_key("a", "bc")
    assert content_key(b"ab") != content_key("ab")
    assert content_key(["a"], []) != content_key([], ["a"])
    with pytest.raises(TypeError, match="object has no content"):
        content_key(object())


def test_it_is_made_once_and_again_when_damaged(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"a": np.arange(3), "b": np.eye(2, dtype=np.float32)}

    for _ in range(2):
        found = cached(tmp_path / "new", "key", make)
        np.testing.assert_array_equal(found["b"], np.eye(2))
    assert len(calls) == 1 and set(found) == {"a", "b"}
    (path,) = (tmp_path / "new").iterdir()
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no archive"):
        path.write_bytes(damaged)
        np.testing.assert_array_equal(cached(path.parent, "key", make)["a"], [0, 1, 2])
    assert len(calls) == 4
    # An archive that is well-formed and wrong is noticed, too.
    np.savez(path, a=np.arange(4), content_digest=np.array("x"))
    assert len(cached(path.parent, "key", make)["a"]) == 3 and len(calls) == 5
    assert [p.name for p in path.parent.iterdir()] == ["key.npz"]


def test_without_a_folder_it_keeps_nothing():
    calls = []
    for _ in range(2):
        cached(None, "key", lambda: {"a": np.array(calls.append(1) or 2)})
    assert len(calls) == 2
