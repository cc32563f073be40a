"""Both forms of a black box: same bits, inside every transformation, never stuck."""

import os
import subprocess
import sys
import textwrap
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from styletransfer.gradients import (
    DEFAULT_RENDERS,
    black_box,
    black_box_loss,
    central_differences,
    compile_halves,
    controls_from_logits,
    default_estimator,
    logits_from_controls,
    mean_over_valid,
    orthogonal,
    projected,
    render_points,
    spsa,
    staged_step,
)

B, C, T, N = 4, 2, 48, 3
ESTIMATORS = {"spsa": spsa(0.02, 2), "orthogonal": orthogonal(0.02, 2)}


class TinyHost:
    """A saturating gain with an offset, rendered as a host does: items by source."""

    def __init__(self, fails=lambda controls: False):
        self.calls, self.items, self.fails = 0, 0, fails

    def render(self, audio, controls, source=None):
        assert type(audio) is np.ndarray and type(controls) is np.ndarray
        source = np.arange(len(controls)) % len(audio) if source is None else source
        self.calls, self.items = self.calls + 1, self.items + len(controls)
        gain, drive, offset = (controls[:, i, None, None] for i in range(N))
        wet = np.tanh((1 + 3 * drive) * audio[source]) * (0.2 + gain) + 0.3 * offset
        bad = np.asarray([self.fails(row) for row in controls])
        return (
            np.where(bad[:, None, None], 0.0, wet).astype(np.float32),
            np.where(bad, 2, 0).astype(np.int32),
        )


def reference_effect(audio, controls):
    gain, drive, offset = controls
    return jnp.tanh((1 + 3 * drive) * audio) * (0.2 + gain) + 0.3 * offset


def loss(audio, example):
    return jnp.mean((audio - example["target"]) ** 2)


def predict(params, batch):
    features = jnp.mean(jnp.abs(batch["audio"]), axis=(1, 2))[:, None]
    return controls_from_logits(features * params["w"][None] + params["b"][None])


@pytest.fixture
def batch(rng):
    audio = rng.normal(size=(B, C, T)).astype(np.float32)
    return {"audio": audio, "target": np.tanh(2 * audio) * 0.6}


@pytest.fixture
def params(rng):
    return {k: jnp.asarray(rng.normal(size=N).astype(np.float32)) for k in "wb"}


def fused_step(host, estimator, form):
    @jax.jit
    def step(params, batch, key):
        keys = jax.random.split(key, B)

        def total(params):
            controls = predict(params, batch)
            if form == "scalar":
                effect = black_box_loss(host.render, loss, estimator)
                losses, ok = jax.vmap(effect)(batch["audio"], controls, keys, batch)
            else:
                effect = black_box(host.render, estimator)
                audio, ok = jax.vmap(effect)(batch["audio"], controls, keys)
                losses = jax.vmap(loss)(audio, batch)
            return mean_over_valid(losses, ok)

        return jax.value_and_grad(total)(params)

    return step


@pytest.mark.parametrize(
    "name,form",
    [("spsa", "vector"), ("orthogonal", "vector"), ("orthogonal", "scalar")],
)
def test_staged_and_fused_give_the_same_bits(name, form, batch, params):
    estimator, host = ESTIMATORS[name], TinyHost()
    halves = compile_halves(predict, loss, estimator, form=form)
    gradients, metrics = staged_step(
        halves, host.render, params, batch, jax.random.key(5)
    )
    assert (host.calls, host.items) == (1, B * estimator.renders(N))
    fused = TinyHost()
    value, fused_gradients = fused_step(fused, estimator, form)(
        params, batch, jax.random.key(5)
    )
    assert (fused.calls, fused.items) == (1, B * estimator.renders(N))
    same_bits(metrics["loss"], value)
    for name, gradient in gradients.items():
        same_bits(gradient, fused_gradients[name])


@pytest.mark.parametrize("form", ["vector", "scalar"])
@pytest.mark.parametrize("renders", [3, None])
def test_a_number_of_renders_means_the_default_estimator(form, renders, batch, params):
    budget = DEFAULT_RENDERS if renders is None else renders
    words = () if renders is None else (renders,)
    explicit = default_estimator(N, budget)
    found, wanted = TinyHost(), TinyHost()
    key = jax.random.key(5)
    steps = [
        staged_step(halves, host.render, params, batch, key)
        for halves, host in (
            (compile_halves(predict, loss, *words, form=form), found),
            (compile_halves(predict, loss, explicit, form=form), wanted),
        )
    ]
    assert found.items == wanted.items == B * explicit.renders(N) <= B * budget
    fused = fused_step(TinyHost(), budget, form)(params, batch, key)[1]
    for name, gradient in steps[1][0].items():
        same_bits(steps[0][0][name], gradient)
        same_bits(fused[name], gradient)


