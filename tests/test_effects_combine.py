import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.effects import aligned, chain
from ddspx.effects.base import Effect, Processor, make_effect, without_memory
from ddspx.effects.combine import bypassable, dry_wet, mid_side, parallel
from ddspx.effects.stereo import encode_mid_side
from ddspx.parameters import default_controls, identity_controls, plain

LAG = 5


def scaling() -> Effect:
    """y = factor x, factor 0 to 2."""
    spec = plain("factor", 0.0, 2.0, 1.0, identity=1.0)

    def process(audio, values):
        factor = jnp.asarray(values["factor"], audio.dtype)
        return audio * (factor[None] if factor.ndim else factor)

    return make_effect((spec,), without_memory(process))


def averaging(moving: bool = True) -> Effect:
    """Two-tap average weighed by a control: the smallest with a memory and a slope."""

    def process(state, audio, values):
        joined = jnp.concatenate([state, audio], axis=-1)
        share = jnp.asarray(values["share"], audio.dtype)
        share = share[None] if share.ndim else share
        return joined[:, -1:], joined[:, 1:] + share * joined[:, :-1]

    spec = plain("share", 0.0, 1.0, 0.5, identity=0.0)
    start = Processor(lambda channels: jnp.zeros((channels, 1)), process, moving)
    return make_effect((spec,), start)


def late() -> Effect:
    """Inverts, and lags by LAG samples, as it says."""

    def process(state, audio, values):
        joined = jnp.concatenate([state, audio], axis=-1)
        return joined[:, -LAG:], -joined[:, :-LAG]

    return make_effect(
        (), Processor(lambda c: jnp.zeros((c, LAG)), process, True, latency=LAG)
    )


def nested() -> Effect:
    """Everything in everything."""
    return chain(
        first=dry_wet(averaging()),
        split=parallel(dry=scaling(), late=late(), both=chain(a=scaling(), b=late())),
        sides=mid_side(bypassable(averaging())),
    )


@pytest.fixture
def audio(rng):
    return jnp.asarray(rng.normal(size=(2, 60)), jnp.float32)


def names(effect):
    return [spec.name for spec in effect.specs]


def test_chain_names_and_orders(audio):
    effect = chain(first=scaling(), delay=averaging(), second=scaling())
    assert names(effect) == ["first.factor", "delay.share", "second.factor"]
    found = effect.render(audio, jnp.array([0.75, 0.5, 0.25]))
    before = np.pad(np.asarray(audio), ((0, 0), (1, 0)))[:, :-1]
    np.testing.assert_allclose(found, 1.5 * (audio + 0.5 * before) * 0.5, atol=1e-6)


@pytest.mark.parametrize("combine", [chain, parallel])
def test_nothing_cannot_be_combined(combine):
    with pytest.raises(ValueError, match="at least one effect"):
        combine()


def test_parallel_sums_by_level(audio):
    effect = parallel(a=scaling(), b=averaging())
    assert names(effect) == ["a.factor", "a.level", "b.share", "b.level"]
    found = effect.render(audio, jnp.array([0.75, 0.5, 0.0, 0.25]))
    np.testing.assert_allclose(found, (1.5 * 0.5 + 0.25) * audio, rtol=1e-6)
    np.testing.assert_allclose(default_controls(effect.specs), [0.5, 1, 0.5, 1])
    found = effect.render(audio, jnp.asarray(identity_controls(effect.specs)))
    np.testing.assert_allclose(found, audio, atol=1e-6)


def test_latencies_add_in_series_and_are_made_up_for_side_by_side(audio):
    assert chain(a=late(), b=scaling(), c=late()).latency == 2 * LAG
    effect = parallel(dry=scaling(), wet=late(), twice=chain(a=late(), b=late()))
    assert effect.latency == 2 * LAG
    # 1, -1 and +1 times the same sample: only alignment leaves the input.
    found = effect.render(audio, jnp.array([0.5, 1.0, 1.0, 1.0]))
    np.testing.assert_allclose(found[:, 2 * LAG :], audio[:, : -2 * LAG], atol=1e-6)
    np.testing.assert_allclose(found[:, : 2 * LAG], 0.0, atol=1e-6)
    whole = aligned(effect)(audio, jnp.array([0.5, 1.0, 1.0, 1.0]))
    np.testing.assert_allclose(whole, audio, atol=1e-6)


def test_dry_wet_mixes_with_the_delayed_input(audio):
    effect = dry_wet(late())
    assert names(effect) == ["mix"] and effect.latency == LAG
    for mix in (0.0, 0.25, 1.0):
        found = effect.render(audio, jnp.array([mix]))
        wanted = (1 - 2 * mix) * np.asarray(audio)[:, :-LAG]
        np.testing.assert_allclose(found[:, LAG:], wanted, atol=1e-6)
    instant = dry_wet(averaging())
    found = instant.render(audio, jnp.array([0.7, 0.0]))
    np.testing.assert_array_equal(found, audio)


def test_a_name_that_is_taken_is_refused():
    once = dry_wet(averaging())
    with pytest.raises(ValueError, match="already has a control 'mix'; give another"):
        dry_wet(once)
    assert names(dry_wet(once, name="amount")) == ["share", "mix", "amount"]
    with pytest.raises(ValueError, match="already has a control 'active'"):
        bypassable(bypassable(once))
    assert names(dry_wet(chain(inner=once))) == ["inner.share", "inner.mix", "mix"]


