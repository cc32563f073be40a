import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import scipy.signal
from jax.test_util import check_grads

from ddspx import filters

RATE = 44100
DESIGNS = {
    "low_pass": lambda f, q: filters.low_pass(f, q, RATE),
    "high_pass": lambda f, q: filters.high_pass(f, q, RATE),
    "band_pass": lambda f, q: filters.band_pass(f, q, RATE),
    "notch": lambda f, q: filters.notch(f, q, RATE),
    "peak": lambda f, q: filters.peak(f, 6.0, q, RATE),
    "low_shelf": lambda f, q: filters.low_shelf(f, -9.0, q, RATE),
    "high_shelf": lambda f, q: filters.high_shelf(f, 9.0, q, RATE),
}


def cookbook(name, cutoff_hz, q):
    """The cookbook's own formulas, in sines and cosines."""
    w = 2 * np.pi * cutoff_hz / RATE
    c, alpha = np.cos(w), np.sin(w) / (2 * q)
    gain = {"peak": 6.0, "low_shelf": -9.0, "high_shelf": 9.0}.get(name, 0.0)
    root = 10 ** (gain / 40)
    beta = 2 * np.sqrt(root) * alpha
    a = [1 + alpha, -2 * c, 1 - alpha]
    up, down, s = root + 1, root - 1, (1 if name == "low_shelf" else -1)
    if name == "low_pass":
        b = [(1 - c) / 2, 1 - c, (1 - c) / 2]
    elif name == "high_pass":
        b = [(1 + c) / 2, -(1 + c), (1 + c) / 2]
    elif name == "band_pass":
        b = [alpha, 0, -alpha]
    elif name == "notch":
        b = [1, -2 * c, 1]
    elif name == "peak":
        b = [1 + alpha * root, -2 * c, 1 - alpha * root]
        a = [1 + alpha / root, -2 * c, 1 - alpha / root]
    else:
        b = [
            root * (up - s * down * c + beta),
            s * 2 * root * (down - s * up * c),
            root * (up - s * down * c - beta),
        ]
        a = [
            up + s * down * c + beta,
            -s * 2 * (down + s * up * c),
            up + s * down * c - beta,
        ]
    return np.array(b) / a[0], np.array(a) / a[0]


