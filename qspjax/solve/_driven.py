"""The motion of a driven linear system over an interval, and its transposed derivative.

With the inputs u as one more column, exp(h A) and h phi_1(h A) u are parts of one exponential,

    exp(h [A u; 0 0]) = [exp(h A), h phi_1(h A) u; 0 1]

which is computed as in `_phi`. The derivative of an exponential has itself as its transpose, at the transposed matrix:

    <W, Dexp(X)[E]> = <Dexp(X')[W], E>.

So a cotangent is carried forward, through the polynomial and through every doubling, as a tangent would be, and
nothing is stored: p <- x p + c I takes d to x' d + w p', and e <- e e takes d to e' d + d e'. Of a matrix, only those
entries are computed that can differ from zero in a power of it; a cotangent needs no others.

Reference: Higham 2008, Functions of Matrices, chapters 3 and 10.
"""

import math
from typing import NamedTuple, TypeAlias

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from qspjax.solve._phi import DEGREE, scaling

Entries: TypeAlias = Float[Array, " entries"]
"""The entries of a matrix that can differ from zero, row by row."""


class Layout(NamedTuple):
    """Where the entries of a matrix are.

    Attributes:
        rows: The row of each entry.
        columns: Its column.
        number: For each place of the matrix the number of its entry, or the number of entries where it is zero.
    """

    rows: Int[np.ndarray, " entries"]
    columns: Int[np.ndarray, " entries"]
    number: Int[np.ndarray, "states states"]

    @classmethod
    def of(cls, pattern: Bool[np.ndarray, "states states"]) -> "Layout":
        """Return the layout of matrices with a pattern, which is that of all their powers and has the diagonal."""
        rows, columns = pattern.nonzero()
        number = np.full(pattern.shape, len(rows))
        number[rows, columns] = np.arange(len(rows))
        return cls(rows, columns, number)

    @property
    def size(self) -> int:
        """The number of rows of a matrix."""
        return len(self.number)

    @property
    def diagonal(self) -> Bool[np.ndarray, " entries"]:
        """Which entries are on the diagonal."""
        return self.rows == self.columns

    def whole(self, entries: Entries) -> Float[Array, "states states"]:
        """Return the matrix with some entries."""
        return jnp.concatenate([entries, jnp.zeros(1, entries.dtype)])[self.number]

    def entries(self, matrix: Float[Array, "states states"]) -> Entries:
        """Return the entries of a matrix."""
        return matrix[self.rows, self.columns]

    def with_inputs(self) -> "Layout":
        """Return the layout with inputs as one more column."""
        n = self.size
        wide = np.zeros((n + 1, n + 1), bool)
        wide[:n, :n], wide[:, n] = self.number < len(self.rows), True
        return Layout.of(wide)


class Motion(NamedTuple):
    """The motion over an interval, y(t + h) = power y(t) + push; or its cotangent. `push` is None without inputs."""

    power: Entries
    push: Float[Array, " states"] | None


class Inputs(NamedTuple):
    """What moves a system, y' = a y + u; or a cotangent of it. `u` is None without inputs."""

    a: Entries
    u: Float[Array, " states"] | None


def motion(inputs: Inputs, h: Float[Array, ""], layout: Layout) -> Motion:
    """Return the motion over an interval.

    Args:
        inputs: What moves the system.
        h: The interval, a constant.
        layout: Where the entries of the matrix are.
    """
    wide = layout if inputs.u is None else layout.with_inputs()
    doublings, step = scaling(layout.whole(inputs.a), h, layout.size)
    x = step * _widened(inputs, layout, wide)
    whole = wide.whole(x)
    phi = jax.lax.scan(
        lambda p, c: (_product(whole, p, wide) + c * wide.diagonal, None), _start(x, wide), jnp.asarray(_ORDERS)
    )[0]
    grown = _product(whole, phi, wide)  # exp - 1

    def double(now: tuple) -> tuple:
        i, power, growth = now
        later = _doubled(power, growth, wide)
        return i + 1, *(jnp.where(i < doublings, new, old) for new, old in zip(later, now[1:], strict=True))

    start = jnp.zeros((), int), grown + wide.diagonal, grown[wide.diagonal]
    _, power, _ = jax.lax.while_loop(lambda now: eqxi.unvmap_any(now[0] < doublings), double, start)
    return Motion(*_parted(power, layout, wide))


