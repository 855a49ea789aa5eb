"""Arithmetic of known numbers in numpy, and of values in JAX in lax: `m.add(x, y)` for both.

Operations of `jax.numpy` are small compiled programs, slow to trace; those of `jax.lax` are one line of a program each,
but require operands of one shape and one precision. Here operands are converted to these.
"""

import math
import types
from collections.abc import Callable, Sequence
from typing import TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike


def is_traced(value: object) -> TypeGuard[jax.Array]:
    """Return whether a value is an array of JAX, to be computed in its program."""
    return isinstance(value, jax.Array)


def is_boolean(value: ArrayLike) -> bool:
    """Return whether a value is true or false, not a number."""
    return value.dtype == bool if isinstance(value, (jax.Array, np.ndarray, np.generic)) else isinstance(value, bool)


def as_number(value: ArrayLike) -> ArrayLike:
    """Return a Boolean as 1 or 0, and a number as it is."""
    if not is_boolean(value):
        return value
    if is_traced(value):
        return lax.convert_element_type(value, jax.dtypes.canonicalize_dtype(float))
    return np.asarray(value, float)[()]


def as_numbers(values: Sequence[ArrayLike]) -> Sequence[ArrayLike]:
    """Return values in which a Boolean is 1 or 0, in the precision of the others."""
    if not any(map(is_boolean, values)):
        return values
    dtypes = [value.dtype for value in values if is_traced(value) and value.dtype != bool]
    convert = lambda value: _cast(value, dtypes[0]) if dtypes and is_traced(value) else as_number(value)  # noqa: E731
    return [convert(value) for value in values]


def as_truth(value: ArrayLike) -> ArrayLike:
    """Return whether a number differs from zero, and a Boolean as it is."""
    if is_boolean(value):
        return value
    return m.ne(value, 0.0)


def matched(*values: ArrayLike) -> list[ArrayLike]:
    """Return values, at least one of JAX, in one shape, and numbers in one precision."""
    traced = [value for value in values if is_traced(value)]
    dtype = traced[0].dtype
    if any(other.dtype != dtype for other in traced[1:]):
        dtype = np.result_type(*(other.dtype for other in traced))
    shapes = [np.shape(value) for value in values]
    shape = shapes[0] if all(other == shapes[0] for other in shapes) else np.broadcast_shapes(*shapes)
    return [_spread(_cast(value, dtype), shape) for value in values]


def _cast(value: ArrayLike, dtype: DTypeLike) -> ArrayLike:
    if is_traced(value):
        return value if value.dtype == dtype else lax.convert_element_type(value, dtype)
    return np.asarray(value, dtype)


def _spread(value: ArrayLike, shape: tuple[int, ...]) -> ArrayLike:
    current = np.shape(value)
    if current == shape:
        return value
    missing = len(shape) - len(current)
    axes = [i for i, length in enumerate(current) if length == shape[missing + i]]
    if len(axes) < len(current):
        value = lax.reshape(value, [current[i] for i in axes])
    return lax.broadcast_in_dim(value, shape, [missing + i for i in axes])


def _of_one(in_jax: Callable[..., ArrayLike], in_numpy: Callable[..., ArrayLike]) -> Callable[..., ArrayLike]:
    return lambda x: in_jax(x) if is_traced(x) else in_numpy(x)


def _of_two(in_jax: Callable[..., ArrayLike], in_numpy: Callable[..., ArrayLike]) -> Callable[..., ArrayLike]:
    return lambda x, y: in_jax(*matched(x, y)) if is_traced(x) or is_traced(y) else in_numpy(x, y)


def _select(condition: ArrayLike, x: ArrayLike, y: ArrayLike) -> ArrayLike:
    """Choose x where the condition holds, else y."""
    if not any(map(is_traced, (condition, x, y))):
        return np.where(condition, x, y)[()]
    if not is_traced(x) and not is_traced(y):
        dtype = bool if is_boolean(x) and is_boolean(y) else jax.dtypes.canonicalize_dtype(float)
        x, y = np.asarray(x, dtype), np.asarray(y, dtype)
    else:
        x, y = matched(x, y)
    condition = condition if is_traced(condition) else np.asarray(condition)
    shape = np.broadcast_shapes(np.shape(condition), np.shape(x), np.shape(y))
    return lax.select(*(_spread(value, shape) for value in (condition, x, y)))


def _lgamma(x: ArrayLike) -> ArrayLike:
    return np.vectorize(lambda element: math.lgamma(element) if element > 0.0 else math.inf, otypes=[float])(x)[()]


_TWO = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "pow": np.power, "rem": np.fmod,
    "min": np.minimum, "max": np.maximum, "atan2": np.arctan2,
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal, "ne": np.not_equal,
    "bitwise_and": np.logical_and, "bitwise_or": np.logical_or, "bitwise_xor": np.logical_xor,
}  # fmt: skip
_ONE = {
    "neg": np.negative, "abs": np.abs, "expm1": np.expm1, "log": np.log, "sqrt": np.sqrt,
    "cbrt": np.cbrt, "floor": np.floor, "ceil": np.ceil, "sin": np.sin, "cos": np.cos, "tan": np.tan,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "lgamma": _lgamma, "bitwise_not": np.logical_not,
}  # fmt: skip


def _exp(x: jax.Array) -> jax.Array:
    """Return exp(x); where it overflows the derivative is 0, so that `1 / (1 + exp(x))` has one."""
    largest = float(jnp.finfo(x.dtype).max)
    limit = float(np.log(jnp.finfo(x.dtype).max))
    excess = lax.stop_gradient(lax.max(lax.sub(x, _like(x, limit)), _like(x, 0.0)))
    return lax.add(lax.exp(lax.min(x, _like(x, limit))), lax.mul(excess, _like(x, largest)))


def _like(x: jax.Array, value: float) -> jax.Array:
    return lax.full_like(x, value)


m = types.SimpleNamespace(
    **{name: _of_two(getattr(lax, name), function) for name, function in _TWO.items()},
    **{name: _of_one(getattr(lax, name), function) for name, function in _ONE.items()},
    exp=_of_one(_exp, np.exp),
    round=_of_one(lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN), np.round),
    fixed=_of_one(lambda x: lax.stop_gradient(x), lambda x: x),
    integer_pow=lambda x, n: lax.integer_pow(x, n) if is_traced(x) else np.power(x, float(n)),
    select=_select,
)
"""Arithmetic, by the names of lax; `fixed` has no derivative, and logic is `bitwise`."""
