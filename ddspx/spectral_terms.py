"""Further terms of spectral distances: DDSP's, and two that hear phase.

As in `ddspx.losses`, ``prediction`` and ``target`` are [..., time], of equal shape, and
a value is returned for each example. Every gradient is bounded: magnitudes have a floor
below which logarithms are flat, and no phase is taken where there is no sound.
"""

from functools import partial

import jax
import jax.numpy as jnp

from ddspx.features import a_weighted_loudness_db
from ddspx.signal import power, stft_frames
from ddspx.types import AnyArray, PerExample, Rate, Signal

DDSP_FFT_SIZES = (2048, 1024, 512, 256, 128, 64)


@partial(jax.jit, static_argnames=("fft_sizes", "floor"))
def spectral_terms(
    prediction: Signal,
    target: Signal,
    *,
    fft_sizes: tuple[int, ...] = DDSP_FFT_SIZES,
    floor: float = 1e-5,
) -> dict[str, jax.Array]:
    """All terms of DDSP's spectral loss, each a sum over resolutions.

    With P and T the magnitudes [frames, bins] of frames a quarter of their length
    apart, zeros after the end:

        magnitude        mean |P - T|
        log_magnitude    mean |ln max(P, floor) - ln max(T, floor)|
        delta_time       mean |diff over frames of (P - T)|
        delta_frequency  mean |diff over bins of (P - T)|
        cumulative       mean |cumsum over bins of (P - T)|

    DDSP's own logarithm takes 1e-5 for 0 and itself for less than 1e-5: it is not
    monotone, and its gradient has no bound. DDSP's loss is ``magnitude +
    log_magnitude``.

    Args:
      prediction: [..., time].
      target: [..., time].
      fft_sizes: samples; Hann windows of that length.
      floor: magnitudes below it count as it, in the logarithm alone.

    Returns:
      Terms by name, each [...].

    Raises:
      ValueError: the shapes differ.
    """
    prediction, target = _checked(prediction, target)
    terms: dict[str, jax.Array] = {}

    def add(name, difference):
        value = jnp.abs(difference).mean(axis=(-2, -1))
        terms[name] = terms[name] + value if name in terms else value

    for size in fft_sizes:
        p, t = (power(_spectra(audio, size)) for audio in (prediction, target))
        log = 0.5 * (
            jnp.log(jnp.maximum(p, floor**2)) - jnp.log(jnp.maximum(t, floor**2))
        )
        difference = _root(p) - _root(t)
        add("magnitude", difference)
        add("log_magnitude", log)
        add("delta_time", jnp.diff(difference, axis=-2))
        add("delta_frequency", jnp.diff(difference, axis=-1))
        add("cumulative", jnp.cumsum(difference, axis=-1))
    return terms


@partial(jax.jit, static_argnames=("sample_rate", "fft_size", "hop_length"))
def loudness_distance_db(
    prediction: Signal,
    target: Signal,
    sample_rate: Rate,
    *,
    fft_size: int = 2048,
    hop_length: int = 64,
) -> PerExample:
    """Mean absolute difference of A-weighted loudness.

    Args:
      prediction: [..., time].
      target: [..., time].
      sample_rate: Hz.
      fft_size: samples, as in `ddspx.features.a_weighted_loudness_db`.
      hop_length: samples.

    Returns:
      dB [...].
    """
    prediction, target = _checked(prediction, target)
    p, t = (
        a_weighted_loudness_db(a, sample_rate, fft_size=fft_size, hop_length=hop_length)
        for a in (prediction, target)
    )
    return jnp.abs(p - t).mean(-1)


