"""The suite that probes an encoder: measures with known answers, and the whole run."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from ddspx import audio
from ddspx.data.manifest import Clip, ManifestError, load_collection, write_manifest
from ddspx.data.practice import render_piece
from ddspx.parameters import ParameterSpec, choice
from ddspx.training.configuration import from_dict, to_dict
from styletransfer.bundle import make_shared, save_shared
from styletransfer.encoder_task import EncoderRunConfig
from styletransfer.encoders import encode_sounds, make_encoder
from styletransfer.hosts import open_host
from styletransfer.latent_models import LatentModelConfig, make_latent_vae
from styletransfer.presets import load_effect

ROOT = Path(__file__).parent.parent
RATE, SECONDS = 16000, 0.25


@pytest.fixture(scope="module")
def suite():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        from benchmarks import (
            encoder_codes,
            encoder_measures,
            encoder_probes,
            encoder_sounds,
        )

        yield encoder_sounds, encoder_codes, encoder_measures, encoder_probes


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Six pieces, four to train on and two to test on, each of two short files."""
    folder = tmp_path_factory.mktemp("recordings")
    clips = []
    for piece in range(6):
        sound = render_piece("strings", piece, sample_rate=RATE)[:1]
        sound = np.asarray(sound, np.float32)
        for take in range(2):
            path = folder / "music" / f"piece{piece}" / f"{take}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            audio.save(path, sound[:, take * 2 * RATE : (take + 1) * 2 * RATE], RATE)
            clips.append(
                Clip(
                    path=path.relative_to(folder).as_posix(),
                    root=str(folder),
                    split="train" if piece < 4 else "test",
                    group=f"piece{piece}",
                )
            )
    write_manifest(folder / "MANIFEST.csv", clips)
    return folder


def crops_of(suite, recordings, count, split="train"):
    return suite[0].balanced_crops(
        load_collection(recordings).clips,
        split,
        ("music",),
        2 * SECONDS,
        RATE,
        count=count,
        seed=3,
    )


# ------------------------------------------------------------------------------ sounds


def test_pieces_take_turns_and_no_split_hears_another(suite, recordings):
    crops = crops_of(suite, recordings, 10)
    assert list(crops.group) == [f"piece{i % 4}" for i in range(10)]
    assert crops.audio.shape == (10, 1, 2 * SECONDS * RATE)
    for sound, file, offset in zip(crops.audio, crops.file, crops.offset, strict=True):
        whole = audio.load(recordings / file)[0]
        cut = whole[:, offset : offset + sound.shape[-1]]
        np.testing.assert_allclose(sound, cut, atol=1e-4)
    again = crops_of(suite, recordings, 10)
    np.testing.assert_array_equal(crops.audio, again.audio)
    assert set(crops_of(suite, recordings, 4, "test").group) == {"piece4", "piece5"}


def test_a_single_piece_that_is_long_enough_is_refused(suite, recordings):
    clips = load_collection(recordings).clips
    for kept, seconds in ((clips[:2], 0.5), (clips, 3.0)):
        with pytest.raises(ManifestError, match=r"groups have recordings"):
            suite[0].balanced_crops(
                kept, "train", ("music",), seconds, RATE, count=4, seed=0
            )


def test_pairs_have_the_settings_that_they_name(suite, recordings):
    """What was treated is the dry half's other half, and what shares is the same."""
    sounds = suite[0]
    crops = crops_of(suite, recordings, 6)
    with open_host(load_effect("compressor"), RATE, backend="serial") as host:
        pairs = sounds.treat(crops, host, seed=(1,), share=2, middle=True)
        made = host.render(pairs.dry, np.tile(np.float32(0.5), pairs.controls.shape))
    assert pairs.lost == 6 - len(pairs.crop) and len(pairs.crop) >= 4
    np.testing.assert_array_equal(pairs.middle, made.audio)
    for setting in np.unique(pairs.setting):
        own = np.flatnonzero(pairs.setting == setting)
        assert len(own) == 2 and np.ptp(pairs.controls[own], axis=0).max() == 0.0
        assert len(set(crops.group[pairs.crop[own]])) == 2
    halves = np.split(crops.audio[pairs.crop], 2, axis=-1)
    nearest = []
    for half in halves:
        scaled = half / np.abs(half).max(-1, keepdims=True)
        dry = pairs.dry / np.abs(pairs.dry).max(-1, keepdims=True)
        nearest.append(np.abs(scaled - dry).max((1, 2)) < 1e-4)
    # One of both is the input, at another level; which one is a coin.
    assert np.all(nearest[0] != nearest[1])


