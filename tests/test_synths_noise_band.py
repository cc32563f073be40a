"""Noise-band synthesis against its plain form, NoiseBandNet, and itself in blocks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.features import spectral_centroid_hz
from ddspx.filterbank import bank_of_loops, make_bands, noise_bank
from ddspx.filters import a_weighting_db
from ddspx.signal import stft
from ddspx.synths.base import mix, stream
from ddspx.synths.noise import filtered_noise
from ddspx.synths.noise_band import (
    _products,
    noise_bands,
    render_batch,
    render_channels,
)

BANDS, HOP, HOPS, FRAMES = 8, 10, 21, 30


@pytest.fixture(scope="module")
def loops():
    return np.random.default_rng(5).standard_normal((BANDS, HOPS * HOP))


@pytest.fixture(scope="module")
def bank(loops):
    return bank_of_loops(loops.astype(np.float32), HOP, 8000, np.arange(BANDS) + 1.0)


@pytest.fixture(scope="module")
def amplitudes():
    rng = np.random.default_rng(6)
    return rng.uniform(0.0, 1.0, (3, FRAMES, BANDS)).astype(np.float32)


def plain(loops, amplitudes, position, frame_at):
    """Amplitudes at the sample rate times bands, summed; hops begin at the frames."""
    frames, hop = amplitudes.shape[1], HOP
    t = np.arange(frames * hop)
    # Noise of the first hop is heard between the frame before the first and the first.
    late = hop - hop // 2 if frame_at == "middle" else 0
    noise = loops[:, (t + late + position * hop) % loops.shape[1]]
    at = (t + 0.5) / hop - 0.5 if frame_at == "middle" else t / hop
    at = np.clip(at, 0, frames - 1)
    left = np.minimum(at.astype(int), frames - 2)
    w = (at - left)[None, :, None]
    moving = (1 - w) * amplitudes[:, left] + w * amplitudes[:, left + 1]
    return jnp.einsum("bti,it->bt", moving, noise)


@pytest.mark.parametrize("frame_at", ["middle", "start"])
@pytest.mark.parametrize("position", [0, 17])
def test_products_are_the_plain_sum(loops, bank, amplitudes, position, frame_at):
    found = render_batch(bank, amplitudes, position, frame_at=frame_at)
    wanted = plain(loops, amplitudes.astype(np.float64), position, frame_at)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_an_odd_hop_has_its_frames_on_a_sample(loops, amplitudes):
    bank = bank_of_loops(loops[:, :105].astype(np.float32), 5, 8000, np.ones(BANDS))
    found = np.asarray(render_batch(bank, amplitudes[:1, :6]))[0]
    for m in range(6):
        t = 5 * m + 2
        noise = loops[:, (t + 3) % 105]
        assert np.isclose(found[t], amplitudes[0, m] @ noise, atol=1e-5)


def test_one_frame_holds(loops, bank, amplitudes):
    for frame_at, late in (("middle", HOP // 2), ("start", 0)):
        given = jnp.asarray(amplitudes[:, :1])
        found, back = jax.vjp(partial(_rendered, bank, frame_at), given)
        noise = np.float32(loops[:, late : late + HOP])
        np.testing.assert_allclose(found, amplitudes[:, 0] @ noise, atol=1e-5)
        asked = np.asarray(back(jnp.ones_like(found))[0])
        np.testing.assert_allclose(asked[1, 0], noise.sum(-1), atol=1e-4)


def _rendered(bank, frame_at, amplitudes):
    return render_batch(bank, amplitudes, frame_at=frame_at)


@pytest.mark.parametrize("frame_at", ["middle", "start"])
def test_gradient_is_that_of_the_plain_form(loops, amplitudes, frame_at):
    with jax.enable_x64(True):
        bank = bank_of_loops(loops.astype(np.float32), HOP, 8000, np.ones(BANDS))
        given = jnp.asarray(amplitudes, jnp.float64)
        # Curved, so that each sample pulls with a weight of its own.
        found = jax.grad(
            lambda a: jnp.sum(render_batch(bank, a, 17, frame_at=frame_at) ** 3)
        )(given)
        kept = loops.astype(np.float32).astype(np.float64)
        wanted = jax.grad(lambda a: jnp.sum(plain(kept, a, 17, frame_at) ** 3))(given)
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-9)


def test_blocks_of_hops_are_one_block(bank, amplitudes):
    weights = tuple(np.arange(HOP) / HOP)
    position = jnp.asarray(3)

    def found(together):
        def sound(a):
            return _products(bank, a, position, weights, together)

        audio, back = jax.vjp(sound, jnp.asarray(amplitudes))
        return audio, back(audio)[0]

    # Twenty-nine hops are seven blocks of four and a rest.
    for some, whole in zip(found(4), found(29), strict=True):
        np.testing.assert_allclose(some, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fade", [None, 3])
def test_streams_give_the_bits_of_the_whole(bank, amplitudes, fade):
    synth = noise_bands(bank, HOP, fade=fade)
    controls = {"band_amplitudes": amplitudes[0]}
    key = jax.random.key(1)
    whole = jax.jit(synth.render)(controls, key)
    for cuts in ([10, 20], [1, 2, 3]):
        blocks = [{"band_amplitudes": a} for a in np.split(amplitudes[0], cuts)]
        parts = np.concatenate(list(stream(synth, blocks, key)))
        np.testing.assert_array_equal(parts, whole)


def test_synth_and_batch_are_one(bank, amplitudes):
    synth = noise_bands(bank, HOP)
    key = jax.random.key(2)
    position = synth.core.init_state(key)
    batch = render_batch(bank, amplitudes, position)
    one_key = jax.vmap(synth.render, (0, None))({"band_amplitudes": amplitudes}, key)
    np.testing.assert_allclose(one_key, batch, atol=1e-5)
    keys = jax.random.split(key, 3)
    many = jax.vmap(synth.render)({"band_amplitudes": amplitudes}, keys)
    for sound, a, k in zip(many, amplitudes, keys, strict=True):
        alone = synth.render({"band_amplitudes": a}, k)
        np.testing.assert_allclose(sound, alone, atol=1e-5)


def test_sound_repeats_with_its_loops_unless_it_fades(bank):
    steady = {"band_amplitudes": np.ones((4 * HOPS, BANDS), np.float32)}
    key, period = jax.random.key(3), HOPS * HOP
    looped = noise_bands(bank, HOP).render(steady, key)
    np.testing.assert_allclose(looped[:period], looped[period : 2 * period], atol=1e-5)
    wandering = np.asarray(noise_bands(bank, HOP, fade=6).render(steady, key))
    a, b = wandering[:period], wandering[period : 2 * period]
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.5
    # Equal power: no louder or softer than the loops.
    assert np.isclose(np.std(wandering), np.std(looped), rtol=0.1)


def test_channels_are_decorrelated():
    bands = make_bands(16000, 32, low_hz=200.0)
    bank = noise_bank(bands, 64, jax.random.key(0), samples=8192)
    even = np.ones((2, 100, 32), np.float32)
    left, right = np.asarray(render_channels(bank, even, jax.random.key(1)))
    assert abs(np.corrcoef(left, right)[0, 1]) < 0.1
    assert np.isclose(np.std(left), np.std(right), rtol=0.1)
    moved = even * np.array([1.0, 0.0], np.float32)[:, None, None]
    left_again, silent = render_channels(bank, moved, jax.random.key(1))
    np.testing.assert_array_equal(left_again, left)
    assert not np.any(silent)


def test_half_precision_is_as_far_off_as_is_said(loops, bank, amplitudes):
    half = bank_of_loops(
        loops.astype(np.float32), HOP, 8000, np.ones(BANDS), dtype="bfloat16"
    )
    wanted = np.asarray(render_batch(bank, amplitudes))
    found = np.asarray(render_batch(half, amplitudes))
    error_db = 10 * np.log10(np.mean((found - wanted) ** 2) / np.mean(wanted**2))
    assert -62.0 < error_db < -50.0


def test_outputs_become_amplitudes_as_in_the_paper(bank):
    synth = noise_bands(bank, HOP)
    outputs = np.linspace(-20.0, 5.0, 2 * BANDS, dtype=np.float32).reshape(2, BANDS)
    found = synth.to_controls({"band_amplitudes": outputs})["band_amplitudes"]
    wanted = 2.0 / (1.0 + np.exp(-outputs.astype(np.float64))) ** np.log(10.0) + 1e-18
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert synth.sizes == {"band_amplitudes": BANDS}


def test_it_mixes_with_other_synths(bank, amplitudes):
    both = mix(noise_bands(bank, HOP, frame_at="start"), filtered_noise(8000, HOP, 5))
    magnitudes = np.full((FRAMES, 5), 0.1, np.float32)
    controls = {"band_amplitudes": amplitudes[0], "noise_magnitudes": magnitudes}
    key = jax.random.key(4)
    whole = both.render(controls, key)
    blocks = [jax.tree.map(partial(np.take, indices=i, axis=0), controls) for i in
              np.split(np.arange(FRAMES), 3)]  # fmt: skip
    parts = np.concatenate(list(stream(both, blocks, key)))
    np.testing.assert_allclose(parts, whole, atol=1e-5)


@pytest.fixture(scope="module")
def theirs(golden):
    return golden("noisebandnet")


def rolled(theirs, samples):
    """Their bands; our hops begin half a hop before a sound does."""
    loops = np.roll(theirs["noise_bands"], samples + 8, -1)
    return bank_of_loops(loops, 16, 16000, theirs["band_centers"])


@pytest.mark.golden
@pytest.mark.parametrize("roll", [0, 137])
def test_sound_and_gradient_are_those_of_noisebandnet(theirs, roll):
    amplitudes = theirs["amplitudes"].transpose(0, 2, 1)
    bank = rolled(theirs, roll)
    wanted = theirs[f"synth_short_roll{roll}"][:, 0]
    np.testing.assert_allclose(render_batch(bank, amplitudes), wanted, atol=1e-6)
    if roll:
        return
    slope = jax.grad(lambda a: jnp.mean(render_batch(bank, a) ** 2))(amplitudes)
    np.testing.assert_allclose(
        slope, theirs["grad_amp_meansq"].transpose(0, 2, 1), rtol=1e-3, atol=1e-8
    )


@pytest.mark.golden
def test_long_sound_differs_where_noisebandnet_is_wrong_alone(theirs):
    amplitudes = theirs["amp_long"].transpose(0, 2, 1)
    found = np.asarray(render_batch(rolled(theirs, 0), amplitudes))[0]
    off = np.abs(found - theirs["synth_long_roll0"][0, 0]) > 1e-6
    # They render blocks of 2,048 samples and hold amplitudes at both ends of each.
    t = np.arange(len(found))
    near = np.abs((t + 1024) % 2048 - 1023.5) < 8
    assert off[near & (t > 1024) & (t < 4200)].any()
    assert not off[~near].any()


def test_what_does_not_fit_is_refused(bank, amplitudes):
    with pytest.raises(ValueError, match="make the bank with hop=12"):
        noise_bands(bank, 12)
    with pytest.raises(ValueError, match="fade is 0 hops"):
        noise_bands(bank, HOP, fade=0)
    with pytest.raises(ValueError, match=r"\[batch, frames, 8\]"):
        render_batch(bank, amplitudes[..., :5])
    with pytest.raises(ValueError, match=r"\[frames, 8\]"):
        controls = {"band_amplitudes": amplitudes[0][:, :3]}
        noise_bands(bank, HOP).render(controls, jax.random.key(0))
    with pytest.raises(ValueError, match="use longer loops"):
        render_channels(
            bank, np.ones((HOPS + 1, 2, BANDS), np.float32), jax.random.key(0)
        )


def stretched(values, samples):
    """torch's linear interpolation, between the middles of frames."""
    at = (np.arange(samples) + 0.5) * len(values) / samples - 0.5
    return np.interp(at, np.arange(len(values)), values)


