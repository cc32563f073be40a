"""Rooms behind a synth: impulse responses that are trained, and a reverb that streams.

A response is an array of taps. It is trained as it is, or made of fewer parameters: a
gain and a decay, or magnitudes at frames. The direct sound, its first sample, is masked
and no matter of training. `ddspx.effects.convolution.convolution_reverb` applies it to
whole signals of any leading dimensions.

Example:
  ``through(synth, reverb(response)).render(controls, key)``
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from ddspx.effects.base import Processor
from ddspx.effects.convolution import LN_60_DB, convolution_state, convolve
from ddspx.synths.noise import filtered_noise, noise_hops
from ddspx.types import AnyArray, RandomKey, Rate


def reverb(impulse_response: AnyArray, *, add_dry: bool = True) -> Processor:
    """Convolution with a response whose sample of the direct sound is masked.

        y = x + h' * x, h'[0] = 0, h'[k] = h[k]

    One FFT of block and response a block: a block shorter than the response costs as
    much as the response. `partitioned_reverb` is for short ones.

    Args:
      impulse_response: [taps]; may be traced, and has a gradient.
      add_dry: whether x is added; else the wet sound alone.

    Returns:
      A `Processor` without values, whose state is as long as the response.

    Raises:
      ValueError: the response is not [taps] with two taps or more.

    Reference:
      Engel et al., "DDSP", ICLR 2020; magenta/ddsp effects.Reverb.
    """
    response = _masked(impulse_response)

    def process(state, audio, values):
        state, wet = convolve(state, audio, response.astype(audio.dtype))
        return state, audio + wet if add_dry else wet

    return Processor(
        lambda channels: convolution_state(channels, len(response)), process, True
    )


def exponential_response(
    key: RandomKey,
    taps: int,
    sample_rate: Rate,
    gain: AnyArray | float,
    decay_s: AnyArray | float,
) -> jax.Array:
    """Noise that decays exponentially: a room of two parameters.

        h[t] = gain 10^(-3 t / (sample_rate decay_s)) u[t],  u uniform in [-1, 1)

    Args:
      key: of the noise.
      taps: samples.
      sample_rate: Hz.
      gain: linear, number or traced; has a gradient.
      decay_s: time in which it falls by 60 dB, in seconds; so has it.

    Returns:
      [taps].

    Reference:
      magenta/ddsp effects.ExpDecayReverb, whose exp(-a t) over the unit interval is a
      decay of ln(1000) / a lengths.
    """
    gain, decay_s = jnp.asarray(gain), jnp.asarray(decay_s)
    noise = noise_hops(key, jnp.uint32(0), 1, taps)[0].astype(decay_s.dtype)
    rate = (0.5 * LN_60_DB / float(sample_rate)) / decay_s
    return gain * jnp.exp(-rate * jnp.arange(taps)) * noise


def filtered_noise_response(
    key: RandomKey, magnitudes: Float[AnyArray, "frames bins"], hop: int
) -> jax.Array:
    """Noise that a filter shapes on its way: a room of magnitudes at frames.

    Args:
      key: of the noise.
      magnitudes: [frames, bins], linear; has a gradient.
      hop: samples from frame to frame.

    Returns:
      [frames hop].

    Reference:
      magenta/ddsp effects.FilteredNoiseReverb.
    """
    # The rate is only a name for the frequencies of the bins.
    synth = filtered_noise(1, hop, magnitudes.shape[-1])
    return synth.render({"noise_magnitudes": magnitudes}, key)


def _masked(impulse_response: AnyArray) -> jax.Array:
    response = jnp.asarray(impulse_response)
    if response.ndim != 1 or len(response) < 2:
        raise ValueError(
            "an impulse response is [taps] with two taps or more, got shape"
            f" {response.shape}"
        )
    return response.at[0].set(0.0)


def partitioned_reverb(
    impulse_response: AnyArray, partition: int, *, add_dry: bool = True
) -> Processor:
    """`reverb` for streams of short blocks: the response is cut into partitions.

        Y[m] = sum_p H_p X[m - p],  spectra of 2 partition samples

    The same sound; of each partition of audio one FFT is taken each way, and products
    with the spectra of all parts of the response are summed.

    Args:
      impulse_response: [taps]; may be traced, and has a gradient.
      partition: samples; every block must be a multiple of it, such as a hop.
      add_dry: whether x is added; else the wet sound alone.

    Returns:
      A `Processor` without values, whose state is twice as long as the response.

    Raises:
      ValueError: the response is not [taps] with two taps or more, the partition is
        less than a sample, or (from its `process`) a block is no multiple of it.

    Reference:
      Gardner, "Efficient convolution without input-output delay", JAES 43(3), 1995.
    """
    response = _masked(impulse_response)
    if partition < 1:
        raise ValueError(f"a partition is 1 sample or more, got {partition}")
    parts, size = -(-len(response) // partition), 2 * partition
    filled = jnp.pad(response, (0, parts * partition - len(response)))
    bins = partition + 1

    def init_state(channels):
        spectra = jnp.zeros((parts, channels, bins), jnp.result_type(1j))
        return spectra, jnp.zeros((channels, partition)), jnp.zeros((), jnp.int32)

    def process(state, audio, values):
        channels, time = audio.shape
        if time % partition:
            raise ValueError(
                f"blocks are multiples of the partition of {partition} samples, got"
                f" {time}"
            )
        kernel = filled.astype(audio.dtype).reshape(parts, partition)
        # Last part first and twice: a slice then matches the ring at any place.
        kernel = jnp.fft.rfft(kernel, size)[::-1, None]
        kernel = jnp.concatenate([kernel, kernel])

        def step(carry, block):
            ring, before, place = carry
            spectrum = jnp.fft.rfft(jnp.concatenate([before, block], axis=-1))
            ring = lax.dynamic_update_index_in_dim(ring, spectrum, place, 0)
            # Slot s was filled (place - s) mod parts partitions ago.
            turned = lax.dynamic_slice_in_dim(kernel, parts - 1 - place, parts)
            wet = jnp.fft.irfft(jnp.sum(turned * ring, axis=0), size)
            return (ring, block, (place + 1) % parts), wet[:, partition:]

        ring, before, place = state
        carry = ring.astype(kernel.dtype), before.astype(audio.dtype), place
        blocks = jnp.moveaxis(audio.reshape(channels, -1, partition), 1, 0)
        carry, wet = lax.scan(step, carry, blocks)
        wet = jnp.moveaxis(wet, 0, 1).reshape(channels, time)
        return carry, audio + wet if add_dry else wet

    return Processor(init_state, process, True)
