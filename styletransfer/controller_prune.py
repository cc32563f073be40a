"""A controller with fewer latents: an exact slice of g and h, and what it costs.

    settle_small(z_keep) = settle(z_keep, z_drop = c)

with c the value at which a dropped latent is held, its mean over pairs. The bias of the
first layer of h takes over what c contributed. g loses the outputs of the dropped
latents; the others say what they said. g and h are then a pair of their own: other
effects keep the g that they were trained on.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ddspx.types import AnyArray
from styletransfer.bundle import (
    DECODER,
    SHARED,
    EffectController,
    make_effect_controller,
    make_shared,
    save_decoder,
    save_shared,
)
from styletransfer.controller import LoadedController
from styletransfer.controller_analysis import PairSet, posterior, settler
from styletransfer.controller_task import centred
from styletransfer.evaluation import Interval, bootstrap, truth_loss
from styletransfer.hosts import Host, Status

# Renders that are judged at once.
_AT_ONCE = 16


def prune(
    params: Any, keep: Int[AnyArray, " kept"], held: Float[AnyArray, " latents"]
) -> Any:
    """Weights of a controller with the latents `keep` alone.

    Args:
      params: ``{"encoder": ..., "latents": g, "decoder": h}`` of a
        `styletransfer.latent_models.make_latent_controller` with K latents.
      keep: latents that stay, in the order wanted; none twice.
      held: value of each latent when it is dropped.

    Returns:
      Weights of the same controller with ``len(keep)`` latents.

    Raises:
      ValueError: an index out of range or twice, or nothing kept.
    """
    keep, held = np.asarray(keep), np.asarray(held, np.float32)
    g, h = dict(params["latents"]), dict(params["decoder"])
    last = max((name for name in g if name.startswith("Dense_")), key=_number)
    latents = g[last]["bias"].shape[0] // 2
    if keep.size == 0 or len(set(keep.tolist())) != keep.size:
        raise ValueError(
            f"keep {keep.tolist()} must name one latent or more, each once"
        )
    if keep.min() < 0 or keep.max() >= latents:
        raise ValueError(f"keep {keep.tolist()} must lie in 0 ... {latents - 1}")
    dropped = np.setdiff1d(np.arange(latents), keep)
    # Means and log-variances lie side by side.
    columns = np.concatenate([keep, latents + keep])
    g[last] = {
        "kernel": np.asarray(g[last]["kernel"])[:, columns],
        "bias": np.asarray(g[last]["bias"])[columns],
    }
    first = jax.tree.map(np.asarray, h["Dense_0"])
    h["Dense_0"] = {
        "kernel": first["kernel"][keep],
        "bias": first["bias"] + held[dropped] @ first["kernel"][dropped],
    }
    return {**params, "latents": g, "decoder": h}


def pruned(
    full: EffectController,
    keep: Int[AnyArray, " kept"],
    held: Float[AnyArray, " latents"],
) -> EffectController:
    """The controller of an effect with the latents `keep` alone; see `prune`."""
    params = prune(full.params, keep, held)
    sizes = replace(full.shared.latents, latents=len(np.asarray(keep)))
    shared = make_shared(full.shared.encoder, sizes, params)
    note = {
        **full.note,
        "pruned": {
            "of": full.shared.latents.latents,
            "keep": [int(i) for i in np.asarray(keep)],
        },
    }
    return make_effect_controller(
        shared, full.effect, full.decoder, params["decoder"], note
    )


def save_pruned(folder: Path, small: EffectController) -> None:
    """Writes a controller as a folder of its own, with the g that it alone has.

    Raises:
      AudioFileError: the folder holds one already, or cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_shared(folder / SHARED, small.shared)
    save_decoder(folder / DECODER, small)


