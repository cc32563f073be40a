"""The linear start: a model that begins at the optimum of the linear beta-VAE."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae.information import kl_divergence
from vae.linear import linear_optimum
from vae.models import ModelConfig, make_vae, pool, unpool
from vae.start import start_linear

SHAPE = (6, 7)
CONFIG = ModelConfig(
    latents=4, channels=(3, 4), strides=((2, 2), (2, 2)), groups=1, linear_path=True
)


@pytest.mark.parametrize("count", [20, 200])
def test_the_start_is_the_linear_optimum(count):
    """More and fewer examples than elements: error and divergence of `vae.linear`."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(count, 42)) * np.geomspace(3, 0.1, 42) + 5.0
    images = jnp.asarray(data.reshape(count, *SHAPE), jnp.float32)
    centred = data - data.mean(0)
    values = np.linalg.svd(centred, compute_uv=False) ** 2 / count
    tau = 0.5 * (values[3] + values[2])
    model = make_vae(CONFIG, SHAPE)
    params, state = jax.jit(model.init)(jax.random.key(0))
    params = start_linear(params, images, tau)
    mean, log_variance = jax.jit(model.encode)(params, state, images)
    made = jax.jit(model.decode)(params, state, mean)
    optimum = linear_optimum(values, tau, 4)
    assert optimum.active == 3
    error = float(jnp.mean(jnp.sum(jnp.square(made - images), (1, 2))))
    # The fourth, below the water level, is kept a little awake.
    assert error == pytest.approx(optimum.reconstruction(sampled=False), rel=0.02)
    found = np.mean(kl_divergence(mean, log_variance), 0)
    np.testing.assert_allclose(found[:3], optimum.kl[:3], rtol=1e-3)
    assert 0 < found[3] < 0.05


def test_blocks_are_coordinates_of_images_that_are_flat_in_them():
    """Also where the last blocks have fewer pixels: 5 = 2 + 2 + 1, 7 = 3 + 3 + 1."""
    blocks = jax.random.normal(jax.random.key(0), (2, 3, 3))
    made = unpool(blocks, (2, 3), (5, 7))
    assert made.shape == (2, 5, 7)
    np.testing.assert_allclose(pool(made, (2, 3)), blocks, rtol=1e-6)
    np.testing.assert_allclose(jnp.sum(made**2), jnp.sum(blocks**2), rtol=1e-6)
    assert np.ptp(np.asarray(made)[:, 2:4, 3:6], (1, 2)).max() == 0.0
    images = jax.random.normal(jax.random.key(1), (2, 5, 7))
    means = unpool(pool(images, (2, 3)), (2, 3), (5, 7))
    np.testing.assert_allclose(means[:, 4, 6], images[:, 4, 6], rtol=1e-6)
    np.testing.assert_allclose(
        means[:, 0, 0], jnp.mean(images[:, :2, :3], (1, 2)), rtol=1e-5
    )
    assert pool(images, (1, 1)) is images
    with pytest.raises(ValueError, match="linear_pool"):
        ModelConfig(linear_pool=(0, 1))
    with pytest.raises(ValueError, match="linear_gain"):
        ModelConfig(linear_gain=0.0)


def test_the_start_in_blocks_is_the_linear_optimum_of_blocks():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(60, *SHAPE)).astype(np.float32)
    images[:, :3] += 3.0 * rng.normal(size=(60, 1, 1)) + 1.0
    config = dataclasses.replace(CONFIG, linear_pool=(3, 2), linear_gain=0.25)
    seen = np.asarray(pool(jnp.asarray(images), config.linear_pool))
    flat = seen.reshape(60, -1).astype(np.float64)
    values = np.linalg.svd(flat - flat.mean(0), compute_uv=False) ** 2 / 60
    tau = 0.5 * (values[3] + values[2])
    model = make_vae(config, SHAPE)
    params, state = jax.jit(model.init)(jax.random.key(0))
    params = start_linear(params, seen, tau, gain=config.linear_gain)
    made = jax.jit(model.decode)(params, state, model.encode(params, state, images)[0])
    error = float(jnp.mean(jnp.sum(jnp.square(made - images), (1, 2))))
    within = float(np.mean(np.sum(images**2, (1, 2)) - np.sum(seen**2, (1, 2))))
    optimum = linear_optimum(values, tau, 4).reconstruction(sampled=False)
    assert error == pytest.approx(within + optimum, rel=0.02)


def test_it_learns_from_there():
    """No weight of the convolutions is cut off from the gradient after one step."""
    images = jax.random.normal(jax.random.key(1), (8, *SHAPE))
    model = make_vae(CONFIG, SHAPE)
    params, state = jax.jit(model.init)(jax.random.key(0))
    params = start_linear(params, images, 0.1)

    @jax.jit
    def slope(params):
        def loss(params):
            found, _ = model.forward(params, state, images, jax.random.key(2))
            return jnp.mean(jnp.square(found.images - images))

        return jax.grad(loss)(params)

    stepped = jax.tree.map(lambda p, g: p - 0.1 * g, params, slope(params))
    dead = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(slope(stepped))
        if not np.any(leaf)
    ]
    # Blocks start as the identity: their first halves wait for a second step.
    assert all("Conv_" in name or "GroupNorm" in name for name in dead), dead


def test_bad_starts():
    model = make_vae(ModelConfig("linear", 2), SHAPE)
    params, _ = jax.jit(model.init)(jax.random.key(0))
    wider = np.zeros((3, 6, 8), np.float32)
    with pytest.raises(ValueError, match="linear_path"):
        start_linear(params, wider, 1.0)
    with pytest.raises(ValueError, match="tau"):
        start_linear(params, wider[:, :, :7], 0.0)
