"""Pairs of many effects in one batch, for encoders that serve all of them.

A batch has the same number of pairs of every effect, one effect after the other. The
controls of all effects stand side by side in one row of ``total`` columns, of which an
example knows those of its own effect.
"""

from collections.abc import Sequence

import grain
import numpy as np

from ddspx.data.dataset import AudioDataset, batches
from ddspx.parameters import ParameterSpec
from styletransfer.hosts.host import Host
from styletransfer.pairs import PairConfig, PairMaker


def joint_specs(hosts: Sequence[Host]) -> tuple[ParameterSpec, ...]:
    """The controls of all effects, in the order of the columns."""
    return tuple(spec for host in hosts for spec in host.specs)


class MixedPairMaker(grain.transforms.RandomMap):
    """Makes pairs of a batch of clips by several effects in turn.

    Args:
      hosts: the opened effects, at one sample rate.
      config: how pairs are made; those that share settings are of one effect.
    """

    def __init__(self, hosts: Sequence[Host], config: PairConfig = PairConfig()):
        self._makers = [PairMaker(host, config) for host in hosts]
        widths = [len(host.specs) for host in hosts]
        self._starts = np.concatenate([[0], np.cumsum(widths)])

    def random_map(self, element: dict, rng: np.random.Generator) -> dict:
        """See the class.

        Args:
          element: ``audio`` [effects times pairs, channels, time].
          rng: source of all randomness.

        Returns:
          What `PairMaker.random_map` gives, with ``controls`` [batch, total] that are
          0 in the columns of other effects, ``known`` [batch, total]: which columns
          are of the example's own effect, ``effect`` [batch] int32, and ``setting``
          [batch], which no two effects share.

        Raises:
          ValueError: the batch cannot be shared by the effects.
        """
        count, effects = len(element["audio"]), len(self._makers)
        if count % effects:
            raise ValueError(
                f"a batch of {count} cannot be shared by {effects} effects"
            )
        rows = count // effects
        parts = []
        for number, maker in enumerate(self._makers):
            own = slice(number * rows, (number + 1) * rows)
            part = {name: values[own] for name, values in element.items()}
            part = maker.random_map(part, rng)
            start, stop = self._starts[number], self._starts[number + 1]
            controls = np.zeros((rows, self._starts[-1]), np.float32)
            controls[:, start:stop] = part["controls"]
            known = np.zeros(controls.shape, bool)
            known[:, start:stop] = True
            part["setting"] = part["setting"] + np.int32(number * rows)
            effect = np.full(rows, number, np.int32)
            parts.append({**part, "controls": controls, "known": known,
                          "effect": effect})  # fmt: skip
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def mixed_batches(
    dataset: AudioDataset | grain.MapDataset,
    hosts: Sequence[Host],
    pairs: int,
    *,
    config: PairConfig = PairConfig(),
    seed: int = 0,
) -> grain.MapDataset:
    """Batches of pairs of several effects; the same number gives the same batch.

    Args:
      dataset: clips twice as long as an example, from `ddspx.data.audio_dataset`.
      hosts: the opened effects; they stay open as long as batches are drawn.
      pairs: of each effect in a batch.
      config: how they are made.
      seed: of settings and coins.

    Returns:
      Map from batch number to what `MixedPairMaker.random_map` gives.
    """
    maker = MixedPairMaker(hosts, config)
    return batches(dataset, pairs * len(hosts)).seed(seed).random_map(maker)
