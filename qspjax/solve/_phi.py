"""The matrix exponential and its integral, over an interval h: exp(h A) and h phi_1(h A).

phi_1 is a Taylor polynomial of h A / 2^s, with s such that the remainder is below rounding, followed by s doublings:
phi_1(2 z) = (exp(z) + 1) phi_1(z) / 2. The diagonals of exp - 1 and of exp are doubled side by side, so that neither a
slow state nor one that has decayed loses digits beside a fast one. Small matrices are computed entry by entry, large
ones as arrays.

References: Al-Mohy and Higham, SIAM J Matrix Anal Appl 2009;31:970, doi:10.1137/09074721X (scaling and doubling).
"""

import math
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias, TypeVar

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

UNROLLED = 8
"""Up to this many states, products are unrolled, entry by entry, so that a batch is arithmetic over its patients."""
RADIUS, DEGREE = 0.75, 15
"""Norm within which the polynomial of phi_1 is exact to rounding: 0.75^16 / 17! = 3e-17."""
DOUBLINGS = 64
"""Maximum number of doublings, h |A| up to 1e19."""

# ---- matrices and vectors: entry by entry where small, arrays where large

Dense = Float[Array, "states states *lanes"]
Matrix: TypeAlias = PyTree[Float[Array, "..."]]
"""A dict of entries by (row, column), those that can differ from zero; or an array (states, states)."""
Vector: TypeAlias = PyTree[Float[Array, "..."]]
"""A tuple of numbers, or an array; of one state, or of many with the states last."""
Pattern = Bool[np.ndarray, "states states"]
T = TypeVar("T")


def entries(columns: list[Vector], pattern: Pattern) -> Matrix:
    """Return the matrix of these columns in the form it is computed with."""
    n = len(columns)
    if n > UNROLLED:
        return jnp.stack(columns, axis=1)
    return {(i, j): columns[j][i] for i in range(n) for j in range(n) if pattern[i, j]}


def split(vector: jax.Array) -> Vector:
    """Return a vector over the last axis in the form it is computed with."""
    n = vector.shape[-1]
    return vector if n > UNROLLED else tuple(vector[..., i] for i in range(n))


def dot(a: Matrix, x: Vector) -> Vector:
    """Return A x."""
    if not isinstance(a, dict):
        return a @ x
    return tuple(_sum(a[i, j] * x[j] for j in range(len(x)) if (i, j) in a) for i in range(len(x)))


def _product(a: Matrix, b: Matrix, pattern: Pattern) -> Matrix:
    if not isinstance(a, dict):
        # for few states, and lanes at the end, the sum of outer products is arithmetic over lanes
        return _sum(a[:, k, None] * b[k] for k in range(len(a))) if len(a) <= UNROLLED else a @ b
    n = len(pattern)
    terms = {
        (i, j): [(i, k, j) for k in range(n) if (i, k) in a and (k, j) in b]
        for i, j in zip(*pattern.nonzero(), strict=True)
    }
    return {
        (int(i), int(j)): _sum(a[i, k] * b[k, j] for i, k, j in paths)
        if paths
        else jnp.zeros_like(next(iter(a.values())))
        for (i, j), paths in terms.items()
    }


def _sum(terms: Iterable[jax.Array]) -> jax.Array:
    total, *others = terms
    for term in others:
        total = total + term
    return total


def _scaled(factor: jax.Array, tree: T) -> T:
    return jax.tree.map(lambda x: factor * x, tree)


def add(*trees: T) -> T:
    """Return the sum of trees of one structure."""
    return jax.tree.map(lambda *leaves: _sum(leaves), *trees)


def _unit(a: Dense) -> np.ndarray:
    return np.eye(len(a)).reshape(len(a), len(a), *[1] * (a.ndim - 2))


def _shift(a: Matrix, value: float | jax.Array) -> Matrix:
    """Return A + value I."""
    if not isinstance(a, dict):
        return a + value * _unit(a)
    return {(i, j): entry + value if i == j else entry for (i, j), entry in a.items()}


def _diagonal(a: Matrix) -> Vector:
    if not isinstance(a, dict):
        return jnp.stack([a[i, i] for i in range(len(a))])
    return tuple(entry for (i, j), entry in a.items() if i == j)


def _with_diagonal(a: Matrix, diagonal: Vector) -> Matrix:
    if not isinstance(a, dict):
        return jnp.where(_unit(a) > 0.0, diagonal, a)
    return {(i, j): diagonal[i] if i == j else entry for (i, j), entry in a.items()}


