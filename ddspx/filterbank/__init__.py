"""Filter banks: bands of noise, and cosine-modulated banks that can be undone."""

from ddspx.filterbank.bands import (
    Bands,
    band_magnitudes,
    flatness_db,
    make_bands,
)
from ddspx.filterbank.noise_bands import NoiseBank, bank_of_loops, noise_bank

__all__ = [
    "Bands",
    "NoiseBank",
    "band_magnitudes",
    "bank_of_loops",
    "flatness_db",
    "make_bands",
    "noise_bank",
]
