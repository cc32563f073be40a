"""Chains that mix plug-ins and JAX: estimates where there must be, autodiff elsewhere.

A chain is split behind its last plug-in,

    y = after(host(x, u), v),

into what the host renders, with the controls u of the plug-ins and of all JAX before
them, and the JAX that follows, with the controls v. One call renders the points of u;
v stays where it is. With L the loss and y0 the render at the centre,

    dL/dv = autodiff of L(after(y0, v)),
    dL/du = estimator on L(after(y, v)) of every render (scalar form), or on y with the
            cotangent dL/dy0 pulled back through `after` (vector form).

With h controls in u out of n, central differences cost 1 + 2 h renders of a part of the
chain where those of everything cost 1 + 2 n of the whole; forward differences 1 + h
instead of 1 + n. Controls of JAX in front of a plug-in are in u, because nothing tells
a plug-in's gradient with respect to its audio.

Unless somebody names a stand-in of every plug-in (``proxies``): then dL/dy0 is pulled
back through the host's part with stand-ins in it, to the controls of that earlier JAX,
and the estimator moves those of the plug-ins alone. What is heard remains what the
plug-ins render; but these gradients are only as right as the stand-ins.

A choice, a bypass among them, has no slope: autodiff gives 0 for it, be it behind the
plug-ins or in front of them with stand-ins.

    chain = split_chain(load_effect("mixed"), 44100)
    halves = chain_halves(chain, predict, loss, central_differences(0.01))
    with open_host(chain.host, 44100) as host:
        gradients, metrics = staged_step(halves, host.render, params, batch, key)
        heard = chain_black_box(chain, host.render)     # inside anyone's jax.grad
        audio, ok = heard(audio, controls, key)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddspx.effects.base import Effect, aligned, make_effect, without_memory
from ddspx.parameters import ParameterSpec
from ddspx.types import AnyArray, Rate
from styletransfer.gradients.default import DEFAULT_RENDERS, default_estimator
from styletransfer.gradients.estimators import Estimator, restricted
from styletransfer.gradients.fused import black_box, black_box_loss
from styletransfer.gradients.staged import (
    After,
    Loss,
    Render,
    Staged,
    compile_halves,
    judged_by,
)
from styletransfer.hosts.catalogue import nearest
from styletransfer.hosts.description import HostEffect, Slot
from styletransfer.hosts.request import Rendered
from styletransfer.twins.effect import twin_effect

# (audio[channels, time], controls of the slot[k]) -> audio[channels, time]
StandIn = Callable[[jax.Array, jax.Array], jax.Array]
_JAX = "jax"


@dataclass(frozen=True)
class Chain:
    """A chain at a sample rate, split behind its last plug-in; see the module.

    Attributes:
      effect: the whole, with its ranges limited to the sample rate.
      sample_rate: Hz.
      host: what `open_host` opens, up to the last slot that is neither JAX nor bypassed
        for good; None where all is JAX, then give `pass_through` as the render.
      after: the JAX that follows; without specs, and the identity, where nothing does.
        Its latency is taken away from what is heard, as hosts do.
    """

    effect: HostEffect
    sample_rate: Rate
    host: HostEffect | None
    after: Effect

    @property
    def specs(self) -> tuple[ParameterSpec, ...]:
        """All controls in order: the host's, then those behind it."""
        return self.effect.specs

    @property
    def host_controls(self) -> slice:
        """Which of the controls the host takes."""
        return slice(0, len(self.specs) - len(self.after.specs))

    @property
    def after_controls(self) -> slice:
        """Which of the controls have an exact gradient."""
        return slice(self.host_controls.stop, len(self.specs))


def split_chain(effect: HostEffect, sample_rate: Rate) -> Chain:
    """Splits a description behind its last plug-in.

    Args:
      effect: slots of any kinds in any order; either part may be empty.
      sample_rate: Hz; ranges in Hz are limited to 0.45 of it, as `open_host` does.

    Returns:
      A `Chain`, whose parts one after the other render what the whole does.

    Raises:
      ValueError: a plug-in behind the split that JAX does not have, see `twin_effect`.
    """
    limited = effect.at_sample_rate(sample_rate)
    slots = limited.slots
    black = [i for i, s in enumerate(slots) if s.kind != _JAX and not s.bypass]
    cut = black[-1] + 1 if black else 0
    after = make_effect((), without_memory(lambda audio, values: audio))
    if _heard(slots[cut:]):
        after = twin_effect(replace(limited, slots=slots[cut:]), sample_rate)
    host = replace(limited, slots=slots[:cut]) if cut else None
    return Chain(limited, sample_rate, host, after)


