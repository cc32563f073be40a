import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from ddspx.effects.dc_block import block_dc, dc_block, start
from ddspx.effects.stereo import (
    EFFECTS,
    balance,
    dc_offset,
    decode_mid_side,
    encode_mid_side,
    gain,
    mid_side_gain,
    pan,
    polarity,
    stereo_width,
)

RATE = 44100
PLACING = (pan, balance, stereo_width, mid_side_gain)


@pytest.fixture
def audio(rng):
    return jnp.asarray(rng.uniform(-1, 1, (2, 400)), jnp.float32)


def at(effect, *values):
    """Controls of physical values."""
    return jnp.asarray(
        [
            float(spec.to_unit(np.float64(value)))
            for spec, value in zip(effect.specs, values, strict=True)
        ],
        jnp.float32,
    )


def rendered(effect, audio, *values):
    return np.asarray(effect.render(audio, at(effect, *values)))


def test_level_polarity_and_offset_are_their_formulas(audio):
    np.testing.assert_allclose(
        rendered(gain(RATE), audio, 6.0), audio * 10 ** (6 / 20), rtol=2e-6
    )
    np.testing.assert_allclose(rendered(polarity(RATE), audio, -1.0), -audio)
    np.testing.assert_allclose(rendered(polarity(RATE), audio, 0.0), 0.0, atol=1e-7)
    np.testing.assert_allclose(
        rendered(dc_offset(RATE), audio, 0.25), audio + 0.25, atol=1e-7
    )


@pytest.mark.parametrize("place", [-1.0, -0.4, 0.0, 0.7, 1.0])
def test_pan_laws_keep_power_or_sum(place, audio):
    power = rendered(pan(RATE), audio, place) / np.asarray(audio)
    linear = rendered(pan(RATE, law="linear"), audio, place) / np.asarray(audio)
    angle = (1 + place) * np.pi / 4
    for side, wanted in ((0, np.cos(angle)), (1, np.sin(angle))):
        np.testing.assert_allclose(power[side], np.sqrt(2) * wanted, atol=3e-6)
    np.testing.assert_allclose((power**2).sum(0), 2.0, rtol=1e-5)
    np.testing.assert_allclose(linear[0], 1 - place, atol=3e-6)
    np.testing.assert_allclose(linear.sum(0), 2.0, rtol=1e-5)
    fading = rendered(balance(RATE), audio, place) / np.asarray(audio)
    wanted = [min(1, 1 - place), min(1, 1 + place)]
    np.testing.assert_allclose(fading.mean(1), wanted, atol=3e-6)


def test_an_unknown_law_is_refused():
    with pytest.raises(Exception, match=r"law 'tangent' is unknown|Type-check"):
        pan(RATE, law="tangent")  # pyright: ignore[reportArgumentType]


def test_mid_and_side(audio):
    mid, side = np.asarray(encode_mid_side(audio))
    np.testing.assert_allclose(mid, (audio[0] + audio[1]) / 2, atol=1e-7)
    np.testing.assert_allclose(side, (audio[0] - audio[1]) / 2, atol=1e-7)
    back = decode_mid_side(encode_mid_side(audio))
    np.testing.assert_allclose(back, audio, atol=1e-7)
    batch = jnp.stack([audio, 2 * audio])
    np.testing.assert_allclose(encode_mid_side(batch)[1], 2 * encode_mid_side(audio))


def test_width_scales_the_side(audio):
    mid, side = np.asarray(encode_mid_side(audio))
    mono = rendered(stereo_width(RATE), audio, 0.0)
    np.testing.assert_allclose(mono, np.stack([mid, mid]), atol=1e-7)
    wide = rendered(stereo_width(RATE), audio, 2.0)
    np.testing.assert_allclose(wide, [mid + 2 * side, mid - 2 * side], atol=1e-6)
    # Levels of both do the same by decibels.
    levels = rendered(mid_side_gain(RATE), audio, 0.0, 20 * np.log10(2.0))
    np.testing.assert_allclose(levels, wide, atol=1e-5)


@pytest.mark.parametrize("factory", PLACING)
def test_mono_passes_and_more_than_stereo_is_refused(factory, audio):
    effect = factory(RATE)
    ends = jnp.ones(len(effect.specs))
    np.testing.assert_array_equal(effect.render(audio[:1], ends), audio[:1])
    with pytest.raises(ValueError, match=r"stereo \[2, time\].*got 3 channels"):
        effect.render(jnp.zeros((3, 10)), ends)


@pytest.mark.parametrize("name", [n for n in EFFECTS if n != "dc_block"])
def test_controls_may_move(name, audio):
    effect = EFFECTS[name](RATE)
    number = len(effect.specs)
    moving = jnp.broadcast_to(jnp.linspace(0, 1, 400), (number, 400))
    whole = effect.render(audio, moving)
    for t in (0, 123, 399):
        one = effect.render(audio[:, t : t + 1], moving[:, t])
        np.testing.assert_allclose(whole[:, t : t + 1], one, atol=1e-6)


@pytest.mark.parametrize("cutoff_hz", [1.0, 10.0, 200.0])
def test_dc_block_is_scipys_filter(cutoff_hz, rng):
    time = np.arange(20000)
    audio = 0.5 + rng.uniform(-0.5, 0.5, (2, 20000)) + 0.2 * np.sin(time / 500)
    audio = audio.astype(np.float32)
    sos = scipy.signal.butter(1, cutoff_hz, "highpass", fs=RATE, output="sos")
    wanted = np.asarray(scipy.signal.sosfilt(sos, audio.astype(float)))
    found = rendered(dc_block(RATE), jnp.asarray(audio), cutoff_hz)
    error = np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2))
    assert 20 * np.log10(error) < -105.0


def test_dc_block_joins_and_its_slopes_are_those_of_differences(rng):
    audio = jnp.asarray(rng.normal(size=(2, 700)), jnp.float32)
    block = jax.jit(lambda s, x: block_dc(s, x, 80.0, RATE))
    _, whole = block(start(2), audio)
    state, parts = start(2), []
    for cut in (slice(0, 0), slice(0, 1), slice(1, 300), slice(300, 700)):
        state, part = block(state, audio[:, cut])
        parts.append(part)
    np.testing.assert_allclose(jnp.concatenate(parts, -1), whole, atol=2e-6)
    with jax.enable_x64(True):
        wide = jnp.asarray(audio, jnp.float64)
        weights = jnp.asarray(rng.normal(size=wide.shape))

        @jax.jit
        def value(cutoff_hz):
            state = jnp.zeros((2, 2))
            return jnp.sum(weights * block_dc(state, wide, cutoff_hz, RATE)[1])

        slope = jax.grad(value)(30.0)
        wanted = (value(30.0 + 1e-4) - value(30.0 - 1e-4)) / 2e-4
        assert float(slope) == pytest.approx(float(wanted), rel=1e-6)
