"""A practice corpus that the project renders itself, so that all runs without data.

Four kinds of music, six pieces each of 11 to 15 s: plucked melodies, drum loops, sung
vowels, chords. A piece is a group of its own: three of each kind are for training,
one for validation, two for testing. Strings and vowels are mono, drums and chords
stereo. Pieces are normalised to -20 LUFS (BS.1770) with peaks at most -1.5 dBFS, and
lie on a noise floor of -90 dBFS, since recordings are never exactly silent.

The same seed, sample rate, machine and library versions give the same bytes.
"""

from pathlib import Path

import numpy as np
from scipy import signal

from ddspx import audio
from ddspx.data import voices
from ddspx.data.manifest import (
    MANIFEST_NAME,
    Clip,
    ManifestError,
    file_sha256,
    write_manifest,
)

KINDS = ("strings", "drums", "vowels", "chords")
PIECES_PER_KIND = 6
_SPLITS = ("train", "test", "train", "valid", "train", "test")
LOUDNESS_LUFS = -20.0
PEAK_DB = -1.5
_FLOOR_DB = -90.0

_SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
}
# Bars of eight eighths: each entry is a note's length; negative is a rest.
_RHYTHMS = (
    (2, 1, 1, 2, 2),
    (1, 1, 2, 1, 1, 2),
    (3, 1, 2, 1, 1),
    (1, 1, 1, 1, 2, -1, 1),
    (4, 2, 2),
    (2, 2, 1, 1, 1, 1),
)
_PROGRESSIONS = (
    (0, 5, 3, 4),
    (0, 3, 4, 3),
    (5, 3, 0, 4),
    (0, 4, 5, 3),
    (1, 4, 0, 5),
    (0, 2, 3, 4),
)
# Sixteenths of a bar: K kick, S snare, h closed and o open hi-hat, dot for none.
_GROOVES = (
    ("K.......K.K.....", "....S.......S...", "h.h.h.h.h.h.h.o."),
    ("K...K...K...K...", "....S.......S..S", "..o...o...o...o."),
    ("K..K..K...K.....", "....S..S.S..S...", "hhhhhhhhhhhhhhhh"),
    ("K.....K.K.......", "........S.......", "h..hh..hh..hh..h"),
    ("K.K.......K..K..", "....S..S....S...", "h.hhh.hhh.hhh.oh"),
    ("K.........K.....", "....S........S.S", "h.h.h.h.h.h.h.h."),
)


def render_practice_corpus(
    folder: str | Path,
    *,
    sample_rate: int = 44100,
    seed: int = 0,
    overwrite: bool = False,
) -> tuple[Clip, ...]:
    """Renders all pieces as 16-bit FLAC, with a manifest beside them.

    Args:
      folder: made when missing.
      sample_rate: of the files, in Hz; at least 8000.
      seed: another seed, other melodies and takes.
      overwrite: False refuses a folder that holds a manifest or one of the files.

    Returns:
      The clips, as the manifest lists them.

    Raises:
      ManifestError: the folder already holds a corpus, or the rate is too low.
      AudioFileError: a file cannot be written.
    """
    folder = Path(folder)
    names = [(kind, i) for kind in KINDS for i in range(PIECES_PER_KIND)]
    wanted = [folder / MANIFEST_NAME]
    wanted += [folder / _path(kind, index) for kind, index in names]
    if folder.exists() and not folder.is_dir():
        raise ManifestError(f"{folder}: is a file, name a folder")
    there = [path for path in wanted if path.exists()]
    if there and not overwrite:
        raise ManifestError(
            f"{there[0]}: exists already; choose another folder or overwrite"
        )
    _check_rate(sample_rate)
    clips = []
    for kind, index in names:
        samples = render_piece(kind, index, sample_rate=sample_rate, seed=seed)
        path = folder / _path(kind, index)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ManifestError(
                f"{folder}: cannot be made: {error.strerror}"
            ) from error
        audio.save(path, samples, sample_rate, subtype="PCM_16", overwrite=overwrite)
        clip = Clip(
            path=_path(kind, index),
            root=str(folder),
            seconds=round(samples.shape[1] / sample_rate, 4),
            sample_rate=sample_rate,
            channels=len(samples),
            source="rendered by ddspx",
            licence="CC0 1.0",
            split=_SPLITS[index],
            group=f"{kind}_{index}",
            note=f"seed {seed}",
            sha256=file_sha256(path),
        )
        clips.append(clip)
    write_manifest(folder / MANIFEST_NAME, clips, overwrite=overwrite)
    return tuple(clips)


