"""What the spectrum of the data says of a model's size before any training.

A linear beta-VAE uses the principal components whose eigenvalue is above the water
level tau (`vae.linear`); a convolutional one starts from about there. Eigenvalues of
few examples are too large where they are large: two halves of the data, components of
the one judged on the other, give a count that noise cannot raise. The prediction is the
interval between both.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ddspx.types import AnyArray
from vae.linear import Loss, marchenko_pastur_edge, tau_for_active, water_level

# Gram matrices up to this size are decomposed whole; larger ones at random.
_EXACT = 2048
# Columns of the data in one product.
_COLUMNS = 1 << 14


@dataclass(frozen=True)
class Preflight:
    """A prediction.

    Attributes:
      examples: N that it was made from.
      elements: D.
      eigenvalues: of the data's covariance, descending, as many as were found; the
        unit is that of tau.
      held_out: variance of one half of the data along the components of the other,
        made of either half and averaged; as long as half the data.
      variance: of an example, summed over elements.
      noise: variance of each element if the middle eigenvalue is that of white noise.
      edge: largest eigenvalue that such noise shows by itself.
      latents: K asked for.
      tau: water level asked for, or None.
      predicted: latents in use out of K, by the eigenvalues.
      lowest: the same by held-out variance: a cautious count.
      wanted: components above tau, however many K are.
      wanted_lowest: the same by held-out variance.
    """

    examples: int
    elements: int
    eigenvalues: tuple[float, ...]
    held_out: tuple[float, ...]
    variance: float
    noise: float
    edge: float
    latents: int
    tau: float | None
    predicted: int
    lowest: int
    wanted: int
    wanted_lowest: int

    def beta_for(
        self, active: int, loss: Loss = "mean", weight: float = 1.0
    ) -> tuple[float, float]:
        """The interval of beta in which `active` latents are expected.

        Args:
          active: wanted number.
          loss: how the reconstruction is reduced, see `vae.linear.water_level`.
          weight: of the reconstruction.

        Returns:
          ``(low, high)``.

        Raises:
          ValueError: more than there are eigenvalues, or no gap there.
        """
        low, high = tau_for_active(np.asarray(self.eigenvalues), active)
        unit = water_level(1.0, self.elements, loss, weight)
        return low / unit, high / unit

    def sentence(self) -> str:
        """The prediction for people."""
        if self.tau is None:
            return (
                f"{self.examples} examples of {self.elements} elements; the loss has no"
                " fixed water level, so their spectrum predicts no number of latents."
            )
        span = (
            f"{self.predicted}"
            if self.lowest == self.predicted
            else f"{self.lowest} to {self.predicted}"
        )
        kth = self.eigenvalues[min(self.latents, len(self.eigenvalues)) - 1]
        if self.predicted >= self.latents:
            return (
                f"Expect {span} of {self.latents} latents in use: the water level"
                f" {self.tau:.3g} is below eigenvalue {self.latents} ({kth:.3g}), and"
                f" the data would use about {self.wanted}."
            )
        return (
            f"Expect about {span} of {self.latents} latents in use at the water level"
            f" {self.tau:.3g}; to use all of them it must be below {kth:.3g}."
        )


def preflight(
    features: Float[AnyArray, "examples ..."],
    latents: int,
    tau: float | None = None,
    components: int = 512,
    seed: int = 0,
) -> Preflight:
    """Predicts how many latents a model of these data would use.

    Memory is that of the data and a matrix [N, N]; more than 2048 examples of as many
    elements are decomposed by random projection.

    Args:
      features: what the model sees; flattened after the first axis.
      latents: K of the model.
      tau: water level, see `vae.linear.water_level`.
      components: eigenvalues wanted of a decomposition at random.
      seed: of that, and of the halves.

    Returns:
      A `Preflight`.

    Raises:
      ValueError: fewer than 8 examples, NaN, or no latents.

    Reference: N. Halko et al., Finding structure with randomness (2011), algorithm 4.4.
    """
    data = np.asarray(features, np.float32).reshape(len(features), -1)
    count, elements = data.shape
    if count < 8 or latents < 1:
        raise ValueError(
            f"expected 8 examples or more and 1 latent or more, got {count} and"
            f" {latents}"
        )
    if not np.isfinite(data.sum(dtype=np.float64)):
        raise ValueError("features hold NaN or infinity")
    rng = np.random.default_rng(seed)
    mean = data.mean(0, dtype=np.float64).astype(np.float32)
    variance = sum(
        float(np.sum((data[rows] - mean) ** 2, dtype=np.float64))
        for rows in (slice(k, k + 64) for k in range(0, count, 64))
    ) / (count - 1)
    values = spectrum(data, components, rng)
    half = rng.permutation(count)
    one, two = data[half[: count // 2]], data[half[count // 2 :]]
    judged = [
        _projected(one, two, components, rng),
        _projected(two, one, components, rng),
    ]
    both = min(len(v) for v in judged)
    held_out = 0.5 * (judged[0][:both] + judged[1][:both])
    noise = _noise(values, variance, count, elements)
    level = np.inf if tau is None else tau
    wanted, wanted_lowest = (int(np.sum(v > level)) for v in (values, held_out))
    return Preflight(
        examples=count,
        elements=elements,
        eigenvalues=tuple(values.tolist()),
        held_out=tuple(held_out.tolist()),
        variance=variance,
        noise=noise,
        edge=marchenko_pastur_edge(noise, elements, count),
        latents=latents,
        tau=None if tau is None else float(tau),
        predicted=min(wanted, latents),
        lowest=min(wanted_lowest, wanted, latents),
        wanted=wanted,
        wanted_lowest=min(wanted_lowest, wanted),
    )


def spectrum(
    features: Float[AnyArray, "examples elements"],
    components: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Eigenvalues of the covariance of rows, descending.

    Args:
      features: rows are examples.
      components: how many where they are found at random.
      rng: of the random projection.

    Returns:
      min(N - 1, D) eigenvalues, or `components` of them; float64.
    """
    data = np.asarray(features)
    values, _ = _components(data, components, rng, vectors=False)
    return values


