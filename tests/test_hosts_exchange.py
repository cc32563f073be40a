"""Settings that go to other programs are read back by those programs' libraries."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ddspx.parameters import sample_controls
from styletransfer.hosts import HostEffect, Slot, open_host
from styletransfer.hosts.engine import slot_settings
from styletransfer.hosts.exchange import preset_paths, save_presets
from styletransfer.hosts.interface import PluginError
from styletransfer.hosts.response import probe_signal
from styletransfer.hosts.scan import ask, describe

ROOT = Path(__file__).parent.parent
RATE = 24000


def controls_of(effect: HostEffect, seed: int = 0) -> np.ndarray:
    return sample_controls(effect.specs, np.random.default_rng(seed))


@pytest.mark.parametrize("name", ["zam_compressor", "zam_tube", "zam_delay"])
def test_a_vstpreset_is_read_back_by_pedalboard(name, installed_effect, tmp_path):
    """By pedalboard alone, in a process of its own: every raw value is there."""
    effect = installed_effect(name).at_sample_rate(RATE)
    controls = controls_of(effect)
    written = save_presets(effect, controls, tmp_path / "out", "mine")
    (slot,) = effect.slots
    path = written[slot.name]
    assert path == tmp_path / f"out.{slot.name}.vstpreset"
    assert path.read_bytes()[:4] == b"VST3"
    code = (
        "import json, sys, pedalboard\n"
        "p = pedalboard.load_plugin(sys.argv[1])\n"
        # What never moved is reported as it was before.
        "for q in p.parameters.values():\n"
        "    if q.is_automatable: q.raw_value = 0.9 if q.raw_value < 0.5 else 0.1\n"
        "p.load_preset(sys.argv[2])\n"
        "print(json.dumps({k: q.raw_value for k, q in p.parameters.items()}))\n"
    )
    from styletransfer.hosts.vst3_bundles import find_bundle

    bundle = str(find_bundle(slot.plugin)[0])
    done = subprocess.run(
        [sys.executable, "-c", code, bundle, str(path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.strip().split("\n")[-1])
    values = slot_settings(effect, list(controls))[slot.name]
    assert values is not None
    for spec in describe("vst3", slot.plugin).parameters:
        value = (dict(slot.fixed) | values).get(spec.name)
        if value is not None:
            place = spec.choices.index(value) if spec.choices else value
            raw = (place - spec.low) / (spec.high - spec.low)
            assert found[spec.name] == pytest.approx(raw, abs=1e-5), spec.name


def test_an_lv2_preset_is_found_and_read_back_by_lilv(
    installed_effect, tmp_path, monkeypatch
):
    effect = installed_effect("mda_combo").at_sample_rate(RATE)
    controls = controls_of(effect)
    written = save_presets(effect, controls, tmp_path / "out", "my combo")
    folder = written["combo"]
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.ttl", "preset.ttl"]
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from styletransfer.hosts.exchange import read_lv2_preset\n"
        "from styletransfer.hosts.lilv import lilv\n"
        "l = lilv()\n"
        "kind = l.uri('http://lv2plug.in/ns/ext/presets#Preset')\n"
        "applies = l.uri('http://lv2plug.in/ns/lv2core#appliesTo')\n"
        "plugin = l.uri('http://drobilla.net/plugins/mda/Combo')\n"
        "known = l.world_get(l.world, None, applies, plugin)\n"
        "values = read_lv2_preset(Path(sys.argv[1]))\n"
        "print(json.dumps([l.text(known), values]))\n"
    )
    paths = f"/usr/lib/lv2:{tmp_path}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "preset.ttl")],
        capture_output=True, text=True, check=True, cwd=ROOT,
        env={**os.environ, "LV2_PATH": paths},
    )  # fmt: skip
    subject, values = json.loads(done.stdout)
    assert subject, "lilv finds no preset of the plug-in"
    expected = slot_settings(effect, list(controls))["combo"]
    assert expected is not None
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, abs=1e-6)
    assert values["stereo"] == 0.0
    assert values["model"] == pytest.approx(1 / 6, abs=1e-6)


def test_presets_replace_and_bypassed_slots_have_none(installed_effect, tmp_path):
    effect = installed_effect("mda_overdrive")
    (slot,) = effect.slots
    gain = Slot("gain", "Gain")
    off = Slot("off", slot.plugin, kind="lv2", bypass=True)
    chain = HostEffect("chain", (gain, slot, off)).at_sample_rate(RATE)
    assert set(preset_paths(chain, tmp_path / "a.b")) == {slot.name}
    stem = tmp_path / "a.b"
    first = save_presets(chain, [0.1, 0.2, 0.3], stem, "x")[slot.name]
    text = (first / "preset.ttl").read_text()
    second = save_presets(chain, [0.9, 0.2, 0.3], stem, "x")[slot.name]
    assert second == first and (second / "preset.ttl").read_text() != text
    assert sorted(p.name for p in tmp_path.iterdir()) == [first.name]


def test_a_preset_that_cannot_be_written_is_said(tmp_path):
    effect = HostEffect("none", (Slot("a", "urn:nothing", kind="lv2"),))
    with pytest.raises(PluginError, match="LV2"):
        save_presets(effect, [], tmp_path / "out", "x")
    assert not list(tmp_path.iterdir())
    with pytest.raises(PluginError, match="crashes"):
        ask({"do": "write", "kind": "lv2"}, 30.0)


def test_transfer_writes_presets_and_takes_them_for_its_own(installed_effect, tmp_path):
    """From the command line: settings, preset, and what happens to existing ones."""
    effect = installed_effect("mda_overdrive")
    audio = probe_signal(RATE, 2.0)
    controls = np.array([[0.5, 0.3, 0.5]], np.float32)
    with open_host(effect, RATE, workers=1) as host:
        target = host.render(audio[None, None], controls).audio[0, 0]
    soundfile.write(tmp_path / "in.wav", audio, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "target.wav", target, RATE, subtype="FLOAT")
    command = [
        sys.executable, "scripts/transfer.py", str(tmp_path / "in.wav"), "--target",
        str(tmp_path / "target.wav"), "--effect", "mda_overdrive", "--renders", "120",
        "-o", str(tmp_path / "out.wav"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["distance"]["after"] < 0.1 * report["distance"]["before"]
    assert report["engine"] == "lv2"
    folder = Path(report["presets"]["overdrive"])
    assert folder == tmp_path / "out.overdrive.lv2"
    text = (folder / "preset.ttl").read_text()
    assert 'rdfs:label "out"' in text
    for name in ("out.wav", "out.json", "out.png"):
        (tmp_path / name).unlink()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "out.overdrive.lv2: exists already" in done.stderr
