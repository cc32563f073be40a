"""The staged form: two compiled halves with the host's renders between, in Python.

    propose (device)   parameters -> controls and their vjp; where to render
    render  (host)     all points of all examples, one call to the pool
    conclude (device)  losses and estimated control gradients -> parameter gradients

A vjp is a pytree, so it crosses from the first half to the second and nothing is
computed twice. Exceptions and Ctrl-C are ordinary, no callback can deadlock, and of
several devices or processes each renders its own rows
(`ddspx.training.parallel.host_map`).

An example with a render that failed has no loss and no gradient: both are 0, it is
counted in ``excluded``, and the mean is over the others.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddspx import signal
from ddspx.training.parallel import by_row, host_map
from styletransfer.gradients.default import DEFAULT_RENDERS, chosen_estimator
from styletransfer.gradients.estimators import Estimator

Loss = Callable[[jax.Array, Any], jax.Array]
Compiled = Any  # what jax.jit returns: callable, and can be lowered and exported
Render = Callable[..., tuple[np.ndarray, np.ndarray]]


class After(NamedTuple):
    """What a host's audio passes before it is judged, in JAX.

    Attributes:
      hosted: how many of the controls, the first ones, are the host's. The estimator
        sees these only; what `render` does with any control has an exact gradient,
        which is added.
      render: ``(rendered[channels, time], controls[n], audio[channels, time]) ->
        audio[channels, time]``, from the host's render, all controls and its input.
    """

    hosted: int
    render: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Staged(NamedTuple):
    """The two compiled halves.

    Attributes:
      propose: ``(params, batch, key) -> (points[batch, renders, n], pending)``.
      conclude: ``(pending, audio[batch, renders, channels, time], status[batch,
        renders], batch) -> (gradients, metrics)``; metrics are the scalars ``loss``
        (mean over the examples that count), ``excluded`` (how many do not) and
        ``control_gradient`` (root mean square of the controls' gradient).
    """

    propose: Compiled
    conclude: Compiled


def compile_halves(
    predict: Callable[[Any, Mapping[str, Any]], jax.Array],
    loss: Loss,
    estimator: Estimator | int = DEFAULT_RENDERS,
    *,
    form: str = "vector",
    proxy: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    after: After | None = None,
    mesh: Mesh | None = None,
    by_example: bool = False,
) -> Staged:
    """Compiles the two halves of a training step through a black box.

    Args:
      predict: ``(params, batch) -> controls[batch, n]``, differentiable.
      loss: ``(audio[channels, time], example) -> scalar`` of one example, a row of the
        batch.
      estimator: how the renders become a gradient; or how many renders a gradient may
        cost, of which `default_estimator` makes the most.
      form: ``"vector"`` (dL/dy at the centre times the change of the audio; one loss
        gradient an example) or ``"scalar"`` (the loss of every render).
      proxy: differentiable stand-in ``(audio[channels, time], controls[n]) -> audio``
        of the host for a control variate; it reads ``batch["audio"]``.
      after: what in JAX comes between the host and the loss, see
        `styletransfer.gradients.chains`; None where the host renders all.
      mesh: the devices that share the batch; None for one.
      by_example: judge one example after the other where that is faster, see
        `ddspx.signal.map_examples`: for losses whose spectra of a whole batch fill the
        memory. Rounding is then not that of the fused form.

    Returns:
      `Staged`; `staged_step` puts a host between its halves.

    Raises:
      ValueError: an unknown form.
    """
    _check_form(form)
    judged = judged_by(loss, after)

    def hosted(controls):
        return controls if after is None else controls[..., : after.hosted]

    def chosen(points):
        return chosen_estimator(estimator, points.shape[-1], prior=proxy is not None)

    def examples(function, *arrays):
        # A loop over rows that lie on several devices would bring them all together.
        if mesh is not None or not by_example:
            return jax.vmap(function)(*arrays)
        leaves, tree = jax.tree.flatten(arrays)
        return signal.map_examples(
            lambda *rows: function(*jax.tree.unflatten(tree, rows)), *leaves
        )

    def propose(params, batch, key):
        controls, vjp = jax.vjp(lambda p: predict(p, batch), params)
        keys = jax.random.split(key, controls.shape[0])
        plan = jax.vmap(chosen(hosted(controls)).plan)(keys, hosted(controls))
        if mesh is not None:
            plan = jax.lax.with_sharding_constraint(plan, by_row(mesh))
        return plan.points, (plan, controls, vjp)

    def conclude(pending, audio, status, batch):
        plan, controls, vjp = pending
        ok = jnp.all(status == 0, axis=1)

        def centre_loss(audio, controls):
            losses = examples(judged, audio, controls, batch["audio"], batch)
            return mean_over_valid(losses, ok)

        if form == "vector":
            total, (cotangent, exact) = jax.value_and_grad(centre_loss, (0, 1))(
                audio[:, 0], controls
            )
            prior = _vector_prior(examples, proxy, plan, batch, cotangent)
            estimated = jax.vmap(chosen(plan.points).vector)(
                plan, audio, cotangent, prior
            )
        else:
            every = jax.vmap(judged, (0, None, None, None))
            each = examples(every, audio, controls, batch["audio"], batch)
            total = mean_over_valid(each[:, 0], ok)
            exact = jnp.zeros_like(controls)
            if after is not None:
                exact = jax.grad(centre_loss, 1)(audio[:, 0], controls)
            prior = _scalar_prior(examples, proxy, judged, plan, controls, batch)
            estimated = jax.vmap(chosen(plan.points).scalar)(plan, each, prior)
            estimated /= jnp.maximum(jnp.sum(ok), 1)
        gradient = jnp.where(ok[:, None], sum_of_both(estimated, exact), 0.0)
        metrics = {
            "loss": total,
            "excluded": jnp.sum(~ok).astype(jnp.float32),
            "control_gradient": jnp.sqrt(jnp.mean(gradient**2)),
        }
        return vjp(gradient)[0], metrics

    return Staged(jax.jit(propose), jax.jit(conclude))


def staged_step(
    halves: Staged,
    render: Render,
    params: Any,
    batch: Mapping[str, Any],
    key: jax.Array,
) -> tuple[Any, dict[str, jax.Array]]:
    """One staged step: propose, render everything in one call, conclude.

    Args:
      halves: from `compile_halves`.
      render: ``host.render``: ``(audio[B, channels, time], controls[M, n], source[M])
        -> (audio[M, channels, time], status[M])``.
      params: what is trained.
      batch: examples; ``batch["audio"]`` [batch, channels, time] is rendered.
      key: the key of the step.

    Returns:
      (gradients of the mean loss, like `params`; metrics, see `Staged`).
    """
    points, pending = halves.propose(params, batch, key)
    audio = batch["audio"]
    if not isinstance(audio, jax.Array):
        audio = jax.device_put(audio, points.sharding)
    elif points.size == 0:  # the compiler forgets how an empty array is split
        points = jax.device_put(points, audio.sharding)
    rendered, status = host_map(
        lambda points, audio: render_points(render, audio, points), points, audio
    )
    return halves.conclude(pending, rendered, status, batch)


def render_points(
    render: Render, audio: np.ndarray, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Renders every point of every example in one call; NumPy only.

    Args:
      render: see `staged_step`.
      audio: [batch, channels, time], or [1, channels, time] for all examples.
      points: [batch, renders, n] in [0, 1].

    Returns:
      (audio [batch, renders, channels, time], status [batch, renders] int32).
    """
    batch, renders, n = points.shape
    source = np.repeat(np.arange(batch) % audio.shape[0], renders).astype(np.int32)
    controls = np.ascontiguousarray(points.reshape(len(source), n), np.float32)
    rendered, status = render(np.asarray(audio, np.float32), controls, source)
    return (
        rendered.reshape(batch, renders, *audio.shape[1:]),
        status.reshape(batch, renders).astype(np.int32),
    )


def mean_over_valid(losses: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean of the losses [batch] that are valid [batch]; 0 when none is."""
    kept = jnp.where(valid, losses, 0.0)
    return jnp.sum(kept) / jnp.maximum(jnp.sum(valid), 1)


def judged_by(loss: Loss, after: After | None) -> Callable[..., jax.Array]:
    """The loss of a host's render: ``(rendered, controls, audio, example) -> scalar``.

    Args:
      loss: of what is heard.
      after: see `compile_halves`.
    """
    if after is None:
        return lambda rendered, controls, audio, example: loss(rendered, example)

    def judged(rendered, controls, audio, example):
        return loss(after.render(rendered, controls, audio), example)

    return judged


def sum_of_both(estimated: jax.Array, exact: jax.Array) -> jax.Array:
    """Gradient [..., n]: the estimate for the first controls and the exact part."""
    missing = exact.shape[-1] - estimated.shape[-1]
    widths = [(0, 0)] * (estimated.ndim - 1) + [(0, missing)]
    return exact + jnp.pad(estimated, widths)


def _vector_prior(examples, proxy, plan, batch, cotangent):
    if proxy is None:
        return None

    def one(audio, controls, cotangent):
        return jax.vjp(lambda u: proxy(audio, u), controls)[1](cotangent)[0]

    return examples(one, batch["audio"], plan.points[:, 0], cotangent)


def _scalar_prior(examples, proxy, judged, plan, controls, batch):
    if proxy is None:
        return None

    def one(centre, controls, example):
        audio = example["audio"]
        return judged(proxy(audio, centre), controls, audio, example)

    return examples(jax.grad(one), plan.points[:, 0], controls, batch)


def _check_form(form: str) -> None:
    if form not in ("vector", "scalar"):
        raise ValueError(f"form {form!r} is unknown; choose 'vector' or 'scalar'")
