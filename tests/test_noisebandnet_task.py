"""Texture models: trained from recordings, resumed exactly, back from a run folder."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx import audio
from ddspx.control_gains import frame_gains, parse_gain
from ddspx.data.dataset import batches
from ddspx.data.manifest import load_collection
from ddspx.data.split import assign_splits, select
from ddspx.resynthesis import load_synthesizer
from ddspx.tasks import noisebandnet_synthesizer
from ddspx.tasks.noisebandnet import (
    batch_means,
    noisebandnet_task,
    prepare,
    tracking,
    train_noisebandnet,
)
from ddspx.tasks.noisebandnet_model import (
    NoiseBandRunConfig,
    SpectralLossConfig,
    make_model,
)
from ddspx.tasks.noisebandnet_synthesizer import loaded
from ddspx.tasks.sounds import crops, load_sounds
from ddspx.tasks.texture_start import band_levels, begin, first_crops
from ddspx.training.checkpoint import restore_params
from ddspx.training.configuration import load_preset
from ddspx.training.fit import fit
from ddspx.training.logging import read_scalars

PRESETS = Path(__file__).parents[1] / "configs/noisebandnet"
SMOKE = load_preset(PRESETS / "smoke.yaml", NoiseBandRunConfig)
RATE = SMOKE.source.sample_rate
change = dataclasses.replace


def quick(config, steps, **fit):
    return change(config, fit=change(config.fit, steps=steps, quiet=True, **fit))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two recordings of a folder: noise whose level and colour move."""
    folder = tmp_path_factory.mktemp("sounds") / "wind"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(2):
        noise = rng.standard_normal(2 * RATE)
        dull = np.convolve(noise, np.ones(8) / 8.0, "same")
        swell = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2 * RATE) / RATE * (1 + k))
        sound = 0.2 * (0.05 + swell) * (swell * noise + (1 - swell) * dull)
        audio.save(folder / f"{k}.wav", sound[None].astype(np.float32), RATE)
    return assign_splits(load_collection(folder).clips)


