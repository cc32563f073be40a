"""The main job on small real effects, and the command line around it."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from ddspx.data.practice import render_piece
from ddspx.parameters import identity_controls
from styletransfer.evaluation import truth_loss
from styletransfer.hosts import open_host
from styletransfer.presets import parse_effect
from styletransfer.search import SEARCHES
from styletransfer.transfer import (
    TransferConfig,
    TransferError,
    check_audio,
    render_whole,
    transfer,
    typical_excerpt,
)

RATE = 16000
# Two controls that a few seconds of sound tell apart without doubt.
TONE = """
description: tilt and gain
slots:
  shelf:
    plugin: HighShelfFilter
    controls: {gain_db: {low: -18, high: 18}}
    fixed: {cutoff_frequency_hz: 1000, q: 0.7071}
  gain:
    plugin: Gain
"""
# Its delay has a trough wherever an echo meets another beat.
ECHO = """
slots:
  delay:
    plugin: Delay
    controls:
      delay_seconds: {low: 0.05, high: 1.0}
      feedback: {low: 0.0, high: 0.8}
      mix:
"""
CONFIG = TransferConfig(renders=60, excerpt_s=2.0, prior=0.5)


@pytest.fixture(scope="module")
def host():
    with open_host(parse_effect(TONE, "tone"), RATE, backend="serial") as opened:
        yield opened


@pytest.fixture(scope="module")
def sounds(host):
    """(input, reference, truth): two melodies, one of them treated."""
    dry, other = (
        render_piece("strings", i, sample_rate=RATE)[:1, : 4 * RATE] for i in (0, 1)
    )
    hidden = np.array([[0.85, 0.35]], np.float32)
    return (
        dry,
        host.render(other[None], hidden).audio[0],
        host.render(dry[None], hidden).audio[0],
    )


def script(name):
    path = Path(__file__).parent.parent / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"script_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_of_other_content_brings_the_input_nearer_to_the_truth(host, sounds):
    dry, reference, truth = sounds
    result = transfer(host, dry, reference, config=CONFIG)
    matched = dry * np.sqrt(np.mean(reference**2) / np.mean(dry**2))
    done, nothing, level = (
        float(truth_loss(a, truth)) for a in (result.audio, dry, matched)
    )
    assert done < 0.35 * nothing and done < 0.7 * level
    assert result.loss["after"] < 0.6 * result.loss["before"]
    assert result.settings["shelf.gain_db"]["value"] == pytest.approx(12.6, abs=4.0)
    assert result.renders <= 60 and not result.interrupted
    assert set(result.terms["before"]) == set(result.terms["after"])


def test_wrong_reference_loses(host, sounds):
    dry, reference, truth = sounds
    wrong = host.render(reference[None], np.array([[0.1, 0.5]], np.float32)).audio[0]
    losses = [
        float(truth_loss(transfer(host, dry, r, config=CONFIG).audio, truth))
        for r in (reference, wrong)
    ]
    assert losses[0] < 0.5 * losses[1]


def test_target_recovers_the_settings(host, sounds):
    dry, _, truth = sounds
    result = transfer(host, dry, truth, paired=True, config=CONFIG)
    assert result.loss["after"] < 0.02 * result.loss["before"]
    np.testing.assert_allclose(result.controls, [0.85, 0.35], atol=0.01)


def test_target_is_searched_until_it_is_met(monkeypatch):
    dry = render_piece("drums", 0, sample_rate=RATE)[:1, : 2 * RATE]
    hidden = np.array([0.2, 0.7, 0.4], np.float32)
    config = dataclasses.replace(CONFIG, renders=500)
    with open_host(parse_effect(ECHO, "echo"), RATE, backend="serial") as echo:
        truth = echo.render(dry[None], hidden[None]).audio[0]
        result = transfer(echo, dry, truth, paired=True, config=config)
        monkeypatch.setattr("styletransfer.transfer.WITH_TARGET", SEARCHES)
        stuck = transfer(echo, dry, truth, paired=True, config=config)
    assert stuck.loss["after"] > 0.2 * stuck.loss["before"]
    assert result.loss["after"] < 1e-3 * result.loss["before"]
    np.testing.assert_allclose(result.controls, hidden, atol=2e-3)
    # The same way as far as it went, and not one render after the target was met.
    assert result.history[: len(stuck.history)] == stuck.history
    assert stuck.renders < result.renders < 500


def test_same_call_same_bits_and_nothing_is_changed(host, sounds):
    dry, reference, _ = sounds
    copies = dry.copy(), reference.copy()
    one, two = (transfer(host, dry, reference, config=CONFIG) for _ in range(2))
    np.testing.assert_array_equal(one.audio, two.audio)
    assert one.history == two.history
    np.testing.assert_array_equal(dry, copies[0])
    np.testing.assert_array_equal(reference, copies[1])


def test_level_is_left_alone_when_asked(host, sounds):
    dry, reference, _ = sounds
    config = dataclasses.replace(CONFIG, match_level=False, prior=3.0)
    quiet, loud = (transfer(host, dry, g * reference, config=config) for g in (0.2, 1))
    np.testing.assert_allclose(quiet.controls, loud.controls, atol=0.02)
    gain = quiet.settings["gain.gain_db"]["value"]
    assert gain == pytest.approx(0.0, abs=0.5)


def test_stereo_long_input_other_rate_and_tail(host, sounds):
    dry, reference, _ = sounds
    stereo = np.concatenate([dry, 0.5 * dry])
    result = transfer(
        host,
        np.tile(stereo, 2),
        reference[:, ::2],
        reference_rate=RATE / 2,
        config=dataclasses.replace(CONFIG, renders=20),
        tail_s=0.25,
    )
    assert result.audio.shape == (2, 8 * RATE + RATE // 4)
    assert np.isfinite(result.audio).all()
    identity = render_whole(host, stereo, identity_controls(host.specs))
    np.testing.assert_allclose(identity, stereo, atol=1e-5)


def test_excerpt_is_the_typical_stretch(rng):
    steady = 0.1 * rng.normal(size=(1, 4 * RATE)).astype(np.float32)
    odd = np.cumsum(0.1 * rng.normal(size=(1, RATE)), axis=-1).astype(np.float32)
    audio = np.concatenate([0.001 * odd, steady], axis=-1)
    start, stop = typical_excerpt(audio, RATE, 1.0)
    assert stop - start == RATE and start >= RATE
    assert typical_excerpt(audio, RATE, 9.0) == (0, 5 * RATE)


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (np.zeros((1, RATE), np.float32), "silent"),
        (np.ones((1, 100), np.float32), "too short"),
        (np.full((1, RATE), np.nan, np.float32), "NaN"),
    ],
)
def test_unusable_audio_is_refused(audio, message):
    with pytest.raises(TransferError, match=message):
        check_audio(audio, RATE, "input")


def test_unpaired_target_is_refused(host, sounds):
    dry, reference, _ = sounds
    with pytest.raises(TransferError, match="use a reference"):
        transfer(host, dry, reference[:, :-1], paired=True)


@pytest.mark.parametrize("method", ["cma_es", "adam_spsa", "adam_orthogonal"])
def test_a_budget_below_one_step_is_named(host, sounds, method):
    config = dataclasses.replace(CONFIG, method=method, renders=1)
    with pytest.raises(TransferError, match="renders 1: not one step"):
        transfer(host, *sounds[:2], config=config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "guess"}, "unknown; choose one of combined"),
        ({"renders": 0}, "1 or more"),
        ({"excerpt_s": 0.0}, "exceed"),
        ({"prior": -1.0}, "0 or more"),
    ],
)
def test_bad_configuration_is_refused(options, message):
    with pytest.raises(TransferError, match=message):
        TransferConfig(**options)


@pytest.fixture
def folder(tmp_path, sounds):
    dry, reference, truth = sounds
    for name, audio in {"in": dry, "ref": reference, "target": truth}.items():
        sf.write(tmp_path / f"{name}.wav", audio.T, RATE, subtype="FLOAT")
    (tmp_path / "tone.yaml").write_text(TONE)
    return tmp_path


def run(folder, *extra, source="in.wav", output="out.wav", reference="ref.wav"):
    return script("transfer").main(
        [
            str(folder / source),
            *("--reference", str(folder / reference)),
            *("--effect", str(folder / "tone.yaml"), "--output", str(folder / output)),
            *("--renders", "20", "--backend", "serial", *extra),
        ]
    )


def written(folder):
    """Bytes of sound and picture, and the report but for the time it took."""
    report = json.loads((folder / "out.json").read_text())
    assert report.pop("seconds") > 0
    return report, *((folder / f"out.{e}").read_bytes() for e in ("wav", "png"))


def test_command_writes_sound_settings_and_picture(folder, capsys):
    assert run(folder) == 0
    audio, rate = sf.read(folder / "out.wav", always_2d=True)
    assert rate == RATE and audio.shape == (4 * RATE, 1)
    report = json.loads((folder / "out.json").read_text())
    assert report["settings"]["gain.gain_db"]["unit"] == "dB"
    assert report["distance"]["after"] < report["distance"]["before"]
    assert (folder / "out.png").read_bytes()[:4] == b"\x89PNG"
    first = written(folder)
    assert run(folder) == 2  # nothing is overwritten ...
    assert "exists already" in capsys.readouterr().err
    assert run(folder, "--overwrite") == 0  # ... unless asked, and then to the bit
    assert first == written(folder)
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith(".")) == []


def test_command_keeps_level_in_integer_formats(folder):
    loud = sf.read(folder / "ref.wav", always_2d=True)[0] * 30
    sf.write(folder / "loud.wav", loud, RATE, subtype="FLOAT")
    assert run(folder, reference="loud.wav", output="new/out.flac") == 0
    report = json.loads((folder / "new" / "out.json").read_text())
    attenuated = report["attenuation_db"]
    peak = np.abs(sf.read(folder / "new" / "out.flac")[0]).max()
    assert attenuated > 0 and 0.9 < peak < 1.0


def many(folder, *names):
    """Copies of the input in a folder of their own."""
    (folder / "many").mkdir(exist_ok=True)
    for name in names:
        copy = folder / "many" / f"{name}.wav"
        copy.write_bytes((folder / "in.wav").read_bytes())
    return folder / "many"


def names_in(folder):
    return sorted(p.name for p in folder.iterdir())


def test_command_batch(folder, capsys):
    many(folder, "a", "b")
    (folder / "many" / "broken.wav").write_bytes(b"not audio")
    (folder / "many" / "notes.txt").write_text("ignored")
    # What cannot be read stops nothing, and is not forgotten either.
    assert run(folder, "--batch", source="many", output="done") == 2
    told = capsys.readouterr()
    assert "broken.wav" in told.err and "1 of 3 recordings failed" in told.out
    made = [f"{n}.{e}" for n in "ab" for e in ("json", "png", "wav")]
    assert names_in(folder / "done") == made
    (folder / "many" / "broken.wav").unlink()
    assert run(folder, "--batch", "--overwrite", source="many", output="done") == 0
    assert run(folder, "--batch", source="many", output="done") == 2
    assert "exists already" in capsys.readouterr().err


def test_several_inputs_and_patterns_are_a_batch(folder, monkeypatch):
    """Beside the inputs where no folder is named, on hosts that are opened once."""
    place = many(folder, "a", "b", "c")
    module = script("transfer")
    opened = []
    monkeypatch.setattr(
        module, "open_host", lambda *a, **k: opened.append(a) or open_host(*a, **k)
    )
    words = ["--reference", str(folder / "ref.wav"), "--renders", "8"]
    words += ["--effect", str(folder / "tone.yaml"), "--backend", "serial"]
    inputs = [str(place / "a.wav"), str(place / "[bc].wav"), str(place / "a.wav")]
    assert module.main([*inputs, *words]) == 0
    sounds = [p for p in names_in(place) if p.endswith(".wav")]
    assert sounds == sorted(f"{n}{e}.wav" for n in "abc" for e in ("", "_tone"))
    assert len(opened) == 1
    first = sf.read(place / "a_tone.wav")[0]
    np.testing.assert_array_equal(first, sf.read(place / "c_tone.wav")[0])
    assert module.main([inputs[0], *words, "-o", str(folder / "one.wav")]) == 0
    np.testing.assert_array_equal(first, sf.read(folder / "one.wav")[0])


def test_one_failure_stops_no_other(folder, monkeypatch, capsys):
    many(folder, "a", "b")
    module = script("transfer")
    real, seen = module.transfer, []

    def fails_first(*args, **words):
        seen.append(args)
        if len(seen) == 1:
            raise TransferError("this one fails")
        return real(*args, **words)

    monkeypatch.setattr(module, "transfer", fails_first)
    words = [str(folder / "many"), "--batch", "--output", str(folder / "done")]
    words += ["--reference", str(folder / "ref.wav"), "--renders", "8"]
    words += ["--effect", str(folder / "tone.yaml"), "--backend", "serial"]
    assert module.main(words) == 2
    told = capsys.readouterr().err
    assert "a.wav: this one fails" in told
    assert names_in(folder / "done") == ["b.json", "b.png", "b.wav"]


def with_table(folder, table, *extra):
    (folder / "table.csv").write_text(table)
    return script("transfer").main(
        [
            *("--pairs", str(folder / "table.csv"), "--output", str(folder / "done")),
            *("--effect", str(folder / "tone.yaml"), "--backend", "serial"),
            *("--renders", "8", *extra),
        ]
    )


def test_a_table_pairs_inputs_with_references(folder, capsys):
    table = "note,input,reference\nx,in.wav,ref.wav\ny,in.wav,target.wav\n"
    table += "z,in.wav,gone.wav\n"
    assert with_table(folder, table) == 2
    assert "gone.wav" in capsys.readouterr().err
    reports = [
        json.loads((folder / "done" / f"in_like_{name}.json").read_text())
        for name in ("ref", "target")
    ]
    assert [Path(r["reference"]).name for r in reports] == ["ref.wav", "target.wav"]
    assert len(names_in(folder / "done")) == 6


@pytest.mark.parametrize(
    ("table", "extra", "message"),
    [
        ("input,other\nin.wav,ref.wav\n", [], "reference is missing"),
        ("input,reference\nin.wav\n", [], "line 2: give input and reference"),
        ("input,reference\n", [], "holds no audio"),
        ("input,reference\nno.wav,ref.wav\n", [], "none of the recordings"),
        ("input,reference\nin.wav,ref.wav\n", ["in.wav"], "give no others"),
        ("input,reference\na/x.wav,ref.wav\nb/x.wav,ref.wav\n", [], "both become"),
    ],
)
def test_bad_tables_are_refused(folder, capsys, table, extra, message):
    assert with_table(folder, table, *extra) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (folder / "done").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a recording"),
        (["in.wav", "many", "--output", "out.wav"], "is a file; a batch"),
        (["no*.wav", "in.wav"], "matches no file"),
        (["in.wav", "--latent", "0=+1"], "give --checkpoint"),
        (["in.wav", "--alternatives", "2"], "give --checkpoint"),
        (["in.wav", "--alternatives", "-2"], "must be 0 or more"),
    ],
)
def test_wishes_that_do_not_fit_are_refused(
    folder, capsys, monkeypatch, words, message
):
    many(folder, "a")
    (folder / "out.wav").write_bytes(b"kept")
    monkeypatch.chdir(folder)
    assert script("transfer").main([*words, "--reference", "ref.wav"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert (folder / "out.wav").read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "missing.wav"}, "missing.wav"),
        ({"source": "tone.yaml"}, "tone.yaml"),
        ({"reference": "silent.wav"}, "silent"),
        ({"reference": "short.wav"}, "too short"),
        ({"reference": "nan.wav"}, "NaN"),
        ({"reference": "empty.wav"}, "empty"),
        ({"output": "no/such/out.xyz"}, "format"),
        ({"output": "in.wav"}, "exists already"),
        ({"source": "."}, "--batch"),
        ({"output": "in.wav/deeper/out.wav"}, "not a folder"),
    ],
)
def test_command_refuses_bad_input_in_one_line(folder, capsys, change, message):
    sf.write(folder / "silent.wav", np.zeros(RATE), RATE)
    sf.write(folder / "short.wav", np.ones(50), RATE)
    sf.write(folder / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    sf.write(folder / "empty.wav", np.zeros(0), RATE)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert run(folder, **change) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_command_refuses_unknown_effects_and_two_wishes(folder, capsys):
    assert run(folder, "--effect", "chanel_strip") == 2
    assert "channel_strip" in capsys.readouterr().err
    assert run(folder, "--target", str(folder / "target.wav")) == 2
    assert "either" in capsys.readouterr().err
