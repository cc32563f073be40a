"""Distances between two sounds, one value an example; zero or less is better.

Every loss takes ``prediction`` and ``target`` [..., time] and reduces over time alone:
leading dimensions stay, the caller averages once. The target's leading dimensions may
be fewer or 1, and its spectra are then computed once for all predictions. Values and
gradients are finite on silence, in either argument.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from ddspx.features import mel_filterbank
from ddspx.filters import a_weighting_fir
from ddspx.signal import fft_convolve, map_examples, power, stft_frames
from ddspx.types import AnyArray, PerExample, Rate, Signal

Target = Float[AnyArray, "*target_batch target_time"]  # equal; checked with words
Terms = dict[str, jax.Array]

SPECTRAL_CONVERGENCE = "stft/spectral_convergence"
LOG_MAGNITUDE = "stft/log_magnitude"
LINEAR_MAGNITUDE = "stft/linear_magnitude"
AURALOSS_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {SPECTRAL_CONVERGENCE: 1.0, LOG_MAGNITUDE: 1.0}
)
_PRECISE = lax.Precision.HIGHEST


@dataclass(frozen=True)
class StftRecipe:
    """What is compared in a spectral distance; see `spectral_distance`.

    Attributes:
      fft_sizes: samples, one a resolution.
      hop_sizes: samples, one a resolution.
      window_lengths: samples, one a resolution; Hann.
      weights: of the terms, by their names; those of weight 0 are not computed.
      magnitude_floor: magnitudes below it count as it.
      padding: ``"center"`` frames centred, ends reflected; ``"end"`` frames begin at
        multiples of the hop, zeros after the end.
      mel_bands: bands at each resolution, or None for bins.
      perceptual: ``"a_weighting"`` filters both waveforms first.
      sample_rate: Hz; needed by mel bands and A-weighting.
    """

    fft_sizes: tuple[int, ...] = (1024, 2048, 512)
    hop_sizes: tuple[int, ...] = (120, 240, 50)
    window_lengths: tuple[int, ...] = (600, 1200, 240)
    weights: Mapping[str, float] = field(
        default_factory=lambda: AURALOSS_WEIGHTS, hash=False
    )
    magnitude_floor: float = 1e-4
    padding: Literal["center", "end"] = "center"
    mel_bands: tuple[int, ...] | None = None
    perceptual: Literal["a_weighting"] | None = None
    sample_rate: Rate | None = None

    def __post_init__(self):
        sizes = {len(self.fft_sizes), len(self.hop_sizes), len(self.window_lengths)}
        if self.mel_bands is not None:
            sizes.add(len(self.mel_bands))
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                f"fft_sizes {self.fft_sizes}, hop_sizes {self.hop_sizes},"
                f" window_lengths {self.window_lengths}, mel_bands {self.mel_bands}:"
                " give the same number of each, at least one"
            )
        # A copy of its own: recipes are keys of the compilation cache.
        object.__setattr__(self, "weights", dict(self.weights))
        known = {SPECTRAL_CONVERGENCE, LOG_MAGNITUDE, LINEAR_MAGNITUDE}
        if not set(self.weights) <= known or not any(self.weights.values()):
            raise ValueError(
                f"weights {dict(self.weights)}: name at least one non-zero of"
                f" {sorted(known)}"
            )
        if self.padding not in ("center", "end"):
            raise ValueError(f"padding {self.padding!r}: use 'center' or 'end'")
        if self.perceptual not in (None, "a_weighting"):
            raise ValueError(f"perceptual {self.perceptual!r}: use 'a_weighting'")
        if self.sample_rate is None and (self.mel_bands or self.perceptual):
            raise ValueError("mel bands and A-weighting need sample_rate in Hz")


def spectral_distance(
    prediction: Signal, target: Target, recipe: StftRecipe
) -> tuple[PerExample, Terms]:
    """The one builder of STFT losses: weighted terms, each a mean over resolutions.

    With P, T the magnitudes of prediction and target, at least `magnitude_floor`, in
    bins or mel bands:

        stft/spectral_convergence = |P - T|_2 / |T|_2   (over frames and bins)
        stft/log_magnitude        = mean |ln P - ln T|
        stft/linear_magnitude     = mean |P - T|

    Args:
      prediction: [..., time].
      target: [..., time], leading dimensions equal, fewer or 1.
      recipe: resolutions, weights, weightings.

    Returns:
      Total [...] and the terms by name [...], before their weights:
      total = sum of weights[name] * terms[name].

    Raises:
      ValueError: the lengths differ.
    """
    prediction, target = _aligned(prediction, target)
    terms = _spectral_terms(prediction, target, recipe)
    total = sum(recipe.weights[name] * term for name, term in terms.items())
    return jnp.asarray(total), terms


def multi_resolution_stft(
    prediction: Signal,
    target: Target,
    *,
    fft_sizes: tuple[int, ...] = (1024, 2048, 512),
    hop_sizes: tuple[int, ...] = (120, 240, 50),
    window_lengths: tuple[int, ...] = (600, 1200, 240),
    weights: Mapping[str, float] = AURALOSS_WEIGHTS,
    sample_rate: Rate | None = None,
    mel_bands: int | None = None,
    perceptual: Literal["a_weighting"] | None = None,
) -> tuple[PerExample, Terms]:
    """Multi-resolution STFT loss with auraloss's numbers; see `spectral_distance`.

    Equal to auraloss for one example. auraloss divides the norms of a whole batch in
    its spectral convergence, so that loud examples hide quiet ones; here each example
    has its own quotient.

    Args:
      prediction: [..., time].
      target: [..., time], leading dimensions equal, fewer or 1.
      fft_sizes: samples, one a resolution.
      hop_sizes: samples, one a resolution.
      window_lengths: samples, one a resolution.
      weights: by the names of the terms.
      sample_rate: Hz, for mel bands and A-weighting.
      mel_bands: bands at every resolution; bins if None.
      perceptual: ``"a_weighting"`` or None.

    Returns:
      Total [...] and terms by name [...], before their weights.

    Raises:
      ValueError: the lengths differ, or the recipe is inconsistent.

    Reference: R. Yamamoto et al., Parallel WaveGAN (ICASSP 2020); auraloss (2020).
    """
    recipe = StftRecipe(
        fft_sizes=fft_sizes,
        hop_sizes=hop_sizes,
        window_lengths=window_lengths,
        weights=weights,
        mel_bands=None if mel_bands is None else (mel_bands,) * len(fft_sizes),
        perceptual=perceptual,
        sample_rate=sample_rate,
    )
    return spectral_distance(prediction, target, recipe)


def mel_distance(
    prediction: Signal,
    target: Target,
    *,
    sample_rate: Rate,
    fft_sizes: tuple[int, ...] = (2048, 512),
    mel_bands: tuple[int, ...] = (80, 20),
    magnitude_floor: float = 1e-5,
) -> PerExample:
    """Mean absolute difference of mel magnitude spectrograms, in dB.

        mean over resolutions, bands, frames of |20 log10(P / T)|

    Args:
      prediction: [..., time].
      target: [..., time].
      sample_rate: Hz.
      fft_sizes: samples; Hann windows of that length, hops a quarter of it.
      mel_bands: bands at each resolution.
      magnitude_floor: of the bins before they are summed to bands.

    Returns:
      dB [...].
    """
    recipe = StftRecipe(
        fft_sizes=fft_sizes,
        hop_sizes=tuple(size // 4 for size in fft_sizes),
        window_lengths=fft_sizes,
        weights={LOG_MAGNITUDE: 20.0 / np.log(10.0)},
        magnitude_floor=magnitude_floor,
        mel_bands=mel_bands,
        sample_rate=sample_rate,
    )
    return spectral_distance(prediction, target, recipe)[0]


@jax.jit
def l1(prediction: Signal, target: Target) -> PerExample:
    """``mean |p - t|`` over time.

    Args:
      prediction: [..., time].
      target: [..., time].

    Returns:
      [...].
    """
    prediction, target = _aligned(prediction, target)
    return jnp.abs(prediction - target).mean(-1)


@jax.jit
def l2(prediction: Signal, target: Target) -> PerExample:
    """``mean (p - t)^2`` over time.

    Args:
      prediction: [..., time].
      target: [..., time].

    Returns:
      [...].
    """
    prediction, target = _aligned(prediction, target)
    return _dot(prediction - target) / prediction.shape[-1]


@jax.jit
def log_cosh(prediction: Signal, target: Target, sharpness: float = 1.0) -> PerExample:
    """Quadratic near zero, linear far from it.

        mean ln cosh(a (p - t)) / a

    Written as ``|x| + ln(1 + exp(-2 |x|)) - ln 2``, which does not overflow; auraloss
    adds 1e-8 under the logarithm.

    Args:
      prediction: [..., time].
      target: [..., time].
      sharpness: a, per unit of amplitude.

    Returns:
      [...].
    """
    prediction, target = _aligned(prediction, target)
    x = sharpness * (prediction - target)
    return (jnp.logaddexp(x, -x) - np.log(2.0)).mean(-1) / sharpness


@jax.jit
def esr(prediction: Signal, target: Target, epsilon: float = 1e-8) -> PerExample:
    """Error-to-signal ratio: ``sum (t - p)^2 / (sum t^2 + epsilon)``.

    Args:
      prediction: [..., time].
      target: [..., time].
      epsilon: energy added below.

    Returns:
      [...].
    """
    prediction, target = _aligned(prediction, target)
    return _dot(target - prediction) / (_dot(target) + epsilon)


@jax.jit
def dc(prediction: Signal, target: Target, epsilon: float = 1e-8) -> PerExample:
    """Offset error over power: ``(mean (t - p))^2 / (mean t^2 + epsilon)``.

    Args:
      prediction: [..., time].
      target: [..., time].
      epsilon: power added below.

    Returns:
      [...].
    """
    prediction, target = _aligned(prediction, target)
    mean_square = _dot(target) / target.shape[-1]
    return jnp.square((target - prediction).mean(-1)) / (mean_square + epsilon)


@jax.jit
def snr(prediction: Signal, target: Target, epsilon: float = 1e-8) -> PerExample:
    """Minus the signal-to-noise ratio in dB, means removed.

        -10 log10(|t|^2 / (|p - t|^2 + e) + e)

    Args:
      prediction: [..., time].
      target: [..., time].
      epsilon: energy, and ratio, added.

    Returns:
      dB [...], negative when good.
    """
    prediction, target = _centred(prediction, target)
    return _minus_ratio_db(_dot(target), _dot(prediction - target), epsilon)


@jax.jit
def si_sdr(prediction: Signal, target: Target, epsilon: float = 1e-8) -> PerExample:
    """Minus the scale-invariant signal-to-distortion ratio in dB, means removed.

        -10 log10(|a t|^2 / (|p - a t|^2 + e) + e),  a = <p, t> / (|t|^2 + e)

    Args:
      prediction: [..., time].
      target: [..., time].
      epsilon: energy, and ratio, added.

    Returns:
      dB [...], negative when good.

    Reference: J. Le Roux et al., SDR - half-baked or well done? (ICASSP 2019).
    """
    prediction, target = _centred(prediction, target)
    scaled = _projection(prediction, target, epsilon)
    return _minus_ratio_db(_dot(scaled), _dot(prediction - scaled), epsilon)


@jax.jit
def sd_sdr(prediction: Signal, target: Target, epsilon: float = 1e-8) -> PerExample:
    """Minus the scale-dependent ratio: `si_sdr` with the error ``p - t``.

    Args:
      prediction: [..., time].
      target: [..., time].
      epsilon: energy, and ratio, added.

    Returns:
      dB [...], negative when good.
    """
    prediction, target = _centred(prediction, target)
    scaled = _projection(prediction, target, epsilon)
    return _minus_ratio_db(_dot(scaled), _dot(prediction - target), epsilon)


@partial(jax.jit, static_argnames="recipe")
def _spectral_terms(prediction: jax.Array, target: jax.Array, recipe: StftRecipe):
    """Terms by name [...], each example apart; compiled for eager callers too."""
    lead, time = prediction.shape[:-1], prediction.shape[-1]
    predictions = prediction.reshape(-1, time)

    def mean_terms(audio, references):
        spectra = _spectra(audio, recipe)
        scales = [
            _terms(*pair, recipe) for pair in zip(spectra, references, strict=True)
        ]
        return {
            name: jnp.asarray(sum(scale[name] for scale in scales) / len(scales))
            for name in scales[0]
        }

    if target.size == time:
        references = _spectra(target.reshape(time), recipe)
        terms = map_examples(lambda p: mean_terms(p, references), predictions)
    else:
        targets = jnp.broadcast_to(target, prediction.shape).reshape(-1, time)
        terms = map_examples(
            lambda p, t: mean_terms(p, _spectra(t, recipe)), predictions, targets
        )
    return {name: term.reshape(lead) for name, term in terms.items()}


def _spectra(audio: jax.Array, recipe: StftRecipe) -> list[jax.Array]:
    """At each resolution [frames, bins] powers, or [frames, bands] mel magnitudes."""
    if recipe.perceptual == "a_weighting":
        assert recipe.sample_rate is not None
        fir = jnp.asarray(a_weighting_fir(recipe.sample_rate), audio.dtype)
        audio = jnp.asarray(fft_convolve(audio, fir, "same"))
    return [_spectrum(audio, recipe, index) for index in range(len(recipe.fft_sizes))]


def _spectrum(audio: jax.Array, recipe: StftRecipe, index: int) -> jax.Array:
    fft_size, hop = recipe.fft_sizes[index], recipe.hop_sizes[index]
    center = recipe.padding == "center"
    if not center:
        time = audio.shape[-1]
        after = max(0, (-(-time // hop) - 1) * hop + fft_size - time)
        audio = jnp.pad(audio, (0, after))
    spectra = power(
        stft_frames(
            audio,
            fft_size=fft_size,
            hop_length=hop,
            window_length=recipe.window_lengths[index],
            center=center,
        )
    )
    spectra = jnp.maximum(spectra, recipe.magnitude_floor**2)
    if recipe.mel_bands is None:
        return spectra
    assert recipe.sample_rate is not None
    bank = mel_filterbank(recipe.sample_rate, fft_size, recipe.mel_bands[index])
    bank = jnp.asarray(bank, spectra.dtype)
    bands = jnp.matmul(jnp.sqrt(spectra), bank, precision=_PRECISE)
    # A band so narrow that it holds no bin is 0 for both, and counts nothing.
    return jnp.maximum(bands, 1e-12)


def _terms(p: jax.Array, t: jax.Array, recipe: StftRecipe) -> Terms:
    """Terms at one resolution; powers where there are no mel bands.

    Powers spare the logarithm a root: ln P - ln T is half the logarithm of a quotient.
    """
    of_powers = recipe.mel_bands is None
    terms: Terms = {}
    wanted = [name for name, weight in recipe.weights.items() if weight]
    if wanted != [LOG_MAGNITUDE]:
        difference = jnp.sqrt(p) - jnp.sqrt(t) if of_powers else p - t
    for name in wanted:
        if name == LOG_MAGNITUDE:
            scale = 0.5 if of_powers else 1.0
            terms[name] = scale * _mean(jnp.abs(jnp.log(p / t)))
        elif name == LINEAR_MAGNITUDE:
            terms[name] = _mean(jnp.abs(difference))
        else:
            # The floor keeps the root's gradient finite where both are equal.
            error = jnp.maximum(_mean(jnp.square(difference)), 1e-30)
            terms[name] = jnp.sqrt(error / _mean(t if of_powers else jnp.square(t)))
    return terms


def _mean(values: jax.Array) -> jax.Array:
    """Mean over the last two axes.

    By a product with a constant: XLA for CPU fuses a reduction with what it reduces
    into scalar code, 5 times slower than a vectorised map followed by a product.
    """
    frames, bins = values.shape[-2:]
    weights = jnp.full((bins,), 1.0 / (frames * bins), values.dtype)
    return jnp.matmul(values, weights, precision=_PRECISE).sum(-1)


def _dot(x: jax.Array) -> jax.Array:
    return jnp.einsum("...t,...t->...", x, x, precision=_PRECISE)


def _projection(prediction: jax.Array, target: jax.Array, epsilon: float) -> jax.Array:
    inner = (prediction * target).sum(-1, keepdims=True)
    return target * (inner / (_dot(target)[..., None] + epsilon))


def _minus_ratio_db(signal: jax.Array, noise: jax.Array, epsilon: float) -> jax.Array:
    return -10.0 * jnp.log10(signal / (noise + epsilon) + epsilon)


def _aligned(prediction: Signal, target: Target) -> tuple[jax.Array, jax.Array]:
    """Both as JAX arrays with as many axes, checked."""
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    missing = prediction.ndim - target.ndim
    fits = missing >= 0 and prediction.shape[-1:] == target.shape[-1:]
    target = target.reshape((1,) * max(missing, 0) + target.shape)
    lead = zip(prediction.shape, target.shape, strict=False)
    if not fits or any(t not in (1, p) for p, t in lead):
        raise ValueError(
            f"prediction {prediction.shape} and target {target.shape} do not fit: the"
            " last axis must be equal, the target's leading axes equal, fewer or 1"
        )
    return prediction, target


def _centred(prediction: Signal, target: Target) -> tuple[jax.Array, jax.Array]:
    prediction, target = _aligned(prediction, target)
    return (
        prediction - prediction.mean(-1, keepdims=True),
        target - target.mean(-1, keepdims=True),
    )
