"""A texture model: its configuration, its network and its synth.

    curves -> network -> outputs -> synth.to_controls -> controls -> synth.render

What the synth is, the configuration says: noise bands, filtered noise behind the same
network (what it is compared with), harmonics, or harmonics and noise bands.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from ddspx.filterbank import NoiseBank
from ddspx.losses import LOG_MAGNITUDE, SPECTRAL_CONVERGENCE, StftRecipe
from ddspx.models.noisebandnet import Network, NetworkConfig, make_network
from ddspx.synths.base import Synth
from ddspx.tasks.sound_curves import ControlsConfig, normalize
from ddspx.tasks.sounds import CropsConfig
from ddspx.tasks.texture_synths import (
    SourceConfig,
    make_bank,
    make_source,
    render_sounds,
)
from ddspx.training.configuration import FitConfig
from ddspx.training.optimizer import OptimizerConfig


@dataclass(frozen=True)
class SpectralLossConfig:
    """The multi-resolution STFT loss.

    Attributes:
      fft_sizes: samples at 44.1 kHz, scaled to the powers of two that are nearest at
        other rates; hops are a quarter.
      convergence: weight of the spectral convergence.
      log_magnitude: weight of the logarithmic term.
    """

    fft_sizes: tuple[int, ...] = (8192, 4096, 2048, 1024, 512, 128, 32)
    convergence: float = 1.0
    log_magnitude: float = 1.0

    def recipe(self, sample_rate: int) -> StftRecipe:
        """What is compared at a sample rate."""
        octaves = np.log2(np.array(self.fft_sizes) * (sample_rate / 44100))
        sizes = {2 ** max(4, round(float(o))) for o in octaves}
        sizes = tuple(sorted(sizes, reverse=True))
        return StftRecipe(
            fft_sizes=sizes,
            hop_sizes=tuple(size // 4 for size in sizes),
            window_lengths=sizes,
            weights={
                SPECTRAL_CONVERGENCE: self.convergence,
                LOG_MAGNITUDE: self.log_magnitude,
            },
        )


@dataclass(frozen=True)
class NoiseBandRunConfig:
    """A training run of a texture model.

    Attributes:
      source: the synth.
      network: what drives it.
      controls: the curves.
      crops: what it is shown.
      start: of the outputs' biases: ``"plain"``, as drawn, which for many noise bands
        is far too loud and for filtered noise nearly silent; ``"level"``, shifted
        together until the sound is as loud as the recordings; ``"spectrum"``, and then
        apart until its spectrum is theirs on average: see `ddspx.tasks.texture_start`.
      loss: what is minimised.
      optimizer: how.
      fit: how long, how often.
    """

    source: SourceConfig = field(default_factory=SourceConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    controls: ControlsConfig = field(default_factory=ControlsConfig)
    crops: CropsConfig = field(default_factory=CropsConfig)
    start: Literal["plain", "level", "spectrum"] = "plain"
    loss: SpectralLossConfig = field(default_factory=SpectralLossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self):
        if self.source.harmonic and "f0_hz" not in self.controls.names:
            raise ValueError(
                f"source {self.source.kind!r} needs the control f0_hz among"
                f" {self.controls.names}"
            )
        longest = max(self.loss.recipe(self.source.sample_rate).fft_sizes)
        if longest > self.frames * self.source.hop:
            raise ValueError(
                f"crops of {self.crops.seconds} s are shorter than the longest FFT of"
                f" the loss, {longest} samples; lengthen the crops or leave it out"
            )

    @property
    def frames(self) -> int:
        """Frames of a crop."""
        samples = round(self.crops.seconds * self.source.sample_rate)
        return max(-(-samples // self.source.hop), 1)


class Model(NamedTuple):
    """Network and synth, and how they follow each other.

    Attributes:
      network: of the configuration.
      synth: of the configuration; it holds the bank, which a compiled function should
        get as an argument.
      bank: loops of noise, or None where the synth needs none.
      drive: ``(params, stored, curves[..., frames] by name, memory=None) -> (controls
        of the synth, memory)``: what the network remembers behind the last frame.
      render: ``(params, extra, curves[batch, frames] by name, key, bank) ->
        audio[batch, time]`` at the level of training.
    """

    network: Network
    synth: Synth
    bank: NoiseBank | None
    drive: Any
    render: Any


def make_model(config: NoiseBandRunConfig) -> Model:
    """The model of a configuration.

    Args:
      config: of the run.

    Returns:
      A `Model`.
    """
    bank = make_bank(config.source)
    synth = make_source(config.source, bank)
    names = config.controls.names
    network = make_network(config.network, len(names), synth.sizes)

    def drive(params, stored, curves, memory=None):
        seen = normalize(names, stored, curves)
        outputs, memory = network.apply(params, seen, memory)
        if config.source.harmonic:
            outputs["f0_hz"] = jnp.asarray(curves["f0_hz"])
        return synth.to_controls(outputs), memory

    def render(params, extra, curves, key, bank):
        controls, _ = drive(params, extra["controls"], curves)
        return render_sounds(config.source, bank, controls, key)

    return Model(network, synth, bank, drive, render)
