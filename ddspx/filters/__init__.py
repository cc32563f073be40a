"""Linear recursive filters: design, responses, and exact recursion with gradients."""

from ddspx.filters import analog
from ddspx.filters.analog import Section, coefficients, series
from ddspx.filters.design import (
    Biquad,
    band_pass,
    biquad,
    high_pass,
    high_shelf,
    low_pass,
    low_shelf,
    notch,
    peak,
    sections,
)
from ddspx.filters.recursion import (
    Method,
    filter_moving,
    filter_sections,
    sosfilt,
    sosfilt_fixed,
)
from ddspx.filters.response import frequency_response, section_response
from ddspx.filters.scan import all_pole, state_variable
from ddspx.filters.weighting import (
    a_weighting_db,
    a_weighting_fir,
    k_weighting,
)

__all__ = [
    "Biquad",
    "Method",
    "Section",
    "a_weighting_db",
    "a_weighting_fir",
    "all_pole",
    "analog",
    "band_pass",
    "biquad",
    "coefficients",
    "filter_moving",
    "filter_sections",
    "frequency_response",
    "high_pass",
    "high_shelf",
    "k_weighting",
    "low_pass",
    "low_shelf",
    "notch",
    "peak",
    "section_response",
    "sections",
    "series",
    "sosfilt",
    "sosfilt_fixed",
    "state_variable",
]
