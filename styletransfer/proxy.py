"""Differentiable stand-ins of a black-box effect, learned from its renders.

A `Proxy` imitates one effect at one sample rate, so that its exact gradient can serve
the estimators as a control variate. It need not be right: whatever it gets wrong the
renders correct. Two kinds, and the trivial one that every other must beat:

* ``"spectral"``: a gain per band and frame, applied in the STFT domain. In dB it is the
  sum over the chain's slots of a static response (a small network of that slot's
  controls alone, as responses of filters in series add up), and of a dynamic part (a
  network of all controls and of the level that a learned detector response leaves,
  smoothed over several times). Meant for equalizers, dynamics and gains, under losses
  that see magnitudes; it knows nothing of echoes or of new frequencies.
* ``"tcn"``: dilated convolutions on the waveform, modulated by the controls (FiLM). It
  can make new frequencies; it costs far more and learns far more slowly.
* ``"identity"``: returns its input.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ddspx import losses, signal
from ddspx.types import AnyArray
from styletransfer.hosts.description import HostEffect

LOWEST_GAIN_DB, HIGHEST_GAIN_DB = -100.0, 60.0
# Mean square of a bin below which a band counts as silent: -90 dB of full scale.
SILENCE = 1e-9


@dataclass(frozen=True)
class ProxyConfig:
    """What a stand-in is made of.

    Attributes:
      kind: which network, see the module.
      window_s: STFT window (spectral), rounded up to a power of two in samples; the
        hop is a quarter of it.
      bands: mel-spaced bands (spectral).
      static_width: hidden units of each slot's network (spectral).
      dynamic_width: hidden units a frame (spectral).
      smoothing_ms: time constants of the level detectors (spectral).
      harmonics: cosines and sines of each control that the networks are given.
      channels: hidden channels (tcn).
      kernel: taps (tcn).
      dilations: one layer each (tcn).
    """

    kind: Literal["spectral", "tcn", "identity"] = "spectral"
    window_s: float = 0.04
    bands: int = 64
    static_width: int = 128
    dynamic_width: int = 96
    smoothing_ms: tuple[float, ...] = (12.0, 40.0, 130.0, 400.0)
    harmonics: int = 4
    channels: int = 12
    kernel: int = 9
    dilations: tuple[int, ...] = (1, 4, 16, 64, 256)


class Proxy(NamedTuple):
    """A stand-in of one effect; batch it with ``jax.vmap``.

    Attributes:
      init: ``(key) -> params``.
      render: ``(params, audio[channels, time], controls[n]) -> audio``.
      loss: ``(params, audio, controls, target[channels, time]) -> scalar``, what it is
        trained on: the distance of band levels in dB (spectral), else `distance`.
    """

    init: Callable[[jax.Array], Any]
    render: Callable[[Any, jax.Array, jax.Array], jax.Array]
    loss: Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]


def make_proxy(
    effect: HostEffect, sample_rate: int | float, config: ProxyConfig
) -> Proxy:
    """A stand-in for an effect, untrained.

    Args:
      effect: what it imitates; only the grouping of controls into slots is used.
      sample_rate: Hz.
      config: kind and sizes.

    Returns:
      A `Proxy`.
    """
    spans, count = _spans(effect)
    if config.kind == "spectral":
        return _spectral(spans, count, sample_rate, config)
    if config.kind == "tcn":
        return _tcn(count, config)

    def identity(params, audio, controls):
        return audio

    return Proxy(lambda key: {}, identity, _waveform_loss(identity))


def distance(audio: AnyArray, target: AnyArray) -> jax.Array:
    """Multi-resolution STFT distance of two sounds [channels, time], a scalar."""
    return jnp.mean(losses.multi_resolution_stft(audio, target)[0])


# ---------------------------------------------------------------------- spectral


class BandGains(nn.Module):
    """Gain in dB [frames, bands] from band powers [frames, bands] and controls [n]."""

    spans: tuple[tuple[int, ...], ...]
    config: ProxyConfig
    frame_s: float

    @nn.compact
    def __call__(self, powers, controls):
        """One channel; see the module for what is added up."""
        config, bands = self.config, powers.shape[-1]
        static, detector = jnp.zeros(bands), jnp.zeros(bands)
        for slot, span in enumerate(self.spans):
            hidden = _features(controls[np.asarray(span)], config.harmonics)
            for layer in range(2):
                hidden = nn.Dense(config.static_width, name=f"slot{slot}_{layer}")(
                    hidden
                )
                hidden = nn.silu(hidden)
            both = 6.0 * nn.Dense(2 * bands, name=f"slot{slot}_gains")(hidden)
            static, detector = static + both[:bands], detector + both[bands:]
        levels = self._levels(powers, detector)
        width = config.dynamic_width
        context = nn.Dense(width, name="context")(_features(controls, config.harmonics))
        scale, shift = jnp.split(nn.Dense(2 * width, name="film")(nn.silu(context)), 2)
        hidden = nn.silu(nn.Dense(width, name="level")(levels) + context[None])
        hidden = nn.Dense(width, name="mix")(hidden) * (1.0 + scale)[None]
        hidden = nn.silu(hidden + shift[None])
        hidden = nn.silu(nn.Dense(width, name="last")(hidden))
        broad = 6.0 * nn.Dense(1, name="broad_gain")(hidden)
        zeros = nn.initializers.zeros
        narrow = nn.Dense(bands, name="band_gains", kernel_init=zeros)(hidden)
        return jnp.clip(static[None] + broad + narrow, LOWEST_GAIN_DB, HIGHEST_GAIN_DB)

    def _levels(self, powers, detector):
        """What the detector hears now, a frame ago, and smoothed; of size 1."""
        heard = jnp.clip(detector, LOWEST_GAIN_DB, HIGHEST_GAIN_DB)
        power = jnp.sum(powers * 10.0 ** (heard / 10.0)[None], axis=-1) + SILENCE
        times = np.asarray(self.config.smoothing_ms) / 1000.0
        keep = jnp.asarray(np.exp(-self.frame_s / times), jnp.float32)

        def smooth(state, now):
            state = keep * state + (1.0 - keep) * now
            return state, state

        _, smoothed = jax.lax.scan(smooth, jnp.full(len(times), SILENCE), power)
        before = jnp.concatenate([power[:1], power[:-1]])
        heard = jnp.concatenate([power[:, None], before[:, None], smoothed], axis=1)
        return jnp.log10(heard) / 2.0 + 2.0


def _spectral(spans, count, sample_rate, config) -> Proxy:
    fft_size = 1 << int(np.ceil(np.log2(config.window_s * sample_rate)))
    hop = fft_size // 4
    to_bins = _band_matrix(fft_size, sample_rate, config.bands)
    # Mean of the squared magnitude, with a full-scale sine at about 1/4.
    from_bins = to_bins / np.sum(to_bins, 1, keepdims=True) / (fft_size / 2) ** 2
    module = BandGains(spans, config, hop / sample_rate)

    def powers(audio):
        spectrum = signal.stft_frames(audio, fft_size=fft_size, hop_length=hop)
        power = jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2
        weights = jnp.asarray(from_bins.T, jnp.float32)
        return spectrum, jnp.matmul(power, weights, precision=signal.PRECISE)

    def gains(params, bands, controls):
        apply = jax.vmap(lambda channel: module.apply(params, channel, controls))
        return jnp.asarray(apply(bands))

    @jax.jit  # op by op an initialisation takes ten times as long
    def init(key):
        return module.init(key, jnp.ones((4, config.bands)), jnp.full(count, 0.5))

    def render(params, audio, controls):
        spectrum, bands = powers(audio)
        gain_db = jnp.matmul(
            gains(params, bands, controls),
            jnp.asarray(to_bins, jnp.float32),
            precision=signal.PRECISE,
        )
        shaped = spectrum * 10.0 ** (gain_db / 20.0)
        shaped = jnp.moveaxis(shaped, -1, -2)
        wet = signal.istft(shaped, length=audio.shape[-1], hop_length=hop)
        return jnp.asarray(wet)

    def loss(params, audio, controls, target):
        before, after = powers(audio)[1], powers(target)[1]
        shaped = before * 10.0 ** (gains(params, before, controls) / 10.0)
        error = 10.0 * (jnp.log10(shaped + SILENCE) - jnp.log10(after + SILENCE))
        # Pseudo-Huber: near the end 0.3 dB matters, at the start 30 dB must not rule.
        return jnp.mean(jnp.sqrt(1.0 + error**2) - 1.0)

    return Proxy(init, render, loss)


def _band_matrix(fft_size: int, sample_rate: int | float, bands: int) -> np.ndarray:
    """Triangles [bands, bins] on the mel scale that add up to 1 at every bin."""
    mel = 2595.0 * np.log10(1.0 + np.fft.rfftfreq(fft_size, 1 / sample_rate) / 700.0)
    step = mel[-1] / (bands - 1)
    position = mel[None, :] / step - np.arange(bands)[:, None]
    matrix = np.maximum(0.0, 1.0 - np.abs(position))
    # Low bands are narrower than a bin: those that hold none borrow the nearest.
    for band in np.flatnonzero(matrix.sum(1) == 0.0):
        matrix[band, np.argmin(np.abs(position[band]))] = 1e-6
    return matrix


# --------------------------------------------------------------------------- TCN


class FilmTcn(nn.Module):
    """Dilated convolutions on a waveform [time], modulated by controls [n]."""

    config: ProxyConfig

    @nn.compact
    def __call__(self, audio, controls):
        """One channel; starts near the identity."""
        config = self.config
        context = nn.silu(nn.Dense(32)(_features(controls, config.harmonics)))
        hidden = nn.Dense(config.channels)(audio[:, None])
        for dilation in config.dilations:
            past = (config.kernel - 1) * dilation
            branch = nn.Conv(
                config.channels,
                (config.kernel,),
                kernel_dilation=(dilation,),
                padding=((past, 0),),
            )(hidden)
            scale, shift = jnp.split(nn.Dense(2 * config.channels)(context), 2)
            branch = branch * (1.0 + scale)[None] + shift[None]
            hidden = hidden + jnp.tanh(branch)
        added = nn.Dense(1, kernel_init=nn.initializers.normal(1e-3))(hidden)[:, 0]
        gain_db = nn.Dense(1, kernel_init=nn.initializers.zeros)(context)[0]
        return (audio + added) * 10.0 ** (6.0 * gain_db / 20.0)


def _tcn(count, config) -> Proxy:
    module = FilmTcn(config)

    @jax.jit
    def init(key):
        return module.init(key, jnp.zeros(64), jnp.full(count, 0.5))

    def render(params, audio, controls):
        return jnp.asarray(
            jax.vmap(lambda channel: module.apply(params, channel, controls))(audio)
        )

    return Proxy(init, render, _waveform_loss(render))


def _waveform_loss(render):
    def loss(params, audio, controls, target):
        return distance(render(params, audio, controls), target)

    return loss


def _features(controls, harmonics):
    """Controls [n] and their first cosines and sines [n (1 + 2 harmonics)]."""
    angles = np.pi * controls[:, None] * jnp.arange(1, harmonics + 1)[None, :]
    waves = [jnp.cos(angles).reshape(-1), jnp.sin(angles).reshape(-1)]
    return jnp.concatenate([2.0 * controls - 1.0, *waves])


def _spans(effect: HostEffect) -> tuple[tuple[tuple[int, ...], ...], int]:
    """Indices of each slot's controls, and the number of controls."""
    spans, start = [], 0
    for slot in effect.slots:
        if slot.controls and not slot.bypass:
            spans.append(tuple(range(start, start + len(slot.controls))))
            start += len(slot.controls)
    return tuple(spans), start
