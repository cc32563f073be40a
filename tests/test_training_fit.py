"""The training loop on a small real task: match the decay of rendered plucks."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from ddspx.training.checkpoint import read_record, restore_params
from ddspx.training.configuration import FitConfig
from ddspx.training.fit import fit
from ddspx.training.logging import read_scalars
from ddspx.training.optimizer import OptimizerConfig, apply_gradients, make_optimizer
from ddspx.training.task import Sounds, Task, create_state

BATCH, TIME, TAPS = 4, 256, 8
FILES = tuple(f"pluck_{i}.wav" for i in range(32))
OPTIMIZER = make_optimizer(OptimizerConfig(learning_rate=0.02))


def make_batches(count=24, poison=None):
    """Noise and the same noise through a short filter; `poison` ruins one batch."""
    rng = np.random.default_rng(0)
    truth = (0.6 ** np.arange(TAPS)).astype(np.float32)
    batches = []
    for i in range(count):
        audio = rng.normal(size=(BATCH, TIME)).astype(np.float32)
        target = np.stack([np.convolve(a, truth)[:TIME] for a in audio])
        if i == poison:
            audio[2, 7] = np.nan
        files = np.arange(BATCH, dtype=np.int32) + (BATCH * i) % len(FILES)
        batches.append({"audio": audio, "target": target, "file": files})
    return batches


def predict(params, audio):
    def one(x):
        return jnp.convolve(x, params["taps"])[:TIME] + params["bias"]

    return jax.vmap(one)(audio)


def loss_of(params, batch, key):
    # The noise makes the step depend on the key, as augmentation would.
    noise = 1e-3 * jax.random.normal(key, batch["audio"].shape)
    output = predict(params, batch["audio"] + noise)
    return jnp.mean((output - batch["target"]) ** 2), output


def make_step():
    @jax.jit
    def step(state, batch):
        grad = jax.value_and_grad(loss_of, has_aux=True)
        (loss, output), gradients = grad(state.params, batch, state.step_key())
        state, norms = apply_gradients(state, gradients, OPTIMIZER)
        level = 10 * jnp.log10(jnp.mean(output**2) + 1e-12)
        return state, {"loss": loss, "output_rms_db": level, **norms}

    return step


STEP = make_step()
EVALUATE = jax.jit(
    lambda state, batch: {"loss": loss_of(state.params, batch, state.key)[0]}
)


def init(key):
    params = {"taps": 0.1 * jax.random.normal(key, (TAPS,)), "bias": jnp.zeros(())}
    return create_state(params, OPTIMIZER.init(params), key, {"count": jnp.zeros(3)})


def make_task(**changes):
    return Task(**{"init": init, "step": STEP, "evaluate": EVALUATE, **changes})


def config(**changes):
    usual = dict(
        steps=24, log_every=5, evaluate_every=10, save_every=8, silence_steps=10
    )
    return FitConfig(**{**usual, "quiet": True, **changes})


def same(a, b):
    leaves = jax.tree.map(
        lambda x: (
            jax.random.key_data(x)
            if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
            else x
        ),
        (a, b),
    )
    jax.tree.map(np.testing.assert_array_equal, *leaves)


def test_training_learns_and_writes_a_complete_run(tmp_path):
    run = tmp_path / "run"
    held_out = make_batches(3)[1:]
    shown = []

    def show(state, batch):
        shown.append(int(state.step))
        audio = np.asarray(predict(state.params, batch["audio"])[0])
        return Sounds(audio={"show/output": (audio, 16000.0)}, text={"show/x": "**a**"})

    state = fit(
        make_task(show=show), make_batches(), config(steps=60), run,
        evaluation=held_out, file_names=FILES,
    )  # fmt: skip
    assert int(state.step) == 60
    curves = read_scalars(run / "logs")
    assert [s for s, _ in curves["evaluation/loss"]] == [0, 10, 20, 30, 40, 50, 60]
    assert [s for s, _ in curves["train/loss"]] == list(range(5, 61, 5))
    first, last = curves["evaluation/loss"][0][1], curves["evaluation/loss"][-1][1]
    assert last < 0.3 * first
    assert shown == [0, 10, 20, 30, 40, 50, 60]
    taps = restore_params(run, ("params", "taps"), which="last")
    np.testing.assert_array_equal(taps, state.params["taps"])
    record = read_record(run)
    assert record["config"]["steps"] == 60
    assert record["memory"]["best_step"] == record["step"]
    stored = json.loads((run / "run.json").read_text())
    assert stored["config"] == record["config"] and stored["git_revision"]
    assert sorted(p.name for p in (run / "last").glob("*")) == ["56", "60"]