@dataclass(frozen=True)
class Verified:
    """One controller on held-out pairs.

    Attributes:
      model: what it is.
      latents: in use.
      loss: multi-resolution STFT loss of the render at its controls to the target.
      growth: of that loss over the full controller's, on the same pairs.
      control_error: mean absolute error of labelled controls, in shares of the range;
        None where none are said.
      parameters: numbers in the weights of g and h.
    """

    model: str
    latents: int
    loss: Interval
    growth: Interval
    control_error: float | None
    parameters: int

    def row(self) -> dict[str, str]:
        """For the table of a report."""
        return {
            "controller": self.model,
            "latents": str(self.latents),
            "loss to the target": _interval(self.loss),
            "more than full": _interval(self.growth),
            "control error": _number_or_none(self.control_error),
            "parameters of g and h": str(self.parameters),
        }

    def record(self) -> dict[str, Any]:
        """For JSON."""
        named = {"loss": self.loss._asdict(), "growth": self.growth._asdict()}
        return {**asdict(self), **named}


def render_losses(
    host: Host,
    pairs: PairSet,
    controls: Float[np.ndarray, "pairs n"] | None,
) -> Float[np.ndarray, " pairs"]:
    """Loss to the target of each pair at some controls; untouched when None.

    Raises:
      ValueError: the effect failed.
    """
    found = []
    for start in range(0, len(pairs.audio), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        made = pairs.audio[rows]
        if controls is not None:
            rendered = host.render(made, np.asarray(controls[rows], np.float32))
            if (rendered.status != Status.OK).any():
                raise ValueError(f"{host.effect.name}: a render failed; probe it")
            made = rendered.audio
        found.append(np.asarray(truth_loss(made, pairs.target[rows])))
    return np.concatenate(found).astype(np.float64)


def verify(
    full: LoadedController,
    small: LoadedController,
    pairs: PairSet,
    host: Host,
    keep: Sequence[int],
    held: Float[AnyArray, " latents"],
) -> tuple[list[Verified], float]:
    """The table of a pruning, all on the same pairs.

    Args:
      full: the controller that was pruned.
      small: what came of it, `pruned`.
      pairs: that neither the controller nor the choice of latents has seen.
      host: the effect, at the controller's sample rate.
      keep: latents that stayed.
      held: values of those that did not.

    Returns:
      Rows: doing nothing, the full controller, the full one with the dropped latents
      held, the pruned one, which must agree with it; and by how much the controls of
      the last two disagree at most.
    """
    mean, _ = posterior(full, pairs)
    stays = np.isin(np.arange(mean.shape[1]), keep)
    clamped = np.where(stays, mean, np.asarray(held, np.float32)).astype(np.float32)
    settle = settler(full)
    said = {
        "full": np.asarray(settle(mean).controls),
        "held": np.asarray(settle(clamped).controls),
        "pruned": np.asarray(settler(small)(posterior(small, pairs)[0]).controls),
    }
    loss = {name: render_losses(host, pairs, said[name]) for name in said}
    loss["do nothing"] = render_losses(host, pairs, None)
    labels = np.asarray(centred(host.specs, pairs.controls))
    error = {
        name: float(np.abs(controls - labels)[pairs.labelled].mean())
        for name, controls in said.items()
    }
    sizes = {
        "do nothing": (0, 0),
        "full": (mean.shape[1], _size(full)),
        "held": (len(keep), _size(full)),
        "pruned": (len(keep), _size(small)),
    }
    rows = [
        Verified(
            model=name,
            latents=latents,
            loss=bootstrap(loss[name], pairs.groups),
            growth=bootstrap(loss[name] - loss["full"], pairs.groups),
            control_error=error.get(name),
            parameters=size,
        )
        for name, (latents, size) in sizes.items()
    ]
    return rows, float(np.abs(said["pruned"] - said["held"]).max())


def _size(loaded: LoadedController) -> int:
    parts = [loaded.params[name] for name in ("latents", "decoder")]
    return sum(int(jnp.size(leaf)) for leaf in jax.tree.leaves(parts))


def _number_or_none(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _number(name: str) -> int:
    return int(name.removeprefix("Dense_"))


def _interval(found: Interval) -> str:
    return f"{found.mean:.4g} ({found.low:.4g} to {found.high:.4g})"
