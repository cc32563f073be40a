"""The TensorBoard writer, read back by TensorBoard itself."""

import io
import re

import matplotlib.image
import numpy as np
import pytest
import soundfile
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from ddspx.training.logging import EVENT_FILE, Progress, RunLog, read_scalars


def read_back(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    accumulator.Reload()
    return {
        tag: [
            (e.step, tensor_util.make_ndarray(e.tensor_proto))
            for e in accumulator.Tensors(tag)
        ]
        for tag in accumulator.Tags()["tensors"]
    }, accumulator


def test_tensorboard_reads_every_kind(tmp_path, rng):
    samples = rng.normal(size=(2, 100)).astype(np.float32)  # beyond [-1, 1]: kept
    pixels = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    with RunLog(tmp_path) as log:
        log.scalars(3, {"train/loss": 0.25, "train/norm": 2})
        log.scalars(4, {"train/loss": 0.125})
        log.audio(4, "audio/output", samples, 8000.0)
        log.image(4, "images/a", pixels)
        log.image(5, "images/a", pixels / 255.0)
        log.text(0, "config", "**bold**")
        log.hyperparameters({"lr": 1e-3, "name": "x", "none": None}, name="run")
    found, accumulator = read_back(tmp_path)
    assert [(s, float(v)) for s, v in found["train/loss"]] == [(3, 0.25), (4, 0.125)]
    step, (wave,) = found["audio/output"][0]
    decoded, rate = soundfile.read(io.BytesIO(wave[0]), dtype="float32")
    assert (step, rate) == (4, 8000)
    np.testing.assert_array_equal(decoded.T, samples)
    for _, (width, height, png) in found["images/a"]:
        assert (width, height) == (b"7", b"5")
        shown = matplotlib.image.imread(io.BytesIO(png))
        np.testing.assert_array_equal(np.round(shown[..., :3] * 255), pixels)
    assert found["config"][0][1].tolist() == [b"**bold**"]
    assert accumulator.PluginTagToContent("hparams")
    plugins = {
        tag: accumulator.SummaryMetadata(tag).plugin_data.plugin_name for tag in found
    }
    assert plugins["audio/output"] == "audio" and plugins["images/a"] == "images"
    assert plugins["config"] == "text" and plugins["train/loss"] == "scalars"


def test_resume_forgets_later_steps_and_torn_entries(tmp_path):
    with RunLog(tmp_path) as log:
        for step in range(1, 9):
            log.scalars(step, {"loss": step})
    path = tmp_path / EVENT_FILE
    path.write_bytes(path.read_bytes()[:-5])
    assert [s for s, _ in read_scalars(tmp_path)["loss"]] == list(range(1, 8))
    with RunLog(tmp_path, resume_step=4) as log:
        log.scalars(5, {"loss": 50.0})
    assert read_scalars(tmp_path)["loss"] == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 50)]
    assert [s for s, _ in read_back(tmp_path)[0]["loss"]] == [1, 2, 3, 4, 5]
    assert [p.name for p in tmp_path.iterdir()] == [EVENT_FILE]


def test_a_fresh_run_begins_anew_and_none_writes_nothing(tmp_path):
    for value in (1.0, 2.0):
        with RunLog(tmp_path / "logs") as log:
            log.scalars(1, {"loss": value})
    assert read_scalars(tmp_path / "logs") == {"loss": [(1, 2.0)]}
    with RunLog(None) as log:
        log.scalars(1, {"loss": 1.0})
        log.flush()
    assert [p.name for p in tmp_path.iterdir()] == ["logs"]


def test_pixels_of_a_wrong_shape_are_refused(tmp_path):
    with RunLog(tmp_path) as log, pytest.raises(ValueError, match=r"\(5, 7\)"):
        log.image(0, "a", np.zeros((5, 7)))


def test_progress_shows_step_rate_loss_and_time_left(capfd):
    bar = Progress(10, 4)
    bar.show(0.125)
    bar.advance()
    bar.say("step 5: loss 1")
    bar.close()
    shown = capfd.readouterr().err
    assert "5/10" in shown and "loss 0.125" in shown and "step 5: loss 1" in shown
    assert re.search(r"\d\d:\d\d<", shown)
    bar = Progress(10, 4, quiet=True)
    bar.show(0.125)
    bar.advance()
    bar.say("never")
    bar.close()
    assert capfd.readouterr().err == ""
