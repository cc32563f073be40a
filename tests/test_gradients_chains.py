"""Chains of plug-ins and JAX: both kinds of gradient are those of the whole chain."""

import logging
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixed_chains import (
    CHAINS,
    FORMS,
    RATE,
    STEP,
    B,
    assert_close,
    batch,
    describe,
    exact_twins,
    fused,
    loss,
    losses_of,
    serial_hosts,
    settings_for,
    split,
    staged,
    whole_differences,
)

from ddspx.effects.base import aligned, make_effect, without_memory
from ddspx.parameters import ParameterSpec
from styletransfer.gradients import (
    black_box,
    central_differences,
    chain_black_box,
    compile_halves,
    default_estimator,
    forward_differences,
    mean_over_valid,
    orthogonal,
    pass_through,
    split_chain,
    spsa,
    staged_step,
)
from styletransfer.hosts import HostEffect, Slot
from styletransfer.hosts.fault import fault_controls, fault_effect
from styletransfer.twins import twin_effect


@pytest.fixture
def host_of():
    with serial_hosts() as opened:
        yield opened


# ------------------------------------------------------------------------- splitting


@pytest.mark.parametrize(
    "name,hosted,behind",
    [
        ("both ends", "peak comp", 4),
        ("leading plug-in", "drive", 2),
        ("in between", "drive peak comp", 2),
        ("several", "peak gain drive shelf comp", 0),
        ("late", "peak fixed", 3),
        ("light", "gain drive", 2),
        ("all JAX", None, 2),
        ("all plug-ins", "skip peak comp", 0),
    ],
)
def test_a_chain_is_split_behind_its_last_plugin(name, hosted, behind):
    chain = split(name)
    slots = None if chain.host is None else [s.name for s in chain.host.slots]
    assert slots == (None if hosted is None else hosted.split())
    assert chain.specs == chain.effect.specs
    kept = () if chain.host is None else chain.host.specs
    assert chain.specs[chain.host_controls] == kept
    assert chain.specs[chain.after_controls] == chain.after.specs
    assert len(chain.after.specs) == behind


@pytest.mark.parametrize("name", CHAINS)
def test_the_parts_render_what_the_whole_chain_renders(name, host_of):
    chain = split(name)
    whole = host_of(chain.effect)
    assert whole.specs == chain.specs
    render = pass_through if chain.host is None else host_of(chain.host).render
    behind = jax.jit(jax.vmap(aligned(chain.after)))
    for seed in range(2):
        controls = settings_for(chain, seed)
        if seed:  # bypassed
            controls[:, [bool(s.choices) for s in chain.specs]] = 0.8
        before = render(batch()["audio"], controls[:, chain.host_controls]).audio
        found = behind(before, controls[:, chain.after_controls])
        wanted = whole.render(batch()["audio"], controls).audio
        np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_ranges_are_limited_to_the_sample_rate():
    wide = ParameterSpec("cutoff_frequency_hz", 100.0, 20000.0, "Hz", "log")
    slots = (
        Slot("low", "LowpassFilter", (wide,)),
        Slot("high", "HighpassFilter", (wide,), kind="jax"),
    )
    chain = split_chain(HostEffect("wide", slots), RATE)
    assert chain.host is not None
    highest = [spec.high for spec in (*chain.host.specs, *chain.after.specs)]
    assert highest == [0.45 * RATE] * 2


# ------------------------------------------------- against differences of the whole


@pytest.mark.parametrize(
    "name,form",
    [
        ("both ends", "vector"),
        ("both ends", "scalar"),
        ("leading plug-in", "vector"),
        ("in between", "scalar"),
        ("late", "vector"),
    ],
)
def test_both_gradients_are_the_differences_of_the_whole_chain(name, form, host_of):
    chain = split(name)
    controls = settings_for(chain)
    part, whole = host_of(chain.host), host_of(chain.effect)
    found, metrics = staged(
        chain, part.render, controls, central_differences(STEP), form
    )
    hosted, n = chain.host_controls.stop, len(chain.specs)
    assert part.counts["items"] == B * (1 + 2 * hosted) < B * (1 + 2 * n)
    wanted = whole_differences(whole, controls)
    assert whole.counts["items"] == B * 2 * n
    assert_close(found, wanted)
    centre = [losses_of(whole, u[None], i)[0] for i, u in enumerate(controls)]
    np.testing.assert_allclose(metrics["loss"], np.mean(centre), rtol=1e-5)
    assert float(metrics["excluded"]) == 0


