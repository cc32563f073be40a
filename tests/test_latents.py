"""g and h: what they are made to know, that they stay frozen, and their files."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from ddspx.data.manifest import Clip
from ddspx.parameters import ParameterSpec, choice
from ddspx.training.checkpoint import CheckpointError, restore_params, tree_hash
from ddspx.training.configuration import load_preset
from ddspx.training.optimizer import OptimizerConfig
from styletransfer import bundle, training, tuning
from styletransfer.codes import CodeBank, drawn_batches, joined
from styletransfer.controller import load_controller, predict
from styletransfer.decoder_task import DecoderRunConfig, settings_likelihood
from styletransfer.encoder_task import EncoderRunConfig
from styletransfer.encoders import encode_sounds, load_encoder
from styletransfer.hosts.response import probe_signal
from styletransfer.latent_models import (
    LatentModelConfig,
    make_latent_vae,
    output_width,
    settled,
)
from styletransfer.latent_task import LatentRunConfig, latent_task
from styletransfer.suite import SuiteConfig
from styletransfer.tuning import TuneRunConfig

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Recordings of 1.5 seconds, four to train on and two held out."""
    folder = tmp_path_factory.mktemp("clips")
    made = []
    for number in range(6):
        name = f"{number}.wav"
        soundfile.write(folder / name, probe_signal(24000, 1.5, number), 24000)
        split = "train" if number < 4 else "valid"
        own = {"split": split, "group": name}
        made.append(Clip(name, str(folder), 1.5, 24000, 1, **own))
    return tuple(made)


@pytest.fixture(scope="module")
def runs(clips, tmp_path_factory):
    """The smoke runs of f, of g, and of the h of two effects."""
    folder = tmp_path_factory.mktemp("runs")
    encoder = load_preset(CONFIGS / "encoder/smoke.yaml", EncoderRunConfig)
    training.train_encoder(encoder, folder / "f", clips)
    latents = load_preset(CONFIGS / "latents/smoke.yaml", LatentRunConfig)
    latents = dataclasses.replace(latents, encoder=str(folder / "f"))
    training.train_latents(latents, folder / "g", clips)
    decoder = load_preset(CONFIGS / "decoder/smoke.yaml", DecoderRunConfig)
    for effect in ("compressor", "distortion"):
        own = dataclasses.replace(decoder, latents=str(folder / "g"), effect=effect)
        training.train_decoder(own, folder / effect, clips)
    return folder


def test_h_is_trained_and_f_and_g_stay_bit_for_bit(runs):
    _, trained = load_encoder(runs / "f", "last")
    shared = bundle.load_shared(runs / "g" / bundle.SHARED)
    assert tree_hash(shared.params["encoder"]) == tree_hash(trained)
    for effect in ("compressor", "distortion"):
        loaded = load_controller(runs / effect)
        for part in ("encoder", "latents"):
            assert tree_hash(loaded.params[part]) == tree_hash(shared.params[part])
        untrained = loaded.controller.init(jax.random.key(0))["decoder"]
        assert tree_hash(untrained) != tree_hash(loaded.params["decoder"])


def test_one_f_and_g_serve_every_h(runs, tmp_path):
    """The files of two effects in one folder, beside one file of f and g."""
    (tmp_path / bundle.SHARED).write_bytes(
        (runs / "compressor" / bundle.SHARED).read_bytes()
    )
    sound = probe_signal(24000, 0.7)[None]
    said = {}
    for effect in ("compressor", "distortion"):
        path = tmp_path / f"{effect}.npz"
        path.write_bytes((runs / effect / bundle.DECODER).read_bytes())
        loaded = load_controller(path)
        assert loaded.effect.name == effect
        said[effect] = predict(loaded, sound, 0.3 * sound, 24000, 24000)
        again = load_controller(runs / effect)
        same = predict(again, sound, 0.3 * sound, 24000, 24000)
        np.testing.assert_array_equal(said[effect].controls, same.controls)
    assert len(said["compressor"].controls) != len(said["distortion"].controls)


def test_a_prediction_is_f_then_g_then_h(runs):
    loaded = load_controller(runs / "compressor")
    controller = loaded.controller
    assert controller.latents is not None and controller.settle is not None
    one, two = (probe_signal(24000, 0.5, k)[None] for k in range(2))
    encoder, weights = load_encoder(runs / "f", "last")
    codes = encode_sounds(encoder, weights, np.stack([one, two]))
    mean, log_variance = controller.latents(loaded.params, *codes)
    assert mean.shape == log_variance.shape == (4,)
    by_hand = controller.settle(loaded.params, mean)
    found = controller.predict(loaded.params, one, two)
    np.testing.assert_allclose(found.controls, by_hand.controls, atol=1e-5)


