"""Self-supervised pairs: recordings treated with hidden settings, of other content.

A clean clip is cut into two halves. Hidden settings are drawn, and both halves are
rendered with them, each from a cleared state, which is how a prediction is rendered:

    input      one half, untreated
    reference  the other half, treated
    target     the input's half, treated; at the hidden settings the render equals it

Clips are scaled to a peak, drawn for each, before anything is rendered, and nothing is
scaled after: what an effect does to the level is part of its sound, and of what has to
be predicted, for recordings of any level.

Settings that are not heard are drawn again, and counted. Where none was heard in a
number of tries, or the effect failed, the example is marked as not valid and belongs
left out of every mean; it never becomes the clean clip. A share of the pairs is
untreated on purpose, so that a controller learns to leave alone what needs nothing.
"""

from dataclasses import dataclass

import grain
import numpy as np
from jaxtyping import Float

from ddspx.data.dataset import AudioDataset, batches
from ddspx.parameters import identity_controls, sample_controls
from styletransfer.hosts.host import Host
from styletransfer.hosts.response import log_spectrum_db, probe_signal

# Largest difference from the input, of full scale, at which settings do nothing.
_NOTHING = 1e-4


@dataclass(frozen=True)
class PairConfig:
    """How pairs are made.

    Attributes:
      peak_db: least and greatest peak of clips, both halves together, dBFS.
      silence_db: a half with an RMS below this, dBFS, makes the example not valid.
      audible_db: mean change of the log spectrum by which settings count as heard.
      tries: draws of settings before an example is given up.
      untreated: share of pairs whose reference and target are not treated.
      share: how many clips in a row, of one batch, have the same hidden settings; more
        than 1 for an encoder that learns what settings have in common on any content.
    """

    peak_db: tuple[float, float] = (-24.0, -3.0)
    silence_db: float = -60.0
    audible_db: float = 0.5
    tries: int = 8
    untreated: float = 0.1
    share: int = 1

    def __post_init__(self):
        if not 0.0 <= self.untreated < 1.0:
            raise ValueError(f"untreated {self.untreated} must be in [0, 1)")
        if self.tries < 1 or self.share < 1 or not self.audible_db >= 0.0:
            raise ValueError(
                f"tries {self.tries} and share {self.share} must be 1 or more,"
                f" audible_db {self.audible_db} 0 or more"
            )


