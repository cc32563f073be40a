"""The command line's latents and alternatives, on a controller that is known."""

import json

import numpy as np
import pytest
import soundfile as sf
import transfer as script
from latent_controller import RATE, SLOPES, direct_controller, latent_controller

from styletransfer.hosts import open_host
from styletransfer.hosts.response import probe_signal


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Runs the script in a folder of sounds; returns the code."""
    for name, seed, gain in (("in", 1, 0.2), ("ref", 2, 0.3)):
        sound = gain * probe_signal(RATE, 0.9, seed)
        sf.write(tmp_path / f"{name}.wav", sound, RATE, subtype="FLOAT")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "load_controller", lambda path: latent_controller())

    def run(*words):
        common = ["in.wav", "--reference", "ref.wav", "--checkpoint", "RUN"]
        return script.main([*common, "--backend", "serial", *words])

    return run


def controls(path):
    with open(path) as file:
        table = json.load(file)["settings"]
    return np.array([entry["control"] for entry in table.values()])


def test_latents_are_moved_from_the_command_line(work, capsys):
    assert work("-o", "plain.wav") == 0
    words = ["--latent", "0=-0.5", "--latent", "1==0.25", "--latent", "2=+9"]
    assert work("-o", "moved.wav", *words) == 0
    plain, moved = controls("plain.json"), controls("moved.json")
    np.testing.assert_allclose(moved[0] - plain[0], -0.5 * SLOPES[0, 0], atol=1e-6)
    np.testing.assert_allclose(moved[1], 0.5 + 0.25 * SLOPES[1, 1], atol=1e-6)
    with open("moved.json") as file:
        told = json.load(file)["latents"]
    assert told[1] == {"latent": 1, "value": 0.25, "relative": False}
    with open("plain.json") as file:
        assert not {"latents", "alternatives"} & set(json.load(file))
    dry, made = (sf.read(f"{n}.wav", always_2d=True)[0].T for n in ("in", "moved"))
    with open_host(latent_controller().effect, RATE, backend="serial") as host:
        wanted = host.render(dry[None].astype("f4"), moved[None].astype("f4")).audio[0]
    np.testing.assert_array_equal(made.astype("f4"), wanted)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--latent", "9=+1"], "has latents 0 to 3"),
        (["--latent", "0=1"], "such as 3=+1.5"),
        (["--latent", "0==1", "--latent", "0=+1"], "not both"),
        (["--alternatives", "-1"], "must be 0 or more"),
    ],
)
def test_bad_wishes_are_refused_in_one_line(work, capsys, words, message):
    assert work("-o", "out.wav", *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_direct_controller_has_no_latents(work, capsys, monkeypatch):
    monkeypatch.setattr(script, "load_controller", lambda path: direct_controller())
    assert work("-o", "out.wav", "--latent", "0=+1") == 2
    error = capsys.readouterr().err
    assert "has no latents" in error and error.count("\n") == 1


def test_alternatives_are_written_ranked_and_told(work, tmp_path, capsys):
    assert work("-o", "out.wav", "--alternatives", "2") == 0
    said = capsys.readouterr().out
    with open("out.json") as file:
        report = json.load(file)
    first, second = report["alternatives"]
    assert first["distance"] <= second["distance"]
    assert first["file"] == "out.alt1.wav" and first["file"] in said
    assert f"{first['differs'][0]['here']} not {first['differs'][0]['result']}" in said
    dry = sf.read("in.wav", always_2d=True, dtype="float32")[0].T
    with open_host(latent_controller().effect, RATE, backend="serial") as host:
        for place, told in enumerate((first, second)):
            stem = f"out.alt{place + 1}"
            with open(f"{stem}.json") as file:
                written = json.load(file)
            assert written["distance"] == told["distance"]
            assert written["differs"] == told["differs"] != []
            setting = controls(f"{stem}.json").astype("f4")
            made = sf.read(f"{stem}.wav", always_2d=True, dtype="float32")[0].T
            rendered = host.render(dry[None], setting[None]).audio[0]
            np.testing.assert_array_equal(made, rendered)
    kept = {p.name: p.read_bytes() for p in tmp_path.glob("out.*[vg]")}
    assert sorted(kept) == ["out.alt1.wav", "out.alt2.wav", "out.png", "out.wav"]
    for name in ("out.wav", "out.json", "out.png"):
        (tmp_path / name).unlink()
    assert work("-o", "out.wav", "--alternatives", "2") == 2
    assert "out.alt1.wav: exists already" in capsys.readouterr().err
    assert work("-o", "out.wav", "--alternatives", "2", "--overwrite") == 0
    assert kept == {name: (tmp_path / name).read_bytes() for name in kept}
