"""Conserved moieties: sums of amounts that no reaction changes.

They span the left null space of the stoichiometry matrix N: w N = 0, so w A(t) = w A(0). It is computed exactly, by
elimination with integers on sparse rows.

Reference: Reder 1988, doi:10.1016/S0022-5193(88)80073-0; Schuster and Hoefer 1991, doi:10.1039/FT9918702561, on
moieties without negative coefficients.
"""

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction

from qspjax._checks import concrete
from qspjax._expression import Expression, number, symbol
from qspjax._types import Scalar
from qspjax.models.network._definition import Definition, Parameter, Table
from qspjax.models.network._resolve import Formulas
from qspjax.models.network._terms import ONE, over, times, weighted

Row = dict[str, int]


@dataclasses.dataclass(frozen=True)
class Moiety:
    """A conserved sum of amounts.

    Attributes:
        coefficients: An integer for each species in the sum.
        total: The value of the sum.

    Example:
        >>> from qspjax.models import MassAction, Network, Reaction
        >>> binding = {"r": Reaction("drug + target -> complex", MassAction("kon"))}
        >>> species = {"drug": 10.0, "target": 5.0, "complex": 0.0}
        >>> [str(moiety) for moiety in Network(species=species, parameters={"kon": 1.0}, reactions=binding).conserved()]
        ['drug + complex = 10', 'target + complex = 5']
    """

    coefficients: Mapping[str, int]
    total: Scalar

    def __str__(self) -> str:
        total = concrete(self.total)
        shown = "?" if total is None else f"{total.item():.6g}"
        return f"{_sum(self.coefficients)} = {shown}"


def conserved(definition: Definition, formulas: Formulas, amounts: Mapping[str, Scalar]) -> tuple[Moiety, ...]:
    """Return the conserved moieties of a network, without negative coefficients where such are found."""
    matrix = _stoichiometry(definition, formulas, ())
    rows = _positive(left_null_space(matrix), [*matrix])
    return tuple(_moiety(row, amounts) for row in rows)


def reduced(
    definition: Definition, formulas: Formulas, amounts: Mapping[str, Scalar], dosed: Collection[str]
) -> tuple[Definition, dict[str, Scalar]]:
    """Return a network in which one species of each moiety is the total less the others, and the totals."""
    excluded = {*dosed, *formulas.assigned}
    rows = left_null_space(_stoichiometry(definition, formulas, excluded))
    species, parameters, rules = dict(definition.species), dict(definition.parameters), dict(definition.assignments)
    totals, closed = {}, dict.fromkeys(definition.closed)
    for row in rows:
        pivot = next(iter(row))
        name = _new(f"{pivot}_total", definition)
        totals[name] = _moiety(row, amounts).total
        unit = species[pivot].unit if species[pivot].is_amount else ""
        parameters[name] = Parameter(0.0, unit=unit, doc=f"conserved amount {_sum(row)}")
        terms = [(number(-float(count)), _amount(id, formulas)) for id, count in row.items()][1:]
        remainder = over(weighted([(ONE, symbol(name)), *terms]), number(float(row[pivot])))
        rules[pivot] = over(remainder, formulas.size(pivot))
        species[pivot] = dataclasses.replace(species[pivot], initial=None, boundary=True)
        closed |= dict.fromkeys(row)
    smaller = dataclasses.replace(
        definition,
        species=Table(species),
        parameters=Table(parameters),
        assignments=Table(rules),
        initial=Table((id, value) for id, value in definition.initial.items() if id not in rules),
        closed=tuple(id for id in closed if id not in rules),
    )
    return smaller, totals


def left_null_space(matrix: Mapping[str, Mapping[str, Fraction]]) -> list[Row]:
    """Return integer rows w with w N = 0, in reduced echelon form: each begins with a species that no other has.

    Args:
        matrix: N by row, without zeros.
    """
    basis: list[dict[str, int]] = []
    pivots: list[tuple[dict, dict]] = []
    by_column: dict[str, int] = {}
    for id, row in matrix.items():
        scale = math.lcm(*(value.denominator for value in row.values())) if row else 1
        residual = {column: int(value * scale) for column, value in row.items()}
        combination = {id: scale}
        while (hit := next((column for column in residual if column in by_column), None)) is not None:
            _subtract(residual, combination, *pivots[by_column[hit]], hit)
        if residual:
            by_column[min(residual, key=lambda column: abs(residual[column]))] = len(pivots)
            pivots.append((residual, combination))
        else:
            basis.append(combination)
    return _echelon(basis, list(matrix))


