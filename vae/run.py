"""What a training run of a VAE is, and a trained one read back from its folder.

`VaeRunConfig` is the whole of it: front-end, model, objective, data, optimizer, length.
`load_vae` makes the model again from a run folder and nothing else. `encode_audio` and
`decode_audio` go from sound to codes and back, with everything done to the sound on the
way in (its level, the normalisation of its image) undone on the way out; `embed_audio`
is one code for a sound of any length. All use posterior means and draw nothing.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from ddspx.data.augment import AugmentationRanges
from ddspx.data.dataset import CropConfig
from ddspx.training.checkpoint import CheckpointError, read_run, restore_params
from ddspx.training.configuration import FitConfig, from_dict
from ddspx.training.optimizer import OptimizerConfig
from ddspx.types import AnyArray, RandomKey, Signal
from vae.images import ImageAugmentation
from vae.linear import Loss, water_level
from vae.models import ModelConfig, Vae, make_vae
from vae.schedules import Schedule, constant, cosine, cyclic, linear
from vae.spectrogram import (
    Normalization,
    SpectrogramConfig,
    analyze,
    spectrum,
    synthesize,
)


@dataclass(frozen=True)
class ScheduleConfig:
    """How beta, or the capacity, goes from a fraction of its value to the whole.

    Attributes:
      kind: ``constant`` is the whole value from the start.
      first: fraction at the start; above 1 it falls.
      steps: until the value is reached for good.
      cycles: of ``cyclic``.
      ramp: share of each cycle that rises.
    """

    kind: Literal["constant", "linear", "cosine", "cyclic"] = "constant"
    first: float = 0.0
    steps: int = 1000
    cycles: int = 4
    ramp: float = 0.5

    def __post_init__(self):
        self.build()
        if self.first < 0:
            raise ValueError(f"first {self.first} must be 0 or more")

    def build(self) -> Schedule:
        """The fraction as a function of the step."""
        if self.kind == "linear":
            return linear(self.first, 1.0, self.steps)
        if self.kind == "cosine":
            return cosine(self.first, 1.0, self.steps)
        if self.kind == "cyclic":
            return cyclic(self.first, 1.0, self.steps, self.cycles, self.ramp)
        return constant(1.0)


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is minimised: ``distortion + beta rate``, see `vae.objectives`.

    With a fixed decoder variance, give either `tau`, the water level in squared units
    of the features summed over an image, or `beta` with `reduction` and `weight`:

        weight * reduced squared error + beta KL

    Attributes:
      kind: ``beta``; ``capacity``, beta |KL - C|; ``tcvae``, whose total correlation
        weighs `tc_weight`; ``free_bits``; ``geco``, which moves tau until the mean
        squared error is `target_mse`.
      beta: factor of the rate, in the unit of the loss; None where `tau` is given.
      tau: water level; None where `beta` is given.
      reduction: of the squares over an image: half their sum, their sum, their mean.
      weight: of the reconstruction.
      variance: of the decoder: ``fixed``, ``optimal`` (the mean square of the batch) or
        ``learned`` (one number beside the weights). With the last two `beta` multiplies
        nats, the water level is beta times that variance, and pruning is by beta alone.
      schedule: of beta; of C for ``capacity``.
      capacity: C in nats.
      free_bits: nats a latent is given for nothing.
      tc_weight: of ``tcvae``.
      dataset_size: training examples, for ``tcvae``.
      target_mse: of ``geco``, per element.
      geco_rate: step of its multiplier.
    """

    kind: Literal["beta", "capacity", "tcvae", "free_bits", "geco"] = "beta"
    beta: float | None = None
    tau: float | None = None
    reduction: Loss = "mean"
    weight: float = 1.0
    variance: Literal["fixed", "optimal", "learned"] = "fixed"
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    capacity: float = 25.0
    free_bits: float = 0.05
    tc_weight: float = 6.0
    dataset_size: int = 0
    target_mse: float = 0.05
    geco_rate: float = 0.01

    def __post_init__(self):
        if self.beta is not None and self.tau is not None:
            raise ValueError(
                f"beta {self.beta} and tau {self.tau} are both given; give the one"
            )
        for name in ("beta", "tau", "weight", "target_mse", "geco_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} {value} must be positive")
        if self.variance != "fixed" and (self.tau is not None or self.kind == "geco"):
            raise ValueError(
                f"variance {self.variance!r} moves the water level by itself: give"
                " beta, and an objective other than geco"
            )
        if self.kind == "tcvae" and self.dataset_size < 2:
            raise ValueError(
                f"dataset_size {self.dataset_size}: tcvae needs the number of training"
                " examples"
            )
        if self.capacity < 0 or self.free_bits < 0 or self.tc_weight < 0:
            raise ValueError("capacity, free_bits and tc_weight must be 0 or more")

    @property
    def kl_weight(self) -> float:
        """beta, which is 1 when neither it nor tau is given."""
        return 1.0 if self.beta is None else self.beta

    def resolved_tau(self, elements: int) -> float | None:
        """The water level at the end of the schedule.

        Args:
          elements: D, numbers in an image.

        Returns:
          tau in squared units of the features, summed over an image; None where it
          follows the decoder's variance. For ``geco`` it is where tau starts.
        """
        if self.variance != "fixed":
            return None
        if self.tau is not None:
            return self.tau
        return water_level(self.kl_weight, elements, self.reduction, self.weight)


