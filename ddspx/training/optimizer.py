"""The optimizer as a configuration, and the one line that applies gradients."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from ddspx.training.configuration import ConfigurationError
from ddspx.training.task import TrainState


@dataclass(frozen=True)
class OptimizerConfig:
    """Which optimizer, and its learning rate over time.

    Attributes:
        name: the update rule.
        learning_rate: the highest learning rate.
        schedule: what follows the warm-up: stay, or fall to `final_fraction`.
        warmup_steps: linear rise from zero.
        decay_steps: length of the fall (without the warm-up); it is not taken from
            the run's length, so a longer run repeats the shorter one exactly.
        final_fraction: the last learning rate as a fraction of the highest.
        b1: decay of the gradient's mean (momentum for sgd).
        b2: decay of the gradient's square.
        weight_decay: decoupled decay (adamw), on matrices and kernels only.
        clip_norm: gradients of a larger global norm are scaled to it; None for never.
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine", "exponential"] = "constant"
    warmup_steps: int = 0
    decay_steps: int = 100_000
    final_fraction: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ConfigurationError(
                f"learning_rate: got {self.learning_rate}, expected more than 0"
            )
        if self.weight_decay and self.name != "adamw":
            raise ConfigurationError(
                f"weight_decay: got {self.weight_decay} with name '{self.name}'; "
                "expected name 'adamw', the only one that decays weights"
            )


def learning_rate(config: OptimizerConfig) -> optax.Schedule:
    """The learning rate as a function of the step.

    Args:
        config: the optimizer's configuration.

    Returns:
        A function from a step number to a learning rate.
    """
    high = config.learning_rate
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(
            high, config.decay_steps, config.final_fraction
        )
    elif config.schedule == "exponential":
        after = optax.exponential_decay(
            high,
            config.decay_steps,
            config.final_fraction,
            end_value=high * config.final_fraction,
        )
    else:
        after = optax.constant_schedule(high)
    if not config.warmup_steps:
        return after
    rise = optax.linear_schedule(0.0, high, config.warmup_steps)
    return optax.join_schedules([rise, after], [config.warmup_steps])


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The optax optimizer that a configuration describes.

    Args:
        config: the optimizer's configuration.

    Returns:
        An optax gradient transformation.
    """
    rate = learning_rate(config)
    if config.name == "adam":
        rule = optax.adam(rate, config.b1, config.b2)
    elif config.name == "adamw":
        rule = optax.adamw(
            rate,
            config.b1,
            config.b2,
            weight_decay=config.weight_decay,
            mask=_matrices,
        )
    else:
        rule = optax.sgd(rate, momentum=config.b1 or None)
    if config.clip_norm is None:
        return rule
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), rule)


def apply_gradients(
    state: TrainState,
    gradients: Any,
    optimizer: optax.GradientTransformation,
    **changes: Any,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update of the weights; call it inside the compiled step.

    Args:
        state: the state before the step.
        gradients: pytree like `state.params`.
        optimizer: the transformation that made `state.opt_state`.
        **changes: other fields to replace, for example `extra`.

    Returns:
        The state with `step + 1`, and `{"gradient_norm": ...}` (before clipping), which
        belongs in the step's metrics: the watchdog reads it.
    """
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    state = state.replace(
        step=state.step + 1, params=params, opt_state=opt_state, **changes
    )
    return state, {"gradient_norm": optax.tree.norm(gradients)}
