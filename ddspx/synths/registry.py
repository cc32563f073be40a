"""Every synth of the project by name, made with a sample rate and a hop, nothing else.

Sizes that factories ask for are small here: sixteen harmonics, a handful of bins.
Whoever is in this table is held to the conformance suite,
tests/test_synths_conformance.py.
"""

from collections.abc import Callable
from difflib import get_close_matches

import jax

from ddspx.filterbank import make_bands, noise_bank
from ddspx.synths.base import Synth, mix
from ddspx.synths.harmonic import harmonic
from ddspx.synths.karplus_strong import karplus_strong
from ddspx.synths.noise import filtered_noise
from ddspx.synths.noise_band import noise_bands
from ddspx.synths.sinusoidal import sinusoidal
from ddspx.synths.wavetable import wavetable
from ddspx.types import Rate

Factory = Callable[[Rate, int], Synth]


def _harmonic_plus_noise(sample_rate: Rate, hop: int) -> Synth:
    return mix(harmonic(sample_rate, hop, 16), filtered_noise(sample_rate, hop, 33))


def _noise_bands(sample_rate: Rate, hop: int) -> Synth:
    bands = make_bands(sample_rate, 12)
    bank = noise_bank(bands, hop, jax.random.key(0), samples=16384)
    # At the start of a hop, where frames of the others lie, so that all can be mixed.
    return noise_bands(bank, hop, frame_at="start")


SYNTHS: dict[str, Factory] = {
    "harmonic": lambda rate, hop: harmonic(rate, hop, 16),
    "sinusoidal": lambda rate, hop: sinusoidal(rate, hop, 8),
    "wavetable": lambda rate, hop: wavetable(rate, hop, 64),
    "filtered_noise": lambda rate, hop: filtered_noise(rate, hop, 33),
    "harmonic_plus_noise": _harmonic_plus_noise,
    "noise_bands": _noise_bands,
    "karplus_strong": karplus_strong,
}


def make(name: str, sample_rate: Rate, hop: int) -> Synth:
    """The synth of that name.

    Args:
      name: a key of `SYNTHS`.
      sample_rate: Hz.
      hop: samples from frame to frame.

    Returns:
      A `Synth`.

    Raises:
      ValueError: there is no such synth, and the message names the nearest ones; or
        its factory refuses the rate or the hop.

    Example:
      ``make("harmonic_plus_noise", 11600, 64).render(controls, key)``
    """
    if name not in SYNTHS:
        close = get_close_matches(name.lower(), SYNTHS, n=3, cutoff=0.4)
        hint = f" did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(
            f"no synth is called {name!r};{hint} known are {', '.join(SYNTHS)}"
        )
    return SYNTHS[name](sample_rate, hop)
