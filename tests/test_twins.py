"""Twins against pedalboard: the same parameters, the same sound, and its slope."""

import jax
import jax.numpy as jnp
import numpy as np
import pedalboard
import pytest

from ddspx.audio import load
from ddspx.data.practice import render_piece
from ddspx.parameters import sample_controls
from styletransfer.hosts import HostEffect, Slot, open_host
from styletransfer.hosts.catalogue import BUILTINS, facts
from styletransfer.presets import load_effect
from styletransfer.twins import TWINS, twin_effect

PROMISED = {
    "Gain", "LowShelfFilter", "HighShelfFilter", "PeakFilter", "HighpassFilter",
    "LowpassFilter", "Compressor", "Limiter", "NoiseGate", "Distortion", "Clipping",
    "Delay", "Chorus", "Phaser", "Reverb",
}  # fmt: skip
# Relative RMS error allowed; 1e-4 where nothing is said. The recursion of pedalboard's
# second-order sections is in float32, which tells at low cutoffs
# (styletransfer/twins/equalizer.py).
TOLERANCE = {
    "LowShelfFilter": 1e-3,
    "HighShelfFilter": 1e-3,
    "PeakFilter": 1e-3,
    "channel_strip": 1e-3,
    "full_chain": 1e-3,
}
RATE = 44100
# Compiling costs more than running here.
QUICKLY = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="module")
def music() -> np.ndarray:
    """Half a second of drums and strings, stereo."""
    left, right = (
        render_piece(kind, 1, sample_rate=RATE)[0, RATE : 3 * RATE // 2]
        for kind in ("drums", "strings")
    )
    return np.stack([left + 0.3 * right, right]).astype(np.float32)


def whole(plugin: str, kind: str = "pedalboard") -> HostEffect:
    """A built-in with every parameter as a control."""
    slot = Slot(f"it_{plugin}", plugin, facts(plugin).parameters, kind=kind)
    return HostEffect(plugin, (slot,))


def relative(found: np.ndarray, truth: np.ndarray) -> float:
    size = np.sqrt(np.mean(np.square(truth, dtype=np.float64)))
    return float(np.sqrt(np.mean((found.astype(np.float64) - truth) ** 2)) / size)


def test_the_promised_twins_are_there():
    assert set(TWINS) >= PROMISED
    assert set(TWINS) <= set(BUILTINS)


@pytest.mark.parametrize("plugin", TWINS)
def test_a_twin_has_every_parameter_at_pedalboards_own_default(plugin):
    own = getattr(pedalboard, plugin)()
    defaults = TWINS[plugin].defaults
    assert set(defaults) == {spec.name for spec in facts(plugin).parameters}
    for spec in facts(plugin).parameters:
        theirs = getattr(own, spec.name)
        if spec.choices:
            text = spec.choices[int(theirs)] if spec.name != "mode" else theirs.name
            assert defaults[spec.name] == text
        else:
            assert defaults[spec.name] == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("plugin", TWINS)
def test_a_twin_sounds_as_pedalboard(plugin, music, rng):
    with (
        open_host(whole(plugin), RATE, backend="serial") as box,
        open_host(whole(plugin, "jax"), RATE) as twin,
    ):
        controls = sample_controls(box.specs, rng, (3,))
        source = np.zeros(3, np.int32)
        truth = box.render(music[None], controls, source)
        found = twin.render(music[None], controls, source)
    assert not truth.status.any() and not found.status.any()
    for y, wanted, setting in zip(found.audio, truth.audio, controls, strict=True):
        error = relative(y, wanted)
        assert error < TOLERANCE.get(plugin, 1e-4), (error, setting)


@pytest.mark.parametrize(
    ("preset", "recording"),
    [
        ("channel_strip", "speech/kerstin_de/de_rhasspy_0802.flac"),
        ("full_chain", "music/hungarian_dance_5_us_army_strings.flac"),
    ],
)
def test_whole_presets_sound_as_pedalboard_on_recordings(
    preset, recording, data_root, rng
):
    sound = load(data_root / recording, sample_rate=24000, channels=1)
    audio = sound.samples[None, :, 24000:60000]
    with (
        open_host(load_effect(preset), 24000, backend="serial") as box,
        open_host(load_effect(preset, "jax"), 24000) as twin,
    ):
        controls = sample_controls(box.specs, rng, (3,))
        truth, found = (host.render(audio, controls) for host in (box, twin))
    assert not truth.status.any() and not found.status.any()
    for y, wanted in zip(found.audio, truth.audio, strict=True):
        assert relative(y, wanted) < TOLERANCE[preset]


def test_the_slope_of_a_twin_is_the_slope_of_pedalboard(music, rng):
    """Central differences of pedalboard, extrapolated, against autodiff."""
    rate, step = RATE, 0.01
    audio = music[:, :8192]
    weights = rng.standard_normal(audio.shape).astype(np.float32) * audio
    effect = load_effect("channel_strip")
    twin = twin_effect(effect, rate)

    def loss(controls):
        return jnp.mean(weights * twin.render(audio, controls) ** 2)

    gradient = jax.jit(jax.grad(loss), compiler_options=QUICKLY)
    with open_host(effect, rate, backend="serial") as box:
        for _ in range(2):
            controls = (0.1 + 0.8 * sample_controls(box.specs, rng)).astype(np.float32)
            slopes = []
            for h in (step, step / 2):
                moved = controls + h * np.concatenate([np.eye(19), -np.eye(19)])
                rendered = box.render(audio[None], moved).audio.astype(np.float64)
                losses = np.mean(weights * rendered**2, axis=(1, 2))
                slopes.append((losses[:19] - losses[19:]) / (2 * h))
            wanted = (4 * slopes[1] - slopes[0]) / 3
            found = np.asarray(gradient(jnp.asarray(controls)))
            assert np.isfinite(found).all()
            scale = np.linalg.norm(wanted)
            assert np.linalg.norm(found - wanted) < 5e-3 * scale
            assert np.abs(found - wanted).max() < 5e-3 * np.abs(wanted).max()


@pytest.mark.parametrize("plugin", sorted(set(TWINS) - {"Invert"}))
def test_gradients_are_finite_at_the_corners_and_in_silence(plugin, music):
    twin = twin_effect(whole(plugin), RATE)
    audio = jnp.asarray(music[:1, :1024])

    def energy(controls, sound):
        return jnp.sum(twin.render(sound, controls) ** 2)

    slope = jax.jit(jax.grad(energy, (0, 1)), compiler_options=QUICKLY)
    for corner in (0.0, 1.0):
        for sound in (audio, jnp.zeros_like(audio)):
            by_controls, by_audio = slope(jnp.full(len(twin.specs), corner), sound)
            assert np.isfinite(by_controls).all() and np.isfinite(by_audio).all()
