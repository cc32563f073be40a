import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.spectral_terms import (
    complex_distance,
    loudness_distance_db,
    phase_change_distance,
    spectral_terms,
)

SMALL = dict(fft_sizes=(64, 32))


@pytest.mark.golden
def test_terms_are_ddsp_s(golden):
    arrays = golden("ddsp_tf_spectral")
    terms = spectral_terms(arrays["audio"], arrays["target"])
    mean = {name: float(value.mean()) for name, value in terms.items()}
    assert mean["magnitude"] == pytest.approx(float(arrays["loss_mag"]), rel=1e-5)
    both = mean["magnitude"] + mean["log_magnitude"]
    assert both == pytest.approx(float(arrays["loss_maglog"]), rel=1e-4)
    for name, theirs in (
        ("delta_time", "dt"),
        ("delta_frequency", "df"),
        ("cumulative", "cs"),
    ):
        assert mean[name] == pytest.approx(float(arrays[f"loss_{theirs}"]), rel=1e-5)


@pytest.mark.golden
def test_loudness_distance_is_ddsp_s(golden):
    arrays = golden("ddsp_tf_spectral")
    ours = loudness_distance_db(arrays["audio"], arrays["target"], 16000).mean()
    assert float(ours) == pytest.approx(float(arrays["loss_loud"]), rel=1e-4)


def frames_of(audio, size):
    hop = size // 4
    count = -(-len(audio) // hop)
    padded = np.pad(audio, (0, size + count * hop - len(audio)))
    w = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    return np.stack([np.fft.rfft(w * padded[m * hop :][:size]) for m in range(count)])


def test_phase_aware_distances_are_their_definitions(rng):
    p, t = 0.3 * rng.standard_normal((2, 300))
    expected, moved = 0.0, 0.0
    for size in SMALL["fft_sizes"]:
        pairs = [frames_of(x, size) for x in (p, t)]
        c = [x / np.abs(x) * np.log1p(np.abs(x) / 1e-3) for x in pairs]
        expected += np.abs(c[0] - c[1]).mean() / 2
        product = [x[1:] * np.conj(x[:-1]) for x in pairs]
        u = [x / (np.abs(x) + 1e-6) for x in product]
        w = np.abs(product[1])
        moved += np.sum(w * np.abs(u[0] - u[1]) ** 2) / np.sum(w) / 2
    with jax.enable_x64(True):
        np.testing.assert_allclose(complex_distance(p, t, **SMALL), expected)
        np.testing.assert_allclose(phase_change_distance(p, t, **SMALL), moved)


def test_what_each_hears():
    time = np.arange(2000) / 8000
    target = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    flipped, sharp = -target, np.sin(2 * np.pi * 500 * time).astype(np.float32)
    sounds = np.stack([target, flipped, sharp])
    targets = np.stack([target] * 3)
    complex_ = np.asarray(complex_distance(sounds, targets))
    moved = np.asarray(phase_change_distance(sounds, targets))
    magnitude = np.asarray(spectral_terms(sounds, targets)["magnitude"])
    assert max(complex_[0], moved[0], magnitude[0]) < 1e-9
    # Magnitudes do not hear the sign, complex spectra do; frequencies do not change.
    assert magnitude[1] < 1e-5 and moved[1] < 1e-5 and complex_[1] > 1.0
    assert magnitude[2] > 0.1 and moved[2] > 0.01


EVERY = {
    "terms": lambda p, t: sum(spectral_terms(p, t, **SMALL).values()),
    "complex": lambda p, t: complex_distance(p, t, **SMALL),
    "phase change": lambda p, t: phase_change_distance(p, t, **SMALL),
}


@pytest.mark.parametrize("name", EVERY)
def test_gradients_match_finite_differences_and_are_finite_on_silence(name, rng):
    function = EVERY[name]
    slope = jax.jit(jax.value_and_grad(lambda p, t: jnp.sum(function(p, t))))
    with jax.enable_x64(True):
        p, t, v = (jnp.asarray(x) for x in rng.standard_normal((3, 2, 150)))
        along = jnp.sum(slope(p, t)[1] * v)
        step = 1e-6
        above, below = (slope(p + s * v, t)[0] for s in (step, -step))
        np.testing.assert_allclose(along, (above - below) / (2 * step), rtol=1e-5)
        one = function(p[1], t[1])
        np.testing.assert_allclose(one, function(p, t)[1], rtol=1e-12)
    p, t = np.asarray(p, np.float32), np.asarray(t, np.float32)
    silence = np.zeros_like(p)
    half = np.where(np.arange(150) < 90, 0, p)
    for pair in ((silence, silence), (silence, t), (p, silence), (half, half)):
        for result in slope(*pair):
            assert np.isfinite(result).all()


def test_the_logarithm_is_monotone():
    # Farther from a loud target is worse, through the floor and below.
    target = np.ones(256, np.float32)
    levels = np.array([1.0, 1e-2, 1e-4, 1e-6, 1e-8, 0.0], np.float32)
    sounds = levels[:, None] * np.ones((6, 256), np.float32)
    log = spectral_terms(sounds, np.stack([target] * 6), **SMALL)["log_magnitude"]
    ordered = np.asarray(log).tolist()
    assert ordered == sorted(ordered) and ordered[0] < ordered[3]


def test_what_has_no_samples_is_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        complex_distance(np.zeros((2, 0), np.float32), np.zeros((2, 0), np.float32))
