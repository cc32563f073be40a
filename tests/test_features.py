from functools import partial

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pyloudnorm
import pytest
import scipy.fft
import scipy.signal

from ddspx import features, signal

RATE = 16000


def tone(hz, rate, seconds, amplitude=1.0):
    samples = np.arange(int(rate * seconds))
    return (amplitude * np.sin(2 * np.pi * hz * samples / rate)).astype(np.float32)


@pytest.mark.parametrize(
    ("rate", "fft_size", "bands", "low_hz", "high_hz"),
    [(22050, 1024, 64, 0.0, None), (44100, 2048, 128, 40.0, 16000.0)],
)
@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize("norm", ["slaney", None])
def test_mel_filterbank_agrees_with_librosa(
    rate, fft_size, bands, low_hz, high_hz, scale, norm
):
    theirs = librosa.filters.mel(
        sr=rate,
        n_fft=fft_size,
        n_mels=bands,
        fmin=low_hz,
        fmax=high_hz,
        htk=scale == "htk",
        norm=norm,
    )
    ours = features.mel_filterbank(
        rate, fft_size, bands, low_hz=low_hz, high_hz=high_hz, scale=scale, norm=norm
    )
    np.testing.assert_allclose(ours.T, theirs, atol=1e-7)


def test_mel_range_above_half_the_rate_is_refused():
    with pytest.raises(ValueError, match=r"0\.0 to 9000\.0 Hz at 16000 Hz"):
        features.mel_filterbank(16000, 512, 10, high_hz=9000.0)
    with pytest.raises(ValueError, match="20 coefficients of 10 mel bands"):
        features.mfcc(np.ones(3000, np.float32), RATE, mel_bands=10)


def test_spectral_features_agree_with_librosa(rng):
    audio = rng.standard_normal((2, 5000)).astype(np.float32) * 0.1
    mel = librosa.feature.melspectrogram(y=audio, sr=RATE, n_mels=64)
    np.testing.assert_allclose(
        features.log_mel(audio, RATE, mel_bands=64),
        librosa.power_to_db(mel, top_db=None),
        atol=1e-4,
    )
    np.testing.assert_allclose(
        features.mfcc(audio, RATE, coefficients=13),
        librosa.feature.mfcc(y=audio, sr=RATE, n_mfcc=13),
        atol=5e-4,
    )
    centroid = librosa.feature.spectral_centroid(y=audio, sr=RATE)[..., 0, :]
    np.testing.assert_allclose(
        features.spectral_centroid_hz(audio, RATE), centroid, rtol=1e-5
    )


@pytest.mark.golden
@pytest.mark.parametrize("padding", ["center", "same", "valid"])
def test_a_weighted_loudness_is_ddsp_s(golden, padding):
    arrays = golden("ddsp_tf_spectral")
    ours = features.a_weighted_loudness_db(arrays["target"], 16000, padding=padding)
    np.testing.assert_allclose(ours, arrays[f"loudness_{padding}"], atol=1e-3)


@pytest.mark.golden
def test_framed_level_is_ddsp_s(golden):
    arrays = golden("ddsp_tf_spectral")
    audio = arrays["target"]
    ours = features.rms_db(audio, frame_length=512, hop_length=64, floor_db=-80.0)
    np.testing.assert_allclose(ours, arrays["power_valid"], atol=1e-3)


@pytest.mark.golden
def test_framed_rms_is_ddsp_s(golden):
    arrays = golden("ddsp_tf_spectral")
    padded = np.pad(arrays["target"], ((0, 0), (256, 256)))
    ours = features.rms_db(padded, frame_length=512, hop_length=64, floor_db=-120.0)
    rms = 10 ** (np.asarray(ours)[:, :251] / 20)
    np.testing.assert_allclose(rms, arrays["rms"], atol=1e-6)


