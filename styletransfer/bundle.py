"""Trained controllers as small files: one for f and g, and one for each effect's h.

A file is an ``.npz``: arrays by the path of their names, and a record in JSON. The file
of an effect names the f and g that it was trained on by the hash of their weights, and
is refused beside others: latents of another g mean something else.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ddspx.audio import written_aside
from ddspx.training.checkpoint import CheckpointError, tree_hash
from ddspx.training.configuration import from_dict, to_dict
from styletransfer.encoders import SoundEncoder, make_encoder
from styletransfer.hosts.description import HostEffect
from styletransfer.latent_models import (
    DecoderConfig,
    LatentModelConfig,
    make_latent_controller,
)
from styletransfer.models import Controller

SHARED, DECODER = "shared.npz", "decoder.npz"
_RECORD = "record"


class Shared(NamedTuple):
    """f and g.

    Attributes:
      encoder: f without its weights.
      latents: sizes of g.
      params: ``{"encoder": ..., "latents": ...}``.
      digest: hash of the weights.
    """

    encoder: SoundEncoder
    latents: LatentModelConfig
    params: Any
    digest: str


class EffectController(NamedTuple):
    """f, g and the h of one effect.

    Attributes:
      shared: f and g.
      effect: what h controls, with the full ranges.
      decoder: sizes of h.
      controller: the functions.
      params: all weights.
      note: of the training, JSON-ready: data, numbers.
    """

    shared: Shared
    effect: HostEffect
    decoder: DecoderConfig
    controller: Controller
    params: Any
    note: Mapping[str, Any]


def make_shared(
    encoder: SoundEncoder, latents: LatentModelConfig, params: Mapping[str, Any]
) -> Shared:
    """F and g from their parts.

    Args:
      encoder: f.
      latents: sizes of g.
      params: ``{"encoder": ..., "latents": ...}``.
    """
    kept = {name: params[name] for name in ("encoder", "latents")}
    return Shared(encoder, latents, kept, tree_hash(kept))


def make_effect_controller(
    shared: Shared,
    effect: HostEffect,
    decoder: DecoderConfig,
    weights: Any,
    note: Mapping[str, Any],
) -> EffectController:
    """The controller of an effect from f, g and the weights of its h."""
    specs = effect.at_sample_rate(shared.encoder.sample_rate).specs
    controller = make_latent_controller(shared.encoder, shared.latents, decoder, specs)
    params = {**shared.params, "decoder": weights}
    return EffectController(shared, effect, decoder, controller, params, note)


def save_shared(path: Path, shared: Shared, *, overwrite: bool = False) -> Path:
    """Writes f and g.

    Raises:
      AudioFileError: the file exists and `overwrite` is False, or cannot be written.
    """
    record = {
        "kind": "shared",
        "encoder": {"kind": shared.encoder.kind, "config": dict(shared.encoder.config)},
        "latents": to_dict(shared.latents),
        "digest": shared.digest,
    }
    return _save(path, record, shared.params, overwrite)


def save_decoder(
    path: Path, loaded: EffectController, *, overwrite: bool = False
) -> Path:
    """Writes h with its effect, and with the name of its f and g.

    Raises:
      AudioFileError: the file exists and `overwrite` is False, or cannot be written.
    """
    record = {
        "kind": "decoder",
        "effect": json.loads(loaded.effect.to_json()),
        "decoder": to_dict(loaded.decoder),
        "shared": loaded.shared.digest,
        "note": dict(loaded.note),
    }
    weights = {"decoder": loaded.params["decoder"]}
    return _save(path, record, weights, overwrite)


def load_shared(path: str | Path) -> Shared:
    """F and g from their file.

    Raises:
      CheckpointError: no such file, damaged, or of another kind.
    """
    record, params = _load(Path(path), "shared")
    found = make_shared(
        make_encoder(record["encoder"]["kind"], record["encoder"]["config"]),
        from_dict(LatentModelConfig, record["latents"]),
        params,
    )
    if found.digest != record["digest"]:
        raise CheckpointError(f"{path}: damaged: the weights are not those it names")
    return found


def load_decoder(
    path: str | Path, shared: str | Path | Shared | None = None
) -> EffectController:
    """The controller of an effect from the file of its h.

    Args:
      path: of h.
      shared: f and g, or their file; ``shared.npz`` beside `path` when None.

    Raises:
      CheckpointError: a file is missing, damaged, of another kind, or h was trained on
        another f and g.
    """
    path = Path(path)
    record, params = _load(path, "decoder")
    if not isinstance(shared, Shared):
        beside = path.with_name(SHARED) if shared is None else Path(shared)
        shared = load_shared(beside)
    if shared.digest != record["shared"]:
        raise CheckpointError(
            f"{path}: was trained on the encoders {record['shared'][:12]}, but"
            f" {SHARED} beside it holds {shared.digest[:12]}; put the file that it"
            " was trained with there"
        )
    return make_effect_controller(
        shared,
        HostEffect.from_json(json.dumps(record["effect"])),
        from_dict(DecoderConfig, record["decoder"]),
        params["decoder"],
        record["note"],
    )


def write_report(folder: Path, name: str, table: Any, markdown: str) -> None:
    """Writes a report beside the files, as JSON and for people; replaces an older one.

    Raises:
      AudioFileError: the folder cannot be written.
    """
    texts = {"json": json.dumps(table, indent=1) + "\n", "md": markdown}
    for suffix, text in texts.items():
        with written_aside(folder / f"{name}.{suffix}", overwrite=True) as aside:
            aside.write_text(text, encoding="utf-8")


def _save(path: Path, record: Mapping[str, Any], params: Any, overwrite: bool) -> Path:
    arrays = {
        jax.tree_util.keystr(place, simple=True, separator="/"): np.asarray(leaf)
        for place, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    buffer = io.BytesIO()
    text = np.array(json.dumps(record, sort_keys=True))
    np.savez_compressed(buffer, **arrays, **{_RECORD: text})  # type: ignore[arg-type]
    with written_aside(path, overwrite=overwrite) as aside:
        aside.write_bytes(buffer.getvalue())
    return path


def _load(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        # Read first: np.load leaves a file open that it cannot make sense of.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        record = json.loads(str(arrays.pop(_RECORD)))
    except Exception as error:  # a damaged archive raises whatever its bytes lead to
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if record.get("kind") != kind:
        raise CheckpointError(
            f"{path}: holds {record.get('kind')!r}, expected a file of {kind!r}"
        )
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = array
    return record, tree
