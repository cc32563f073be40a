"""How right f0 is, and how fast it is found: `ddspx.pitch` beside librosa.

    python scripts/benchmark.py pitch
    python scripts/benchmark.py pitch --clips 4 --instruments violin flute --out f0

On tones of known pitch (`benchmarks.pitch_sounds`): vibrato, glissandi, missing
fundamentals, notes with rests; clean, in noise, in a room. "rpa" is the share of voiced
frames within 50 cents, "rca" the same but for octaves, "recall" and "false" the shares
of voiced and of unvoiced frames called voiced, "gross" the share of voiced frames more
than 20 % off, "cents" the median error of the frames within 50 cents. Intervals are
95 % bootstraps over clips. A frame at the end of a note counts by its centre; in a
room the tail of a note counts as a rest.

Then real recordings, where nobody knows: how far the two agree, and where they do not,
whose f0 explains more of the spectrum (`explained_db`). Times are medians of several
calls of all methods in turn, one compiled call before; librosa is compiled too.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import librosa
import numpy as np
import tyro
from benchmarks.interleaved import interleaved
from benchmarks.pitch_sounds import CONDITIONS, KINDS, Known, degraded

from ddspx import plotting
from ddspx.audio import load
from ddspx.constant_q import constant_q, constant_q_frequencies, rainbowgram
from ddspx.pitch import track_f0
from styletransfer.evaluation import bootstrap_columns

MEASURES = ("rpa", "rca", "recall", "false", "gross", "cents")
LOW_HZ, HIGH_HZ = 50.0, 2000.0


class Found(NamedTuple):
    """f0 and voicing of each frame."""

    f0_hz: np.ndarray
    voiced: np.ndarray


Method = Callable[[np.ndarray, int, int], Found]


def ours(audio: np.ndarray, sample_rate: int, hop: int) -> Found:
    """`track_f0` at its defaults."""
    pitch = track_f0(audio, sample_rate, hop, low_hz=LOW_HZ, high_hz=HIGH_HZ)
    return Found(np.asarray(pitch.f0_hz), np.asarray(pitch.voiced))


def pyin(audio: np.ndarray, sample_rate: int, hop: int) -> Found:
    """librosa.pyin at its defaults, with f0 in unvoiced frames too."""
    f0, voiced, _ = librosa.pyin(
        audio,
        fmin=LOW_HZ,
        fmax=HIGH_HZ,
        sr=sample_rate,
        hop_length=hop,
        frame_length=_frame_length(sample_rate),
        fill_na=None,
    )
    frames = -(-len(audio) // hop)
    return Found(f0[:frames], voiced[:frames])


def yin(audio: np.ndarray, sample_rate: int, hop: int) -> Found:
    """librosa.yin, which knows no voicing: all frames are voiced."""
    f0 = librosa.yin(
        audio,
        fmin=LOW_HZ,
        fmax=HIGH_HZ,
        sr=sample_rate,
        hop_length=hop,
        frame_length=_frame_length(sample_rate),
    )[: -(-len(audio) // hop)]
    return Found(f0, np.ones(len(f0), bool))


METHODS: dict[str, Method] = {"ddspx": ours, "pyin": pyin, "yin": yin}


def _frame_length(sample_rate: int) -> int:
    # librosa's default at its default rate, and as long elsewhere.
    return 2048 if sample_rate < 32000 else 4096


def measures(found: Found, known: Known, hop: int) -> dict[str, float]:
    """`MEASURES` of one clip; NaN where a clip has no such frame."""
    truth, there = known.f0_hz[::hop], known.voiced[::hop]
    cents = 1200.0 * np.log2(np.maximum(found.f0_hz, 1.0) / truth)
    chroma = (cents + 600.0) % 1200.0 - 600.0
    near = there & found.voiced & (np.abs(cents) < 50)

    def share(what, among):
        return float(np.mean(what[among])) if among.any() else np.nan

    return {
        "rpa": share(np.abs(cents) < 50, there),
        "rca": share(np.abs(chroma) < 50, there),
        "recall": share(found.voiced, there),
        "false": share(found.voiced, ~there),
        "gross": share(np.abs(cents) > 1200 * np.log2(1.2), there),
        "cents": float(np.median(np.abs(cents[near]))) if near.any() else np.nan,
    }


def explained_db(audio, f0_hz, frames, sample_rate: int, hop: int) -> np.ndarray:
    """Log-magnitude at the harmonics of f0 above that halfway between them.

        mean over k <= 8 of dB(k f0) - mean over k <= 8 of dB((k - 1/2) f0)

    A subharmonic has harmonics where there is nothing, an octave too high has spectrum
    halfway between: both lower it.

    Args:
      audio: [time].
      f0_hz: of the frames in question [n].
      frames: their numbers [n].
      sample_rate: Hz.
      hop: samples.

    Returns:
      dB [n].
    """
    size = 2 ** round(np.log2(sample_rate * 0.09))
    padded = np.pad(audio, (size // 2, size))
    pieces = np.stack([padded[m * hop :][:size] for m in frames]) * np.hanning(size)
    level = 20 * np.log10(np.abs(np.fft.rfft(pieces, 4 * size)) + 1e-7)
    k = np.arange(1, 9)

    def at(multiples):
        hz = f0_hz[:, None] * multiples
        bins = hz * 4 * size / sample_rate
        inside = hz < 0.45 * sample_rate
        rows = np.arange(len(level))[:, None]
        found = level[rows, np.minimum(bins.astype(int), level.shape[1] - 1)]
        return np.sum(found * inside, 1) / np.maximum(inside.sum(1), 1)

    return at(k) - at(k - 0.5)


@dataclass(frozen=True)
class Arguments:
    """Compares methods that find f0.

    Attributes:
      clips: of each kind under each condition.
      seconds: length of each.
      sample_rate: Hz, of the tones.
      hop_s: from frame to frame.
      conditions: of the tones.
      instruments: folders of recordings below ``instruments`` of the data.
      data: folder of recordings; without it the real ones are left out.
      repeats: of each timing.
      seed: of the tones; the tracker was tuned on those of 0.
      out: folder of figures; none are drawn without.
    """

    clips: int = 4
    seconds: float = 2.0
    sample_rate: int = 16000
    hop_s: float = 0.01
    conditions: tuple[str, ...] = CONDITIONS
    instruments: tuple[str, ...] = ("violin", "flute", "trumpet", "voice", "clarinet")
    data: Path | None = None
    repeats: int = 3
    seed: int = 0
    out: Path | None = None


def main(rest: list[str]) -> None:
    """Runs the suite on the rest of the command line."""
    options = tyro.cli(
        Arguments, args=rest, prog="benchmark.py pitch", description=__doc__
    )
    if not set(options.conditions) <= set(CONDITIONS):
        raise ValueError(f"conditions {options.conditions}: use some of {CONDITIONS}")
    synthetic(options)
    speed(options)
    if options.data is None:
        print("real recordings: needs --data, skipped")
    else:
        real(options)


def synthetic(options: Arguments) -> None:
    """Prints the measures of all methods by condition."""
    hop = round(options.hop_s * options.sample_rate)
    time_ = round(options.seconds * options.sample_rate)
    print("condition | method | " + " | ".join(MEASURES))
    everything = defaultdict(list)
    for number, condition in enumerate(options.conditions):
        rows = defaultdict(list)
        for kind_number, (kind, make) in enumerate(KINDS.items()):
            for clip in range(options.clips):
                # Tones of seed 0 as they were when the tracker was tuned on them.
                seed = [kind_number, clip, *[options.seed] * bool(options.seed)]
                known = make(options.sample_rate, time_, np.random.default_rng(seed))
                chance = np.random.default_rng([*seed, number])
                known = degraded(known, condition, options.sample_rate, chance)
                audio = known.audio.astype(np.float32)
                for name, method in METHODS.items():
                    found = method(audio, options.sample_rate, hop)
                    values = measures(found, known, hop)
                    group = f"{kind} {clip}"
                    rows[name].append((group, [values[m] for m in MEASURES]))
        for name, row in rows.items():
            everything[name] += row
            print(f"{condition} | {name} | {_cells(row)}", flush=True)
    for name, row in everything.items():
        print(f"all | {name} | {_cells(row)}")


def _cells(rows: list[tuple[str, list[float]]]) -> str:
    groups = [group for group, _ in rows]
    intervals = bootstrap_columns(np.array([v for _, v in rows]), groups, draws=2000)
    cells = []
    for name, (mean, low, high) in zip(MEASURES, intervals, strict=True):
        digits = 2 if name == "cents" else 3
        cells.append(f"{mean:.{digits}f} ({low:.{digits}f}, {high:.{digits}f})")
    return " | ".join(cells)


def speed(options: Arguments) -> None:
    """Prints times real time, all methods in turn, at two rates."""
    print("rate | hop | method | times real time | ratio to pyin")
    for rate in (options.sample_rate, 44100):
        hop = round(options.hop_s * rate)
        known = KINDS["vibrato"](rate, 4 * rate, np.random.default_rng(0))
        audio = known.audio.astype(np.float32)
        calls = {n: partial(m, audio, rate, hop) for n, m in METHODS.items()}
        spent = interleaved(calls, options.repeats)
        medians = {name: float(np.median(t)) for name, t in spent.items()}
        for name, seconds in medians.items():
            ratio = medians["pyin"] / seconds
            print(f"{rate} | {hop} | {name} | {4.0 / seconds:.0f} | {ratio:.1f}")


def real(options: Arguments) -> None:
    """Prints agreement with pyin on recordings, and who is right where they differ."""
    assert options.data is not None
    print(
        "recording | voiced ddspx | voiced pyin | same voicing | within 50 cents |"
        " median cents | frames apart | ddspx explains more"
    )
    totals = np.zeros(2, int)
    for instrument in options.instruments:
        folder = options.data / "instruments" / instrument
        paths = sorted(folder.glob("*.flac"))
        if not paths:
            raise ValueError(f"no recordings (*.flac) in {folder}")
        for path in paths[:: max(1, len(paths) // options.clips)][: options.clips]:
            clip, rate = load(path, duration_s=5.0)
            audio = clip[0]
            hop = round(options.hop_s * rate)
            totals += _compare(audio, rate, hop, f"{instrument}/{path.stem}")
            if options.out is not None:
                _draw(audio, rate, hop, options.out, f"{instrument}_{path.stem}")
    print(
        f"{totals[0]} frames apart in all, of which ddspx explains more in {totals[1]}"
    )


def _compare(audio: np.ndarray, rate: int, hop: int, name: str) -> np.ndarray:
    one, other = ours(audio, rate, hop), pyin(audio, rate, hop)
    both = one.voiced & other.voiced
    cents = 1200 * np.abs(np.log2(one.f0_hz / other.f0_hz))
    (apart,) = np.nonzero(both & (cents >= 50))
    better = 0
    if apart.size:
        mine, theirs = (
            explained_db(audio, f.f0_hz[apart], apart, rate, hop) for f in (one, other)
        )
        better = int(np.sum(mine > theirs))
    near = float(np.mean(cents[both] < 50)) if both.any() else np.nan
    median = float(np.median(cents[both])) if both.any() else np.nan
    print(
        f"{name} | {one.voiced.mean():.3f} | {other.voiced.mean():.3f} |"
        f" {np.mean(one.voiced == other.voiced):.3f} | {near:.3f} | {median:.1f} |"
        f" {apart.size} | {better}",
        flush=True,
    )
    return np.array([apart.size, better])


def _draw(audio: np.ndarray, rate: int, hop: int, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    one, other = ours(audio, rate, hop), pyin(audio, rate, hop)
    confidence = np.asarray(track_f0(audio, rate, hop).confidence)
    figure = plotting.control_curves(
        {
            "ddspx f0_hz": one.f0_hz,
            "pyin f0_hz": other.f0_hz,
            "confidence": confidence,
        },
        rate / hop,
        marked={"ddspx f0_hz": ~one.voiced, "pyin f0_hz": ~other.voiced},
        title=name,
    )
    plotting.save(figure, folder / f"{name}_f0.png", overwrite=True)
    shape = dict(bins=240, bins_per_octave=40)
    spectrum = constant_q(audio, rate, hop_length=256, filter_scale=0.8, **shape)
    change, level = (np.asarray(x) for x in rainbowgram(spectrum))
    figure = plotting.rainbowgram(
        change, level, constant_q_frequencies(**shape), rate / 256, title=name
    )
    plotting.save(figure, folder / f"{name}_rainbowgram.png", overwrite=True)
