"""Sections as block state-space, scan and damped FFT, against float64 recursion."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from benchmarks import accuracy

from ddspx import filters
from ddspx.filters import analog

RATE = 44100


def strip(cutoff_hz, gain_db, q):
    """Five sections of five kinds."""
    return analog.series(
        analog.high_pass(cutoff_hz, q, RATE),
        analog.peak(cutoff_hz * 8, gain_db, q * 2, RATE),
        analog.low_shelf(cutoff_hz * 3, -gain_db, q, RATE),
        analog.first_order_low_pass(cutoff_hz * 100, RATE),
        analog.notch(cutoff_hz * 30, q, RATE),
    )


def oracle(sections, audio):
    sos = np.concatenate(analog.coefficients(sections), -1)
    return scipy.signal.sosfilt(sos, np.asarray(audio, float))


@partial(jax.jit, static_argnames="method")
def run(audio, controls, method):
    return filters.filter_sections(audio, strip(*controls), method=method)[0]


def snr_db(found, truth):
    noise = np.sum(np.square(np.asarray(found, float) - truth))
    return 10 * np.log10(np.sum(np.square(truth)) / noise)


@pytest.mark.parametrize("time", [1, 63, 1000])
def test_methods_agree_with_float64(time, rng):
    audio = rng.standard_normal((2, time)).astype(np.float32)
    expected = oracle(strip(60.0, 9.0, 0.8), audio)
    controls = (jnp.float32(60.0), jnp.float32(9.0), jnp.float32(0.8))
    methods: dict[filters.Method, int] = {"block": 110, "scan": 110, "fft": 100}
    for method, least_db in methods.items():
        found = run(audio, controls, method)
        assert found.dtype == np.float32
        assert snr_db(found, expected) > least_db, method


@pytest.mark.optimized
def test_worst_cases_keep_their_precision():
    """130 dB for responses, 104 for FFT at any length, scipy's float32 for the rest."""
    rows = accuracy.equalizer_rows((512, 131072))
    assert len(rows) == 2 * len(accuracy.WORST_CASES) == 8
    for row in rows:
        assert row.response_db > 130, row
        assert row.fft_db > 104, row
        assert row.block_db > row.scipy_db, row
        assert row.scan_db > row.scipy_db, row


def test_many_blocks_are_paired_without_a_seam(rng):
    # More than 256 blocks of 64, of odd number: both halves of the state recursion.
    audio = rng.standard_normal(64 * 515 + 7).astype(np.float32)
    sections = strip(30.0, -9.0, 1.0)
    found, after = jax.jit(lambda audio: filters.filter_sections(audio, sections))(
        audio
    )
    assert snr_db(found, oracle(sections, audio)) > 110
    # The state at the end predicts what silence brings.
    rest = filters.filter_sections(np.zeros(200, np.float32), sections, after)[0]
    longer = oracle(sections, np.pad(audio, (0, 200)))[-200:]
    np.testing.assert_allclose(rest, longer, atol=2e-5)


def test_streams_may_change_their_method(rng):
    audio = rng.standard_normal((2, 700)).astype(np.float32)
    sections = strip(200.0, 6.0, 0.7)
    still = jax.tree.map(lambda leaf: leaf[None], sections)
    state, parts = None, []
    for cut, method in enumerate(("block", "scan", "auto", "moving")):
        block = audio[:, slice(*((0, 1, 130, 400, 700)[cut : cut + 2]))]
        if method == "moving":
            out, state = filters.filter_moving(block, still, state)
        else:
            out, state = filters.filter_sections(block, sections, state, method)
        parts.append(out)
    whole = oracle(sections, audio)
    np.testing.assert_allclose(np.concatenate(parts, -1), whole, atol=2e-5)
    assert filters.filter_sections(audio[:, :0], sections)[0].shape == (2, 0)


def test_each_example_may_have_its_own_sections(rng):
    audio = rng.standard_normal((3, 2, 150)).astype(np.float32)
    cutoffs_hz = np.array([40.0, 100.0, 200.0])
    every = strip(cutoffs_hz[:, None], np.full((3, 1), 4.0), 0.9)
    methods: tuple[filters.Method, ...] = ("block", "scan", "fft")
    for method in methods:
        found = filters.filter_sections(audio, every, method=method)[0]
        expected = [
            oracle(strip(hz, 4.0, 0.9), x)
            for hz, x in zip(cutoffs_hz, audio, strict=True)
        ]
        np.testing.assert_allclose(found, expected, atol=3e-5)
    loop = jax.vmap(lambda x, hz: filters.filter_sections(x, strip(hz, 4.0, 0.9))[0])(
        audio, cutoffs_hz.astype(np.float32)
    )
    np.testing.assert_allclose(loop, expected, atol=3e-5)


