"""The `Twin`: the differentiable counterpart of one pedalboard built-in.

A twin reads pedalboard's parameters, by pedalboard's names and in its units, and gives
pedalboard's sound. Its ranges are those of `styletransfer.hosts.catalogue`, so that the
same controls mean the same physical values on both sides.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from ddspx.effects.base import Processor
from ddspx.types import Rate


class Twin(NamedTuple):
    """A built-in of pedalboard as differentiable JAX.

    Attributes:
      defaults: pedalboard's own default of every parameter by name, a choice as its
        text; what holds where neither a control nor a fixed value says otherwise.
      make: ``(sample_rate) -> Processor``, whose values arrive under pedalboard's names
        in pedalboard's units, a choice as its index in the catalogue's choices.
      limits: [low, high] of a parameter, where the twin bears less than the catalogue
        says of pedalboard.
    """

    defaults: Mapping[str, float | str]
    make: Callable[[Rate], Processor]
    limits: Mapping[str, tuple[float, float]] = MappingProxyType({})
