"""What a search minimises: settings in, loss and residuals out, renders counted.

An `Objective` renders a batch of settings in one call to the host, scores the renders
on the device in chunks of one static shape, and remembers the best setting and the
curve of the best loss against renders. A *score* is a jittable function of one render,
``score(audio[channels, time]) -> Score``.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ddspx.parameters import ParameterSpec
from styletransfer.hosts import Host, Status

# Renders scored per device call. 16 is the population that CMA-ES would take anyway,
# and small enough that padding a lone render to a full chunk costs little.
CHUNK = 16


class Score(NamedTuple):
    """How far one render is from what is wanted.

    Attributes:
      loss: scalar, what is minimised and reported.
      residuals: [k]; their squares sum to a smooth loss with the same minimum, for the
        optimisers that use curvature.
      terms: parts of the loss by name, for people.
    """

    loss: jax.Array
    residuals: jax.Array
    terms: Mapping[str, jax.Array]


class Evaluation(NamedTuple):
    """Scores of a batch of settings, in NumPy.

    Attributes:
      loss: [m]; infinite where the effect failed.
      residuals: [m, k]; large where the effect failed.
      terms: ``{name: [m]}``.
    """

    loss: np.ndarray
    residuals: np.ndarray
    terms: dict[str, np.ndarray]


class BudgetExhausted(Exception):
    """The next batch would exceed the number of renders allowed."""


class Objective:
    """Renders settings through a host and scores them; see the module.

    Args:
      host: an open effect.
      audio: the input [channels, time].
      score: ``(audio[channels, time]) -> Score``: a callable pytree, such as
        `StyleScore`, so that compiled code serves every search of its kind.
      budget: renders allowed; `BudgetExhausted` is raised by the call beyond.
      prior: strength p of the pull towards `center`: p^2 sum_i (u_i - c_i)^2 is added
        to the loss, as if every control were known in advance to within 1/(p sqrt 2).
      center: controls [n] of that pull, usually the identity.
      report: called with (renders, best loss) after each batch.
    """

    def __init__(
        self,
        host: Host,
        audio: Float[np.ndarray, "channels time"],
        score: Callable[[jax.Array], Score],
        *,
        budget: int,
        prior: float = 0.0,
        center: np.ndarray,
        report: Callable[[int, float], None] | None = None,
    ):
        self.host = host
        self.specs: tuple[ParameterSpec, ...] = host.specs
        self.budget = budget
        self.renders = 0
        self.failures = 0
        self.history: list[tuple[int, float]] = []
        self.best_loss = np.inf
        self.best_controls = np.asarray(center, np.float32)
        self.best_terms: dict[str, float] = {}
        self._audio = np.ascontiguousarray(audio, np.float32)
        self._report = report
        self._prior = np.float32(prior)
        self._center = jnp.asarray(center, jnp.float32)
        self._score = score

    @property
    def remaining(self) -> int:
        """Renders left."""
        return self.budget - self.renders

    def __call__(self, controls: np.ndarray) -> Evaluation:
        """Renders and scores settings [m, n] in [0, 1]; all in one call to the host.

        Raises:
          BudgetExhausted: fewer than m renders are left; nothing was rendered.
        """
        controls = np.clip(np.asarray(controls, np.float32), 0.0, 1.0)
        count = len(controls)
        if count > self.remaining:
            raise BudgetExhausted(f"{count} renders wanted, {self.remaining} left")
        rendered = self.host.render(
            self._audio[None], controls, np.zeros(count, np.int32)
        )
        evaluation = self._evaluate(rendered.audio, controls)
        failed = rendered.status != Status.OK
        self.failures += int(failed.sum())
        evaluation.loss[failed | ~np.isfinite(evaluation.loss)] = np.inf
        evaluation.residuals[failed] = 1e3
        self._remember(controls, evaluation)
        return evaluation

    def _evaluate(self, audio: np.ndarray, controls: np.ndarray) -> Evaluation:
        parts = []
        for start in range(0, len(controls), CHUNK):
            some, settings = (a[start : start + CHUNK] for a in (audio, controls))
            missing = CHUNK - len(some)
            if missing:
                some = np.concatenate([some, np.repeat(some[:1], missing, 0)])
                settings = np.concatenate(
                    [settings, np.repeat(settings[:1], missing, 0)]
                )
            scores = jax.device_get(
                _scores(self._score, some, settings, self._prior, self._center)
            )
            parts.append(jax.tree.map(lambda a, m=missing: a[: CHUNK - m], scores))
        whole = jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)
        return Evaluation(whole.loss, whole.residuals, dict(whole.terms))

    def _remember(self, controls: np.ndarray, evaluation: Evaluation) -> None:
        self.renders += len(controls)
        first = int(np.argmin(evaluation.loss))
        if evaluation.loss[first] < self.best_loss:
            self.best_loss = float(evaluation.loss[first])
            self.best_controls = controls[first].copy()
            self.best_terms = {k: float(v[first]) for k, v in evaluation.terms.items()}
        self.history.append((self.renders, self.best_loss))
        if self._report is not None:
            self._report(self.renders, self.best_loss)


@jax.jit
def _scores(score, renders, controls, prior, center) -> Score:
    """Scores of a chunk with the pull of the prior added.

    `score` is a pytree: what differs between two searches of one kind are arrays, so
    that the second search finds this function compiled.
    """

    def one(render, setting):
        result = score(render)
        pull = prior * (setting - center)
        penalty = jnp.sum(pull**2)
        return Score(
            result.loss + penalty,
            jnp.concatenate([result.residuals, pull]),
            {**result.terms, "prior": penalty},
        )

    return jax.vmap(one)(renders, controls)
