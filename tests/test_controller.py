"""The controller: what it says untrained, that it learns, and that it can be kept."""

import dataclasses
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from ddspx.parameters import ParameterSpec
from ddspx.training.checkpoint import CheckpointError
from ddspx.training.configuration import FitConfig, load_preset
from ddspx.training.fit import fit
from ddspx.training.optimizer import OptimizerConfig
from styletransfer.controller import cut, embed, load_controller, predict
from styletransfer.controller_task import (
    ControllerRunConfig,
    centred,
    controller_task,
    negative_log_likelihood,
)
from styletransfer.hosts import HostEffect, Slot, open_host
from styletransfer.hosts.response import probe_signal
from styletransfer.models import (
    UNIFORM_DEVIATION,
    ControllerConfig,
    Prediction,
    make_controller,
)
from styletransfer.pairs import PairConfig, pair_batches
from styletransfer.presets import kept_with, load_effect

ROOT = Path(__file__).parent.parent

RATE = 16000
SMALL = ControllerConfig(bands=24, channels=(8, 16), embedding=24, hidden=(32,))


def low_pass_and_gain() -> HostEffect:
    cutoff = ParameterSpec("cutoff_frequency_hz", 200.0, 20000.0, "Hz", "log")
    gain = ParameterSpec("gain_db", -20.0, 20.0, "dB")
    return HostEffect(
        "two", (Slot("l", "LowpassFilter", (cutoff,)), Slot("g", "Gain", (gain,)))
    )