def test_files_that_do_not_belong_together_are_refused(runs, tmp_path):
    other = bundle.load_shared(runs / "g" / bundle.SHARED)
    changed = jax.tree.map(lambda a: a + 1, other.params["latents"])
    strange = bundle.make_shared(
        other.encoder, other.latents, {**other.params, "latents": changed}
    )
    bundle.save_shared(tmp_path / bundle.SHARED, strange)
    path = tmp_path / "compressor.npz"
    path.write_bytes((runs / "compressor" / bundle.DECODER).read_bytes())
    with pytest.raises(CheckpointError, match="was trained on the encoders"):
        load_controller(path)
    with pytest.raises(CheckpointError, match="expected a file of 'decoder'"):
        load_controller(tmp_path / bundle.SHARED)
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_controller(tmp_path / "nothing.npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_controller(path)
    with pytest.raises(CheckpointError, match="no encoder of sounds"):
        load_encoder(runs / "g")


def test_codes_are_kept_and_found_again(runs, clips):
    cache = runs / training.CACHE
    before = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    decoder = load_preset(CONFIGS / "decoder/smoke.yaml", DecoderRunConfig)
    own = dataclasses.replace(decoder, latents=str(runs / "g"), effect="compressor")
    training.train_decoder(own, runs / "again", clips)
    after = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert before == after and len(before) == 4  # two effects, known and held out
    one, two = (bundle.load_decoder(runs / name / bundle.DECODER)
                for name in ("compressor", "again"))  # fmt: skip
    assert tree_hash(one.params) == tree_hash(two.params)


def treatments(rng, count, content=3, settings=2, size=8):
    """Codes whose treatment adds two hidden numbers along fixed directions."""
    mixing = np.random.default_rng(5).normal(size=(content + settings, size))
    hidden = rng.random((count, settings)).astype(np.float32)
    inputs, others = rng.normal(size=(2, count, content))
    dry = inputs @ mixing[:content]
    moved = 2.0 * (hidden - 0.5) @ mixing[content:]
    reference = others @ mixing[:content] + moved
    codes = (dry, reference, dry + moved)
    counts = np.ones(count, bool)
    return CodeBank(*(c.astype(np.float32) for c in codes), hidden, counts, counts, counts)  # noqa: E501  # fmt: skip


def test_g_learns_the_treatment_and_leaves_the_content():
    """Settings are two numbers, content three: z is of the settings, R^2 by a fit."""
    rng = np.random.default_rng(0)
    known, held_out = treatments(rng, 4000), joined([treatments(rng, 500)])
    config = LatentModelConfig(latents=6, hidden=(64,), forward=(64,))
    vae = make_latent_vae(config, 8)
    whole = joined([known])
    task = latent_task(
        vae, whole["target"].std(0), 0.02, OptimizerConfig(learning_rate=3e-3)
    )
    state = task.init(jax.random.key(0))
    batches = drawn_batches(whole, 128)
    for k in range(500):
        state, _ = task.step(state, batches[k])
    assert task.evaluate is not None
    found = task.evaluate(state, held_out)
    assert found["forecast"] < 0.2 * found["forecast_blind"]
    assert found["forecast"] < 0.2 * found["forecast_prior"]
    mean, _ = jax.vmap(vae.infer, (None, 0, 0))(
        state.params, held_out["dry"], held_out["reference"]
    )
    basis = np.c_[np.asarray(mean), np.ones(500)]
    hidden = held_out["controls"]
    rest = hidden - basis @ np.linalg.lstsq(basis, hidden, rcond=None)[0]
    assert (rest.var(0) / hidden.var(0)).max() < 0.15
    content = held_out["reference"]
    rest = content - basis @ np.linalg.lstsq(basis, content, rcond=None)[0]
    assert np.median(rest.var(0) / content.var(0)) > 0.5


def test_choices_are_hard_forwards_and_relaxed_backwards():
    specs = (ParameterSpec("gain"), choice("mode", ("a", "b", "c"), "a"))
    assert output_width(specs) == 5
    out = jnp.array([0.4, 0.0, 0.2, 1.0, 0.8])
    said = settled(specs, out)
    share = np.exp(out[2:]) / np.exp(out[2:]).sum()
    centres = (np.arange(3) + 0.5) / 3
    assert float(said.controls[1]) == pytest.approx(0.5)  # the middle of "b"
    mean = share @ centres
    assert float(said.deviation[1]) == pytest.approx(
        np.sqrt(share @ (centres - mean) ** 2), rel=1e-5
    )
    np.testing.assert_allclose(said.choices[0], np.log(share), rtol=1e-5)
    slope = jax.grad(lambda o: settled(specs, o).controls[1])(out)
    np.testing.assert_allclose(slope[2:], share * (centres - mean), rtol=1e-4)


def test_the_likelihood_of_a_choice_is_its_cross_entropy():
    specs = (choice("mode", ("a", "b"), "a"), ParameterSpec("gain"))
    out = jnp.array([0.3, -0.5, 0.1, 0.2])
    said = settled(specs, out)
    controls = np.array([0.9, 0.25], np.float32)
    deviation = float(said.deviation[1])
    apart = (0.25 - float(said.controls[1])) ** 2
    gaussian = deviation * (apart / (2 * deviation**2) + np.log(deviation))
    entropy = -float(said.choices[0][1])
    found = float(settings_likelihood(specs, said, controls))
    assert found == pytest.approx((gaussian + entropy) / 2, rel=1e-5)


def test_pairs_that_do_not_count_are_left_out():
    bank = treatments(np.random.default_rng(0), 5)
    valid = np.array([True, False, True, True, False])
    whole = joined([bank._replace(valid=valid), bank])
    assert len(whole["dry"]) == 8 and whole["controls"].shape == (8, 4)
    np.testing.assert_array_equal(whole["known"][:3], [[True, True, False, False]] * 3)
    np.testing.assert_array_equal(whole["controls"][:3, :2], bank.controls[valid])
    np.testing.assert_array_equal(whole["controls"][3:, 2:], bank.controls)
    assert (whole["controls"][~whole["known"]] == 0).all()
    np.testing.assert_array_equal(whole["effect"], [0] * 3 + [1] * 5)
    with pytest.raises(ValueError, match="no pair counts"):
        joined([bank._replace(valid=np.zeros(5, bool))])


def test_records_are_json(runs):
    with np.load(runs / "compressor" / bundle.DECODER) as file:
        record = json.loads(str(file["record"]))
    assert record["effect"]["name"] == "compressor" and record["note"]["pairs"] == 64


@pytest.mark.parametrize(
    "source", ["pair", pytest.param("difference", marks=pytest.mark.slow)]
)
def test_a_decoder_of_codes_has_no_latents_and_is_kept_alike(runs, clips, source):
    decoder = load_preset(CONFIGS / "decoder/smoke.yaml", DecoderRunConfig)
    model = dataclasses.replace(decoder.model, source=source)
    own = dataclasses.replace(decoder, latents=str(runs / "g"), model=model)
    training.train_decoder(own, runs / source, clips)
    loaded = load_controller(runs / source)
    assert loaded.controller.latents is None and loaded.controller.settle is None
    one, two = (probe_signal(24000, 0.5, k)[None] for k in range(2))
    codes = jax.random.normal(jax.random.key(0), (2, 16))
    said = loaded.controller.decide(loaded.params, *codes)
    moved = loaded.controller.decide(loaded.params, codes[0] + 1, codes[1] + 1)
    same = bool(np.allclose(said.controls, moved.controls, atol=1e-6))
    assert same == (source == "difference")
    assert predict(loaded, one, two, 24000, 24000).controls.shape == (5,)


def test_a_decoder_is_tuned_by_sound_and_f_and_g_stay(runs, clips):
    config = load_preset(CONFIGS / "tune/smoke.yaml", TuneRunConfig)
    config = dataclasses.replace(config, start=str(runs / "compressor"))
    tuning.tune_decoder(config, runs / "tuned", clips)
    before, after = (load_controller(runs / name) for name in ("compressor", "tuned"))
    for part in ("encoder", "latents"):
        assert tree_hash(before.params[part]) == tree_hash(after.params[part])
    # What is exported is the best evaluation, which may be that before the first step.
    last = restore_params(runs / "tuned", ("params", "decoder"), which="last")
    assert tree_hash(before.params["decoder"]) != tree_hash(last)


def test_a_size_is_proposed_and_kept(runs):
    table = json.loads((runs / "g/size.json").read_text())
    assert {p["rule"] for p in table["proposals"]} >= {"fidelity", "worth", "active"}
    assert len(table["nats"]) == 4 and table["fidelity"][-1] == pytest.approx(1.0)
    assert "| latent | nats |" in (runs / "g/size.md").read_text()


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("encoder", EncoderRunConfig),
        ("latents", LatentRunConfig),
        ("decoder", DecoderRunConfig),
        ("tune", TuneRunConfig),
        ("suites", SuiteConfig),
    ],
)
def test_every_preset_is_of_its_kind(folder, kind):
    paths = sorted((CONFIGS / folder).glob("*.yaml"))
    assert paths
    for path in paths:
        assert isinstance(load_preset(path, kind), kind)


def test_equal_encoders_are_one_and_compiled_once(runs):
    one, two = (
        load_controller(runs / n).controller for n in ("compressor", "distortion")
    )
    assert one.image is two.image and one.encode is two.encode