def chain_halves(
    chain: Chain,
    predict: Callable[[Any, Mapping[str, Any]], jax.Array],
    loss: Loss,
    estimator: Estimator | int = DEFAULT_RENDERS,
    *,
    form: str = "vector",
    proxies: Mapping[str, StandIn] | None = None,
    mesh: Mesh | None = None,
) -> Staged:
    """The two halves of a training step through a chain; see `compile_halves`.

    Args:
      chain: from `split_chain`.
      predict: ``(params, batch) -> controls[batch, n]`` of the whole chain.
      loss: ``(audio[channels, time], example) -> scalar`` of what leaves the chain.
      estimator: for the controls of ``chain.host``, or with `proxies` for those of its
        plug-ins; or how many renders a gradient may cost.
      form: ``"vector"`` or ``"scalar"``.
      proxies: by the name of its slot, a differentiable stand-in for every plug-in of
        ``chain.host``, ``(audio[channels, time], controls[k]) -> audio`` with the k
        controls of the slot in [0, 1]; see the module for what they do.
      mesh: the devices that share the batch; None for one.

    Returns:
      `Staged`, for `staged_step` with the render of ``chain.host``. A render that fails
      excludes its example, the exact part of its gradient included.

    Raises:
      ValueError: an unknown form, a stand-in that is missing or that has no use, or
        (when traced) another number of controls.
    """

    def checked(params, batch):
        controls = predict(params, batch)
        _check_width(chain, controls)
        return controls

    return compile_halves(
        checked,
        loss,
        _estimator(chain, estimator, proxies),
        form=form,
        after=_after(chain, proxies),
        mesh=mesh,
    )


def chain_black_box(
    chain: Chain,
    render: Render,
    estimator: Estimator | int = DEFAULT_RENDERS,
    *,
    proxies: Mapping[str, StandIn] | None = None,
) -> Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """A chain as a function with a gradient, in the vector form; see `black_box`.

    Args:
      chain: from `split_chain`.
      render: of ``chain.host``; not called where there is none.
      estimator: see `chain_halves`.
      proxies: see `chain_halves`.

    Returns:
      ``(audio[channels, time], controls[n], key) -> (audio, ok)``: what leaves the
      chain, zeros and without a gradient where `ok` is False.

    Raises:
      ValueError: a stand-in that is missing or that has no use.
      RuntimeError: (when traced) several devices and no ``shard_map``.
      NotImplementedError: (when traced) a gradient to the audio of a host is wanted.
    """
    box = black_box(render, _estimator(chain, estimator, proxies))
    after = _after(chain, proxies)
    heard = judged_by(lambda audio, example: audio, after)

    def effect(audio, controls, key):
        audio, controls = jnp.asarray(audio), jnp.asarray(controls)
        _check_width(chain, controls)
        if chain.host is None:
            return heard(audio, controls, audio, None), jnp.asarray(True)
        rendered, ok = box(audio, controls[chain.host_controls], key)
        # A derivative at the silence of a failed render may be no number.
        kept = jnp.where(ok, controls, jax.lax.stop_gradient(controls))
        return jnp.where(ok, heard(rendered, kept, audio, None), 0.0), ok

    return effect


