"""Sparse LU factorisation whose order and fill are settled while tracing, for many systems of one pattern side by side.

The pattern of `W = I/gamma - h J` is the same for every patient and step, so that the elimination is planned once, in
numpy: pivots on the diagonal in the order of least Markowitz cost (row length - 1)(column length - 1), and the entries
that fill. W becomes diagonally dominant as h shrinks, hence no pivoting: a vanishing pivot gives values that are not
finite, and the step is rejected. The plan runs in two forms:

- *unrolled*, every entry an array of its own (a row of lanes): straight-line arithmetic, for small systems;
- *looped*, the entries in one array of rows: a loop over `X[d] = X[c] - X[a] X[b]`, which compiles in half a second
  whatever the size. Its loops have traced bounds: differentiate the solution, `dx = W^-1 (db - dW x)`, and not the
  factorisation.

References: Markowitz, Management Science 1957;3:255, doi:10.1287/mnsc.3.3.255 (the order); Sandu and Sander, Atmos Chem
Phys 2006;6:187, doi:10.5194/acp-6-187-2006 (the plan for kinetic systems).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

Row = Float[Array, "*lanes"]
Rows = Float[Array, "unknowns lanes"]
FactorRows = Float[Array, "factors lanes"]


class Factors(NamedTuple):
    """L without its unit diagonal and U, entry by entry, and one over every pivot."""

    entries: list[Row | float]
    reciprocals: list[Row]


@dataclass(frozen=True, eq=False)
class Elimination:
    """The plan of a factorisation without pivoting: which entries are stored, and in which order pivots go.

    Attributes:
        size: Number of unknowns.
        rows: Row of each stored entry: first the entries of the pattern, row by row, then those that fill.
        cols: Column of each stored entry.
        originals: Number of entries that are not fill.
        order: The pivots.
        below: By unknown, the rows that its column is eliminated from.
        right: By unknown, the columns still left in its row when it is the pivot.
    """

    size: int
    rows: Int[np.ndarray, " stored"]
    cols: Int[np.ndarray, " stored"]
    originals: int
    order: tuple[int, ...]
    below: tuple[tuple[int, ...], ...]
    right: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, pattern: Bool[np.ndarray, "unknowns unknowns"], *, algebraic: Sequence[int] = ()) -> "Elimination":
        """Plan the elimination of a matrix that can be other than zero where `pattern` is true, and on the diagonal.

        Args:
            pattern: A square Boolean matrix.
            algebraic: Unknowns whose diagonal entry is there only if `pattern` says so; they wait until it has filled.
        """
        original = np.array(pattern, bool)
        differential = np.setdiff1d(np.arange(len(original)), np.asarray(algebraic, int))
        original[differential, differential] = True
        order, below, right = _minimum_degree(original)
        stored = original.copy()
        for p in order:
            stored[p, p] = True
            stored[list(below[p]), p] = True
            stored[p, list(right[p])] = True
        rows, cols = np.concatenate([np.argwhere(original), np.argwhere(stored & ~original)]).T
        return cls(len(original), rows, cols, int(original.sum()), order, below, right)

    @property
    def filled(self) -> Bool[np.ndarray, " stored"]:
        """Which stored entries are fill."""
        return np.arange(len(self.rows)) >= self.originals

    @cached_property
    def entry(self) -> dict[tuple[int, int], int]:
        """The number of each stored entry, by row and column."""
        return {(i, j): k for k, (i, j) in enumerate(zip(self.rows.tolist(), self.cols.tolist(), strict=True))}

    @cached_property
    def diagonal(self) -> Int[np.ndarray, " unknowns"]:
        """The numbers of the diagonal entries."""
        return np.array([self.entry[i, i] for i in range(self.size)], int)

    @property
    def operations(self) -> int:
        """How many products a factorisation subtracts, which shows whether a system is better treated as dense."""
        return sum(len(below) * len(right) for below, right in zip(self.below, self.right, strict=True))

    # --- unrolled ----------------------------------------------------------------------------------------------------

    def factorise(self, entries: Sequence[Row | float]) -> Factors:
        """Factorise, given the stored entries as arrays or numbers; those of fill are not read and may be left out."""
        a = dict(enumerate(entries[: self.originals]))
        reciprocals: dict[int, Row] = {}
        for p in self.order:
            reciprocals[p] = 1.0 / jnp.asarray(a[int(self.diagonal[p])])
            for target, left, up in self.updates(p):
                if target == left:
                    a[target] = a[target] * reciprocals[p]
                else:
                    product = a[left] * a[up]
                    a[target] = a[target] - product if target in a else -product
        return Factors([a[k] for k in range(len(self.rows))], [reciprocals[p] for p in range(self.size)])

    def solve(self, factors: Factors, b: Sequence[Row]) -> list[Row]:
        """Return x of A x = b."""
        return self._substitute(factors, b, self.substitutions())

    def solve_transposed(self, factors: Factors, b: Sequence[Row]) -> list[Row]:
        """Return x of A^T x = b."""
        return self._substitute(factors, b, self.substitutions(transposed=True))

    @staticmethod
    def _substitute(factors: Factors, b: Sequence[Row], substitutions: Iterator[tuple[int, int, int]]) -> list[Row]:
        x = list(b)
        for target, entry, source in substitutions:
            if target == source:
                x[target] = x[target] * factors.reciprocals[target]
            else:
                x[target] = x[target] - factors.entries[entry] * x[source]
        return x

    # --- looped ------------------------------------------------------------------------------------------------------

    def factorise_rows(self, entries: Float[Array, "stored lanes"]) -> FactorRows:
        """Factorise, given the stored entries as rows; those of fill are not read and may be left out.

        Returns:
            The factors, for `solve_rows`: rows of LU entries, of minus one over the pivots, and one of zeros.
        """
        original = entries[: self.originals]
        empty = jnp.zeros((len(self.rows) - self.originals + self.size + 1, *original.shape[1:]), original.dtype)
        starts, table = (jnp.asarray(x) for x in self._factorisation_table)
        pivots, reciprocals = (jnp.asarray(x.astype(np.uint32)) for x in self._pivot_rows)

        def eliminate(k: jax.Array, x: jax.Array) -> jax.Array:
            x = _set_row(x, -1.0 / _row(x, pivots[k]), reciprocals[k])
            return jax.lax.fori_loop(starts[k], starts[k + 1], lambda i, x: _operate(x, x, table[i]), x)

        rows = jnp.concatenate([original, empty])
        return jax.lax.fori_loop(np.uint32(0), np.uint32(self.size), eliminate, rows)

    def solve_rows(self, factors: FactorRows, b: Rows) -> Rows:
        """Return x of A x = b."""
        return self._run(self._solve_table, factors, b)

    def solve_rows_transposed(self, factors: FactorRows, b: Rows) -> Rows:
        """Return x of A^T x = b."""
        return self._run(self._transposed_table, factors, b)

    def _run(self, table: UInt32[np.ndarray, "operations 4"], factors: FactorRows, b: Rows) -> Rows:
        operations = jnp.asarray(table)
        x = jnp.concatenate([b, jnp.zeros_like(b[:1])])
        return jax.lax.fori_loop(0, len(table), lambda i, x: _operate(x, factors, operations[i]), x)[:-1]

    @cached_property
    def _pivot_rows(self) -> tuple[np.ndarray, np.ndarray]:
        order = np.array(self.order, int)
        return self.diagonal[order], len(self.rows) + order

    @cached_property
    def _factorisation_table(self) -> tuple[np.ndarray, np.ndarray]:
        """Return where each pivot's operations start, and the operations (d, c, a, b), `X[d] = X[c] - X[a] X[b]`."""
        zero = len(self.rows) + self.size
        starts, table = [0], []
        for p in self.order:
            for target, left, up in self.updates(p):
                table.append((target, zero, left, up) if target == left else (target, target, left, up))
            starts.append(len(table))
        return np.array(starts, np.uint32), np.array([*table, (zero,) * 4], np.uint32)

    @cached_property
    def _solve_table(self) -> UInt32[np.ndarray, "operations 4"]:
        return self._table(self.substitutions())

    @cached_property
    def _transposed_table(self) -> UInt32[np.ndarray, "operations 4"]:
        return self._table(self.substitutions(transposed=True))

    def _table(self, substitutions: Iterator[tuple[int, int, int]]) -> UInt32[np.ndarray, "operations 4"]:
        """Return the operations (d, c, a, b), `x[d] = x[c] - F[a] x[b]`; x has a row of zeros after the unknowns."""
        table = [(d, self.size if d == b else d, a, b) for d, a, b in substitutions]
        return np.array(table, np.uint32)

    # --- the operations of both forms --------------------------------------------------------------------------------

    def updates(self, p: int) -> Iterator[tuple[int, int, int]]:
        """Yield (target, left, up), `A[target] -= A[left] A[up]`; target = left: scale by the reciprocal `up`."""
        for i in self.below[p]:
            left = self.entry[i, p]
            yield left, left, len(self.rows) + p
            for j in self.right[p]:
                yield self.entry[i, j], left, self.entry[p, j]

    def substitutions(self, *, transposed: bool = False) -> Iterator[tuple[int, int, int]]:
        """Yield (target, entry, source), `x[target] -= A[entry] x[source]`; target = source: scale."""
        if transposed:
            yield from self._substitutions_transposed()
            return
        for p in self.order:
            yield from ((i, self.entry[i, p], p) for i in self.below[p])
        for p in reversed(self.order):
            yield from ((p, self.entry[p, j], j) for j in self.right[p])
            yield p, len(self.rows) + p, p

    def _substitutions_transposed(self) -> Iterator[tuple[int, int, int]]:
        for p in self.order:
            yield p, len(self.rows) + p, p
            yield from ((j, self.entry[p, j], p) for j in self.right[p])
        for p in reversed(self.order):
            yield from ((p, self.entry[i, p], i) for i in self.below[p])


