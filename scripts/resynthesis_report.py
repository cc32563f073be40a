"""What resynthesize.py writes and says: sound, curves, rules and distances, picture."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from resynthesis_sound import LEAST_DB, analysed, counted_frames, sections

from ddspx import audio, constant_q, curves, plotting, timbre
from ddspx.curves import Curves
from ddspx.losses import (
    LINEAR_MAGNITUDE,
    LOG_MAGNITUDE,
    StftRecipe,
    spectral_distance,
)
from ddspx.rates import sizes_at
from ddspx.resynthesis import Synthesizer

# What is compared at once, and what the picture shows.
_SECTION_S, _SHOWN_S, _RAINBOW_S = 8, 60, 20
_LEAST_HZ = 20.0


@dataclass(frozen=True)
class Work:
    """What was done.

    Attributes:
      synthesizer: that played.
      source: the input; None where there is none.
      output: sound to write.
      raw: curves before any rule.
      played: curves as they were played.
      told: of the sources.
      steps: of the rules.
      edits: by hand.
      gains: of the amplitudes that drive the synth.
      followed: how far the loudness was off before each correction, dB.
      threshold: of confidence.
      stretch: of time.
      sample_rate: of the output, Hz.
      levels: of the channels.
      own_noise: whether each channel has noise of its own.
      gain: that made the sound fit its format.
      peak: of the sound as written.
      overwrite: whether files may exist.
      clip: whether integer formats are clipped.
    """

    synthesizer: Synthesizer
    source: Path | None
    output: Path
    raw: Curves
    played: Curves
    told: dict[str, Any]
    steps: dict[str, dict[str, Any]]
    edits: Sequence[dict[str, Any]]
    gains: Sequence[dict[str, Any]]
    followed: Sequence[float]
    threshold: float
    stretch: float
    sample_rate: int
    levels: list[float]
    own_noise: bool
    gain: float
    peak: float
    overwrite: bool
    clip: bool


def outputs(output: Path) -> tuple[Path, Path, Path, Path]:
    """Sound, curves, report and picture."""
    curve, words, picture = (output.with_suffix(s) for s in (".csv", ".json", ".png"))
    return output, curve, words, picture


def write(work: Work, sound: Path, blocks: Iterator[np.ndarray]) -> None:
    """Writes all files and prints what was done.

    Args:
      work: what was done.
      sound: the first channel as it was rendered, at the model's rate.
      blocks: of the output.

    Raises:
      AudioFileError: a file cannot be written.
    """
    measured = analysed(sound, work.synthesizer)
    report = _report(work, sound, measured)
    figure = _figure(work, sound, measured)
    wav, table, words, picture = outputs(work.output)
    audio.save_blocks(
        wav,
        blocks,
        work.sample_rate,
        len(work.levels),
        overwrite=work.overwrite,
        clip=work.clip,
    )
    curves.write(table, work.played, overwrite=work.overwrite)
    with audio.written_aside(words, overwrite=work.overwrite) as aside:
        aside.write_text(json.dumps(report, indent=2) + "\n")
    plotting.save(figure, picture, overwrite=work.overwrite)
    _print(work, report)


# --------------------------------------------------------------------- numbers


def _report(work: Work, sound: Path, measured: Curves) -> dict[str, Any]:
    synthesizer = work.synthesizer
    counted = counted_frames(work.synthesizer, work.played, work.threshold)
    report: dict[str, Any] = {
        **work.told,
        "rules": work.steps,
        "edits": list(work.edits),
        "gains": [_plain(one) for one in work.gains],
        "loudness_error_db_before_corrections": list(work.followed),
        "stretch": work.stretch,
        "outside_the_training_range": timbre.outside(
            work.played, synthesizer.ranges, counted
        ),
        "tracking": _tracking(work, measured, counted),
    }
    if work.source is not None and work.stretch == 1.0:
        report["spectral_distance_to_input"] = _distance(work, sound)
    db = 20 * math.log10(max(work.peak, 1e-10))
    return report | {
        "seconds": work.played.seconds,
        "sample_rate": work.sample_rate,
        "model_sample_rate": synthesizer.sample_rate,
        "channels": len(work.levels),
        "channel_levels": work.levels,
        "channels_have_noise_of_their_own": work.own_noise,
        "peak_dbfs": db,
        "attenuation_db": -20 * math.log10(work.gain),
    }


def _plain(gain: dict[str, Any]) -> dict[str, Any]:
    """A gain as JSON has it, which knows no infinite numbers."""
    amount = gain["amount_db"]
    return {**gain, "amount_db": amount if math.isfinite(amount) else "-inf"}


def _tracking(work: Work, measured: Curves, counted: np.ndarray) -> dict[str, float]:
    """How well the sound has what it was asked for, over the counted frames."""
    found = {}
    frames = min(measured.frames, work.played.frames)
    counted = counted[:frames]
    asked = {n: c[:frames] for n, c in work.played.values.items()}
    heard = {n: c[:frames] for n, c in measured.values.items()}
    if "loudness_db" in asked and "loudness_db" in heard:
        # Below what any sound is heard at, levels are those of rounding.
        off = np.abs(np.maximum(asked["loudness_db"], LEAST_DB) - heard["loudness_db"])
        found["loudness_error_db"] = float(off[counted].mean())
    if "f0_hz" in asked and "f0_hz" in heard:
        both = counted & (heard.get("confidence", np.ones(frames)) >= work.threshold)
        cents = 1200 * np.abs(np.log2(heard["f0_hz"] / np.maximum(asked["f0_hz"], 1)))
        found["voiced_too"] = float(both.sum() / counted.sum())
        if both.any():
            found["f0_error_cents"] = float(np.median(cents[both]))
            found["f0_within_50_cents"] = float(np.mean(cents[both] < 50))
    if "centroid_hz" in asked and "centroid_hz" in heard:
        octaves = [np.log2(np.maximum(c["centroid_hz"], 20)) for c in (asked, heard)]
        off = np.abs(octaves[0] - octaves[1])
        found["centroid_error_octaves"] = float(off[counted].mean())
    return found


def _distance(work: Work, sound: Path) -> float:
    """magenta/ddsp's multi-scale spectral loss to the input, the mean over time."""
    assert work.source is not None
    rate = work.synthesizer.sample_rate
    sizes = sizes_at(rate).fft_sizes
    recipe = StftRecipe(
        fft_sizes=sizes,
        hop_sizes=tuple(size // 4 for size in sizes),
        window_lengths=sizes,
        # Summed over scales; the builder takes the mean.
        weights={LINEAR_MAGNITUDE: float(len(sizes)), LOG_MAGNITUDE: float(len(sizes))},
        magnitude_floor=1e-5,
        padding="end",
    )
    length = _SECTION_S * rate
    whole = min(length, _samples(work.source, rate), _samples(sound, rate))
    # A short sound as it is; parts of long ones all of one length.
    compare = jax.jit(lambda p, t: spectral_distance(p, t, recipe)[0])
    total, seen = 0.0, 0
    for made, given in zip(
        sections(sound, rate, seconds=_SECTION_S, channels=1),
        sections(work.source, rate, seconds=_SECTION_S, channels=1),
        strict=False,
    ):
        count = min(made.shape[1], given.shape[1])
        pair = [np.pad(s[0, :count], (0, max(0, whole - count))) for s in (made, given)]
        # What is silent in both, behind the end, has no distance.
        total += float(compare(*pair)) * len(pair[0])
        seen += count
    return total / seen


def _samples(path: Path, rate: int) -> int:
    info = audio.info(path)
    return math.ceil(info.frames * rate / info.sample_rate)


# --------------------------------------------------------------------- picture


def _figure(work: Work, sound: Path, measured: Curves) -> Figure:
    """Waveforms, spectrograms and rainbowgrams above the curves."""
    rate = work.synthesizer.sample_rate
    shown = {}
    if work.source is not None:
        shown["input"] = _start(work.source, rate)
    shown["output"] = _start(sound, rate)
    names = [n for n in work.played.names if n in work.synthesizer.control_names]
    pitched = "f0_hz" in names
    rows = [0.6, 1.3] + [1.3] * pitched + [0.75] * len(names)
    figure = Figure(figsize=(12.0, 1.9 * sum(rows)), layout="constrained")
    grid = figure.add_gridspec(len(rows), len(shown), height_ratios=rows)
    peak = max(float(np.abs(s).max()) for s in shown.values()) or 1.0
    levels = {n: plotting.spectrogram_db(s, rate) for n, s in shown.items()}
    top_db = max(level.max() for _, _, level in levels.values())
    for column, (name, samples) in enumerate(shown.items()):
        seconds = samples.shape[1] / rate
        axis = figure.add_subplot(grid[0, column])
        _waveform(axis, samples[0], rate)
        axis.set(title=name, xlim=(0, seconds), ylim=(-1.05 * peak, 1.05 * peak))
        axis.set_ylabel("sample" if column == 0 else "")
        axis = figure.add_subplot(grid[1, column])
        times, frequencies, level = levels[name]
        axis.pcolormesh(
            times,
            frequencies[1:],
            level[1:],
            vmin=top_db - plotting.DYNAMIC_RANGE_DB,
            vmax=top_db,
            cmap="magma",
            shading="nearest",
            rasterized=True,
        )
        axis.set(yscale="log", ylim=(40, rate / 2), xlim=(0, seconds))
        axis.set_facecolor("black")
        axis.set_ylabel("frequency / Hz" if column == 0 else "")
        if pitched:
            axis = figure.add_subplot(grid[2, column])
            _rainbowgram(axis, samples[0], rate)
            axis.set_ylabel("frequency / Hz" if column == 0 else "")
    for place, name in enumerate(names):
        axis = figure.add_subplot(grid[len(rows) - len(names) + place, :])
        _curve(axis, work, measured, name)
        if place == 0:
            axis.legend(loc="upper right", fontsize="small", ncols=3)
        if place + 1 == len(names):
            axis.set_xlabel("time / s")
    cut = ", the first minute" if work.played.seconds > _SHOWN_S else ""
    title = f"{work.source.name if work.source else 'curves'} on {work.told['model']}"
    figure.suptitle(title + cut)
    return figure


def _start(path: Path, rate: int) -> np.ndarray:
    return next(sections(path, rate, seconds=_SHOWN_S, channels=1))


def _waveform(axis, samples: np.ndarray, rate: int) -> None:
    """Extrema of each pixel."""
    group = max(1, len(samples) // 1200)
    whole = samples[: len(samples) // group * group].reshape(-1, group)
    times = (np.arange(len(whole)) + 0.5) * group / rate
    axis.fill_between(times, whole.min(1), whole.max(1), linewidth=0.3)


def _rainbowgram(axis, samples: np.ndarray, rate: int) -> None:
    samples = samples[: _RAINBOW_S * rate]
    hop = 2 ** round(math.log2(rate / 62.5))
    octaves = min(7, math.floor(math.log2(0.45 * rate / constant_q.C2_HZ)))
    bins = 24 * octaves
    spectrum = constant_q.constant_q(
        samples, rate, hop_length=hop, bins=bins, bins_per_octave=24
    )
    picture = constant_q.rainbowgram(spectrum)
    frequencies = constant_q.constant_q_frequencies(bins, 24)
    axis.imshow(
        plotting.rainbowgram_picture(
            np.asarray(picture.phase_change), np.asarray(picture.level)
        ),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(0.0, len(samples) / rate, -0.5, bins - 0.5),
    )
    places = np.arange(0, bins, 48)
    axis.set_yticks(places, [f"{frequencies[p]:.0f}" for p in places])


def _curve(axis, work: Work, measured: Curves, name: str) -> None:
    """One curve: as it was found, as it was played, and what came of it."""
    frames = round(_SHOWN_S * work.played.frame_rate_hz)
    lines = {"played": (work.played, "tab:blue", 1.6)}
    if name in work.raw.values and work.stretch == 1.0:
        lines = {"input": (work.raw, "0.55", 1.0), **lines}
    if name in measured.values:
        lines["output"] = (measured, "tab:orange", 0.8)
    for label, (found, colour, width) in lines.items():
        values = found.values[name][:frames]
        if name.endswith("_db"):
            values = np.maximum(values, -100.0)
        axis.plot(
            found.times_s[:frames], values, label=label, color=colour, linewidth=width
        )
    played = work.played.values[name][:frames]
    if name.endswith("_hz") and played.min() > _LEAST_HZ:
        axis.set_yscale("log")
    seconds = min(_SHOWN_S, work.played.seconds)
    axis.set(ylabel=name, xlim=(0, seconds))
    axis.grid(True, which="both", alpha=0.25)
    known = work.synthesizer.ranges.get(name)
    if known is not None:
        axis.axhspan(known["min"], known["max"], color="tab:green", alpha=0.08)
    counted = counted_frames(work.synthesizer, work.played, work.threshold)[:frames]
    axis.fill_between(
        work.played.times_s[:frames],
        0,
        1,
        where=(~counted).tolist(),
        transform=axis.get_xaxis_transform(),
        color="grey",
        alpha=0.2,
        linewidth=0,
    )


# ----------------------------------------------------------------------- words


def _print(work: Work, report: dict[str, Any]) -> None:
    wav, *others = outputs(work.output)
    print(f"{wav} ({', '.join(path.name for path in others)})")
    for rule, step in work.steps.items():
        print(f"  {rule}: {_words(step)}")
    for one in work.edits:
        unit = " deviations" if one["deviations"] else ""
        print(f"  {one['kind']} {one['name']}: {one['amount']:g}{unit}")
    for one in work.gains:
        unit = "Hz" if one["hertz"] else "places"
        where = "" if one["low"] is one["high"] is None else f", {unit}"
        where += f" {one['low'] or 0:g} to {one['high'] or math.inf:g}" if where else ""
        where += f", step {one['step']}" if one["step"] > 1 else ""
        print(f"  {one['kind']} {one['name']}: {one['amount_db']:g} dB{where}")
    if work.followed:
        before = ", ".join(f"{error:.2f}" for error in work.followed)
        print(f"  loudness followed: {before} dB off before each correction")
    for name, share in report["outside_the_training_range"].items():
        if share > 0.05:
            print(f"  {name}: {100 * share:.0f} % outside of what the model has seen")
    for name, value in report["tracking"].items():
        print(f"  {name.replace('_', ' ')}: {value:.3g}")
    if "spectral_distance_to_input" in report:
        print(
            f"  spectral distance to input: {report['spectral_distance_to_input']:.3g}"
        )
    if report["attenuation_db"]:
        print(f"  attenuated {report['attenuation_db']:.1f} dB to fit {wav.suffix}")
    if len(work.levels) > 1:
        how = "noise of their own" if work.own_noise else "the same sound"
        print(f"  {len(work.levels)} channels: {how}, in the balance of the input")


def _words(step: dict[str, Any]) -> str:
    parts = []
    for name, value in step.items():
        if isinstance(value, list):
            continue
        said = f"{value:.4g}" if isinstance(value, float) else str(value)
        parts.append(
            said if name in ("rule", "note") else f"{name} {said}".replace("_", " ")
        )
    return ", ".join(parts)
