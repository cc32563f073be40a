"""Exported controllers: what lies in the folder, and what the cards say."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from export_controllers import main as export

from styletransfer import bundle
from styletransfer.controller import load_controller
from styletransfer.encoder_task import EncoderRunConfig
from styletransfer.encoders import make_encoder
from styletransfer.latent_models import DecoderConfig, LatentModelConfig
from styletransfer.models import ControllerConfig, make_controller
from styletransfer.presets import load_effect

SMALL = ControllerConfig(bands=24, channels=(4,), embedding=8, hidden=(8,))


def made(folder, effect: str, seed: int = 0):
    """A run folder with the files of an untrained controller."""
    config = EncoderRunConfig(effects=("compressor",), model=SMALL)
    encoder = make_encoder(
        "effects", json.loads(json.dumps(dataclasses.asdict(config)))
    )
    weights = make_controller(SMALL, 1, 24000).init(jax.random.key(seed))["encoder"]
    latents = LatentModelConfig(latents=3, hidden=(8,))
    description = load_effect(effect)
    decoder = DecoderConfig(hidden=(8,))
    blank = bundle.make_shared(encoder, latents, {"encoder": weights, "latents": {}})
    first = bundle.make_effect_controller(blank, description, decoder, {}, {})
    params = first.controller.init(jax.random.key(seed + 1))
    shared = bundle.make_shared(encoder, latents, {"encoder": weights, **params})
    note = {"pairs": 64, "valid": {"control_error": 0.2, "constant_error": 0.25}}
    whole = bundle.make_effect_controller(
        shared, description, decoder, params["decoder"], note
    )
    folder.mkdir()
    bundle.save_shared(folder / bundle.SHARED, shared)
    bundle.save_decoder(folder / bundle.DECODER, whole)
    (folder / "run.json").write_text(json.dumps({"config": {}, "format": 1}))
    return folder


def board(folder):
    found = {"mean": 1.0, "low": 0.9, "high": 1.1}
    gain = {"mean": 0.5, "low": 0.4, "high": 0.6, "wins": 9, "losses": 1, "missing": 0}
    metric = {"items": 10, **found, "against": {"do nothing": gain}}
    cell = {
        "effect": "compressor",
        "category": "speech",
        "methods": {"predicted": {"metrics": {"own_mrstft": metric}}},
    }
    folder.mkdir()
    content = {"config": {"metric": "own_mrstft", "split": "test"}, "cells": [cell]}
    (folder / "board.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def runs(tmp_path, monkeypatch):
    # What a run's record has to hold is the checkpoint's business.
    monkeypatch.setattr("export_controllers.read_run", lambda run: {"config": {}})
    return [made(tmp_path / name, name) for name in ("compressor", "distortion")]


def test_each_effect_has_a_file_and_a_card_beside_one_encoder(runs, tmp_path, capsys):
    words = [*map(str, runs), "--out", str(tmp_path / "kept")]
    words += ["--board", str(board(tmp_path / "board"))]
    assert export(words) == 0
    assert {p.name for p in (tmp_path / "kept").iterdir()} == {
        "shared.npz", "shared.md", "compressor.npz", "compressor.md", "distortion.npz",
        "distortion.md",
    }  # fmt: skip
    assert "2 effects" in capsys.readouterr().out
    card = (tmp_path / "kept/compressor.md").read_text()
    assert "threshold_db" in card and "128 renders of pairs" in card
    assert "| speech | 10 | 1.000 [0.900, 1.100] | 0.500 [0.400, 0.600] |" in card
    loaded = load_controller(tmp_path / "kept/distortion.npz")
    before = load_controller(runs[1])
    for one, other in zip(
        jax.tree.leaves(loaded.params), jax.tree.leaves(before.params), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_nothing_is_replaced_unasked_and_strangers_are_refused(runs, tmp_path, capsys):
    words = [*map(str, runs), "--out", str(tmp_path / "kept")]
    assert export(words) == 0
    assert export(words) == 2
    assert "exists" in capsys.readouterr().err
    assert export([*words, "--overwrite"]) == 0
    other = made(tmp_path / "other", "reverb", seed=5)
    assert export([str(runs[0]), str(other), "--out", str(tmp_path / "new")]) == 2
    assert "stands on the encoders" in capsys.readouterr().err
    assert export([str(tmp_path / "none"), "--out", str(tmp_path / "new")]) == 2
    assert "there is no such file" in capsys.readouterr().err
