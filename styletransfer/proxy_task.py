"""Training of a `Proxy`: random crops through the host at random controls.

The renders are made where the batches are made, by the threads of the data pipeline,
while the device trains on the batch before: batch k is a function of the seed and k.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddspx import plotting
from ddspx.data.dataset import AudioDataset, batches
from ddspx.training.checkpoint import read_run, restore_params
from ddspx.training.configuration import FitConfig, from_dict
from ddspx.training.optimizer import OptimizerConfig, apply_gradients, make_optimizer
from ddspx.training.parallel import compile_step
from ddspx.training.task import Sounds, Task, create_state
from ddspx.types import Rate
from styletransfer.hosts.host import Host
from styletransfer.presets import kept_effect, load_effect
from styletransfer.proxy import Proxy, ProxyConfig, distance, make_proxy


@dataclass(frozen=True)
class ProxyRunConfig:
    """A training run of a stand-in.

    Attributes:
      effect: preset name or path of the effect.
      sample_rate: Hz.
      seconds: length of the crops.
      batch_size: crops a step, each with controls of its own.
      gain_db: the level of each crop is changed by up to this much, up or down.
      proxy: the network.
      optimizer: its optimizer.
      fit: how long, how often.
    """

    effect: str = "channel_strip"
    sample_rate: int = 24000
    seconds: float = 1.5
    batch_size: int = 32
    gain_db: float = 9.0
    proxy: ProxyConfig = field(default_factory=ProxyConfig)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            learning_rate=3e-3, schedule="cosine", decay_steps=1000, warmup_steps=20
        )
    )
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(
            steps=1000, evaluate_every=500, save_every=500, evaluation_batches=2
        )
    )


class _Render(grain.transforms.RandomMap):
    """Adds controls, target and validity to a batch of crops."""

    def __init__(self, host: Host, gain_db: float):
        self.host, self.gain_db = host, gain_db

    def random_map(self, element: dict, rng: np.random.Generator) -> dict:
        count = len(element["audio"])
        gain_db = rng.uniform(-self.gain_db, self.gain_db, (count, 1, 1))
        audio = (element["audio"] * 10.0 ** (gain_db / 20.0)).astype(np.float32)
        controls = rng.random((count, len(self.host.specs)), dtype=np.float32)
        target, status = self.host.render(audio, controls)
        return {
            "audio": audio,
            "file": element["file"],
            "controls": controls,
            "target": target,
            "valid": status == 0,
        }


def rendered_batches(
    dataset: AudioDataset | grain.MapDataset,
    host: Host,
    batch_size: int,
    *,
    gain_db: float = 9.0,
    seed: int = 0,
) -> grain.MapDataset:
    """Batches of crops with random controls and what the host makes of them.

    Args:
      dataset: crops, from `ddspx.data.audio_dataset`.
      host: the opened effect; it stays open as long as batches are drawn.
      batch_size: crops in a batch.
      gain_db: range of the random level, up and down.
      seed: of gains and controls.

    Returns:
      Map from batch number to dict(audio, target [batch, channels, time], controls
      [batch, n], valid [batch] bool, file [batch]); the same number gives the same
      batch.
    """
    crops = batches(dataset, batch_size)
    return crops.seed(seed).random_map(_Render(host, gain_db))


def proxy_task(
    proxy: Proxy,
    optimizer_config: OptimizerConfig,
    mesh: Mesh | None = None,
    *,
    sample_rate: Rate | None = None,
) -> Task:
    """The task of imitating a host on `rendered_batches`.

    Args:
      proxy: what is trained.
      optimizer_config: how.
      mesh: devices that share the batch; None for one.
      sample_rate: Hz; when given, evaluations also show one example as sound and
        picture: dry, as the host treats it, and as the stand-in does.

    Returns:
      A `Task`; `evaluate` gives ``loss``, the multi-resolution STFT distance to the
      host's render, and ``identity``, that of the untreated input.
    """
    optimizer = make_optimizer(optimizer_config)

    def init(key):
        init_key, run_key = jax.random.split(key)
        params = proxy.init(init_key)
        return create_state(params, optimizer.init(params), run_key)

    def mean(values, valid):
        return jnp.sum(jnp.where(valid, values, 0.0)) / jnp.maximum(jnp.sum(valid), 1)

    def step(state, batch):
        def total(params):
            each = jax.vmap(proxy.loss, (None, 0, 0, 0))(
                params, batch["audio"], batch["controls"], batch["target"]
            )
            return mean(each, batch["valid"])

        loss, gradients = jax.value_and_grad(total)(state.params)
        state, norms = apply_gradients(state, gradients, optimizer)
        return state, {"loss": loss, **norms}

    def evaluate(state, batch):
        def one(audio, controls, target):
            guess = proxy.render(state.params, audio, controls)
            return distance(guess, target), distance(audio, target)

        # One at a time: the STFT frames of a whole batch would not fit a cache.
        ours, identity = jax.lax.map(
            lambda row: one(*row), (batch["audio"], batch["controls"], batch["target"])
        )
        return {
            "loss": mean(ours, batch["valid"]),
            "identity": mean(identity, batch["valid"]),
        }

    treat = jax.jit(proxy.render)

    def show(state, batch):
        assert sample_rate is not None
        audio, controls, target = (
            jax.device_get(batch[name][0]) for name in ("audio", "controls", "target")
        )
        guess = np.asarray(treat(state.params, audio, controls))
        sounds = {"dry": audio, "host": target, "stand_in": guess}
        pairs = {name: (sound, sample_rate) for name, sound in sounds.items()}
        return Sounds(
            audio={f"example/{name}": pair for name, pair in pairs.items()},
            images={"example/spectra": plotting.pixels(plotting.compare_sounds(pairs))},
        )

    return Task(
        init,
        compile_step(step, mesh),
        compile_step(evaluate, mesh, donate=False),
        show=None if sample_rate is None else show,
    )


def load_proxy(run_folder: str | Path, which: str = "best") -> tuple[Proxy, Any]:
    """A trained stand-in from its run folder.

    Args:
      run_folder: of a run whose configuration is a `ProxyRunConfig`.
      which: ``"best"`` or ``"last"`` checkpoint.

    Returns:
      (proxy, params); ``proxy.render(params, audio, controls)``.

    Raises:
      CheckpointError: no such run, or nothing saved yet.
      ConfigurationError: a run of another kind.
    """
    config = from_dict(ProxyRunConfig, read_run(run_folder)["config"])
    effect = kept_effect(Path(run_folder)) or load_effect(config.effect)
    effect = effect.at_sample_rate(config.sample_rate)
    proxy = make_proxy(effect, config.sample_rate, config.proxy)
    return proxy, restore_params(run_folder, which=which)
