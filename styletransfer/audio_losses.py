"""What a controller is judged by when it trains on sound, and which loss suits what.

Four distances of a render to its target, each about 1 where the two have little in
common, with weights:

    stft      multi-resolution STFT distance, as scoreboards have it
    mel       mel distance in dB, divided by 10 dB
    waveform  mean |render - target| / mean |target|
    style     square root of the style distance, which knows no moments, divided by 10

What may be asked depends on what an effect does to the phase of a waveform
(`loss_for`):

* *fixed* (filters, dynamics, distortion, gain): a small change of a setting changes the
  waveform a little, and all four have a slope that points home;
* *moving* (anything modulated, delays, reverbs): a small change of a rate or a time
  turns the phase of everything behind it, and the waveform's error is as large beside
  the truth as far from it, with no slope between. Spectra of short windows still see
  where modulation is, as it begins anew with each render;
* *random* (noise, free-running modulation): two renders of one setting differ. What is
  compared must not depend on the moment: the style distance, with the spectra at a
  tenth for what it leaves open.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ddspx import losses
from ddspx.types import Rate
from styletransfer.hosts.description import HostEffect
from styletransfer.hosts.probe import Probe
from styletransfer.style import StyleDistance

Phase = Literal["fixed", "moving", "random"]
# What makes one unit of loss: see the module.
_MEL_DB, _STYLE = 10.0, 10.0
# Mean magnitude below which a target counts as silent: -80 dB of full scale.
_SILENCE = 1e-4
# Words in the names of plug-ins and controls of effects that turn phases with time.
_MOVING = (
    "ambience", "chorus", "delay", "detune", "doppler", "echo", "flang", "leslie",
    "lfo", "modulat", "phaser", "pitch", "rate_hz", "reverb", "ringmod", "ring_mod",
    "rotary", "thruzero", "thru_zero", "tremolo", "vibrato",
)  # fmt: skip


@dataclass(frozen=True)
class AudioLossConfig:
    """Weights of the distances; see the module. Those of weight 0 are not computed.

    Attributes:
      stft: of the multi-resolution STFT distance.
      mel: of the mel distance.
      waveform: of the waveform's error.
      style: of the style distance.
    """

    stft: float = 1.0
    mel: float = 0.0
    waveform: float = 0.0
    style: float = 0.0

    def __post_init__(self):
        weights = (self.stft, self.mel, self.waveform, self.style)
        if not all(weight >= 0 for weight in weights) or not any(weights):
            raise ValueError(
                f"weights {weights} of an audio loss: give 0 or more each, and one or"
                " more above 0"
            )


def make_audio_loss(
    config: AudioLossConfig, sample_rate: Rate
) -> Callable[[jax.Array, Mapping[str, Any]], jax.Array]:
    """The loss ``(audio[channels, time], example) -> scalar``, differentiable.

    Args:
      config: weights.
      sample_rate: Hz.

    Returns:
      A function of a render and of an example whose ``"target"`` [channels, time] it
      is compared with; 0 where they are equal.
    """
    style = StyleDistance(sample_rate, 0.45 * sample_rate)

    def style_distance(audio, target):
        squared = style(style.features(audio), style.features(target))[0]
        # The root has no slope at 0; where the truth is found, nothing needs one.
        away = squared > 0.0
        return jnp.where(away, jnp.sqrt(jnp.where(away, squared, 1.0)), 0.0) / _STYLE

    parts: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
        "stft": lambda y, t: jnp.mean(losses.multi_resolution_stft(y, t)[0]),
        "mel": lambda y, t: (
            jnp.mean(losses.mel_distance(y, t, sample_rate=sample_rate)) / _MEL_DB
        ),
        "waveform": lambda y, t: (
            jnp.mean(losses.l1(y, t)) / (jnp.mean(jnp.abs(t)) + _SILENCE)
        ),
        "style": style_distance,
    }
    weights = {name: getattr(config, name) for name in parts}

    def loss(audio, example):
        target = jnp.asarray(example["target"])
        total = jnp.zeros(())
        for name, part in parts.items():
            if weights[name]:
                total += weights[name] * part(audio, target)
        return total

    return loss


def phase_of(effect: HostEffect, probe: Probe | None = None) -> Phase:
    """What an effect does to the phase of a waveform; see the module.

    Args:
      effect: its slots' plug-ins and controls are looked at by name.
      probe: what was measured of it, which alone tells chance; None where nobody did.

    Returns:
      ``"fixed"``, ``"moving"`` or ``"random"``. A plug-in of an unknown kind counts as
      fixed: a waveform loss is then worth a look at its curve.
    """
    if probe is not None and (
        not probe.deterministic or not probe.history_free or probe.random
    ):
        return "random"
    words = []
    for slot in effect.slots:
        if slot.bypass:
            continue
        # Of an address, what it ends with: its host says nothing of the effect.
        plugin = slot.plugin.rstrip("/").rpartition("/")[2]
        names = [plugin, slot.name, *(spec.name for spec in slot.controls)]
        words += [name.lower() for name in names]
    moving = any(word in name for word in _MOVING for name in words)
    return "moving" if moving else "fixed"


def loss_for(effect: HostEffect, probe: Probe | None = None) -> AudioLossConfig:
    """The loss that suits an effect; see the module.

    Args:
      effect: its description.
      probe: what was measured of it, without which chance goes unnoticed.

    Returns:
      Weights: of `AudioLossConfig`.
    """
    by_phase = {
        "fixed": AudioLossConfig(stft=1.0, waveform=0.5),
        "moving": AudioLossConfig(stft=1.0, style=0.5),
        "random": AudioLossConfig(stft=0.1, style=1.0),
    }
    return by_phase[phase_of(effect, probe)]
