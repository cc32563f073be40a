"""Sane ranges for every pedalboard built-in: the facts behind a three-line YAML.

pedalboard's setters accept nearly anything: a cutoff of -1 Hz explodes, NaN passes
all of them. A range here is one within which the effect is stable and a person would
turn the knob; `limits` are the wider bounds beyond which a description is refused.
Hz, ms and Q run on log curves. The module does not import pedalboard.

Identities, on audio within [-1, 1] (held by tests/test_hosts_catalogue.py): exact for
Compressor, NoiseGate, Gain, the shelves and the peak, Clipping, Chorus, Phaser,
Delay, Reverb and Convolution; 1e-6 for PitchShift, 1e-4 for Bitcrush. HighpassFilter
at its lowest cutoff does least: less than 0.05 dB above 200 Hz, but it turns the phase.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

from ddspx.parameters import ParameterSpec, choice, db, hz, log, ms, plain

ON_OFF = ("off", "on")
LADDER_MODES = ("LPF12", "HPF12", "BPF12", "LPF24", "HPF24", "BPF24")
RESAMPLE_QUALITIES = (
    "ZeroOrderHold",
    "Linear",
    "CatmullRom",
    "Lagrange",
    "WindowedSinc",
    "WindowedSinc256",
    "WindowedSinc128",
    "WindowedSinc64",
    "WindowedSinc32",
    "WindowedSinc16",
    "WindowedSinc8",
)

Channels = Literal["independent", "linked"]


@dataclass(frozen=True)
class PluginFacts:
    """What is known of one built-in.

    Attributes:
      parameters: every parameter, continuous ones first, with its sane range.
      limits: accepted [low, high] of a parameter; its sane range where not given.
      required: constructor arguments that a description must fix.
      optional: further constructor arguments that a description may fix.
      channels: ``"independent"``: each channel is rendered as if it were alone;
        ``"linked"``: channels influence each other.
      max_channels: more than these are rendered wrongly or refused; None for any.
      tail_s: seconds until -80 dB at the settings in range, roughly.
      prepare: must have processed once at the sample rate before it is set.
      reuse: one instance serves all renders (a reset makes it new), because making
        one is dear.
    """

    parameters: tuple[ParameterSpec, ...]
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    channels: Channels = "independent"
    max_channels: int | None = None
    tail_s: float = 0.05
    prepare: bool = False
    reuse: bool = False

    def parameter(self, name: str) -> ParameterSpec:
        """The spec of one parameter; KeyError when there is none of that name."""
        return {spec.name: spec for spec in self.parameters}[name]

    def accepted(self, name: str) -> tuple[float, float]:
        """Bounds that a description must stay within."""
        spec = self.parameter(name)
        return self.limits.get(name, (spec.low, spec.high))


_AUDIBLE = (1.0, 96e3)
_Q = (0.02, 100.0)
_EQUALIZER_LIMITS = {
    "cutoff_frequency_hz": _AUDIBLE,
    "gain_db": (-60.0, 60.0),
    "q": _Q,
}
_BALLISTICS_LIMITS = {
    "threshold_db": (-120.0, 60.0),
    "ratio": (1.0, 1000.0),
    "attack_ms": (0.0, 10e3),
    "release_ms": (0.0, 10e3),
}


def _band(default_hz: float, q: ParameterSpec) -> PluginFacts:
    return PluginFacts(
        (
            hz("cutoff_frequency_hz", 20.0, 18e3, default_hz),
            db("gain_db", -18.0, 18.0, 0.0, identity=0.0),
            q,
        ),
        _EQUALIZER_LIMITS,
    )


BUILTINS: dict[str, PluginFacts] = {
    "Bitcrush": PluginFacts(
        (plain("bit_depth", 2.0, 16.0, 8.0, identity=16.0),),
        {"bit_depth": (1.0, 32.0)},
    ),
    "BrickwallLimiter": PluginFacts(
        (
            db("ceiling_db", -24.0, 0.0, -1.0),
            ms("release_ms", 10.0, 1000.0, 100.0),
            ms("lookahead_ms", 0.5, 20.0, 5.0),
            choice("true_peak", ON_OFF, "off"),
        ),
        {
            "ceiling_db": (-90.0, 24.0),
            "release_ms": (0.01, 10e3),
            "lookahead_ms": (0.01, 100.0),
        },
        channels="linked",
    ),
    "Chorus": PluginFacts(
        (
            hz("rate_hz", 0.1, 10.0, 1.0),
            plain("depth", 0.0, 1.0, 0.25),
            ms("centre_delay_ms", 1.0, 40.0, 7.0),
            plain("feedback", -0.9, 0.9, 0.0),
            plain("mix", 0.0, 1.0, 0.5, identity=0.0),
        ),
        {
            "rate_hz": (0.0, 99.0),
            "centre_delay_ms": (1.0, 100.0),
            "feedback": (-0.99, 0.99),
        },
        tail_s=1.0,
    ),
    "Clipping": PluginFacts(
        (db("threshold_db", -36.0, 0.0, -6.0, identity=0.0),),
        {"threshold_db": (-96.0, 24.0)},
    ),
    "Compressor": PluginFacts(
        (
            db("threshold_db", -60.0, 0.0, -20.0),
            log("ratio", 1.0, 20.0, 4.0, identity=1.0),
            ms("attack_ms", 0.1, 100.0, 5.0),
            ms("release_ms", 10.0, 1000.0, 100.0),
        ),
        _BALLISTICS_LIMITS,
    ),
    "Convolution": PluginFacts(
        (plain("mix", 0.0, 1.0, 1.0, identity=0.0),),
        required=("impulse_response_filename",),
        channels="independent",
        max_channels=2,
        tail_s=2.0,
        reuse=True,
    ),
    "Delay": PluginFacts(
        (
            ParameterSpec("delay_seconds", 0.02, 1.0, "s", "log", 0.25),
            plain("feedback", 0.0, 0.9, 0.3),
            plain("mix", 0.0, 1.0, 0.35, identity=0.0),
        ),
        {"delay_seconds": (0.0, 30.0), "feedback": (0.0, 0.99)},
        tail_s=3.0,
    ),
    "Distortion": PluginFacts(
        (db("drive_db", 0.0, 40.0, 15.0),), {"drive_db": (-60.0, 90.0)}
    ),
    "GSMFullRateCompressor": PluginFacts(
        (choice("quality", RESAMPLE_QUALITIES, "WindowedSinc8"),), channels="linked"
    ),
    "Gain": PluginFacts(
        (db("gain_db", -24.0, 24.0, 0.0, identity=0.0),), {"gain_db": (-120.0, 60.0)}
    ),
    "HighShelfFilter": _band(4000.0, log("q", 0.3, 1.5, 0.7071)),
    "HighpassFilter": PluginFacts(
        (hz("cutoff_frequency_hz", 20.0, 8e3, 80.0, identity=20.0),),
        {"cutoff_frequency_hz": _AUDIBLE},
    ),
    "Invert": PluginFacts((), tail_s=0.0),
    "LadderFilter": PluginFacts(
        (
            hz("cutoff_hz", 40.0, 16e3, 1000.0),
            plain("resonance", 0.0, 0.95, 0.2),
            log("drive", 1.0, 10.0, 1.0),
            choice("mode", LADDER_MODES, "LPF12"),
        ),
        {"cutoff_hz": _AUDIBLE, "resonance": (0.0, 1.0), "drive": (1.0, 100.0)},
    ),
    "Limiter": PluginFacts(
        (
            db("threshold_db", -40.0, 0.0, -10.0),
            ms("release_ms", 10.0, 1000.0, 100.0),
        ),
        {"threshold_db": (-120.0, 24.0), "release_ms": (0.01, 10e3)},
    ),
    "LowShelfFilter": _band(200.0, log("q", 0.3, 1.5, 0.7071)),
    "LowpassFilter": PluginFacts(
        (hz("cutoff_frequency_hz", 100.0, 20e3, 8000.0),),
        {"cutoff_frequency_hz": _AUDIBLE},
    ),
    "MP3Compressor": PluginFacts(
        (plain("vbr_quality", 0.0, 9.5, 2.0),),
        {"vbr_quality": (0.0, 9.99)},
        channels="linked",
        max_channels=2,
    ),
    "NoiseGate": PluginFacts(
        (
            db("threshold_db", -100.0, -10.0, -60.0, identity=-100.0),
            log("ratio", 1.0, 20.0, 10.0, identity=1.0),
            ms("attack_ms", 0.1, 100.0, 1.0),
            ms("release_ms", 10.0, 1000.0, 100.0),
        ),
        _BALLISTICS_LIMITS,
    ),
    "PeakFilter": _band(1000.0, log("q", 0.2, 8.0, 0.7071)),
    "Phaser": PluginFacts(
        (
            hz("rate_hz", 0.05, 8.0, 1.0),
            plain("depth", 0.0, 1.0, 0.5),
            hz("centre_frequency_hz", 100.0, 8e3, 1300.0),
            plain("feedback", -0.9, 0.9, 0.0),
            plain("mix", 0.0, 1.0, 0.5, identity=0.0),
        ),
        {
            "rate_hz": (0.0, 99.0),
            "centre_frequency_hz": (20.0, 20e3),
            "feedback": (-0.99, 0.99),
        },
        tail_s=0.2,
        prepare=True,
    ),
    "PitchShift": PluginFacts(
        (plain("semitones", -12.0, 12.0, 0.0, identity=0.0),),
        {"semitones": (-72.0, 72.0)},
        channels="linked",
        tail_s=0.1,
    ),
    "Resample": PluginFacts(
        (
            hz("target_sample_rate", 2000.0, 48e3, 8000.0),
            choice("quality", RESAMPLE_QUALITIES, "WindowedSinc32"),
        ),
        {"target_sample_rate": (100.0, 192e3)},
    ),
    "Reverb": PluginFacts(
        (
            plain("room_size", 0.0, 1.0, 0.5),
            plain("damping", 0.0, 1.0, 0.5),
            plain("wet_level", 0.0, 1.0, 0.33, identity=0.0),
            plain("dry_level", 0.0, 1.0, 0.4, identity=0.5),
            plain("width", 0.0, 1.0, 1.0),
            choice("freeze_mode", ON_OFF, "off"),
        ),
        channels="linked",
        max_channels=2,
        tail_s=4.0,
    ),
}

# Left at their defaults unless a description asks for them by name: look-ahead only
# moves a decision that is hardly heard.
NOT_BY_DEFAULT = {("BrickwallLimiter", "lookahead_ms")}


def facts(plugin: str) -> PluginFacts:
    """What is known of a built-in.

    Args:
      plugin: pedalboard's class name, such as ``"Compressor"``.

    Raises:
      ValueError: there is no such built-in; names the nearest spelling.
    """
    if plugin not in BUILTINS:
        raise ValueError(
            f"unknown plug-in {plugin!r}{nearest(plugin, BUILTINS)};"
            f" known: {', '.join(sorted(BUILTINS))}"
        )
    return BUILTINS[plugin]


def default_controls_of(
    plugin: str, known: PluginFacts | None = None
) -> tuple[ParameterSpec, ...]:
    """The parameters that are controlled when a description names none.

    All continuous ones but those in `NOT_BY_DEFAULT`; `known` where the plug-in is none
    of the built-ins.
    """
    return tuple(
        spec
        for spec in (known or facts(plugin)).parameters
        if not spec.choices and (plugin, spec.name) not in NOT_BY_DEFAULT
    )


def nearest(name: str, known) -> str:
    """``", did you mean 'x'?"`` for an error message, or nothing."""
    by_case = {str(k).lower(): str(k) for k in known}
    close = get_close_matches(str(name).lower(), list(by_case), n=1, cutoff=0.5)
    return f", did you mean {by_case[close[0]]!r}?" if close else ""
