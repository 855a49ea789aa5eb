"""What the user writes for a number of a fit: the number, a formula over names, or an expression."""

from collections.abc import Mapping
from typing import TypeAlias, cast

import numpy as np

from qspjax._checks import ArgumentError, check_finite, check_number, refuse
from qspjax._expression import Expression, as_number, evaluate, parse, symbols
from qspjax.fit._types import Number

Formula: TypeAlias = float | str | Expression
"""A number, or a formula over names: `0.1`, `"sigma"`, `"sqrt(a^2 + (b * prediction)^2)"`."""


def as_formula(argument: str, value: object) -> float | Expression:
    """Return a number as it is, and text as an expression."""
    if isinstance(value, Expression):
        return value
    if isinstance(value, str):
        try:
            return parse(value)
        except ValueError as error:
            raise ArgumentError(argument, f"must be a formula, but: {error}") from None
    check_number(argument, value)
    shape = np.asarray(value).shape
    if shape != ():
        refuse(argument, "be one number", f"of shape {shape}")
    check_finite(argument, value)
    return float(np.asarray(value))


def names_in(*formulas: float | Expression) -> frozenset[str]:
    """Return the names that formulas use."""
    return frozenset().union(*(symbols(formula) for formula in formulas if isinstance(formula, Expression)))


def value_of(formula: float | Expression, known: Mapping[str, Number], time: Number = 0.0) -> Number:
    """Return the value of a formula; arrays are combined element by element."""
    if not isinstance(formula, Expression):
        return formula
    (value,) = evaluate([formula], known, time)
    return cast(Number, as_number(value))
