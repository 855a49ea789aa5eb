"""A definition with every formula, and every id, replaced."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TypeVar

from qspjax._expression import Expression
from qspjax.models.network._definition import Definition, NetworkEvent, Participant, Reaction, Species, Table, V

W = TypeVar("W")


def rewritten(
    definition: Definition, formula: Callable[[Expression], Expression], id: Callable[[str], str] = str
) -> Definition:
    """Return a definition with its formulas replaced, and its ids wherever they occur outside formulas.

    Args:
        definition: The network.
        formula: Returns the replacement of a formula.
        id: Returns the replacement of an id.
    """

    def table(items: Mapping[str, V], each: Callable[[V], V] = lambda value: value) -> Table[V]:
        return Table((id(name), each(value)) for name, value in items.items())

    def optional(value: W) -> W | Expression:
        return formula(value) if isinstance(value, Expression) else value

    def participant(old: Participant) -> Participant:
        name = old.name and id(old.name)
        return dataclasses.replace(old, species=id(old.species), stoichiometry=optional(old.stoichiometry), name=name)

    def reaction(old: Reaction) -> Reaction:
        return Reaction(
            tuple(map(participant, old.reactants)),
            tuple(map(participant, old.products)),
            optional(old.rate),
            modifiers=tuple(map(id, old.modifiers)),
            reversible=old.reversible,
            name=old.name,
        )

    def species(old: Species) -> Species:
        compartment, factor = old.compartment and id(old.compartment), old.conversion and id(old.conversion)
        return dataclasses.replace(old, compartment=compartment, conversion=factor)

    def event(old: NetworkEvent) -> NetworkEvent:
        formulas = {field: optional(getattr(old, field)) for field in ("trigger", "delay", "priority")}
        return dataclasses.replace(old, assign=table(old.assign, formula), **formulas)

    return dataclasses.replace(
        definition,
        compartments=table(definition.compartments),
        species=table(definition.species, species),
        parameters=table(definition.parameters),
        reactions=table(definition.reactions, reaction),
        assignments=table(definition.assignments, formula),
        rates=table(definition.rates, formula),
        algebraic=tuple(map(formula, definition.algebraic)),
        initial=table(definition.initial, formula),
        events=tuple(map(event, definition.events)),
        conversion=definition.conversion and id(definition.conversion),
        closed=tuple(map(id, definition.closed)),
    )