@pytest.mark.parametrize("form", FORMS)
def test_fewer_renders_than_controls_leave_the_exact_part_exact(form, host_of):
    chain = split("light")
    controls, behind = settings_for(chain), chain.after_controls
    host = host_of(chain.host)
    sure, _ = staged(chain, host.render, controls, central_differences(STEP), form)
    before = host.counts["items"]
    rough, _ = staged(chain, host.render, controls, 3, form)
    assert host.counts["items"] - before == 3 * B
    np.testing.assert_allclose(rough[:, behind], sure[:, behind], rtol=1e-4, atol=1e-7)


# ----------------------------------------------------------------- forms are the same


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("with_twins", [False, True])
def test_staged_equals_fused_and_vmap_a_loop(form, with_twins, host_of):
    chain = split("light")
    controls, host = jnp.asarray(settings_for(chain)), host_of(chain.host)
    proxies = exact_twins(chain) if with_twins else None
    estimator = orthogonal(STEP, 1)
    wanted, metrics = staged(
        chain, host.render, controls, estimator, form, proxies=proxies
    )
    before = host.counts["items"]
    one = fused(chain, host.render, estimator, form, proxies)
    keys = jax.random.split(jax.random.key(3), B)
    examples = jax.tree.map(jnp.asarray, batch())

    @jax.jit
    def together(controls):
        def total(controls):
            losses, ok = jax.vmap(one)(examples["audio"], controls, keys, examples)
            return mean_over_valid(losses, ok)

        return jax.value_and_grad(total)(controls)

    value, gradient = together(controls)
    assert host.counts["items"] - before == B * estimator.renders(len(chain.specs))
    np.testing.assert_allclose(value, metrics["loss"], rtol=1e-6)
    assert_close(np.asarray(gradient) * B, wanted, 1e-4)
    alone = jax.jit(jax.grad(one, 1, has_aux=True))
    for i in range(B):
        example = jax.tree.map(lambda leaf, i=i: leaf[i], examples)
        slope, ok = alone(example["audio"], controls[i], keys[i], example)
        assert bool(ok)
        assert_close(np.asarray(slope), wanted[i], 1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_behind_the_host_is_the_black_box_alone(form, host_of):
    chain = split("all plug-ins")
    controls, host = settings_for(chain), host_of(chain.effect)
    for estimator, plain in [
        (orthogonal(STEP, 2), orthogonal(STEP, 2)),
        (5, default_estimator(chain.specs, 5)),
    ]:
        found, metrics = staged(chain, host.render, controls, estimator, form)
        halves = compile_halves(lambda u, _: u, loss, plain, form=form)
        gradient, expected = staged_step(
            halves, host.render, jnp.asarray(controls), batch(), jax.random.key(3)
        )
        np.testing.assert_array_equal(found, np.asarray(gradient) * B)
        assert float(metrics["loss"]) == float(expected["loss"])
    key, audio = jax.random.key(0), jnp.asarray(batch()["audio"][0])
    slopes = [
        jax.grad(lambda u, f=f: jnp.sum(f(audio, u, key)[0] ** 2))(
            jnp.asarray(controls[0])
        )
        for f in (
            chain_black_box(chain, host.render, spsa(STEP)),
            black_box(host.render, spsa(STEP)),
        )
    ]
    np.testing.assert_array_equal(*slopes)


@pytest.mark.parametrize("form", FORMS)
def test_a_chain_in_jax_has_the_gradient_of_autodiff(form):
    chain = split("all JAX")
    controls = jnp.asarray(settings_for(chain))
    heard = aligned(twin_effect(chain.effect, RATE))

    def direct(u, example):
        return loss(heard(example["audio"], u), example)

    wanted = jax.jit(jax.vmap(jax.grad(direct)))(controls, batch())
    for estimator in (9, spsa(STEP, 3)):
        calls = []

        def render(audio, points, source, calls=calls):
            calls.append(points.shape)
            return pass_through(audio, points, source)

        found, metrics = staged(chain, render, controls, estimator, form)
        assert calls == [(B, 0)] and float(metrics["excluded"]) == 0
        assert_close(found, np.asarray(wanted), 1e-5)

    def unused(*_):
        raise AssertionError("there is nothing to render")

    one = fused(chain, unused, 9, form)
    keys = jax.random.split(jax.random.key(0), B)
    slope, ok = jax.jit(jax.vmap(jax.grad(one, 1, has_aux=True)))(
        jnp.asarray(batch()["audio"]), controls, keys, batch()
    )
    assert ok.all()
    assert_close(np.asarray(slope), np.asarray(wanted), 1e-5)


def test_a_host_without_controls_renders_once(host_of):
    chain = split_chain(describe("FIXED push"), RATE)
    controls, host = settings_for(chain), host_of(chain.host)
    found, _ = staged(chain, host.render, controls, 9, "vector")
    assert host.counts["items"] == B
    one = fused(chain, host.render, 9, "scalar")
    keys = jax.random.split(jax.random.key(0), B)
    slope, _ = jax.jit(jax.vmap(jax.grad(one, 1, has_aux=True)))(
        jnp.asarray(batch()["audio"]), jnp.asarray(controls), keys, batch()
    )
    assert host.counts["items"] == 2 * B
    wanted = whole_differences(host_of(chain.effect), controls)
    assert_close(found, wanted)
    assert_close(np.asarray(slope), wanted)


@pytest.mark.parametrize("form", FORMS)
def test_controls_outside_the_cube_are_heard_at_its_border(form, host_of):
    chain = split("light")
    controls = np.array([[0.5, 0.2, 1.3, 0.5, 1.5], [0.5, 0.2, 0.5, -0.3, 0.5]])
    host, estimator = host_of(chain.host), forward_differences(STEP)
    outside, _ = staged(chain, host.render, controls, estimator, form)
    border, _ = staged(chain, host.render, controls.clip(0, 1), estimator, form)
    np.testing.assert_array_equal(outside, border)
    assert outside[0, 2] != 0 and outside[0, 4] != 0 and outside[1, 3] != 0


# ------------------------------------------------------------------- renders that fail


@pytest.mark.parametrize("form", FORMS)
def test_a_render_that_fails_excludes_its_example(form, host_of, caplog):
    gain = (ParameterSpec("gain_db", -12.0, 12.0, "dB"),)
    faulty = fault_effect().slots
    slots = (
        Slot("before", "Gain", gain, kind="jax"),
        *faulty,
        Slot("behind", "Gain", gain, kind="jax"),
    )
    chain = split_chain(HostEffect("faulty", slots), RATE)
    # The derivative of a root at the silence of a failed render is infinite.
    root = without_memory(lambda x, v: 0.1 + jnp.sqrt(jnp.abs(x) * v["behind.gain_db"]))
    chain = replace(chain, after=make_effect(chain.after.specs, root))
    host = host_of(chain.host)
    estimator = central_differences(STEP)
    controls = np.full((B, 4), 0.6, np.float32)
    controls[:, 1:3] = fault_controls(["none", "none"], [0.5, 0.7])
    sound, _ = staged(chain, host.render, controls, estimator, form)
    controls[:, 1:3] = fault_controls(["nan", "none"], [0.5, 0.7])
    with caplog.at_level(logging.ERROR):
        found, metrics = staged(chain, host.render, controls, estimator, form)
    assert float(metrics["excluded"]) == 1
    assert not found[0].any() and found[1, [0, 1, 3]].all()
    # The mean is over one example now, not over two.
    np.testing.assert_allclose(found[1] / B, sound[1], rtol=1e-4)

    one = fused(chain, host.render, estimator, form)
    keys = jax.random.split(jax.random.key(0), B)

    def total(controls):
        losses, ok = jax.vmap(one)(
            jnp.asarray(batch()["audio"]), controls, keys, batch()
        )
        return mean_over_valid(losses, ok)

    value, slope = jax.jit(jax.value_and_grad(total))(jnp.asarray(controls))
    np.testing.assert_allclose(value, metrics["loss"], rtol=1e-6)
    np.testing.assert_allclose(slope, found / B, rtol=1e-4, atol=1e-7)
    silent, ok = chain_black_box(chain, host.render, estimator)(
        batch()["audio"][0], controls[0], keys[0]
    )
    assert not ok and not silent.any()