@pytest.mark.golden
def test_controls_of_noisebandnet_are_made_of_our_spectra(theirs):
    audio = theirs["feat_audio"]
    spectra = stft(audio, fft_size=128, hop_length=32, pad_mode="constant")
    level_db = a_weighting_db(np.arange(65) * 16000 / 128)[:, None]
    loudness = np.mean(np.log(np.abs(spectra) + 1e-7) + level_db, 0)[:-1]
    np.testing.assert_allclose(loudness, theirs["loudness_raw"], atol=1e-4)
    wanted = theirs["loudness_norm"][0]
    inverse = stretched(np.abs(1.0 / loudness), len(wanted))
    least, most = theirs["loudness_min"], theirs["loudness_max"]
    np.testing.assert_allclose([inverse.min(), inverse.max()], [least, most], atol=1e-5)
    found = (inverse - least) / (most - least)
    np.testing.assert_allclose(found, wanted, atol=1e-3)

    centroid = np.asarray(
        spectral_centroid_hz(
            audio, 16000, fft_size=512, hop_length=128, pad_mode="reflect"
        )
    )
    least, most = theirs["centroid_min"], theirs["centroid_max"]
    np.testing.assert_allclose([centroid.min(), centroid.max()], [least, most], 1e-5)
    wanted = theirs["centroid_norm"][0]
    found = stretched((centroid - least) / (most - least), len(wanted))
    np.testing.assert_allclose(found, wanted, atol=1e-3)
