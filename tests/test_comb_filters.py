"""Combs, all-passes and delay networks against recursions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.stats

from ddspx.comb_filters import (
    DelayGains,
    comb_bank,
    delay_network,
    delay_network_state,
    delayed,
    feedback_comb,
    schroeder_allpass,
)

DELAYS = ((37, 51, 64), (40, 55, 67))
FLAT = [d for group in DELAYS for d in group]


def comb_polynomials(delay, feedback, damping):
    """Numerator and denominator of one damped comb, by hand."""
    b = np.zeros(delay + 2)
    b[delay], b[delay + 1] = 1.0, -damping
    a = np.zeros(delay + 2)
    a[0], a[1] = 1.0, -damping
    a[delay] -= feedback * (1.0 - damping)
    return b, a


def network_loop(audio, delays, gains):
    """The network sample by sample in float64."""
    lines, time = len(delays), audio.shape[1]
    w = np.zeros((lines, time))
    v = np.zeros(lines)
    direct = np.zeros(lines) if gains.direct is None else gains.direct
    mixing = np.eye(lines) if gains.mixing is None else gains.mixing
    out = np.zeros((gains.outputs.shape[0], time))
    for n in range(time):
        u = np.array([w[i, n - d] if n >= d else 0.0 for i, d in enumerate(delays)])
        v = (1.0 - gains.damping) * u + gains.damping * v
        w[:, n] = gains.inputs @ audio[:, n] + mixing @ (direct * u + gains.damped * v)
        out[:, n] = gains.outputs @ u
    return out


def example_gains(rng, lines=4, inputs=2, outputs=2):
    mixing = scipy.stats.ortho_group.rvs(lines, random_state=1)
    return DelayGains(
        inputs=rng.normal(size=(lines, inputs)),
        outputs=rng.normal(size=(outputs, lines)),
        damped=rng.uniform(0.1, 0.5, lines),
        damping=rng.uniform(0.2, 0.9, lines),
        direct=rng.uniform(0.1, 0.4, lines),
        mixing=mixing,
    )


def test_comb_bank_is_the_sum_of_its_recursions(rng):
    audio = rng.normal(size=1000)
    _, y = comb_bank(
        delay_network_state(FLAT), audio.astype(np.float32), DELAYS, 0.84, 0.2
    )
    for group, out in zip(DELAYS, y, strict=True):
        want = np.zeros(1000)
        for delay in group:
            want += scipy.signal.lfilter(*comb_polynomials(delay, 0.84, 0.2), audio)
        np.testing.assert_allclose(out, want, atol=2e-5)


@pytest.mark.parametrize("damping", [0.0, 0.999])
def test_damping_at_its_ends(rng, damping):
    audio = rng.normal(size=700).astype(np.float32)
    state = delay_network_state([70])
    _, y = comb_bank(state, audio, [[70]], 0.9, damping)
    want = scipy.signal.lfilter(*comb_polynomials(70, 0.9, damping), audio)
    np.testing.assert_allclose(y[0], want, atol=2e-5)


@pytest.mark.parametrize("delays", [(5, 7, 11, 13), (33, 70, 45, 101)])
def test_network_equals_its_definition(rng, delays):
    gains = example_gains(rng)
    audio = rng.normal(size=(2, 400))
    _, y = delay_network(
        delay_network_state(delays), audio.astype(np.float32), delays, gains
    )
    want = network_loop(audio, delays, gains)
    np.testing.assert_allclose(y, want, atol=1e-5 * np.abs(want).max())


def test_network_of_blocks_is_that_of_the_whole(rng):
    delays, gains = (33, 70, 45, 101), example_gains(rng)
    audio = rng.normal(size=(2, 640)).astype(np.float32)
    whole_state, whole = delay_network(
        delay_network_state(delays), audio, delays, gains
    )
    state, pieces = delay_network_state(delays), []
    for piece in np.split(audio, [1, 8, 40, 73, 73, 300], axis=1):
        state, y = delay_network(state, piece, delays, gains)
        pieces.append(y)
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state, whole_state
    )


def assert_gradient(loss, argument, rng, scale=1e-5):
    """Slopes in random directions of all leaves at once, by differences in float64."""
    loss = jax.jit(loss)
    gradient = jax.jit(jax.grad(loss))(argument)
    for _ in range(3):
        direction = jax.tree.map(
            lambda a: jnp.asarray(rng.normal(size=np.shape(a))), argument
        )
        ahead, behind = (
            loss(jax.tree.map(lambda a, d, s=s: a + s * d, argument, direction))
            for s in (scale, -scale)
        )
        want = (ahead - behind) / (2 * scale)
        products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, direction)
        got = sum(jax.tree.leaves(products))
        assert abs(got - want) <= 1e-6 * max(1.0, abs(want)), (got, want)


# Within the shortest delay; segments, and a rest that is longer than a delay.
@pytest.mark.parametrize("time", [20, 1258])
def test_network_gradient(rng, time):
    # All cotangents count: of the output, of the state that is left and the first one.
    with jax.enable_x64(True):
        delays, gains = (33, 70, 45, 101), example_gains(rng)
        state = jax.tree.map(
            lambda a: jnp.asarray(rng.normal(size=a.shape)),
            delay_network_state(delays, jnp.float64),
        )
        audio = jnp.asarray(rng.normal(size=(2, time)))
        weights = jnp.asarray(rng.normal(size=(2, time)))

        def loss(argument):
            state, y = delay_network(argument[0], argument[1], delays, argument[2])
            left = jnp.sum(jnp.sin(state.history)) + jnp.sum(jnp.sin(state.damped))
            return jnp.sum(weights * jnp.tanh(y)) + left

        argument = (state, audio, jax.tree.map(jnp.asarray, gains))
        assert_gradient(loss, argument, rng)


def test_comb_bank_gradient_to_shared_scalars(rng):
    with jax.enable_x64(True):
        audio = jnp.asarray(rng.normal(size=300))

        def loss(settings):
            state = delay_network_state(FLAT, jnp.float64)
            y = comb_bank(state, audio, DELAYS, settings[0], settings[1])[1]
            return jnp.sum(y**2)

        assert_gradient(loss, jnp.array([0.8, 0.0]), rng)
        assert_gradient(loss, jnp.array([0.7, 0.4]), rng)


@pytest.mark.parametrize("method", ["loop", "doubling"])
@pytest.mark.parametrize("time", [3, 50, 500])
def test_feedback_comb_equals_lfilter_and_has_its_gradient(rng, method, time):
    with jax.enable_x64(True):
        audio, state = rng.normal(size=time), rng.normal(size=17)
        a = np.r_[1.0, np.zeros(16), -0.7]
        # lfilter's state for w[-17..-1] = state.
        want, _ = scipy.signal.lfilter([1.0], a, audio, zi=0.7 * state)
        after, w = feedback_comb(jnp.asarray(state), audio, 0.7, method)
        np.testing.assert_allclose(w, want, atol=1e-12)
        np.testing.assert_array_equal(after, np.r_[state, w][time:])

        def loss(argument):
            after, w = feedback_comb(argument[0], argument[1], argument[2], method)
            return jnp.sum(jnp.tanh(w)) + jnp.sum(jnp.sin(after))

        argument = (jnp.asarray(state), jnp.asarray(audio), jnp.asarray(0.7))
        assert_gradient(loss, argument, rng)


def test_schroeder_allpass_passes_all(rng):
    impulse = np.zeros(4000, np.float32)
    impulse[0] = 1.0
    _, response = schroeder_allpass(jnp.zeros(23), impulse, 0.6)
    np.testing.assert_allclose(np.abs(np.fft.rfft(response)), 1.0, atol=1e-5)
    want = scipy.signal.lfilter(
        np.r_[-0.6, np.zeros(22), 1.0], np.r_[1.0, np.zeros(22), -0.6], impulse
    )
    np.testing.assert_allclose(response, want, atol=1e-6)


def test_allpass_of_blocks_is_that_of_the_whole(rng):
    audio = rng.normal(size=300).astype(np.float32)
    _, whole = schroeder_allpass(jnp.zeros(23), audio, 0.6)
    state, pieces = jnp.zeros(23), []
    for piece in np.split(audio, [1, 9, 9, 40, 200]):
        state, y = schroeder_allpass(state, piece, 0.6)
        pieces.append(y)
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-6)


def test_vmap_is_a_loop(rng):
    audio = rng.normal(size=(3, 200)).astype(np.float32)

    def run(audio, feedback):
        y = comb_bank(delay_network_state(FLAT), audio, DELAYS, feedback, 0.3)[1]
        return schroeder_allpass(jnp.zeros(31), y[0], feedback)[1]

    feedback = jnp.array([0.5, 0.7, 0.9])
    one = jax.jit(jax.value_and_grad(lambda *a: jnp.sum(run(*a) ** 2)))
    many = jax.vmap(one)
    got = many(audio, feedback)
    want = [one(a, f) for a, f in zip(audio, feedback, strict=True)]
    np.testing.assert_allclose(got[0], [w[0] for w in want], rtol=1e-5)
    np.testing.assert_allclose(got[1], [w[1] for w in want], rtol=1e-4, atol=1e-4)


def test_delayed_is_late():
    np.testing.assert_array_equal(
        delayed(jnp.array([7.0, 8.0]), jnp.array([1.0, 2.0, 3.0])), [7.0, 8.0, 1.0]
    )


def test_gradient_keeps_less_than_a_signal_a_line(rng):
    time, delays = 30000, (503, 547, 601, 659, 701, 751, 809, 907)

    def loss(audio, feedback):
        state = delay_network_state(delays)
        return jnp.sum(comb_bank(state, audio, [delays], feedback, 0.2)[1] ** 2)

    compiled = (
        jax.jit(jax.grad(loss, (0, 1))).lower(jnp.zeros(time), jnp.float32(0.8))
    ).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    used = memory.temp_size_in_bytes / (4 * time)
    assert used <= 6, f"{used:.1f} times the audio"


def test_bad_delays_and_gains_are_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        delay_network_state([4, 0])
    with pytest.raises(ValueError, match="one size"):
        comb_bank(delay_network_state([3, 4, 5]), jnp.ones(9), [[3], [4, 5]], 0.5, 0.1)
    gains = DelayGains(np.ones((2, 1)), np.ones((1, 2)), np.ones(3), 0.1)
    with pytest.raises(ValueError, match=r"damped gains of shape \(3,\)"):
        delay_network(delay_network_state([3, 4]), jnp.ones((1, 9)), [3, 4], gains)
    with pytest.raises(ValueError, match="auto, loop or doubling"):
        feedback_comb(jnp.zeros(3), jnp.ones(9), 0.5, "fast")
