"""Networks of delay lines with a damping filter each, and banks of damped combs.

Only the damping filter inside a loop runs from sample to sample; it is two small
triangular matrix products a block. The gradient runs the blocks again from states that
were kept on the way, so that its memory hardly grows with the number of lines.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ddspx.signal import PRECISE
from ddspx.types import AnyArray

# Samples of one row of the triangular matrix of the damping filter: 16 to 64 are
# equally fast on CPU.
_TILE = 32


class DelayGains(NamedTuple):
    """The gains of a `delay_network` of N lines, all differentiable.

    Attributes:
      inputs: [lines, inputs], from the audio into each line.
      outputs: [outputs, lines], from the end of each line to the output.
      damped: [lines], from the damping filter back into the loop.
      damping: [] or [lines], pole of the damping filter, in [0, 1).
      direct: [lines], around the damping filter; None for no such path.
      mixing: [lines, lines], feedback matrix; None for the identity.
    """

    inputs: Any
    outputs: Any
    damped: Any
    damping: Any
    direct: Any = None
    mixing: Any = None


class DelayState(NamedTuple):
    """What a `delay_network` remembers.

    Attributes:
      history: [lines, longest delay], the last samples that went into each line.
      damped: [lines], the last output of each damping filter.
    """

    history: jax.Array
    damped: jax.Array


def delay_network_state(delays: Sequence[int], dtype: Any = float) -> DelayState:
    """Silence in every line.

    Args:
      delays: samples, one per line.
      dtype: of the audio.

    Returns:
      A `DelayState` of zeros.

    Raises:
      ValueError: a delay is less than one sample.
    """
    delays = _checked(delays)
    lines = len(delays)
    return DelayState(
        jnp.zeros((lines, max(delays)), dtype), jnp.zeros((lines,), dtype)
    )


def delay_network(
    state: DelayState, audio: AnyArray, delays: Sequence[int], gains: DelayGains
) -> tuple[DelayState, jax.Array]:
    """Delay lines with a one-pole damping filter each and a feedback matrix.

        u_i[n] = w_i[n - D_i]
        v_i[n] = (1 - d_i) u_i[n] + d_i v_i[n - 1]
        w[n]   = B x[n] + M (alpha u[n] + beta v[n])
        y[n]   = C u[n]

    with B the input gains, C the output gains, M the mixing, alpha the direct and beta
    the damped gains. With M = 1 and alpha = 0 it is a bank of damped feedback combs
    (`comb_bank`), with an orthogonal M a feedback delay network.

    Args:
      state: from `delay_network_state` or the call before.
      audio: [inputs, time].
      delays: samples, one per line.
      gains: see `DelayGains`; numbers are taken in the precision of the audio.

    Returns:
      The next state and audio [outputs, time].

    Raises:
      ValueError: a delay is less than one sample, or gains do not fit the lines.

    Reference:
      Jot and Chaigne, "Digital delay networks for designing artificial reverberators",
      AES 90, 1991.
    """
    delays = _checked(delays)
    audio = jnp.asarray(audio)
    dtype = audio.dtype
    cast = jax.tree.map(lambda gain: jnp.asarray(gain, dtype), gains)
    lines = len(delays)
    shapes = {
        "inputs": (lines, audio.shape[0]),
        "outputs": (cast.outputs.shape[0], lines),
        "damped": (lines,),
        "direct": (lines,),
        "mixing": (lines, lines),
        "damping": (lines,) if cast.damping.ndim else (),
    }
    for name, shape in shapes.items():
        gain = getattr(cast, name)
        if gain is not None and gain.shape != shape:
            raise ValueError(
                f"{name} gains of shape {gain.shape} do not fit {lines} delay lines and"
                f" audio of shape {audio.shape}; expected {shape}"
            )
    if audio.shape[-1] == 0:
        return state, jnp.zeros((cast.outputs.shape[0], 0), dtype)
    return _compiled_network(delays, state, audio, cast)


def comb_bank(
    state: DelayState,
    audio: AnyArray,
    delays: Sequence[Sequence[int]],
    feedback: Any,
    damping: Any,
) -> tuple[DelayState, jax.Array]:
    """Sums of parallel feedback combs with a low-pass in each loop.

        H(z) = sum_i z^-D_i / (1 - f L(z) z^-D_i),  L(z) = (1 - d) / (1 - d z^-1)

    Args:
      state: from `delay_network_state` of all delays in order, or the call before.
      audio: [time], the input of every comb.
      delays: samples; one group per output, all of one size.
      feedback: f, number or traced scalar; stable below 1.
      damping: d in [0, 1), number or traced scalar.

    Returns:
      The next state and audio [groups, time].

    Raises:
      ValueError: groups differ in size, or a delay is less than one sample.

    Reference:
      Moorer, "About this reverberation business", CMJ 3(2), 1979; Jezar, Freeverb.
    """
    sizes = {len(group) for group in delays}
    if len(sizes) != 1:
        raise ValueError(f"groups of combs must be of one size, got {sorted(sizes)}")
    flat = [delay for group in delays for delay in group]
    outputs = np.kron(np.eye(len(delays)), np.ones(sizes.pop()))
    audio = jnp.asarray(audio)
    gains = DelayGains(
        inputs=np.ones((len(flat), 1)),
        outputs=outputs,
        damped=jnp.full(len(flat), feedback, audio.dtype),
        damping=damping,
    )
    return delay_network(state, audio[None], flat, gains)


def _checked(delays: Sequence[int]) -> tuple[int, ...]:
    delays = tuple(int(delay) for delay in delays)
    if not delays or min(delays) < 1:
        raise ValueError(f"delays must be at least one sample, got {delays}")
    return delays


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _network(delays, state, audio, gains):
    return _network_forward(delays, state, audio, gains)[0]


def _network_forward(delays, state, audio, gains):
    step = _Step(delays, gains, audio.shape[-1])

    def block(state, index):
        state, output, _ = step.forward(state, step.block(audio, index))
        return state, output

    def segment(state, indices):
        after, outputs = lax.scan(block, state, indices)
        return after, (outputs, state)

    outputs, starts = [], None
    if step.covered:
        state, (blocks, starts) = lax.scan(segment, state, step.indices)
        outputs.append(_join(blocks))
    rest = None
    if step.covered < audio.shape[-1]:
        left = audio[:, step.covered :]
        if left.shape[-1] > min(delays):
            (state, output), rest = _network_forward(delays, state, left, gains)
        else:
            start = state.damped
            state, output, damped = step.forward(state, left)
            rest = (damped, start)
        outputs.append(output)
    return (state, jnp.concatenate(outputs, -1)), (starts, rest, audio, gains)


def _network_backward(delays, saved, cotangents):
    starts, rest, audio, gains = saved
    state, output = cotangents
    step = _Step(delays, gains, audio.shape[-1])

    def again(state, index):
        start = state.damped
        state, _, damped = step.forward(state, step.block(audio, index))
        return state, (damped, start)

    def backward(carry, saved):
        index, (damped, start) = saved
        blocks = step.block(output, index), step.block(audio, index)
        return step.backward(carry, (*blocks, damped, start))

    def segment(carry, saved):
        indices, state = saved
        damped = lax.scan(again, state, indices)[1]
        return lax.scan(backward, carry, (indices, damped), reverse=True)

    to_gains, to_audio = jax.tree.map(jnp.zeros_like, gains), []
    if rest is not None:
        left = (output[:, step.covered :], audio[:, step.covered :])
        if left[0].shape[-1] > min(delays):
            state, block, to_gains = _network_backward(delays, rest, (state, left[0]))
        else:
            carry, block = step.backward((state, to_gains), (*left, *rest))
            state, to_gains = carry
        to_audio.append(block)
    if starts is not None:
        (state, to_gains), blocks = lax.scan(
            segment, (state, to_gains), (step.indices, starts), reverse=True
        )
        to_audio.insert(0, _join(blocks))
    return state, jnp.concatenate(to_audio, -1), to_gains


def _join(blocks):
    """[segments, blocks, rows, size] to [rows, time]."""
    blocks = blocks.reshape(-1, *blocks.shape[2:])
    return jnp.moveaxis(blocks, 0, 1).reshape(blocks.shape[1], -1)


_network.defvjp(_network_forward, _network_backward)
_compiled_network = jax.jit(_network, static_argnums=0)


class _Step:
    """One block of the network, forwards and backwards, and how many there are.

    Blocks come in segments, about as many as a segment has blocks: the gradient keeps
    the state before each segment and what is inside of one.
    """

    def __init__(self, delays: tuple[int, ...], gains: DelayGains, time: int):
        self.delays, self.gains = delays, gains
        shortest = min(delays)
        self.size, self.covered = time, 0
        if time > shortest:
            blocks = -(-time // shortest)
            length = math.isqrt(blocks)
            count = -(-blocks // length)
            self.indices = jnp.arange(count * length).reshape(count, length)
            self.size = time // self.indices.size
            # Whole tiles, if what is left then still is one block.
            tiles = self.size - self.size % _TILE
            if tiles and time - tiles * self.indices.size <= shortest:
                self.size = tiles
            self.covered = self.indices.size * self.size
        longest = max(self.size, min(time - self.covered, shortest))
        self.matrices = _damping_matrices(gains.damping, -(-longest // _TILE))

    def block(self, audio, index):
        return lax.dynamic_slice_in_dim(audio, index * self.size, self.size, axis=-1)

    def forward(self, state, block):
        gains, size = self.gains, block.shape[-1]
        history = state.history
        longest = history.shape[-1]
        ends = jnp.stack(
            [
                history[i, longest - delay : longest - delay + size]
                for i, delay in enumerate(self.delays)
            ]
        )
        fed = ends * _column(1.0 - gains.damping)
        damped = _one_pole(fed, state.damped, self.matrices, gains.damping)
        loop = _column(gains.damped) * damped
        if gains.direct is not None:
            loop = loop + _column(gains.direct) * ends
        if gains.mixing is not None:
            loop = _product(gains.mixing, loop)
        entering = _product(gains.inputs, block) + loop
        history = jnp.concatenate([history[:, size:], entering], -1)
        return (
            DelayState(history, damped[:, -1]),
            _product(gains.outputs, ends),
            damped,
        )

    def backward(self, carry, saved):
        """Cotangents of a block; names as in `forward`, for d loss / d name."""
        (state, to_gains), gains = carry, self.gains
        output, block, damped, start = saved
        size = block.shape[-1]
        longest = state.history.shape[-1]
        # The filters' past and, from it, their input.
        before = jnp.concatenate([start[:, None], damped[:, :-1]], -1)
        room = jnp.maximum(1.0 - gains.damping, jnp.finfo(block.dtype).eps)
        ends = (damped - _column(gains.damping) * before) / _column(room)

        entering = state.history[:, longest - size :]
        to_block = _product(gains.inputs.T, entering)
        loop = entering
        if gains.mixing is not None:
            loop = _product(gains.mixing.T, entering)
        to_ends = _product(gains.outputs.T, output)
        if gains.direct is not None:
            to_ends = to_ends + _column(gains.direct) * loop
        to_damped = (_column(gains.damped) * loop).at[:, -1].add(state.damped)
        to_fed = _one_pole_adjoint(to_damped, self.matrices)
        to_ends = to_ends + _column(1.0 - gains.damping) * to_fed

        to_damping = jnp.sum(to_fed * (before - ends), -1)
        added = DelayGains(
            inputs=_product(entering, block.T),
            outputs=_product(output, ends.T),
            damped=jnp.sum(loop * damped, -1),
            damping=to_damping if gains.damping.ndim else jnp.sum(to_damping),
            direct=None if gains.direct is None else jnp.sum(loop * ends, -1),
            mixing=None
            if gains.mixing is None
            else self._mixing(entering, damped, ends),
        )
        history = jnp.pad(state.history[:, : longest - size], ((0, 0), (size, 0)))
        places = [
            jnp.pad(to_ends[i], (longest - delay, delay - size))
            for i, delay in enumerate(self.delays)
        ]
        history = history + jnp.stack(places)
        state = DelayState(history, gains.damping * to_fed[:, 0])
        return (state, jax.tree.map(jnp.add, to_gains, added)), to_block

    def _mixing(self, entering, damped, ends):
        loop = _column(self.gains.damped) * damped
        if self.gains.direct is not None:
            loop = loop + _column(self.gains.direct) * ends
        return _product(entering, loop.T)


def _column(gain):
    return gain[:, None] if gain.ndim else gain


def _product(left, right):
    return jnp.matmul(left, right, precision=PRECISE)


def _damping_matrices(damping, tiles):
    """Powers of the pole: within a tile [.., 32, 32], between tiles [.., n, n]."""
    place, tile = np.arange(_TILE), np.arange(tiles)
    lag = place[:, None] - place[None, :]
    gap = tile[:, None] - tile[None, :] - 1
    pole = damping[..., None, None]
    return _powers(pole, lag, 1), _powers(pole, gap, _TILE)


def _powers(pole, steps, stride):
    """``pole^(stride steps)`` where steps >= 0, else 0; steps [n, n]."""
    shape = (1,) * (pole.ndim - 2) + steps.shape
    exponent = np.maximum(steps, 0) * stride
    powers = jnp.power(pole, jnp.asarray(exponent, pole.dtype).reshape(shape))
    return jnp.where(jnp.asarray(steps >= 0).reshape(shape), powers, 0.0)


def _tiled(rows):
    lines, time = rows.shape
    tiles = -(-time // _TILE)
    rows = jnp.pad(rows, ((0, 0), (0, tiles * _TILE - time)))
    return rows.reshape(lines, tiles, _TILE), tiles


def _one_pole(rows, start, matrices, damping):
    """``y[n] = x[n] + d y[n - 1]`` of [lines, time], from y[-1] = start [lines]."""
    time = rows.shape[-1]
    within, between = matrices
    rows, tiles = _tiled(rows.at[:, 0].add(damping * start))
    between = between[..., :tiles, :tiles]
    local = _product(rows, jnp.swapaxes(within, -1, -2))
    carried = _product(local[:, None, :, -1], jnp.swapaxes(between, -1, -2))[
        :, 0
    ]  # the filter's output just before each tile
    # d^(k + 1): the last row of the matrix, reversed, times d.
    fade = within[..., -1, ::-1] * _column(damping)
    fade = fade.reshape(-1, 1, _TILE)
    local = local + carried[:, :, None] * fade
    return local.reshape(local.shape[0], -1)[:, :time]


def _one_pole_adjoint(rows, matrices):
    """``y[n] = x[n] + d y[n + 1]`` of [lines, time], from zero behind the end."""
    time = rows.shape[-1]
    within, between = matrices
    rows, tiles = _tiled(rows)
    between = between[..., :tiles, :tiles]
    local = _product(rows, within)
    carried = _product(local[:, None, :, 0], between)[:, 0]
    # d^(32 - k): powers of the last row times d.
    fade = within[..., -1, :] * within[..., 1, :1]
    fade = fade.reshape(-1, 1, _TILE)
    local = local + carried[:, :, None] * fade
    return local.reshape(local.shape[0], -1)[:, :time]