@dataclass(frozen=True)
class DataConfig:
    """What the model is shown; the length of an example is ``front.samples``.

    Attributes:
      batch_size: examples a step.
      peak_db: every example is scaled to this peak re full scale before the front-end,
        and back after it; None leaves levels alone, so that level is learned.
      pad_short: pads recordings shorter than an example by zeros at their end; False
        leaves them out.
      silence_db: examples whose RMS is below it are left out; None keeps all.
      weighting: "file" or "duration", see `ddspx.data.dataset.CropConfig`.
      fade_ms: sounds fade in and out so long before the front-end, against the clicks
        of a cut; 0 for none. That is not undone.
      audio: augmentation of the training audio; by default none.
      images: augmentation of the training images.
      start_crops: training examples that a linear path's start is computed from beside
        the windows of the recordings: for few recordings that are long.
      seed: of crops and augmentation.
    """

    batch_size: int = 32
    peak_db: float | None = None
    pad_short: bool = True
    silence_db: float | None = -50.0
    weighting: Literal["file", "duration"] = "file"
    fade_ms: float = 0.0
    audio: AugmentationRanges = field(default_factory=AugmentationRanges)
    images: ImageAugmentation = field(default_factory=ImageAugmentation)
    start_crops: int = 0
    seed: int = 0

    def __post_init__(self):
        if self.batch_size < 1 or self.fade_ms < 0 or self.start_crops < 0:
            raise ValueError(
                f"batch_size {self.batch_size} must be 1 or more, fade_ms"
                f" {self.fade_ms} and start_crops {self.start_crops} 0 or more"
            )


