"""Names for the arrays that pass between modules.

Shapes are read left to right: leading dimensions, then channels, then time. Audio is
float32, nominally in [-1, 1], and is never clipped on its way.
"""

import jax
import numpy as np
from jaxtyping import Float, Int, Key

AnyArray = jax.Array | np.ndarray

Signal = Float[AnyArray, "*batch time"]
Audio = Float[AnyArray, "*batch channels time"]
Controls = Float[AnyArray, "*batch n"]
PerExample = Float[AnyArray, "*batch"]
Spectrum = Float[AnyArray, "*batch bins frames"]
Indices = Int[AnyArray, "*batch"]
RandomKey = Key[jax.Array, ""]
# A frequency or a rate in Hz: whole numbers are as welcome as fractions.
Rate = int | float
