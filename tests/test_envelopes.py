import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ddspx import envelopes
from ddspx.envelopes import followers

METHODS = ("scan", "parallel")
ATTACK, RELEASE = 0.2, 0.003


def branching_loop(x, attack, release, y=0.0):
    """Float64, sample by sample."""
    out = np.empty(len(x))
    for n, level in enumerate(x):
        y += (attack if level > y else release) * (level - y)
        out[n] = y
    return out


def decoupled_loop(x, attack, release, h=0.0, y=0.0, return_to_level=True):
    out = np.empty(len(x))
    for n, level in enumerate(x):
        h = max(level, h + release * ((level if return_to_level else 0.0) - h))
        y += attack * (h - y)
        out[n] = y
    return out


def smooth_loop(x, step, y=0.0):
    return branching_loop(x, step, step, y)


FOLLOWERS = {
    "smooth": (
        lambda x, a, r, y, m: envelopes.smooth(x, r, y, method=m),
        lambda x, a, r, y: smooth_loop(x, r, y),
    ),
    "branching": (
        lambda x, a, r, y, m: envelopes.branching(x, a, r, y, method=m),
        branching_loop,
    ),
    "smooth_decoupled": (
        lambda x, a, r, y, m: envelopes.decoupled(x, a, r, (y, y), method=m),
        lambda x, a, r, y: decoupled_loop(x, a, r, y, y),
    ),
    "decoupled": (
        lambda x, a, r, y, m: envelopes.decoupled(
            x, a, r, (y, y), return_to_level=False, method=m
        ),
        lambda x, a, r, y: decoupled_loop(x, a, r, y, y, return_to_level=False),
    ),
}
BOTH = pytest.mark.parametrize("method", METHODS)
ALL = pytest.mark.parametrize("name", FOLLOWERS)


@pytest.fixture
def level(rng):
    """Bursts and a decay, as a level has them."""
    noise = np.abs(rng.standard_normal(700))
    return (noise * np.repeat([1.0, 0.01, 0.5, 0.0, 0.2, 2.0, 0.0], 100)).astype("f")


@ALL
@BOTH
def test_follower_is_its_loop(name, method, level):
    follow, loop = FOLLOWERS[name]
    envelope, final = follow(level, ATTACK, RELEASE, 0.3, method)
    expected = loop(level.astype(float), ATTACK, RELEASE, 0.3)
    np.testing.assert_allclose(envelope, expected, rtol=2e-5, atol=1e-6)
    last = final if name in ("smooth", "branching") else final[1]
    np.testing.assert_allclose(last, expected[-1], rtol=2e-5)


@BOTH
def test_attack_slower_than_release(method, level):
    envelope, _ = envelopes.branching(level, RELEASE, ATTACK, method=method)
    expected = branching_loop(level.astype(float), RELEASE, ATTACK)
    np.testing.assert_allclose(envelope, expected, rtol=2e-5, atol=1e-6)


@BOTH
def test_branching_on_speech(method, data_root):
    import soundfile

    path = sorted((data_root / "speech").rglob("*.flac"))[0]
    audio, rate = soundfile.read(path, frames=20000, dtype="float32")
    level = np.abs(audio if audio.ndim == 1 else audio[:, 0])
    attack = float(envelopes.time_to_step(1.0, rate))
    release = float(envelopes.time_to_step(300.0, rate))
    envelope, _ = envelopes.branching(level, attack, release, method=method)
    expected = branching_loop(level.astype(float), attack, release)
    error = np.sum((np.asarray(envelope) - expected) ** 2) / np.sum(expected**2)
    assert error < 1e-9


