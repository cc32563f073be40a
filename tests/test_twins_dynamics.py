import jax
import jax.numpy as jnp
import numpy as np
import pedalboard
import pytest
import soundfile

from ddspx.parameters import sample_controls, to_physical
from ddspx.signal import resample
from styletransfer.hosts.catalogue import facts
from styletransfer.twins.dynamics import TWINS

ALL = pytest.mark.parametrize("name", TWINS)


def section(data_root, folder, rate, channels):
    """Two seconds of a recording, peak at 0.7."""
    path = sorted((data_root / folder).rglob("*.flac"))[0]
    audio, native = soundfile.read(path, dtype="float32", always_2d=True)
    audio = np.asarray(resample(audio.T[:, : 3 * native], native, rate))[:, : 2 * rate]
    other = audio[-1:] if len(audio) > 1 else 0.5 * audio[:, ::-1]
    audio = np.concatenate([audio[:1], other])[:channels]
    return np.ascontiguousarray(audio * (0.7 / np.abs(audio).max()))


def renderer(name, rate):
    twin = TWINS[name].make(rate)

    def render(audio, values):
        return twin.process(twin.init_state(audio.shape[0]), audio, values)[1]

    return render


def random_values(name, count):
    specs = facts(name).parameters
    controls = sample_controls(specs, np.random.default_rng(5), (count,))
    names = [spec.name for spec in specs]
    for row in to_physical(specs, controls):
        yield dict(zip(names, row.tolist(), strict=True))


@ALL
@pytest.mark.parametrize("rate", [24000, 44100, 48000])
@pytest.mark.parametrize(("folder", "channels"), [("speech", 1), ("music", 2)])
def test_twin_is_pedalboard(name, rate, folder, channels, data_root):
    audio = section(data_root, folder, rate, channels)
    render = jax.jit(renderer(name, rate))
    for values in random_values(name, 20):
        expected = getattr(pedalboard, name)(**values)(audio, rate)
        found = render(audio, {k: jnp.float32(v) for k, v in values.items()})
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error < 1e-5, f"{error:.1e} at {values}"


@ALL
def test_defaults_are_pedalboard_s(name):
    plugin = getattr(pedalboard, name)()
    assert set(TWINS[name].defaults) == {s.name for s in facts(name).parameters}
    for parameter, value in TWINS[name].defaults.items():
        assert getattr(plugin, parameter) == value


@ALL
def test_extremes_of_the_accepted_range(name, rng):
    """Times of 0 act at once; there too the twin is pedalboard."""
    audio = (rng.standard_normal((1, 4000)) * 0.3).astype("float32")
    audio[:, 1000:3000] = 0.0
    render = jax.jit(renderer(name, 44100))
    for i in range(2):
        values = {
            s.name: facts(name).accepted(s.name)[i] for s in facts(name).parameters
        }
        values["threshold_db"] = -20.0
        expected = getattr(pedalboard, name)(**values)(audio, 44100)
        found = render(audio, {k: jnp.float32(v) for k, v in values.items()})
        np.testing.assert_allclose(found, expected, atol=5e-6)


@ALL
def test_gradients_are_those_of_differences(name, rng):
    render = renderer(name, 24000)
    with jax.enable_x64(True):
        audio = jnp.asarray(rng.standard_normal((1, 800)) * 0.2)
        audio = audio * jnp.exp(-jnp.arange(800) / 200.0)[None]
        weight = jnp.asarray(rng.standard_normal((1, 800)))
        known = {"threshold_db": -25.0, "ratio": 3.0, "attack_ms": 4.0}
        known["release_ms"] = 60.0
        values = {k: jnp.float64(known[k]) for k in TWINS[name].defaults}
        loss = jax.jit(lambda v: jnp.sum(weight * render(audio, v)))
        slopes = jax.jit(jax.grad(loss))(values)
        for parameter, value in values.items():
            step = 1e-6 * abs(value)
            up, down = value + step, value - step
            change = loss(values | {parameter: up}) - loss(values | {parameter: down})
            np.testing.assert_allclose(
                slopes[parameter], change / (2 * step), rtol=1e-4, err_msg=parameter
            )


@ALL
def test_gradients_are_finite_at_silence(name):
    render = renderer(name, 24000)
    values = {k: jnp.float32(v) for k, v in TWINS[name].defaults.items()}
    slope = jax.grad(lambda x, v: jnp.sum(render(x, v)), (0, 1))
    for leaf in jax.tree.leaves(slope(jnp.zeros((2, 50)), values)):
        assert np.all(np.isfinite(leaf))
