"""Reverbs against sparse polynomials, decay times, peers, and themselves in blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from ddspx.comb_filters import delay_network_state
from ddspx.effects.convolution import (
    convolution,
    convolution_reverb,
    convolution_state,
    convolve,
)
from ddspx.effects.feedback_delay_network import (
    feedback_delay_network,
    line_lengths,
    mixing_matrix,
)
from ddspx.effects.freeverb import freeverb
from ddspx.effects.noise_reverb import (
    band_edges_hz,
    band_split,
    noise_reverb,
    shaped_noise,
)
from ddspx.effects.reverb import EFFECTS
from ddspx.parameters import default_controls

RATE = 8000


def rendered(effect, audio, **physical):
    """The output, NumPy, at the defaults but for the given physical values."""
    audio = jnp.asarray(audio, jnp.float32)
    return np.asarray(jax.jit(effect.render)(audio, controls_of(effect, **physical)))


def controls_of(effect, **physical):
    """Controls at the defaults but for the given physical values."""
    units = default_controls(effect.specs)
    for i, spec in enumerate(effect.specs):
        if spec.name in physical:
            units[i] = spec.to_unit(np.float64(physical[spec.name]))
    return jnp.asarray(units)


def freeverb_by_lfilter(audio, rate, room_size, damping):
    """The wet signal of both channels before width, in float64."""
    feedback, damp = 0.7 + 0.28 * room_size, 0.4 * damping
    wet = []
    for spread in (0, 23):
        total = np.zeros(audio.shape[1])
        for tuning in (1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617):
            delay = int(rate * (tuning + spread) / 44100)
            b = np.r_[np.zeros(delay), 1.0, -damp]
            a = np.zeros(delay + 2)
            a[:2] = 1.0, -damp
            a[delay] -= feedback * (1.0 - damp)
            total += scipy.signal.lfilter(b, a, 0.015 * audio.sum(0))
        for tuning in (556, 441, 341, 225):
            delay = int(rate * (tuning + spread) / 44100)
            b = np.r_[-1.0, np.zeros(delay - 1), 1.5]
            a = np.r_[1.0, np.zeros(delay - 1), -0.5]
            total = scipy.signal.lfilter(b, a, total)
        wet.append(total)
    return np.stack(wet)


@pytest.mark.parametrize("channels", [1, 2])
def test_freeverb_equals_its_polynomials(rng, channels):
    effect = freeverb(RATE)
    audio = rng.normal(size=(channels, 3000))
    wet = freeverb_by_lfilter(audio, RATE, 0.9, 0.3)
    settings = dict(room_size=0.9, damping=0.3, wet_level=0.5, dry_level=0.2, width=0.6)
    want = 0.4 * audio + 0.75 * 1.6 * wet[:channels]
    if channels == 2:
        want = want + 0.75 * 0.4 * wet[::-1]
    found = rendered(effect, audio, **settings)
    np.testing.assert_allclose(found, want, atol=3e-6)


@pytest.mark.parametrize("name", EFFECTS)
def test_blocks_of_any_length_give_the_whole(name, rng):
    factories = {"noise_reverb": lambda rate: noise_reverb(rate, duration_s=0.05)}
    effect = factories.get(name, EFFECTS[name])(RATE)
    audio = jnp.asarray(rng.normal(size=(2, 1500)), jnp.float32)
    controls = jnp.asarray(rng.random(len(effect.specs)), jnp.float32)
    whole = jax.jit(effect.render)(audio, controls)
    render_block = jax.jit(effect.render_block)
    state, pieces = effect.init_state(2), []
    for piece in jnp.split(audio, [4, 4, 600], axis=1):
        state, y = render_block(state, piece, controls)
        pieces.append(y)
    scale = np.abs(whole).max()
    np.testing.assert_allclose(np.concatenate(pieces, 1), whole, atol=2e-6 * scale)


@pytest.mark.parametrize("name", EFFECTS)
def test_identity_and_channels(name, rng):
    effect = EFFECTS[name](RATE)
    audio = rng.normal(size=(1, 500)).astype(np.float32)
    identities = {s.name: s.identity for s in effect.specs if s.identity is not None}
    found = rendered(effect, audio, **identities)
    np.testing.assert_allclose(found, audio, atol=1e-6)
    if name != "convolution":
        with pytest.raises(ValueError, match="channels"):
            effect.init_state(3)


# --- decay --------------------------------------------------------------------------


def decay_time_s(response, rate):
    """T60 by Schroeder's backward integration, from -5 to -35 dB."""
    energy = np.cumsum(response[::-1].astype(np.float64) ** 2)[::-1]
    level = 10 * np.log10(energy / energy[0])
    first, last = np.argmax(level < -5), np.argmax(level < -35)
    slope = np.polyfit(np.arange(first, last) / rate, level[first:last], 1)[0]
    return -60 / slope


