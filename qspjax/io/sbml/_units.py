"""Unit definitions of SBML as text, such as `nmol/L`; units that have no such text are left out."""

import math
from typing import TYPE_CHECKING

from qspjax._units import per
from qspjax.io.sbml._library import library

if TYPE_CHECKING:
    import libsbml

_KINDS = {
    **{kind: kind for kind in ("ampere", "becquerel", "candela", "coulomb", "farad", "gray", "henry", "hertz")},
    **{kind: kind for kind in ("joule", "katal", "kelvin", "lumen", "lux", "newton", "ohm", "pascal", "radian")},
    **{kind: kind for kind in ("siemens", "sievert", "steradian", "tesla", "volt", "watt", "weber")},
    **{"gram": "g", "kilogram": "g", "litre": "L", "liter": "L", "metre": "m", "meter": "m", "mole": "mol"},
    "second": "s",
}
_PREFIXES = {-18: "a", -15: "f", -12: "p", -9: "n", -6: "u", -3: "m", -2: "c", -1: "d", 0: "", 3: "k", 6: "M", 9: "G"}
_PREFIXED = ("g", "L", "m", "mol", "s")
_LONG_TIMES = {60.0: "min", 3600.0: "h", 86400.0: "d", 604800.0: "week"}
_BUILT_IN = {"substance": "mole", "volume": "litre", "area": "", "length": "metre", "time": "second"}
_BY_DIMENSIONS = {3.0: "volume", 2.0: "area", 1.0: "length"}


class Units:
    """The units of a model as text."""

    def __init__(self, model: "libsbml.Model"):
        """Collect the unit definitions."""
        self._model = model
        definitions = model.getListOfUnitDefinitions()
        self._defined = {unit.getIdAttribute(): unit for unit in map(definitions.get, range(definitions.size()))}

    @property
    def time(self) -> str:
        """The unit of time."""
        return self._default("time", "getTimeUnits")

    @property
    def substance(self) -> str:
        """The unit of amounts, unless a species has another one."""
        return self._default("substance", "getSubstanceUnits")

    def size(self, compartment: "libsbml.Compartment") -> str:
        """Return the unit of the size of a compartment."""
        kind = _BY_DIMENSIONS.get(compartment.getSpatialDimensionsAsDouble())
        if compartment.getUnits() or kind is None:
            return self.text(compartment.getUnits())
        return self._default(kind, f"get{kind.capitalize()}Units")

    def species(self, species: "libsbml.Species", size: str, *, amount: bool) -> str:
        """Return the unit of the initial amount or concentration of a species."""
        name = species.getSubstanceUnits() or (species.getUnits() if species.getLevel() == 1 else "")
        substance = self.text(name) if name else self.substance
        if amount or not substance:
            return substance
        return per(substance, size) if size else ""

    def text(self, name: str) -> str:
        """Return the unit of this name."""
        if name in self._defined:
            return _composed(self._defined[name])
        if self._model.getLevel() < 3 and name in _BUILT_IN:
            name = _BUILT_IN[name]
        return "kg" if name == "kilogram" else _KINDS.get(name, "")

    def _default(self, built_in: str, of_model: str) -> str:
        return self.text(built_in if self._model.getLevel() < 3 else getattr(self._model, of_model)())


def _composed(definition: "libsbml.UnitDefinition") -> str:
    numerator, denominator = [], []
    for i in range(definition.getNumUnits()):
        part = definition.getUnit(i)
        exponent = part.getExponentAsDouble()
        kind = library().UnitKind_toString(part.getKind())
        if kind == "dimensionless" and part.getMultiplier() == 1.0 and part.getScale() == 0:
            continue
        name = _prefixed(kind, part.getMultiplier(), part.getScale())
        if not name or not abs(exponent) <= 9 or exponent != int(exponent) or part.getOffset() != 0.0:
            return ""
        if exponent:
            power = abs(int(exponent))
            (numerator if exponent > 0 else denominator).append(name if power == 1 else f"{name}^{power}")
    if not denominator:
        return "*".join(numerator)
    divisor = denominator[0] if len(denominator) == 1 else f"({'*'.join(denominator)})"
    return f"{'*'.join(numerator) or 1}/{divisor}"


def _prefixed(kind: str, multiplier: float, scale: int) -> str:
    """Return a unit with the prefix of its factor, "" if there is none."""
    name = _KINDS.get(kind, "")
    if not name or not (0.0 < multiplier < math.inf) or abs(scale) > 30:
        return ""
    factor = multiplier * 10.0**scale * (1000.0 if kind == "kilogram" else 1.0)
    if name == "s" and factor in _LONG_TIMES:
        return _LONG_TIMES[factor]
    power = math.log10(factor)
    if factor == 1.0:
        return name
    nearest = round(power)
    exact = math.isclose(factor, 10.0**nearest, rel_tol=1e-12)
    return _PREFIXES[nearest] + name if exact and nearest in _PREFIXES and name in _PREFIXED else ""
