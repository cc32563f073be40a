"""Shared fixtures: strict JAX modes, real recordings, golden arrays, plug-ins."""

import os
from pathlib import Path
from typing import NoReturn

import jax
import matplotlib
import numpy as np
import pytest
from compiler import avoid_faulty_sums

from styletransfer.hosts import HostEffect
from styletransfer.hosts.interface import PluginMissing
from styletransfer.hosts.scan import describe
from styletransfer.presets import Engine, load_effect

avoid_faulty_sums()
matplotlib.use("Agg")
jax.config.update("jax_numpy_rank_promotion", "raise")


def _folder(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value and Path(value).is_dir() else None


def lacking(reason: str, kind: str = "plugins") -> NoReturn:
    """Skips the test; fails it where that kind of thing has to be there, as in CI.

    DDSPX_NO_SKIPS names the kinds: plugins, data, golden, browser.
    """
    if kind in os.environ.get("DDSPX_NO_SKIPS", "").split():
        pytest.fail(f"DDSPX_NO_SKIPS has {kind}, and this test would skip: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def installed_effect():
    """Loads an effect by name, or the test skips where a plug-in is not installed."""

    def load(name: str, engine: Engine | None = None) -> HostEffect:
        try:
            return load_effect(name, engine)
        except PluginMissing as error:
            lacking(str(error))

    return load


@pytest.fixture(scope="session")
def mda_library() -> Path:
    """The folder of the installed MDA LV2 plug-ins, or the test skips."""
    try:
        describe("lv2", "http://drobilla.net/plugins/mda/Detune")
    except PluginMissing as error:
        lacking(f"{error}; apt-get install mda-lv2 liblilv-0-0")
    folder = Path("/usr/lib/lv2/mda.lv2")
    if not (folder / "Detune.so").is_file():
        lacking(f"{folder} holds no Detune.so")
    return folder


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real recordings (MANIFEST.csv inside), or the test skips."""
    folder = _folder("DDSPX_DATA")
    if folder is None:
        lacking("DDSPX_DATA names no folder of recordings", "data")
    return folder


@pytest.fixture(scope="session")
def golden():
    """Loads golden/<name>.npz as a dict of arrays, or the test skips."""

    def load(name: str) -> dict[str, np.ndarray]:
        folder = _folder("DDSPX_GOLDEN")
        if folder is None or not (folder / f"{name}.npz").is_file():
            lacking(f"DDSPX_GOLDEN names no folder with {name}.npz", "golden")
        with np.load(folder / f"{name}.npz") as arrays:
            return dict(arrays)

    return load


@pytest.fixture
def whole_products():
    """Networks multiply in whole float32, which on a GPU they do only when told."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261120)
