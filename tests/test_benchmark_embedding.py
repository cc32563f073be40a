"""The embedding suite: probes and information with known answers, and the whole run."""

import json
from pathlib import Path

import numpy as np
import pytest

from ddspx import audio
from ddspx.data.manifest import Clip, write_manifest
from ddspx.data.practice import render_piece

ROOT = Path(__file__).parent.parent
RATE = 16000


@pytest.fixture(scope="module")
def suite():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        from benchmarks import embedding_data, embedding_methods, embedding_probes

        yield embedding_data, embedding_methods, embedding_probes


# ------------------------------------------------------------------------------ probes


def clouds(rng, apart, items=240, classes=4):
    """Embeddings whose classes are `apart` deviations from each other."""
    label = np.arange(items) % classes
    centres = apart * np.eye(classes, 6)
    return centres[label] + rng.standard_normal((items, 6)), label


@pytest.mark.parametrize("probe", ["linear", "forest"])
def test_separable_embeddings_are_told_and_noise_is_not(suite, rng, probe):
    probes = suite[2]
    group = np.arange(240) // 12
    for apart, low, high in ((20.0, 1.0, 1.0), (0.0, 0.13, 0.37)):
        known, label = clouds(rng, apart)
        judged, truth = clouds(rng, apart)
        told = probes.predict(probe, probes.Labelled(known, label, group), judged, 0)
        found = probes.score(told, truth, group, 4, draws=200)
        assert low <= found.accuracy <= high
        assert low <= found.macro_f1 <= high
        ends = found.interval()
        assert ends[0] <= found.accuracy <= ends[1]


def test_an_unknown_probe_is_refused(suite):
    probes = suite[2]
    with pytest.raises(ValueError, match="forst"):
        probes.predict("forst", None, None, 0)


