"""Twins against pedalboard: how far apart they are on recordings, and what each costs.

    python scripts/benchmark.py twins
    python scripts/benchmark.py twins --plugins Compressor Reverb --rates 44100

For each built-in with a twin, and for whole presets, random settings over the
catalogue's ranges, choices included, are rendered by both on sections of speech and of
music, mono and stereo, at every rate. The error of a render is

    |twin - pedalboard| / |pedalboard|   (RMS over channels and time)

where pedalboard's output is taken as no quieter than -120 dBFS. Times are of one
section of one channel at the first rate: the best of some renders, one item alone and
16 items in a call, pedalboard on one core and JAX as its host renders.
"""

import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from ddspx.data.dataset import sections
from ddspx.data.manifest import Clip, load_collection
from ddspx.data.practice import render_practice_corpus
from ddspx.parameters import default_controls, sample_controls, settings
from styletransfer.hosts import Host, HostEffect, Slot, open_host
from styletransfer.hosts.catalogue import facts
from styletransfer.presets import load_effect
from styletransfer.twins import TWINS

QUIETEST = 1e-6
WANTED = 1e-3
TIMED_ITEMS = 16
# A reverb that is frozen from the start has nothing to say, so that equality is cheap.
NOT_DRAWN = ("freeze_mode",)