@pytest.fixture(scope="module")
def run(clips, tmp_path_factory):
    """Four steps without a break."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    state = train_noisebandnet(quick(SMOKE, 4), folder, clips)
    return folder, state


def test_training_writes_curves_sounds_and_pictures(run):
    folder, state = run
    assert int(state.step) == 4
    scalars = read_scalars(folder / "logs")
    for tag in ("train/loss", "evaluation/loss", "evaluation/loudness_error_db"):
        assert np.isfinite([value for _, value in scalars[tag]]).all()
    events = (folder / "logs" / "events.out.tfevents.0000000001.run").read_bytes()
    for tag in (b"example/recording", b"example/model", b"example/spectra"):
        assert tag in events
    assert b"example/curves" in events


@pytest.mark.slow
def test_a_resumed_run_has_the_bits_of_the_unbroken_one(run, clips, tmp_path):
    _, whole = run
    hop, rows = SMOKE.source.hop, SMOKE.crops.batch_size
    known, held_out = (
        load_sounds(select(clips, split), SMOKE.controls, RATE, hop)
        for split in ("train", "valid")
    )
    task = noisebandnet_task(SMOKE, prepare(SMOKE, known, held_out).extra)
    task = change(task, evaluate=None, show=None)
    shown = batches(crops(known, SMOKE.crops, SMOKE.frames, hop), rows)
    names = [sound.name for sound in known]
    resumed: Any = None
    for steps in (2, 4):
        config = quick(SMOKE, steps)
        resumed = fit(
            task, shown, config.fit, tmp_path / "broken", run_config=config,
            file_names=names,
        )  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    jax.tree.map(np.testing.assert_array_equal, resumed.extra, whole.extra)


def test_statistics_stand_in_the_checkpoint(run):
    folder, state = run
    stored = restore_params(folder, ("extra", "controls"), which="last")
    assert set(stored) == set(SMOKE.controls.names)
    jax.tree.map(np.testing.assert_array_equal, stored, state.extra["controls"])


@pytest.mark.slow
def test_the_end_of_recordings_judges_where_no_split_is_valid(clips, tmp_path):
    alone = tuple(change(clip, split="train") for clip in clips)
    state = train_noisebandnet(quick(SMOKE, 1), tmp_path / "run", alone)
    assert int(state.step) == 1
    assert "evaluation/loss" in read_scalars(tmp_path / "run" / "logs")


def test_the_loss_has_the_sizes_of_the_paper_at_its_rate_and_their_like_elsewhere():
    sizes = (8192, 4096, 2048, 1024, 512, 128, 32)
    recipe = SpectralLossConfig().recipe(44100)
    assert recipe.fft_sizes == sizes
    assert recipe.hop_sizes == tuple(size // 4 for size in sizes)
    assert SpectralLossConfig().recipe(48000).fft_sizes == sizes
    assert SpectralLossConfig().recipe(22050).fft_sizes == (
        4096, 2048, 1024, 512, 256, 64, 16,
    )  # fmt: skip


def test_tracking_is_of_level_and_place(clips):
    sound = audio.load(clips[0].file).samples[0]
    same = tracking(sound, sound, RATE)
    assert float(same["loudness_error_db"]) == 0.0
    assert float(same["centroid_error_octaves"]) == 0.0
    half = tracking(0.5 * sound, sound, RATE)
    np.testing.assert_allclose(half["loudness_error_db"], 6.02, atol=0.05)
    assert float(half["centroid_error_octaves"]) < 1e-4


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="needs the control f0_hz"):
        change(SMOKE, source=change(SMOKE.source, kind="harmonic_bands"))
    with pytest.raises(ValueError, match="shorter than the longest FFT"):
        change(SMOKE, crops=change(SMOKE.crops, seconds=0.02))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["filtered_noise", "harmonic_bands"])
def test_other_synths_train_behind_the_same_network(kind, clips, tmp_path):
    names = SMOKE.controls.names
    if kind == "harmonic_bands":
        names = (*names, "f0_hz", "confidence")
    config = change(
        SMOKE,
        source=change(SMOKE.source, kind=kind, bins=9, harmonics=4),
        controls=change(SMOKE.controls, names=names),
    )
    state = train_noisebandnet(quick(config, 1), tmp_path / kind, clips)
    assert int(state.step) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper", "laptop", "laptop_fast", "harmonic"])
def test_presets_train(name, clips, tmp_path):
    config = load_preset(PRESETS / f"{name}.yaml", NoiseBandRunConfig)
    # The sizes of the network and of crops are kept; fewer bands, one crop a step.
    config = change(
        config,
        source=change(config.source, bands=32, loop=8192),
        crops=change(config.crops, batch_size=1),
        fit=change(config.fit, log_every=1, evaluate_every=2, save_every=2),
    )
    state = train_noisebandnet(quick(config, 2), tmp_path / name, clips)
    assert int(state.step) == 2


@pytest.mark.usefixtures("whole_products")
def test_a_model_is_the_same_for_one_sound_as_for_many(run):
    _, state = run
    model = make_model(SMOKE)
    curves = {
        "loudness_db": np.linspace(-60.0, -20.0, 24, dtype=np.float32),
        "centroid_hz": np.full(24, 900.0, np.float32),
    }
    many = {name: np.stack([c, c[::-1]]) for name, c in curves.items()}
    stored = state.extra["controls"]
    one, _ = model.drive(state.params, stored, curves)
    two, _ = model.drive(state.params, stored, many)
    np.testing.assert_allclose(
        one["band_amplitudes"], two["band_amplitudes"][0], rtol=1e-5, atol=1e-7
    )


def synthesizer_of(folder):
    params = restore_params(folder, which="last")
    extra = restore_params(folder, ("extra",), which="last")
    return load_synthesizer(folder, "last"), params, extra


def test_a_run_plays_any_curves_in_blocks(run, clips, monkeypatch):
    folder, _ = run
    sound = audio.load(clips[0].file).samples[0, : RATE // 2]
    whole, params, extra = synthesizer_of(folder)
    curves = whole.analyze(sound)
    key = jax.random.key(3)
    rendered = whole.render(curves, key)
    frames = len(curves["loudness_db"])
    assert rendered.shape == (frames * SMOKE.source.hop,)
    assert np.isfinite(rendered).all()
    monkeypatch.setattr(noisebandnet_synthesizer, "_BLOCK_S", 0.1)
    blocks = loaded(SMOKE, params, extra)
    pieces = list(blocks.blocks(curves, key))
    assert len(pieces) > 3
    scale = np.abs(rendered).max()
    np.testing.assert_allclose(np.concatenate(pieces), rendered, atol=2e-5 * scale)
    found = blocks.controls(curves)["band_amplitudes"]
    np.testing.assert_allclose(
        found, whole.controls(curves)["band_amplitudes"], rtol=1e-4, atol=1e-7
    )
    gains = frame_gains(
        (
            parse_gain("randomize", "band_amplitudes=6"),
            parse_gain("level", "band_amplitudes[:1khz]=-inf"),
        ),
        whole.sizes,
        whole.centers_hz,
        frame_rate_hz=RATE / SMOKE.source.hop,
        wander_hz=10.0,
    )
    changed = whole.render(curves, key, gains)
    pieces = np.concatenate(list(blocks.blocks(curves, key, gains)))
    np.testing.assert_allclose(pieces, changed, atol=2e-5 * scale)
    # What is left has no lows; the bands overlap a little.
    power = np.square(np.abs(np.fft.rfft([rendered, changed])))
    below = round(0.8 * 1000 / RATE * len(rendered))
    assert power[1, :below].sum() < 1e-3 * power[0, :below].sum()
    assert power[1, 2 * below :].sum() > 0.1 * power[0, 2 * below :].sum()
    assert whole.control_names == SMOKE.controls.names
    assert whole.ranges["loudness_db"]["max"] > whole.ranges["loudness_db"]["min"]


def test_a_new_sound_is_played_in_the_units_of_the_training_sounds(run, clips):
    folder, _ = run
    synthesizer, _, _ = synthesizer_of(folder)
    sound = audio.load(clips[0].file).samples[0, : RATE // 2]
    curves = synthesizer.analyze(sound)
    quiet = synthesizer.analyze(0.1 * sound)
    # Its own range would make of both the same curve, and the same sound.
    np.testing.assert_allclose(
        curves["loudness_db"] - quiet["loudness_db"], 20.0, atol=0.1
    )
    loud = synthesizer.controls(curves)["band_amplitudes"]
    assert not np.allclose(
        loud, synthesizer.controls(quiet)["band_amplitudes"], rtol=1e-2
    )
    # Part of a sound is driven as it is within the whole.
    part = {name: curve[:20] for name, curve in curves.items()}
    np.testing.assert_allclose(
        synthesizer.controls(part)["band_amplitudes"], loud[:20], rtol=1e-4, atol=1e-7
    )
    with pytest.raises(ValueError, match="no curve for centroid_hz"):
        synthesizer.render({"loudness_db": np.zeros(4)}, jax.random.key(0))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bands", "filtered_noise"])
def test_the_start_has_the_level_and_the_spectrum_of_the_recordings(kind, clips):
    config = change(
        SMOKE, start="spectrum", source=change(SMOKE.source, kind=kind, bins=17)
    )
    known = load_sounds(clips, config.controls, RATE, config.source.hop)
    extra = prepare(config, known, known).extra
    model = make_model(config)
    batch = first_crops(config, known)
    assert batch is not None
    drawn = model.network.init(jax.random.key(1))
    curves = {name: batch[name] for name in config.controls.names}
    target = batch["audio"] * extra["gain"]
    centres = np.linspace(300.0, 3700.0, 12)
    wanted = band_levels(target, RATE, centres)
    off = []
    for start in ("level", "spectrum"):
        params = begin(change(config, start=start), model, drawn, extra, batch)
        made = model.render(params, extra, curves, jax.random.key(2), model.bank)
        off.append(20.0 * np.abs(band_levels(made, RATE, centres) - wanted) / 2.0)
        if start == "level":
            np.testing.assert_allclose(np.std(made), np.std(target), rtol=0.1)
    assert off[1].mean() < 2.5
    assert off[1].mean() < 0.5 * off[0].mean()


def test_levels_of_bands_are_densities():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((4, RATE)).astype(np.float32)
    centres = np.geomspace(100.0, 3000.0, 20)
    flat = band_levels(noise, RATE, centres)
    # White noise is as dense everywhere, however wide the bands are.
    np.testing.assert_allclose(flat, flat.mean(), atol=0.25)
    np.testing.assert_allclose(
        band_levels(10 * noise, RATE, centres), flat + 2, atol=1e-3
    )


def test_silence_does_not_outweigh_a_batch():
    rng = np.random.default_rng(0)
    target = 0.1 * rng.standard_normal((2, RATE)).astype(np.float32)
    terms = {
        "stft/spectral_convergence": jnp.array([0.5, 1e4]),
        "stft/log_magnitude": jnp.array([1.0, 3.0]),
    }
    found = batch_means(terms, target * np.array([[1.0], [1e-9]]))
    assert float(found["stft/spectral_convergence"]) < 2.0
    assert float(found["stft/log_magnitude"]) == 2.0
    same = batch_means(terms, target[:1].repeat(2, 0))
    np.testing.assert_allclose(same["stft/spectral_convergence"], 5000.25, rtol=1e-6)
