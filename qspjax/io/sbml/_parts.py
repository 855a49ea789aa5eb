"""Compartments, species, parameters and reactions, of all levels of SBML."""

import math
from collections.abc import Container
from typing import TYPE_CHECKING, Any

from qspjax._expression import Expression, number, symbols
from qspjax.io._issues import IssueCollector
from qspjax.io.sbml._issues import add_at, title
from qspjax.io.sbml._math import Mathematics
from qspjax.io.sbml._units import Units
from qspjax.models.network import Compartment, Parameter, Participant, Reaction, Species

if TYPE_CHECKING:
    import libsbml


class Ids:
    """The ids of a model, and the object of libsbml to which each belongs."""

    def __init__(self, model: "libsbml.Model", issues: IssueCollector):
        """Collect the ids of everything that may occur in mathematics or shares its namespace."""
        self._issues = issues
        self.items: dict[str, libsbml.SBase] = {}
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

    def _add(self, id: str, item: "libsbml.SBase") -> None:
        if not id:
            add_at(self._issues, item, "must have an id, but has none.")
        elif id in self.items:
            add_at(self._issues, item, f"must have an id of its own, but has that of {title(self.items[id])}.")
        else:
            self.items[id] = item

    def __contains__(self, id: str) -> bool:
        """Return whether an id may occur in mathematics."""
        return id in self.symbols


def compartments(
    model: "libsbml.Model", units: Units, changed: frozenset[str], sized: Container[str]
) -> dict[str, Compartment]:
    """Return the compartments of a model.

    Args:
        model: The model of libsbml.
        units: Its units.
        changed: The ids that rules may change; in Level 1 all others are constant.
        sized: The ids to which a rule or an initial assignment gives a value.
    """
    return {
        item.getIdAttribute(): Compartment(
            item.getSize() if item.isSetSize() or item.getLevel() == 1 else None,
            constant=item.getConstant() if item.getLevel() > 1 else item.getIdAttribute() not in changed,
            unit=units.size(item),
            dimensions=_dimensions(item, sized),
            doc=item.getName() if item.getLevel() > 1 else "",
        )
        for item in each(model.getListOfCompartments())
    }


def _dimensions(compartment: "libsbml.Compartment", sized: Container[str]) -> float:
    """Return the dimensions of a compartment; one of 0 with a size, which Level 3 allows, is like any other."""
    dimensions = compartment.getSpatialDimensionsAsDouble()
    has_size = compartment.isSetSize() or compartment.getIdAttribute() in sized
    return 3.0 if math.isnan(dimensions) or (dimensions == 0.0 and has_size) else dimensions


def species(model: "libsbml.Model", units: Units) -> dict[str, Species]:
    """Return the species of a model."""
    sizes = {item.getIdAttribute(): units.size(item) for item in each(model.getListOfCompartments())}
    return {item.getIdAttribute(): _read_species(item, units, sizes) for item in each(model.getListOfSpecies())}


def _read_species(item: "libsbml.Species", units: Units, sizes: dict[str, str]) -> Species:
    concentration = item.isSetInitialConcentration() and not item.isSetInitialAmount()
    initial = item.getInitialConcentration() if concentration else item.getInitialAmount()
    compartment = item.getCompartment()
    return Species(
        initial if concentration or item.isSetInitialAmount() else None,
        compartment,
        is_amount=not concentration,
        only_substance=item.getHasOnlySubstanceUnits(),
        boundary=item.getBoundaryCondition(),
        constant=item.getConstant(),
        conversion=item.getConversionFactor() if item.isSetConversionFactor() else None,
        unit=units.species(item, sizes.get(compartment, ""), amount=not concentration),
        doc=item.getName() if item.getLevel() > 1 else "",
    )


def parameters(model: "libsbml.Model", units: Units, changed: frozenset[str]) -> dict[str, Parameter]:
    """Return the global parameters of a model."""
    return {
        item.getIdAttribute(): Parameter(
            item.getValue() if item.isSetValue() else None,
            constant=item.getConstant() if item.getLevel() > 1 else item.getIdAttribute() not in changed,
            unit=units.text(item.getUnits()),
            doc=item.getName() if item.getLevel() > 1 else "",
        )
        for item in each(model.getListOfParameters())
    }