@ALL
def test_gradients_match_finite_differences(name, level):
    """All operands, moving and constant steps, both forms, in float64."""
    follow, _ = FOLLOWERS[name]
    with jax.enable_x64(True):
        # Bursts repeat exact zeros, on which the falling peak has a corner.
        x = jnp.asarray(level[::30] + 0.01, "float64")
        moving, still = jnp.linspace(0.1, 0.3, x.size), jnp.asarray(0.05, "float64")
        weight = jnp.cos(jnp.arange(x.size))
        start = jnp.asarray(0.4, "float64")

        def loss(x, attack, release, start, method="scan"):
            envelope, final = follow(x, attack, release, start, method)
            return jnp.sum(weight * envelope) + sum(jax.tree.leaves(final))

        for steps in ((moving, still), (still, moving)):
            operands = (x, *steps, start)
            # Differences of the scan: the loop of another test is its oracle.
            check_grads(
                jax.jit(loss), operands, order=1, modes="rev", eps=1e-6, rtol=1e-6
            )
        back = jax.jit(jax.grad(loss, (0, 1, 2, 3)), static_argnums=4)
        for a, b in zip(
            back(*operands, "scan"), back(*operands, "parallel"), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("smooth", "scan"),
        ("branching", "scan"),
        ("smooth_decoupled", "scan"),
        ("branching", "parallel"),
    ],
)
def test_vmap_and_batches_are_loops(name, method, rng):
    follow, _ = FOLLOWERS[name]
    x = jnp.asarray(np.abs(rng.standard_normal((2, 3, 12))), "float32")
    attack = jnp.asarray(rng.uniform(0.1, 0.5, (2, 3)), "float32")

    @jax.jit
    def loss(x, attack, release):
        return jnp.sum(jnp.sin(follow(x, attack, release, 0.1, method)[0]))

    def by_vmap(x, attack, release):
        each = jax.vmap(jax.vmap(loss, (0, 0, None)), (0, 0, None))
        return jnp.sum(each(x, attack, release))

    def by_batch(x, attack, release):
        return loss(x, attack[..., None], release)

    release = jnp.float32(0.01)
    one = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    each = [[one(x[i, j], attack[i, j], release) for j in range(3)] for i in range(2)]
    rows = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *row) for row in each]
    value, (of_x, of_attack, of_release) = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *rows
    )
    expected = value.sum(), of_x, of_attack, of_release.sum()
    for other in (by_vmap, by_batch):
        found = jax.jit(jax.value_and_grad(other, (0, 1, 2)))(x, attack, release)
        for a, b in zip(jax.tree.leaves(found), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    per_row = jax.vmap(jax.grad(loss, (0, 1, 2)), (0, 0, None))(
        x[0], attack[0], release
    )
    for a, b in zip(per_row, (of_x[0], of_attack[0], of_release[0]), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@ALL
def test_blocks_are_the_whole(name, level):
    follow, _ = FOLLOWERS[name]
    whole, final = follow(level, ATTACK, RELEASE, 0.0, "scan")
    state: object = 0.0 if name in ("smooth", "branching") else (0.0, 0.0)
    parts = []
    for block in np.split(level, [1, 1, 130, 640]):
        if name in ("smooth", "branching"):
            part, state = follow(block, ATTACK, RELEASE, state, "scan")
        else:
            part, state = envelopes.decoupled(
                block,
                ATTACK,
                RELEASE,
                state,
                return_to_level=name == "smooth_decoupled",
                method="scan",
            )
        parts.append(part)
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-6)
    np.testing.assert_allclose(
        jax.tree.leaves(state), jax.tree.leaves(final), rtol=1e-6
    )


@pytest.mark.parametrize("method", ("scan", "parallel"))
def test_held_is_an_attack_at_once(method, level):
    release = 0.003
    found, final = envelopes.held(level, release, 0.2, method=method)
    wanted, last = envelopes.branching(level, 1.0, release, 0.2, method="scan")
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(final, last, rtol=1e-5, atol=1e-6)


def test_long_release_keeps_its_time():
    """A jump has covered 1 - 1/e after the time constant, in float32."""
    rate, time_ms = 48000, 500.0
    step = envelopes.time_to_step(time_ms, rate)
    envelope, _ = envelopes.smooth(np.ones(24000, "f"), step)
    np.testing.assert_allclose(envelope[-1], 1 - np.exp(-1), rtol=1e-5)
    assert float(envelopes.time_to_step(0.0, rate)) == 1.0


def test_bad_use_is_explained(level):
    with pytest.raises(ValueError, match="last axis is 1 or time"):
        envelopes.smooth(level, np.ones(3, "f"))
    with pytest.raises(ValueError, match="needs a level"):
        envelopes.branching(1.0, 0.1, 0.1)
    with pytest.raises(ValueError, match="give 1 or more"):
        envelopes.sliding_maximum(level, 0, level[:0])
    with pytest.raises(ValueError, match="does not fit a window of 4"):
        envelopes.sliding_mean(level, 4, level[:2])


SLIDING = {
    "maximum": (envelopes.sliding_maximum, np.max),
    "minimum": (envelopes.sliding_minimum, np.min),
    "mean": (envelopes.sliding_mean, np.mean),
}


@pytest.mark.parametrize("name", SLIDING)
@pytest.mark.parametrize("length", (1, 2, 5, 8, 23))
def test_windows_slide(name, length, rng):
    slide, reduce = SLIDING[name]
    signal = rng.standard_normal((2, 90)).astype("f")
    history = rng.standard_normal((2, length - 1)).astype("f")
    found, after = slide(signal, length, history)
    joined = np.concatenate([history, signal], -1)
    windows = np.lib.stride_tricks.sliding_window_view(joined, length, -1)
    np.testing.assert_allclose(found, reduce(windows, -1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(after, joined[:, 90:])
    first, state = slide(signal[:, :7], length, history)
    second, _ = slide(signal[:, 7:], length, state)
    np.testing.assert_allclose(jnp.concatenate([first, second], -1), found, atol=1e-6)


@pytest.mark.parametrize("name", SLIDING)
def test_windows_have_gradients(name, rng):
    slide, _ = SLIDING[name]
    with jax.enable_x64(True):
        signal = jnp.asarray(rng.standard_normal((2, 40)))
        history = jnp.asarray(rng.standard_normal((2, 10)))
        weight = jnp.cos(jnp.arange(40.0))[None]

        def loss(signal, history):
            found, after = slide(signal, 11, history)
            return jnp.sum(weight * found) + jnp.sum(after**2)

        check_grads(loss, (signal, history), order=1, modes="rev", eps=1e-6, rtol=1e-6)
        check_grads(
            lambda s: jnp.sum(
                jax.vmap(lambda row, h: slide(row, 11, h)[0])(s, history)
            ),
            (signal,),
            order=1,
            modes="rev",
            eps=1e-6,
            rtol=1e-6,
        )


def test_a_signal_that_does_not_settle_goes_sample_by_sample(monkeypatch):
    monkeypatch.setattr(followers, "_MOST_ROUNDS", 1)
    # Of a length of its own, so that it is traced anew.
    level = np.abs(np.sin(np.arange(613) / 3.0)).astype("float32")
    found, last = envelopes.branching(level, 1.0, 0.05, method="parallel")
    expected = branching_loop(level.astype(float), 1.0, 0.05)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last, expected[-1], rtol=1e-5)


def test_rounding_alone_does_not_count_as_unsettled(monkeypatch):
    """A square wave: its envelope meets it, and is then above or below by rounding."""

    def never(body, state, signals, *_):
        return jnp.full_like(signals[0], jnp.nan), state

    monkeypatch.setattr(followers, "_scan", never)
    level = np.repeat(np.array([0.5, 0.1, 0.5], "float32"), 1001)
    found, _ = envelopes.branching(level, 0.1, 0.02, method="parallel")
    expected = branching_loop(level.astype(float), 0.1, 0.02)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_golden_average_and_limiter(golden):
    """torchcomp's `avg` and `limiter_gain`; its gain takes attack for a fall."""
    arrays = golden("torchlpc_torchcomp")
    rms = arrays["comp_xrms"]
    average, _ = envelopes.smooth(rms[:1], 0.05)
    np.testing.assert_allclose(average, arrays["avg_row0"], rtol=1e-4)
    attack, release = arrays["comp_at"][:, None], arrays["comp_rt"][:, None]
    limit = 10.0 ** (np.array([[-12.0], [-20.0], [-6.0]], "f") / 20)
    peak, _ = envelopes.branching(rms, attack, release)
    needed = jnp.minimum(limit / peak, 1.0)
    gain = -envelopes.branching(-needed, attack, release, -1.0)[0]
    np.testing.assert_allclose(gain, arrays["limiter_gain"], rtol=1e-4)
