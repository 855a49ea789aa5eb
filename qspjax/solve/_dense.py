"""Factorise and solve one small dense system, written so that thousands of them side by side are fast.

Up to `UNROLLED` unknowns the elimination is written out, without pivoting, so that XLA turns it into arithmetic over
the batch instead of a library call a system. It is meant for `I/gamma - h J`, which becomes diagonally dominant as h
shrinks; a vanishing pivot gives a value that is not finite, and the step is rejected.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

UNROLLED = 10


def factorise(columns: Sequence[jax.Array] | jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Return the solver x = solve(b) of A x = b, for A given as its columns."""
    n = len(columns)
    if n > UNROLLED:
        factors = jax.scipy.linalg.lu_factor(jnp.stack(list(columns), axis=1))
        return lambda b: jax.scipy.linalg.lu_solve(factors, b)

    a = [[columns[j][i] for j in range(n)] for i in range(n)]
    reciprocal = []
    for k in range(n):
        reciprocal.append(1.0 / a[k][k])
        for i in range(k + 1, n):
            a[i][k] = a[i][k] * reciprocal[k]
            for j in range(k + 1, n):
                a[i][j] = a[i][j] - a[i][k] * a[k][j]

    def solve(b: jax.Array) -> jax.Array:
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
