"""A small task through a real black box, on any number of devices and processes."""

import jax
import jax.numpy as jnp
import numpy as np
from training_example import BATCH, OPTIMIZER

from ddspx.training.optimizer import apply_gradients
from ddspx.training.task import Task, create_state
from styletransfer.gradients.estimators import spsa
from styletransfer.gradients.staged import compile_halves, staged_step
from styletransfer.hosts.open import open_host
from styletransfer.presets import load_effect

RATE = 8000.0
EFFECT = "compressor"


def render_targets(batches):
    """Batches [rows, 1, time] whose targets went through hidden settings."""
    with open_host(load_effect(EFFECT), RATE, backend="serial") as host:
        hidden = np.full((BATCH, len(host.specs)), 0.3, np.float32)
        found = []
        for batch in batches:
            audio = batch["audio"][:, None, :]
            target, status = host.render(audio, hidden)
            assert not status.any()
            found.append({"audio": audio, "target": target, "file": batch["file"]})
    return found


def staged_task(mesh=None, backend="thread"):
    """Settings predicted from the sound's level, learned through pedalboard.

    Two compiled halves on any mesh, and the host between them.
    """
    host = open_host(load_effect(EFFECT), RATE, backend=backend, workers=2)
    count = len(host.specs)

    def predict(params, batch):
        level = jnp.log10(jnp.mean(batch["audio"] ** 2, axis=(1, 2)) + 1e-6)
        logits = jax.vmap(lambda x: params["bias"] + x * params["slope"])(level)
        return jax.nn.sigmoid(logits)

    def loss(audio, example):
        return jnp.mean(jnp.abs(audio - example["target"]))

    halves = compile_halves(predict, loss, spsa(0.05, pairs=2), mesh=mesh)
    update = jax.jit(
        lambda state, gradients: apply_gradients(state, gradients, OPTIMIZER)
    )

    def init(key):
        params = {"bias": jnp.full(count, 1.0), "slope": jnp.zeros(count)}
        return create_state(params, OPTIMIZER.init(params), key)

    def step(state, batch):
        gradients, metrics = staged_step(
            halves, host.render, state.params, batch, state.step_key()
        )
        state, norms = update(state, gradients)
        return state, {**metrics, **norms}

    return Task(init=init, step=step, close=host.close)
