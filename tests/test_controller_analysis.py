"""The latents of a controller: dead ones are found, and pruning is exact."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from latent_controller import (
    RATE,
    direct_controller,
    latent_controller,
)

from ddspx.data.manifest import load_collection
from styletransfer.bundle import (
    DECODER,
    SHARED,
    load_decoder,
    make_effect_controller,
    make_shared,
    save_decoder,
    save_shared,
)
from styletransfer.controller import load_controller, predict
from styletransfer.controller_analysis import (
    controls_output,
    make_pairs,
    ordinary_sounds,
    posterior,
    settler,
    sound_output,
)
from styletransfer.controller_prune import (
    prune,
    pruned,
    render_losses,
    save_pruned,
    verify,
)
from styletransfer.encoders import SoundEncoder, make_encoder
from styletransfer.evaluation import truth_loss
from styletransfer.hosts import Rendered, Status, open_host
from styletransfer.hosts.response import probe_signal
from styletransfer.latent_models import (
    DecoderConfig,
    LatentModelConfig,
    make_latent_controller,
)
from styletransfer.models import ControllerConfig, make_controller
from styletransfer.pairs import PairConfig
from vae.analysis import AnalysisOptions, analyze

QUICK = AnalysisOptions(
    pairs=64, order_pairs=32, derivative_examples=8, gram_examples=4, audible=0.05
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Recordings of three groups in each of the splits that are looked at."""
    folder = tmp_path_factory.mktemp("clips")
    rows = ["path,split,group"]
    for number in range(6):
        split = "valid" if number < 3 else "test"
        sound = 0.3 * probe_signal(RATE, 1.2, number)
        soundfile.write(folder / f"{number}.wav", sound, RATE, subtype="FLOAT")
        rows.append(f"{number}.wav,{split},{number}")
    (folder / "MANIFEST.csv").write_text("\n".join(rows) + "\n")
    return load_collection(folder).clips


@pytest.fixture(scope="module")
def toy():
    return latent_controller()


@pytest.fixture(scope="module")
def host(toy):
    with open_host(toy.effect, RATE, backend="serial") as opened:
        yield opened


@pytest.fixture(scope="module")
def pairs(toy, host, clips):
    return make_pairs(toy, host, clips[:3], 24, config=PairConfig(untreated=0.0))