class PairMaker(grain.transforms.RandomMap):
    """Makes pairs of a batch of clips; a function of the clips and of the generator.

    Args:
      host: the opened effect.
      config: how.

    Attributes:
      labelled: whether untreated pairs have true settings, because the effect has
        settings that do nothing.
    """

    def __init__(self, host: Host, config: PairConfig = PairConfig()):
        self._host, self._config = host, config
        self._idle = identity_controls(host.specs).astype(np.float32)
        probe = probe_signal(host.sample_rate, 0.5)[None, None]
        rendered = host.render(probe, self._idle[None])
        apart = np.abs(rendered.audio - probe).max()
        self.labelled = bool(rendered.status[0] == 0 and apart < _NOTHING)

    def random_map(self, element: dict, rng: np.random.Generator) -> dict:
        """See the class.

        Args:
          element: ``audio`` [batch, channels, time], time even; other entries are kept.
          rng: source of all randomness.

        Returns:
          The element with, instead of the clip,

          * ``audio``, ``reference``, ``target`` [batch, channels, time / 2],
          * ``controls`` [batch, n] in [0, 1],
          * ``labelled`` [batch]: whether they are what the target was made with,
          * ``treated`` [batch], ``valid`` [batch],
          * ``setting`` [batch] int32: examples of one number have the same settings,
          * ``tries`` [batch] int32: draws of settings, 0 for untreated pairs,
          * ``change_db`` [batch]: mean change of the log spectrum of the target.

        Raises:
          ValueError: clips of an odd length, or a number that cannot be shared out.
        """
        clips = np.asarray(element["audio"], np.float32)
        count, _, length = clips.shape
        share = self._config.share
        if count % share:
            raise ValueError(
                f"{count} clips cannot share settings by {share}; make it a multiple"
            )
        if length % 2:
            raise ValueError(
                f"clips of {length} samples cannot be halved; make it even"
            )
        clips, sounding = _levelled(clips, self._config, rng)
        halves = np.stack(np.split(clips, 2, axis=-1), axis=1)
        # Which half is the input is a coin of its own for each example.
        order = rng.integers(0, 2, count)
        dry = halves[np.arange(count), order]
        other = halves[np.arange(count), 1 - order]
        treated = rng.random(count // share) >= self._config.untreated
        treated = np.repeat(treated, share)
        found = {
            "audio": dry,
            "reference": other.copy(),
            "target": dry.copy(),
            "controls": np.repeat(self._idle[None], count, axis=0),
            "labelled": np.where(treated, True, self.labelled),
            "treated": treated,
            "valid": sounding & ~treated,
            "setting": np.repeat(np.arange(count // share, dtype=np.int32), share),
            "tries": np.zeros(count, np.int32),
            "change_db": np.zeros(count, np.float32),
        }
        self._treat(found, other, sounding & treated, rng)
        return {**element, **found}

    def _treat(
        self,
        found: dict[str, np.ndarray],
        other: np.ndarray,
        wanted: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        """Draws and renders until every wanted example is heard, or tries are over.

        Examples that share settings are drawn again together, until all are heard.
        """
        pending = np.flatnonzero(wanted)
        for _ in range(self._config.tries):
            if not len(pending):
                return
            settings, which = np.unique(found["setting"][pending], return_inverse=True)
            controls = sample_controls(self._host.specs, rng, (len(settings),))
            controls = controls.astype(np.float32)[which]
            signals = np.concatenate([found["audio"][pending], other[pending]])
            rendered = self._host.render(signals, np.concatenate([controls, controls]))
            target, reference = np.split(rendered.audio, 2)
            good = (rendered.status.reshape(2, -1) == 0).all(axis=0)
            change = np.array(
                [
                    spectrum_change_db(before, after)
                    for before, after in zip(
                        found["audio"][pending], target, strict=True
                    )
                ]
            )
            found["tries"][pending] += 1
            heard = good & (change >= self._config.audible_db)
            heard = ~np.isin(which, which[~heard])
            at = pending[heard]
            found["target"][at] = target[heard]
            found["reference"][at] = reference[heard]
            found["controls"][at] = controls[heard]
            found["change_db"][at] = change[heard]
            found["valid"][at] = True
            pending = pending[~heard]


def pair_batches(
    dataset: AudioDataset | grain.MapDataset,
    host: Host,
    batch_size: int,
    *,
    config: PairConfig = PairConfig(),
    seed: int = 0,
) -> grain.MapDataset:
    """Batches of pairs; the same number gives the same batch.

    Args:
      dataset: clips twice as long as an example, from `ddspx.data.audio_dataset`.
      host: the opened effect; it stays open as long as batches are drawn.
      batch_size: pairs in a batch.
      config: how they are made.
      seed: of settings and coins.

    Returns:
      Map from batch number to what `PairMaker.random_map` gives.
    """
    maker = PairMaker(host, config)
    return batches(dataset, batch_size).seed(seed).random_map(maker)


def spectrum_change_db(
    before: Float[np.ndarray, "channels time"],
    after: Float[np.ndarray, "channels time"],
) -> float:
    """Mean absolute change of band levels in dB, over bands, frames and channels."""
    changes = [
        np.abs(log_spectrum_db(b) - log_spectrum_db(a)).mean()
        for a, b in zip(before, after, strict=True)
    ]
    return float(np.mean(changes))


def _levelled(
    clips: np.ndarray, config: PairConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Clips at drawn peaks, and whether both halves of each are more than silence."""
    peaks = np.abs(clips).max(axis=(1, 2), keepdims=True)
    wanted = 10.0 ** (rng.uniform(*config.peak_db, peaks.shape) / 20.0)
    scaled = clips * (wanted / np.maximum(peaks, 1e-9)).astype(np.float32)
    halves = np.stack(np.split(scaled, 2, axis=-1), axis=1)
    power = np.mean(halves.astype(np.float64) ** 2, axis=(2, 3))
    sounding = (10.0 * np.log10(power + 1e-20) >= config.silence_db).all(axis=1)
    return scaled, sounding
