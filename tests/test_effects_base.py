import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.effects.base import (
    Processor,
    aligned,
    batched,
    in_blocks,
    make_effect,
    per_sample,
    without_memory,
)
from ddspx.effects.distortion import tanh_distortion
from ddspx.parameters import db, plain

GAIN = plain("gain", 0.0, 2.0, 1.0)


def gain_processor(moving: bool = True) -> Processor:
    def process(audio, values):
        gain = jnp.asarray(values["gain"], audio.dtype)
        return audio * (gain[None] if gain.ndim else gain)

    return without_memory(process, moving)


def average_processor() -> Processor:
    """Recursive, so that a wrong state at a joint is heard until the end."""

    def process(state, audio, values):
        def step(before, x):
            now = 0.9 * before + x
            return now, now

        state, out = jax.lax.scan(step, state, audio.T)
        return state, gain_processor().process((), out.T, values)[1]

    return Processor(lambda channels: jnp.zeros(channels), process, True)


@pytest.fixture
def audio(rng):
    return jnp.asarray(rng.normal(size=(2, 53)), jnp.float32)


def test_values_arrive_in_physical_units_by_name(audio):
    seen = {}

    def process(audio, values):
        seen.update(values)
        return audio

    specs = (db("level_db", -24.0, 24.0), GAIN)
    make_effect(specs, without_memory(process)).render(audio, jnp.array([0.75, 0.25]))
    assert {name: float(v) for name, v in seen.items()} == {"level_db": 12, "gain": 0.5}


def test_wrong_shapes_say_what_is_expected(audio):
    effect = make_effect((GAIN, db("level_db", 0.0, 1.0)), gain_processor())
    for shape in ((53,), (2, 2, 53), ()):
        with pytest.raises(ValueError, match=r"\[channels, time\], got shape.*vmap"):
            effect.render(jnp.zeros(shape), jnp.zeros(2))
    for shape in ((1,), (3,), (), (2, 3, 4), (3, 2)):
        with pytest.raises(ValueError, match=r"2 controls \(gain, level_db\) as \[n\]"):
            effect.render(audio, jnp.zeros(shape))


def test_audio_of_integers_is_refused(audio):
    effect = make_effect((GAIN,), gain_processor())
    with pytest.raises(ValueError, match=r"floating-point.*got int16; divide"):
        effect.render(jnp.zeros((2, 53), jnp.int16), jnp.zeros(1))


def test_a_processor_may_refuse_moving_controls(audio):
    effect = make_effect((GAIN,), gain_processor(moving=False))
    with pytest.raises(ValueError, match=r"one setting \[n\].*\(1, 7\)"):
        effect.render(audio, jnp.zeros((1, 7)))


@pytest.mark.parametrize("frames", [1, 2, 5, 52, 53, 80])
def test_frames_are_joined_by_straight_lines(frames, rng):
    controls = jnp.asarray(rng.uniform(size=(3, frames)), jnp.float32)
    place = np.minimum(np.arange(53) * frames / 53, frames - 1)
    wanted = [np.interp(place, np.arange(frames), row) for row in controls]
    found = per_sample(controls, 53)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_frames_have_gradients_that_share_out_the_samples(audio):
    effect = make_effect((GAIN,), gain_processor())
    slope = jax.grad(lambda u: jnp.sum(effect.render(jnp.abs(audio), u)))
    shares = slope(jnp.full((1, 4), 0.5))
    assert float(shares.sum()) == pytest.approx(2 * float(jnp.abs(audio).sum()), 1e-5)
    assert np.all(np.asarray(shares) > 0)


