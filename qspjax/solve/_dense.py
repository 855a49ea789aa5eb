"""Factorise and solve one small dense system, such that thousands of them side by side are fast.

Up to `UNROLLED` unknowns the elimination is unrolled, else it is a loop; both without pivoting, so that XLA turns them
into arithmetic over the batch instead of a library call per system. (Its batched calls of LAPACK wait for threads of
the pool that they run in: where two of them run at a time, they may wait indefinitely.) It is meant for matrices
`I/gamma - h J`, which become diagonally dominant as h shrinks; a vanishing pivot gives a value that is not finite, and
the step is rejected.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from qspjax._arrays import argmax_first

UNROLLED = 10
"""Up to this many unknowns, the elimination is unrolled."""

Vector = Float[Array, " unknowns"]
Matrix = Float[Array, "unknowns unknowns"]
Solve = Callable[[Vector], Vector]


def factorise(columns: Sequence[Vector] | Matrix) -> Solve:
    """Return the solver x = solve(b) of A x = b, for A given as its columns."""
    n = len(columns)
    if n > UNROLLED:
        return _looped(jnp.stack(list(columns), axis=1))

    a = [[columns[j][i] for j in range(n)] for i in range(n)]
    reciprocal = []
    for k in range(n):
        reciprocal.append(1.0 / a[k][k])
        for i in range(k + 1, n):
            a[i][k] = a[i][k] * reciprocal[k]
            for j in range(k + 1, n):
                a[i][j] = a[i][j] - a[i][k] * a[k][j]

    def solve(b: Vector) -> Vector:
        x = [b[i] for i in range(n)]
        for i in range(n):
            for j in range(i):
                x[i] = x[i] - a[i][j] * x[j]
        for i in reversed(range(n)):
            for j in range(i + 1, n):
                x[i] = x[i] - a[i][j] * x[j]
            x[i] = x[i] * reciprocal[i]
        return jnp.stack(x)

    return solve


def _looped(matrix: Matrix) -> Solve:
    """Return the solver for a matrix of any size; its derivatives solve with the same factors."""
    n = len(matrix)
    indices = jnp.arange(n)

    def eliminate(k: jax.Array, a: jax.Array) -> jax.Array:
        row, column = a[k], a[:, k]
        multiples = jnp.where(indices > k, column / row[k], 0.0)
        a = a - multiples[:, None] * jnp.where(indices > k, row, 0.0)
        return jnp.where(indices == k, jnp.where(indices > k, multiples, column)[:, None], a)

    lu = jax.lax.fori_loop(0, n, eliminate, jax.lax.stop_gradient(matrix))
    pivots = jnp.diagonal(lu)

    def substituted(rows: Matrix, divisors: Vector, x: Vector, *, backwards: bool) -> Vector:
        """Solve with the triangle of `rows` before, or after, its diagonal, which `divisors` holds."""

        def step(j: jax.Array, x: jax.Array) -> jax.Array:
            i = n - 1 - j if backwards else j
            solved = x[i] / divisors[i]
            others = indices < i if backwards else indices > i
            return jnp.where(indices == i, solved, x - jnp.where(others, rows[:, i] * solved, 0.0))

        return jax.lax.fori_loop(0, n, step, x)

    def solve(_: object, b: Vector) -> Vector:
        y = substituted(lu, jnp.ones_like(pivots), b, backwards=False)
        return substituted(lu, pivots, y, backwards=True)

    def transposed(_: object, b: Vector) -> Vector:
        y = substituted(lu.T, pivots, b, backwards=False)
        return substituted(lu.T, jnp.ones_like(pivots), y, backwards=True)

    return lambda b: jax.lax.custom_linear_solve(lambda x: matrix @ x, b, solve, transposed)


def inverse(matrix: Matrix) -> Matrix:
    """Return the inverse of a small matrix, by elimination with scaled partial pivoting; not finite if singular."""
    n = len(matrix)
    if n == 1:
        return 1.0 / matrix
    indices = jnp.arange(n)
    largest = jnp.max(jnp.abs(matrix), axis=1, keepdims=True)
    rows = jnp.concatenate([matrix, jnp.eye(n, dtype=matrix.dtype)], axis=1) / jnp.where(largest > 0, largest, 1.0)

    def eliminate(k: jax.Array, rows: jax.Array) -> jax.Array:
        pivot = argmax_first(jnp.where(indices >= k, jnp.abs(rows[:, k]), -1.0))
        rows = rows[jnp.where(indices == k, pivot, jnp.where(indices == pivot, k, indices))]
        scaled = rows[k] / rows[k, k]
        return jnp.where((indices == k)[:, None], scaled, rows - rows[:, k][:, None] * scaled)

    return jax.lax.fori_loop(0, n, eliminate, rows)[:, n:]
