"""Sound of a known number of independent effect parameters: is that number proposed?

The threshold is that of `AnalysisOptions`, chosen before these runs: 95 % of the
variance of the output in dB. The width of the bands was chosen after earlier runs: with
bands that overlap, 95 % of the variance takes fewer latents than there are parameters.
Sixteen latents, one water level throughout.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ddspx.effects.base import batched
from ddspx.effects.equalizer import Band, parametric_equalizer
from ddspx.features import log_mel
from ddspx.parameters import default_controls
from vae.analysis import AnalysisOptions, analyze
from vae.information import kl_divergence
from vae.models import ModelConfig, make_vae
from vae.outputs import Output, rendered_output
from vae.preflight import preflight

pytestmark = pytest.mark.slow

RATE = 16000
LATENTS = 16
CENTRES_HZ = (400.0, 1000.0, 1900.0, 3300.0, 5800.0)
# Of the bands, so that neighbours hardly overlap: a Q of 2.
WIDTH = np.log(2.0 / 0.2) / np.log(10.0 / 0.2)
# dB of the features that are one unit of the model's.
SPREAD_DB = 6.0
# Water level: 0.6 dB rms in every element.
TAU_DB = 0.6
CONFIG = ModelConfig(architecture="mlp", latents=LATENTS, hidden=(64, 64))
EFFECT = parametric_equalizer(
    RATE,
    bands=[
        Band(f"peak{k}", "peak", 0.9 * hz, 1.1 * hz, hz)
        for k, hz in enumerate(CENTRES_HZ)
    ],
)
NAMES = [spec.name for spec in EFFECT.specs]


def sounds(count, examples, seed):
    """Examples of one sound under `count` random gains, the rest at rest."""
    rng = np.random.default_rng(seed)
    controls = np.tile(default_controls(EFFECT.specs), (examples, 1))
    widths = [k for k, name in enumerate(NAMES) if name.endswith(".q")]
    controls[:, widths] = WIDTH
    places = [NAMES.index(f"peak{k}.gain_db") for k in range(count)]
    controls[:, places] = rng.uniform(0.25, 0.75, (examples, count))
    return controls.astype(np.float32)


@pytest.fixture(scope="module")
def sound():
    noise = np.random.default_rng(9).normal(size=(1, 4096))
    return (0.1 * noise).astype(np.float32)


@pytest.fixture(scope="module")
def levels(sound):
    """Features of controls [n, parameters]: levels in units of `SPREAD_DB`."""

    @jax.jit
    def found(controls):
        audio = jnp.broadcast_to(jnp.asarray(sound), (len(controls), *sound.shape))
        made = batched(EFFECT)(audio, controls)
        mel = log_mel(made[:, 0], RATE, fft_size=512, hop_length=1024, mel_bands=32)
        return (jnp.swapaxes(mel, 1, 2) + 20.0) / SPREAD_DB

    return found


def trained(images, tau, seed, steps=3000):
    """A VAE trained on images: its functions, and its weights."""
    vae = make_vae(CONFIG, images.shape[1:])
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    data = jnp.asarray(images)
    centre = jnp.mean(data, 0)

    def loss(params, batch, key):
        found, _ = vae.forward(params, {}, batch - centre[None], key)
        error = jnp.sum(jnp.square(found.images - batch + centre[None]), (1, 2))
        rate = jnp.sum(kl_divergence(found.mean, found.log_variance), -1)
        return jnp.mean(error / (2.0 * tau) + rate)

    @jax.jit
    def train(key):
        params, _ = vae.init(key)

        def step(carry, index):
            params, state = carry
            rows_key, noise_key = jax.random.split(jax.random.fold_in(key, index))
            rows = jax.random.randint(rows_key, (128,), 0, len(data))
            gradient = jax.grad(loss)(params, data[rows], noise_key)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        start = params, optimizer.init(params)
        return jax.lax.scan(step, start, jnp.arange(steps))[0][0]

    params = train(jax.random.key(seed))
    return vae, params, np.asarray(centre)


def judged(vae, params, centre, images, tau, seed=0):
    held = images - centre[None]
    mean, log_variance = jax.jit(lambda x: vae.encode(params, {}, x))(held)
    elements = held[0].size
    decode = jax.jit(lambda z: vae.decode(params, {}, z))

    def of(codes):
        return decode(codes).reshape(len(codes), -1) * SPREAD_DB / elements**0.5

    def squared_error(codes, rows):
        return np.sum((np.asarray(decode(codes)) - held[rows]) ** 2, (1, 2))

    return analyze(
        np.asarray(mean),
        np.asarray(log_variance),
        Output("log_mel", "dB", jax.jit(of), elements),
        squared_error=squared_error,
        tau=tau,
        options=AnalysisOptions(pairs=512, order_pairs=64, seed=seed),
    )


def analysis_of(count, seed, levels):
    train = np.concatenate(
        [np.asarray(levels(c)) for c in np.split(sounds(count, 2048, 1), 8)]
    )
    held_out = np.asarray(levels(sounds(count, 256, 2)))
    tau = train[0].size * (TAU_DB / SPREAD_DB) ** 2
    told = preflight(train, LATENTS, tau)
    return judged(*trained(train, tau, seed), held_out, tau), told


def check(count, seed, levels):
    found, told = analysis_of(count, seed, levels)
    assert told.predicted == told.lowest == count
    for rule in ("fidelity", "audible", "worth", "active"):
        proposal = found.proposal(rule)
        assert proposal.keep == count, (rule, proposal)
        assert proposal.low <= count <= proposal.high
    assert found.proposal("fidelity").latents == LATENTS
    # Those that are left over do nothing that is heard.
    rms = np.array([found.dimensions[i].rms for i in found.order])
    assert rms[count - 1] > 1.0 and rms[count:].max() < 0.2
    assert found.noise_floor == 0.0


def test_three_factors_are_proposed(levels):
    check(3, 0, levels)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_as_many_factors_are_proposed_from_any_start(count, seed, levels):
    check(count, seed, levels)


def test_rendered_sound_tells_a_dead_knob_from_a_live_one(sound):
    """A gain before peak normalisation moves a control and no sound."""
    bins = jnp.arange(sound.shape[-1] // 2 + 1)
    low = (bins < 500).astype(jnp.float32)

    def predict(codes):
        codes = jnp.asarray(codes)
        # Two latents on the second knob; the last turns the gain.
        knobs = [codes[:, 0], 0.6 * (codes[:, 1] + codes[:, 2]), 2.0 * codes[:, 3]]
        return 0.5 + 0.05 * jnp.stack(knobs, 1)

    def render(audio, controls):
        db = 40.0 * (controls - 0.5)
        curve = db[:, :1] * low[None] + db[:, 1:2] * (1.0 - low[None]) + db[:, 2:]
        spectrum = jnp.fft.rfft(jnp.asarray(audio)) * 10.0 ** (curve[:, None] / 20.0)
        made = jnp.fft.irfft(spectrum, audio.shape[-1])
        return made / jnp.max(jnp.abs(made), (1, 2), keepdims=True)

    rng = np.random.default_rng(0)
    mean = rng.normal(size=(128, 4))
    mean[:, 2] = mean[:, 1]
    output = rendered_output(
        predict, render, sound[None], RATE, differentiable=True, fft_size=512
    )
    options = AnalysisOptions(
        pairs=32, order_pairs=8, derivative_examples=1, gram_examples=2
    )
    found = analyze(mean, np.full((128, 4), -6.0), output, options=options)
    assert found.output == "rendered" and found.unit == "dB"
    assert found.order[-1] == 3 and found.dimensions[3].rms < 1e-3
    assert min(found.dimensions[i].rms for i in range(3)) > 0.5
    assert "Latents 1, 2 follow from the others" in found.warnings[0]
    # The normalisation leaves of two bands' gains their difference: one direction.
    values = np.array(found.subspace)
    assert np.sum(values > 1e-4 * values[0]) == 1
    # A black box gets the same but what needs derivatives.
    hidden, host = jax.jit(predict), jax.jit(render)
    black = rendered_output(
        lambda codes: np.asarray(hidden(codes)),
        lambda audio, controls: np.asarray(host(audio, controls)),
        sound[None],
        RATE,
        fft_size=512,
    )
    again = analyze(mean, np.full((128, 4), -6.0), black, options=options)
    assert again.subspace is None and again.dimensions[0].bound is None
    for one, other in zip(found.dimensions, again.dimensions, strict=True):
        assert one.rms == pytest.approx(other.rms, rel=1e-3, abs=1e-3)
