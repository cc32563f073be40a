"""The suite of real devices, on boxes of known settings, and on the recordings."""

import json

import numpy as np
import pytest
import scipy.signal
from benchmarks import devices
from benchmarks.devices_baselines import filtered, level_gain, match_kernel
from benchmarks.devices_pairs import (
    DEVICES,
    Device,
    Excerpt,
    align,
    find_delay,
    load_device,
    pulse_delays,
)

from ddspx import audio as files
from ddspx.data.practice import render_piece
from styletransfer.hosts import open_host
from styletransfer.presets import available_effects, parse_effect

RATE = 24000
# A box that squashes and turns down, late and upside down.
BOX = """
slots:
  compressor:
    plugin: Compressor
    fixed: {threshold_db: -32, ratio: 6, attack_ms: 8, release_ms: 120}
  gain: {plugin: Gain, controls: [gain_db]}
"""
LATE = 30


@pytest.fixture(scope="module")
def music():
    return [
        0.5 * render_piece("strings", k, sample_rate=RATE)[:1, : 4 * RATE]
        for k in range(3)
    ]


@pytest.fixture(scope="module")
def box(tmp_path_factory, music):
    """A folder with three clips through the box."""
    root = tmp_path_factory.mktemp("pairs")
    with open_host(parse_effect(BOX, "box"), RATE, backend="serial") as host:
        for k, before in enumerate(music):
            after = host.render(before[None], np.array([[0.4]], np.float32)).audio[0]
            after = 0.01 - np.pad(after, ((0, 0), (LATE, 0)))[:, : before.shape[-1]]
            folder = root / "box" / f"clip{k}"
            folder.mkdir(parents=True)
            files.save(folder / "input.flac", before, RATE)
            files.save(folder / "target.flac", after, RATE)
    return root


def known(**changes):
    fields = {
        "folder": "box",
        "kind": "compressor",
        "chains": ("compressor", "distortion"),
        "fit": (Excerpt("clip0"), Excerpt("clip1", 0.5, 1.0)),
        "held": ("clip2",),
    }
    return Device(**{**fields, **changes})


@pytest.mark.parametrize("polarity", [1, -1])
@pytest.mark.parametrize("late", [-17, 0, 41])
def test_delay_and_polarity_are_found_behind_a_filter(music, late, polarity):
    # Plain correlation of these low notes is 13 samples and more off.
    taps = scipy.signal.butter(2, [60, 3000], "bandpass", fs=RATE, output="sos")
    before = scipy.signal.sosfilt(scipy.signal.butter(1, 0.05, output="sos"), music[0])
    after = np.roll(polarity * scipy.signal.sosfiltfilt(taps, before), late, axis=-1)
    found = find_delay([(before[0], after[0])], (-100, 100))
    assert (found.samples, found.polarity) == (late, polarity)


def test_aligned_output_is_on_time_upright_and_without_an_offset(music):
    before = music[0][0]
    after = 0.02 - 0.5 * np.roll(before, 25)
    pair = align("a", before, after, find_delay([(before, after)], (-50, 50)), RATE)
    assert pair.before.shape == pair.after.shape == (1, len(before) - 25)
    assert pair.constant == pytest.approx(0.02, abs=1e-3)
    assert np.abs(pair.after - 0.5 * pair.before).max() < 1e-6
    assert np.abs(pair.before - before[: len(before) - 25]).max() < 1e-2
    assert abs(pair.after.mean()) < 1e-5


def test_matching_equalizer_is_the_filter_and_keeps_time(rng):
    noise = rng.standard_normal((1, 10 * RATE)).astype(np.float32)
    sos = scipy.signal.butter(1, 2000, fs=RATE, output="sos")
    after = 0.3 * np.asarray(scipy.signal.sosfilt(sos, noise))
    kernel = match_kernel(noise, after, RATE)
    frequencies = np.array([200.0, 1000.0, 2000.0, 5000.0])
    turns = np.exp(-2j * np.pi * frequencies[:, None] / RATE * np.arange(len(kernel)))
    got = np.abs(turns @ kernel)
    wanted = 0.3 * np.abs(scipy.signal.sosfreqz(sos, frequencies, fs=RATE)[1])
    # Octaves wide, so that a slope is drawn out a little.
    np.testing.assert_allclose(20 * np.log10(got / wanted), 0.0, atol=0.7)
    click = np.zeros((1, 9001), np.float32)
    click[0, 4000] = 1.0
    assert np.argmax(np.abs(filtered(click, kernel))) == 4000
    assert level_gain(noise, 0.3 * noise) == pytest.approx(0.3)


