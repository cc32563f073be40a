"""Trained reverbs: magenta's arrays, blocks, responses of few parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.effects.convolution import convolution_reverb
from ddspx.synths.noise import filtered_noise, noise_hops
from ddspx.synths.reverb import (
    exponential_response,
    filtered_noise_response,
    partitioned_reverb,
    reverb,
)
from ddspx.synths.through import through

KEY = jax.random.key(5)


def whole(processor, audio):
    return processor.process(processor.init_state(len(audio)), audio, {})[1]


def in_blocks(processor, audio, length):
    state, parts = processor.init_state(len(audio)), []
    for start in range(0, audio.shape[-1], length):
        block = audio[:, start : start + length]
        state, part = processor.process(state, block, {})
        parts.append(np.asarray(part))
    return np.concatenate(parts, axis=-1)


def test_magenta_s_reverb(golden):
    arrays = golden("ddsp_tf_synths")
    for row in range(2):
        audio, response = arrays["white"][row : row + 1], arrays["ir"][row]
        wanted = arrays["reverb"][row : row + 1]
        for processor in (reverb(response), partitioned_reverb(response, 64)):
            np.testing.assert_allclose(whole(processor, audio), wanted, atol=2e-5)
    found = convolution_reverb(arrays["white"], arrays["ir"])
    np.testing.assert_allclose(found, arrays["reverb"], atol=2e-5)


@pytest.mark.parametrize("taps", [2, 40, 41, 100])
def test_blocks_are_the_whole_and_both_forms_the_same(taps):
    rng = np.random.default_rng(taps)
    audio = rng.standard_normal((2, 240)).astype(np.float32)
    response = rng.standard_normal(taps).astype(np.float32)
    for dry in (True, False):
        wanted = np.stack(
            [
                dry * a + np.convolve(a, response * (np.arange(taps) > 0))[:240]
                for a in audio
            ]
        )
        forms = (
            reverb(response, add_dry=dry),
            partitioned_reverb(response, 40, add_dry=dry),
        )
        for form in forms:
            np.testing.assert_allclose(in_blocks(form, audio, 80), wanted, atol=5e-5)


def test_responses_are_trained_through_a_synth():
    synth = filtered_noise(8000, 20, 5)
    magnitudes = jnp.ones((4, 5))

    def value(response, form):
        both = through(synth, form(response))
        audio = both.render(
            {"noise_magnitudes": magnitudes.astype(response.dtype)}, KEY
        )
        return jnp.sum(jnp.square(audio))

    with jax.enable_x64(True):
        response = np.random.default_rng(0).standard_normal(12)
        step = np.random.default_rng(1).standard_normal(12)
        for form in (reverb, lambda h: partitioned_reverb(h, 20)):
            one = jax.jit(jax.value_and_grad(lambda h, form=form: value(h, form)))
            slope = np.asarray(one(response)[1])
            ahead, behind = (one(response + e * step)[0] for e in (1e-6, -1e-6))
            assert slope @ step == pytest.approx(float(ahead - behind) / 2e-6, rel=1e-6)
            # The direct sound is masked.
            assert slope[0] == 0.0 and np.all(slope[1:] != 0.0)


def test_an_exponential_response_falls_as_asked():
    found = np.asarray(exponential_response(KEY, 8000, 8000, 0.5, 1.0), np.float64)
    noise = np.asarray(noise_hops(KEY, jnp.uint32(0), 1, 8000)[0], np.float64)
    wanted = 0.5 * noise * 10.0 ** (-3.0 * np.arange(8000) / 8000)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    slopes = jax.grad(
        lambda g, d: jnp.sum(jnp.square(exponential_response(KEY, 800, 8000, g, d))),
        (0, 1),
    )(0.5, 1.0)
    # Energy grows with the square of the gain, and with the decay.
    energy = np.sum(found[:800] ** 2)
    assert float(slopes[0]) == pytest.approx(4.0 * energy, rel=1e-4)
    assert float(slopes[1]) > 0.0


def test_a_filtered_response_is_the_synth_s_noise():
    magnitudes = np.linspace(1, 0, 10, dtype=np.float32)[:, None] * np.ones((1, 9))
    magnitudes = magnitudes.astype(np.float32)
    found = filtered_noise_response(KEY, magnitudes, 50)
    wanted = filtered_noise(16000, 50, 9).render({"noise_magnitudes": magnitudes}, KEY)
    np.testing.assert_array_equal(found, wanted)
    assert found.shape == (500,)


def test_what_cannot_be_is_refused():
    for form in (reverb, lambda h: partitioned_reverb(h, 4)):
        for shape in ((1,), (2, 8)):
            with pytest.raises(ValueError, match=r"two taps or more, got shape"):
                form(np.zeros(shape))
    with pytest.raises(ValueError, match="1 sample or more, got 0"):
        partitioned_reverb(np.zeros(8), 0)
    with pytest.raises(ValueError, match=r"multiples of the partition of 4.*got 6"):
        whole(partitioned_reverb(np.zeros(8), 4), np.zeros((1, 6)))