def test_soft_bypass_crossfades(audio):
    effect, inner = bypassable(averaging()), averaging()
    wet = inner.render(audio, jnp.array([0.8]))
    assert names(effect) == ["share", "active"]
    for active in (0.0, 0.3, 1.0):
        found = effect.render(audio, jnp.array([0.8, active]))
        np.testing.assert_allclose(
            found, (1 - active) * audio + active * wet, atol=1e-6
        )
    assert identity_controls(effect.specs)[1] == 0.0
    assert default_controls(effect.specs)[1] == 1.0


def test_hard_bypass_switches_and_slopes_as_the_soft_one(audio, rng):
    hard, soft = bypassable(averaging(), hard=True), bypassable(averaging())
    wet = averaging().render(audio, jnp.array([0.8]))
    weights = jnp.asarray(rng.normal(size=audio.shape), jnp.float32)
    for active, wanted in ((0.0, audio), (0.49, audio), (0.5, wet), (1.0, wet)):
        setting = jnp.array([0.8, active])
        np.testing.assert_array_equal(hard.render(audio, setting), wanted)

        def value(u, effect):
            return jnp.sum(weights * effect.render(audio, u))

        slopes = [jax.grad(value)(setting, effect) for effect in (hard, soft)]
        np.testing.assert_allclose(slopes[0][1], slopes[1][1], rtol=1e-5)
        # A bypassed effect is not heard, so its own controls do not matter.
        assert (float(slopes[0][0]) == 0.0) == (active < 0.5)


def test_a_learned_switch_finds_the_wrong_side(audio):
    """From bypassed, the straight-through slope turns on what the target has."""
    effect = bypassable(averaging(), hard=True)
    target = effect.render(audio, jnp.array([0.8, 1.0]))

    @jax.jit
    @jax.grad
    def slope(u):
        return jnp.mean((effect.render(audio, u) - target) ** 2)

    u = jnp.array([0.8, 0.2])
    for _ in range(30):
        u = jnp.clip(u - 0.2 * slope(u), 0.0, 1.0)
    np.testing.assert_allclose(effect.render(audio, u), target, atol=1e-2)
    assert u[1] > 0.5


def test_mid_side_gives_the_effect_middle_and_side(audio):
    heard = []

    def listen(audio, values):
        heard.append(audio)
        return audio * jnp.array([[1.0], [0.0]])[: audio.shape[0]]

    effect = mid_side(make_effect((), without_memory(listen)))
    none = jnp.zeros(0)
    found = effect.render(audio, none)
    np.testing.assert_allclose(heard[0], encode_mid_side(audio))
    middle = np.asarray(audio).mean(0)
    np.testing.assert_allclose(found, np.stack([middle, middle]), atol=1e-6)
    np.testing.assert_array_equal(effect.render(audio[:1], none), audio[:1])
    with pytest.raises(ValueError, match="got 3 channels"):
        effect.render(jnp.zeros((3, 9)), none)


def test_nests_and_streams_with_moving_controls(audio):
    effect = nested()
    assert "split.both.a.factor" in names(effect)
    assert effect.latency == LAG
    number = len(effect.specs)
    place = jnp.arange(60.0)[None] / 9.0 + jnp.arange(float(number))[:, None]
    moving = 0.5 + 0.4 * jnp.sin(place)
    whole = jax.jit(effect.render)(audio, moving)
    block, state, parts = jax.jit(effect.render_block), effect.init_state(2), []
    for cut in (slice(0, 2), slice(2, 41), slice(41, 60)):
        state, part = block(state, audio[:, cut], moving[:, cut])
        parts.append(part)
    np.testing.assert_allclose(jnp.concatenate(parts, -1), whole, atol=1e-6)
    constant = jax.jit(effect.render)(audio, moving[:, 0])
    held = jnp.broadcast_to(moving[:, :1], moving.shape)
    np.testing.assert_allclose(effect.render(audio, held), constant, atol=1e-6)
    # Few frames are joined by straight lines in the combination as in its members.
    frames = moving[:, ::20]
    spread = effect.render(audio, frames)
    index = np.minimum(np.arange(60) / 20.0, 2.0)
    lines = np.stack([np.interp(index, np.arange(3), row) for row in frames])
    wanted = effect.render(audio, jnp.asarray(lines, jnp.float32))
    np.testing.assert_allclose(spread, wanted, atol=1e-5)


def test_a_member_that_takes_no_moving_controls_says_so(audio):
    for effect in (
        chain(a=averaging(moving=False)),
        parallel(a=averaging(moving=False)),
        dry_wet(averaging(moving=False)),
    ):
        with pytest.raises(ValueError, match=r"one setting \[n\] for the whole"):
            effect.render(audio, jnp.full((len(effect.specs), 4), 0.5))


@pytest.mark.parametrize(
    "make", [nested, lambda: chain(a=scaling()), lambda: dry_wet(scaling())]
)
def test_too_many_controls_do_not_pass_unseen(make, audio):
    effect = make()
    number = len(effect.specs)
    for wrong in (number - 1, number + 1):
        with pytest.raises(ValueError, match=rf"expected {number} controls"):
            effect.render(audio, jnp.zeros(wrong))
        with pytest.raises(ValueError, match=rf"expected {number} controls"):
            effect.render_block(effect.init_state(2), audio, jnp.zeros(wrong))


def test_batches_of_combinations(audio, rng):
    effect = nested()
    controls = jnp.asarray(rng.uniform(size=(3, len(effect.specs))), jnp.float32)
    batch = jnp.stack([audio, -audio, 0.5 * audio])
    together = jax.vmap(effect.render)(batch, controls)
    for row in range(3):
        alone = effect.render(batch[row], controls[row])
        np.testing.assert_allclose(together[row], alone, atol=1e-5)