def source(seconds: float = 0.8) -> grain.MapDataset:
    clips = [probe_signal(RATE, seconds, k)[None] for k in range(24)]
    return grain.MapDataset.source([{"audio": clip} for clip in clips]).repeat()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has learned a little, and its last evaluation."""
    folder = tmp_path_factory.mktemp("controller") / "run"
    config = ControllerRunConfig(
        effect="two",
        sample_rate=RATE,
        seconds=0.4,
        batch_size=12,
        pairs=PairConfig(untreated=0.0, peak_db=(-12.0, -12.0)),
        model=SMALL,
        optimizer=OptimizerConfig(learning_rate=3e-3),
        fit=FitConfig(
            steps=100, evaluate_every=100, save_every=100, evaluation_batches=1
        ),
    )
    effect = low_pass_and_gain()
    with open_host(effect, RATE, backend="serial") as host:
        controller = make_controller(SMALL, 2, RATE)
        batches = pair_batches(source(), host, 12, config=config.pairs)
        judged = pair_batches(source(), host, 12, config=config.pairs, seed=9)
        with controller_task(controller, host, config.optimizer) as task:
            state = fit(
                task,
                batches,
                config.fit,
                folder,
                evaluation=judged,
                run_config=config,
                attachments=kept_with(effect, folder),
            )
            assert task.evaluate is not None
            found = task.evaluate(state, judged[0])
    return folder, found


def test_untrained_it_says_the_middle_and_that_it_does_not_know():
    controller = make_controller(SMALL, 5, RATE)
    params = controller.init(jax.random.key(0))
    sound = probe_signal(RATE, 0.5)[None]
    said = controller.predict(params, sound, 0.5 * sound)
    np.testing.assert_allclose(said.controls, 0.5, atol=0.1)
    np.testing.assert_allclose(said.deviation, UNIFORM_DEVIATION, rtol=0.3)


@pytest.mark.usefixtures("whole_products")
def test_jit_and_vmap_change_nothing_and_neither_does_the_batch():
    controller = make_controller(SMALL, 3, RATE)
    params = controller.init(jax.random.key(1))
    sounds = np.stack([probe_signal(RATE, 0.5, k)[None] for k in range(4)])
    each = [controller.predict(params, s, r) for s, r in zip(sounds, sounds[::-1])]  # noqa: B905
    batch = jax.jit(jax.vmap(controller.predict, (None, 0, 0)))(
        params, sounds, sounds[::-1]
    )
    for k, one in enumerate(each):
        np.testing.assert_allclose(batch.controls[k], one.controls, atol=1e-5)
        np.testing.assert_allclose(batch.deviation[k], one.deviation, atol=1e-5)


def test_the_likelihood_is_best_at_the_truth_and_blind_to_what_does_not_count():
    truth = jnp.array([[0.2, 0.8], [0.4, 0.1]])
    weights = jnp.array([1.0, 0.0])

    def loss(mean, deviation=0.1):
        return negative_log_likelihood(
            Prediction(mean, jnp.full((2, 2), deviation)), truth, weights
        )

    slope = jax.grad(loss)(truth + 0.05)
    assert (slope[0] > 0).all() and not slope[1].any()
    np.testing.assert_allclose(jax.grad(loss)(truth), 0.0, atol=1e-7)
    # The best deviation is the error: the slope, weight stopped, changes sign there.
    widths = [jax.grad(loss, 1)(truth + 0.05, w) for w in (0.04, 0.05, 0.06)]
    assert widths[0] < 0 < widths[2] and abs(widths[1]) < 1e-6
    assert (
        float(negative_log_likelihood(Prediction(truth, truth), truth, 0 * weights))
        == 0.0
    )


def test_labels_of_choices_are_the_middles_of_their_intervals():
    specs = (ParameterSpec("a"), ParameterSpec("b", choices=("x", "y", "z", "w")))
    labels = centred(specs, jnp.array([[0.3, 0.26], [0.9, 0.99]]))
    np.testing.assert_allclose(labels, [[0.3, 0.375], [0.9, 0.875]], atol=1e-6)


def test_it_learns_what_a_pair_tells(run):
    _, found = run
    assert found["control_error"] < 0.7 * found["constant_error"]
    assert found["loss"] < found["do_nothing"]


def test_a_kept_controller_predicts_the_same_for_any_rate_channels_and_length(run):
    folder, _ = run
    loaded = load_controller(folder, "last")
    assert loaded.effect == low_pass_and_gain()
    dry = probe_signal(RATE, 1.7)[None]
    with open_host(loaded.effect, RATE, backend="serial") as host:
        truth = np.array([[0.5, 0.7]], np.float32)
        reference = host.render(probe_signal(RATE, 2.3, 5)[None, None], truth).audio[0]
    one = predict(loaded, dry, reference, RATE, RATE)
    again = predict(load_controller(folder, "last"), dry, reference, RATE, RATE)
    np.testing.assert_array_equal(one.controls, again.controls)
    stereo = predict(
        loaded, np.repeat(dry, 2, 0), np.repeat(reference, 2, 0), RATE, RATE
    )
    np.testing.assert_allclose(stereo.controls, one.controls, atol=1e-5)
    assert ((one.controls >= 0) & (one.controls <= 1)).all()
    assert (one.deviation > 0).all()
    # At a higher rate the filter's range ends higher; the setting in Hz stays.
    higher = predict(loaded, dry, reference, 2 * RATE, RATE)
    here, there = (loaded.effect.at_sample_rate(r).specs[0] for r in (RATE, 2 * RATE))
    assert here.high < there.high
    half_speed = predict(loaded, dry, reference, RATE, RATE)
    assert float(here.to_physical(half_speed.controls[0])) == pytest.approx(
        float(here.to_physical(one.controls[0]))
    )
    assert higher.controls.shape == (2,)


def test_a_setting_keeps_its_hertz_at_another_rate(run):
    folder, _ = run
    loaded = load_controller(folder, "last")
    low = probe_signal(RATE, 1.0)[None]
    high = np.repeat(low, 2, axis=1)  # crude, but the same input for both questions
    at_run = predict(loaded, high, low, 2 * RATE, RATE)
    spec = loaded.effect.at_sample_rate(2 * RATE).specs[0]
    code = embed(loaded, high, 2 * RATE)
    reference = embed(loaded, low, RATE)
    said = loaded.controller.decide(loaded.params, code, reference)
    wanted = float(loaded.specs[0].to_physical(np.float64(said.controls[0])))
    assert float(spec.to_physical(np.float64(at_run.controls[0]))) == pytest.approx(
        wanted, rel=1e-4
    )


def test_windows_lie_side_by_side_and_silent_ones_are_left_out():
    sound = np.ones((1, 25), np.float32)
    assert [p.shape[1] for p in cut(sound, 10)] == [10, 10, 10]
    assert [p.shape[1] for p in cut(sound[:, :10], 10)] == [10]
    (short,) = cut(sound[:, :4], 10)
    assert short.sum() == 4
    sound[:, :12] = 0.0
    assert len(cut(sound, 10)) == 2
    assert len(cut(0 * sound, 10)) == 3
    with pytest.raises(ValueError, match="empty"):
        cut(sound[:, :0], 10)


def test_a_run_without_its_effect_is_refused(run, tmp_path):
    import shutil

    folder, _ = run
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "effect.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no effect.json"):
        load_controller(tmp_path / "copy")
    with pytest.raises(CheckpointError):
        load_controller(tmp_path / "nowhere")


def test_settings_of_the_run_are_frozen_dataclasses():
    config = ControllerRunConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seconds = 3.0  # pyright: ignore


def test_the_scoreboard_takes_a_controller(run):
    """On the same trials as the rest, from the trial's reference alone."""
    from styletransfer.baselines import do_nothing
    from styletransfer.evaluation import predicted_method, truth_loss
    from styletransfer.trials import Trial

    folder, _ = run
    loaded = load_controller(folder, "last")
    dry, other = (probe_signal(RATE, 1.2, seed)[None] for seed in (40, 41))
    hidden, another = np.array([[0.35, 0.85], [0.9, 0.2]], np.float32)
    rng = np.random.default_rng(0)
    with open_host(loaded.effect, RATE, backend="serial") as host:
        made = host.render(
            np.stack([dry, other]),
            np.stack([hidden, hidden, another]),
            np.array([0, 1, 1], np.int32),
        )
        truth, reference, wrong = made.audio
        trial = Trial("g", "n", "r", RATE, dry, reference, wrong, truth, hidden, 1)
        given, wrongly = [trial.question()], [trial.question(wrong=True)]
        right = predicted_method(loaded)(given, host, rng).audio[0]
        misled = predicted_method(loaded)(wrongly, host, rng).audio[0]
        apart = {
            name: float(truth_loss(sound, truth))
            for name, sound in (
                ("right", right),
                ("misled", misled),
                ("nothing", do_nothing(given, host, rng).audio[0]),
            )
        }
    assert apart["right"] < apart["nothing"] and apart["right"] < apart["misled"]


