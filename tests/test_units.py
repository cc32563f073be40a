import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from ddspx import units

PAIRS = [
    (units.power_to_db, units.db_to_power, [1e-6, 0.5, 3.0]),
    (units.gain_to_db, units.db_to_gain, [1e-4, 0.5, 3.0]),
    (units.amplitude_to_power, units.power_to_amplitude, [1e-3, 0.5, 3.0]),
    (units.hz_to_midi, units.midi_to_hz, [8.0, 440.0, 12000.0]),
    (units.hz_to_mel, units.mel_to_hz, [0.0, 400.0, 999.0, 1001.0, 9000.0]),
    (
        lambda f: units.hz_to_mel(f, "htk"),
        lambda m: units.mel_to_hz(m, "htk"),
        [0.0, 700.0, 9000.0],
    ),
    (
        lambda t: units.ms_to_samples(t, 44100),
        lambda n: units.samples_to_ms(n, 44100),
        [0.0, 1.0, 250.0],
    ),
]


@pytest.mark.parametrize(("there", "back", "values"), PAIRS)
def test_each_unit_has_its_inverse(there, back, values):
    for array in (np.array(values), jnp.array(values)):
        out = back(there(array))
        assert isinstance(out, jax.Array) == isinstance(array, jax.Array)
        np.testing.assert_allclose(out, values, rtol=2e-6, atol=1e-6)
    # NumPy keeps float64, which filter design needs.
    assert np.asarray(there(np.array(values))).dtype == np.float64


def test_units_have_the_values_of_their_definition():
    assert units.power_to_db(0.1) == pytest.approx(-10.0)
    assert units.gain_to_db(-0.1) == pytest.approx(-20.0)
    assert units.hz_to_midi(880.0) == pytest.approx(81.0)
    assert units.ms_to_samples(10.0, 48000) == pytest.approx(480.0)
    assert units.gain_to_db(0.0, floor_db=-90.0) == pytest.approx(-90.0)


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_mel_agrees_with_librosa(scale):
    frequency = np.linspace(0, 12000, 97)
    expected = librosa.hz_to_mel(frequency, htk=scale == "htk")
    np.testing.assert_allclose(units.hz_to_mel(frequency, scale), expected, rtol=1e-12)
    np.testing.assert_allclose(
        units.mel_to_hz(expected, scale), frequency, rtol=1e-9, atol=1e-9
    )


@pytest.mark.golden
def test_midi_agrees_with_the_golden_arrays(golden):
    arrays = golden("ddsp_tf_core")
    audible = arrays["hz"] > 0
    np.testing.assert_allclose(
        np.asarray(units.hz_to_midi(jnp.asarray(arrays["hz"])))[audible],
        arrays["hz_to_midi"][audible],
        rtol=1e-6,
    )


def test_gradients_are_finite_at_silence_and_right_above_it():
    for function in (
        units.power_to_db,
        units.gain_to_db,
        units.power_to_amplitude,
        units.hz_to_midi,
    ):
        slope = jax.grad(function)
        assert slope(0.0) == 0.0
        step = 1e-2
        expected = (function(0.5 + step) - function(0.5 - step)) / (2 * step)
        assert slope(0.5) == pytest.approx(float(expected), rel=1e-3)


def test_unknown_mel_scale_is_refused():
    with pytest.raises(Exception, match="bark"):
        units.hz_to_mel(1.0, "bark")  # type: ignore[arg-type]
