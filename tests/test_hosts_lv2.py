"""LV2 plug-ins: ports become parameters, instances are clean, latency is gone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import lacking

from ddspx.parameters import default_controls
from styletransfer.hosts import HostEffect, Slot, open_host
from styletransfer.hosts.interface import PluginMissing
from styletransfer.hosts.response import probe_signal
from styletransfer.hosts.scan import describe
from styletransfer.presets import plugin_effect

ROOT = Path(__file__).parent.parent
MDA = "http://drobilla.net/plugins/mda/"
RATE = 24000


@pytest.fixture
def face():
    """Interface of an installed LV2 plug-in, or the test skips."""

    def read(uri: str):
        try:
            return describe("lv2", uri)
        except PluginMissing as error:
            lacking(str(error))

    return read


def rendered(
    uri: str, audio: np.ndarray, rate: float = RATE, fixed: dict | None = None
) -> np.ndarray:
    """A plug-in at its defaults but for what is fixed, through a worker."""
    held = tuple((fixed or {}).items())
    effect = HostEffect("one", (Slot("a", uri, (), held, kind="lv2"),))
    with open_host(effect, rate, workers=1) as host:
        result = host.render(audio[None], np.zeros((1, 0), np.float32))
    assert not result.status.any()
    return result.audio[0]


def test_toggles_and_enumerations_are_choices(face):
    combo = {spec.name: spec for spec in face(f"{MDA}Combo").parameters}
    assert combo["stereo"].choices == ("off", "on")
    assert len(combo["model"].choices) == 7
    assert combo["model"].choices[0] == "D.I. (flat frequency response)"
    assert combo["model"].default == 6.0  # the port's default is 1.0, the last
    assert (combo["drive"].low, combo["drive"].high, combo["drive"].default) == (
        0,
        1,
        0.5,
    )


def test_logarithmic_ports_units_and_designations_are_understood(face):
    equalizer = {
        spec.name: spec
        for spec in face("http://gareus.org/oss/lv2/fil4#mono").parameters
    }
    frequency, gain = equalizer["freq1"], equalizer["gain1"]
    assert (frequency.low, frequency.high, frequency.unit) == (20.0, 2000.0, "Hz")
    assert frequency.curve == "log" and gain.curve == "linear" and gain.unit == "dB"
    assert equalizer["q1"].default == 0.6  # not 0.6000000238


def test_side_chains_and_meters_are_no_parameters_and_no_channels(face):
    compressor = face("urn:zamaudio:ZamComp")
    assert (compressor.inputs, compressor.outputs) == (1, 1)
    assert set(compressor.read_only) == {"gr", "outlevel"}
    assert "thr" in {spec.name for spec in compressor.parameters}


def test_what_is_no_effect_is_refused():
    from styletransfer.hosts.interface import PluginError

    try:
        with pytest.raises(PluginError, match="0 audio inputs and 2 outputs"):
            describe("lv2", f"{MDA}EPiano")
    except PluginMissing as error:
        lacking(str(error))


@pytest.mark.parametrize(
    "uri, latency",
    [
        ("http://gareus.org/oss/lv2/phaserotate", 1792),
        ("http://gareus.org/oss/lv2/dpl#mono", 56),
        ("urn:zamaudio:ZaMaximX2", 480),
    ],
)
def test_reported_latency_is_taken_away(uri, latency, face):
    """An impulse comes out where it went in, as late as the plug-in says it is."""
    found = face(uri)
    assert found.latency_samples == latency
    audio = np.zeros((found.inputs, 20000), np.float32)
    audio[:, 9000] = 0.1
    output = rendered(uri, audio, 44100)
    assert output.shape == audio.shape
    assert int(np.argmax(np.abs(output[0]))) == 9000


@pytest.mark.parametrize("effect", ["RingMod", "Degrade", "RoundPan", "Tracker"])
def test_defaults_sound_as_the_same_values_set(effect, face):
    """MDA's wrapper keeps coefficients for 44.1 kHz of controls that never moved."""
    uri = f"{MDA}{effect}"
    specs = [s for s in face(uri).parameters if not s.choices]
    audio = np.repeat(probe_signal(RATE, 0.5)[None], 2, axis=0)
    at_default = rendered(uri, audio)
    # One in 10^7 away: another value for the wrapper, the same for the ear.
    moved = {s.name: (s.default or 0.0) * (1 - 1e-6) + 1e-7 for s in specs}
    beside = rendered(uri, audio, RATE, moved)
    level = np.sqrt(np.mean(at_default**2))
    assert np.sqrt(np.mean((at_default - beside) ** 2)) < 0.05 * level


