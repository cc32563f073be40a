"""Synths from cores: places of frames, latencies, mixes, effects behind them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.effects.base import Processor, without_memory
from ddspx.synths.base import Core, count_frames, make_synth, mix, stream
from ddspx.synths.modulated_delay import modulated_delay
from ddspx.synths.noise import filtered_noise
from ddspx.synths.reverb import reverb
from ddspx.synths.through import through

HOP = 6
KEY = jax.random.key(0)


def lines(delay=0, frame_at=0, name="level"):
    """Straight lines between frames, so many samples late: known in closed form."""

    def process(waiting, controls):
        level = jnp.asarray(controls[name])
        steps = jnp.arange(HOP, dtype=level.dtype) / HOP
        audio = level[:-1, None] + steps[None] * jnp.diff(level)[:, None]
        joined = jnp.concatenate([waiting.astype(level.dtype), audio.reshape(-1)])
        return joined[audio.size :], joined[: audio.size]

    core = Core(lambda key: jnp.zeros(delay), process, delay, frame_at)

    def to_controls(outputs):
        return {name: jnp.asarray(outputs[name])[..., 0]}

    return make_synth(core, HOP, sizes={name: 1}, to_controls=to_controls)


def wanted_lines(level, frame_at=0):
    places = np.arange(len(level)) * HOP + frame_at
    return np.interp(np.arange(len(level) * HOP), places, level)


@pytest.mark.parametrize(
    ("delay", "frame_at"), [(0, 0), (1, 0), (13, 0), (0, 3), (HOP, 3), (13, HOP - 1)]
)
def test_frames_lie_where_they_are_said_to(delay, frame_at):
    level = np.array([1.0, -2.0, 0.5, 4.0, 3.0], np.float32)
    synth = lines(delay, frame_at)
    assert synth.latency == delay + HOP - frame_at
    wanted = wanted_lines(level, frame_at)
    for frames in (1, 5):
        found = jax.jit(synth.render)({"level": level[:frames]}, KEY)
        assert found.shape == (frames * HOP,)
        known = wanted_lines(level[:frames], frame_at)
        np.testing.assert_allclose(found, known, atol=1e-6)
    for lengths in ((1, 1, 1, 2), (2, 2, 1)):
        blocks = np.split(level, np.cumsum(lengths)[:-1])
        pieces = list(stream(synth, ({"level": block} for block in blocks), KEY))
        assert all(piece.size for piece in pieces)
        np.testing.assert_allclose(np.concatenate(pieces), wanted, atol=1e-6)


def test_a_stream_keeps_the_precision_of_its_controls():
    synth = mix(lines(), lines(3, name="other"), filtered_noise(8000, HOP, 3))
    with jax.enable_x64(True):
        for dtype in (np.float32, np.float64):
            controls = {
                "level": np.ones(2, dtype),
                "other": np.ones(2, dtype),
                "noise_magnitudes": np.ones((2, 3), dtype),
            }
            state = jax.eval_shape(synth.init_state, KEY, controls)
            after, found = jax.eval_shape(synth.render_block, state, controls)
            assert found.dtype == dtype
            kinds = [jax.tree.map(lambda a: a.dtype, s) for s in (state, after)]
            assert kinds[0] == kinds[1]


def test_controls_that_disagree_are_refused():
    synth = mix(lines(), lines(name="other"))
    with pytest.raises(ValueError, match=r"as many in each.*'level': 3, 'other': 2"):
        synth.render({"level": np.ones(3), "other": np.ones(2)}, KEY)
    for none in ({}, {"level": np.ones(0)}, {"level": np.float32(1.0)}):
        with pytest.raises(ValueError, match="at least one"):
            count_frames(none)
    state = synth.init_state(KEY, {"level": np.ones(1), "other": np.ones(1)})
    with pytest.raises(ValueError, match=r"began with.*'level', 'other'.*\['level'\]"):
        synth.render_block(state, {"level": np.ones(1)})
    with pytest.raises(ValueError, match="one block of controls or more"):
        list(stream(synth, [], KEY))


def test_a_mix_aligns_what_lags_and_shares_controls_of_one_name():
    level = np.array([0.0, 1.0, -1.0], np.float32)
    synth = mix(lines(2), lines(0), lines(HOP + 1), lines(1, name="other"))
    assert synth.core.delay == HOP + 1 and synth.latency == 2 * HOP + 1
    assert synth.sizes == {"level": 1, "other": 1}
    outputs = {"level": level[:, None], "other": 2.0 * level[:, None]}
    controls = synth.to_controls(outputs)
    wanted = 5.0 * wanted_lines(level)
    np.testing.assert_allclose(jax.jit(synth.render)(controls, KEY), wanted, atol=1e-5)
    blocks = [{n: c[m : m + 1] for n, c in controls.items()} for m in range(3)]
    found = np.concatenate(list(stream(synth, blocks, KEY)))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_mix_gives_each_synth_a_noise_of_its_own():
    noise = filtered_noise(8000, HOP, 2)
    controls = {"noise_magnitudes": np.ones((400, 2), np.float32)}
    found = np.asarray(mix(noise, noise).render(controls, KEY))
    # Of one noise twice the power would be 4 / 3 of the unit, of two it is 2 / 3.
    assert np.mean(found**2) == pytest.approx(2 / 3, rel=0.1)


def test_a_mix_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="one synth or more"):
        mix()
    with pytest.raises(ValueError, match=r"hops \[6\] and places \[0, 3\]"):
        mix(lines(), lines(0, 3))
    with pytest.raises(ValueError, match=r"hops \[6, 7\]"):
        mix(lines(), filtered_noise(8000, 7, 3))
    noise, more = filtered_noise(8000, HOP, 3), filtered_noise(8000, HOP, 5)
    with pytest.raises(ValueError, match=r"'noise_magnitudes' of 3 and 5"):
        mix(noise, more)


@pytest.mark.parametrize(("delay", "frame_at"), [(0, 0), (4, 0), (2 * HOP, HOP // 2)])
def test_an_effect_behind_a_synth_hears_its_sound_from_the_start(delay, frame_at):
    level = np.array([1.0, -2.0, 0.5, 4.0], np.float32)
    response = np.random.default_rng(0).standard_normal(15).astype(np.float32)
    synth = lines(delay, frame_at)
    both = through(synth, reverb(response))
    assert both.latency == synth.latency
    wanted = wanted_lines(level, frame_at)
    wet = response * (np.arange(15) > 0)
    wanted = wanted + np.convolve(wanted, wet)[: len(wanted)]
    found = jax.jit(both.render)({"level": level}, KEY)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    blocks = [{"level": level[:1]}, {"level": level[1:]}]
    found = np.concatenate(list(stream(both, blocks, KEY)))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_late_effect_makes_the_synth_later_and_is_taken_off():
    def process(state, audio, values):
        joined = jnp.concatenate([state, audio], axis=-1)
        return joined[:, -2:], joined[:, :-2]

    late = Processor(lambda channels: jnp.zeros((channels, 2)), process, latency=2)
    both = through(lines(1), late)
    assert (both.core.delay, both.latency) == (3, HOP + 3)
    level = np.array([1.0, -2.0, 0.5], np.float32)
    found = jax.jit(both.render)({"level": level}, KEY)
    np.testing.assert_allclose(found, wanted_lines(level), atol=1e-6)


@pytest.mark.parametrize(("delay", "frame_at"), [(0, 0), (7, 0), (3, HOP // 2)])
def test_moving_values_arrive_with_the_sound_that_they_belong_to(delay, frame_at):
    level = np.array([1.0, -2.0, 0.5, 4.0], np.float32)
    gain = np.array([3.0, 0.0, 1.0, -1.0], np.float32)
    times = without_memory(lambda audio, values: values["gain"][None] * audio)
    both = through(
        lines(delay, frame_at), times, moving={"gain": lambda x: 2.0 * jnp.asarray(x)}
    )
    assert both.sizes == {"level": 1, "gain": 1}
    controls = both.to_controls({"level": level[:, None], "gain": 0.5 * gain[:, None]})
    wanted = wanted_lines(level, frame_at) * wanted_lines(gain, frame_at)
    np.testing.assert_allclose(jax.jit(both.render)(controls, KEY), wanted, atol=1e-5)
    blocks = [{n: c[m : m + 1] for n, c in controls.items()} for m in range(4)]
    found = np.concatenate(list(stream(both, blocks, KEY)))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_values_of_an_effect_that_cannot_be_are_refused():
    fixed = without_memory(lambda audio, values: audio, moving=False)
    with pytest.raises(ValueError, match=r"no moving values, got \['gain'\]"):
        through(lines(), fixed, moving={"gain": jnp.exp})
    free = without_memory(lambda audio, values: audio)
    for values in ({"gain": 1.0}, {}):
        with pytest.raises(ValueError, match=r"names of their own"):
            moving = {"gain" if values else "level": jnp.exp}
            through(lines(), free, values, moving=moving)
    both = through(lines(), free, moving={"gain": jnp.exp})
    with pytest.raises(ValueError, match=r"gain is \[frames\], got shape \(4, 2\)"):
        both.render({"level": np.ones(3), "gain": np.ones((3, 2))}, KEY)


def test_magenta_s_modulated_delay(golden):
    arrays = golden("ddsp_tf_synths")
    processor = modulated_delay(
        16000, max_delay_ms=6.25, interpolation="linear", add_dry=False
    )
    audio, phase = arrays["white"], arrays["delay_phase"][..., 0]
    for row in range(2):
        values = {"delay_gain": np.full(3200, 0.5), "delay_ms": 6.25 * phase[row]}
        values = {name: v.astype(np.float32) for name, v in values.items()}
        state = processor.init_state(1)
        _, found = processor.process(state, audio[row : row + 1], values)
        # Beyond 99 samples magenta's table wraps round to the newest sample.
        inside = phase[row] <= 0.99
        wanted = 0.5 * arrays["variable_length_delay"][row]
        np.testing.assert_allclose(found[0][inside], wanted[inside], atol=3e-5)


def test_a_modulated_delay_keeps_the_dry_sound_and_refuses_no_delay():
    audio = np.random.default_rng(0).standard_normal((1, 50)).astype(np.float32)
    processor = modulated_delay(1000, max_delay_ms=10.0)
    state = processor.init_state(1)
    values = {"delay_gain": 0.5, "delay_ms": 7.0}
    _, found = processor.process(state, audio, values)
    wanted = audio + 0.5 * np.pad(audio, ((0, 0), (7, 0)))[:, :50]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    with pytest.raises(ValueError, match=r"0\.1 at 8000 Hz is less than a sample"):
        modulated_delay(8000, max_delay_ms=0.1)
