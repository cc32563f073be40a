from functools import partial

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from ddspx import features, filters, losses, signal

NOISEBANDNET = (8192, 4096, 2048, 1024, 512, 128, 32)
ALL_TERMS = {
    losses.SPECTRAL_CONVERGENCE: 1.0,
    losses.LOG_MAGNITUDE: 1.0,
    losses.LINEAR_MAGNITUDE: 1.0,
}
NO_LINEAR = {**ALL_TERMS, losses.LINEAR_MAGNITUDE: 0.0}
# Settings of the golden losses, as arguments of multi_resolution_stft.
GOLDEN_STFT = {
    "mrstft_default": {},
    "mrstft_nbn": dict(
        fft_sizes=NOISEBANDNET,
        hop_sizes=tuple(f // 4 for f in NOISEBANDNET),
        window_lengths=NOISEBANDNET,
    ),
    "mrstft_lin": dict(weights=ALL_TERMS),
    "mrstft_aw": dict(perceptual="a_weighting", sample_rate=44100),
    "mrstft_mel": dict(mel_bands=64, sample_rate=16000),
    "stft_1024": dict(fft_sizes=(1024,), hop_sizes=(256,), window_lengths=(1024,)),
}
WAVEFORM = {
    "esr": losses.esr,
    "dc": losses.dc,
    "snr": losses.snr,
    "sisdr": losses.si_sdr,
    "sdsdr": losses.sd_sdr,
    "logcosh": losses.log_cosh,
}
SMALL = dict(fft_sizes=(64,), hop_sizes=(20,), window_lengths=(50,))
TWO = dict(fft_sizes=(64, 32), hop_sizes=(16, 10), window_lengths=(64, 20))
EVERY = {
    "stft": lambda p, t: losses.multi_resolution_stft(p, t, weights=ALL_TERMS, **SMALL)[
        0
    ],
    "stft_mel": lambda p, t: losses.multi_resolution_stft(
        p, t, weights=ALL_TERMS, mel_bands=6, sample_rate=8000, **SMALL
    )[0],
    "stft_a_weighted": lambda p, t: losses.multi_resolution_stft(
        p, t, perceptual="a_weighting", sample_rate=44100, **SMALL
    )[0],
    "mel": lambda p, t: losses.mel_distance(
        p, t, sample_rate=8000, fft_sizes=(64,), mel_bands=(10,)
    ),
    "l1": losses.l1,
    "l2": losses.l2,
    **WAVEFORM,
}


def magnitudes(audio, fft_size, hop, window, floor=1e-4):
    spectrum = librosa.stft(
        np.asarray(audio, float),
        n_fft=fft_size,
        hop_length=hop,
        win_length=window,
        pad_mode="reflect",
    )
    return np.maximum(np.abs(spectrum), floor)


def batch_convergence(prediction, target, settings):
    """auraloss's total: norms over the whole batch in the spectral convergence.

    From our terms: |P - T|^2 of an example is its convergence squared times |T|^2.
    """
    settings = dict(settings)
    weights = settings.pop("weights", NO_LINEAR)
    defaults = losses.StftRecipe()
    sizes = [
        settings.pop(name, getattr(defaults, name))
        for name in ("fft_sizes", "hop_sizes", "window_lengths")
    ]
    total = 0.0
    for fft_size, hop, length in zip(*sizes, strict=True):
        _, terms = losses.multi_resolution_stft(
            prediction,
            target,
            fft_sizes=(fft_size,),
            hop_sizes=(hop,),
            window_lengths=(length,),
            weights=ALL_TERMS,
            **settings,
        )
        heard = target
        if "perceptual" in settings:
            fir = filters.a_weighting_fir(44100).astype(np.float32)
            heard = signal.fft_convolve(target, fir, "same")
        energy = magnitudes(heard, fft_size, hop, length)
        if "mel_bands" in settings:
            bank = features.mel_filterbank(16000, fft_size, 64)
            energy = np.einsum("...kf,km->...mf", energy, bank)
        energy = np.sum(energy**2, (-1, -2))
        convergence = terms[losses.SPECTRAL_CONVERGENCE]
        joint = jnp.sqrt(jnp.sum(convergence**2 * energy) / np.sum(energy))
        means = {name: term.mean() for name, term in terms.items()}
        means[losses.SPECTRAL_CONVERGENCE] = joint
        total += sum(weights[name] * means[name] for name in weights)
    return total / len(sizes[0])


@pytest.mark.golden
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "mrstft_nbn" else ())
        for name in GOLDEN_STFT
    ],
)
def test_stft_losses_are_auraloss_s(name, golden):
    arrays = golden("auraloss")
    prediction, target = arrays["input"][:, 0], arrays["target"][:, 0]
    settings = GOLDEN_STFT[name]
    ours = batch_convergence(prediction, target, settings)
    np.testing.assert_allclose(ours, arrays[f"loss_{name}"], rtol=1e-5)


