"""Vector fields that are finite where their slope is not: roots and powers of a state that is zero.

    d/dx x^n = n x^(n - 1) -> infinity as x -> 0, for n < 1

A solution passes through such a point, or rests there, and its dependence on parameters is finite: the infinite slope
occurs for an instant only, or multiplies a zero tangent. In derivatives of what is solved it counts as zero. A
Rosenbrock method then is explicit in that term for a step, with an error that its error control sees; all values stay
as they are.

Where a root empties a state, rounding error may take it below zero, where the field is not defined. A state of which
the field takes a root or a power, and that is negative by less than its absolute tolerance, is effectively zero, and
the field is that at zero.

Reference: Hairer and Wanner, Solving Ordinary Differential Equations II, IV.7, doi:10.1007/978-3-642-05221-7
(Rosenbrock methods with inexact Jacobians).
"""

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Primitive
from jax.typing import ArrayLike
from jaxtyping import Bool, PyTree

from qspjax._jaxpr._walk import bind, called, compute_all, equations, walk_all
from qspjax._types import Scalar, State

Out = TypeVar("Out")

_STEEP = {"pow", "sqrt", "cbrt", "log", "log1p", "log2", "asin", "acos", "acosh"}
"""Primitives that can be finite, or be multiplied by zero, where their slope is infinite or undefined."""
_ROOTS = {"pow", "sqrt"}
"""Primitives that are not defined below zero, and zero or one at zero."""


def bound(eqn: JaxprEqn, operands: Sequence[ArrayLike]) -> Sequence[ArrayLike]:
    """Return what an equation of a traced program computes; slopes that are infinite or undefined count as zero."""
    if eqn.primitive.name in _STEEP:
        return [_primitive(eqn.primitive, tuple(eqn.params.items()))(*operands)]
    inner = called(eqn)
    if inner is not None and _is_steep(inner.jaxpr):
        return compute_all(inner, operands, bound)
    return bind(eqn, operands)


def regular(function: Callable[..., Out]) -> Callable[..., Out]:
    """Return a function of the same values, whose derivatives count slopes that are not finite as zero."""

    @functools.wraps(function)
    def same(*arguments: PyTree) -> Out:
        leaves, structure = jax.tree.flatten(arguments)
        indices = [k for k, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

        def of_arrays(*arrays: jax.Array) -> Out:
            new = dict(zip(indices, arrays, strict=True))
            return function(*jax.tree.unflatten(structure, [new.get(k, leaf) for k, leaf in enumerate(leaves)]))

        arrays = [leaves[k] for k in indices]
        traced, shape = jax.make_jaxpr(of_arrays, return_shape=True)(*arrays)
        if not _is_steep(traced.jaxpr):
            return function(*arguments)
        return jax.tree.unflatten(jax.tree.structure(shape), compute_all(traced, arrays, bound))

    return same


def under_roots(program: ClosedJaxpr, inputs: Sequence[set[int]]) -> set[int]:
    """Return the marks of the inputs of which a traced program takes a root or a power."""
    marks: set[int] = set()

    def apply(eqn: JaxprEqn, operands: Sequence[set[int]]) -> Sequence[set[int]]:
        if eqn.primitive.name in _ROOTS:
            marks.update(operands[0])
        inner = called(eqn)
        if inner is not None:
            return walk_all(inner, operands, apply, _unmarked)
        return [set().union(*operands)] * len(eqn.outvars)

    walk_all(program, inputs, apply, _unmarked)
    return marks


def _unmarked(_: ArrayLike) -> set[int]:
    return set()


def rooted(field: Callable[[Scalar, State], State], state: State) -> Bool[np.ndarray, " states"]:
    """Return which elements of the flattened state may be under a root or a power in `field(t, state)`."""
    leaves = jax.tree.leaves(state)
    traced = jax.make_jaxpr(lambda t, y: field(t, y))(jnp.zeros(()), state)
    marks = under_roots(traced, [set(), *({k} for k in range(len(leaves)))])
    return np.repeat([k in marks for k in range(len(leaves))], [leaf.size for leaf in leaves])


def not_below(y: jax.Array, floor: ArrayLike) -> jax.Array:
    """Return a state, zero where it is negative by less than `floor`; it keeps its derivatives."""
    return y - jax.lax.stop_gradient(jnp.where((y < 0.0) & (y > -jnp.asarray(floor)), y, 0.0))


def _is_steep(jaxpr: Jaxpr) -> bool:
    return any(eqn.primitive.name in _STEEP for eqn in equations(jaxpr))


@functools.lru_cache(maxsize=256)
def _primitive(primitive: Primitive, params: tuple) -> Callable[..., jax.Array]:
    """Return an elementwise primitive with a slope of zero where its own is not finite."""
    return _flat(lambda *operands: primitive.bind(*operands, **dict(params)))


def _flat(value: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    flat = jax.custom_jvp(value)

    @functools.cache
    def slope(k: int) -> Callable[..., jax.Array]:
        def derivative(*operands: jax.Array) -> jax.Array:
            def of_one(x: jax.Array) -> jax.Array:
                return value(*operands[:k], x, *operands[k + 1 :])

            dydx = jax.jvp(of_one, (operands[k],), (jnp.ones_like(operands[k]),))[1]
            return jnp.where(jnp.isfinite(dydx), dydx, 0.0)

        return _flat(derivative)

    def jvp(operands: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
        moving = [k for k, tangent in enumerate(tangents) if not isinstance(tangent, SymbolicZero)]
        terms = [tangents[k] * slope(k)(*operands) for k in moving]
        out = flat(*operands)
        return out, functools.reduce(jnp.add, terms) if terms else jnp.zeros_like(out)

    flat.defjvp(jvp, symbolic_zeros=True)
    return flat
