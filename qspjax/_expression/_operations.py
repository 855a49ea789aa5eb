"""The operations of SBML, on known numbers as well as on values in JAX.

Operands are numbers, except those of logic, which are Booleans. Operations that others define are written so that
neither their value nor their derivative overflows on the way to a finite result.

Reference: SBML Level 3 Version 2, section 3.4, doi:10.1515/jib-2019-0021; Abramowitz and Stegun (1964), sections 4.3 to
4.6 (branches of the inverse functions).
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from jax.typing import ArrayLike

from qspjax._expression._arithmetic import is_traced, m

LARGEST_POWER = 32
"""The largest power that is computed by products."""


def is_value(x: ArrayLike, value: float) -> bool:
    """Return whether an operand is a known number equal to `value`."""
    return isinstance(x, (int, float)) and bool(x == value)


def is_small_whole(x: ArrayLike) -> bool:
    """Return whether an operand is a known integer, small enough for a power that is computed by products."""
    return isinstance(x, (int, float)) and bool(abs(x) <= LARGEST_POWER) and float(x).is_integer()


# sums, products, and the like of any number of operands


def folded(name: str, operands: Sequence[ArrayLike], empty: ArrayLike) -> ArrayLike:
    """Combine operands pairwise, in a balanced tree; those that are known are combined first."""
    combine = getattr(m, name)
    known = [x for x in operands if not is_traced(x)]
    terms = [x for x in operands if is_traced(x)]
    if known:
        constant = functools.reduce(combine, known)
        if not terms or not is_value(constant, _NEUTRAL.get(name, math.nan)):
            terms = [constant, *terms]
    while len(terms) > 1:
        odd = terms[len(terms) // 2 * 2 :]
        terms = [*map(combine, terms[0::2], terms[1::2]), *odd]
    return terms[0] if terms else empty


_NEUTRAL = {"add": 0.0, "mul": 1.0}


def _any_number(name: str, empty: ArrayLike) -> Callable[..., ArrayLike]:
    return lambda *operands: folded(name, operands, empty)


def _minus(x: ArrayLike, *y: ArrayLike) -> ArrayLike:
    return m.sub(x, *y) if y else m.neg(x)


# powers


def _power(x: ArrayLike, y: ArrayLike) -> ArrayLike:
    if is_small_whole(y):
        return x if y == 1 else m.integer_pow(x, int(np.asarray(y)))
    if is_value(y, 0.5):
        return m.sqrt(x)
    return m.exp(y) if is_value(x, math.e) else m.pow(x, y)


def _root(degree: ArrayLike, x: ArrayLike) -> ArrayLike:
    """The root; a negative x has one where the degree is an odd whole number."""
    if is_value(degree, 1.0):
        return x
    if is_value(degree, 2.0):
        return m.sqrt(x)
    if is_value(degree, 3.0):
        return m.cbrt(x)
    exponent = _inverse(degree)
    if isinstance(degree, (int, float)) and degree % 2.0 != 1.0:
        return m.pow(x, exponent)
    mirrored = m.bitwise_and(m.lt(x, 0.0), m.eq(m.abs(m.rem(degree, 2.0)), 1.0))
    size = m.pow(m.select(mirrored, m.neg(x), x), exponent)
    return m.select(mirrored, m.neg(size), size)


def _log(base: ArrayLike, x: ArrayLike) -> ArrayLike:
    exact = np.log10 if is_value(base, 10.0) else np.log2 if is_value(base, 2.0) else None
    return m.div(m.log(x), m.log(base)) if exact is None or is_traced(x) else exact(x)


def _factorial(x: ArrayLike) -> ArrayLike:
    if isinstance(x, (int, float)):
        if not math.isfinite(x) or x < 0.0:
            return x if x == math.inf else math.nan
        try:
            return float(math.factorial(int(x))) if float(x).is_integer() and x <= 170 else math.gamma(x + 1.0)
        except OverflowError:
            return math.inf
    gamma = m.exp(m.lgamma(m.add(x, 1.0)))
    correction = m.fixed(m.sub(m.round(gamma), gamma))  # rounded, with the derivative of the unrounded value
    rounded = m.select(m.eq(x, m.floor(x)), m.add(gamma, m.select(m.lt(x, 23.0), correction, 0.0)), gamma)
    return m.select(m.lt(x, 0.0), math.nan, rounded)


def _quotient(x: ArrayLike, y: ArrayLike) -> ArrayLike:
    """The integer quotient, computed from the remainder `rem`, so that the two are always consistent."""
    return m.round(m.div(m.sub(x, m.rem(x, y)), y))


# trigonometric and hyperbolic functions that others define


def _inverse(x: ArrayLike) -> ArrayLike:
    return m.div(1.0, x)


def _sech(x: ArrayLike) -> ArrayLike:
    """1 / cosh(x) as 2 e / (1 + e^2) with e = exp(-|x|)."""
    e = m.exp(m.neg(m.abs(x)))
    return m.div(m.mul(2.0, e), m.add(1.0, m.mul(e, e)))


def _csch(x: ArrayLike) -> ArrayLike:
    """1 / sinh(x) as 2 e / (1 - e^2) with e = exp(-|x|) for positive x."""
    size = m.select(m.lt(x, 0.0), m.neg(x), x)
    value = m.div(m.mul(2.0, m.exp(m.neg(size))), m.neg(m.expm1(m.mul(-2.0, size))))
    return m.select(m.lt(x, 0.0), m.neg(value), value)


def _arccot(x: ArrayLike) -> ArrayLike:
    """arctan(1 / x) as the angle of (|x|, 1), mirrored for negative x."""
    negative = m.lt(x, 0.0)
    angle = m.atan2(1.0, m.select(negative, m.neg(x), x))
    return m.select(negative, m.neg(angle), angle)


OF_NUMBERS: dict[str, Callable[..., ArrayLike]] = {
    "+": _any_number("add", 0.0),
    "*": _any_number("mul", 1.0),
    "min": _any_number("min", math.inf),
    "max": _any_number("max", -math.inf),
    "-": _minus,
    "/": lambda x, y: x if is_value(y, 1.0) else m.div(x, y),
    "^": _power,
    "root": _root,
    "ln": m.log,
    "log": _log,
    "factorial": _factorial,
    "quotient": _quotient,
    "rem": m.rem,
    **{name: getattr(m, name) for name in ("abs", "exp", "floor", "ceil", "sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{f"arc{name}": getattr(m, f"a{name}") for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "sec": lambda x: _inverse(m.cos(x)),
    "csc": lambda x: _inverse(m.sin(x)),
    "cot": lambda x: _inverse(m.tan(x)),
    "sech": _sech,
    "csch": _csch,
    "coth": lambda x: _inverse(m.tanh(x)),
    "arcsec": lambda x: m.acos(_inverse(x)),
    "arccsc": lambda x: m.asin(_inverse(x)),
    "arccot": _arccot,
    "arcsech": lambda x: m.acosh(_inverse(x)),
    "arccsch": lambda x: m.asinh(_inverse(x)),
    "arccoth": lambda x: m.atanh(_inverse(x)),
}
"""Operations of numbers, by name."""


def _chain(name: str) -> Callable[..., ArrayLike]:
    def compare(*operands: ArrayLike) -> ArrayLike:
        pairs = list(map(getattr(m, name), operands, operands[1:]))
        return folded("bitwise_and", pairs, True)

    return compare


RELATIONS: dict[str, Callable[..., ArrayLike]] = {
    "lt": _chain("lt"),
    "leq": _chain("le"),
    "gt": _chain("gt"),
    "geq": _chain("ge"),
    "eq": _chain("eq"),
    "neq": _chain("ne"),
}
"""Conditions on numbers, by name."""


OF_BOOLEANS: dict[str, Callable[..., ArrayLike]] = {
    "and": _any_number("bitwise_and", True),
    "or": _any_number("bitwise_or", False),
    "xor": _any_number("bitwise_xor", False),
    "not": m.bitwise_not,
    "implies": lambda x, y: m.bitwise_or(m.bitwise_not(x), y),
}
"""Operations of logic, by name."""

SAFE = {
    **dict.fromkeys(("^", "root", "exp", "ln", "log", "factorial", "quotient", "rem"), 0.5),
    **dict.fromkeys(("tan", "sec", "csc", "cot", "sinh", "cosh", "csch", "coth"), 0.5),
    **dict.fromkeys(("arcsin", "arccos", "arctanh", "arcsech", "arccsch"), 0.5),
    **dict.fromkeys(("arccosh", "arcsec", "arccsc", "arccoth"), 2.0),
    **dict.fromkeys(("/", "learned"), 0.5),
}
"""Operations whose value or derivative can be infinite or not a number, each with an operand for which it is finite."""
