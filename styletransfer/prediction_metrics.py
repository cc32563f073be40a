"""How predicted controls are judged in training: one set of numbers for every task.

What is predicted is rendered by the real effect, whatever the training went through, so
that runs of all kinds compare; and heard and seen beside input, reference and target.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddspx import losses, plotting
from ddspx.parameters import ParameterSpec
from ddspx.training.task import Sounds
from ddspx.types import AnyArray
from styletransfer.hosts.host import Host
from styletransfer.models import Prediction

# Mean square under which a sound has no level to be matched: -100 dB of full scale.
_SILENCE = 1e-10
# A target quieter than this, dBFS RMS (a hidden setting can gate everything away), has
# a loss that is relative to next to nothing: one of them outweighs a hundred others.
QUIETEST_TARGET_DB = -60.0


def centred(specs: tuple[ParameterSpec, ...], controls: AnyArray) -> jax.Array:
    """Controls with every choice at the middle of its interval, as labels."""
    moved = jnp.asarray(controls)
    for index, spec in enumerate(specs):
        if spec.choices:
            chosen = spec.to_physical(moved[..., index])
            moved = moved.at[..., index].set(spec.to_unit(chosen))
    return moved


def judge_prediction(
    host: Host, prediction: Prediction, batch: Mapping[str, Any]
) -> dict[str, float]:
    """Numbers of one batch.

    Args:
      host: the opened effect.
      prediction: of [batch, n] controls.
      batch: of `styletransfer.pairs.pair_batches`.

    Returns:
      ``loss``, the multi-resolution STFT distance of the render at the prediction to
      the target; ``do_nothing``, that of the input; ``level_matched``, that of the
      input at the level of the reference; ``control_error``, the mean absolute error
      of labelled controls; ``constant_error``, that of always saying the middle;
      ``failed``, the share of predictions that the effect refused to render. What is
      not valid counts for nothing, and so does an example whose render failed; nor do
      targets that are next to silent (`is_loud`) in the losses.
    """
    prediction, batch = jax.device_get((prediction, dict(batch)))
    audio, target = batch["audio"], batch["target"]
    rendered = host.render(audio, prediction.controls)
    good = rendered.status == 0
    valid = batch["valid"] & good & np.asarray(is_loud(target))
    labelled = batch["valid"] & batch["labelled"]
    labels = np.asarray(centred(host.specs, batch["controls"]))
    matched = at_level_of(batch["reference"], audio)
    return {
        "loss": _mean(audio_loss(rendered.audio, target), valid),
        "do_nothing": _mean(audio_loss(audio, target), valid),
        "level_matched": _mean(audio_loss(matched, target), valid),
        "control_error": _mean(np.abs(prediction.controls - labels).mean(-1), labelled),
        "constant_error": _mean(np.abs(0.5 - labels).mean(-1), labelled),
        "failed": _mean(~good, batch["valid"]),
    }


def show_prediction(
    host: Host, prediction: Prediction, batch: Mapping[str, Any]
) -> Sounds:
    """The first valid example of a batch, as sounds, picture and table.

    Args:
      host: the opened effect.
      prediction: of [batch, n] controls.
      batch: of `styletransfer.pairs.pair_batches`.

    Returns:
      Sounds and spectrograms of input, reference, target and prediction; a table of
      true against predicted settings in words, with deviations in the unit cube.
    """
    prediction, batch = jax.device_get((prediction, dict(batch)))
    at = int(np.argmax(batch["valid"]))
    said, deviation = prediction.controls[at], prediction.deviation[at]
    rendered = host.render(batch["audio"][at : at + 1], said[None]).audio[0]
    sounds = {
        "input": batch["audio"][at],
        "reference": batch["reference"][at],
        "target": batch["target"][at],
        "prediction": rendered,
    }
    pairs = {name: (sound, host.sample_rate) for name, sound in sounds.items()}
    truth = batch["controls"][at] if batch["labelled"][at] else None
    return Sounds(
        audio={f"example/{name}": pair for name, pair in pairs.items()},
        images={"example/spectra": plotting.pixels(plotting.compare_sounds(pairs))},
        text={"example/settings": settings_table(host.specs, truth, said, deviation)},
    )


def settings_table(
    specs: tuple[ParameterSpec, ...],
    truth: np.ndarray | None,
    controls: np.ndarray,
    deviation: np.ndarray,
) -> str:
    """Markdown: name, true and predicted setting, error and deviation of a control.

    Args:
      specs: the controls.
      truth: [n]; None where nobody knows it.
      controls: predicted [n].
      deviation: standard deviations [n].
    """
    rows = [
        "| control | true | predicted | error | deviation |",
        "|---|---|---|---|---|",
    ]
    for index, spec in enumerate(specs):
        true, error = "", ""
        if truth is not None:
            true = spec.text(float(truth[index]))
            error = f"{controls[index] - truth[index]:+.3f}"
        said = spec.text(float(controls[index]))
        rows.append(
            f"| {spec.name} | {true} | {said} | {error} | {deviation[index]:.3f} |"
        )
    return "\n".join(rows)


def at_level_of(reference: np.ndarray, audio: np.ndarray) -> np.ndarray:
    """Each input [batch, channels, time] with the mean power of its reference."""
    have, want = (
        np.mean(np.square(sound, dtype=np.float64), axis=(1, 2), keepdims=True)
        for sound in (audio, reference)
    )
    gain = np.sqrt(want / np.maximum(have, _SILENCE))
    return (audio * gain).astype(np.float32)


def is_loud(target: AnyArray) -> jax.Array:
    """Which targets [batch, channels, time] are louder than `QUIETEST_TARGET_DB`."""
    power = jnp.mean(jnp.square(jnp.asarray(target)), axis=(1, 2))
    return power > 10.0 ** (QUIETEST_TARGET_DB / 10.0)


@jax.jit
def audio_loss(audio: jax.Array, target: jax.Array) -> jax.Array:
    """Multi-resolution STFT loss of each example [batch], mean over channels."""

    def one(pair):
        return jnp.mean(losses.multi_resolution_stft(*pair)[0])

    # One at a time: the frames of a whole batch would not fit a cache.
    return jax.lax.map(one, (jnp.asarray(audio), jnp.asarray(target)))


def _mean(values: Any, counted: np.ndarray) -> float:
    kept = np.asarray(values)[np.asarray(counted)]
    return float(kept.mean()) if len(kept) else 0.0