def test_settings_of_their_own_are_judged_on_the_second_half(box):
    units = load_device(box, known(held=()))
    assert [unit.name for unit in units] == ["clip0", "clip1"]
    for unit in units:
        (held,) = unit.held
        total = held.pair.before.shape[-1]
        assert held.start == total // 2 > unit.before.shape[-1]
        (query,) = unit.queries
        np.testing.assert_array_equal(query.reference, held.pair.after[:, held.start :])
        np.testing.assert_array_equal(query.wanted, held.pair.after[:, : held.start])
        assert not np.array_equal(query.reference, query.wanted)


@pytest.mark.slow
def test_suite_finds_the_box_and_writes_all_it_promises(
    box, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(devices, "DEVICES", {"box": known()})
    out = tmp_path / "run"
    devices.main(
        [
            *("--data", str(box), "--devices", "box", "--workers", "1"),
            *("--renders", "80", "--style-renders", "30", "--out", str(out)),
        ]
    )
    report = json.loads(out.with_suffix(".json").read_text())["devices"]["box"]
    (unit,) = report["units"].values()
    for delay in unit["delays"].values():
        assert (delay["samples"], delay["polarity"]) == (LATE, -1)
    assert report["best"] == "compressor" and report["clips"] == 1
    rows = report["settings"]
    assert rows["compressor"]["fit_share"] < 0.2 < rows["distortion"]["fit_share"]
    assert report["verdict"]["opponent"] in devices.BASELINES
    assert report["verdict"]["ahead"][1] > 0.0 and report["verdict"]["wins"] == 1.0
    losses = {name: row["mrstft"][0] for name, row in rows.items()}
    assert losses["compressor"] < 0.5 * losses["match EQ"] < 0.5 * losses["nothing"]
    # What is rendered is as loud as the box, the same way up, and on time.
    assert abs(rows["compressor"]["level_db"]) < 0.5
    assert abs(rows["compressor"]["constant"]) < 1e-3
    assert rows["compressor"]["polarity"] == 1
    assert rows["compressor"]["late_samples"] == 0
    assert set(report["style"]) == {*devices.BASELINES, "compressor, search"}
    printed = capsys.readouterr().out
    assert printed.startswith(out.with_suffix(".md").read_text())
    assert "| box | **compressor** |" in printed
    assert (tmp_path / "run_box.png").read_bytes()[:4] == b"\x89PNG"


def test_sections_are_equal_and_none_is_too_short():
    made = list(devices.sections(np.zeros((1, 5 * RATE)), RATE))
    assert [part.shape for part in made] == [(1, 57344)] * 2
    with pytest.raises(ValueError, match="too short"):
        list(devices.sections(np.zeros((1, 100)), RATE))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "theremin"], "theremin.*choose from la2a"),
        (["--checkpoint", "channel_strip"], "give NAME=PATH"),
        (["--devices", "la2a", "--checkpoint", "reverb=run"], "none of the devices"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, arguments, message, monkeypatch):
    monkeypatch.setattr(devices, "load_effect", lambda name: name)
    with pytest.raises(ValueError, match=message):
        devices.main(["--data", str(tmp_path), *arguments])


def test_every_chain_is_a_preset():
    chains = {chain for device in DEVICES.values() for chain in device.chains}
    assert chains <= set(available_effects())


def test_delay_of_the_tape_is_what_its_pulses_say(data_root):
    device = DEVICES["tape"]
    for clip in ("io1", "io4"):
        folder = data_root / "pairs" / device.folder / clip
        pulses = pulse_delays(folder, device.lags)
        sounds = [files.load(folder / f"{n}.flac") for n in ("input", "target")]
        found = find_delay([tuple(s.samples[0] for s in sounds)], device.lags)
        # Wow and flutter move it by 3 samples RMS, so one number cannot be nearer.
        assert 2.0 < pulses.std() < 4.0
        assert abs(found.samples - pulses.mean()) < 3.0


def test_circuit_is_found_upside_down_and_the_compressor_early(data_root):
    root = data_root / "pairs"
    (klon,) = load_device(root, DEVICES["klon_50"], quick=True)
    (la2a,) = load_device(root, DEVICES["la2a"], quick=True)
    assert {d.polarity for d in klon.delays.values()} == {-1}
    assert {d.samples for d in klon.delays.values()} == {8}
    assert {(d.samples, d.polarity) for d in la2a.delays.values()} == {(-1, 1)}
    assert all(-0.02 < constant < -0.016 for constant in klon.constants.values())
