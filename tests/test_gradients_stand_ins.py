"""Chains with stand-ins of their plug-ins, and the pieces that chains are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mixed_chains import (
    CLOSE_BY_TWINS,
    FORMS,
    RATE,
    STEP,
    B,
    assert_close,
    batch,
    describe,
    exact_twins,
    loss,
    serial_hosts,
    settings_for,
    split,
    staged,
    whole_differences,
)

from styletransfer.gradients import (
    After,
    central_differences,
    chain_black_box,
    chain_black_box_loss,
    chain_halves,
    compile_halves,
    orthogonal,
    pass_through,
    restricted,
    split_chain,
    staged_step,
)


@pytest.fixture
def host_of():
    with serial_hosts() as opened:
        yield opened


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
