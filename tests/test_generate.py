"""scripts/generate.py on a tiny run: what it writes, and what it refuses."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ddspx import audio
from ddspx.training.configuration import load_preset
from ddspx.training.fit import fit
from vae.run import VaeRunConfig
from vae.task import vae_task

ROOT = Path(__file__).parent.parent
SMOKE = load_preset(ROOT / "configs/vae/smoke.yaml", VaeRunConfig)
CONFIG = replace(SMOKE, fit=replace(SMOKE.fit, quiet=True))
LENGTH, RATE = CONFIG.front.samples, CONFIG.front.sample_rate


def script(name):
    spec = importlib.util.spec_from_file_location(
        f"script_{name}", ROOT / f"scripts/{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


generate = script("generate")


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A run of two steps, and two recordings: one short, one of several examples."""
    folder = tmp_path_factory.mktemp("generate")
    rng = np.random.default_rng(0)
    noise = (0.1 * rng.normal(size=(2, 1, LENGTH))).astype(np.float32)
    batch = {"audio": noise, "file": np.zeros(2, np.int32)}
    task = replace(vae_task(CONFIG), evaluate=None, show=None)
    fit(task, [batch], CONFIG.fit, folder / "run", run_config=CONFIG)
    audio.save(folder / "short.wav", noise[0, :, : LENGTH // 2], RATE)
    long = np.concatenate([noise[0, 0], noise[1, 0], noise[0, 0]])[: 5 * LENGTH // 2]
    audio.save(folder / "long.wav", np.stack([long, long]), RATE)
    return folder


def call(work, out, *words):
    fixed = ["--which", "last", "--iterations", "2", "--out", str(out)]
    return generate.main([str(work / "run"), *fixed, *words])


def test_everything_at_once_and_the_same_again(work, tmp_path):
    words = ["--reconstruct", str(work / "long.wav"), "--sample", "2"]
    words += ["--interpolate", str(work / "short.wav"), str(work / "long.wav")]
    words += ["--traverse", "--latents", "2", "0", "--base", str(work / "short.wav")]
    for folder in ("one", "two"):
        assert call(work, tmp_path / folder, "--steps", "3", *words) == 0
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {
        "input.wav", "reconstruction.wav", "reconstruction.png",
        "sample_0.wav", "sample_1.wav", "samples.png",
        "interpolation_0.wav", "interpolation_1.wav", "interpolation_2.wav",
        "interpolation.png", "traversal_000_latent_2.wav",
        "traversal_001_latent_0.wav", "traversal.png",
    }  # fmt: skip
    for name in names:
        both = [(tmp_path / folder / name).read_bytes() for folder in ("one", "two")]
        assert both[0] == both[1], name
    made = audio.load(tmp_path / "one/reconstruction.wav")
    given = audio.load(work / "long.wav")
    assert made.sample_rate == RATE and made.samples.shape == (
        1,
        given.samples.shape[1],
    )
    one = audio.load(tmp_path / "one/traversal_000_latent_2.wav").samples
    assert one.shape[1] == 3 * LENGTH + 2 * round(0.15 * RATE)


def test_bad_input_is_one_line(work, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text(json.dumps({"config": {"effect": "chorus"}}))
    missing = str(tmp_path / "missing.wav")
    for words, named in (
        ([str(work / "run")], "nothing to do"),
        ([str(work / "none"), "--sample", "1"], "not a run"),
        ([str(other), "--sample", "1"], "unknown key"),
        ([str(work / "run"), "--reconstruct", missing], "missing.wav"),
        ([str(work / "run"), "--traverse", "--latents", "4"], "0 to 3"),
        ([str(work / "run"), "--sample", "1", "--latents", "1"], "--traverse"),
    ):
        out = ["--out", str(tmp_path / "out"), "--which", "last"]
        assert generate.main([*words, *out]) == 2
        error = capsys.readouterr().err.strip()
        assert named in error and "\n" not in error, error
