"""Filter banks: bands of noise, and cosine-modulated banks that can be undone."""

from ddspx.filterbank.bands import (
    Bands,
    band_magnitudes,
    flatness_db,
    make_bands,
)
from ddspx.filterbank.noise_bands import NoiseBank, bank_of_loops, noise_bank
from ddspx.filterbank.pqmf import (
    Pqmf,
    analysis_state,
    analyze,
    analyze_block,
    make_pqmf,
    reconstruction_db,
    synthesis_state,
    synthesize,
    synthesize_block,
)

__all__ = [
    "Bands",
    "NoiseBank",
    "Pqmf",
    "analysis_state",
    "analyze",
    "analyze_block",
    "band_magnitudes",
    "bank_of_loops",
    "flatness_db",
    "make_bands",
    "make_pqmf",
    "noise_bank",
    "reconstruction_db",
    "synthesis_state",
    "synthesize",
    "synthesize_block",
]
