import jax
import jax.numpy as jnp
import numpy as np
import pytest

from styletransfer.style import (
    TERMS,
    StyleDistance,
    Term,
    style_bands,
)
from styletransfer.style import style_features as eager_features

style_features = jax.jit(eager_features, static_argnums=(1, 2))

RATE = 16000
TOP = 0.45 * RATE


def noise(rng, seconds=1.0, channels=1, rate=RATE):
    return (0.1 * rng.normal(size=(channels, int(seconds * rate)))).astype(np.float32)


def test_bands_cover_the_range_and_keep_power():
    bands = style_bands(RATE, TOP)
    assert bands.centres_hz[0] == 50 and bands.centres_hz[-1] <= TOP
    np.testing.assert_allclose(np.diff(np.log2(bands.centres_hz)), 1 / 3, atol=1e-5)
    assert (bands.weights.sum(axis=1) >= 0.5).all()
    # Above the lowest bands neighbouring triangles share every bin fully.
    bins = np.fft.rfftfreq(bands.window_length, 1 / RATE)
    inside = (bins > 500) & (bins < bands.centres_hz[-1])
    np.testing.assert_allclose(bands.weights[:, inside].sum(axis=0), 1.0, atol=1e-5)
    np.testing.assert_array_equal(bands.groups.sum(axis=0), 1.0)


def test_a_tone_shows_where_it_is_and_how_loud():
    time = np.arange(RATE) / RATE
    tone = (0.5 * np.sin(2 * np.pi * 800 * time))[None].astype(np.float32)
    features = style_features(tone, RATE, TOP)
    centres = style_bands(RATE, TOP).centres_hz
    assert centres[np.argmax(features["spectrum"])] == pytest.approx(800, rel=0.01)
    assert 2 ** float(features["centroid"][0]) == pytest.approx(800, rel=0.05)
    assert float(features["crest"][0]) == pytest.approx(10 * np.log10(2), abs=0.05)
    louder = style_features(2 * tone, RATE, TOP)
    gained = float(louder["loudness"][0] - features["loudness"][0])
    assert gained == pytest.approx(20 * np.log10(2), abs=1e-3)


def test_terms_that_ignore_level_ignore_it(rng):
    quiet, loud = noise(rng), None
    loud = 4 * quiet
    one, two = style_features(quiet, RATE, TOP), style_features(loud, RATE, TOP)
    for name in set(one) - {"loudness", "spectrum"}:
        np.testing.assert_allclose(one[name], two[name], atol=2e-3, err_msg=name)


def test_decay_and_modulation_hear_the_envelope(rng):
    steady = noise(rng, 2.0)
    time = np.arange(2 * RATE) / RATE
    pulsed = steady * np.exp(-8.0 * (time % 0.5)).astype(np.float32)
    one, two = style_features(steady, RATE, TOP), style_features(pulsed, RATE, TOP)
    # exp(-8 t) falls by 69.5 dB a second: 6.95 in the unit of the term, less what the
    # four onsets take, more what noise adds of its own.
    assert float(np.mean(two["decay"])) < float(np.mean(one["decay"])) - 2.0
    assert float(np.mean(two["band_distribution"])) < float(
        np.mean(one["band_distribution"])
    )


def test_stereo_has_a_width_and_mono_has_none(rng):
    stereo = noise(rng, channels=2)
    assert "width" not in style_features(stereo[:1], RATE, TOP)
    narrow = np.stack([stereo[0], stereo[0]])
    wide = float(style_features(stereo, RATE, TOP)["width"][0])
    mono = float(style_features(narrow, RATE, TOP)["width"][0])
    assert abs(wide) < 1.0 and mono == pytest.approx(-30.0, abs=0.1)


def test_silence_is_finite():
    features = style_features(np.zeros((1, RATE), np.float32), RATE, TOP)
    assert all(np.isfinite(v).all() for v in features.values())

    def total(audio):
        return sum(v.sum() for v in eager_features(audio, RATE, TOP).values())

    assert np.isfinite(jax.jit(jax.grad(total))(np.zeros((1, RATE), np.float32))).all()


def test_distance_is_a_chi_square():
    term = Term("", scale=2.0, weight=3.0, correlation_octaves=0.7, shared=0.2)
    distance = StyleDistance(RATE, TOP, terms=(("spectrum", term),))
    count = style_bands(RATE, TOP).centres_hz.size
    place = np.arange(count) / 3
    own = 0.9 * np.exp(-np.abs(place[:, None] - place) / 0.7) + 0.1 * np.eye(count)
    covariance = 4.0 * (0.2 + 0.8 * own)
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, count)).astype(np.float32)
    value, terms = distance({"spectrum": jnp.array(a)}, {"spectrum": jnp.array(b)})
    expected = 3.0 * (a - b) @ np.linalg.solve(covariance, a - b)
    assert float(value) == pytest.approx(expected, rel=1e-4)
    assert float(terms["style/spectrum"]) == pytest.approx(expected, rel=1e-4)


def test_distance_terms_sum_and_vanish(rng):
    distance = StyleDistance(RATE, TOP)
    one, two = (
        style_features(noise(rng), RATE, TOP),
        style_features(noise(rng) ** 3, RATE, TOP),
    )
    value, terms = distance(one, two)
    assert float(value) == pytest.approx(sum(map(float, terms.values())), rel=1e-5)
    squares = sum(float((r**2).sum()) for r in distance.residuals(one, two).values())
    assert float(value) == pytest.approx(squares, rel=1e-5)
    assert float(distance(one, one)[0]) == 0.0
    assert set(terms) == {f"style/{n}" for n in TERMS if n != "width"}


def test_without_level_only_gain_is_forgiven(rng):
    audio = noise(rng)
    blind = StyleDistance(RATE, TOP, match_level=False)
    keen = StyleDistance(RATE, TOP)
    for distance, forgives in ((blind, True), (keen, False)):
        apart = float(distance(*map(jax.jit(distance.features), (audio, 3 * audio)))[0])
        assert (apart < 0.01) == forgives


def test_different_content_is_nearer_than_different_sound(rng):
    """The point of it all: another take is near, a filtered take is far."""
    take, other = noise(rng, 2.0), noise(rng, 2.0)
    dull = np.cumsum(other, axis=-1) * 0.05
    dull -= dull.mean()
    distance = StyleDistance(RATE, TOP)
    here, there, far = (
        style_features(a, RATE, TOP) for a in (take, other, dull.astype(np.float32))
    )
    assert float(distance(here, there)[0]) < 0.05 * float(distance(here, far)[0])


def test_errors_say_what_to_do(rng):
    with pytest.raises(ValueError, match="shorter than one analysis window"):
        style_features(noise(rng, 0.01), RATE, TOP)
    with pytest.raises(ValueError, match="resample to"):
        style_bands(200.0, 80.0)
