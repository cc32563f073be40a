"""What `benchmark.py effects` measures: effects, and who else does the same forward.

Baselines read the effect's physical settings, so that both sides do the same work: of
pedalboard its nearest built-ins, of scipy the same sections or the same convolution.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pedalboard
import scipy.signal

from ddspx import filters
from ddspx.effects import Effect, chain, make
from ddspx.effects.distortion import tanh_distortion

Settings = dict[str, float]
Render = Callable[[np.ndarray], np.ndarray]
# (sample rate, settings) -> a function of one signal [channels, time]
Baseline = Callable[[int, Settings], Render]

REVERB_S = 1.5


class Entry(NamedTuple):
    """A row's effect at a sample rate, and its baselines, the first for the ratios."""

    make: Callable[[int], Effect]
    baselines: Mapping[str, Baseline]


def board(plugins: Callable[[Settings], Sequence[Any]]) -> Baseline:
    """Plug-ins of pedalboard in series, rendered in C++ in one call."""

    def opened(rate: int, settings: Settings) -> Render:
        made = pedalboard.Pedalboard(list(plugins(settings)))
        return lambda audio: made(audio, rate, reset=True)

    return opened


def recursion(sections: Callable[[Settings, int], np.ndarray], dtype: Any) -> Baseline:
    """Scipy's `sosfilt` on float32 or float64."""

    def opened(rate: int, settings: Settings) -> Render:
        sos = sections(settings, rate).astype(dtype)
        return lambda audio: np.asarray(scipy.signal.sosfilt(sos, audio.astype(dtype)))

    return opened


def part(settings: Settings, name: str) -> Settings:
    """The settings of one member of a chain, without its prefix."""
    prefix = f"{name}."
    return {k[len(prefix) :]: v for k, v in settings.items() if k.startswith(prefix)}


def bell(s: Settings) -> Any:
    """One peak in pedalboard."""
    return pedalboard.PeakFilter(s["cutoff_hz"], s["gain_db"], s["q"])


def six_bands(s: Settings) -> list[Any]:
    """The parametric equalizer in pedalboard."""
    low, high = part(s, "low_shelf"), part(s, "high_shelf")
    return [
        pedalboard.LowShelfFilter(low["cutoff_hz"], low["gain_db"], low["q"]),
        *(bell(part(s, f"peak{k}")) for k in range(1, 5)),
        pedalboard.HighShelfFilter(high["cutoff_hz"], high["gain_db"], high["q"]),
    ]


def six_sections(s: Settings, rate: int) -> np.ndarray:
    """The parametric equalizer as second-order sections."""
    designs = {"low_shelf": filters.low_shelf, "high_shelf": filters.high_shelf}
    members = list(dict.fromkeys(name.split(".")[0] for name in s))
    rows = []
    for member in members:
        own = part(s, member)
        design = designs.get(member, filters.peak)
        rows.append(design(own["cutoff_hz"], own["gain_db"], own["q"], rate))
    return np.asarray(filters.sections(*rows))


def octave_peaks(s: Settings, rate: int) -> np.ndarray:
    """One section for each gain of the graphic equalizer."""
    hz = [float(name.split("_")[1].removesuffix("hz")) for name in s]
    pairs = zip(hz, s.values(), strict=True)
    return np.asarray(
        filters.sections(*(filters.peak(f, g, 1.41, rate) for f, g in pairs))
    )


def squeeze(s: Settings) -> Any:
    """Pedalboard's compressor."""
    return pedalboard.Compressor(
        s["threshold_db"], s["ratio"], s["attack_ms"], s["release_ms"]
    )


def strip(rate: int) -> Effect:
    """Equalizer, compressor, gain: 25 controls."""
    return chain(
        eq=make("parametric_equalizer", rate),
        compressor=make("compressor", rate),
        gain=make("gain", rate),
    )


def strip_board(s: Settings) -> list[Any]:
    """The same in pedalboard."""
    return [
        *six_bands(part(s, "eq")),
        squeeze(part(s, "compressor")),
        pedalboard.Gain(part(s, "gain")["gain_db"]),
    ]