def test_a_prediction_can_be_taken_or_refined(run):
    from styletransfer.level_trim import level_trim_db, with_gain
    from styletransfer.transfer import TransferConfig, TransferError, transfer

    folder, _ = run
    loaded = load_controller(folder, "last")
    dry, other = (probe_signal(RATE, 2.0, seed)[None] for seed in (50, 51))
    with open_host(loaded.effect, RATE, backend="serial") as host:
        hidden = np.array([[0.4, 0.8]], np.float32)
        reference = host.render(other[None], hidden).audio[0]
        said = predict(loaded, dry, reference, RATE, RATE)
        taken, refined, trimmed = (
            transfer(
                host,
                dry,
                reference,
                config=TransferConfig(renders=renders, trim=share),
                prediction=said,
            )
            for renders, share in ((1, 0.0), (60, 0.0), (1, 0.5))
        )
    assert taken.renders == 1
    np.testing.assert_array_equal(taken.controls, said.controls)
    assert taken.loss["after"] == taken.loss["predicted"] == refined.loss["predicted"]
    assert 1 < refined.renders <= 60
    assert refined.loss["after"] < refined.loss["predicted"] < refined.loss["before"]
    np.testing.assert_array_equal(refined.deviation, said.deviation)
    # A trim is told, and can be undone; settings and distances know nothing of it.
    assert taken.trim_db == 0.0 and abs(trimmed.trim_db) > 0.01
    assert trimmed.trim_db == pytest.approx(level_trim_db(taken.audio, reference, 0.5))
    undone = with_gain(trimmed.audio, -trimmed.trim_db)
    np.testing.assert_allclose(undone, taken.audio, atol=1e-6)
    np.testing.assert_array_equal(trimmed.controls, taken.controls)
    assert trimmed.loss == taken.loss
    with pytest.raises(TransferError, match="trim 2"):
        TransferConfig(trim=2.0)


