"""Many short sums at once, without scatter or matrix product, for which XLA has no loop inside that of the kernel.

Each sum is cut into pieces of a few terms. Pieces are gathered column by column, the long ones first; sums of several
pieces are summed again.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

WIDTH = 4
"""Number of terms of a piece."""

Terms = Sequence[tuple[float, int]]


class Sums:
    """Weighted sums of elements of a vector.

    $$ s_i = \\sum_j w_{ij} x_{k_{ij}} $$

    Args:
        rows: For each sum its weights w and the indices k.

    Example:
        >>> Sums([[(1.0, 0), (-2.0, 1)], [], [(1.0, 1)]])(jnp.array([3.0, 1.0]))
        Array([1., 0., 1.], dtype=float64)
    """

    def __init__(self, rows: Sequence[Terms]) -> None:
        """Cut the sums into pieces."""
        self._levels: list[list[tuple[np.ndarray, np.ndarray]]] = []
        positions = np.zeros(len(rows), int)
        todo = {number: list(terms) for number, terms in enumerate(rows) if terms}
        offset = 0
        while todo:
            pieces = [
                (number, terms[i : i + WIDTH]) for number, terms in todo.items() for i in range(0, len(terms), WIDTH)
            ]
            pieces.sort(key=lambda piece: -len(piece[1]))
            columns = []
            for c in range(len(pieces[0][1])):
                column = [terms[c] for _, terms in pieces if len(terms) > c]
                columns.append((np.array([w for w, _ in column]), np.array([k for _, k in column], int)))
            self._levels.append(columns)
            partial: dict[int, list[tuple[float, int]]] = {}
            for i, (number, _) in enumerate(pieces):
                partial.setdefault(number, []).append((1.0, i))
            for number, terms in partial.items():
                positions[number] = offset + terms[0][1] if len(terms) == 1 else -1
            offset += len(pieces)
            todo = {number: terms for number, terms in partial.items() if len(terms) > 1}
        self._positions = np.where([bool(terms) for terms in rows], positions, offset)
        self._empty = not all(rows)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the sums of the elements of a vector."""
        parts = []
        for columns in self._levels:
            total = _weighted(x, *columns[0])
            for weights, indices in columns[1:]:
                term = _weighted(x, weights, indices)
                if len(term) == len(total):
                    total = total + term
                else:
                    total = jnp.concatenate([total[: len(term)] + term, total[len(term) :]])
            parts.append(total)
            x = total
        if self._empty:
            parts.append(jnp.zeros((1,), x.dtype))
        everything = parts[0] if len(parts) == 1 else jnp.concatenate(parts)
        return gather(everything, self._positions)


def _weighted(x: jax.Array, weights: np.ndarray, indices: np.ndarray) -> jax.Array:
    elements = gather(x, indices)
    return elements if (weights == 1.0).all() else jnp.multiply(weights, elements)


def gather(x: jax.Array, indices: np.ndarray) -> jax.Array:
    """Return elements of a vector, as a slice where they are consecutive."""
    start = int(indices[0]) if len(indices) else 0
    if len(indices) and np.array_equal(indices, np.arange(start, start + len(indices))):
        return x if len(indices) == x.shape[0] else jax.lax.slice(x, (start,), (start + len(indices),))
    return x.at[indices].get(mode="promise_in_bounds", unique_indices=False)
