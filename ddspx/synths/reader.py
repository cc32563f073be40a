"""Sound by any number of samples at a time, as audio callbacks ask for it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddspx.synths.base import Controls, Synth, count_frames
from ddspx.types import RandomKey

# From the number of the first frame, and how many, to their controls.
Source = Callable[[int, int], Controls]


class Reader:
    """Reads the sound of a synth by exactly as many samples as each call asks for.

    Pieces in sequence are what `render` gives for the joined controls, without the
    synth's latency: the first call computes as many frames more. Frames are computed
    in blocks of one length, which compile once; what a call leaves over waits.

    Args:
      synth: any.
      source: ``(first frame, frames) -> controls[frames]``, asked for successive
        frames without end; `held` makes one of whole curves.
      key: of the synth's noise.
      block_frames: frames computed at a time; more are faster, and later to follow a
        source that is played live.

    Example:
      ``reader = Reader(synth, held(controls), jax.random.key(0)); reader.read(512)``
    """

    def __init__(
        self, synth: Synth, source: Source, key: RandomKey, *, block_frames: int = 16
    ):
        if block_frames < 1:
            raise ValueError(f"a block has 1 frame or more, got {block_frames}")
        self._synth, self._source = synth, source
        self._block_frames = block_frames
        self._step = jax.jit(synth.render_block)
        self._state = synth.init_state(key, source(0, block_frames))
        self._frame = 0
        self._late = synth.latency
        self._waiting = np.zeros(0, np.float32)

    def read(self, samples: int) -> np.ndarray:
        """The next samples.

        Args:
          samples: how many, 0 or more.

        Returns:
          [samples].

        Raises:
          ValueError: the number is negative, or the source gives other frames than
            asked for.
        """
        if samples < 0:
            raise ValueError(f"a piece has 0 samples or more, got {samples}")
        pieces = [self._waiting]
        missing = samples - len(self._waiting)
        while missing > 0:
            pieces.append(self._next_block())
            missing -= len(pieces[-1])
        joined = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        self._waiting = joined[samples:].copy()
        return joined[:samples]

    def save(self) -> dict[str, Any]:
        """All that the next samples depend on but synth and source, as plain data.

        Returns:
          Numbers and NumPy arrays, which can be pickled and given to `restore`.
        """
        leaves = jax.tree.leaves(self._state)
        return {
            "frame": self._frame,
            "late": self._late,
            "waiting": self._waiting.copy(),
            "state": [np.asarray(_plain(leaf)) for leaf in leaves],
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Goes on from where `save` was called, in this process or in another.

        Args:
          saved: of a reader of the same synth.

        Raises:
          ValueError: it is of another synth.
        """
        leaves, structure = jax.tree.flatten(self._state)
        shapes = [np.shape(_plain(leaf)) for leaf in leaves]
        found = [np.shape(leaf) for leaf in saved["state"]]
        if shapes != found:
            raise ValueError(
                f"this synth's state has arrays {shapes}, the saved one {found};"
                " restore into a reader of the same synth"
            )
        self._state = jax.tree.unflatten(
            structure,
            [
                _like(leaf, new)
                for leaf, new in zip(leaves, saved["state"], strict=True)
            ],
        )
        self._frame, self._late = saved["frame"], saved["late"]
        self._waiting = saved["waiting"].copy()

    def _next_block(self) -> np.ndarray:
        controls = self._source(self._frame, self._block_frames)
        given = count_frames(controls)
        if given != self._block_frames:
            raise ValueError(
                f"the source was asked for {self._block_frames} frames from"
                f" {self._frame}, and gave {given}"
            )
        self._state, audio = self._step(self._state, controls)
        self._frame += given
        audio = np.asarray(audio)
        skipped = min(self._late, len(audio))
        self._late -= skipped
        return audio[skipped:]


def held(controls: Controls) -> Source:
    """A source of whole curves, whose last frame holds after the end.

    Args:
      controls: arrays [frames, ...].

    Returns:
      A `Source` for `Reader`.

    Raises:
      ValueError: controls disagree about the number of frames, or have none.
    """
    frames = count_frames(controls)
    arrays = {name: np.asarray(c) for name, c in controls.items()}

    def source(first: int, count: int) -> Controls:
        places = np.minimum(np.arange(first, first + count), frames - 1)
        return {name: array[places] for name, array in arrays.items()}

    return source


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key)


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(leaf: Any, new: np.ndarray) -> jax.Array:
    """The array of a saved state in the place of `leaf`."""
    if _is_key(leaf):
        return jax.random.wrap_key_data(
            jnp.asarray(new), impl=jax.random.key_impl(leaf)
        )
    return jnp.asarray(new)