@dataclass(frozen=True)
class Arguments:
    """What to measure.

    Attributes:
      data: folder or manifest of recordings; when not given what the environment
        variable DDSPX_DATA names, or else a practice corpus rendered for the purpose.
      categories: folders of the collection, one after the other; all that there are
        where the collection has none of them.
      plugins: built-ins; all with a twin when not given.
      presets: whole effects.
      rates: Hz.
      settings: random settings for each rate and number of channels.
      clips: recordings of each category.
      seconds: length of a section.
      seed: of everything.
      json: file for the numbers.
      plot: file for the figure.
    """

    data: Path | None = None
    categories: tuple[str, ...] = ("speech", "music")
    plugins: tuple[str, ...] = ()
    presets: tuple[str, ...] = ("channel_strip", "full_chain")
    rates: tuple[int, ...] = (44100, 24000, 48000)
    settings: int = 20
    clips: int = 5
    seconds: float = 3.0
    seed: int = 0
    json: Path | None = None
    plot: Path | None = None


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints one line an effect."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    unknown = sorted(set(options.plugins) - set(TWINS))
    if unknown:
        raise ValueError(f"no twins of {unknown}; there are {', '.join(TWINS)}")
    effects = [whole(name) for name in options.plugins or TWINS]
    effects += [load_effect(name) for name in options.presets]
    with tempfile.TemporaryDirectory() as scratch:
        clips = _recordings(options.data, Path(scratch), options)
        rng = np.random.default_rng(options.seed)
        audio = {
            (rate, channels): _signals(clips, rate, channels, options, rng)
            for rate in options.rates
            for channels in (1, 2)
        }
    print(
        f"{len(next(iter(audio.values())))} sections of {options.seconds:g} s,"
        f" {options.settings} settings for each of {options.rates} Hz, mono and stereo"
    )
    print(
        f"{'':16}{'median':>9}{'95 %':>9}{'worst':>9}{'<= 1e-3':>9}"
        f"{'1: ms':>9}{'jax':>7}{'16: ms':>9}{'jax':>7}  worst setting"
    )
    report = {}
    for effect in effects:
        report[effect.name] = measure(effect, audio, options)
        print(_line(effect.name, report[effect.name]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if options.plot:
        _plot(report, options.plot)


def whole(plugin: str) -> HostEffect:
    """One built-in with every parameter as a control that can tell the two apart."""
    drawn = (s for s in facts(plugin).parameters if s.name not in NOT_DRAWN)
    return HostEffect(plugin, (Slot("it", plugin, tuple(drawn)),))


def relative_errors(twin: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Errors [items] of renders [items, channels, time]; see the module."""
    size = np.sqrt(np.mean(np.square(truth, dtype=np.float64), axis=(1, 2)))
    apart = np.mean(np.square(twin.astype(np.float64) - truth), axis=(1, 2))
    return np.sqrt(apart) / np.maximum(size, QUIETEST)


def measure(
    effect: HostEffect, audio: dict[tuple[int, int], np.ndarray], options: Arguments
) -> dict[str, Any]:
    """Errors over all rates and channels, and times at the first of them."""
    rng = np.random.default_rng(options.seed)
    rows, times = [], {}
    for (rate, channels), signals in audio.items():
        with (
            open_host(effect, rate, backend="serial") as box,
            open_host(effect.opened_by("jax"), rate) as twin,
        ):
            count = options.settings if box.specs else len(signals)
            controls = sample_controls(box.specs, rng, (count,))
            source = np.arange(count, dtype=np.int32) % len(signals)
            truth = box.render(signals, controls, source)
            found = twin.render(signals, controls, source)
            if truth.status.any() or found.status.any():
                raise ValueError(f"{effect.name}: renders failed at {rate} Hz")
            errors = relative_errors(found.audio, truth.audio)
            for error, setting, signal in zip(errors, controls, source, strict=True):
                values = settings(box.specs, setting) if box.specs else {}
                text = {name: value["text"] for name, value in values.items()}
                row = {"rate": rate, "channels": channels, "signal": int(signal)}
                rows.append({**row, "error": float(error), "settings": text})
            if not times:
                times = {
                    str(items): _times(box, twin, signals[:1], items)
                    for items in (1, TIMED_ITEMS)
                }
    errors = np.array([row["error"] for row in rows])
    return {
        "median": float(np.median(errors)),
        "95 %": float(np.quantile(errors, 0.95)),
        "worst": float(errors.max()),
        "within 1e-3": float(np.mean(errors <= WANTED)),
        "milliseconds": times,
        "worst at": rows[int(np.argmax(errors))],
        "renders": rows,
    }


def _times(box: Host, twin: Host, audio: np.ndarray, items: int) -> dict[str, float]:
    """Best milliseconds of a call, the two in turn so that both meet the same noise."""
    controls = np.repeat(_defaults(box)[None], items, 0)
    source = np.zeros(items, np.int32)
    best = {"pedalboard": np.inf, "jax": np.inf}
    for _ in range(7):
        for name, host in (("pedalboard", box), ("jax", twin)):
            began = time.perf_counter()
            host.render(audio, controls, source)
            best[name] = min(best[name], 1e3 * (time.perf_counter() - began))
    return best


def _defaults(host: Host) -> np.ndarray:
    return default_controls(host.specs) if host.specs else np.zeros(0, np.float32)


def _line(name: str, row: dict[str, Any]) -> str:
    one, many = row["milliseconds"]["1"], row["milliseconds"][str(TIMED_ITEMS)]
    at = row["worst at"]
    shown = list(at["settings"].items())[:6]
    text = ", ".join(f"{key.split('.')[-1]} {value}" for key, value in shown)
    more = " ..." if len(at["settings"]) > len(shown) else ""
    return (
        f"{name:16}{row['median']:9.1e}{row['95 %']:9.1e}{row['worst']:9.1e}"
        f"{100 * row['within 1e-3']:7.0f} %{one['pedalboard']:9.2f}{one['jax']:7.2f}"
        f"{many['pedalboard']:9.1f}{many['jax']:7.1f}"
        f"  {at['rate']} Hz, {at['channels']} ch: {text}{more}"
    )


def _recordings(
    data: Path | None, scratch: Path, options: Arguments
) -> list[tuple[Clip, ...]]:
    """Recordings long enough, by category."""
    data = data or Path(os.environ.get("DDSPX_DATA", scratch / "practice"))
    if data == scratch / "practice":
        render_practice_corpus(data)
    clips = [
        clip
        for clip in load_collection(data).clips
        if not clip.seconds or clip.seconds >= options.seconds
    ]
    found = [
        tuple(clip for clip in clips if clip.category == category)
        for category in options.categories
    ]
    found = [group for group in found if group] or [tuple(clips)]
    if not found[0]:
        raise ValueError(f"{data}: no recording lasts {options.seconds:g} s")
    return found


def _signals(
    categories: Sequence[tuple[Clip, ...]],
    rate: int,
    channels: int,
    options: Arguments,
    rng: np.random.Generator,
) -> np.ndarray:
    """Sections [signals, channels, time], by turns of each category.

    A recording whose two channels are equal gets the section before it as the second.
    """
    found, seconds = [], options.seconds
    for group in categories:
        taken: list[np.ndarray] = []
        for index in rng.permutation(len(group)):
            parts = sections(group[index], seconds, sample_rate=rate, channels=channels)
            if parts:
                taken.append(parts[rng.integers(len(parts))].samples)
            if len(taken) == options.clips:
                break
        if not taken:
            raise ValueError(f"no recording gives a section of {seconds:g} s")
        if channels == 2:
            for i, section in enumerate(taken):
                if np.array_equal(section[0], section[1]):
                    taken[i] = np.stack([section[0], taken[i - 1][0]])
        found.append(taken)
    turns = [part for row in zip(*found, strict=False) for part in row]
    return np.stack(turns).astype(np.float32)


def _plot(report: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = sorted(report, key=lambda name: report[name]["worst"])
    figure, axis = plt.subplots(figsize=(7.0, 0.3 * len(names) + 1.4))
    floor = 1e-9
    place = np.arange(len(names))
    worst = np.array([max(report[name]["worst"], floor) for name in names])
    axis.barh(place, worst, color="tab:blue", alpha=0.35, label="worst")
    for y, name in zip(place, names, strict=True):
        errors = [max(row["error"], floor) for row in report[name]["renders"]]
        axis.plot(errors, np.full(len(errors), y), "k|", ms=6, alpha=0.25)
        axis.plot(max(report[name]["median"], floor), y, "o", color="tab:orange", ms=4)
    axis.axvline(WANTED, color="tab:red", ls="--", lw=1)
    axis.set_yticks(place, names)
    axis.set_xscale("log")
    axis.set_xlabel("relative RMS error: every render, median, worst; aim dashed")
    axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
