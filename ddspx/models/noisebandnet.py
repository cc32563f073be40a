"""The network of NoiseBandNet: from control curves to what a synth is driven by.

    h_i = LeakyReLU(LayerNorm(W_i c_i))     one branch for each control c_i
    r   = recurrence([h_1 ... h_n])
    y   = MLP([r, c_1 ... c_n])             of Linear, LayerNorm, LeakyReLU
    out = W y                               one part for each output of the synth

Controls enter as they are: who calls has normalised them. Outputs are unbounded; the
synth's ``to_controls`` makes amplitudes of them. Nothing knows which synth that is, so
that noise bands, filtered noise and harmonics are compared behind the same network.

Reference: A. Barahona-Rios and T. Collins, NoiseBandNet (IEEE/ACM TASLP, 2024).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Float

from ddspx.models.recurrence import GruLayer, ParallelRecurrence
from ddspx.types import AnyArray, RandomKey

# PyTorch's, which the original network was trained with.
_EPSILON, _SLOPE = 1e-5, 0.01


@dataclass(frozen=True)
class NetworkConfig:
    """What the network is made of.

    Attributes:
      hidden: units of every layer.
      layers: of the MLP behind the recurrence.
      recurrence: ``"gru"``, as published, one frame after the other; ``"parallel"``,
        linear in its state, all frames of a sound at once.
    """

    hidden: int = 128
    layers: int = 3
    recurrence: Literal["gru", "parallel"] = "gru"

    def __post_init__(self):
        if self.hidden < 1 or self.layers < 1:
            raise ValueError(
                f"hidden {self.hidden} and layers {self.layers} must be 1 or more"
            )
        if self.recurrence not in ("gru", "parallel"):
            raise ValueError(
                f"recurrence {self.recurrence!r} is unknown; use 'gru' or 'parallel'"
            )


class Network(NamedTuple):
    """Pure functions; weights go in and out as plain dictionaries.

    Attributes:
      init: ``(key) -> params``.
      apply: ``(params, controls[..., frames, n], state=None) -> (outputs, state)``:
        outputs by name [..., frames, size]; the state after the last frame, for the
        block that follows.
      controls: n.
      sizes: of the outputs, by name.
    """

    init: Any
    apply: Any
    controls: int
    sizes: Mapping[str, int]


def make_network(
    config: NetworkConfig, controls: int, sizes: Mapping[str, int]
) -> Network:
    """A network for a synth.

    Args:
      config: its layers.
      controls: how many curves it reads, from 1.
      sizes: of the outputs, by name: ``synth.sizes``.

    Returns:
      A `Network`.

    Raises:
      ValueError: no control, or no output.
    """
    if controls < 1 or not sizes or min(sizes.values()) < 1:
        raise ValueError(
            f"{controls} controls and outputs {dict(sizes)}: give one control and one"
            " output or more"
        )
    module = _ControlNetwork(config, sum(sizes.values()))
    ends = np.cumsum(list(sizes.values()))[:-1]

    def init(key: RandomKey) -> Any:
        return module.init(key, jnp.zeros((1, 2, controls)))["params"]

    def apply(
        params: Any, curves: Float[AnyArray, "*batch frames n"], state: Any = None
    ) -> tuple[dict[str, jax.Array], Any]:
        if curves.shape[-1] != controls:
            raise ValueError(
                f"the network reads {controls} controls [..., frames, controls], got"
                f" {curves.shape}"
            )
        out, state = module.apply({"params": params}, curves, state)
        parts = jnp.split(jnp.asarray(out), ends, -1)
        return dict(zip(sizes, parts, strict=True)), state

    return Network(init, apply, controls, dict(sizes))


class _Block(nn.Module):
    """Linear, LayerNorm, LeakyReLU."""

    hidden: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.hidden, name="dense")(x)
        x = nn.LayerNorm(epsilon=_EPSILON, name="norm")(x)
        return nn.leaky_relu(x, _SLOPE)


class _ControlNetwork(nn.Module):
    config: NetworkConfig
    outputs: int

    @nn.compact
    def __call__(self, controls, state=None):
        config = self.config
        branches = [
            _Block(config.hidden, name=f"control_{i}")(controls[..., i : i + 1])
            for i in range(controls.shape[-1])
        ]
        layer = GruLayer if config.recurrence == "gru" else ParallelRecurrence
        joined = jnp.concatenate(branches, -1)
        x, state = layer(config.hidden, name="recurrence")(joined, state)
        x = jnp.concatenate([x, controls], -1)
        for i in range(config.layers):
            x = _Block(config.hidden, name=f"mlp_{i}")(x)
        return nn.Dense(self.outputs, name="output")(x), state


def count_parameters(
    config: NetworkConfig, controls: int, sizes: Mapping[str, int]
) -> int:
    """Numbers that are trained.

    Args:
      config: of the network.
      controls: curves it reads.
      sizes: of its outputs.

    Returns:
      How many.
    """
    network = make_network(config, controls, sizes)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def hidden_for(
    parameters: int, config: NetworkConfig, controls: int, sizes: Mapping[str, int]
) -> int:
    """Units with which a network has as many parameters as another one.

    Args:
      parameters: to come near to.
      config: of the network; its `hidden` does not count.
      controls: curves it reads.
      sizes: of its outputs.

    Returns:
      Units whose number of parameters is nearest.
    """

    def count(hidden: int) -> int:
        changed = NetworkConfig(hidden, config.layers, config.recurrence)
        return count_parameters(changed, controls, sizes)

    # Products of layers with layers: a quadratic in the units, exactly.
    known = (1, 2, 3)
    a, b, c = np.polyfit(known, [count(hidden) for hidden in known], 2)
    units = (-b + np.sqrt(max(b * b - 4.0 * a * (c - parameters), 0.0))) / (2.0 * a)
    near = [max(int(units) + off, 1) for off in (0, 1)]
    size = np.polyval((a, b, c), near)
    return near[int(np.argmin(np.abs(size - parameters)))]


def from_torch(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Weights of the original network as those of this one, with a GRU.

    Args:
      weights: its state dictionary, arrays by name: ``in_mlps.0.0.weight`` and so on.

    Returns:
      ``params`` with outputs in one piece.

    Raises:
      KeyError: a weight is missing.
    """
    branches = {name.split(".")[1] for name in weights if name.startswith("in_mlps.")}
    layers = {name.split(".")[1] for name in weights if name.startswith("out_mlp.")}
    # A layer is three entries of a list: Linear, LayerNorm, and what has no weights.
    starts = sorted(int(i) for i in layers)[::2]
    flat: dict[tuple[str, ...], np.ndarray] = {}

    def block(name: str, linear: str, norm: str) -> None:
        flat[name, "dense", "kernel"] = weights[f"{linear}.weight"].T
        flat[name, "dense", "bias"] = weights[f"{linear}.bias"]
        flat[name, "norm", "scale"] = weights[f"{norm}.weight"]
        flat[name, "norm", "bias"] = weights[f"{norm}.bias"]

    for i in branches:
        block(f"control_{i}", f"in_mlps.{i}.0", f"in_mlps.{i}.1")
    for layer, start in enumerate(starts):
        block(f"mlp_{layer}", f"out_mlp.{start}", f"out_mlp.{start + 1}")
    for name in ("weight", "bias"):
        key = "kernel" if name == "weight" else name
        flat["recurrence", "input", key] = weights[f"gru.{name}_ih_l0"].T
        flat["recurrence", f"hidden_{key}"] = weights[f"gru.{name}_hh_l0"].T
    flat["output", "kernel"] = weights["amplitudes_layer.weight"].T
    flat["output", "bias"] = weights["amplitudes_layer.bias"]
    return traverse_util.unflatten_dict(flat)
