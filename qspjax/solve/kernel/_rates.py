"""The Jacobian of a vector field that is a matrix of numbers times rates, from the few entries of that of the rates.

    dy/dt = N v(t, y),   J = N dv/dy

A species that takes part in a hundred reactions meets a hundred others in its row of J, so that as many columns need a
colour of their own, and J as many derivatives; but each rate depends on two or three states, and dv/dy needs a handful.
N is read off the program: off its end, as far as it is linear with numbers as coefficients. The inputs of that end are
the rates.

The idea (dw/dx and its product with the stoichiometry): Froehlich et al., PLoS Comput Biol 2017;13:e1005331,
doi:10.1371/journal.pcbi.1005331.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Literal, Var
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from qspjax._jaxpr._walk import Atom, compute, dtype_of, shape_of
from qspjax.solve.kernel._jacobian import coloured_jacobian

_LINEAR = {
    *("add", "add_any", "sub", "neg", "concatenate", "reduce_sum", "slice", "reshape", "squeeze", "expand_dims"),
    *("broadcast_in_dim", "transpose", "rev", "stack", "unstack", "split", "copy", "copy_p"),
}
_LINEAR_IN_FIRST = {"gather", "dynamic_slice", "pad", "div"}
_LINEAR_IN_ONE = {"mul", "dot_general"}
COLUMNS = 256
"""Columns of N that are computed at a time."""

Entries = tuple[Int[np.ndarray, " entries"], Int[np.ndarray, " entries"], Float[np.ndarray, " entries"]]
"""Rows, columns and values of a sparse matrix."""
Level = tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"], Int[np.ndarray, " others"]]


class Parts(NamedTuple):
    """A program in two parts.

    Attributes:
        head: The equations that compute the rates.
        rates: The variables that enter the end of the program.
        tail: The end: linear equations.
    """

    head: list[JaxprEqn]
    rates: list[Var]
    tail: list[JaxprEqn]


def parts_of(eqns: Sequence[JaxprEqn], output: Atom, numbers: Mapping[Var, ArrayLike]) -> Parts:
    """Split a program where its last linear equations begin, whose coefficients are `numbers`."""
    within, elsewhere = {output}, set()
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
    produced = {var for eqn in tail for var in eqn.outvars}
    rates = {atom: None for eqn in reversed(tail) for atom in eqn.invars if not isinstance(atom, Literal)}
    return Parts(head[::-1], [var for var in rates if var not in produced and var not in numbers], tail[::-1])


def _is_linear(eqn: JaxprEqn, moves: Sequence[bool]) -> bool:
    name = eqn.primitive.name
    if not all(jnp.issubdtype(dtype_of(var), jnp.floating) for var in eqn.outvars):
        return False
    if name in _LINEAR_IN_FIRST:
        return not any(moves[1:])
    return name in _LINEAR or (name in _LINEAR_IN_ONE and sum(moves) == 1)


def matrix_of(parts: Parts, output: Atom, numbers: Mapping[Var, ArrayLike]) -> Entries:
    """Return the entries of N."""
    zeros = [np.zeros(shape_of(var), dtype_of(var)) for var in parts.rates]
    ends = np.cumsum([zero.size for zero in zeros])

    def end(rates: list[jax.Array]) -> jax.Array:
        variables, values = [*numbers, *parts.rates], [*numbers.values(), *rates]
        return jnp.asarray(compute(variables, values, parts.tail, [output])[0])

    def column(unit: jax.Array) -> jax.Array:
        pieces = jnp.split(unit, ends[:-1])
        tangents = [piece.reshape(zero.shape).astype(zero.dtype) for piece, zero in zip(pieces, zeros, strict=True)]
        return jax.jvp(end, (zeros,), (tangents,))[1]

    blocks = []
    with jax.ensure_compile_time_eval():
        columns_of = jax.jit(jax.vmap(column), compiler_options={"xla_backend_optimization_level": 0})
        for start in range(0, ends[-1], COLUMNS):
            columns = np.asarray(columns_of(jnp.eye(COLUMNS, ends[-1], start)))
            indices = np.nonzero(columns)
            blocks.append((indices[1], indices[0] + start, columns[indices]))
    rows, cols, values = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return rows, cols, values


@dataclass(frozen=True, eq=False)
class RatesJacobian:
    """The sums by which the entries of J follow from those of dv/dy.

    Attributes:
        rows: The rate of each entry of dv/dy.
        cols: Its state.
        colours: A colour for each state, such that states of one colour share no rate.
        source: Which entry of dv/dy each product takes.
        weight: Its entry of N.
        levels: Pairs that are added, and unpaired terms, level by level.
        last: The index of the sum that each entry of J is, the number of sums where it is zero.
    """

    rows: Int[np.ndarray, " entries"]
    cols: Int[np.ndarray, " entries"]
    colours: Int[np.ndarray, " states"]
    source: Int[np.ndarray, " products"]
    weight: Float[np.ndarray, " products"]
    levels: tuple[Level, ...]
    last: Int[np.ndarray, " selected"]

    @classmethod
    def of(
        cls,
        matrix: Entries,
        pattern: Bool[np.ndarray, "rates states"],
        colours: Int[np.ndarray, " states"],
        rows: Int[np.ndarray, " selected"],
        cols: Int[np.ndarray, " selected"],
    ) -> "RatesJacobian":
        """Plan the entries of J at `rows` and `cols`, from N, and from the pattern and the colours of dv/dy."""
        rate_of, state_of = np.nonzero(pattern)
        starts = np.searchsorted(rate_of, np.arange(len(pattern) + 1))
        by_row, by_rate, values = matrix
        counts = np.diff(starts)[by_rate]
        term = np.repeat(np.arange(len(values)), counts)
        source = np.arange(len(term)) - np.repeat(np.cumsum(counts) - counts, counts) + starts[by_rate][term]
        entry = np.full((pattern.shape[1],) * 2, -1)
        entry[rows, cols] = np.arange(len(rows))
        target = entry[by_row[term], state_of[source]]
        order = np.argsort(target, kind="stable")
        order = order[target[order] >= 0]
        levels, last = _sums(target[order], len(rows))
        return cls(rate_of, state_of, colours, source[order], values[term[order]], levels, last)

    def __call__(
        self, rates: Callable[[jax.Array], jax.Array], y: Float[Array, "states lanes"]
    ) -> Float[Array, "selected lanes"]:
        """Return the entries of J; `rates` maps (states, lanes) to (rates, lanes)."""
        entries = coloured_jacobian(rates, y, self.rows, self.cols, self.colours)
        terms = entries[self.source] * jnp.asarray(self.weight, y.dtype)[:, None]
        for left, right, alone in self.levels:
            terms = jnp.concatenate([terms[left] + terms[right], terms[alone]])
        return jnp.concatenate([terms, jnp.zeros_like(y[:1])])[self.last]


def _sums(target: Int[np.ndarray, " products"], entries: int) -> tuple[tuple[Level, ...], Int[np.ndarray, " selected"]]:
    """Plan the sums of terms, sorted by their target: neighbours of one target are added, level by level."""
    position, levels = np.arange(len(target)), []
    while (same := target[1:] == target[:-1]).any():
        begins = np.flatnonzero(np.concatenate([[True], ~same]))
        rank = np.arange(len(target)) - np.repeat(begins, np.diff(np.append(begins, len(target))))
        even = rank % 2 == 0
        paired = even & np.append(same, False)
        left = np.flatnonzero(paired)
        levels.append((position[left], position[left + 1], position[even & ~paired]))
        paired = paired[even]
        position = np.where(paired, np.cumsum(paired) - 1, paired.sum() + np.cumsum(~paired) - 1)
        target = target[even]
    last = np.full(entries, len(target))
    last[target] = position
    return tuple(levels), last
