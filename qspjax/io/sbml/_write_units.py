"""Units as text, such as "mg/L", written as unit definitions of SBML."""

import math
from typing import TYPE_CHECKING, NamedTuple

from qspjax._units import known_unit
from qspjax.io.sbml._library import library
from qspjax.io.sbml._write_ids import Ids

if TYPE_CHECKING:
    import libsbml

_KINDS = (
    *("ampere", "avogadro", "becquerel", "candela", "coulomb", "dimensionless", "farad", "gram", "gray", "henry"),
    *("hertz", "item", "joule", "katal", "kelvin", "kilogram", "litre", "lumen", "lux", "metre", "mole", "newton"),
    *("ohm", "pascal", "radian", "second", "siemens", "sievert", "steradian", "tesla", "volt", "watt", "weber"),
)
"""The units of SBML."""

_PLAIN = {"[mass]": "gram", "[time]": "second", "[substance]": "mole", "[length]": "metre", "[volume]": "litre"}
"""By dimension, the unit of which others are multiples."""

_PREFIXES = {-15: "femto", -12: "pico", -9: "nano", -6: "micro", -3: "milli", 0: "", 3: "kilo", 6: "mega"}
_LONG_TIMES = {60.0: "minute", 3600.0: "hour", 86400.0: "day", 604800.0: "week"}
_OF_PINT = {"litre": "liter", "metre": "meter"}
_ROOTS = {"meter": "metre", "kilogram": "kilogram", "second": "second", "mole": "mole", "ampere": "ampere"}
_ROOTS |= {"kelvin": "kelvin", "candela": "candela", "radian": "radian"}


class Part(NamedTuple):
    """A factor of a unit: (multiplier * 10^scale * kind)^exponent."""

    kind: str
    exponent: float
    scale: int
    multiplier: float


class UnitDefinitions:
    """The units of a model: each text becomes a unit definition if SBML can express it.

    Args:
        model: The model of libsbml.
    """

    def __init__(self, model: "libsbml.Model"):
        """Start without units."""
        self._model = model
        self._ids = Ids(_KINDS)
        self._id_of: dict[str, str | None] = {}
        self._id_of_parts: dict[tuple[Part, ...], str] = {}

    def of(self, unit: str) -> str | None:
        """Return the id of a unit, None if it is empty or SBML cannot express it."""
        if not unit:
            return None
        if unit not in self._id_of:
            self._id_of[unit] = self._defined(unit)
        return self._id_of[unit]

    def _defined(self, unit: str) -> str | None:
        if unit in _KINDS:
            return unit
        parts = parts_of(unit)
        if parts is None:
            return None
        if parts == (Part(parts[0].kind, 1.0, 0, 1.0),):
            return parts[0].kind
        if parts in self._id_of_parts:
            return self._id_of_parts[parts]
        definition = self._model.createUnitDefinition()
        id = self._id_of_parts[parts] = self._ids.new("_per_".join(filter(None, map("_".join, _words(parts)))))
        definition.setId(id)
        for part in parts:
            factor = definition.createUnit()
            factor.setKind(library().UnitKind_forName(part.kind))
            factor.setExponent(part.exponent)
            factor.setScale(part.scale)
            factor.setMultiplier(part.multiplier)
        return id


def parts_of(unit: str) -> tuple[Part, ...] | None:
    """Return the factors of a unit; None if SBML cannot express it, or pint is missing.

    Example:
        >>> [tuple(part) for part in parts_of("nmol/L")]
        [('mole', 1.0, -9, 1.0), ('litre', -1.0, 0, 1.0)]
        >>> parts_of("IU"), parts_of("fathers")
        (None, None)
    """
    try:
        quantity = 1.0 * known_unit(unit)
    except (ImportError, ValueError):
        return None
    parts: list[Part] = []
    for name, exponent in quantity.unit_items():
        factors = _parts(name)
        if factors is None:
            return None
        parts += [part._replace(exponent=part.exponent * float(exponent)) for part in factors]
    return _merged(parts) or (Part("dimensionless", 1.0, 0, 1.0),)


def _parts(name: str) -> tuple[Part, ...] | None:
    """Return the factors of a unit that has one name in pint, such as `milligram` or `nanomolar`."""
    for kind in _KINDS:
        if _OF_PINT.get(kind, kind) == name:
            return (Part(kind, 1.0, 0, 1.0),)
    quantity = 1.0 * known_unit(name)
    if quantity.is_compatible_with("mole/liter"):
        return (_scaled("mole", quantity.m_as("mole/liter")), Part("litre", -1.0, 0, 1.0))
    for dimension, kind in _PLAIN.items():
        if quantity.check(dimension):
            return (_scaled(kind, quantity.m_as(_OF_PINT.get(kind, kind))),)
    for kind in _KINDS:
        if kind not in ("avogadro", "item", "dimensionless") and quantity.is_compatible_with(_OF_PINT.get(kind, kind)):
            return (_scaled(kind, quantity.m_as(_OF_PINT.get(kind, kind))),)
    root = quantity.to_root_units()
    exponents = dict(root.unit_items())
    if not set(exponents) <= set(_ROOTS):
        return None
    factor = [] if root.magnitude == 1.0 else [_scaled("dimensionless", root.magnitude)]
    return (*factor, *(Part(_ROOTS[name], float(power), 0, 1.0) for name, power in exponents.items()))


def _words(parts: tuple[Part, ...]) -> tuple[list[str], list[str]]:
    """Return a word for each factor of the numerator, and for each of the denominator."""
    words: tuple[list[str], list[str]] = ([], [])
    for kind, exponent, scale, multiplier in parts:
        factor = _PREFIXES.get(scale) if multiplier == 1.0 else None
        power = "" if abs(exponent) == 1.0 else f"{abs(exponent):g}"
        word = f"{multiplier:g}e{scale}_{kind}" if factor is None else factor + kind
        if kind == "second":
            word = _LONG_TIMES.get(multiplier * 10.0**scale, word)
        words[exponent < 0].append(word + power)
    return words


def _scaled(kind: str, factor: float) -> Part:
    power = round(math.log10(factor))
    if math.isclose(factor, 10.0**power, rel_tol=1e-12):
        return Part(kind, 1.0, power, 1.0)
    return Part(kind, 1.0, 0, float(f"{factor:.15g}"))


def _merged(parts: list[Part]) -> tuple[Part, ...]:
    """Return the factors, with equal ones merged and without those that cancel."""
    exponents: dict[tuple[str, int, float], float] = {}
    for part in parts:
        key = (part.kind, part.scale, part.multiplier)
        exponents[key] = exponents.get(key, 0.0) + part.exponent
    return tuple(
        Part(kind, exponent, scale, multiplier)
        for (kind, scale, multiplier), exponent in exponents.items()
        if exponent and (kind, scale, multiplier) != ("dimensionless", 0, 1.0)
    )
