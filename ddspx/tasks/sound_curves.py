"""The control curves of a texture: measured, put into network units, remembered.

A curve has one value a frame, in physical units: ``loudness_db`` (A-weighted level, see
`ddspx.features.a_weighted_loudness_db`, finite on silence), ``centroid_hz``, ``f0_hz``
with ``confidence`` in [0, 1], and whatever else a user has drawn. The network sees

    (u(x) - offset) / spread,    u(x) = log2(max(x, 20)) for Hz, x for all else

with offset and spread of the training sounds, which are stored beside the weights: a
new sound is never normalised by its own range.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from ddspx.features import a_weighted_loudness_db, spectral_centroid_hz
from ddspx.pitch import track_f0

MEASURED = ("loudness_db", "centroid_hz", "f0_hz", "confidence")
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_LOWEST_HZ = 20.0
# A curve that never moves is divided by this much of a unit, not by nothing.
_LEAST_SPREAD = 1e-3
# Whole recordings in pieces of so many seconds: an hour must not need its frames at
# once; every piece has its neighbours' sound on both sides.
_SECONDS_AT_ONCE = 20.0


@dataclass(frozen=True)
class ControlsConfig:
    """Which curves drive a texture, and how they reach the network.

    Attributes:
      names: of the curves, in order. Those of `MEASURED` are measured; any other is
        read from a file beside each recording, ``rain.csv`` or ``rain.npy`` for
        ``rain.wav``, see `ddspx.curves`.
      normalization: ``"range"`` maps least and greatest value of the training sounds
        to 0 and 1, as published; ``"standard"`` their mean and deviation to 0 and 1.
      window_ms: of loudness and centroid, rounded to the power of two of samples that
        is nearest.
      low_hz: of f0.
      high_hz: of f0.
    """

    names: tuple[str, ...] = ("loudness_db", "centroid_hz")
    normalization: Literal["range", "standard"] = "range"
    window_ms: float = 12.0
    low_hz: float = 40.0
    high_hz: float = 1000.0

    def __post_init__(self):
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError(f"names {self.names}: give one control or more, each once")
        if not all(name.isidentifier() for name in self.names):
            raise ValueError(
                f"names {self.names}: a control's name has letters, digits and _ alone"
            )
        if self.normalization not in ("range", "standard"):
            raise ValueError(
                f"normalization {self.normalization!r}: use 'range' or 'standard'"
            )
        if not self.window_ms > 0 or not 0 < self.low_hz < self.high_hz:
            raise ValueError(
                f"window_ms {self.window_ms}, low_hz {self.low_hz}, high_hz"
                f" {self.high_hz}: expected positive numbers, low below high"
            )

    @property
    def drawn(self) -> tuple[str, ...]:
        """Curves that cannot be measured."""
        return tuple(name for name in self.names if name not in MEASURED)

    def window(self, sample_rate: int) -> int:
        """Samples of the window."""
        return 2 ** max(4, round(float(np.log2(1e-3 * self.window_ms * sample_rate))))


def measure(
    config: ControlsConfig,
    audio: np.ndarray,
    sample_rate: int,
    hop: int,
    *,
    frame_at: int = 0,
) -> dict[str, np.ndarray]:
    """The measured curves of a sound.

    Args:
      config: which; drawn ones are left out.
      audio: [time].
      sample_rate: Hz.
      hop: samples from frame to frame.
      frame_at: frame m is centred on sample ``m hop + frame_at``.

    Returns:
      float32 [ceil(time / hop)] by name; beyond its ends the sound is silent.

    Raises:
      ValueError: the sound is empty.
    """
    if not len(audio):
        raise ValueError("the sound is empty; give at least one sample")
    frames = -(-len(audio) // hop)
    wanted = [name for name in config.names if name in MEASURED]
    found: dict[str, np.ndarray] = {}
    margin = 4 * config.window(sample_rate)
    if {"f0_hz", "confidence"} & set(wanted):
        margin = max(margin, round(8 * sample_rate / config.low_hz))
    # Of whole hops, so that pieces have the frames of the whole.
    margin = -(-margin // hop)
    piece = max(1, round(_SECONDS_AT_ONCE * sample_rate / hop))
    if frames <= piece:
        # In powers of two, so that sounds of many lengths compile a few programs.
        piece, margin = min(piece, 2 ** int(np.ceil(np.log2(max(frames, 1))))), 0
    # Silence on both sides; the first frame of what is measured is dropped below, so
    # that centres may lie anywhere in a hop.
    before = margin * hop + hop - frame_at
    total = before + (-(-frames // piece) * piece + margin) * hop
    padded = np.zeros(total, np.float32)
    padded[before : before + len(audio)] = audio
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, frames, piece):
        cut = padded[start * hop : (start + piece + 2 * margin) * hop + hop - frame_at]
        curves = _curves(config, wanted, cut, sample_rate, hop)
        inside = slice(margin + 1, margin + 1 + piece)
        parts.append({name: curve[inside] for name, curve in curves.items()})
    for name in wanted:
        found[name] = np.concatenate([part[name] for part in parts])[:frames]
    return found


def _curves(
    config: ControlsConfig,
    wanted: Sequence[str],
    audio: np.ndarray,
    sample_rate: int,
    hop: int,
) -> dict[str, np.ndarray]:
    """Curves with frame m centred on sample m hop, one more than there are hops."""
    window = config.window(sample_rate)
    # The hop after the end, whose frame is wanted too.
    audio = np.pad(audio, (0, hop))
    curves: dict[str, Any] = {}
    if "loudness_db" in wanted:
        curves["loudness_db"] = a_weighted_loudness_db(
            audio, sample_rate, fft_size=window, hop_length=hop
        )
    if "centroid_hz" in wanted:
        curves["centroid_hz"] = spectral_centroid_hz(
            audio, sample_rate, fft_size=window, hop_length=hop
        )
    if {"f0_hz", "confidence"} & set(wanted):
        pitch = track_f0(
            audio, sample_rate, hop, low_hz=config.low_hz, high_hz=config.high_hz
        )
        curves["f0_hz"], curves["confidence"] = pitch.f0_hz, pitch.confidence
    return {name: np.asarray(curves[name], np.float32) for name in wanted}


def to_network_unit(name: str, curve: Any) -> Any:
    """Octaves above 1 Hz of a curve in Hz, and any other as it is.

    Args:
      name: of the curve.
      curve: [...], physical.

    Returns:
      [...].
    """
    if name.endswith("_hz"):
        return jnp.log2(jnp.maximum(curve, _LOWEST_HZ))
    return jnp.asarray(curve)


def statistics(
    config: ControlsConfig, curves: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, dict[str, np.ndarray]]:
    """What is remembered of the training sounds.

    Args:
      config: which curves, and how they are normalised.
      curves: of each sound, by name [frames].

    Returns:
      By name: ``offset`` and ``spread`` in network units; ``min``, ``max``, ``mean``,
      ``std`` and ``quantiles`` (`QUANTILES`) in physical units. All float32.

    Raises:
      ValueError: a curve is not finite.
    """
    found = {}
    for name in config.names:
        values = np.concatenate([np.asarray(one[name], np.float32) for one in curves])
        if not np.isfinite(values).all():
            raise ValueError(
                f"control {name!r} has values that are not finite; look at its curve"
            )
        seen = np.asarray(to_network_unit(name, values), np.float64)
        if config.normalization == "range":
            offset, spread = seen.min(), np.ptp(seen)
        else:
            offset, spread = seen.mean(), seen.std()
        numbers = {
            "offset": offset,
            "spread": max(float(spread), _LEAST_SPREAD),
            "min": values.min(),
            "max": values.max(),
            "mean": values.mean(dtype=np.float64),
            "std": values.std(dtype=np.float64),
            "quantiles": np.quantile(values, QUANTILES),
        }
        found[name] = {key: np.asarray(v, np.float32) for key, v in numbers.items()}
    return found


def normalize(
    names: Sequence[str], stored: Mapping[str, Mapping[str, Any]], curves: Any
) -> Any:
    """Physical curves as the network reads them.

    Args:
      names: in the order of the network's inputs.
      stored: from `statistics`.
      curves: by name, [..., frames].

    Returns:
      [..., frames, n].

    Raises:
      ValueError: a curve is missing.
    """
    missing = [name for name in names if name not in curves]
    if missing:
        raise ValueError(
            f"no curve for {', '.join(missing)}; the model is driven by"
            f" {', '.join(names)}, got {', '.join(curves) or 'none'}"
        )
    columns = [
        (to_network_unit(name, curves[name]) - stored[name]["offset"])
        / stored[name]["spread"]
        for name in names
    ]
    return jnp.stack(columns, -1)
