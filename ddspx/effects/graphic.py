"""Equalisers whose curve is what is asked for: graphic, and with linear phase.

Graphic: the gains shown are the gains heard at the centers, although the bands overlap.
Linear phase: no phase change at all, at the price of a delay, `Effect.latency`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from ddspx.effects.base import Effect, Processor, make_effect
from ddspx.effects.equalizer import (
    BANDS,
    Band,
    band_sections,
    band_specs,
    sections_processor,
)
from ddspx.filters import analog, section_response
from ddspx.parameters import db
from ddspx.signal import fft_convolve
from ddspx.types import Rate

_GAIN_DB = 12.0
# Bands meet where each has half its gain in dB: the quality of that width.
_QUALITY = {"octave": math.sqrt(2.0), "third_octave": 4.318}
_PER_OCTAVE = {"octave": 1, "third_octave": 3}
# Alternating gains of 12 dB, the worst case, are then met to 0.003 dB.
_ROUNDS = 6


def graphic_equalizer(
    sample_rate: Rate, *, spacing: Literal["octave", "third_octave"] = "octave"
) -> Effect:
    """Peaks in series at standard centers, whose common curve goes through the gains.

    A band is heard at its neighbours too. The gains g of the peaks are solved for, so
    that the whole has the gains asked for at all centers,

        sum_j level_j(f_i; g_j) = gain_i,   g <- g + M (gain - level(g)),

    where M is the inverse of the interaction of small gains. Any gains in +-12 dB are
    met at the centers to 0.003 dB, smooth curves to 0.00001 dB.

    Args:
      sample_rate: Hz.
      spacing: ``"octave"``, 31.25 Hz to 16 kHz, or ``"third_octave"``, 20 Hz to 20 kHz;
        centers above 0.4 of the rate are left out.

    Returns:
      An `Effect` with ``"gain_<center>hz_db"`` for each center; identity at 0 dB.

    Raises:
      ValueError: the spacing is unknown.

    Reference: V. Valimaki, J. Liski, Accurate cascade graphic equalizer, IEEE SPL
      (2017), for the interaction matrix; R. Oliver, J.-M. Jot (2015).
    """
    if spacing not in _QUALITY:
        raise ValueError(
            f"spacing {spacing!r} is not one of {', '.join(map(repr, _QUALITY))}"
        )
    centers_hz = graphic_centers(sample_rate, spacing)
    names = [f"gain_{_label(center)}hz_db" for center in centers_hz]
    quality = _QUALITY[spacing]
    solve = _gain_solver(centers_hz, quality, sample_rate)

    def design(values):
        gains = jnp.stack(
            jnp.broadcast_arrays(*(jnp.asarray(values[name]) for name in names)), -1
        )
        return analog.peak(
            jnp.asarray(centers_hz, gains.dtype), solve(gains), quality, sample_rate
        )

    specs = [db(name, -_GAIN_DB, _GAIN_DB, 0.0, 0.0) for name in names]
    return make_effect(specs, sections_processor(design, len(names)))


def third_octave_equalizer(sample_rate: Rate) -> Effect:
    """`graphic_equalizer` with ``spacing="third_octave"``."""
    return graphic_equalizer(sample_rate, spacing="third_octave")


def linear_phase_equalizer(
    sample_rate: Rate, *, bands: Sequence[Band] = BANDS, taps: int = 2047
) -> Effect:
    """The magnitude of a `parametric_equalizer` without its phase, as an FIR.

        h = window IDFT(|H(exp(i w))|),  y[t] = sum_k h[k] x[t - k]

    Resolves about two bins of rate / taps: bells narrower than that, and shelves below
    it, come out wider (2047 taps at 44.1 kHz: 43 Hz).

    Args:
      sample_rate: Hz.
      bands: see `parametric_equalizer`.
      taps: odd number of coefficients.

    Returns:
      An `Effect` with the controls of `parametric_equalizer` and a latency of
      (taps - 1) / 2 samples; `ddspx.effects.aligned` takes it away.

    Raises:
      ValueError: an even number of taps, or bands that `parametric_equalizer` refuses.
    """
    if taps < 3 or taps % 2 == 0:
        raise ValueError(f"taps must be odd and at least 3, got {taps}")
    size = 2 ** math.ceil(math.log2(4 * taps))
    half = (taps - 1) // 2
    frequencies_hz = np.arange(size // 2 + 1) * (sample_rate / size)
    taper = np.kaiser(taps, 6.0)

    def impulse(values, dtype):
        sections = band_sections(bands, values, sample_rate)
        response = section_response(sections, frequencies_hz, sample_rate)
        # Of each band, squared: no band of these is ever zero but passes at their end.
        power = jnp.square(response.real) + jnp.square(response.imag)
        magnitude = jnp.sqrt(jnp.maximum(power, 1e-12)).prod(-2)
        kernel = jnp.fft.irfft(magnitude, size)
        kernel = jnp.concatenate([kernel[..., -half:], kernel[..., : half + 1]], -1)
        return kernel.astype(dtype) * jnp.asarray(taper, dtype)

    def process(state, audio, values):
        whole = jnp.concatenate([state, audio], -1)
        if audio.shape[-1]:
            audio = fft_convolve(whole, impulse(values, audio.dtype), mode="causal")
            audio = audio[..., taps - 1 :]
        return whole[..., whole.shape[-1] - (taps - 1) :], audio

    def init_state(channels):
        return jnp.zeros((channels, taps - 1))

    specs = band_specs(bands, sample_rate)
    return make_effect(specs, Processor(init_state, process, latency=half))


def graphic_centers(sample_rate: Rate, spacing: str) -> np.ndarray:
    """Base-two centers around 1 kHz below 0.4 of the rate, Hz."""
    per_octave = _PER_OCTAVE[spacing]
    lowest, highest = (-5, 4) if per_octave == 1 else (-17, 13)
    centers = 1000.0 * 2.0 ** (np.arange(lowest, highest + 1) / per_octave)
    return centers[centers <= 0.4 * sample_rate]


def _label(center_hz: float) -> str:
    """A center as equalisers print it, in Hz without a point."""
    digits = 3 - len(str(int(center_hz)))
    return f"{round(center_hz, min(digits, 0)):.0f}"


def _gain_solver(
    centers_hz: np.ndarray, quality: float, sample_rate: Rate
) -> Callable[[Any], Any]:
    """``gains[..., n] wanted at the centers -> gains[..., n] of the peaks``, in dB."""
    k = np.tan(np.pi * centers_hz / sample_rate)
    ratio = k[:, None] / k[None, :]
    # |H|^2 of a bell at x = tan / k: (detuned + A^2 wide) / (detuned + wide / A^2).
    detuned, wide = (1.0 - ratio**2) ** 2, (ratio / quality) ** 2

    def levels(gains, xp, detuned, wide):
        power = xp.power(10.0, gains / 20.0)[..., None, :]
        ratio = (detuned + power * wide) / (detuned + wide / power)
        return 10.0 * xp.log10(ratio).sum(-1)

    small = 0.1
    unit = [
        levels(small * row, np, detuned, wide) / small
        for row in np.eye(len(centers_hz))
    ]
    inverse = np.linalg.inv(np.stack(unit, 1))

    def solve(gains):
        lead = (1,) * (gains.ndim - 1)
        constants = [
            jnp.asarray(m, gains.dtype).reshape(lead + m.shape) for m in (detuned, wide)
        ]
        steps = jnp.asarray(inverse.T, gains.dtype)
        solved = jnp.zeros_like(gains)
        missing = gains
        for _ in range(_ROUNDS):
            solved = solved + jnp.matmul(missing, steps, precision="highest")
            missing = gains - levels(solved, jnp, *constants)
        return solved

    return solve


EFFECTS: dict[str, Callable[[Rate], Effect]] = {
    "graphic_equalizer": graphic_equalizer,
    "third_octave_equalizer": third_octave_equalizer,
    "linear_phase_equalizer": linear_phase_equalizer,
}
