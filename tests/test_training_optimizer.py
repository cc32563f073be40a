"""Optimizer configurations against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.training.optimizer import (
    OptimizerConfig,
    apply_gradients,
    learning_rate,
    make_optimizer,
)
from ddspx.training.task import create_state

PARAMS = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}


def updated(config, gradients, params=PARAMS):
    optimizer = make_optimizer(config)
    state = create_state(params, optimizer.init(params), jax.random.key(0))
    return apply_gradients(state, gradients, optimizer)


def test_schedules_follow_their_formulas():
    common = {"learning_rate": 0.1, "warmup_steps": 10, "decay_steps": 100}
    cosine = learning_rate(OptimizerConfig(schedule="cosine", **common))
    for step, expected in [(0, 0.0), (5, 0.05), (10, 0.1), (110, 0.001), (999, 0.001)]:
        np.testing.assert_allclose(cosine(step), expected, rtol=1e-5, atol=1e-9)
    middle = 0.1 * (0.99 * 0.5 + 0.01)
    np.testing.assert_allclose(cosine(60), middle, rtol=1e-5)
    falling = learning_rate(OptimizerConfig(schedule="exponential", **common))
    np.testing.assert_allclose(falling(60), 0.1 * 0.01**0.5, rtol=1e-5)
    np.testing.assert_allclose(falling(10**6), 0.001, rtol=1e-5)
    flat = learning_rate(OptimizerConfig(learning_rate=0.1))
    np.testing.assert_allclose([flat(0), flat(10**6)], 0.1, rtol=1e-6)


def test_adam_moves_by_the_learning_rate_and_sgd_by_the_gradient():
    gradients = jax.tree.map(lambda p: jnp.full_like(p, 3.0), PARAMS)
    state, metrics = updated(OptimizerConfig(learning_rate=0.1), gradients)
    np.testing.assert_allclose(state.params["kernel"], 0.9, rtol=1e-5)
    np.testing.assert_allclose(metrics["gradient_norm"], 3 * 6**0.5, rtol=1e-6)
    assert int(state.step) == 1
    plain = OptimizerConfig(name="sgd", learning_rate=0.1, clip_norm=None)
    state, _ = updated(plain, gradients)
    np.testing.assert_allclose(state.params["bias"], 0.7, rtol=1e-6)


def test_clipping_scales_the_whole_gradient():
    gradients = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 4.0)}
    norm = np.sqrt(4 * 9 + 2 * 16)
    config = OptimizerConfig(name="sgd", learning_rate=1.0, clip_norm=0.5)
    state, metrics = updated(config, gradients)
    np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-6)
    np.testing.assert_allclose(state.params["kernel"], 1 - 3 * 0.5 / norm, rtol=1e-6)
    np.testing.assert_allclose(state.params["bias"], 1 - 4 * 0.5 / norm, rtol=1e-6)


def test_weight_decay_spares_biases():
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    config = OptimizerConfig(name="adamw", learning_rate=0.1, weight_decay=0.5)
    state, _ = updated(config, zeros)
    np.testing.assert_allclose(state.params["kernel"], 0.95, rtol=1e-6)
    np.testing.assert_allclose(state.params["bias"], 1.0)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_every_rule_finds_the_minimum(name):
    optimizer = make_optimizer(OptimizerConfig(name=name, learning_rate=0.05))
    target = jnp.array([0.3, -0.7])
    state = create_state(
        jnp.zeros(2), optimizer.init(jnp.zeros(2)), jax.random.key(0), {"seen": 0}
    )

    @jax.jit
    def step(state):
        gradients = state.params - target
        return apply_gradients(
            state, gradients, optimizer, extra={"seen": state.extra["seen"] + 2}
        )[0]

    for _ in range(300):
        state = step(state)
    np.testing.assert_allclose(state.params, target, atol=1e-3)
    assert int(state.step) == 300 and int(state.extra["seen"]) == 600
