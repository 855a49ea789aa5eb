"""Values that a solve did not reach: NaN, and so is every derivative of them, but for what is not used.

A derivative of zero would tell a fit that nothing it may change matters. So a lost value moves by NaN where anything
that it would depend on moves, and a cotangent of it comes back as NaN; what does not move, and a lost value that nobody
uses, add zero: zero times NaN would spoil the derivative of every other patient.
"""

import functools

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


@functools.partial(jax.custom_jvp)
def lost(values: PyTree, where: jax.Array, sources: PyTree) -> PyTree:
    """Return the values, whose derivatives along whatever moves in `sources` are NaN `where` they are lost.

    Args:
        values: Arrays with a first axis like `where`.
        where: Which of them are lost, shape (times,).
        sources: Everything that the values are a function of.
    """
    del where, sources
    return values


def _lost_jvp(primals: tuple, tangents: tuple) -> tuple:
    values, where, _ = primals
    moved, _, sources = tangents
    ways = [x for x in jax.tree.leaves(sources, is_leaf=_is_still) if not _is_still(x)]
    ways = [jnp.sum(_spoilt_p.bind(x)) for x in ways if jnp.issubdtype(x.dtype, jnp.inexact)]

    def along(value: jax.Array, tangent: jax.Array | SymbolicZero) -> jax.Array:
        own = jnp.zeros_like(value) if isinstance(tangent, SymbolicZero) else tangent
        if not ways:
            return own
        rows = where.reshape(-1, *[1] * (value.ndim - 1))
        return own + jnp.where(rows, _spoilt_p.bind(jnp.broadcast_to(sum(ways), value.shape)), 0.0)

    return lost(*primals), jax.tree.map(along, values, moved, is_leaf=_is_still)


def _is_still(x: object) -> bool:
    return isinstance(x, SymbolicZero)


lost.defjvp(_lost_jvp, symbolic_zeros=True)
