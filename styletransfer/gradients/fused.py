"""The fused form: a black box inside anyone's ``jax.jit`` or ``jax.grad``.

`jax.pure_callback` under `jax.custom_vjp`: the forward rule asks for all renders at
once, so that the backward rule is on the device alone. It composes with ``vmap`` (one
call for the whole batch) and ``lax.scan``. It is a convenience for one device: the
callback blocks the device, may run on any thread, turns exceptions into
``JaxRuntimeError`` and cannot be exported. Training uses `staged`, which gives the
same numbers.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from styletransfer.gradients.default import DEFAULT_RENDERS, chosen_estimator
from styletransfer.gradients.estimators import Estimator, Plan
from styletransfer.gradients.staged import (
    After,
    Loss,
    Render,
    judged_by,
    render_points,
    sum_of_both,
)


def black_box(
    render: Render, estimator: Estimator | int = DEFAULT_RENDERS
) -> Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """A host effect as a function with a gradient, in the vector-Jacobian form.

    Args:
      render: ``host.render``, see `staged.staged_step`; it must be safe to call from
        any thread, which hosts are.
      estimator: how the renders become a gradient; or how many renders a gradient may
        cost, of which `default_estimator` makes the most.

    Returns:
      ``effect(audio[channels, time], controls[n], key) -> (audio, ok)``: the render,
      and a boolean scalar that is False when a render failed (then the audio is zeros
      and the gradient 0: leave the example out with `staged.mean_over_valid`). Only
      the controls have a gradient; batch with ``jax.vmap``.

    Raises:
      RuntimeError: (the effect, when traced) several devices and no ``shard_map``.
      NotImplementedError: (the effect, when traced) a gradient to the audio is wanted.
    """

    @jax.custom_vjp
    def effect(audio, controls, key):
        rendered, ok = _call(render, audio, _centre(estimator, controls, key))
        return rendered[0], ok

    def forward(audio, controls, key):
        _refuse_audio_gradient(audio)
        plan = _plan(estimator, controls.value, key.value)
        rendered, ok = _call(render, audio.value, plan.points)
        return (rendered[0], ok), (plan, rendered, ok)

    def backward(saved, cotangents):
        plan, rendered, ok = saved
        cotangent = _dense(cotangents[0], rendered[0])
        chosen = chosen_estimator(estimator, plan.points.shape[-1])
        gradient = chosen.vector(plan, rendered, cotangent)
        return None, jnp.where(ok, gradient, 0.0), None

    effect.defvjp(forward, backward, symbolic_zeros=True)
    return effect


def black_box_loss(
    render: Render,
    loss: Loss,
    estimator: Estimator | int = DEFAULT_RENDERS,
    *,
    after: After | None = None,
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """The loss of a host effect as a function with a gradient, in the scalar form.

    Args:
      render: ``host.render``, see `black_box`.
      loss: ``(audio[channels, time], example) -> scalar``; needs no gradient, unless
        `after` is given.
      estimator: how the losses of the renders become a gradient, see `black_box`.
      after: what in JAX comes between the host and the loss, see `staged.After`.

    Returns:
      ``(audio[channels, time], controls[n], key, example) -> (loss, ok)``. Only the
      controls have a gradient.

    Raises:
      RuntimeError: (when traced) several devices and no ``shard_map``.
      NotImplementedError: (when traced) a gradient to the audio is wanted.
    """
    judged = judged_by(loss, after)

    def hosted(controls):
        return controls if after is None else controls[: after.hosted]

    @jax.custom_vjp
    def effect_loss(audio, controls, key, example):
        centre = _centre(estimator, hosted(controls), key)
        rendered, ok = _call(render, audio, centre)
        return judged(rendered[0], controls, audio, example), ok

    def forward(audio, controls, key, example):
        _refuse_audio_gradient(audio)
        example = jax.tree.map(lambda leaf: leaf.value, example, is_leaf=_is_primal)
        audio, controls = audio.value, controls.value
        plan = _plan(estimator, hosted(controls), key.value)
        rendered, ok = _call(render, audio, plan.points)
        every = jax.vmap(judged, (0, None, None, None))
        losses = every(rendered, controls, audio, example)
        exact = jnp.zeros_like(controls)
        if after is not None:
            exact = jax.grad(judged, 1)(rendered[0], controls, audio, example)
        chosen = chosen_estimator(estimator, plan.points.shape[-1])
        gradient = sum_of_both(chosen.scalar(plan, losses), exact)
        return (losses[0], ok), (gradient, ok)

    def backward(saved, cotangents):
        gradient, ok = saved
        cotangent = _dense(cotangents[0], jnp.zeros(()))
        return None, jnp.where(ok, gradient * cotangent, 0.0), None, None

    effect_loss.defvjp(forward, backward, symbolic_zeros=True)
    return effect_loss


def _call(render: Render, audio: jax.Array, points: jax.Array) -> Any:
    """Rendered audio [renders, channels, time] and whether all renders are valid."""
    _refuse_several_devices()
    renders = points.shape[0]

    def body(audio, points):  # NumPy only: JAX in a callback can deadlock
        audio, points = np.asarray(audio), np.asarray(points)
        lead = np.broadcast_shapes(audio.shape[:-2], points.shape[:-2])
        rows = np.broadcast_to(points, (*lead, *points.shape[-2:]))
        signals = audio
        if any(size != 1 for size in audio.shape[:-2]):
            signals = np.broadcast_to(audio, (*lead, *audio.shape[-2:]))
        rendered, status = render_points(
            render,
            signals.reshape(-1, *audio.shape[-2:]),
            rows.reshape(math.prod(lead), *points.shape[-2:]),
        )
        return (
            rendered.reshape(*lead, renders, *audio.shape[-2:]),
            status.reshape(*lead, renders),
        )

    rendered, status = jax.pure_callback(
        body,
        (
            jax.ShapeDtypeStruct((renders, *audio.shape), jnp.float32),
            jax.ShapeDtypeStruct((renders,), jnp.int32),
        ),
        audio,
        points,
        vmap_method="expand_dims",
    )
    return rendered, jnp.all(status == 0)


def _plan(estimator, controls, key) -> Plan:
    return chosen_estimator(estimator, controls.shape[-1]).plan(key, controls)


def _centre(estimator, controls, key) -> jax.Array:
    return _plan(estimator, controls, key).points[:1]


def _is_primal(node: Any) -> bool:
    return hasattr(node, "perturbed")


def _dense(cotangent: Any, like: jax.Array) -> jax.Array:
    """A cotangent as an array; JAX hands over a symbol where it is zero."""
    if isinstance(cotangent, jax.custom_derivatives.SymbolicZero):
        return jnp.zeros_like(like)
    return cotangent


def _refuse_audio_gradient(audio: Any) -> None:
    if audio.perturbed:
        raise NotImplementedError(
            "a black-box effect has no gradient with respect to its audio; pass"
            " jax.lax.stop_gradient(audio), or differentiate the controls only"
        )


def _refuse_several_devices() -> None:
    devices = jax.device_count()
    if devices > 1 and not jax.sharding.get_abstract_mesh().manual_axes:
        raise RuntimeError(
            f"the fused black box was traced with {devices} devices and outside"
            " jax.shard_map: one device would render for all. Use the staged form"
            " (styletransfer.gradients.staged), or wrap the call in jax.shard_map"
        )