def test_memory_that_a_plugin_never_wrote_is_zero(face, rng):
    """MDA Delay reads a cell beyond what it wrote where its delay is clamped."""
    face(f"{MDA}Delay")
    effect = plugin_effect(f"{MDA}Delay")
    controls = np.full((12, 6), 0.5, np.float32)
    controls[:, 0] = 1.0
    results = []
    for _ in range(2):
        with open_host(effect, RATE, workers=1) as host:
            for k in range(6):  # other sizes, other allocations before
                size = int(rng.integers(100, 30000))
                junk = rng.standard_normal((1, 2, size)).astype(np.float32)
                host.render(1e3 * junk, controls[:2])
                audio = np.repeat(probe_signal(RATE, 0.5)[None, None], 2, axis=1)
                results.append(host.render(audio, controls[k : k + 1]).audio)
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


@pytest.mark.parametrize("effect", ["Dither", "RezFilter", "TestTone"])
def test_plugins_that_use_rand_repeat(effect, face):
    face(f"{MDA}{effect}")
    description = plugin_effect(f"{MDA}{effect}")
    audio = np.repeat(probe_signal(RATE, 0.3)[None, None], 2, axis=1)
    controls = np.repeat(default_controls(description.specs)[None], 3, axis=0)
    with open_host(description, RATE, workers=1) as host:
        first = host.render(audio, controls).audio
    with open_host(description, RATE, workers=1) as host:
        other = host.render(audio, controls).audio
    np.testing.assert_array_equal(first[1], first[0])
    np.testing.assert_array_equal(other, first)


def test_work_that_a_plugin_schedules_is_done(face):
    """x42's convolver asks for a worker; without an impulse response it is silent."""
    uri = "http://gareus.org/oss/lv2/zeroconvolv#CfgMono"
    face(uri)
    output = rendered(uri, probe_signal(44100, 0.3)[None], 44100)
    assert np.isfinite(output).all()


def test_two_hosts_in_two_threads_do_not_upset_lilv(face):
    """lilv is not thread-safe: 4000 instances in two threads of one process."""
    face(f"{MDA}Overdrive")
    code = (
        "import threading, numpy as np\n"
        "from styletransfer.hosts.lv2 import Lv2Plugin\n"
        f"uris = ['{MDA}Overdrive', '{MDA}Ambience']\n"
        "audio = np.zeros((2, 64), np.float32)\n"
        "def work(uri):\n"
        "    plugin = Lv2Plugin(uri, 24000)\n"
        "    for _ in range(2000): plugin.run(audio, plugin.defaults)\n"
        "threads = [threading.Thread(target=work, args=(u,)) for u in uris]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "print('done')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "done" in done.stdout, done.stderr


@pytest.mark.parametrize("effect", ["Ambience", "Overdrive", "Combo", "MultiBand"])
def test_another_host_gives_the_same(effect, face, tmp_path):
    """lv2apply, of lilv's own tools, runs the plug-in one sample at a time."""
    import shutil

    import soundfile

    if shutil.which("lv2apply") is None:
        lacking("lv2apply is not installed; apt-get install lilv-utils")
    uri = f"{MDA}{effect}"
    specs = [s for s in face(uri).parameters if not s.choices]
    rng = np.random.default_rng(2)
    values = {s.name: round(float(rng.uniform(0.1, 0.9)), 3) for s in specs}
    audio = np.stack([probe_signal(44100, 0.4, k) for k in range(2)])
    soundfile.write(tmp_path / "in.wav", audio.T, 44100, subtype="FLOAT")
    command = ["lv2apply", "-i", tmp_path / "in.wav", "-o", tmp_path / "out.wav"]
    for name, value in values.items():
        command += ["-c", name, str(value)]
    subprocess.run([*command, uri], check=True, capture_output=True)
    theirs, _ = soundfile.read(tmp_path / "out.wav", dtype="float32")
    ours = rendered(uri, audio, 44100, values)
    np.testing.assert_allclose(theirs.T, ours, atol=1e-6 * np.abs(ours).max())
