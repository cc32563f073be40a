"""Equalisers: one band, cascades of bands, and the state-variable filter.

Every effect here is recursive filters in series, exact for any length of block, and
with controls that may move by the sample. Output is not limited: a peak of +12 dB is
four times the input. Cutoffs reach from 20 Hz to 20 kHz, or 0.45 of the sample rate.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from ddspx.effects.base import Effect, Processor, Values, make_effect
from ddspx.filters import analog, filter_moving, filter_sections
from ddspx.filters.analog import Section
from ddspx.parameters import ParameterSpec, db, hz, log, plain
from ddspx.types import Rate

BUTTERWORTH_Q = math.sqrt(0.5)
_HIGHEST = 0.45
_GAIN_DB = 24.0

Kind = Literal["low_shelf", "peak", "high_shelf", "high_pass", "low_pass"]


class Band(NamedTuple):
    """One band of a cascade.

    Attributes:
      name: prefix of its controls.
      kind: one of low_shelf, peak, high_shelf, high_pass, low_pass.
      low_hz: lowest cutoff.
      high_hz: highest cutoff, limited by the sample rate.
      default_hz: cutoff to begin with.
      gain_db: gains reach from minus to plus this; passes have none.
    """

    name: str
    kind: Kind
    low_hz: float
    high_hz: float
    default_hz: float
    gain_db: float = _GAIN_DB


BANDS = (
    Band("low_shelf", "low_shelf", 20.0, 2000.0, 100.0),
    Band("peak1", "peak", 40.0, 4000.0, 250.0),
    Band("peak2", "peak", 80.0, 8000.0, 800.0),
    Band("peak3", "peak", 160.0, 16000.0, 2500.0),
    Band("peak4", "peak", 320.0, 20000.0, 6000.0),
    Band("high_shelf", "high_shelf", 1000.0, 20000.0, 10000.0),
)


def sections_processor(design: Callable[[Values], Section], count: int) -> Processor:
    """A processor of sections in series.

    Args:
      design: ``values -> sections``, stable ones, [count], or [time, count] where the
        values move.
      count: of sections.

    Returns:
      A `Processor` whose controls may move; its state is [channels, count, 2].
    """

    def init_state(channels):
        return jnp.zeros((channels, count, 2))

    def process(state, audio, values):
        sections = design(values)
        run = filter_moving if jnp.ndim(sections.warp) > 1 else filter_sections
        audio, after = run(audio, sections, state)
        return after, audio

    return Processor(init_state, process, moving=True)


def low_shelf(sample_rate: Rate) -> Effect:
    """Gain below the cutoff, none above; half of it, in dB, at the cutoff.

    Args:
      sample_rate: Hz.

    Returns:
      An `Effect` with cutoff_hz, gain_db and q, see `ddspx.filters.analog.low_shelf`.
    """
    specs = (
        cutoff("cutoff_hz", sample_rate, 200.0),
        db("gain_db", -_GAIN_DB, _GAIN_DB, 0.0, 0.0),
        log("q", 0.2, 4.0, BUTTERWORTH_Q),
    )
    return _gained(analog.low_shelf, specs, sample_rate)


def high_shelf(sample_rate: Rate) -> Effect:
    """Gain above the cutoff, none below; half of it, in dB, at the cutoff.

    Args:
      sample_rate: Hz.

    Returns:
      An `Effect` with cutoff_hz, gain_db and q, see `ddspx.filters.analog.high_shelf`.
    """
    specs = (
        cutoff("cutoff_hz", sample_rate, 4000.0),
        db("gain_db", -_GAIN_DB, _GAIN_DB, 0.0, 0.0),
        log("q", 0.2, 4.0, BUTTERWORTH_Q),
    )
    return _gained(analog.high_shelf, specs, sample_rate)


def peak(sample_rate: Rate) -> Effect:
    """A bell around its center.

    Args:
      sample_rate: Hz.

    Returns:
      An `Effect` with cutoff_hz (the center), gain_db and q, see
      `ddspx.filters.analog.peak`.
    """
    specs = (
        cutoff("cutoff_hz", sample_rate, 1000.0),
        db("gain_db", -_GAIN_DB, _GAIN_DB, 0.0, 0.0),
        log("q", 0.1, 18.0, 1.0),
    )
    return _gained(analog.peak, specs, sample_rate)


def high_pass(sample_rate: Rate) -> Effect:
    """Cuts below the cutoff by 12 dB per octave; gain `q` at the cutoff.

    Args:
      sample_rate: Hz.

    Returns:
      An `Effect` with cutoff_hz and q.
    """
    return _plain(analog.high_pass, sample_rate, 80.0, BUTTERWORTH_Q)


def low_pass(sample_rate: Rate) -> Effect:
    """Cuts above the cutoff by 12 dB per octave; gain `q` at the cutoff.

    Args:
      sample_rate: Hz.

    Returns:
      An `Effect` with cutoff_hz and q.
    """
    return _plain(analog.low_pass, sample_rate, 8000.0, BUTTERWORTH_Q)


def band_pass(sample_rate: Rate) -> Effect:
    """Passes its center with gain 1 and cuts by 6 dB per octave to both sides.

    Args:
      sample_rate: Hz.

    Returns:
      An `Effect` with cutoff_hz (the center) and q (center over the -3 dB width).
    """
    return _plain(analog.band_pass, sample_rate, 1000.0, 1.0)


def notch(sample_rate: Rate) -> Effect:
    """Removes its center.

    Args:
      sample_rate: Hz.

    Returns:
      An `Effect` with cutoff_hz (the center) and q (center over the -3 dB width).
    """
    return _plain(analog.notch, sample_rate, 1000.0, 1.0)


def first_order_high_pass(sample_rate: Rate) -> Effect:
    """Cuts below the cutoff by 6 dB per octave, -3 dB at the cutoff.

    Args:
      sample_rate: Hz.

    Returns:
      An `Effect` with cutoff_hz.
    """
    return _first_order(analog.first_order_high_pass, sample_rate, 80.0)


def first_order_low_pass(sample_rate: Rate) -> Effect:
    """Cuts above the cutoff by 6 dB per octave, -3 dB at the cutoff.

    Args:
      sample_rate: Hz.

    Returns:
      An `Effect` with cutoff_hz.
    """
    return _first_order(analog.first_order_low_pass, sample_rate, 8000.0)


def parametric_equalizer(sample_rate: Rate, *, bands: Sequence[Band] = BANDS) -> Effect:
    """Bands in series, as many as are asked for.

        H(z) = H_1(z) ... H_n(z)

    Args:
      sample_rate: Hz.
      bands: in the order of the signal; low shelf, four peaks, high shelf by default.

    Returns:
      An `Effect` with ``"<band>.cutoff_hz"``, ``"<band>.gain_db"`` (not of passes) and
      ``"<band>.q"`` for each band. At 0 dB a shelf or peak is the identity.

    Raises:
      ValueError: no bands, two of one name, or one that lies above the sample rate's
        reach.

    Reference: the layout is that of C. Steinmetz et al., Style transfer of audio
      effects with differentiable signal processing (2022).
    """
    specs = band_specs(bands, sample_rate)

    def design(values):
        return band_sections(bands, values, sample_rate)

    return make_effect(specs, sections_processor(design, len(bands)))


def state_variable_filter(sample_rate: Rate) -> Effect:
    """One filter with three outputs, mixed, whose cutoff and resonance may move.

        H(s) = (high s^2 + band s / Q + low) / (s^2 + s / Q + 1)

    Low alone is a low pass, band a band pass of gain 1, high a high pass, low and high
    a notch; all three at 1 give the input. Trapezoidal integration: neither clicks nor
    blows up while it is swept.

    Args:
      sample_rate: Hz.

    Returns:
      An `Effect` with cutoff_hz, q, low, band and high.

    Reference: V. Zavalishin, The Art of VA Filter Design (2018), 4.
    """
    specs = (
        cutoff("cutoff_hz", sample_rate, 1000.0),
        log("q", 0.5, 20.0, BUTTERWORTH_Q),
        plain("low", 0.0, 1.0, 1.0, 1.0),
        plain("band", 0.0, 1.0, 0.0, 1.0),
        plain("high", 0.0, 1.0, 0.0, 1.0),
    )

    def design(values):
        damping = 1.0 / values["q"]
        mix = (values["high"], values["band"] * damping, values["low"])
        denominator = (1.0, damping, 1.0)
        one = analog.section(values["cutoff_hz"], sample_rate, mix, denominator)
        return analog.series(one)

    return make_effect(specs, sections_processor(design, 1))


def band_specs(bands: Sequence[Band], sample_rate: Rate) -> tuple[ParameterSpec, ...]:
    """The controls of bands; raises where `parametric_equalizer` says."""
    names = [band.name for band in bands]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"bands need at least one name, each once; got {names}")
    specs = []
    for band in bands:
        lowest, highest = band.low_hz, min(band.high_hz, _HIGHEST * sample_rate)
        if lowest >= highest:
            raise ValueError(
                f"band {band.name!r} begins at {lowest} Hz, but {sample_rate} Hz allows"
                f" cutoffs up to {highest} Hz; leave the band out"
            )
        default = min(band.default_hz, math.sqrt(lowest * highest))
        if band.default_hz <= highest:
            default = band.default_hz
        specs.append(hz(f"{band.name}.cutoff_hz", lowest, highest, default))
        if band.kind not in ("high_pass", "low_pass"):
            gain = (-band.gain_db, band.gain_db, 0.0, 0.0)
            specs.append(db(f"{band.name}.gain_db", *gain))
        widest = 10.0 if band.kind == "peak" else 2.0
        specs.append(log(f"{band.name}.q", 0.2, widest, BUTTERWORTH_Q))
    return tuple(specs)


def band_sections(bands: Sequence[Band], values: Values, sample_rate: Rate) -> Section:
    """The bands in series, from the values of `band_specs`."""
    sections = []
    for band in bands:
        arguments = [values[f"{band.name}.cutoff_hz"]]
        if f"{band.name}.gain_db" in values:
            arguments.append(values[f"{band.name}.gain_db"])
        design: Any = getattr(analog, band.kind)
        sections.append(design(*arguments, values[f"{band.name}.q"], sample_rate))
    return analog.series(*sections)


def cutoff(name: str, sample_rate: Rate, default_hz: float) -> ParameterSpec:
    """A cutoff from 20 Hz to 20 kHz or 0.45 of the rate."""
    highest = min(20000.0, _HIGHEST * sample_rate)
    return hz(name, 20.0, highest, min(default_hz, 0.7 * highest))


def _gained(design: Callable[..., Section], specs: Any, sample_rate: Rate) -> Effect:
    def sections(values):
        three = (values["cutoff_hz"], values["gain_db"], values["q"])
        return analog.series(design(*three, sample_rate))

    return make_effect(specs, sections_processor(sections, 1))


def _plain(
    design: Callable[..., Section], sample_rate: Rate, default_hz: float, q: float
) -> Effect:
    specs = (cutoff("cutoff_hz", sample_rate, default_hz), log("q", 0.3, 20.0, q))

    def sections(values):
        return analog.series(design(values["cutoff_hz"], values["q"], sample_rate))

    return make_effect(specs, sections_processor(sections, 1))


def _first_order(
    design: Callable[..., Section], sample_rate: Rate, default_hz: float
) -> Effect:
    specs = (cutoff("cutoff_hz", sample_rate, default_hz),)

    def sections(values):
        return analog.series(design(values["cutoff_hz"], sample_rate))

    return make_effect(specs, sections_processor(sections, 1))


EFFECTS: dict[str, Callable[[Rate], Effect]] = {
    "low_shelf": low_shelf,
    "high_shelf": high_shelf,
    "peak": peak,
    "high_pass": high_pass,
    "low_pass": low_pass,
    "band_pass": band_pass,
    "notch": notch,
    "first_order_high_pass": first_order_high_pass,
    "first_order_low_pass": first_order_low_pass,
    "parametric_equalizer": parametric_equalizer,
    "state_variable_filter": state_variable_filter,
}
