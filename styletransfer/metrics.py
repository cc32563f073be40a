"""How far a render is from the truth, one value an item, in units of their own.

    metric                 unit   meaning
    original_mrstft        -      multi-resolution STFT of the original study: FFT sizes
                                  32, 128, 512, 2048, 8192, 32768, hops of half, mean
                                  |ln P - ln T| + mean |P - T|
    mrstft                 -      this project's loss, `ddspx.losses` with its defaults
    mel_distance           dB     mean |20 log10(P / T)| over mel bands and frames
    centroid_error         Hz     |difference| of the mean spectral centroid
    crest_error            dB     |difference| of 20 log10(peak / RMS)
    loudness_error         LU     |difference| of the integrated loudness
    rms_error              dB     |difference| of 20 log10(RMS)
    style_distance         -      of `styletransfer.style`: no waveforms are compared
    pesq                   MOS    wide band, at 16 kHz, of speech; higher is better

All but PESQ are computed on the device, item after item, and are 0 where render and
truth are equal. Levels are decibels of base 10: the study whose six sizes are used here
and DeepAFx-ST before it took natural logarithms, so that their errors of crest and RMS
have to be divided by 2.303. A value that does not exist is NaN (PESQ where no speech is
found); nothing here leaves one out.

Reference: C. Steinmetz et al., Style transfer of audio effects with differentiable
signal processing (JAES 2022); ITU-T P.862.2 (PESQ).
"""

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ddspx import audio as files
from ddspx import features, losses
from ddspx.signal import map_examples
from ddspx.types import Rate
from styletransfer.style import StyleDistance

ORIGINAL_FFT_SIZES = (32, 128, 512, 2048, 8192, 32768)
# Items in a call to the device: one shape is compiled, the last chunk is filled up.
CHUNK = 32
PESQ_RATE_HZ = 16000


class Metric(NamedTuple):
    """What is known of a metric by name.

    Attributes:
      unit: empty where it has none.
      higher_is_better: whether more is better.
      title: for people.
    """

    unit: str
    higher_is_better: bool
    title: str


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "original_mrstft": Metric("", False, "MRSTFT, six sizes"),
        "mrstft": Metric("", False, "MRSTFT"),
        "mel_distance": Metric("dB", False, "mel distance"),
        "centroid_error": Metric("Hz", False, "centroid error"),
        "crest_error": Metric("dB", False, "crest error"),
        "loudness_error": Metric("LU", False, "loudness error"),
        "rms_error": Metric("dB", False, "RMS error"),
        "style_distance": Metric("", False, "style distance"),
        "pesq": Metric("MOS", True, "PESQ"),
    }
)
# In the order of the table.
ON_DEVICE = tuple(name for name in METRICS if name != "pesq")


class PesqMissing(ImportError):
    """PESQ was asked for and the package that computes it is not installed."""


