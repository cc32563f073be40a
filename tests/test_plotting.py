import numpy as np
import pytest
from matplotlib.figure import Figure

from ddspx import plotting

RATE = 16000


def tone(frequency_hz, amplitude=0.5, seconds=1.0):
    time = np.arange(int(RATE * seconds)) / RATE
    return (amplitude * np.sin(2 * np.pi * frequency_hz * time))[None]


def test_spectrogram_puts_a_tone_where_it_is():
    times, frequencies, level = plotting.spectrogram_db(tone(1000.0), RATE)
    assert level.shape == (frequencies.size, times.size)
    peak = np.unravel_index(np.argmax(level), level.shape)
    assert frequencies[peak[0]] == pytest.approx(1000, abs=16)
    # A sine of amplitude 0.5 has a power of 1/8.
    assert level.max() == pytest.approx(10 * np.log10(0.125), abs=0.3)
    assert plotting.spectrogram_db(np.zeros((1, 10)), RATE)[2].max() < -100


def test_long_sounds_make_no_wider_pictures():
    short = plotting.spectrogram_db(tone(500.0, seconds=2.0), RATE)[2]
    long = plotting.spectrogram_db(tone(500.0, seconds=60.0), RATE)[2]
    assert short.shape[1] < long.shape[1] <= plotting.MOST_FRAMES + 1


def test_average_spectrum_peaks_at_the_tone():
    centres, level = plotting.average_spectrum_db(tone(440.0), RATE)
    assert centres[np.argmax(level)] == pytest.approx(440, rel=0.06)


def test_figures_are_figures_and_files_are_pictures(tmp_path):
    sounds = {"one": (tone(300.0), RATE), "two": (tone(3000.0)[:, :8000], RATE // 2)}
    figure = plotting.compare_sounds(sounds, title="both")
    assert isinstance(figure, Figure)
    assert [a.get_title() for a in figure.axes if a.get_title()] == ["one", "two"]
    path = tmp_path / "a.png"
    plotting.save(figure, path)
    first = path.read_bytes()
    assert first[:4] == b"\x89PNG" and len(first) > 10_000
    with pytest.raises(ValueError, match="exists already"):
        plotting.save(figure, path)
    plotting.save(plotting.compare_sounds(sounds, title="both"), path, overwrite=True)
    assert path.read_bytes() == first
    lines = plotting.curves({"a": ([1.0, 2.0], [3.0, 4.0])}, x_label="x", y_label="y")
    assert lines.axes[0].lines[0].get_ydata()[1] == 4.0
    boxes = plotting.distributions({"a": np.array([1.0, 2.0, 9.0])}, y_label="loss")
    assert boxes.axes[0].get_yscale() == "log"


def test_a_rainbowgram_is_black_where_nothing_sounds_and_coloured_by_phase():
    level = np.array([[0.0, 1.0, 1.0], [1.0, 0.5, 0.0]])
    change = np.array([[0.3, 0.0, -1.0], [1.0, 0.0, 0.2]])
    picture = plotting.rainbowgram_picture(change, level)
    assert picture.shape == (2, 3, 3)
    np.testing.assert_array_equal(picture[level == 0], 0.0)
    # A phase is a circle: -1 and 1 look alike; half the level, half the brightness.
    np.testing.assert_allclose(picture[0, 2], picture[1, 0], atol=0.1)
    np.testing.assert_allclose(picture[1, 1], 0.5 * picture[0, 1])
    figure = plotting.rainbowgram(change, level, np.array([100.0, 200.0]), 10.0)
    (image,) = figure.axes[0].images
    assert image.get_extent()[1] == pytest.approx(0.3)


def test_controls_are_drawn_one_below_the_other():
    controls = {
        "f0_hz": np.linspace(100.0, 900.0, 50),
        "loudness_db": np.linspace(-60.0, -20.0, 50),
        "harmonic_distribution": np.eye(50, 8),
    }
    marked = {"f0_hz": np.arange(50) < 10}
    figure = plotting.control_curves(controls, 25.0, marked=marked)
    assert [axis.get_ylabel() for axis in figure.axes] == list(controls)
    assert figure.axes[0].get_yscale() == "log"
    assert figure.axes[1].get_yscale() == "linear"
    plotting.pixels(figure)
    assert 80 < figure.axes[0].get_ylim()[0] < 100 < 900 < figure.axes[0].get_ylim()[1]
    line = figure.axes[0].lines[0]
    np.testing.assert_allclose(line.get_xdata()[-1], 49 / 25.0)
    assert len(figure.axes[0].collections) == 1 and len(figure.axes[2].images) == 1
    assert not figure.axes[1].collections
