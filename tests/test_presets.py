"""Effect files: every preset renders, and every mistake is named."""

import dataclasses
import pickle

import numpy as np
import pedalboard
import pytest

from ddspx.parameters import (
    default_controls,
    identity_controls,
    sample_controls,
    to_physical,
)
from styletransfer.hosts import HostEffect, open_host
from styletransfer.hosts.engine import Engine
from styletransfer.hosts.open import Backend
from styletransfer.hosts.probe import probe_signal
from styletransfer.presets import (
    EffectError,
    available_effects,
    kept_effect,
    kept_with,
    load_effect,
    parse_effect,
)

REQUIRED = {
    "channel_strip", "compressor", "reverb", "delay", "distortion", "chorus", "phaser",
    "full_chain",
}  # fmt: skip
# Presets with a setting that does nothing, and the largest error of it on audio within
# [-1, 1]; those with a high-pass only do least, see the test below.
IDENTITY = ("compressor", "reverb", "delay", "chorus", "phaser", "ladder_filter")


def backend_of(effect: HostEffect) -> Backend:
    """Third-party plug-ins stay out of the test process."""
    return "process" if effect.kinds & {"lv2", "vst3"} else "serial"


def test_the_promised_presets_are_there():
    assert set(available_effects()) >= REQUIRED


@pytest.mark.parametrize("name", available_effects())
@pytest.mark.parametrize("rate", [8000, 44100])
def test_every_preset_renders_and_every_control_changes_the_output(
    name, rate, rng, installed_effect
):
    audio = probe_signal(rate, 0.6)[None, None]
    effect = installed_effect(name)
    settings = 2
    if effect.kinds & {"lv2", "vst3"}:
        rate = max(rate, 16000)  # x42's equalizer gives NaN below
        # Some controls only move things between the channels, some work seldom.
        audio = np.stack([probe_signal(rate, 0.6, seed) for seed in (0, 1)])[None]
        settings = 8
    with open_host(effect, rate, backend=backend_of(effect), workers=1) as host:
        count = len(host.specs)
        assert all(s.high <= 0.45 * rate for s in host.specs if s.unit == "Hz")
        base = np.stack([default_controls(host.specs), np.full(count, 0.6)])
        base = np.concatenate([base, sample_controls(host.specs, rng, (settings,))])
        base = base.astype(np.float32)
        reference = host.render(audio, base)
        assert not reference.status.any()
        for i, spec in enumerate(host.specs):
            moved = base.copy()
            moved[:, i] = (moved[:, i] + 0.5) % 1.0
            change = np.abs(host.render(audio, moved).audio - reference.audio)
            assert change.max() > 1e-4, spec.name


@pytest.mark.parametrize("name", IDENTITY)
def test_the_identity_of_a_preset_is_the_identity(name):
    audio = probe_signal(24000, 0.5)[None, None]
    with open_host(load_effect(name), 24000, backend="serial") as host:
        rendered = host.render(audio, identity_controls(host.specs)[None])
    np.testing.assert_array_equal(rendered.audio, audio)


@pytest.mark.parametrize("name", ["channel_strip", "full_chain"])
def test_chains_with_a_high_pass_do_least_at_their_identity(name):
    impulse = np.zeros((1, 1, 24000), np.float32)
    impulse[..., 0] = 0.5
    with open_host(load_effect(name), 24000, backend="serial") as host:
        rendered = host.render(impulse, identity_controls(host.specs)[None])
    level_db = 20 * np.log10(np.abs(np.fft.rfft(rendered.audio[0, 0]))[200:] / 0.5)
    assert np.abs(level_db).max() < 0.05


def test_a_preset_is_the_chain_that_it_says(rng):
    effect = load_effect("compressor").at_sample_rate(24000)
    audio = probe_signal(24000, 0.5)[None]
    controls = sample_controls(effect.specs, rng)
    t, ratio, attack, release, gain = to_physical(
        effect.specs, controls.astype(np.float64)
    )
    expected = pedalboard.Gain(gain).process(
        pedalboard.Compressor(t, ratio, attack, release).process(audio, 24000), 24000
    )
    rendered = Engine(effect, 24000).render(audio, controls)
    np.testing.assert_allclose(rendered, expected, atol=1e-6)
    assert [s.name for s in effect.specs] == [
        "compressor.threshold_db",
        "compressor.ratio",
        "compressor.attack_ms",
        "compressor.release_ms",
        "gain.gain_db",
    ]


@pytest.mark.parametrize("name", available_effects())
def test_descriptions_survive_json_and_pickle(name, installed_effect):
    effect = installed_effect(name)
    assert HostEffect.from_json(effect.to_json()) == effect
    assert pickle.loads(pickle.dumps(effect)) == effect


def test_ranges_stay_under_nyquist_and_keep_an_octave():
    text = """
    slots:
      shelf:
        plugin: HighShelfFilter
        controls:
          cutoff_frequency_hz: {low: 6000, high: 16000, default: 12000}
    """
    effect = parse_effect(text, "x")
    limited = effect.at_sample_rate(8000).specs[0]
    assert (limited.low, limited.high, limited.default) == (1800.0, 3600.0, 3600.0)
    assert effect.at_sample_rate(44100) == effect