def measure(
    renders: Float[np.ndarray, "items channels time"],
    truths: Float[np.ndarray, "truths truth_channels truth_time"],
    sample_rate: Rate,
    names: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Metrics of every item, means over channels.

    Args:
      renders: what is judged.
      truths: what each should have been.
      sample_rate: Hz.
      names: which of `METRICS`; all but PESQ when None.

    Returns:
      ``{metric: [items] float64}`` in the order of `METRICS`.

    Raises:
      PesqMissing: PESQ is asked for and cannot be computed.
      ValueError: a name is unknown, the shapes differ, or the items are not longer
        than half the longest transform of the original study (0.7 s at 24 kHz).
    """
    if renders.shape != truths.shape:
        raise ValueError(
            f"renders {renders.shape} and truths {truths.shape} differ; give one truth"
            " for each render, of the same channels and samples"
        )
    names = ON_DEVICE if names is None else names
    unknown = sorted(set(names) - set(METRICS))
    if unknown:
        raise ValueError(f"metrics {unknown} unknown; there are {', '.join(METRICS)}")
    if "original_mrstft" in names:
        _check_length(renders.shape[-1])
    on_device = tuple(name for name in ON_DEVICE if name in names)
    parts: dict[str, list[np.ndarray]] = {name: [np.zeros(0)] for name in on_device}
    for start in range(0, len(renders) if on_device else 0, CHUNK):
        some = renders[start : start + CHUNK], truths[start : start + CHUNK]
        missing = CHUNK - len(some[0])
        filled = [np.pad(a, ((0, missing), (0, 0), (0, 0)), "edge") for a in some]
        found = jax.device_get(_measure(*filled, float(sample_rate), on_device))
        for name, values in found.items():
            parts[name].append(values[: CHUNK - missing].astype(np.float64))
    values = {name: np.concatenate(part) for name, part in parts.items()}
    if "pesq" in names:
        scores = [
            pesq_wideband(render, truth, sample_rate)
            for render, truth in zip(renders, truths, strict=True)
        ]
        values["pesq"] = np.array(scores, np.float64)
    return values


def original_mrstft(render: jax.Array, truth: jax.Array) -> jax.Array:
    """The original study's loss [...] of [..., time]: see the module.

    Raises:
      ValueError: the lengths differ.
    """
    return jnp.asarray(losses.spectral_distance(render, truth, _ORIGINAL)[0])


def pesq_wideband(
    render: Float[np.ndarray, "channels time"],
    truth: Float[np.ndarray, "truth_channels truth_time"],
    sample_rate: Rate,
) -> float:
    """PESQ as mean opinion score (1.04 to 4.64), wide band; channels are averaged.

    Args:
      render: what is judged.
      truth: what it should have been.
      sample_rate: Hz; both are resampled to 16 kHz.

    Returns:
      The score; NaN where the algorithm finds no speech in the truth, or the render is
      silent.

    Raises:
      PesqMissing: the package `pesq` is not installed.
    """
    pesq = _pesq()
    rate = round(sample_rate)
    sounds = [
        files.resample(np.mean(sound, axis=0), rate, PESQ_RATE_HZ)
        for sound in (truth, render)
    ]
    if not all(np.any(sound) for sound in sounds):
        return float("nan")
    try:
        return float(pesq.pesq(PESQ_RATE_HZ, sounds[0], sounds[1], "wb"))
    except pesq.NoUtterancesError:
        return float("nan")


def check_pesq() -> None:
    """Refuses before any work where PESQ cannot be computed.

    Raises:
      PesqMissing: the package `pesq` is not installed.
    """
    _pesq()


_ORIGINAL = losses.StftRecipe(
    fft_sizes=ORIGINAL_FFT_SIZES,
    hop_sizes=tuple(size // 2 for size in ORIGINAL_FFT_SIZES),
    window_lengths=ORIGINAL_FFT_SIZES,
    weights={losses.LOG_MAGNITUDE: 1.0, losses.LINEAR_MAGNITUDE: 1.0},
)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _measure(renders, truths, sample_rate, names):
    distance = StyleDistance(sample_rate, 0.45 * sample_rate)

    def apart(feature):
        return lambda p, t: jnp.abs(feature(p) - feature(t))

    def centroid_hz(sound):
        frames = features.spectral_centroid_hz(sound, sample_rate)
        return jnp.mean(frames, axis=-1)

    known: dict[str, Callable] = {
        "original_mrstft": original_mrstft,
        "mrstft": lambda p, t: losses.multi_resolution_stft(p, t)[0],
        "mel_distance": lambda p, t: losses.mel_distance(p, t, sample_rate=sample_rate),
        "centroid_error": apart(centroid_hz),
        "crest_error": apart(features.crest_factor_db),
        "loudness_error": apart(
            lambda sound: features.integrated_loudness_lufs(sound, sample_rate)
        ),
        "rms_error": apart(features.rms_db),
        "style_distance": lambda p, t: distance(
            distance.features(p), distance.features(t)
        )[0],
    }

    def one(render, truth):
        return {name: jnp.mean(known[name](render, truth)) for name in names}

    return map_examples(one, renders, truths)


def _check_length(samples: int) -> None:
    least = ORIGINAL_FFT_SIZES[-1] // 2 + 1
    if samples < least:
        raise ValueError(
            f"items of {samples} samples are too short for a transform of"
            f" {ORIGINAL_FFT_SIZES[-1]}; give {least} samples or more"
        )


def _pesq() -> Any:
    # By name: an extra need not be there for anything else, types included.
    try:
        return importlib.import_module("pesq")
    except ImportError as error:
        raise PesqMissing(
            "PESQ needs the package pesq, which is compiled when it is installed: pip"
            " install 'ddspx[speech]' with a C compiler at hand, or leave PESQ out"
        ) from error
