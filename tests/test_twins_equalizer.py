"""Twins of pedalboard's filters against pedalboard, on speech and music."""

import jax
import numpy as np
import pedalboard
import pytest
import soundfile

from styletransfer.hosts import catalogue
from styletransfer.twins.equalizer import TWINS

RECORDINGS = (
    "speech/flemishguy_nl/nl_rhasspy_1003_1601817773.flac",
    "music/di_celestial_guitar.flac",
)


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
                assert error < (1e-5 if "pass" in name else 2e-2), (rate, values)
                if values["cutoff_frequency_hz"] > 100.0:
                    assert error < 1e-3, (rate, values)
                errors.append(error)
    # What is above is pedalboard's float32 coefficients, at high q and low cutoffs.
    assert np.quantile(errors, 0.8) < 1e-3
    assert np.median(errors) < 5e-5


def test_defaults_are_pedalboard_s():
    for name, twin in TWINS.items():
        host = getattr(pedalboard, name)()
        assert twin.defaults == {key: getattr(host, key) for key in twin.defaults}
        assert set(twin.defaults) == {
            spec.name for spec in catalogue.facts(name).parameters
        }
