"""Functions in which a value that is not finite spoils no derivative but its own; above all what a model observes.

A ratio of two amounts is 0/0 before the first dose. Nobody measures it there, but the slope of 0/0 is not a number, and
zero times that is not zero: one such value makes the whole gradient NaN, in reverse mode. Here a value that is not
finite counts as a constant in every derivative.
"""

from collections.abc import Callable, Sequence
from itertools import compress
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import JaxprEqn
from jax.typing import ArrayLike

from qspjax._jaxpr._walk import bind, called, compute_all

Out = TypeVar("Out")

_GUARDED = {
    *("mul", "div", "pow", "integer_pow", "square", "sqrt", "rsqrt", "exp", "exp2", "expm1", "log", "log1p"),
    *("sinh", "cosh", "tan", "asin", "acos", "atanh", "lgamma", "digamma", "log2"),
}
"""Primitives that produce a value that is not finite, or multiply one."""
_HARMLESS = 0.5
"""An operand at which all of these functions have a slope."""


def guarded(function: Callable[..., Out]) -> Callable[..., Out]:
    """Return a function of arrays with the same values; those that are not finite have zero derivatives."""
    values = jax.custom_jvp(function)

    def jvp(primals: tuple, tangents: tuple) -> tuple[Out, Out]:
        varies = [not isinstance(tangent, SymbolicZero) for tangent in tangents]

        def of_moving(*moving: ArrayLike) -> Out:
            remaining = iter(moving)
            return _guarded(
                function,
                [next(remaining) if is_varying else leaf for is_varying, leaf in zip(varies, primals, strict=True)],
            )

        return jax.jvp(of_moving, tuple(compress(primals, varies)), tuple(compress(tangents, varies)))

    values.defjvp(jvp, symbolic_zeros=True)
    return values


def _guarded(function: Callable[..., Out], operands: Sequence[ArrayLike]) -> Out:
    traced, shape = jax.make_jaxpr(function, return_shape=True)(*operands)
    return jax.tree.unflatten(jax.tree.structure(shape), compute_all(traced, operands, _apply))


def _apply(eqn: JaxprEqn, operands: Sequence[ArrayLike]) -> Sequence[ArrayLike]:
    """Compute an equation so that results that are not finite are constants."""
    inner = called(eqn)
    if inner is not None:
        return compute_all(inner, operands, _apply)
    out = bind(eqn, operands)
    if eqn.primitive.name not in _GUARDED or not _is_real(out[0]):
        return out
    bad = ~jnp.isfinite(out[0])
    if eqn.primitive.name == "pow":  # 0^0 = 1, and no slope is defined there
        bad |= (operands[0] == 0) & (operands[1] == 0)
    safe = [jnp.where(bad, _HARMLESS, x) if _is_real(x) else x for x in operands]
    return [jnp.where(bad, jax.lax.stop_gradient(out[0]), bind(eqn, safe)[0])]


def _is_real(x: ArrayLike) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.floating)
