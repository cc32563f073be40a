"""Frequency responses of filters, and filtering by sampling them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Complex, Float

from ddspx.filters.analog import Section, angle_of
from ddspx.types import AnyArray, Rate
from ddspx.units import array_module

# What is left of the filter's tail where it wraps around the transform.
_WRAPPED = 2e-5


def frequency_response(
    b: Float[AnyArray, "*batch 3"],
    a: Float[AnyArray, "*batch 3"],
    frequencies_hz: Float[AnyArray, " frequencies"],
    sample_rate: Rate,
) -> Complex[AnyArray, "*batch frequencies"]:
    """``H(exp(2 pi i f / rate))`` of a biquad.

    In float32 the coefficients themselves limit this near 0 Hz (60 to 80 dB of SNR);
    `section_response` has not that limit.

    Args:
      b: [..., 3].
      a: [..., 3].
      frequencies_hz: [frequencies].
      sample_rate: Hz.

    Returns:
      Complex [..., frequencies].
    """
    xp = array_module(b, a, frequencies_hz)
    angle = 2.0 * np.pi * xp.asarray(frequencies_hz) / sample_rate
    delays = xp.exp(-1j * xp.arange(3)[:, None] * angle[None, :])

    def evaluate(c):
        delay = delays.reshape((1,) * (c.ndim - 1) + delays.shape)
        return (c[..., :, None] * delay).sum(-2)

    return evaluate(xp.asarray(b)) / evaluate(xp.asarray(a))


def section_response(
    sections: Section,
    frequencies_hz: Float[AnyArray, " frequencies"],
    sample_rate: Rate,
) -> Any:
    """Response of each section, without the cancellation of ``(b, a)``.

        H = (B2 (i S)^2 + B1 (i S) (k C) + B0 (k C)^2) / (A2 ... + A1 ... + A0 ...),
        S = sin(pi f / rate),  C = cos(pi f / rate)

    Args:
      sections: [...].
      frequencies_hz: [frequencies]; of NumPy for full precision in float32.
      sample_rate: Hz.

    Returns:
      Complex [..., frequencies]; for sections in series take the product over them.
    """
    xp = array_module(frequencies_hz)
    return _evaluate(sections, xp.asarray(frequencies_hz) * (np.pi / sample_rate), 0.0)


def sampled_filter(audio: jax.Array, sections: Section) -> jax.Array:
    """Sections in series by one FFT, from rest: damped frequency sampling.

        y = rho^-t IDFT(H(z / rho) DFT(rho^t x)),   rho^size = 2e-5

    Sampling a response wraps the filter's tail around the transform; damping makes what
    is wrapped 94 dB less, at no other cost.

    Args:
      audio: [..., time].
      sections: [..., n], leading dimensions equal to the audio's, or 1, or left out.

    Returns:
      [..., time].
    """
    time, dtype = audio.shape[-1], audio.dtype
    size = 2 ** max(1, math.ceil(math.log2(2 * time)))
    rate = math.log(_WRAPPED) / size
    decay = jnp.asarray(np.exp(rate * np.arange(time)), dtype)
    decay = decay.reshape((1,) * (audio.ndim - 1) + (time,))
    angle = np.arange(size // 2 + 1) * (np.pi / size)
    sections = Section(
        *(jnp.asarray(leaf, dtype) for leaf in (*sections[:3], angle_of(sections)))
    )
    response = _evaluate(sections, angle, math.tanh(-rate / 2.0)).prod(-2)
    lead = (1,) * (audio.ndim - response.ndim)
    response = response.reshape(lead + tuple(response.shape))
    spectrum = jnp.fft.rfft(audio * decay, size) * response
    return jnp.fft.irfft(spectrum, size)[..., :time] / decay


def _evaluate(sections: Section, angle: Any, tilt: float) -> Any:
    """The sections at z = exp(2 i angle) / rho, where tilt = (1 - rho) / (1 + rho).

    There 1 - rho / z and 1 + rho / z are U = tilt C + i S and V = C + i tilt S but for
    one factor, and with the cutoff's angle c (k = tan c) a polynomial is

        B2 U^2 + B1 k U V + B0 k^2 V^2 = (B0 K + (B2 - B0) (U cos c)^2
                                          + B1 (U cos c) (V sin c)) / cos(c)^2,
        K = sin(c - a) sin(c + a) + tilt^2 cos(c - a) cos(c + a) + 2 i tilt S C

    in which the difference of cutoff and frequency, all that matters at a resonance, is
    taken before anything is rounded.
    """
    xp = array_module(*sections, angle)
    own = angle_of(sections)
    center, rest = own[..., 0, None], own[..., 1, None]
    lead = (1,) * np.ndim(sections.warp) + (-1,)
    if xp is jnp and isinstance(angle, np.ndarray):
        rounded = angle.astype(center.dtype)
        rest = rest - jnp.asarray(angle - rounded, center.dtype).reshape(lead)
        sine, cosine = (
            jnp.asarray(table, center.dtype).reshape(lead)
            for table in (np.sin(angle), np.cos(angle))
        )
        angle = jnp.asarray(rounded).reshape(lead)
    else:
        angle = xp.reshape(angle, lead)
        sine, cosine = xp.sin(angle), xp.cos(angle)
    apart, together = (center - angle) + rest, center + angle
    tuned = xp.sin(apart) * xp.sin(together)
    if tilt:
        tuned = tuned + tilt**2 * xp.cos(apart) * xp.cos(together)
    tuned = tuned + 2j * tilt * sine * cosine
    minus = (tilt * cosine + 1j * sine) * xp.cos(center)
    plus = (cosine + 1j * tilt * sine) * xp.sin(center)
    square, cross = minus * minus, minus * plus

    def evaluate(c):
        c2, c1, c0 = (c[..., i, None] for i in range(3))
        return c0 * tuned + (c2 - c0) * square + c1 * cross

    return evaluate(sections.numerator) / evaluate(sections.denominator)