def test_yaml_narrows_fixes_and_bypasses():
    text = """
    name: mine
    tail_s: 2
    slots:
      filter:
        plugin: LadderFilter
        controls:
          cutoff_hz: {low: 100, high: 1000, curve: linear}
          mode: {choices: [BPF12, LPF24], default: LPF24}
        fixed: {drive: 2}
        bypass: control
      limiter:
        plugin: BrickwallLimiter
        controls: [ceiling_db, true_peak]
      off:
        plugin: Gain
        bypass: true
    """
    effect = parse_effect(text, "unused")
    assert (effect.name, effect.tail_s) == ("mine", 2.0)
    specs = {s.name: s for s in effect.specs}
    assert list(specs) == [
        "filter.cutoff_hz",
        "filter.mode",
        "filter.bypass",
        "limiter.ceiling_db",
        "limiter.true_peak",
    ]
    assert specs["filter.cutoff_hz"].curve == "linear"
    assert specs["filter.cutoff_hz"].default == 1000.0  # the catalogue's, still inside
    assert specs["filter.mode"].choices == ("BPF12", "LPF24")
    assert specs["filter.mode"].default == 1.0
    assert specs["limiter.true_peak"].choices == ("off", "on")


MISTAKES = {
    "did you mean 'Compressor'": "slots: {a: {plugin: Compresser}}",
    "did you mean 'threshold_db'": (
        "slots: {a: {plugin: Compressor, controls: [treshold]}}"
    ),
    "did you mean 'controls'": "slots: {a: {plugin: Gain, control: [gain_db]}}",
    "did you mean 'low'": "slots: {a: {plugin: Gain, controls: {gain_db: {lo: 1}}}}",
    "did you mean 'slots'": "slot: {a: {plugin: Gain}}",
    "given twice": "slots: {a: {plugin: Gain}, a: {plugin: Gain}}",
    "leaves what HighpassFilter can bear": (
        "slots: {a: {plugin: HighpassFilter, fixed: {cutoff_frequency_hz: -1}}}"
    ),
    "not a finite number": "slots: {a: {plugin: Gain, fixed: {gain_db: .nan}}}",
    "must be less than high": (
        "slots: {a: {plugin: Gain, controls: {gain_db: {low: 5, high: 1}}}}"
    ),
    "a log curve needs low > 0": (
        "slots: {a: {plugin: Gain, controls: {gain_db: {curve: log}}}}"
    ),
    "is not one of LPF12": "slots: {a: {plugin: LadderFilter, fixed: {mode: LPF}}}",
    "either controlled or fixed": (
        "slots: {a: {plugin: Gain, controls: [gain_db], fixed: {gain_db: 1}}}"
    ),
    "needs impulse_response_filename": "slots: {a: {plugin: Convolution}}",
    "is not true, false or control": "slots: {a: {plugin: Gain, bypass: maybe}}",
    "name at least one plug-in": "slots: {}",
    "expected a table": "- a\n- b",
    "not YAML": "slots: {a: [",
    "without a dot": "slots: {a.b: {plugin: Gain}}",
}


@pytest.mark.parametrize("expected", MISTAKES)
def test_a_mistake_is_one_error_that_names_file_and_fix(expected, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MISTAKES[expected])
    with pytest.raises(EffectError) as caught:
        load_effect(path)
    message = str(caught.value)
    assert expected in message and str(path) in message and "\n" not in message


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(EffectError, match="did you mean 'channel_strip'"):
        load_effect("chanel_strip")
    with pytest.raises(EffectError, match="cannot read effect file"):
        load_effect("missing.yaml")


def test_bypassed_slots_leave_the_audio_alone():
    text = "slots: {a: {plugin: Gain, fixed: {gain_db: 6}, bypass: %s}}"
    audio = probe_signal(24000, 0.1)[None]
    off = Engine(parse_effect(text % "true", "x"), 24000)
    np.testing.assert_array_equal(off.render(audio, np.zeros(0)), audio)
    switch = Engine(parse_effect(text % "control", "x"), 24000)
    np.testing.assert_array_equal(switch.render(audio, np.array([0.9])), audio)
    louder = switch.render(audio, np.array([0.1]))
    np.testing.assert_allclose(louder, audio * 10 ** (6 / 20), rtol=1e-6)


def test_an_engine_of_unknown_kind_is_refused():
    effect = load_effect("chorus")
    slot = dataclasses.replace(effect.slots[0], kind="clap")
    with pytest.raises(ValueError, match="no engine opens plug-ins of kind 'clap'"):
        Engine(dataclasses.replace(effect, slots=(slot,)), 24000)


def test_a_run_keeps_its_effect_and_refuses_another_with_the_difference(tmp_path):
    effect = load_effect("compressor")
    assert kept_effect(tmp_path) is None
    for name, text in kept_with(effect, tmp_path).items():
        (tmp_path / name).write_text(text)
    assert kept_with(effect, tmp_path)
    assert kept_effect(tmp_path) == effect
    (slot, gain) = effect.slots
    narrower = dataclasses.replace(slot.controls[1], high=10.0)
    controls = (slot.controls[0], narrower, *slot.controls[2:])
    other = dataclasses.replace(
        effect, slots=(dataclasses.replace(slot, controls=controls), gain)
    )
    with pytest.raises(
        EffectError,
        match=r"- compressor controls ratio 1..20; .* controls ratio 1..10\.",
    ):
        kept_with(other, tmp_path)
    exchanged = dataclasses.replace(
        effect, slots=(dataclasses.replace(slot, interface=("ratio 1..30",)), gain)
    )
    with pytest.raises(EffectError, match=r"\+ compressor has ratio 1..30\."):
        kept_with(exchanged, tmp_path)
    assert kept_effect(tmp_path) == effect
