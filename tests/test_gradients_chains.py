"""Chains of plug-ins and JAX: both kinds of gradient are those of the whole chain."""

import functools
import logging
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.effects.base import aligned, make_effect, without_memory
from ddspx.parameters import ParameterSpec
from styletransfer.gradients import (
    After,
    black_box,
    central_differences,
    chain_black_box,
    chain_black_box_loss,
    chain_halves,
    compile_halves,
    default_estimator,
    forward_differences,
    mean_over_valid,
    orthogonal,
    pass_through,
    restricted,
    split_chain,
    spsa,
    staged_step,
)
from styletransfer.hosts import HostEffect, Slot, open_host
from styletransfer.hosts.fault import fault_controls, fault_effect
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


@pytest.fixture
def host_of():
    """Opens descriptions in this process and closes them in the end."""
    hosts = []

    def opened(effect):
        hosts.append(open_host(effect, RATE, backend="serial"))
        return hosts[-1]

    yield opened
    for host in hosts:
        host.close()


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


# --------------------------------------------------------------------------- stand-ins


@pytest.mark.parametrize(
    "name,form",
    [("both ends", "vector"), ("in between", "scalar"), ("several", "vector")],
)
def test_twins_as_proxies_give_the_gradient_of_earlier_jax(name, form, host_of):
    chain = split(name)
    controls, host = settings_for(chain), host_of(chain.host)
    estimator = central_differences(STEP)
    found, _ = staged(
        chain, host.render, controls, estimator, form, proxies=exact_twins(chain)
    )
    moved = {"both ends": 2, "in between": 3, "several": 3}[name]
    assert host.counts["items"] == B * (1 + 2 * moved)
    wanted = whole_differences(host_of(chain.effect), controls)
    assert_close(found, wanted, CLOSE_BY_TWINS)


@pytest.mark.parametrize("form", FORMS)
def test_a_wrong_proxy_spoils_the_gradient_of_earlier_jax_and_nothing_else(
    form, host_of
):
    chain = split("light")
    controls, host = settings_for(chain), host_of(chain.host)
    estimator, calls = central_differences(STEP), []

    def wrong(audio, controls):
        calls.append(controls.shape)
        return -audio * controls[0]

    plain, right = staged(chain, host.render, controls, estimator, form)
    found, metrics = staged(
        chain, host.render, controls, estimator, form, proxies={"drive": wrong}
    )
    assert set(calls) == {(1,)}
    np.testing.assert_allclose(metrics["loss"], right["loss"], rtol=1e-6)
    np.testing.assert_allclose(found[:, 2:], plain[:, 2:], rtol=1e-3, atol=1e-7)
    assert np.all(np.sign(found[:, 0]) == -np.sign(plain[:, 0]))


