"""VAEs of sounds whose causes are known: training, judgement, scores.

Sixteen latents, one water level, one architecture, whatever the number of factors.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from benchmarks.factor_sounds import (
    BANDS,
    FFT_SIZE,
    FLOOR_DB,
    HOP,
    RATE,
    SPREAD_DB,
    Render,
    levels,
)

from vae import disentanglement
from vae.analysis import Analysis, AnalysisOptions, Distribution, analyze
from vae.information import kl_divergence
from vae.models import ModelConfig, make_vae
from vae.outputs import Output, rendered_output

LATENTS = 16
CONFIG = ModelConfig(architecture="mlp", latents=LATENTS, hidden=(64, 64))
# Water level: 0.6 dB rms in every element.
TAU_DB = 0.6
STEPS, BATCH, RATE_OF_LEARNING = 3000, 128, 3e-3
# Of the ridge that reads factors from codes, relative to the codes' variance.
_RIDGE = 1e-4
_VOTES, _VOTERS = 200, 64
# A knob is moved by this share of its range to see in which direction the sound goes.
_STEP = 0.02
# An eigenvalue below this share of the largest is rounding.
_ROUNDING = 1e-4


def water_level(elements: int) -> float:
    """Tau of images of so many elements."""
    return elements * (TAU_DB / SPREAD_DB) ** 2


class _Functions(NamedTuple):
    train: Callable[..., Any]
    encode: Callable[..., Any]
    decode: Callable[..., Any]


@lru_cache
def _functions(shape: tuple[int, int], steps: int) -> _Functions:
    """Compiled once for a shape: the data come as arguments."""
    vae = make_vae(CONFIG, shape)
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE_OF_LEARNING, steps))

    def loss(params, batch, tau, key):
        found, _ = vae.forward(params, {}, batch, key)
        error = jnp.sum(jnp.square(found.images - batch), (1, 2))
        rate = jnp.sum(kl_divergence(found.mean, found.log_variance), -1)
        return jnp.mean(error / (2.0 * tau) + rate)

    def train(key, data, tau):
        params, _ = vae.init(key)

        def step(carry, index):
            params, state = carry
            rows_key, noise_key = jax.random.split(jax.random.fold_in(key, index))
            rows = jax.random.randint(rows_key, (BATCH,), 0, len(data))
            gradient = jax.grad(loss)(params, data[rows], tau, noise_key)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        start = params, optimizer.init(params)
        return jax.lax.scan(step, start, jnp.arange(steps))[0][0]

    return _Functions(
        jax.jit(train),
        jax.jit(lambda params, images: vae.encode(params, {}, images)),
        jax.jit(lambda params, codes: vae.decode(params, {}, codes)),
    )


@dataclass(frozen=True)
class Trained:
    """A VAE and what it takes to use it.

    Attributes:
      params: weights.
      centre: mean image, which the model does not see.
      tau: water level it was trained at.
      steps: of training.
    """

    params: Any
    centre: np.ndarray
    tau: float
    steps: int

    @property
    def _made(self) -> _Functions:
        frames, bands = self.centre.shape
        return _functions((frames, bands), self.steps)

    def posterior(self, images: Any) -> tuple[np.ndarray, np.ndarray]:
        """Means and ln s^2, each [n, latents]."""
        mean, log_variance = self._made.encode(self.params, images - self.centre[None])
        return np.asarray(mean), np.asarray(log_variance)

    def decode(self, codes: Any) -> jax.Array:
        """Images less the centre [n, frames, bands]."""
        return self._made.decode(self.params, codes)


def trained(images: np.ndarray, seed: int, steps: int = STEPS) -> Trained:
    """Trains a VAE at the one water level.

    Args:
      images: [n, frames, bands], in units of `SPREAD_DB`.
      seed: of weights, batches and noise.
      steps: of Adam.
    """
    frames, bands = images.shape[1:]
    centre = images.mean(0)
    tau = water_level(frames * bands)
    made = _functions((frames, bands), steps)
    params = made.train(jax.random.key(seed), jnp.asarray(images - centre), tau)
    return Trained(params, centre, tau, steps)


def judged(model: Trained, images: np.ndarray, options: AnalysisOptions) -> Analysis:
    """The analysis on held-out images; the output is the decoder's levels in dB."""
    mean, log_variance = model.posterior(images)
    held = images - model.centre

    def squared_error(codes, rows):
        return np.sum((np.asarray(model.decode(codes)) - held[rows]) ** 2, (1, 2))

    return analyze(
        mean,
        log_variance,
        _decoder_levels(model),
        squared_error=squared_error,
        tau=model.tau,
        options=options,
    )


