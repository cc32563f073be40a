"""Every public function of signals, features and losses compiles for every platform.

`jax.export` lowers for CUDA and TPU with neither at hand; whatever only a CPU can do
fails here. Add a line to CASES for a new function: a test counts them. The two halves
of the staged step are exported by test_gradients_staged.
"""

import inspect
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx import features, filters, losses, signal
from ddspx.effects.base import Effect
from ddspx.effects.combine import chain
from ddspx.parameters import ParameterSpec
from styletransfer.presets import load_effect
from styletransfer.proxy import ProxyConfig, make_proxy
from styletransfer.style import StyleDistance
from styletransfer.transfer import StyleScore, TargetScore

RATE = 16000
MONO = ((2, 2000),)
STEREO = ((2, 2, 2000),)
PAIR = ((2, 2000), (2, 2000))
RECIPE = losses.StftRecipe(
    fft_sizes=(256,), hop_sizes=(64,), window_lengths=(256,), mel_bands=(20,),
    sample_rate=RATE, perceptual="a_weighting",
)  # fmt: skip

# name: (function of float32 arrays, their shapes)
CASES = {
    "signal.frame": (partial(signal.frame, frame_length=64, hop_length=24), MONO),
    "signal.overlap_add": (
        partial(signal.overlap_add, hop_length=24),
        ((2, 9, 64),),
    ),
    "signal.stft": (partial(signal.stft, fft_size=256), MONO),
    "signal.stft_frames": (partial(signal.stft_frames, fft_size=256), MONO),
    "signal.istft": (
        lambda x: signal.istft(jax.lax.complex(x, x), hop_length=64),
        ((2, 129, 5),),
    ),
    "signal.power": (lambda x: signal.power(jax.lax.complex(x, x)), MONO),
    "signal.fft_convolve": (signal.fft_convolve, ((2, 2000), (2, 50))),
    "signal.resample": (partial(signal.resample, from_hz=16000, to_hz=44100), MONO),
    "signal.resample, by phases": (
        partial(signal.resample, from_hz=16000, to_hz=16001),
        MONO,
    ),
    "signal.map_examples": (partial(signal.map_examples, jnp.sum), MONO),
    "filters.sosfilt": (filters.sosfilt, ((2, 2000), (3, 6))),
    "filters.sosfilt_fixed": (
        partial(filters.sosfilt_fixed, sos=filters.k_weighting(RATE)),
        MONO,
    ),
    "features.log_mel": (partial(features.log_mel, sample_rate=RATE), MONO),
    "features.mfcc": (partial(features.mfcc, sample_rate=RATE), MONO),
    "features.a_weighted_loudness_db": (
        partial(features.a_weighted_loudness_db, sample_rate=RATE),
        MONO,
    ),
    "features.integrated_loudness_lufs": (
        partial(features.integrated_loudness_lufs, sample_rate=4000),
        STEREO,
    ),
    "features.rms_db": (partial(features.rms_db, frame_length=64), MONO),
    "features.crest_factor_db": (features.crest_factor_db, MONO),
    "features.spectral_centroid_hz": (
        partial(features.spectral_centroid_hz, sample_rate=RATE),
        MONO,
    ),
    "losses.spectral_distance": (
        partial(losses.spectral_distance, recipe=RECIPE),
        PAIR,
    ),
    "losses.multi_resolution_stft": (losses.multi_resolution_stft, PAIR),
    "losses.mel_distance": (partial(losses.mel_distance, sample_rate=RATE), PAIR),
    **{
        f"losses.{name}": (getattr(losses, name), PAIR)
        for name in ("l1", "l2", "log_cosh", "esr", "dc", "snr", "si_sdr", "sd_sdr")
    },
}


def host_scores():
    """What a search judges renders by, and the stand-ins: all that runs on a device."""
    wanted = 0.1 * np.random.default_rng(0).standard_normal((1, 4000))
    wanted = jnp.asarray(wanted, jnp.float32)
    distance = StyleDistance(RATE, 0.45 * RATE)
    style = StyleScore(jax.jit(distance.features)(wanted), distance)
    target = TargetScore(wanted, RATE)
    cases = {
        f"{name}, {kind}": (getattr(score, kind), ((1, 4000),))
        for name, score in {"style score": style, "target score": target}.items()
        for kind in ("loss", "residuals")
    }
    effect = load_effect("compressor")
    for kind in ("spectral", "tcn"):
        proxy = make_proxy(effect, RATE, ProxyConfig(kind=kind, bands=24))
        params = jax.jit(proxy.init)(jax.random.key(0))
        cases[f"proxy, {kind}"] = (
            lambda x, u, p=proxy, w=params: p.render(w, x, u),
            ((1, 4000), (len(effect.specs),)),
        )
    gain = Effect(
        (ParameterSpec("gain"),),
        lambda x, u: x * u[0],
        lambda c: (),
        lambda s, x, u: (s, x),
    )
    cases["effects.chain"] = (chain(a=gain, b=gain).render, ((2, 500), (2,)))
    return cases


CASES |= host_scores()
# Constants and designs, made by NumPy when a program is traced.
AT_TRACE_TIME = {"signal.window", "features.mel_filterbank"}


def gradient(function):
    """Gradient of the sum of squares of all that the function returns."""

    def value(*arrays):
        leaves = jax.tree.leaves(function(*arrays))
        return sum(jnp.sum(jnp.abs(leaf) ** 2) for leaf in leaves)

    return jax.grad(value)


@pytest.mark.parametrize("name", CASES)
def test_exports_with_its_gradient_for_every_platform(name):
    function, shapes = CASES[name]
    platforms = ("cpu", "cuda", "tpu")
    arrays = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    for program in (function, gradient(function)):
        exported = jax.export.export(jax.jit(program), platforms=platforms)(*arrays)
        assert exported.platforms == platforms
        assert len(exported.serialize()) > 0


def test_an_exported_loss_gives_the_same_numbers(rng):
    arrays = [rng.standard_normal((2, 2000)).astype(np.float32) for _ in range(2)]
    program = jax.jit(lambda p, t: losses.multi_resolution_stft(p, t)[0])
    exported = jax.export.export(program, platforms=("cpu", "cuda"))(*arrays)
    restored = jax.export.deserialize(exported.serialize())
    np.testing.assert_allclose(restored.call(*arrays), program(*arrays), rtol=1e-6)


@pytest.mark.parametrize("module", [signal, features, losses])
def test_every_public_function_has_a_case(module):
    short = module.__name__.removeprefix("ddspx.")
    public = {
        f"{short}.{name}"
        for name, value in vars(module).items()
        if callable(value)
        and not name.startswith("_")
        and not inspect.isclass(value)
        and getattr(value, "__module__", None) == module.__name__
    }
    listed = {name.split(",")[0] for name in CASES}
    assert public - listed - AT_TRACE_TIME == set()
    assert any(name.startswith(short) for name in public)