def test_the_middle_of_a_choice_is_its_default(suite):
    specs = (
        ParameterSpec("gain_db", -20.0, 20.0, "dB"),
        choice("mode", ("a", "b", "c", "d"), "d"),
    )
    np.testing.assert_allclose(suite[0].middle_controls(specs), [0.5, 0.875])


# ---------------------------------------------------------------------------- measures


def test_a_planted_parameter_stands_out_and_chance_is_known(suite, rng):
    measures = suite[2]
    controls = rng.random((200, 3))[np.arange(400) // 2]
    codes = rng.standard_normal((400, 24))
    codes[:, 5] = np.abs(controls[:, 0] - 0.5) + 0.02 * codes[:, 5]
    told = measures.axis_information(
        codes, controls, np.arange(400) // 2, permutations=5, seed=0
    )
    assert told.nats[0] > 0.8 > 5 * told.null.max()
    # Of what is not told chance gives as much.
    np.testing.assert_allclose(told.nats[1:], told.null[1:], atol=0.05)


def test_the_null_keeps_what_shares_its_settings_together(suite, rng):
    """Codes that know which items are partners tell nothing of the settings."""
    setting = np.arange(160) // 4
    codes = rng.standard_normal((40, 30))[setting]
    controls = rng.random((40, 4))[setting]
    each = [
        suite[2].axis_information(codes, controls, names, permutations=8, seed=0)
        for names in (setting, np.arange(160))
    ]
    together, apart = (told.nats.mean() - told.null.mean() for told in each)
    assert abs(together) < 0.1 < apart


def test_ridge_explains_what_scikit_learn_says(suite, rng):
    from sklearn.metrics import r2_score

    measures = suite[2]
    codes, others = rng.standard_normal((2, 300, 10))
    slopes = np.stack([np.ones(10), np.zeros(10)], 1)
    known, judged = (
        x @ slopes + rng.standard_normal((300, 2)) for x in (codes, others)
    )
    names = np.array([f"g{i}" for i in range(21)])
    group = names[np.arange(300) // 15]
    given = ((codes, known), (others, judged), group, names)
    found = measures.ridge_explains(*given, draws=400, seed=0)
    from benchmarks.embedding_probes import linear_readout

    for column in range(2):
        readout = linear_readout(codes, known[:, column], others)
        assert found.each[column] == pytest.approx(r2_score(judged[:, column], readout))
    assert found.each[0] > 0.85 and abs(found.each[1]) < 0.05
    assert found.draws.shape == (2, 400)
    low, high = np.quantile(found.draws[0], (0.025, 0.975))
    assert low < found.each[0] < high and high - low < 0.1


def test_recall_is_one_for_settings_and_chance_for_content(suite, rng):
    measures = suite[2]
    setting = np.arange(160) // 2
    effect = setting // 40
    group = np.arange(160) % 8
    by_setting = rng.standard_normal((80, 12))[setting]
    by_content = rng.standard_normal((160, 12))

    def recalled(codes, **options):
        options = {"among": 20, "within": True} | options
        return measures.recall(
            codes, setting, group, effect, seed=0, draws=50, **options
        )

    assert recalled(by_setting)[0].accuracy == 1.0
    # Its length says nothing: near is a small angle.
    assert recalled(by_setting * rng.random((160, 1)))[0].accuracy == 1.0
    found, among = recalled(by_content)
    assert among == 20 and found.accuracy < 0.15
    assert recalled(by_setting, among=50)[1] == 40
    assert recalled(by_setting, among=50, within=False)[1] == 50
    # An axis of the effect alone leads to the effect, not to the setting.
    kinds = rng.standard_normal((2, 12))[effect] + 0.01 * by_content
    one, any_effect = (recalled(kinds, within=w)[0].accuracy for w in (True, False))
    assert one < 0.15 < any_effect + 0.15 < 0.4


def test_recall_without_partners_is_refused(suite, rng):
    alone = np.arange(6)
    with pytest.raises(ValueError, match="two items"):
        suite[2].recall(
            rng.random((6, 2)), alone, alone, alone, among=5, within=True, seed=0,
            draws=5,
        )  # fmt: skip


def test_content_is_asked_where_nothing_was_heard(suite):
    group = np.array(["a"] * 6 + ["b"] * 2 + ["c"])
    file = np.array(["x"] * 4 + ["y"] * 2 + ["z"] * 3)
    offset = np.array([90, 0, 50, 100, 0, 70, 10, 15, 0])
    earlier, later = suite[2].halves_by_place(group, file, offset, 10)
    # Of "a" x 100 touches x 90, which is heard; "b" overlaps itself; "c" has one crop.
    assert list(earlier) == [1, 2, 0] and list(later) == [3, 4, 5]
    earlier, later = suite[2].halves_by_place(group, file, offset, 60)
    # x 50 reaches into all that follows in its file.
    assert list(earlier) == [1, 2] and list(later) == [4, 5]


# --------------------------------------------------------------------------- the whole


@pytest.fixture(scope="module")
def tiny():
    """An encoder with latents, both at random."""
    run = from_dict(
        EncoderRunConfig,
        {
            "effects": ["compressor", "distortion"],
            "sample_rate": RATE,
            "seconds": SECONDS,
            "model": {"channels": [4, 8], "embedding": 8, "hidden": [8], "bands": 24},
        },
    )
    return make_encoder("effects", to_dict(run))


@pytest.fixture(scope="module")
def shared_file(suite, tiny, tmp_path_factory):
    latents = LatentModelConfig(latents=3, hidden=(8,), forward=(8,))
    params = jax.jit(make_latent_vae(latents, tiny.size).init)(jax.random.key(1))
    params = {**params, "encoder": suite[1].untrained_weights(tiny, 7)}
    path = tmp_path_factory.mktemp("shared") / "shared.npz"
    return save_shared(path, make_shared(tiny, latents, params))


def words(recordings, *more):
    effects = ("--effects", "compressor", "distortion")
    given = ("--data", recordings, *effects, "--clips", 8, "--draws", 40, *more)
    return [str(word) for word in (*given, "--permutations", 2)]


@pytest.mark.slow
def test_the_suite_end_to_end(suite, recordings, shared_file, tmp_path, capsys):
    out = tmp_path / "found"
    suite[3].main(words(recordings, "--latents", shared_file, "--out", out))
    printed = capsys.readouterr().out
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["effects"] == ["compressor", "distortion"]
    assert report["groups"] == {"music": 2} and report["groups_known"] == 4
    assert report["sizes"]["f"] == report["sizes"]["pca"] == 8
    assert report["sizes"]["z"] == 3
    # Neither effect is one of the original's.
    assert set(report["which_effect"]) == {"all"}
    told = report["which_effect"]["all"]
    ours, theirs = (told["accuracy"][n]["forest"]["value"] for n in ("f", "pca"))
    assert told["f_less"]["pca"]["forest"]["value"] == pytest.approx(ours - theirs)
    drive = report["information"]["distortion"]
    assert len(drive) == len(load_effect("distortion").at_sample_rate(RATE).specs)
    assert all(set(each) >= {"f", "pca", "z"} for each in drive.values())
    explained = report["explained"]
    both = [explained["effects"][e]["f"]["parameters"] for e in report["effects"]]
    mean = np.mean([value for each in both for value in each.values()])
    assert explained["all"]["f"]["value"] == pytest.approx(mean)
    assert set(report["recall"]) == {"one effect", "any effect"}
    assert printed == out.with_suffix(".md").read_text() + "\n"
    assert "| z |" in printed and "2 of music" in printed
    assert out.with_suffix(".png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_same_words_give_the_same_numbers(suite, recordings, shared_file, tmp_path):
    found = []
    for name in ("one", "two"):
        given = ("--latents", shared_file, "--out", tmp_path / name)
        suite[3].main(words(recordings, *given))
        found.append((tmp_path / name).with_suffix(".json").read_bytes())
    assert found[0] == found[1]


def test_an_encoder_beside_latents_of_another_is_refused(
    suite, tiny, recordings, shared_file, monkeypatch
):
    probes = suite[3]
    other = suite[1].untrained_weights(tiny, 8)
    monkeypatch.setattr(probes, "load_encoder", lambda run, which: (tiny, other))
    with pytest.raises(ValueError, match="stands on another encoder"):
        probes.main(words(recordings, "--encoder", "run", "--latents", shared_file))


def test_bad_input_is_refused_before_any_work(suite, recordings, shared_file):
    for wrong, said in (
        ((), "name a run with --encoder"),
        (("--latents", shared_file, "--effects", "reverb"), "1 effects"),
        (("--latents", shared_file, "--clips", 2), "2 clips"),
    ):
        with pytest.raises(ValueError, match=said):
            suite[3].main(words(recordings, *wrong))


def test_untrained_weights_are_those_of_the_encoder(suite, tiny, rng):
    sounds = rng.standard_normal((3, 1, tiny.length)).astype(np.float32)
    one, same, other = (
        encode_sounds(tiny, suite[1].untrained_weights(tiny, seed), sounds)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert one.shape == (3, 8) and not np.allclose(one, other)
