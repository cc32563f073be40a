"""The probe finds what is known of effects that were chosen because it is known."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ddspx.parameters import ParameterSpec
from styletransfer.hosts import HostEffect, Slot
from styletransfer.hosts.probe import LARGEST_EPSILON, SMALLEST_EPSILON, probe_effect
from styletransfer.hosts.response import (
    decay_seconds,
    lag_samples,
    level_change_db,
    log_spectrum_db,
    probe_signal,
)
from styletransfer.presets import load_effect

ROOT = Path(__file__).parent.parent
RATE = 16000


@pytest.fixture(scope="module")
def compressor():
    return probe_effect(load_effect("compressor"), RATE)


def test_a_gain_in_db_moves_level_and_spectrum_by_its_range(compressor):
    gain = {p.name: p for p in compressor.parameters}["gain.gain_db"]
    assert gain.rms_db_per_unit == pytest.approx(48.0, rel=1e-3)
    # The floor of the log spectrum takes a part of the bands out.
    assert 20.0 < gain.spectrum_db_per_unit <= 48.0
    assert gain.epsilon * gain.spectrum_db_per_unit == pytest.approx(0.25, rel=0.05)


def test_a_compressor_is_what_it_is_known_to_be(compressor):
    assert compressor.deterministic and compressor.history_free
    assert compressor.channels == "independent"
    assert (compressor.latency_samples, compressor.unusable) == (0, 0.0)
    assert compressor.latency_correlation > 0.9
    assert compressor.tail_80db_s < 0.1
    assert 0.0 < compressor.seconds_per_second < 0.1
    assert compressor.epsilon.shape == compressor.quantum.shape == (5,)
    assert (compressor.epsilon >= 2 * compressor.quantum).all()
    assert (compressor.epsilon >= np.float32(SMALLEST_EPSILON)).all()
    assert (compressor.epsilon <= np.float32(LARGEST_EPSILON)).all()


def test_measurements_repeat_and_reach_json(compressor):
    again = probe_effect(load_effect("compressor"), RATE, backend="thread", workers=2)
    assert again.parameters == compressor.parameters
    table = json.loads(compressor.to_json())
    assert table["effect"] == "compressor"
    assert [p["name"] for p in table["parameters"]][-1] == "gain.gain_db"


def test_tail_and_stereo_of_a_reverb():
    report = probe_effect(load_effect("reverb"), RATE)
    assert report.channels == "linked"
    assert 0.3 < report.tail_60db_s < report.tail_80db_s < 6.0


def test_the_tail_of_a_delay_follows_from_its_feedback():
    fixed = (("delay_seconds", 0.25), ("feedback", 0.5), ("mix", 0.5))
    slot = Slot("d", "Delay", (), fixed)
    gain = Slot("g", "Gain", (ParameterSpec("gain_db", -1.0, 1.0, "dB"),))
    report = probe_effect(HostEffect("delay", (slot, gain)), RATE)
    # Each echo is 6 dB under the one before it: the tenth is about 60 dB down.
    assert report.tail_60db_s == pytest.approx(2.5, abs=0.3)
    assert report.tail_80db_s == pytest.approx(3.4, abs=0.3)


def test_choices_have_the_quantum_of_their_number():
    report = probe_effect(load_effect("ladder_filter"), RATE)
    quanta = {p.name: p.quantum for p in report.parameters}
    assert quanta["filter.mode"] == pytest.approx(1 / 6)
    assert quanta["filter.bypass"] == 0.5
    assert report.epsilon.max() <= 0.5
    assert quanta["filter.cutoff_hz"] < 1e-4


def test_a_stepped_parameter_shows_its_step():
    # LAME knows its quality in tenths at best: most of a small step changes no bit.
    quality = ParameterSpec("vbr_quality", 0.0, 9.0)
    effect = HostEffect("mp3", (Slot("codec", "MP3Compressor", (quality,)),))
    (parameter,) = probe_effect(effect, RATE).parameters
    assert parameter.quantum > 1e-3
    assert parameter.epsilon >= 2 * parameter.quantum


def test_audio_to_probe_with_is_checked():
    for bad in (np.zeros((1, 100)), np.full((1, 100), np.nan)):
        with pytest.raises(ValueError, match="silent or not finite"):
            probe_effect(load_effect("compressor"), RATE, audio=bad)


def test_responses_against_closed_forms(rng):
    noise = rng.standard_normal(4000)
    lag, share = lag_samples(noise, np.roll(noise, 37))
    assert lag == 37 and share > 0.95
    assert lag_samples(noise, -np.roll(noise, -5))[0] == -5
    pair = level_change_db(noise[None], np.stack([noise, 2.0 * noise]))
    np.testing.assert_allclose(pair, [0.0, 6.0206], atol=1e-3)
    louder = log_spectrum_db(2 * noise) - log_spectrum_db(noise)
    np.testing.assert_allclose(louder, 6.0206, atol=1e-3)
    t = np.arange(3 * RATE) / RATE
    fading = np.exp(-t * np.log(1000.0))  # 60 dB in a second
    assert decay_seconds(fading, 0, RATE, 60.0) == pytest.approx(1.0, abs=0.02)
    assert decay_seconds(np.zeros(RATE), 0, RATE, 60.0) == 0.0
    signal = probe_signal(RATE, 1.3)
    assert signal.shape == (20800,) and np.abs(signal).max() == pytest.approx(0.7)
    np.testing.assert_array_equal(signal, probe_signal(RATE, 1.3))


def run_script(*words):
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "probe_effect.py"), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_script_prints_a_table_and_writes_json(tmp_path):
    out = tmp_path / "report.json"
    words = ("delay", "--sample-rate", "8000", "--json", out, "--workers", "1")
    done = run_script(*words)
    assert done.returncode == 0, done.stderr
    assert "delay.delay_seconds" in done.stdout and "tail" in done.stdout
    assert json.loads(out.read_text())["sample_rate"] == 8000.0
    before = out.read_bytes()
    refused = run_script(*words)
    assert refused.returncode == 2 and "--overwrite" in refused.stderr
    assert out.read_bytes() == before
    unknown = run_script("delya")
    assert unknown.returncode == 2
    assert "did you mean 'delay'" in unknown.stderr
    assert len(unknown.stderr.strip().splitlines()) == 1
