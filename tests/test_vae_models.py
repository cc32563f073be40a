"""Models: shapes, independence of the batch, pruning, rotation, the linear optimum."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae.information import kl_divergence
from vae.jacobian import subspace_axes
from vae.linear import linear_optimum
from vae.models import ModelConfig, TransposedConvolution, level_sizes, make_vae
from vae.prune import prune, rotate

SHAPE = (13, 22)
SMALL = ModelConfig(
    latents=5, channels=(4, 6), strides=((2, 2), (2, 3)), groups=2, hidden=(8,)
)
ARCHITECTURES = ("residual", "plain", "mlp", "linear")


def compiled(config, shape=SHAPE):
    model = make_vae(config, shape)
    names = ("init", "forward", "encode", "decode")
    return model._replace(**{name: jax.jit(getattr(model, name)) for name in names})


@functools.cache
def trained_a_bit(architecture):
    """Weights off their initial zeros, statistics off their initial ones."""
    model = compiled(dataclasses.replace(SMALL, architecture=architecture))
    params, state = model.init(jax.random.key(0))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [
        leaf + 0.1 * jax.random.normal(k, leaf.shape)
        for leaf, k in zip(leaves, keys, strict=True)
    ]
    params = jax.tree.unflatten(tree, leaves)
    images = jax.random.normal(jax.random.key(2), (3, *SHAPE))
    _, state = model.forward(params, state, images, jax.random.key(3))
    return model, params, state, images


@pytest.mark.usefixtures("whole_products")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_shapes_and_independence_of_the_batch(architecture):
    model, params, state, images = trained_a_bit(architecture)
    assert bool(state) == (architecture == "plain")
    found, _ = model.forward(params, state, images, jax.random.key(3))
    assert found.images.shape == images.shape and found.codes.shape == (3, 5)
    mean, log_variance = model.encode(params, state, images)
    alone = model.encode(params, state, images[1])
    np.testing.assert_allclose(alone[0], mean[1], atol=2e-5)
    np.testing.assert_allclose(alone[1], log_variance[1], atol=2e-5)
    decoded = model.decode(params, state, mean)
    np.testing.assert_allclose(
        model.decode(params, state, mean[2]), decoded[2], atol=2e-5
    )
    if architecture != "plain":
        np.testing.assert_allclose(found.mean, mean, atol=2e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_pruned_equals_clamped(architecture):
    model, params, state, images = trained_a_bit(architecture)
    keep, held = np.array([3, 0]), np.linspace(-1, 1, 5).astype(np.float32)
    smaller = prune(params, keep, held)
    config = dataclasses.replace(SMALL, architecture=architecture, latents=2)
    pruned = compiled(config)
    mean, log_variance = model.encode(params, state, images)
    clamped = np.tile(held, (3, 1))
    clamped[:, keep] = np.asarray(mean)[:, keep]
    ours = pruned.encode(smaller, state, images)
    np.testing.assert_allclose(ours[0], mean[:, keep], atol=1e-5)
    np.testing.assert_allclose(
        pruned.decode(smaller, state, ours[0]),
        model.decode(params, state, clamped),
        atol=1e-5,
    )
    whole, part = kl_divergence(mean, log_variance), kl_divergence(*ours)
    np.testing.assert_allclose(part, whole[:, keep], atol=1e-5)
    same = prune(params, np.arange(5), held)
    jax.tree.map(np.testing.assert_array_equal, same, params)
    twice = prune(prune(params, np.array([0, 2, 3]), held), np.array([2, 0]), held[:3])
    held_first = held.copy()
    held_first[2] = held[1]  # the second cut holds the place in the smaller model
    once = prune(params, keep, held_first)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), twice, once)


def test_rotation_leaves_the_mean_path_alone():
    model, params, state, images = trained_a_bit("residual")
    mean, _ = model.encode(params, state, images)
    turn = subspace_axes(lambda z: model.decode(params, state, z), mean)
    turned = rotate(params, turn)
    ours, _ = model.encode(turned, state, images)
    np.testing.assert_allclose(ours, mean @ jnp.asarray(turn, jnp.float32), atol=1e-4)
    np.testing.assert_allclose(
        model.decode(turned, state, ours), model.decode(params, state, mean), atol=1e-4
    )
    with pytest.raises(ValueError, match="orthogonal"):
        rotate(params, 2 * turn)


def test_bad_pruning():
    _, params, _, _ = trained_a_bit("linear")
    for keep in ([], [0, 0], [5], [-1]):
        with pytest.raises(ValueError, match="keep"):
            prune(params, np.array(keep, int))


def test_faithful_sizes():
    """129 x 2049 to 9 x 129 in four strides of two, as the original project had it."""
    sizes = level_sizes((129, 2049), ((2, 2),) * 4)
    assert sizes[-1] == (9, 129)
    tutorial = level_sizes((256, 64), ((2, 2), (2, 2), (2, 2), (2, 2), (2, 1)))
    assert tutorial[-1] == (8, 4)


@pytest.mark.parametrize("size", [8, 9])
def test_plain_levels_go_up_as_they_came_down(size):
    """Pixels that a cell reads are those that it writes, for odd and even sizes."""
    cells = (-(-size // 2)) ** 2
    config = ModelConfig("plain", cells, channels=(1,), strides=((2, 2),))
    model = make_vae(config, (size, size))
    params, state = jax.jit(model.init)(jax.random.key(0))
    params = jax.tree.map(jnp.ones_like, params)
    params["encoder"]["mean"]["kernel"] = jnp.eye(cells)
    params["decoder"]["from_latent"]["kernel"] = jnp.eye(cells)

    def read(image):
        return model.encode(params, state, image.reshape(size, size))[0]

    def write(codes):
        return model.decode(params, state, codes).ravel()

    reads = jax.jit(jax.jacobian(read))(jnp.ones(size * size))
    writes = jax.jit(jax.jacobian(write))(jnp.ones(cells))
    np.testing.assert_array_equal(np.asarray(reads) > 0, np.asarray(writes).T > 0)
    assert np.max(np.sum(np.asarray(reads) > 0, 1)) == 9


@pytest.mark.parametrize("strides", [(2, 2), (1, 2), (2, 1), (1, 1)])
def test_upsampling_is_flax_with_a_quicker_gradient(strides):
    """Values, gradients and, outside training, forward derivatives."""
    images = jax.random.normal(jax.random.key(0), (2, 5, 7, 3))
    ours = TransposedConvolution(4, strides)
    params = ours.init(jax.random.key(1), images, True)
    theirs = nn.ConvTranspose(4, (3, 3), strides)
    weights = jax.random.normal(jax.random.key(2), theirs.apply(params, images).shape)

    def loss(apply):
        return lambda p, x: jnp.sum(weights * jnp.sin(apply(p, x)))

    both = [
        jax.jit(jax.value_and_grad(loss(apply), argnums=(0, 1)))(params, images)
        for apply in (lambda p, x: ours.apply(p, x, True), theirs.apply)
    ]
    for one, two in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)
    moved = jax.jvp(lambda x: ours.apply(params, x, False), (images,), (images,))[1]
    expected = jax.jvp(lambda x: theirs.apply(params, x), (images,), (images,))[1]
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_linear_model_trains_to_its_closed_form():
    """Full batch, from a random start; within 2 % of `vae.linear`."""
    rng = np.random.default_rng(0)
    wanted = np.array([9.0, 4.0, 2.0, 0.6, 0.3, 0.2])
    raw = rng.normal(size=(512, 6))
    raw -= raw.mean(0)
    raw = raw @ np.linalg.inv(np.linalg.cholesky(raw.T @ raw / 512)).T
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    data = jnp.asarray((raw * np.sqrt(wanted)) @ turn, jnp.float32).reshape(512, 2, 3)
    optimum = linear_optimum(wanted, tau=1.0, latents=5)
    model = compiled(ModelConfig(architecture="linear", latents=5), (2, 3))
    params, state = model.init(jax.random.key(0))
    steps = 3000
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02, steps))

    def objective(params):
        """Exact in expectation: a linear decoder adds tr(W' W diag s^2)."""
        mean, log_variance = model.encode(params, state, data)
        error = jnp.sum((model.decode(params, state, mean) - data) ** 2, (1, 2))
        kernel = params["decoder"]["from_latent"]["kernel"]
        noise = jnp.exp(log_variance) @ jnp.sum(kernel**2, 1)
        return jnp.mean(
            0.5 * (error + noise) + jnp.sum(kl_divergence(mean, log_variance), -1)
        )

    @jax.jit
    def train(params):
        def step(carry, _):
            params, opt_state = carry
            slope = jax.grad(objective)(params)
            updates, opt_state = optimizer.update(slope, opt_state)
            return (optax.apply_updates(params, updates), opt_state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), None, steps)[0][0]

    params = train(params)
    mean, log_variance = model.encode(params, state, data)
    found = np.sort(np.mean(kl_divergence(mean, log_variance), 0))[::-1]
    assert int(np.sum(found > 0.01)) == optimum.active == 3
    np.testing.assert_allclose(found[:3], optimum.kl[:3], rtol=0.02)
    kernel = np.asarray(params["decoder"]["from_latent"]["kernel"])
    effect = np.sort(np.sum(kernel**2, 1))[::-1]
    np.testing.assert_allclose(effect[:3], optimum.total_effect[:3], rtol=0.02)
    assert np.all(effect[3:] < 1e-2)
    error = np.mean(np.sum((model.decode(params, state, mean) - data) ** 2, (1, 2)))
    np.testing.assert_allclose(error, optimum.reconstruction(sampled=False), rtol=0.02)
