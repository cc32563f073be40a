"""A small real task for the tests of training, also run in child processes.

A short filter and a drive are learned from rendered plucked strings and the same
strings through a hidden filter and drive.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ddspx.training.configuration import FitConfig
from ddspx.training.optimizer import OptimizerConfig, apply_gradients, make_optimizer
from ddspx.training.parallel import compile_step
from ddspx.training.task import Task, create_state

BATCH, TIME, TAPS = 4, 256, 8
FILES = tuple(f"strings/pluck_{i}.wav" for i in range(32))
OPTIMIZER = make_optimizer(OptimizerConfig(learning_rate=0.02, warmup_steps=4))


def pluck(rng):
    """A string: decaying harmonics of a random pitch, float32 [time]."""
    time = np.arange(TIME) / 8000.0
    pitch = rng.uniform(100, 400)
    tone = sum(
        rng.normal() * np.sin(2 * np.pi * pitch * k * time) * np.exp(-20 * k * time)
        for k in range(1, 8)
    )
    return (tone + 0.01 * rng.normal(size=TIME)).astype(np.float32)


def make_batches(count=24, poison=None):
    """Batches of strings and filtered strings; batch `poison` holds a NaN."""
    rng = np.random.default_rng(0)
    truth = 0.6 ** np.arange(TAPS)
    batches = []
    for i in range(count):
        audio = np.stack([pluck(rng) for _ in range(BATCH)])
        target = np.stack([np.tanh(np.convolve(a, truth)[:TIME]) for a in audio])
        if i == poison:
            audio[2, 7] = np.nan
        files = (np.arange(BATCH) + BATCH * i) % len(FILES)
        batches.append(
            {
                "audio": audio,
                "target": target.astype(np.float32),
                "file": files.astype(np.int32),
            }
        )
    return batches


def rows(batches, index, count):
    """The rows of each batch that belong to one of several processes."""
    size = BATCH // count
    part = slice(index * size, (index + 1) * size)
    return [{k: v[part] for k, v in batch.items()} for batch in batches]


def convolve(params, audio):
    return jax.vmap(lambda x: jnp.convolve(x, params["taps"])[:TIME])(audio)


def predict(params, audio):
    return jnp.tanh(params["drive"] * convolve(params, audio))


def loss_of(params, batch, key):
    # The noise makes the step depend on its key, as augmentation would.
    noise = 1e-3 * jax.random.normal(key, batch["audio"].shape)
    output = predict(params, batch["audio"] + noise)
    return jnp.mean((output - batch["target"]) ** 2), output


def train_step(state, batch):
    grad = jax.value_and_grad(loss_of, has_aux=True)
    (loss, output), gradients = grad(state.params, batch, state.step_key())
    extra = {"mean_loss": 0.9 * state.extra["mean_loss"] + 0.1 * loss}
    state, norms = apply_gradients(state, gradients, OPTIMIZER, extra=extra)
    level = 10 * jnp.log10(jnp.mean(output**2) + 1e-12)
    return state, {"loss": loss, "output_rms_db": level, **norms}


def judge(state, batch):
    return {"loss": loss_of(state.params, batch, state.key)[0]}


def init(key):
    params = {"taps": 0.1 * jax.random.normal(key, (TAPS,)), "drive": jnp.ones(())}
    extra = {"mean_loss": jnp.zeros(())}
    return create_state(params, OPTIMIZER.init(params), key, extra)


STEP, JUDGE = compile_step(train_step), compile_step(judge, donate=False)


def make_task(**changes):
    return Task(**{"init": init, "step": STEP, "evaluate": JUDGE, **changes})


def config(**changes):
    usual = {"steps": 24, "log_every": 5, "evaluate_every": 10, "save_every": 8}
    return FitConfig(**{**usual, "quiet": True, **changes})
