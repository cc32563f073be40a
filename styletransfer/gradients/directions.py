"""Sign matrices to perturb along: Rademacher rows and Hadamard rows of any length.

A direction is a row of signs, so that every control moves by its whole step: a step
of two quanta stays two quanta, which a rotated (Haar) direction would not promise.

Rows that are orthogonal measure K dimensions with K directions. A Hadamard matrix
H (H Hᵀ = m I) exists for every order m = 4 k that matters here; Sylvester's doubling
and Paley's two constructions over prime fields give them. When n is no such order, rows
and columns are removed from the next one, m = n + d. The d x d block C at their
crossing is chosen regular, since by Jacobi's identity the remaining n x n matrix S is
then regular too, and λ_min(S Sᵀ) = λ_min(Cᵀ C), 1 or more: rows of S are orthogonal up
to an inner product of d, and in its worst direction S is as good as coordinate
differences are in every direction. Whoever inverts S therefore has an estimator for
every n that is exact at K = n.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np


def rademacher(key: jax.Array, rows: int, n: int) -> jax.Array:
    """Independent fair signs [rows, n], float32 (Spall 1992)."""
    return jax.random.rademacher(key, (rows, n), jnp.float32)


def orthogonal_signs(key: jax.Array, rows: int, n: int) -> jax.Array:
    """Rows of signs [rows, n], float32, as orthogonal as length n allows.

    Rows come from `sign_basis` in random order, columns are dealt to the controls at
    random, and each column gets a random sign. The distribution is therefore unchanged
    by permuting or mirroring controls, and the projection P on the span of K <= n rows
    has E[P] = (K/n) I. More than n rows are several bases, each drawn on its own.

    Args:
      key: a JAX random key.
      rows: number of directions K.
      n: number of controls.

    Returns:
      Signs [rows, n]; any n consecutive rows from a multiple of n are a regular matrix.
    """
    basis = jnp.asarray(sign_basis(n), jnp.float32)
    # One draw for everything: each call of the generator costs compile time.
    draws = jax.random.uniform(key, (math.ceil(rows / n), 3, n))
    orders = jnp.argsort(draws[:, :2])
    signs = jnp.where(draws[:, 2] < 0.5, -1.0, 1.0)
    blocks = [
        basis[order[0]][:, order[1]] * sign[None, :]
        for order, sign in zip(orders, signs, strict=True)
    ]
    return jnp.concatenate(blocks)[:rows]


@functools.lru_cache(maxsize=64)
def sign_basis(n: int) -> np.ndarray:
    """Regular n x n matrix of signs cut from a Hadamard matrix; see the module.

    Args:
      n: number of controls, 1 or more.

    Returns:
      Signs [n, n], float64; a Hadamard matrix when its order exists.

    Raises:
      ValueError: n is not positive.
    """
    if n < 1:
        raise ValueError(f"directions need at least one control, got n = {n}")
    order = n
    while (matrix := _hadamard(order)) is None:
        order += 1
    rows, columns = _regular_block(matrix, order - n)
    kept = np.delete(np.delete(matrix, rows, axis=0), columns, axis=1)
    kept.setflags(write=False)
    return kept


def _regular_block(matrix: np.ndarray, size: int) -> tuple[list[int], list[int]]:
    """Rows and columns of a regular block, found by elimination with full pivoting."""
    rest, rows, columns = matrix.copy(), [], []
    for _ in range(size):
        row, column = np.unravel_index(np.argmax(np.abs(rest)), rest.shape)
        rows.append(int(row))
        columns.append(int(column))
        rest -= np.outer(rest[:, column], rest[row]) / rest[row, column]
    return rows, columns


def _hadamard(order: int) -> np.ndarray | None:
    if order == 1:
        return np.ones((1, 1))
    if order == 2:
        return np.array([[1.0, 1.0], [1.0, -1.0]])
    if order % 4:
        return None
    if _is_prime(order - 1):  # Paley I: order - 1 = 3 (mod 4)
        core = _jacobsthal(order - 1)
        bordered = np.block(
            [[np.zeros((1, 1)), np.ones((1, order - 1))],
             [-np.ones((order - 1, 1)), core]]
        )  # fmt: skip
        return bordered + np.eye(order)
    half = order // 2
    if half % 2 == 0 and (smaller := _hadamard(half)) is not None:
        return np.block([[smaller, smaller], [smaller, -smaller]])
    if half % 4 == 2 and _is_prime(half - 1):  # Paley II: half - 1 = 1 (mod 4)
        core = _jacobsthal(half - 1)
        conference = np.block(
            [[np.zeros((1, 1)), np.ones((1, half - 1))],
             [np.ones((half - 1, 1)), core]]
        )  # fmt: skip
        return np.kron(conference, [[1.0, 1.0], [1.0, -1.0]]) + np.kron(
            np.eye(half), [[1.0, -1.0], [-1.0, -1.0]]
        )
    return None


def _jacobsthal(prime: int) -> np.ndarray:
    """Q with Q_ij = 1 where i - j is a non-zero square modulo the prime, -1 if not."""
    character = -np.ones(prime)
    character[[(k * k) % prime for k in range(1, prime)]] = 1.0
    character[0] = 0.0
    index = np.arange(prime)
    return character[(index[:, None] - index[None, :]) % prime]


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % k for k in range(2, math.isqrt(number) + 1))
