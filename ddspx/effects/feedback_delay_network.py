"""Reverb by a feedback delay network with a decay time for lows and for highs.

Audio [1 or 2, time]; levels are not clipped. The lines' lengths are distinct primes,
spread geometrically; the mixing matrix is orthogonal, so that without absorption the
loop neither grows nor decays.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from ddspx.comb_filters import DelayGains, delay_network, delay_network_state
from ddspx.effects.base import Effect, Processor, make_effect
from ddspx.effects.convolution import LN_60_DB
from ddspx.parameters import ParameterSpec, hz, plain
from ddspx.types import Rate

Mixing = Literal["hadamard", "householder"]


def feedback_delay_network(
    sample_rate: Rate,
    *,
    lines: int = 8,
    delays_ms: tuple[float, float] = (21.0, 63.0),
    mixing: Mixing = "hadamard",
) -> Effect:
    """Feedback delay network; the wet sound has about the energy of the dry.

        w[n] = B x[n] + M G(z) u[n],  u_i[n] = w_i[n - D_i],  wet = s C u

    Every line's absorption G_i is a first-order shelf that gives each trip of D_i
    samples its share of the decay, exactly at 0 Hz and at the Nyquist frequency:

        |G_i| = 10^(-3 D_i / (rate T60))

    The scale s undoes the energy that the feedback adds. The effect has an identity:
    mix 0.

    Args:
      sample_rate: Hz.
      lines: delay lines; more are denser and dearer.
      delays_ms: shortest and longest delay in ms.
      mixing: ``"hadamard"`` (lines a power of two) or ``"householder"``.

    Returns:
      An `Effect` for one or two channels.

    Raises:
      ValueError: the lines do not suit the mixing, or delays are not in order.

    Reference:
      Jot and Chaigne, "Digital delay networks for designing artificial reverberators",
      AES 90, 1991; Rocchesso and Smith, "Circulant and elliptic feedback delay
      networks", 1997.
    """
    delays = line_lengths(sample_rate, lines, delays_ms)
    matrix = mixing_matrix(lines, mixing)
    specs = (
        ParameterSpec("decay_low_s", 0.1, 10.0, "s", "log", 2.0),
        ParameterSpec("decay_high_s", 0.1, 10.0, "s", "log", 0.8),
        # The same range at all rates that have room for it: a setting stays a setting.
        hz(
            "crossover_hz",
            min(500.0, 0.02 * sample_rate),
            min(8000.0, 0.2 * sample_rate),
            min(3000.0, 0.07 * sample_rate),
        ),
        plain("mix", 0.0, 1.0, 0.3, identity=0.0),
    )

    def init_state(channels):
        if channels not in (1, 2):
            raise ValueError(f"the network renders one or two channels, got {channels}")
        return delay_network_state(delays)

    def process(state, audio, values):
        inputs, outputs = _taps(lines, audio.shape[0])
        low, high = (
            _gains(delays, values[name], sample_rate, audio.dtype)
            for name in ("decay_low_s", "decay_high_s")
        )
        # Pole of a first-order shelf by the bilinear transform; ratio is what its
        # low-pass (1 - p) / (1 - p z^-1) leaves at the Nyquist frequency.
        warped = jnp.tan(jnp.pi / sample_rate * values["crossover_hz"])
        pole = ((1.0 - warped) / (1.0 + warped)).astype(audio.dtype)
        ratio = (1.0 - pole) / (1.0 + pole)
        damped = (low - high) / (1.0 - ratio)
        scale = jnp.sqrt(1.0 - 0.5 * jnp.mean(low**2 + high**2))
        gains = DelayGains(
            inputs=inputs,
            outputs=outputs,
            damped=damped,
            damping=pole,
            direct=low - damped,
            mixing=matrix,
        )
        state = jax.tree.map(lambda leaf: leaf.astype(audio.dtype), state)
        state, wet = delay_network(state, audio, delays, gains)
        mix = values["mix"]
        return state, (1.0 - mix) * audio + (mix * scale) * wet

    return make_effect(specs, Processor(init_state, process))


def line_lengths(
    sample_rate: Rate, lines: int, delays_ms: tuple[float, float]
) -> tuple[int, ...]:
    """Distinct primes in samples, spread geometrically between two delays.

    Args:
      sample_rate: Hz.
      lines: how many.
      delays_ms: shortest and longest in ms.

    Returns:
      Samples, one a line, each the first unused prime from its place on.

    Raises:
      ValueError: there are fewer than two lines, or delays are not 0 < short < long.
    """
    short, long = delays_ms
    if lines < 2 or not 0.0 < short < long:
        raise ValueError(
            f"{lines} lines of {delays_ms} ms: give two lines or more and"
            " 0 < shortest < longest"
        )
    found: list[int] = []
    for place in np.geomspace(short, long, lines) * (sample_rate / 1000.0):
        number = max(2, int(np.ceil(place)))
        while number in found or not _is_prime(number):
            number += 1
        found.append(number)
    return tuple(found)


def mixing_matrix(lines: int, mixing: Mixing) -> np.ndarray:
    """An orthogonal matrix, float64 [lines, lines].

        hadamard:    H / sqrt(N), entries all of one size
        householder: 1 - (2 / N) 1 1^T

    Args:
      lines: N.
      mixing: which.

    Raises:
      ValueError: the mixing is unknown, or Hadamard's is asked for N not 2^k.
    """
    if mixing == "householder":
        return np.eye(lines) - 2.0 / lines
    if mixing != "hadamard":
        raise ValueError(f"mixing {mixing!r} is unknown; use hadamard or householder")
    if lines & (lines - 1):
        raise ValueError(
            f"a Hadamard matrix needs a power of two, got {lines} lines; use"
            " mixing='householder'"
        )
    return scipy.linalg.hadamard(lines) / np.sqrt(lines)


def _taps(lines: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Input gains [lines, channels] of unit energy, output gains [channels, lines].

    Each channel feeds its own lines and hears all, with signs that are orthogonal
    from channel to channel.
    """
    place = np.arange(lines)
    feeds = (place[:, None] % channels == np.arange(channels)).astype(float)
    signs = np.stack([1.0 - 2.0 * (place // 2 % 2), 1.0 - 2.0 * ((place + 1) // 2 % 2)])
    return feeds / np.sqrt(feeds.sum(0)), signs[:channels]


def _gains(delays: tuple[int, ...], decay_s, sample_rate: Rate, dtype) -> jax.Array:
    trips = jnp.asarray(np.asarray(delays) * (-0.5 * LN_60_DB / sample_rate), dtype)
    return jnp.exp(trips / decay_s)


def _is_prime(number: int) -> bool:
    divisors = np.arange(2, int(np.sqrt(number)) + 1)
    return number > 1 and bool(np.all(number % divisors))
