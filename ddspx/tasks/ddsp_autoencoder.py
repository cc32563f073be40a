"""A DDSP instrument as a training task: recordings in, a model that plays them out.

Batches are dictionaries of ``audio`` [batch, time] and the curves loudness_db, f0_hz
and confidence [batch, frames], measured of whole recordings beforehand.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddspx import plotting
from ddspx.data.dataset import batches
from ddspx.data.manifest import Clip, ManifestError
from ddspx.features import rms_db
from ddspx.losses import mel_distance, spectral_distance
from ddspx.models.ddsp_autoencoder import LATENT
from ddspx.parameter_losses import latent_distance
from ddspx.tasks.ddsp_metrics import (
    describe_harmonics,
    harmonic_gradient_share,
    harmonic_share,
    loudness_of,
    spectral,
    tracking,
    voiced_frames,
)
from ddspx.tasks.ddsp_model import CURVES, DdspRunConfig, Model, at_level, make_model
from ddspx.tasks.sound_curves import statistics
from ddspx.tasks.sounds import (
    Sound,
    crops,
    load_parts,
    windows,
)
from ddspx.training.fit import fit
from ddspx.training.optimizer import apply_gradients, make_optimizer
from ddspx.training.parallel import compile_step
from ddspx.training.task import Sounds, Task, TrainState, create_state

_LOG = logging.getLogger(__name__)
# From this step on a harmonic part that is not heard is warned of.
_TIME_TO_TRAIN = 200


def sound_statistics(
    config: DdspRunConfig, sounds: Sequence[Sound]
) -> dict[str, dict[str, np.ndarray]]:
    """What is remembered of the training sounds: where this instrument plays.

    Args:
      config: of the run.
      sounds: that it is trained on.

    Returns:
      By curve, as `ddspx.tasks.sound_curves.statistics`, of the frames that are
      voiced; of all where there is none.
    """
    sounding = []
    for sound in sounds:
        mask = np.asarray(
            voiced_frames(sound.curves["loudness_db"], sound.curves["confidence"])
        )
        sounding.append({name: curve[mask] for name, curve in sound.curves.items()})
    if not any(len(one["f0_hz"]) for one in sounding):
        sounding = [sound.curves for sound in sounds]
    return statistics(config.controls, sounding)


def sounding_level_db(sounds: Sequence[Sound]) -> float:
    """RMS of all sounds together.

    Args:
      sounds: of any lengths.

    Returns:
      dB re full scale.

    Raises:
      ManifestError: all are silent.
    """
    energy = sum(float(np.dot(sound.audio, sound.audio)) for sound in sounds)
    if not energy > 0:
        raise ManifestError("the training recordings are silent; give others")
    samples = sum(len(sound.audio) for sound in sounds)
    return float(10.0 * np.log10(energy / samples))


def ddsp_task(
    config: DdspRunConfig,
    ranges: Mapping[str, Any],
    mesh: Mesh | None = None,
    *,
    model: Model | None = None,
    level_db: float | None = None,
) -> Task:
    """The task of training a DDSP model.

    Args:
      config: of the run.
      ranges: see `sound_statistics`; stored beside the weights for timbre transfer.
      mesh: devices that share the batch; None for one.
      model: of the configuration; made when None.
      level_db: of the recordings, see `sounding_level_db`, at which the untrained model
        plays; None leaves it as drawn.

    Returns:
      A `Task`. A step gives ``loss``, ``harmonic_share`` of the energy and
      ``harmonic_gradient`` of the gradient of the last layer. Its evaluation draws the
      same noise each time, see `ddspx.tasks.ddsp_metrics`.
    """
    made_model = make_model(config) if model is None else model
    optimizer = make_optimizer(config.optimizer)
    rate = config.synth.sample_rate

    def init(key):
        init_key, run_key = jax.random.split(key)
        params = jax.jit(made_model.init)(init_key)
        if level_db is not None:
            params = at_level(made_model, params, level_db)
        extra = {"ranges": jax.tree.map(jnp.asarray, dict(ranges))}
        return create_state(params, optimizer.init(params), run_key, extra)

    def played(params, batch, key):
        curves = made_model.curves(params, batch["audio"], batch)
        return curves, made_model.render(params, curves, key)

    def judged(params, batch, key):
        curves, made = played(params, batch, key)
        terms = loss_terms(config, made_model, params, batch, curves, made.audio)
        loss = jnp.asarray(sum(terms.values()))
        return loss, (terms, made)

    def step(state, batch):
        (loss, (terms, made)), gradients = jax.value_and_grad(judged, has_aux=True)(
            state.params, batch, state.step_key()
        )
        state, norms = apply_gradients(state, gradients, optimizer)
        gradient = harmonic_gradient_share(gradients, made_model.synth.sizes)
        return state, {
            "loss": loss,
            **terms,
            "harmonic_share": harmonic_share(made),
            "harmonic_gradient": gradient,
            "output_rms_db": rms_db(made.audio.reshape(-1)),
            **norms,
        }

    def evaluate(state, batch):
        loss, (_, made) = judged(state.params, batch, jax.random.key(0))
        return {
            "loss": loss,
            **spectral(config, made.audio, batch["audio"]),
            **tracking(config, made.audio, batch),
            "harmonic_share": harmonic_share(made),
        }

    judge = compile_step(evaluate, mesh, donate=False)
    warned = {0}

    def evaluate_aloud(state, batch):
        found, step = judge(state, batch), int(state.step)
        if step >= _TIME_TO_TRAIN and step not in warned:
            words = describe_harmonics(step, float(found["harmonic_share"]))
            if words:
                warned.add(step)
                _LOG.warning(words)
        return found

    @jax.jit
    def one(params, batch):
        first = {name: jnp.asarray(batch[name])[:1] for name in ("audio", *CURVES)}
        return played(params, first, jax.random.key(0))[1]

    def show(state, batch):
        made = jax.device_get(one(state.params, batch))
        pairs = {
            "recording": (np.asarray(batch["audio"][:1]), rate),
            "model": (made.audio, rate),
            "harmonics": (made.harmonic, rate),
            "noise": (made.noise, rate),
        }
        curves = {name: np.asarray(batch[name])[0] for name in CURVES}
        after = np.asarray(loudness_of(config, made.audio))[0]
        figures = {
            "spectra": plotting.compare_sounds(pairs),
            "curves": plotting.control_curves(
                {**curves, "loudness_db, model": after}, rate / config.hop
            ),
            "harmonics": _controls_figure(config, made.controls),
        }
        return Sounds(
            audio={f"example/{name}": pair for name, pair in pairs.items()},
            images={f"example/{n}": plotting.pixels(f) for n, f in figures.items()},
        )

    return Task(
        init,
        compile_step(step, mesh),
        evaluate_aloud,
        show=show if mesh is None else None,
    )


def loss_terms(
    config: DdspRunConfig,
    model: Model,
    params: Any,
    batch: Mapping[str, Any],
    curves: Mapping[str, Any],
    audio: jax.Array,
) -> dict[str, jax.Array]:
    """The weighted terms of the loss.

    Args:
      config: of the run.
      model: of the run.
      params: of the model.
      batch: ``audio`` and the measured curves.
      curves: that drove the model, with its latents.
      audio: that it made, [batch, time].

    Returns:
      Scalars by the names of `DdspLossConfig`; their sum is the loss.
    """
    weights, target = config.loss, batch["audio"]
    terms: dict[str, jax.Array] = {}
    if weights.linear or weights.logarithmic:
        recipe = config.recipe()
        _, found = spectral_distance(audio, target, recipe)
        for name, value in found.items():
            key = "linear" if name.endswith("linear_magnitude") else "logarithmic"
            terms[key] = recipe.weights[name] * jnp.mean(value)
    if weights.mel:
        distance = mel_distance(audio, target, sample_rate=config.synth.sample_rate)
        terms["mel"] = weights.mel * jnp.mean(distance)
    if weights.loudness:
        difference = loudness_of(config, audio) - jnp.asarray(batch["loudness_db"])
        terms["loudness"] = weights.loudness * jnp.mean(jnp.abs(difference))
    if weights.consistency:
        again = model.curves(params, audio, batch)[LATENT]
        # The sound follows the latents; they are not to come to meet it.
        wanted = jax.lax.stop_gradient(curves[LATENT])
        distance = jnp.mean(latent_distance(again, wanted))
        terms["consistency"] = weights.consistency * distance
    return terms


def train_ddsp(
    config: DdspRunConfig,
    run_folder: str | Path,
    clips: Sequence[Clip],
    *,
    mesh: Mesh | None = None,
) -> TrainState:
    """Trains a DDSP model, or resumes its run.

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
    hop, rows = config.hop, config.crops.batch_size
    known, held_out = load_parts(
        clips,
        config.controls,
        config.synth.sample_rate,
        hop,
        config=config.crops,
        cache=Path(run_folder).parent / "curves",
    )
    level = sounding_level_db(known) if config.start == "level" else None
    ranges = sound_statistics(config, known)
    with ddsp_task(config, ranges, mesh, level_db=level) as task:
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


def _controls_figure(config, controls):
    """Amplitudes of the first harmonics over time, in dB."""
    amplitude = controls["amplitude"][0][:, None]
    levels = 20.0 * np.log10(amplitude * controls["harmonic_distribution"][0] + 1e-6)
    times = np.arange(len(levels)) * config.hop / config.synth.sample_rate
    series = {
        f"harmonic {k + 1}": (times.tolist(), levels[:, k].tolist())
        for k in (0, 1, 2, 4, 8, 16)
        if k < levels.shape[1]
    }
    return plotting.curves(series, x_label="time / s", y_label="amplitude / dB")
