"""Equalisers against scipy in float64, physics, and a peer's exact arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from ddspx.effects import equalizer, graphic
from ddspx.filters import analog
from ddspx.parameters import default_controls, to_physical, to_unit

RATE = 44100


def controls_for(effect, **values) -> Any:
    """Controls at the defaults but for the values given."""
    physical = to_physical(effect.specs, default_controls(effect.specs)).astype(float)
    names = [spec.name for spec in effect.specs]
    for name, value in values.items():
        physical[names.index(name)] = value
    return to_unit(effect.specs, physical).astype(np.float32)


def level_db(effect, frequencies_hz, **values):
    """Gain at frequencies, from the response to a click of one second."""
    click = np.zeros((1, RATE), np.float32)
    click[0, 0] = 1.0
    controls = controls_for(effect, **values)
    found = np.asarray(jax.jit(effect.render)(click, controls), float)[0]
    bins = np.rint(np.asarray(frequencies_hz)).astype(int)
    return 20 * np.log10(np.abs(np.fft.rfft(found)[bins]) + 1e-12)


def test_bands_have_their_physics():
    shelf = equalizer.low_shelf(RATE)
    found = level_db(shelf, [1, 500, 20000], cutoff_hz=500, gain_db=9)
    np.testing.assert_allclose(found, [9, 4.5, 0], atol=0.01)
    shelf = equalizer.high_shelf(RATE)
    found = level_db(shelf, [1, 2000, 22050], cutoff_hz=2000, gain_db=-7)
    np.testing.assert_allclose(found, [0, -3.5, -7], atol=0.01)
    bell = equalizer.peak(RATE)
    found = level_db(bell, [1, 1000, 22050], cutoff_hz=1000, gain_db=12, q=3)
    np.testing.assert_allclose(found, [0, 12, 0], atol=0.01)
    found = level_db(equalizer.notch(RATE), [1, 800, 22050], cutoff_hz=800)
    np.testing.assert_allclose(found[[0, 2]], 0, atol=0.01)
    assert found[1] < -60
    found = level_db(equalizer.band_pass(RATE), [10, 20, 700], cutoff_hz=700, q=2)
    np.testing.assert_allclose(found[1] - found[0], 6.02, atol=0.02)
    np.testing.assert_allclose(found[2], 0, atol=0.01)


@pytest.mark.parametrize(
    ("name", "slope_db"),
    [
        ("high_pass", 12.04),
        ("first_order_high_pass", 6.02),
        ("low_pass", -12.04),
        ("first_order_low_pass", -6.02),
    ],
)
def test_passes_lose_3_db_at_the_cutoff_and_fall_as_steeply_as_they_say(name, slope_db):
    effect = equalizer.EFFECTS[name](RATE)
    # Low cutoffs for low passes too: the bilinear transform bends what is near 22 kHz.
    cutoff_hz = 2000 if slope_db > 0 else 100
    octave = (50, 100) if slope_db > 0 else (1000, 2000)
    found = level_db(effect, [cutoff_hz, *octave], cutoff_hz=cutoff_hz)
    assert found[0] == pytest.approx(-3.01, abs=0.01)
    assert found[2] - found[1] == pytest.approx(slope_db, abs=0.12)


def test_parametric_equalizer_is_dasp_s_in_float64(golden):
    arrays = golden("dasp")
    kinds = ("low_shelf", "peak", "peak", "peak", "peak", "high_shelf")
    theirs = ("low_shelf", "band0", "band1", "band2", "band3", "high_shelf")
    bands = tuple(
        equalizer.Band(name, kind, 20.0, 20000.0, 1000.0)
        for name, kind in zip(theirs, kinds, strict=True)
    )
    sections_of = equalizer.band_sections
    processor = equalizer.sections_processor(
        lambda values: sections_of(bands, values, RATE), len(bands)
    )

    def values_of(row):
        return {
            f"{name}.{ours}": jnp.asarray(arrays[f"eq__{name}_{peer}"][row])
            for name in theirs
            for ours, peer in (
                ("cutoff_hz", "cutoff_freq"),
                ("gain_db", "gain_db"),
                ("q", "q_factor"),
            )
        }

    @jax.jit
    def render(audio, values):
        return processor.process(processor.init_state(1), audio, values)[1]

    for row in range(2):
        found = np.asarray(render(arrays["x"][row], values_of(row)), float)
        exact = arrays["parametric_eq_exact_f64"][row].astype(float)
        error = np.sqrt(np.sum((found - exact) ** 2) / np.sum(exact**2))
        assert error < 2e-6
        peer = np.sqrt(
            np.sum((arrays["parametric_eq"][row] - exact) ** 2) / np.sum(exact**2)
        )
        assert error < 0.5 * peer


def test_parametric_equalizer_takes_any_bands(rng):
    bands = [
        equalizer.Band("cut", "high_pass", 20.0, 500.0, 60.0),
        equalizer.Band("bell", "peak", 100.0, 9000.0, 1000.0, 12.0),
        equalizer.Band("top", "low_pass", 2000.0, 30000.0, 18000.0),
    ]
    effect = equalizer.parametric_equalizer(RATE, bands=bands)
    names = [spec.name for spec in effect.specs]
    assert names == [
        "cut.cutoff_hz", "cut.q", "bell.cutoff_hz", "bell.gain_db", "bell.q",
        "top.cutoff_hz", "top.q",
    ]  # fmt: skip
    assert effect.specs[5].high == pytest.approx(0.45 * RATE)
    controls = rng.random(7).astype(np.float32)
    cut, cut_q, center, gain, q, top, top_q = to_physical(effect.specs, controls)
    sections = analog.series(
        analog.high_pass(cut, cut_q, RATE),
        analog.peak(center, gain, q, RATE),
        analog.low_pass(top, top_q, RATE),
    )
    audio = rng.standard_normal((2, 800)).astype(np.float32)
    sos = np.concatenate(analog.coefficients(sections), -1)
    np.testing.assert_allclose(
        effect.render(audio, controls),
        scipy.signal.sosfilt(sos.astype(float), audio.astype(float)),
        atol=5e-5,
    )
    with pytest.raises(ValueError, match="each once"):
        equalizer.parametric_equalizer(RATE, bands=[bands[0], bands[0]])
    with pytest.raises(ValueError, match="leave the band out"):
        equalizer.parametric_equalizer(4000, bands=[bands[2]])


def test_state_variable_filter_mixes_its_outputs(rng):
    effect = equalizer.state_variable_filter(RATE)
    audio = rng.standard_normal((1, 400)).astype(np.float32)
    for mix, design in (
        ((1, 0, 0), analog.low_pass),
        ((0, 1, 0), analog.band_pass),
        ((0, 0, 1), analog.high_pass),
        ((1, 0, 1), analog.notch),
    ):
        low, band, high = map(float, mix)
        controls = controls_for(
            effect, cutoff_hz=900, q=3.0, low=low, band=band, high=high
        )
        sos = np.concatenate(analog.coefficients(design(900.0, 3.0, RATE)), -1)
        expected = scipy.signal.sosfilt(sos[None], audio.astype(float))
        np.testing.assert_allclose(effect.render(audio, controls), expected, atol=2e-5)


def test_moving_at_rest_is_still_and_a_sweep_stays_bounded(rng):
    effect = equalizer.parametric_equalizer(RATE, bands=equalizer.BANDS[:2])
    audio = jnp.asarray(rng.standard_normal((2, 500)), np.float32)
    controls = jnp.full(6, 0.7, np.float32)
    render = jax.jit(effect.render)
    held = jnp.repeat(controls[:, None], 3, 1)
    np.testing.assert_allclose(render(audio, held), render(audio, controls), atol=2e-5)
    svf = equalizer.state_variable_filter(RATE)
    wild = jnp.asarray(rng.random((5, 500)), np.float32).at[1].set(1.0)
    swept = np.asarray(jax.jit(svf.render)(audio, wild))
    assert np.all(np.isfinite(swept)) and np.abs(swept).max() < 100


@pytest.mark.parametrize("spacing", ["octave", "third_octave"])
def test_graphic_equalizer_meets_its_gains_at_its_centers(spacing, rng):
    for rate in (44100, 16000):
        centers_hz = graphic.graphic_centers(rate, spacing)
        number = len(centers_hz)
        solve = jax.jit(
            graphic._gain_solver(centers_hz, graphic._QUALITY[spacing], rate)
        )
        asked = np.stack(
            [
                12.0 * (-1.0) ** np.arange(number),
                np.full(number, -12.0),
                *rng.uniform(-12, 12, (20, number)),
            ]
        )
        solved = np.asarray(solve(asked.astype(np.float32)), float)
        for gains, wanted in zip(solved, asked, strict=True):
            b, a = analog.coefficients(
                analog.peak(centers_hz, gains, graphic._QUALITY[spacing], rate)
            )
            sos = np.concatenate([b, a], -1)
            heard = scipy.signal.sosfreqz(sos, centers_hz, fs=rate)[1]
            np.testing.assert_allclose(20 * np.log10(np.abs(heard)), wanted, atol=0.005)


def test_graphic_equalizer_renders_what_it_solves():
    effect = graphic.graphic_equalizer(RATE)
    names = [spec.name for spec in effect.specs]
    assert names[0] == "gain_31hz_db" and names[-1] == "gain_16000hz_db"
    gains = dict(zip(names, np.tile([12.0, -12.0], 5), strict=True))
    found = level_db(effect, [500, 1000, 4000, 16000], **gains)
    np.testing.assert_allclose(found, [12, -12, -12, -12], atol=0.02)


def test_linear_phase_has_the_magnitude_and_no_phase():
    effect = graphic.linear_phase_equalizer(RATE)
    twin = equalizer.parametric_equalizer(RATE)
    settings = {"peak2.gain_db": 9.0, "high_shelf.gain_db": -6.0, "peak2.q": 1.0}
    assert effect.latency == 1023
    click = np.zeros((1, 4095), np.float32)
    click[0, 1000] = 1.0
    found = effect.render(jnp.asarray(click), controls_for(effect, **settings))
    found = np.asarray(found)[0]
    middle = 1000 + effect.latency
    np.testing.assert_allclose(
        found[middle - 900 : middle], found[middle + 900 : middle : -1], atol=1e-6
    )
    hz = np.array([50, 200, 800, 3000, 10000])
    spectrum = np.abs(
        np.exp(-2j * np.pi * np.outer(hz / RATE, np.arange(4095))) @ found
    )
    wanted = level_db(twin, hz, **settings)
    np.testing.assert_allclose(20 * np.log10(spectrum), wanted, atol=0.1)
    with pytest.raises(ValueError, match="odd"):
        graphic.linear_phase_equalizer(RATE, taps=100)


@pytest.mark.parametrize(
    "name", ["parametric_equalizer", "graphic_equalizer", "linear_phase_equalizer"]
)
def test_blocks_are_the_whole_and_identity_is_exact(name, rng):
    if name == "linear_phase_equalizer":
        effect = graphic.linear_phase_equalizer(16000, taps=255)
    else:
        effect = {**equalizer.EFFECTS, **graphic.EFFECTS}[name](16000)
    audio = rng.standard_normal((2, 1000)).astype(np.float32)
    controls = rng.random(len(effect.specs)).astype(np.float32)
    render, block = jax.jit(effect.render), jax.jit(effect.render_block)
    whole = np.asarray(render(audio, controls))
    state, parts = effect.init_state(2), []
    for start, stop in ((0, 1), (1, 300), (300, 1000)):
        state, out = block(state, audio[:, start:stop], controls)
        parts.append(out)
    np.testing.assert_allclose(np.concatenate(parts, -1), whole, atol=2e-5)
    flat = controls_for(effect)
    late = effect.latency
    out = np.asarray(render(audio, flat))
    np.testing.assert_allclose(out[:, late:], audio[:, : 1000 - late], atol=1e-5)


def test_an_equalizer_s_slopes_are_float64_differences(rng):
    effect = equalizer.parametric_equalizer(RATE, bands=equalizer.BANDS[:2])
    weights = rng.standard_normal((1, 200))
    with jax.enable_x64(True):
        audio = jnp.asarray(rng.standard_normal((1, 200)))
        controls = jnp.asarray(rng.uniform(0.2, 0.8, 6))

        @jax.jit
        def loss(controls):
            return jnp.sum(weights * effect.render(audio, controls) ** 2)

        slopes = jax.jit(jax.grad(loss))(controls)
        for index in range(6):
            step = 1e-6 * np.eye(6)[index]
            slope = (loss(controls + step) - loss(controls - step)) / 2e-6
            np.testing.assert_allclose(slopes[index], slope, rtol=2e-5, atol=1e-6)
