"""Codes of many pairs, made once: what g and h are trained on.

With a frozen encoder a pair is three codes and its settings. They are kept on disk by
the content of what they were made from (`ddspx.cache`), and training on them takes
seconds.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np

from ddspx import cache
from ddspx.data.dataset import AudioDataset
from ddspx.training.checkpoint import tree_hash
from styletransfer.encoders import SoundEncoder, encode_sounds
from styletransfer.hosts.host import Host
from styletransfer.pairs import PairConfig, pair_batches

# Pairs that are rendered and encoded at once.
_BATCH = 64
_ENDLESS = 10**9


class CodeBank(NamedTuple):
    """Pairs as codes, [pairs, ...].

    Attributes:
      dry: codes of the inputs [pairs, size].
      reference: codes of the references.
      target: codes of the inputs, treated.
      controls: hidden settings [pairs, n] in [0, 1].
      labelled: whether they are what the target was made with.
      valid: whether the pair counts.
      treated: whether the effect was on.
    """

    dry: np.ndarray
    reference: np.ndarray
    target: np.ndarray
    controls: np.ndarray
    labelled: np.ndarray
    valid: np.ndarray
    treated: np.ndarray

    def kept(self) -> "CodeBank":
        """The pairs that count."""
        return CodeBank(*(np.asarray(values)[self.valid] for values in self))


def code_bank(
    encoder: SoundEncoder,
    weights: Any,
    dataset: AudioDataset,
    host: Host,
    count: int,
    *,
    pairs: PairConfig = PairConfig(),
    seed: int = 0,
    folder: Path | None = None,
    report: Callable[[int], Any] | None = None,
) -> CodeBank:
    """Renders pairs and encodes them, or finds them in the cache.

    Args:
      encoder: f.
      weights: its.
      dataset: clips twice as long as an example, at the encoder's rate.
      host: the opened effect.
      count: pairs; rounded up to whole batches.
      pairs: how they are made.
      seed: of settings and coins.
      folder: of the cache; None makes them each time.
      report: called with the number of pairs that are done.

    Returns:
      A `CodeBank`.
    """

    def make() -> dict[str, np.ndarray]:
        source = pair_batches(dataset, host, _BATCH, config=pairs, seed=seed)
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
        parts: list[dict[str, np.ndarray]] = []
        batches = -(-count // _BATCH)
        for batch in iter(source[:batches].to_iter_dataset(options)):
            sounds = np.concatenate(
                [batch[name] for name in ("audio", "reference", "target")]
            )
            codes = np.split(encode_sounds(encoder, weights, sounds), 3)
            found: dict[str, np.ndarray] = {
                "dry": codes[0],
                "reference": codes[1],
                "target": codes[2],
            }
            for name in ("controls", "labelled", "valid", "treated"):
                found[name] = np.asarray(batch[name])
            parts.append(found)
            if report is not None:
                report(min(len(parts) * _BATCH, count))
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    key = cache.content_key(
        "code bank 1",
        tree_hash(weights),
        json.loads(json.dumps(encoder.config)),
        host.effect.to_json(),
        [[clip.path, clip.sha256 or str(clip.file)] for clip in dataset.clips],
        json.loads(json.dumps(asdict(pairs))),
        [float(host.sample_rate), count, seed],
    )
    return CodeBank(**cache.cached(folder, key, make))


def joined(banks: Sequence[CodeBank]) -> dict[str, np.ndarray]:
    """The rows that count of several banks, one below the other.

    Args:
      banks: of effects.

    Returns:
      ``dry``, ``reference``, ``target``, ``labelled``, ``treated``, ``effect`` [rows]
      int32, and the settings of all effects side by side: ``controls`` [rows, total], 0
      where ``known`` [rows, total] says that they are another effect's.

    Raises:
      ValueError: no pair that counts.
    """
    kept = [bank.kept() for bank in banks]
    names = ("dry", "reference", "target", "labelled", "treated")
    whole = {
        name: np.concatenate([getattr(bank, name) for bank in kept]) for name in names
    }
    if not len(whole["dry"]):
        raise ValueError("no pair counts: the effect was not heard in any of them")
    rows = [len(bank.dry) for bank in kept]
    widths = [bank.controls.shape[1] for bank in kept]
    whole["effect"] = np.repeat(np.arange(len(kept), dtype=np.int32), rows)
    own = np.repeat(np.arange(len(kept)), widths)
    known = whole["effect"][:, None] == own[None, :]
    controls = np.zeros(known.shape, np.float32)
    controls[known] = np.concatenate([bank.controls.ravel() for bank in kept])
    return {**whole, "controls": controls, "known": known}


def drawn_batches(
    whole: Mapping[str, np.ndarray], batch_size: int, seed: int = 0
) -> grain.MapDataset:
    """Endless batches of rows drawn from arrays; the same number, the same batch.

    Args:
      whole: from `joined`.
      batch_size: rows.
      seed: of the draws.
    """
    source = grain.MapDataset.range(_ENDLESS).seed(seed)
    return source.random_map(_Rows(whole, batch_size))


class _Rows(grain.transforms.RandomMap):
    def __init__(self, whole: Mapping[str, np.ndarray], batch_size: int):
        self._whole, self._batch_size = whole, batch_size

    def random_map(self, element: int, rng: np.random.Generator) -> dict:
        del element
        rows = rng.integers(len(self._whole["dry"]), size=self._batch_size)
        return {name: values[rows] for name, values in self._whole.items()}
