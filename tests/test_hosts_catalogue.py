"""Every built-in: the table names what pedalboard has, and says true things of it."""

import dataclasses

import numpy as np
import pedalboard
import pytest

from ddspx.parameters import identity_controls, sample_controls
from styletransfer.hosts import HostEffect, Slot, open_host
from styletransfer.hosts.catalogue import (
    BUILTINS,
    default_controls_of,
    facts,
)
from styletransfer.hosts.engine import Engine
from styletransfer.hosts.probe import probe_signal

RATE = 24000
NOT_EFFECTS = {
    "AudioUnitPlugin", "Chain", "ExternalPlugin", "IIRFilter", "Mix", "Pedalboard",
    "Plugin", "PluginContainer", "VST3Plugin",
}  # fmt: skip
# Largest error of the identity setting on audio within [-1, 1]; see the catalogue.
IDENTITY = {
    "Bitcrush": 1e-4, "Chorus": 0, "Clipping": 0, "Compressor": 0, "Convolution": 0,
    "Delay": 0, "Gain": 0, "HighShelfFilter": 0, "LowShelfFilter": 0, "NoiseGate": 0,
    "PeakFilter": 0, "Phaser": 0, "PitchShift": 1e-6, "Reverb": 0,
}  # fmt: skip
# Slow codecs get short audio.
SECONDS = {"PitchShift": 0.2, "GSMFullRateCompressor": 0.2, "MP3Compressor": 0.2}


def impulse_response(tmp_path) -> str:
    path = tmp_path / "room.wav"
    decay = np.exp(-np.arange(2400) / 300).astype(np.float32)
    noise = np.random.default_rng(5).standard_normal(2400).astype(np.float32)
    with pedalboard.io.AudioFile(str(path), "w", RATE, 1) as file:
        file.write(0.2 * noise * decay)
    return str(path)


def single(plugin, tmp_path, controls=None) -> HostEffect:
    fixed = ()
    if "impulse_response_filename" in facts(plugin).required:
        fixed = (("impulse_response_filename", impulse_response(tmp_path)),)
    if controls is None:
        controls = facts(plugin).parameters
    return HostEffect(plugin, (Slot("p", plugin, controls, fixed),))


def signal(plugin, channels=1) -> np.ndarray:
    seconds = SECONDS.get(plugin, 0.5)
    rows = [probe_signal(RATE, seconds, seed=k) for k in range(channels)]
    return np.stack(rows)[None]


def test_the_catalogue_has_every_built_in_and_every_parameter():
    found = {}
    for name in dir(pedalboard):
        kind = getattr(pedalboard, name)
        if isinstance(kind, type) and issubclass(kind, pedalboard.Plugin):
            properties = [
                k
                for k in dir(kind)
                if isinstance(getattr(kind, k), property)
                and getattr(kind, k).fset is not None
            ]
            found[kind.__name__] = set(properties)
    for name in NOT_EFFECTS | {"_klass"}:
        found.pop(name, None)
    listed = {n: {s.name for s in f.parameters} for n, f in BUILTINS.items()}
    assert listed == found


@pytest.mark.parametrize("plugin", BUILTINS)
def test_any_setting_in_range_is_sound_and_every_control_changes_the_output(
    plugin, tmp_path, rng
):
    effect = single(plugin, tmp_path)
    count = len(effect.specs)
    with open_host(effect, RATE, backend="serial") as host:
        audio = signal(plugin)
        corners = rng.integers(0, 2, (6, count)).astype(np.float32)
        controls = np.concatenate([corners, sample_controls(host.specs, rng, (4,))])
        rendered = host.render(audio, controls)
        assert not rendered.status.any()
        assert np.abs(rendered.audio).max() < 1e3
        if plugin == "NoiseGate":
            audio = 0.03 * audio  # under its threshold
        # Not from the defaults, where a gain of 0 dB hides a frequency.
        base = rng.uniform(0.55, 0.85, (3, count)).astype(np.float32)
        base[:, [bool(spec.choices) for spec in host.specs]] = 0.0
        for i, spec in enumerate(host.specs):
            # A sweep, for a choice may equal another at one setting.
            rows = np.repeat(base, 3, axis=0)
            rows[:, i] = np.tile([0.1, 0.5, 0.9], 3)
            out = host.render(audio, rows).audio
            assert any(
                not np.array_equal(out[k], out[k + 1]) for k in (0, 1, 3, 4, 6, 7)
            ), spec.name