@pytest.mark.golden
@pytest.mark.parametrize(
    "name", ["mrstft_default", pytest.param("mrstft_nbn", marks=pytest.mark.slow)]
)
def test_stft_gradients_are_auraloss_s(name, golden):
    arrays = golden("auraloss")
    prediction, target = arrays["input"][:, 0], arrays["target"][:, 0]

    def slope(dtype):
        value = lambda p: batch_convergence(  # noqa: E731
            p, target.astype(dtype), GOLDEN_STFT[name]
        )
        return np.asarray(jax.jit(jax.grad(value))(prediction.astype(dtype)))

    def error(ours, theirs):
        return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)

    with jax.enable_x64(True):
        exact = slope(np.float64)
    # The peer's own float32 gradient is 1.0e-3 and 1.3e-3 from float64; ours is closer.
    theirs = arrays[f"grad_{name}"][:, 0]
    assert error(theirs, exact) < 1.5e-3
    assert error(slope(np.float32), exact) < 8e-4


@pytest.mark.golden
@pytest.mark.parametrize("name", WAVEFORM)
def test_waveform_losses_are_auraloss_s(name, golden):
    arrays = golden("auraloss")
    prediction, target = arrays["input"][:, 0], arrays["target"][:, 0]
    ours = WAVEFORM[name](prediction, target)
    assert ours.shape == (2,)
    np.testing.assert_allclose(ours.mean(), arrays[f"loss_{name}"], rtol=1e-5)
    if name == "esr":
        slope = jax.grad(lambda p: losses.esr(p, target).mean())(prediction)
        np.testing.assert_allclose(
            slope, arrays["grad_esr"][:, 0], rtol=1e-3, atol=1e-9
        )


