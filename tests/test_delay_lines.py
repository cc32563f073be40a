"""Delay lines against loops in float64, magenta's, closed forms and differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.delay_lines import (
    Loop,
    delay,
    feedback_delay,
    history_length,
    start_loop,
)

TIME = 300
LONGEST = 60.0


def lagrange(samples):
    """(position, weight) of the samples that make up ``x(n - samples)``, by its
    definition as products."""
    base = max(int(np.floor(samples)) - 1, 0)
    f = samples - base
    nodes = range(4)
    return [
        (base + k, np.prod([(f - m) / (k - m) for m in nodes if m != k])) for k in nodes
    ]


def linear(samples):
    base = int(np.floor(samples))
    return [(base, 1.0 - (samples - base)), (base + 1, samples - base)]


TAPS = {"linear": linear, "lagrange3": lagrange}


def loop(x, samples, gain, pole, interpolation, crossed=False):
    """The equations of `feedback_delay`, sample by sample in float64."""
    channels, time = x.shape
    samples, gain = np.broadcast_to(samples, time), np.broadcast_to(gain, time)
    pole = np.broadcast_to(pole, time)
    past = 200
    w = np.zeros((channels, past + time))
    r, v = np.zeros((channels, time)), np.zeros((channels, time + 1))
    for n in range(time):
        for place, weight in TAPS[interpolation](samples[n]):
            r[:, n] += weight * w[:, past + n - place]
        v[:, n] = (1 - pole[n]) * r[:, n] + pole[n] * v[:, n - 1]
        back = v[::-1, n] if crossed else v[:, n]
        w[:, past + n] = x[:, n] + gain[n] * back
    return r


def moving(time=TIME):
    n = np.arange(time)
    return (
        30.03 + 22 * np.sin(n / 17.0),
        0.7 * np.cos(n / 40),
        0.4 + 0.3 * np.sin(n / 9),
    )


def noise(time=TIME, channels=2, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (channels, time))


def run(audio, samples, gain, pole=None, state=None, crossed=False, **options):
    audio = jnp.asarray(audio)
    if state is None:
        held = history_length(LONGEST, options.get("interpolation", "linear"))
        state = start_loop(audio.shape[0], held, audio.dtype)
    return feedback_delay(
        audio,
        samples,
        gain,
        state,
        min_delay_samples=7.0,
        damping=pole,
        crossed=crossed,
        **options,
    )


@pytest.mark.parametrize("interpolation", TAPS)
@pytest.mark.parametrize("kind", ["fixed", "moving", "damped", "crossed"])
def test_feedback_is_the_loop_over_samples(interpolation, kind):
    samples, gain, pole = moving()
    if kind == "fixed":
        samples, gain, pole = 12.34, 0.8, None
    elif kind == "moving":
        pole = None
    crossed = kind == "crossed"
    x = noise()
    wanted = loop(
        x, samples, gain, 0.0 if pole is None else pole, interpolation, crossed
    )
    with jax.enable_x64(True):
        found, _ = run(
            x, samples, gain, pole, interpolation=interpolation, crossed=crossed
        )
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    single = x.astype(np.float32)
    found, _ = run(
        single, samples, gain, pole, interpolation=interpolation, crossed=crossed
    )
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=3e-5)


@pytest.mark.parametrize("interpolation", TAPS)
def test_without_feedback_is_the_loop_with_none(interpolation):
    x = noise()
    history = np.zeros((2, history_length(LONGEST, interpolation)))
    for samples in (moving()[0], np.linspace(0.0, 59.9, TIME), 3.0, 0.0, 0.25):
        wanted = np.zeros_like(x)
        padded = np.pad(x, ((0, 0), (100, 0)))
        for n, d in enumerate(np.broadcast_to(samples, TIME)):
            for place, weight in TAPS[interpolation](d):
                wanted[:, n] += weight * padded[:, 100 + n - place]
        with jax.enable_x64(True):
            found, after = delay(
                jnp.asarray(x),
                samples,
                jnp.asarray(history),
                interpolation=interpolation,
            )
        np.testing.assert_allclose(found, wanted, atol=1e-12)
        np.testing.assert_array_equal(after, x[:, -after.shape[1] :])


def test_lagrange_reads_a_cubic_exactly():
    n = np.arange(TIME, dtype=np.float64)
    cubic = lambda t: 1e-6 * t**3 - 2e-4 * t**2 + 0.01 * t  # noqa: E731
    samples = moving()[0]
    history = jnp.asarray(cubic(np.arange(-64.0, 0.0))[None])
    with jax.enable_x64(True):
        found, _ = delay(
            jnp.asarray(cubic(n)[None]), samples, history, interpolation="lagrange3"
        )
    np.testing.assert_allclose(found[0], cubic(n - samples), atol=1e-12)


def test_echoes_of_an_impulse():
    x = np.zeros((1, TIME), np.float32)
    x[0, 3] = 1.0
    found = np.array(run(x, 40.0, -0.5)[0])
    wanted = np.zeros_like(found)
    for echo in range(1, 8):
        wanted[0, 3 + 40 * echo] = (-0.5) ** (echo - 1)
    np.testing.assert_allclose(found, wanted, atol=1e-7)


def test_crossed_feedback_plays_ping_pong():
    x = np.zeros((2, TIME), np.float32)
    x[0, 0] = 1.0
    found = np.asarray(run(x, 40.0, 0.5, crossed=True)[0])
    assert found[0, 40] == 1.0 and found[1, 40] == 0.0
    assert found[0, 80] == 0.0 and found[1, 80] == 0.5
    assert found[0, 120] == 0.25 and found[1, 120] == 0.0


@pytest.mark.parametrize("kind", ["fixed", "moving", "lagrange3"])
def test_blocks_of_any_length_are_the_whole(kind):
    controls = [v.astype(np.float32) for v in moving()]
    interpolation = "lagrange3" if kind == "lagrange3" else "linear"
    x = noise().astype(np.float32)

    def part(span, state):
        samples, gain, pole = (v[span] for v in controls)
        samples = 12.34 if kind == "fixed" else samples
        return run(x[:, span], samples, gain, pole, state, interpolation=interpolation)

    whole, last = part(slice(None), None)
    state, parts, start = None, [], 0
    for length in (1, 120, 8, 1, 170):
        out, state = part(slice(start, start + length), state)
        parts.append(out)
        start += length
    assert start == TIME and isinstance(state, Loop)
    np.testing.assert_allclose(np.concatenate(parts, -1), whole, atol=2e-6)
    for found, wanted in zip(state, last, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-6)


def differences(value, arguments, place, step=1e-6):
    """Directional derivative of one argument by central differences."""
    way = np.random.default_rng(place).standard_normal(np.shape(arguments[place]))
    sides = []
    for sign in (1, -1):
        moved = list(arguments)
        moved[place] = np.asarray(arguments[place]) + sign * step * way
        sides.append(float(value(*moved)))
    return (sides[0] - sides[1]) / (2 * step), way


@pytest.mark.parametrize("interpolation", TAPS)
@pytest.mark.parametrize("kind", ["fixed", "moving", "plain", "crossed"])
def test_gradients_are_those_of_differences(interpolation, kind):
    samples, gain, pole = moving()
    if kind == "fixed":
        samples, gain = 12.34, 0.8
    rng = np.random.default_rng(4)
    held = history_length(LONGEST, interpolation)
    weights = [rng.standard_normal(s) for s in ((2, TIME), (2, held), (2, 1))]

    def value(audio, samples, gain, history, damped, pole):
        out, state = run(
            audio,
            samples,
            gain,
            None if kind == "plain" else pole,
            Loop(history, damped),
            crossed=kind == "crossed",
            interpolation=interpolation,
        )
        parts = (out, *state)
        return sum(jnp.sum(w * p) for w, p in zip(weights, parts, strict=True))

    with jax.enable_x64(True):
        history, damped = rng.standard_normal((2, held)), rng.standard_normal((2, 1))
        arguments = [noise(), samples, gain, history, damped, pole]
        arguments = [jnp.asarray(a) for a in arguments]
        places = range(3 if kind == "plain" else 6)
        compiled = jax.jit(value)
        slopes = jax.jit(jax.grad(value, tuple(range(6))))(*arguments)
        for place in places:
            wanted, way = differences(compiled, arguments, place)
            found = float(np.sum(np.asarray(slopes[place]) * way))
            assert found == pytest.approx(wanted, rel=2e-6), place


def test_gradient_is_that_of_the_unrolled_loop():
    """Every single slope, not only one direction, in a small case."""
    time = 40
    samples, gain, _ = (v[:time] for v in moving())
    samples = 9.03 + 0.05 * samples
    x = noise(time)

    def unrolled(x, samples, gain):
        # w = x + G A w with the matrix A of the taps: one solve in place of a loop.
        n = jnp.arange(time)
        whole = np.floor(9.03 + 0.05 * moving()[0][:time]).astype(int)
        f = samples - whole
        near = n[None] == (n - whole)[:, None]
        far = n[None] == (n - whole - 1)[:, None]
        reads = (1 - f)[:, None] * near + f[:, None] * far
        w = jnp.linalg.solve(jnp.eye(time) - gain[:, None] * reads, x.T)
        return (reads @ w).T

    with jax.enable_x64(True):
        arguments = [jnp.asarray(a) for a in (x, samples, gain)]
        weights = noise(time, seed=9)
        value = lambda out: jnp.sum(weights * out)  # noqa: E731
        wanted = jax.jit(jax.grad(lambda *a: value(unrolled(*a)), (0, 1, 2)))(
            *arguments
        )
        found = jax.grad(lambda *a: value(run(*a)[0]), (0, 1, 2))(*arguments)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-12)


def test_vmap_is_a_loop():
    samples = moving()[0].astype(np.float32)
    x = np.stack([noise(seed=s) for s in range(3)]).astype(np.float32)
    gains = np.array([0.1, 0.5, -0.9], np.float32)
    shifts = np.array([0.0, 3.3, 6.1], np.float32)

    def value(x, gain, shift, fixed):
        delays = 20.0 + shift if fixed else samples + shift
        return jnp.sum(jnp.square(run(x, delays, gain, 0.3)[0]))

    for fixed in (True, False):
        slope = jax.value_and_grad(partial(value, fixed=fixed), (0, 1, 2))
        many = jax.jit(jax.vmap(slope))(x, gains, shifts)
        one = jax.jit(slope)
        for row in range(3):
            alone = jax.tree.leaves(one(x[row], gains[row], shifts[row]))
            for a, b in zip(jax.tree.leaves(many), alone, strict=True):
                np.testing.assert_allclose(a[row], b, rtol=2e-4, atol=1e-4)


def test_delays_out_of_range_are_limited():
    x = noise().astype(np.float32)
    for wanted, asked in ((7.0, -100.0), (LONGEST + 1, 1e9)):
        found, limit = run(x, asked, 0.5)[0], run(x, wanted, 0.5)[0]
        np.testing.assert_array_equal(found, limit)
        np.testing.assert_array_equal(run(x, np.full(TIME, asked), 0.5)[0], limit)


def test_bad_arguments_are_refused():
    state = start_loop(1, 10)
    with pytest.raises(ValueError, match=r"at least 2 samples, got 1\.5"):
        feedback_delay(
            jnp.zeros((1, 8)),
            2.0,
            0.5,
            state,
            min_delay_samples=1.5,
            interpolation="lagrange3",
        )
    with pytest.raises(ValueError, match=r"'cubic' is unknown; use one of"):
        history_length(10.0, "cubic")


def test_memory_of_the_gradient_is_a_few_signals():
    time = 44100
    state = start_loop(1, history_length(2000.0))

    def value(audio, samples, gain):
        return jnp.sum(
            feedback_delay(audio, samples, gain, state, min_delay_samples=20)[0] ** 2
        )

    audio = jnp.zeros((1, time))
    for samples in (jnp.float32(50.0), jnp.full(time, 50.0)):
        slope = jax.jit(jax.grad(value, (0, 1, 2)))
        memory = slope.lower(audio, samples, 0.5).compile().memory_analysis()
        assert memory is not None
        assert memory.temp_size_in_bytes < 12 * audio.nbytes


def test_magenta_reads_its_delay_line_alike(golden):
    arrays = golden("ddsp_tf_synths")
    longest = 100
    phase = np.asarray(arrays["delay_phase"][..., 0])
    audio = arrays["white"]
    held = jnp.zeros((1, history_length(longest)))
    for row in range(2):
        found, _ = delay(audio[row : row + 1], phase[row] * longest, held)
        # Beyond 99 samples magenta's table wraps round to the newest sample.
        inside = phase[row] <= 0.99
        assert np.mean(inside) > 0.9
        np.testing.assert_allclose(
            np.asarray(found)[0][inside],
            arrays["variable_length_delay"][row][inside],
            atol=3e-5,
        )
