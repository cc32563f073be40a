import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from ddspx import oversampling

UP = [2, 4, 8]


@pytest.mark.parametrize("factor", UP)
def test_equals_scipys_polyphase_filters(rng, factor):
    taps = oversampling.kernel(factor)
    audio = rng.normal(size=(2, 300)).astype(np.float32)
    up, down = oversampling.start(factor, 2)
    _, fast = oversampling.upsample(up, jnp.asarray(audio), factor)
    wanted = scipy.signal.upfirdn(taps, audio.astype(float), up=factor)
    np.testing.assert_allclose(fast, wanted[:, : 300 * factor], atol=2e-6)
    _, slow = oversampling.downsample(down, fast, factor)
    wanted = scipy.signal.upfirdn(taps / factor, np.asarray(fast, float), down=factor)
    np.testing.assert_allclose(slow, wanted[:, :300], atol=2e-6)


@pytest.mark.parametrize("factor", UP)
def test_the_filter_is_mth_band_flat_and_deep(factor):
    taps = oversampling.kernel(factor)
    middle = taps.size // 2
    np.testing.assert_allclose(taps, taps[::-1], atol=1e-15)
    others = np.delete(taps[::factor], middle // factor)
    np.testing.assert_allclose(others, 0.0, atol=1e-15)
    assert taps[middle] == pytest.approx(1.0, abs=1e-4)
    response = np.abs(np.fft.rfft(taps, 1 << 16)) / factor
    # In units of the lower rate, half of which is its Nyquist frequency.
    frequency = np.linspace(0, factor / 2, response.size)
    assert np.ptp(20 * np.log10(response[frequency < 0.455])) < 0.01
    assert 20 * np.log10(response[frequency > 0.545].max()) < -85
    half = response[np.argmin(np.abs(frequency - 0.5))]
    assert half == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("factor", UP)
def test_there_and_back_is_a_delay(factor):
    time = np.arange(600)
    audio = np.stack([np.sin(0.7 * time), np.cos(2.8 * time)]).astype(np.float32)
    audio *= np.hanning(600).astype(np.float32)
    up, down = oversampling.start(factor, 2)
    _, fast = oversampling.upsample(up, jnp.asarray(audio), factor)
    _, slow = oversampling.downsample(down, fast, factor)
    lag = oversampling.latency(factor)
    assert lag == 64
    np.testing.assert_allclose(slow[:, lag:], audio[:, :-lag], atol=1e-4)


def test_factor_one_is_nothing(rng):
    audio = jnp.asarray(rng.normal(size=(1, 50)), jnp.float32)
    up, down = oversampling.start(1, 1)
    assert oversampling.latency(1) == 0
    np.testing.assert_array_equal(oversampling.upsample(up, audio, 1)[1], audio)
    np.testing.assert_array_equal(oversampling.downsample(down, audio, 1)[1], audio)
    with pytest.raises(ValueError, match=r"oversampling=3.*one of \(1, 2, 4, 8\)"):
        oversampling.start(3, 1)


def test_blocks_join(rng):
    audio = jnp.asarray(rng.normal(size=(2, 400)), jnp.float32)
    up, _ = oversampling.start(4, 2)
    _, whole = oversampling.upsample(up, audio, 4)
    parts = []
    for start, stop in ((0, 1), (1, 130), (130, 131), (131, 400)):
        up, part = oversampling.upsample(up, audio[:, start:stop], 4)
        parts.append(part)
    np.testing.assert_allclose(jnp.concatenate(parts, -1), whole, atol=1e-6)
    _, down = oversampling.start(4, 2)
    _, slow = oversampling.downsample(down, whole, 4)
    parts = []
    for start, stop in ((0, 3), (3, 133), (133, 400)):
        down, part = oversampling.downsample(down, whole[:, 4 * start : 4 * stop], 4)
        parts.append(part)
    np.testing.assert_allclose(jnp.concatenate(parts, -1), slow, atol=1e-6)


def test_the_gradient_is_the_transpose(rng):
    audio = jnp.asarray(rng.normal(size=(1, 150)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(1, 300)), jnp.float32)
    up, _ = oversampling.start(2, 1)
    slope = jax.grad(lambda x: jnp.sum(weights * oversampling.upsample(up, x, 2)[1]))(
        audio
    )
    taps = oversampling.kernel(2)
    wanted = np.correlate(
        np.pad(np.asarray(weights[0], float), (0, 400)), taps, "valid"
    )[:300:2]
    np.testing.assert_allclose(slope[0], wanted, atol=1e-5)
