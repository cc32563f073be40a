"""The twin of pedalboard's Reverb against pedalboard, on real speech and music."""

import jax
import jax.numpy as jnp
import numpy as np
import pedalboard
import pytest

from ddspx.audio import load
from styletransfer.hosts.catalogue import facts
from styletransfer.twins.reverb import TWINS

TWIN = TWINS["Reverb"]
CONTINUOUS = [s for s in facts("Reverb").parameters if not s.choices]
PLACES = [("speech", 44100), ("music", 24000), ("music", 48000)]


def excerpt(data_root, kind, sample_rate, channels) -> np.ndarray:
    path = sorted((data_root / kind).rglob("*.flac"))[4]
    audio = load(path, sample_rate=sample_rate, duration_s=2.0).samples
    if len(audio) < channels:
        # Two channels that differ.
        audio = np.concatenate([audio, 0.7 * np.roll(audio, 37, -1)])
    return np.ascontiguousarray(audio[:channels], np.float32)


def settings(rng, count):
    """Random ones, and the longest, brightest and driest that there are."""
    rows = [[s.low + (s.high - s.low) * u for s in CONTINUOUS] for u in (0.0, 1.0)]
    rows += rng.uniform(0, 1, (count, len(CONTINUOUS))).tolist()
    rows += [[1.0, 0.0, 1.0, 0.0, 0.5]]
    names = [s.name for s in CONTINUOUS]
    return [dict(zip(names, map(float, row), strict=True)) for row in rows]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("kind", "sample_rate"), PLACES)
def test_twin_equals_pedalboard(data_root, rng, kind, sample_rate, channels):
    audio = excerpt(data_root, kind, sample_rate, channels)
    processor, dry = TWIN.make(sample_rate), jnp.asarray(audio)

    @jax.jit
    def render(values):
        return processor.process(processor.init_state(channels), dry, values)[1]

    for number, values in enumerate(settings(rng, 20)):
        freeze = float(number == 5)
        want = pedalboard.Reverb(**values, freeze_mode=freeze).process(
            audio, sample_rate
        )
        found = np.asarray(render({**values, "freeze_mode": freeze}), np.float64)
        error = np.sqrt(np.sum((found - want) ** 2))
        assert error <= 2e-5 * np.sqrt(np.sum(want.astype(np.float64) ** 2)), values


@pytest.mark.parametrize("sample_rate", [8000, 22050, 44100, 96000])
def test_twin_has_pedalboards_impulse_response(sample_rate):
    impulse = np.zeros((2, sample_rate // 2), np.float32)
    impulse[0, 3], impulse[1, 70] = 0.9, 0.4
    values = dict(room_size=0.9, damping=0.2, wet_level=1.0, dry_level=0.1, width=0.3)
    want = pedalboard.Reverb(**values).process(impulse, sample_rate)
    processor = TWIN.make(sample_rate)
    values["freeze_mode"] = 0.0
    found = jax.jit(processor.process)(processor.init_state(2), impulse, values)[1]
    np.testing.assert_allclose(found, want, atol=2e-6)


def test_defaults_are_pedalboards():
    plugin = pedalboard.Reverb()
    for name, value in TWIN.defaults.items():
        wanted = facts("Reverb").parameter(name)
        number = wanted.choices.index(str(value)) if wanted.choices else value
        assert getattr(plugin, name) == pytest.approx(number), name
    assert set(TWIN.defaults) == {s.name for s in facts("Reverb").parameters}


def test_gradients_through_the_twin_are_finite_everywhere(rng):
    processor = TWIN.make(8000)
    names = [s.name for s in CONTINUOUS]

    @jax.jit
    def slopes(controls, audio):
        def loss(controls, audio):
            values = dict(zip(names, controls, strict=True)) | {"freeze_mode": 0.0}
            out = processor.process(processor.init_state(2), audio, values)[1]
            return jnp.sum(jnp.abs(out))

        return jax.grad(loss, (0, 1))(controls, audio)

    audio = rng.normal(size=(2, 1500)).astype(np.float32)
    for controls in (np.zeros(5), np.ones(5), rng.random(5)):
        for signal in (audio, np.zeros_like(audio)):
            for slope in slopes(
                jnp.asarray(controls, jnp.float32), jnp.asarray(signal)
            ):
                assert np.all(np.isfinite(slope))
    assert np.all(np.asarray(slopes(jnp.full(5, 0.5), audio)[0]) != 0)


def test_freeze_holds_what_sounds(rng):
    processor = TWIN.make(8000)
    process = jax.jit(processor.process)
    values = dict(room_size=0.5, damping=0.5, wet_level=1.0, dry_level=0.0, width=1.0)
    audio = rng.normal(size=(1, 4000)).astype(np.float32)
    state, _ = process(processor.init_state(1), audio, values | {"freeze_mode": 0.0})
    power = []
    for _ in range(6):
        # The combs turn over at their own periods, so the power wavers.
        state, held = process(state, audio, values | {"freeze_mode": 1.0})
        power.append(float(jnp.mean(held**2)))
    assert power[-1] == pytest.approx(power[1], rel=0.2) and power[1] > 1e-6
