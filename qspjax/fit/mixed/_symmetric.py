"""Small symmetric matrices of many subjects, side by side: A = L D L^T, with ones on the diagonal of L.

Each step of the elimination is done for all subjects at once, which is faster than one library call per matrix; and
XLA's batched calls of LAPACK wait for threads of the pool in which they run, so that two simultaneous programs can
deadlock. There is no pivoting: positive definite matrices need none, and others still solve where no pivot is zero.

Reference: Golub and Van Loan, Matrix Computations, 4th edition 2013, section 4.1.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array


class Factors(NamedTuple):
    """Factors of symmetric matrices.

    Attributes:
        lower: L, shape (..., n, n).
        pivots: The diagonal of D, shape (..., n); all are positive where the matrix is positive definite.
    """

    lower: Array
    pivots: Array

    @property
    def positive(self) -> Array:
        """Whether each matrix is positive definite, shape (...)."""
        return (self.pivots > 0.0).all(axis=-1)

    @property
    def log_determinant(self) -> Array:
        """Log |A|, NaN unless positive definite, shape (...)."""
        return jnp.sum(jnp.log(jnp.where(self.positive[..., None], self.pivots, jnp.nan)), axis=-1)

    @property
    def root(self) -> Array:
        """The lower Cholesky factor, NaN unless positive definite, shape (..., n, n)."""
        return self.lower * jnp.sqrt(jnp.where(self.positive[..., None], self.pivots, jnp.nan))[..., None, :]

    def solve(self, b: Array) -> Array:
        """Return A^-1 b of vectors, shape (..., n)."""
        y = forward(self.lower, b[..., None])[..., 0] / self.pivots
        return backward(self.lower, y[..., None])[..., 0]


def factorised(matrices: Array) -> Factors:
    """Factorise symmetric matrices, shape (..., n, n)."""
    n = matrices.shape[-1]
    remainder, columns, pivots = matrices, [], []
    for j in range(n):
        pivot = remainder[..., j, j]
        column = jnp.where(jnp.arange(n) > j, remainder[..., :, j] / pivot[..., None], 0.0)
        remainder = remainder - pivot[..., None, None] * column[..., :, None] * column[..., None, :]
        columns.append(column)
        pivots.append(pivot)
    return Factors(jnp.stack(columns, axis=-1) + jnp.eye(n), jnp.stack(pivots, axis=-1))


def forward(lower: Array, b: Array) -> Array:
    """Return L^-1 b, shape (..., n, k), for lower triangular matrices with any diagonal."""
    rows = []
    for j in range(lower.shape[-1]):
        rows.append(b[..., j, :] / lower[..., j, j, None])
        b = b - lower[..., :, j, None] * rows[-1][..., None, :]
    return jnp.stack(rows, axis=-2)


def backward(lower: Array, b: Array) -> Array:
    """Return L^-T b, shape (..., n, k), for lower triangular matrices with any diagonal."""
    rows = []
    for j in reversed(range(lower.shape[-1])):
        rows.append(b[..., j, :] / lower[..., j, j, None])
        b = b - lower[..., j, :, None] * rows[-1][..., None, :]
    return jnp.stack(rows[::-1], axis=-2)