def same_bits(found, wanted):
    """Of two programs: on a CPU they add in the same order, elsewhere nearly."""
    loose = 0.0 if jax.default_backend() == "cpu" else 1e-5
    np.testing.assert_allclose(found, wanted, rtol=loose, atol=loose * 1e-2)


def exact(params, batch, keep=(0, 1, 2, 3)):
    """Loss and gradient through the differentiable twin, of the examples kept."""
    batch = {name: values[np.asarray(keep)] for name, values in batch.items()}

    def total(params):
        audio = jax.vmap(reference_effect)(batch["audio"], predict(params, batch))
        return jnp.mean(jax.vmap(loss)(audio, batch))

    return jax.jit(jax.value_and_grad(total))(params)


def assert_close(got, want):
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("form", ["vector", "scalar"])
def test_one_failed_render_leaves_its_example_out(form, batch, params):
    host = TinyHost()
    halves = compile_halves(predict, loss, central_differences(0.005), form=form)

    def step(host):
        return staged_step(halves, host.render, params, batch, jax.random.key(0))

    gradients, metrics = step(host)
    value, want = exact(params, batch)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    assert float(metrics["excluded"]) == 0
    assert_close(gradients, want)

    centre = np.asarray(predict(params, batch))
    doomed = centre[1, 0]
    host = TinyHost(fails=lambda row: abs(row[0] - doomed) < 1e-6)
    gradients, metrics = step(host)
    value, want = exact(params, batch, (0, 2, 3))
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    assert float(metrics["excluded"]) == 1
    assert_close(gradients, want)
    if form == "vector":
        fused = fused_step(host, central_differences(0.005), form)
        value, again = fused(params, batch, jax.random.key(0))
        assert float(value) == float(metrics["loss"])
        for name in gradients:
            np.testing.assert_array_equal(again[name], gradients[name])


@pytest.mark.parametrize("form", ["vector", "scalar"])
def test_a_perfect_proxy_leaves_no_variance(form, batch, params):
    estimator = orthogonal(0.005, 1, scaling="projection")
    halves = compile_halves(predict, loss, estimator, form=form, proxy=reference_effect)
    for seed in range(3):
        gradients, _ = staged_step(
            halves, TinyHost().render, params, batch, jax.random.key(seed)
        )
        assert_close(gradients, exact(params, batch)[1])


def test_nothing_counts_when_every_render_fails(batch, params):
    host = TinyHost(fails=lambda row: True)
    halves = compile_halves(predict, loss, ESTIMATORS["spsa"])
    got, metrics = staged_step(halves, host.render, params, batch, jax.random.key(0))
    assert float(metrics["loss"]) == 0 and float(metrics["excluded"]) == B
    assert all(np.all(np.asarray(leaf) == 0) for leaf in got.values())


