"""Quantities with units: text such as "300 mg" as a number in the unit that a model computes in.

Units are read by pint, with its abbreviations: `h` is the hour, `d` the day, `L` the litre and `M` molar. `IU` and `m2`
are added. Mass and amount of substance are different dimensions: 1 mg is not converted to nmol.
"""

import functools
import re
import tokenize
from typing import Any

from qspjax._checks import check_finite, refuse
from qspjax._extras import require

_QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*", re.DOTALL)
_UNIT = re.compile(r"(?:[A-Za-z\u00b5\u03bc%_*/^(). ]|[-\d](?!\d\d)){0,60}")
"""Letters, operators and small exponents: nothing that takes long to read."""


def parse_quantity(text: str) -> tuple[float, str]:
    """Split a quantity into its number and its unit.

    Raises:
        ValueError: If the text does not start with a number.

    Example:
        >>> parse_quantity("300 mg"), parse_quantity("1e-3 mg/mL"), parse_quantity("7")
        ((300.0, 'mg'), (0.001, 'mg/mL'), (7.0, ''))
    """
    found = _QUANTITY.fullmatch(text)
    if found is None:
        refuse("text", 'be a number with a unit, such as "5 mg"', f'"{text}"')
    return float(found[1]), found[2]


def convert(value: str | float, *, to: str, argument: str = "value") -> float:
    """Convert a quantity to a unit; a plain number is in that unit already.

    Args:
        value: A number, or text with a unit.
        to: The unit wanted, `""` for a number without one.
        argument: What the message calls the value.

    Raises:
        ValueError: If the value is no finite number, its unit is unknown, or its dimension is another.

    Example:
        >>> convert("2 weeks", to="d"), convert("20.3 %", to="").__round__(6), convert(7, to="mL/h")
        (14.0, 0.203, 7.0)
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        refuse(
            argument, _wanted(to), f"a {type(value).__name__}" if not isinstance(value, bool) else str(value).lower()
        )
    if not isinstance(value, str):
        check_finite(argument, value)
        return float(value)
    found = _QUANTITY.fullmatch(value)
    if found is None:
        refuse(argument, _wanted(to), f'"{value}"')
    number, unit = float(found[1]), found[2]
    check_finite(argument, number)
    if not unit or unit == to:
        return number
    quantity = _registry().Quantity(number, _unit(unit, value, argument))
    if not quantity.is_compatible_with(to):
        refuse(argument, _wanted(to), f'"{value}"')
    return float(quantity.to(to).magnitude)


def check_unit(unit: str, *, argument: str = "unit") -> None:
    """Check that a unit is known.

    Raises:
        ValueError: If it is not.
    """
    if unit:
        _unit(unit, unit, argument)


def per(unit: str, divisor: str) -> str:
    """Return the unit of a quotient.

    Example:
        >>> per("mg", "h"), per("mg", "mg/L"), per("", "d")
        ('mg/h', 'mg/(mg/L)', '1/d')
    """
    if not divisor:
        return unit
    return f"{unit or 1}/{divisor if divisor.isalnum() else f'({divisor})'}"


def product(unit: str, other: str) -> str:
    """Return the unit of a product, as one writes it.

    Example:
        >>> product("mg/L", "h"), product("", "d")
        ('mg/L*h', 'd')
    """
    return f"{unit}*{other}" if unit and other else unit or other


def _wanted(unit: str) -> str:
    return f"be in {unit} or a unit of the same dimension" if unit else "be a number without a unit"


def _unit(unit: str, value: str, argument: str) -> Any:
    pint = require("pint", extra="cli")
    if _UNIT.fullmatch(unit) is None:
        refuse(argument, "be a number and a unit", f'"{value}"')
    try:
        return _registry().parse_units(unit)
    except (pint.PintError, tokenize.TokenError, ValueError, TypeError, ArithmeticError):
        refuse(argument, "have a known unit", f'"{value}"')


@functools.cache
def _registry() -> Any:
    registry = require("pint", extra="cli").UnitRegistry()
    registry.define("international_unit = [international_unit] = IU")
    registry.define("square_meter = meter**2 = m2")
    return registry