def oversampled_tanh(rate: int, settings: Settings) -> Render:
    """Four times the rate by scipy's polyphase filters, and tanh between them."""
    drive = np.float32(10.0 ** (settings["drive_db"] / 20.0))

    def render(audio: np.ndarray) -> np.ndarray:
        up = np.tanh(drive * scipy.signal.resample_poly(audio, 4, 1, axis=-1))
        return scipy.signal.resample_poly(up, 1, 4, axis=-1)

    return render


def convolved(rate: int, settings: Settings) -> Render:
    """Overlap-add with noise as long as the reverb's."""
    noise = np.random.default_rng(0).standard_normal((1, round(REVERB_S * rate)))
    noise = noise.astype(np.float32)
    return lambda audio: scipy.signal.oaconvolve(audio, noise, axes=-1)[
        :, : audio.shape[-1]
    ]


def registered(name: str) -> Callable[[int], Effect]:
    """The factory of an effect by name."""
    return lambda rate: make(name, rate)


ENTRIES: dict[str, Entry] = {
    "parametric_equalizer": Entry(
        registered("parametric_equalizer"),
        {
            "pedalboard 6 filters": board(six_bands),
            "scipy sosfilt float32": recursion(six_sections, np.float32),
            "scipy sosfilt float64": recursion(six_sections, np.float64),
        },
    ),
    "peak": Entry(
        registered("peak"), {"pedalboard PeakFilter": board(lambda s: [bell(s)])}
    ),
    "graphic_equalizer": Entry(
        registered("graphic_equalizer"),
        {"scipy sosfilt float32": recursion(octave_peaks, np.float32)},
    ),
    "compressor": Entry(
        registered("compressor"),
        {"pedalboard Compressor": board(lambda s: [squeeze(s)])},
    ),
    "limiter": Entry(
        registered("limiter"),
        {
            "pedalboard Brickwall": board(
                lambda s: [
                    pedalboard.BrickwallLimiter(
                        ceiling_db=s["ceiling_db"],
                        release_ms=s["release_ms"],
                        lookahead_ms=2.0,
                    )
                ]
            )
        },
    ),
    "noise_gate": Entry(
        registered("noise_gate"),
        {
            "pedalboard NoiseGate": board(
                lambda s: [
                    pedalboard.NoiseGate(
                        s["threshold_db"], s["ratio"], s["attack_ms"], s["release_ms"]
                    )
                ]
            )
        },
    ),
    "tanh_distortion": Entry(
        registered("tanh_distortion"),
        {
            "pedalboard Distortion": board(
                lambda s: [pedalboard.Distortion(s["drive_db"])]
            )
        },
    ),
    "tanh, oversampled": Entry(
        lambda rate: tanh_distortion(rate, oversampling=4),
        {"scipy resample_poly x 4": oversampled_tanh},
    ),
    "delay": Entry(
        registered("delay"),
        {
            "pedalboard Delay": board(
                lambda s: [
                    pedalboard.Delay(1e-3 * s["delay_ms"], s["feedback"], s["mix"])
                ]
            )
        },
    ),
    "chorus": Entry(
        registered("chorus"),
        {
            "pedalboard Chorus": board(
                lambda s: [
                    pedalboard.Chorus(
                        s["rate_hz"], 0.25, s["centre_delay_ms"], 0.0, s["mix"]
                    )
                ]
            )
        },
    ),
    "phaser": Entry(
        registered("phaser"),
        {
            "pedalboard Phaser": board(
                lambda s: [
                    pedalboard.Phaser(
                        s["rate_hz"], 0.5, s["centre_hz"], s["feedback"], s["mix"]
                    )
                ]
            )
        },
    ),
    "freeverb": Entry(
        registered("freeverb"),
        {
            "pedalboard Reverb": board(
                lambda s: [
                    pedalboard.Reverb(
                        s["room_size"],
                        s["damping"],
                        s["wet_level"],
                        s["dry_level"],
                        s["width"],
                    )
                ]
            )
        },
    ),
    "feedback_delay_network": Entry(
        registered("feedback_delay_network"),
        {"pedalboard Reverb": board(lambda s: [pedalboard.Reverb()])},
    ),
    "noise_reverb": Entry(registered("noise_reverb"), {"scipy oaconvolve": convolved}),
    "gain": Entry(
        registered("gain"),
        {"pedalboard Gain": board(lambda s: [pedalboard.Gain(s["gain_db"])])},
    ),
    "channel_strip": Entry(strip, {"pedalboard 8 plug-ins": board(strip_board)}),
}
