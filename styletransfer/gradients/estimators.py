"""Gradient estimators for effects that can only be rendered.

An `Estimator` sees one example: it plans the settings at which the effect is rendered,
and turns the losses (or the audio) of those renders into a gradient. Batch it with
``jax.vmap``; it is pure JAX and may be jitted, exported and differentiated through.

With controls p in the unit cube, direction k measures

    d_k = L(p + move_k / 2) - L(p - move_k / 2)  (pairs),   d_k = L(p + move_k) - L(p),

where both ends lie inside the cube: at its border an end is held there, and the move
is the *realised* difference of the two ends, control by control. The estimate is
Wᵀ d, with weights W [K, n] that depend on the directions only. In the vector-Jacobian
form d_k = <dL/dy, y₊ - y₋>, with dL/dy taken once at the centre: exact for a loss that
is linear over the change, and void where the waveform's phase turns within a step. The
scalar form asks the loss at every render and holds at any step.

Both ends of a pair share everything but the controls: same audio, same fresh state of
the effect. A noisy effect must draw its noise per source, never per render.

With a differentiable stand-in of the effect every estimator is a control variate: give
its gradient as ``prior`` and the estimate is prior + Wᵀ (d - move · prior), an
estimate of f - proxy plus the exact gradient of the proxy (Grathwohl et al. 2018).
To use the proxy's values instead of its linearisation, subtract them yourself:
``proxy_gradient + estimator.scalar(plan, losses - proxy_losses)``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddspx.parameters import ParameterSpec
from ddspx.signal import PRECISE
from ddspx.types import AnyArray
from styletransfer.gradients.directions import orthogonal_signs, rademacher

# Relative ridge of a least-squares solve whose rows may come out dependent.
RIDGE = 1e-5


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Plan:
    """Where one example is rendered, and how the renders become a gradient.

    Attributes:
      points: controls [renders, n] in [0, 1]. The first row is the centre; then K rows
        p₊; then, for pairs, the K rows p₋ in the same order.
      weights: W [K, n]; the gradient is Wᵀ d.
    """

    # Any: JAX also puts shapes, shardings and tracing records in a pytree's place.
    points: Any
    weights: Any

    @property
    def paired(self) -> bool:
        """True when each direction has two ends, False when it shares the centre."""
        return self.points.shape[0] == 1 + 2 * self.weights.shape[0]

    @property
    def moves(self) -> jax.Array:
        """Realised differences [K, n] between the two ends of each direction."""
        return self.differences(self.points)

    def differences(self, values: AnyArray) -> jax.Array:
        """Values of the renders [renders, ...] to their differences [K, ...]."""
        count = self.weights.shape[0]
        values = jnp.asarray(values)
        low = values[1 + count :] if self.paired else values[:1]
        return values[1 : 1 + count] - low


class Estimator(NamedTuple):
    """A gradient estimator for one example; see the module.

    Attributes:
      name: what tables call it.
      renders: ``(n) -> int``, renders of one example, the centre included.
      plan: ``(key, controls[n]) -> Plan``. Controls outside [0, 1] are clipped.
      scalar: ``(plan, losses[renders], prior=None) -> gradient[n]``.
      vector: ``(plan, audio[renders, channels, time], cotangent[channels, time],
        prior=None) -> gradient[n]``.
    """

    name: str
    renders: Callable[[int], int]
    plan: Callable[..., Plan]
    scalar: Callable[..., jax.Array]
    vector: Callable[..., jax.Array]


def scalar_gradient(
    plan: Plan, losses: AnyArray, prior: AnyArray | None = None
) -> jax.Array:
    """Gradient [n] from the losses [renders] at the planned points."""
    return _combine(plan, plan.differences(losses), prior)


def vector_gradient(
    plan: Plan, audio: AnyArray, cotangent: AnyArray, prior: AnyArray | None = None
) -> jax.Array:
    """Gradient [n] from rendered audio [renders, ...] and dL/dy [...] at the centre."""
    rows = plan.differences(audio).reshape(plan.weights.shape[0], np.size(cotangent))
    return _combine(plan, _product(rows, jnp.ravel(cotangent)), prior)


def _combine(plan, differences, prior):
    if prior is None:
        return _product(differences, plan.weights)
    prior = jnp.asarray(prior)
    missed = differences - _product(plan.moves, prior)
    return prior + _product(missed, plan.weights)


def _product(left, right):
    return jnp.matmul(left, right, precision=PRECISE)


def steps_for(specs: Sequence[ParameterSpec], epsilon: Any) -> np.ndarray:
    """Steps [n] that the effect can tell apart: two quanta of each control at least.

    Args:
      specs: the controls; the quantum of a discrete one is 1 / number of choices.
      epsilon: wanted steps [n]; or a number for the controls that have no calibrated
        epsilon of their own. A probe calibrates them to about equal audible change.

    Returns:
      Steps [n], float32, at most 0.5.
    """
    quanta = [s.quantum or (1.0 / len(s.choices) if s.choices else 0.0) for s in specs]
    wanted = np.broadcast_to(np.asarray(epsilon, np.float64), len(quanta))
    if np.ndim(epsilon) == 0:
        wanted = np.array([s.epsilon or epsilon for s in specs], np.float64)
    steps = np.maximum(wanted, 2.0 * np.asarray(quanta))
    return np.minimum(steps, 0.5).astype(np.float32)


def spsa(epsilon: Any, pairs: int = 1) -> Estimator:
    """Simultaneous perturbation along Rademacher directions (Spall 1992).

        g_i = 1/K sum_k d_k / move_ki

    Unbiased on quadratics; relative mean squared error (n - 1)/K.

    Args:
      epsilon: step of each control, a number or [n], in the unit of the cube.
      pairs: number of directions K.

    Returns:
      An `Estimator` of 1 + 2 K renders.

    Raises:
      ValueError: epsilon not in (0, 0.5], or no pairs.
    """
    step, pairs = _step(epsilon), _count(pairs, "pairs")

    def plan(key, controls):
        signs = rademacher(key, pairs, controls.shape[-1])
        points, width = _pairs(controls, signs, step)
        return Plan(points, signs / (pairs * width[None, :]))

    return _estimator(f"spsa-{pairs}", lambda n: 1 + 2 * pairs, plan)


def orthogonal(
    epsilon: Any,
    pairs: int = 1,
    *,
    one_sided: bool = False,
    scaling: str = "unbiased",
) -> Estimator:
    """Directions from randomised Hadamard rows, solved by least squares.

        g = c Aᵀ (A Aᵀ)⁻¹ d / width,    A [K, n] the signs,    c = n/K or 1

    Unbiased scaling (c = n/K) has a relative mean squared error of (n - K)/K, which is
    0 at K = n: then the estimate is that of exact differences for any n, Hadamard
    order or not. Projection (c = 1) is the measured part of the gradient, of least
    mean squared error (n - K)/n: the one to use with a `prior`.

    Args:
      epsilon: step of each control, a number or [n], in the unit of the cube.
      pairs: number of directions K; beyond n they are further bases, averaged.
      one_sided: measure against the centre. K costs K renders beside the centre's, not
        2 K, with a bias of the order of epsilon: for smooth scalar losses. A control
        within one step of the border then stays put where its sign points outward.
      scaling: ``"unbiased"`` or ``"projection"``; the same from K = n on.

    Returns:
      An `Estimator` of 1 + 2 K renders, or 1 + K when one-sided.

    Raises:
      ValueError: epsilon not in (0, 0.5], no pairs, or an unknown scaling.
    """
    step, pairs = _step(epsilon), _count(pairs, "pairs")
    _check_scaling(scaling)

    def plan(key, controls):
        n = controls.shape[-1]
        signs = orthogonal_signs(key, pairs, n)
        gain = n / pairs if scaling == "unbiased" and pairs < n else 1.0
        if one_sided:
            points, moves, width = _steps(controls, signs, step)
            return Plan(points, gain * _solve(moves, RIDGE) / width[None, :])
        points, width = _pairs(controls, signs, step)
        return Plan(points, gain * _solve(signs, 0.0) / width[None, :])

    count = pairs if one_sided else 2 * pairs
    kind = "forward-orthogonal" if one_sided else "orthogonal"
    return _estimator(f"{kind}-{pairs}", lambda n: 1 + count, plan)


def central_differences(epsilon: Any) -> Estimator:
    """One control at a time, both ways; one-sided in effect at the border.

        g_i = (L(p + e_i) - L(p - e_i)) / (realised difference)

    Args:
      epsilon: step of each control, a number or [n], in the unit of the cube.

    Returns:
      An `Estimator` of 1 + 2 n renders; deterministic, the key is not used.

    Raises:
      ValueError: epsilon not in (0, 0.5].
    """
    step = _step(epsilon)

    def plan(key, controls):
        eye = jnp.eye(controls.shape[-1], dtype=jnp.float32)
        points, width = _pairs(controls, eye, step)
        return Plan(points, eye / width[None, :])

    return _estimator("central", lambda n: 1 + 2 * n, plan)


def forward_differences(epsilon: Any) -> Estimator:
    """One control at a time against the centre; backward where forward leaves the cube.

    Args:
      epsilon: step of each control, a number or [n], in the unit of the cube.

    Returns:
      An `Estimator` of 1 + n renders; deterministic, the key is not used.

    Raises:
      ValueError: epsilon not in (0, 0.5].
    """
    step = _step(epsilon)

    def plan(key, controls):
        points, moves = _forward_points(controls, step)
        return Plan(points, jnp.diag(1.0 / moves))

    return _estimator("forward", lambda n: 1 + n, plan)


def coordinates(
    epsilon: Any,
    scale: Any,
    count: int,
    *,
    one_sided: bool = True,
    scaling: str = "projection",
) -> Estimator:
    """Differences of the few controls whose gradient is largest, or least well known.

    Effects do not spread their gradient evenly: of a channel strip's 19 controls the
    gain alone often has half of it. With residuals g_i - prior_i independent and of
    size s_i, the K measurements that leave least are those of the K largest s_i.

    Args:
      epsilon: step of each control, a number or [n], in the unit of the cube.
      scale: s [n], expected size of each gradient, or of its error where a `prior` is
        given; positive. From a calibration on other material.
      count: number of controls measured, K <= n.
      one_sided: measure against the centre; K renders beside it, else 2 K.
      scaling: ``"projection"`` measures the K largest always and leaves the others to
        the prior (0 without one, so they never move). ``"unbiased"`` draws K controls
        with probability min(1, c s_i) and divides by it: every control moves.

    Returns:
      An `Estimator` of 1 + K or 1 + 2 K renders.

    Raises:
      ValueError: epsilon not in (0, 0.5], a scale that is not positive, a count
        beyond n, or an unknown scaling.
    """
    step, count = _step(epsilon), _count(count, "count")
    _check_scaling(scaling)
    probability = _inclusion(np.asarray(scale, np.float64), count)
    if scaling == "projection":
        probability = (
            np.argsort(np.argsort(-probability, kind="stable")) < count
        ) * 1.0
    edges = np.cumsum(probability)
    # Systematic sampling: a comb of K unit teeth, thrown at random on the edges.
    edges = (edges * (count / edges[-1])).astype(np.float32)
    gain = np.divide(1.0, probability, where=probability > 0, out=probability * 0.0)

    def plan(key, controls):
        n = controls.shape[-1]
        offset = jax.random.uniform(key, minval=1e-4, maxval=1.0 - 1e-4)
        teeth = jnp.floor(jnp.asarray(edges) - offset + 1.0)
        before = jnp.concatenate([jnp.zeros(1), teeth[:-1]])
        chosen = jax.lax.top_k(teeth - before, count)[1]
        eye = jnp.eye(n, dtype=jnp.float32)[chosen]
        if not one_sided:
            points, width = _pairs(controls, eye, step)
            return Plan(points, eye * (jnp.asarray(gain, jnp.float32) / width)[None, :])
        points, moves = _forward_points(controls, step)
        weights = jnp.diag(jnp.asarray(gain, jnp.float32) / moves)[chosen]
        rows = jnp.concatenate([jnp.zeros(1, chosen.dtype), 1 + chosen])
        return Plan(points[rows], weights)

    renders = 1 + count if one_sided else 1 + 2 * count
    return _estimator(f"coordinates-{count}", lambda n: renders, plan)


def restricted(estimator: Estimator, indices: Sequence[int]) -> Estimator:
    """The same estimator for some of the controls, while the others stay put.

    The weights of the others are 0, and so is their gradient, or it is that of the
    prior where one is given.

    Args:
      estimator: for as many controls as there are indices.
      indices: the controls that it moves; none costs the centre's render alone.

    Returns:
      An `Estimator` for controls [n] of any n above the indices.
    """
    chosen = np.asarray(indices, np.int32)
    count = len(chosen)

    def plan(key, controls):
        centre, n = _inside(controls), controls.shape[-1]
        if not count:
            return Plan(centre[None], jnp.zeros((0, n)))
        inner = estimator.plan(key, centre[chosen])
        points = jnp.broadcast_to(centre[None], (inner.points.shape[0], n))
        weights = jnp.zeros((inner.weights.shape[0], n))
        return Plan(
            points.at[:, chosen].set(inner.points),
            weights.at[:, chosen].set(inner.weights),
        )

    return estimator._replace(
        name=f"{estimator.name}-of-{count}",
        renders=lambda n: estimator.renders(count) if count else 1,
        plan=plan,
    )


def _estimator(name, renders, plan) -> Estimator:
    return Estimator(name, renders, plan, scalar_gradient, vector_gradient)


def _inside(controls: AnyArray) -> jax.Array:
    return jnp.clip(jnp.asarray(controls, jnp.float32), 0.0, 1.0)


def _pairs(controls, directions, step):
    """Points of pairs, and the width [n] between the ends where the direction is 1.

    The width does not depend on the sign, so that the realised move of a sign
    direction is sign x width: a border makes no direction less independent.
    """
    centre = _inside(controls)
    high = jnp.minimum(centre + step, 1.0)
    low = jnp.maximum(centre - step, 0.0)
    ends = [
        jnp.where(s > 0, high[None], jnp.where(s < 0, low[None], centre[None]))
        for s in (directions, -directions)
    ]
    return jnp.concatenate([centre[None], *ends]), high - low


def _forward_points(controls, step):
    """The centre and one point a control [1 + n, n], and the realised moves [n]."""
    centre = _inside(controls)
    sign = jnp.where(centre + step > 1.0, -1.0, 1.0)
    ahead = centre[None, :] + jnp.diag(sign * step)
    return jnp.concatenate([centre[None], ahead]), jnp.diagonal(ahead) - centre


def _steps(controls, signs, step):
    """Points of one-sided moves, moves [K, n] in steps, and the step [n]."""
    centre = _inside(controls)
    ahead = centre[None, :] + signs * jnp.broadcast_to(step, centre.shape)[None, :]
    ahead = jnp.where((ahead < 0.0) | (ahead > 1.0), centre[None, :], ahead)
    width = jnp.broadcast_to(step, centre.shape)
    moves = (ahead - centre[None, :]) / width[None, :]
    return jnp.concatenate([centre[None], ahead]), moves, width


def _solve(rows: jax.Array, ridge: float) -> jax.Array:
    """Weights [K, n] of the minimum-norm least-squares solution g = Wᵀ d of A g = d."""
    count, n = rows.shape
    if count <= n:
        gram = _product(rows, rows.T)
        gram += ridge * n * jnp.eye(count, dtype=rows.dtype)
        return jax.scipy.linalg.solve(gram, rows, assume_a="pos")
    gram = _product(rows.T, rows)
    gram += ridge * count * jnp.eye(n, dtype=rows.dtype)
    return jax.scipy.linalg.solve(gram, rows.T, assume_a="pos").T


def _step(epsilon: Any) -> np.ndarray:
    step = np.asarray(epsilon, np.float32)
    if step.ndim > 1 or not np.all((step > 0.0) & (step <= 0.5)):
        raise ValueError(
            "epsilon must be one number or one per control, in (0, 0.5] of the unit"
            f" cube; got {epsilon}"
        )
    return step


def _count(value: int, name: str) -> int:
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, got {value}")
    return value


def _check_scaling(scaling: str) -> None:
    if scaling not in ("unbiased", "projection"):
        raise ValueError(
            f"scaling {scaling!r} is unknown; choose 'unbiased' or 'projection'"
        )


def _inclusion(scale: np.ndarray, count: int) -> np.ndarray:
    """Probabilities min(1, c s) [n] that add up to `count`."""
    if scale.ndim != 1 or not np.all(np.isfinite(scale) & (scale > 0)):
        raise ValueError(f"scale must be positive, one per control; got {scale}")
    if count > scale.size:
        raise ValueError(f"count {count} exceeds the {scale.size} controls")
    sure = np.zeros(scale.size, bool)
    while True:
        rest = np.where(sure, 0.0, scale)
        free = count - sure.sum()
        chance = np.where(sure, 1.0, rest * (free / rest.sum() if free else 0.0))
        if not np.any(chance > 1.0 + 1e-12):
            return np.minimum(chance, 1.0)
        sure |= chance > 1.0