def test_pairs_are_held_out_recordings_with_the_effect(toy, host, pairs):
    assert pairs.audio.shape == (24, 1, RATE // 2) and set(pairs.groups) == {*"012"}
    at_truth = render_losses(host, pairs, pairs.controls)
    np.testing.assert_allclose(at_truth, 0.0, atol=1e-5)
    untouched = render_losses(host, pairs, None)
    direct = truth_loss(pairs.audio, pairs.target)
    np.testing.assert_allclose(untouched, direct, rtol=1e-4)
    one = toy.controller.encode(toy.params, toy.controller.image(pairs.audio[5]))
    np.testing.assert_allclose(pairs.codes[5], one, rtol=1e-5)


def test_pairs_are_made_again_alike_and_what_is_not_heard_is_told(toy, host, clips):
    one, two = (make_pairs(toy, host, clips[:3], 3, seed=4) for _ in range(2))
    np.testing.assert_array_equal(one.target, two.target)
    deaf = PairConfig(audible_db=99.0, tries=1, untreated=0.0)
    with pytest.raises(ValueError, match="gave 0 of 3 pairs"):
        make_pairs(toy, host, clips[:3], 3, config=deaf)


def test_dead_latents_are_found_by_controls_and_by_sound(toy, host, pairs):
    """Of four latents two move a control; the pair tells of all four."""
    mean, log_variance = posterior(toy, pairs)
    assert (mean.var(0) > 0.01).all()
    sounds = ordinary_sounds(pairs, 2)
    np.testing.assert_allclose(np.abs(sounds).max(axis=(1, 2)), 10 ** (-9 / 20), 1e-5)
    for output in (controls_output(toy), sound_output(toy, host, sounds)):
        found = analyze(mean, log_variance, output, options=QUICK)
        assert {d.index for d in found.dimensions if d.total.value > 0} == {0, 1}
        assert set(found.order[:2]) == {0, 1} and found.noise_floor == 0.0
        assert found.proposal("audible").keep == 2
        assert found.fidelity[2].value == pytest.approx(1.0, abs=1e-9)
    gains = found.dimensions[0].groups["band"], found.dimensions[1].groups["band"]
    # The gain acts in all bands, the shelf at 2 kHz above it: 16 groups of mel bands.
    assert sum(gains[1][:6]) < 0.05 < sum(gains[0][:6])


def test_a_latent_that_moves_a_control_that_is_not_heard(toy, host, pairs):
    """By the controls it counts; by the sound, far below what is heard, it does not."""
    slopes = np.array([[0.0, 0.0, 0.0], [0.0, 0.3, 0.0]], np.float32)
    slopes[0, 0] = 0.5
    quiet = pairs._replace(audio=pairs.audio)
    mean, log_variance = posterior(latent_controller(slopes), quiet)
    alive = latent_controller(slopes)
    low = sound_output(alive, host, 1e-7 * ordinary_sounds(pairs, 1))
    found = analyze(mean, log_variance, low, options=QUICK)
    assert found.variance.value == 0.0 and found.proposal("audible").keep == 0
    by_controls = analyze(mean, log_variance, controls_output(alive), options=QUICK)
    assert by_controls.proposal("audible").keep == 2


def test_failed_renders_are_told(toy, host, monkeypatch):
    output = sound_output(toy, host, np.ones((1, 1, RATE // 2), np.float32))
    failed = np.full(3, Status.ERROR, np.int32)
    monkeypatch.setattr(host, "render", lambda audio, controls: Rendered(audio, failed))
    with pytest.raises(ValueError, match="3 of 3 renders ended with ERROR"):
        output.of(np.zeros((3, 4), np.float32))


def test_direct_controllers_are_refused(pairs):
    with pytest.raises(ValueError, match="has no latents"):
        posterior(direct_controller(), pairs)


def level_encoder() -> SoundEncoder:
    """An encoder of the project's own kind, small, with weights drawn."""
    config = {
        "sample_rate": RATE,
        "seconds": 0.5,
        "model": {"bands": 16, "channels": [8], "embedding": 12, "hidden": [8]},
    }
    return make_encoder("direct", config)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder with a controller of six latents, of which h does not see two."""
    encoder = level_encoder()
    sizes, decoder = LatentModelConfig(latents=6, hidden=(16,)), DecoderConfig((12,))
    effect = latent_controller().effect
    own = make_controller(
        ControllerConfig(bands=16, channels=(8,), embedding=12, hidden=(8,)), 1, RATE
    )
    specs = effect.at_sample_rate(RATE).specs
    controller = make_latent_controller(encoder, sizes, decoder, specs)
    params = controller.init(jax.random.key(1))
    params["encoder"] = own.init(jax.random.key(0))["encoder"]
    h = params["decoder"]
    h["Dense_0"]["kernel"] = h["Dense_0"]["kernel"].at[jnp.array([1, 4])].set(0.0)
    h["Dense_1"]["kernel"] = 30.0 * h["Dense_1"]["kernel"]
    shared = make_shared(encoder, sizes, params)
    found = make_effect_controller(shared, effect, decoder, h, {"data": "none"})
    folder = tmp_path_factory.mktemp("kept")
    save_shared(folder / SHARED, shared)
    save_decoder(folder / DECODER, found)
    return folder


def test_pruning_is_an_exact_slice(kept, rng):
    full = load_decoder(kept / DECODER)
    keep, held = np.array([5, 0, 2]), rng.normal(size=6).astype(np.float32)
    small = pruned(full, keep, held)
    assert small.shared.latents.latents == 3 and small.note["pruned"]["of"] == 6
    codes, others = rng.normal(size=(2, 7, 12)).astype(np.float32)
    infer = jax.vmap(_given(full.controller.latents), (None, 0, 0))
    mean, log_variance = infer(full.params, codes, others)
    fewer = jax.vmap(_given(small.controller.latents), (None, 0, 0))
    small_mean, small_variance = fewer(small.params, codes, others)
    np.testing.assert_allclose(small_mean, mean[:, keep], atol=1e-5)
    np.testing.assert_allclose(small_variance, log_variance[:, keep], atol=1e-5)
    clamped = np.repeat(held[None], 7, 0)
    clamped[:, keep] = mean[:, keep]
    one = jax.vmap(_given(full.controller.settle), (None, 0))(full.params, clamped)
    two = jax.vmap(_given(small.controller.settle), (None, 0))(small.params, small_mean)
    assert np.ptp(one.controls, axis=0).min() > 0.01
    np.testing.assert_allclose(two.controls, one.controls, atol=1e-5)
    np.testing.assert_allclose(two.deviation, one.deviation, rtol=1e-4)
    # What h does not see may go and nothing changes.
    free = pruned(full, np.array([0, 2, 3, 5]), held)
    said = jax.vmap(free.controller.decide, (None, 0, 0))(free.params, codes, others)
    whole = jax.vmap(full.controller.decide, (None, 0, 0))(full.params, codes, others)
    np.testing.assert_allclose(said.controls, whole.controls, atol=1e-5)


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ([], "one latent or more"),
        ([1, 1], "each once"),
        ([6], "0 ... 5"),
        ([-1], "0 ..."),
    ],
)
def test_impossible_prunings_are_refused(kept, keep, words):
    params = load_decoder(kept / DECODER).params
    with pytest.raises(ValueError, match=words):
        prune(params, np.array(keep, int), np.zeros(6))


def test_a_pruned_controller_is_kept_verified_and_predicts(kept, pairs, host, tmp_path):
    full = load_decoder(kept / DECODER)
    loaded = load_controller(kept)
    some = pairs._replace(
        codes=np.stack([_code(loaded, sound) for sound in pairs.audio]),
        references=np.stack([_code(loaded, sound) for sound in pairs.target]),
    )
    held = posterior(loaded, some)[0].mean(0)
    keep = [0, 3]
    save_pruned(tmp_path, pruned(full, np.array(keep), held))
    small = load_controller(tmp_path)
    rows, apart = verify(loaded, small, some, host, keep, held)
    assert apart < 1e-5
    nothing, whole, clamped, left = rows
    assert [row.model for row in rows] == ["do nothing", "full", "held", "pruned"]
    assert [row.latents for row in rows] == [0, 6, 2, 2]
    assert left.loss.mean == pytest.approx(clamped.loss.mean, rel=1e-3)
    assert whole.growth == (0.0, 0.0, 0.0) and clamped.growth.mean != 0.0
    assert left.parameters < whole.parameters == clamped.parameters
    assert nothing.loss.mean == pytest.approx(
        float(np.mean(truth_loss(some.audio, some.target))), rel=1e-4
    )
    controls = np.asarray(settler(loaded)(posterior(loaded, some)[0]).controls)
    error = np.abs(controls - some.controls)[some.labelled].mean()
    assert whole.control_error == pytest.approx(float(error), rel=1e-5)
    assert json.loads(json.dumps(left.record()))["latents"] == 2
    assert set(left.row()) == set(nothing.row())
    sound = pairs.audio[0]
    assert predict(small, sound, 0.5 * sound, RATE, RATE).controls.shape == (2,)
    with pytest.raises(ValueError, match="exists"):
        save_pruned(tmp_path, pruned(full, np.array(keep), held))


def _given(function: Any) -> Any:
    assert function is not None
    return function


def _code(loaded, sound):
    return np.asarray(
        loaded.controller.encode(loaded.params, loaded.controller.image(sound))
    )


def test_command_analyses_and_prunes_a_controller(kept, clips, tmp_path, capsys):
    import analyze_latents as script

    data = str(clips[0].file.parent)
    out = tmp_path / "out"
    words = [str(kept), "--data", data, "--examples", "16", "--seconds", "1"]
    assert script.main([*words, "--out", str(out), "--prune", "4"]) == 0
    found = json.loads((out / "analysis.json").read_text())
    assert found["analysis"]["output"] == "rendered"
    dead = [d["index"] for d in found["analysis"]["dimensions"] if not d["rms"]]
    assert dead == [1, 4] and set(found["analysis"]["order"][4:]) == {1, 4}
    assert [row["latents"] for row in found["verification"]] == [0, 6, 4, 4]
    full, _, small = found["verification"][1:]
    assert small["loss"]["mean"] == pytest.approx(full["loss"]["mean"], rel=1e-3)
    page = (out / "report.md").read_text()
    assert "| pruned | 4 |" in page and "the split test" in page
    assert "What each latent does to the controls" in page and "% tilt.gain_db" in page
    assert len(list(out.glob("traversal_*.wav"))) == 6
    assert load_decoder(out / "pruned" / DECODER).note["pruned"]["keep"] == [0, 2, 3, 5]
    controls = [*words, "--output", "controls", "--traversals", "0"]
    assert script.main([*controls, "--out", str(tmp_path / "controls")]) == 0
    found = json.loads((tmp_path / "controls" / "analysis.json").read_text())
    assert found["analysis"]["unit"] == "of the range"
    # Without recordings of another split the table says so.
    own = [
        *controls,
        "--only",
        "[0-2]*",
        "--prune",
        "0",
        "--out",
        str(tmp_path / "own"),
    ]
    assert script.main(own) == 0
    assert "other pairs of the same" in (tmp_path / "own" / "report.md").read_text()
    capsys.readouterr()
    for extra, message in (
        (["--prune", "7"], "has 6 latents"),
        (["--fine-tune", "3", "--prune", "2"], "is about a VAE"),
        (["--output", "levels"], "take sound or controls"),
        (["--split", "test", "--only", "0*"], "no clips in split 'test'"),
        (["--out", str(out)], "not empty"),
    ):
        assert script.main([*words, "--out", str(tmp_path / "new"), *extra]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists()
