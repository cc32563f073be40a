"""Second-order sections in series as one block state-space: matrix products alone.

The cascade of n sections is one linear system of 2n states, those of the trapezoidal
(state-variable) realisation of each `Section`. A block of L samples is a fixed map,

    y = T x + O s,   s' = A^L s + R x,

whose matrices come from the controls by doubling, in a handful of small products. Cost
hardly grows with the number of sections. What is kept in place of a matrix A near the
identity is A - I, which holds the decay of a low cutoff to full precision.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ddspx.filters.analog import Section
from ddspx.units import array_module

# Full float32 in products: the default of accelerators rounds to bf16 or TF32.
_PRECISE = lax.Precision.HIGHEST
# Samples in a block. One or two sections move so few states that shorter blocks, whose
# matrices are cheaper, are up to a third faster, forward and back.
_BLOCK, _SHORT_BLOCK, _FEW_STATES = 64, 32, 4
# Blocks whose states are passed on one after the other; more are first paired.
_SEQUENTIAL_BLOCKS = 256


def state_space(sections: Section) -> tuple[Any, Any, Any, Any]:
    """The linear system of sections in series.

        s[t+1] = s[t] + E s[t] + B x[t];   y[t] = C s[t] + D x[t]

    Args:
      sections: [..., n].

    Returns:
      E [..., 2n, 2n], B [..., 2n], C [..., 2n], D [...]; states are ordered section by
      section, first integrator first.
    """
    xp = array_module(*sections)
    to_self, to_state, to_output, through = _one_by_one(sections)
    count = through.shape[-1]
    lead = through.shape[:-1]
    rows, columns = np.indices((count, count))
    later = (columns > rows).reshape((1,) * len(lead) + (count, count))
    # from_to[i, j]: what the output of section i becomes at the input of section j > i.
    gains = xp.where(later, through[..., None, :], 1.0)
    passed = xp.cumprod(gains, -1)
    from_to = xp.concatenate([xp.ones_like(passed[..., :1]), passed[..., :-1]], -1)
    from_to = xp.where(later, from_to, 0.0)
    swapped = xp.swapaxes(from_to, -1, -2)
    # [..., j, p, i, q]: state q of section i moves state p of section j.
    moves = (
        to_state[..., :, :, None, None]
        * swapped[..., :, None, :, None]
        * to_output[..., None, None, :, :]
    )
    own = np.eye(count, dtype=bool).reshape((1,) * len(lead) + (count, 1, count, 1))
    moves = moves + xp.where(own, to_self[..., :, :, None, :], 0.0)
    every = xp.cumprod(through, -1)
    one = xp.ones_like(every[..., :1])
    before = xp.concatenate([one, every[..., :-1]], -1)
    # What leaves a section reaches the end through those after it.
    after = xp.concatenate([passed[..., :-1, -1], one], -1)
    return (
        moves.reshape(*lead, 2 * count, 2 * count),
        (to_state * before[..., None]).reshape(*lead, 2 * count),
        (to_output * after[..., None]).reshape(*lead, 2 * count),
        every[..., -1],
    )


def _one_by_one(sections: Section) -> tuple[Any, Any, Any, Any]:
    """Each section's own E [..., 2, 2], B [..., 2], C [..., 2], D [...].

    The outputs' shares are minors of numerator and denominator, worked out by hand: a
    bell far below half the rate is its input and a small difference.
    """
    xp = array_module(*sections)
    b2, b1, b0 = (sections.numerator[..., i] for i in range(3))
    a2, a1, a0 = (sections.denominator[..., i] for i in range(3))
    k = sections.warp
    inverse = 1.0 / (a2 + k * (a1 + k * a0))
    scaled = 2.0 * k * inverse
    to_self = xp.stack(
        [
            xp.stack([-scaled * (a1 + k * a0), -scaled * a0], -1),
            xp.stack([scaled * a2, -scaled * k * a0], -1),
        ],
        -2,
    )
    to_state = xp.stack([scaled, scaled * k], -1)
    minor = b0 * a2 - b2 * a0
    to_output = xp.stack(
        [
            (b1 * a2 - b2 * a1 + k * minor) * inverse,
            (minor + k * (b0 * a1 - b1 * a0)) * inverse,
        ],
        -1,
    )
    through = (b2 + k * (b1 + k * b0)) * inverse
    return to_self, to_state, to_output, through


def block_filter(
    audio: jax.Array,
    sections: Section,
    state: jax.Array,
    block_length: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Filters block by block; see the module for the equations.

    Args:
      audio: [..., time], at least one sample.
      sections: [n], or [..., n] with leading dimensions that broadcast to the audio's.
      state: [..., 2n].
      block_length: samples, a power of two; None: what is fastest.

    Returns:
      Audio [..., time] and the state after it, [..., 2n].
    """
    time, dtype = audio.shape[-1], audio.dtype
    if block_length is None:
        block_length = _BLOCK if state.shape[-1] > _FEW_STATES else _SHORT_BLOCK
    while block_length >= 2 * time:
        block_length //= 2
    toeplitz, from_state, to_state, powers = jax.tree.map(
        lambda matrix: jnp.asarray(matrix, dtype),
        _block_matrices(sections, block_length),
    )
    count = -(-time // block_length)
    padding = [(0, 0)] * (audio.ndim - 1) + [(0, count * block_length - time)]
    blocks = jnp.pad(audio, padding).reshape(*audio.shape[:-1], count, block_length)
    arriving = _product(blocks, to_state)
    states = _states(powers[-1], arriving, state)
    out = _product(blocks, toeplitz) + _product(states, from_state)
    out = out.reshape(*audio.shape[:-1], count * block_length)[..., :time]
    # The last block may be cut short: its samples alone move the state to the end.
    rest = time - (count - 1) * block_length
    after = states[..., -1, :]
    for exponent, power in enumerate(powers):
        if rest >> exponent & 1:
            after = after + _apply(power, after)
    last = blocks[..., -1:, :rest]
    arrived = _product(last, to_state[..., block_length - rest :, :])
    return out, after + arrived[..., 0, :]


def _block_matrices(sections: Section, length: int) -> tuple[Any, Any, Any, list]:
    """T^T [..., L, L], O^T [..., 2n, L], R^T [..., L, 2n], and A^(2^i) - I, to A^L.

    Designs in NumPy give matrices in float64 NumPy, made while tracing.
    """
    xp = array_module(*sections)
    precision = {} if xp is np else {"precision": _PRECISE}

    def product(left, right):
        return xp.matmul(left, right, **precision)

    step, to_state, to_output, through = state_space(sections)
    arrivals, departures = to_state[..., None, :], to_output[..., None, :]
    powers = [step]
    while arrivals.shape[-2] < length:
        moved = product(arrivals, xp.swapaxes(step, -1, -2))
        arrivals = xp.concatenate([arrivals, arrivals + moved], -2)
        moved = product(departures, step)
        departures = xp.concatenate([departures, departures + moved], -2)
        step = 2.0 * step + product(step, step)
        powers.append(step)
    tail = product(departures, to_state[..., :, None])[..., :-1, 0]
    impulse = xp.concatenate([through[..., None], tail], -1)
    lag = np.arange(length)[None, :] - np.arange(length)[:, None]
    causal = (lag >= 0).reshape((1,) * (impulse.ndim - 1) + lag.shape)
    toeplitz = xp.where(causal, impulse[..., np.maximum(lag, 0)], 0.0)
    return (
        toeplitz,
        xp.swapaxes(departures, -1, -2),
        arrivals[..., ::-1, :],
        powers,
    )


def _states(power: jax.Array, arriving: jax.Array, start: jax.Array) -> jax.Array:
    """The state before each block [..., blocks, 2n]: s' = s + (A^L - I) s + arrival.

    Two blocks are one block of twice the length; halving goes on until few are left, so
    that no accelerator waits for thousands of steps in a row.
    """
    count = arriving.shape[-2]
    if count <= _SEQUENTIAL_BLOCKS:

        def step(state, arrival):
            return state + _apply(power, state) + arrival, state

        states = lax.scan(step, start, jnp.moveaxis(arriving, -2, 0))[1]
        return jnp.moveaxis(states, 0, -2)
    if count % 2:
        arriving = jnp.concatenate([arriving, jnp.zeros_like(arriving[..., :1, :])], -2)
    first, second = arriving[..., 0::2, :], arriving[..., 1::2, :]
    moves = jnp.swapaxes(power, -1, -2)
    paired = first + _product(first, moves) + second
    twice = 2.0 * power + jnp.matmul(power, power, precision=_PRECISE)
    even = _states(twice, paired, start)
    odd = even + _product(even, moves) + first
    states = jnp.stack([even, odd], -2).reshape(arriving.shape)
    return states[..., :count, :]


def _product(rows: jax.Array, matrix: jax.Array) -> jax.Array:
    return jnp.matmul(rows, matrix, precision=_PRECISE)


def _apply(matrix: jax.Array, state: jax.Array) -> jax.Array:
    # Multiply and add: inside a loop, a call of a product costs more than its numbers.
    matrix = matrix.reshape((1,) * (state.ndim + 1 - matrix.ndim) + matrix.shape)
    return (matrix * state[..., None, :]).sum(-1)