def local_names(reaction: "libsbml.Reaction") -> dict[str, str]:
    """Return the names of the local parameters of a reaction, `reaction.parameter`, by their ids."""
    return {item.getIdAttribute(): f"{reaction.getIdAttribute()}.{item.getIdAttribute()}" for item in _locals(reaction)}


def local_parameters(reaction: "libsbml.Reaction", units: Units, issues: IssueCollector) -> dict[str, Parameter]:
    """Return the local parameters of a reaction."""
    names = local_names(reaction)
    read: dict[str, Parameter] = {}
    for item in _locals(reaction):
        name = names[item.getIdAttribute()]
        if name in read:
            add_at(issues, item, "must have an id of its own, but there is another one of the same id.")
        value = item.getValue() if item.isSetValue() else None
        read[name] = Parameter(
            value, unit=units.text(item.getUnits()), doc=item.getName() if item.getLevel() > 1 else ""
        )
    return read


def _locals(reaction: "libsbml.Reaction") -> "list[libsbml.Parameter]":
    law = reaction.getKineticLaw() if reaction.isSetKineticLaw() else None
    if law is None:
        return []
    return each(law.getListOfLocalParameters() if law.getLevel() >= 3 else law.getListOfParameters())


def reaction(item: "libsbml.Reaction", mathematics: Mathematics, issues: IssueCollector) -> Reaction:
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
        tuple(_participant(side, mathematics, issues) for side in each(item.getListOfReactants())),
        tuple(_participant(side, mathematics, issues) for side in each(item.getListOfProducts())),
        rate,
        modifiers=tuple(dict.fromkeys(modifier.getSpecies() for modifier in each(item.getListOfModifiers()))),
        reversible=item.getReversible(),
        name=item.getName() if item.getLevel() > 1 else "",
    )


def check_participants(
    item: "libsbml.Reaction", read: Reaction, model: "libsbml.Model", issues: IssueCollector
) -> None:
    """Warn of a reaction without participants, and of species that its rate uses undeclared, as libsbml does."""
    level = item.getLevel(), item.getVersion()
    declared = {*read.modifiers, *(participant.species for _, participant in read.participants())}
    line = item.getLine() if issues.has_lines else None
    if not (read.reactants or read.products) and level < (3, 2):
        issues.warn("must have a reactant or a product (rule 21101 of SBML), but has none.", title(item), line=line)
    if read.rate is None or level < (2, 1):
        return
    for name in sorted(symbols(read.rate) - declared):
        if model.getSpecies(name) is not None:
            must = "must declare each species of its rate as reactant, product or modifier (rule 21111 of SBML)"
            issues.warn(f"{must}, but {name} is none.", title(item), line=line)


def _participant(item: "libsbml.SpeciesReference", mathematics: Mathematics, issues: IssueCollector) -> Participant:
    name = item.getIdAttribute() if item.getLevel() >= 3 else ""
    constant = item.getConstant() if item.getLevel() >= 3 else True
    stoichiometry: Expression | float | None
    if item.getLevel() == 2 and item.isSetStoichiometryMath():
        stoichiometry = mathematics.of(item.getStoichiometryMath())
        stoichiometry = 1.0 if stoichiometry is None else stoichiometry
    elif item.getLevel() >= 3:
        stoichiometry = item.getStoichiometry() if item.isSetStoichiometry() else None
    else:
        divisor = item.getDenominator() if item.getLevel() == 1 else 1
        if divisor == 0:
            add_at(issues, item, "must have a denominator that is not 0, but has 0.")
        stoichiometry = item.getStoichiometry() / (divisor or 1)
    return Participant(item.getSpecies(), stoichiometry, name, constant)


def each(items: "libsbml.ListOf") -> list[Any]:
    """Return the objects of a list of libsbml."""
    return [items.get(i) for i in range(items.size())]
