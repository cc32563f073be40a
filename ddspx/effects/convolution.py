"""Convolution with an impulse response, trainable or recorded, and streamed exactly.

Audio [channels, time]; levels are not clipped. An impulse response is an array and no
control in [0, 1]: give it to `convolve` or `convolution_reverb` inside a model, or to
the factory `convolution`, which may be called under `jax.grad` with a response that is
being trained.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float

from ddspx.effects.base import Effect, Processor, make_effect
from ddspx.parameters import ParameterSpec, plain
from ddspx.signal import fft_convolve
from ddspx.types import AnyArray, Rate, Signal

MAX_PRE_DELAY_MS = 100.0
# Energy falls by 60 dB: ln(10^6) per decay time, half of it for the amplitude.
LN_60_DB = 6.0 * float(np.log(10.0))


def convolution_state(channels: int, taps: int) -> jax.Array:
    """Silence before a stream: [channels, taps - 1] zeros."""
    return jnp.zeros((channels, taps - 1))


def convolve(
    state: Float[AnyArray, "channels past"],
    audio: Float[AnyArray, "channels time"],
    impulse_response: AnyArray,
) -> tuple[jax.Array, jax.Array]:
    """Causal convolution by overlap-add: one FFT a block.

        y[t] = sum_k h[k] x[t - k]

    Args:
      state: [channels, taps - 1], what earlier blocks still have to say.
      audio: [channels, time], a block of any length.
      impulse_response: [taps], or [channels, taps]; has a gradient.

    Returns:
      The next state and audio [channels, time].

    Raises:
      ValueError: state, audio and impulse response do not fit together.
    """
    taps, channels = impulse_response.shape[-1], audio.shape[0]
    if impulse_response.shape not in ((taps,), (1, taps), (channels, taps)):
        raise ValueError(
            f"an impulse response of shape {impulse_response.shape} does not fit"
            f" {channels} channels; give [taps] or [{channels}, taps]"
        )
    if state.shape != (channels, taps - 1):
        raise ValueError(
            f"{channels} channels and {taps} taps need a state of shape"
            f" {(channels, taps - 1)}, got {state.shape}; see convolution_state"
        )
    time = audio.shape[-1]
    if time == 0:
        return jnp.asarray(state), jnp.asarray(audio)
    full = jnp.asarray(fft_convolve(audio, impulse_response, "full"))
    full = full.at[:, : taps - 1].add(jnp.asarray(state, full.dtype))
    return full[:, time:], full[:, :time]


def convolution_reverb(
    audio: Signal, impulse_response: AnyArray, add_dry: bool = True
) -> jax.Array:
    """Reverb by a response whose sample of the direct sound is masked.

        y = x + h' * x, h'[0] = 0, h'[k] = h[k]

    With a trainable response the dry sound is then no matter of training.

    Args:
      audio: [..., time].
      impulse_response: [taps] or, leading dimensions as the audio's or 1, [..., taps].
      add_dry: whether x is added; else the wet sound alone.

    Returns:
      [..., time].

    Reference:
      Engel et al., "DDSP", ICLR 2020; magenta/ddsp effects.Reverb.
    """
    audio, response = jnp.asarray(audio), jnp.asarray(impulse_response)
    wet = jnp.asarray(fft_convolve(audio, response.at[..., 0].set(0.0), "causal"))
    return audio + wet if add_dry else wet


def convolution(
    sample_rate: Rate, *, impulse_response: AnyArray | None = None
) -> Effect:
    """A given impulse response with a mix and a pre-delay.

        y = (1 - mix) x + mix h[. - pre_delay] * x

    The pre-delay lies between samples by linear interpolation of the response, so that
    it has a gradient. The effect has an identity: mix 0.

    Args:
      sample_rate: Hz.
      impulse_response: [taps] or [channels, taps], at the sample rate; may be traced,
        and has a gradient. None: half a second of decaying noise of unit energy.

    Returns:
      An `Effect`.

    Raises:
      ValueError: the impulse response is not [taps] or [channels, taps], or empty.
    """
    response = (
        decaying_noise(sample_rate) if impulse_response is None else impulse_response
    )
    response = jnp.asarray(response)
    if response.ndim not in (1, 2) or response.size == 0:
        raise ValueError(
            "an impulse response is [taps] or [channels, taps], got shape"
            f" {response.shape}"
        )
    specs = (
        plain("mix", 0.0, 1.0, 0.5, identity=0.0),
        ParameterSpec(
            "pre_delay_ms", 0.0, MAX_PRE_DELAY_MS, "ms", default=0.0, identity=0.0
        ),
    )
    room = int(np.ceil(MAX_PRE_DELAY_MS / 1000.0 * float(sample_rate))) + 1
    taps = response.shape[-1] + room

    def init_state(channels):
        return convolution_state(channels, taps)

    def process(state, audio, values):
        samples = values["pre_delay_ms"] * (float(sample_rate) / 1000.0)
        late = _shifted(response.astype(audio.dtype), samples, room)
        state, wet = convolve(state, audio, late)
        return state, (1.0 - values["mix"]) * audio + values["mix"] * wet

    return make_effect(specs, Processor(init_state, process))


def decaying_noise(sample_rate: Rate, decay_s: float = 0.5) -> np.ndarray:
    """White noise that falls by 60 dB in `decay_s` seconds, of unit energy, float32.

    Args:
      sample_rate: Hz.
      decay_s: T60 and length in seconds.

    Returns:
      [taps], always the same.
    """
    taps = max(1, round(float(sample_rate) * decay_s))
    noise = np.random.default_rng(0).standard_normal(taps)
    noise *= np.exp(-0.5 * LN_60_DB * np.arange(taps) / taps)
    return (noise / np.sqrt(np.sum(noise**2))).astype(np.float32)


def _shifted(response: jax.Array, samples: Any, room: int) -> jax.Array:
    """[..., taps] to [..., taps + room], late by a fraction of at most `room` - 1."""
    samples = jnp.asarray(samples, response.dtype)
    whole = jnp.clip(jnp.floor(lax.stop_gradient(samples)), 0, room - 1)
    share = samples - whole
    none = [(0, 0)] * (response.ndim - 1)
    padded = jnp.pad(response, [*none, (room, room)])
    start, length = room - whole.astype(jnp.int32), response.shape[-1] + room

    def late(by):
        return lax.dynamic_slice_in_dim(padded, start - by, length, axis=-1)

    return (1.0 - share) * late(0) + share * late(1)
