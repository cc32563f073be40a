"""A DDSP instrument from recordings to a model that plays: training, loading, playing.

The recordings are made by a synth of the same kind, so that f0 and loudness are known.
"""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx import audio
from ddspx.control_gains import frame_gains, parse_gain
from ddspx.data.manifest import load_collection
from ddspx.data.split import assign_splits
from ddspx.models.ddsp_autoencoder import count_parameters
from ddspx.resynthesis import load_synthesizer
from ddspx.synths.base import mix
from ddspx.synths.scaling import exp_sigmoid
from ddspx.tasks import ddsp_metrics, ddsp_synthesizer
from ddspx.tasks.ddsp_autoencoder import ddsp_task, sound_statistics
from ddspx.tasks.ddsp_metrics import harmonic_share
from ddspx.tasks.ddsp_model import (
    DdspLossConfig,
    DdspRunConfig,
    SynthConfig,
    at_level,
    exp_sigmoid_inverse,
    make_model,
    room_response,
)
from ddspx.tasks.sounds import load_parts
from ddspx.tasks.synthesizer import check_curves
from ddspx.training.checkpoint import CheckpointError, restore_params
from ddspx.training.configuration import ConfigurationError, load_preset

ROOT = Path(__file__).parent.parent
PRESETS = ROOT / "configs" / "ddspx"
SMOKE = load_preset(PRESETS / "smoke.yaml", DdspRunConfig)
NAMES = ("loudness_db", "f0_hz")


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tone(f0_hz, seconds=1.5, rate=8000):
    """A swelling tone of five harmonics."""
    t = np.arange(round(seconds * rate)) / rate
    parts = [np.sin(2 * np.pi * k * f0_hz * t) / k for k in range(1, 6)]
    return (0.1 * (1 + np.sin(3 * t)) * np.sum(parts, 0)).astype(np.float32)


