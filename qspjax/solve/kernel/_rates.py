"""The Jacobian of a vector field that is a matrix of numbers times rates, from the few entries of that of the rates.

    dy/dt = N v(t, y),   J = N dv/dy

A species that takes part in a hundred reactions meets a hundred others in its row of J, so that as many columns need a
colour of their own, and J as many derivatives; but each rate depends on two or three states, and dv/dy needs a handful.
What is N is read off the program: its end, as far as it is linear with numbers as coefficients. What enters there are
the rates.

The idea (dw/dx and its product with the stoichiometry): Froehlich et al., PLoS Comput Biol 2017;13:e1005331,
doi:10.1371/journal.pcbi.1005331.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Literal

from qspjax._jaxpr._walk import compute
from qspjax.solve.kernel._jacobian import coloured_jacobian

_LINEAR = {
    *("add", "add_any", "sub", "neg", "concatenate", "reduce_sum", "slice", "reshape", "squeeze", "expand_dims"),
    *("broadcast_in_dim", "transpose", "rev", "stack", "unstack", "split", "copy", "copy_p"),
}
_LINEAR_IN_FIRST = {"gather", "dynamic_slice", "pad", "div"}
_LINEAR_IN_ONE = {"mul", "dot_general"}
COLUMNS = 256
"""Columns of N that are computed at a time."""


class Parts(NamedTuple):
    """A program in two parts.

    Attributes:
        head: The equations that compute the rates.
        rates: The variables that enter the end of the program.
        tail: The end: linear equations.
    """

    head: list[JaxprEqn]
    rates: list[Any]
    tail: list[JaxprEqn]


def parts_of(eqns: Sequence[JaxprEqn], wanted: Any, numbers: Mapping[Any, Any]) -> Parts:
    """Part a program where its last linear equations begin, whose coefficients are `numbers`."""
    within, elsewhere = {wanted}, set()
    head, tail = [], []
    for eqn in reversed(eqns):
        atoms = [atom for atom in eqn.invars if not isinstance(atom, Literal) and atom not in numbers]
        inside = within.intersection(eqn.outvars) and not elsewhere.intersection(eqn.outvars)
        if inside and _is_linear(eqn, [not isinstance(a, Literal) and a not in numbers for a in eqn.invars]):
            tail.append(eqn)
            within.update(atoms)
        else:
            head.append(eqn)
            elsewhere.update(atoms)
    made = {var for eqn in tail for var in eqn.outvars}
    rates = {atom: None for eqn in reversed(tail) for atom in eqn.invars if not isinstance(atom, Literal)}
    return Parts(head[::-1], [var for var in rates if var not in made and var not in numbers], tail[::-1])


def _is_linear(eqn: JaxprEqn, moves: Sequence[bool]) -> bool:
    name = eqn.primitive.name
    if not all(jnp.issubdtype(var.aval.dtype, jnp.floating) for var in eqn.outvars):
        return False
    if name in _LINEAR_IN_FIRST:
        return not any(moves[1:])
    return name in _LINEAR or (name in _LINEAR_IN_ONE and sum(moves) == 1)


def matrix_of(parts: Parts, wanted: Any, numbers: Mapping[Any, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, columns and values of N."""
    shapes = [var.aval for var in parts.rates]
    ends = np.cumsum([aval.size for aval in shapes])
    zeros = [np.zeros(aval.shape, aval.dtype) for aval in shapes]

    def end(rates: list) -> Any:
        return compute([*numbers, *parts.rates], [*numbers.values(), *rates], parts.tail, [wanted])[0]

    def column(unit: jax.Array) -> jax.Array:
        pieces = jnp.split(unit, ends[:-1])
        along = [piece.reshape(aval.shape).astype(aval.dtype) for piece, aval in zip(pieces, shapes, strict=True)]
        return jax.jvp(end, (zeros,), (along,))[1]

    found = []
    with jax.ensure_compile_time_eval():
        columns_of = jax.jit(jax.vmap(column), compiler_options={"xla_backend_optimization_level": 0})
        for first in range(0, ends[-1], COLUMNS):
            columns = np.asarray(columns_of(jnp.eye(COLUMNS, ends[-1], first)))
            place = np.nonzero(columns)
            found.append((place[1], place[0] + first, columns[place]))
    rows, cols, values = (np.concatenate(part) for part in zip(*found, strict=True))
    return rows, cols, values


@dataclass(frozen=True, eq=False)
class RatesJacobian:
    """How the entries of J are summed up from those of dv/dy.

    Attributes:
        rows: The rate of each entry of dv/dy.
        cols: Its state.
        colours: A colour for each state, such that states of one colour share no rate.
        source: Which entry of dv/dy each product takes.
        weight: Its entry of N.
        levels: Pairs that are added, and what is left over, level by level.
        last: Which of the sums each entry of J is, their number where it is zero.
    """

    rows: np.ndarray
    cols: np.ndarray
    colours: np.ndarray
    source: np.ndarray
    weight: np.ndarray
    levels: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]
    last: np.ndarray

    @classmethod
    def of(
        cls, matrix: tuple, pattern: np.ndarray, colours: np.ndarray, rows: np.ndarray, cols: np.ndarray
    ) -> "RatesJacobian":
        """Plan the entries of J at `rows` and `cols`, from N, and from the pattern and the colours of dv/dy."""
        own_rows, own_cols = np.nonzero(pattern)
        starts = np.searchsorted(own_rows, np.arange(len(pattern) + 1))
        by_row, by_rate, values = matrix
        counts = np.diff(starts)[by_rate]
        term = np.repeat(np.arange(len(values)), counts)
        source = np.arange(len(term)) - np.repeat(np.cumsum(counts) - counts, counts) + starts[by_rate][term]
        entry = np.full((pattern.shape[1],) * 2, -1)
        entry[rows, cols] = np.arange(len(rows))
        target = entry[by_row[term], own_cols[source]]
        order = np.argsort(target, kind="stable")
        order = order[target[order] >= 0]
        levels, last = _sums(target[order], len(rows))
        return cls(own_rows, own_cols, colours, source[order], values[term[order]], levels, last)

    def __call__(self, rates: Callable[[jax.Array], jax.Array], y: jax.Array) -> jax.Array:
        """Return the entries of J, shape (entries, lanes); `rates` maps (states, lanes) to (rates, lanes)."""
        moved = coloured_jacobian(rates, y, self.rows, self.cols, self.colours)
        terms = moved[self.source] * jnp.asarray(self.weight, y.dtype)[:, None]
        for left, right, alone in self.levels:
            terms = jnp.concatenate([terms[left] + terms[right], terms[alone]])
        return jnp.concatenate([terms, jnp.zeros_like(y[:1])])[self.last]


def _sums(target: np.ndarray, entries: int) -> tuple[tuple, np.ndarray]:
    """Plan the sums of terms, sorted by their target: neighbours of one target are added, level by level."""
    place, levels = np.arange(len(target)), []
    while (same := target[1:] == target[:-1]).any():
        begins = np.flatnonzero(np.concatenate([[True], ~same]))
        rank = np.arange(len(target)) - np.repeat(begins, np.diff([*begins, len(target)]))
        kept = rank % 2 == 0
        paired = kept & np.append(same, False)
        left = np.flatnonzero(paired)
        levels.append((place[left], place[left + 1], place[kept & ~paired]))
        paired = paired[kept]
        place = np.where(paired, np.cumsum(paired) - 1, paired.sum() + np.cumsum(~paired) - 1)
        target = target[kept]
    last = np.full(entries, len(target))
    last[target] = place
    return tuple(levels), last