def render_piece(
    kind: str, index: int, *, sample_rate: int = 44100, seed: int = 0
) -> np.ndarray:
    """One piece, at its level in the corpus.

    Args:
      kind: one of `KINDS`.
      index: 0 to 5; tempo, key, instrument and pattern follow from it.
      sample_rate: in Hz.
      seed: of the take.

    Returns:
      Float32 [channels, time].

    Raises:
      ManifestError: no such piece, or the rate is too low.
    """
    if kind not in KINDS or not 0 <= index < PIECES_PER_KIND:
        raise ManifestError(
            f"no piece {kind!r} {index}: kinds are {', '.join(KINDS)}, "
            f"numbers 0 to {PIECES_PER_KIND - 1}"
        )
    _check_rate(sample_rate)
    rng = np.random.default_rng((seed, KINDS.index(kind), index))
    composers = {
        "strings": _strings,
        "drums": _drums,
        "vowels": _vowels,
        "chords": _chords,
    }
    return _finished(composers[kind](index, sample_rate, rng), sample_rate, rng)


def loudness_lufs(samples: np.ndarray, sample_rate: int) -> float:
    """Integrated loudness after ITU-R BS.1770-4, gated, for mono or stereo.

    The K weighting is applied to the spectrum of each block of 400 ms, by its analog
    prototype; this differs from the recursive filters by less than 0.1 LU here.

    Args:
      samples: [channels, time], at least 400 ms.
      sample_rate: in Hz.

    Returns:
      Loudness in LUFS; -inf when every block is below the gate.
    """
    length = round(0.4 * sample_rate)
    blocks = np.lib.stride_tricks.sliding_window_view(samples, length, axis=-1)
    spectrum = np.fft.rfft(blocks[:, :: length // 4], axis=-1)
    power = np.square(np.abs(spectrum))
    power[..., 1:-1] *= 2
    frequency = np.fft.rfftfreq(length, 1 / sample_rate)
    power = (power * _k_weighting(frequency)).sum(axis=-1).sum(axis=0) / length**2
    loudness = -0.691 + 10 * np.log10(np.maximum(power, 1e-20))
    kept = power[loudness > -70]
    if not kept.size:
        return float("-inf")
    relative = -0.691 + 10 * np.log10(kept.mean()) - 10
    kept = power[loudness > max(relative, -70)]
    return float(-0.691 + 10 * np.log10(kept.mean()))


def _path(kind: str, index: int) -> str:
    return f"{kind}/{kind}_{index}.flac"


def _check_rate(sample_rate: int) -> None:
    if sample_rate < 8000:
        raise ManifestError(f"sample rate {sample_rate} Hz: expected 8000 or more")


def _k_weighting(frequency_hz: np.ndarray) -> np.ndarray:
    """Power response: a shelf of +4 dB above 1.7 kHz, a high-pass at 38 Hz."""
    s = 1j * frequency_hz / 1681.97
    gain, q = 10 ** (3.99984 / 20), 0.70718
    # High shelf with a band term gain^0.4997, as in the standard's first stage.
    shelf = (gain * s**2 + gain**0.49967 / q * s + 1) / (s**2 + s / q + 1)
    t = 1j * frequency_hz / 38.1355
    high_pass = t**2 / (t**2 + t / 0.50033 + 1)
    return np.square(np.abs(shelf * high_pass))


def _finished(
    samples: np.ndarray, sample_rate: int, rng: np.random.Generator
) -> np.ndarray:
    """High-pass, fades, level, noise floor."""
    high = signal.butter(2, 25.0, "highpass", fs=sample_rate, output="sos")
    samples = np.asarray(signal.sosfilt(high, samples, axis=-1))
    rise, fall = round(0.005 * sample_rate), round(0.05 * sample_rate)
    samples[:, :rise] *= np.linspace(0, 1, rise)
    samples[:, -fall:] *= np.linspace(1, 0, fall)
    gain_db = LOUDNESS_LUFS - loudness_lufs(samples, sample_rate)
    peak_db = 20 * np.log10(np.abs(samples).max())
    samples *= 10 ** (min(gain_db, PEAK_DB - peak_db) / 20)
    samples += 10 ** (_FLOOR_DB / 20) * rng.standard_normal(samples.shape)
    return samples.astype(np.float32)


def _melody(
    index: int, bars: int, rng: np.random.Generator
) -> tuple[list[tuple[int, int, int]], tuple[int, ...]]:
    """Notes (start and length in eighths, scale degree) in the form A A' B A."""
    scale = tuple(_SCALES.values())[index % len(_SCALES)]

    def phrase() -> list[tuple[int, int]]:
        degree, made = int(rng.choice((0, 2, 4))), []
        for length in _RHYTHMS[rng.integers(len(_RHYTHMS))]:
            made.append((length, degree))
            # Mostly steps, some leaps, and back when it strays.
            degree += int(rng.choice((-2, -1, -1, 1, 1, 2, 3)))
            degree = int(np.clip(degree, -3, 9))
        return made

    first, second = phrase(), phrase()
    varied = [*first[:-1], (first[-1][0], 4)]
    closing = [*first[:-1], (first[-1][0], 0)]
    form = (first, varied, second, closing)
    chords = _PROGRESSIONS[index % len(_PROGRESSIONS)]
    notes, start = [], 0
    for bar in range(bars):
        shift = chords[bar % 4] % 4
        for length, degree in form[bar % 4]:
            if length > 0:
                notes.append((start, length, degree + shift))
            start += abs(length)
    return notes, scale


def _note(degree: int, scale: tuple[int, ...], root: int) -> int:
    return root + 12 * (degree // len(scale)) + scale[degree % len(scale)]


def _strings(index: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A melody on a guitar, a bass, a harp ..., with an open bass note each bar."""
    eighth = 60 / (92, 126, 108, 80, 138, 116)[index] / 2
    root = (52, 45, 57, 50, 40, 55)[index]
    decay, bright = (2.5, 1.8, 3.5, 3.0, 2.2, 1.2)[index], rng.uniform(0.4, 0.9)
    bars = max(4, round(12.0 / (8 * eighth)))
    notes, scale = _melody(index, bars, rng)
    # The last note rings out.
    made = np.zeros(round((bars * 8 * eighth + 1.2) * sample_rate))
    chords = _PROGRESSIONS[index]
    played = [
        (s, length, _note(d, scale, root), rng.uniform(0.7, 1))
        for s, length, d in notes
    ]
    for bar in range(bars):
        played.append((8 * bar, 8, _note(chords[bar % 4] - 7, scale, root), 0.8))
    for start, length, note, strength in played:
        seconds = min(length * eighth + 0.25, 1.6)
        sound = voices.pluck(
            float(voices.midi_to_hz(note)),
            seconds,
            sample_rate,
            rng,
            decay_s=decay,
            brightness=float(np.clip(bright * strength, 0, 1)),
            position=0.12 + 0.1 * rng.random(),
        )
        sound /= np.sqrt(np.mean(np.square(sound[: sample_rate // 8]))) + 1e-9
        fade = round(0.04 * sample_rate)
        sound[-fade:] *= np.linspace(1, 0, fade)
        humanised = start * eighth + rng.uniform(0, 0.012)
        _mix(made, sound * strength, humanised, sample_rate)
    # Two resonances of a wooden body.
    body = made.copy()
    for centre_hz, q, gain in ((105.0, 4.0, 0.8), (210.0, 5.0, 0.6)):
        b, a = signal.iirpeak(centre_hz, q, fs=sample_rate)
        body += gain * np.asarray(signal.lfilter(b, a, made))
    return body[None]


def _drums(index: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A groove with swing, human timing and a fill in each fourth bar."""
    sixteenth = 60 / (96, 122, 88, 74, 104, 140)[index] / 4
    swing = (0.0, 0.0, 0.12, 0.3, 0.08, 0.2)[index]
    bars = max(4, round(12.0 / (16 * sixteenth)))
    made = np.zeros((2, round((bars * 16 * sixteenth + 0.5) * sample_rate)))
    pitch = rng.uniform(0.85, 1.2)
    for bar in range(bars):
        lines = list(_GROOVES[index])
        if bar % 4 == 3:
            lines[1] = lines[1][:10] + "S.SSSS"
        for line in lines:
            for step, letter in enumerate(line):
                if letter == ".":
                    continue
                accent = 1.0 if step % 4 == 0 else 0.72
                late = swing * sixteenth * (step % 2) + rng.normal(0, 0.003)
                at = max(0.0, (bar * 16 + step) * sixteenth + late)
                strength = accent * rng.uniform(0.85, 1.0)
                sound, left = _hit(letter, pitch, sample_rate, rng)
                for row, share in zip(made, (left, 1 - left), strict=True):
                    _mix(row, sound * strength * np.sqrt(share), at, sample_rate)
    # A little saturation, as a bus compressor or a tape would leave.
    made /= np.abs(made).max()
    return np.tanh(2.0 * made)


def _hit(
    letter: str, pitch: float, sample_rate: int, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Sound of a drum and its share in the left channel."""
    if letter == "K":
        return voices.kick(sample_rate, rng, pitch_hz=50 * pitch), 0.5
    if letter == "S":
        return 0.8 * voices.snare(sample_rate, rng, pitch_hz=185 * pitch), 0.46
    return 0.4 * voices.hihat(sample_rate, rng, is_open=letter == "o"), 0.62


def _vowels(index: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A slow melody sung on vowels, with slides, swells and breaths."""
    beat = (0.75, 0.9, 0.65, 1.1, 0.8, 1.0)[index]
    root, tract = (48, 57, 45, 60, 53, 62)[index], (1.0, 1.14, 0.95, 1.18, 1.05, 1.2)
    lengths = [2, 1, 1, 2, 2, 1, 1, 4] if index % 2 else [1, 1, 2, 1, 1, 2, 3, 3]
    scale = tuple(_SCALES.values())[index % len(_SCALES)]
    degrees = np.clip(np.cumsum(rng.choice((-2, -1, 1, 2), len(lengths))), -3, 7)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]) * beat
    total = sum(lengths) * beat
    time = np.arange(round(total * sample_rate)) / sample_rate
    pitches = np.array([_note(int(d), scale, root) for d in degrees], float)
    # A slide of 80 ms ends where the next note begins.
    knots = np.sort(np.concatenate([starts, starts[1:] - 0.08, [total]]))
    held = pitches[np.searchsorted(starts, knots - 1e-9 + 2e-9, side="right") - 1]
    notes = np.interp(time, knots, held)
    sung = [str(v) for v in rng.choice(list(voices.FORMANTS), len(lengths))]
    made = voices.voice(
        notes, sung, starts.tolist(), sample_rate, rng, tract=tract[index]
    )
    envelope = np.ones(len(time))
    for start, length in zip(starts, lengths, strict=True):
        # Softer towards the end of a note; a breath after the long ones.
        end = start + length * beat
        inside = (time >= start) & (time < end)
        envelope[inside] *= 1 - 0.35 * (time[inside] - start) / (end - start)
        if length > 1:
            envelope *= 1 - 0.97 * np.exp(-(((time - end + 0.06) / 0.05) ** 2))
    rise = round(0.02 * sample_rate)
    smooth = signal.filtfilt(np.ones(rise) / rise, [1.0], envelope)
    return (made * smooth)[None]


def _chords(index: int, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """A progression on electric piano, organ or pad, voiced over a bass note."""
    bar = 4 * 60 / (84, 100, 72, 112, 92, 66)[index]
    root = (48, 53, 50, 45, 55, 52)[index]
    scale = tuple(_SCALES.values())[(index + 1) % len(_SCALES)]
    bars = max(4, round(12.0 / bar))
    made = np.zeros((2, round((bars * bar + 0.8) * sample_rate)))
    instrument = ("tine", "organ", "pad")[index % 3]
    # Which parts of a bar are struck; the sustained instruments hold theirs.
    struck = {"tine": (0.0, 0.375, 0.75), "organ": (0.0, 0.5), "pad": (0.0,)}
    hits = struck[instrument]
    for number in range(bars):
        degree = _PROGRESSIONS[index][number % 4]
        tones = [degree - 7, degree, degree + 2, degree + 4, degree + 6 * (index > 2)]
        for hit, until in zip(hits, (*hits[1:], 1.0), strict=True):
            seconds = (until - hit) * bar + 0.15
            for place, tone in enumerate(dict.fromkeys(tones)):
                hertz = float(voices.midi_to_hz(_note(tone, scale, root)))
                sound = _chord_tone(instrument, hertz, seconds, sample_rate, rng)
                at = (number + hit) * bar + 0.008 * place * rng.random()
                left = 0.5 + 0.25 * (-1) ** place * (place > 0)
                for row, share in zip(made, (left, 1 - left), strict=True):
                    strength = np.sqrt(share) * rng.uniform(0.85, 1.0)
                    _mix(row, sound * strength, at, sample_rate)
    return made


def _chord_tone(
    instrument: str,
    hertz: float,
    seconds: float,
    sample_rate: int,
    rng: np.random.Generator,
) -> np.ndarray:
    if instrument == "tine":
        sound = voices.tine(
            hertz, seconds, sample_rate, hardness=float(rng.uniform(0.6, 1.1))
        )
        rise = 0.002
    elif instrument == "organ":
        sound, rise = voices.organ(hertz, seconds, sample_rate), 0.012
    else:
        sound, rise = voices.pad(hertz, seconds, sample_rate, rng), 0.15
    up, down = round(rise * sample_rate), round(0.12 * sample_rate)
    sound[:up] *= np.linspace(0, 1, up)
    sound[-down:] *= np.linspace(1, 0, down)
    return sound


def _mix(
    target: np.ndarray, sound: np.ndarray, start_s: float, sample_rate: int
) -> None:
    first = round(start_s * sample_rate)
    part = target[first : first + len(sound)]
    part += sound[: len(part)]
