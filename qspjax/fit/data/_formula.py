"""What the user writes for a number of a fit: the number, a formula over names, or an expression."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from qspjax._checks import ArgumentError, check_finite, check_number, refuse
from qspjax._expression import Expression, as_number, evaluate, parse, symbols

Formula: TypeAlias = float | str | Expression
"""A number, or a formula over names: `0.1`, `"sigma"`, `"sqrt(a^2 + (b * prediction)^2)"`."""


def as_formula(argument: str, value: Any) -> float | Expression:
    """Return a number as it is, and text as an expression."""
    if isinstance(value, Expression):
        return value
    if isinstance(value, str):
        try:
            return parse(value)
        except ValueError as error:
            raise ArgumentError(argument, f"must be a formula, but: {error}") from None
    check_number(argument, value)
    if getattr(value, "shape", ()) != ():
        refuse(argument, "be one number", f"of shape {value.shape}")
    check_finite(argument, value)
    return float(value)


def names_in(*formulas: float | Expression) -> frozenset[str]:
    """Return the names that formulas use."""
    return frozenset().union(*(symbols(one) for one in formulas if isinstance(one, Expression)))


def value_of(formula: float | Expression, known: Mapping[str, Any], time: Any = 0.0) -> Any:
    """Return the value of a formula; arrays are combined element by element."""
    return as_number(evaluate([formula], known, time)[0]) if isinstance(formula, Expression) else formula
