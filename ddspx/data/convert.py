"""Copies of a collection at one sample rate, for training that reads many crops.

Decoding and resampling a crop of a compressed file at another rate costs more than
most effects do; a copy in the training's own rate is read as it is.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from ddspx import audio
from ddspx.data.manifest import Clip, Collection, ManifestError, Skipped, write_manifest


def convert_collection(
    clips: Iterable[Clip],
    folder: str | Path,
    *,
    sample_rate: int,
    channels: int = 1,
    report: Callable[[str], None] | None = None,
) -> Collection:
    """Writes every recording as float WAV of one rate, with a manifest of its own.

    Args:
      clips: what is copied; splits, groups and licences are kept.
      folder: to write; recordings that are there already are kept, so that a copy that
        was interrupted goes on.
      sample_rate: Hz.
      channels: of the copies, as in `ddspx.audio.load`.
      report: called with the path of each recording that is done.

    Returns:
      The copies, and the recordings that could not be read.

    Raises:
      ManifestError: nothing could be read, or two recordings have one name.
    """
    folder = Path(folder)
    made: list[Clip] = []
    skipped: list[Skipped] = []
    taken: set[Path] = set()
    for clip in clips:
        target = folder / Path(clip.path).with_suffix(".wav")
        if target in taken:
            raise ManifestError(f"{clip.path}: another recording becomes {target} too")
        taken.add(target)
        try:
            if not target.is_file():
                samples, _ = audio.load(
                    clip.file, sample_rate=sample_rate, channels=channels
                )
                target.parent.mkdir(parents=True, exist_ok=True)
                audio.save(target, samples, sample_rate)
            facts = audio.info(target)
        except audio.AudioFileError as error:
            skipped.append(Skipped(clip.path, str(error)))
            continue
        made.append(
            replace(
                clip,
                path=target.relative_to(folder).as_posix(),
                root=str(folder),
                seconds=facts.frames / facts.sample_rate,
                sample_rate=facts.sample_rate,
                channels=facts.channels,
                note=f"{clip.note} resampled from {clip.sample_rate} Hz".strip(),
                sha256=hashlib.sha256(target.read_bytes()).hexdigest(),
            )
        )
        if report is not None:
            report(clip.path)
    if not made:
        raise ManifestError(f"none of {len(skipped)} recordings could be read")
    write_manifest(folder / "MANIFEST.csv", made, overwrite=True)
    return Collection(tuple(made), tuple(skipped))
