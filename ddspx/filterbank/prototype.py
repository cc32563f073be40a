"""Prototypes of cosine-modulated banks, with and without perfect reconstruction.

A bank of M bands is one low-pass, its prototype p, moved to M places. Synthesis undoes
analysis exactly when each pair of the prototype's 2 M phases is power complementary:

    sum_j p[r + 2Mj] p[r + 2M(j + l)] + p[r + M + 2Mj] p[r + M + 2M(j + l)]
        = delta[l] / (2M),   r = 0 ... M - 1, l = 0 ... J - 1

for a symmetric p of 2 M J taps. NumPy only, float64.
"""

from functools import lru_cache

import numpy as np

_STEPS = 40
# Relative to the prototype: farther the conditions are not linear.
_LONGEST_STEP = 0.1


@lru_cache(maxsize=16)
def perfect_prototype(bands: int, overlap: int, attenuation_db: float) -> np.ndarray:
    """The symmetric prototype with least energy in its stop band that can be undone.

    Newton's method on the conditions of perfect reconstruction, from a windowed sinc;
    of all steps that meet them it takes that which leaves least energy above pi / M.

    Args:
      bands: M.
      overlap: J; the prototype has 2 M J taps.
      attenuation_db: of the Kaiser window that it begins from.

    Returns:
      float64 [2 M J], treat it as read-only.

    Raises:
      ValueError: the bands are odd, or the overlap is not positive.

    Reference: Koilpillai and Vaidyanathan, Cosine-modulated FIR filter banks satisfying
    perfect reconstruction, IEEE Transactions on Signal Processing 40(4), 1992.
    """
    # The middle phase of an odd number would have to be a mere delay.
    if bands < 2 or bands % 2 or overlap < 1:
        raise ValueError(
            "a bank that reconstructs perfectly has an even number of bands and an"
            f" overlap of 1 or more, got {bands} bands and overlap {overlap}"
        )
    taps = 2 * bands * overlap
    half = _kaiser_sinc(bands, taps, attenuation_db)[taps // 2 :]
    energy = _stop_energy(bands, taps)
    for _ in range(_STEPS):
        errors, slopes = _conditions(half, bands, overlap)
        # The least step that meets the conditions, and the best along them.
        u, values, rows = np.linalg.svd(slopes)
        rank = int(np.sum(values > 1e-10 * values[0]))
        meet = rows[:rank].T @ ((u[:, :rank].T @ -errors) / values[:rank])
        free = rows[rank:].T
        inner = free.T @ energy @ free
        inner += 1e-12 * np.trace(energy) * np.eye(len(inner))
        step = meet - free @ np.linalg.solve(inner, free.T @ energy @ (half + meet))
        size = float(np.linalg.norm(step) / np.linalg.norm(half))
        half = half + step * min(1.0, _LONGEST_STEP / size)
        if size < 1e-8:
            break
    for _ in range(4):
        errors, slopes = _conditions(half, bands, overlap)
        half = half - np.linalg.lstsq(slopes, errors, rcond=1e-10)[0]
    found = np.concatenate([half[::-1], half])
    found.flags.writeable = False
    return found


def _kaiser_sinc(bands: int, taps: int, attenuation_db: float) -> np.ndarray:
    """A windowed sinc with its cutoff at pi / (2M), of the energy that is asked."""
    t = np.arange(taps) - 0.5 * (taps - 1)
    beta = 0.1102 * (attenuation_db - 8.7) if attenuation_db > 50 else 4.0
    found = np.sinc(t / (2 * bands)) * np.kaiser(taps, beta)
    return found * np.sqrt(0.5 / np.sum(found**2))


def _stop_energy(bands: int, taps: int) -> np.ndarray:
    """The energy above pi / M as a quadratic form in the second half of the taps."""
    t = np.arange(taps // 2) + 0.5
    edge = np.pi / bands

    def above(lag):
        # (1 / pi) of the integral of cos(w lag) from the edge to pi.
        return np.where(lag == 0.0, 1.0 - edge / np.pi, 0.0) - np.where(
            lag == 0.0, 0.0, edge / np.pi * np.sinc(edge * lag / np.pi)
        )

    # Both halves: cos(w t) cos(w s) = (cos w (t - s) + cos w (t + s)) / 2.
    return 2.0 * (above(t[:, None] - t) + above(t[:, None] + t))


def _conditions(
    half: np.ndarray, bands: int, overlap: int
) -> tuple[np.ndarray, np.ndarray]:
    """How far the conditions are from met, and their slopes to the half."""
    taps, period = 2 * len(half), 2 * bands
    whole = np.concatenate([half[::-1], half])
    # Position in the half of each tap of the whole.
    own = np.concatenate([np.arange(len(half))[::-1], np.arange(len(half))])
    # The prototype is symmetric: conditions r and M - 1 - r are the same.
    count = bands // 2
    errors = np.zeros((count, overlap))
    slopes = np.zeros((count, overlap, len(half)))
    errors[:, 0] = -1.0 / period
    row = np.arange(count)[:, None]
    for lag in range(overlap):
        for start in (0, bands):
            first = row + start + np.arange(0, taps - period * lag, period)
            second = first + period * lag
            errors[:, lag] += np.sum(whole[first] * whole[second], -1)
            lags = np.full(first.shape, lag)
            rows = np.broadcast_to(row, first.shape)
            np.add.at(slopes, (rows, lags, own[first]), whole[second])
            np.add.at(slopes, (rows, lags, own[second]), whole[first])
    return errors.reshape(-1), slopes.reshape(count * overlap, -1)
