"""A plain gain behind an effect, by what is left of the level after a prediction.

A setting that is nearly right in everything can still be some decibels off in level,
and the reference tells the level: of the same voice or instrument, treated alike, it is
about as loud as the answer should be. Other content is louder or softer by itself,
though, so that only a share of the difference is believed,

    t = s clip(L_reference - L_render, -24 dB, 24 dB),    L = 10 lg mean x^2.

Were both parts normal, what the prediction missed with variance v and what the content
differs by with variance c, the best s would be v / (v + c).

The gain is no control of the effect. It is reported, and undone by its negative.
"""

import numpy as np
from jaxtyping import Float

# Chosen on recordings held out for choices; see docs/controllers.md.
SHARE = 0.5
MOST_DB = 24.0


def level_trim_db(
    render: Float[np.ndarray, "channels time"],
    reference: Float[np.ndarray, "reference_channels reference_time"],
    share: float = SHARE,
) -> float:
    """The gain t in dB that a render is given; see the module.

    Args:
      render: what the effect made of the input.
      reference: the sound to match, of any length and rate.
      share: s, from 0, which leaves the level, to 1, which takes the reference's.

    Returns:
      Decibels; 0 where one of the two is silent.

    Raises:
      ValueError: the share is not between 0 and 1.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share {share} of the level difference must be in [0, 1]")
    power = [np.mean(np.square(a, dtype=np.float64)) for a in (render, reference)]
    if min(power) <= 1e-20:
        return 0.0
    apart = 10.0 * np.log10(power[1] / power[0])
    return float(share * np.clip(apart, -MOST_DB, MOST_DB))


def with_gain(
    audio: Float[np.ndarray, "channels time"], gain_db: float
) -> Float[np.ndarray, "channels time"]:
    """The audio, louder by so many decibels."""
    return audio * np.float32(10.0 ** (gain_db / 20.0))
