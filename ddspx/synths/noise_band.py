"""Noise-band synthesis: loops of band noise under amplitudes that move.

    y[t] = sum_i a_i[t] n_i[t]

Amplitudes lie at frames and move linearly between them, so that a hop of sound is a
product of two frames of amplitudes with a hop of noise: no array of [bands, time] is
ever made. Amplitudes are linear and not limited.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from ddspx.filterbank.noise_bands import NoiseBank
from ddspx.signal import PRECISE
from ddspx.synths.base import Core, Synth, make_synth
from ddspx.synths.scaling import exp_sigmoid
from ddspx.types import AnyArray

Place = Literal["middle", "start"]
# Least amplitude of the paper.
_THRESHOLD = 1e-18


def noise_bands(bank: NoiseBank, hop: int, *, frame_at: Place = "middle") -> Synth:
    """Noise bands as a synth.

    Control ``band_amplitudes`` [frames, bands], linear; outputs of that name are scaled
    by `exp_sigmoid`. The sound begins at a hop of the loops that its key draws, and
    goes on for as long as it likes: loops have no seam. Channels of different keys and
    the same controls are decorrelated.

    Args:
      bank: loops of noise, from `ddspx.filterbank.noise_bank`.
      hop: samples from frame to frame, that of the bank.
      frame_at: where in its hop a frame's amplitudes hold: in the ``"middle"`` as in
        the paper, or at its ``"start"`` as those of the harmonic synth.

    Returns:
      A `Synth`; the state of a stream is the place in the loops.

    Raises:
      ValueError: the bank was cut into other hops, or the place is unknown.
    """
    weights = _weights(hop, frame_at)
    if bank.hop != hop:
        raise ValueError(
            f"the bank was cut into hops of {bank.hop} samples and the synth's hop is"
            f" {hop}; make the bank with hop={hop}"
        )

    def init_state(key):
        return jax.random.randint(key, (), 0, bank.hops, jnp.int32)

    def process(position, controls):
        amplitudes = _checked(bank, controls["band_amplitudes"], 2)
        audio = _hops(bank.frames, amplitudes[None], position, weights)
        position = (position + len(amplitudes) - 1) % bank.hops
        return position, audio.reshape(-1)

    def to_controls(outputs):
        scaled = exp_sigmoid(outputs["band_amplitudes"], threshold=_THRESHOLD)
        return {"band_amplitudes": scaled}

    return make_synth(
        Core(init_state, process, frame_at=hop // 2 if frame_at == "middle" else 0),
        hop,
        sizes={"band_amplitudes": bank.bands},
        to_controls=to_controls,
    )


def render_batch(
    bank: NoiseBank,
    amplitudes: Float[AnyArray, "batch frames bands"],
    position: AnyArray | int = 0,
    *,
    frame_at: Place = "middle",
) -> jax.Array:
    """Many sounds over the same stretch of noise, as training wants it.

    What ``noise_bands(bank, hop).render`` gives for each from one place in the loops,
    at a fraction of the cost: the noise is read once. Give a random position in each
    step, so that a network does not learn the noise.

    Args:
      bank: loops of noise.
      amplitudes: linear.
      position: hop of the loops at which the sounds begin.
      frame_at: see `noise_bands`.

    Returns:
      [batch, frames hop]; gradients go to the amplitudes alone.

    Raises:
      ValueError: the number of bands is not that of the bank, or there is no frame.
    """
    amplitudes = _checked(bank, amplitudes, 3)
    middle = frame_at == "middle"
    weights = _weights(bank.hop, frame_at)
    ends = [(0, 0), (1 if middle else 0, 1), (0, 0)]
    padded = jnp.pad(amplitudes, ends, mode="edge")
    audio = _hops(bank.frames, padded, jnp.asarray(position, jnp.int32), weights)
    audio = audio.reshape(len(audio), -1)
    start = bank.hop - bank.hop // 2 if middle else 0
    return audio[:, start : start + amplitudes.shape[1] * bank.hop]


def _weights(hop: int, frame_at: Place) -> tuple[float, ...]:
    """Share of the next frame in each sample of the hop between two frames."""
    if frame_at not in ("middle", "start"):
        raise ValueError(f"frame_at {frame_at!r} is unknown; use 'middle' or 'start'")
    # In the middle of an even hop lies no sample.
    late = 0.5 if frame_at == "middle" and hop % 2 == 0 else 0.0
    return tuple((np.arange(hop) + late) / hop)


def _checked(bank: NoiseBank, amplitudes: AnyArray, axes: int) -> jax.Array:
    amplitudes = jnp.asarray(amplitudes)
    shape = amplitudes.shape
    if len(shape) != axes or shape[-1] != bank.bands or not shape[-2]:
        lead = "frames" if axes == 2 else "batch, frames"
        raise ValueError(
            f"band amplitudes are [{lead}, {bank.bands}] of one frame or more, got"
            f" shape {shape}"
        )
    return amplitudes


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _hops(frames, amplitudes, position, weights):
    """Sound of the hops between frames: [batch, n + 1, bands] to [batch, n, hop]."""
    hops = len(frames)
    share = jnp.asarray(weights, amplitudes.dtype)[:, None]

    def one(_, m):
        noise = lax.dynamic_index_in_dim(frames, (position + m) % hops, 0, False)
        ends = lax.dynamic_slice_in_dim(amplitudes, m, 2, 1)
        both = lax.dot_general(
            ends,
            noise.astype(ends.dtype),
            (((2,), (1,)), ((), ())),
            precision=PRECISE,
        )
        return None, both

    _, both = lax.scan(one, None, jnp.arange(amplitudes.shape[1] - 1))
    both = jnp.moveaxis(both, 1, 0)
    share = share[:, 0].reshape(1, 1, -1)
    return both[:, :, 0] + share * (both[:, :, 1] - both[:, :, 0])


def _hops_forward(frames, amplitudes, position, weights):
    return _hops(frames, amplitudes, position, weights), (frames, amplitudes, position)


def _hops_backward(weights, kept, cotangent):
    frames, amplitudes, position = kept
    hops = len(frames)
    share = jnp.asarray(weights, cotangent.dtype).reshape(1, 1, -1)
    # What frame m did: the second half of its triangle in hop m, the first in m - 1.
    later = jnp.pad((1.0 - share) * cotangent, [(0, 0), (0, 1), (0, 0)])
    sooner = jnp.pad(share * cotangent, [(0, 0), (1, 0), (0, 0)])

    def product(weighted, noise):
        return lax.dot_general(
            weighted,
            noise.astype(weighted.dtype),
            (((1,), (0,)), ((), ())),
            precision=PRECISE,
        )

    def one(before, m):
        noise = lax.dynamic_index_in_dim(frames, (position + m) % hops, 0, False)
        found = product(later[:, m], noise) + product(sooner[:, m], before)
        return noise, found

    first = lax.dynamic_index_in_dim(frames, (position - 1) % hops, 0, False)
    _, found = lax.scan(one, first, jnp.arange(amplitudes.shape[1]))
    return None, jnp.moveaxis(found, 1, 0), None


_hops.defvjp(_hops_forward, _hops_backward)