def _components(
    data: np.ndarray, components: int, rng: np.random.Generator, vectors: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, and the weights [examples, n] that make unit components of rows.

    Component j is ``(data - mean)' weights[:, j]``: components themselves, [elements],
    are never held.
    """
    count, elements = data.shape
    mean = data.mean(0, dtype=np.float64).astype(np.float32)
    rank = min(count - 1, elements)
    if elements < count and elements <= _EXACT:
        centred = (data - mean).astype(np.float64)
        values, axes = np.linalg.eigh(centred.T @ centred)
        values, axes = values[::-1][:rank], axes[:, ::-1][:, :rank]
        left = centred @ axes / np.sqrt(np.maximum(values, 1e-300))
    elif count <= _EXACT:
        gram = _products(data, data, mean, mean)
        values, left = np.linalg.eigh(gram)
        values, left = values[::-1][:rank], left[:, ::-1][:, :rank]
    else:
        wanted = min(components, rank)
        sketch = rng.normal(size=(count, min(wanted + 16, count)))
        for _ in range(3):
            basis = np.linalg.qr(sketch)[0]
            sketch = _twice(data, mean, basis)
        basis = np.linalg.qr(sketch)[0]
        small = basis.T @ _twice(data, mean, basis)
        values, turn = np.linalg.eigh(0.5 * (small + small.T))
        values, left = values[::-1][:wanted], (basis @ turn)[:, ::-1][:, :wanted]
    values = np.maximum(values, 0.0)
    if not vectors:
        return values / (count - 1), left
    weights = left / np.sqrt(np.maximum(values, 1e-12 * values[0] + 1e-300))
    return values / (count - 1), weights


def _projected(
    one: np.ndarray, two: np.ndarray, components: int, rng: np.random.Generator
) -> np.ndarray:
    """Variance of the second half along the components of the first."""
    values, weights = _components(one, components, rng)
    means = [x.mean(0, dtype=np.float64).astype(np.float32) for x in (one, two)]
    scores = _products(two, one, means[1], means[0]) @ weights
    found = np.sum(scores**2, 0) / (len(two) - 1)
    # Directions of no variance in the first half are no components.
    return np.where(values > 1e-9 * max(values[0], 1e-300), found, 0.0)


def _products(
    a: np.ndarray, b: np.ndarray, mean_a: np.ndarray, mean_b: np.ndarray
) -> np.ndarray:
    """Inner products of centred rows, summed block by block in float64."""
    found = np.zeros((len(a), len(b)))
    for k in range(0, a.shape[1], _COLUMNS):
        part = slice(k, k + _COLUMNS)
        found += (a[:, part] - mean_a[part]) @ (b[:, part] - mean_b[part]).T
    return found


def _twice(data: np.ndarray, mean: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """``X X' basis`` of the centred data, block by block."""
    found = np.zeros(basis.shape)
    for k in range(0, data.shape[1], _COLUMNS):
        part = slice(k, k + _COLUMNS)
        block = data[:, part] - mean[part]
        found += block @ (block.T @ basis.astype(np.float32))
    return found


def _noise(values: np.ndarray, variance: float, count: int, elements: int) -> float:
    """Variance of each element, if the middle eigenvalue is one of white noise.

    Reference: M. Gavish, D. Donoho, The optimal hard threshold for singular values
      (2014), section III-C.
    """
    rank = min(count - 1, elements)
    if len(values) < rank:
        # What was not found, spread over what it has to itself.
        return max(variance - float(values.sum()), 0.0) / elements
    ratio = elements / (count - 1)
    shape = min(ratio, 1.0 / ratio)
    low, high = (1.0 - np.sqrt(shape)) ** 2, (1.0 + np.sqrt(shape)) ** 2
    at = np.linspace(low, high, 4001)[1:]
    mass = np.cumsum(np.sqrt(np.maximum((high - at) * (at - low), 0.0)) / at)
    middle = at[np.searchsorted(mass, 0.5 * mass[-1])]
    return float(np.median(values)) / (middle * max(ratio, 1.0))
