"""Sounds with their control curves, and circular crops of them to train on.

A recording is read whole, resampled, mixed to mono and cut to whole frames. Its curves
are measured once and kept on disk by content. Crops begin at any frame of any sound and
go on at its start when they come to its end, so that every frame is seen as often.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import grain
import numpy as np

from ddspx import audio, pitch
from ddspx.cache import cached, content_key
from ddspx.curves import read_beside
from ddspx.data.manifest import Clip, ManifestError
from ddspx.data.split import select
from ddspx.tasks.sound_curves import ControlsConfig, measure

_ENDLESS = 10**9
_MOST_CENTS = 1200.0


@dataclass(frozen=True)
class CropsConfig:
    """What a model is shown.

    Attributes:
      batch_size: crops a step.
      seconds: of a crop, rounded up to whole frames.
      peak_db: the loudest sample of all training sounds is brought to this level re
        full scale, all sounds by one gain, and sounds are made at their own level
        again; None leaves them as they are.
      held_out: share of each recording, at its end, that the model is judged by, where
        the recordings have no split ``valid``.
      weighting: ``"duration"`` shows every second as often; ``"file"`` every recording.
      detuned_cents: every sound to train on is also shown played faster or slower by
        each of these; see `detuned`.
      seed: of the crops.
    """

    batch_size: int = 16
    seconds: float = 1.486
    peak_db: float | None = 0.0
    held_out: float = 0.1
    weighting: str = "duration"
    detuned_cents: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self):
        if self.batch_size < 1 or not self.seconds > 0 or not 0 < self.held_out < 1:
            raise ValueError(
                f"batch_size {self.batch_size} must be 1 or more, seconds"
                f" {self.seconds} positive, held_out {self.held_out} between 0 and 1"
            )
        if self.weighting not in ("duration", "file"):
            raise ValueError(
                f"weighting {self.weighting!r}: expected 'duration' or 'file'"
            )
        if not all(0 < abs(cents) <= _MOST_CENTS for cents in self.detuned_cents):
            raise ValueError(
                f"detuned_cents {self.detuned_cents}: expected numbers from -1200 to"
                " 1200, and not 0"
            )


class Sound(NamedTuple):
    """A sound and its curves.

    Attributes:
      name: of its file.
      audio: float32 [frames hop].
      curves: float32 [frames] by name, physical.
    """

    name: str
    audio: np.ndarray
    curves: dict[str, np.ndarray]


def load_sounds(
    clips: Iterable[Clip],
    controls: ControlsConfig,
    sample_rate: int,
    hop: int,
    *,
    frame_at: int = 0,
    cache: str | Path | None = None,
) -> tuple[Sound, ...]:
    """Reads recordings and finds their curves.

    Args:
      clips: recordings.
      controls: which curves.
      sample_rate: to resample to, Hz.
      hop: samples a frame.
      frame_at: see `ddspx.tasks.sound_curves.measure`.
      cache: folder of measured curves; None measures again.

    Returns:
      Sounds in the order of the clips; what is behind the last whole frame is dropped.

    Raises:
      ManifestError: there is none, or one is shorter than a frame.
      AudioFileError: one cannot be read.
      ValueError: a drawn curve is missing.
    """
    sounds = []
    for clip in clips:
        samples, _ = audio.load(clip.file, sample_rate=sample_rate, channels=1)
        samples = samples[0, : samples.shape[1] // hop * hop]
        if not len(samples):
            raise ManifestError(
                f"{clip.file} is shorter than a frame of {hop} samples; leave it out"
            )
        drawn = read_beside(
            clip.file, controls.drawn, sample_rate / hop, len(samples) // hop
        )
        sounds.append(
            make_sound(
                clip.path,
                samples,
                controls,
                sample_rate,
                hop,
                frame_at=frame_at,
                drawn=drawn,
                cache=cache,
            )
        )
    if not sounds:
        raise ManifestError("0 recordings; expected one or more")
    return tuple(sounds)


def make_sound(
    name: str,
    samples: np.ndarray,
    controls: ControlsConfig,
    sample_rate: int,
    hop: int,
    *,
    frame_at: int = 0,
    drawn: dict[str, np.ndarray] | None = None,
    cache: str | Path | None = None,
) -> Sound:
    """A sound with its curves, the measured ones and the drawn.

    Args:
      name: of it.
      samples: [frames hop].
      controls: which curves.
      sample_rate: Hz.
      hop: samples a frame.
      frame_at: see `ddspx.tasks.sound_curves.measure`.
      drawn: [frames] by name.
      cache: folder of measured curves; None measures again.

    Returns:
      A `Sound`, curves in the order of ``controls.names``.
    """
    key = content_key(
        samples, repr(replace(controls, normalization="range")), sample_rate, hop,
        frame_at, "curves", pitch.VERSION,
    )  # fmt: skip
    curves = cached(
        cache,
        key,
        lambda: measure(controls, samples, sample_rate, hop, frame_at=frame_at),
    )
    curves = {**curves, **(drawn or {})}
    return Sound(name, samples, {name: curves[name] for name in controls.names})


def load_parts(
    clips: Iterable[Clip],
    controls: ControlsConfig,
    sample_rate: int,
    hop: int,
    *,
    config: CropsConfig,
    frame_at: int = 0,
    cache: str | Path | None = None,
) -> tuple[tuple[Sound, ...], tuple[Sound, ...]]:
    """Sounds to train on and sounds to judge by, with their curves.

    Args:
      clips: recordings. Those of the split valid are judged by; where there is none,
        the end of every recording is.
      controls: which curves.
      sample_rate: to resample to, Hz.
      hop: samples a frame.
      config: what is held out, and how else the sounds to train on are played.
      frame_at: see `ddspx.tasks.sound_curves.measure`.
      cache: folder of measured curves; None measures again.

    Returns:
      (training, held out).

    Raises:
      ManifestError: there is nothing to train on.
    """
    clips = tuple(clips)

    def sounds(split):
        return load_sounds(
            select(clips, split),
            controls,
            sample_rate,
            hop,
            frame_at=frame_at,
            cache=cache,
        )

    train = sounds("train")
    if any(clip.split == "valid" for clip in clips):
        valid = sounds("valid")
    else:
        train, valid = split_in_time(train, config.held_out, hop)
    others = [
        detuned(
            sound, cents, controls, sample_rate, hop, frame_at=frame_at, cache=cache
        )
        for cents in config.detuned_cents
        for sound in train
    ]
    return (*train, *others), valid


def detuned(
    sound: Sound,
    cents: float,
    controls: ControlsConfig,
    sample_rate: int,
    hop: int,
    *,
    frame_at: int = 0,
    cache: str | Path | None = None,
) -> Sound:
    """A sound played faster or slower, as a tape is, with curves of its own.

        y[n] = x[n r],   r = 2^(cents / 1200)

    Pitch, formants and time move together: nearly another instrument and player.

    Args:
      sound: one frame or more.
      cents: above 0 faster and higher.
      controls: which curves; drawn ones are played as fast.
      sample_rate: Hz.
      hop: samples a frame.
      frame_at: see `ddspx.tasks.sound_curves.measure`.
      cache: folder of measured curves; None measures again.

    Returns:
      A `Sound`, cut to whole frames, one at least.
    """
    played = round(sample_rate * 2.0 ** (cents / 1200.0))
    samples = audio.resample(sound.audio, played, sample_rate)
    frames = max(len(samples) // hop, 1)
    samples = np.pad(samples, (0, max(frames * hop - len(samples), 0)))[: frames * hop]
    at = np.arange(frames) * (played / sample_rate)
    drawn = {
        name: np.interp(at, np.arange(len(curve)), curve).astype(np.float32)
        for name, curve in sound.curves.items()
        if name in controls.drawn
    }
    return make_sound(
        f"{sound.name}, {cents:+g} cents",
        samples,
        controls,
        sample_rate,
        hop,
        frame_at=frame_at,
        drawn=drawn,
        cache=cache,
    )


def split_in_time(
    sounds: Sequence[Sound], share: float, hop: int
) -> tuple[tuple[Sound, ...], tuple[Sound, ...]]:
    """Parts each sound in an earlier piece to train on and a later one to judge by.

    Args:
      sounds: of two frames or more each.
      share: of the later piece.
      hop: samples a frame.

    Returns:
      (earlier, later).

    Raises:
      ManifestError: a sound is shorter than two frames.
    """
    earlier, later = [], []
    for sound in sounds:
        frames = len(sound.audio) // hop
        if frames < 2:
            raise ManifestError(
                f"{sound.name} is shorter than two frames of {hop} samples: it cannot"
                " be parted in time; leave it out, or give recordings for the split"
                " valid"
            )
        at = min(max(round((1.0 - share) * frames), 1), frames - 1)
        earlier.append(piece(sound, 0, at, hop))
        later.append(piece(sound, at, frames, hop))
    return tuple(earlier), tuple(later)


def piece(sound: Sound, start: int, stop: int, hop: int) -> Sound:
    """The frames from `start` to before `stop` of a sound, of `hop` samples each."""
    curves = {name: curve[start:stop] for name, curve in sound.curves.items()}
    return Sound(sound.name, sound.audio[start * hop : stop * hop], curves)


def circular(sound: Sound, start: int, frames: int, hop: int) -> dict[str, np.ndarray]:
    """A crop that goes on at the start of the sound when it comes to its end.

    Args:
      sound: to cut from.
      start: first frame.
      frames: of the crop; more than the sound has repeat it.
      hop: samples a frame.

    Returns:
      ``audio`` [frames hop], and each curve [frames].
    """
    cut = {"audio": _around(sound.audio, start * hop, frames * hop)}
    return cut | {
        name: _around(curve, start, frames) for name, curve in sound.curves.items()
    }


def _around(values: np.ndarray, start: int, count: int) -> np.ndarray:
    return np.take(values, np.arange(start, start + count), mode="wrap")


def crops(
    sounds: Sequence[Sound], config: CropsConfig, frames: int, hop: int
) -> grain.MapDataset:
    """Endless circular crops: example = f(seed, index).

    Args:
      sounds: to draw from.
      config: how.
      frames: of a crop.
      hop: samples a frame.

    Returns:
      Map from index to ``audio`` [frames hop], each curve [frames], ``file`` int32.
    """
    endless = grain.MapDataset.range(_ENDLESS).seed(config.seed)
    return endless.random_map(_Draw(tuple(sounds), config.weighting, frames, hop))


class _Draw(grain.transforms.RandomMap):
    def __init__(
        self, sounds: tuple[Sound, ...], weighting: str, frames: int, hop: int
    ):
        self.sounds, self.frames, self.hop = sounds, frames, hop
        lengths = np.array([len(sound.audio) // hop for sound in sounds], float)
        weights = lengths if weighting == "duration" else np.ones_like(lengths)
        self.lengths = lengths
        self.cumulative = np.cumsum(weights / weights.sum())

    def random_map(self, element: int, rng: np.random.Generator) -> dict:
        chosen = int(np.searchsorted(self.cumulative, rng.random(), side="right"))
        chosen = min(chosen, len(self.sounds) - 1)
        start = int(rng.random() * self.lengths[chosen])
        cut = circular(self.sounds[chosen], start, self.frames, self.hop)
        return {**cut, "file": np.int32(chosen)}


def windows(
    sounds: Sequence[Sound], frames: int, hop: int, batch_size: int
) -> list[dict[str, np.ndarray]]:
    """Sounds in pieces that follow each other, to judge by.

    Args:
      sounds: what is judged.
      frames: of a piece. The rest of a sound is dropped; a sound shorter than a piece
        is repeated to fill one.
      hop: samples a frame.
      batch_size: pieces a batch; the last batch begins again at the first piece, so
        that all batches have one shape.

    Returns:
      Batches as those of training.
    """
    pieces = []
    for index, sound in enumerate(sounds):
        count = max(len(sound.audio) // hop // frames, 1)
        for k in range(count):
            cut = circular(sound, k * frames, frames, hop)
            pieces.append({**cut, "file": np.int32(index)})
    pieces += [pieces[k % len(pieces)] for k in range(-len(pieces) % batch_size)]
    groups = (pieces[at : at + batch_size] for at in range(0, len(pieces), batch_size))
    return [
        {name: np.stack([one[name] for one in group]) for name in group[0]}
        for group in groups
    ]