@partial(jax.jit, static_argnames=("fft_sizes", "floor"))
def complex_distance(
    prediction: Signal,
    target: Signal,
    *,
    fft_sizes: tuple[int, ...] = (2048, 512, 128),
    floor: float = 1e-3,
) -> PerExample:
    """Distance of complex spectra whose levels are compressed: phase counts.

        mean over resolutions, frames, bins of |c(P) - c(T)|
        c(X) = X ln(1 + |X| / floor) / |X|

    The logarithm makes quiet bins heard, as in `ddspx.losses`; below the floor c is
    linear, so that no gradient passes 1 / floor. A delay of the whole costs as much as
    any error of phase: use it where target and prediction are aligned.

    Args:
      prediction: [..., time].
      target: [..., time].
      fft_sizes: samples; Hann windows of that length, a quarter of it apart.
      floor: magnitude at which compression sets in.

    Returns:
      [...].

    Raises:
      ValueError: the shapes differ.
    """
    prediction, target = _checked(prediction, target)
    total = jnp.zeros(prediction.shape[:-1], prediction.dtype)
    for size in fft_sizes:
        spectra = [_spectra(audio, size) for audio in (prediction, target)]
        p, t = (_compressed(x, floor) for x in spectra)
        total = total + _root(power(p - t)).mean(axis=(-2, -1))
    return total / len(fft_sizes)


@partial(jax.jit, static_argnames=("fft_sizes", "floor"))
def phase_change_distance(
    prediction: Signal,
    target: Signal,
    *,
    fft_sizes: tuple[int, ...] = (2048, 512, 128),
    floor: float = 1e-3,
) -> PerExample:
    """Distance of instantaneous frequencies: how phases move, not where they start.

        u(X)[m] = X[m] conj(X[m - 1]) / (|X[m] X[m - 1]| + floor^2)
        sum w |u(P) - u(T)|^2 / sum w,  w = |T[m] T[m - 1]|

    averaged over resolutions. Insensitive to a constant phase of each bin, such as the
    starting phases of partials; 4 at most, about 2 for unrelated sounds, 0 for equal
    frequencies. w is fixed, so that no gradient makes bins quiet to silence them.

    Args:
      prediction: [..., time].
      target: [..., time].
      fft_sizes: samples; Hann windows of that length, a quarter of it apart.
      floor: magnitude below which phases do not count.

    Returns:
      [...]; 0 where the target is silent.

    Raises:
      ValueError: the shapes differ.
    """
    prediction, target = _checked(prediction, target)
    total = jnp.zeros(prediction.shape[:-1], prediction.dtype)
    for size in fft_sizes:
        p, t = (_spectra(audio, size) for audio in (prediction, target))
        (p, _), (t, weight) = (_phase_changes(x, floor) for x in (p, t))
        weight = jax.lax.stop_gradient(weight)
        error = (weight * power(p - t)).sum(axis=(-2, -1))
        least = jnp.finfo(error.dtype).tiny
        total = total + error / jnp.maximum(weight.sum(axis=(-2, -1)), least)
    return total / len(fft_sizes)


def _checked(prediction: Signal, target: Signal) -> tuple[jax.Array, jax.Array]:
    prediction, target = jnp.asarray(prediction), jnp.asarray(target)
    if prediction.shape != target.shape or not prediction.shape[-1]:
        raise ValueError(
            f"prediction {prediction.shape} and target {target.shape}: give the same"
            " shape [..., time], at least one sample"
        )
    return prediction, target


def _spectra(audio: jax.Array, size: int) -> jax.Array:
    """[..., frames, bins]: frames at multiples of the hop, zeros after the end."""
    time, hop = audio.shape[-1], max(1, size // 4)
    after = max(0, (-(-time // hop) - 1) * hop + size - time)
    audio = jnp.pad(audio, [*[(0, 0)] * (audio.ndim - 1), (0, after)])
    return stft_frames(audio, fft_size=size, hop_length=hop, center=False)


def _root(powers: AnyArray) -> jax.Array:
    """Square root with gradient 0, not infinity, at 0."""
    there = powers > 0
    return jnp.where(there, jnp.sqrt(jnp.where(there, powers, 1.0)), 0.0)


def _compressed(spectrum: jax.Array, floor: float) -> jax.Array:
    # x = |X| / floor; ln(1 + x) / x tends to 1.
    x = _root(power(spectrum)) / floor
    small = x < 1e-3
    safe = jnp.where(small, 1.0, x)
    gain = jnp.where(small, 1.0 - x / 2.0 + x * x / 3.0, jnp.log1p(safe) / safe)
    return spectrum * (gain / floor)


def _phase_changes(spectrum: jax.Array, floor: float) -> tuple[jax.Array, jax.Array]:
    product = spectrum[..., 1:, :] * jnp.conj(spectrum[..., :-1, :])
    magnitude = _root(power(product))
    return product / (magnitude + floor**2), magnitude
