"""How the gradient of a sound's loss is got, by one switch, and what it costs.

`AudioTaskConfig` names the method, `make_estimator` makes what renders of a black box
need, `StandIn` is what methods with a differentiable double of the effect need.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

from ddspx.effects.base import aligned
from ddspx.parameters import ParameterSpec
from styletransfer.audio_losses import AudioLossConfig
from styletransfer.gradients import (
    DEFAULT_STEP,
    Estimator,
    central_differences,
    coordinates,
    default_estimator,
    forward_differences,
    orthogonal,
    render_points,
    restricted,
    spsa,
    steps_for,
)
from styletransfer.hosts import Host
from styletransfer.objective import GRADIENT_RENDERS
from styletransfer.twins import twin_effect

Gradient = Literal[
    "autodiff",
    "spsa",
    "orthogonal",
    "finite_differences",
    "coordinates",
    "proxy_half",
    "proxy_full",
    "control_variate",
]
# Those without a render, and those that need a stand-in.
IN_JAX = ("autodiff", "proxy_half")
WITH_STAND_IN = ("proxy_half", "proxy_full", "control_variate")


@dataclass(frozen=True)
class AudioTaskConfig:
    """How a controller is trained by sound.

    Attributes:
      trained: the parts that train, the last ones of the controller: ``("head",)`` or
        ``("decoder",)``, or more of those in front.
      gradient: the method.

        * ``"autodiff"``: through the effect in JAX, where it has one;
        * ``"spsa"``: pairs along random signs;
        * ``"orthogonal"``: one-sided along orthogonal signs;
        * ``"finite_differences"``: every control, both ways where renders allow;
        * ``"coordinates"``: some controls, by the size of their gradients;
        * ``"proxy_half"``: a stand-in takes the effect's place in training;
        * ``"proxy_full"``: the effect is heard, its stand-in is differentiated;
        * ``"control_variate"``: the stand-in's gradient, corrected by renders.

      renders: of an example, that a gradient may cost, the centre included.
      form: ``"scalar"`` judges every render and holds for any loss; ``"vector"`` judges
        the centre alone, and is void where the waveform turns within a step.
      step: of differences, in the unit of the cube.
      scaling: of directions and coordinates that are fewer than controls:
        ``"unbiased"``, or ``"projection"``, which leaves the rest as it was; None is
        unbiased without a stand-in and projects with one.
      loss: weights of the distances to the target.
      likelihood: weight of the likelihood of known settings.
      pull: share of that likelihood's gradient that reaches the means of continuous
        controls; 0 leaves them to the sound.
      micro_batches: parts that a step is rendered in.
    """

    trained: tuple[str, ...] = ("head",)
    gradient: Gradient = "orthogonal"
    renders: int = 9
    form: Literal["scalar", "vector"] = "scalar"
    step: float = DEFAULT_STEP
    scaling: Literal["unbiased", "projection"] | None = None
    loss: AudioLossConfig = field(default_factory=AudioLossConfig)
    likelihood: float = 1.0
    pull: float = 0.0
    micro_batches: int = 1

    def __post_init__(self):
        if self.gradient not in get_args(Gradient):
            raise ValueError(
                f"gradient {self.gradient!r} unknown; choose one of"
                f" {', '.join(get_args(Gradient))}"
            )
        if self.renders < 2:
            raise ValueError(f"renders {self.renders} must be 2 or more")
        if not self.likelihood >= 0.0 or not 0.0 <= self.pull <= 1.0:
            raise ValueError(
                f"likelihood {self.likelihood} must be 0 or more, pull {self.pull} from"
                " 0 to 1"
            )
        if self.micro_batches < 1:
            raise ValueError(f"micro_batches {self.micro_batches} must be 1 or more")


class StandIn(NamedTuple):
    """A differentiable stand-in of the effect: a learned proxy, or a twin.

    Attributes:
      render: ``(params, audio[channels, time], controls[n]) -> audio``.
      params: its weights, frozen.
    """

    render: Callable[[Any, jax.Array, jax.Array], jax.Array]
    params: Any


def make_estimator(
    config: AudioTaskConfig,
    specs: tuple[ParameterSpec, ...],
    sizes: np.ndarray | None = None,
) -> Estimator:
    """What turns renders into a gradient; discrete controls stay put.

    Args:
      config: names the method.
      specs: of the controls.
      sizes: typical size of each control's gradient [n], or of what a stand-in gets
        wrong of it, for ``"coordinates"`` and ``"control_variate"``; None where nobody
        measured: then coordinates take their turns alike.

    Raises:
      ValueError: a method without renders, or too few renders for it.
    """
    moved = [i for i, spec in enumerate(specs) if not spec.choices]
    n, ahead = len(moved), config.renders - 1
    if config.gradient == "proxy_full" or not moved:
        return restricted(spsa(config.step), ())
    step = steps_for([specs[i] for i in moved], config.step)
    own = np.ones(n) if sizes is None else np.asarray(sizes)[moved]
    scaling = config.scaling or "unbiased"
    match config.gradient:
        case "spsa":
            _afford(config, 3)
            found = spsa(step, ahead // 2)
        case "orthogonal":
            found = orthogonal(step, ahead, one_sided=True, scaling=scaling)
        case "finite_differences":
            _afford(config, 1 + n)
            both = config.renders > 2 * n
            found = central_differences(step) if both else forward_differences(step)
        case "coordinates":
            found = coordinates(step, own, min(ahead, n), scaling=scaling)
        case "control_variate" if config.scaling == "unbiased":
            found = orthogonal(step, ahead, one_sided=True)
        case "control_variate":
            found = default_estimator(
                n,
                config.renders,
                prior=True,
                sizes=None if sizes is None or ahead > n else own,
                epsilon=step,
            )
        case _:
            raise ValueError(f"gradient {config.gradient!r} goes without renders")
    return restricted(found, moved) if n < len(specs) else found


def renders_of(config: AudioTaskConfig, specs: tuple[ParameterSpec, ...]) -> int:
    """What the gradient of one example costs, in renders.

    A gradient through an effect or a stand-in in JAX counts as `GRADIENT_RENDERS`.
    """
    if config.gradient in IN_JAX:
        return GRADIENT_RENDERS
    rendered = make_estimator(config, specs).renders(len(specs))
    return rendered + GRADIENT_RENDERS * (config.gradient in WITH_STAND_IN)


def gradient_sizes(
    host: Host,
    loss: Callable[[jax.Array, Any], jax.Array],
    batch: Mapping[str, np.ndarray],
    controls: np.ndarray,
    step: float = DEFAULT_STEP,
) -> np.ndarray:
    """Typical size of each control's gradient [n], for `make_estimator`.

    Root mean squares of forward differences; 1 + n renders of every example.

    Args:
      host: the opened effect.
      loss: ``(audio[channels, time], example) -> scalar``.
      batch: ``audio``, ``target`` and ``valid`` of examples.
      controls: where to measure [batch, n], such as predictions.
      step: of the differences.

    Returns:
      [n], float32, 0 nowhere; discrete controls, which do not move, have the least.
    """
    smooth = np.array([not spec.choices for spec in host.specs])
    estimator = restricted(
        forward_differences(steps_for([s for s in host.specs if not s.choices], step)),
        np.flatnonzero(smooth).tolist(),
    )
    plan = jax.vmap(lambda u: estimator.plan(jax.random.key(0), u))(controls)
    rendered, status = render_points(
        host.render, np.asarray(batch["audio"]), np.asarray(plan.points)
    )

    @jax.jit
    def losses(audio, target):
        return jax.lax.map(lambda heard: loss(heard, {"target": target}), audio)

    values = np.stack(
        [losses(*row) for row in zip(rendered, batch["target"], strict=True)]
    )
    slopes = np.asarray(jax.vmap(estimator.scalar)(plan, values))
    kept = np.asarray(batch["valid"]) & (status == 0).all(axis=1)
    sizes = np.sqrt(np.mean(slopes[kept] ** 2, axis=0, dtype=np.float64))
    return np.maximum(sizes, 1e-3 * sizes.max() + 1e-9).astype(np.float32)


def twin_of(host: Host) -> StandIn:
    """The host's effect in JAX, without its latency, as hosts give it.

    Raises:
      ValueError: a plug-in that JAX does not have.
    """
    heard = aligned(twin_effect(host.effect, host.sample_rate))
    return StandIn(lambda params, audio, controls: heard(audio, controls), {})


def _afford(config: AudioTaskConfig, renders: int) -> None:
    if config.renders < renders:
        raise ValueError(
            f"renders {config.renders} of an example are too few for"
            f" {config.gradient!r} of this effect: give {renders} or more, or take"
            " 'orthogonal' or 'coordinates'"
        )
