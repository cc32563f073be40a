"""The wavetable synthesiser: one period of a wave, read at a frequency.

Amplitudes are linear, frequencies in Hz. A sample reads the two entries around its
phase from the tables of the two frames around it; no array of [time, table] is made.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ddspx.synths.base import Core, Synth, make_synth
from ddspx.synths.harmonic import highest_harmonic
from ddspx.synths.phase import (
    Angles,
    check_rates,
    held,
    hop_starts,
    sample_angles,
    start_phase,
)
from ddspx.synths.scaling import exp_sigmoid
from ddspx.synths.upsampling import Upsampling, between, crossfade, over_hops
from ddspx.types import AnyArray, Rate


def wavetable(
    sample_rate: Rate,
    hop: int,
    table: int | AnyArray,
    *,
    upsampling: Upsampling = "window",
    band_limit: bool = False,
) -> Synth:
    """A wave read at a frequency, with an amplitude; the wave may move.

        y[t] = a[t] ((1 - c) T[t, i] + c T[t, i + 1 mod size]),
        i + c = size phase[t] / (2 pi),
        phase[t] = 2 pi / sample_rate sum_{s < t} f[s]

    where a is upsampled, and f and the table T move linearly between frames.

    Args:
      sample_rate: Hz, a multiple of 0.5.
      hop: samples from frame to frame.
      table: one period [size], always the same; or the size of tables that are a
        control.
      upsampling: of amplitudes, see `ddspx.synths.upsampling.crossfade`.
      band_limit: whether harmonics of the table that reach half the sample rate
        anywhere in a hop are left out there, by an FFT of the table a hop.

    Returns:
      A `Synth` with controls f0_hz [frames], held within 0 and the sample rate,
      amplitude [frames] and, where tables move, wavetable [frames, size]. Outputs are
      amplitude [..., frames, 1] and wavetable, which is taken as it comes. The state of
      a stream is the phase.

    Raises:
      ValueError: a table has less than two entries or is no vector, or rate or hop are
        out of range.
    """
    check_rates(sample_rate, hop)
    moving = isinstance(table, int | np.integer)
    shape = (int(table),) if moving else np.shape(table)
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(
            "a table is one period [size] with two entries or more, or its size, got"
            f" {table if moving else f'shape {shape}'}"
        )
    size = shape[0]
    weights, ramp = crossfade(hop, upsampling), crossfade(hop, "linear")

    def init_state(key):
        return start_phase()

    def sound(frames, starts):
        f0_hz, amplitude, *tables = frames
        angles = sample_angles(starts, f0_hz, sample_rate, hop, lead=0)
        highest = None
        if band_limit:
            fastest = lax.stop_gradient(jnp.maximum(f0_hz[:-1], f0_hz[1:]))
            highest = highest_harmonic(fastest, sample_rate)
        if tables:
            now, then = (
                read_table(_limited(x, highest), angles)
                for x in (tables[0][:-1], tables[0][1:])
            )
            wave = now + jnp.asarray(ramp, now.dtype)[None] * (then - now)
        else:
            fixed = jnp.asarray(table, f0_hz.dtype)[None]
            wave = read_table(_limited(fixed, highest), angles)
        return wave * between(amplitude, weights)

    def process(phase, controls):
        f0_hz = held(controls["f0_hz"], sample_rate)
        frames = [f0_hz, jnp.asarray(controls["amplitude"], f0_hz.dtype)]
        if moving:
            frames.append(jnp.asarray(controls["wavetable"], f0_hz.dtype))
            if frames[-1].shape[1:] != (size,):
                raise ValueError(
                    f"wavetable is [frames, {size}], got {frames[-1].shape}"
                )
        starts, phase = hop_starts(phase, f0_hz, sample_rate, hop)
        return phase, over_hops(sound, frames, starts, hop).reshape(-1)

    def to_controls(outputs: Mapping[str, Any]) -> dict[str, jax.Array]:
        found = {
            "f0_hz": jnp.asarray(outputs["f0_hz"]),
            "amplitude": exp_sigmoid(outputs["amplitude"])[..., 0],
        }
        if moving:
            found["wavetable"] = jnp.asarray(outputs["wavetable"])
        return found

    sizes = {"amplitude": 1, "wavetable": size} if moving else {"amplitude": 1}
    return make_synth(
        Core(init_state, process), hop, sizes=sizes, to_controls=to_controls
    )


def read_table(tables: jax.Array, angles: Angles) -> jax.Array:
    """Tables at phases, linearly between their entries.

    Args:
      tables: [n, size], one period for each hop, or [1, size] for all.
      angles: [n, hop].

    Returns:
      [n, hop]; gradients go to tables and angles.
    """
    size = tables.shape[-1]
    half_turns = 0.5 - 0.5 * angles.sign
    place = (angles.angle * (0.5 / np.pi) + 0.5 * half_turns) * size
    # Within [-size / 4, 3 size / 4]: what is before the start is at the end.
    left = jnp.floor(lax.stop_gradient(place))
    first = jnp.mod(left.astype(jnp.int32), size)
    share = place - left
    second = jnp.where(first == size - 1, 0, first + 1)
    if tables.shape[0] == 1:
        one, other = tables[0][first], tables[0][second]
    else:
        one, other = (
            jnp.take_along_axis(tables, index, 1, mode="promise_in_bounds")
            for index in (first, second)
        )
    return one + share * (other - one)


def _limited(tables: jax.Array, highest: jax.Array | None) -> jax.Array:
    """Tables [n or 1, size] without harmonics above those of n hops."""
    if highest is None:
        return tables
    spectrum = jnp.fft.rfft(tables)
    number = np.arange(spectrum.shape[-1])[None]
    heard = jnp.asarray(number, tables.dtype) <= highest[:, None]
    return jnp.fft.irfft(jnp.where(heard, spectrum, 0.0), tables.shape[-1])
