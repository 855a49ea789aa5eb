"""The matrices of an interval, computed where it is new and kept where it is not, with derivatives of every order.

The k-th derivative of f(A) = exp(h A), or h phi_1(h A), along E_1 ... E_k is linear in each of them, and its transpose
is the same derivative at A': for one direction <W, Df(A)[E]> = <Df(A')[W], E>, for two

    <W, D2f(A)[E_1, E_2]> = <D2f(A')[E_1', W], E_2>.

So one primitive, computed by forward derivatives of `exponential`, gives derivatives in both modes: nothing inside an
exponential is stored, and nothing at all is computed at a boundary whose interval is not new.

Reference: Higham 2008, Functions of Matrices, chapter 3.
"""

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from qspjax.solve._phi import UNROLLED, Dense, Matrix, Pattern, exponential

T = TypeVar("T")
X = TypeVar("X")


class _Kind(NamedTuple):
    """Which derivative, of what.

    Attributes:
        pattern: Which entries of the matrices can differ from zero.
        driven: Whether the input matrix is wanted too, beside the exponential.
        turned: Which directions are transposed.
        turns: Whether the result is.
    """

    pattern: tuple[tuple[bool, ...], ...]
    driven: bool
    turned: tuple[bool, ...] = ()
    turns: bool = False

    @property
    def axes(self) -> int:
        """The number of axes of a leaf, after those of lanes."""
        return 0 if len(self.pattern) <= UNROLLED else 2

    @property
    def size(self) -> int:
        """The number of leaves of a matrix."""
        return int(np.sum(self.pattern)) if self.axes == 0 else 1


class _Operands(NamedTuple, Generic[X]):
    """The operands of the primitive: matrices as leaves, which have lanes in front, in all the same number of axes."""

    fresh: X
    h: X
    a: list[X]
    directions: list[list[X]]
    old: list[X]


def once(needed: jax.Array, compute: Callable[[], T], old: T) -> T:
    """Return what is computed if `needed`, else the old: a loop, which XLA compiles as part of another one on a CPU."""
    return jax.lax.while_loop(lambda now: now[0], lambda now: (jnp.zeros_like(now[0]), compute()), (needed, old))[1]


_refreshed_p = Primitive("qspjax_refreshed")
_refreshed_p.multiple_results = True


def refreshed(
    fresh: jax.Array, h: jax.Array, a: Matrix, pattern: Pattern, old: tuple[Matrix, Matrix | None]
) -> tuple[Matrix, Matrix | None]:
    """Return exp(h A) and h phi_1(h A) if `fresh`, else the old ones; the second is None where the old one is.

    Args:
        fresh: One for all lanes.
        h: The interval, a constant.
        a: The matrix A.
        pattern: Which entries of it, and of its powers, can differ from zero.
        old: The matrices so far.
    """
    kept, tree = jax.tree.flatten(old)
    kind = _Kind(tuple(map(tuple, pattern.tolist())), old[1] is not None)
    out = _refreshed_p.bind(fresh, jax.lax.stop_gradient(jnp.asarray(h)), *jax.tree.leaves(a), *kept, kind=kind)
    return jax.tree.unflatten(tree, out)


def _unpacked(operands: Sequence[X], kind: _Kind) -> _Operands[X]:
    fresh, h, *leaves = operands
    m, k = kind.size, len(kind.turned)
    groups = [list(leaves[i * m : (i + 1) * m]) for i in range(k + 1)]
    return _Operands(fresh, h, groups[0], groups[1:], list(leaves[(k + 1) * m :]))


def _bound(operands: _Operands[jax.Array], kind: _Kind) -> list[jax.Array]:
    leaves = [leaf for group in (operands.a, *operands.directions, operands.old) for leaf in group]
    return _refreshed_p.bind(operands.fresh, operands.h, *leaves, kind=kind)


# ---- the values


def _refreshed(*operands: jax.Array, kind: _Kind) -> list[jax.Array]:
    given = _unpacked(operands, kind)
    shapes = [out.shape for out in _shapes(*map(jax.typeof, operands), kind=kind)]
    old = [jnp.broadcast_to(leaf, shape) for leaf, shape in zip(given.old, shapes, strict=True)]

    def compute() -> list[jax.Array]:
        found = _derivative(given, kind)
        return [jnp.broadcast_to(leaf, shape) for leaf, shape in zip(found, shapes, strict=True)]

    return once(given.fresh, compute, old)