def test_a_proxy_that_gives_no_number_changes_nothing_that_is_heard(host_of):
    chain = split("light")
    controls, host = jnp.asarray(settings_for(chain)[0]), host_of(chain.host)
    audio = jnp.asarray(batch()["audio"][0])
    proxies = {"drive": lambda audio, controls: audio * jnp.nan}
    found, wanted = (
        chain_black_box(chain, host.render, 2, proxies=p)(
            audio, controls, jax.random.key(0)
        )[0]
        for p in (proxies, None)
    )
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    "name,given,message",
    [
        ("both ends", ["cmop"], "'cmop', which is no plug-in.*did you mean 'comp'"),
        ("both ends", ["comp", "peak"], "'peak', which is no plug-in.*are: comp"),
        ("in between", ["comp"], "slot drive is a plug-in without a proxy.*proxies={"),
        ("in between", ["drive"], "slot comp is a plug-in without a proxy"),
        ("leading plug-in", ["drive"], "no control of a JAX slot.*leave them out"),
        ("all JAX", ["comp"], "its plug-ins are: none"),
    ],
)
def test_proxies_that_do_not_fit_are_refused(name, given, message):
    chain = split(name)
    proxies = {word: lambda audio, controls: audio for word in given}
    for make in (
        lambda: chain_halves(chain, lambda u, _: u, loss, proxies=proxies),
        lambda: chain_black_box(chain, pass_through, proxies=proxies),
        lambda: chain_black_box_loss(chain, pass_through, loss, proxies=proxies),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_what_cannot_be_traced_says_why(host_of):
    chain = split("light")
    controls, host = settings_for(chain), host_of(chain.host)
    short = {"drive": lambda audio, controls: audio[:, :-1]}
    with pytest.raises(ValueError, match=r"proxy of slot drive gave shape \(2, 1499\)"):
        staged(chain, host.render, controls, 9, "vector", proxies=short)
    with pytest.raises(ValueError, match=r"has 5 controls \(gain\.gain_db, .*got 4"):
        staged(chain, host.render, controls[:, :4], 9, "vector")
    with pytest.raises(ValueError, match="got 4"):
        chain_black_box(chain, host.render)(
            batch()["audio"][0], controls[0, :4], jax.random.key(0)
        )
    with pytest.raises(ValueError, match="form 'both'"):
        chain_halves(chain, lambda u, _: u, loss, form="both")


# ------------------------------------------------------------------------- the pieces


@pytest.mark.parametrize("indices", [(3, 0), (), (0, 1, 2, 3)])
def test_a_restricted_estimator_moves_the_chosen_controls_alone(indices):
    inner = orthogonal(0.02, 2)
    estimator = restricted(inner, indices)
    controls = jnp.asarray([0.2, 0.4, 0.6, 0.995])
    plan = estimator.plan(jax.random.key(1), controls)
    assert len(plan.points) == estimator.renders(4) == (5 if indices else 1)
    others = np.array([i for i in range(4) if i not in indices], int)
    still = np.broadcast_to(controls[others], (len(plan.points), len(others)))
    np.testing.assert_array_equal(plan.points[:, others], still)
    slope = jnp.asarray([1.0, -2.0, 3.0, 0.5])
    gradient = estimator.scalar(plan, plan.points @ slope)
    audio = plan.points[:, None, :]
    again = estimator.vector(plan, audio, slope[None])
    np.testing.assert_allclose(again, gradient, rtol=1e-5, atol=1e-6)
    prior = estimator.scalar(plan, plan.points @ slope, -slope)
    assert not gradient[others].any()
    np.testing.assert_array_equal(prior[others], -slope[others])
    if indices:
        chosen = np.array(indices)
        alone = inner.plan(jax.random.key(1), controls[chosen])
        wanted = inner.scalar(alone, alone.points @ slope[chosen])
        np.testing.assert_allclose(gradient[chosen], wanted, rtol=1e-5)


def test_a_number_of_renders_knows_what_each_control_can_tell_apart(host_of):
    chain = split_chain(describe("gain FIXED DRIVE level"), RATE)
    host = host_of(chain.host)
    seen = []

    def render(audio, points, source):
        seen.append(points)
        return host.render(audio, points, source)

    staged(chain, render, settings_for(chain), 9, "vector")
    spread = np.ptp(seen[0][: len(seen[0]) // B], axis=0)
    # gain, its bypass of two choices, drive: twice the step, cut at the border.
    np.testing.assert_allclose(spread, [2 * STEP, 0.7, 2 * STEP], rtol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_a_control_variate_passes_what_comes_after(form):
    after = After(2, lambda y, u, x: y * u[2] + x)

    def render(audio, points, source):
        wet = np.tanh(audio[source] * points[:, :1, None]) + points[:, 1:, None]
        return wet.astype(np.float32), np.zeros(len(points), np.int32)

    def twin(audio, u):
        return jnp.tanh(audio * u[0]) + u[1]

    def whole(u, example):
        x = example["audio"]
        return loss(after.render(twin(x, u), u, x), example)

    controls = jnp.asarray([[0.3, 0.6, 0.7], [0.5, 0.2, 0.4]])
    one_direction = orthogonal(STEP, 1, scaling="projection")
    halves = compile_halves(
        lambda u, _: u, loss, one_direction, form=form, proxy=twin, after=after
    )
    found, _ = staged_step(halves, render, controls, batch(), jax.random.key(0))
    wanted = jax.vmap(jax.grad(whole))(controls, batch())
    assert_close(np.asarray(found) * B, np.asarray(wanted))
