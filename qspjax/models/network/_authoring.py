"""From what the user writes in Python to a definition."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import jax
import numpy as np

from qspjax._checks import check_instance, check_minimum, refuse
from qspjax._expression import TIME, Expression, check_constants, check_function_names, learned, symbol, symbols
from qspjax._unit_words import warn_of_unit
from qspjax.models.learned import AbstractTerm
from qspjax.models.network._definition import (
    Compartment,
    Definition,
    LearnedFunction,
    NetworkEvent,
    Parameter,
    Participant,
    Reaction,
    Species,
)
from qspjax.models.network._laws import AbstractLaw, Scope, Side, as_expression, in_scope
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
    """Return a definition with additions, and the numbers that are arrays (traced ones, say), which it cannot hold.

    An addition replaces what has the same id; the arguments are those of `Network`.
    """
    reactions = reactions or {}
    for argument, table in (("rules", rules), ("rates", rates), ("initial", initial), ("reactions", reactions)):
        check_instance(argument, {} if table is None else table, Mapping, "a dict by id")
    arrays: Arrays = {}
    arguments = {"compartments": compartments or {}, "species": species or {}, "parameters": parameters or {}}
    kinds: dict[str, type[Item]] = {"compartments": Compartment, "species": Species, "parameters": Parameter}
    for argument, table in arguments.items():
        check_instance(argument, table, Mapping, "a dict by id")
        for id, item in table.items():
            warn_of_unit(item.unit if isinstance(item, (Compartment, Species, Parameter)) else "", id)
            size = item.size if isinstance(item, Compartment) else item
            if argument == "compartments" and size is not None:
                check_minimum(id, size, 0.0)
    all_reactions = {**base.reactions, **reactions}
    named = {participant.name for reaction in all_reactions.values() for _, participant in _participants(reaction)}
    declared = frozenset().union(base.ids(), *arguments.values(), all_reactions, rules or (), initial or (), named)
    scope = Scope(declared, base.functions)
    rules = {**base.assignments, **_expressions("rules", rules or {}, scope)}
    rates = {**base.rates, **_expressions("rates", rates or {}, scope)}
    starts = {**base.initial, **_expressions("initial", initial or {}, scope)}
    new_events = [_event(len(base.events) + number, event, scope) for number, event in enumerate(events)]
    all_events = _merged(base.events, new_events)
    changing = {*rules, *rates, *(id for event in all_events for id in event.assign)}
    tables: dict[str, dict[str, Item]] = {
        name: {
            id: _item(id, value, kind, arrays, id in changing)
            for id, value in {**getattr(base, name), **arguments[name]}.items()
        }
        for name, kind in kinds.items()
    }
    ids = {*tables["compartments"], *tables["species"], *tables["parameters"], *named}
    tables["parameters"] |= {id: Parameter(constant=id not in changing) for id in (*rules, *starts) if id not in ids}
    draft = dataclasses.replace(base, **tables)
    for id, reaction in reactions.items():
        check_instance(id, reaction, Reaction, "a Reaction")
        all_reactions[id] = _reaction(reaction, draft, scope)
    definition = dataclasses.replace(
        draft,
        reactions=all_reactions,
        assignments=rules,
        rates=rates,
        algebraic=(*base.algebraic, *(as_expression("algebraic", rule, scope) for rule in algebraic)),
        initial=starts,
        events=all_events,
    )
    return definition, arrays


def signatures(functions: Mapping[str, object]) -> dict[str, LearnedFunction]:
    """Return what a network knows of functions that are learned, by name."""
    check_instance("functions", functions, Mapping, "a dict of terms by name")
    check_function_names("functions", functions)
    return {name: signature(name, term) for name, term in functions.items()}


def signature(name: str, term: object) -> LearnedFunction:
    """Return what a network knows of a function that is learned."""
    check_instance(name, term, AbstractTerm, "a term, such as models.NeuralRate")
    assert isinstance(term, AbstractTerm)
    warn_of_unit(term.unit, name)
    return LearnedFunction(term.inputs, outputs=term.outputs, unit=term.unit)


def _merged(events: Sequence[NetworkEvent], others: Sequence[NetworkEvent]) -> tuple[NetworkEvent, ...]:
    """Return events with others added, each of which replaces the event of its name if there is one."""
    named = {event.name: event for event in others}
    names = {event.name for event in events}
    return (
        *(named.get(event.name, event) for event in events),
        *(event for event in others if event.name not in names),
    )


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
        noun = "Species" if kind is Species else kind.__name__
        refuse(id, f"be a number or a {noun}", value if isinstance(value, str) else f"of type {type(value).__name__}")
    number = None if value is None else float(value)
    return Species(number) if kind is Species else kind(number, constant=not changing)


def _expressions(argument: str, items: Mapping[str, object], scope: Scope) -> dict[str, Expression]:
    return {id: _math(argument, value, scope) for id, value in items.items()}


def _math(argument: str, value: object, scope: Scope) -> Expression:
    if inspect.isfunction(value):
        return _called(value, scope)
    return as_expression(argument, value, scope)


def _event(number: int, event: NetworkEvent, scope: Scope) -> NetworkEvent:
    check_instance("events", event, NetworkEvent, "a NetworkEvent")
    trigger = _math("trigger", event.trigger, scope)
    if trigger.op in ("+", "-", "*", "/", "^"):
        refuse("trigger", "be a condition, such as `drug > 2`", f"the number `{trigger}`")
    return NetworkEvent(
        trigger=trigger,
        assign=_expressions("assign", event.assign, scope),
        delay=None if event.delay is None else _math("delay", event.delay, scope),
        priority=None if event.priority is None else _math("priority", event.priority, scope),
        persistent=event.persistent,
        initial_value=event.initial_value,
        from_trigger_time=event.from_trigger_time,
        name=event.name or f"event{number + 1}",
    )


def _called(function: Callable, scope: Scope) -> Expression:
    """Call a function with what its arguments name: symbols, learned functions, or the time (`time`, `t`)."""
    times = {"t", "time"} - {*scope.ids}
    names = inspect.signature(function).parameters
    arguments = [
        functools.partial(learned, name) if name in scope.functions else TIME if name in times else symbol(name)
        for name in names
    ]
    return as_expression("rate", function(*arguments), scope)


def _participants(reaction: object) -> Iterable[tuple[float, Participant]]:
    return reaction.participants() if isinstance(reaction, Reaction) else ()


def _reaction(reaction: Reaction, draft: Definition, scope: Scope) -> Reaction:
    rate = reaction.rate
    if isinstance(rate, AbstractLaw):
        rate = _of_law(rate, reaction, draft, scope)
    elif rate is not None:
        rate = _math("rate", rate, scope)
    used = dict.fromkeys(participant.species for _, participant in reaction.participants())
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


def _of_law(law: AbstractLaw, reaction: Reaction, draft: Definition, scope: Scope) -> Expression:
    """Return the rate of a law, an amount per time."""
    sides = [
        [Side(symbol(participant.species), _count(participant)) for participant in side]
        for side in (reaction.reactants, reaction.products)
    ]
    forwards, backwards = in_scope(law, scope).rates(*sides)
    check_constants("rate", scope.ids, [one for one in (forwards, backwards) if one is not None])
    sizes = [_size(side, draft) for side in (reaction.reactants or reaction.products, reaction.products)]
    if backwards is None:
        return times(sizes[0], forwards)
    if not reaction.products:
        sizes[1] = sizes[0]
    if sizes[0] is sizes[1]:
        return times(sizes[0], minus(forwards, backwards))
    return minus(times(sizes[0], forwards), times(sizes[1], backwards))


def _count(participant: Participant) -> float:
    if not isinstance(participant.stoichiometry, float):
        refuse("rate", "be written as text where a stoichiometry is not a number", "a law")
    return participant.stoichiometry


def _size(side: Iterable[Participant], draft: Definition) -> Expression:
    """Return the size of the compartment that one side of a reaction is in, 1 if it has no name or amounts react."""
    sizes = set()
    for participant in side:
        if participant.species in draft.species:
            compartment = draft.compartment_of(participant.species)
            sizes.add(
                "" if draft.in_amount(participant.species) or compartment not in draft.compartments else compartment
            )
    if len(sizes) > 1:
        refuse("rate", "be written as text where reactants are in several compartments", f"a law for {sorted(sizes)}")
    compartment = next(iter(sizes), "")
    return symbol(compartment) if compartment else ONE
