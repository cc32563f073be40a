"""Metrics against closed forms, librosa and auraloss's golden numbers."""

import dataclasses
import sys

import jax
import librosa
import numpy as np
import pytest

from ddspx import losses
from ddspx.data.practice import render_piece
from styletransfer import metrics
from styletransfer.metrics import METRICS, ON_DEVICE, measure, pesq_wideband
from styletransfer.style import StyleDistance

RATE = 24000


@pytest.fixture(scope="module")
def pair():
    """A piece, and the same through a soft clipper that is louder."""
    audio = render_piece("strings", 0, sample_rate=RATE)[:1, : 3 * RATE // 2]
    return np.tanh(4.0 * audio).astype(np.float32), audio


@pytest.fixture(scope="module")
def noisy(pair):
    """Without silence, or floors would hide a part of a gain."""
    noise = np.random.default_rng(0).standard_normal(pair[1].shape)
    return (pair[1] + 0.02 * noise).astype(np.float32)


@pytest.fixture(scope="module")
def found(pair, noisy):
    """All metrics of several pairs, ``{case: {metric: value}}``: compiled once."""
    phase = 2 * np.pi * 100.0 * np.arange(pair[1].shape[-1])[None] / RATE + 0.1
    sine = np.sin(phase).astype(np.float32)
    cases = {
        "equal": (pair[1], pair[1]),
        "clipped": pair,
        "halved": (np.float32(0.5) * noisy, noisy),
        "square": (np.sign(sine), sine),
        "clipped again": pair,
    }
    renders, truths = (np.stack([case[k] for case in cases.values()]) for k in (0, 1))
    with pytest.MonkeyPatch.context() as patch:
        # Two calls, the last one filled up.
        patch.setattr(metrics, "CHUNK", 3)
        values = measure(renders, truths, RATE)
    assert tuple(values) == ON_DEVICE == tuple(METRICS)[:-1]
    return {
        case: {name: column[k] for name, column in values.items()}
        for k, case in enumerate(cases)
    }


def stft(audio, size, hop, window):
    return librosa.stft(
        np.asarray(audio, np.float64),
        n_fft=size,
        hop_length=hop,
        win_length=window,
        pad_mode="reflect",
    )


def test_what_is_equal_is_at_no_distance(found):
    for name, value in found["equal"].items():
        assert value == pytest.approx(0.0, abs=1e-4), name


def test_the_original_study_s_loss_is_what_its_paper_computes(found, pair):
    """Six sizes, hops of half, mean |ln P - ln T| + mean |P - T|, floor 1e-4."""
    total = 0.0
    for size in (32, 128, 512, 2048, 8192, 32768):
        p, t = (
            np.maximum(np.abs(stft(a[0], size, size // 2, size)), 1e-4) for a in pair
        )
        total += np.mean(np.abs(np.log(p / t))) + np.mean(np.abs(p - t))
    assert found["clipped"]["original_mrstft"] == pytest.approx(total / 6, rel=1e-4)


@pytest.mark.golden
def test_its_linear_term_is_auraloss_s(golden):
    """The golden losses with and without that term differ by it alone."""
    arrays = golden("auraloss")
    usual = losses.StftRecipe()
    recipe = dataclasses.replace(
        metrics._ORIGINAL,
        fft_sizes=usual.fft_sizes,
        hop_sizes=usual.hop_sizes,
        window_lengths=usual.window_lengths,
        weights={losses.LINEAR_MAGNITUDE: 1.0},
    )
    ours = losses.spectral_distance(arrays["input"], arrays["target"], recipe)[0]
    wanted = arrays["loss_mrstft_lin"] - arrays["loss_mrstft_default"]
    np.testing.assert_allclose(np.mean(ours), wanted, rtol=1e-5)


def test_a_gain_moves_levels_by_its_decibels_and_nothing_else(found):
    half_db = 20 * np.log10(2.0)
    for name in ("rms_error", "mel_distance", "loudness_error"):
        assert found["halved"][name] == pytest.approx(half_db, rel=1e-3), name
    assert found["halved"]["crest_error"] == pytest.approx(0.0, abs=1e-4)
    assert found["halved"]["centroid_error"] == pytest.approx(0.0, abs=0.1)


def test_the_crest_of_a_sine_is_three_decibels_above_that_of_a_square(found):
    wanted_db = 10 * np.log10(2.0)
    for name in ("crest_error", "rms_error"):
        assert found["square"][name] == pytest.approx(wanted_db, abs=1e-2), name


def test_the_centroid_is_librosa_s(found, pair):
    centroids = [
        librosa.feature.spectral_centroid(
            S=np.abs(stft(a[0], 2048, 512, 2048)), sr=RATE
        ).mean()
        for a in pair
    ]
    wanted = abs(centroids[0] - centroids[1])
    # Frames are padded differently at the two ends.
    assert found["clipped"]["centroid_error"] == pytest.approx(wanted, rel=0.05)
    assert wanted > 20.0


def test_style_is_the_style_distance(found, pair):
    distance = StyleDistance(float(RATE), 0.45 * RATE)
    render, truth = (jax.jit(distance.features)(audio) for audio in pair)
    wanted = float(distance(render, truth)[0])
    assert found["clipped"]["style_distance"] == pytest.approx(wanted, rel=1e-4)


def test_items_do_not_depend_on_their_neighbours(found):
    assert found["clipped"] == found["clipped again"]


def test_channels_are_averaged(pair):
    stereo = [np.concatenate([pair[1], audio])[None] for audio in pair]
    both = measure(*stereo, RATE, ("rms_error",))["rms_error"]
    alone = measure(pair[0][None], pair[1][None], RATE, ("rms_error",))["rms_error"]
    np.testing.assert_allclose(both, alone / 2, rtol=1e-4)


def test_pesq_is_at_its_top_for_the_truth_and_falls_with_noise():
    pytest.importorskip("pesq", reason="PESQ is an extra: pip install 'ddspx[speech]'")
    voice = render_piece("vowels", 0, sample_rate=RATE)[:1, : 3 * RATE]
    noise = np.random.default_rng(0).standard_normal(voice.shape).astype(np.float32)
    scores = [pesq_wideband(voice + g * noise, voice, RATE) for g in (0.0, 0.003, 0.1)]
    assert scores[0] == pytest.approx(4.644, abs=1e-2)
    assert scores[0] > scores[1] > scores[2] > 1.0
    values = measure(voice[None], voice[None], RATE, ("pesq",))
    assert values["pesq"] == pytest.approx(scores[0])


def test_pesq_of_silence_does_not_exist():
    pytest.importorskip("pesq", reason="PESQ is an extra: pip install 'ddspx[speech]'")
    silence = np.zeros((1, RATE), np.float32)
    voice = render_piece("vowels", 0, sample_rate=RATE)[:1, :RATE]
    assert np.isnan(pesq_wideband(silence, voice, RATE))
    assert np.isnan(pesq_wideband(voice, silence, RATE))


def test_without_the_package_pesq_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pesq", None)
    with pytest.raises(metrics.PesqMissing, match=r"ddspx\[speech\]"):
        metrics.check_pesq()


def test_what_cannot_be_measured_is_refused(pair):
    audio = pair[0][None]
    with pytest.raises(ValueError, match="one truth"):
        measure(audio, audio[..., :-1], RATE)
    with pytest.raises(ValueError, match="give 16385 samples"):
        measure(audio[..., :16384], audio[..., :16384], RATE)
    with pytest.raises(ValueError, match=r"\['snr'\] unknown"):
        measure(audio, audio, RATE, ("snr",))
