"""The network of NoiseBandNet against the original, and what its parts promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.models.noisebandnet import (
    NetworkConfig,
    count_parameters,
    from_torch,
    hidden_for,
    make_network,
)
from ddspx.synths.scaling import exp_sigmoid

SIZES = {"band_amplitudes": 6, "amplitude": 1}
RECURRENCES = ["gru", "parallel"]


def test_outputs_are_those_of_the_original(golden):
    arrays = golden("noisebandnet")
    weights = {
        name.removeprefix("sd__"): array
        for name, array in arrays.items()
        if name.startswith("sd__")
    }
    network = make_network(NetworkConfig(hidden=8), 2, {"band_amplitudes": 32})
    controls = np.concatenate([arrays["control0"], arrays["control1"]], -1)
    outputs, _ = network.apply(from_torch(weights), controls)
    amplitudes = exp_sigmoid(outputs["band_amplitudes"], threshold=1e-18)
    wanted = np.moveaxis(arrays["amplitudes"], 1, 2)
    np.testing.assert_allclose(amplitudes, wanted, rtol=2e-5, atol=1e-6)


def test_default_size_is_the_published_one():
    sizes = {"band_amplitudes": 2048}
    # The original keeps two biases of 128 where r and z add up: the same here.
    assert count_parameters(NetworkConfig(), 1, sizes) == 414_208
    assert count_parameters(NetworkConfig(), 2, sizes) == 464_000


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_blocks_are_the_whole(recurrence):
    network = make_network(NetworkConfig(8, 1, recurrence), 2, SIZES)
    params = jax.jit(network.init)(jax.random.key(0))
    curves = jax.random.normal(jax.random.key(1), (3, 24, 2))
    apply = jax.jit(network.apply)
    whole, last = apply(params, curves)
    state, found = jnp.zeros((3, 8)), []
    for start in range(0, 24, 8):
        part, state = apply(params, curves[:, start : start + 8], state)
        found.append(part)
    for name, size in SIZES.items():
        joined = jnp.concatenate([part[name] for part in found], 1)
        assert joined.shape == (3, 24, size)
        np.testing.assert_allclose(joined, whole[name], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state, last, rtol=1e-4, atol=1e-5)
    # The past counts.
    fresh, _ = apply(params, curves[:, 16:], jnp.zeros((3, 8)))
    assert not np.allclose(fresh["amplitude"], whole["amplitude"][:, 16:], atol=1e-3)


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_nothing_looks_ahead(recurrence):
    network = make_network(NetworkConfig(8, 1, recurrence), 1, SIZES)
    params = jax.jit(network.init)(jax.random.key(0))
    curve = jnp.zeros((16, 1))
    apply = jax.jit(network.apply)
    before, _ = apply(params, curve)
    after, _ = apply(params, curve.at[9].set(1.0))
    moved = jnp.abs(after["amplitude"] - before["amplitude"])[:, 0] > 1e-6
    assert not moved[:9].any()
    assert moved[9:].all()


def test_the_parallel_recurrence_is_its_loop():
    network = make_network(NetworkConfig(4, 1, "parallel"), 1, SIZES)
    params = jax.jit(network.init)(jax.random.key(0))
    curves = jax.random.normal(jax.random.key(1), (4, 1))
    apply = jax.jit(network.apply)
    whole, _ = apply(params, curves)
    state, rows = jnp.zeros(4), []
    for m in range(4):
        out, state = apply(params, curves[m : m + 1], state)
        rows.append(out["band_amplitudes"])
    np.testing.assert_allclose(
        jnp.concatenate(rows), whole["band_amplitudes"], atol=1e-5
    )


def test_equal_parameters_by_the_number_of_units():
    recurrence = "gru"
    reference = count_parameters(NetworkConfig(), 2, {"band_amplitudes": 512})
    config = NetworkConfig(recurrence=recurrence)
    for bins in (65, 1025):
        sizes = {"noise_magnitudes": bins}
        units = hidden_for(reference, config, 2, sizes)
        count = count_parameters(NetworkConfig(units, 3, recurrence), 2, sizes)
        other = count_parameters(NetworkConfig(units + 1, 3, recurrence), 2, sizes)
        assert abs(count - reference) <= abs(other - reference)
        assert abs(count / reference - 1) < 0.015


def test_wrong_controls_are_named():
    network = make_network(NetworkConfig(4, 1), 2, SIZES)
    params = jax.jit(network.init)(jax.random.key(0))
    with pytest.raises(ValueError, match="reads 2 controls"):
        network.apply(params, jnp.zeros((5, 3)))
    with pytest.raises(ValueError, match="one control and one output"):
        make_network(NetworkConfig(), 0, SIZES)
