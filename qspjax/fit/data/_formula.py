"""The formulas of a fit: what they depend on, and their values."""

from collections.abc import Mapping
from typing import cast

from qspjax._expression import Expression, as_number, evaluate, symbols
from qspjax.fit._types import Number

NOW = " now"
"""The end of the name of a parameter that stands for the value it has when a formula is evaluated."""


def names_in(*formulas: float | Expression) -> frozenset[str]:
    """Return the names that formulas use."""
    return frozenset().union(*(symbols(formula) for formula in formulas if isinstance(formula, Expression)))


def value_of(formula: float | Expression, known: Mapping[str, Number], time: Number = 0.0) -> Number:
    """Return the value of a formula; arrays are combined element by element."""
    if not isinstance(formula, Expression):
        return formula
    (value,) = evaluate([formula], known, time)
    return cast(Number, as_number(value))