@pytest.mark.golden
@pytest.mark.parametrize(
    ("name", "size", "bands", "ends_hz"),
    [("logmel", 2048, 64, (80.0, 7600.0)), ("mfcc", 1024, 128, (20.0, 8000.0))],
)
def test_mel_bands_are_near_ddsp_s(golden, name, size, bands, ends_hz):
    """Theirs are triangles over mel, ours over Hz: a hundredth of a neper apart."""
    arrays = golden("ddsp_tf_spectral")
    target, hop = arrays["target"].astype(np.float64), size // 4
    count = -(-target.shape[-1] // hop)
    padded = np.pad(target, ((0, 0), (0, size + count * hop - target.shape[-1])))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    frames = np.stack([padded[:, m * hop :][:, :size] for m in range(count)], 1)
    bank = features.mel_filterbank(
        16000,
        size,
        bands,
        low_hz=ends_hz[0],
        high_hz=ends_hz[1],
        scale="htk",
        norm=None,
    )
    levels = np.log(np.maximum(np.abs(np.fft.rfft(window * frames)) @ bank, 1e-5))
    if name == "mfcc":
        levels = scipy.fft.dct(levels, norm="ortho")[..., :30]
        levels[..., 0] *= np.sqrt(2.0)
    np.testing.assert_allclose(levels, arrays[name], atol=1.5e-2)


def test_a_weighting_of_tones_differs_as_the_curve_says():
    def loudness(hz):
        return features.a_weighted_loudness_db(
            tone(hz, RATE, 0.3), RATE, fft_size=2048, padding="valid"
        ).mean()

    assert float(loudness(1000) - loudness(125)) == pytest.approx(16.1, abs=0.3)


@pytest.mark.parametrize("rate", [8000, 11025, 24000, 48000])
def test_integrated_loudness_agrees_with_pyloudnorm(rate, rng):
    # Loud, near-silent and middling thirds: both gates act. A multiple of 100 ms, for
    # pyloudnorm counts an incomplete last block as complete.
    time = round(0.1 * rate) * 24
    shape = np.repeat([0.3, 0.0005, 0.05], time // 3)
    noise = scipy.signal.lfilter([1], [1, -0.9], rng.standard_normal((2, time)))
    audio = 0.3 * shape * noise
    meter = pyloudnorm.Meter(rate)
    stereo = meter.integrated_loudness(audio.T)
    mono = meter.integrated_loudness(audio[0])
    ours = features.integrated_loudness_lufs(audio.astype(np.float32), rate)
    # At 8 kHz pyloudnorm's shelf, from another design, lies 0.2 dB lower.
    tolerance = 0.1 if rate > 8000 else 0.3
    assert float(ours) == pytest.approx(stereo, abs=tolerance)
    one = features.integrated_loudness_lufs(audio[:1].astype(np.float32), rate)
    assert float(one) == pytest.approx(mono, abs=tolerance)
    if rate >= 44100:
        exact = pyloudnorm.Meter(rate, "DeMan").integrated_loudness(audio.T)
        assert float(ours) == pytest.approx(exact, abs=0.03)


def test_integrated_loudness_of_five_channels_agrees_with_pyloudnorm(rng):
    audio = rng.standard_normal((5, 24000)) * np.array([[0.1, 0.2, 0.05, 0.3, 0.1]]).T
    expected = pyloudnorm.Meter(24000).integrated_loudness(audio.T)
    ours = features.integrated_loudness_lufs(audio.astype(np.float32), 24000)
    assert float(ours) == pytest.approx(expected, abs=0.1)
    with pytest.raises(ValueError, match="6 channels"):
        features.integrated_loudness_lufs(np.ones((6, 100), np.float32), 24000)


def test_integrated_loudness_meets_ebu_tech_3341():
    # Case 1: stereo 1 kHz at -23 dBFS reads -23.0 +- 0.1 LUFS. Case 3, shortened:
    # quiet parts below the relative gate change nothing.
    steady = tone(1000, 48000, 3.0, 10 ** (-23 / 20))
    measure = partial(features.integrated_loudness_lufs, sample_rate=48000)
    assert float(measure(np.stack([steady] * 2))) == pytest.approx(-23.0, abs=0.1)
    quiet = steady[:48000] * 10 ** (-13 / 20)
    around = np.concatenate([quiet, steady, steady, quiet])
    # 57 whole blocks, and 6 on the edges that hold 3 blocks' energy.
    expected = -23.0 + 10 * np.log10((57 + 3) / 63)
    assert float(measure(np.stack([around] * 2))) == pytest.approx(expected, abs=0.1)


def test_integrated_loudness_does_not_depend_on_the_rate(rng):
    audio = 0.1 * rng.standard_normal((1, 32000)).astype(np.float32)
    audio = signal.resample(audio, 8000, 16000)
    resampled = signal.resample(audio, 16000, 48000)
    low = features.integrated_loudness_lufs(audio, 16000)
    high = features.integrated_loudness_lufs(resampled, 48000)
    assert float(low) == pytest.approx(float(high), abs=0.05)


def test_short_audio_is_one_block_and_silence_the_floor():
    measure = partial(features.integrated_loudness_lufs, sample_rate=16000)
    long = tone(1000, 16000, 0.4)[None]
    short = tone(1000, 16000, 0.15)[None]
    assert float(measure(short)) == pytest.approx(float(measure(long)), abs=0.1)
    assert float(measure(np.zeros((2, 1), np.float32))) == pytest.approx(-70.0)
    assert float(measure(np.zeros((2, 16000), np.float32))) == pytest.approx(-70.0)
    with pytest.raises(ValueError, match="0 samples"):
        measure(np.zeros((1, 0), np.float32))


def test_levels_have_closed_forms():
    sine = tone(100, 8000, 1.0, 0.5)
    assert float(features.rms_db(sine)) == pytest.approx(-9.031, abs=1e-3)
    assert float(features.crest_factor_db(sine)) == pytest.approx(3.0103, abs=1e-3)
    square = np.where(np.arange(800) % 80 < 40, 0.1, -0.1).astype(np.float32)
    assert float(features.crest_factor_db(square)) == pytest.approx(0.0, abs=1e-3)
    frames = features.rms_db(sine, frame_length=800, hop_length=400)
    np.testing.assert_allclose(frames, -9.031, atol=1e-2)
    assert frames.shape == (19,)
    assert float(features.rms_db(np.zeros(10, np.float32))) == pytest.approx(-120.0)
    silent = features.crest_factor_db(np.zeros(10, np.float32))
    assert float(silent) == pytest.approx(0.0, abs=1e-4)


def test_centroid_of_a_tone_is_its_frequency():
    centroid = features.spectral_centroid_hz(
        tone(2000, RATE, 0.5), RATE, fft_size=512, hop_length=128
    )
    np.testing.assert_allclose(centroid[4:-4], 2000.0, atol=2.0)


SMALL = dict(fft_size=64, hop_length=24)
EVERY = {
    "log_mel": partial(features.log_mel, sample_rate=RATE, mel_bands=8, **SMALL),
    "mfcc": partial(
        features.mfcc, sample_rate=RATE, mel_bands=8, coefficients=4, **SMALL
    ),
    "a_weighted": partial(features.a_weighted_loudness_db, sample_rate=RATE, **SMALL),
    "loudness": lambda x: features.integrated_loudness_lufs(x, 300),
    "rms": partial(features.rms_db, frame_length=64),
    "crest": partial(features.crest_factor_db, frame_length=64),
    "centroid": partial(features.spectral_centroid_hz, sample_rate=RATE, **SMALL),
}


@pytest.mark.parametrize("name", EVERY)
def test_jit_is_eager_and_vmap_is_a_loop(name, rng):
    function = EVERY[name]
    audio = jnp.asarray(rng.standard_normal((2, 3, 2, 200)), jnp.float32)
    whole = jax.jit(function)(audio)
    tolerance = dict(rtol=1e-4, atol=1e-4)
    batched = jax.jit(jax.vmap(jax.vmap(function)))(audio)
    np.testing.assert_allclose(batched, whole, **tolerance)
    np.testing.assert_allclose(function(audio[1, 2]), whole[1, 2], **tolerance)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_match_finite_differences_and_are_finite_on_silence(name, rng):
    function = EVERY[name]

    slope = jax.jit(
        jax.value_and_grad(lambda x: jnp.sum(jnp.square(function(x) / 100.0)))
    )
    with jax.enable_x64(True):
        audio, toward = jnp.asarray(rng.standard_normal((2, 1, 150)))
        _, gradient = slope(audio)
        step = 1e-6
        above, below = (slope(audio + s * toward)[0] for s in (step, -step))
        along = jnp.sum(gradient * toward)
        np.testing.assert_allclose(along, (above - below) / (2 * step), rtol=1e-5)
    half = jnp.asarray(audio, jnp.float32).at[:, :90].set(0.0)
    for quiet in (jnp.zeros((1, 150)), half):
        for result in slope(quiet):
            assert np.all(np.isfinite(result))


@pytest.mark.data
def test_loudness_of_real_recordings_agrees_with_pyloudnorm(data_root):
    import soundfile

    paths = sorted(p for p in data_root.rglob("*") if p.suffix in {".wav", ".flac"})
    for path in paths[:: max(1, len(paths) // 5)][:5]:
        audio, rate = soundfile.read(path, dtype="float64", always_2d=True)
        hop = round(0.1 * rate)
        audio = audio[: min(6 * rate, audio.shape[0] // hop * hop)]
        if audio.shape[0] < 4 * hop:
            continue
        expected = pyloudnorm.Meter(rate).integrated_loudness(audio)
        ours = features.integrated_loudness_lufs(audio.T.astype(np.float32), rate)
        assert float(ours) == pytest.approx(max(expected, -70.0), abs=0.1), path.name
