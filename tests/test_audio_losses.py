"""Losses of sound: nothing at the target, slopes everywhere, and which suits what."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.parameters import ParameterSpec
from styletransfer.audio_losses import (
    AudioLossConfig,
    loss_for,
    make_audio_loss,
    phase_of,
)
from styletransfer.hosts import HostEffect, Slot
from styletransfer.hosts.probe import Probe
from styletransfer.hosts.response import probe_signal
from styletransfer.presets import load_effect

RATE = 8000
ALL = AudioLossConfig(stft=1.0, mel=1.0, waveform=1.0, style=1.0)
STEADY = Probe(
    "it", 8000.0, 0.0, 0.0, 0, 1.0, 0.0, 0.0, True, True, None, (), "independent", 0.0,
    0.25, (),
)  # fmt: skip


@pytest.mark.parametrize("name", ["mel", "waveform", "style"])
def test_it_is_nothing_at_the_target_and_leads_back_to_it(name):
    config = AudioLossConfig(**{"stft": 0.0, name: 1.0})
    loss = make_audio_loss(config, RATE)
    target = jnp.asarray(probe_signal(RATE, 0.2)[None])

    @jax.jit
    def both(gain):
        return jax.value_and_grad(lambda g: loss(g * target, {"target": target}))(gain)

    value, slope = both(1.0)
    assert value < 1e-4 and np.isfinite(slope)
    louder, up = both(1.3)
    softer, down = both(0.8)
    assert louder > 0.01 and softer > 0.01 and up > 0 > down
    silent, slope = both(0.0)
    assert np.isfinite(silent) and np.isfinite(slope)


def test_weights_add_up_and_nonsense_is_refused():
    config = AudioLossConfig(stft=0.0, waveform=2.0, mel=0.5)
    sound = jnp.asarray(probe_signal(RATE, 0.2)[None])
    example = {"target": 0.5 * sound}
    parts = [
        make_audio_loss(AudioLossConfig(**{"stft": 0.0, name: 1.0}), RATE)
        for name in ("waveform", "mel")
    ]
    waveform, mel = (float(part(sound, example)) for part in parts)
    assert waveform == pytest.approx(1.0, rel=0.01)  # twice as loud: all of it too much
    assert mel == pytest.approx(0.6, rel=0.05)  # 6 dB of 10
    total = make_audio_loss(config, RATE)(sound, example)
    assert float(total) == pytest.approx(2.0 * waveform + 0.5 * mel, rel=1e-5)
    with pytest.raises(ValueError, match="one or more above 0"):
        AudioLossConfig(stft=0.0)


@pytest.mark.parametrize(
    "name,phase",
    [
        ("channel_strip", "fixed"),
        ("compressor", "fixed"),
        ("distortion", "fixed"),
        ("full_chain", "moving"),
        ("chorus", "moving"),
        ("delay", "moving"),
        ("phaser", "moving"),
        ("reverb", "moving"),
    ],
)
def test_built_ins_are_known_by_what_they_do_to_the_phase(name, phase):
    assert phase_of(load_effect(name)) == phase
    assert (loss_for(load_effect(name)).waveform > 0) == (phase == "fixed")


def test_plug_ins_are_known_by_their_names_and_chance_by_its_measurement():
    knob = (ParameterSpec("speed"),)
    host = "http://example.org/chorus-and-more/"
    for plugin, phase in (
        (f"{host}Overdrive", "fixed"),
        (f"{host}Leslie", "moving"),
        ("mdaThruZero.vst3", "moving"),
        (f"{host}RingMod", "moving"),
    ):
        effect = HostEffect("it", (Slot("slot", plugin, knob, kind="lv2"),))
        assert phase_of(effect, STEADY) == phase
        noisy = dataclasses.replace(STEADY, deterministic=False)
        assert phase_of(effect, noisy) == "random"
    rolls = dataclasses.replace(STEADY, random=("slot.speed",))
    chosen = loss_for(effect, rolls)
    assert chosen.waveform == 0.0 and chosen.style > chosen.stft
