"""Twins of pedalboard's filters: shelves, peak, first-order high and low pass.

pedalboard computes coefficients and recursion in float32, in the transposed direct form
of JUCE; the twins are exact where it rounds. What differs is pedalboard's error: the
coefficients of a low cutoff lie within 1e-5 of those of 0 Hz, of which float32 keeps a
few digits. Relative RMS over random settings of the catalogue, speech and music, 24 to
48 kHz: passes at most 2e-6; shelves and peaks 1e-5 in the median, below 1e-3 in 97 of
100 and wherever the cutoff is above 100 Hz, at most 5e-3 (shelf at 20 Hz) and 1e-2
(peak at 25 Hz, +18 dB, q 4). There pedalboard is as far from the filter it names: its
peak at 25 Hz is met bit for bit by a float32 recursion with coefficients rounded as
JUCE rounds them, and that is as far from float64. The twins keep to the filter, whose
gradient is wanted.

Reference: JUCE, dsp::IIR::Coefficients, whose shelves and peaks are those of the Audio
  EQ Cookbook with the same Q, and whose first-order passes are bilinear transforms.
"""

from collections.abc import Callable

from ddspx.effects.base import Processor
from ddspx.effects.equalizer import sections_processor
from ddspx.filters import analog
from ddspx.filters.analog import Section
from ddspx.types import Rate
from styletransfer.twins.twin import Twin


def _gained(design: Callable[..., Section]) -> Twin:
    def make(sample_rate: Rate) -> Processor:
        def sections(values):
            cutoff_hz = values["cutoff_frequency_hz"]
            gained = design(cutoff_hz, values["gain_db"], values["q"], sample_rate)
            return analog.series(gained)

        return sections_processor(sections, 1)

    # JUCE's float32 of 1 / sqrt(2).
    defaults = {"cutoff_frequency_hz": 440.0, "gain_db": 0.0, "q": 0.7071067690849304}
    return Twin(defaults, make)


def _first_order(design: Callable[..., Section]) -> Twin:
    def make(sample_rate: Rate) -> Processor:
        def sections(values):
            return analog.series(design(values["cutoff_frequency_hz"], sample_rate))

        return sections_processor(sections, 1)

    return Twin({"cutoff_frequency_hz": 50.0}, make)


TWINS: dict[str, Twin] = {
    "LowShelfFilter": _gained(analog.low_shelf),
    "HighShelfFilter": _gained(analog.high_shelf),
    "PeakFilter": _gained(analog.peak),
    "HighpassFilter": _first_order(analog.first_order_high_pass),
    "LowpassFilter": _first_order(analog.first_order_low_pass),
}
