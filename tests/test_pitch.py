import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.pitch import Pitch, track_f0
from ddspx.pitch.candidates import find_candidates
from ddspx.pitch.path import best_path
from ddspx.pitch.periodicity import cumulative_mean_normalised, difference_function

RATE = 16000
HOP = 80
# One shape for most tests: each shape is compiled.
TIME = 12000


def tone(f0_hz, rate=RATE, harmonics=8, first=1):
    """A harmonic tone whose fundamental follows a curve at the rate of the audio."""
    phase = 2 * np.pi * np.cumsum(f0_hz) / rate
    partials = range(first, harmonics + 1)
    return sum(0.2 / k * np.sin(k * phase + k * k) for k in partials)


def track(audio, **options) -> Pitch:
    pitch = track_f0(np.asarray(audio, np.float32), RATE, HOP, **options)
    return Pitch(*(np.asarray(x) for x in pitch))


def cents(pitch, truth):
    return 1200 * np.log2(pitch.f0_hz / truth)


def test_the_difference_is_its_definition(rng):
    frames = rng.standard_normal((3, 60)) + 5.0
    lags = 20
    w = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(60) / 60)
    expected = np.zeros((3, lags))
    for f, frame in enumerate(frames - (frames @ w / w.sum())[:, None]):
        for lag in range(lags):
            x, y = frame[: 60 - lag], frame[lag:]
            pair = w[: 60 - lag] * w[lag:]
            expected[f, lag] = pair @ (x - y) ** 2 / (pair @ (x**2 + y**2))
    with jax.enable_x64(True):
        found, power = difference_function(frames, lags)
        mean = cumulative_mean_normalised(found)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    centred = frames - (frames @ w / w.sum())[:, None]
    np.testing.assert_allclose(power, centred**2 @ w**2 / (w @ w))
    running = np.cumsum(expected[:, 1:], 1) / np.arange(1, lags)
    np.testing.assert_allclose(mean[:, 1:], expected[:, 1:] / running, atol=1e-10)


def test_probabilities_are_those_of_drawn_thresholds(rng):
    # Yin's rule under many thresholds, counted from the deepest dip.
    values = np.ones((1, 60))
    values[0, [12, 24, 36, 48]] = 0.5, 0.2, 0.3, 0.05
    thresholds = rng.beta(2, 4, 200_000)
    excess = (values[0] - 0.05) / 0.95
    first = np.argmax(excess[None, :] < thresholds[:, None], axis=1)
    counts = [np.mean(first == lag) for lag in (12, 24, 36, 48)]
    # With 1 as its neighbours a dip's bottom lies at the lag, as deep as it is.
    found = find_candidates(
        values,
        values,
        5,
        count=4,
        dip_beta=4.0,
        voicing_beta=1.0,
        octave_cost=0.0,
    )
    np.testing.assert_allclose(found.lag[0], [12, 24, 36, 48])
    share = np.asarray(found.probability[0] / found.probability.sum())
    np.testing.assert_allclose(share, np.array(counts) / sum(counts), atol=5e-3)
    # beta(2, 1): P(threshold > v) = 1 - v^2.
    np.testing.assert_allclose(found.probability.max(), 1 - 0.05**2, rtol=1e-5)


def test_the_path_is_the_best_of_all(rng):
    pitches = rng.uniform(7, 9, (5, 2))
    probability = rng.dirichlet([1, 1, 1], 5)[:, :2]
    costs = dict(evidence=0.7, octave_jump=3.0, most_jump=2.0, switch=0.8)
    emission = -0.7 * np.log(np.c_[probability, 1 - probability.max(1)])

    def cost(states):
        total = sum(emission[f, s] for f, s in enumerate(states))
        for f in range(1, 5):
            one, two = states[f - 1], states[f]
            if (one == 2) != (two == 2):
                total += 0.8
            elif one != 2:
                step = abs(pitches[f, two] - pitches[f - 1, one])
                total += min(3.0 * step, 2.0)
        return total

    states = np.stack(np.meshgrid(*[range(3)] * 5), -1).reshape(-1, 5)
    best = states[np.argmin([cost(s) for s in states])]
    chosen, voiced = best_path(
        jnp.asarray(pitches, jnp.float32),
        jnp.asarray(probability, jnp.float32),
        **costs,
    )
    np.testing.assert_array_equal(voiced, best < 2)
    np.testing.assert_array_equal(np.where(voiced, chosen, 2), best)


