"""Shared fixtures: strict JAX modes, real recordings, golden arrays."""

import os
from pathlib import Path

import jax
import matplotlib
import numpy as np
import pytest
from compiler import avoid_faulty_sums

avoid_faulty_sums()
matplotlib.use("Agg")
jax.config.update("jax_numpy_rank_promotion", "raise")


def _folder(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value and Path(value).is_dir() else None


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real recordings (MANIFEST.csv inside), or the test skips."""
    folder = _folder("DDSPX_DATA")
    if folder is None:
        pytest.skip("DDSPX_DATA names no folder of recordings")
    return folder


@pytest.fixture(scope="session")
def golden():
    """Loads golden/<name>.npz as a dict of arrays, or the test skips."""

    def load(name: str) -> dict[str, np.ndarray]:
        folder = _folder("DDSPX_GOLDEN")
        if folder is None or not (folder / f"{name}.npz").is_file():
            pytest.skip(f"DDSPX_GOLDEN names no folder with {name}.npz")
        with np.load(folder / f"{name}.npz") as arrays:
            return dict(arrays)

    return load


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261120)