def _subtract(row: Row, combination: Row, pivot: Row, pivot_combination: Row, column: str) -> None:
    """Eliminate a column of a row by a pivot row; record the combination of rows that it is."""
    a, b = pivot[column], row[column]
    divisor = math.gcd(a, b)
    a, b = a // divisor, b // divisor
    for target, source in ((row, pivot), (combination, pivot_combination)):
        for key in target:
            target[key] *= a
        for key, value in source.items():
            new = target.get(key, 0) - b * value
            if new:
                target[key] = new
            else:
                target.pop(key, None)
    common = math.gcd(*row.values(), *combination.values())
    if common > 1:
        for target in (row, combination):
            for key in target:
                target[key] //= common


def _echelon(basis: list[Row], order: list[str]) -> list[Row]:
    """Bring rows to reduced echelon form in the order of the species: smallest integers, the first positive."""
    index = {id: i for i, id in enumerate(order)}
    rows, echelon = [dict(row) for row in basis], []
    for id in order:
        pivot = next((row for row in rows if id in row), None)
        if pivot is None:
            continue
        rows = [row for row in rows if row is not pivot]
        for other in (*rows, *echelon):
            if id in other:
                _subtract(other, {}, pivot, {}, id)
        echelon.append(pivot)
    return [_tidy(row, index) for row in echelon]


def _tidy(row: Row, index: Mapping[str, int]) -> Row:
    ordered = sorted(row, key=index.__getitem__)
    common = math.gcd(*row.values()) * (1 if row[ordered[0]] > 0 else -1)
    return {id: row[id] // common for id in ordered}


def _positive(rows: list[Row], order: list[str]) -> list[Row]:
    """Add moieties to those with negative coefficients, until there are none left or none can be added."""
    index = {id: i for i, id in enumerate(order)}
    moieties = []
    for row in rows:
        for _ in range(len(rows)):
            negative = next((id for id, count in row.items() if count < 0), None)
            if negative is None:
                break
            helpers = [other for other in rows if other.get(negative, 0) > 0 and min(other.values()) > 0]
            if not helpers:
                break
            sums = [_sum_of(row, helper, negative) for helper in helpers]
            row = min(sums, key=lambda r: (sum(count < 0 for count in r.values()), len(r)))
        moieties.append(_tidy(row, index))
    return moieties


def _sum_of(row: Row, helper: Row, id: str) -> Row:
    a, b = helper[id], -row[id]
    summed = {key: a * row.get(key, 0) + b * helper.get(key, 0) for key in dict.fromkeys((*row, *helper))}
    return {key: value for key, value in summed.items() if value}


def _stoichiometry(
    definition: Definition, formulas: Formulas, excluded: Collection[str]
) -> dict[str, dict[str, Fraction]]:
    """Return the rows of the species that only reactions with numeric stoichiometries change."""
    matrix = {}
    for id in definition.species:
        converted = definition.species[id].conversion not in (None, definition.conversion)
        counts = [count for count, _ in formulas.terms[id]]
        if id not in formulas.reacting or id in excluded or id in formulas.by_concentration or converted or not counts:
            continue
        if all(count.op == "number" for count in counts):
            row: dict[str, Fraction] = {}
            for count, reaction in formulas.terms[id]:
                row[reaction] = row.get(reaction, Fraction(0)) + Fraction(str(count.value))
            matrix[id] = {reaction: value for reaction, value in row.items() if value}
    return matrix


def _moiety(row: Row, amounts: Mapping[str, Scalar]) -> Moiety:
    return Moiety(Table(row), sum(count * amounts[id] for id, count in row.items()))


def _amount(id: str, formulas: Formulas) -> Expression:
    size = formulas.size(id)
    return symbol(id) if size is ONE else times(symbol(id), size)


def _new(name: str, definition: Definition) -> str:
    taken = set(definition.ids())
    while name in taken:
        name += "_"
    return name


def _sum(coefficients: Mapping[str, int]) -> str:
    return signed((float(count), id) for id, count in coefficients.items())


def signed(terms: Iterable[tuple[float, str]]) -> str:
    """Return a sum as text, as in `drug - 2 * target`.

    Example:
        >>> signed([(1.0, "drug"), (-2.0, "target")])
        'drug - 2 * target'
    """
    text = ""
    for count, name in terms:
        size = "" if abs(count) == 1 else f"{abs(count):g} * "
        sign = (" - " if count < 0 else " + ") if text else ("-" if count < 0 else "")
        text += f"{sign}{size}{name}"
    return text or "0"