@pytest.mark.parametrize("plugin", IDENTITY)
def test_the_identity_setting_is_the_identity(plugin, tmp_path):
    with open_host(single(plugin, tmp_path), RATE, backend="serial") as host:
        audio = signal(plugin)
        assert any(spec.identity is not None for spec in host.specs)
        controls = identity_controls(host.specs)[None]
        error = np.abs(host.render(audio, controls).audio - audio).max()
    assert error <= IDENTITY[plugin]


def test_every_identity_that_the_catalogue_claims_is_tested():
    claimed = {
        name
        for name, known in BUILTINS.items()
        if any(spec.identity is not None for spec in known.parameters)
    }
    assert claimed == IDENTITY.keys() | {"HighpassFilter"}


def test_the_high_pass_does_least_at_its_lowest_cutoff(tmp_path):
    with open_host(single("HighpassFilter", tmp_path), RATE, backend="serial") as host:
        impulse = np.zeros((1, 1, RATE), np.float32)
        impulse[..., 0] = 1.0
        controls = identity_controls(host.specs)[None]
        response = np.fft.rfft(host.render(impulse, controls).audio[0, 0])
    level_db = 20 * np.log10(np.abs(response[200:]))  # one bin is one Hz
    assert np.abs(level_db).max() < 0.05


@pytest.mark.parametrize("plugin", BUILTINS)
def test_channels_are_independent_or_linked_as_the_catalogue_says(
    plugin, tmp_path, rng
):
    effect = single(plugin, tmp_path, default_controls_of(plugin))
    with open_host(effect, RATE, backend="serial") as host:
        audio = signal(plugin, channels=2)
        audio[:, 1] *= 0.1  # a limiter would treat it otherwise
        controls = 0.2 + 0.6 * sample_controls(host.specs, rng, (3,))
        both = host.render(audio, controls)
        assert not both.status.any()
        alone = [host.render(audio[:, k : k + 1], controls).audio for k in (0, 1)]
    same = np.array_equal(both.audio, np.concatenate(alone, axis=1))
    assert ("independent" if same else "linked") == facts(plugin).channels


@pytest.mark.parametrize("plugin", ["Reverb", "Phaser", "Delay", "Convolution"])
def test_a_render_does_not_depend_on_the_one_before(plugin, tmp_path, rng):
    effect = single(plugin, tmp_path).at_sample_rate(RATE)
    engine = Engine(effect, RATE)
    audio = signal(plugin)[0]
    first, second = sample_controls(effect.specs, rng, (2,))
    alone = Engine(effect, RATE).render(audio, second)
    engine.render(audio[:, ::-1].copy(), first)
    np.testing.assert_array_equal(engine.render(audio, second), alone)


def test_the_phaser_sits_at_its_centre_frequency_at_any_rate(tmp_path):
    # Made at 24 kHz and set afterwards equals pedalboard when it is used as it should.
    effect = single("Phaser", tmp_path).at_sample_rate(RATE)
    controls = np.full(5, 0.6, np.float32)
    audio = signal("Phaser")[0]
    plugin = pedalboard.Phaser()
    plugin.process(np.zeros((1, 4800), np.float32), RATE)
    for spec, value in zip(effect.slots[0].controls, controls, strict=True):
        setattr(plugin, spec.name, float(spec.to_physical(float(value))))
    expected = plugin.process(audio, RATE, reset=True)
    np.testing.assert_array_equal(
        Engine(effect, RATE).render(audio, controls), expected
    )


def test_choices_reach_the_plugin(tmp_path):
    audio = signal("LadderFilter")[0]
    effect = single("LadderFilter", tmp_path)
    mode = next(s for s in effect.slots[0].controls if s.name == "mode")
    fixed = (("cutoff_hz", 900.0), ("resonance", 0.3), ("drive", 2.0))
    slot = Slot("p", "LadderFilter", (mode,), fixed)
    engine = Engine(dataclasses.replace(effect, slots=(slot,)), RATE)
    for k, name in enumerate(mode.choices):
        expected = pedalboard.LadderFilter(
            getattr(pedalboard.LadderFilter, name), 900.0, 0.3, 2.0
        ).process(audio, RATE)
        controls = np.array([(k + 0.5) / len(mode.choices)], np.float32)
        np.testing.assert_array_equal(engine.render(audio, controls), expected)


def test_too_many_channels_are_an_error_and_not_wrong_audio(tmp_path):
    with open_host(single("Convolution", tmp_path), RATE, backend="serial") as host:
        rendered = host.render(np.ones((1, 3, 480)), np.full((1, 1), 0.5))
    assert rendered.status[0] == 3  # ERROR
    assert not rendered.audio.any()