def test_many_frames_of_a_long_signal_stay_in_place():
    """Half a minute with a frame every 64 samples, to a hundredth of a frame."""
    time, hop = 30 * 44100 // 64 * 64, 64
    ramp = jnp.arange(time // hop, dtype=jnp.float32)[None]
    found = np.asarray(per_sample(ramp, time))[0]
    wanted = np.minimum(np.arange(time) / hop, time // hop - 1)
    assert np.max(np.abs(found - wanted)) < 1e-2


def test_without_memory_keeps_no_state(audio):
    processor = gain_processor()
    assert processor.init_state(2) == () and processor.moving
    state, out = processor.process((), audio, {"gain": 2.0})
    assert state == ()
    np.testing.assert_array_equal(out, 2.0 * audio)


def test_batched_broadcasts_as_numpy(audio, rng):
    effect = make_effect((GAIN,), average_processor())
    render = batched(effect)
    many = jnp.stack([audio, -audio, 2 * audio])[:, None]
    controls = jnp.asarray(rng.uniform(size=(4, 1)), jnp.float32)
    found = render(many, controls)
    assert found.shape == (3, 4, 2, 53)
    for i in range(3):
        for j in range(4):
            alone = effect.render(many[i, 0], controls[j])
            np.testing.assert_allclose(found[i, j], alone, atol=1e-5)
    # One signal, one setting, neither with leading dimensions.
    alone = effect.render(audio, controls[0])
    np.testing.assert_allclose(render(audio, controls[0]), alone, atol=1e-6)
    with pytest.raises(ValueError, match="ncompatible shapes"):
        render(many, jnp.zeros((5, 2, 1)))


def test_blocks_of_a_processor_are_the_whole_with_less_memory(rng):
    audio = jnp.asarray(rng.normal(size=(2, 1003)), jnp.float32)
    effect = make_effect((GAIN,), average_processor())
    blocked = make_effect((GAIN,), in_blocks(average_processor(), 100))
    moving = jnp.asarray(rng.uniform(size=(1, 1003)), jnp.float32)
    for controls in (jnp.array([0.3]), moving):
        np.testing.assert_allclose(
            jax.jit(blocked.render)(audio, controls),
            effect.render(audio, controls),
            atol=1e-5,
        )
        slopes = [
            jax.jit(jax.grad(lambda x, u, e=e: jnp.sum(e.render(x, u) ** 2), (0, 1)))
            for e in (blocked, effect)
        ]
        for one, two in zip(*(s(audio, controls) for s in slopes), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3)
    # State after the whole continues both.
    after, _ = blocked.render_block(blocked.init_state(2), audio, moving)
    wanted, _ = effect.render_block(effect.init_state(2), audio, moving)
    np.testing.assert_allclose(after, wanted, atol=1e-5)


def test_oversampling_keeps_the_memory_of_its_gradient():
    """Ten times the audio at most, for signals at eight times the rate."""
    effect = tanh_distortion(44100, oversampling=8)
    audio = jax.ShapeDtypeStruct((1, 10 << 14), jnp.float32)
    controls = jax.ShapeDtypeStruct((3,), jnp.float32)
    slope = jax.jit(jax.grad(lambda x, u: jnp.sum(effect.render(x, u) ** 2), (0, 1)))
    memory = slope.lower(audio, controls).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 12 * 4 * audio.size


def test_aligned_takes_moving_controls_over_the_audio_alone(rng):
    lag = 6

    def process(state, audio, values):
        joined = jnp.concatenate([state, audio], axis=-1)
        out = joined[:, :-lag]
        return joined[:, -lag:], out + values["gain"][None]

    processor = Processor(lambda c: jnp.zeros((c, lag)), process, True, lag)
    effect = make_effect((GAIN,), processor)
    audio = jnp.asarray(rng.normal(size=(1, 40)), jnp.float32)
    frames = jnp.array([[0.0, 0.5]])
    found = aligned(effect)(audio, frames)
    line = np.interp(np.minimum(np.arange(46) / 20, 1.0), [0, 1], [0.0, 1.0])
    np.testing.assert_allclose(found[0], audio[0] + line[lag:], atol=1e-5)
    with pytest.raises(ValueError, match="expected 1 controls"):
        aligned(effect)(audio, jnp.zeros((2, 3)))
