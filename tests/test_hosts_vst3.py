"""VST3 plug-ins: what they say, how they are set, and what a reset must not lose."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import lacking

from ddspx.parameters import sample_controls
from styletransfer.hosts import HostEffect, Slot, open_host
from styletransfer.hosts.interface import PluginError, PluginMissing
from styletransfer.hosts.response import probe_signal
from styletransfer.hosts.scan import describe, installed
from styletransfer.hosts.vst3_bundles import bundles, find_bundle
from styletransfer.presets import load_effect, plugin_effect

ROOT = Path(__file__).parent.parent
RATE = 24000
MDA = (
    "ambience", "combo", "delay", "dynamics", "overdrive", "ring_mod", "multiband",
    "thru_zero", "leslie",
)  # fmt: skip


@pytest.fixture
def face():
    def read(plugin: str):
        try:
            return describe("vst3", plugin)
        except PluginMissing as error:
            lacking(str(error))

    return read


def test_kinds_of_parameters_are_recognised(face):
    compressor = face("ZamComp.vst3")
    specs = {spec.name: spec for spec in compressor.parameters}
    threshold = specs["threshold_db"]
    assert (threshold.low, threshold.high, threshold.unit) == (-80.0, 0.0, "dB")
    assert specs["sidechain"].choices == ("off", "on")
    assert set(compressor.read_only) == {
        "buffer_size_frames", "sample_rate_frames", "current_program",
        "gain_reduction_db", "output_level_db",
    }  # fmt: skip
    tube = {spec.name: spec for spec in face("ZamTube.vst3").parameters}
    assert tube["tone_stack_model"].choices[:2] == (
        "1959 Bassman 5F6-A", "Mesa Boogie Mark",
    )  # fmt: skip
    delay = {spec.name: spec for spec in face("ZamDelay.vst3").parameters}
    assert delay["divisor"].choices == ("1", "2", "3", "4", "5")
    assert delay["divisor"].default == 2.0


def test_bundles_are_found_by_name_path_and_variable(tmp_path, monkeypatch):
    (tmp_path / "Mine.vst3").mkdir()
    monkeypatch.setenv("VST3_PATH", str(tmp_path))
    mine = tmp_path / "Mine.vst3"
    for name in ("Mine", "Mine.vst3", str(mine), f"{mine}#Inner"):
        path, inner = find_bundle(name)
        assert path == mine and inner == ("Inner" if "#" in name else None)
    assert mine in bundles() and str(mine) in installed("vst3")
    with pytest.raises(PluginMissing, match=r"'Mihne', did you mean 'Mine.vst3'"):
        find_bundle("Mihne")


def test_what_lies_in_a_bundle_by_another_name_is_refused(face):
    face("ZamComp.vst3")
    with pytest.raises(PluginError, match="holds no plug-in 'Other', but 'ZamComp'"):
        describe("vst3", "ZamComp.vst3#Other")


@pytest.mark.parametrize("fresh", [False, True])
def test_no_value_is_lost_when_a_plugin_is_made_anew(fresh, face):
    """Settings at a default value, after others: the case that pedalboard loses.

    ZamTube is made anew at each reset. Set and then reset, its discrete parameters go
    back, and values that equal a default are not sent at all.
    """
    face("ZamTube.vst3")
    effect = load_effect("zam_tube")
    (slot,) = effect.slots
    model = next(
        s for s in describe("vst3", slot.plugin).parameters if "model" in s.name
    )
    fixed = tuple((n, v) for n, v in slot.fixed if n != model.name)
    controls = (*slot.controls, model)
    slot = Slot("a", slot.plugin, controls, fixed, kind="vst3", fresh=True)
    effect = HostEffect("tube", (slot,))
    audio = probe_signal(RATE, 0.4)[None, None]
    n = len(controls)
    settings = sample_controls(effect.specs, np.random.default_rng(1), (4,))
    # Bass, mids and treble at exactly their default of 5; the first model.
    settings[0, 1:4], settings[0, n - 1] = 0.5, 0.0
    settings[1, n - 1] = 0.99
    with open_host(effect, RATE, workers=1) as host:
        alone = host.render(audio, settings[:1]).audio
        order = settings[[1, 0, 2, 0, 3, 0]]
        after = host.render(audio, order).audio[1::2]
        if fresh:
            with open_host(effect, RATE, workers=1) as other:
                alone = other.render(audio, settings[:1]).audio
    for one in after:
        np.testing.assert_array_equal(one, alone[0])


def test_latency_is_taken_away(face):
    face("ZaMaximX2.vst3")
    effect = plugin_effect("ZaMaximX2.vst3")
    audio = np.zeros((1, 2, 12000), np.float32)
    audio[..., 5000] = 0.1
    controls = np.array([[0.5, 1.0, 1.0]], np.float32)
    with open_host(effect, 44100, workers=1) as host:
        output = host.render(audio, controls).audio[0]
    assert int(np.argmax(np.abs(output[0]))) == 5000


@pytest.mark.parametrize("name", ["ZaMaximX2", "ZamGate"])
def test_both_formats_of_a_plugin_give_the_same(name, face):
    """One code, two hosts of ours: pedalboard's VST3 and lilv's LV2, bit for bit."""
    face(f"{name}.vst3")
    uri = f"urn:zamaudio:{name}"
    vst3, lv2 = plugin_effect(f"{name}.vst3"), plugin_effect(uri)
    # Its Turtle says that some scales are logarithmic, VST3 says nothing of the kind.
    (slot,) = lv2.slots
    straight = tuple(dataclasses.replace(s, curve="linear") for s in slot.controls)
    lv2 = dataclasses.replace(
        lv2, slots=(dataclasses.replace(slot, controls=straight),)
    )
    assert len(vst3.specs) == len(lv2.specs)
    channels = describe("vst3", f"{name}.vst3").inputs
    audio = np.stack([probe_signal(44100, 0.5, k) for k in range(channels)])[None]
    # Knobs at ends and middles, where both scales hold the same number exactly.
    n = len(vst3.specs)
    controls = np.random.default_rng(4).integers(0, 3, (4, n)).astype(np.float32) / 2
    with open_host(vst3, 44100, workers=1) as host:
        one = host.render(audio, controls)
    with open_host(lv2, 44100, workers=1) as host:
        two = host.render(audio, controls)
    assert not one.status.any()
    np.testing.assert_array_equal(one.audio, two.audio)


@pytest.mark.parametrize("name", MDA)
def test_mda_as_vst3_equals_mda_as_lv2(name, installed_effect):
    """Where somebody has built the bundles (Debian has the LV2 only)."""
    lv2 = installed_effect(name := f"mda_{name}")
    try:
        vst3 = load_effect(name, "vst3")
    except PluginMissing as error:
        pytest.skip(str(error))  # not asked of CI
    audio = np.stack([probe_signal(RATE, 0.5, k) for k in range(2)])[None]
    controls = sample_controls(lv2.specs, np.random.default_rng(2), (4,))
    with open_host(lv2, RATE, workers=1) as host:
        one = host.render(audio, controls).audio
    with open_host(vst3, RATE, workers=1) as host:
        two = host.render(audio, controls).audio
    np.testing.assert_array_equal(one, two)


def test_a_bundle_by_relative_path_opens_in_workers(face, tmp_path, monkeypatch):
    face("ZamGate.vst3")
    real = find_bundle("ZamGate")[0]
    monkeypatch.chdir(tmp_path)
    Path("Local.vst3").symlink_to(real)
    assert find_bundle("./Local.vst3")[0] == Path("./Local.vst3")
    effect = plugin_effect("./Local.vst3")
    audio = probe_signal(RATE, 0.2)[None, None]
    with open_host(effect, RATE, workers=1) as host:
        rendered = host.render(audio, np.full((1, len(effect.specs)), 0.4, np.float32))
    assert not rendered.status.any()


def test_fresh_loads_for_each_render_what_pedalboard_never_makes_anew(face):
    """Counted in a process of its own: VST3 stays out of this one."""
    face("ZamGate.vst3")
    code = (
        "import numpy as np, pedalboard\n"
        "from styletransfer.hosts.vst3 import Vst3Plugin\n"
        "real, loads = pedalboard.load_plugin, []\n"
        "def counted(*a, **k):\n"
        "    loads.append(a)\n"
        "    return real(*a, **k)\n"
        "pedalboard.load_plugin = counted\n"
        "audio = 0.1 * np.ones((1, 500), np.float32)\n"
        "for fresh in (False, True):\n"
        "    plugin = Vst3Plugin('ZamGate.vst3', 24000, fresh)\n"
        "    before = len(loads)\n"
        "    made = [plugin.run(audio, {'threshold_db': -20.0}) for _ in range(3)]\n"
        "    same = all((m == made[0]).all() for m in made)\n"
        "    print(fresh, len(loads) - before, same)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.split() == ["False", "0", "True", "True", "3", "True"], done
