"""The linear start: a model that begins at the optimum of the linear beta-VAE."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae.information import kl_divergence
from vae.linear import linear_optimum
from vae.models import ModelConfig, make_vae
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