def judged_means(
    model: Trained,
    images: np.ndarray,
    options: AnalysisOptions,
    distribution: Distribution = "means",
) -> Analysis:
    """The same for posterior means: what of the codes these images tell apart.

    With images of one sound under all settings, this is what the effect alone does to
    the codes of a model that was trained on many sounds.
    """
    mean, log_variance = model.posterior(images)
    options = replace(options, distribution=distribution)
    return analyze(mean, log_variance, _decoder_levels(model), options=options)


def _decoder_levels(model: Trained) -> Output:
    elements = model.centre.size

    def of(codes):
        flat = model.decode(codes).reshape(len(codes), -1)
        return flat * (SPREAD_DB / elements**0.5)

    return Output("log_mel", "dB", of, elements)


class Reader(NamedTuple):
    """Factors read from codes by a ridge: the simplest controller of an effect.

    Attributes:
      weights: [latents, k].
      centre: mean code [latents].
      rest: mean factors [k].
    """

    weights: np.ndarray
    centre: np.ndarray
    rest: np.ndarray

    def __call__(self, codes: Any) -> Any:
        """Factors in [0, 1], [n, k]; NumPy in, NumPy out."""
        read = self.rest[None] + (codes - self.centre[None]) @ self.weights
        return read.clip(0.0, 1.0)

    def informativeness(self, codes: np.ndarray, factors: np.ndarray) -> np.ndarray:
        """Held-out R^2 of each factor [k]."""
        error = np.mean((self(codes) - factors) ** 2, 0)
        return 1.0 - error / factors.var(0)


def reader(codes: np.ndarray, factors: np.ndarray) -> Reader:
    """Fits a `Reader` to the codes of training examples."""
    centre, rest = codes.mean(0), factors.mean(0)
    x = (codes - centre).astype(np.float64)
    gram = x.T @ x
    gram += _RIDGE * np.diag(gram).max() * np.eye(len(gram))
    weights = np.linalg.solve(gram, x.T @ (factors - rest))
    return Reader(*(a.astype(np.float32) for a in (weights, centre, rest)))


def scores(
    model: Trained,
    read: Reader,
    images: np.ndarray,
    factors: np.ndarray,
    seed: int,
) -> dict[str, float]:
    """Disentanglement of held-out codes.

    Codes are posterior samples: the mean of a latent that is not in use still follows
    the data by a millionth, and scores are blind to scale. DCI is that of the ridge,
    whose importance is the squared weight times the variance of the code.

    Args:
      model: trained.
      read: fitted to the training examples' codes.
      images: held out.
      factors: theirs [n, k].
      seed: of the posterior's noise.
    """
    mean, log_variance = model.posterior(images)
    noise = np.random.default_rng(seed).normal(size=mean.shape)
    codes = mean + np.exp(0.5 * log_variance) * noise
    told = float(np.mean(read.informativeness(mean, factors)))
    importance = read.weights.astype(float) ** 2 * mean.var(0)[:, None]
    dci = disentanglement.dci_from_importance(importance, told)
    return {
        "mig": disentanglement.mig(codes, factors),
        "sap": disentanglement.sap(codes, factors),
        "modularity": disentanglement.modularity(codes, factors),
        "dci_disentanglement": dci.disentanglement,
        "dci_completeness": dci.completeness,
        "informativeness": told,
    }