def _minimum_degree(
    pattern: Bool[np.ndarray, "unknowns unknowns"],
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Return the pivots by least Markowitz cost, and by unknown the rows below and the columns right of its pivot."""
    n = len(pattern)
    rows = [set(np.flatnonzero(row).tolist()) for row in pattern]
    cols = [set(np.flatnonzero(col).tolist()) for col in pattern.T]
    remaining, order = set(range(n)), []
    below: list[tuple[int, ...]] = [()] * n
    right: list[tuple[int, ...]] = [()] * n
    while remaining:
        candidates = [p for p in remaining if p in rows[p]]
        if not candidates:
            raise ValueError(
                "Argument `pattern` must be of a matrix that can be factorised with pivots on the diagonal, but the "
                f"diagonal entries of unknowns {sorted(remaining)} stay zero."
            )
        p = min(candidates, key=lambda p: ((len(rows[p]) - 1) * (len(cols[p]) - 1), p))
        remaining.discard(p)
        order.append(p)
        across, down = rows[p] - {p}, cols[p] - {p}
        for i in down:
            rows[i].discard(p)
            rows[i] |= across
        for j in across:
            cols[j].discard(p)
            cols[j] |= down
        below[p], right[p] = tuple(sorted(down)), tuple(sorted(across))
    return tuple(order), tuple(below), tuple(right)


def _row(x: jax.Array, i: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False)


def _set_row(x: jax.Array, row: jax.Array, i: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(x, row, i, 0)


def _operate(x: jax.Array, factors: jax.Array, operation: jax.Array) -> jax.Array:
    """Do `x[d] = x[c] - factors[a] x[b]`."""
    d, c, a, b = operation
    return _set_row(x, _row(x, c) - _row(factors, a) * _row(x, b), d)
