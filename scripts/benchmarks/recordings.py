"""Where the benchmarks' recordings come from, by split."""

import os
from pathlib import Path

import numpy as np

from ddspx.data.dataset import Section, sections
from ddspx.data.manifest import Clip, load_collection
from ddspx.data.practice import render_practice_corpus
from ddspx.data.split import assign_splits, select


def collection(data: Path | None, scratch: Path) -> tuple[Clip, ...]:
    """Every clip of a collection, with splits.

    Args:
      data: folder or manifest; when None what the environment variable DDSPX_DATA
        names, or else a practice corpus rendered for the purpose.
      scratch: folder for that corpus.
    """
    data = data or Path(os.environ.get("DDSPX_DATA", scratch / "practice"))
    if data == scratch / "practice":
        render_practice_corpus(data)
    clips = load_collection(data).clips
    return clips if any(clip.split for clip in clips) else assign_splits(clips)


def clips_of(
    clips: tuple[Clip, ...], split: str, category: str | None, seconds: float
) -> tuple[Clip, ...]:
    """Clips of a split that are long enough, of one category where there is any."""
    wanted = [clip for clip in clips if clip.category == category]
    chosen = select(wanted or clips, split)
    return tuple(c for c in chosen if not c.seconds or c.seconds >= seconds)


def spread_sections(
    clips: tuple[Clip, ...], count: int, seconds: float, sample_rate: int
) -> list[tuple[str, Section]]:
    """Mono sections (name, section) spread evenly over the clips, at most `count`.

    Raises:
      ValueError: no clip is long enough.
    """
    made = [
        (clip.path, part)
        for clip in clips
        for part in sections(clip, seconds, sample_rate=sample_rate, channels=1)
    ]
    if not made:
        raise ValueError(f"no section of {seconds} s in {len(clips)} clips")
    count = min(count, len(made))
    places = np.linspace(0, len(made) - 1, count).round().astype(int)
    return [made[i] for i in places]
