"""The `Synthesizer`: a trained model at work, whatever it was trained as.

Sound -> ``analyze`` -> curves -> (edited) -> ``render`` -> sound. Curves are a
dictionary of NumPy arrays [frames] in physical units, frame m at ``m hop`` samples.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ddspx.control_gains import FrameGains
from ddspx.types import RandomKey

Curves = Mapping[str, np.ndarray]
# name -> min, max, mean, std, and quantiles by share.
Ranges = Mapping[str, Mapping[str, Any]]


class Blocks(Protocol):
    """How a `Synthesizer` plays in pieces."""

    def __call__(
        self, curves: Curves, key: RandomKey, gains: FrameGains | None = None
    ) -> Iterator[np.ndarray]:
        """See `Synthesizer.blocks`."""
        ...


class Render(Protocol):
    """How a `Synthesizer` plays a whole sound."""

    def __call__(
        self, curves: Curves, key: RandomKey, gains: FrameGains | None = None
    ) -> np.ndarray:
        """See `Synthesizer.render`."""
        ...


class Synthesizer(NamedTuple):
    """A trained model at one sample rate.

    Attributes:
      kind: ``"ddsp"`` or ``"noisebandnet"``.
      sample_rate: Hz.
      hop: samples from frame to frame.
      control_names: of the curves that `render` needs.
      ranges: of the training sounds, by curve: ``min``, ``max``, ``mean``, ``std``
        floats, and ``quantiles``, a dictionary from share to value. They may hold more
        curves than drive the model.
      analyze: ``(audio[time]) -> curves``: those of `control_names`, and what tells
        where they can be trusted (``confidence``); ceil(time / hop) frames.
      render: ``(curves, key, gains=None) -> audio[frames hop]`` float32, in blocks: the
        memory of what lies between does not grow with the length. Gains are those of
        `ddspx.control_gains.frame_gains` on the amplitudes that drive the synth.
      blocks: ``(curves, key, gains=None) -> iterator`` of the pieces of that sound.
      controls: ``(curves) -> controls`` of the synth by name [frames, ...], for plots.
      sizes: of the controls that are amplitudes, by name: how many each has.
      centers_hz: frequencies of those amplitudes that have any, by name [size].
    """

    kind: str
    sample_rate: int
    hop: int
    control_names: tuple[str, ...]
    ranges: Ranges
    analyze: Callable[[np.ndarray], dict[str, np.ndarray]]
    render: Render
    blocks: Blocks
    controls: Callable[[Curves], dict[str, np.ndarray]]
    sizes: Mapping[str, int]
    centers_hz: Mapping[str, np.ndarray]


def plain_ranges(
    stored: Mapping[str, Mapping[str, Any]], shares: tuple[float, ...]
) -> dict[str, dict[str, Any]]:
    """Statistics as they are stored beside weights, as plain numbers.

    Args:
      stored: from `ddspx.tasks.sound_curves.statistics`.
      shares: of its quantiles.

    Returns:
      See `Synthesizer`.
    """
    found = {}
    for name, one in stored.items():
        numbers: dict[str, Any] = {
            key: float(one[key]) for key in ("min", "max", "mean", "std")
        }
        values = np.asarray(one["quantiles"]).tolist()
        numbers["quantiles"] = dict(zip(shares, values, strict=True))
        found[name] = numbers
    return found


def check_curves(
    curves: Curves, names: tuple[str, ...]
) -> tuple[dict[str, np.ndarray], int]:
    """The curves that drive a model, float32, and their number of frames.

    Args:
      curves: by name [frames]; others than `names` are left out.
      names: that are needed.

    Returns:
      (curves, frames).

    Raises:
      ValueError: one is missing, not [frames], of another length, or not finite.
    """
    missing = [name for name in names if name not in curves]
    if missing:
        raise ValueError(
            f"no curve for {', '.join(missing)}; the model is driven by"
            f" {', '.join(names)}, got {', '.join(curves) or 'none'}"
        )
    found = {name: np.asarray(curves[name], np.float32) for name in names}
    shapes = {name: curve.shape for name, curve in found.items()}
    if len(set(shapes.values())) != 1 or len(found[names[0]].shape) != 1:
        raise ValueError(f"curves are [frames], as many in each, got {shapes}")
    frames = len(found[names[0]])
    bad = [name for name, curve in found.items() if not np.isfinite(curve).all()]
    if not frames or bad:
        raise ValueError(
            f"curves of {frames} frames, not finite: {', '.join(bad) or 'none'}; need a"
            " frame or more, and finite values"
        )
    return found, frames


def louder(controls: Mapping[str, Any], gains: Mapping[str, Any]) -> dict[str, Any]:
    """Controls of a synth times the gains of their frames.

    Args:
      controls: by name, [frames], or [frames, size].
      gains: of some of them, [frames, size].

    Returns:
      All controls.
    """
    return {
        name: control * jnp.reshape(gains[name], jnp.shape(control))
        if name in gains
        else control
        for name, control in controls.items()
    }


def play(
    start: Callable[[dict[str, np.ndarray], RandomKey], Any],
    step: Callable[
        [Any, dict[str, np.ndarray], dict[str, np.ndarray]], tuple[Any, Any]
    ],
    curves: dict[str, np.ndarray],
    key: RandomKey,
    *,
    hop: int,
    latency: int,
    block: int,
    gains: FrameGains | None = None,
) -> Iterator[np.ndarray]:
    """A sound in blocks of equal length, so that one program is compiled.

    Args:
      start: ``(first block of curves, key) -> state``.
      step: ``(state, block of curves, its gains) -> (state, audio[block hop])``,
        `latency` late.
      curves: by name [frames, ...].
      key: of its noise.
      hop: samples a frame.
      latency: samples.
      block: frames in a block.
      gains: of the controls, see `louder`; none if left.

    Yields:
      Pieces of sound, frames hop samples in all.
    """
    frames = len(next(iter(curves.values())))
    late, left, state = latency, frames * hop, None
    at = 0
    while left:
        # Behind the last frame its values hold, until what lags has come out.
        places = np.minimum(np.arange(at, at + block), frames - 1)
        part = {name: curve[places] for name, curve in curves.items()}
        if state is None:
            state = start(part, key)
        state, audio = step(state, part, {} if gains is None else gains(places))
        audio = np.asarray(jax.device_get(audio))
        audio, late = audio[late:], max(0, late - len(audio))
        audio = audio[:left]
        left, at = left - len(audio), at + block
        if len(audio):
            yield audio
