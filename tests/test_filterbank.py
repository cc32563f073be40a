"""Bands, their responses in closed form, and the loops of noise made of them."""

import jax
import numpy as np
import pytest
import scipy.signal

from ddspx.filterbank import (
    band_magnitudes,
    bank_of_loops,
    flatness_db,
    make_bands,
    noise_bank,
)
from ddspx.filterbank.noise_bands import shaped_noise


@pytest.fixture(scope="module")
def bands():
    return make_bands(16000, 32, low_hz=200.0)


@pytest.fixture(scope="module")
def bank(bands):
    return noise_bank(bands, 48, jax.random.key(3), samples=2000)


@pytest.mark.golden
def test_bands_and_noise_are_those_of_noisebandnet(golden, bands):
    theirs = golden("noisebandnet")
    np.testing.assert_array_equal(bands.taps, theirs["filter_lengths"])
    np.testing.assert_allclose(bands.limits_hz[1:-1], theirs["frequency_bands"])
    np.testing.assert_allclose(bands.center_hz, theirs["band_centers"])
    first, magnitudes = band_magnitudes(bands, 2048, floor_db=None)
    filters = np.fft.rfft(theirs["filters_left_padded_f32"], 2048)
    np.testing.assert_allclose(magnitudes, np.abs(filters), atol=1e-6)
    noise = shaped_noise(first, magnitudes, theirs["phase_uniform"], 2048)
    noise /= np.abs(noise).max()
    np.testing.assert_allclose(noise, theirs["noise_bands"], atol=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "attenuation_db"),
    [(1000.0, 1005.4, 50.0), (None, 30.0, 50.0), (7950.0, None, 80.0)],
)
def test_responses_are_those_of_firwin(low, high, attenuation_db):
    # Filters of thousands of taps, where the closed form is used.
    edges = np.array([e for e in (low, high) if e is not None])
    bands = make_bands(16000, 4, low_hz=20.0, attenuation_db=attenuation_db)
    bands = bands._replace(edges_hz=edges)
    i = 0 if low is None else 1
    taps, samples = int(bands.taps[i]), 1 << 17
    kind = "lowpass" if low is None else "highpass" if high is None else "bandpass"
    options: dict = {
        "window": ("kaiser", scipy.signal.kaiser_beta(attenuation_db)),
        "pass_zero": kind,
    }
    filter_ = scipy.signal.firwin(taps, edges, fs=16000, scale=True, **options)
    assert 1000 < taps < samples
    _, found = band_magnitudes(bands, samples, floor_db=None)
    wanted = np.abs(np.fft.rfft(filter_, samples))
    np.testing.assert_allclose(found[i], wanted, atol=1e-7)


def test_what_is_left_out_lies_below_the_floor(bands):
    first, some = band_magnitudes(bands, 4096, floor_db=-60.0)
    _, whole = band_magnitudes(bands, 4096, floor_db=None)
    assert some.shape[-1] < whole.shape[-1]
    found = np.zeros_like(whole)
    for row, start, kept in zip(found, first, some, strict=True):
        row[start : start + len(kept)] = kept
    assert np.abs(found - whole).max() < 1e-3
    passed = whole > 0.01
    np.testing.assert_allclose(found[passed], whole[passed], atol=1e-7)


@pytest.mark.parametrize(("rate", "count", "low_hz", "split_hz", "high_hz"), [
    (16000, 32, 200.0, None, None),
    (44100, 101, 20.0, 3000.0, 15000.0),
    (8000.5, 7, 50.0, 4000.0, 4000.0),
])  # fmt: skip
def test_bands_cover_everything(rate, count, low_hz, split_hz, high_hz):
    bands = make_bands(rate, count, low_hz=low_hz, split_hz=split_hz, high_hz=high_hz)
    assert bands.count == count
    assert bands.limits_hz[0, 0] == 0.0 and bands.limits_hz[-1, 1] == rate / 2
    np.testing.assert_array_equal(bands.limits_hz[1:, 0], bands.limits_hz[:-1, 1])
    assert np.all(np.diff(bands.edges_hz) > 0)
    least, most = flatness_db(bands, 1 << 14)
    assert -6.1 < least < -2.5 and most < 1.0
    flat = flatness_db(bands._replace(response="cosine"), 1 << 14)
    np.testing.assert_allclose(flat, 0.0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 3}, "4 bands or more"),
        ({"low_hz": 0.0}, "0 < low"),
        ({"low_hz": 9000.0}, "low < high"),
        ({"high_hz": 9000.0}, "high <= 8000"),
        ({"transition": 0.0}, "transition is 0.0"),
        ({"attenuation_db": 10.0}, "21 or more"),
    ],
)
def test_impossible_bands_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_bands(16000, **{"count": 32, **options})


def test_noise_has_the_responses_and_joins_its_end(bank, bands):
    loops = bank.loops()
    samples = loops.shape[-1]
    assert samples >= 2000 and samples % 48 == 0
    first, magnitudes = band_magnitudes(bands, samples)
    found = np.abs(np.fft.rfft(loops))
    wanted = np.zeros_like(found)
    for row, start, some in zip(wanted, first, magnitudes, strict=True):
        row[start : start + len(some)] = some
    wanted[:, [0, -1]] = 0.0
    np.testing.assert_allclose(found / found.max(), wanted / wanted.max(), atol=2e-6)
    assert np.isclose(np.sqrt(np.mean(loops**2, -1)).max(), 0.25, rtol=1e-3)
    # The hops behind the last are the first ones.
    np.testing.assert_array_equal(bank.frames[bank.hops :][:3], bank.frames[:3])


def test_noise_depends_on_its_key_alone(bank, bands):
    again = noise_bank(bands, 48, jax.random.key(3), samples=2000)
    other = noise_bank(bands, 48, jax.random.key(4), samples=2000)
    np.testing.assert_array_equal(bank.frames, again.frames)
    a, b = bank.loops(), other.loops()
    likeness = np.sum(a * b, -1) / np.sqrt(np.sum(a**2, -1) * np.sum(b**2, -1))
    assert np.abs(likeness).mean() < 0.2


def test_peak_level_and_half_precision(bands):
    peak = noise_bank(bands, 64, jax.random.key(0), samples=2048, level="peak")
    assert np.isclose(np.abs(peak.frames).max(), 1.0)
    half = noise_bank(bands, 64, jax.random.key(0), samples=2048, dtype="bfloat16")
    whole = noise_bank(bands, 64, jax.random.key(0), samples=2048)
    assert 2 * half.frames.nbytes == whole.frames.nbytes
    np.testing.assert_allclose(half.loops(), whole.loops(), rtol=2**-8)
    with pytest.raises(ValueError, match="'float32' or 'bfloat16'"):
        noise_bank(bands, 64, jax.random.key(0), samples=2048, dtype="float16")


def test_loops_too_short_for_the_bands_are_refused():
    bands = make_bands(44100, 2048)
    with pytest.raises(ValueError, match="give samples = 1"):
        noise_bank(bands, 32, jax.random.key(0), samples=4096)
    with pytest.raises(ValueError, match="no whole hops"):
        bank_of_loops(np.zeros((4, 100), np.float32), 32, 44100, np.zeros(4))
