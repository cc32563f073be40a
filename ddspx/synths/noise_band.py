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
from ddspx.types import AnyArray, RandomKey

Place = Literal["middle", "start"]
# Least amplitude of the paper.
_THRESHOLD = 1e-18
# Numbers of noise that are multiplied at once: what a processor's cache holds, and
# where there is no such cache, what keeps temporaries small.
_AT_ONCE = {"cpu": 1 << 20}
_AT_ONCE_ELSEWHERE = 1 << 26


def noise_bands(
    bank: NoiseBank,
    hop: int,
    *,
    frame_at: Place = "middle",
    fade: int | None = None,
) -> Synth:
    """Noise bands as a synth.

    Control ``band_amplitudes`` [frames, bands], linear; outputs of that name are scaled
    by `exp_sigmoid`. The sound begins at a hop of the loops that its key draws, and
    goes on for as long as it likes, since loops have no seam; it repeats with them
    unless it fades. Channels of the same controls and different keys are decorrelated.

    Args:
      bank: loops of noise, from `ddspx.filterbank.noise_bank`.
      hop: samples from frame to frame, that of the bank.
      frame_at: where in its hop a frame's amplitudes hold: in the ``"middle"`` as in
        the paper, or at its ``"start"`` as those of the harmonic synth.
      fade: hops after which the sound has gone over, at equal power, to another place
        in the loops that the key draws, and so on: nothing repeats, at twice the cost.

    Returns:
      A `Synth`; the state of a stream is its place.

    Raises:
      ValueError: the bank was cut into other hops, the place is unknown, or a fade has
        no hop.
    """
    weights = _weights(hop, frame_at)
    if bank.hop != hop:
        raise ValueError(
            f"the bank was cut into hops of {bank.hop} samples and the synth's hop is"
            f" {hop}; make the bank with hop={hop}"
        )
    if fade is not None and fade < 1:
        raise ValueError(f"fade is {fade} hops; it must be 1 or more")

    def init_state(key):
        if fade is not None:
            return key, jnp.zeros((), jnp.uint32)
        return _draw(key, bank)

    def process(state, controls):
        amplitudes = _checked(bank, controls["band_amplitudes"], 2)[None]
        if fade is None:
            # Hop by hop, whatever the length: blocks then give the bits of the whole.
            audio = _products(bank, amplitudes, state, weights, 1)
            state = (state + amplitudes.shape[1] - 1) % bank.hops
        else:
            audio, state = _wandering(bank, amplitudes, state, weights, fade)
        return state, audio.reshape(-1)

    def to_controls(outputs):
        scaled = exp_sigmoid(outputs["band_amplitudes"], threshold=_THRESHOLD)
        return {"band_amplitudes": scaled}

    return make_synth(
        Core(init_state, process, frame_at=hop // 2 if frame_at == "middle" else 0),
        hop,
        sizes={"band_amplitudes": bank.bands},
        to_controls=to_controls,
    )


@partial(jax.jit, static_argnames="frame_at")
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
    position = jnp.asarray(position, jnp.int32) % bank.hops
    # Values hold before the first frame and after the last.
    held = (int(middle), 1)
    audio = _products(bank, amplitudes, position, weights, _together(bank), held)
    audio = audio.reshape(len(audio), -1)
    start = bank.hop - bank.hop // 2 if middle else 0
    return audio[:, start : start + amplitudes.shape[1] * bank.hop]


def render_channels(
    bank: NoiseBank,
    amplitudes: Float[AnyArray, "channels frames bands"],
    key: RandomKey,
    *,
    frame_at: Place = "middle",
) -> jax.Array:
    """One sound in decorrelated channels.

    Channels hear the same loops, as far apart in time as they can be; equal amplitudes
    in all channels make a wide sound, others move it.

    Args:
      bank: loops of noise.
      amplitudes: linear, those of each channel.
      key: of the place where the sound begins.
      frame_at: see `noise_bands`.

    Returns:
      [channels, frames hop].

    Raises:
      ValueError: see `render_batch`; or there are more channels than hops.
    """
    amplitudes = _checked(bank, amplitudes, 3)
    channels = len(amplitudes)
    if channels > bank.hops:
        raise ValueError(
            f"{channels} channels of loops of {bank.hops} hops; use longer loops"
        )
    apart = np.arange(channels) * bank.hops // channels
    positions = _draw(key, bank) + jnp.asarray(apart, jnp.int32)

    def one(channel):
        some, position = channel
        return render_batch(bank, some[None], position, frame_at=frame_at)[0]

    return lax.map(one, (amplitudes, positions))


def _draw(key: RandomKey, bank: NoiseBank) -> jax.Array:
    return jax.random.randint(key, (), 0, bank.hops, jnp.int32)


def _together(bank: NoiseBank) -> int:
    """Hops in one product."""
    backend = jax.default_backend()
    numbers = _AT_ONCE.get(backend, _AT_ONCE_ELSEWHERE)
    return max(1, min(numbers // (bank.bands * bank.hop), bank.hops))


def _weights(hop: int, frame_at: Place) -> tuple[float, ...]:
    """Share of the next frame in each sample of the hop between two frames."""
    if frame_at not in ("middle", "start"):
        raise ValueError(f"frame_at {frame_at!r} is unknown; use 'middle' or 'start'")
    # In the middle of an even hop lies no sample.
    late = 0.5 if frame_at == "middle" and hop % 2 == 0 else 0.0
    return tuple(((np.arange(hop) + late) / hop).tolist())


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


def _wandering(bank, amplitudes, state, weights, fade):
    """Two readers of the loops: one fades out while the next fades in.

    Reader j is heard in hops (j - 1) fade to (j + 1) fade, from a place of its own.
    """
    key, number = state
    count = amplitudes.shape[1] - 1
    ends = jnp.stack([amplitudes[0, :-1], amplitudes[0, 1:]], 1)
    places = jnp.arange(bank.hop, dtype=jnp.float32) / bank.hop
    share = jnp.asarray(weights, amplitudes.dtype)

    def read(reader, within, two):
        place = jax.random.fold_in(key, reader)
        place = (_draw(place, bank) + within) % bank.hops
        return _products(bank, two[None], place, weights, 1)[0, 0]

    def one(_, at):
        hop_number, two = at
        segment = hop_number // fade
        within = (hop_number % fade).astype(jnp.int32)
        angle = (0.5 * np.pi / fade) * (within + places)
        old = read(segment, fade + within, two)
        new = read(segment + 1, within, two)
        return None, jnp.cos(angle).astype(share.dtype) * old + (
            jnp.sin(angle).astype(share.dtype) * new
        )

    numbers = number + jnp.arange(count, dtype=jnp.uint32)
    _, audio = lax.scan(one, None, (numbers, ends))
    return audio, (key, number + np.uint32(count))


def _products(
    bank: NoiseBank,
    amplitudes: jax.Array,
    position: jax.Array,
    weights: tuple[float, ...],
    together: int,
    held: tuple[int, int] = (0, 0),
) -> jax.Array:
    plan = weights, bank.hops, together, held
    return jnp.asarray(_hops(amplitudes, bank.frames, position, plan))


def _slice(frames: jax.Array, place: jax.Array, count: int, hops: int) -> jax.Array:
    """Hops of noise in a row, from a place in the loop."""
    place = place % hops
    if hops + count - 1 <= len(frames):
        return lax.dynamic_slice_in_dim(frames, place, count, 0)
    return frames[(place + jnp.arange(count)) % hops]


def _as_float(noise: jax.Array, dtype: jnp.dtype) -> jax.Array:
    if noise.dtype == jnp.uint16:
        bits = noise.astype(jnp.uint32) << 16
        noise = lax.bitcast_convert_type(bits, jnp.float32)
    return noise.astype(dtype)


def _scanned(step, carry, count, together):
    """Steps over hops, so many together and the rest at the end; their sound joined."""
    together = max(1, min(together, count))
    full, rest = divmod(count, together)
    pieces = []
    if full:
        carry, audio = lax.scan(
            lambda c, m: step(c, m * together, together), carry, jnp.arange(full)
        )
        if audio is not None:
            pieces.append(audio.reshape(full * together, *audio.shape[2:]))
    if rest:
        carry, audio = step(carry, full * together, rest)
        pieces.append(audio)
    return carry, pieces


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _hops(amplitudes, frames, position, plan):
    """Sound of the hops between frames, [batch, frames, bands] to [batch, hops, hop].

    Y[m] = [A[m]; A[m + 1]] N[m],   y[m] = (1 - w) Y0[m] + w Y1[m]

    `plan` has the weights, the hops of the loops, how many are multiplied together, and
    how many hops before the first frame and after the last hold its amplitudes.
    """
    weights, hops, together, held = plan
    batch, count = len(amplitudes), amplitudes.shape[1] - 1
    share = jnp.asarray(weights, amplitudes.dtype).reshape(1, 1, -1)

    def noise_of(hop, n):
        return _as_float(_slice(frames, position + hop, n, hops), amplitudes.dtype)

    def some(_, first, n):
        ends = lax.dynamic_slice_in_dim(amplitudes, first, n + 1, 1)
        ends = jnp.swapaxes(ends, 0, 1)
        both = jnp.concatenate([ends[:-1], ends[1:]], 1)
        found = jnp.matmul(both, noise_of(held[0] + first, n), precision=PRECISE)
        later = found[:, batch:] - found[:, :batch]
        return None, found[:, :batch] + share * later

    def still(frame, hop):
        one = amplitudes[None, :, frame]
        return jnp.matmul(one, noise_of(hop, 1), precision=PRECISE)

    _, pieces = _scanned(some, None, count, together)
    pieces = [still(0, 0)] * held[0] + pieces + [still(-1, held[0] + count)] * held[1]
    return jnp.swapaxes(jnp.concatenate(pieces), 0, 1)


def _hops_forward(amplitudes, frames, position, plan):
    return _hops(amplitudes, frames, position, plan), (frames, position)


def _hops_backward(plan, kept, cotangent):
    """dA[m] = (w g)[m - 1] N[m - 1]^T + ((1 - w) g)[m] N[m]^T.

    Written into the one array that it gives, since that is as large as the bank.
    """
    frames, position = kept
    weights, hops, together, held = plan
    batch, bands = len(cotangent), frames.shape[1]
    count = cotangent.shape[1] - sum(held)
    share = jnp.asarray(weights, cotangent.dtype).reshape(1, 1, -1)

    def back(sound, hop):
        """From hops of sound [batch, n, hop] to amplitudes [batch, n, bands]."""
        noise = _slice(frames, position + hop, sound.shape[1], hops)
        found = lax.dot_general(
            jnp.swapaxes(sound, 0, 1),
            _as_float(noise, sound.dtype),
            (((2,), (2,)), ((0,), (0,))),
            precision=PRECISE,
        )
        return jnp.swapaxes(found, 0, 1)

    def some(carry, first, n):
        found, left = carry
        own = lax.dynamic_slice_in_dim(cotangent, held[0] + first, n, 1)
        both = back(jnp.concatenate([(1 - share) * own, share * own]), held[0] + first)
        now, later = both[:batch], both[batch:]
        now = now + jnp.concatenate([left, later[:, :-1]], 1)
        found = lax.dynamic_update_slice_in_dim(found, now, first, 1)
        return (found, later[:, -1:]), None

    carry = (
        jnp.zeros((batch, count + 1, bands), cotangent.dtype),
        jnp.zeros((batch, 1, bands), cotangent.dtype),
    )
    (found, left), _ = _scanned(some, carry, count, together)
    if held[1]:
        left = left + back(cotangent[:, -1:], held[0] + count)
    if held[0]:
        before = back(cotangent[:, :1], 0)
        if count:
            before = before + found[:, :1]
            found = lax.dynamic_update_slice_in_dim(found, before, 0, 1)
        else:
            left = left + before
    return lax.dynamic_update_slice_in_dim(found, left, count, 1), None, None


_hops.defvjp(_hops_forward, _hops_backward)
