"""What a package gives to the trainer: a state that continues, and three functions.

`TrainState` is everything that goes from one step to the next, and everything that a
checkpoint holds besides the configuration and the data position. `Task` says how a
state is made, how a batch changes it and how it is judged. The fit loop knows nothing
else about models, effects or losses.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Batch = Mapping[str, Any]
Metrics = Mapping[str, Any]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that continues from one step to the next (a pytree).

    Attributes:
        step: int32 scalar, the number of steps taken.
        params: pytree of the trained weights.
        opt_state: the optimizer's own state.
        key: typed random key of the run; it never changes. The key of a step is
            `step_key()`, so a resumed run draws what the unbroken run draws.
        extra: pytree for anything else: statistics, averages of weights, the state
            of a gradient estimator. `{}` when there is none.
    """

    step: Any
    params: Any
    opt_state: Any
    key: Any
    extra: Any = field(default_factory=dict)

    def step_key(self) -> jax.Array:
        """The random key of this step: `fold_in(key, step)`."""
        return jax.random.fold_in(self.key, self.step)

    def replace(self, **changes: Any) -> "TrainState":
        """A copy with the named fields replaced."""
        return dataclasses.replace(self, **changes)


def create_state(
    params: Any, opt_state: Any, key: jax.Array, extra: Any = None
) -> TrainState:
    """A state before its first step.

    Args:
        params: pytree of weights.
        opt_state: `optimizer.init(params)`.
        key: typed random key (`jax.random.key(seed)`).
        extra: pytree of anything else that continues, or None.

    Returns:
        A `TrainState` with `step` 0.
    """
    extra = {} if extra is None else extra
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, key, extra)


@dataclass(frozen=True)
class Sounds:
    """What an evaluation shows beside its numbers.

    Attributes:
        audio: tag -> (samples float [channels, time] or [time], sample rate in Hz).
        images: tag -> uint8 [height, width, 3] or float in [0, 1] of that shape.
        text: tag -> Markdown.
    """

    audio: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    images: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, str] = field(default_factory=dict)


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Task:
    """What is trained, as functions; `fit` runs them and never compiles them.

    A task is a context manager: leaving it calls `close`, which ends what the task
    owns (a pool of effect hosts). Whoever made the task enters it, not `fit`.

    Attributes:
        init: `init(key) -> TrainState`.
        step: `step(state, batch) -> (state, metrics)`, compiled or staged. It returns
            `state.step + 1` and a dictionary of scalars; it may donate the old state.
            The key `loss` is shown in the terminal. Give `gradient_norm` too: then a
            gradient that is not finite is named at its own step.
        evaluate: `evaluate(state, batch) -> metrics`, a dictionary of scalars that are
            averaged over the evaluation batches; None where there is nothing to judge.
        show: `show(state, batch) -> Sounds` for the first evaluation batch, or None.
        frozen: pytree of weights that the task uses and does not train. They are
            saved once with their hash, and a run resumes only with the same ones.
        close: ends what the task owns.
    """

    init: Callable[[jax.Array], TrainState]
    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    evaluate: Callable[[TrainState, Batch], Metrics] | None = None
    show: Callable[[TrainState, Batch], Sounds] | None = None
    frozen: Any = None
    close: Callable[[], None] = _nothing

    def __enter__(self) -> "Task":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def mean_metrics(
    task: Task, state: TrainState, batches: Iterable[Batch]
) -> dict[str, float]:
    """Evaluates a task on batches and averages each metric over them.

    Args:
        task: a task with `evaluate`.
        state: the state to judge.
        batches: batches of equal size, as `task.evaluate` takes them.

    Returns:
        One float a metric; a metric that is not finite in any batch is not finite.

    Raises:
        ValueError: if the task has no `evaluate`, or there is no batch.
    """
    if task.evaluate is None:
        raise ValueError("this task has no `evaluate`: give Task(evaluate=...)")
    judged = [jax.device_get(dict(task.evaluate(state, batch))) for batch in batches]
    if not judged:
        raise ValueError("0 evaluation batches; expected at least one")
    return {
        name: float(np.mean([np.float64(one[name]) for one in judged]))
        for name in judged[0]
    }
