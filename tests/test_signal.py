import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import scipy.signal
import soxr
from jax.test_util import check_grads

from ddspx import signal

# fft_size, hop, window, name: even and odd sizes, hops that divide nothing, hop 1.
LAYOUTS = [
    (512, 128, 512, "hann"),
    (255, 50, 150, "hann"),
    (256, 85, 256, "hamming"),
    (128, 1, 100, "blackman"),
    (64, 64, 64, "boxcar"),
]


@pytest.mark.parametrize(("length", "hop"), [(8, 3), (8, 8), (5, 9), (1, 1)])
def test_frame_cuts_where_it_says(length, hop, rng):
    audio = rng.standard_normal((2, 41)).astype(np.float32)
    frames = signal.frame(audio, length, hop)
    assert frames.shape == (2, 1 + (41 - length) // hop, length)
    for f in range(frames.shape[1]):
        np.testing.assert_array_equal(
            frames[:, f], audio[:, f * hop : f * hop + length]
        )


@pytest.mark.parametrize(("length", "hop"), [(8, 3), (8, 8), (5, 9), (130, 1)])
def test_overlap_add_is_the_transpose_of_frame(length, hop, rng):
    with jax.enable_x64(True):
        audio = rng.standard_normal((3, 1 + 140 // hop * hop + length))
        frames = signal.frame(audio, length, hop)
        other = rng.standard_normal(frames.shape)
        back = signal.overlap_add(other, hop)
        # <frame(x), y> = <x, overlap_add(y)>
        np.testing.assert_allclose(
            np.sum(frames * other),
            np.sum(audio[..., : back.shape[-1]] * back),
            rtol=1e-12,
        )


@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_stft_agrees_with_librosa(layout, pad_mode, rng):
    fft_size, hop, length, name = layout
    audio = rng.standard_normal((2, 2, 1501)).astype(np.float32)
    ours = signal.stft(
        audio,
        fft_size=fft_size,
        hop_length=hop,
        window_length=length,
        window_name=name,
        pad_mode=pad_mode,
    )
    theirs = librosa.stft(
        audio,
        n_fft=fft_size,
        hop_length=hop,
        win_length=length,
        window=name,
        pad_mode=pad_mode,
    )
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=3e-5)


def test_stft_uncentred_agrees_with_librosa(rng):
    audio = rng.standard_normal(1000).astype(np.float32)
    ours = signal.stft(audio, fft_size=256, hop_length=100, center=False)
    theirs = librosa.stft(audio, n_fft=256, hop_length=100, center=False)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=3e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_istft_gives_the_signal_back(layout, rng):
    fft_size, hop, length, name = layout
    sizes = dict(
        fft_size=fft_size, hop_length=hop, window_length=length, window_name=name
    )
    audio = rng.standard_normal((2, 1501)).astype(np.float32)
    spectrum = signal.stft(audio, **sizes)
    out = signal.istft(spectrum, length=1501, **sizes)
    assert np.max(np.abs(out - audio)) < 5e-6
    covered = signal.istft(spectrum, **sizes)
    # A program of another length: to the last bit on CPU only.
    loose = 0.0 if jax.default_backend() == "cpu" else 2e-6
    inside = out[..., : covered.shape[-1]]
    np.testing.assert_allclose(covered, inside, rtol=0.0, atol=loose)


def test_istft_uncentred_gives_back_what_frames_cover(rng):
    audio = rng.standard_normal(1024).astype(np.float32)
    sizes = dict(fft_size=256, hop_length=64, center=False)
    out = signal.istft(signal.stft(audio, **sizes), length=1024, **sizes)
    # At the ends the Hann window nearly vanishes, and what it divides is rounded.
    np.testing.assert_allclose(out[16:-16], audio[16:-16], atol=1e-4)
    np.testing.assert_allclose(out[64:-64], audio[64:-64], atol=2e-6)
    assert np.all(np.isfinite(out))


def test_short_audio_is_padded_or_refused():
    one = np.ones(1, np.float32)
    assert signal.stft(one, fft_size=64).shape == (33, 1)
    with pytest.raises(ValueError, match="1 samples are shorter than fft_size 64"):
        signal.stft(one, fft_size=64, center=False)
    with pytest.raises(ValueError, match="audio of 0 samples"):
        signal.stft(np.ones(0, np.float32), fft_size=64)
    with pytest.raises(ValueError, match="10 samples are shorter than one frame of 11"):
        signal.frame(np.ones(10, np.float32), 11, 1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (dict(fft_size=64, window_length=65), "window_length 65"),
        (dict(fft_size=64, hop_length=0), "hop_length is 0"),
        (dict(fft_size=0), "fft_size is 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        signal.stft(np.ones(100, np.float32), **sizes)


def test_gaps_between_windows_are_refused():
    spectrum = signal.stft(np.ones(300, np.float32), fft_size=64, hop_length=65)
    with pytest.raises(ValueError, match="leaves gaps"):
        signal.istft(spectrum, fft_size=64, hop_length=65)
    with pytest.raises(ValueError, match="33 bins do not belong to fft_size 66"):
        signal.istft(spectrum, fft_size=66)


@pytest.mark.parametrize("taps", [1, 7, 64, 150])
def test_fft_convolve_agrees_with_scipy(taps, rng):
    audio = rng.standard_normal((2, 100)).astype(np.float32)
    response = rng.standard_normal((2, taps)).astype(np.float32)
    for mode in ("full", "valid"):
        expected = [
            np.convolve(a.astype(float), h, mode)
            for a, h in zip(audio, response, strict=True)
        ]
        np.testing.assert_allclose(
            signal.fft_convolve(audio, response, mode), expected, atol=2e-5
        )
    full = signal.fft_convolve(audio, response[0], "full")
    middle = scipy.signal.fftconvolve(audio, response[:1], "same", axes=-1)
    np.testing.assert_allclose(
        signal.fft_convolve(audio, response[0], "same"), middle, atol=2e-5
    )
    np.testing.assert_array_equal(
        signal.fft_convolve(audio, response[0], "causal"), full[:, :100]
    )


RATES = [
    (44100, 48000),
    (48000, 44100),
    (48000, 16000),
    (24000, 48000),
    (8000, 8001),
]


def sweep(rate: int, top_hz: float, samples: int) -> np.ndarray:
    """Three tones below top_hz, faded, float64."""
    t = np.arange(samples) / rate
    tones = sum(np.sin(2 * np.pi * f * top_hz * t) for f in (0.93, 0.31, 0.02))
    return tones * np.interp(
        t, np.linspace(0, samples / rate, 5), [0.0, 0.3, 0.3, 0.3, 0.0]
    )


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
def test_resample_keeps_what_both_rates_hold(from_hz, to_hz):
    top_hz = 0.45 * min(from_hz, to_hz)
    audio = sweep(from_hz, top_hz, 6000)
    out = np.asarray(signal.resample(audio.astype(np.float32), from_hz, to_hz))
    assert out.shape == (-(-6000 * to_hz // from_hz),)
    t = np.arange(out.size) / to_hz
    tones = sum(np.sin(2 * np.pi * f * top_hz * t) for f in (0.93, 0.31, 0.02))
    exact = tones * np.interp(
        t, np.linspace(0, 6000 / from_hz, 5), [0.0, 0.3, 0.3, 0.3, 0.0]
    )
    inside = slice(200, -200)
    error_db = 10 * np.log10(np.mean((out - exact)[inside] ** 2) / np.mean(exact**2))
    assert error_db < -80.0
    soxr_out = soxr.resample(audio, from_hz, to_hz, quality="VHQ")
    size = min(out.size, soxr_out.size) - 200
    error = out[200:size] - soxr_out[200:size]
    assert 10 * np.log10(np.mean(error**2) / np.mean(exact**2)) < -70.0


def test_resample_rejects_aliases_and_images():
    def tone(hz, rate):
        faded = np.sin(2 * np.pi * hz * np.arange(12000) / rate) * np.hanning(12000)
        return faded.astype(np.float32)

    down = np.asarray(signal.resample(tone(12000, 48000), 48000, 16000))
    assert np.sqrt(np.mean(down**2)) < 10 ** (-85 / 20)
    up = np.asarray(signal.resample(tone(7000, 16000), 16000, 48000))
    spectrum = np.abs(np.fft.rfft(up)) ** 2
    hz = np.fft.rfftfreq(up.size, 1 / 48000)
    assert spectrum[hz > 8500].sum() / spectrum.sum() < 10 ** (-85 / 10)


def test_resample_agrees_with_scipy_given_the_same_filter(rng):
    audio = rng.standard_normal((2, 700))
    up, down, half = 3, 2, 32
    taps = np.arange(-half * up, half * up + 1) / up
    beta = scipy.signal.kaiser_beta(90.0)
    kernel = 0.95 * np.sinc(0.95 * taps)
    kernel *= np.i0(beta * np.sqrt(1 - (taps / half) ** 2)) / np.i0(beta)
    # scipy multiplies a given filter by `up` after no normalisation of its own.
    theirs = scipy.signal.resample_poly(audio, up, down, axis=-1, window=kernel / up)
    with jax.enable_x64(True):
        ours = signal.resample(audio, 2000, 3000)
    np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_resample_by_phases_and_by_matrix_agree(rng, monkeypatch):
    audio = rng.standard_normal((2, 500)).astype(np.float32)
    by_matrix = signal.resample(audio, 44100, 48000)
    monkeypatch.setattr(signal, "_MATRIX_LIMIT", 0)
    np.testing.assert_allclose(
        signal.resample.__wrapped__(audio, 44100, 48000), by_matrix, atol=5e-6
    )


def test_resample_refuses_rates_that_are_none():
    with pytest.raises(ValueError, match="to_hz is 0"):
        signal.resample(np.ones(10, np.float32), 44100, 0)
    audio = np.ones(10, np.float32)
    np.testing.assert_array_equal(signal.resample(audio, 8000, 8000), audio)


ONE_SIGNAL = [
    ("stft", lambda x: signal.stft(x, fft_size=64, hop_length=20, window_length=50)),
    ("overlap_add", lambda x: signal.overlap_add(signal.frame(x, 12, 5), 5)),
    ("convolve", lambda x: signal.fft_convolve(x, x[..., :9], "same")),
    ("resample", lambda x: signal.resample(x, 3, 5, zero_crossings=6)),
    ("power", lambda x: signal.power(signal.stft(x, fft_size=32))),
]


@pytest.mark.parametrize(("name", "function"), ONE_SIGNAL)
def test_jit_is_eager_and_vmap_is_a_loop(name, function, rng):
    audio = jnp.asarray(rng.standard_normal((2, 3, 340)), jnp.float32)
    whole = function(audio)
    np.testing.assert_allclose(jax.jit(function)(audio), whole, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(function)(audio), whole, atol=1e-5)
    np.testing.assert_allclose(function(audio[1, 2]), whole[1, 2], atol=1e-5)


@pytest.mark.parametrize(("name", "function"), ONE_SIGNAL)
def test_gradients_match_finite_differences(name, function, rng):
    @jax.jit
    def value(x):
        out = function(x)
        return jnp.sum(jnp.abs(out - 0.1) ** 2)

    with jax.enable_x64(True):
        check_grads(value, (jnp.asarray(rng.standard_normal(80)),), 1, ["rev"])


def test_istft_gradient_matches_finite_differences(rng):
    @jax.jit
    def value(x):
        spectrum = jax.lax.complex(x[0], x[1])
        return jnp.sum(signal.istft(spectrum, hop_length=8, length=30) ** 3)

    with jax.enable_x64(True):
        check_grads(value, (jnp.asarray(rng.standard_normal((2, 17, 5))),), 1, ["rev"])


def test_map_examples_is_the_batch(rng):
    audio = jnp.asarray(rng.standard_normal((4, 50)), jnp.float32)

    def one(x, weight):
        return {"sum": jnp.sum(x * weight), "square": x**2}

    weights = jnp.arange(4.0)
    out = signal.map_examples(one, audio, weights)
    expected = jax.vmap(one)(audio, weights)
    np.testing.assert_allclose(out["sum"], expected["sum"], rtol=1e-5)
    np.testing.assert_array_equal(out["square"], expected["square"])
    slope = jax.grad(lambda x: signal.map_examples(one, x, weights)["square"].sum())
    np.testing.assert_allclose(slope(audio), 2 * audio, rtol=1e-6)
