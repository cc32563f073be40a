"""The command that analyses a run: its folder, its report and its smaller model."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ddspx import audio
from ddspx.training import checkpoint
from ddspx.training.configuration import from_dict, load_preset, to_dict, to_yaml
from ddspx.training.watchdog import survey
from vae import report
from vae.findings import Analysis, Dimension, Estimate
from vae.preflight import preflight
from vae.run import VaeRunConfig, load_vae
from vae.size import Proposal
from vae.task import vae_task

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder of an untrained tiny model whose decoder ignores its last latent."""
    folder = tmp_path_factory.mktemp("latents")
    config = load_preset(ROOT / "configs/vae/smoke.yaml", VaeRunConfig)
    task = vae_task(config)
    state = task.init(jax.random.key(0))
    first = state.params["decoder"]["from_latent"]
    first["kernel"] = first["kernel"].at[3].set(0.0) * 8.0
    heads = state.params["encoder"]
    heads["mean"]["kernel"] = heads["mean"]["kernel"] * 4.0
    record = {"config": to_dict(config), "step": 0, "memory": {}, "files": None}
    record |= {"checksum": survey(state)[1], "frozen": None}
    run = folder / "run"
    checkpoint.write_run(run, record, to_yaml(config))
    with checkpoint.CheckpointStore(run / "best") as store:
        store.save(0, state, record, wait=True)
    rng = np.random.default_rng(0)
    time = np.arange(8000) / 8000
    lines = ["path,split,group"]
    for split, count in (("train", 12), ("valid", 8)):
        for index in range(count):
            tone = np.sin(2 * np.pi * rng.uniform(100, 3000) * time)
            sound = 0.1 * (0.2 + rng.random()) * (tone + 0.1 * rng.normal(size=8000))
            path = f"{split}_{index}.wav"
            audio.save(folder / path, sound[None].astype(np.float32), 8000)
            lines.append(f"{path},{split},{split}_{index}")
    (folder / "MANIFEST.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_command_writes_a_report_and_a_smaller_model(trained, capsys):
    analyze_latents = script("analyze_latents")
    out = trained / "out"
    words = [str(trained / "run"), "--out", str(out), "--data", str(trained)]
    options = ["--prune", "2", "--traversals", "2"]
    assert analyze_latents.main([*words, *options, "--seconds", "2"]) == 0
    printed = capsys.readouterr().out
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "report.md", "analysis.json", "importance.png", "curve.png", "groups.png",
        "traversals.png", "pruned",
    }  # fmt: skip
    assert sum(name.endswith(".wav") for name in names) == 2
    found = json.loads((out / "analysis.json").read_text())
    latents = found["analysis"]["dimensions"]
    assert latents[3]["total"]["value"] == 0.0 and latents[3]["does"] == ""
    assert found["analysis"]["order"][-1] == 3
    assert found["analysis"]["noise_floor"] == 0.0
    # The second and third are the same model.
    full, clamped, pruned = found["verification"]
    assert [row["latents"] for row in found["verification"]] == [4, 2, 2]
    assert pruned["mse"] == pytest.approx(clamped["mse"], rel=1e-5)
    assert pruned["kl"] == pytest.approx(clamped["kl"], rel=1e-5)
    assert pruned["objective"] == pytest.approx(clamped["objective"], rel=1e-5)
    assert pruned["parameters"] < full["parameters"] == clamped["parameters"]
    kept = found["analysis"]["order"][:2]
    lost = sum(latents[i]["kl"]["value"] for i in range(4) if i not in kept)
    assert full["kl"] - pruned["kl"] == pytest.approx(lost, abs=1e-4)
    page = (out / "report.md").read_text()
    for name in names - {"report.md", "analysis.json"}:
        assert name in page, name
    assert "| clamped | 2 |" in page and found["analysis"]["advice"] in page
    assert "Pruned and clamped agree" in page and "latents in use" in printed
    sound = audio.load(next(out.glob("traversal_00*.wav")))
    assert sound.samples.shape[0] == 1 and np.abs(sound.samples).max() < 1.0
    # The smaller model is a run like any other.
    small = load_vae(out / "pruned", "last")
    assert small.vae.latents == 2 and small.config.model.latents == 2
    run = checkpoint.read_run(out / "pruned")
    assert sorted(run["pruned"]["keep"]) == sorted(kept)
    assert from_dict(VaeRunConfig, run["config"]) == small.config
    again = analyze_latents.main([str(out / "pruned"), "--out", str(out)])
    assert again == 2 and "not empty" in capsys.readouterr().err


@pytest.mark.slow
def test_smaller_model_can_be_trained_on(trained, tmp_path):
    analyze_latents = script("analyze_latents")
    words = [str(trained / "run"), "--out", str(tmp_path / "out")]
    options = ["--data", str(trained), "--prune", "0", "--rule", "audible"]
    quick = ["--traversals", "0", "--seconds", "1", "--audible", "3"]
    more = ["--fine-tune", "2", "--retrain", "2"]
    assert analyze_latents.main([*words, *options, *quick, *more]) == 0
    found = json.loads((tmp_path / "out/analysis.json").read_text())
    proposals = {p["rule"]: p for p in found["analysis"]["proposals"]}
    keep = max(proposals["audible"]["keep"], 1)
    full, _, pruned, tuned, one, two = found["verification"]
    assert pruned["latents"] == tuned["latents"] == one["latents"] == keep
    assert pruned["parameters"] == tuned["parameters"] == one["parameters"]
    assert tuned["mse"] != pruned["mse"] and one["mse"] != two["mse"]
    for name in ("pruned", "retrained_0", "retrained_1"):
        record = checkpoint.read_record(tmp_path / "out" / name, which="last")
        assert record["step"] == 2
    cost = 100 * (tuned["objective"] / full["objective"] - 1)
    page = (tmp_path / "out/report.md").read_text()
    assert f"fine-tuned 2: {cost:+.2f} % of the full model's" in page