def band(response, rate, low_hz, high_hz):
    sos = scipy.signal.butter(4, [low_hz, high_hz], "band", fs=rate, output="sos")
    return scipy.signal.sosfiltfilt(sos, response)


@pytest.mark.parametrize("mixing", ["hadamard", "householder"])
def test_network_decays_as_told(mixing):
    rate = 16000
    effect = feedback_delay_network(rate, mixing=mixing)
    impulse = np.zeros((1, 2 * rate), np.float32)
    impulse[0, 0] = 1.0
    settings = dict(decay_low_s=1.5, decay_high_s=0.5, crossover_hz=1000, mix=1.0)
    response = rendered(effect, impulse, **settings)[0]
    low = decay_time_s(band(response, rate, 40, 160), rate)
    high = decay_time_s(band(response, rate, 5000, 7500), rate)
    assert abs(low / 1.5 - 1) < 0.05, low
    assert abs(high / 0.5 - 1) < 0.05, high
    assert 0.5 < np.sum(response**2) < 2.0


def test_network_is_lossless_without_absorption():
    for mixing in ("hadamard", "householder"):
        matrix = mixing_matrix(8, mixing)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(8), atol=1e-12)
    delays = line_lengths(44100, 16, (20.0, 60.0))
    assert len(set(delays)) == 16
    assert np.gcd.outer(delays, delays).sum() == sum(delays) + 16 * 15


def test_network_refuses_what_it_cannot_be():
    with pytest.raises(ValueError, match="power of two, got 6"):
        feedback_delay_network(RATE, lines=6)
    with pytest.raises(ValueError, match="two lines or more"):
        feedback_delay_network(RATE, delays_ms=(60.0, 20.0))
    assert feedback_delay_network(RATE, lines=6, mixing="householder")


def test_noise_reverb_decays_as_told():
    rate = 16000
    effect = noise_reverb(rate, duration_s=2.0)
    impulse = np.zeros((1, 2 * rate), np.float32)
    impulse[0, 0] = 1.0
    settings = {s.name: 0.5 for s in effect.specs if s.name.startswith("decay")}
    settings |= {"decay_1000_s": 1.5, "gain_4000_db": -48.0, "mix": 1.0}
    response = rendered(effect, impulse, **settings)[0]
    middle = decay_time_s(band(response, rate, 850, 1150), rate)
    assert abs(middle / 1.5 - 1) < 0.15, middle
    above = decay_time_s(band(response, rate, 6500, 7800), rate)
    assert abs(above / 0.5 - 1) < 0.1, above
    quiet = np.sum(band(response, rate, 3600, 4400) ** 2)
    assert quiet < 1e-3 * np.sum(band(response, rate, 6500, 7800) ** 2)


def test_noise_reverb_has_unit_energy_and_its_keys():
    settings = {}
    effects = [noise_reverb(RATE), noise_reverb(RATE, key=jax.random.key(5))]
    impulse = np.zeros((2, RATE), np.float32)
    impulse[:, 0] = 1.0
    found = []
    for effect in effects:
        settings = {s.name: 1.0 for s in effect.specs if s.name.startswith("decay")}
        found.append(rendered(effect, impulse, mix=1.0, **settings))
    for response in found:
        np.testing.assert_allclose(np.sum(response**2, 1), 1.0, atol=0.1)
        assert abs(np.vdot(response[0], response[1])) < 0.1
    assert abs(np.vdot(found[0], found[1])) < 0.1
    again = rendered(noise_reverb(RATE), impulse, mix=1.0, **settings)
    np.testing.assert_array_equal(again, found[0])


