"""Twins of pedalboard's filters against pedalboard, on speech and music."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pedalboard
import pytest
import scipy.signal
import soundfile

from ddspx import filters
from styletransfer.hosts import catalogue
from styletransfer.twins.equalizer import TWINS

RECORDINGS = (
    "speech/flemishguy_nl/nl_rhasspy_1003_1601817773.flac",
    "music/di_celestial_guitar.flac",
)


def relative(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def exact_sections(design):
    return lambda *arguments: np.asarray(filters.sections(design(*arguments)))


DESIGNS = {
    "LowShelfFilter": exact_sections(filters.low_shelf),
    "HighShelfFilter": exact_sections(filters.high_shelf),
    "PeakFilter": exact_sections(filters.peak),
}


def settings(name, rate, rng, count):
    """Random settings over the catalogue's ranges."""
    for _ in range(count):
        values = {}
        for spec in catalogue.facts(name).parameters:
            value = float(spec.to_physical(rng.random()))
            if spec.unit == "Hz":
                value = min(value, 0.45 * rate)
            values[spec.name] = value
        yield values


@pytest.mark.parametrize("name", TWINS)
def test_twins_sound_like_pedalboard(name, data_root, rng):
    errors = []
    for rate in (44100, 24000, 48000):
        processor = TWINS[name].make(rate)

        @jax.jit
        def render(audio, values, processor=processor):
            state = processor.init_state(audio.shape[0])
            return processor.process(state, audio, values)[1]

        for path in RECORDINGS:
            audio, _ = soundfile.read(
                data_root / path, frames=rate, dtype="float32", always_2d=True
            )
            audio = np.stack([audio[:, 0], 0.5 * audio[::-1, 0]])
            for values in settings(name, rate, rng, 10):
                host = getattr(pedalboard, name)(**values)
                expected = host(audio, rate)
                found = np.asarray(render(audio, values))
                error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
                assert error < (1e-5 if "pass" in name else 1e-3), (rate, values)
                errors.append(error)
    assert np.median(errors) < 1e-5


@pytest.mark.parametrize("name", ["LowShelfFilter", "HighShelfFilter", "PeakFilter"])
def test_low_cutoffs_are_rounded_as_pedalboard_rounds_them(name, rng):
    """Where the exact filter is a thousandth to some per cent away from pedalboard."""
    rate = 44100
    hum = 4.0 * np.sin(2 * np.pi * 30 * np.arange(rate) / rate)
    audio = (hum + rng.standard_normal((1, rate))).astype(np.float32)
    twin = TWINS[name].make(rate)

    @jax.jit
    def render(values):
        return twin.process(twin.init_state(1), jnp.asarray(audio), values)[1]

    further = []
    for cutoff_hz, gain_db, q in itertools.product(
        (20.0, 31.0), (-17.3, 14.1), (0.71,)
    ):
        values = {"cutoff_frequency_hz": cutoff_hz, "gain_db": gain_db, "q": q}
        wanted = getattr(pedalboard, name)(**values)(audio, rate)
        found = relative(np.asarray(render(values)), wanted)
        assert found < 1e-3, values
        exact = scipy.signal.sosfilt(DESIGNS[name](*values.values(), rate), audio)
        further.append(relative(exact, wanted) / found)
    assert np.median(further) > 2.0


@pytest.mark.parametrize("name", ["LowShelfFilter", "HighShelfFilter", "PeakFilter"])
def test_slopes_are_those_of_the_exact_filter(name, rng):
    rate = 24000
    audio = rng.standard_normal((2, 1000)).astype(np.float32)
    weights = rng.standard_normal(audio.shape).astype(np.float32)
    twin = TWINS[name].make(rate)

    def energy(values, audio):
        return (weights * twin.process(twin.init_state(2), audio, values)[1]).sum()

    values = {"cutoff_frequency_hz": 700.0, "gain_db": 7.0, "q": 0.9}
    found = jax.jit(jax.grad(energy))(jax.tree.map(jnp.float32, values), audio)
    with jax.enable_x64(True):
        audio = jnp.asarray(audio, float)
        sos = DESIGNS[name](*values.values(), rate)
        render = twin.process(twin.init_state(2), audio, values)[1]
        expected = scipy.signal.sosfilt(sos, np.asarray(audio))
        np.testing.assert_allclose(render, expected, atol=1e-10)
        for key, value in values.items():
            step = 1e-5 * value
            ahead, behind = (
                float(energy({**values, key: value + by}, audio))
                for by in (step, -step)
            )
            assert found[key] == pytest.approx((ahead - behind) / (2 * step), rel=2e-3)


def test_cutoffs_too_low_for_float32_leave_the_exact_filter():
    """At 1 Hz and 96 kHz the rounded poles may lie on the circle."""
    twin = TWINS["PeakFilter"].make(96000)
    audio = jnp.ones((1, 500))
    for cutoff_hz in (1.0, 2.0, 5.0):
        values = {"cutoff_frequency_hz": cutoff_hz, "gain_db": 12.0, "q": 20.0}
        values = jax.tree.map(jnp.float32, values)
        found = twin.process(twin.init_state(1), audio, values)[1]
        assert np.isfinite(found).all()


def test_defaults_are_pedalboard_s():
    for name, twin in TWINS.items():
        host = getattr(pedalboard, name)()
        assert twin.defaults == {key: getattr(host, key) for key in twin.defaults}
        assert set(twin.defaults) == {
            spec.name for spec in catalogue.facts(name).parameters
        }
