"""What the latents of a controller do: to the controls, and to the sound.

A pair of sounds gives a posterior over z (g); z gives the controls (h), and the host
the sound. `vae.analysis` judges latents by the variance of an output: here the controls
in the unit cube (`controls_output`), and the band levels in dB of what the effect, at
these controls, makes of a few untreated recordings (`sound_output`). A control may move
and not be heard, so that the second is what counts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from ddspx.data.dataset import CropConfig, audio_dataset
from ddspx.data.manifest import Clip
from styletransfer.controller import LoadedController
from styletransfer.hosts import Host, Status
from styletransfer.pairs import PairConfig, pair_batches
from vae.outputs import Output, parameters_output, rendered_output

# Pairs that are rendered and encoded at once.
_AT_ONCE = 16
# Batches of pairs that do not count before the recordings are given up.
_FRUITLESS = 8


class PairSet(NamedTuple):
    """Pairs with hidden settings and their codes, [pairs, ...].

    Attributes:
      audio: untreated inputs [pairs, channels, time].
      target: the same, treated.
      controls: hidden settings [pairs, n] in [0, 1].
      labelled: [pairs], whether these are what the target was made with.
      codes: of the inputs [pairs, embedding].
      references: codes of the treated recordings of other content.
      groups: speaker or piece of each pair.
    """

    audio: np.ndarray
    target: np.ndarray
    controls: np.ndarray
    labelled: np.ndarray
    codes: np.ndarray
    references: np.ndarray
    groups: tuple[str, ...]


def make_pairs(
    loaded: LoadedController,
    host: Host,
    clips: tuple[Clip, ...],
    count: int,
    *,
    config: PairConfig | None = None,
    seed: int = 0,
) -> PairSet:
    """Pairs of recordings by the controller's own effect, as it was trained on.

    Args:
      loaded: the controller.
      host: its effect, at its sample rate.
      clips: recordings, usually of one split.
      count: pairs wanted; those that are not heard are not counted.
      config: how they are made; as is usual when None.
      seed: of crops and settings; the same gives the same pairs.

    Returns:
      A `PairSet` of `count` pairs.

    Raises:
      ValueError: the recordings give no pairs that count.
    """
    crops = CropConfig(
        sample_rate=loaded.config.sample_rate,
        seconds=2 * loaded.config.seconds,
        seed=seed,
    )
    dataset = audio_dataset(clips, crops)
    config = PairConfig() if config is None else config
    batches = pair_batches(dataset, host, _AT_ONCE, config=config, seed=seed)
    encode = _encoder(loaded)
    parts: list[tuple[np.ndarray, ...]] = []
    found = index = fruitless = 0
    while found < count and fruitless < _FRUITLESS:
        batch: Any = batches[index]
        index += 1
        kept = np.flatnonzero(batch["valid"])
        fruitless = 0 if len(kept) else fruitless + 1
        codes, references = (encode(batch[n]) for n in ("audio", "reference"))
        arrays = (*(batch[n] for n in _KEPT), codes, references, batch["file"])
        parts.append(tuple(np.asarray(array)[kept] for array in arrays))
        found += len(kept)
    if found < count:
        raise ValueError(
            f"{len(dataset.clips)} recordings gave {found} of {count} pairs: the effect"
            f" {host.effect.name} was not heard in the others; give other recordings"
        )
    columns = [np.concatenate(c)[:count] for c in zip(*parts, strict=True)]
    audio, target, controls, labelled, codes, references, files = columns
    groups = tuple(dataset.clips[file].group for file in files)
    return PairSet(audio, target, controls, labelled, codes, references, groups)


_KEPT = ("audio", "target", "controls", "labelled")


def posterior(
    loaded: LoadedController, pairs: PairSet
) -> tuple[Float[np.ndarray, "pairs latents"], Float[np.ndarray, "pairs latents"]]:
    """Mean and log-variance of z of every pair.

    Raises:
      ValueError: the controller has no latents.
    """
    infer = loaded.controller.latents
    if infer is None:
        raise ValueError(
            f"this controller of {loaded.effect.name} has no latents to analyse; give"
            " one with latents"
        )
    every = jax.jit(jax.vmap(infer, (None, 0, 0)))
    mean, log_variance = every(loaded.params, pairs.codes, pairs.references)
    return np.asarray(mean), np.asarray(log_variance)


def settler(loaded: LoadedController) -> Callable[[Any], Any]:
    """``latents[m, K] -> Prediction`` of controls [m, n], compiled."""
    settle = loaded.controller.settle
    assert settle is not None
    every = jax.jit(jax.vmap(settle, (None, 0)))
    return lambda latents: every(loaded.params, latents)


def controls_output(loaded: LoadedController) -> Output:
    """The controls that z gives, each in [0, 1]; see `vae.outputs`.

    An `Output` without derivatives: the squashing of a controller's logits has a rule
    of its own for the reverse mode, and none for the forward mode of a Jacobian.
    """
    names = [spec.name for spec in loaded.specs]
    settle = settler(loaded)
    return parameters_output(lambda z: np.asarray(settle(z).controls), names, False)


def sound_output(
    loaded: LoadedController,
    host: Host,
    sounds: Float[np.ndarray, "sounds channels time"],
) -> Output:
    """Band levels in dB of what the effect makes of a few sounds at what z gives.

    Args:
      loaded: the controller.
      host: its effect, at its sample rate; a render for each sound and code.
      sounds: untreated recordings, the same for every code.

    Returns:
      An `Output` without derivatives: a host is no JAX function.
    """
    settle = settler(loaded)

    def render(audio, controls):
        made = host.render(audio, controls)
        failed = np.flatnonzero(made.status != Status.OK)
        if len(failed):
            status = Status(int(made.status[failed[0]])).name
            raise ValueError(
                f"{host.effect.name}: {len(failed)} of {len(controls)} renders ended"
                f" with {status}; probe the effect"
            )
        return made.audio

    return rendered_output(
        lambda z: np.asarray(settle(z).controls), render, sounds, host.sample_rate
    )


def ordinary_sounds(
    pairs: PairSet, count: int
) -> Float[np.ndarray, "count channels time"]:
    """Untreated inputs of evenly chosen pairs, all of one peak, -9 dBFS.

    Pairs have peaks of their own; here they would count as loudness of a sound.
    """
    rows = np.linspace(0, len(pairs.audio) - 1, min(count, len(pairs.audio)))
    chosen = pairs.audio[rows.round().astype(int)]
    peak = np.abs(chosen).max(axis=(1, 2), keepdims=True)
    return (chosen * (10 ** (-9 / 20) / peak)).astype(np.float32)


def _encoder(loaded: LoadedController) -> Callable[[np.ndarray], np.ndarray]:
    controller = loaded.controller

    @jax.jit
    def every(params, sounds):
        return jax.lax.map(
            lambda sound: controller.encode(params, controller.image(sound)), sounds
        )

    return lambda sounds: np.asarray(every(loaded.params, sounds))