def _around(off: Matrix, e: Vector) -> Matrix:
    """Return off_ij (e_i + e_j)."""
    if not isinstance(off, dict):
        return off * (e[:, None] + e)
    return {(i, j): entry * (e[i] + e[j]) for (i, j), entry in off.items()}


def _norm(a: Matrix, n: int) -> jax.Array:
    """Return the largest sum of a column's absolute values."""
    if isinstance(a, dict):
        sums = [_sum(jnp.abs(entry) for (_, column), entry in a.items() if column == j) for j in range(n)]
    else:  # one row after the other: XLA has a library for sums of arrays, so none in a loop compiled as a whole
        sums = list(_sum(jnp.abs(row) for row in a))
    largest = sums[0]
    for value in sums[1:]:
        largest = jnp.maximum(largest, value)
    return largest


# ---- exp(h A) and h phi_1(h A)


class Flow(NamedTuple):
    """The motion over an interval: y(t + h) = power y(t) + input (b + r); `input` is None where it is not wanted."""

    power: Matrix
    input: Matrix | None


Doubling: TypeAlias = tuple[Matrix, Vector, Matrix | None]
"""exp, the diagonal of exp - 1, and the input matrix."""


def exponential(a: Matrix, h: jax.Array, pattern: Pattern, *, driven: bool) -> Flow:
    """Return exp(h A) and, if `driven`, h phi_1(h A); in forward mode it has derivatives of every order.

    An array of few states may have lanes at the end, in which case h has them too.
    """
    doublings, step = scaling(a, h, len(pattern))
    x = _scaled(step, a)
    phi = _phi(x, pattern)
    grown = _product(x, phi, pattern)  # exp - 1
    power = _with_diagonal(grown, _diagonal(_shift(grown, 1.0)))

    def double(now: tuple[jax.Array, Doubling]) -> tuple[jax.Array, Doubling]:
        i, matrices = now
        later = _doubled(matrices, pattern)
        return i + 1, jax.tree.map(lambda new, old: jnp.where(i < doublings, new, old), later, matrices)

    start = (power, _diagonal(grown), _scaled(step, phi) if driven else None)
    _, result = jax.lax.while_loop(lambda now: eqxi.unvmap_any(now[0] < doublings), double, (jnp.zeros((), int), start))
    return Flow(result[0], result[2])


def scaling(a: Matrix, h: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """Return how often the polynomial over a part of an interval is doubled, and that part."""
    doublings, part = _halvings(jax.lax.stop_gradient(h * _norm(a, n)) / RADIUS)
    return doublings, h * part


def _halvings(size: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return how often to halve a size until it is below 1, at most `DOUBLINGS` times, and the part that remains.

    The exponents of floats are read and written as the bits that they are.
    """
    about = jnp.finfo(size.dtype)
    place, bias, whole = about.nmant, about.maxexp - 1, np.dtype(f"int{about.bits}").type
    exponent = jax.lax.shift_right_arithmetic(jax.lax.bitcast_convert_type(size, whole), whole(place))
    halvings = jax.lax.clamp(whole(0), exponent - whole(bias - 1), whole(DOUBLINGS))
    halvings = jnp.where(jnp.isfinite(size), halvings, whole(0))
    part = jax.lax.bitcast_convert_type(jax.lax.shift_left(whole(bias) - halvings, whole(place)), size.dtype)
    return halvings, part


def _phi(x: Matrix, pattern: Pattern) -> Matrix:
    """Return sum_k x^k / (k + 1)! up to `DEGREE`, by Horner's rule in a loop: one product to compile."""
    coefficients = jnp.asarray([1.0 / math.factorial(k + 1) for k in reversed(range(DEGREE))])
    start = _shift(jax.tree.map(jnp.zeros_like, x), 1.0 / math.factorial(DEGREE + 1))
    return jax.lax.scan(lambda p, c: (_shift(_product(x, p, pattern), c), None), start, coefficients)[0]


def _doubled(now: Doubling, pattern: Pattern) -> Doubling:
    """Return exp, the diagonal of exp - 1, and the input matrix, over twice the interval."""
    power, growth, inputs = now
    e = _diagonal(power)
    off = _with_diagonal(power, jax.tree.map(jnp.zeros_like, e))
    around = _product(off, off, pattern)
    cycles = _diagonal(around)
    growth, e = (
        jax.tree.map(lambda d, o: d * (2.0 + d) + o, growth, cycles),
        jax.tree.map(lambda d, e, o: jnp.where(d > -0.25, 1.0 + (d * (2.0 + d) + o), e * e + o), growth, e, cycles),
    )
    doubled = _with_diagonal(add(around, _around(off, _diagonal(power))), e)
    return doubled, growth, None if inputs is None else add(inputs, _product(power, inputs, pattern))
