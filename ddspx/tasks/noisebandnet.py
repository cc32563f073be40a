"""NoiseBandNet as a training task: textures driven by control curves.

Batches are dictionaries of ``audio`` [batch, time] and each curve [batch, frames] in
physical units, measured of whole recordings beforehand.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddspx import plotting
from ddspx.data.dataset import batches
from ddspx.data.manifest import Clip
from ddspx.features import a_weighted_loudness_db, rms_db, spectral_centroid_hz
from ddspx.losses import SPECTRAL_CONVERGENCE, spectral_distance
from ddspx.tasks.noisebandnet_model import Model, NoiseBandRunConfig, make_model
from ddspx.tasks.sound_curves import statistics
from ddspx.tasks.sounds import (
    Sound,
    crops,
    load_parts,
    windows,
)
from ddspx.tasks.texture_start import begin, first_crops
from ddspx.training.fit import fit
from ddspx.training.optimizer import apply_gradients, make_optimizer
from ddspx.training.parallel import by_row, on_every_device, replicate
from ddspx.training.task import Sounds, Task, TrainState, create_state
from ddspx.types import Rate, Signal

# What tracking is measured with, whatever a model's own controls: long enough for the
# level of noise to be that of its spectrum.
TRACKING_MS = 46.0
_LOWEST_HZ = 20.0
_SILENT_DB = -80.0
_LEAST_POWER = 1e-10


class Training(NamedTuple):
    """What a run trains on and is judged by.

    Attributes:
      training: sounds.
      held_out: sounds.
      extra: of the train state: ``controls``, statistics of the curves, and ``gain``
        that brings the sounds to the level of training.
    """

    training: tuple[Sound, ...]
    held_out: tuple[Sound, ...]
    extra: dict[str, Any]


def prepare(
    config: NoiseBandRunConfig, training: Sequence[Sound], held_out: Sequence[Sound]
) -> Training:
    """Takes the statistics and the level of the training sounds.

    Args:
      config: of the run.
      training: sounds.
      held_out: sounds.

    Returns:
      `Training`.

    Raises:
      ValueError: the training sounds are silent.
    """
    peak = max(float(np.abs(sound.audio).max()) for sound in training)
    if not peak > 0:
        raise ValueError("the training sounds are silent; give others")
    level = config.crops.peak_db
    gain = 1.0 if level is None else 10.0 ** (level / 20.0) / peak
    stored = statistics(config.controls, [sound.curves for sound in training])
    extra = {"controls": stored, "gain": np.float32(gain)}
    return Training(tuple(training), tuple(held_out), extra)


def batch_means(terms: Mapping[str, jax.Array], target: Signal) -> dict[str, Any]:
    """Means of the terms of a loss over a batch, that of the quotient by level.

        spectral_convergence = sum_i r_i c_i / sum_i r_i,   r_i the RMS of target i

    A quotient by next to nothing outweighs a whole batch otherwise: recordings have
    pauses. At equal levels it is the mean.

    Args:
      terms: of `ddspx.losses.spectral_distance`, each [batch].
      target: [batch, time].

    Returns:
      Scalars by name.
    """
    power = jnp.mean(jnp.square(jnp.asarray(target)), -1)
    level = jnp.sqrt(jnp.maximum(power, _LEAST_POWER))
    share = level / jnp.sum(level)
    return {
        name: jnp.sum(share * term) if name == SPECTRAL_CONVERGENCE else jnp.mean(term)
        for name, term in terms.items()
    }


def tracking(
    prediction: Signal, target: Signal, sample_rate: Rate
) -> dict[str, jax.Array]:
    """How far loudness and centroid of a sound are from those of another.

    Frames of `TRACKING_MS`, a quarter apart; mean absolute differences. The centroid
    counts where the target is above -60 dB of its own loudest frame.

    Args:
      prediction: [..., time].
      target: [..., time].
      sample_rate: Hz.

    Returns:
      ``loudness_error_db`` and ``centroid_error_octaves``, each [...].
    """
    size = 2 ** round(float(np.log2(1e-3 * TRACKING_MS * sample_rate)))
    hop = size // 4

    def measured(audio):
        loudness = a_weighted_loudness_db(
            audio, sample_rate, fft_size=size, hop_length=hop, floor_db=_SILENT_DB
        )
        centroid = spectral_centroid_hz(
            audio, sample_rate, fft_size=size, hop_length=hop
        )
        return loudness, jnp.log2(jnp.maximum(centroid, _LOWEST_HZ))

    (level, place), (wanted_level, wanted_place) = (
        measured(prediction),
        measured(target),
    )
    heard = wanted_level > jnp.max(wanted_level, -1, keepdims=True) - 60.0
    heard &= wanted_level > _SILENT_DB
    off = jnp.where(heard, jnp.abs(place - wanted_place), 0.0)
    return {
        "loudness_error_db": jnp.mean(jnp.abs(level - wanted_level), -1),
        "centroid_error_octaves": jnp.sum(off, -1) / jnp.maximum(jnp.sum(heard, -1), 1),
    }


def noisebandnet_task(
    config: NoiseBandRunConfig,
    extra: Mapping[str, Any],
    mesh: Mesh | None = None,
    *,
    model: Model | None = None,
    start: Mapping[str, Any] | None = None,
) -> Task:
    """The task of training a texture model.

    Args:
      config: of the run.
      extra: see `Training`.
      mesh: devices that share the batch; None for one.
      model: of the configuration; made when None.
      start: batch of training sounds that the untrained model is brought near to, see
        `ddspx.tasks.texture_start`; None leaves it as drawn.

    Returns:
      A `Task`. Its evaluation draws the same noise each time: ``loss`` with its terms,
      and `tracking`.
    """
    made = make_model(config) if model is None else model
    optimizer = make_optimizer(config.optimizer)
    rate = config.source.sample_rate
    recipe = config.loss.recipe(rate)

    def init(key):
        init_key, run_key = jax.random.split(key)
        params = jax.jit(made.network.init)(init_key)
        stored = jax.tree.map(jnp.asarray, dict(extra))
        if start is not None:
            params = begin(config, made, params, stored, start)
        return create_state(params, optimizer.init(params), run_key, stored)

    def judged(params, extra, batch, key, bank):
        curves = {name: batch[name] for name in config.controls.names}
        sound = made.render(params, extra, curves, key, bank)
        target = batch["audio"] * extra["gain"]
        _, terms = spectral_distance(sound, target, recipe)
        means = batch_means(terms, target)
        loss = sum(recipe.weights[name] * mean for name, mean in means.items())
        named = {name.split("/")[1]: mean for name, mean in means.items()}
        return jnp.asarray(loss), (named, sound, target)

    def step(state, batch, bank):
        (loss, (terms, sound, _)), gradients = jax.value_and_grad(judged, has_aux=True)(
            state.params, state.extra, batch, state.step_key(), bank
        )
        state, norms = apply_gradients(state, gradients, optimizer)
        level = rms_db(sound.reshape(-1))
        return state, {"loss": loss, **terms, "output_rms_db": level, **norms}

    def evaluate(state, batch, bank):
        key = jax.random.key(0)
        loss, (terms, sound, target) = judged(
            state.params, state.extra, batch, key, bank
        )
        errors = tracking(sound, target, rate)
        return {"loss": loss, **terms, **{k: jnp.mean(v) for k, v in errors.items()}}

    @jax.jit
    def one(params, extra, curves, bank):
        sound = made.render(params, extra, curves, jax.random.key(0), bank)
        return sound / extra["gain"]

    def show(state, batch):
        curves = {name: jnp.asarray(batch[name][:1]) for name in config.controls.names}
        sound = np.asarray(one(state.params, state.extra, curves, made.bank))
        pairs = {
            "recording": (np.asarray(batch["audio"][:1]), rate),
            "model": (sound, rate),
        }
        return Sounds(
            audio={f"example/{name}": pair for name, pair in pairs.items()},
            images={
                "example/spectra": plotting.pixels(plotting.compare_sounds(pairs)),
                "example/curves": plotting.pixels(
                    plotting.control_curves(
                        {name: np.asarray(c[0]) for name, c in curves.items()},
                        rate / config.source.hop,
                    )
                ),
            },
        )

    return Task(
        init,
        _compiled(step, made.bank, mesh, donate=True),
        _compiled(evaluate, made.bank, mesh, donate=False),
        show=show if mesh is None else None,
    )


def _compiled(function, bank, mesh, *, donate):
    """``function(state, batch, bank)`` as one of state and batch; rows on devices."""
    donated = (0,) if donate else ()
    if mesh is None:
        compiled = jax.jit(function, donate_argnums=donated)
    else:
        whole = on_every_device(mesh)
        compiled = jax.jit(
            function,
            in_shardings=(whole, by_row(mesh), whole),
            out_shardings=whole,
            donate_argnums=donated,
        )
        bank = replicate(bank, mesh)
    # As an argument: a constant of its size would be compiled, and copied.
    return lambda state, batch: compiled(state, batch, bank)


def train_noisebandnet(
    config: NoiseBandRunConfig,
    run_folder: str | Path,
    clips: Sequence[Clip],
    *,
    mesh: Mesh | None = None,
) -> TrainState:
    """Trains a texture model, or resumes its run.

    Args:
      config: of the run.
      run_folder: its folder; measured curves are kept beside it, in ``curves``.
      clips: recordings. Those of the split valid judge the model; where there is none,
        the end of every recording does (``crops.held_out``).
      mesh: devices that share the batch; None for one.

    Returns:
      The last state.

    Raises:
      ManifestError: there is nothing to train on.
      CheckpointError: see `ddspx.training.fit.fit`.
    """
    hop, rows = config.source.hop, config.crops.batch_size
    model = make_model(config)
    known, held_out = load_parts(
        clips,
        config.controls,
        config.source.sample_rate,
        hop,
        config=config.crops,
        frame_at=model.synth.core.frame_at,
        cache=Path(run_folder).parent / "curves",
    )
    prepared = prepare(config, known, held_out)
    start = first_crops(config, known)
    task = noisebandnet_task(config, prepared.extra, mesh, model=model, start=start)
    with task:
        return fit(
            task,
            batches(crops(known, config.crops, config.frames, hop), rows),
            config.fit,
            run_folder,
            evaluation=windows(held_out, config.frames, hop, rows),
            run_config=config,
            file_names=[sound.name for sound in known],
            mesh=mesh,
        )
