"""Every effect of the project by name, made with a sample rate and nothing else.

A family module lists its members in its own ``EFFECTS``; this table is their union.
Whoever is in it is held to the conformance suite, tests/test_effects_conformance.py.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches

from ddspx.effects import (
    delay,
    distortion,
    dynamics,
    equalizer,
    graphic,
    modulation,
    reverb,
    stereo,
)
from ddspx.effects.base import Effect, check_rate
from ddspx.types import Rate

Factory = Callable[[Rate], Effect]


def _union(*families: Mapping[str, Factory]) -> dict[str, Factory]:
    table: dict[str, Factory] = {}
    for family in families:
        twice = table.keys() & family.keys()
        if twice:
            raise ValueError(f"two effects are called {sorted(twice)}; rename one")
        table.update(family)
    return table


EFFECTS: dict[str, Factory] = _union(
    equalizer.EFFECTS,
    graphic.EFFECTS,
    dynamics.EFFECTS,
    distortion.EFFECTS,
    stereo.EFFECTS,
    delay.EFFECTS,
    modulation.EFFECTS,
    reverb.EFFECTS,
)


def make(name: str, sample_rate: Rate) -> Effect:
    """The effect of that name at its factory's defaults.

    Args:
      name: a key of `EFFECTS`.
      sample_rate: Hz.

    Returns:
      An `Effect`.

    Raises:
      ValueError: there is no such effect, and the message names the nearest ones; or
        the rate is no positive number.

    Example:
      ``make("compressor", 44100).render(audio, controls)``
    """
    if name not in EFFECTS:
        close = get_close_matches(name.lower(), EFFECTS, n=3, cutoff=0.4)
        hint = f" did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(
            f"no effect is called {name!r};{hint} known are {', '.join(EFFECTS)}"
        )
    check_rate(sample_rate)
    return EFFECTS[name](sample_rate)
