"""Twins without memory against pedalboard, on speech and music."""

import jax
import jax.numpy as jnp
import numpy as np
import pedalboard
import pytest

from ddspx import audio as audio_files
from ddspx.parameters import sample_controls, to_physical
from styletransfer.hosts.catalogue import BUILTINS
from styletransfer.twins.distortion import TWINS

# Largest relative RMS error that is allowed. Here all but Distortion are exact; one
# flipped sample of a coarse Bitcrush on another processor makes 1e-4.
LIMITS = {
    "Bitcrush": 5e-4,
    "Clipping": 1e-6,
    "Distortion": 1e-6,
    "Gain": 1e-6,
    "Invert": 0.0,
}
SETTINGS = 20


@pytest.fixture(scope="module")
def recordings(data_root):
    """Two seconds each of speech, mono, and of music, stereo, at one rate."""
    speech = sorted((data_root / "speech").rglob("*.flac"))[0]
    music = sorted((data_root / "music").rglob("*.flac"))[0]

    def load(rate):
        voice, tune = (
            np.resize(
                audio_files.load(
                    path, sample_rate=rate, channels=1, duration_s=2.0
                ).samples,
                (1, 2 * rate),
            )
            for path in (speech, music)
        )
        return [voice, np.concatenate([tune, 0.5 * tune[:, ::-1] + 0.5 * voice])]

    return load


def error(found, wanted):
    return np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2))


def settings(name: str, count: int) -> list[dict[str, float]]:
    specs = BUILTINS[name].parameters
    if not specs:
        return [{}]
    rng = np.random.default_rng(4)
    rows = to_physical(specs, sample_controls(specs, rng, (count,)).astype(float))
    return [
        dict(zip([s.name for s in specs], row.tolist(), strict=True)) for row in rows
    ]


@pytest.mark.parametrize("rate", [24000, 44100, 48000])
@pytest.mark.parametrize("name", TWINS)
def test_the_twin_sounds_as_pedalboard(recordings, name, rate):
    process = jax.jit(TWINS[name].make(rate).process)
    worst = 0.0
    for audio in recordings(rate):
        for values in settings(name, SETTINGS):
            wanted = getattr(pedalboard, name)(**values)(audio, rate, reset=True)
            found = process((), jnp.asarray(audio), values)[1]
            worst = max(worst, error(np.asarray(found), wanted))
    assert worst <= LIMITS[name]


@pytest.mark.parametrize("name", TWINS)
def test_defaults_are_pedalboards(name):
    plugin = getattr(pedalboard, name)()
    specs = BUILTINS[name].parameters
    assert TWINS[name].defaults == {
        s.name: pytest.approx(getattr(plugin, s.name)) for s in specs
    }


def test_whole_bits_are_exact(rng):
    audio = rng.uniform(-1, 1, (2, 4000)).astype(np.float32)
    process = TWINS["Bitcrush"].make(44100).process
    for bits in (1, 2, 5, 8, 16):
        wanted = pedalboard.Bitcrush(bit_depth=bits)(audio, 44100)
        found = process((), jnp.asarray(audio), {"bit_depth": bits})[1]
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("name", "key", "plugin"),
    [
        ("Gain", "gain_db", lambda v: pedalboard.Gain(gain_db=v)),
        ("Clipping", "threshold_db", lambda v: pedalboard.Clipping(threshold_db=v)),
    ],
)
def test_a_level_of_minus_100_db_is_silence(name, key, plugin):
    audio = jnp.full((1, 64), 0.5)
    process = TWINS[name].make(44100).process
    for level in (-120.0, -100.0, -99.0):
        wanted = plugin(level)(np.asarray(audio), 44100)
        found = process((), audio, {key: level})[1]
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
        slope = jax.grad(lambda v: jnp.sum(process((), audio, {key: v})[1]))(level)
        assert np.isfinite(slope)


@pytest.mark.parametrize("name", [n for n in TWINS if n not in ("Bitcrush", "Invert")])
def test_slopes_are_those_of_float64_differences(name, rng):
    process = TWINS[name].make(44100).process
    with jax.enable_x64(True):
        audio = jnp.asarray(rng.uniform(-1, 1, (2, 300)))
        weights = jnp.asarray(rng.normal(size=(2, 300)))
        for values in settings(name, 3):
            (key, value), *_ = values.items()

            def total(v, key=key):
                return jnp.sum(weights * process((), audio, {key: v})[1])

            wanted = (total(value + 1e-6) - total(value - 1e-6)) / 2e-6
            assert jax.grad(total)(value) == pytest.approx(float(wanted), rel=1e-5)


def test_bitcrush_has_the_documented_surrogate(rng):
    audio = jnp.asarray(rng.uniform(-1, 1, (1, 50)), jnp.float32)
    process = TWINS["Bitcrush"].make(44100).process

    def total(x, bits):
        return jnp.sum(process((), x, {"bit_depth": bits})[1])

    to_audio, to_bits = jax.grad(total, argnums=(0, 1))(audio, 3.3)
    np.testing.assert_array_equal(to_audio, 1.0)
    out = process((), audio, {"bit_depth": 3.3})[1]
    assert to_bits == pytest.approx(-np.log(2) * float(jnp.sum(out - audio)), rel=1e-4)


@pytest.mark.parametrize("name", TWINS)
def test_values_may_move_and_blocks_join(name, rng):
    audio = jnp.asarray(rng.uniform(-1, 1, (2, 100)), jnp.float32)
    values = {
        spec.name: jnp.linspace(spec.low, spec.high, 100)
        for spec in BUILTINS[name].parameters
    }
    processor = TWINS[name].make(44100)
    whole = processor.process((), audio, values)[1]
    assert processor.moving and whole.shape == audio.shape
    for t in (0, 50, 99):
        at = {key: float(value[t]) for key, value in values.items()}
        one = processor.process((), audio[:, t : t + 1], at)[1]
        np.testing.assert_allclose(whole[:, t : t + 1], one, rtol=1e-5)
