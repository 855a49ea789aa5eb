"""Whether the units of a network agree: in every sum, comparison and equation both sides have the same unit.

A number has whatever unit it needs; an id without a unit agrees with everything. A learned function has the unit that
it states, whatever its arguments are in: these are not checked, since it scales them itself.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from qspjax._expression import Expression
from qspjax._units import check_unit, known_unit, per, product
from qspjax.models.network._definition import Definition
from qspjax.models.network._problems import Problem, event_name

_ALIKE = {"+", "-", "lt", "leq", "gt", "geq", "eq", "neq", "max", "min", "rem"}
_SAME = {"abs", "floor", "ceil"}
_PURE = {"exp", "ln", "sin", "cos", "tan", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "factorial"}


def unit_problems(definition: Definition) -> list[Problem]:
    """Return where the units of a network do not agree."""
    return list(dict.fromkeys(_Checker(definition).problems()))


class _Any:
    """The unit of a number: whatever is needed."""


ANY = _Any()


class _Checker:
    """The units of a network.

    A unit is one of pint's, None if it is not known, or `ANY` for a number.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.collected: list[Problem] = []
        self.current = ""

    def problems(self) -> Iterator[Problem]:
        """Yield the problems."""
        d = self.definition
        for id, reaction in d.reactions.items():
            units = [self._amount(participant.species) for _, participant in reaction.participants()]
            amount = next((unit for unit in units if unit), "")
            yield from self._equation(id, reaction.rate, per(amount, d.time_unit) if amount and d.time_unit else "")
        for table in (d.assignments, d.initial):
            for id, expression in table.items():
                yield from self._equation(id, expression, self._text(id))
        for id, expression in d.rates.items():
            unit = self._text(id)
            yield from self._equation(id, expression, per(unit, d.time_unit) if unit and d.time_unit else "")
        for number, rule in enumerate(d.algebraic):
            yield from self._equation(f"algebraic rule {number + 1}", rule, "")
        for number, event in enumerate(d.events):
            name = event_name(d, number)
            yield from self._equation(name, event.trigger, "")
            for id, expression in event.assign.items():
                yield from self._equation(name, expression, self._text(id))
            if event.delay is not None:
                yield from self._equation(name, event.delay, d.time_unit)

    def _equation(self, id: str, expression: Expression | None, unit: str) -> Iterator[Problem]:
        if expression is None:
            return
        self.collected, self.current = [], id
        node_units: dict[Expression, Any] = {}
        todo = [expression]
        while todo:
            node = todo[-1]
            missing = [arg for arg in node.args if arg not in node_units]
            if missing and node not in node_units:
                todo.extend(missing)
                continue
            todo.pop()
            if node not in node_units:
                node_units[node] = self._unit(node, [node_units[arg] for arg in node.args])
        actual = node_units[expression]
        if unit and not _agree(actual, known_unit(unit)):
            self.collected.append(Problem(id, f"must be in {unit}, but `{expression}` is in {actual:~}."))
        yield from self.collected

    def _unit(self, node: Expression, units: Sequence[Any]) -> Any:
        if node.op == "number":
            return ANY
        if node.op == "time":
            return _unit_of(self.definition.time_unit)
        if node.op == "symbol":
            return _unit_of(self._text(str(node.value)))
        if node.op == "learned":
            return _unit_of(self._learned(str(node.value)))
        if node.op == "output":
            return units[0]
        if node.op == "*":
            return _combined(units, lambda a, b: a * b)
        if node.op == "/":
            return _combined(units, lambda a, b: a / b)
        if node.op == "^":
            return self._power(node, units)
        if node.op == "piecewise":
            values = [unit for i, unit in enumerate(units) if i % 2 == 0]
            return self._alike(node, values, [arg for i, arg in enumerate(node.args) if i % 2 == 0])
        if node.op in _ALIKE:
            unit = self._alike(node, units, node.args)
            return unit if node.op in ("+", "-", "max", "min", "rem") else ANY
        if node.op in _SAME:
            return units[0]
        if node.op in _PURE and not _agree(units[0], known_unit("")):
            message = f"must take `{node.op}` of a number without a unit, but `{node.args[0]}` is in {units[0]:~}."
            self.collected.append(Problem(self.current, message))
        return ANY

    def _power(self, node: Expression, units: Sequence[Any]) -> Any:
        base, exponent = node.args
        if isinstance(units[0], _Any) or units[0] is None:
            return units[0]
        if isinstance(exponent.value, float) and math.isfinite(exponent.value):
            return units[0] ** exponent.value
        return units[0] if units[0].dimensionless else None

    def _alike(self, node: Expression, units: Sequence[Any], args: Sequence[Expression]) -> Any:
        reference = next(((unit, arg) for unit, arg in zip(units, args, strict=True) if _is_definite(unit)), None)
        if reference is None:
            return None if None in units else ANY
        for unit, arg in zip(units, args, strict=True):
            if not _agree(unit, reference[0]):
                message = f"must add or compare quantities of one unit, but `{reference[1]}` is in {reference[0]:~}"
                self.collected.append(Problem(self.current, f"{message} and `{arg}` in {unit:~}."))
        return reference[0]

    def _amount(self, id: str) -> str:
        species = self.definition.species[id]
        compartment = self.definition.compartments.get(self.definition.compartment_of(id))
        size = "" if compartment is None else compartment.unit
        return species.unit if species.is_amount or not species.unit else product(species.unit, size)

    def _learned(self, name: str) -> str:
        """Return the unit of a learned function, `""` if it is not known."""
        function = self.definition.functions.get(name)
        return "" if function is None else function.unit

    def _text(self, id: str) -> str:
        """Return the unit that the symbol of an id has, `""` if it is not known."""
        d = self.definition
        if id in d.species:
            species, compartment = d.species[id], d.compartments.get(d.compartment_of(id))
            if not species.unit or d.in_amount(id):
                return self._amount(id)
            return (
                species.unit
                if not species.is_amount or compartment is None or not compartment.unit
                else per(species.unit, compartment.unit)
            )
        if id in d.reactions:
            units = [self._amount(participant.species) for _, participant in d.reactions[id].participants()]
            amount = next((unit for unit in units if unit), "")
            return per(amount, d.time_unit) if amount and d.time_unit else ""
        item = d.compartments.get(id) or d.parameters.get(id)
        return "" if item is None else item.unit


def _unit_of(text: str) -> Any:
    if not text or "[" in text:  # a unit of its own agrees with everything
        return None
    check_unit(text)
    return known_unit(text)


def _is_definite(unit: Any) -> bool:
    return unit is not None and not isinstance(unit, _Any)


def _combined(units: Sequence[Any], combine: Callable[[Any, Any], Any]) -> Any:
    if all(isinstance(unit, _Any) for unit in units):
        return ANY
    if None in units:
        return None
    return functools.reduce(combine, [known_unit("") if isinstance(unit, _Any) else unit for unit in units])


def _agree(unit: Any, other: Any) -> bool:
    """Whether two units are the same, however they are written."""
    if not _is_definite(unit) or not _is_definite(other):
        return True
    if unit.dimensionality != other.dimensionality:
        return False
    return math.isclose((1.0 * unit).to(other).magnitude, 1.0, rel_tol=1e-9)
