"""Whole recordings as fixed sets of examples, for evaluation and analysis.

Every recording is cut from its start into examples of the model's length; one shorter
than that is padded by zeros if the run pads. The same files give the same examples.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ddspx import audio
from ddspx.data.dataset import sections
from ddspx.data.manifest import Clip, ManifestError
from vae.run import VaeRunConfig


class Examples(NamedTuple):
    """Sound of fixed length, and where it is from.

    Attributes:
      audio: float32 [examples, time].
      clips: the recording of each.
      file: int32 [examples], index among the recordings given.
      start_s: of each in its recording.
    """

    audio: np.ndarray
    clips: tuple[Clip, ...]
    file: np.ndarray
    start_s: np.ndarray


def load_examples(
    config: VaeRunConfig, clips: Iterable[Clip], *, most: int | None = None
) -> Examples:
    """The examples of recordings, in their order.

    Args:
      config: of the run: rate, length, padding, silence.
      clips: recordings, usually of one split.
      most: keep so many, evenly spread; None for all.

    Returns:
      `Examples`, mono.

    Raises:
      ManifestError: no recording gives an example.
    """
    crops = config.crops()
    found: list[tuple[np.ndarray, Clip, int, float]] = []
    clips = tuple(clips)
    for index, clip in enumerate(clips):
        parts = [
            (part.samples[0], part.start_s)
            for part in sections(
                clip,
                crops.seconds,
                sample_rate=crops.sample_rate,
                channels=1,
                silence_db=crops.silence_db,
            )
        ]
        if not parts and crops.pad_short:
            parts = _short(clip, config)
        found += [(samples, clip, index, start) for samples, start in parts]
    if not found:
        raise ManifestError(
            f"none of {len(clips)} recordings gives an example of"
            f" {crops.seconds:.2f} s above {crops.silence_db} dB"
        )
    if most is not None and len(found) > most:
        places = np.linspace(0, len(found) - 1, most).round().astype(int)
        found = [found[place] for place in places]
    sounds, kept, files, starts = zip(*found, strict=True)
    return Examples(
        np.stack(sounds).astype(np.float32),
        tuple(kept),
        np.asarray(files, np.int32),
        np.asarray(starts, np.float64),
    )


def _short(clip: Clip, config: VaeRunConfig) -> list[tuple[np.ndarray, float]]:
    rate, length = config.front.sample_rate, config.front.samples
    samples = audio.load(clip.file, sample_rate=rate, channels=1).samples[0]
    floor = config.data.silence_db
    if samples.size >= length or not samples.size:
        return []
    power = float(np.mean(np.square(samples, dtype=np.float64)))
    if floor is not None and power < 10.0 ** (floor / 10.0):
        return []
    return [(np.pad(samples, (0, length - samples.size)), 0.0)]


def evaluation_batches(
    examples: Examples, batch_size: int, *, seed: int = 0
) -> Sequence[dict[str, Any]]:
    """Batches of equal size, shuffled once, so that each holds all kinds of examples.

    What does not fill the last batch is left out; fewer examples than a batch are
    repeated to fill one.

    Args:
      examples: from `load_examples`.
      batch_size: examples in a batch.
      seed: of the order.

    Returns:
      Batches as `vae.task.vae_task` takes them.
    """
    order = np.random.default_rng(seed).permutation(len(examples.audio))
    if len(order) < batch_size:
        order = np.resize(order, batch_size)
    return [
        {
            "audio": examples.audio[rows][:, None],
            "file": examples.file[rows],
        }
        for rows in order[: len(order) // batch_size * batch_size].reshape(
            -1, batch_size
        )
    ]
