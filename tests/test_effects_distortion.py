import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from ddspx import audio as audio_files
from ddspx.effects import aligned
from ddspx.effects.distortion import (
    EFFECTS,
    bitcrush,
    hard_clip,
    hold,
    polynomial_distortion,
    soft_clip,
    start_hold,
    tanh_distortion,
)

RATE = 44100


def controls(effect, **values):
    """Controls at physical values, the others at their defaults."""
    names = {s.name for s in effect.specs}
    assert set(values) <= names
    chosen = [values.get(s.name, s.default) for s in effect.specs]
    units = [
        float(s.to_unit(np.float64(v)))
        for s, v in zip(effect.specs, chosen, strict=True)
    ]
    return jnp.asarray(units, jnp.float32)


def noise(rng, time=500, channels=2):
    return jnp.asarray(rng.uniform(-0.8, 0.8, (channels, time)), jnp.float32)


def clip(x):
    return np.clip(x, -1.0, 1.0)


CURVES = {
    tanh_distortion: np.tanh,
    hard_clip: clip,
    soft_clip: lambda x: 1.5 * clip(x) - 0.5 * clip(x) ** 3,
}


@pytest.mark.parametrize("factory", CURVES)
def test_without_options_each_is_its_formula(factory, rng):
    effect, audio = factory(RATE), noise(rng)
    setting = {"drive_db": 14.0, "output_db": -5.0, "mix": 0.7}
    found = effect.render(audio, controls(effect, **setting))
    driven = np.asarray(audio, float) * 10 ** (14 / 20)
    wanted = 0.3 * np.asarray(audio) + 0.7 * 10 ** (-5 / 20) * CURVES[factory](driven)
    np.testing.assert_allclose(found, wanted, atol=3e-6)
    assert effect.latency == 0


@pytest.mark.parametrize("basis", ["chebyshev", "power"])
def test_polynomials_are_numpys(basis, rng):
    effect = polynomial_distortion(RATE, degree=4, basis=basis, dc_block=False)
    weights = {"c1": 0.5, "c2": -0.3, "c3": 0.9, "c4": 0.2}
    audio = noise(rng)
    found = effect.render(audio, controls(effect, drive_db=6.0, **weights))
    family = (
        np.polynomial.Chebyshev if basis == "chebyshev" else np.polynomial.Polynomial
    )
    series = family([0.0, *weights.values()])
    driven = clip(np.asarray(audio, float) * 10 ** (6 / 20))
    np.testing.assert_allclose(found, series(driven) - series(0.0), atol=3e-6)


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (tanh_distortion, {"oversampling": 3}, r"oversampling=3.*\(1, 2, 4, 8\)"),
        (hard_clip, {"antiderivative": 3}, r"antiderivative=3.*\(0, 1, 2\)"),
        (polynomial_distortion, {"degree": 0}, "degree is 0"),
        (polynomial_distortion, {"basis": "legendre"}, "basis 'legendre' is unknown"),
    ],
)
def test_bad_options_are_refused_at_once(factory, options, message):
    # beartype, which is on in tests only, refuses a wrong literal first.
    with pytest.raises(Exception, match=f"{message}|Type-check"):
        factory(RATE, **options)


