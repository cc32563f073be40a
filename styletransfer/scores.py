"""How renders are scored: by a reference's style, or by a target.

A `StyleScore` of a refinement is robust. The style distance takes what another
instrument or speaker sounds like for the effect's doing, and a search then turns
controls for it. So each term t, with distance d_t over k_t entries, counts as

    rho_t = b_t ln(1 + d_t / b_t),   b_t = B sqrt(k_t),

the negative logarithm of a Student distribution: a normal one whose scale is not known
and integrated out. Where a term fits, rho_t is d_t; one that nothing fits, because the
contents differ there, pulls by 1 / (1 + d_t / b_t) of its weight only, and what is
known of the settings beforehand decides.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from ddspx import losses, signal
from ddspx.types import Rate
from styletransfer.style import StyleDistance, style_bands

# B of a refinement, chosen on recordings held out for choices; see docs/controllers.md.
TOLERANCE = 1.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StyleScore:
    """Score of a render against the style of a reference of other content.

    Attributes:
      wanted: the reference's style features.
      distance: how to compare.
      tolerance: B, see the module; infinite for the distance itself.
    """

    wanted: dict[str, jax.Array]
    distance: StyleDistance = field(metadata={"static": True})
    tolerance: float = field(default=math.inf, metadata={"static": True})

    def loss(self, render: jax.Array) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        """What counts of the style distance of a render, and the distance's terms."""
        features = self.distance.features(render)
        distance, terms = self.distance(features, self.wanted)
        if math.isinf(self.tolerance):
            return distance, terms
        residuals = self.distance.residuals(features, self.wanted)
        counted = [self._counted(jnp.sum(r**2), r.size) for r in residuals.values()]
        return sum(counted, jnp.zeros(())), terms

    def residuals(self, render: jax.Array) -> jax.Array:
        """Residuals [k] whose squares sum to the first of `loss`."""
        features = self.distance.features(render)
        residuals = self.distance.residuals(features, self.wanted)
        if math.isinf(self.tolerance):
            return jnp.concatenate(list(residuals.values()))
        scaled = []
        for residual in residuals.values():
            # A floor, so that the root has a slope where a term fits exactly.
            apart = jnp.sum(residual**2) + 1e-12
            share = self._counted(apart, residual.size) / apart
            scaled.append(residual * jnp.sqrt(share))
        return jnp.concatenate(scaled)

    def _counted(self, apart: jax.Array, entries: int) -> jax.Array:
        """rho_t of the module."""
        base = self.tolerance * math.sqrt(entries)
        return base * jnp.log1p(apart / base)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TargetScore:
    """Score of a render against the target of the same content.

    The loss is the multi-resolution STFT loss, mean over channels. The residuals are
    differences of band levels in dB, frame by frame, in the bands of the style
    distance: both vanish where the render equals the target.

    Attributes:
      wanted: the target [channels, time].
      sample_rate: Hz.
    """

    wanted: jax.Array
    sample_rate: Rate = field(metadata={"static": True})

    def loss(self, render: jax.Array) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        """The loss of a render [channels, time] and its terms, mean over channels."""
        loss, terms = losses.multi_resolution_stft(render, self.wanted)
        return jnp.mean(loss), {name: jnp.mean(term) for name, term in terms.items()}

    def residuals(self, render: jax.Array) -> jax.Array:
        """Differences of band levels, scaled so that their squares sum to the mean."""
        apart = (self._levels(render) - self._levels(self.wanted)).ravel()
        return apart / math.sqrt(apart.size)

    def _levels(self, audio: jax.Array) -> jax.Array:
        bands = style_bands(self.sample_rate, 0.45 * self.sample_rate)
        spectrum = signal.stft(
            audio,
            fft_size=bands.window_length,
            hop_length=bands.hop_length,
            center=False,
        )
        power = jnp.matmul(
            bands.weights, jnp.abs(spectrum) ** 2, precision=signal.PRECISE
        )
        power = power / bands.window_length**2
        return 10.0 * jnp.log10(power + 1e-6 * jnp.mean(self.wanted**2) + 1e-12)
