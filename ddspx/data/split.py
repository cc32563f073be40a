"""Splits by group: no speaker and no piece is heard on two sides."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from ddspx.data.manifest import Clip, ManifestError

DEFAULT_SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}


class LeakageError(ManifestError):
    """A group that stands in two splits."""


def check_leakage(clips: Iterable[Clip]) -> None:
    """Raises `LeakageError` if a group has clips in two splits."""
    seen: dict[str, Clip] = {}
    for clip in clips:
        if not clip.split:
            continue
        other = seen.setdefault(clip.group, clip)
        if other.split != clip.split:
            raise LeakageError(
                f"group {clip.group!r} is in {other.split} ({other.path}) and in "
                f"{clip.split} ({clip.path}); a group belongs to one split"
            )


def assign_splits(
    clips: Iterable[Clip],
    *,
    shares: Mapping[str, float] | None = None,
    seed: int = 0,
) -> tuple[Clip, ...]:
    """Gives every clip a split, whole groups at a time, and keeps splits it has.

    Groups are taken in an order that depends on the seed and their names alone; each
    goes to the split that lacks most seconds, unless the groups left are just enough
    for the splits that are still empty. So the result does not depend on the order of
    the clips, and no split stays empty when there are as many groups as splits.

    Args:
      clips: where a group already has a split in some clip, the others follow it.
      shares: split name -> share of the seconds; 80, 10, 10 % when None.
      seed: another seed, another assignment.

    Returns:
      The clips in the order given, each with a split.

    Raises:
      LeakageError: a group already stands in two splits.
      ManifestError: a share is not positive.
    """
    clips = tuple(clips)
    shares = dict(DEFAULT_SHARES if shares is None else shares)
    if not shares or min(shares.values()) <= 0:
        raise ManifestError(f"split shares {shares}: expected positive numbers")
    check_leakage(clips)
    group_split = {clip.group: clip.split for clip in clips if clip.split}
    seconds: dict[str, float] = defaultdict(float)
    for clip in clips:
        # Files of unknown length weigh a second each.
        seconds[clip.group] += clip.seconds or 1.0
    whole = sum(seconds.values()) / sum(shares.values())
    lacking = {name: share * whole for name, share in shares.items()}
    empty = set(shares)
    for group, split in group_split.items():
        lacking[split] = lacking.get(split, 0.0) - seconds[group]
        empty.discard(split)
    free = [group for group in seconds if group not in group_split]
    free.sort(key=lambda group: (_rank(group, seed), group))
    for position, group in enumerate(free):
        left = len(free) - position
        open_splits = empty if 0 < len(empty) >= left else set(shares)
        # `shares` has an order, so that ties are broken the same way in every run.
        split = max((s for s in shares if s in open_splits), key=lacking.__getitem__)
        group_split[group] = split
        lacking[split] -= seconds[group]
        empty.discard(split)
    return tuple(replace(clip, split=group_split[clip.group]) for clip in clips)


def select(clips: Iterable[Clip], split: str) -> tuple[Clip, ...]:
    """The clips of one split, after a check that no group stands in two.

    Raises:
      LeakageError: a group stands in two splits.
      ManifestError: the split has no clips.
    """
    clips = tuple(clips)
    check_leakage(clips)
    chosen = tuple(clip for clip in clips if clip.split == split)
    if not chosen:
        known = ", ".join(sorted({clip.split or "(none)" for clip in clips}))
        raise ManifestError(f"no clips in split {split!r}; the splits are: {known}")
    return chosen


def _rank(group: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()
