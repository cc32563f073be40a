"""Real recordings through several effects at random settings: what embeddings are of.

Every section of every recording passes every effect, so that content and effect are
independent. Each render is brought to one RMS: the level of a section says nothing of
its effect, for no method. Splits are those of the recordings: speakers and pieces that
are judged by were heard by neither model nor probe.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ddspx.data.dataset import sections
from ddspx.data.manifest import Clip, ManifestError
from ddspx.data.split import select
from ddspx.parameters import ParameterSpec, sample_controls
from styletransfer.hosts import HostEffect, Slot, open_host
from styletransfer.hosts.catalogue import BUILTINS, default_controls_of, facts
from styletransfer.presets import load_effect

# Level of every render, dB re full scale.
RMS_DB = -26.0
# What a silent render would be divided by.
_SILENCE = 1e-6


class Sections(NamedTuple):
    """Dry sections of one length.

    Attributes:
      audio: float32 [sections, time].
      group: speaker or piece of each.
      category: of each, such as ``"speech"``.
    """

    audio: np.ndarray
    group: tuple[str, ...]
    category: tuple[str, ...]


@dataclass(frozen=True)
class Renders:
    """What came out of the effects.

    Attributes:
      audio: float32 [items, time], each at `RMS_DB`.
      effect: int [items], index into `effects`.
      controls: for each effect [its items, its controls] in [0, 1].
      section: int [items], which section it was.
      group: of each item.
      category: of each item.
      effects: names.
      specs: for each effect its controls.
    """

    audio: np.ndarray
    effect: np.ndarray
    controls: tuple[np.ndarray, ...]
    section: np.ndarray
    group: np.ndarray
    category: np.ndarray
    effects: tuple[str, ...]
    specs: tuple[tuple[ParameterSpec, ...], ...]


def dry_sections(
    clips: tuple[Clip, ...],
    split: str,
    categories: Sequence[str],
    seconds: float,
    sample_rate: int,
    *,
    most: int | None = None,
) -> Sections:
    """Mono sections of a split that are not silent.

    Args:
      clips: recordings with splits.
      split: which.
      categories: first folders to take; all recordings where none has such a folder.
      seconds: of a section; shorter recordings give none.
      sample_rate: Hz.
      most: keep so many, evenly spread; None for all.

    Returns:
      `Sections`.

    Raises:
      ManifestError: no section is found.
    """
    wanted = tuple(clip for clip in clips if clip.category in categories)
    found = [
        (part.samples[0], clip.group, clip.category)
        for clip in select(wanted or clips, split)
        if not clip.seconds or clip.seconds >= seconds
        for part in sections(clip, seconds, sample_rate=sample_rate, channels=1)
    ]
    if not found:
        raise ManifestError(
            f"split {split!r} has no section of {seconds} s; give shorter sections"
        )
    if most is not None and len(found) > most:
        places = np.linspace(0, len(found) - 1, most).round().astype(int)
        found = [found[place] for place in places]
    audio, groups, kinds = zip(*found, strict=True)
    return Sections(np.stack(audio).astype(np.float32), groups, kinds)


def find_effect(name: str) -> HostEffect:
    """A built-in by its class name with its default controls, or an effect preset."""
    if name in BUILTINS and not facts(name).required:
        return HostEffect(name, (Slot("fx", name, default_controls_of(name)),))
    return load_effect(name)


def render(
    dry: Sections,
    effects: Sequence[str],
    sample_rate: int,
    *,
    settings: int,
    seed: Sequence[int],
) -> Renders:
    """Every section through every effect, at settings uniform in the unit cube.

    Args:
      dry: sections.
      effects: names for `find_effect`.
      sample_rate: Hz.
      settings: drawn for each section and effect.
      seed: of the draws, numbers; each effect has its own stream, whichever others
        there are.

    Returns:
      `Renders`; an item whose render failed or is silent is left out.
    """
    audio, label, place, controls, specs = [], [], [], [], []
    source = np.repeat(np.arange(len(dry.audio)), settings)
    for index, name in enumerate(effects):
        with open_host(find_effect(name), sample_rate) as host:
            rng = np.random.default_rng([*seed, *name.encode()])
            drawn = sample_controls(host.specs, rng, (len(source),))
            made, status = host.render(dry.audio[:, None], drawn, source)
            specs.append(host.specs)
        made = made[:, 0]
        rms = np.sqrt(np.mean(np.square(made), -1))
        kept = (status == 0) & (rms > _SILENCE)
        scale = 10.0 ** (RMS_DB / 20.0) / np.maximum(rms, _SILENCE)
        audio.append(np.float32(made[kept] * scale[kept, None]))
        label.append(np.full(kept.sum(), index))
        place.append(source[kept])
        controls.append(drawn[kept])
    section = np.concatenate(place)
    return Renders(
        np.concatenate(audio),
        np.concatenate(label),
        tuple(controls),
        section,
        np.asarray(dry.group)[section],
        np.asarray(dry.category)[section],
        tuple(effects),
        tuple(specs),
    )


class RandomWindows(Sequence):
    """Training batches: windows at random places of random renders.

    Batch i is a function of the seed and i alone, as `ddspx.training.fit` needs.
    """

    def __init__(self, audio: np.ndarray, window: int, batch_size: int, seed: int):
        """`audio` [items, time], each at least a window long."""
        self.audio, self.window = audio, window
        self.batch_size, self.seed = batch_size, seed

    def __len__(self) -> int:
        """Enough that no run sees a batch twice."""
        return 10**9

    def __getitem__(self, index):
        """``{"audio": [batch, 1, window], "file": item of each}``."""
        rng = np.random.default_rng([self.seed, int(index)])
        items = rng.integers(len(self.audio), size=self.batch_size)
        spare = self.audio.shape[-1] - self.window
        starts = rng.integers(spare + 1, size=self.batch_size)
        cut = [
            self.audio[item, at : at + self.window]
            for item, at in zip(items, starts, strict=True)
        ]
        return {"audio": np.stack(cut)[:, None], "file": np.int32(items)}


def fixed_windows(
    audio: np.ndarray, window: int, batch_size: int, batches: int, seed: int = 0
) -> list[dict[str, np.ndarray]]:
    """The same few batches each time, to judge a model by while it trains."""
    drawn = RandomWindows(audio, window, batch_size, seed)
    return [drawn[index] for index in range(batches)]