def test_bands_add_up_and_stay_apart(rng):
    rate = 44100
    noise = rng.normal(size=2**16)
    edges = band_edges_hz(rate)
    bands = band_split(noise, rate, edges)
    assert len(bands) == 12
    np.testing.assert_allclose(bands.sum(0), noise, atol=1e-12)
    power = np.abs(np.fft.rfft(bands)) ** 2
    frequency = np.fft.rfftfreq(2**16, 1 / rate)
    # The 31.5 Hz band, which 1023 taps cannot resolve, holds nothing an octave away.
    outside = (frequency < 31.5 / 2) | (frequency > 63.0)
    assert power[1, outside].max() < 1e-20 * power[1].max()


def test_noise_reverb_structure_equals_the_peer(golden):
    arrays = golden("dasp")
    audio, white = arrays["xs"], arrays["rev_white"]
    filters = arrays["octave_filters_255"][:, 0]
    for i in range(2):
        bands = np.stack(
            [
                [
                    np.correlate(w, f, "valid")
                    for w, f in zip(rows, filters, strict=True)
                ]
                for rows in white[2 * i : 2 * i + 2].astype(np.float64)
            ]
        ).astype(np.float32)
        rates = (1.0 + 10.0 * arrays["rev_decay"][i]) / (bands.shape[-1] - 1)
        response = shaped_noise(bands, arrays["rev_gain"][i] / 12, rates)
        wet = convolve(convolution_state(2, 2048), audio[i], response)[1]
        mix = float(arrays["rev_mix"][i, 0])
        found = (1 - mix) * audio[i] + mix * wet
        np.testing.assert_allclose(found, arrays["noise_reverb"][i], atol=2e-6)


def test_the_network_s_controls_mean_the_same_at_all_rates():
    first, *others = (
        feedback_delay_network(rate).specs for rate in (44100, 48000, 96000, 192000)
    )
    assert all(specs == first for specs in others)


def test_noise_reverb_has_one_noise_while_tracing_and_in_float64():
    impulse = np.zeros((2, 240), np.float32)
    impulse[:, 0] = 1.0

    def render(audio):
        effect = noise_reverb(8000, duration_s=0.03)
        return effect.render(audio, jnp.full(len(effect.specs), 0.5, audio.dtype))

    found = render(impulse)
    np.testing.assert_allclose(jax.jit(render)(impulse), found, atol=1e-6)
    with jax.enable_x64(True):
        exact = render(impulse.astype(np.float64))
    assert exact.dtype == np.float64
    np.testing.assert_allclose(found, exact, atol=1e-6)


# --- convolution --------------------------------------------------------------------


def test_convolution_equals_the_peer(golden):
    arrays = golden("ddsp_tf_synths")
    audio, response = arrays["white"], arrays["ir"]
    found = convolution_reverb(audio, response)
    np.testing.assert_allclose(found, arrays["reverb"], atol=2e-5)
    masked = response.copy()
    masked[:, 0] = 0
    dry = convolution_reverb(audio, response, add_dry=False)
    np.testing.assert_allclose(np.asarray(found) - audio, dry, atol=1e-5)
    # The peer's "valid" is the whole, its "same" the causal part, of which a delay
    # compensation of -1 takes (taps - 1) / 2 - 1 samples away at the start.
    state, causal = convolve(convolution_state(2, 301), audio, response)
    whole = np.concatenate([causal, state], 1)
    for name, want in (
        ("valid_dc0", whole),
        ("same_dc0", causal),
        ("same_dc-1", whole[:, 149 : 149 + 3200]),
    ):
        golden_array = arrays[f"fft_convolve_{name}"]
        np.testing.assert_allclose(golden_array, want, atol=2e-5)


