"""Filtered noise: exact delays and responses, magenta's and ddsp_pytorch's arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from ddspx.signal import fft_convolve
from ddspx.synths.noise import (
    filter_hops,
    filtered_noise,
    frequency_impulse_response,
    noise_hops,
)

HOP = 64
KEY = jax.random.key(2)


@pytest.mark.parametrize("taps", [None, 1, 33])
def test_a_unit_impulse_comes_out_where_it_went_in(taps):
    impulse = np.zeros((8, HOP), np.float32)
    impulse[3, 17] = 1.0
    response = frequency_impulse_response(np.ones((8, 65), np.float32), taps=taps)
    found = np.asarray(filter_hops(impulse, response))[response.shape[-1] // 2 :]
    np.testing.assert_allclose(found[: impulse.size], impulse.reshape(-1), atol=1e-6)


def test_flat_magnitudes_pass_the_noise_as_it_is():
    for bins, gain in ((65, 1.0), (2, 0.25)):
        synth = filtered_noise(16000, HOP, bins)
        assert synth.latency == HOP + bins - 2
        controls = {"noise_magnitudes": np.full((20, bins), gain, np.float32)}
        wanted = gain * noise_hops(KEY, jnp.uint32(0), 20, HOP).reshape(-1)
        np.testing.assert_allclose(
            jax.jit(synth.render)(controls, KEY), wanted, atol=2e-6
        )


def test_each_hop_is_filtered_by_the_mean_of_its_ends_as_scipy_would():
    rng = np.random.default_rng(0)
    magnitudes = rng.uniform(0, 2, (7, 17)).astype(np.float32)
    render = jax.jit(filtered_noise(16000, HOP, 17).render)
    found = render({"noise_magnitudes": magnitudes}, KEY)
    noise = np.asarray(noise_hops(KEY, jnp.uint32(0), 9, HOP), np.float64)
    ends = np.concatenate([magnitudes, magnitudes[-1:], magnitudes[-1:]])
    ends = np.concatenate([ends, ends[-1:]]).astype(np.float64)
    wanted = np.zeros(9 * HOP + 30)
    for hop in range(9):
        held = 0.5 * (ends[hop] + ends[hop + 1])
        zero_phase = np.fft.irfft(held, 32)
        # All but the lag of half the length, where the window is zero.
        response = np.roll(zero_phase, 15)[:31] * scipy.signal.windows.hann(33)[1:-1]
        wanted[hop * HOP : hop * HOP + HOP + 30] += np.convolve(noise[hop], response)
    np.testing.assert_allclose(found, wanted[15 : 15 + 7 * HOP], atol=2e-6)


def test_responses_are_symmetric_and_meet_their_magnitudes():
    rng = np.random.default_rng(1)
    magnitudes = rng.uniform(0, 1, 33)
    with jax.enable_x64(True):
        found = np.asarray(frequency_impulse_response(magnitudes))
    assert found.shape == (63,)
    np.testing.assert_allclose(found, found[::-1], atol=1e-15)
    spectrum = np.fft.rfft(np.roll(np.append(found, 0.0), -31))
    # A periodic Hann window over time is a mean of neighbours over frequency.
    mirrored = np.concatenate([magnitudes[1:2], magnitudes, magnitudes[-2:-1]])
    wanted = 0.25 * mirrored[:-2] + 0.5 * mirrored[1:-1] + 0.25 * mirrored[2:]
    np.testing.assert_allclose(spectrum, wanted, atol=1e-14)
    short = frequency_impulse_response(magnitudes.astype(np.float32), taps=9)
    np.testing.assert_allclose(short, short[::-1], atol=1e-7)


def test_noise_has_the_power_that_its_magnitudes_ask_for():
    magnitudes = np.zeros((300, 65), np.float32)
    magnitudes[:, 16:33] = 1.0
    synth = filtered_noise(16000, HOP, 65)
    audio = np.asarray(jax.jit(synth.render)({"noise_magnitudes": magnitudes}, KEY))
    frequency, density = scipy.signal.welch(audio, 16000, nperseg=512)
    # White noise, uniform in [-1, 1): power 1 / 3, spread over 8000 Hz.
    density = density * 8000.0 * 3.0
    inside = (frequency > 2200) & (frequency < 3800)
    assert np.mean(density[inside]) == pytest.approx(1.0, rel=0.1)
    assert np.max(density[(frequency < 1600) | (frequency > 4400)]) < 1e-3


def test_what_a_hop_draws_depends_on_key_and_number_alone():
    whole = np.asarray(noise_hops(KEY, jnp.uint32(0), 5, HOP))
    np.testing.assert_array_equal(noise_hops(KEY, jnp.uint32(3), 2, HOP), whole[3:])
    assert np.all(np.abs(whole) <= 1.0)
    other = noise_hops(jax.random.key(3), jnp.uint32(0), 5, HOP)
    joined = np.concatenate([whole, np.asarray(other)])
    correlation = np.corrcoef(joined) - np.eye(10)
    assert np.max(np.abs(correlation)) < 0.5
    with jax.enable_x64(True):
        np.testing.assert_array_equal(noise_hops(KEY, jnp.uint32(0), 5, HOP), whole)


def test_outputs_are_scaled_as_in_magenta(golden):
    arrays = golden("ddsp_tf_synths")
    synth = filtered_noise(16000, HOP, 33)
    found = synth.to_controls({"noise_magnitudes": arrays["noise_mag_in"]})
    np.testing.assert_allclose(
        found["noise_magnitudes"], arrays["noise_ctl"], rtol=2e-5
    )


@pytest.mark.parametrize("window", [0, 257, 33])
def test_magenta_s_filters_and_crop(golden, window):
    arrays = golden("ddsp_tf_synths")
    response = frequency_impulse_response(arrays["noise_ctl"], taps=window, compat=True)
    np.testing.assert_allclose(response, arrays[f"fir_w{window}"], atol=1e-8)
    delay = filtered_noise(16000, HOP, 33, taps=window, compat=True).core.delay
    white = arrays["white"].reshape(2, 50, HOP)
    found = filter_hops(white, response)[:, delay : delay + 3200]
    np.testing.assert_allclose(found, arrays[f"filtered_noise_w{window}"], atol=1e-7)
    if window != 33:
        ours = frequency_impulse_response(arrays["noise_ctl"])
        np.testing.assert_allclose(ours, response[..., 1:], atol=1e-8)


@pytest.mark.parametrize("window", [0, 257, 65])
def test_magenta_s_impulse_is_two_samples_late(golden, window):
    wanted = golden("ddsp_tf_synths")[f"impulse_through_flat65_w{window}"][0]
    late = 512 if window == 65 else 514
    assert np.argmax(wanted) == late
    impulse = np.zeros((16, HOP), np.float32)
    impulse[8, 0] = 1.0
    ones = np.ones((16, 65), np.float32)
    response = frequency_impulse_response(ones, taps=window, compat=True)
    delay = filtered_noise(16000, HOP, 65, taps=window, compat=True).core.delay
    found = filter_hops(impulse, response)[delay : delay + 1024]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_compat_holds_magnitudes_and_is_two_samples_late():
    magnitudes = np.ones((6, 65), np.float32)
    magnitudes[3:] = 0.0
    synth = filtered_noise(16000, HOP, 65, compat=True)
    found = np.asarray(jax.jit(synth.render)({"noise_magnitudes": magnitudes}, KEY))
    noise = np.asarray(noise_hops(KEY, jnp.uint32(0), 3, HOP)).reshape(-1)
    wanted = np.zeros(6 * HOP)
    wanted[2 : 2 + 3 * HOP] = noise
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_ddsp_pytorch_s_filters_are_the_same_laid_out_in_a_circle(golden):
    arrays = golden("ddsp_pytorch")
    ours = np.asarray(frequency_impulse_response(arrays["ir_in"]))
    wanted = np.zeros_like(arrays["amp_to_impulse_response"])
    for place, lag in enumerate(range(-7, 8)):
        wanted[..., lag] = ours[..., place]
    np.testing.assert_allclose(wanted, arrays["amp_to_impulse_response"], atol=1e-7)


def test_ddsp_pytorch_s_convolution_is_the_causal_one(golden):
    arrays = golden("ddsp_pytorch")
    found = fft_convolve(arrays["conv_s"], arrays["conv_k"], "causal")
    np.testing.assert_allclose(found, arrays["fft_convolve"], atol=1e-5)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="hop is 0 samples"):
        filtered_noise(16000, 0, 5)
    with pytest.raises(ValueError, match="2 bins or more, got 1"):
        filtered_noise(16000, HOP, 1)
    for taps in (0, 4, 9):
        with pytest.raises(
            ValueError, match=f"odd number of taps from 1 to 7, got {taps}"
        ):
            filtered_noise(16000, HOP, 5, taps=taps)
    with pytest.raises(ValueError, match=r"3 samples or more, got 2.*compat=False"):
        filtered_noise(16000, HOP, 2, compat=True)
    with pytest.raises(ValueError, match=r"\[frames, 5\], got shape \(\d, 4\)"):
        filtered_noise(16000, HOP, 5).render({"noise_magnitudes": np.ones((3, 4))}, KEY)