@functools.cache
def alias_snr_db(factory, oversampling, antiderivative):
    """Harmonics below half the rate over all else, 5 kHz sine driven by 20 dB."""
    period, f = 4410, 5000
    effect = factory(RATE, oversampling=oversampling, antiderivative=antiderivative)
    time = np.arange(2 * period)
    sine = (0.9 * np.sin(2 * np.pi * f / RATE * time)).astype(np.float32)[None]
    out = jax.jit(effect.render)(sine, controls(effect, drive_db=20.0))
    power = np.abs(np.fft.rfft(np.asarray(out, float)[0, period:])) ** 2
    harmonics = np.arange(f // 10, power.size, f // 10)
    wanted = power[harmonics].sum()
    return 10 * np.log10(wanted / (power[1:].sum() - wanted))


# Measured: factory -> {(oversampling, antiderivative): SNR in dB}.
ALIAS_SNR_DB = {
    tanh_distortion: {(1, 0): 13.0, (1, 1): 20.3, (1, 2): 27.4, (2, 0): 29.5,
                      (2, 2): 65.9, (8, 0): 105.8},
    hard_clip: {(1, 0): 11.8, (1, 1): 19.5, (1, 2): 26.5, (2, 1): 43.4, (4, 0): 39.6,
                (8, 2): 104.2},
    soft_clip: {(1, 0): 11.3, (1, 2): 26.2, (4, 1): 62.0},
}  # fmt: skip


@pytest.mark.parametrize("factory", ALIAS_SNR_DB)
def test_aliases_fall_by_the_measured_amounts(factory):
    found = {
        options: alias_snr_db(factory, *options) for options in ALIAS_SNR_DB[factory]
    }
    for options, wanted in ALIAS_SNR_DB[factory].items():
        assert found[options] > wanted - 1.0, (options, found)
    # Each order of averaging is worth 6 dB at the plain rate, a factor of two more.
    assert found[(1, 2)] > found[(1, 0)] + 12.0


@pytest.mark.parametrize(
    ("oversampling", "antiderivative", "latency"),
    [(1, 1, 0), (1, 2, 1), (2, 0, 64), (8, 1, 64)],
)
def test_the_latency_is_the_declared_one(oversampling, antiderivative, latency):
    effect = tanh_distortion(
        RATE, oversampling=oversampling, antiderivative=antiderivative
    )
    assert effect.latency == latency
    time = np.arange(1200)
    audio = 1e-3 * np.sin(2 * np.pi * 440 / RATE * time) * np.hanning(1200)
    audio = jnp.asarray(audio, jnp.float32)[None]
    # Quiet audio passes the curve unchanged; half a sample at 440 Hz is 0.03 rad.
    setting = controls(effect, drive_db=0.0)
    found = aligned(effect)(audio, setting)
    tolerance = 1e-6 if antiderivative == 0 else 4e-5
    np.testing.assert_allclose(found, audio, atol=tolerance)
    late = effect.render(audio, setting)
    if latency:
        np.testing.assert_allclose(late[:, :latency], 0.0, atol=1e-5)
    np.testing.assert_allclose(late[:, latency:], found[:, : 1200 - latency], atol=1e-7)


OPTIONS = [
    (tanh_distortion, {"antiderivative": 2}),
    (polynomial_distortion, {"degree": 3, "oversampling": 2, "antiderivative": 2}),
    (hard_clip, {"oversampling": 4, "antiderivative": 1, "dc_block": True}),
]


@pytest.mark.parametrize(
    ("factory", "options"),
    [OPTIONS[0], pytest.param(*OPTIONS[1], marks=pytest.mark.slow), OPTIONS[2]],
)
def test_options_keep_the_promises(factory, options, rng):
    """Dry is the delayed input; blocks join; moving controls; float64 slopes."""
    effect = factory(16000, **options)
    audio = noise(rng, 300)
    render = jax.jit(effect.render)
    lag = effect.latency
    dry = render(audio, controls(effect, mix=0.0))
    np.testing.assert_array_equal(dry[:, lag:], audio[:, : 300 - lag])
    number = len(effect.specs)
    setting = jnp.asarray(rng.uniform(0.2, 0.8, number), jnp.float32)
    whole = render(audio, setting)
    held = jnp.broadcast_to(setting[:, None], (number, 300))
    np.testing.assert_allclose(render(audio, held), whole, atol=2e-6)
    moving = held + 0.1 * jnp.sin(jnp.arange(300) / 40.0)[None]
    whole = render(audio, moving)
    block = jax.jit(effect.render_block)
    state, parts = effect.init_state(2), []
    for cut in (slice(0, 1), slice(1, 140), slice(140, 300)):
        state, part = block(state, audio[:, cut], moving[:, cut])
        parts.append(part)
    np.testing.assert_allclose(jnp.concatenate(parts, -1), whole, atol=3e-6)
    with jax.enable_x64(True):
        weights = jnp.asarray(rng.normal(size=(2, 300)))
        move = jnp.asarray(rng.normal(size=number))
        shift = jnp.asarray(rng.normal(size=(2, 300)))
        wide, place = jnp.asarray(audio, float), jnp.asarray(setting, float)

        @jax.jit
        def value(t):
            return jnp.sum(weights * effect.render(wide + t * shift, place + t * move))

        wanted = (value(1e-6) - value(-1e-6)) / 2e-6
        slope = jax.jit(jax.grad(value))(0.0)
        assert float(slope) == pytest.approx(float(wanted), rel=2e-4, abs=1e-4)


def test_gradients_stay_finite_at_silence_and_full_drive():
    for factory, options in (OPTIONS[0], OPTIONS[2]):
        effect = factory(16000, **options)

        @jax.jit
        def slope(audio, setting, effect=effect):
            return jax.grad(lambda x, u: jnp.sum(effect.render(x, u)), (0, 1))(
                audio, setting
            )

        loud = jnp.sign(jnp.sin(jnp.arange(150.0)))[None]
        for audio in (jnp.zeros((1, 150)), loud):
            for corner in (0.0, 1.0):
                setting = jnp.full(len(effect.specs), corner)
                for found in slope(audio, setting):
                    assert np.all(np.isfinite(found)), (factory, options)


def test_the_block_takes_the_dc_of_even_harmonics_away():
    effect = polynomial_distortion(RATE, degree=2)
    plain = polynomial_distortion(RATE, degree=2, dc_block=False)
    audio = jnp.asarray(np.sin(np.arange(RATE) * 0.1), jnp.float32)[None]
    setting = controls(effect, drive_db=0.0, c1=0.0, c2=1.0)
    tail = slice(RATE // 2, None)
    assert float(jnp.mean(plain.render(audio, setting)[:, tail])) > 0.9
    assert abs(float(jnp.mean(effect.render(audio, setting)[:, tail]))) < 1e-3


def test_bits_are_exact_and_few():
    effect = bitcrush(RATE)
    audio = jnp.linspace(-1, 1, 5001)[None]
    for bits in (1.0, 3.0, 8.0):
        found = effect.render(audio, controls(effect, bit_depth=bits))
        density = 2.0 ** (bits - 1)
        wanted = np.round(np.asarray(audio) * density) / density
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert len(np.unique(np.asarray(found))) == 2 * density + 1


def held_at(audio, samples):
    """Loop in Python integers: a new sample where the 32-bit phase turns over."""
    step = int(np.float32(np.float32(1.0) / np.float32(samples)) * np.float32(2.0**32))
    phase, value, out, ages, age = 2**32 - 1, 0.0, [], [], 0
    for x in audio:
        phase += step
        age += 1
        if phase >= 2**32:
            phase, value, age = phase - 2**32, x, 0
        out.append(value)
        ages.append(age)
    return np.array(out), np.array(ages)


@pytest.mark.parametrize("samples", [1.7, 60.0])
def test_hold_is_the_loop_and_joins(samples, rng):
    audio = noise(rng, 400, 1)
    wanted, ages = held_at(np.asarray(audio)[0], samples)
    run = jax.jit(hold)
    _, found = run(start_hold(1), audio, samples)
    np.testing.assert_array_equal(found[0], wanted)
    state, parts = start_hold(1), []
    for cut in (slice(0, 1), slice(1, 150), slice(150, 153), slice(153, 400)):
        state, part = run(state, audio[:, cut], samples)
        parts.append(part)
    np.testing.assert_array_equal(jnp.concatenate(parts, -1), found)
    # The surrogate: what is `age` old would be older in proportion.
    slope = jax.grad(lambda h: jnp.sum(hold(start_hold(1), audio, h)[1]))(samples)
    x = np.concatenate([[0.0], np.asarray(audio, float)[0]])
    place = np.arange(400) - ages
    wanted = -np.sum(ages / samples * (x[place + 1] - x[place]))
    assert float(slope) == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    to_audio = jax.grad(lambda a: jnp.sum(hold(start_hold(1), a, samples)[1]))(audio)
    np.testing.assert_array_equal(to_audio[0], np.bincount(place, minlength=400))


def test_a_hold_of_one_sample_is_the_input_for_ever(rng):
    audio = noise(rng, 300)
    state = {**start_hold(2), "phase": jnp.asarray(5, jnp.uint32)}
    np.testing.assert_array_equal(hold(state, audio, 1.0)[1], audio)


def test_the_surrogate_of_bits_points_to_a_lower_error(rng):
    """Descending it finds the depth that made a recording, from either side."""
    effect, audio = bitcrush(RATE), noise(rng, 2000, 1)
    target = effect.render(audio, controls(effect, bit_depth=5.0))
    wanted_noise = jnp.mean((target - audio) ** 2)

    @jax.jit
    def slope(u):
        def loss(u):
            setting = controls(effect, bit_depth=8.0).at[0].set(u)
            out = effect.render(audio, setting)
            return (jnp.log(jnp.mean((out - audio) ** 2)) - jnp.log(wanted_noise)) ** 2

        return jax.grad(loss)(u)

    for start in (0.05, 0.4):
        u = jnp.asarray(start)
        for _ in range(60):
            u = u - 2e-4 * slope(u)
        assert float(effect.specs[0].to_physical(u)) == pytest.approx(5.0, abs=0.25)


def test_all_factories_are_listed():
    assert set(EFFECTS) == {
        "tanh_distortion",
        "hard_clip",
        "soft_clip",
        "polynomial_distortion",
        "bitcrush",
    }


def test_oversampling_leaves_real_audio_where_it_was(data_root):
    """On a guitar the two forms differ by aliases only: below -40 dB of the sound."""
    path = sorted((data_root / "music").rglob("*guitar*.flac"))[0]
    sound = jnp.asarray(
        audio_files.load(path, sample_rate=RATE, channels=1, duration_s=1.0).samples
    )
    sound = sound / jnp.max(jnp.abs(sound))
    plain, clean = tanh_distortion(RATE), tanh_distortion(RATE, oversampling=4)
    setting = controls(plain, drive_db=20.0)
    one, two = plain.render(sound, setting), aligned(clean)(sound, setting)
    lower = scipy.signal.butter(6, 5000, fs=RATE, output="sos")
    one, two = (scipy.signal.sosfilt(lower, np.asarray(x, float)) for x in (one, two))
    ratio = np.mean((one - two) ** 2) / np.mean(two**2)
    assert 10 * np.log10(ratio) < -40.0
