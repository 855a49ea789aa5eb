"""The value of expressions in JAX: each distinct node is computed once, and what is constant without JAX.

Derivatives of a branch of `piecewise` that is not taken are multiplied by zero, which does not help where they are
infinite; there the operations that can be (a division, a logarithm, a root) are applied to harmless operands instead.

Reference: SBML Level 3 Version 2, section 3.4, doi:10.1515/jib-2019-0021.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qspjax._checks import refuse
from qspjax._expression._tree import Expression, nodes


def evaluate(expressions: Sequence[Expression], values: Mapping[str, Any], time: Any) -> list[Any]:
    """Return the values of expressions.

    Args:
        expressions: What to evaluate.
        values: A number or an array for each symbol; arrays are combined element by element.
        time: The time.

    Raises:
        ValueError: If a symbol has no value, or a rate of change or a delay is asked for: models replace these before.
    """
    order = nodes(*expressions)
    guarded = _in_branches(order)
    known: dict[Expression, Any] = {}
    with np.errstate(all="ignore"):
        for one in order:
            known[one] = _value(one, known, values, time, one in guarded)
        return [known[one] for one in expressions]


def _in_branches(order: Sequence[Expression]) -> set[Expression]:
    """Return the nodes of which a branch of a `piecewise` is made."""
    found: set[Expression] = set()
    for one in reversed(order):
        if one in found:
            found.update(one.args)
        elif one.op == "piecewise":
            found.update(one.args[0::2])
    return found


def _value(one: Expression, known: Mapping[Expression, Any], values: Mapping[str, Any], time: Any, safe: bool) -> Any:
    if one.op == "number":
        return one.value
    if one.op == "time":
        return time
    if one.op in ("true", "false"):
        return one.op == "true"
    if one.op == "symbol":
        if one.value not in values:
            refuse("values", f"have a value for `{one.value}`", "without one")
        return values[str(one.value)]
    args = [known[arg] for arg in one.args]
    concrete = all(isinstance(arg, (bool, int, float, np.generic)) for arg in args)
    if one.op in _RISKY:
        operands = [_number(arg) for arg in args]
        if concrete:
            return _as_python(_RISKY[one.op](np, *map(np.float64, operands)))
        return _risky(one.op, operands, safe)
    if one.op not in _OPERATIONS:
        refuse("expressions", "have no rate of change and no delay left", str(one))
    return _as_python(_OPERATIONS[one.op](np if concrete else jnp, *args))


def _as_python(value: Any) -> Any:
    if isinstance(value, (np.bool_, bool)):
        return bool(value)
    return float(value) if isinstance(value, (np.generic, int)) else value


def _number(value: Any) -> Any:
    """Return a Boolean as 1 or 0, and a number as it is."""
    if isinstance(value, (bool, np.bool_)):
        return float(value)
    if isinstance(value, (float, int, np.generic)):
        return value
    return value.astype(float) if value.dtype == bool else value


def _truth(value: Any) -> Any:
    """Return a number as whether it is other than zero, and a Boolean as it is."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (float, int, np.generic)):
        return value != 0
    return value if value.dtype == bool else value != 0


# operations that can have an infinite derivative, or none


def _power(np_: Any, x: Any, y: Any) -> Any:
    return np_.power(x, y)


def _root(np_: Any, degree: Any, x: Any) -> Any:
    if isinstance(degree, (float, np.generic)):
        if degree == 2.0:
            return np_.sqrt(x)
        if degree == 3.0:
            return np_.cbrt(x)
        if degree % 2.0 == 1.0:
            return np_.sign(x) * np_.power(np_.abs(x), 1.0 / degree)
    return np_.power(x, 1.0 / degree)


_RISKY: dict[str, Callable[..., Any]] = {
    "/": lambda np_, x, y: np_.divide(x, y),
    "^": _power,
    "root": _root,
    "ln": lambda np_, x: np_.log(x),
    "log": lambda np_, base, x: np_.log10(x) if _is(base, 10.0) else np_.log(x) / np_.log(base),
    "arcsin": lambda np_, x: np_.arcsin(x),
    "arccos": lambda np_, x: np_.arccos(x),
    "arccosh": lambda np_, x: np_.arccosh(x),
    "arctanh": lambda np_, x: np_.arctanh(x),
    "arccoth": lambda np_, x: np_.arctanh(1.0 / x),
    "arcsec": lambda np_, x: np_.arccos(1.0 / x),
    "arccsc": lambda np_, x: np_.arcsin(1.0 / x),
    "arcsech": lambda np_, x: np_.arccosh(1.0 / x),
    "arccsch": lambda np_, x: np_.arcsinh(1.0 / x),
    "arccot": lambda np_, x: np_.arctan(1.0 / x),
    "sec": lambda np_, x: 1.0 / np_.cos(x),
    "csc": lambda np_, x: 1.0 / np_.sin(x),
    "cot": lambda np_, x: 1.0 / np_.tan(x),
    "csch": lambda np_, x: 1.0 / np_.sinh(x),
    "coth": lambda np_, x: 1.0 / np_.tanh(x),
}