@dataclass(frozen=True)
class VaeRunConfig:
    """A training run of a VAE.

    Attributes:
      front: front-end.
      model: encoder and decoder.
      objective: what is minimised.
      data: what it is shown.
      optimizer: how it is minimised.
      fit: how long, how often.
    """

    front: SpectrogramConfig = field(default_factory=SpectrogramConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    @property
    def shape(self) -> tuple[int, int]:
        """Frames and bins of an image."""
        return self.front.frames, self.front.bins

    @property
    def tau(self) -> float | None:
        """The water level, see `ObjectiveConfig.resolved_tau`."""
        return self.objective.resolved_tau(self.front.elements)

    def crops(self, *, augmented: bool = False) -> CropConfig:
        """How examples are cut from recordings."""
        audio = self.data.audio
        changes = augmented and audio != AugmentationRanges()
        return CropConfig(
            sample_rate=self.front.sample_rate,
            seconds=self.front.samples / self.front.sample_rate,
            silence_db=self.data.silence_db,
            pad_short=self.data.pad_short,
            weighting=self.data.weighting,
            augmentation=audio if changes else None,
            seed=self.data.seed,
        )


class LoadedVae(NamedTuple):
    """A trained model, its functions compiled.

    Attributes:
      vae: the model.
      params: its weights.
      model_state: stored statistics, ``{}`` without BatchNorm.
      config: of the run that made it.
    """

    vae: Vae
    params: Any
    model_state: Any
    config: VaeRunConfig


def load_vae(run_folder: str | Path, which: str = "best") -> LoadedVae:
    """A trained model from its run folder.

    Args:
      run_folder: of a run whose configuration is a `VaeRunConfig`.
      which: ``"best"`` or ``"last"`` checkpoint.

    Returns:
      A `LoadedVae`; ``vae.encode(params, model_state, images)`` and so on.

    Raises:
      CheckpointError: no such run, or nothing saved yet.
      ConfigurationError: a run of another kind.
    """
    if which not in ("best", "last"):
        raise CheckpointError(f"checkpoint {which!r} unknown; there are best and last")
    config = from_dict(VaeRunConfig, read_run(run_folder)["config"])
    vae = make_vae(config.model, config.shape)
    # An empty dictionary is not in a checkpoint: a state without arrays has no part.
    wanted = jax.eval_shape(vae.init, jax.random.key(0))
    state = {}
    if jax.tree.leaves(wanted[1]):
        state = restore_params(run_folder, ("extra", "model_state"), which=which)
    return LoadedVae(
        compiled(vae), restore_params(run_folder, which=which), state, config
    )


def compiled(vae: Vae) -> Vae:
    """The same model, each of its functions compiled."""
    return vae._replace(
        init=jax.jit(vae.init),
        forward=jax.jit(vae.forward),
        encode=jax.jit(vae.encode),
        decode=jax.jit(vae.decode),
    )


def level_audio(data: DataConfig, audio: Signal) -> tuple[jax.Array, jax.Array]:
    """Scales examples to ``data.peak_db``.

    Args:
      data: configuration.
      audio: [..., time].

    Returns:
      Audio, and the factor [...] that it was multiplied with; 1 for silence.
    """
    audio = jnp.asarray(audio)
    if data.peak_db is None:
        return audio, jnp.ones(audio.shape[:-1], audio.dtype)
    peak = jnp.max(jnp.abs(audio), -1)
    some = peak > 0
    gain = jnp.where(some, 10.0 ** (data.peak_db / 20.0) / jnp.where(some, peak, 1), 1)
    return audio * gain[..., None], gain.astype(audio.dtype)


class Image(NamedTuple):
    """A sound as the model sees it, and what is needed to go back.

    Attributes:
      image: features [..., frames, bins].
      normalization: of their levels, see `vae.spectrogram`.
      gain: what the audio was multiplied with, [...].
      spectrum: of the scaled audio, complex [..., fft_size // 2 + 1, frames].
    """

    image: jax.Array
    normalization: Normalization
    gain: jax.Array
    spectrum: Complex[AnyArray, "*batch linear_bins frames"]


def to_image(config: VaeRunConfig, audio: Signal) -> Image:
    """The model's view of a sound.

    Args:
      config: of the run.
      audio: [..., time], at most ``config.front.samples``.

    Returns:
      An `Image`.
    """
    scaled, gain = level_audio(config.data, _faded(config, audio))
    spectra = spectrum(config.front, scaled)
    image, normalization = analyze(config.front, spectra)
    return Image(jnp.asarray(image), normalization, gain, spectra)


def _faded(config: VaeRunConfig, audio: Signal) -> Signal:
    """Linear fades at both ends."""
    length = round(1e-3 * config.data.fade_ms * config.front.sample_rate)
    time = jnp.asarray(audio).shape[-1]
    if not length or 2 * length > time:
        return audio
    ramp = (np.arange(length, dtype=np.float32) + 0.5) / length
    shape = np.concatenate([ramp, np.ones(time - 2 * length, np.float32), ramp[::-1]])
    return jnp.asarray(audio) * jnp.broadcast_to(shape, jnp.shape(audio))


class Encoded(NamedTuple):
    """Posterior of a sound, and its `Image`."""

    mean: Float[AnyArray, "*batch latents"]
    log_variance: Float[AnyArray, "*batch latents"]
    source: Image


def encode_audio(loaded: LoadedVae, audio: Signal) -> Encoded:
    """Codes of sounds, deterministic.

    Args:
      loaded: from `load_vae`.
      audio: [..., time] at the run's sample rate, at most ``front.samples``.

    Returns:
      `Encoded`; its mean is the code.
    """
    source = to_image(loaded.config, audio)
    mean, log_variance = loaded.vae.encode(
        loaded.params, loaded.model_state, source.image
    )
    return Encoded(mean, log_variance, source)


# Windows that are encoded at once: an hour of sound must not need an hour's memory.
_WINDOWS_AT_ONCE = 64


def windows(config: VaeRunConfig, audio: Signal) -> Float[AnyArray, "*batch n window"]:
    """Cuts sound of any length into the windows that `embed_audio` averages over.

    Windows of W = ``front.samples`` follow each other without overlap; where the last
    would not be full there is one more that ends with the sound, so that nothing is
    dropped. Sound shorter than W is padded by zeros at its end where the model was
    trained on such (``data.pad_short``), and repeated from its start otherwise.

    Args:
      config: of the run.
      audio: [..., time], not empty.

    Returns:
      [..., windows, front.samples], ceil(time / W) windows.

    Raises:
      ValueError: the sound is empty.
    """
    audio = jnp.asarray(audio)
    length, time = config.front.samples, audio.shape[-1]
    if not time:
        raise ValueError("the sound is empty; give at least one sample")
    if time < length:
        if config.data.pad_short:
            whole = jnp.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(0, length - time)])
        else:
            whole = jnp.tile(audio, -(-length // time))[..., :length]
        return whole[..., None, :]
    starts = [*range(0, time - length + 1, length)]
    if time % length:
        starts.append(time - length)
    return jnp.stack([audio[..., at : at + length] for at in starts], -2)


def embed_audio(loaded: LoadedVae, audio: Signal) -> Float[AnyArray, "*batch latents"]:
    """One code for a sound of any length, deterministic.

        e(x) = 1/n sum_j mu(x_j),    x_1 ... x_n the `windows` of x

    With normalisation by group or none in the model it does not depend on what else is
    in the batch. It has no unit of time either: a sound of whole windows that is
    repeated has the code of the sound once, and where a recording goes on in the same
    manner the code stays where it is while its spread falls.

    Args:
      loaded: from `load_vae`.
      audio: [..., time] at the run's sample rate, any length; of one window it is the
        mean of `encode_audio`, and `windows` says what becomes of shorter sound.

    Returns:
      [..., latents].

    Raises:
      ValueError: the sound is empty.
    """
    cut = windows(loaded.config, audio)
    flat = cut.reshape(-1, cut.shape[-1])
    means = [
        encode_audio(loaded, flat[first : first + _WINDOWS_AT_ONCE]).mean
        for first in range(0, len(flat), _WINDOWS_AT_ONCE)
    ]
    codes = jnp.concatenate([jnp.asarray(mean) for mean in means])
    return jnp.mean(codes.reshape(*cut.shape[:-1], -1), -2)


def decode_audio(
    loaded: LoadedVae,
    codes: Float[AnyArray, "*batch latents"],
    source: Image | None = None,
    *,
    keep_phase: bool = False,
    key: RandomKey | None = None,
    iterations: int = 64,
) -> Float[AnyArray, "*batch time"]:
    """Sounds of codes, deterministic.

    Args:
      loaded: from `load_vae`.
      codes: [..., latents].
      source: of the encoded sound, whose level and normalisation are given back; the
        configuration's offset and spread and the trained level when None.
      keep_phase: takes the phase of `source`; False finds one by `griffin_lim`.
      key: of that search; a fixed one when None.
      iterations: of that search.

    Returns:
      [..., front.samples].

    Raises:
      ValueError: `keep_phase` without a source.
    """
    if keep_phase and source is None:
        raise ValueError("keep_phase takes the phase of a source; give the source")
    image = loaded.vae.decode(loaded.params, loaded.model_state, codes)
    audio = synthesize(
        loaded.config.front,
        image,
        source.spectrum if keep_phase and source is not None else None,
        normalization=None if source is None else source.normalization,
        key=key,
        iterations=iterations,
    )
    audio = jnp.asarray(audio)
    return audio if source is None else audio / source.gain[..., None]
