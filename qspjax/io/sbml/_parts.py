"""Compartments, species, parameters and reactions, of all levels of SBML."""

import math
from collections.abc import Container
from typing import Any

from qspjax._expression import Expression, number, symbols
from qspjax.io._issues import IssueCollector
from qspjax.io.sbml._issues import add_at, title
from qspjax.io.sbml._math import Mathematics
from qspjax.io.sbml._units import Units
from qspjax.models.network import Compartment, Parameter, Participant, Reaction, Species


class Ids:
    """The ids of a model, and the object of libsbml that each belongs to."""

    def __init__(self, model: Any, issues: IssueCollector):
        """Gather the ids of all that may stand in mathematics or share its namespace."""
        self._issues = issues
        self.items: dict[str, Any] = {}
        lists = (
            *(model.getListOfCompartments(), model.getListOfSpecies(), model.getListOfParameters()),
            model.getListOfReactions(),
        )
        for items in lists:
            for item in each(items):
                self._add(item.getIdAttribute(), item)
        if model.getLevel() >= 3:
            for reaction in each(model.getListOfReactions()):
                for side in (reaction.getListOfReactants(), reaction.getListOfProducts()):
                    for item in each(side):
                        if item.getIdAttribute():
                            self._add(item.getIdAttribute(), item)
        self.symbols = frozenset(self.items)
        for items in (model.getListOfFunctionDefinitions(), model.getListOfEvents()):
            for item in each(items):
                if item.getIdAttribute():
                    self._add(item.getIdAttribute(), item)

    def _add(self, id: str, item: Any) -> None:
        if not id:
            add_at(self._issues, item, "must have an id, but has none.")
        elif id in self.items:
            add_at(self._issues, item, f"must have an id of its own, but has that of {title(self.items[id])}.")
        else:
            self.items[id] = item

    def __contains__(self, id: str) -> bool:
        """Whether an id may stand in mathematics."""
        return id in self.symbols


def compartments(model: Any, units: Units, changed: frozenset[str], sized: Container[str]) -> dict[str, Compartment]:
    """Return the compartments of a model.

    Args:
        model: The model of libsbml.
        units: Its units.
        changed: What rules are about; in Level 1 all else is constant.
        sized: What a rule or an initial assignment gives a value.
    """
    return {
        one.getIdAttribute(): Compartment(
            one.getSize() if one.isSetSize() or one.getLevel() == 1 else None,
            constant=one.getConstant() if one.getLevel() > 1 else one.getIdAttribute() not in changed,
            unit=units.size(one),
            dimensions=_dimensions(one, sized),
            doc=one.getName() if one.getLevel() > 1 else "",
        )
        for one in each(model.getListOfCompartments())
    }


def _dimensions(compartment: Any, sized: Container[str]) -> float:
    """Return the dimensions of a compartment; one of 0 that has a size, as Level 3 allows, is like any other."""
    found = compartment.getSpatialDimensionsAsDouble()
    has_size = compartment.isSetSize() or compartment.getIdAttribute() in sized
    return 3.0 if math.isnan(found) or (found == 0.0 and has_size) else found


def species(model: Any, units: Units) -> dict[str, Species]:
    """Return the species of a model."""
    sizes = {one.getIdAttribute(): units.size(one) for one in each(model.getListOfCompartments())}
    return {one.getIdAttribute(): _one_species(one, units, sizes) for one in each(model.getListOfSpecies())}


def _one_species(one: Any, units: Units, sizes: dict[str, str]) -> Species:
    concentration = one.isSetInitialConcentration() and not one.isSetInitialAmount()
    initial = one.getInitialConcentration() if concentration else one.getInitialAmount()
    place = one.getCompartment()
    return Species(
        initial if concentration or one.isSetInitialAmount() else None,
        place,
        is_amount=not concentration,
        only_substance=one.getHasOnlySubstanceUnits(),
        boundary=one.getBoundaryCondition(),
        constant=one.getConstant(),
        conversion=one.getConversionFactor() if one.isSetConversionFactor() else None,
        unit=units.species(one, sizes.get(place, ""), amount=not concentration),
        doc=one.getName() if one.getLevel() > 1 else "",
    )


