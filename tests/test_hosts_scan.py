"""Looking at plug-ins: those that crash, hang or lie are named and harm nothing."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from plugin_lies import DETUNE, hanging_library, lying_bundle, vst3_bundle

from styletransfer.hosts import HostEffect, Slot, Status, open_host
from styletransfer.hosts.interface import Interface, PluginError, PluginMissing
from styletransfer.hosts.pool import Patience, RenderPool
from styletransfer.hosts.scan import describe, installed, scan
from styletransfer.presets import EffectError, load_effect, parse_effect, plugin_effect

ROOT = Path(__file__).parent.parent
RATE = 24000


@pytest.fixture
def lies(tmp_path, monkeypatch, mda_library):
    """Makes lying bundles where nothing else is installed."""
    monkeypatch.setenv("LV2_PATH", str(tmp_path))
    library = mda_library / "Detune.so"
    return lambda **what: lying_bundle(tmp_path, what.pop("library", library), **what)


def test_a_plugin_that_crashes_while_it_is_scanned_is_named(lies):
    uri = lies(audio_ports=2)
    seen = []
    (found,) = scan([("lv2", uri)], report=seen.append)
    assert found.interface is None and "SIGSEGV" in found.trouble
    assert seen == [found]
    with pytest.raises(PluginError, match=r"crashes while it is loaded .SIGSEGV"):
        plugin_effect(uri)


def test_a_plugin_that_hangs_while_it_is_loaded_is_given_up_on(lies, tmp_path):
    uri = lies(library=hanging_library(tmp_path / "pipe.so"))
    with pytest.raises(PluginError, match=r"hangs: it was given 1.5 s"):
        describe("lv2", uri, 1.5)


def test_vst3_bundles_that_hang_or_hold_nonsense_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("VST3_PATH", str(tmp_path))
    hanging_library(vst3_bundle(tmp_path, "Hang"))
    vst3_bundle(tmp_path, "Nonsense").write_text("no library")
    with pytest.raises(PluginError, match=r"Hang.vst3 hangs: it was given 2 s"):
        describe("vst3", "Hang.vst3", 2)
    with pytest.raises(PluginError, match=r"Nonsense.vst3 cannot be loaded"):
        describe("vst3", "Nonsense")
    assert str(tmp_path / "Hang.vst3") in installed("vst3")


def test_a_pool_gives_up_on_a_plugin_that_hangs_when_it_is_opened(lies, tmp_path):
    effect = plugin_effect(lies())
    lies(library=hanging_library(tmp_path / "pipe.so"))
    patience = Patience(start_s=1.0, failures=1)
    with pytest.raises(RuntimeError, match=r"failed 2 times.*silent beyond"):
        RenderPool(effect, RATE, workers=1, patience=patience)


def test_what_is_missing_is_named_with_the_nearest_and_what_to_do(lies, monkeypatch):
    lies()
    with pytest.raises(PluginMissing, match=r"no LV2 plug-in.*mda/Detun'.*Detune'\?"):
        describe("lv2", "http://drobilla.net/plugins/mda/Detun")
    with pytest.raises(PluginMissing, match=r"no VST3 bundle 'Nowhere.vst3'"):
        describe("vst3", "Nowhere.vst3")
    text = "{package: tool-x, slots: {a: {plugin: Nowhere.vst3, backend: vst3}}}"
    with pytest.raises(PluginMissing, match=r"slot a.*apt-get install tool-x"):
        parse_effect(text, "x")
    with pytest.raises(PluginMissing, match=r"mda_delay.yaml.*apt-get install mda-lv2"):
        load_effect("mda_delay")


def test_a_missing_library_says_what_to_install_and_the_rest_works(tmp_path):
    """Where liblilv cannot be loaded, a VST3 or a built-in still can."""
    code = (
        "import ctypes\n"
        "real = ctypes.CDLL\n"
        "def none(name, *a, **k):\n"
        "    if name and 'lilv' in str(name): raise OSError(name)\n"
        "    return real(name, *a, **k)\n"
        "ctypes.CDLL = none\n"
        "from styletransfer.hosts.scanner import answer\n"
        "print(answer({'do': 'describe', 'kind': 'lv2', 'plugin': 'urn:x'}))\n"
        "from styletransfer.hosts import open_host\n"
        "from styletransfer.presets import load_effect\n"
        "open_host(load_effect('compressor'), 24000, backend='serial')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "'missing': 'LV2 plug-ins need the library liblilv; install" in done.stdout


def test_a_plugin_that_asks_for_more_than_this_host_has_is_refused(lies):
    uri = lies(says="lv2:requiredFeature <http://example.org/magic> ;")
    with pytest.raises(
        PluginError, match=r"needs of its host http://example.org/magic"
    ):
        describe("lv2", uri)


def test_a_plugin_that_crashes_at_a_setting_loses_that_item_alone(lies):
    """The code cannot bear what its Turtle allows: a real SIGSEGV in a real plug-in."""
    effect = plugin_effect(lies(high="1.0e9"))
    audio = 0.1 * np.random.default_rng(0).standard_normal((1, 1, RATE))
    controls = np.full((6, 4), 0.5, np.float32)
    controls[:, 0] = [0, 0, 0, 1, 0, 0]
    with open_host(effect, RATE, workers=2) as host:
        rendered = host.render(audio.astype(np.float32), controls)
        assert list(rendered.status) == [0, 0, 0, Status.FAILED, 0, 0]
        assert not rendered.audio[3].any() and rendered.audio[2].any()
        np.testing.assert_array_equal(rendered.audio[0], rendered.audio[5])
        assert host.counts["restarts"] - host.counts["timeouts"] == 2


def test_a_plugin_with_other_parameters_than_then_is_refused_with_the_difference(lies):
    effect = plugin_effect(lies())
    kept = HostEffect.from_json(effect.to_json())
    assert kept == effect and kept.slots[0].interface[0] == "detune 0..1"
    lies(name="detuning", high="2.0")
    with pytest.raises(
        ValueError,
        match=r"other parameters.*- detune 0..1; \+ detuning 0..2.*Install",
    ):
        open_host(kept, RATE, workers=1)
    unasked = dataclasses.replace(kept.slots[0], interface=())
    with pytest.raises(ValueError, match="has no parameter 'detune'"):
        open_host(dataclasses.replace(kept, slots=(unasked,)), RATE, workers=1)


def test_a_parameter_is_found_by_name_index_and_loose_spelling(lies):
    uri = lies()
    text = "{slots: {a: {plugin: '%s', backend: lv2, controls: %s}}}"
    for controls in ("[1]", "[mix]", "[Mix]"):
        (spec,) = parse_effect(text % (uri, controls), "x").specs
        assert spec.name == "a.mix"
    for wrong, hint in [
        ("[mixx]", "did you mean 'mix'"),
        ("[9]", "has no parameter 9"),
    ]:
        with pytest.raises(ValueError, match=hint):
            parse_effect(text % (uri, wrong), "x")
    with pytest.raises(ValueError, match=r"fresh True must be.*vst3 only"):
        parse_effect("{slots: {a: {plugin: Gain, fresh: true}}}", "x")


def test_formats_of_one_plugin_are_chosen(lies):
    uri = lies()
    text = (
        "{backend: lv2, slots: {a: {plugin: {lv2: '%s', pedalboard: Gain},"
        " controls: [%s]}, b: {plugin: Clipping, backend: pedalboard}}}"
    )
    chain = parse_effect(text % (uri, "mix"), "x", "lv2")
    assert [s.kind for s in chain.slots] == ["lv2", "pedalboard"]
    chain = parse_effect(text % (uri, "gain_db"), "x", "pedalboard")
    assert [s.plugin for s in chain.slots] == ["Gain", "Clipping"]
    with pytest.raises(ValueError, match=r"none of its plug-ins is given as vst3"):
        parse_effect(text % (uri, "mix"), "x", "vst3")
    with pytest.raises(
        ValueError, match=r"slot a: has no plug-in for jax, only for lv2"
    ):
        parse_effect(text % (uri, "mix"), "x", "jax")


def test_an_interface_survives_json(lies):
    face = describe("lv2", lies())
    assert Interface.from_dict(face.to_dict()) == face
    assert face.facts.parameter("mix").default == 0.5
    assert (face.inputs, face.outputs, face.latency_samples) == (2, 2, 0)


# --- the command line


def run_script(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "scripts/probe_effect.py", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_the_list_shows_what_loads_and_what_does_not(lies, tmp_path):
    lies(audio_ports=2)
    home = tmp_path / "home"
    hanging_library(vst3_bundle(home, "Hang"))
    done = run_script("--list", "--timeout-s", "3", VST3_PATH=str(home))
    assert done.returncode == 0, done.stderr
    assert "Compressor" in done.stdout
    assert f"{DETUNE}: lv2 plug-in {DETUNE} crashes while it is loaded" in done.stdout
    assert "Hang.vst3 hangs: it was given 3 s" in done.stdout


def test_a_preset_is_written_of_a_plugin_and_can_be_used(lies, tmp_path):
    preset = tmp_path / "mine.yaml"
    uri = lies(name="nothing")  # the code hears it, whatever its name is
    done = run_script(uri, "--write", str(preset), "--sample-rate", "24000")
    assert done.returncode == 0, done.stderr
    table = yaml.safe_load(preset.read_text())
    controls = table["slots"]["plugin"]["controls"]
    assert set(controls) <= {"nothing", "mix", "output", "latency"}
    for entry in controls.values():
        assert entry["epsilon"] >= 2 * entry["quantum"] > 0
    effect = load_effect(preset)
    spec = effect.specs[0]
    assert spec.epsilon == controls[spec.name.split(".")[1]]["epsilon"]
    again = run_script(uri, "--write", str(preset))
    assert again.returncode == 2 and "--overwrite" in again.stderr
    refused = run_script("compressor", "--write", str(tmp_path / "x.yaml"))
    assert refused.returncode == 2 and "is a preset already" in refused.stderr


def test_wrong_effect_names_end_with_one_line():
    for name in ("http://example.org/none", "None.vst3", "mda_dely"):
        done = run_script(name)
        assert done.returncode == 2, name
        assert done.stderr.count("\n") == 1 and done.stderr.startswith("probe_effect:")
    with pytest.raises(EffectError, match="did you mean 'mda_delay'"):
        load_effect("mda_dely")


def test_the_parent_process_loads_no_plugin(installed_effect):
    installed_effect("mda_overdrive")
    installed_effect("zam_compressor")
    code = (
        "import numpy as np, sys\n"
        "from styletransfer.hosts import open_host\n"
        "from styletransfer.presets import load_effect\n"
        "for name in ('mda_overdrive', 'zam_compressor'):\n"
        "    with open_host(load_effect(name), 24000, workers=1) as host:\n"
        "        controls = np.full((1, len(host.specs)), 0.5, np.float32)\n"
        "        assert not host.render(np.ones((1, 1, 99)), controls).status.any()\n"
        "maps = open('/proc/self/maps').read()\n"
        "print([w for w in ('lilv', 'mda.lv2', '.vst3', 'pedalboard') if w in maps])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.strip() == "[]", done


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "much"])
def test_a_fixed_value_that_is_no_number_never_reaches_a_plugin(lies, value):
    """MDA Detune would end the process on it."""
    slot = Slot("a", lies(), (), (("detune", value),), kind="lv2")
    with pytest.raises(ValueError, match="is not a finite number"):
        open_host(HostEffect("one", (slot,)), RATE, workers=1)
