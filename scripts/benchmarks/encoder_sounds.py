"""Recordings through effects at hidden settings: what codes of sounds are probed on.

Every speaker or piece gives the same number of crops, and every crop passes every
effect, so that neither content nor effect tells the other. Pairs are those that
controllers are trained on (`styletransfer.pairs`): two crops in a row, of different
speakers or pieces, have the same settings.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ddspx.data.dataset import CropConfig, audio_dataset
from ddspx.data.manifest import Clip, ManifestError
from ddspx.data.split import select
from ddspx.parameters import ParameterSpec, default_controls
from styletransfer.hosts.host import Host
from styletransfer.pairs import PairConfig, PairMaker

# Crops that a host renders at once, a multiple of those that share settings.
_AT_ONCE = 100


class Crops(NamedTuple):
    """Dry crops of one length.

    Attributes:
      audio: float32 [crops, 1, time].
      group: speaker or piece of each [crops].
      category: of each [crops], such as ``"speech"``.
      file: path of each [crops].
      offset: its place in the file [crops], samples.
    """

    audio: np.ndarray
    group: np.ndarray
    category: np.ndarray
    file: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True)
class Pairs:
    """Pairs of one effect that were heard.

    Attributes:
      dry: float32 [items, 1, time], one half of a crop.
      treated: float32 [items, 1, time], the other half at the hidden settings.
      middle: float32 [items, 1, time], the dry half at settings in the middle, or None.
      controls: hidden settings [items, n].
      setting: int [items], equal for items with the same settings.
      crop: int [items], which crop it was.
      specs: of the n controls.
      lost: crops of which no pair was heard.
    """

    dry: np.ndarray
    treated: np.ndarray
    middle: np.ndarray | None
    controls: np.ndarray
    setting: np.ndarray
    crop: np.ndarray
    specs: tuple[ParameterSpec, ...]
    lost: int


def balanced_crops(
    clips: Sequence[Clip],
    split: str,
    categories: Sequence[str],
    seconds: float,
    sample_rate: int,
    *,
    count: int,
    seed: int,
) -> Crops:
    """Mono crops at random places, the groups taking turns.

    Args:
      clips: recordings with splits.
      split: which.
      categories: first folders to take; all recordings where none has such a folder.
      seconds: of a crop; groups whose recordings are all shorter give none.
      sample_rate: Hz.
      count: how many.
      seed: of the places.

    Returns:
      `Crops`.

    Raises:
      ManifestError: fewer than two groups have a recording that is long enough.
    """
    wanted = [clip for clip in clips if clip.category in categories]
    members: dict[str, list[Clip]] = defaultdict(list)
    for clip in select(wanted or clips, split):
        if not clip.seconds or clip.seconds >= seconds:
            members[clip.group].append(clip)
    config = CropConfig(sample_rate, seconds, weighting="file", seed=seed)
    sources = []
    for group in sorted(members):
        try:
            sources.append(audio_dataset(members[group], config))
        except ManifestError:
            continue  # every file of it is shorter than its manifest says
    if len(sources) < 2:
        raise ManifestError(
            f"split {split!r}: {len(sources)} of {len(members)} groups have recordings"
            f" of {seconds} s; two are needed at least"
        )
    found = []
    for place in range(count):
        source = sources[place % len(sources)]
        example = source.examples[place // len(sources)]
        clip = source.clips[int(example["file"])]
        offset = int(example["offset"])
        found.append((example["audio"], clip.group, clip.category, clip.path, offset))
    audio, *about = zip(*found, strict=True)
    return Crops(np.stack(audio), *map(np.asarray, about))


def treat(
    crops: Crops, host: Host, *, seed: Sequence[int], share: int = 1, middle: bool
) -> Pairs:
    """Every crop through one effect at settings that are heard.

    Args:
      crops: of an even number of samples.
      host: the opened effect.
      seed: of settings, levels and halves.
      share: crops in a row with the same settings; their number is a multiple of it.
      middle: whether to render at continuous controls of 0.5 too, and others at
        their defaults.

    Returns:
      `Pairs`; crops whose settings were never heard are left out.

    Raises:
      ValueError: a render in the middle failed.
    """
    maker = PairMaker(host, PairConfig(untreated=0.0, share=share))
    rng = np.random.default_rng(list(seed))
    rows = []
    for first in range(0, len(crops.audio), _AT_ONCE):
        row = maker.random_map({"audio": crops.audio[first : first + _AT_ONCE]}, rng)
        rows.append({**row, "setting": row["setting"] + first})
    names = ("audio", "reference", "controls", "setting", "valid")
    made = {name: np.concatenate([row[name] for row in rows]) for name in names}
    kept = np.flatnonzero(made["valid"])
    dry = made["audio"][kept]
    halfway = None
    if middle and len(kept):
        halfway = host.render(dry, np.tile(middle_controls(host.specs), (len(dry), 1)))
        if halfway.status.any():
            raise ValueError(
                f"{np.count_nonzero(halfway.status)} of {len(dry)} renders at settings"
                " in the middle failed; try scripts/probe_effect.py on the effect"
            )
        halfway = halfway.audio
    return Pairs(
        dry,
        made["reference"][kept],
        halfway,
        made["controls"][kept],
        made["setting"][kept],
        kept,
        host.specs,
        len(made["valid"]) - len(kept),
    )


def middle_controls(specs: Sequence[ParameterSpec]) -> np.ndarray:
    """Controls [n]: 0.5, and the default of discrete ones, as in the original study."""
    middle = np.full(len(specs), 0.5, np.float32)
    discrete = np.array([bool(spec.choices) for spec in specs])
    return np.where(discrete, default_controls(specs), middle)