def parameters(model: Any, units: Units, changed: frozenset[str]) -> dict[str, Parameter]:
    """Return the global parameters of a model."""
    return {
        one.getIdAttribute(): Parameter(
            one.getValue() if one.isSetValue() else None,
            constant=one.getConstant() if one.getLevel() > 1 else one.getIdAttribute() not in changed,
            unit=units.text(one.getUnits()),
            doc=one.getName() if one.getLevel() > 1 else "",
        )
        for one in each(model.getListOfParameters())
    }


def local_names(reaction: Any) -> dict[str, str]:
    """Return the names that the local parameters of a reaction get, `reaction.parameter`, by their ids."""
    return {one.getIdAttribute(): f"{reaction.getIdAttribute()}.{one.getIdAttribute()}" for one in _locals(reaction)}


def local_parameters(reaction: Any, units: Units, issues: IssueCollector) -> dict[str, Parameter]:
    """Return the local parameters of a reaction."""
    names = local_names(reaction)
    found: dict[str, Parameter] = {}
    for one in _locals(reaction):
        name = names[one.getIdAttribute()]
        if name in found:
            add_at(issues, one, "must have an id of its own, but there is another one of the same id.")
        value = one.getValue() if one.isSetValue() else None
        found[name] = Parameter(value, unit=units.text(one.getUnits()), doc=one.getName() if one.getLevel() > 1 else "")
    return found


def _locals(reaction: Any) -> list[Any]:
    law = reaction.getKineticLaw() if reaction.isSetKineticLaw() else None
    if law is None:
        return []
    return each(law.getListOfLocalParameters() if law.getLevel() >= 3 else law.getListOfParameters())


def reaction(item: Any, mathematics: Mathematics, issues: IssueCollector) -> Reaction:
    """Return a reaction; a kinetic law without mathematics has no effect."""
    if item.getFast() and item.isSetFast():
        add_at(issues, item, "not supported: fast reaction.")
    law = item.getKineticLaw() if item.isSetKineticLaw() else None
    rate: Expression | None = None
    if law is None:
        add_at(issues, item, "must have a kinetic law, but has none.")
    else:
        rate = mathematics.of(law, local_names(item))
        rate = number(0.0) if rate is None else rate
    return Reaction(
        tuple(_participant(one, mathematics, issues) for one in each(item.getListOfReactants())),
        tuple(_participant(one, mathematics, issues) for one in each(item.getListOfProducts())),
        rate,
        modifiers=tuple(dict.fromkeys(one.getSpecies() for one in each(item.getListOfModifiers()))),
        reversible=item.getReversible(),
        name=item.getName() if item.getLevel() > 1 else "",
    )


def notice_participants(item: Any, found: Reaction, model: Any, issues: IssueCollector) -> None:
    """Notice a reaction of nothing, and species that its rate uses without their being declared, as libsbml does."""
    level = item.getLevel(), item.getVersion()
    declared = {*found.modifiers, *(one.species for _, one in found.participants())}
    line = item.getLine() if issues.has_lines else None
    if not (found.reactants or found.products) and level < (3, 2):
        issues.warn("must have a reactant or a product (rule 21101 of SBML), but has none.", title(item), line=line)
    if found.rate is None or level < (2, 1):
        return
    for name in sorted(symbols(found.rate) - declared):
        if model.getSpecies(name) is not None:
            must = "must declare each species of its rate as reactant, product or modifier (rule 21111 of SBML)"
            issues.warn(f"{must}, but {name} is none.", title(item), line=line)


def _participant(one: Any, mathematics: Mathematics, issues: IssueCollector) -> Participant:
    name = one.getIdAttribute() if one.getLevel() >= 3 else ""
    constant = one.getConstant() if one.getLevel() >= 3 else True
    stoichiometry: Expression | float | None
    if one.getLevel() == 2 and one.isSetStoichiometryMath():
        stoichiometry = mathematics.of(one.getStoichiometryMath())
        stoichiometry = 1.0 if stoichiometry is None else stoichiometry
    elif one.getLevel() >= 3:
        stoichiometry = one.getStoichiometry() if one.isSetStoichiometry() else None
    else:
        divisor = one.getDenominator() if one.getLevel() == 1 else 1
        if divisor == 0:
            add_at(issues, one, "must have a denominator that is not 0, but has 0.")
        stoichiometry = one.getStoichiometry() / (divisor or 1)
    return Participant(one.getSpecies(), stoichiometry, name, constant)


def each(items: Any) -> list[Any]:
    """Return the objects of a list of libsbml."""
    return [items.get(i) for i in range(items.size())]