def chain_black_box_loss(
    chain: Chain,
    render: Render,
    loss: Loss,
    estimator: Estimator | int = DEFAULT_RENDERS,
    *,
    proxies: Mapping[str, StandIn] | None = None,
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """The loss of a chain with a gradient, in the scalar form; see `black_box_loss`.

    Args:
      chain: from `split_chain`.
      render: of ``chain.host``; not called where there is none.
      loss: ``(audio[channels, time], example) -> scalar`` of what leaves the chain,
        differentiable.
      estimator: see `chain_halves`.
      proxies: see `chain_halves`.

    Returns:
      ``(audio[channels, time], controls[n], key, example) -> (loss, ok)``. Only the
      controls have a gradient.

    Raises:
      ValueError: a stand-in that is missing or that has no use.
      RuntimeError: (when traced) several devices and no ``shard_map``.
      NotImplementedError: (when traced) a gradient to the audio of a host is wanted.
    """
    after = _after(chain, proxies)
    box = black_box_loss(
        render, loss, _estimator(chain, estimator, proxies), after=after
    )

    def effect_loss(audio, controls, key, example):
        audio, controls = jnp.asarray(audio), jnp.asarray(controls)
        _check_width(chain, controls)
        if chain.host is None:
            judged = judged_by(loss, after)
            return judged(audio, controls, audio, example), jnp.asarray(True)
        return box(audio, controls, key, example)

    return effect_loss


def pass_through(
    audio: np.ndarray, controls: np.ndarray, source: np.ndarray | None = None
) -> Rendered:
    """The render of a chain without a host: every item is its signal.

    Args:
      audio: [signals, channels, time].
      controls: [items, 0].
      source: [items], see `styletransfer.hosts.host.Host.render`.

    Returns:
      The signals, all of them valid.
    """
    items = len(controls)
    chosen = np.arange(items) % len(audio) if source is None else source
    return Rendered(np.asarray(audio[chosen], np.float32), np.zeros(items, np.int32))


def _estimator(chain, estimator, proxies) -> Estimator:
    """What moves the measured controls among those of the host."""
    hosted = chain.host_controls.stop
    moved = list(range(hosted)) if proxies is None else _of_plugins(chain)
    if isinstance(estimator, int):
        # Without controls there is nothing to move, whichever estimator it is.
        specs = [chain.specs[i] for i in moved] or [ParameterSpec("none")]
        estimator = default_estimator(specs, estimator)
    if moved and len(moved) == hosted:
        return estimator
    return restricted(estimator, moved)


def _after(chain: Chain, proxies: Mapping[str, StandIn] | None) -> After | None:
    stand_in = None if proxies is None else _stand_in(chain, proxies)
    hosted = chain.host_controls.stop
    follows = _heard(chain.effect.slots[_length(chain.host) :])
    if not follows and stand_in is None:
        return None
    behind = aligned(chain.after)

    def render(rendered, controls, audio):
        controls = _inside(controls)
        if stand_in is not None:
            rendered = _with_slope_of(rendered, stand_in(audio, controls[:hosted]))
        return behind(rendered, controls[hosted:]) if follows else rendered

    return After(hosted, render)


def _stand_in(chain: Chain, proxies: Mapping[str, StandIn]) -> StandIn:
    """The host's part in JAX; a slope has the JAX that was in it from the start."""
    slots = () if chain.host is None else _heard(chain.host.slots)
    _check_proxies(slots, proxies)
    parts: list[tuple[slice, StandIn]] = []
    start = 0

    def add(members: Sequence[Slot], render: StandIn) -> None:
        nonlocal start
        stop = start + sum(len(slot.controls) for slot in members)
        parts.append((slice(start, stop), render))
        start = stop

    for in_jax, group in groupby(slots, lambda slot: slot.kind == _JAX):
        members = tuple(group)
        if in_jax:
            part = replace(chain.effect, slots=members)
            add(members, aligned(twin_effect(part, chain.sample_rate)))
        else:
            for slot in members:
                add([slot], _checked_stand_in(slot.name, proxies[slot.name]))

    def render(audio, controls):
        for span, part in parts:
            audio = part(audio, controls[span])
        return audio

    return render


def _checked_stand_in(name: str, proxy: StandIn) -> StandIn:
    """Keeps the slot's own controls out of the gradient: they have the estimator's."""

    def render(audio, controls):
        after = proxy(audio, jax.lax.stop_gradient(controls))
        if jnp.shape(after) != audio.shape:
            raise ValueError(
                f"the proxy of slot {name} gave shape {jnp.shape(after)} for audio of"
                f" shape {audio.shape}; it must give audio of the same shape"
            )
        return after

    return render


def _check_proxies(slots: Sequence[Slot], proxies: Mapping[str, StandIn]) -> None:
    plugins = [slot.name for slot in slots if slot.kind != _JAX]
    for name in proxies:
        if name not in plugins:
            raise ValueError(
                f"proxies name {name!r}, which is no plug-in of this chain"
                f"{nearest(name, plugins)}; its plug-ins are:"
                f" {', '.join(plugins) or 'none'}"
            )
    if not any(slot.controls for slot in slots if slot.kind == _JAX):
        raise ValueError(
            "proxies are given, but no control of a JAX slot comes before a plug-in:"
            " they would not be used; leave them out"
        )
    for name in plugins:
        if name not in proxies:
            raise ValueError(
                f"slot {name} is a plug-in without a proxy, so that nothing can pass a"
                f" gradient through it; give proxies={{{name!r}: a differentiable"
                " (audio, controls) -> audio}, or no proxies, to perturb all controls"
            )


def _of_plugins(chain: Chain) -> list[int]:
    """Controls of the host's part that belong to plug-ins, not to JAX among them."""
    slots = () if chain.host is None else _heard(chain.host.slots)
    kinds = [slot.kind for slot in slots for _ in slot.controls]
    return [i for i, kind in enumerate(kinds) if kind != _JAX]


def _heard(slots: Sequence[Slot]) -> tuple[Slot, ...]:
    return tuple(slot for slot in slots if not slot.bypass)


def _length(host: HostEffect | None) -> int:
    return 0 if host is None else len(host.slots)


def _check_width(chain: Chain, controls: AnyArray) -> None:
    if controls.shape[-1] != len(chain.specs):
        names = ", ".join(spec.name for spec in chain.specs)
        raise ValueError(
            f"the chain has {len(chain.specs)} controls ({names}), got"
            f" {controls.shape[-1]}: give those behind the host too, on the last axis"
        )


def _inside(controls: jax.Array) -> jax.Array:
    """Clipped as hosts clip; the slope is that at the border, as estimators measure."""
    clipped = jnp.clip(controls, 0.0, 1.0)
    return _with_slope_of(jax.lax.stop_gradient(clipped), controls)


@jax.custom_vjp
def _with_slope_of(value: jax.Array, other: jax.Array) -> jax.Array:
    """`value`, whose cotangent `other` gets as well."""
    del other
    return value


def _slope_forward(value, other):
    return _with_slope_of(value, other), None


def _slope_backward(_, cotangent):
    return cotangent, cotangent


_with_slope_of.defvjp(_slope_forward, _slope_backward)
