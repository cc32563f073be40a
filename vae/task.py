"""Training of a VAE on sound: the task that `ddspx.training.fit` runs.

Batches are dictionaries with ``audio`` [batch, channels, time], of which the first
channel is taken; the front-end runs on the device, inside the compiled step. The units
of the loss are those of the objective as it is written (`ObjectiveConfig`); where the
water level tau is given, or moves, everything is divided by the elements of an image:

    loss = mean square + (2 tau / D) KL
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddspx import plotting
from ddspx.losses import multi_resolution_stft
from ddspx.training.optimizer import apply_gradients, make_optimizer
from ddspx.training.parallel import compile_step
from ddspx.training.task import Sounds, Task, create_state
from vae.images import augment, similarity
from vae.information import ACTIVE_VARIANCE, kl_divergence
from vae.models import make_vae
from vae.objectives import (
    beta_rate,
    capacity_rate,
    decompose,
    free_bits_rate,
    gaussian_distortion,
    geco_multiplier,
    optimal_variance,
    total_correlation_rate,
)
from vae.pictures import image_grid
from vae.run import ObjectiveConfig, VaeRunConfig, to_image
from vae.spectrogram import synthesize
from vae.start import start_linear

# Share of the past in the distortion that GECO watches.
_GECO_MEMORY = 0.99
_EXAMPLES_SHOWN = 4
_SQUARES = {"half_sum": 0.5, "sum": 1.0}


class Judged(NamedTuple):
    """Means over a batch: loss = distortion + rate; kl in nats; the present tau."""

    loss: jax.Array
    distortion: jax.Array
    rate: jax.Array
    kl: jax.Array
    tau: jax.Array


def judge(
    config: ObjectiveConfig,
    elements: int,
    squared_error: jax.Array,
    posterior: tuple[jax.Array, jax.Array, jax.Array],
    *,
    fraction: Any = 1.0,
    log_multiplier: Any = None,
    log_variance: Any = None,
) -> Judged:
    """What an objective makes of a batch.

    Args:
      config: objective.
      elements: D of an image.
      squared_error: summed over each image, [batch].
      posterior: mean, log-variance and sampled codes, each [batch, latents].
      fraction: of the schedule; 1 at its end.
      log_multiplier: ln w of ``geco``; that of its target when None.
      log_variance: of a learned decoder variance.

    Returns:
      `Judged`.
    """
    mean, log_variance_z, codes = posterior
    divergence = kl_divergence(mean, log_variance_z)
    weight, unit, tau = _weights(
        config, elements, squared_error, log_multiplier, log_variance
    )
    if config.variance == "fixed":
        distortion = weight * squared_error
    else:
        distortion = gaussian_distortion(squared_error, elements, 0.5 / weight)
        distortion, unit = distortion / elements, unit / elements
    rate = _rate(config, divergence, (mean, log_variance_z, codes), unit, fraction)
    distortion, rate = jnp.mean(distortion), jnp.mean(rate)
    kl = jnp.mean(jnp.sum(divergence, -1))
    moving = jnp.asarray(1.0 if config.kind == "capacity" else fraction)
    return Judged(distortion + rate, distortion, rate, kl, tau * moving)


def _weights(config, elements, squared_error, log_multiplier, log_variance):
    """Factor of the squared error, factor of the divergence, and their tau."""
    if config.variance != "fixed":
        if config.variance == "optimal":
            variance = optimal_variance(squared_error, elements)
        else:
            variance = jnp.exp(log_variance)
        return 0.5 / variance, config.kl_weight, config.kl_weight * variance
    if config.kind == "geco":
        tau = config.target_mse
        if log_multiplier is not None:
            tau = 0.5 * jnp.exp(-log_multiplier)
        return 1.0 / elements, 2.0 * tau / elements, tau
    if config.tau is not None:
        return 1.0 / elements, 2.0 * config.tau / elements, config.tau
    tau = jnp.asarray(config.resolved_tau(elements))
    squares = _SQUARES.get(config.reduction, 1.0 / elements)
    return config.weight * squares, config.kl_weight, tau


def _rate(config, divergence, posterior, unit, fraction):
    if config.kind == "capacity":
        return capacity_rate(divergence, unit, fraction * config.capacity)
    if config.kind == "free_bits":
        return free_bits_rate(divergence, config.free_bits, unit * fraction)
    if config.kind == "tcvae":
        mean, log_variance, codes = posterior
        parts = decompose(codes, mean, log_variance, config.dataset_size)
        return unit * fraction * total_correlation_rate(parts, config.tc_weight)
    return beta_rate(divergence, unit * fraction)


def vae_task(
    config: VaeRunConfig, mesh: Mesh | None = None, *, start: Any = None
) -> Task:
    """The task of training a VAE.

    Args:
      config: of the run.
      mesh: devices that share the batch; None for one.
      start: training images [examples, frames, bins], or their blocks for a model with
        ``linear_pool``, at whose linear optimum a model with ``linear_path`` and a
        fixed decoder variance begins; None begins anywhere.

    Returns:
      A `Task`. Its evaluation draws nothing that differs from call to call and stands
      at the end of the schedule, so that evaluations compare. Of sampled codes:
      ``loss``, ``distortion``, ``rate``, ``kl``, ``mse_sampled``; of posterior means:
      ``mse`` per element, ``active_units`` of the batch, ``ssim``, ``psnr_db``,
      ``mr_stft`` of the sound made with the input's phase, and where levels are in dB
      ``lsd_db``, the log-spectral distance. For ``geco`` the loss is the one of a
      decoder variance equal to the target.
    """
    vae = make_vae(config.model, config.shape)
    optimizer = make_optimizer(config.optimizer)
    objective, elements = config.objective, config.front.elements
    schedule = objective.schedule.build()

    def init(key):
        init_key, run_key = jax.random.split(key)
        params, model_state = jax.jit(vae.init)(init_key)
        if start is not None and config.tau is not None:
            gain = config.model.linear_gain
            params = start_linear(params, start, config.tau, gain=gain)
        if objective.variance == "learned":
            params = {**params, "output": {"log_variance": jnp.zeros(())}}
        extra = {"model_state": model_state}
        if objective.kind == "geco":
            tau = objective.resolved_tau(elements)
            assert tau is not None
            extra["geco"] = {
                "log_multiplier": jnp.asarray(-np.log(2.0 * tau), jnp.float32),
                "mse": jnp.asarray(objective.target_mse, jnp.float32),
            }
        return create_state(params, optimizer.init(params), run_key, extra)

    def judged(params, extra, images, targets, posterior, fraction):
        squared_error = jnp.sum(jnp.square(images - targets), (1, 2))
        multiplier = extra["geco"]["log_multiplier"] if "geco" in extra else None
        found = judge(
            objective,
            elements,
            squared_error,
            posterior,
            fraction=fraction,
            log_multiplier=multiplier,
            log_variance=params.get("output", {}).get("log_variance"),
        )
        return found, jnp.mean(squared_error) / elements

    def step(state, batch):
        images = to_image(config, batch["audio"][:, 0]).image
        change, draw = jax.random.split(state.step_key())
        images = augment(config.data.images, images, change)

        def total(params):
            found, model_state = vae.forward(
                params, state.extra["model_state"], images, draw
            )
            posterior = (found.mean, found.log_variance, found.codes)
            value, mse = judged(
                params,
                state.extra,
                found.images,
                images,
                posterior,
                schedule(state.step),
            )
            return value.loss, (value, mse, model_state)

        (_, (value, mse, model_state)), gradients = jax.value_and_grad(
            total, has_aux=True
        )(state.params)
        extra = {**state.extra, "model_state": model_state}
        if "geco" in extra:
            extra["geco"] = _geco(objective, extra["geco"], mse)
        state, norms = apply_gradients(state, gradients, optimizer, extra=extra)
        return state, {**value._asdict(), "mse": mse, **norms}

    def evaluate(state, batch):
        audio = batch["audio"][:, 0]
        source = to_image(config, audio)
        params, model_state = state.params, state.extra["model_state"]
        mean, log_variance = vae.encode(params, model_state, source.image)
        noise = jax.random.normal(jax.random.key(0), mean.shape, mean.dtype)
        codes = mean + jnp.exp(0.5 * log_variance) * noise
        sampled = vae.decode(params, model_state, codes)
        # GECO's own multiplier moves: the evaluation stands at its target.
        value, mse_sampled = judged(
            params, {}, sampled, source.image, (mean, log_variance, codes), 1.0
        )
        images = vae.decode(params, model_state, mean)
        error = jnp.square(images - source.image)
        active = jnp.var(mean, 0) * len(mean) / max(len(mean) - 1, 1)
        metrics = {
            **value._asdict(),
            "mse": jnp.mean(error),
            "mse_sampled": mse_sampled,
            "active_units": jnp.sum(active > ACTIVE_VARIANCE),
            **{
                name: jnp.mean(each)
                for name, each in similarity(images, source.image).items()
            },
        }
        if config.front.logarithmic:
            distance = jnp.mean(jnp.sqrt(jnp.mean(error, -1)), -1)
            metrics["lsd_db"] = jnp.mean(distance * source.normalization.spread)

        def sound(row):
            image, normalization, spectra, gain, wanted = row
            made = synthesize(config.front, image, spectra, normalization=normalization)
            return multi_resolution_stft(jnp.asarray(made) / gain, wanted)[0]

        rows = (images, source.normalization, source.spectrum, source.gain)
        # One at a time: the STFT frames of a whole batch would not fit a cache.
        metrics["mr_stft"] = jnp.mean(
            jax.lax.map(sound, (*rows, _padded(config, audio)))
        )
        return metrics

    @jax.jit
    def rebuild(state, audio):
        source = to_image(config, audio)
        mean, _ = vae.encode(state.params, state.extra["model_state"], source.image)
        images = vae.decode(state.params, state.extra["model_state"], mean)
        first = jax.tree.map(lambda leaf: leaf[0], source)
        given = {"normalization": first.normalization}
        sounds = {
            "phase_kept": synthesize(config.front, images[0], first.spectrum, **given),
            "phase_found": synthesize(config.front, images[0], **given, iterations=32),
        }
        return source.image, images, {n: s / first.gain for n, s in sounds.items()}

    def show(state, batch):
        audio = np.asarray(jax.device_get(batch["audio"]))[:_EXAMPLES_SHOWN, 0]
        shown = jax.device_get(
            rebuild(state.replace(opt_state=(), key=()), jnp.asarray(audio))
        )
        inputs, images, sounds = shown
        rate = config.front.sample_rate
        pairs = {"input": (audio[:1], rate)}
        pairs |= {name: (sound[None], rate) for name, sound in sounds.items()}
        named = {f"input {i}": image for i, image in enumerate(inputs)}
        named |= {f"reconstruction {i}": image for i, image in enumerate(images)}
        grid = image_grid(named, config.front, columns=len(inputs))
        return Sounds(
            audio={f"example/{name}": pair for name, pair in pairs.items()},
            images={
                "example/images": plotting.pixels(grid),
                "example/spectra": plotting.pixels(plotting.compare_sounds(pairs)),
            },
            text={"tau": describe_tau(config)},
        )

    return Task(
        init,
        compile_step(step, mesh),
        compile_step(evaluate, mesh, donate=False),
        show=show if mesh is None else None,
    )


def describe_tau(config: VaeRunConfig) -> str:
    """One line on the water level of a run, for people."""
    elements = config.front.elements
    tau = config.tau
    if tau is None:
        return (
            f"tau = {config.objective.kl_weight:g} x the decoder's variance"
            f" ({config.objective.variance}); {elements} elements"
        )
    share = tau / elements
    line = f"tau {tau:.4g} squared units an image, {share:.4g} an element ({elements})"
    if config.front.db_per_unit is not None:
        line += f", {np.sqrt(share) * config.front.db_per_unit:.3g} dB rms"
    if config.objective.kind == "geco":
        line += "; it moves"
    return line


def _geco(config: ObjectiveConfig, before: Any, mse: jax.Array) -> dict[str, Any]:
    moving = _GECO_MEMORY * before["mse"] + (1.0 - _GECO_MEMORY) * mse
    multiplier = geco_multiplier(
        before["log_multiplier"], moving, config.target_mse, config.geco_rate
    )
    return {"log_multiplier": multiplier, "mse": moving}


def _padded(config: VaeRunConfig, audio: jax.Array) -> jax.Array:
    missing = config.front.samples - audio.shape[-1]
    return jnp.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(0, missing)])
