"""The suites that judge VAEs: their baselines, their intervals, their tables."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks import digits, latents, presets
from benchmarks.latent_baselines import NO_NOISE, images_of, linear_model, lower_by

from ddspx import audio
from ddspx.training.configuration import load_preset
from vae.linear import linear_optimum
from vae.pruned import judge_examples
from vae.run import VaeRunConfig, load_vae
from vae.training import fine_tuning, retraining, shortened

SMOKE = Path(__file__).parent.parent / "configs/vae/smoke.yaml"
CONFIG = load_preset(SMOKE, VaeRunConfig)


@pytest.fixture(scope="module")
def sounds():
    rng = np.random.default_rng(0)
    time = np.arange(4096) / 8000
    tones = np.sin(2 * np.pi * rng.uniform(100, 3000, (40, 1)) * time)
    return (0.1 * (tones + 0.1 * rng.normal(size=tones.shape))).astype(np.float32)


@pytest.fixture(scope="module")
def collection(tmp_path_factory, sounds):
    folder = tmp_path_factory.mktemp("speakers")
    for k, sound in enumerate(sounds[:24]):
        path = folder / f"speaker{k % 3}" / f"{k}.wav"
        path.parent.mkdir(exist_ok=True)
        audio.save(path, sound[None], 8000)
    return folder


def test_baselines_are_pca_and_the_linear_optimum(sounds):
    images = images_of(CONFIG, sounds)
    flat = images.reshape(len(images), -1).astype(np.float64)
    centred = flat - flat.mean(0)
    _, values, _ = np.linalg.svd(centred, full_matrices=False)
    eigenvalues = values**2 / len(flat)
    found = judge_examples(linear_model(CONFIG, images, NO_NOISE), images)
    left = eigenvalues[CONFIG.model.latents :].sum()
    assert found.squared_error.mean() == pytest.approx(left, rel=1e-3)
    tau = CONFIG.tau
    assert tau is not None
    best = linear_optimum(eigenvalues, tau, CONFIG.model.latents)
    found = judge_examples(linear_model(CONFIG, images, 1.0), images)
    assert found.kl.mean() == pytest.approx(best.kl.sum(), rel=1e-3)
    assert found.squared_error.mean() == pytest.approx(
        best.reconstruction(sampled=False), rel=1e-3
    )
    expected = best.reconstruction() / (2 * tau) + best.kl.sum()
    assert found.objective(tau).mean() == pytest.approx(expected, rel=0.03)


def test_lower_by_is_a_share_with_an_interval():
    theirs = np.array([2.0, 2.0, 4.0, 4.0])
    groups = np.array(["a", "a", "b", "b"])
    # The same share everywhere leaves no doubt; two groups that differ do.
    assert lower_by(0.9 * theirs, theirs, groups, 50) == pytest.approx([0.1] * 3)
    found = lower_by(np.array([1.0, 1.0, 4.0, 4.0]), theirs, groups, 500)
    assert found == pytest.approx([1 / 6, 0.0, 0.5])
    assert lower_by(1.5 * theirs, theirs, groups, 50).high < 0


def test_other_lengths_and_sizes_of_a_run():
    config = load_preset(digits.Arguments().config, VaeRunConfig)
    half = shortened(config, config.fit.steps // 2)
    assert half.fit.steps == config.fit.steps // 2
    assert half.optimizer.warmup_steps == config.optimizer.warmup_steps // 2
    assert half.optimizer.decay_steps == config.optimizer.decay_steps // 2
    assert shortened(config, 1).optimizer.warmup_steps == 0
    original = load_preset(presets.PRESETS / "original_spectrogram.yaml", VaeRunConfig)
    assert shortened(original, 624).objective.schedule.steps == 624
    tuned = fine_tuning(original, 50)
    assert tuned.objective.schedule.kind == "constant" and tuned.tau == original.tau
    assert tuned.optimizer.decay_steps == 50 == tuned.fit.steps
    again = retraining(config, 7, seed=2)
    assert again.model.latents == 7 and again.fit.seed == config.fit.seed + 2
    for refused in (shortened, fine_tuning):
        with pytest.raises(ValueError, match="steps 0"):
            refused(config, 0)


@pytest.mark.slow
def test_speakers_are_held_out_in_turn(collection, tmp_path, capsys):
    words = ["--data", str(collection), "--config", str(SMOKE)]
    words += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "found")]
    words += ["--fine-tune", "1", "--retrain", "1", "--seconds", "1"]
    words += ["--rules", "audible", "--resamples", "50", "--study", "speaker1"]
    digits.main(words)
    found = json.loads((tmp_path / "found.json").read_text())
    assert [fold["speaker"] for fold in found["folds"]] == [
        "speaker0", "speaker1", "speaker2",
    ]  # fmt: skip
    assert all(fold["trained_on"] == 16 for fold in found["folds"])
    for fold in found["folds"]:
        assert fold["mse"]["pca"] < fold["mse"]["mean"]
    rows = {(row["measure"], row["baseline"]): row for row in found["compared"]}
    ours = np.mean([fold["mse"]["trained"] for fold in found["folds"]])
    theirs = np.mean([fold["mse"]["pca"] for fold in found["folds"]])
    assert rows["mse", "pca"]["lower_by"] == pytest.approx(1 - ours / theirs)
    names = [row["model"] for row in found["pruned"]["audible"]["verification"]]
    assert names == ["full", "clamped", "pruned", "fine-tuned 1", "retrained, seed 0"]
    assert (tmp_path / "found.png").is_file()
    # A second call finds everything done.
    before = load_vae(tmp_path / "runs/speaker0", "last").params
    digits.main(words)
    after = load_vae(tmp_path / "runs/speaker0", "last").params
    one, two = (p["encoder"]["mean"]["kernel"] for p in (before, after))
    np.testing.assert_array_equal(one, two)
    with pytest.raises(ValueError, match="study 'nobody'"):
        digits.main([*words, "--study", "nobody"])


@pytest.mark.slow
def test_pairs_of_presets_are_trained_for_the_same_time(
    collection, tmp_path, monkeypatch, capsys
):
    smoke = SMOKE.read_text()
    for name, words in (("plain", "architecture: plain, "), ("residual", "")):
        changed = smoke.replace("model: {", "model: {" + words)
        assert words in changed
        # Evaluated and saved at the end alone: the steps are many and tiny.
        changed = changed.replace("every: 2", "every: 1000")
        (tmp_path / f"{name}.yaml").write_text(changed)
    monkeypatch.setattr(presets, "PRESETS", tmp_path)
    pair = presets.Pair("plain", "residual", "*")
    monkeypatch.setattr(presets, "PAIRS", {"smoke": pair})
    words = ["--data", str(collection), "--minutes", "0.01", "--resamples", "50"]
    presets.main([*words, "--pairs", "smoke", "--out", str(tmp_path / "found")])
    rows = json.loads((tmp_path / "found.json").read_text())["smoke"]["rows"]
    assert set(rows) == {"plain", "residual", "pca"}
    for row in (rows["plain"], rows["residual"]):
        assert row["steps"] == max(round(0.6 / row["step_s"]), 2)
    ours, theirs = rows["residual"]["mse"], rows["plain"]["mse"]
    below, low, high = rows["residual"]["mse_below_plain"]
    assert below == pytest.approx(1 - ours / theirs) and low <= below <= high
    with pytest.raises(ValueError, match="unknown"):
        presets.main(["--pairs", "none"])


def test_operations_are_those_of_the_layers(monkeypatch):
    """A dense layer both ways: three products a layer, counted by hand."""
    monkeypatch.setattr(latents, "load_preset", lambda *_: wide)
    wide = dataclasses.replace(
        CONFIG, model=dataclasses.replace(CONFIG.model, architecture="linear")
    )
    row = latents.timed_step("smoke", 1)
    elements, k = wide.front.elements, wide.model.latents
    # Two heads (no gradient of their input) and a decoder, multiply and add.
    products = 2 * row["batch"] * elements * k * (2 * 2 + 3)
    # Every sample's transform and the optimizer stand beside them.
    assert products < 1e9 * row["gflop"] < 40 * products
    assert row["step_s"] > 0 and row["roofline_share"] > 0
