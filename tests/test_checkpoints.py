"""The controllers that the repository keeps: whole, small, described, and of use."""

from pathlib import Path

import numpy as np
import pytest

from ddspx import audio
from ddspx.parameters import sample_controls
from styletransfer.bundle import SHARED, load_decoder, load_shared
from styletransfer.controller import load_controller, predict
from styletransfer.evaluation import truth_loss
from styletransfer.hosts import open_host
from styletransfer.presets import load_effect

FOLDER = Path(__file__).parent.parent / "checkpoints"
EFFECTS = sorted(p.stem for p in FOLDER.glob("*.npz") if p.name != SHARED)


def test_they_are_ten_and_small():
    assert len(EFFECTS) == 10
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 20e6


@pytest.fixture(scope="module")
def shared():
    return load_shared(FOLDER / SHARED)


@pytest.mark.parametrize("effect", EFFECTS)
def test_each_loads_on_the_one_f_and_g_and_has_a_card(effect, shared):
    loaded = load_decoder(FOLDER / f"{effect}.npz", shared)
    assert loaded.effect.name == effect
    for leaf in loaded.params["decoder"].values():
        assert all(np.isfinite(array).all() for array in leaf.values())
    card = (FOLDER / f"{effect}.md").read_text()
    for part in ("## How it was made", "## Numbers", "| speech | 200 |", "CC BY"):
        assert part in card


def test_the_effect_of_the_strip_is_still_the_preset():
    kept = load_decoder(FOLDER / "channel_strip.npz").effect
    assert kept == load_effect("channel_strip")


def test_the_strip_is_nearer_than_doing_nothing_on_a_speaker_not_heard(data_root):
    """Ten hidden settings; without the reference's help about half would be."""
    loaded = load_controller(FOLDER / "channel_strip.npz")
    files = sorted((data_root / "speech/kerstin_de").glob("*.flac"))[:2]
    one, two = (
        audio.load(f, sample_rate=24000, channels=1, duration_s=3.0).samples
        for f in files
    )
    length = min(one.shape[1], two.shape[1])
    sounds = np.stack([one[:, :length], two[:, :length]])
    gains = []
    with open_host(loaded.effect, 24000, backend="thread") as host:
        hidden = sample_controls(host.specs, np.random.default_rng(0), (10,))
        for setting in hidden:
            truth, reference = host.render(sounds, setting[None].repeat(2, 0)).audio
            said = predict(loaded, sounds[0], reference, 24000, 24000)
            found = host.render(sounds[:1], said.controls[None]).audio[0]
            gains.append(
                float(truth_loss(sounds[0], truth)) - float(truth_loss(found, truth))
            )
    assert np.mean(gains) > 0.3 and np.mean(np.array(gains) > 0) >= 0.7