def test_the_command_line_predicts_refines_and_refuses(run, tmp_path, capsys):
    import json

    import transfer as script

    folder, _ = run
    for name, seed in (("in", 60), ("ref", 61)):
        sound = probe_signal(RATE, 2.0, seed)
        soundfile.write(tmp_path / f"{name}.wav", sound, RATE, subtype="FLOAT")
    common = [
        str(tmp_path / "in.wav"), "--reference", str(tmp_path / "ref.wav"),
        "--checkpoint", str(folder), "-o", str(tmp_path / "out.wav"), "--overwrite",
        "--backend", "serial",
    ]  # fmt: skip
    assert script.main(common) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["renders"] == 1 and set(report["deviation"]) == set(
        report["settings"]
    )
    assert report["distance"]["after"] == report["distance"]["predicted"]
    assert script.main([*common, "--refine", "40"]) == 0
    better = json.loads((tmp_path / "out.json").read_text())
    assert better["distance"]["after"] <= report["distance"]["after"]
    capsys.readouterr()
    for wrong, message in (
        (["--effect", "reverb"], "without --effect"),
        (["--refine", "-1"], "must be 0 or more"),
    ):
        assert script.main([*common, *wrong]) == 2
        assert message in capsys.readouterr().err
    plain = [w for w in common if w not in ("--checkpoint", str(folder))]
    assert script.main([*plain, "--refine", "9"]) == 2
    assert script.main([*plain, "--checkpoint", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    "path",
    [
        # The full network takes its time to compile.
        pytest.param(p, marks=() if p.stem == "smoke" else pytest.mark.slow, id=p.stem)
        for p in sorted((ROOT / "configs/controller").glob("*.yaml"))
    ],
)
def test_every_preset_trains_two_steps(path):
    """At its own model and effect; on short clips and small batches."""
    config = load_preset(path, ControllerRunConfig)
    effect = load_effect(config.effect)
    clips = grain.MapDataset.source(
        [{"audio": probe_signal(config.sample_rate, 0.8, k)[None]} for k in range(4)]
    ).repeat()
    with open_host(effect, config.sample_rate, backend="serial") as host:
        controller = make_controller(config.model, len(host.specs), config.sample_rate)
        made: Any = pair_batches(clips, host, 2, config=config.pairs)
        with controller_task(controller, host, config.optimizer) as task:
            state = task.init(jax.random.key(0))
            for index in range(2):
                state, metrics = task.step(state, made[index])
            assert np.isfinite(float(metrics["loss"])) and int(state.step) == 2


def test_the_training_script_resumes_and_refuses_another_effect(tmp_path, capsys):
    import train as script

    config = str(ROOT / "configs/controller/smoke.yaml")
    sounds = tmp_path / "sounds"
    for number, split in enumerate(("train", "train", "valid")):
        path = sounds / split / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, probe_signal(RATE, 3.0, number), RATE, subtype="FLOAT")
    rows = "".join(
        f"{s}/{n}.wav,{s},{n}\n" for n, s in enumerate(("train", "train", "valid"))
    )
    (sounds / "MANIFEST.csv").write_text("path,split,group\n" + rows)
    words = ["controller", str(tmp_path / "run"), "--config", config]
    words += ["--data", str(sounds)]
    assert script.main(words) == 0
    assert (tmp_path / "run/effect.json").is_file()
    assert script.main(words) == 0
    kept = tmp_path / "run/effect.json"
    kept.write_text(kept.read_text().replace('"high":20.0', '"high":21.0'))
    capsys.readouterr()
    assert script.main(words) == 2
    assert "+ compressor controls ratio 1..20" in capsys.readouterr().err
    assert load_controller(tmp_path / "run", "last").config.effect == "compressor"
