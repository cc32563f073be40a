"""The likeliest path through the candidates of all frames (Viterbi).

States of a frame are its candidates and "unvoiced". A step between candidates costs in
proportion to the interval, up to a most; to begin or end a voiced stretch costs a
fixed amount. All costs are minus the logarithms of probabilities.
"""

import jax
import jax.numpy as jnp
from jax import lax

_NEVER = 1e-12


def best_path(
    log2_hz: jax.Array,
    probability: jax.Array,
    *,
    evidence: float,
    octave_jump: float,
    most_jump: float,
    switch: float,
) -> tuple[jax.Array, jax.Array]:
    """Viterbi's algorithm over candidates and the unvoiced state.

    Args:
      log2_hz: candidates [frames, candidates].
      probability: of each [frames, candidates]; what the likeliest lacks to 1 is that
        of unvoiced.
      evidence: weight of a frame's probabilities: below 1 where neighbouring frames
        share most of their sound.
      octave_jump: cost of a step of one octave from frame to frame.
      most_jump: most that a step can cost.
      switch: cost of beginning or ending a voiced stretch.

    Returns:
      Chosen candidate of each frame [frames], and whether the frame is voiced.
    """
    count = log2_hz.shape[-1]
    voiced = -jnp.log(jnp.maximum(probability, _NEVER))
    silent = -jnp.log(jnp.maximum(1.0 - probability.max(-1), _NEVER))
    emission = evidence * jnp.concatenate([voiced, silent[:, None]], axis=-1)

    def forward(carry, frame):
        total, before = carry
        pitches, cost = frame
        jump = jnp.abs(pitches[:, None] - before[None, :]) * octave_jump
        jump = jnp.minimum(jump, most_jump)
        jump = jnp.pad(jump, (0, 1), constant_values=switch)
        jump = jump.at[count, count].set(0.0)
        through = total[None, :] + jump
        origin = jnp.argmin(through, axis=1)
        total = jnp.min(through, axis=1) + cost
        # Only differences matter; hours of costs would lose them in float32.
        return (total - total.min(), pitches), origin.astype(jnp.int8)

    start = (emission[0], log2_hz[0])
    (total, _), origins = lax.scan(forward, start, (log2_hz[1:], emission[1:]))

    def backward(state, origin):
        return origin[state].astype(jnp.int32), state

    first, states = lax.scan(
        backward, jnp.argmin(total).astype(jnp.int32), origins, reverse=True
    )
    states = jnp.concatenate([first[None], states])
    return jnp.minimum(states, count - 1), states < count