def heard(config, folder):
    rate, hop = config.synth.sample_rate, config.hop
    return load_parts(_clips(folder), config.controls, rate, hop, config=config.crops)[
        0
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("ddsp") / "data"
    place.mkdir()
    for index, f0_hz in enumerate((220.0, 247.0, 330.0)):
        audio.save(place / f"tone{index}.wav", tone(f0_hz)[None], 8000)
    return place


@pytest.fixture(scope="module")
def run(folder):
    """The smoke preset through the command line, task left to the preset."""
    words = ["--config", str(PRESETS / "smoke.yaml"), "--data.path", str(folder)]
    place = folder.parent / "run"
    sys.path.insert(0, str(ROOT / "scripts"))
    assert script("train").main([str(place), *words, "--fit.quiet"]) == 0
    return place


@pytest.fixture(scope="module")
def synthesizer(run):
    return load_synthesizer(run, "last")


# ------------------------------------------------------------------------------ the run


def test_a_folder_of_recordings_becomes_a_run(run):
    assert (run / "run.json").is_file() and (run.parent / "curves").is_dir()
    ranges = restore_params(run, ("extra", "ranges"), which="last")
    # The training tones are among the three that were written.
    assert float(ranges["f0_hz"]["min"]) > 215.0
    assert float(ranges["f0_hz"]["max"]) < 335.0
    assert float(ranges["confidence"]["min"]) > ddsp_metrics.SURE
    room = restore_params(run, ("params", "room"), which="last")
    assert room["taps"].shape == (400,)


def test_the_command_line_says_what_is_wrong(run, folder, capsys):
    train = script("train")
    smoke = ["--config", str(PRESETS / "smoke.yaml")]
    for words, named in (
        (["ddps", "run"], "there are: proxy"),
        (["ddsp", *smoke], "run folder"),
        ([str(run), *smoke, "--data", str(folder), "--model.units", "9"], "units"),
    ):
        assert train.main(words) == 2
        error = capsys.readouterr().err.strip()
        assert named in error and "\n" not in error, error


def test_bad_configurations_are_refused():
    with pytest.raises(ValueError, match="are shorter than the longest"):
        replace(SMOKE, crops=replace(SMOKE.crops, seconds=0.1))
    with pytest.raises(ValueError, match="at the level of its recordings"):
        replace(SMOKE, crops=replace(SMOKE.crops, peak_db=-1.0))
    with pytest.raises(ValueError, match="the model has none"):
        replace(SMOKE, loss=DdspLossConfig(consistency=1.0))
    with pytest.raises(ValueError, match="one of linear"):
        DdspLossConfig(linear=0.0, logarithmic=0.0, loudness=1.0)
    with pytest.raises(ValueError, match="noise_bins 1"):
        SynthConfig(noise_bins=1)


# ---------------------------------------------------------------- a synthesizer at work


def test_a_sound_is_played_from_its_curves(synthesizer):
    curves = synthesizer.analyze(tone(300.0))
    assert set(curves) == {*NAMES, "confidence"}
    np.testing.assert_allclose(curves["f0_hz"][20:-20], 300.0, rtol=2e-3)
    sound = synthesizer.render(curves, jax.random.key(3))
    assert sound.shape == (len(curves["f0_hz"]) * synthesizer.hop,)
    assert sound.dtype == np.float32 and np.isfinite(sound).all()
    again = synthesizer.render(curves, jax.random.key(3))
    np.testing.assert_array_equal(again, sound)
    assert not np.allclose(synthesizer.render(curves, jax.random.key(4)), sound)
    # Every amplitude of the synth can be turned down by itself.
    sizes = synthesizer.sizes
    assert set(sizes) == {"amplitude", "harmonic_distribution", "noise_magnitudes"}
    silent = ("noise_magnitudes=-inf", "amplitude=-6", "harmonic_distribution[1:]=-inf")
    gains = frame_gains(
        tuple(parse_gain("level", words) for words in silent),
        sizes,
        synthesizer.centers_hz,
        frame_rate_hz=synthesizer.sample_rate / synthesizer.hop,
    )
    key = jax.random.key(3)
    low, again = (
        synthesizer.render(curves, k, gains) for k in (key, jax.random.key(4))
    )
    # One harmonic without noise: no chance is left, and one line in the spectrum.
    np.testing.assert_array_equal(low, again)
    power = np.square(np.abs(np.fft.rfft(low * np.hanning(len(low)))))
    place = 300 * len(low) // synthesizer.sample_rate
    assert power[place - 20 : place + 20].sum() > 0.99 * power.sum()


@pytest.mark.slow
def test_a_sound_in_blocks_is_the_whole(synthesizer, run, monkeypatch):
    """The memory of the network, phases, noise and the room go over block borders."""
    curves = synthesizer.analyze(tone(300.0))
    key = jax.random.key(3)
    whole = synthesizer.render(curves, key)
    frames = len(curves["f0_hz"])
    monkeypatch.setattr(ddsp_synthesizer, "_BLOCK_S", 0.37)
    shorter = load_synthesizer(run, "last")
    pieces = list(shorter.blocks(curves, key))
    assert len(pieces) > 3
    peak = np.abs(whole).max()
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-5 * peak)
    controls, again = synthesizer.controls(curves), shorter.controls(curves)
    for name, control in controls.items():
        assert len(control) == frames
        np.testing.assert_allclose(again[name], control, atol=1e-5)


def test_curves_are_checked(synthesizer):
    curves = {name: np.full(5, 200.0) for name in NAMES}
    with pytest.raises(ValueError, match="no curve for f0_hz"):
        synthesizer.render({"loudness_db": curves["f0_hz"]}, jax.random.key(0))
    with pytest.raises(ValueError, match="as many in each"):
        check_curves({**curves, "f0_hz": np.ones(4)}, NAMES)
    with pytest.raises(ValueError, match="not finite: f0_hz"):
        check_curves({**curves, "f0_hz": np.full(5, np.nan)}, NAMES)
    assert synthesizer.ranges["f0_hz"]["quantiles"][0.5] > 200.0


