"""What a search minimises: settings in, loss and residuals out, renders counted.

An `Objective` renders a batch of settings in one call to the host, scores the renders
on the device in chunks of one static shape, and remembers the best setting and the
curve of the best loss against renders.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ddspx import signal
from ddspx.effects.base import Effect
from ddspx.parameters import ParameterSpec
from styletransfer.hosts import Host, Rendered, Status

# Renders scored per device call: the last chunk is filled up with copies, and CPUs gain
# nothing from larger ones (measured: 0.7 ms a render at 4, 0.8 at 16, 5 s at 16 kHz).
CHUNK = 4
# Residual of a failed render: far above any real one (60 dB is the most), and finite so
# that a Jacobian stays finite.
FAILED_RESIDUAL = 1e3
# What a gradient by autodiff is counted as: through the channel strip's twin and the
# multi-resolution STFT loss it takes as long as 2.8 to 3.1 renders that are judged.
GRADIENT_RENDERS = 3


@runtime_checkable
class Score(Protocol):
    """How far one render is from what is wanted; a pytree.

    Two searches of one kind differ in their arrays only, so that the second finds the
    functions below compiled.
    """

    def loss(self, render: jax.Array) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        """What is minimised and reported, and its parts by name."""
        ...

    def residuals(self, render: jax.Array) -> jax.Array:
        """Residuals [k]: their squares sum to a smooth loss with the same minimum.

        For optimisers that use curvature; much cheaper than `loss` where the loss is
        the multi-resolution STFT.
        """
        ...


class BudgetExhausted(Exception):
    """The next batch would exceed the number of renders allowed."""


class Objective:
    """Renders settings through a host and scores them; see the module.

    Args:
      host: an open effect.
      audio: the input [channels, time].
      score: judges a render, such as `StyleScore`.
      budget: renders allowed; `BudgetExhausted` is raised by the call beyond.
      prior: strength p of the pull towards `center`, a number or [n]: sum_i p_i^2
        (u_i - c_i)^2 is added to the loss, as if every control were known in advance to
        within 1/(p_i sqrt 2).
      center: controls [n] of that pull, usually the identity.
      report: called with (renders, best loss) after each batch.
      effect: the host's effect in differentiable form, for `gradients`; None
        where there is none.
    """

    def __init__(
        self,
        host: Host,
        audio: Float[np.ndarray, "channels time"],
        score: Score,
        *,
        budget: int,
        prior: float | np.ndarray = 0.0,
        center: np.ndarray,
        report: Callable[[int, float], None] | None = None,
        effect: Effect | None = None,
    ):
        self.host = host
        self.effect = effect
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
        self._prior = np.asarray(prior, np.float32)
        self._center = jnp.asarray(center, jnp.float32)
        self._score = score

    @property
    def remaining(self) -> int:
        """Renders left."""
        return self.budget - self.renders

    def losses(self, controls: np.ndarray) -> np.ndarray:
        """Renders and judges settings [m, n] in [0, 1]; one call to the host.

        Returns:
          Losses [m] with the prior's share, float64; infinite where the effect failed.

        Raises:
          BudgetExhausted: fewer than m renders are left; nothing was rendered.
        """
        controls, rendered = self._render(controls)
        loss, terms = self._in_chunks(_losses, rendered.audio, controls)
        loss = np.where(rendered.status == Status.OK, loss, np.inf).astype(np.float64)
        loss[~np.isfinite(loss)] = np.inf
        first = int(np.argmin(loss))
        chosen = {name: float(values[first]) for name, values in terms.items()}
        self._remember(controls[first], float(loss[first]), chosen)
        return loss

    def residuals(self, controls: np.ndarray) -> np.ndarray:
        """Like `losses`, but gives residuals [m, k], float64, the prior's n last.

        The loss is computed for the best of the batch alone. Where the effect failed,
        residuals are large and finite.
        """
        controls, rendered = self._render(controls)
        residuals = self._in_chunks(_residuals, rendered.audio, controls)
        residuals = residuals.astype(np.float64)
        failed = (rendered.status != Status.OK) | ~np.isfinite(residuals).all(axis=1)
        residuals[failed] = FAILED_RESIDUAL
        first = int(np.argmin(np.sum(residuals**2, axis=1)))
        if not failed[first]:
            loss, terms = jax.device_get(
                _losses(
                    self._score,
                    rendered.audio[first : first + 1],
                    controls[first : first + 1],
                    self._prior,
                    self._center,
                )
            )
            chosen = {name: float(value[0]) for name, value in terms.items()}
            self._remember(controls[first], float(loss[0]), chosen)
        return residuals

    def gradients(
        self, controls: np.ndarray, *, of_squares: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Losses [m] of settings [m, n] and their exact gradients [m, n], by autodiff.

        The effect in JAX renders, not the host. Each setting counts as
        `GRADIENT_RENDERS` renders. A loss that is not finite is infinite here, with a
        gradient of 0.

        Args:
          controls: [m, n].
          of_squares: give the sum of the squared residuals and its gradient; what is
            remembered is the loss in either case.

        Raises:
          BudgetExhausted: not that many renders are left; nothing was computed.
          ValueError: the objective has no differentiable effect.
        """
        effect = self._differentiable()
        controls = np.clip(np.asarray(controls, np.float32), 0.0, 1.0)
        self._afford(GRADIENT_RENDERS * len(controls))
        each = [
            jax.device_get(
                _gradient(
                    effect,
                    of_squares,
                    self._score,
                    self._audio,
                    c,
                    self._prior,
                    self._center,
                )
            )
            for c in controls
        ]
        self.renders += GRADIENT_RENDERS * len(controls)
        wanted = np.array([value for (value, _), _ in each], np.float64)
        slope = np.stack([gradient for _, gradient in each])
        failed = ~(np.isfinite(wanted) & np.isfinite(slope).all(axis=1))
        wanted[failed], slope[failed] = np.inf, 0.0
        self.failures += int(np.sum(failed))
        loss = [
            np.inf if bad else x[0][1][0] for x, bad in zip(each, failed, strict=True)
        ]
        first = int(np.argmin(loss))
        terms = {name: float(value) for name, value in each[first][0][1][1].items()}
        self._remember(controls[first], float(loss[first]), terms)
        return wanted, slope

    def _differentiable(self) -> Effect:
        if self.effect is None:
            raise ValueError(
                "this search goes by autodiff and the effect is a black box; give the"
                " objective its differentiable form, or take another search"
            )
        return self.effect

    def _afford(self, count: int) -> None:
        if count > self.remaining:
            raise BudgetExhausted(f"{count} renders wanted, {self.remaining} left")

    def _render(self, controls: np.ndarray) -> tuple[np.ndarray, Rendered]:
        controls = np.clip(np.asarray(controls, np.float32), 0.0, 1.0)
        count = len(controls)
        self._afford(count)
        source = np.zeros(count, np.int32)
        rendered = self.host.render(self._audio[None], controls, source)
        self.renders += count
        self.failures += int(np.sum(rendered.status != Status.OK))
        return controls, rendered

    def _in_chunks(self, function: Callable, audio: np.ndarray, controls: np.ndarray):
        """Calls `function` on chunks of one shape; the last one is filled up."""
        parts = []
        for start in range(0, len(controls), CHUNK):
            some, settings = (a[start : start + CHUNK] for a in (audio, controls))
            missing = CHUNK - len(some)
            if missing:
                some = np.concatenate([some, np.repeat(some[:1], missing, 0)])
                repeated = np.repeat(settings[:1], missing, 0)
                settings = np.concatenate([settings, repeated])
            scores = jax.device_get(
                function(self._score, some, settings, self._prior, self._center)
            )
            parts.append(jax.tree.map(lambda a, m=missing: a[: CHUNK - m], scores))
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

    def _remember(
        self, controls: np.ndarray, loss: float, terms: dict[str, float]
    ) -> None:
        if loss < self.best_loss:
            self.best_loss = loss
            self.best_controls = controls.copy()
            self.best_terms = terms
        self.history.append((self.renders, self.best_loss))
        if self._report is not None:
            self._report(self.renders, self.best_loss)


@jax.jit
def _losses(score: Score, renders, controls, prior, center):
    """Losses and terms of a chunk, with the pull of the prior added."""

    def one(render, setting):
        loss, terms = score.loss(render)
        penalty = jnp.sum((prior * (setting - center)) ** 2)
        return loss + penalty, {**terms, "prior": penalty}

    return signal.map_examples(one, renders, controls)


@jax.jit
def _residuals(score: Score, renders, controls, prior, center):
    """Residuals of a chunk; the prior's are the last n."""

    def one(render, setting):
        pull = prior * (setting - center)
        return jnp.concatenate([score.residuals(render), pull])

    return jax.vmap(one)(renders, controls)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradient(
    effect: Effect, of_squares: bool, score: Score, audio, controls, prior, center
):
    """((wanted, (loss, terms)), gradient [n]) at one setting, through the effect."""

    def wanted(setting):
        render = effect.render(audio, setting)
        loss, terms = score.loss(render)
        penalty = jnp.sum((prior * (setting - center)) ** 2)
        total = loss + penalty
        value = total
        if of_squares:
            value = jnp.sum(score.residuals(render) ** 2) + penalty
        return value, (total, {**terms, "prior": penalty})

    return jax.value_and_grad(wanted, has_aux=True)(controls)
