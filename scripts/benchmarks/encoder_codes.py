"""Codes of treated sounds by an encoder, and by what it has to be better than.

Sound is forgotten as soon as it is coded: codes and images of thousands of pairs fit
into memory, their sounds would not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from benchmarks.embedding_methods import by_batches, components, pooled_components
from benchmarks.encoder_sounds import Crops, treat

from ddspx.training.configuration import from_dict
from styletransfer.bundle import Shared
from styletransfer.encoders import SoundEncoder, encode_sounds
from styletransfer.hosts import open_host
from styletransfer.latent_models import make_latent_vae
from styletransfer.models import ControllerConfig, make_controller
from styletransfer.presets import load_effect
from vae.models import make_vae
from vae.run import VaeRunConfig

# What has a code of a single sound.
BASES = ("f", "untrained", "pca", "moments")


@dataclass(frozen=True)
class Coded:
    """Codes of the pairs of a split, and what is known of each.

    Attributes:
      codes: of both halves, each [items, ...], by what made them: (dry, treated).
      latents: z of each pair [items, K], or None.
      middle: codes of sounds at settings in the middle [items of six effects, ...].
      middle_effect: which it was, index into `effects`.
      middle_group: speaker or piece of these.
      effect: index into `effects` [items].
      setting: equal for items with the same settings [items].
      controls: hidden settings of each effect's items.
      crop: which crop it was [items].
      crops: the crops, without their sound.
      effects: names.
      parameters: names, of each effect.
      lost: pairs that were not heard.
    """

    codes: Mapping[str, tuple[np.ndarray, np.ndarray]]
    latents: np.ndarray | None
    middle: Mapping[str, np.ndarray]
    middle_effect: np.ndarray
    middle_group: np.ndarray
    effect: np.ndarray
    setting: np.ndarray
    controls: tuple[np.ndarray, ...]
    crop: np.ndarray
    crops: Crops
    effects: tuple[str, ...]
    parameters: tuple[tuple[str, ...], ...]
    lost: int

    @property
    def group(self) -> np.ndarray:
        """Speaker or piece of each item."""
        return self.crops.group[self.crop]


def untrained_weights(encoder: SoundEncoder, seed: int) -> Any:
    """Weights of an encoder before its first step."""
    key = jax.random.key(seed)
    if encoder.kind == "vae":
        run = from_dict(VaeRunConfig, encoder.config)
        params, state = jax.jit(make_vae(run.model, run.shape).init)(key)
        return {"params": params, "state": state}
    model = from_dict(ControllerConfig, encoder.config["model"])
    controller = make_controller(model, 1, encoder.sample_rate)
    return jax.jit(controller.init)(key)["encoder"]


def code_pairs(
    crops: Crops,
    effects: Sequence[str],
    encoder: SoundEncoder,
    weights: Any,
    shared: Shared | None = None,
    *,
    share: int = 1,
    middle_of: Sequence[str] = (),
    stream: Sequence[int] = (0,),
    seed: int = 0,
) -> Coded:
    """Codes of the pairs that every effect makes of crops.

    Args:
      crops: at the encoder's rate, twice as long as its sounds.
      effects: presets or paths.
      encoder: without its weights.
      weights: its.
      shared: with latents that stand on it, or None.
      share: crops in a row with the same settings.
      middle_of: names of effects that are heard at settings in the middle as well.
      stream: of the settings; each effect has its own, whichever others there are.
      seed: of the untrained encoder.

    Raises:
      ValueError: no settings of an effect were heard.
    """
    blank = untrained_weights(encoder, seed)
    images = jax.jit(jax.vmap(encoder.image))

    def coded(audio: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "f": encode_sounds(encoder, weights, audio),
            "untrained": encode_sounds(encoder, blank, audio),
            "image": by_batches(images, audio),
        }

    dry, treated, middle, about = [], [], [], []
    for number, name in enumerate(effects):
        with open_host(load_effect(name), encoder.sample_rate) as host:
            own = (*stream, *name.encode())
            middle_too = Path(name).stem in middle_of
            pairs = treat(crops, host, seed=own, share=share, middle=middle_too)
        if not len(pairs.crop):
            raise ValueError(
                f"{name}: no settings were heard on {len(crops.group)} crops; leave it"
                " out, or give more"
            )
        dry.append(coded(pairs.dry))
        treated.append(coded(pairs.treated))
        if pairs.middle is not None:
            middle.append((number, pairs.crop, coded(pairs.middle)))
        setting = pairs.setting + number * len(crops.audio)
        names = tuple(spec.name.split(".", 1)[-1] for spec in pairs.specs)
        about.append((pairs.controls, setting, pairs.crop, names, pairs.lost))
    controls, settings, places, names, lost = zip(*about, strict=True)
    codes = {
        name: (
            np.concatenate([row[name] for row in dry]),
            np.concatenate([row[name] for row in treated]),
        )
        for name in dry[0]
    }
    latents = None
    if shared is not None:
        infer = make_latent_vae(shared.latents, encoder.size).infer
        latents = np.asarray(
            jax.jit(jax.vmap(infer, (None, 0, 0)))(shared.params, *codes["f"])[0]
        )
    lengths = [len(place) for place in places]
    middle_lengths = [len(place) for _, place, _ in middle]
    middle_crop = np.concatenate([np.zeros(0, int), *(place for _, place, _ in middle)])
    return Coded(
        codes,
        latents,
        {
            name: np.concatenate([made[name] for _, _, made in middle])
            for name in (dry[0] if middle else ())
        },
        np.repeat([number for number, _, _ in middle], middle_lengths).astype(int),
        crops.group[middle_crop],
        np.repeat(np.arange(len(lengths)), lengths),
        np.concatenate(settings),
        controls,
        np.concatenate(places),
        crops._replace(audio=np.zeros((0, 1, crops.audio.shape[-1]), np.float32)),
        tuple(Path(name).stem for name in effects),
        names,
        sum(lost),
    )


# ------------------------------------------------------------------------------- codes


def reduced(
    images: Mapping[str, np.ndarray], size: int, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Images [items, frames, bands] by ``pca`` and by ``moments``, fitted to train.

    Returns:
      Two tables of [items, size], or as many as there are.
    """
    whole = {name: each[:, None] for name, each in images.items()}
    moments = {
        name: np.concatenate([each.mean(1), each.std(1)], -1)
        for name, each in images.items()
    }
    return pooled_components(whole, size, seed), components(moments, size)


def code_tables(
    known: Coded, judged: Coded, size: int, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """Every kind of code by name, each with ``train`` and ``judged`` [items, size]."""
    images = {
        "train": known.codes["image"][1],
        "train dry": known.codes["image"][0],
        "judged": judged.codes["image"][1],
        "judged dry": judged.codes["image"][0],
    }
    pca, moments = reduced(images, size, seed)
    both: dict[str, dict[str, np.ndarray]] = {"pca": pca, "moments": moments}
    for name in ("f", "untrained"):
        both[name] = {}
        for split, coded in (("train", known), ("judged", judged)):
            both[name][f"{split} dry"], both[name][split] = coded.codes[name]
    tables: dict[str, dict[str, np.ndarray]] = {}
    splits = ("train", "judged")
    for name in BASES:
        tables[name] = {split: both[name][split] for split in splits}
    for name in BASES:
        tables[f"{name} change"] = {
            split: both[name][split] - both[name][f"{split} dry"] for split in splits
        }
    if known.latents is not None and judged.latents is not None:
        tables["z"] = {"train": known.latents, "judged": judged.latents}
    return tables