@pytest.mark.slow
@pytest.mark.golden
def test_the_builder_makes_ddsp_s_spectral_loss(golden):
    arrays = golden("ddsp_tf_spectral")
    sizes = (2048, 1024, 512, 256, 128, 64)

    def recipe(weights):
        return losses.StftRecipe(
            fft_sizes=sizes,
            hop_sizes=tuple(size // 4 for size in sizes),
            window_lengths=sizes,
            weights=weights,
            magnitude_floor=1e-5,
            padding="end",
        )

    # DDSP sums over the six resolutions, ours is their mean.
    linear = recipe({losses.LINEAR_MAGNITUDE: 6.0})
    both = recipe({losses.LINEAR_MAGNITUDE: 6.0, losses.LOG_MAGNITUDE: 6.0})

    @partial(jax.jit, static_argnums=1)
    def slope(audio, recipe):
        return jax.value_and_grad(
            lambda p: losses.spectral_distance(p, arrays["target"], recipe)[0].mean()
        )(audio)

    value, gradient = slope(arrays["audio"], linear)
    np.testing.assert_allclose(value, arrays["loss_mag"], rtol=1e-5)
    error = gradient - arrays["grad_mag"]
    assert np.linalg.norm(error) < 2e-3 * np.linalg.norm(arrays["grad_mag"])
    # DDSP's logarithm has no floor but zero: where the first example begins after
    # silence its gradient is 15 times ours. The other example has no silence.
    value, gradient = slope(arrays["audio"], both)
    np.testing.assert_allclose(value, arrays["loss_maglog"], rtol=1e-5)
    error = (gradient - arrays["grad_maglog"])[1]
    assert np.linalg.norm(error) < 2e-3 * np.linalg.norm(gradient[1])


def test_stft_terms_agree_with_librosa(rng):
    prediction, target = rng.standard_normal((2, 3, 900)).astype(np.float32) * 0.1
    total, terms = losses.multi_resolution_stft(
        prediction, target, weights={k: 2.0 for k in ALL_TERMS}, **TWO
    )
    expected = dict.fromkeys(ALL_TERMS, 0.0)
    for sizes in zip(*TWO.values(), strict=True):
        p, t = magnitudes(prediction, *sizes), magnitudes(target, *sizes)
        axes = (-1, -2)
        error = np.sqrt(((p - t) ** 2).sum(axes) / (t**2).sum(axes))
        expected[losses.SPECTRAL_CONVERGENCE] += error / 2
        expected[losses.LOG_MAGNITUDE] += np.abs(np.log(p / t)).mean(axes) / 2
        expected[losses.LINEAR_MAGNITUDE] += np.abs(p - t).mean(axes) / 2
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(total, 2 * sum(expected.values()), rtol=1e-4)


def test_terms_of_weight_zero_are_not_computed(rng):
    audio = rng.standard_normal((2, 200)).astype(np.float32)
    weights = {losses.LOG_MAGNITUDE: 1.0, losses.LINEAR_MAGNITUDE: 0.0}
    _, terms = losses.multi_resolution_stft(audio, audio[:1], weights=weights, **SMALL)
    assert set(terms) == {losses.LOG_MAGNITUDE}


def test_mel_distance_of_a_gain_is_the_gain(rng):
    audio = rng.standard_normal(8000).astype(np.float32)
    distance = losses.mel_distance(audio * 0.5, audio, sample_rate=16000)
    assert float(distance) == pytest.approx(20 * np.log10(2), abs=1e-2)


def test_waveform_losses_have_closed_forms(rng):
    target = rng.standard_normal(4000)
    noise = rng.standard_normal(4000)
    target -= target.mean()
    noise -= noise.mean()
    noise -= target * np.dot(noise, target) / np.dot(target, target)
    noise *= 0.1 * np.linalg.norm(target) / np.linalg.norm(noise)
    p, t = (target + noise).astype(np.float32), target.astype(np.float32)
    assert float(losses.si_sdr(p, t)) == pytest.approx(-20.0, abs=1e-3)
    assert float(losses.si_sdr(3 * p, t)) == pytest.approx(-20.0, abs=1e-3)
    assert float(losses.snr(p, t)) == pytest.approx(-20.0, abs=1e-3)
    assert float(losses.esr(p, t)) == pytest.approx(0.01, rel=1e-4)
    assert float(losses.esr(0 * p, t)) == pytest.approx(1.0, rel=1e-4)
    assert float(losses.l1(p, t)) == pytest.approx(np.abs(noise).mean(), rel=1e-4)
    assert float(losses.l2(p, t)) == pytest.approx((noise**2).mean(), rel=1e-4)
    # sd_sdr is worse than si_sdr by the scale alone: |a t|^2 over |p - t|^2.
    assert float(losses.sd_sdr(p * 0.5, t)) > float(losses.si_sdr(p * 0.5, t)) + 5
    huge = losses.log_cosh(np.full(4, 1e4, np.float32), np.zeros(4, np.float32))
    assert float(huge) == pytest.approx(1e4 - np.log(2.0), rel=1e-6)


@pytest.mark.parametrize("name", [n for n in EVERY if n != "stft_a_weighted"])
def test_jit_is_eager_vmap_is_a_loop_and_targets_broadcast(name, rng):
    loss = EVERY[name]
    prediction, target = jnp.asarray(rng.standard_normal((2, 2, 3, 300)), jnp.float32)
    whole = jax.jit(loss)(prediction, target)
    assert whole.shape == (2, 3)
    tolerance = dict(rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(loss)(prediction, target), whole, **tolerance)
    one = loss(prediction[1, 2], target[1, 2])
    np.testing.assert_allclose(one, whole[1, 2], **tolerance)
    shared = loss(prediction, target[1, 2])
    assert shared.shape == (2, 3)
    np.testing.assert_allclose(shared[1, 2], whole[1, 2], **tolerance)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_match_finite_differences_and_are_finite_on_silence(name, rng):
    loss = EVERY[name]

    slopes = jax.jit(
        jax.value_and_grad(lambda p, t: jnp.sum(loss(p, t)), argnums=(0, 1))
    )
    with jax.enable_x64(True):
        pair, toward = jnp.asarray(rng.standard_normal((2, 2, 120)))
        _, gradient = slopes(*pair)
        step = 1e-6
        above, below = (slopes(*(pair + s * toward))[0] for s in (step, -step))
        along = jnp.sum(jnp.stack(gradient) * toward)
        np.testing.assert_allclose(along, (above - below) / (2 * step), rtol=1e-5)
    sound = jnp.asarray(pair[0], jnp.float32)
    silence = jnp.zeros_like(sound)
    cases = [(silence, silence), (sound, silence), (silence, sound), (sound, sound)]
    for prediction, target in cases:
        for result in jax.tree.leaves(slopes(prediction, target)):
            assert np.all(np.isfinite(result))


def test_equal_sounds_have_distance_zero(rng):
    audio = rng.standard_normal((2, 300)).astype(np.float32)
    for name in ("stft", "stft_mel", "mel", "l1", "l2", "esr", "dc", "logcosh"):
        np.testing.assert_allclose(EVERY[name](audio, audio), 0.0, atol=1e-6)


def test_what_does_not_fit_is_refused():
    audio = np.ones((2, 100), np.float32)
    with pytest.raises(ValueError, match="do not fit"):
        losses.l1(audio, audio[:, :99])
    with pytest.raises(ValueError, match="do not fit"):
        losses.l1(audio, np.ones((3, 100), np.float32))
    with pytest.raises(ValueError, match="do not fit"):
        losses.l1(audio[0], audio)
    with pytest.raises(ValueError, match="the same number of each"):
        losses.StftRecipe(fft_sizes=(64,))
    with pytest.raises(ValueError, match="stft/loudness"):
        losses.StftRecipe(weights={"stft/loudness": 1.0})
    with pytest.raises(ValueError, match="need sample_rate"):
        losses.multi_resolution_stft(audio, audio, mel_bands=10)
