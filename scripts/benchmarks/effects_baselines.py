"""What `benchmark.py effects` measures: effects, and who else does the same forward.

Baselines read the effect's physical settings, so that both sides do the same work: of
pedalboard its nearest built-ins, of scipy the same sections or the same convolution, of
NumPy the same products where neither has the effect. Each is the best forward pass that
Python can call; none has a gradient. `gain` stands for all effects of level and place.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pedalboard
import scipy.signal

from ddspx import filters
from ddspx.effects import Effect, chain, make
from ddspx.effects.distortion import tanh_distortion
from ddspx.filters import analog

Settings = dict[str, float]
Render = Callable[[np.ndarray], np.ndarray]
# (sample rate, settings) -> a function of one signal [channels, time]
Baseline = Callable[[int, Settings], Render]

REVERB_S = 1.5
# The response that `convolution` has when none is given, and its longest pre-delay.
CONVOLUTION_S = 0.5
LINEAR_PHASE_TAPS = 2047


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


def one_section(design: Callable[..., Any]) -> Callable[[Settings, int], np.ndarray]:
    """A section from settings in the order of its design's arguments."""
    return lambda s, rate: np.asarray(filters.sections(design(*s.values(), rate)))


def mixed_section(s: Settings, rate: int) -> np.ndarray:
    """The state-variable filter at rest."""
    damping = 1.0 / s["q"]
    numerator = (s["high"], s["band"] * damping, s["low"])
    one = analog.section(s["cutoff_hz"], rate, numerator, (1.0, damping, 1.0))
    return np.concatenate(analog.coefficients(analog.series(one)), -1)


def differences(s: Settings, rate: int) -> np.ndarray:
    """The DC block as a section."""
    pole = np.exp(-2.0 * np.pi * s["cutoff_hz"] / rate)
    return np.array([[1.0, -1.0, 0.0, 1.0, -pole, 0.0]])


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


def convolved(seconds: float | None = None, taps: int = 0) -> Baseline:
    """Overlap-add with noise of that length."""

    def opened(rate: int, settings: Settings) -> Render:
        length = taps if seconds is None else round(seconds * rate)
        noise = np.random.default_rng(0).standard_normal((1, length))
        noise = noise.astype(np.float32)
        return lambda audio: scipy.signal.oaconvolve(audio, noise, axes=-1)[
            :, : audio.shape[-1]
        ]

    return opened


def multiplied(rate: int, settings: Settings) -> Render:
    """The audio times a sine, which NumPy computes anew."""
    per_sample = np.float32(2.0 * np.pi * settings["rate_hz"] / rate)

    def render(audio: np.ndarray) -> np.ndarray:
        time = np.arange(audio.shape[-1], dtype=np.float32)
        return audio * np.sin(per_sample * time)

    return render


def bent(rate: int, settings: Settings) -> Render:
    """Cubic clipping in NumPy, from the driven audio to the mix."""
    drive = np.float32(10.0 ** (settings["drive_db"] / 20.0))
    level = np.float32(10.0 ** (settings["output_db"] / 20.0))
    mix = np.float32(settings["mix"])

    def render(audio: np.ndarray) -> np.ndarray:
        v = np.clip(drive * audio, -1.0, 1.0)
        return (1.0 - mix) * audio + mix * level * (1.5 * v - 0.5 * v**3)

    return render