def test_convolution_delays_by_fractions(rng):
    response = rng.normal(size=50).astype(np.float32)
    effect = convolution(1000, impulse_response=response)
    impulse = np.zeros((1, 120), np.float32)
    impulse[0, 0] = 1.0
    found = rendered(effect, impulse, mix=1.0, pre_delay_ms=12.25)
    want = np.zeros(120)
    want[12:62] += 0.75 * response
    want[13:63] += 0.25 * response
    np.testing.assert_allclose(found[0], want, atol=1e-5)
    # At the end of the range nothing is lost.
    late = rendered(effect, impulse, mix=1.0, pre_delay_ms=100.0)
    np.testing.assert_allclose(late[0, 100:], response[:20], atol=1e-4)


def test_impulse_response_is_trained_by_its_gradient(rng):
    with jax.enable_x64(True):
        audio = jnp.asarray(rng.normal(size=(2, 40)))
        weights = jnp.asarray(rng.normal(size=(2, 40)))
        response = jnp.asarray(rng.normal(size=9))

        def loss(response):
            effect = convolution(200, impulse_response=response)
            return jnp.sum(weights * effect.render(audio, jnp.array([0.7, 0.03])))

        loss = jax.jit(loss)
        gradient = jax.grad(loss)(response)
        step = 1e-6 * np.eye(9)
        want = [(loss(response + s) - loss(response - s)) / 2e-6 for s in step]
        np.testing.assert_allclose(gradient, want, rtol=1e-6, atol=1e-8)


def test_convolution_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"state of shape \(2, 4\), got \(2, 5\)"):
        convolve(jnp.zeros((2, 5)), jnp.ones((2, 9)), jnp.ones(5))
    with pytest.raises(ValueError, match=r"\(3, 5\) does not fit 2 channels"):
        convolve(jnp.zeros((2, 4)), jnp.ones((2, 9)), jnp.ones((3, 5)))
    with pytest.raises(ValueError, match=r"got shape \(1, 2, 3\)"):
        convolution(RATE, impulse_response=np.ones((1, 2, 3)))


# --- gradients ----------------------------------------------------------------------


@pytest.mark.parametrize("name", EFFECTS)
def test_gradient_equals_differences(name, rng):
    with jax.enable_x64(True):
        factories = {"noise_reverb": lambda rate: noise_reverb(rate, duration_s=0.05)}
        effect = factories.get(name, EFFECTS[name])(2000)
        audio = jnp.asarray(rng.normal(size=(2, 400)))
        weights = jnp.asarray(rng.normal(size=(2, 400)))
        controls = jnp.asarray(rng.uniform(0.2, 0.8, len(effect.specs)))

        @jax.jit
        def loss(audio, controls):
            return jnp.sum(weights * effect.render(audio, controls))

        to_audio, to_controls = jax.jit(jax.grad(loss, (0, 1)))(audio, controls)
        for i in range(len(controls)):
            step = 1e-6 * jnp.eye(len(controls))[i]
            want = (loss(audio, controls + step) - loss(audio, controls - step)) / 2e-6
            np.testing.assert_allclose(to_controls[i], want, rtol=1e-5, atol=1e-6)
        direction = jnp.asarray(rng.normal(size=audio.shape))
        want = loss(audio + direction, controls) - loss(audio, controls)
        np.testing.assert_allclose(jnp.vdot(to_audio, direction), want, rtol=1e-8)


@pytest.mark.slow
def test_gradient_memory_is_a_few_times_the_audio():
    time = 44100
    for name, factory in EFFECTS.items():
        effect = factory(RATE)

        def loss(audio, controls, effect=effect):
            return jnp.sum(effect.render(audio, controls) ** 2)

        shapes = ((2, time), (len(effect.specs),))
        arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        memory = jax.jit(jax.grad(loss, (0, 1))).lower(*arguments).compile()
        memory = memory.memory_analysis()
        assert memory is not None
        used = memory.temp_size_in_bytes / (4 * 2 * time)
        assert used <= 10, f"{name}: {used:.1f} times the audio"


def test_states_are_of_the_precision_of_jax():
    assert delay_network_state([3]).history.dtype == jnp.float32
    with jax.enable_x64(True):
        assert delay_network_state([3]).history.dtype == jnp.float64
