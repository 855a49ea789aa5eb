"""From what one writes in Python to a definition."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import jax
import numpy as np

from qspjax._checks import check_instance, refuse
from qspjax._expression import TIME, Expression, symbol, symbols
from qspjax.models.network._definition import (
    Compartment,
    Definition,
    NetworkEvent,
    Parameter,
    Participant,
    Reaction,
    Species,
)
from qspjax.models.network._laws import AbstractLaw, Side, as_expression
from qspjax.models.network._terms import ONE, minus, times

Item: TypeAlias = Compartment | Species | Parameter

Arrays: TypeAlias = dict[str, jax.Array | np.ndarray]
"""Numbers by id that are arrays, which a definition cannot hold."""


def extended(
    base: Definition,
    *,
    compartments: Mapping[str, object] | None = None,
    species: Mapping[str, object] | None = None,
    parameters: Mapping[str, object] | None = None,
    reactions: Mapping[str, Reaction] | None = None,
    rules: Mapping[str, object] | None = None,
    rates: Mapping[str, object] | None = None,
    algebraic: Sequence[object] = (),
    initial: Mapping[str, object] | None = None,
    events: Sequence[NetworkEvent] = (),
) -> tuple[Definition, Arrays]:
    """Return a definition with more in it, and the numbers that are arrays (traced ones, say), which it cannot hold.

    What has the id of something that is there takes its place; the arguments are those of `Network`.
    """
    reactions = reactions or {}
    for argument, table in (("rules", rules), ("rates", rates), ("initial", initial), ("reactions", reactions)):
        check_instance(argument, {} if table is None else table, Mapping, "a dict by id")
    arrays: Arrays = {}
    rules = {**base.assignments, **_expressions("rules", rules or {})}
    rates = {**base.rates, **_expressions("rates", rates or {})}
    starts = {**base.initial, **_expressions("initial", initial or {})}
    fired = _merged(base.events, [_event(len(base.events) + number, event) for number, event in enumerate(events)])
    changing = {*rules, *rates, *(id for event in fired for id in event.assign)}
    given = {"compartments": compartments or {}, "species": species or {}, "parameters": parameters or {}}
    kinds: dict[str, type[Item]] = {"compartments": Compartment, "species": Species, "parameters": Parameter}
    for argument, table in given.items():
        check_instance(argument, table, Mapping, "a dict by id")
    tables: dict[str, dict[str, Item]] = {
        name: {
            id: _item(id, value, kind, arrays, id in changing)
            for id, value in {**getattr(base, name), **given[name]}.items()
        }
        for name, kind in kinds.items()
    }
    whole = {**base.reactions, **reactions}
    named = {one.name for reaction in whole.values() for _, one in _participants(reaction)}
    known = {*tables["compartments"], *tables["species"], *tables["parameters"], *named}
    tables["parameters"] |= {id: Parameter(constant=id not in changing) for id in (*rules, *starts) if id not in known}
    draft = dataclasses.replace(base, **tables)
    for id, reaction in reactions.items():
        check_instance(id, reaction, Reaction, "a Reaction")
        whole[id] = _reaction(reaction, draft)
    definition = dataclasses.replace(
        draft,
        reactions=whole,
        assignments=rules,
        rates=rates,
        algebraic=(*base.algebraic, *(as_expression("algebraic", rule) for rule in algebraic)),
        initial=starts,
        events=fired,
    )
    return definition, arrays


def _merged(events: Sequence[NetworkEvent], others: Sequence[NetworkEvent]) -> tuple[NetworkEvent, ...]:
    """Return events, in which others take the places of those of their names."""
    named = {one.name: one for one in others}
    there = {one.name for one in events}
    return (*(named.get(one.name, one) for one in events), *(one for one in others if one.name not in there))


def _item(id: str, value: object, kind: type[Item], arrays: Arrays, changing: bool) -> Item:
    if isinstance(value, kind):
        if not (changing and value.constant) or kind is Species:
            return value
        return dataclasses.replace(value, constant=False)
    if isinstance(value, (jax.Array, np.ndarray)) and np.shape(value) == ():
        arrays[id] = value
        value = 0.0
    if value is not None and (
        isinstance(value, (str, bool)) or not isinstance(value, (int, float, np.integer, np.floating))
    ):
        what = "Species" if kind is Species else kind.__name__
        refuse(id, f"be a number or a {what}", value if isinstance(value, str) else f"of type {type(value).__name__}")
    number = None if value is None else float(value)
    return Species(number) if kind is Species else kind(number, constant=not changing)


def _expressions(argument: str, items: Mapping[str, object]) -> dict[str, Expression]:
    return {id: _math(argument, value) for id, value in items.items()}


def _math(argument: str, value: object) -> Expression:
    return _called(value) if inspect.isfunction(value) else as_expression(argument, value)


def _event(number: int, event: NetworkEvent) -> NetworkEvent:
    check_instance("events", event, NetworkEvent, "a NetworkEvent")
    return NetworkEvent(
        trigger=_math("trigger", event.trigger),
        assign=_expressions("assign", event.assign),
        delay=None if event.delay is None else _math("delay", event.delay),
        priority=None if event.priority is None else _math("priority", event.priority),
        persistent=event.persistent,
        initial_value=event.initial_value,
        from_trigger_time=event.from_trigger_time,
        name=event.name or f"event{number + 1}",
    )


def _called(function: Callable) -> Expression:
    """Call a function with the symbols that its arguments are named after (`time` and `t` for the time)."""
    arguments = [TIME if name in ("t", "time") else symbol(name) for name in inspect.signature(function).parameters]
    return as_expression("rate", function(*arguments))


def _participants(reaction: object) -> Iterable[tuple[float, Participant]]:
    return reaction.participants() if isinstance(reaction, Reaction) else ()


def _reaction(reaction: Reaction, draft: Definition) -> Reaction:
    rate = reaction.rate
    if isinstance(rate, AbstractLaw):
        rate = _of_law(rate, reaction, draft)
    elif inspect.isfunction(rate):
        rate = _called(rate)
    elif rate is not None:
        rate = as_expression("rate", rate)
    used = dict.fromkeys(one.species for _, one in reaction.participants())
    modifiers = dict.fromkeys(reaction.modifiers)
    if rate is not None:
        modifiers |= dict.fromkeys(name for name in sorted(symbols(rate)) if name in draft.species and name not in used)
    return Reaction(
        reaction.reactants,
        reaction.products,
        rate,
        modifiers=modifiers,
        reversible=reaction.reversible,
        name=reaction.name,
    )


def _of_law(law: AbstractLaw, reaction: Reaction, draft: Definition) -> Expression:
    """Return the rate of a law, an amount per time."""
    sides = [
        [Side(symbol(one.species), _count(one)) for one in side] for side in (reaction.reactants, reaction.products)
    ]
    forwards, backwards = law.rates(*sides)
    places = [_size(side, draft) for side in (reaction.reactants or reaction.products, reaction.products)]
    if backwards is None:
        return times(places[0], forwards)
    if not reaction.products:
        places[1] = places[0]
    if places[0] is places[1]:
        return times(places[0], minus(forwards, backwards))
    return minus(times(places[0], forwards), times(places[1], backwards))


def _count(one: Participant) -> float:
    if not isinstance(one.stoichiometry, float):
        refuse("rate", "be written as text where a stoichiometry is no number", "a law")
    return one.stoichiometry


def _size(side: Iterable[Participant], draft: Definition) -> Expression:
    """Return the size of the compartment that one side of a reaction is in, 1 if it has no name or amounts react."""
    sizes = set()
    for one in side:
        if one.species in draft.species:
            place = draft.compartment_of(one.species)
            sizes.add("" if draft.in_amount(one.species) or place not in draft.compartments else place)
    if len(sizes) > 1:
        refuse("rate", "be written as text where reactants are in several compartments", f"a law for {sorted(sizes)}")
    place = next(iter(sizes), "")
    return symbol(place) if place else ONE
