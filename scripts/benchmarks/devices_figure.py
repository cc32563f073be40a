"""Figure of one real device and the chain that fits it best, from held-out sound."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.signal
from matplotlib.figure import Figure

from ddspx.plotting import average_spectrum_db
from ddspx.types import Rate

# The level that a compressor's detector sees, and the ear: longer than a bass's period.
WINDOW_S = 0.03
# Below this of the loudest a device's noise is shown, not its curve.
RANGE_DB = 50.0
# Octaves, Hz, of which a sweep is shown in the one that holds most of the input: the
# partials above the fundamental are what combs and notches move through.
OCTAVES_HZ = (200.0, 400.0, 800.0, 1600.0)
_COLORS = {"input": "0.6", "device": "black", "match EQ": "tab:orange"}
_BEST = "tab:blue"


def draw(
    name: str,
    kind: str,
    row: Mapping[str, Any],
    sounds: Mapping[str, np.ndarray],
    sample_rate: Rate,
) -> Figure:
    """Spectra, gain by frequency, curve (or sweep), levels, and losses by method.

    Args:
      name: of the device.
      kind: see `devices_pairs.Device`.
      row: its report.
      sounds: [1, time] by name: ``"input"``, ``"device"`` and methods.
      sample_rate: Hz.
    """
    best = row["best"]
    shown = {n: sounds[n] for n in ("input", "device", "match EQ", best)}
    figure = Figure(figsize=(15.0, 8.6), layout="constrained")
    axes = figure.subplots(2, 3)
    _draw_spectra(axes[0, 0], axes[0, 1], shown, sample_rate)
    if kind == "modulation":
        _draw_sweep(axes[0, 2], shown, sample_rate)
    else:
        _draw_curve(axes[0, 2], shown, sample_rate)
    _draw_levels(axes[1, 0], shown, sample_rate)
    headline = row["headline"]
    _draw_losses(axes[1, 1], row["settings"], headline, best)
    axes[1, 1].set_title("settings fixed, held-out sound")
    _draw_losses(axes[1, 2], row["style"], headline, best)
    axes[1, 2].set_title("style of a reference of other content")
    figure.suptitle(
        f"{name}: device, and {best}, the chain that fits best; sound held back"
        f" (clips: {row['clips']})"
    )
    return figure


def _color(name: str) -> str:
    return _COLORS.get(name, _BEST)


def _width(name: str) -> float:
    return 2.2 if name == "device" else 1.3


def levels_db(audio: np.ndarray, sample_rate: Rate) -> np.ndarray:
    """RMS levels of [1, time] in windows of `WINDOW_S` a third apart, dB FS."""
    size = round(WINDOW_S * sample_rate)
    pieces = np.lib.stride_tricks.sliding_window_view(audio[0], size)[:: size // 3]
    return 10.0 * np.log10(np.mean(np.square(pieces, dtype=np.float64), 1) + 1e-12)


def _times(levels: np.ndarray) -> np.ndarray:
    return np.arange(len(levels)) * WINDOW_S / 3 + WINDOW_S / 2


def _draw_spectra(left, right, shown: Mapping[str, np.ndarray], rate: Rate) -> None:
    spectra = {
        name: average_spectrum_db(sound, rate, fraction=3)
        for name, sound in shown.items()
    }
    centres, before = spectra["input"]
    heard = before > before.max() - 70.0
    for name, (_, level) in spectra.items():
        style = {"color": _color(name), "lw": _width(name), "label": name}
        left.plot(centres, level, **style)
        if name != "input":
            right.plot(
                np.where(heard, centres, np.nan),
                np.where(heard, level - before, np.nan),
                **style,
            )
    top = max(level.max() for _, level in spectra.values())
    left.set(ylim=(top - 85, top + 3), ylabel="level / dB FS", title="spectra")
    right.set(ylabel="output less input / dB", title="gain by frequency")
    for axis in (left, right):
        axis.set(xscale="log", xlabel="frequency / Hz", xlim=(30, rate / 2))
        axis.grid(True, alpha=0.3)
        axis.legend(fontsize=9)


def _draw_curve(axis, shown: Mapping[str, np.ndarray], rate: Rate) -> None:
    before = levels_db(shown["input"], rate)
    heard = before > before.max() - RANGE_DB
    edges = np.linspace(before[heard].min(), before.max() + 1e-9, 13)
    place = np.digitize(before, edges)
    for name, sound in shown.items():
        if name == "input":
            axis.plot(edges[[0, -1]], edges[[0, -1]], ":", color="0.6", label="input")
            continue
        after = levels_db(sound, rate)
        axis.plot(before[heard], after[heard], ".", color=_color(name), ms=3, alpha=0.3)
        middle = [
            (np.median(before[place == k]), np.median(after[place == k]))
            for k in range(1, len(edges))
            if np.any(place == k)
        ]
        if middle:
            axis.plot(
                *zip(*middle, strict=True),
                "-o",
                color=_color(name),
                lw=_width(name),
                ms=3,
                label=name,
            )
    axis.set(
        xlabel=f"input level in {WINDOW_S * 1e3:.0f} ms / dB FS",
        ylabel="output level / dB FS",
        title="level out against level in, medians",
    )
    axis.grid(True, alpha=0.3)
    axis.legend(fontsize=9)


def _draw_sweep(axis, shown: Mapping[str, np.ndarray], rate: Rate) -> None:
    def octave(name: str, low: float) -> np.ndarray:
        band = scipy.signal.butter(2, (low, 2 * low), "bandpass", fs=rate, output="sos")
        return scipy.signal.sosfiltfilt(band, shown[name])

    low = max(OCTAVES_HZ, key=lambda low: np.mean(octave("input", low) ** 2))
    levels = {name: levels_db(octave(name, low), rate) for name in shown}
    before = levels["input"]
    heard = before > before.max() - RANGE_DB
    times = _times(before)
    for name, level in levels.items():
        if name != "input":
            change = np.where(heard, level - before, np.nan)
            axis.plot(times, change, color=_color(name), lw=_width(name), label=name)
    axis.set(
        xlabel="time / s",
        ylabel="output less input / dB",
        title=f"sweep: gain between {low:.0f} and {2 * low:.0f} Hz",
    )
    axis.grid(True, alpha=0.3)
    axis.legend(fontsize=9)


def _draw_levels(axis, shown: Mapping[str, np.ndarray], rate: Rate) -> None:
    top = -np.inf
    for name, sound in shown.items():
        level = levels_db(sound, rate)
        axis.plot(_times(level), level, color=_color(name), lw=_width(name), label=name)
        top = max(top, level.max())
    axis.set(
        xlabel="time / s",
        ylabel="level / dB FS",
        ylim=(top - RANGE_DB, top + 3),
        title=f"level in {WINDOW_S * 1e3:.0f} ms",
    )
    axis.grid(True, alpha=0.3)
    axis.legend(fontsize=9)


def _draw_losses(axis, rows: Mapping[str, Any], headline: str, best: str) -> None:
    names = list(rows)[::-1]
    for k, name in enumerate(names):
        mean, low, high = rows[name][headline]
        color = _COLORS.get(name, _BEST if name.startswith(best) else "lightsteelblue")
        color = "0.6" if name in ("nothing", "level") else color
        axis.barh(k, mean, color=color)
        axis.plot([low, high], [k, k], color="0.2", lw=1.2)
        axis.text(high, k, f" {mean:.2f}", va="center", fontsize=9)
    axis.set_yticks(range(len(names)), names, fontsize=9)
    label = "MRSTFT" if headline == "mrstft" else "style distance"
    widest = max(row[headline][2] for row in rows.values())
    axis.set(xlabel=f"{label} to the device, mean and 95 %", xlim=(0, 1.2 * widest))
    axis.grid(True, axis="x", alpha=0.3)
    axis.set_axisbelow(True)