def pulled(inputs: Inputs, h: Float[Array, ""], layout: Layout, weights: Motion) -> Inputs:
    """Return the cotangent of what moves a system, from that of its motion over an interval."""
    wide = layout if inputs.u is None else layout.with_inputs()
    doublings, step = scaling(layout.whole(inputs.a), h, layout.size)
    x, w = (step * _widened(each, layout, wide) for each in (inputs, weights))
    whole, weight = wide.whole(x), wide.whole(w)

    def horner(now: tuple[Entries, Entries], c: jax.Array) -> tuple[tuple[Entries, Entries], None]:
        p, d = now
        back = _product(whole.T, d, wide) + _product(weight, p, wide, turned=True)
        return (_product(whole, p, wide) + c * wide.diagonal, back), None

    (phi, d), _ = jax.lax.scan(horner, (_start(x, wide), jnp.zeros_like(x)), jnp.asarray(_ORDERS))
    grown = _product(whole, phi, wide)
    d = _product(whole.T, d, wide) + _product(weight, phi, wide, turned=True)

    def double(now: tuple) -> tuple:
        i, power, growth, d = now
        back = _product(wide.whole(power).T, d, wide) + _product(wide.whole(d), power, wide, turned=True)
        later = *_doubled(power, growth, wide), back
        return i + 1, *(jnp.where(i < doublings, new, old) for new, old in zip(later, now[1:], strict=True))

    start = jnp.zeros((), int), grown + wide.diagonal, grown[wide.diagonal], d
    *_, d = jax.lax.while_loop(lambda now: eqxi.unvmap_any(now[0] < doublings), double, start)
    return Inputs(*_parted(d, layout, wide))


_ORDERS = np.array([1.0 / math.factorial(k + 1) for k in reversed(range(DEGREE))])
"""The coefficients of phi_1, the highest but one first."""


def _start(x: Entries, layout: Layout) -> Entries:
    """Return the highest coefficient of phi_1, times the unit matrix."""
    return jnp.zeros_like(x) + layout.diagonal / math.factorial(DEGREE + 1)


def _product(a: Float[Array, "states states"], b: Entries, layout: Layout, *, turned: bool = False) -> Entries:
    """Return entries of a b, or of a b'."""
    right = layout.whole(b)
    return layout.entries(a @ (right.T if turned else right))


def _doubled(power: Entries, growth: Float[Array, " states"], layout: Layout) -> tuple[Entries, jax.Array]:
    """Return exp and the diagonal of exp - 1 over twice the interval: see `_phi`."""
    diagonal, (rows, columns, _) = layout.diagonal, layout
    e, off = power[diagonal], jnp.where(diagonal, 0.0, power)
    around = _product(layout.whole(off), off, layout)
    cycles = around[diagonal]
    more = growth * (2.0 + growth) + cycles
    own = jnp.where(growth > -0.25, 1.0 + more, e * e + cycles)
    return jnp.where(diagonal, own[rows], around + off * (e[rows] + e[columns])), more


def _widened(inputs: Inputs | Motion, layout: Layout, wide: Layout) -> Entries:
    """Return the entries of a matrix with inputs as one more column."""
    a, u = inputs
    if u is None:
        return a
    n, whole = layout.size, layout.whole(a)
    return wide.entries(jnp.zeros((n + 1, n + 1), a.dtype).at[:n, :n].set(whole).at[:n, n].set(u))


def _parted(entries: Entries, layout: Layout, wide: Layout) -> tuple[Entries, Float[Array, " states"] | None]:
    """Return the entries of a matrix without its last column, and that."""
    if wide is layout:
        return entries, None
    own, n = wide.columns < layout.size, layout.size
    return entries[own], entries[~own][:n]
