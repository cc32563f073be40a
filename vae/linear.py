"""The linear beta-VAE in closed form: what any trained model is judged against.

With centred data of covariance eigenvalues lambda_1 >= lambda_2 >= ..., decoder W z,
posterior N(V x, diag d), output variance sigma_x^2 and K latents, everything at the
optimum depends on the *water level* tau = beta sigma_x^2 alone: components above it
are kept, the rest switched off. tau is in the unit of the data's variance per example,
summed over its elements, so it compares runs whose losses are scaled differently.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from ddspx.types import AnyArray

Loss = Literal["half_sum", "sum", "mean"]


def water_level(beta: float, elements: int, loss: Loss, weight: float = 1.0) -> float:
    """The tau of a loss ``weight * reconstruction + beta * KL`` with fixed variance.

        half_sum:  1/2 sum of squares   tau = beta / weight
        sum:       sum of squares       tau = beta / (2 weight)
        mean:      mean of squares      tau = beta elements / (2 weight)

    Args:
      beta: factor of the KL divergence (in nats, summed over latents).
      elements: output elements of one example, D.
      loss: how squares are reduced over the elements of an example.
      weight: factor of the reconstruction.

    Returns:
      tau, in squared output units summed over elements.

    Raises:
      ValueError: beta is negative, weight is not positive, or the loss is unknown.
    """
    if beta < 0 or weight <= 0 or elements < 1:
        raise ValueError(
            f"beta {beta} must be 0 or more, weight {weight} positive and elements"
            f" {elements} at least 1"
        )
    factors = {"half_sum": 1.0, "sum": 0.5, "mean": elements / 2.0}
    if loss not in factors:
        raise ValueError(f"loss {loss!r} is unknown; choose from {', '.join(factors)}")
    return beta * factors[loss] / weight


@dataclass(frozen=True)
class LinearOptimum:
    """The optimum of a linear beta-VAE; arrays [latents], inactive ones at the end.

    Attributes:
      tau: the water level.
      eigenvalues: of the data's covariance, descending, all of them.
      latents: K.
    """

    tau: float
    eigenvalues: np.ndarray
    latents: int

    @property
    def active(self) -> int:
        """Latents that are used: eigenvalues among the first K above tau."""
        return int(np.sum(self.eigenvalues[: self.latents] > self.tau))

    @property
    def kl(self) -> np.ndarray:
        """Divergence of each latent, ``1/2 ln(lambda / tau)`` nats, 0 where off."""
        return 0.5 * np.log(self._above / self.tau)

    @property
    def active_units(self) -> np.ndarray:
        """Variance of each posterior mean over the data, ``1 - tau / lambda``."""
        return 1.0 - self.tau / self._above

    @property
    def posterior_variance(self) -> np.ndarray:
        """``tau / lambda``, 1 where off."""
        return self.tau / self._above

    @property
    def total_effect(self) -> np.ndarray:
        """Output variance that each latent carries under the prior, ``lambda - tau``.

        First order, total effect and derivative bound coincide.
        """
        return self._above - self.tau

    @property
    def local_variance(self) -> np.ndarray:
        """Output variance of posterior noise alone, ``tau (1 - tau / lambda)``.

        It saturates at tau: a detector of active latents, not a measure of importance.
        """
        return self.tau * self.active_units

    @property
    def net_worth(self) -> np.ndarray:
        """What each latent saves, in units of beta nats: ``(r - 1 - ln r) / 2``.

        With r = lambda / tau; never negative, and quadratic near the threshold.
        """
        ratio = self._above / self.tau
        return 0.5 * (ratio - 1.0 - np.log(ratio))

    def reconstruction(self, sampled: bool = True) -> float:
        """Expected squared error of one example, summed over elements.

            sampled z:  k tau + sum of the rest;   mean z:  sum tau^2/lambda + the rest

        Args:
          sampled: decode a posterior sample, else the mean.
        """
        kept = self.eigenvalues[: self.active]
        rest = float(np.sum(self.eigenvalues[self.active :]))
        return rest + float(
            np.sum(np.full_like(kept, self.tau) if sampled else self.tau**2 / kept)
        )

    def fidelity(self) -> np.ndarray:
        """Share of the output's variance that the first k latents carry, k = 1 .. K."""
        return np.cumsum(self.total_effect) / max(np.sum(self.total_effect), 1e-300)

    @property
    def _above(self) -> np.ndarray:
        found = np.full(self.latents, self.tau)
        first = self.eigenvalues[: self.latents]
        found[: len(first)] = np.maximum(first, self.tau)
        return found


def linear_optimum(
    eigenvalues: Float[AnyArray, " components"], tau: float, latents: int
) -> LinearOptimum:
    """The optimum of a linear beta-VAE with `latents` dimensions.

    Args:
      eigenvalues: of the data's covariance, in any order, none negative.
      tau: water level, positive, see `water_level`.
      latents: K, at least 1.

    Returns:
      A `LinearOptimum`.

    Raises:
      ValueError: a negative eigenvalue, tau not positive, or no latents.

    Reference: J. Lucas et al., Don't blame the ELBO! (2019); B. Dai et al.,
      Connections with robust PCA (2018).
    """
    values = np.sort(np.asarray(eigenvalues, np.float64))[::-1]
    if values.size == 0 or values[-1] < 0 or not np.isfinite(values).all():
        raise ValueError("eigenvalues must be finite, zero or more, and at least one")
    if not tau > 0 or latents < 1:
        raise ValueError(f"tau {tau} must be positive and latents {latents} 1 or more")
    return LinearOptimum(float(tau), values, latents)


def tau_for_active(
    eigenvalues: Float[AnyArray, " components"], active: int
) -> tuple[float, float]:
    """The interval of tau in which exactly `active` latents are used, by the spectrum.

    Args:
      eigenvalues: of the data's covariance, in any order.
      active: wanted number, 0 to the number of eigenvalues.

    Returns:
      ``(low, high)``: any tau with low <= tau < high (low excluded when 0).

    Raises:
      ValueError: `active` is out of range, or the spectrum has no gap there.
    """
    values = np.sort(np.asarray(eigenvalues, np.float64))[::-1]
    if not 0 <= active <= values.size:
        raise ValueError(f"active {active} must be 0 to {values.size}")
    high = np.inf if active == 0 else float(values[active - 1])
    low = 0.0 if active == values.size else float(values[active])
    if not low < high:
        raise ValueError(
            f"no tau keeps exactly {active}: eigenvalues {active} and {active + 1} are"
            f" both {low:g}"
        )
    return low, high


def marchenko_pastur_edge(noise_variance: float, elements: int, examples: int) -> float:
    """Largest eigenvalue that pure noise shows in a sample covariance.

        s^2 (1 + sqrt(D / N))^2

    Args:
      noise_variance: s^2 of each element.
      elements: D.
      examples: N.

    Returns:
      The edge; sample eigenvalues below it say nothing.
    """
    return noise_variance * (1.0 + float(np.sqrt(elements / examples))) ** 2