def test_measures_are_those_of_scikit_learn(suite, rng):
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

    truth, told = rng.integers(0, 3, 300), rng.integers(0, 3, 300)
    told[:150] = truth[:150]
    found = suite[2].score(told, truth, np.arange(300) // 10, 3, draws=50)
    assert found.accuracy == pytest.approx(accuracy_score(truth, told))
    assert found.macro_f1 == pytest.approx(f1_score(truth, told, average="macro"))
    np.testing.assert_array_equal(found.confusion, confusion_matrix(truth, told))


def test_intervals_resample_groups_and_differences_are_paired(suite, rng):
    """Errors that come by the group make the interval wider than as many alone."""
    probes = suite[2]
    truth = np.tile(np.arange(4), 100)
    wrong_groups = np.repeat(rng.random(20) < 0.5, 20)
    wrong_items = rng.permutation(wrong_groups)
    group = np.arange(400) // 20
    widths = []
    for wrong in (wrong_groups, wrong_items):
        told = np.where(wrong, (truth + 1) % 4, truth)
        found = probes.score(told, truth, group, 4)
        widths.append(np.diff(found.interval())[0])
        again = probes.score(told, truth, group, 4)
        np.testing.assert_array_equal(found.draws, again.draws)
    assert widths[0] > 2 * widths[1]


# ------------------------------------------------------------------------- information


def test_nearest_neighbours_know_the_information_of_a_gaussian(suite, rng):
    probes = suite[2]
    correlation, items = 0.8, 600
    parameter = rng.standard_normal(items)
    noise = rng.standard_normal((items, 2))
    told = correlation * parameter + np.sqrt(1 - correlation**2) * noise[:, 0]
    gaps = probes.axis_gaps(np.stack([told, noise[:, 1]], 1))
    found = probes.nearest_neighbour_information(gaps, parameter)
    assert found[0] == pytest.approx(-0.5 * np.log(1 - correlation**2), abs=0.1)
    assert found[1] < 0.1


def test_a_planted_parameter_stands_above_the_null_and_no_other(suite, rng):
    probes = suite[2]

    def draw(items):
        parameters = rng.random((items, 2))
        codes = rng.standard_normal((items, 8))
        # The absolute value is nothing that a linear readout could find.
        codes[:, 3] = np.abs(parameters[:, 0] - 0.5) + 0.02 * codes[:, 3]
        codes[:, 5] += 6.0 * parameters[:, 0]
        return codes, parameters

    (known, first), (judged, second) = draw(300), draw(300)
    planted, other = probes.parameter_information(
        (known, first), (judged, second), permutations=40, seed=0
    )
    assert planted.axis > 5 * planted.axis_null.max()
    assert planted.linear > 0.3 > 10 * planted.linear_null.max()
    assert planted.p_value() == planted.p_value("linear") == pytest.approx(1 / 41)
    assert other.axis < 1.2 * other.axis_null.max() and other.axis_null.mean() < 0.15
    assert other.linear < 0.05


# -------------------------------------------------------------------- data and methods


def test_level_tells_nothing_and_settings_do_not_depend_on_other_effects(suite):
    data = suite[0]
    piece = np.float32(render_piece("strings", 0, sample_rate=RATE)[0])
    dry = data.Sections(
        np.stack([piece[:RATE], piece[RATE : 2 * RATE]]), ("a", "b"), ("x", "x")
    )
    both = data.render(dry, ("Gain", "Delay"), RATE, settings=3, seed=(0, 1))
    alone = data.render(dry, ("Delay",), RATE, settings=3, seed=(0, 1))
    rms = 20 * np.log10(np.sqrt(np.mean(both.audio**2, -1)))
    np.testing.assert_allclose(rms, data.RMS_DB, atol=1e-3)
    np.testing.assert_array_equal(both.controls[1], alone.controls[0])
    np.testing.assert_array_equal(both.audio[both.effect == 1], alone.audio)
    assert list(both.group) == ["a", "a", "a", "b", "b", "b"] * 2
    # A gain that is undone leaves the section as it was.
    same = both.audio[:3] / both.audio[0]
    np.testing.assert_allclose(same[np.isfinite(same)], 1.0, rtol=1e-2)


def test_batches_are_functions_of_their_index(suite, rng):
    data = suite[0]
    sound = np.float32(rng.standard_normal((5, 40)))
    one, two = (data.RandomWindows(sound, 16, 6, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one[7]["audio"], two[7]["audio"])
    assert one[7]["audio"].shape == (6, 1, 16)
    assert not np.array_equal(one[7]["audio"], one[8]["audio"])
    for row, item in zip(one[7]["audio"][:, 0], one[7]["file"], strict=True):
        views = np.lib.stride_tricks.sliding_window_view(sound[item], 16)
        assert (views == row).all(1).any()


def test_pooled_components_are_fitted_to_the_training_split_alone(suite, rng):
    methods = suite[1]
    direction = rng.standard_normal((1, 1, 4, 3))
    amount = rng.standard_normal((50, 2, 1, 1))
    images = {"train": amount * direction, "test": 100 + rng.random((5, 2, 4, 3))}
    found = methods.pooled_components(images, 2, 0)
    line = np.abs(np.corrcoef(found["train"][:, 0], amount.mean((1, 2, 3)))[0, 1])
    assert line == pytest.approx(1.0)
    changed = methods.pooled_components({**images, "test": images["test"] * 2}, 2, 0)
    np.testing.assert_array_equal(found["train"], changed["train"])


# --------------------------------------------------------------------------- the whole


PRESET = """
front: {sample_rate: 16000, samples: 4096, fft_size: 512, hop_length: 256,
  mel_bands: 16}
model: {latents: 4, channels: [4, 8], strides: [[2, 2], [2, 2]]}
objective: {tau: 5}
data: {batch_size: 4, pad_short: false, silence_db: null}
optimizer: {learning_rate: 1e-3}
fit: {steps: 4, evaluate_every: 4, save_every: 2, quiet: true}
"""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    clips = []
    splits = {"train": ("strings", "drums"), "valid": ("bells",), "test": ("bass",)}
    known = {"strings": 0, "drums": 1, "bells": 2, "bass": 3}
    for split, names in splits.items():
        for name in names:
            for take in range(2):
                path = folder / "music" / name / f"{take}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                piece = render_piece("strings", known[name], sample_rate=RATE)
                sound = np.float32(piece[:1, take * 2 * RATE : (take + 1) * 2 * RATE])
                audio.save(path, sound, RATE)
                clips.append(
                    Clip(
                        path=path.relative_to(folder).as_posix(),
                        root=str(folder),
                        split=split,
                        group=name,
                    )
                )
    write_manifest(folder / "MANIFEST.csv", clips)
    (folder / "tiny.yaml").write_text(PRESET)
    return folder


def words(recordings, *more):
    given = ("--data", recordings, "--preset", recordings / "tiny.yaml", *more)
    return [str(word) for word in given]


@pytest.mark.slow
def test_the_suite_end_to_end(suite, recordings, tmp_path, capsys):
    from benchmarks import embedding

    out = tmp_path / "found"
    given = words(
        recordings,
        *("--effects", "Distortion", "LowpassFilter", "--section-s", 0.5),
        *("--permutations", 3, "--draws", 100, "--out", out),
    )
    embedding.main(given)
    printed = capsys.readouterr().out
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["effects"] == ["Distortion", "LowpassFilter"]
    assert set(report["groups"].values()) == {1} and report["size"] == 4
    assert set(report["probes"]) == set(report["differences"]) | {"vae"}
    for found in report["probes"].values():
        for each in found.values():
            assert 0 <= each["accuracy"] <= 1
            assert np.sum(each["confusion"]) == report["items"]
    ours, theirs = (report["probes"][m]["linear"]["accuracy"] for m in ("vae", "pca"))
    difference = report["differences"]["pca"]["linear"]["accuracy"]
    assert difference == pytest.approx(ours - theirs)
    assert set(report["information"]["Distortion"]) == {"drive_db"}
    assert "split test" in printed and "drive_db" in printed
    assert out.with_suffix(".png").stat().st_size > 10_000
    # Called again it takes the trained model, and says the same.
    embedding.main(given)
    assert json.loads(out.with_suffix(".json").read_text()) == report


def test_bad_input_is_refused_before_any_work(suite, recordings):
    from benchmarks import embedding

    for wrong, said in (
        (("--effects", "Distorsion", "Delay"), "Distorsion"),
        (("--section-s", 0.1), "0.26 s"),
        (("--effects", "Delay"), "1 effects"),
    ):
        with pytest.raises(ValueError, match=said):
            embedding.main(words(recordings, *wrong))
