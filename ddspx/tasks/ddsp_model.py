"""What a DDSP run is, and its model: three named steps from curves to sound.

    curves -> decoder -> outputs -> synth.to_controls -> controls -> render

The synth is harmonics plus filtered noise, with a trained room behind them where the
configuration asks for one. Every size follows from the sample rate (`ddspx.rates`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddspx.features import mfcc
from ddspx.losses import LINEAR_MAGNITUDE, LOG_MAGNITUDE, StftRecipe
from ddspx.models.ddsp_autoencoder import (
    LATENT,
    DecoderConfig,
    Networks,
    make_networks,
)
from ddspx.rates import Sizes, fft_size, sizes_at
from ddspx.signal import fft_convolve
from ddspx.synths.base import Synth, mix
from ddspx.synths.harmonic import harmonic
from ddspx.synths.noise import filtered_noise
from ddspx.synths.reverb import reverb
from ddspx.synths.through import through
from ddspx.tasks.sound_curves import ControlsConfig
from ddspx.tasks.sounds import CropsConfig
from ddspx.training.configuration import FitConfig
from ddspx.training.optimizer import OptimizerConfig
from ddspx.types import AnyArray, RandomKey, Signal

# The curves of every sound; the decoder is driven by those that its inputs name.
CURVES = ("loudness_db", "f0_hz", "confidence")
# Of a room's trained taps: Adam moves each by about its learning rate a step, which for
# thousands of them together must stay far below the direct sound.
_TAP = 0.02
_DECAY_S = 0.3
_MFCC_S = 0.064
# Of the amplitudes of harmonics at the start, k^-_FALL.
_FALL = 1.5


@dataclass(frozen=True)
class SynthConfig:
    """What makes the sound.

    Attributes:
      sample_rate: Hz; everything that is None below follows from it.
      frame_rate_hz: frames a second, met as nearly as a whole hop can.
      lowest_hz: fundamental whose harmonics fill the band.
      harmonics: how many.
      noise_bins: magnitudes of the filtered noise; 0 for none.
      reverb_s: length of the trained room; 0 for none.
    """

    sample_rate: int = 16000
    frame_rate_hz: float = 250.0
    lowest_hz: float = 132.0
    harmonics: int | None = None
    noise_bins: int | None = None
    reverb_s: float = 0.0

    def __post_init__(self):
        if self.reverb_s < 0 or (self.noise_bins or 2) < 2:
            raise ValueError(
                f"reverb_s {self.reverb_s} must be 0 or more, noise_bins"
                f" {self.noise_bins} 0, or 2 or more"
            )
        sizes_at(
            self.sample_rate,
            frame_rate_hz=self.frame_rate_hz,
            lowest_hz=self.lowest_hz,
        )

    @property
    def sizes(self) -> Sizes:
        """What follows from the sample rate, with what is given instead."""
        sizes = sizes_at(
            self.sample_rate,
            frame_rate_hz=self.frame_rate_hz,
            lowest_hz=self.lowest_hz,
        )
        if self.harmonics is not None:
            sizes = sizes._replace(harmonics=self.harmonics)
        if self.noise_bins is not None:
            sizes = sizes._replace(noise_bins=self.noise_bins)
        return sizes

    @property
    def taps(self) -> int:
        """Samples of the room."""
        return round(self.reverb_s * self.sample_rate)


@dataclass(frozen=True)
class PitchConfig:
    """How f0 is found.

    Attributes:
      low_hz: least f0; frames last three of its periods.
      high_hz: greatest f0.
    """

    low_hz: float = 60.0
    high_hz: float = 1600.0


@dataclass(frozen=True)
class DdspLossConfig:
    """What is minimised: a weighted sum, whose names are those of the metrics.

    Attributes:
      linear: of the multi-scale spectral loss, difference of magnitudes.
      logarithmic: of the multi-scale spectral loss, difference of log magnitudes.
      mel: of `ddspx.losses.mel_distance`, in dB.
      loudness: of the mean difference of A-weighted loudness, in dB.
      consistency: of the distance between the latents of the sound that was made and
        of the sound that was heard; for a model with latents.
    """

    linear: float = 1.0
    logarithmic: float = 1.0
    mel: float = 0.0
    loudness: float = 0.0
    consistency: float = 0.0

    def __post_init__(self):
        weights = vars(self).values()
        if min(weights) < 0 or not any((self.linear, self.logarithmic, self.mel)):
            raise ValueError(
                f"loss weights {vars(self)}: 0 or more each, and one of linear,"
                " logarithmic and mel above 0"
            )


@dataclass(frozen=True)
class DdspRunConfig:
    """A training run of a DDSP model.

    Attributes:
      task: names what this configures.
      synth: what makes the sound.
      model: what drives it.
      pitch: how f0 is found.
      crops: what it is shown; recordings keep their level (``peak_db`` is None).
      start: of the outputs' biases: ``"plain"``, zero, as published: a loud sum of
        harmonics that are all alike, from which training may flee to a noise without
        harmonics, the more surely the higher the rate; ``"level"``, harmonics that fall
        as those of instruments do, as loud as the recordings.
      loss: what is minimised.
      optimizer: how.
      fit: how long, how often.
    """

    task: Literal["ddsp"] = "ddsp"
    synth: SynthConfig = field(default_factory=SynthConfig)
    model: DecoderConfig = field(default_factory=DecoderConfig)
    pitch: PitchConfig = field(default_factory=PitchConfig)
    crops: CropsConfig = field(
        default_factory=lambda: CropsConfig(batch_size=8, seconds=2.0, peak_db=None)
    )
    start: Literal["plain", "level"] = "level"
    loss: DdspLossConfig = field(default_factory=DdspLossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self):
        if self.crops.peak_db is not None:
            raise ValueError(
                f"crops.peak_db {self.crops.peak_db}: loudness drives the model, which"
                " is trained at the level of its recordings; give null"
            )
        longest = self.synth.sizes.fft_sizes[0]
        if longest > self.frames * self.hop:
            raise ValueError(
                f"crops of {self.crops.seconds} s are shorter than the longest FFT of"
                f" the loss, {longest} samples; lengthen them"
            )
        if self.loss.consistency and not self.model.latents:
            raise ValueError(
                f"loss.consistency {self.loss.consistency} compares latents, and the"
                " model has none; give model.latents, or 0"
            )

    @property
    def hop(self) -> int:
        """Samples from frame to frame."""
        return self.synth.sizes.hop

    @property
    def frames(self) -> int:
        """Frames of a crop."""
        return max(round(self.crops.seconds * self.synth.sample_rate / self.hop), 1)

    @property
    def controls(self) -> ControlsConfig:
        """The curves that are measured of recordings."""
        window = self.synth.sizes.loudness_fft
        return ControlsConfig(
            names=CURVES,
            window_ms=1e3 * window / self.synth.sample_rate,
            low_hz=self.pitch.low_hz,
            high_hz=self.pitch.high_hz,
        )

    def recipe(self, *, magenta: bool = False) -> StftRecipe:
        """The multi-scale spectral loss, its scales summed as in magenta/ddsp.

        Args:
          magenta: with both weights 1, for numbers that compare; else those of `loss`.
        """
        sizes = self.synth.sizes.fft_sizes
        weights = (1.0, 1.0) if magenta else (self.loss.linear, self.loss.logarithmic)
        # The builder means over scales.
        linear, logarithmic = (len(sizes) * weight for weight in weights)
        return StftRecipe(
            fft_sizes=sizes,
            hop_sizes=tuple(size // 4 for size in sizes),
            window_lengths=sizes,
            weights={LINEAR_MAGNITUDE: linear, LOG_MAGNITUDE: logarithmic},
            magnitude_floor=1e-5,
            padding="end",
        )


class Rendered(NamedTuple):
    """Sounds of a batch, and what they are made of.

    Attributes:
      audio: [batch, time].
      harmonic: the harmonic part without the room [batch, time].
      noise: the noise without the room [batch, time]; zeros where there is none.
      controls: of the synth, by name [batch, frames, ...].
    """

    audio: jax.Array
    harmonic: jax.Array
    noise: jax.Array
    controls: dict[str, jax.Array]


class Model(NamedTuple):
    """Networks and synth.

    Attributes:
      networks: of the configuration.
      synth: harmonics and noise, without the room.
      init: ``(key) -> params``.
      curves: ``(params, audio[..., time], curves) -> curves`` with the latents of the
        sound where the model has them.
      controls: ``(params, curves, state=None) -> (controls, state)``.
      render: ``(params, curves[batch, frames] by name, key) -> Rendered``.
      in_room: ``(params) -> Synth``, with the room.
    """

    networks: Networks
    synth: Synth
    init: Any
    curves: Any
    controls: Any
    render: Any
    in_room: Any


def make_model(config: DdspRunConfig) -> Model:
    """The model of a configuration.

    Args:
      config: of the run.

    Returns:
      A `Model`.
    """
    sizes, rate = config.synth.sizes, config.synth.sample_rate
    parts = [harmonic(rate, sizes.hop, sizes.harmonics)]
    if sizes.noise_bins:
        parts.append(filtered_noise(rate, sizes.hop, sizes.noise_bins))
    synth = mix(*parts)
    networks = make_networks(config.model, synth.sizes)

    def init(key: RandomKey) -> Any:
        params = networks.init(key)
        if config.synth.taps:
            taps = jnp.zeros(config.synth.taps)
            params["room"] = {
                "taps": taps,
                "log_decay_s": jnp.full((), np.log(_DECAY_S), jnp.float32),
            }
        return params

    def curves(params: Any, audio: Signal, given: Mapping[str, Any]) -> dict[str, Any]:
        found = {name: jnp.asarray(given[name]) for name in config.model.inputs}
        if config.model.latents:
            found[LATENT] = _latents(config, networks, params, audio)
        return found

    def controls(params: Any, curves: Mapping[str, Any], state: Any = None) -> Any:
        outputs, state = networks.decode(params, curves, state)
        outputs["f0_hz"] = jnp.asarray(curves["f0_hz"])
        return synth.to_controls(outputs), state

    def render(params: Any, curves: Mapping[str, Any], key: RandomKey) -> Rendered:
        driven, _ = controls(params, curves)
        rows = len(driven["f0_hz"])
        # As `mix` gives keys to its parts: the sounds are those of the mixed synth.
        keys = jax.vmap(lambda k: jax.random.split(k, len(parts)))(
            jax.random.split(key, rows)
        )
        sounds = [
            jax.vmap(part.render)(
                {n: c for n, c in driven.items() if n in _names(part)}, keys[:, i]
            )
            for i, part in enumerate(parts)
        ]
        dry = jnp.asarray(sum(sounds))
        noise = sounds[1] if len(sounds) > 1 else jnp.zeros_like(dry)
        audio = dry
        if config.synth.taps:
            response = room_response(config, params).at[0].set(0.0)
            audio = dry + jnp.asarray(fft_convolve(dry, response, "causal"))
        return Rendered(audio, sounds[0], noise, driven)

    def in_room(params: Any) -> Synth:
        if not config.synth.taps:
            return synth
        return through(synth, reverb(room_response(config, params)))

    return Model(networks, synth, init, curves, controls, render, in_room)


def at_level(model: Model, params: Any, level_db: float) -> Any:
    """Biases of the last layer for harmonics as loud as recordings, falling with k.

        d_k ~ k^-1.5,   amplitude = sqrt(2) RMS / |d|_2

    Args:
      model: of the run.
      params: of the model, as drawn.
      level_db: RMS of the recordings, dB re full scale.

    Returns:
      ``params`` with another bias.
    """
    count = model.synth.sizes["harmonic_distribution"]
    fall = np.arange(1, count + 1) ** -_FALL
    share = fall / fall.sum()
    amplitude = np.sqrt(2.0) * 10.0 ** (level_db / 20.0) / np.linalg.norm(share)
    starts = {
        "amplitude": exp_sigmoid_inverse(np.array([amplitude])),
        # A sigmoid's middle for the first, where it learns best.
        "harmonic_distribution": exp_sigmoid_inverse(0.4 * fall),
    }
    bias = np.concatenate(
        [starts.get(name, np.zeros(size)) for name, size in model.synth.sizes.items()]
    )
    decoder = params["decoder"]
    output = {**decoder["output"], "bias": jnp.asarray(bias, jnp.float32)}
    return {**params, "decoder": {**decoder, "output": output}}


def exp_sigmoid_inverse(amplitude: AnyArray) -> np.ndarray:
    """The output of which `ddspx.synths.scaling.exp_sigmoid` makes an amplitude.

    Args:
      amplitude: linear, taken to lie between 2e-6 and 1.99.

    Returns:
      float64, same shape.
    """
    share = np.clip(np.asarray(amplitude, np.float64), 2e-6, 1.99) / 2.0
    sigmoid = share ** (1.0 / np.log(10.0))
    return np.log(sigmoid) - np.log1p(-sigmoid)


def room_response(config: DdspRunConfig, params: Any) -> jax.Array:
    """The impulse response of the trained room.

        h[t] = c_t 10^(-3 t / (sample_rate decay)),   c_t and decay trained

    Args:
      config: of the run.
      params: of the model.

    Returns:
      [taps]; its first, the direct sound, does not count.
    """
    room = params["room"]
    seconds = np.arange(config.synth.taps, dtype=np.float32) / config.synth.sample_rate
    fall = 3.0 * np.log(10.0).astype(np.float32) * jnp.exp(-room["log_decay_s"])
    return _TAP * room["taps"] * jnp.exp(-fall * seconds)


def _names(part: Synth) -> set[str]:
    """Controls of a part of the synth."""
    extra = {"f0_hz"} if "harmonic_distribution" in part.sizes else set()
    return {*part.sizes, *extra}


def _latents(
    config: DdspRunConfig, networks: Networks, params: Any, audio: Signal
) -> jax.Array:
    """Latents of each frame: the encoder works at half the frame rate, as in DDSP."""
    rate, hop = config.synth.sample_rate, config.hop
    heard = mfcc(
        audio,
        rate,
        coefficients=config.model.coefficients,
        fft_size=fft_size(_MFCC_S, rate),
        hop_length=2 * hop,
    )
    found = networks.encode(params, jnp.moveaxis(heard, -2, -1))
    frames = -(-jnp.shape(audio)[-1] // hop)
    return jnp.repeat(found, 2, -2)[..., :frames, :]
