import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddspx import parameters
from ddspx.parameters import ParameterSpec

GAIN = ParameterSpec("gain_db", -24.0, 24.0, "dB", default=0.0, identity=0.0)
CUTOFF = ParameterSpec("cutoff_hz", 20.0, 20000.0, "Hz", "log")
MODE = ParameterSpec("mode", choices=("low", "band", "high"))
SPECS = (GAIN, CUTOFF, MODE)


def test_curves_are_what_they_say():
    assert GAIN.to_physical(np.float64(0.75)) == pytest.approx(12.0)
    # A log curve has the geometric mean in its middle.
    assert CUTOFF.to_physical(np.float64(0.5)) == pytest.approx(np.sqrt(20 * 20000))
    assert [float(MODE.to_physical(u)) for u in (0.0, 0.34, 0.67, 1.0)] == [0, 1, 2, 2]
    assert CUTOFF.default == pytest.approx(np.sqrt(20 * 20000))


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1), st.sampled_from([GAIN, CUTOFF]))
def test_unit_and_physical_are_inverse(control, spec):
    physical = spec.to_physical(np.float64(control))
    assert float(spec.to_unit(physical)) == pytest.approx(control, abs=1e-9)


def test_numpy_and_jax_agree():
    controls = np.linspace(0, 1, 18, dtype=np.float32).reshape(6, 3)
    host = parameters.to_physical(SPECS, controls)
    device = parameters.to_physical(SPECS, jnp.asarray(controls))
    np.testing.assert_allclose(host, device, rtol=2e-6)
    back = parameters.to_unit(SPECS, host)
    np.testing.assert_allclose(back[:, :2], controls[:, :2], atol=1e-6)
    again = parameters.to_physical(SPECS, back)
    np.testing.assert_array_equal(again[:, 2], host[:, 2])


def test_defaults_identities_and_settings():
    assert parameters.default_controls(SPECS)[0] == 0.5
    assert parameters.identity_controls(SPECS)[0] == 0.5
    table = parameters.settings(SPECS, np.array([0.75, 0.5, 0.5]))
    assert table["gain_db"]["text"] == "+12.0 dB"
    assert table["mode"]["value"] == "band"
    assert json.loads(json.dumps(table))["cutoff_hz"]["text"] == "632 Hz"


def test_samples_fill_the_cube_and_repeat(rng):
    one = parameters.sample_controls(SPECS, np.random.default_rng(3), (1000,))
    two = parameters.sample_controls(SPECS, np.random.default_rng(3), (1000,))
    np.testing.assert_array_equal(one, two)
    assert one.min() >= 0 and one.max() <= 1 and one.dtype == np.float32
    np.testing.assert_allclose(one.mean(axis=0), 0.5, atol=0.04)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"low": 1.0, "high": 1.0}, "must be less than high"),
        ({"low": 0.0, "high": 1.0, "curve": "log"}, "low > 0"),
        ({"default": 2.0}, "default 2.0 outside"),
        ({"identity": -1.0}, "identity -1.0 outside"),
        ({"choices": ("only",)}, "two or more"),
        ({"low": float("nan")}, "not finite"),
        ({"quantum": 1.0}, "quantum"),
    ],
)
def test_bad_specs_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ParameterSpec("x", **arguments)


def test_wrong_width_names_the_controls():
    with pytest.raises(ValueError, match=r"3 controls \(gain_db, cutoff_hz, mode\)"):
        parameters.to_physical(SPECS, np.zeros((2, 4)))