@pytest.mark.parametrize("name", DESIGNS)
def test_designs_are_the_cookbook_s(name):
    for cutoff_hz, q in ((30.0, 0.5), (1000.0, 0.7071), (15000.0, 8.0)):
        b, a = DESIGNS[name](cutoff_hz, q)
        expected_b, expected_a = cookbook(name, cutoff_hz, q)
        np.testing.assert_allclose(b, expected_b, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(a, expected_a, rtol=1e-9, atol=1e-12)


def test_designs_have_their_physics():
    def level(pair, hz):
        response = filters.frequency_response(*pair, np.array([hz]), RATE)
        return 20 * np.log10(np.abs(response[0]))

    root_half = np.sqrt(0.5)
    low = filters.low_pass(1000.0, root_half, RATE)
    assert level(low, 1000.0) == pytest.approx(-3.0103, abs=1e-3)
    assert level(low, 100.0) == pytest.approx(0.0, abs=1e-3)
    high = filters.high_pass(1000.0, root_half, RATE)
    assert level(high, 62.5) - level(high, 31.25) == pytest.approx(12.04, abs=0.05)
    assert level(filters.peak(1000.0, 7.0, 2.0, RATE), 1000.0) == pytest.approx(7.0)
    assert level(filters.low_shelf(500.0, 6.0, 0.7, RATE), 1.0) == pytest.approx(
        6.0, abs=1e-3
    )
    assert level(filters.high_shelf(500.0, 6.0, 0.7, RATE), 500.0) == pytest.approx(3.0)
    assert level(filters.notch(500.0, 4.0, RATE), 500.0) < -200
    band = filters.band_pass(2000.0, 3.0, RATE)
    assert level(band, 2000.0) == pytest.approx(0.0, abs=1e-9)


def test_frequency_response_agrees_with_scipy(rng):
    b, a = rng.standard_normal((2, 4, 3))
    a[:, 0] = 1.0
    hz = np.linspace(10, RATE / 2, 50)
    expected = [
        scipy.signal.freqz(*pair, worN=hz, fs=RATE)[1]
        for pair in zip(b, a, strict=True)
    ]
    np.testing.assert_allclose(
        filters.frequency_response(b, a, hz, RATE), expected, rtol=1e-9
    )


def test_designs_batch_in_jax_as_in_numpy():
    cutoff_hz = np.array([50.0, 400.0, 9000.0])
    for name, design in DESIGNS.items():
        b, a = design(cutoff_hz, 0.9)
        jax_b, jax_a = jax.jit(design)(cutoff_hz.astype(np.float32), np.float32(0.9))
        assert b.shape == jax_b.shape == (3, 3)
        np.testing.assert_allclose(jax_b, b, rtol=2e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(jax_a, a, rtol=2e-5, atol=1e-6, err_msg=name)


def chain(cutoff_hz=200.0):
    return filters.sections(
        filters.high_pass(cutoff_hz, 0.7, RATE),
        filters.peak(1000.0, 9.0, 3.0, RATE),
        filters.high_shelf(8000.0, -6.0, 0.7, RATE),
    )


@pytest.mark.parametrize("time", [1, 128, 1000])
def test_recursions_agree_with_scipy(time, rng):
    audio = rng.standard_normal((2, 3, time)).astype(np.float32)
    expected = scipy.signal.sosfilt(chain(), audio.astype(float))
    np.testing.assert_allclose(filters.sosfilt(audio, chain()), expected, atol=1e-4)
    np.testing.assert_allclose(
        filters.sosfilt_fixed(audio, chain()), expected, atol=1e-4
    )
    with jax.enable_x64(True):
        for function in (filters.sosfilt, filters.sosfilt_fixed):
            np.testing.assert_allclose(
                function(audio.astype(float), chain()), expected, atol=1e-10
            )


def test_sosfilt_takes_one_filter_for_each_example(rng):
    audio = rng.standard_normal((2, 60)).astype(np.float32)
    sos = np.stack([chain(100.0), chain(5000.0)])
    out = filters.sosfilt(audio, sos)
    for one, coefficients, x in zip(out, sos, audio, strict=True):
        np.testing.assert_allclose(
            one, scipy.signal.sosfilt(coefficients, x), atol=1e-4
        )
    batched = jax.vmap(jax.jit(filters.sosfilt))(audio, jnp.asarray(sos))
    np.testing.assert_allclose(batched, out, atol=2e-5)


def test_gradients_match_finite_differences(rng):
    audio = rng.standard_normal(40)

    @jax.jit
    def exact(audio, cutoff_hz, q):
        sos = filters.sections(
            filters.low_pass(cutoff_hz, q, RATE),
            filters.peak(cutoff_hz * 2, q * 3, q, RATE),
            filters.low_shelf(cutoff_hz / 2, -q, q, RATE),
        )
        b, a = filters.high_shelf(cutoff_hz, q, q, RATE)
        hz = jnp.linspace(100.0, 9000.0, 7)
        response = filters.frequency_response(b, a, hz, RATE)
        return jnp.sum(filters.sosfilt(audio, sos) ** 2) + jnp.sum(jnp.abs(response))

    @jax.jit
    def fixed(audio):
        return jnp.sum(filters.sosfilt_fixed(audio, chain(), 16) ** 3)

    with jax.enable_x64(True):
        check_grads(exact, (jnp.asarray(audio), 2000.0, 0.8), 1, ["rev"], eps=1e-5)
        check_grads(fixed, (jnp.asarray(audio),), 1, ["rev"])


def test_k_weighting_is_the_standard_s_table_at_48_khz():
    # ITU-R BS.1770-4, tables 1 and 2.
    shelf = [1.53512485958697, -2.69169618940638, 1.19839281085285]
    shelf += [1.0, -1.69065929318241, 0.73248077421585]
    cut = [1.0, -2.0, 1.0, 1.0, -1.99004745483398, 0.99007225036621]
    np.testing.assert_allclose(filters.k_weighting(48000), [shelf, cut], atol=1e-7)


def test_k_weighting_has_one_response_at_every_rate():
    def response(rate, hz):
        sos = filters.k_weighting(rate)
        return 20 * np.log10(np.abs(scipy.signal.sosfreqz(sos, hz, fs=rate)[1]))

    hz = np.array([30.0, 100.0, 500.0, 1000.0])
    for rate in (16000, 22050, 44100, 96000):
        np.testing.assert_allclose(response(rate, hz), response(48000, hz), atol=0.06)
    # At 8 kHz the bilinear transform bends the shelf.
    np.testing.assert_allclose(response(8000, hz), response(48000, hz), atol=0.25)


def test_a_weighting_agrees_with_librosa():
    hz = np.linspace(1, 20000, 201)
    np.testing.assert_allclose(
        filters.a_weighting_db(hz), librosa.A_weighting(hz), atol=1e-6
    )
    assert filters.a_weighting_db(0.0) == -80.0
    np.testing.assert_allclose(filters.a_weighting_db(50.0, -10.0), -10.0)
    assert filters.a_weighting_db(1000.0) == pytest.approx(0.0, abs=1e-3)


def test_a_weighting_fir_has_the_analog_response_where_it_can():
    taps = filters.a_weighting_fir(44100)
    np.testing.assert_allclose(taps, taps[::-1], atol=1e-12)
    hz = np.array([1000.0, 2000.0, 4000.0, 6000.0])
    response = np.abs(scipy.signal.freqz(taps, worN=hz, fs=44100)[1])
    np.testing.assert_allclose(
        20 * np.log10(response), filters.a_weighting_db(hz), atol=0.6
    )
