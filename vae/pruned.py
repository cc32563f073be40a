"""A smaller model made of a trained one: its run folder, and what the pruning cost.

The table has the same held-out examples for every model: the full one, the full one
with the dropped latents clamped at their means, the pruned one, which must agree with
it, and whatever was trained on from there.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ddspx.training import checkpoint
from ddspx.training.configuration import to_dict, to_yaml
from ddspx.training.watchdog import survey
from ddspx.types import AnyArray
from vae.information import kl_divergence
from vae.models import make_vae
from vae.prune import prune
from vae.run import LoadedVae, VaeRunConfig, compiled
from vae.task import vae_task

_AT_ONCE = 16


def pruned_model(
    loaded: LoadedVae,
    keep: Int[AnyArray, " kept"],
    held: Float[AnyArray, " latents"],
) -> LoadedVae:
    """The model with the latents `keep` alone.

    Args:
      loaded: trained model.
      keep: latents that stay, in the order wanted.
      held: value at which each latent is held when dropped: its mean over data.

    Returns:
      A `LoadedVae` of ``len(keep)`` latents.
    """
    config = loaded.config
    config = replace(config, model=replace(config.model, latents=len(keep)))
    params = prune(loaded.params, np.asarray(keep), np.asarray(held, np.float32))
    vae = compiled(make_vae(config.model, config.shape))
    return LoadedVae(vae, params, loaded.model_state, config)


def save_model(
    folder: str | Path,
    loaded: LoadedVae,
    source: str | Path,
    keep: Sequence[int],
    config: VaeRunConfig | None = None,
) -> None:
    """Writes a model as a run that has taken no step: it loads, and it can be trained.

    Args:
      folder: new run folder.
      loaded: from `pruned_model`.
      source: run folder of the model that was pruned.
      keep: its latents that stayed.
      config: of the new run, where it is to be trained otherwise.

    Raises:
      CheckpointError: the folder holds something already.
    """
    if checkpoint.is_run(folder):
        raise checkpoint.CheckpointError(f"{folder} is a run already; name a new one")
    config = loaded.config if config is None else config
    with vae_task(config) as task:
        state = task.init(jax.random.key(config.fit.seed))
    extra = {**state.extra, "model_state": loaded.model_state}
    params = jax.tree.map(jnp.asarray, loaded.params)
    state = state.replace(params=params, extra=extra)
    run = {
        **checkpoint.read_run(source),
        "config": to_dict(config),
        # It may be trained on with other recordings than the full model was.
        "files": None,
        "pruned": {"from": str(source), "keep": [int(i) for i in keep]},
    }
    checkpoint.write_run(folder, run, to_yaml(config))
    record = {**run, "step": 0, "memory": {}, "checksum": survey(state)[1]}
    for name in (checkpoint.LAST, checkpoint.BEST):
        with checkpoint.CheckpointStore(Path(folder) / name) as store:
            store.save(0, state, record, wait=True)


@dataclass(frozen=True)
class Verified:
    """One model on held-out examples.

    Attributes:
      model: what it is.
      latents: in use.
      mse: of posterior means, per element.
      kl: nats an example, of the latents that it has.
      objective: ``squared error / (2 tau) + KL`` of sampled codes, nats an example;
        None without tau.
      parameters: numbers in the weights.
      decode_ms: for one image, batches of 16.
    """

    model: str
    latents: int
    mse: float
    kl: float
    objective: float | None
    parameters: int
    decode_ms: float

    def row(self) -> dict[str, str]:
        """For the table of a report."""
        found = {
            "model": self.model,
            "latents": str(self.latents),
            "held-out MSE": f"{self.mse:.6g}",
            "KL / nats": f"{self.kl:.6g}",
        }
        if self.objective is not None:
            found["objective / nats"] = f"{self.objective:.6g}"
        found["parameters"] = f"{self.parameters}"
        found["decode / ms"] = f"{self.decode_ms:.3g}"
        return found

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Judged(NamedTuple):
    """A model on single examples.

    Attributes:
      squared_error: of posterior means, summed over elements, [examples].
      sampled: the same of sampled codes.
      kl: nats, of the latents that count.
      decode_s: seconds for one image, in batches of 16.
    """

    squared_error: np.ndarray
    sampled: np.ndarray
    kl: np.ndarray
    decode_s: float

    def objective(self, tau: float) -> np.ndarray:
        """``squared error / (2 tau) + KL`` of sampled codes, nats, [examples]."""
        return self.sampled / (2.0 * tau) + self.kl


def judge_examples(
    loaded: LoadedVae,
    images: Float[AnyArray, "examples frames bins"],
    *,
    held: Float[AnyArray, " latents"] | None = None,
    dropped: Int[AnyArray, " some"] | None = None,
    keep: Sequence[int] | None = None,
) -> Judged:
    """Judges a model on images, one by one.

    Args:
      loaded: the model.
      images: held-out.
      held: values at which `dropped` latents are clamped.
      dropped: latents to clamp; their divergence does not count.
      keep: of a pruned model, the latents of the full one that it has: they are given
        the same noise.

    Returns:
      `Judged`; the same images and latents give the same noise.
    """
    gone = np.zeros(loaded.vae.latents, bool)
    if dropped is not None:
        gone[np.asarray(dropped)] = True
    at = np.zeros(gone.size, np.float32) if held is None else np.asarray(held)
    at = jnp.asarray(at, jnp.float32)
    numbers = range(gone.size) if keep is None else keep
    draws = [np.random.default_rng([0, i]).normal(size=len(images)) for i in numbers]
    noise = np.stack(draws, 1).astype(np.float32)
    means, sampled, rates = [], [], []
    seconds = np.inf
    for start in range(0, len(images), _AT_ONCE):
        some = jnp.asarray(images[start : start + _AT_ONCE])
        mean, log_variance = loaded.vae.encode(loaded.params, loaded.model_state, some)
        drawn = noise[start : start + len(some)]
        codes = mean + jnp.exp(0.5 * log_variance) * drawn
        for each, found in ((mean, means), (codes, sampled)):
            each = jnp.where(gone[None], at[None], each)
            began = time.perf_counter()
            made = jax.block_until_ready(
                loaded.vae.decode(loaded.params, loaded.model_state, each)
            )
            seconds = min(seconds, (time.perf_counter() - began) / len(some))
            found.append(np.asarray(jnp.sum(jnp.square(made - some), (1, 2))))
        divergence = np.asarray(kl_divergence(mean, log_variance))
        rates.append(divergence[:, ~gone].sum(1))
    arrays = (np.concatenate(x).astype(np.float64) for x in (means, sampled, rates))
    return Judged(*arrays, decode_s=seconds)


def verify(
    name: str,
    loaded: LoadedVae,
    images: Float[AnyArray, "examples frames bins"],
    tau: float | None,
    *,
    held: Float[AnyArray, " latents"] | None = None,
    dropped: Int[AnyArray, " some"] | None = None,
    keep: Sequence[int] | None = None,
) -> Verified:
    """A row of the table of a pruning.

    Args:
      name: of the model.
      loaded: the model.
      images: held-out.
      tau: water level.
      held: see `judge_examples`.
      dropped: likewise.
      keep: likewise.

    Returns:
      `Verified`.
    """
    found = judge_examples(loaded, images, held=held, dropped=dropped, keep=keep)
    leaves = jax.tree.leaves(loaded.params)
    return Verified(
        model=name,
        latents=loaded.vae.latents - (0 if dropped is None else len(dropped)),
        mse=float(found.squared_error.mean()) / loaded.config.front.elements,
        kl=float(found.kl.mean()),
        objective=None if tau is None else float(found.objective(tau).mean()),
        parameters=sum(int(np.size(leaf)) for leaf in leaves),
        decode_ms=1e3 * found.decode_s,
    )


def disagreement(
    full: LoadedVae,
    small: LoadedVae,
    images: Float[AnyArray, "examples frames bins"],
    keep: Int[AnyArray, " kept"],
    held: Float[AnyArray, " latents"],
) -> float:
    """Largest difference between the pruned and the clamped model's images."""
    some = jnp.asarray(images[:_AT_ONCE])
    mean, _ = full.vae.encode(full.params, full.model_state, some)
    stays = np.zeros(full.vae.latents, bool)
    stays[np.asarray(keep)] = True
    at = jnp.asarray(np.asarray(held), jnp.float32)
    clamped = jnp.where(stays[None], mean, at[None])
    one = full.vae.decode(full.params, full.model_state, clamped)
    mean, _ = small.vae.encode(small.params, small.model_state, some)
    two = small.vae.decode(small.params, small.model_state, mean)
    return float(jnp.max(jnp.abs(one - two)))
