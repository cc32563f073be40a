"""Effects and their gradients against the arrays of dasp-pytorch (golden `dasp`).

What the peer computes by sampling a response it wraps around by 1e-4 or so; its
gradients were taken of the mean of the squared output of both examples.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ddspx import filters
from ddspx.effects import dynamics, equalizer, make
from ddspx.envelopes import smooth, time_to_step
from ddspx.filters import design
from ddspx.parameters import to_unit

RATE = 44100
BANDS: dict[str, equalizer.Kind] = {
    "low_shelf": "low_shelf",
    "band0": "peak",
    "band1": "peak",
    "band2": "peak",
    "band3": "peak",
    "high_shelf": "high_shelf",
}


def rendered(effect, audio, **values):
    wanted = np.array([values[spec.name] for spec in effect.specs])
    return effect.render(audio, to_unit(effect.specs, wanted).astype(np.float32))


def test_biquads(golden):
    arrays = golden("dasp")
    cutoff_hz, q = arrays["fc"].astype(float), arrays["q"].astype(float)
    gain_db = np.array([[6.0], [-9.0]])
    found = {
        "peaking": design.peak(cutoff_hz, gain_db, q, RATE),
        "low_shelf": design.low_shelf(cutoff_hz, gain_db, q, RATE),
        "high_shelf": design.high_shelf(cutoff_hz, gain_db, q, RATE),
        "low_pass": design.low_pass(cutoff_hz, q, RATE),
        "high_pass": design.high_pass(cutoff_hz, q, RATE),
    }
    for name, pair in found.items():
        for side, ours in zip("ba", pair, strict=True):
            theirs = arrays[f"biquad_{name}_{side}"]
            np.testing.assert_allclose(ours[:, 0], theirs, rtol=1e-5, atol=1e-6)


def test_gradients_of_the_parametric_equalizer(golden):
    arrays = golden("dasp")
    bands = [equalizer.Band(n, k, 20.0, 20e3, 1e3) for n, k in BANDS.items()]
    names = {"cutoff_hz": "cutoff_freq", "gain_db": "gain_db", "q": "q_factor"}
    values = {
        f"{band}.{ours}": jnp.asarray(arrays[f"eq__{band}_{theirs}"])
        for band in BANDS
        for ours, theirs in names.items()
    }

    def loss(values):
        sections = equalizer.band_sections(bands, values, RATE)
        return jnp.mean(filters.filter_sections(arrays["x"][:, 0], sections)[0] ** 2)

    slopes = jax.jit(jax.grad(loss))(values)
    for ours, theirs in names.items():
        expected = arrays[f"eqgrad__band1_{theirs}"]
        np.testing.assert_allclose(slopes[f"band1.{ours}"], expected, rtol=2e-3)


def test_gradients_of_the_compressor(golden):
    arrays = golden("dasp")
    names = ("threshold_db", "ratio", "knee_db", "attack_ms", "makeup_gain_db")
    values = {n: jnp.asarray(arrays[f"comp__{n}"])[:, None] for n in names}
    audio = arrays["xc"][:, 0]

    def loss(v):
        level_db = 20.0 * jnp.log10(jnp.maximum(jnp.abs(audio), 1e-8))
        gain_db = dynamics.compression_db(
            level_db, v["threshold_db"], v["ratio"], v["knee_db"]
        )
        # Its attack is from 10 to 90 %, and there is no release.
        step = time_to_step(v["attack_ms"] / np.log(9.0), RATE)
        gain_db = smooth(gain_db, step)[0] + v["makeup_gain_db"]
        return jnp.mean((audio * 10.0 ** (gain_db / 20.0)) ** 2)

    slopes = jax.jit(jax.grad(loss))(values)
    for name in names:
        expected = arrays[f"compgrad__{name}"]
        np.testing.assert_allclose(slopes[name][:, 0], expected, rtol=5e-3)


def test_gain_and_distortion(golden):
    arrays = golden("dasp")
    for row, gain_db in enumerate((3.0, -3.0)):
        found = rendered(make("gain", RATE), arrays["x"][row], gain_db=gain_db)
        np.testing.assert_allclose(found, arrays["gain"][row], rtol=1e-5, atol=1e-6)
    for row, drive_db in enumerate((12.0, 20.0)):
        found = rendered(
            make("tanh_distortion", RATE),
            arrays["x"][row],
            drive_db=drive_db,
            output_db=0.0,
            mix=1.0,
        )
        np.testing.assert_allclose(found, arrays["distortion"][row], atol=1e-5)


def test_widener(golden):
    """Its width of 0.7 weighs the middle by 2 (1 - 0.7), the sides by 2 * 0.7."""
    arrays = golden("dasp")
    mid_db, side_db = 20.0 * np.log10([0.6, 1.4])
    for row in range(2):
        found = rendered(
            make("mid_side_gain", RATE),
            arrays["xs"][row],
            mid_db=mid_db,
            side_db=side_db,
        )
        np.testing.assert_allclose(found, arrays["widener_0.7"][row], atol=2e-6)