SECONDS = np.arange(TIME) / RATE
CURVES = {
    "low": np.full(TIME, 61.7),
    "high": np.full(TIME, 1890.0),
    "vibrato": 330.0 * 2 ** (0.5 / 12 * np.sin(2 * np.pi * 5.5 * SECONDS)),
    "glissando": 150.0 * 2 ** (2.0 * SECONDS),
}


def test_pitch_is_followed_where_it_is():
    clips = [
        tone(f0, harmonics=min(8, int(7000 // f0.max()))) for f0 in CURVES.values()
    ]
    clips.append(tone(CURVES["vibrato"], first=3))
    truths = np.stack([*CURVES.values(), CURVES["vibrato"]])[:, ::HOP]
    pitch = track(np.stack(clips))
    assert pitch.f0_hz.shape == (5, 150)
    inner = slice(8, -8)
    error = np.abs(cents(pitch, truths))[:, inner].max(1)
    assert (error < [0.5, 0.5, 8.0, 3.0, 8.0]).all(), error
    assert pitch.voiced[:, inner].all()
    assert pitch.confidence[:, inner].min() > 0.95
    # A batch is a loop.
    again = track(clips[2])
    np.testing.assert_allclose(again.f0_hz, pitch.f0_hz[2], rtol=1e-5)
    np.testing.assert_array_equal(again.voiced, pitch.voiced[2])


def test_noise_hides_little_and_has_no_pitch_of_its_own(rng):
    clean = tone(CURVES["vibrato"])
    noise = rng.standard_normal((3, TIME)) * clean.std() * 10 ** (-3 / 20)
    sounds = np.stack([clean + noise[0], noise[1], np.full(TIME, 0.3)])
    sounds = np.concatenate([sounds, np.zeros((2, TIME))])  # the shape of the others
    pitch = track(sounds)
    error = np.abs(cents(pitch, CURVES["vibrato"][::HOP]))[0]
    assert np.mean(error < 50) > 0.97
    assert pitch.voiced[0].mean() > 0.95
    # At 3 dB SNR two thirds of the power repeat; less noise after the low-pass.
    assert 0.65 < np.median(pitch.confidence[0]) < 0.95
    assert pitch.voiced[1].mean() < 0.1
    # Neither an offset nor silence has a pitch; f0 is then the middle of the range.
    assert not pitch.voiced[2, 5:-5].any() and not pitch.voiced[3:].any()
    np.testing.assert_allclose(pitch.f0_hz[3:], np.sqrt(50.0 * 2000.0), rtol=1e-5)
    assert (pitch.confidence[3:] == 0).all()


def test_rests_are_unvoiced_and_filled():
    f0 = np.where(SECONDS < 0.4, 200.0, 400.0)
    rest = (SECONDS >= 0.3) & (SECONDS < 0.5)
    audio = np.stack([np.where(rest, 0.0, tone(f0))] * 5)
    pitch = track(audio)
    line, voiced = pitch.f0_hz[0], pitch.voiced[0]
    expected = ~rest[::HOP]
    assert np.mean(voiced == expected) > 0.94
    assert voiced[:55].all() and not voiced[64:96].any() and voiced[105:].all()
    gap = np.flatnonzero(~voiced)
    assert (np.diff(gap) == 1).all()
    ends = np.log2(line[[gap[0] - 1, gap[-1] + 1]])
    ramp = np.linspace(*ends, gap.size + 2)[1:-1]
    np.testing.assert_allclose(np.log2(line[gap]), ramp, atol=1e-4)
    held = track(audio[0], fill="hold").f0_hz
    np.testing.assert_allclose(held[gap], held[gap[0] - 1], rtol=1e-6)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_any_rate_any_length(rate):
    hop = rate // 100
    f0 = np.full(rate // 5, 313.0)
    audio = tone(f0, rate, harmonics=6)[: rate // 5 - 3].astype(np.float32)
    pitch = track_f0(audio, rate, hop, low_hz=80.0, high_hz=1000.0)
    assert pitch.f0_hz.shape == (20,)
    error = 1200 * np.log2(np.asarray(pitch.f0_hz)[3:-3] / 313.0)
    assert np.abs(error).max() < 0.5
    one = track_f0(audio[:1], rate, hop, low_hz=80.0, high_hz=1000.0)
    assert one.f0_hz.shape == (1,) and np.isfinite(one.f0_hz).all()


def test_what_cannot_be_tracked_is_refused():
    audio = np.zeros(100, np.float32)
    with pytest.raises(ValueError, match="a quarter of the rate"):
        track_f0(audio, 4000, 40)
    with pytest.raises(ValueError, match="need samples"):
        track_f0(audio[:0], RATE, HOP)
