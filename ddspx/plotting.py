"""Figures that return, never show: spectrograms, average spectra, curves.

Every function returns a `matplotlib.figure.Figure` made without pyplot, so that no
display is needed and nothing is kept alive. `save` writes one aside and renames it.
Audio is [channels, time]; channels are mixed by power.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.signal
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ddspx.audio import written_aside
from ddspx.types import Rate

# Range below the loudest cell that a spectrogram shows.
DYNAMIC_RANGE_DB = 80.0
# A PNG needs no more columns than this, whatever the length of the sound.
MOST_FRAMES = 1200


def save(
    figure: Figure, path: str | Path, *, overwrite: bool = False, dpi: int = 110
) -> None:
    """Writes a figure aside, then renames it: no half-written picture is left.

    Raises:
      AudioFileError: the file exists and `overwrite` is False, or cannot be written.
    """
    with written_aside(path, overwrite=overwrite) as aside:
        figure.savefig(aside, dpi=dpi)


def pixels(figure: Figure, *, dpi: int = 80) -> np.ndarray:
    """The figure as a picture, uint8 [height, width, 3], for `training.logging`."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def spectrogram_db(
    audio: np.ndarray, sample_rate: Rate
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Power spectrogram of [channels, time] for looking at.

    Returns:
      (times in s [frames], frequencies in Hz [bins], dB relative to full scale
      [bins, frames]).
    """
    length = 2 ** max(5, round(math.log2(sample_rate * 0.043)))
    audio = np.atleast_2d(np.asarray(audio, np.float32))
    if audio.shape[-1] < length:
        audio = np.pad(audio, [(0, 0), (0, length - audio.shape[-1])])
    frequencies, times, power = scipy.signal.spectrogram(
        audio,
        sample_rate,
        window="hann",
        nperseg=length,
        noverlap=length - length // 4,
        scaling="spectrum",
        detrend=False,  # pyright: ignore[reportArgumentType] - stub knows only str
    )
    power = power.mean(axis=0)
    group = math.ceil(times.size / MOST_FRAMES)
    if group > 1:
        whole = times.size // group * group
        times = times[:whole].reshape(-1, group).mean(axis=1)
        power = power[:, :whole].reshape(len(power), -1, group).mean(axis=2)
    level = 10 * np.log10(power + 1e-14)
    return times, frequencies, level


def average_spectrum_db(
    audio: np.ndarray, sample_rate: Rate, *, fraction: int = 6
) -> tuple[np.ndarray, np.ndarray]:
    """Long-term power per 1/`fraction` octave from 30 Hz.

    Returns:
      (band centres in Hz [bands], dB [bands]).
    """
    _, frequencies, level = spectrogram_db(audio, sample_rate)
    power = (10 ** (level / 10)).mean(axis=1)
    count = int(np.log2(0.5 * sample_rate / 30.0) * fraction)
    centres = 30.0 * 2 ** (np.arange(count) / fraction)
    edges = np.log2(np.maximum(frequencies, 1e-3))
    weights = np.maximum(0, 1 - np.abs(edges - np.log2(centres)[:, None]) * fraction)
    # Low bands that no bin falls into are interpolated between bins.
    summed = np.where(
        weights.sum(axis=1) >= 0.5,
        weights @ power,
        np.interp(centres, frequencies, power),
    )
    return centres, 10 * np.log10(summed + 1e-14)


def compare_sounds(
    sounds: Mapping[str, tuple[np.ndarray, int | float]], *, title: str = ""
) -> Figure:
    """Spectrograms of several sounds above their average spectra in one plot.

    Args:
      sounds: ``{name: (audio [channels, time], sample rate in Hz)}``.
      title: above everything.
    """
    count = len(sounds)
    figure = Figure(figsize=(4.2 * count, 7.2), layout="constrained")
    grid = figure.add_gridspec(2, count, height_ratios=(1.0, 1.05))
    analysed = {n: spectrogram_db(audio, rate) for n, (audio, rate) in sounds.items()}
    loudest = max(level.max() for _, _, level in analysed.values())
    top = max(rate for _, rate in sounds.values()) / 2
    image = None
    axes = []
    for column, (name, (times, frequencies, level)) in enumerate(analysed.items()):
        axis = figure.add_subplot(grid[0, column])
        image = axis.pcolormesh(
            times,
            frequencies[1:],
            level[1:],
            vmin=loudest - DYNAMIC_RANGE_DB,
            vmax=loudest,
            cmap="magma",
            shading="nearest",
            rasterized=True,
        )
        axis.set(title=name, xlabel="time / s", yscale="log", ylim=(40, top))
        axis.set_facecolor("black")
        _hz_ticks(axis.yaxis, top)
        if column == 0:
            axis.set_ylabel("frequency / Hz")
        axes.append(axis)
    if image is not None:
        figure.colorbar(image, ax=axes, label="dB FS", pad=0.01)
    axis = figure.add_subplot(grid[1, :])
    for name, (audio, rate) in sounds.items():
        axis.plot(*average_spectrum_db(audio, rate), label=name, linewidth=1.6)
    axis.set(xscale="log", xlabel="frequency / Hz", ylabel="average level / dB FS")
    low, high = axis.get_ylim()
    axis.set(xlim=(30, top), ylim=(max(low, high - 90), high))
    _hz_ticks(axis.xaxis, top)
    axis.grid(True, which="major", alpha=0.3)
    axis.legend()
    if title:
        figure.suptitle(title)
    return figure


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
) -> Figure:
    """Lines by name: ``{name: (x, y)}``."""
    figure = Figure(figsize=(7.5, 5.0), layout="constrained")
    axis = figure.add_subplot()
    for name, (x, y) in series.items():
        axis.plot(x, y, label=name, linewidth=1.6, marker="o", markersize=3)
    axis.set(xlabel=x_label, ylabel=y_label, title=title)
    if log_x:
        axis.set_xscale("log")
    if log_y:
        axis.set_yscale("log")
    axis.grid(True, which="both", alpha=0.25)
    axis.legend()
    return figure


def rainbowgram_picture(phase_change: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Colours of a rainbowgram: hue from the change of phase, brightness from level.

    Args:
      phase_change: within [-1, 1] [bins, frames], see `ddspx.constant_q.rainbowgram`.
      level: within [0, 1] [bins, frames].

    Returns:
      RGB within [0, 1] [bins, frames, 3], black at level 0.
    """
    # A colour circle, as a phase is one: -1 and 1 are the same hue.
    colours = colormaps["hsv"]((np.asarray(phase_change) + 1.0) / 2.0)[..., :3]
    return colours * np.asarray(level)[..., None]