def factor_vae(
    model: Trained,
    image_of: Callable[[np.ndarray], np.ndarray],
    draw: Callable[[np.random.Generator, int], np.ndarray],
    factors: int,
    seed: int,
    votes: int = _VOTES,
) -> float:
    """The FactorVAE score, from images that are rendered for it."""
    return disentanglement.factor_vae_score(
        lambda values: model.posterior(image_of(values))[0],
        draw,
        factors,
        np.random.default_rng(seed),
        votes=votes,
        batch=_VOTERS,
    )


def controller_output(
    read: Callable[[Any], Any], render: Render, bank: np.ndarray, differentiable: bool
) -> Output:
    """Levels of the rendered sound of the effect that codes are read to set."""
    return rendered_output(
        read,
        render,
        bank,
        RATE,
        differentiable=differentiable,
        fft_size=FFT_SIZE,
        hop_length=HOP,
        mel_bands=BANDS,
        floor_db=FLOOR_DB,
    )


def judged_knobs(
    render: Render,
    bank: np.ndarray,
    factors: np.ndarray,
    options: AnalysisOptions,
    differentiable: bool,
) -> Analysis:
    """The analysis of knobs themselves, as if each were a latent: what is heard of it.

    No model takes part. `bound` proves a knob dead where the effect has derivatives.
    """
    output = controller_output(lambda codes: codes, render, bank, differentiable)
    silent = np.full(factors.shape, -14.0)
    options = replace(options, distribution="means")
    return analyze(factors, silent, output, options=options)


def knob_directions(
    render: Render, sound: np.ndarray, factors: np.ndarray
) -> tuple[np.ndarray, int]:
    """In how many directions knobs move the sound, by central differences.

    Args:
      render: any engine.
      sound: [1, time].
      factors: where [n, k]; moved inwards at the ends of the range.

    Returns:
      ``(cosine[k, k], rank)``: of the movements of two knobs, averaged over places (0
      where one does not move the sound), and how many directions they span.
    """
    count, knobs = factors.shape
    inside = np.clip(factors, _STEP, 1.0 - _STEP)
    gram = np.zeros((knobs, knobs))
    moves = np.repeat(inside[:, None], 2 * knobs, 1)
    for knob in range(knobs):
        moves[:, 2 * knob, knob] += _STEP
        moves[:, 2 * knob + 1, knob] -= _STEP
    flat = moves.reshape(-1, knobs)
    audio = np.repeat(sound[None], len(flat), 0)
    seen = np.asarray(levels(render(audio, flat)), np.float64)
    seen = seen.reshape(count, knobs, 2, -1)
    slopes = (seen[:, :, 0] - seen[:, :, 1]) / (2.0 * _STEP)
    gram = np.einsum("nif,njf->ij", slopes, slopes) / count
    size = np.sqrt(np.diag(gram))
    heard = size**2 > _ROUNDING * (size**2).max()
    cosine = np.where(
        heard[:, None] & heard[None], gram / np.maximum(np.outer(size, size), 1e-12), 0
    )
    values = np.linalg.eigvalsh(gram)
    return cosine, int(np.sum(values > _ROUNDING * values.max()))


def information_against_chance(
    codes: np.ndarray, factor: np.ndarray, seed: int, draws: int = 100
) -> tuple[float, float]:
    """The most that any latent tells of a factor, and what chance would reach.

    Args:
      codes: [n, latents].
      factor: [n].
      seed: of the permutations.
      draws: of them.

    Returns:
      ``(largest information, 95 % quantile of the largest under permutation)``, nats.
    """
    rng = np.random.default_rng(seed)
    most = partial(disentanglement.mutual_information_matrix, codes)
    found = float(most(factor[:, None]).max())
    mixed = np.stack([rng.permutation(factor) for _ in range(draws)], 1)
    return found, float(np.quantile(most(mixed).max(0), 0.95))