@pytest.mark.slow
def test_axes_can_be_turned_before_pruning(trained, tmp_path):
    """The last latent does nothing: three directions are the whole model's means."""
    analyze_latents = script("analyze_latents")
    words = [str(trained / "run"), "--out", str(tmp_path / "out"), "--rotate"]
    options = ["--data", str(trained), "--prune", "3", "--fine-tune", "1"]
    quick = ["--traversals", "0", "--seconds", "1"]
    assert analyze_latents.main([*words, *options, *quick]) == 0
    found = json.loads((tmp_path / "out/analysis.json").read_text())
    full, clamped, pruned, _ = found["verification"]
    assert clamped["mse"] == pytest.approx(full["mse"], rel=1e-5)
    assert pruned["mse"] == pytest.approx(full["mse"], rel=1e-5)
    assert pruned["latents"] == 3
    assert "Axes were turned" in (tmp_path / "out/report.md").read_text()


def test_command_refuses_bad_input(trained, capsys, tmp_path):
    analyze_latents = script("analyze_latents")
    for options, words in (
        (["--fine-tune", "3"], "give --prune"),
        (["--retrain", "3"], "give --prune"),
        (["--prune", "2", "--rotate"], "give --fine-tune"),
        (["--prune", "9"], "has 4 latents"),
        (["--data", str(trained), "--only", "x*"], "matches no recording"),
    ):
        run = [str(trained / "run"), "--out", str(tmp_path / "new"), *options]
        assert analyze_latents.main(run) == 2
        assert words in capsys.readouterr().err
    assert analyze_latents.main([str(tmp_path), "--out", str(tmp_path / "a")]) == 2
    assert "not a run folder" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def example(latents=6, worth=True, groups=True):
    """An analysis made up, most important latent last."""
    rng = np.random.default_rng(0)

    def estimate(value):
        return Estimate(value, 0.9 * value, 1.1 * value)

    shares = tuple(rng.dirichlet(np.ones(4)).tolist())
    dimensions = tuple(
        Dimension(
            index=i, rank=latents - 1 - i, kl=estimate(1.0), information=estimate(0.5),
            mean_variance=0.5, active=True, signal_fraction=estimate(0.5),
            redundancy=0.1, local_variance=estimate(0.1), bound=estimate(i + 2.0),
            total=estimate(i + 1.0), first=estimate(i + 0.5), share=estimate(0.1),
            rms=1.0, clamp=estimate(3.0) if worth else None,
            worth=estimate(100.0) if worth else None,
            groups={"band": shares} if groups else {}, does="all bands",
        )
        for i in range(latents)
    )  # fmt: skip
    curve = np.linspace(0.0, 1.0, latents + 1) ** 0.5
    return Analysis(
        output="log_mel", unit="dB", elements=10, latents=latents, examples=9,
        distribution="product", pairs=8, tau=2.0, variance=estimate(20.0),
        dimensions=dimensions, order=tuple(range(latents))[::-1],
        fidelity=tuple(estimate(float(v)) for v in curve),
        dropped_rms=tuple((5 * (1 - curve)).tolist()),
        evaluated=tuple(range(latents + 1)),
        proposals=(Proposal("fidelity", 0.95, 3, 2, 4, {3: 1.0}, latents),),
        noise_floor=0.01, subspace=tuple(np.arange(latents, 0, -1.0).tolist()),
        directions=2, pca=tuple(np.arange(latents, 0, -1.0).tolist()),
        pca_sizes={"0.95": 2}, saturation=0.9, advice="Keep 3.",
        group_labels={"band": tuple("abcd")} if groups else {},
        warnings=("be careful",), seconds=1.0,
    )  # fmt: skip


def test_figures_hold_what_was_found():
    found = example()
    figure = report.importance_figure(found)
    bars: Any = figure.axes[0].patches
    heights = [bar.get_height() for bar in bars]
    np.testing.assert_allclose(heights, np.sqrt(2.0 * np.arange(6, 0, -1)))
    ticks = [label.get_text() for label in figure.axes[2].get_xticklabels()]
    assert ticks == ["5", "4", "3", "2", "1", "0"]
    assert len(report.importance_figure(example(worth=False)).axes) == 2
    many = report.importance_figure(example(latents=100))
    assert len(many.axes[0].patches) == report.MOST_BARS
    told = preflight(np.random.default_rng(0).normal(size=(20, 10)), 6, 0.5)
    curve = report.curve_figure(found, told).axes[0]
    np.testing.assert_allclose(
        np.asarray(curve.lines[0].get_ydata()), [e.value for e in found.fidelity]
    )
    groups = report.group_figure(found)
    assert groups is not None
    table = np.asarray(groups.axes[0].images[0].get_array())
    np.testing.assert_allclose(table[0], found.dimensions[5].groups["band"])
    assert report.group_figure(example(groups=False)) is None


def test_page_holds_what_was_found():
    page = report.markdown(example(), title="Latents of x", notes=["A note."])
    assert page.startswith("# Latents of x\n\nKeep 3.")
    assert "**Mind:** be careful" in page and "A note." in page
    assert "| fidelity (0.95) | 3 | 2 to 4 |" in page
    rows = [line for line in page.splitlines() if line.startswith("| 5 |")]
    assert len(rows) == 1 and "3.46 (3.29 to 3.63)" in rows[0]
    assert "0.141 dB" in page