def test_what_is_no_synthesis_model_is_refused(run, tmp_path):
    with pytest.raises(CheckpointError, match="not a run folder"):
        load_synthesizer(tmp_path)
    with pytest.raises(CheckpointError, match="best and last"):
        load_synthesizer(run, "newest")
    (tmp_path / "run.json").write_text('{"config": {"front": {}}}')
    with pytest.raises(ConfigurationError, match="did not train a synthesis model"):
        load_synthesizer(tmp_path)


# -------------------------------------------------------------------- model and metrics


@pytest.mark.slow
def test_training_sounds_are_those_of_the_mixed_synth(rng):
    """Parts apart, room by one FFT: as the synth that streams."""
    model = make_model(SMOKE)
    params = model.init(jax.random.key(0))
    noise = rng.normal(size=SMOKE.synth.taps).astype(np.float32)
    params["room"]["taps"] = noise
    curves = {
        "f0_hz": np.linspace(200, 400, 2 * 20).reshape(2, 20).astype(np.float32),
        "loudness_db": rng.normal(size=(2, 20)).astype(np.float32),
    }
    key = jax.random.key(5)
    made = model.render(params, curves, key)
    whole = model.in_room(params)
    for row, own in enumerate(jax.random.split(key, 2)):
        controls = {name: control[row] for name, control in made.controls.items()}
        alone = whole.render(controls, own)
        np.testing.assert_allclose(made.audio[row], alone, atol=2e-6)
    response = np.asarray(room_response(SMOKE, params))
    times = np.arange(len(response)) / 8000
    np.testing.assert_allclose(response, 0.02 * noise * 10 ** (-3 * times / 0.3), 1e-4)
    assert mix(model.synth).sizes == model.synth.sizes


def test_outputs_are_found_for_amplitudes():
    amplitudes = np.geomspace(1e-4, 1.9, 9)
    outputs = exp_sigmoid_inverse(amplitudes)
    np.testing.assert_allclose(exp_sigmoid(outputs), amplitudes, rtol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("level_db", [-40.0, -15.0])
def test_the_untrained_model_is_as_loud_as_recordings(level_db):
    model = make_model(SMOKE)
    params = at_level(model, model.init(jax.random.key(0)), level_db)
    curves = {"f0_hz": np.full((1, 40), 200.0), "loudness_db": np.zeros((1, 40))}
    made = model.render(params, curves, jax.random.key(0))
    # The weights, as drawn, stay: those of 8 units move it by up to 10 dB.
    assert 10 * np.log10(np.mean(made.audio**2)) == pytest.approx(level_db, abs=12.0)
    falling = np.asarray(made.controls["harmonic_distribution"]).mean((0, 1))
    assert falling[0] > 3 * falling[4] and float(harmonic_share(made)) > 0.99


def test_warning_of_harmonics_that_do_not_train():
    assert ddsp_metrics.describe_harmonics(300, 0.5) == ""
    words = ddsp_metrics.describe_harmonics(300, 0.01)
    assert "1 % of the energy at step 300" in words


def test_shares_of_the_harmonic_part():
    ones = jnp.ones((2, 4))
    made = ddsp_metrics.Rendered(3.0 * ones, 2.0 * ones, ones, {})
    assert float(ddsp_metrics.harmonic_share(made)) == pytest.approx(0.8)
    kernel = np.array([[1.0, 2.0, 2.0], [0.0, 0.0, 1.0]])
    gradients = {"decoder": {"output": {"kernel": kernel}}}
    sizes = {"amplitude": 1, "harmonic_distribution": 1, "noise_magnitudes": 1}
    share = ddsp_metrics.harmonic_gradient_share(gradients, sizes)
    assert float(share) == pytest.approx(0.5)


@pytest.mark.slow
def test_tracking_knows_a_detuned_and_louder_copy(folder):
    sounds = heard(SMOKE, folder)
    sound = sounds[0]
    curves = {name: curve[None] for name, curve in sound.curves.items()}
    same = ddsp_metrics.tracking(SMOKE, sound.audio[None], curves)
    assert float(same["f0_error_cents"]) < 1.0 and float(same["voiced"]) > 0.95
    assert float(same["loudness_error_db"]) < 0.05
    detuned = {**curves, "f0_hz": curves["f0_hz"] * 2 ** (30 / 1200)}
    found = ddsp_metrics.tracking(SMOKE, 2.0 * sound.audio[None], detuned)
    assert float(found["f0_error_cents"]) == pytest.approx(30.0, abs=1.5)
    assert float(found["loudness_error_db"]) == pytest.approx(6.02, abs=0.1)
    assert float(found["f0_near"]) > 0.95
    found = ddsp_metrics.spectral(SMOKE, sound.audio[None], sound.audio[None])
    assert float(found["spectral"]) < 1e-4 and float(found["mr_stft"]) < 1e-4


def _clips(folder):
    return assign_splits(load_collection(folder).clips)


# -------------------------------------------------------------------------- the presets


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("tiny", 1e4, 1e5), ("solo_violin", 1e5, 3e5), ("autoencoder", 6e5, 8e5)],
)
def test_presets_have_their_size(name, low, high):
    config = load_preset(PRESETS / f"{name}.yaml", DdspRunConfig)
    assert low < count_parameters(config.model, make_model(config).synth.sizes) < high


