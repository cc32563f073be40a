"""The cosine-modulated bank: reconstruction, its filters, streams, RAVE's analysis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from ddspx.filterbank import (
    analysis_state,
    analyze,
    analyze_block,
    make_pqmf,
    reconstruction_db,
    synthesis_state,
    synthesize,
    synthesize_block,
)


@pytest.fixture(scope="module")
def bank():
    return make_pqmf(16)


@pytest.mark.parametrize("count", [2, 6, 16])
def test_signals_come_back(count, rng):
    audio = rng.standard_normal((2, 768)).astype(np.float32)
    bank = make_pqmf(count)
    assert reconstruction_db(bank, audio) > 120.0
    # Bands of a white signal share its power.
    bands = np.asarray(analyze(bank, audio))
    assert np.isclose(np.sum(bands**2) * count, np.sum(audio**2), rtol=1e-4)


def test_reconstruction_is_exact_in_double_precision(bank, rng):
    with jax.enable_x64(True):
        assert reconstruction_db(bank, rng.standard_normal(640)) > 250.0


def test_bands_are_modulated_prototypes(bank, rng):
    audio = rng.standard_normal(640).astype(np.float32)
    taps = bank.prototype
    n = np.arange(len(taps)) - 0.5 * (len(taps) - 1)
    found = np.asarray(analyze(bank, audio))
    padded = np.pad(audio, len(taps) - 16)
    for k in (0, 3, 15):
        turn = (-1.0) ** k * np.pi / 4
        filter_ = 2.0 * taps * np.cos((2 * k + 1) * np.pi / 32 * n + turn)
        wanted = np.correlate(padded, filter_, "valid")[::16]
        np.testing.assert_allclose(found[k], wanted, atol=1e-5)


def test_prototype_rejects_other_bands(bank):
    w, response = scipy.signal.freqz(bank.prototype, worN=1 << 14)
    level = 20.0 * np.log10(np.abs(response) / np.abs(response[0]) + 1e-12)
    # From a band's width beyond its edge on; right at it 59 dB.
    assert level[w > np.pi / 16].max() < -59.0
    assert level[w > 1.5 * np.pi / 16].max() < -75.0


def test_streams_are_the_whole(bank, rng):
    audio = rng.standard_normal((2, 512)).astype(np.float32)
    whole = np.asarray(analyze(bank, audio))
    heard, coming = analysis_state(bank, 2), synthesis_state(bank, 2)
    bands, sound = [], []
    analyze_step = jax.jit(lambda s, x: analyze_block(bank, s, x))
    synthesize_step = jax.jit(lambda s, x: synthesize_block(bank, s, x))
    late = -(-bank.latency // 128) * 128
    for block in np.split(np.pad(audio, ((0, 0), (0, late))), (512 + late) // 128, -1):
        heard, some = analyze_step(heard, block)
        coming, out = synthesize_step(coming, some)
        bands.append(some)
        sound.append(out)
    bands, sound = np.concatenate(bands, -1), np.concatenate(sound, -1)
    np.testing.assert_allclose(bands[..., : whole.shape[-1]], whole, atol=1e-6)
    found = sound[:, bank.latency : bank.latency + 512]
    np.testing.assert_allclose(found, audio, atol=5e-6)


def test_gradient_is_the_transpose(bank, rng):
    audio = rng.standard_normal(320).astype(np.float32)
    bands = np.asarray(analyze(bank, audio))
    other = rng.standard_normal(bands.shape).astype(np.float32)
    _, back = jax.vjp(lambda x: analyze(bank, x), jnp.asarray(audio))
    np.testing.assert_allclose(
        16 * back(jnp.asarray(other))[0], synthesize(bank, other), atol=1e-4
    )


@pytest.mark.golden
@pytest.mark.parametrize("name", ["a100_m16", "a70_m16", "a100_m4"])
def test_analysis_is_that_of_rave(golden, name):
    theirs = golden("rave")
    count = int(name.split("_m")[1])
    bank = make_pqmf(count, prototype=theirs[f"h_{name}"])
    audio = theirs["x"][:, 0]
    np.testing.assert_allclose(
        reconstruction_db(bank, audio), theirs[f"snr_{name}"], atol=1.0
    )
    # RAVE's frame m is centred one sample before m M; ours begin at multiples of M.
    middle = (len(theirs[f"h_{name}"]) - 1) // 2
    lead = len(bank.prototype) - count
    shift = (middle + 1 - lead) % count
    before = (lead + shift - middle - 1) // count
    padded = np.pad(audio, ((0, 0), (shift, count - shift if shift else 0)))
    wanted = theirs[f"sub_{name}"]
    found = np.array(analyze(bank, padded))[..., before : before + wanted.shape[-1]]
    # RAVE turns every second sample of every second band upside down.
    found[:, 1::2, ::2] *= -1.0
    np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_what_does_not_fit_is_refused(bank):
    with pytest.raises(ValueError, match="no multiple of 16"):
        analyze(bank, np.zeros(100, np.float32))
    with pytest.raises(ValueError, match="16 frames or more"):
        synthesize(bank, np.zeros((16, 3), np.float32))
    with pytest.raises(ValueError, match=r"\[..., 16, frames\]"):
        synthesize(bank, np.zeros((4, 30), np.float32))
    with pytest.raises(ValueError, match="even number of bands"):
        make_pqmf(5)
    with pytest.raises(ValueError, match="symmetric"):
        make_pqmf(4, prototype=np.arange(9.0))
