"""The suite of textures: models of equal size, a report, and nothing done twice."""

import json

import numpy as np
import pytest
from benchmarks import textures
from benchmarks.textures_report import difference, report

from ddspx import audio
from ddspx.data.manifest import Clip, write_manifest
from ddspx.tasks.noisebandnet_model import NoiseBandRunConfig

RATE = 8000
PRESET = """
source: {sample_rate: 8000, hop: 64, bands: 16, loop: 2048}
network: {hidden: 8, layers: 1}
start: spectrum
controls: {window_ms: 32}
crops: {batch_size: 2, seconds: 0.25}
loss: {fft_sizes: [2048, 512]}
optimizer: {warmup_steps: 20}
"""


def models(reference, other):
    """Results of one class as the suite keeps them."""
    groups = ["a", "a", "b", "b"]
    found = {}
    for name, values in (("bands", reference), ("filtered_9", other)):
        piece = {
            "groups": groups,
            "loss": values,
            "loudness_error_db": values,
            "centroid_error_octaves": values,
        }
        found[name] = {
            "parameters": 100,
            "hidden": 8,
            "steps": 3,
            "step_s": 0.1,
            "curve": {
                "evaluation/loss": [(0, 2.0), (3, 1.0)],
                # The last fifth is two points of ten.
                "train/loss": [(i, 9.0) for i in range(8)] + [(8, 3.0), (9, 4.0)],
            },
            "later": piece,
            "other": piece,
        }
    return {"models": found}


def test_differences_are_paired():
    # Pieces differ by far more than models do.
    one = models([1.0, 5.0, 9.0, 2.0], [1.1, 5.1, 9.1, 2.1])
    off = difference(one["models"], "filtered_9", "later", "loss", 500)
    np.testing.assert_allclose([off.mean, off.low, off.high], 0.1, atol=1e-9)


def test_the_report_counts_who_is_ahead():
    text = report(
        {
            "rain": models([1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0]),
            "fire": models([1.0, 1.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]),
        },
        500,
    )
    assert "bands lower in 1 of 2 classes (1 surely, 1 surely higher)" in text
    assert "2.000 (+1.000 [+1.000, +1.000])" in text
    assert "| rain | 3.500 | 3.500 |" in text


def test_models_are_named():
    base = NoiseBandRunConfig()
    assert textures.named_config("filtered_257", base).source.bins == 257
    assert textures.named_config("parallel", base).network.recurrence == "parallel"
    both = textures.named_config("harmonic_bands", base)
    assert both.controls.names[-2:] == ("f0_hz", "confidence")
    with pytest.raises(ValueError, match="'bells' is unknown"):
        textures.named_config("bells", base)


@pytest.mark.slow
def test_a_class_is_trained_judged_and_not_done_again(tmp_path, capsys):
    rng = np.random.default_rng(0)
    clips = []
    for k, split in enumerate(("train", "train", "test")):
        path = f"textures/wind/{k}.wav"
        swell = 0.1 + np.sin(np.pi * np.arange(3 * RATE) / RATE) ** 2
        noise = (0.1 * swell * rng.standard_normal(3 * RATE)).astype(np.float32)
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        audio.save(file, noise[None], RATE)
        clips.append(Clip(path, str(tmp_path), split=split, group=str(k)))
    write_manifest(tmp_path / "MANIFEST.csv", clips)
    (tmp_path / "preset.yaml").write_text(PRESET)
    words = [
        *("--data", str(tmp_path), "--config", str(tmp_path / "preset.yaml")),
        *("--classes", "wind", "--models", "bands", "filtered_9", "--steps", "3"),
        *("--resamples", "200", "--out", str(tmp_path / "out")),
    ]
    textures.main(words)
    first = capsys.readouterr().out
    kept = tmp_path / "out" / "wind" / "wind.json"
    result = json.loads(kept.read_text())
    sizes = [model["parameters"] for model in result["models"].values()]
    assert abs(sizes[1] / sizes[0] - 1.0) < 0.1
    for model in result["models"].values():
        assert model["steps"] == 3
        assert len(model["later"]["loss"]) == 2
        assert len(model["other"]["loss"]) == 6
        assert np.isfinite(model["other"]["centroid_error_octaves"]).all()
    for name in ("later.png", "other.png", "other_bands.wav", "later_recording.wav"):
        assert (tmp_path / "out" / "wind" / name).is_file()
    when = kept.stat().st_mtime_ns
    textures.main(words)
    assert capsys.readouterr().out == first
    assert kept.stat().st_mtime_ns == when