def swept(depth: str, centre: str, mix: str | None) -> Baseline:
    """Pedalboard's chorus at the settings of those names."""
    return board(
        lambda s: [
            pedalboard.Chorus(
                s["rate_hz"],
                min(0.05 * s[depth], 1.0),
                max(s[centre], 1.0),
                s.get("feedback", 0.0),
                1.0 if mix is None else s[mix],
            )
        ]
    )


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
    "low_shelf": Entry(
        registered("low_shelf"),
        {
            "pedalboard LowShelf": board(
                lambda s: [pedalboard.LowShelfFilter(*s.values())]
            )
        },
    ),
    "high_shelf": Entry(
        registered("high_shelf"),
        {
            "pedalboard HighShelf": board(
                lambda s: [pedalboard.HighShelfFilter(*s.values())]
            )
        },
    ),
    **{
        name: Entry(
            registered(name),
            {
                "scipy sosfilt float32": recursion(
                    one_section(getattr(filters, name)), np.float32
                )
            },
        )
        for name in ("high_pass", "low_pass", "band_pass", "notch")
    },
    "first_order_high_pass": Entry(
        registered("first_order_high_pass"),
        {
            "pedalboard Highpass": board(
                lambda s: [pedalboard.HighpassFilter(s["cutoff_hz"])]
            )
        },
    ),
    "first_order_low_pass": Entry(
        registered("first_order_low_pass"),
        {
            "pedalboard Lowpass": board(
                lambda s: [pedalboard.LowpassFilter(s["cutoff_hz"])]
            )
        },
    ),
    "state_variable_filter": Entry(
        registered("state_variable_filter"),
        {"scipy sosfilt float32": recursion(mixed_section, np.float32)},
    ),
    "third_octave_equalizer": Entry(
        registered("third_octave_equalizer"),
        {"scipy sosfilt float32": recursion(octave_peaks, np.float32)},
    ),
    "linear_phase_equalizer": Entry(
        registered("linear_phase_equalizer"),
        {"scipy oaconvolve": convolved(taps=LINEAR_PHASE_TAPS)},
    ),
    "dc_block": Entry(
        registered("dc_block"),
        {"scipy sosfilt float32": recursion(differences, np.float32)},
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
    **{
        name: Entry(
            registered(name),
            {
                "pedalboard NoiseGate": board(
                    lambda s: [
                        pedalboard.NoiseGate(
                            s["threshold_db"],
                            s["ratio"],
                            s["attack_ms"],
                            s["release_ms"],
                        )
                    ]
                )
            },
        )
        for name in ("noise_gate", "expander")
    },
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
    "hard_clip": Entry(
        registered("hard_clip"),
        {"pedalboard Clipping": board(lambda s: [pedalboard.Clipping(-s["drive_db"])])},
    ),
    "soft_clip": Entry(registered("soft_clip"), {"NumPy cubic": bent}),
    "bitcrush": Entry(
        registered("bitcrush"),
        {"pedalboard Bitcrush": board(lambda s: [pedalboard.Bitcrush(s["bit_depth"])])},
    ),
    **{
        name: Entry(
            registered(name),
            {
                "pedalboard Delay": board(
                    lambda s: [
                        pedalboard.Delay(1e-3 * s["delay_ms"], s["feedback"], s["mix"])
                    ]
                )
            },
        )
        for name in ("delay", "ping_pong_delay")
    },
    "chorus": Entry(
        registered("chorus"),
        {"pedalboard Chorus": swept("depth_ms", "centre_delay_ms", "mix")},
    ),
    "flanger": Entry(
        registered("flanger"),
        {"pedalboard Chorus": swept("depth_ms", "delay_ms", "mix")},
    ),
    "vibrato": Entry(
        registered("vibrato"),
        {"pedalboard Chorus": swept("depth_ms", "depth_ms", None)},
    ),
    **{
        name: Entry(registered(name), {"NumPy sine": multiplied})
        for name in ("tremolo", "ring_modulation", "auto_pan")
    },
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
    "noise_reverb": Entry(
        registered("noise_reverb"), {"scipy oaconvolve": convolved(REVERB_S)}
    ),
    "convolution": Entry(
        registered("convolution"), {"scipy oaconvolve": convolved(CONVOLUTION_S)}
    ),
    "polynomial_distortion": Entry(
        registered("polynomial_distortion"), {"NumPy cubic": bent}
    ),
    "gain": Entry(
        registered("gain"),
        {"pedalboard Gain": board(lambda s: [pedalboard.Gain(s["gain_db"])])},
    ),
    "channel_strip": Entry(strip, {"pedalboard 8 plug-ins": board(strip_board)}),
}
