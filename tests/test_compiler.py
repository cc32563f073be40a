"""What scripts and tests ask of the compiler, and why."""

import os

import compiler
import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.mark.optimized
def test_sums_of_a_constant_times_a_signal_are_right(rng):
    """Wrong by 6 in jaxlib 0.10.2 for CPU, where its fusion is not switched off."""
    constant = rng.standard_normal((2, 2, 24000)).astype(np.float32)
    signal = rng.random((2, 24000)).astype(np.float32)
    found = jax.jit(lambda s: jnp.sum(jnp.asarray(constant) * s[None], axis=1))(signal)
    np.testing.assert_allclose(found, np.sum(constant * signal[None], 1), atol=1e-5)


def test_flags_are_added_once_and_kept(monkeypatch):
    monkeypatch.setattr(compiler.jaxlib, "__version__", "0.10.2")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
    for _ in range(2):
        compiler.avoid_faulty_sums()
    words = os.environ["XLA_FLAGS"].split()
    assert words[0] == "--xla_force_host_platform_device_count=4" and len(words) == 2
    monkeypatch.setattr(compiler.jaxlib, "__version__", "0.12.0")
    monkeypatch.setenv("XLA_FLAGS", "")
    compiler.avoid_faulty_sums()
    assert os.environ["XLA_FLAGS"] == ""