def test_fused_under_vmap_is_a_loop_and_shares_audio(rng):
    host = TinyHost()
    effect = black_box(host.render, ESTIMATORS["orthogonal"])
    audio = jnp.asarray(rng.normal(size=(C, T)).astype(np.float32))
    controls = jnp.asarray(rng.random((2, 3, N), dtype=np.float32))
    keys = jax.random.split(jax.random.key(0), (2, 3))

    def energy(controls, key):
        return jnp.sum(effect(audio, controls, key)[0] ** 2)

    inner = jax.vmap(jax.grad(energy))
    got = jax.jit(jax.vmap(inner))(controls, keys)
    assert host.calls == 1
    one = jax.jit(jax.grad(energy))
    alone = [[one(controls[i, j], keys[i, j]) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(got, np.asarray(alone), rtol=1e-5)
    plain, ok = jax.jit(effect)(audio, controls[0, 0], keys[0, 0])
    assert bool(ok)
    np.testing.assert_array_equal(
        plain, host.render(np.asarray(audio)[None], np.asarray(controls[0, :1]))[0][0]
    )


def test_fused_descends_inside_a_scan(rng):
    host = TinyHost()
    effect = black_box(host.render, orthogonal(0.02, N))
    audio = jnp.asarray(rng.normal(size=(C, T)).astype(np.float32))
    target = reference_effect(audio, jnp.asarray([0.7, 0.3, 0.4]))

    def distance(controls, key):
        return jnp.mean((effect(audio, controls, key)[0] - target) ** 2)

    @jax.jit
    def descend(controls, keys):
        def step(controls, key):
            value, gradient = jax.value_and_grad(distance)(controls, key)
            return projected(controls - 0.4 * gradient), value

        return jax.lax.scan(step, controls, keys)

    keys = jax.random.split(jax.random.key(0), 60)
    _, values = descend(jnp.full(N, 0.05), keys)
    assert values[-1] < 0.02 * values[0]
    assert host.calls == 60


def test_fused_refuses_a_gradient_to_the_audio(rng):
    effect = black_box(TinyHost().render, ESTIMATORS["spsa"])
    audio = jnp.asarray(rng.normal(size=(C, T)).astype(np.float32))
    with pytest.raises(NotImplementedError, match="stop_gradient"):
        jax.grad(lambda x: effect(x, jnp.full(N, 0.5), jax.random.key(0))[0].sum())(
            audio
        )


def test_unknown_form_is_refused():
    with pytest.raises(ValueError, match="form 'both'"):
        compile_halves(predict, loss, ESTIMATORS["spsa"], form="both")


SEVERAL_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from ddspx.training.parallel import make_mesh, replicate, shard_batch
from styletransfer.gradients import (
    DEFAULT_RENDERS,
    After, black_box, compile_halves, controls_from_logits, orthogonal, pass_through,
    restricted, staged_step)

def render(audio, controls, source):
    return audio[source] * controls[:, :1, None], np.zeros(len(controls), np.int32)

assert jax.device_count() == 4
effect = black_box(render, orthogonal(0.1, 1))
one = lambda u: effect(jnp.ones((1, 8)), u, jax.random.key(0))[0].sum()
try:
    jax.grad(one)(jnp.full(2, 0.5))
    raise SystemExit("not refused")
except RuntimeError as error:
    assert "staged" in str(error) and "4 devices" in str(error), error
mesh = make_mesh()
inside = jax.shard_map(lambda u: jax.vmap(one)(u), mesh=mesh, in_specs=P("data"),
                       out_specs=P("data"), check_vma=False)
np.testing.assert_allclose(jax.jit(inside)(jnp.full((4, 2), 0.5)), 4.0)

rng = np.random.default_rng(0)
batch = {"audio": rng.normal(size=(8, 1, 64)).astype(np.float32)}
batch["target"] = batch["audio"] * 0.7
params = jnp.asarray([0.3, -0.2])
predict = lambda p, b: controls_from_logits(jnp.mean(b["audio"], (1, 2))[:, None] * p)
loss = lambda y, example: jnp.mean((y - example["target"]) ** 2)
after = After(0, lambda rendered, controls, audio: rendered * controls[0])
results, exact = [], []
for devices in (mesh, None):
    halves = compile_halves(predict, loss, orthogonal(0.05, 2), mesh=devices)
    p = params if devices is None else replicate(params, mesh)
    b = batch if devices is None else shard_batch(batch, mesh)
    results.append(staged_step(halves, render, p, b, jax.random.key(1)))
    halves = compile_halves(predict, loss, restricted(orthogonal(0.05, 2), ()),
                            after=after, mesh=devices)
    exact.append(staged_step(halves, pass_through, p, b, jax.random.key(1)))
    assert exact[-1][0].any()
np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5, atol=1e-7)
np.testing.assert_allclose(results[0][1]["loss"], results[1][1]["loss"], rtol=1e-5)
np.testing.assert_allclose(exact[0][0], exact[1][0], rtol=1e-5, atol=1e-7)
print("all is well")
"""


def test_several_devices_share_the_staged_form_and_are_refused_by_the_fused():
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "NPROC": "8",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SEVERAL_DEVICES)],
        env=environment, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "all is well" in done.stdout


@pytest.mark.parametrize("form", ["vector", "scalar"])
def test_both_halves_export_for_every_platform(form, batch, params):
    estimator = orthogonal(0.02, 2, scaling="projection")
    halves = compile_halves(predict, loss, estimator, form=form, proxy=reference_effect)
    points, pending = halves.propose(params, batch, jax.random.key(0))
    rendered, status = render_points(
        TinyHost().render, batch["audio"], np.asarray(points)
    )
    platforms = ("cpu", "cuda", "tpu")
    export = partial(jax.export.export, platforms=platforms)
    first = export(halves.propose)(params, batch, jax.random.key(0))
    second = export(halves.conclude)(pending, rendered, status, batch)
    assert tuple(first.platforms) == tuple(second.platforms) == platforms
    again = first.call(params, batch, jax.random.key(0))[0]
    np.testing.assert_allclose(again, points, rtol=1e-6)


# ------------------------------------------------------------------- never stuck


def bowl(target):
    return lambda points: jnp.sum((points - target) ** 2, axis=-1)


CORNERS = np.stack(np.meshgrid([0.0, 1.0], [0.0, 1.0], [0.0, 1.0]), -1).reshape(-1, 3)


@pytest.mark.parametrize("name", ["spsa", "forward"])
def test_every_corner_comes_back_by_projected_steps(name):
    estimator = {**ESTIMATORS, "forward": orthogonal(0.02, 2, one_sided=True)}[name]
    target = jnp.asarray([0.3, 0.6, 0.45])
    optimiser = optax.adam(0.03)

    @jax.jit
    @jax.vmap
    def descend(start, key):
        def step(carry, key):
            controls, state = carry
            plan = estimator.plan(key, controls)
            gradient = estimator.scalar(plan, bowl(target[None])(plan.points))
            update, state = optimiser.update(gradient, state)
            return (projected(controls + update), state), None

        carry = (start, optimiser.init(start))
        return jax.lax.scan(step, carry, jax.random.split(key, 300))[0][0]

    starts = jnp.asarray(CORNERS, jnp.float32)
    ends = descend(starts, jax.random.split(jax.random.key(0), len(starts)))
    np.testing.assert_allclose(ends, np.broadcast_to(target, CORNERS.shape), atol=0.05)


@pytest.mark.parametrize("saturation", [25.0])
def test_saturated_logits_come_back(saturation):
    target, optimiser = jnp.asarray([0.3, 0.6, 0.45]), optax.adam(0.2)

    @jax.jit
    @jax.vmap
    def descend(logits):
        def step(carry, key):
            logits, state = carry
            controls, vjp = jax.vjp(controls_from_logits, logits)
            plan = ESTIMATORS["orthogonal"].plan(key, controls)
            gradient = vjp(
                ESTIMATORS["orthogonal"].scalar(plan, bowl(target[None])(plan.points))
            )[0]
            update, state = optimiser.update(gradient, state)
            return (logits + update, state), None

        keys = jax.random.split(jax.random.key(0), 400)
        return jax.lax.scan(step, (logits, optimiser.init(logits)), keys)[0][0]

    starts = jnp.asarray(saturation * (2 * CORNERS - 1), jnp.float32)
    ends = controls_from_logits(descend(starts))
    np.testing.assert_allclose(ends, np.broadcast_to(target, CORNERS.shape), atol=0.05)


def test_logits_mapping():
    logits = jnp.asarray([-30.0, -2.0, 0.0, 1.0, 30.0])
    np.testing.assert_allclose(controls_from_logits(logits), jax.nn.sigmoid(logits))
    slope = jax.grad(lambda x, sign: sign * controls_from_logits(x))
    assert slope(30.0, 1.0) == pytest.approx(0.1)  # descent pulls back
    assert slope(30.0, -1.0) == pytest.approx(0.0, abs=1e-6)  # descent pushes out
    assert slope(-30.0, -1.0) == pytest.approx(-0.1)
    assert slope(0.5, 1.0) == pytest.approx(float(jax.grad(jax.nn.sigmoid)(0.5)))
    controls = jnp.asarray([0.001, 0.2, 0.9])
    np.testing.assert_allclose(
        controls_from_logits(logits_from_controls(controls)), controls, rtol=1e-4
    )
    assert np.all(np.isfinite(logits_from_controls(jnp.asarray([0.0, 1.0]))))
    np.testing.assert_array_equal(
        projected(jnp.asarray([-1.0, 0.5, 2.0])), jnp.asarray([0.0, 0.5, 1.0])
    )