@pytest.mark.parametrize("method", ["block", "scan", "fft"])
def test_gradients_are_float64_differences(method, rng):
    weights = rng.standard_normal(150)
    start = None if method == "fft" else rng.standard_normal((5, 2))

    def loss(audio, values, start):
        out, after = filters.filter_sections(audio, strip(*values), start, method)
        end = 0.0 if method == "fft" else jnp.sum(jnp.sin(after))
        return jnp.sum(weights * out**2) + end

    with jax.enable_x64(True):
        arguments = (
            jnp.asarray(rng.standard_normal(150)),
            jnp.array([150.0, 5.0, 0.9]),
            None if start is None else jnp.asarray(start),
        )
        value = jax.jit(loss)
        slopes = jax.jit(jax.grad(loss, (0, 1)))(*arguments)
        for index in (0, 1, 2):
            step = 1e-5 * np.eye(3)[index] * np.asarray(arguments[1])
            up = value(arguments[0], arguments[1] + step, arguments[2])
            down = value(arguments[0], arguments[1] - step, arguments[2])
            slope = (up - down) / (2 * step[index])
            np.testing.assert_allclose(slopes[1][index], slope, rtol=1e-5)
        direction = rng.standard_normal(150)
        up = value(arguments[0] + 1e-6 * direction, *arguments[1:])
        down = value(arguments[0] - 1e-6 * direction, *arguments[1:])
        slope = (up - down) / 2e-6
        np.testing.assert_allclose(slopes[0] @ direction, slope, rtol=1e-5)
        if start is not None:
            to_start = jax.jit(jax.grad(loss, 2))(*arguments)
            direction = rng.standard_normal((5, 2))
            move = 1e-6 * direction
            up = value(*arguments[:2], arguments[2] + move)
            down = value(*arguments[:2], arguments[2] - move)
            slope = (up - down) / 2e-6
            np.testing.assert_allclose(np.sum(to_start * direction), slope, rtol=1e-5)


def test_moving_sections_follow_a_float64_loop_and_its_differences(rng):
    time = 120
    audio = rng.standard_normal((2, time))
    sweep = 200.0 * 30.0 ** np.linspace(0, 1, time)
    damping = 1.0 + 0.5 * np.sin(np.arange(time) / 9)

    def loop():
        g = np.tan(np.pi * sweep / RATE)
        out = np.zeros((2, time))
        s1 = s2 = np.zeros(2)
        for t in range(time):
            v = (audio[:, t] - s2 - (damping[t] + g[t]) * s1) / (
                1 + g[t] * (damping[t] + g[t])
            )
            band = s1 + g[t] * v
            out[:, t] = s2 + g[t] * band
            s1, s2 = band + g[t] * v, out[:, t] + g[t] * band
        return out

    def low(audio, sweep, damping):
        one = analog.section(sweep, RATE, (0.0, 0.0, 1.0), (1.0, damping, 1.0))
        return filters.filter_moving(audio, analog.series(one))[0]

    def loss(*arguments):
        return jnp.sum(jnp.sin(3.0 * low(*arguments)))

    with jax.enable_x64(True):
        arguments = [jnp.asarray(a) for a in (audio, sweep, damping)]
        np.testing.assert_allclose(low(*arguments), loop(), atol=1e-12)
        value, slopes = jax.jit(loss), jax.jit(jax.grad(loss, (0, 1, 2)))(*arguments)
        for index in range(3):
            scale = (1.0, 100.0, 1.0)[index]
            step = 1e-6 * scale * rng.standard_normal(arguments[index].shape)
            ends = []
            for sign in (1, -1):
                moved = list(arguments)
                moved[index] = moved[index] + sign * step
                ends.append(value(*moved))
            slope = np.sum(slopes[index] * step)
            np.testing.assert_allclose((ends[0] - ends[1]) / 2, slope, rtol=1e-5)


def test_all_pole_agrees_with_torchlpc(golden):
    arrays = golden("torchlpc_torchcomp")
    audio, feedback = arrays["lpc_x"], arrays["lpc_a"]
    # The peer keeps y[-1] first, as scipy's filtic and as `all_pole` do.
    state = arrays["lpc_zi"]
    found, after = jax.jit(filters.all_pole)(audio, feedback, state)
    np.testing.assert_allclose(found, arrays["lpc_y"], atol=2e-4, rtol=1e-4)
    np.testing.assert_array_equal(after, found[:, :-3:-1])

    def loss(*arguments):
        return jnp.mean(filters.all_pole(*arguments)[0] ** 2)

    slopes = jax.jit(jax.grad(loss, (0, 1, 2)))(audio, feedback, state)
    for slope, name in zip(slopes, ("lpc_gx", "lpc_ga", "lpc_gzi"), strict=True):
        scale = np.abs(arrays[name]).max()
        np.testing.assert_allclose(slope, arrays[name], atol=1e-4 * scale)


def test_all_pole_in_blocks_and_against_scipy(rng):
    audio = rng.standard_normal((2, 60))
    a = np.array([-1.2, 0.7, -0.1])
    feedback = np.broadcast_to(a, (2, 60, 3))
    expected = scipy.signal.lfilter([1.0], np.r_[1.0, a], audio)
    with jax.enable_x64(True):
        first, state = filters.all_pole(
            jnp.asarray(audio[:, :2]), feedback[:, :2], jnp.zeros((2, 3))
        )
        second, _ = filters.all_pole(jnp.asarray(audio[:, 2:]), feedback[:, 2:], state)
    np.testing.assert_allclose(np.concatenate([first, second], -1), expected)


def test_bad_calls_say_what_to_do():
    audio = np.zeros(8, np.float32)
    one = analog.peak(100.0, 3.0, 1.0, RATE)
    with pytest.raises(ValueError, match="series"):
        filters.filter_sections(audio, one)
    with pytest.raises(ValueError, match="'fft' filters whole"):
        filters.filter_sections(audio, analog.series(one), np.zeros((1, 2)), "fft")
    with pytest.raises(ValueError, match="shape"):
        filters.filter_sections(audio, analog.series(one), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="at least one"):
        analog.series()


def test_gradient_memory_is_a_few_times_the_audio(rng):
    audio = np.zeros((1, 44100), np.float32)
    loss = lambda audio, values: jnp.sum(  # noqa: E731
        filters.filter_sections(audio, strip(*values))[0] ** 2
    )
    values = (jnp.float32(60.0), jnp.float32(9.0), jnp.float32(0.8))
    program = jax.jit(jax.grad(loss, (0, 1))).lower(audio, values).compile()
    memory = program.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 12 * audio.nbytes
