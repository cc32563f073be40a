"""Sound of a known number of independent effect parameters.

The same knobs are turned in JAX and in pedalboard: peaks of an equalizer that hardly
overlap, and gains before them. A factor is a knob in [0, 1], uniform and independent
of the others. Features are log-mel levels [frames, bands] in units of `SPREAD_DB`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.recordings import clips_of, spread_sections

from ddspx.data.manifest import Clip
from ddspx.effects.base import batched
from ddspx.effects.combine import chain
from ddspx.effects.equalizer import Band, parametric_equalizer
from ddspx.effects.stereo import gain
from ddspx.features import log_mel
from ddspx.parameters import db, default_controls
from styletransfer.hosts import HostEffect, Slot, open_host

RATE = 16000
SAMPLES = 4096
CENTRES_HZ = (400.0, 1000.0, 1900.0, 3300.0, 5800.0)
# Peaks reach from minus to plus this. A gain moves all bands, and would leave the peaks
# less than 5 % of the variance if it moved as far.
PEAK_DB, GAIN_DB = 12.0, 4.0
# Features: 32 bands, 5 frames; dB that are one unit, and the level that is 0.
FFT_SIZE, HOP, BANDS, FLOOR_DB = 512, 1024, 32, -80.0
SPREAD_DB, MIDDLE_DB = 6.0, -20.0
# RMS of every dry sound: its level is not among what varies.
LEVEL = 0.1
_AT_ONCE = 256

EngineName = Literal["jax", "pedalboard"]
ContentName = Literal["fixed", "varying"]
# ``(audio[n, 1, time], factors[n, k]) -> audio[n, 1, time]``
Render = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Knobs:
    """What is turned.

    Attributes:
      peaks: how many, at the first of `CENTRES_HZ`.
      gains: in series before the peaks.
      normalised: whether the peak of the result is brought to 1: gains are then dead.
      q: of the peaks; at 2 neighbours hardly overlap.
    """

    peaks: int
    gains: int = 0
    normalised: bool = False
    q: float = 2.0

    def __post_init__(self):
        if not 1 <= self.peaks <= len(CENTRES_HZ):
            raise ValueError(
                f"{self.peaks} parameters: choose 1 to {len(CENTRES_HZ)} peaks"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the factors, gains first."""
        gains = [f"gain{k + 1}" for k in range(self.gains)]
        return (*gains, *(f"peak{k + 1}" for k in range(self.peaks)))

    @property
    def directions(self) -> int:
        """In how many ways the sound can change."""
        return self.peaks + int(self.gains > 0 and not self.normalised)

    @property
    def ranges_db(self) -> np.ndarray:
        """Half the range of each factor [k]."""
        return np.array([GAIN_DB] * self.gains + [PEAK_DB] * self.peaks, np.float32)

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Independent factors, float32 [count, k]."""
        return rng.uniform(size=(count, len(self.names))).astype(np.float32)


@contextmanager
def opened(engine: EngineName, knobs: Knobs) -> Iterator[Render]:
    """The effect, ready to render.

    Args:
      engine: ``"jax"`` gives a function that can be differentiated.
      knobs: what is turned.

    Yields:
      A `Render`.
    """
    if engine == "jax":
        yield jax.jit(_in_jax(knobs))
        return
    with open_host(_described(knobs), RATE, backend="thread") as host:

        def render(audio, factors):
            made, status = host.render(np.asarray(audio), np.asarray(factors))
            if status.any():
                raise RuntimeError(f"{int(np.sum(status != 0))} renders failed")
            return _normalised(made) if knobs.normalised else made

        yield render


def _in_jax(knobs: Knobs) -> Render:
    bands = [
        Band(f"peak{k + 1}", "peak", 0.9 * hz, 1.1 * hz, hz)
        for k, hz in enumerate(CENTRES_HZ[: knobs.peaks])
    ]
    members = {f"gain{k + 1}": gain(RATE) for k in range(knobs.gains)}
    effect = chain(**members, eq=parametric_equalizer(RATE, bands=bands))
    rest = default_controls(effect.specs)
    for place, spec in enumerate(effect.specs):
        if spec.name.endswith(".q"):
            rest[place] = spec.to_unit(knobs.q)
    places = [k for k, s in enumerate(effect.specs) if s.name.endswith("gain_db")]
    ends = [
        [effect.specs[place].to_unit(sign * float(reach)) for sign in (-1, 1)]
        for place, reach in zip(places, knobs.ranges_db, strict=True)
    ]
    low, high = np.array(ends, np.float32).T[:, None]
    still = rest.astype(np.float32)[None]
    render = batched(effect)

    def turned(audio, factors):
        factors = jnp.asarray(factors)
        controls = jnp.repeat(still, len(factors), 0)
        controls = controls.at[:, np.array(places)].set(low + (high - low) * factors)
        made = render(audio, controls)
        return _normalised(made) if knobs.normalised else made

    return turned


def _described(knobs: Knobs) -> HostEffect:
    gains = [
        Slot(f"gain{k + 1}", "Gain", (db("gain_db", -GAIN_DB, GAIN_DB, 0.0, 0.0),))
        for k in range(knobs.gains)
    ]
    peaks = [
        Slot(
            f"peak{k + 1}",
            "PeakFilter",
            (db("gain_db", -PEAK_DB, PEAK_DB, 0.0, 0.0),),
            (("cutoff_frequency_hz", hz), ("q", knobs.q)),
        )
        for k, hz in enumerate(CENTRES_HZ[: knobs.peaks])
    ]
    return HostEffect("known_factors", (*gains, *peaks))


def _normalised(audio: Any) -> Any:
    peak = abs(audio).max((-2, -1), keepdims=True)
    return audio / (peak + 1e-12)


class Content(NamedTuple):
    """Dry sounds, all at RMS `LEVEL`.

    Attributes:
      name: ``"fixed"`` or ``"varying"``.
      train: float32 [sounds, 1, time].
      held_out: of other recordings; the same one where content is fixed.
    """

    name: ContentName
    train: np.ndarray
    held_out: np.ndarray


def fixed_content() -> Content:
    """One burst of noise, for training and for judging."""
    sound = _levelled(np.random.default_rng(9).normal(size=(1, 1, SAMPLES)))
    return Content("fixed", sound, sound)


def varying_content(clips: tuple[Clip, ...], category: str, most: int) -> Content:
    """Sections of recordings: training split, and those of the test split.

    Args:
      clips: recordings with splits.
      category: folder of the collection, if there is one of that name.
      most: sections of each split.

    Returns:
      `Content`; silent sections are left out.
    """
    seconds = SAMPLES / RATE
    banks = []
    for split in ("train", "test"):
        chosen = clips_of(clips, split, category, seconds)
        found = spread_sections(chosen, most, seconds, RATE)
        banks.append(_levelled(np.stack([part.samples for _, part in found])))
    return Content("varying", banks[0], banks[1])


def _levelled(audio: np.ndarray) -> np.ndarray:
    rms = np.sqrt(np.mean(np.square(audio), (1, 2), keepdims=True))
    return (LEVEL * audio / rms).astype(np.float32)


@jax.jit
def levels(audio: Any) -> jax.Array:
    """Features [n, frames, bands] of audio [n, 1, time]."""
    mel = log_mel(
        audio[:, 0],
        RATE,
        fft_size=FFT_SIZE,
        hop_length=HOP,
        mel_bands=BANDS,
        floor_db=FLOOR_DB,
    )
    return (jnp.swapaxes(mel, 1, 2) - MIDDLE_DB) / SPREAD_DB


class Examples(NamedTuple):
    """Sounds under random factors.

    Attributes:
      factors: [n, k].
      wet: features after the effect [n, frames, bands].
      dry: features of the same sounds before it.
    """

    factors: np.ndarray
    wet: np.ndarray
    dry: np.ndarray

    def images(self, question: str) -> np.ndarray:
        """What the model sees: ``"difference"`` leaves the content out, as dB do."""
        return self.wet - self.dry if question == "difference" else self.wet


def examples(
    render: Render, bank: np.ndarray, factors: np.ndarray, rng: np.random.Generator
) -> Examples:
    """Each row of factors applied to a sound drawn from a bank.

    Args:
      render: see `opened`.
      bank: dry sounds [sounds, 1, time].
      factors: [n, k].
      rng: of the sounds.

    Returns:
      `Examples`.
    """
    source = rng.integers(len(bank), size=len(factors))
    wet, dry = [], []
    for start in range(0, len(factors), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        audio = bank[source[part]]
        wet.append(np.asarray(levels(render(audio, factors[part]))))
        dry.append(np.asarray(levels(audio)))
    return Examples(factors, np.concatenate(wet), np.concatenate(dry))