def _derivative(given: _Operands[jax.Array], kind: _Kind) -> list[jax.Array]:
    """Return the leaves of the derivative along the directions: for few states the lanes are last, else first."""
    pattern, lanes_first = np.array(kind.pattern), kind.axes > 0
    n, number = len(pattern), 1 + kind.driven
    matrices = [_dense(leaves, pattern) for leaves in (given.a, *given.directions)]
    turned = (False, *kind.turned)
    rows, columns = (-2, -1) if lanes_first else (0, 1)
    matrices = [jnp.swapaxes(x, rows, columns) if turn else x for x, turn in zip(matrices, turned, strict=True)]

    def along(h: jax.Array, a: Dense, *directions: Dense) -> tuple[Dense, ...]:
        def value(a: Dense) -> tuple[Dense, ...]:
            return tuple(jax.tree.leaves(exponential(a, h, np.ones((n, n), bool), driven=kind.driven)))

        function = value
        for direction in directions:
            function = _slope_along(function, jnp.broadcast_to(direction, a.shape))
        return function(a)

    if lanes_first:
        each = ",".join(["()", *["(n,n)"] * len(matrices)])
        found = jnp.vectorize(along, signature=f"{each}->{','.join(['(n,n)'] * number)}")(given.h, *matrices)
        found = found if isinstance(found, tuple) else (found,)
    else:
        found = _spread(along, given.h, matrices)
    found = [jnp.swapaxes(x, rows, columns) if kind.turns else x for x in found]
    return found if lanes_first else [x[i, j] for x in found for i, j in zip(*pattern.nonzero(), strict=True)]


def _dense(leaves: Sequence[jax.Array], pattern: Pattern) -> Dense:
    """Return a matrix as an array, which has its lanes last if the leaves are entries."""
    if leaves[0].ndim >= 2 and len(leaves) == 1 and len(pattern) > UNROLLED:
        return leaves[0]
    shape = jnp.broadcast_shapes(*(leaf.shape for leaf in leaves))
    entry, zero = iter(leaves), jnp.zeros(shape, leaves[0].dtype)
    rows = [[jnp.broadcast_to(next(entry), shape) if here else zero for here in row] for row in pattern]
    return jnp.stack([jnp.stack(row) for row in rows])


def _slope_along(function: Callable[[Dense], tuple[Dense, ...]], direction: Dense) -> Callable:
    return lambda a: jax.jvp(function, (a,), (direction,))[1]


def _spread(along: Callable[..., tuple[Dense, ...]], h: jax.Array, matrices: Sequence[Dense]) -> tuple[Dense, ...]:
    """Apply to arrays with their lanes last, mapped over the lanes of directions that all share one matrix A."""
    a, *directions = matrices
    for axis in range(2, a.ndim):
        wide = [direction.shape[axis] > 1 for direction in directions]
        if a.shape[axis] == 1 and h.shape[axis - 2] == 1 and any(wide):

            def one(*directions: Dense, axis: int = axis, wide: list[bool] = wide) -> tuple[Dense, ...]:
                whole = [jnp.expand_dims(x, axis) if each else x for x, each in zip(directions, wide, strict=True)]
                return tuple(x.squeeze(axis) for x in _spread(along, h, [a, *whole]))

            axes = tuple(axis if each else None for each in wide)
            return jax.vmap(one, in_axes=axes, out_axes=axis)(*directions)
    shape = jnp.broadcast_shapes(a.shape, *(direction.shape for direction in directions))
    return along(h, jnp.broadcast_to(a, shape), *directions)


def _shapes(*operands: ShapedArray, kind: _Kind) -> list[ShapedArray]:
    given = _unpacked(operands, kind)
    leaves = [leaf for group in (given.a, *given.directions, given.old) for leaf in group]
    lanes = jnp.broadcast_shapes(given.h.shape, *(leaf.shape[: leaf.ndim - kind.axes] for leaf in leaves))
    n = len(kind.pattern)
    return [ShapedArray((*lanes, *[n] * kind.axes), leaf.dtype) for leaf in given.old]


# ---- derivatives


