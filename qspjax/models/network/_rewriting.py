"""A definition in which every formula, and every id, is another one."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TypeVar

from qspjax._expression import Expression
from qspjax.models.network._definition import Definition, NetworkEvent, Participant, Reaction, Species, Table, V

W = TypeVar("W")


def rewritten(
    definition: Definition, formula: Callable[[Expression], Expression], id: Callable[[str], str] = str
) -> Definition:
    """Return a definition with other formulas, and other ids wherever an id stands outside formulas.

    Args:
        definition: The network.
        formula: Returns what stands in place of a formula.
        id: Returns what stands in place of an id.
    """

    def table(items: Mapping[str, V], each: Callable[[V], V] = lambda one: one) -> Table[V]:
        return Table((id(name), each(one)) for name, one in items.items())

    def optional(value: W) -> W | Expression:
        return formula(value) if isinstance(value, Expression) else value

    def participant(one: Participant) -> Participant:
        name = one.name and id(one.name)
        return dataclasses.replace(one, species=id(one.species), stoichiometry=optional(one.stoichiometry), name=name)

    def reaction(one: Reaction) -> Reaction:
        return Reaction(
            tuple(map(participant, one.reactants)),
            tuple(map(participant, one.products)),
            optional(one.rate),
            modifiers=tuple(map(id, one.modifiers)),
            reversible=one.reversible,
            name=one.name,
        )

    def species(one: Species) -> Species:
        place, factor = one.compartment and id(one.compartment), one.conversion and id(one.conversion)
        return dataclasses.replace(one, compartment=place, conversion=factor)

    def event(one: NetworkEvent) -> NetworkEvent:
        parts = {part: optional(getattr(one, part)) for part in ("trigger", "delay", "priority")}
        return dataclasses.replace(one, assign=table(one.assign, formula), **parts)

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
