"""The synths that a texture model may drive, as one configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from ddspx.filterbank import NoiseBank, make_bands, noise_bank
from ddspx.synths.base import Synth, mix
from ddspx.synths.harmonic import harmonic
from ddspx.synths.noise import bin_frequencies_hz, filtered_noise
from ddspx.synths.noise_band import noise_bands, render_batch
from ddspx.types import RandomKey

Kind = Literal["bands", "filtered_noise", "harmonic", "harmonic_bands"]
_AMPLITUDES = "band_amplitudes"


@dataclass(frozen=True)
class SourceConfig:
    """What makes the sound.

    Attributes:
      kind: ``"bands"``, noise bands; ``"filtered_noise"``; ``"harmonic"``; or
        ``"harmonic_bands"``, the sum of harmonics and noise bands.
      sample_rate: Hz.
      hop: samples from frame to frame.
      bands: of noise, half of them evenly spaced to an eighth of the rate, half by a
        constant factor above.
      attenuation_db: of the bands' stop-bands.
      loop: least length in samples of the loop that is drawn once for each band.
      noise_seed: of those loops.
      bins: of the filtered noise.
      harmonics: of f0.
    """

    kind: Kind = "bands"
    sample_rate: int = 44100
    hop: int = 32
    bands: int = 2048
    attenuation_db: float = 50.0
    loop: int = 1 << 16
    noise_seed: int = 42
    bins: int = 65
    harmonics: int = 60

    def __post_init__(self):
        if self.sample_rate < 1 or self.hop < 1:
            raise ValueError(
                f"sample_rate {self.sample_rate} Hz and hop {self.hop} samples must be"
                " 1 or more"
            )

    @property
    def harmonic(self) -> bool:
        """Whether f0 is needed."""
        return self.kind in ("harmonic", "harmonic_bands")

    @property
    def banded(self) -> bool:
        """Whether a bank of noise is needed."""
        return self.kind in ("bands", "harmonic_bands")


def make_bank(config: SourceConfig) -> NoiseBank | None:
    """The noise of a configuration, the same each time.

    Args:
      config: of the synth.

    Returns:
      Loops of noise, to be given to compiled functions as an argument; None where the
      synth has no bands.
    """
    if not config.banded:
        return None
    bands = make_bands(
        config.sample_rate, config.bands, attenuation_db=config.attenuation_db
    )
    key = jax.random.key(config.noise_seed)
    return noise_bank(bands, config.hop, key, samples=config.loop)


def make_source(config: SourceConfig, bank: NoiseBank | None) -> Synth:
    """The synth of a configuration. Frame m lies on sample m hop in all of them.

    Args:
      config: which.
      bank: from `make_bank`.

    Returns:
      A `Synth`.
    """
    parts = [synth for synth in (_banded(config, bank), _other(config)) if synth]
    return parts[0] if len(parts) == 1 else mix(*parts)


def centers_hz(
    config: SourceConfig, bank: NoiseBank | None, sizes: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Frequencies of those outputs that have one of their own.

    Args:
      config: of the synth.
      bank: from `make_bank`.
      sizes: of the synth.

    Returns:
      float64 [size] by name; nothing of harmonics, which are multiples of f0.
    """
    found = {}
    if bank is not None:
        found[_AMPLITUDES] = np.asarray(bank.center_hz, np.float64)
    if (bins := sizes.get("noise_magnitudes")) is not None:
        found["noise_magnitudes"] = bin_frequencies_hz(bins, config.sample_rate)
    return found


def render_sounds(
    config: SourceConfig,
    bank: NoiseBank | None,
    controls: Mapping[str, Any],
    key: RandomKey,
) -> jax.Array:
    """Sounds of a batch, at the least cost: all read the same stretch of the bank.

    Args:
      config: of the synth.
      bank: from `make_bank`.
      controls: [batch, frames, ...] by name.
      key: of all noise.

    Returns:
      [batch, frames hop].
    """
    place, own = jax.random.split(key)
    sound: Any = None
    if bank is not None:
        start = jax.random.randint(place, (), 0, bank.hops)
        sound = render_batch(bank, controls[_AMPLITUDES], start, frame_at="start")
    other = _other(config)
    if other is not None:
        rest = {name: c for name, c in controls.items() if name != _AMPLITUDES}
        keys = jax.random.split(own, len(next(iter(rest.values()))))
        more = jax.vmap(other.render)(rest, keys)
        sound = more if sound is None else sound + more
    return sound


def _banded(config: SourceConfig, bank: NoiseBank | None) -> Synth | None:
    if bank is None:
        return None
    return noise_bands(bank, config.hop, frame_at="start")


def _other(config: SourceConfig) -> Synth | None:
    """What there is besides bands, or instead of them."""
    if config.harmonic:
        return harmonic(config.sample_rate, config.hop, config.harmonics)
    if config.kind == "filtered_noise":
        return filtered_noise(config.sample_rate, config.hop, config.bins)
    return None
