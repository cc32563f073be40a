"""Moving effects against closed forms: side-bands, notches, all-passes, power."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from ddspx.effects.modulation import (
    auto_pan,
    chorus,
    flanger,
    phaser,
    ring_modulation,
    tremolo,
    vibrato,
)
from ddspx.effects.phaser import allpass_cascade, allpass_gain, start_cascade
from ddspx.parameters import to_unit

RATE = 8000


def render(effect, audio, **values):
    physical = [values.get(spec.name, spec.default) for spec in effect.specs]
    controls = jnp.asarray(to_unit(effect.specs, np.array(physical)), jnp.float32)
    audio = jnp.asarray(np.atleast_2d(audio), jnp.float32)
    return np.asarray(jax.jit(effect.render)(audio, controls), np.float64)


def sine(frequency_hz, time, phase=0.0):
    return np.sin(2 * np.pi * frequency_hz * np.arange(time) / RATE + phase)


def partials(signal):
    """Amplitude of each whole Hz of one second."""
    return 2 * np.abs(np.fft.rfft(signal[:RATE])) / RATE


def test_tremolo_has_a_carrier_and_two_side_bands():
    found = partials(render(tremolo(RATE), sine(1000, RATE), rate_hz=8.0, depth=0.6)[0])
    wanted = np.zeros_like(found)
    wanted[[1000, 992, 1008]] = 1 - 0.3, 0.15, 0.15
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_triangular_tremolo_has_odd_side_bands():
    effect = tremolo(RATE, waveform="triangle")
    found = partials(render(effect, sine(1000, RATE), rate_hz=10.0, depth=1.0)[0])
    for order in (1, 3, 5):
        # A triangle's partials are 8 / (pi k)^2.
        assert found[1000 + 10 * order] == pytest.approx(
            2.0 / (np.pi * order) ** 2, rel=2e-3
        )
    assert found[1020] < 1e-5


def test_ring_modulation_leaves_sum_and_difference():
    out = render(ring_modulation(RATE), sine(1000, RATE), rate_hz=300, mix=1)
    wanted = np.zeros(RATE // 2 + 1)
    wanted[[700, 1300]] = 0.5
    np.testing.assert_allclose(partials(out[0]), wanted, atol=1e-4)


def test_vibrato_of_a_sine_is_frequency_modulation():
    depth_ms, rate_hz, tone_hz = 1.5, 6.0, 200.0
    effect = vibrato(RATE, interpolation="lagrange3")
    found = render(effect, sine(tone_hz, 2 * RATE), rate_hz=rate_hz, depth_ms=depth_ms)
    n = np.arange(2 * RATE) / RATE
    delay = depth_ms * 1e-3 * (1 + np.sin(2 * np.pi * rate_hz * n))
    wanted = np.sin(2 * np.pi * tone_hz * (n - delay))
    late = slice(100, None)
    np.testing.assert_allclose(found[0, late], wanted[late], atol=2e-4)
    # The pitch moves by 2 pi rate depth, both ways.
    phase = np.unwrap(np.angle(np.asarray(scipy.signal.hilbert(found[0]))))
    pitch = np.diff(phase)[2000:-2000] * RATE / (2 * np.pi)
    wide = tone_hz * 2 * np.pi * rate_hz * depth_ms * 1e-3
    assert np.max(pitch) == pytest.approx(tone_hz + wide, rel=5e-3)
    assert np.min(pitch) == pytest.approx(tone_hz - wide, rel=5e-3)


def test_auto_pan_keeps_the_power_and_wanders():
    audio = np.ones((2, RATE))
    left, right = render(auto_pan(RATE), audio, rate_hz=2.0, depth=1.0)
    np.testing.assert_allclose(left**2 + right**2, 2.0, atol=1e-5)
    wanted = np.sqrt(2) * np.cos(
        np.pi / 4 * (1 + np.sin(2 * np.pi * 2 * np.arange(RATE) / RATE))
    )
    np.testing.assert_allclose(left, wanted, atol=2e-5)


def test_flanger_at_rest_is_a_comb():
    effect = flanger(RATE)
    impulse = np.zeros(200)
    impulse[0] = 1.0
    found = render(effect, impulse, delay_ms=2.0, depth_ms=0.0, feedback=-0.5, mix=0.4)
    wanted = np.zeros(200)
    wanted[0] = 0.6
    wanted[16::16] = 0.4 * (-0.5) ** np.arange(12)
    np.testing.assert_allclose(found[0], wanted, atol=1e-5)


def test_chorus_of_a_ramp_tells_its_delays():
    """On a ramp the mean of the voices is the ramp at the mean delay."""
    ramp = np.arange(RATE) / RATE
    audio = np.stack([ramp, ramp])
    values = dict(rate_hz=3.0, depth_ms=2.0, centre_delay_ms=10.0, mix=1.0)
    found = render(chorus(RATE, voices=3), audio, **values)
    np.testing.assert_allclose((ramp - found)[:, 200:], 0.010, atol=2e-6)
    found = render(chorus(RATE, voices=1), audio, phase=0.125, **values)
    for channel in range(2):
        turns = 3.0 * ramp + 0.125 + 0.25 * channel
        wanted = 0.010 + 0.002 * np.sin(2 * np.pi * turns)
        np.testing.assert_allclose(
            (ramp - found[channel])[200:], wanted[200:], atol=2e-6
        )


def cascade_loop(audio, gains, feedback, stages):
    """Trapezoidal one-pole integrators, sample by sample in float64."""
    state, last, out = np.zeros((stages, len(audio))), np.zeros(len(audio)), []
    for n in range(audio.shape[1]):
        u = audio[:, n] + feedback[n] * last
        for k in range(stages):
            v = gains[n] * (u - state[k])
            low = v + state[k]
            state[k] = low + v
            u = 2 * low - u
        last = u
        out.append(u)
    return np.stack(out, -1)


def moving_cascade(time, seed=0):
    rng = np.random.default_rng(seed)
    n = np.arange(time)
    return (
        rng.uniform(-1, 1, (2, time)),
        0.2 + 0.15 * np.sin(n / 50.0),
        0.6 * np.cos(n / 333.0),
    )


@pytest.mark.parametrize("stages", [1, 6])
def test_allpass_cascade_is_the_loop_over_samples(stages):
    audio, gains, feedback = moving_cascade(700)
    wanted = cascade_loop(audio, gains, feedback, stages)
    single = [jnp.asarray(a, jnp.float32) for a in (audio, gains, feedback)]
    found, _ = allpass_cascade(*single, start_cascade(stages, 2))
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    cut = 333
    first, state = allpass_cascade(
        *(a[..., :cut] for a in single), start_cascade(stages, 2)
    )
    second, _ = allpass_cascade(*(a[..., cut:] for a in single), state)
    np.testing.assert_allclose(jnp.concatenate([first, second], -1), found, atol=1e-6)


def test_resting_allpasses_have_gain_one_and_the_phase_of_their_frequency():
    impulse = np.zeros((1, RATE), np.float32)
    impulse[0, 0] = 1.0
    gains = jnp.full(RATE, allpass_gain(jnp.asarray(700.0), RATE))
    out, _ = allpass_cascade(jnp.asarray(impulse), gains, 0.0, start_cascade(6, 1))
    spectrum = np.fft.rfft(np.asarray(out[0], np.float64))
    np.testing.assert_allclose(np.abs(spectrum), 1.0, atol=1e-5)
    one, _ = allpass_cascade(jnp.asarray(impulse), gains, 0.0, start_cascade(1, 1))
    turn = np.angle(np.fft.rfft(np.asarray(one[0], np.float64))[700])
    assert turn == pytest.approx(-np.pi / 2, abs=1e-4)


def test_phaser_at_rest_has_its_notches():
    """Half dry, half all-passed: -1 where six stages turn by an odd number of pi."""
    impulse = np.zeros(RATE)
    impulse[0] = 1.0
    values = dict(depth_octaves=0.0, centre_hz=700.0, feedback=0.0, mix=0.5)
    spectrum = np.abs(np.fft.rfft(render(phaser(RATE), impulse, **values)[0]))
    tangent = np.tan(np.pi * 700 / RATE)
    for turn in (np.pi / 6, np.pi / 2, 5 * np.pi / 6):
        notch = RATE / np.pi * np.arctan(np.tan(turn / 2) * tangent)
        around = spectrum[int(notch) - 2 : int(notch) + 4]
        assert np.min(around) < 5e-3


def test_gradient_of_the_cascade_is_that_of_differences():
    time, stages = 400, 6
    rng = np.random.default_rng(5)
    with jax.enable_x64(True):
        arguments = [jnp.asarray(a) for a in moving_cascade(time)]
        arguments += [jnp.asarray(rng.standard_normal(s)) for s in ((stages, 2), (2,))]
        weights = [rng.standard_normal(s) for s in ((2, time), (stages, 2), (2,))]

        def value(audio, gains, feedback, memory, last):
            state = start_cascade(stages, 2)._replace(stages=memory, last=last)
            out, state = allpass_cascade(audio, gains, feedback, state)
            parts = zip(weights, (out, *state), strict=True)
            return sum(jnp.sum(w * p) for w, p in parts)

        compiled = jax.jit(value)
        slopes = jax.jit(jax.grad(value, tuple(range(5))))(*arguments)
        for place, argument in enumerate(arguments):
            way = rng.standard_normal(argument.shape)
            sides = []
            for step in (1e-6, -1e-6):
                moved = list(arguments)
                moved[place] = argument + step * way
                sides.append(float(compiled(*moved)))
            wanted = (sides[0] - sides[1]) / 2e-6
            found = float(np.sum(np.asarray(slopes[place]) * way))
            assert found == pytest.approx(wanted, rel=1e-6), place


def test_states_undone_backwards_stay_exact_over_seconds():
    """Float32 slopes after 60,000 samples of undoing are those of float64."""
    audio, gains, feedback = moving_cascade(60_000)

    def slopes(dtype):
        arguments = [jnp.asarray(a, dtype) for a in (audio, gains, feedback)]
        weights = jnp.asarray(moving_cascade(60_000, seed=1)[0], dtype)

        def value(*arguments):
            out, _ = allpass_cascade(*arguments, start_cascade(6, 2, dtype))
            return jnp.sum(out * weights)

        return [np.asarray(a) for a in jax.grad(value, (0, 1, 2))(*arguments)]

    single = slopes(jnp.float32)
    with jax.enable_x64(True):
        double = slopes(jnp.float64)
    for one, exact in zip(single, double, strict=True):
        # The start of the signal is what is undone last.
        for part in (slice(0, 2000), slice(None)):
            error = one[..., part] - exact[..., part]
            share = np.linalg.norm(error) / np.linalg.norm(exact[..., part])
            assert share < 1e-5


def test_memory_of_the_cascade_gradient_does_not_grow_with_its_stages():
    audio = jnp.zeros((1, 44100))
    gains = jnp.full(44100, 0.1)

    def value(audio, gains, feedback):
        out, _ = allpass_cascade(audio, gains, feedback, start_cascade(12, 1))
        return jnp.sum(out**2)

    slope = jax.jit(jax.grad(value, (0, 1, 2)))
    memory = slope.lower(audio, gains, 0.5).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 12 * audio.nbytes


def test_oscillators_do_not_drift_in_a_minute():
    """The last side-band cycle of a minute is where float64 has it."""
    effect = tremolo(RATE)
    audio = np.ones(60 * RATE)
    found = render(effect, audio, rate_hz=4.75, depth=1.0)[0]
    n = np.arange(59 * RATE, 60 * RATE)
    wanted = 0.5 + 0.5 * np.sin(2 * np.pi * 4.75 * n / RATE)
    np.testing.assert_allclose(found[59 * RATE :], wanted, atol=5e-4)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="one voice or more, got 0"):
        chorus(RATE, voices=0)
    with pytest.raises(ValueError, match="one stage or more, got 0"):
        phaser(RATE, stages=0)
    with pytest.raises(ValueError, match="8000 Hz or more, got 4000"):
        flanger(4000)