def _jvp(
    primals: Sequence[jax.Array], tangents: Sequence[jax.Array | ad.Zero], *, kind: _Kind
) -> tuple[list[jax.Array], list[jax.Array]]:
    given, moved = _unpacked(primals, kind), _unpacked(tangents, kind)
    value = _bound(given, kind)
    terms: list[tuple[list[list[jax.Array]], _Kind]] = []
    if not _all_zero(moved.a):
        wider = kind._replace(turned=(*kind.turned, False))
        terms.append(([*given.directions, _filled(moved.a)], wider))
    for i, direction in enumerate(moved.directions):
        if not _all_zero(direction):
            others = [*given.directions[:i], _filled(direction), *given.directions[i + 1 :]]
            terms.append((others, kind))
    old = _filled(moved.old)
    if not terms:
        return value, [
            jnp.where(given.fresh, 0.0, jnp.broadcast_to(leaf, out.shape)) for leaf, out in zip(old, value, strict=True)
        ]
    total: list[jax.Array] | None = None
    for directions, wider in terms:
        term = _bound(given._replace(directions=directions, old=old), wider)
        total = term if total is None else [x + y for x, y in zip(total, term, strict=True)]
        old = [jnp.zeros_like(leaf) for leaf in given.old]
    assert total is not None
    return value, total


def _transpose(
    cotangents: Sequence[jax.Array | ad.Zero], *operands: jax.Array, kind: _Kind
) -> list[jax.Array | ad.Zero | None]:
    """Return the cotangents of one direction and of the old matrices: what is linear together."""
    given = _unpacked(operands, kind)
    filled = _filled(cotangents)

    def handed(found: Sequence[jax.Array], leaves: Sequence[jax.Array]) -> list[jax.Array | None]:
        return [
            _summed(x, leaf.aval.shape) if ad.is_undefined_primal(leaf) else None
            for x, leaf in zip(found, leaves, strict=True)
        ]

    old = [jnp.where(given.fresh, 0.0, cotangent) for cotangent in filled]
    result: list[jax.Array | None] = [None, None, *[None] * kind.size]
    for i, direction in enumerate(given.directions):
        if not any(map(ad.is_undefined_primal, direction)):
            result += [None] * kind.size
            continue
        turned = (*kind.turned[:i], not kind.turns, *kind.turned[i + 1 :])
        back = _Kind(kind.pattern, kind.driven, turned, turns=not kind.turned[i])
        found = []
        for part in range(1 + kind.driven):
            weight = filled[part * kind.size : (part + 1) * kind.size]
            directions = [*given.directions[:i], weight, *given.directions[i + 1 :]]
            nothing = [jnp.zeros_like(x) for x in filled[: (1 + part) * kind.size]]
            now = back._replace(driven=part > 0)
            found.append(_bound(given._replace(directions=directions, old=nothing), now)[-kind.size :])
        result += handed([jax.tree.reduce(jnp.add, parts) for parts in zip(*found, strict=True)], direction)
    return [*result, *handed(old, given.old)]


def _summed(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Return the sum over the axes that were broadcast from this shape."""
    axes = tuple(i for i, (now, before) in enumerate(zip(x.shape, shape, strict=True)) if now != before)
    return x.sum(axis=axes, keepdims=True) if axes else x


def _all_zero(leaves: Sequence[jax.Array | ad.Zero]) -> bool:
    return all(isinstance(leaf, ad.Zero) for leaf in leaves)


def _filled(leaves: Sequence[jax.Array | ad.Zero]) -> list[jax.Array]:
    return [ad.instantiate_zeros(leaf) for leaf in leaves]


def _batch(operands: Sequence[jax.Array], axes: Sequence[int | None], *, kind: _Kind) -> tuple[list, list[int]]:
    """Put the new lanes in front; `fresh` is one for all lanes."""
    fresh, *others = operands
    assert axes[0] is None, "whether an interval is new is asked for all lanes together"
    moved = [x[None] if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(others, axes[1:], strict=True)]
    out = _refreshed_p.bind(fresh, *moved, kind=kind)
    return out, [0] * len(out)


_refreshed_p.def_impl(lambda *operands, kind: jax.jit(lambda *x: _refreshed(*x, kind=kind))(*operands))
_refreshed_p.def_abstract_eval(_shapes)
mlir.register_lowering(_refreshed_p, mlir.lower_fun(_refreshed, multiple_results=True))
ad.primitive_jvps[_refreshed_p] = _jvp
ad.primitive_transposes[_refreshed_p] = _transpose
batching.primitive_batchers[_refreshed_p] = _batch
