"""Values that a solve did not reach: they are NaN, and so are their derivatives, except where they are not used.

A derivative of zero would tell a fit that none of its parameters matters. So the tangent of a lost value is NaN where
that of anything it depends on is not zero, and its cotangent is passed on as NaN. Zero tangents, and the zero cotangent
of a lost value that is not used, stay zero: zero times NaN would spoil the derivative of every other patient.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import PyTree

_spoilt_p = Primitive("qspjax_spoilt")
"""Multiply by NaN, but leave zero as it is; linear, and its own transpose."""


def _spoilt(x: jax.Array) -> jax.Array:
    return jnp.where(x == 0.0, jnp.zeros_like(x), jnp.nan)


_spoilt_p.def_impl(jax.jit(_spoilt))
_spoilt_p.def_abstract_eval(lambda x: x)
mlir.register_lowering(_spoilt_p, mlir.lower_fun(_spoilt, multiple_results=False))
batching.defvectorized(_spoilt_p)
ad.deflinear(_spoilt_p, lambda cotangent: [_spoilt_p.bind(cotangent)])


_joined_p = Primitive("qspjax_joined")
"""The first `count` of its operands, with the axes that `jax.vmap` gives any of them.

It gives the derivatives the axes of the values, which hence must have those of all that they are a function of.
"""
_joined_p.multiple_results = True


def _joined_in_lanes(
    operands: Sequence[jax.Array], axes: Sequence[int | None], *, count: int
) -> tuple[list[jax.Array], list[int]]:
    (size,) = {x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None}
    moved = [batching.bdim_at_front(x, axis, size) for x, axis in zip(operands, axes, strict=True)]
    return _joined_p.bind(*moved, count=count), [0] * count


def _joined(*operands: jax.Array, count: int) -> list[jax.Array]:
    # selections that XLA takes out: they keep it from rounding values otherwise where it combines them with others
    some = jnp.any(operands[count])
    return [jnp.where(some, x, x) for x in operands[:count]]


_joined_p.def_impl(lambda *operands, count: list(operands[:count]))
_joined_p.def_abstract_eval(lambda *operands, count: list(operands[:count]))
mlir.register_lowering(_joined_p, mlir.lower_fun(_joined, multiple_results=True))
batching.primitive_batchers[_joined_p] = _joined_in_lanes


@functools.partial(jax.custom_jvp)
def lost(values: PyTree, where: jax.Array, sources: PyTree) -> PyTree:
    """Return the values; their derivatives with respect to `sources` are NaN `where` they are lost.

    Args:
        values: Arrays with a first axis like `where`.
        where: Which of them are lost, shape (times,).
        sources: Everything that the values are a function of.
    """
    leaves, structure = jax.tree.flatten(values)
    return jax.tree.unflatten(structure, _joined_p.bind(*leaves, where, *jax.tree.leaves(sources), count=len(leaves)))


def _lost_jvp(primals: tuple, tangents: tuple) -> tuple:
    values, where, _ = primals
    value_tangents, _, sources = tangents
    source_tangents = [x for x in jax.tree.leaves(sources, is_leaf=_is_zero) if not _is_zero(x)]
    source_tangents = [jnp.sum(_spoilt_p.bind(x)) for x in source_tangents if jnp.issubdtype(x.dtype, jnp.inexact)]
    total = sum(source_tangents)

    def spoil(value: jax.Array, tangent: jax.Array | SymbolicZero) -> jax.Array:
        direct = jnp.zeros_like(value) if isinstance(tangent, SymbolicZero) else tangent
        if not source_tangents:
            return direct
        rows = where.reshape(-1, *[1] * (value.ndim - 1))
        return direct + jnp.where(rows, _spoilt_p.bind(jnp.broadcast_to(total, value.shape)), 0.0)

    return lost(*primals), jax.tree.map(spoil, values, value_tangents, is_leaf=_is_zero)


def _is_zero(x: object) -> bool:
    return isinstance(x, SymbolicZero)


lost.defjvp(_lost_jvp, symbolic_zeros=True)
