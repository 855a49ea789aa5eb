"""Quantities with units: text such as "300 mg" as a number in the unit that a model computes in.

Units are read by pint, with its abbreviations: `h` is the hour, `d` the day, `L` the litre and `M` molar. `IU`, what is
counted (`cells`, `subject`, `copies`) and squares and cubes such as `m2` and `cm3` are added. Mass and amount of
substance are different dimensions: 1 mg is not converted to nmol.
"""

import functools
import math
import re
import sys
import tokenize
from typing import Any, NoReturn

from qspjax._checks import ArgumentError, check_finite, refuse
from qspjax._extras import require
from qspjax._unit_words import COUNTED, likely_unit, unknown_words

_QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*?)\s*", re.DOTALL)
_UNIT = re.compile(r"(?:[A-Za-z\u00b5\u03bc%_*/^(). ]|[-\d](?!\d\d)){0,60}")
"""Letters, operators and small exponents: nothing that takes long to read."""
_LARGEST = sys.float_info.max


def convert(value: object, *, to: str, argument: str = "value") -> float:
    """Convert a quantity to a unit; a plain number is in that unit already.

    Args:
        value: A number, or text with a unit.
        to: The target unit, `""` for a number without one.
        argument: What the message calls the value.

    Raises:
        ValueError: If the value is not a finite number, its unit is unknown, or it has another dimension.

    Example:
        >>> convert("2 weeks", to="d"), convert("20.3 %", to="").__round__(6), convert(7, to="mL/h")
        (14.0, 0.203, 7.0)
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        refuse(
            argument,
            _requirement(to),
            f"a {type(value).__name__}" if not isinstance(value, bool) else str(value).lower(),
        )
    if not isinstance(value, str):
        number = math.inf if isinstance(value, int) and abs(value) > _LARGEST else float(value)
        check_finite(argument, number)
        return number
    match = _QUANTITY.fullmatch(value)
    if match is None:
        _refuse(argument, _requirement(to), value)
    number, unit = float(match[1]), match[2]
    check_finite(argument, number)
    if not unit or unit == to:
        return number
    quantity = _registry().Quantity(number, _unit(unit, value, argument))
    if unknown_words(to) or "[" in to or not quantity.is_compatible_with(to):
        _refuse(argument, _requirement(to), value)
    return float(quantity.to(to).magnitude)


def check_unit(unit: str, *, argument: str = "unit") -> None:
    """Check that a unit is known; words in brackets, such as `[effect]`, are.

    Raises:
        ValueError: If it is not.
    """
    if unit and ("[" not in unit or unknown_words(unit)):
        _unit(unit, unit, argument)


def known_unit(unit: str, *, argument: str = "unit") -> Any:
    """Return a unit of pint, the dimensionless one for `""`.

    Raises:
        ValueError: If it is not known.
    """
    return _unit(unit, unit, argument)


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
    """Return the unit of a product, as it is usually written.

    Example:
        >>> product("mg/L", "h"), product("", "d")
        ('mg/L*h', 'd')
    """
    return f"{unit}*{other}" if unit and other else unit or other


def _refuse(argument: str, must: str, text: str) -> NoReturn:
    """Refuse text, shown in the quotes of a file."""
    likely = likely_unit(_QUANTITY.sub(r"\2", text))
    raise ArgumentError(argument, f'must {must}, but is "{text}".' + (f" Did you mean `{likely}`?" if likely else ""))


def _requirement(unit: str) -> str:
    return f"be in {unit} or a unit of the same dimension" if unit else "be a number without a unit"


def _unit(unit: str, value: str, argument: str) -> Any:
    pint = require("pint", extra="cli")
    if _UNIT.fullmatch(unit) is None:
        _refuse(argument, "be a number and a unit", value)
    try:
        return _registry().parse_units(unit)
    except (pint.PintError, tokenize.TokenError, ValueError, TypeError, ArithmeticError):
        _refuse(argument, "have a known unit", value)


@functools.cache
def _registry() -> Any:
    registry = require("pint", extra="cli").UnitRegistry()
    registry.define("international_unit = [international_unit] = IU")
    for length, short in {"": "m", "deci": "dm", "centi": "cm", "milli": "mm", "micro": "um", "kilo": "km"}.items():
        registry.define(f"square_{length}meter = {length}meter**2 = {short}2")  # `cm2` is not 0.01 `m2`
        registry.define(f"cubic_{length}meter = {length}meter**3 = {short}3")
    for plural, name in COUNTED.items():
        registry.define(f"{name} = [{name}] = _ = {plural}")
    for unit in ("equivalent = [equivalent] = Eq", "osmole = [osmole] = Osm"):
        registry.define(unit)
    registry.define("@alias week = wk")
    return registry