def reduced(config):
    """A preset with its parts, at sizes that a test can train."""
    synth = replace(config.synth, frame_rate_hz=100.0, harmonics=6, noise_bins=9)
    model = replace(config.model, channels=8, units=8, encoder_units=8, layers=1)
    crops = replace(config.crops, batch_size=1, seconds=0.3)
    return replace(config, synth=synth, model=model, crops=crops)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted({path.stem for path in PRESETS.glob("*.yaml")} - {"smoke"})
)
def test_presets_take_two_steps(name, folder):
    config = reduced(load_preset(PRESETS / f"{name}.yaml", DdspRunConfig))
    if config.model.latents:
        config = replace(config, loss=DdspLossConfig(1.0, 1.0, 0.1, 0.1, 0.1))
    sounds = heard(config, folder)
    task = ddsp_task(config, sound_statistics(config, sounds))
    state = task.init(jax.random.key(0))
    samples = config.frames * config.hop
    batch = {
        name: curve[None, : config.frames] for name, curve in sounds[0].curves.items()
    }
    batch["audio"] = sounds[0].audio[None, :samples]
    losses = []
    for _ in range(2):
        state, metrics = task.step(state, batch)
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all() and losses[0] != losses[1]
    terms = sum(float(v) for k, v in metrics.items() if k in vars(config.loss))
    assert terms == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
def test_a_resumed_run_is_the_unbroken_one(folder, tmp_path):
    words = ["--config", str(PRESETS / "smoke.yaml"), "--data", str(folder)]
    train = script("train")
    for place, steps in (("broken", "2"), ("broken", "4"), ("whole", "4")):
        more = ["--fit.quiet", "--fit.steps", steps]
        assert train.main(["ddsp", str(tmp_path / place), *words, *more]) == 0
    one, other = (
        restore_params(tmp_path / place, which="last") for place in ("broken", "whole")
    )
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_the_harmonics_of_a_known_sound_are_learnt(folder, tmp_path):
    """Two hundred steps on tones: the loss falls, and the model plays their f0."""
    config = replace(
        SMOKE,
        model=replace(SMOKE.model, channels=16, units=16),
        optimizer=replace(SMOKE.optimizer, learning_rate=1e-2),
    )
    sounds = heard(config, folder)
    task = ddsp_task(config, sound_statistics(config, sounds))
    state = task.init(jax.random.key(0))
    samples = config.frames * config.hop
    batch = {
        name: np.stack([sound.curves[name][: config.frames] for sound in sounds[:2]])
        for name in sounds[0].curves
    }
    batch["audio"] = np.stack([sound.audio[:samples] for sound in sounds[:2]])
    assert task.evaluate is not None
    before = task.evaluate(state, batch)
    for _ in range(200):
        state, metrics = task.step(state, batch)
    after = task.evaluate(state, batch)
    assert float(after["spectral"]) < 0.5 * float(before["spectral"])
    assert float(after["f0_error_cents"]) < 10.0
    assert float(after["loudness_error_db"]) < 2.0
    assert float(metrics["harmonic_share"]) > 0.9
