"""Reverb by noise that is shaped in octave bands, each with a gain and a decay.

Audio [1 or 2, time]; levels are not clipped. Bands are cut out of one white noise a
channel by masks in frequency that add up to one, in float64 when the effect is made:
their sum is the noise itself, and the lowest is as sharp as the highest.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ddspx.effects.base import Effect, Processor, make_effect
from ddspx.effects.convolution import LN_60_DB, convolution_state, convolve
from ddspx.parameters import ParameterSpec, db, plain
from ddspx.types import AnyArray, RandomKey, Rate

OCTAVE_CENTRES_HZ = (31.5, 63, 125, 250, 500, 1000, 2000, 4000, 8000, 16000)
TOP_EDGE_HZ = 18000.0
# Width of a crossover: a third of an octave on each side of the edge.
_HALF_WIDTH_OCTAVES = 1.0 / 3.0
# Envelopes are made of two short exponentials: this many samples inside a frame.
_FRAME = 64


def noise_reverb(
    sample_rate: Rate, *, duration_s: float = 1.5, key: RandomKey | None = None
) -> Effect:
    """Noise-shaped reverberation: gain and decay per octave band, and a mix.

        h[t] = sum_k 10^(gain_k / 20) 10^(-3 t / (rate decay_k)) noise_k[t]
        y    = (1 - mix) x + mix h * x

    At 0 dB and a decay of one second in all bands h has unit energy. Bands that the
    rate has no room for are left out: there are twelve at 44.1 kHz, ten at 16 kHz.
    Bands are called by their middle in Hz. The effect has an identity: mix 0.

    Args:
      sample_rate: Hz.
      duration_s: length of the impulse response; longer decays are cut there.
      key: of the noise; None is always the same one.

    Returns:
      An `Effect` for one or two channels, each with a noise of its own.

    Raises:
      ValueError: the duration is not positive.

    Reference:
      Steinmetz, Ithapu and Calamia, "Filtered noise shaping for time domain room
      impulse response estimation from reverberant speech", WASPAA 2021.
    """
    taps = round(duration_s * sample_rate)
    if taps < 1:
        raise ValueError(
            f"duration_s {duration_s} at {sample_rate} Hz is less than a sample"
        )
    edges = band_edges_hz(sample_rate)
    # Drawn now, even where the effect is made inside a function that is being traced,
    # and in one precision, for other noise would come of the same key in another.
    with jax.ensure_compile_time_eval():
        key = jax.random.key(0) if key is None else key
        white = np.array(jax.random.normal(key, (2, taps), jnp.float32), np.float64)
    # Unit energy at a decay of one second: sum of exp(-ln(10^6) t / rate).
    white *= np.sqrt(LN_60_DB / sample_rate)
    noise = band_split(white, sample_rate, edges).astype(np.float32)
    names = _band_names(edges)
    specs = (
        *(db(f"gain_{name}_db", -48.0, 12.0, 0.0) for name in names),
        *(ParameterSpec(f"decay_{n}_s", 0.05, 3.0, "s", "log", 0.8) for n in names),
        plain("mix", 0.0, 1.0, 0.3, identity=0.0),
    )

    def init_state(channels):
        if channels not in (1, 2):
            raise ValueError(f"noise_reverb has two noises, got {channels} channels")
        return convolution_state(channels, taps)

    def process(state, audio, values):
        bands = jnp.asarray(noise[: audio.shape[0]], audio.dtype)
        gains_db = jnp.stack([jnp.asarray(values[f"gain_{n}_db"]) for n in names])
        decays_s = jnp.stack([jnp.asarray(values[f"decay_{n}_s"]) for n in names])
        gains = jnp.exp(gains_db * (np.log(10.0) / 20.0))
        rates = (0.5 * LN_60_DB / sample_rate) / decays_s
        # Made again for the gradient: shaped bands are many times the audio.
        shape = jax.checkpoint(shaped_noise)
        response = shape(bands, gains.astype(audio.dtype), rates.astype(audio.dtype))
        state, wet = convolve(state, audio, response)
        return state, (1.0 - values["mix"]) * audio + values["mix"] * wet

    return make_effect(specs, Processor(init_state, process))


def shaped_noise(
    bands: Float[AnyArray, "channels bands taps"],
    gains: Float[AnyArray, " bands"],
    rates: Float[AnyArray, " bands"],
) -> jax.Array:
    """An impulse response from bands of noise.

        h[c, t] = sum_k gains[k] exp(-rates[k] t) bands[c, k, t]

    Args:
      bands: [channels, bands, taps].
      gains: [bands], amplitudes.
      rates: [bands], nepers per sample.

    Returns:
      [channels, taps].
    """
    taps = bands.shape[-1]
    frames = -(-taps // _FRAME)
    # exp(-r (64 i + j)) = exp(-64 r i) exp(-r j): 64 times fewer exponentials.
    coarse = jnp.exp(-rates[:, None] * (_FRAME * jnp.arange(frames))[None])
    fine = jnp.exp(-rates[:, None] * jnp.arange(_FRAME)[None])
    coarse = gains[:, None] * coarse
    response = jnp.zeros((bands.shape[0], taps), bands.dtype)
    # Band by band, not by one sum over an axis: XLA for CPU (jaxlib 0.10.2) sums the
    # product of a long constant and an envelope wrongly.
    for k in range(bands.shape[1]):
        envelope = (coarse[k][:, None] * fine[k][None]).reshape(-1)[:taps]
        response = response + bands[:, k] * envelope[None]
    return response


def band_edges_hz(sample_rate: Rate) -> np.ndarray:
    """Edges between the bands: half an octave below each centre, and `TOP_EDGE_HZ`.

    Args:
      sample_rate: Hz.

    Returns:
      [bands - 1], those at most 0.42 of the rate.
    """
    edges = np.append(np.asarray(OCTAVE_CENTRES_HZ) / np.sqrt(2.0), TOP_EDGE_HZ)
    return edges[edges <= 0.42 * sample_rate]


def band_split(
    audio: Float[np.ndarray, "*lead time"],
    sample_rate: Rate,
    edges_hz: Float[np.ndarray, " edges"],
) -> np.ndarray:
    """Bands of a signal that is taken as periodic; they add up to it.

    Args:
      audio: [..., time], float64.
      sample_rate: Hz.
      edges_hz: [bands - 1], rising.

    Returns:
      [..., bands, time], float64. Neighbours cross by raised cosines over the
      logarithm of frequency, 0.5 each at the edge.
    """
    time = audio.shape[-1]
    frequency = np.fft.rfftfreq(time, 1.0 / float(sample_rate))
    octaves = np.log2(np.maximum(frequency, 1e-3)[None] / edges_hz[:, None])
    rise = np.clip(0.5 + 0.5 * octaves / _HALF_WIDTH_OCTAVES, 0.0, 1.0)
    above = 0.5 - 0.5 * np.cos(np.pi * rise)
    ones = np.ones((1, len(frequency)))
    masks = -np.diff(np.concatenate([ones, above, 0.0 * ones]), axis=0)
    return np.fft.irfft(np.fft.rfft(audio)[..., None, :] * masks, time)


def _band_names(edges_hz: np.ndarray) -> list[str]:
    middle = [f"{centre:g}" for centre in OCTAVE_CENTRES_HZ][: len(edges_hz)]
    names = [f"below_{edges_hz[0]:.0f}", *middle]
    if edges_hz[-1] == TOP_EDGE_HZ:
        names.append(f"above_{TOP_EDGE_HZ:.0f}")
    return [name.replace(".", "_") for name in names]
