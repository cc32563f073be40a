"""Chains of plug-ins and JAX, their renders and differences: what their tests share."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np

from ddspx.effects.base import aligned
from styletransfer.gradients import (
    chain_black_box,
    chain_black_box_loss,
    chain_halves,
    split_chain,
    staged_step,
)
from styletransfer.hosts import HostEffect, open_host
from styletransfer.presets import parse_effect
from styletransfer.twins import twin_effect

RATE, B, C, T = 16000, 2, 2, 1500
STEP = 0.005
FORMS = ("vector", "scalar")
# Share of the largest gradient: differences at STEP are off by 5e-4 at most here, and
# a gradient that is linear over a step of sound or level by some 1e-3 through twins.
CLOSE, CLOSE_BY_TWINS = 1e-3, 3e-3
SLOTS = {
    "peak": "plugin: PeakFilter, fixed: {q: 1}, controls:"
    " {cutoff_frequency_hz: {low: 200, high: 4000}, gain_db: }",
    "comp": "plugin: Compressor, fixed: {release_ms: 50},"
    " controls: {threshold_db: {low: -40, high: -10}, ratio: {low: 2, high: 8}}",
    "drive": "plugin: Distortion, controls: {drive_db: {low: 0, high: 20}}",
    "shelf": "plugin: HighShelfFilter, fixed: {q: 0.7},"
    " controls: {cutoff_frequency_hz: {low: 500, high: 5000}, gain_db: }",
    "gain": "plugin: Gain, bypass: control, controls: {gain_db: {low: -12, high: 12}}",
    "level": "plugin: Gain, controls: {gain_db: {low: -12, high: 12}}",
    "limit": "plugin: limiter, controls: {gain_db: {low: 0, high: 12}}",
    "push": "plugin: Distortion, controls: {drive_db: {low: 0, high: 20}}",
    "fixed": "plugin: Gain, fixed: {gain_db: -6}",
    "skip": "plugin: PitchShift, bypass: true",
    "skip2": "plugin: PitchShift, bypass: true",
}
# A slot in capitals is a plug-in, the others are JAX.
CHAINS = {
    "both ends": "peak COMP shelf gain",
    "leading plug-in": "DRIVE peak",
    "in between": "DRIVE peak COMP SKIP shelf",
    "several": "peak gain DRIVE shelf COMP SKIP2",
    "late": "peak FIXED limit SKIP gain",
    "light": "gain DRIVE push level",
    "all JAX": "push level SKIP",
    "all plug-ins": "SKIP PEAK COMP",
}


def describe(words):
    lines = [
        f"  {w.lower()}: {{{SLOTS[w.lower()]},"
        f" backend: {'pedalboard' if w.isupper() else 'jax'}}}"
        for w in words.split()
    ]
    return parse_effect("slots:\n" + "\n".join(lines), "chain")


@functools.cache
def split(name):
    return split_chain(describe(CHAINS[name]), RATE)


@contextlib.contextmanager
def serial_hosts():
    """Opens descriptions in this process and closes them in the end."""
    with contextlib.ExitStack() as stack:
        yield lambda effect: stack.enter_context(
            open_host(effect, RATE, backend="serial")
        )


@functools.cache
def batch():
    rng = np.random.default_rng(5)
    audio = (0.3 * rng.standard_normal((B, C, T))).astype(np.float32)
    return {"audio": audio, "target": np.roll(audio, 1, -1) * np.float32(0.5)}


def settings_for(chain, seed=0):
    """Controls [B, n] in the inner part, where no step leaves the cube."""
    rng = np.random.default_rng(seed)
    controls = rng.uniform(0.25, 0.75, (B, len(chain.specs)))
    for i, spec in enumerate(chain.specs):
        if spec.choices:
            controls[:, i] = 0.2  # the first choice
    return controls.astype(np.float32)


def loss(audio, example):
    return jnp.mean((audio - example["target"]) ** 2)


def losses_of(host, controls, example):
    """Losses [m] in float64 of settings [m, n] of one example, through a host."""
    rendered = host.render(batch()["audio"][example][None], controls)
    assert not rendered.status.any()
    apart = rendered.audio.astype(np.float64) - batch()["target"][example][None]
    return np.mean(apart**2, axis=(1, 2))


def whole_differences(host, controls, step=STEP):
    """Central differences of the whole chain's loss: gradients [B, n]."""
    n = controls.shape[1]
    moves = np.concatenate([np.eye(n), -np.eye(n)]).astype(np.float32) * step
    rows = []
    for example, centre in enumerate(controls):
        values = losses_of(host, centre[None] + moves, example)
        rows.append((values[:n] - values[n:]) / (2 * step))
    return np.stack(rows)


def staged(chain, render, controls, estimator, form, proxies=None, **over):
    """Gradients [B, n] of each example's own loss, and the metrics."""
    halves = chain_halves(
        chain, lambda u, _: u, loss, estimator, form=form, proxies=proxies
    )
    gradient, metrics = staged_step(
        halves, render, jnp.asarray(controls), {**batch(), **over}, jax.random.key(3)
    )
    return np.asarray(gradient) * B, metrics


def fused(chain, render, estimator, form, proxies=None):
    """The same of one example, ``(audio, controls, key, example) -> (loss, ok)``."""
    if form == "scalar":
        return chain_black_box_loss(chain, render, loss, estimator, proxies=proxies)
    heard = chain_black_box(chain, render, estimator, proxies=proxies)

    def one(audio, controls, key, example):
        audio, ok = heard(audio, controls, key)
        return loss(audio, example), ok

    return one


def assert_close(found, wanted, share=CLOSE):
    """Every gradient within a share of its example's largest."""
    size = np.abs(wanted).max(axis=-1, keepdims=True)
    assert np.all(size > 1e-4)
    np.testing.assert_array_less(np.abs(found - wanted) / size, share)


def exact_twins(chain):
    """The twins of the plug-ins, as stand-ins."""
    return {
        slot.name: aligned(twin_effect(HostEffect("one", (slot,)), RATE))
        for slot in chain.effect.slots
        if slot.kind == "pedalboard" and not slot.bypass
    }