def rainbowgram(
    phase_change: np.ndarray,
    level: np.ndarray,
    frequencies_hz: np.ndarray,
    frame_rate_hz: float,
    *,
    title: str = "",
) -> Figure:
    """Constant-Q spectrogram coloured by instantaneous frequency.

    Args:
      phase_change: as in `rainbowgram_picture`.
      level: as in `rainbowgram_picture`.
      frequencies_hz: of the bins, at equal steps of log frequency [bins].
      frame_rate_hz: frames a second.
      title: above the picture.
    """
    bins, frames = np.shape(level)
    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axis = figure.add_subplot()
    axis.imshow(
        rainbowgram_picture(phase_change, level),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(0.0, frames / frame_rate_hz, -0.5, bins - 0.5),
    )
    places = np.unique(np.linspace(0, bins - 1, 7).round().astype(int))
    axis.set_yticks(places, [f"{frequencies_hz[p]:.0f}" for p in places])
    axis.set(xlabel="time / s", ylabel="frequency / Hz", title=title)
    return figure


def control_curves(
    controls: Mapping[str, np.ndarray],
    frame_rate_hz: float,
    *,
    marked: Mapping[str, np.ndarray] | None = None,
    title: str = "",
) -> Figure:
    """Controls over time, one below the other on one axis of time.

    Args:
      controls: by name, [frames] as a line or [frames, k] as an image; names with the
        ending ``_hz`` of lines have a log axis.
      frame_rate_hz: frames a second.
      marked: by the name of a control, frames to show grey (bool [frames]), such as
        those without a pitch.
      title: above everything.
    """
    figure = Figure(figsize=(8.0, 1.7 * len(controls) + 0.6), layout="constrained")
    axes = figure.subplots(len(controls), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (name, value) in zip(axes, controls.items(), strict=True):
        value = np.asarray(value)
        seconds = np.arange(len(value)) / frame_rate_hz
        if value.ndim == 1:
            axis.plot(seconds, value, linewidth=1.2)
            if name.endswith("_hz") and np.all(value > 0):
                axis.set_yscale("log")
                low, high = float(value.min()) / 1.1, float(value.max()) * 1.1
                _hz_ticks(axis.yaxis, high)
                # No more than one tick falls into a narrow range: write its ends.
                if high < 4 * low:
                    ends = np.geomspace(low * 1.05, high / 1.05, 3)
                    axis.yaxis.set_ticks(ends, labels=[f"{e:.0f}" for e in ends])
                axis.set_ylim(low, high)  # after the ticks, which widen it
            axis.grid(True, alpha=0.25)
        else:
            extent = (0.0, len(value) / frame_rate_hz, -0.5, value.shape[1] - 0.5)
            axis.imshow(
                value.T, origin="lower", aspect="auto", extent=extent, cmap="magma"
            )
        if marked is not None and name in marked:
            limits = axis.get_ylim()
            axis.fill_between(
                seconds,
                0,
                1,
                where=np.asarray(marked[name], bool).tolist(),
                transform=axis.get_xaxis_transform(),
                color="grey",
                alpha=0.25,
                linewidth=0,
            )
            # Its 0 to 1 are of the axes, yet count as values when limits are found.
            axis.set_ylim(limits)
        axis.set_ylabel(name)
    axes[-1].set_xlabel("time / s")
    if title:
        figure.suptitle(title)
    return figure


def distributions(
    values: Mapping[str, np.ndarray], *, y_label: str, title: str = ""
) -> Figure:
    """Box plots by name on a log axis, with every value as a dot."""
    figure = Figure(figsize=(1.9 * len(values) + 1.5, 5.0), layout="constrained")
    axis = figure.add_subplot()
    rng = np.random.default_rng(0)
    places = np.arange(1, len(values) + 1)
    for place, sample in zip(places, values.values(), strict=True):
        spread = place + rng.uniform(-0.16, 0.16, len(sample))
        axis.plot(spread, sample, ".", color="tab:blue", markersize=3, alpha=0.35)
    axis.boxplot(list(values.values()), positions=places, widths=0.5, showfliers=False)
    axis.set_xticks(places, [name.replace(", ", ",\n") for name in values])
    axis.set(ylabel=y_label, title=title, yscale="log")
    axis.grid(True, axis="y", which="both", alpha=0.25)
    return figure


def _hz_ticks(axis, top: float) -> None:
    ticks = [t for t in (50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000) if t <= top]
    axis.set_ticks(
        ticks, labels=[f"{t // 1000}k" if t >= 1000 else str(t) for t in ticks]
    )
    axis.set_ticks([], minor=True)