def _risky(op: str, operands: list[Any], safe: bool) -> Any:
    function = functools.partial(_RISKY[op], jnp)
    if op == "^" and isinstance(operands[1], float) and operands[1].is_integer() and abs(operands[1]) <= 64:
        return jax.lax.integer_pow(jnp.asarray(operands[0]), int(operands[1]))
    if op == "/" and isinstance(operands[1], float) and operands[1] != 0.0:
        return operands[0] / operands[1]
    if not safe:
        return function(*operands)
    plain = function(*jax.lax.stop_gradient(operands))
    # where the value or a derivative is not finite, the operands are replaced by ones that are harmless, and the
    # value is a constant
    _, slope = jax.jvp(lambda *x: function(*x), tuple(map(_float, operands)), tuple(map(_ones, operands)))
    fine = jnp.isfinite(jax.lax.stop_gradient(slope)) & jnp.isfinite(plain)
    moved = [jnp.where(fine, x, 0.5 if op.startswith("arc") else 1.0) for x in operands]
    return jnp.where(fine, function(*moved), plain)


def _float(x: Any) -> jax.Array:
    return jax.lax.stop_gradient(jnp.asarray(x, float))


def _ones(x: Any) -> jax.Array:
    return jnp.ones(jnp.shape(x))


def _is(x: Any, value: float) -> bool:
    return isinstance(x, (float, np.generic)) and x == value


# the others


def _folded(np_: Any, function: str, args: Sequence[Any], empty: float) -> Any:
    """Combine any number of operands pairwise, in a balanced tree."""
    parts = [_number(arg) for arg in args] or [empty]
    while len(parts) > 1:
        rest = parts[len(parts) // 2 * 2 :]
        pairs = zip(parts[0::2], parts[1::2], strict=False)
        parts = [getattr(np_, function)(a, b) for a, b in pairs] + rest
    return parts[0]


def _logical(np_: Any, function: str, args: Sequence[Any], empty: bool) -> Any:
    parts = [_truth(arg) for arg in args] or [empty]
    return functools.reduce(getattr(np_, function), parts)


def _chain(function: str) -> Callable[..., Any]:
    def compare(np_: Any, *args: Any) -> Any:
        numbers = [_number(arg) for arg in args]
        pairs = zip(numbers, numbers[1:], strict=False)
        return _logical(np_, "logical_and", [getattr(np_, function)(a, b) for a, b in pairs], True)

    return compare


def _piecewise(_: Any, *args: Any) -> Any:
    pairs = list(zip(args[0::2], args[1::2], strict=False))
    otherwise = args[-1] if len(args) % 2 else math.nan
    boolean = all(_is_boolean(value) for value in (*(value for value, _ in pairs), *args[len(pairs) * 2 :]))
    convert = _truth if boolean and len(args) % 2 else _number
    found = convert(otherwise)
    for value, condition in reversed(pairs):
        holds = _truth(condition)
        if isinstance(holds, bool):
            found = convert(value) if holds else found
        else:
            found = jnp.where(holds, convert(value), found)
    return found


def _is_boolean(value: Any) -> bool:
    if isinstance(value, (bool, np.bool_)):
        return True
    return not isinstance(value, (float, int, np.generic)) and value.dtype == bool


def _factorial(np_: Any, x: Any) -> Any:
    x = _number(x)
    if np_ is np:
        whole = float(x).is_integer() and 0 <= x <= 170
        try:
            return float(math.factorial(int(x))) if whole else math.gamma(x + 1.0)
        except (ValueError, OverflowError):
            return math.inf
    value = jnp.exp(jax.lax.lgamma(x + 1.0))
    return jnp.where((x == jnp.floor(x)) & (x <= 18.0), jnp.round(value), value)


def _unary(name: str) -> Callable[..., Any]:
    return lambda np_, x: getattr(np_, name)(_number(x))


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "+": lambda np_, *args: _folded(np_, "add", args, 0.0),
    "*": lambda np_, *args: _folded(np_, "multiply", args, 1.0),
    "-": lambda _, x, *y: _number(x) - _number(y[0]) if y else -_number(x),
    "min": lambda np_, *args: _folded(np_, "minimum", args, math.inf),
    "max": lambda np_, *args: _folded(np_, "maximum", args, -math.inf),
    "quotient": lambda np_, x, y: np_.trunc(_number(x) / _number(y)),
    "rem": lambda np_, x, y: np_.fmod(_number(x), _number(y)),
    "abs": _unary("abs"),
    "exp": _unary("exp"),
    "floor": _unary("floor"),
    "ceil": _unary("ceil"),
    "factorial": _factorial,
    **{name: _unary(name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "arctan", "arcsinh")},
    "sech": lambda np_, x: 1.0 / np_.cosh(_number(x)),
    "lt": _chain("less"),
    "leq": _chain("less_equal"),
    "gt": _chain("greater"),
    "geq": _chain("greater_equal"),
    "eq": _chain("equal"),
    "neq": lambda np_, x, y: np_.not_equal(_number(x), _number(y)),
    "and": lambda np_, *args: _logical(np_, "logical_and", args, True),
    "or": lambda np_, *args: _logical(np_, "logical_or", args, False),
    "xor": lambda np_, *args: _logical(np_, "logical_xor", args, False),
    "not": lambda np_, x: np_.logical_not(_truth(x)),
    "implies": lambda np_, x, y: np_.logical_or(np_.logical_not(_truth(x)), _truth(y)),
    "piecewise": _piecewise,
}
