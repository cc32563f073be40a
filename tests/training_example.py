"""A small real task for the tests of training, also run in child processes.

A short filter and a drive are learned from rendered plucked strings and the same
strings through a hidden filter and drive. `make_task` is compiled whole; `staged_task`
renders the drive outside of JAX and estimates its gradient.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ddspx.training.configuration import FitConfig
from ddspx.training.optimizer import OptimizerConfig, apply_gradients, make_optimizer
from ddspx.training.parallel import by_row, compile_step, host_map, on_every_device
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


# ------------------------------------------------- the same with a black box in between


def black_box(audio, drives):
    """What JAX does not see: [rows, time], [rows, renders] -> [rows, renders, time]."""
    return np.tanh(drives[:, :, None] * audio[:, None, :], dtype=np.float32)


def staged_task(mesh=None, renders=black_box, epsilon=0.05):
    """The task with its drive applied on the host, its gradient by two perturbations.

    Two compiled halves with `renders` between them, on any mesh.
    """

    def jit(function, ins, outs):
        if mesh is None:
            return jax.jit(function)
        kinds = {"whole": on_every_device(mesh), "rows": by_row(mesh), None: None}
        return jax.jit(
            function,
            in_shardings=tuple(kinds[i] for i in ins),
            out_shardings=tuple(kinds[o] for o in outs),
        )

    def controls(state, batch):
        def head(params):
            filtered = convolve(params, batch["audio"])
            drive = params["drive"] + 0.1 * jnp.mean(filtered**2, axis=-1)
            return filtered, drive

        (filtered, drive), pull = jax.vjp(head, state.params)
        sign = jax.random.rademacher(state.step_key(), drive.shape, jnp.float32)
        drives = jnp.stack([drive, drive + epsilon * sign, drive - epsilon * sign], 1)
        return filtered, drives, pull

    def update(state, batch, filtered, drives, rendered, pull):
        target = batch["target"]

        def mean_loss(audio):
            return jnp.mean((audio - target) ** 2)

        losses = jnp.mean((rendered - target[:, None]) ** 2, axis=-1)
        loss = jnp.mean(losses[:, 0])
        # The mean over the batch divides each row's own slope.
        slope = (losses[:, 1] - losses[:, 2]) / (drives[:, 1] - drives[:, 2])
        to_drive = slope / losses.shape[0]
        cotangent = jax.grad(mean_loss)(rendered[:, 0])
        # d tanh(d x)/dx = d (1 - y^2): the host's derivative with respect to audio.
        to_audio = cotangent * drives[:, :1] * (1 - rendered[:, 0] ** 2)
        (gradients,) = pull((to_audio, to_drive))
        state, norms = apply_gradients(state, gradients, OPTIMIZER)
        return state, {"loss": loss, **norms}

    first = jit(controls, ("whole", "rows"), ("rows", "rows", None))
    second = jit(
        update, ("whole", "rows", "rows", "rows", "rows", None), ("whole", "whole")
    )

    def step(state, batch):
        filtered, drives, pull = first(state, batch)
        rendered = host_map(renders, filtered, drives)
        return second(state, batch, filtered, drives, rendered, pull)

    return Task(init=init, step=step)
