"""What the user writes for a number: the number, a formula over names, or an expression."""

from typing import TypeAlias

import numpy as np

from qspjax._checks import ArgumentError, check_finite, check_number, refuse
from qspjax._expression._parse import parse
from qspjax._expression._tree import Expression

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
