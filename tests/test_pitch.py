import numpy as np

from ddspx.pitch import track_f0

RATE = 16000
HOP = 64


def tone(f0_hz, rate, harmonics=8):
    """A harmonic tone whose fundamental follows a curve at the rate of the audio."""
    phase = 2 * np.pi * np.cumsum(f0_hz) / rate
    return sum(0.2 / k * np.sin(k * phase) for k in range(1, harmonics + 1))


def test_a_moving_pitch_is_followed_where_it_is():
    seconds = np.arange(RATE) / RATE
    truth = 330.0 * 2 ** (0.5 / 12 * np.sin(2 * np.pi * 5.5 * seconds))
    pitch = track_f0(tone(truth, RATE).astype(np.float32), RATE, HOP)
    assert pitch.f0_hz.shape == (250,)
    cents = 1200 * np.log2(np.asarray(pitch.f0_hz) / truth[::HOP])
    inner = slice(8, -8)
    assert np.abs(cents[inner]).max() < 8.0
    assert np.asarray(pitch.voiced)[inner].all()
    assert np.asarray(pitch.confidence)[inner].min() > 0.95
