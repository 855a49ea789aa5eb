"""Networks that are edited: what is replaced, added, dropped or renamed, with all that depends on it looked at."""

import dataclasses
import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from qspjax._checks import ArgumentError, check_instance, refuse
from qspjax._expression import Expression, substitute, symbol, symbols
from qspjax.models.network._authoring import extended
from qspjax.models.network._definition import (
    Compartment,
    Definition,
    NetworkEvent,
    Parameter,
    Reaction,
    Species,
    Table,
    V,
    parse_equation,
)
from qspjax.models.network._problems import event_name, mathematics, stated_problems
from qspjax.models.network._rewriting import rewritten

KINDS: dict[str, tuple[str, type, str]] = {
    "compartments": ("compartment", Compartment, "size"),
    "species": ("species", Species, "initial"),
    "parameters": ("parameter", Parameter, "value"),
    "reactions": ("reaction", Reaction, ""),
}
"""What has an id, by the table of a definition: what it is called, its class, and the field with its number."""

DETERMINED = {"rule": "assignments", "rate": "rates", "initial": "initial"}
"""What may be said of a species, a compartment or a parameter, and the table that it stands in."""

_WHOLE = ("name", "time_unit", "dose_unit", "conversion")
_GIVEN = {"rules": "assignments", "rates": "rates", "initial": "initial"}

Edit: TypeAlias = tuple[Definition, Mapping[str, jax.Array | np.ndarray | None]]
"""A definition, and the ids of numbers that are new: each with an array, or None where the definition has it."""


def added(d: Definition, tables: Mapping[str, Any]) -> Edit:
    """Return a definition with more in it; what is there already is refused."""
    taken = {*d.ids(), *(event.name for event in d.events if event.name)}
    for argument, table in tables.items():
        own = getattr(d, _GIVEN.get(argument, argument), ()) if argument in _GIVEN else taken
        names = [one.name for one in table if isinstance(one, NetworkEvent)] if argument == "events" else table
        for id in names if argument != "algebraic" else ():
            if id in own:
                what = "new" if argument not in _GIVEN else "for what has none"
                raise ArgumentError(argument, f"must be {what}, but `{id}` is there already; replace it.")
    definition, arrays = extended(d, **tables)
    return definition, _numbers(tables) | arrays


def replaced(d: Definition, id: str | None, new: Any, fields: Mapping[str, Any]) -> Edit:
    """Return a definition in which something is another one.

    Args:
        d: The definition.
        id: What; None for fields of the whole network and for tables as `Network` takes them.
        new: What takes its place, None if only some fields change.
        fields: The fields that change.
    """
    if id is None:
        return _replaced_tables(d, fields)
    table = table_of(d, id)
    if table == "events":
        return _replaced_event(d, id, new, fields)
    if table == "reactions":
        return _replaced_reaction(d, id, new, fields)
    kind, number = KINDS[table][1:]
    if _is_number(new) and not isinstance(new, kind):
        new, fields = None, {number: new, **fields}
    said = {
        name: fields[name]
        for name in DETERMINED
        if name in fields and not (name == number and _is_number(fields[name]))
    }
    own = {name: value for name, value in fields.items() if name not in said}
    _check_fields(id, own, [*(field.name for field in dataclasses.fields(kind)), *DETERMINED])
    gone = [name for name, formula in said.items() if formula is None]
    counted = new is not None or number in own
    for name in (*gone, *(["initial"] if counted else [])):
        d = _constant_again(_without(d, DETERMINED[name], [id]), [id])
    if counted and (id in d.assignments or said.get("rule") is not None):
        what = f"`{id}` must be a number or follow a rule, but would do both"
        raise ValueError(f"{what}: drop the rule, drop(rules={id!r}), or replace it, replace({id!r}, rule=...).")
    arrays = {}
    if isinstance(own.get(number), (jax.Array, np.ndarray)):
        arrays[id], own[number] = own[number], 0.0
    value = dataclasses.replace(getattr(d, table)[id] if new is None else new, **own)
    tables: dict[str, Any] = {table: {id: value}}
    tables |= {f"{name}s" if name != "initial" else name: {id: one} for name, one in said.items() if one is not None}
    d, more = extended(d, **tables)
    return d, ({id: None} if counted else {}) | arrays | more


def _replaced_tables(d: Definition, fields: Mapping[str, Any]) -> Edit:
    whole = {name: value for name, value in fields.items() if name in _WHOLE}
    tables = {name: value for name, value in fields.items() if name not in _WHOLE}
    known = (*KINDS, *_GIVEN, "algebraic", "events")
    _check_fields("network", tables, (*_WHOLE, *known))
    events = {event.name for event in d.events}
    for argument, table in tables.items():
        if argument == "algebraic":
            continue
        names = [one.name for one in table] if argument == "events" else table
        there = events if argument == "events" else getattr(d, _GIVEN.get(argument, argument))
        for id in names:
            if id not in there:
                what = f"must be there to be replaced, but `{id}` is not{_close(id, there)}"
                raise ArgumentError(argument, f"{what}; add it.")
    d = dataclasses.replace(d, **whole)
    if "algebraic" in tables:
        d = dataclasses.replace(d, algebraic=())
    d, arrays = extended(d, **tables)
    return d, _numbers(tables) | arrays


def _replaced_event(d: Definition, id: str, new: Any, fields: Mapping[str, Any]) -> Edit:
    number = [event.name for event in d.events].index(id)
    _check_fields(id, fields, [field.name for field in dataclasses.fields(NetworkEvent)])
    event = d.events[number] if new is None else new
    check_instance("new", event, NetworkEvent, "a NetworkEvent")
    event = dataclasses.replace(event, **{"name": id, **fields})
    before = d.events[number].assign
    rest = dataclasses.replace(d, events=(*d.events[:number], *d.events[number + 1 :]))
    made, arrays = extended(_constant_again(rest, before), events=[event])
    order = (*made.events[:number], made.events[-1], *made.events[number:-1])
    return dataclasses.replace(made, events=order), arrays


def _replaced_reaction(d: Definition, id: str, new: Any, fields: Mapping[str, Any]) -> Edit:
    names = ["equation", *(field.name for field in dataclasses.fields(Reaction))]
    _check_fields(id, fields, names)
    old = d.reactions[id]
    if new is not None:
        check_instance("new", new, Reaction, "a Reaction")
    parts = {field.name: getattr(new or old, field.name) for field in dataclasses.fields(Reaction)} | dict(fields)
    if "equation" in parts:
        reactants, products, arrow = parse_equation(parts.pop("equation"))
        parts |= {"reactants": reactants, "products": products} | ({"reversible": True} if arrow else {})
    if "rate" in fields and "modifiers" not in fields:
        used = symbols(old.rate) if isinstance(old.rate, Expression) else frozenset()
        parts["modifiers"] = tuple(name for name in parts["modifiers"] if name not in used)
    made, arrays = extended(d, reactions={id: Reaction(**parts)})
    return made if stated_problems(made) else _without_unused_locals(d, made, [id]), arrays


def dropped(d: Definition, ids: Sequence[str], tables: Mapping[str, Iterable[str]]) -> Definition:
    """Return a definition without some of what is in it; what stays must not need it."""
    for argument, names in tables.items():
        there = getattr(d, _GIVEN[argument])
        for id in _listed(names):
            if id not in there:
                raise ArgumentError(argument, f"must be there to be dropped, but `{id}` has none{_close(id, there)}.")
        d = _constant_again(_without(d, _GIVEN[argument], _listed(names)), _listed(names))
    before = d
    for id in ids:
        table = table_of(d, id)
        if table == "events":
            assigned = next(event.assign for event in d.events if event.name == id)
            d = dataclasses.replace(d, events=tuple(event for event in d.events if event.name != id))
            d = _constant_again(d, assigned)
            continue
        d = dataclasses.replace(d, **{table: _less(getattr(d, table), [id])})
        for one in DETERMINED.values():
            d = _without(d, one, [id])
    closed = tuple(id for id in d.closed if id in d.species)
    d = _without_unused_locals(before, dataclasses.replace(d, closed=closed), ids)
    for id in ids:
        users = list(dict.fromkeys(_users(d, id)))
        if users:
            what = f"`{id}` must not be used by what stays, but is by {', '.join(users)}"
            raise ValueError(f"{what}: drop or replace {'it' if len(users) == 1 else 'them'} too.")
    return d


def renamed(d: Definition, names: Mapping[str, str]) -> tuple[Definition, dict[str, str]]:
    """Return a definition in which things have other ids, and the old id of each new one."""
    new = dict(names)
    events = [event.name for event in d.events if event.name]
    for old, name in names.items():
        table_of(d, old) if old not in d.participants else None
        if not isinstance(name, str) or not name or "#" in name:
            refuse("names", f"have an id for `{old}`", name)
        if old in d.reactions:  # and what is of this reaction alone
            own = [id for id in d.parameters if id.startswith(f"{old}.") and id not in names]
            new |= {id: f"{name}{id.removeprefix(old)}" for id in own}
    after = [new.get(id, id) for id in (*d.ids(), *events)]
    twice = next((id for place, id in enumerate(after) if id in after[:place]), None)
    if twice is not None:
        raise ArgumentError("names", f"must leave every id that of one thing, but `{twice}` would be that of two.")
    mapping = {old: symbol(name) for old, name in new.items()}
    changed = rewritten(d, lambda formula: substitute(formula, mapping), lambda id: new.get(id, id))
    fired = tuple(dataclasses.replace(event, name=new.get(event.name, event.name)) for event in changed.events)
    return dataclasses.replace(changed, events=fired), {name: old for old, name in new.items()}


def table_of(d: Definition, id: str) -> str:
    """Return the table of a definition that something stands in.

    Raises:
        ValueError: If there is nothing of that id; the message says what is called nearly so.
    """
    check_instance("id", id, str, "an id")
    for table in KINDS:
        if id in getattr(d, table):
            return table
    if any(event.name == id for event in d.events):
        return "events"
    if id in d.participants:
        what = "a species, compartment, parameter, reaction or event"
        refuse("id", f"be {what}", f"the stoichiometry `{id}` of a reaction")
    names = (*d.ids(), *(event.name for event in d.events if event.name))
    raise ArgumentError("id", f"must be an id of the network, but `{id}` is none{_close(id, names)}.")


def _users(d: Definition, id: str) -> Iterator[str]:
    """Yield what uses an id, in words."""
    events = {event_name(d, number) for number in range(len(d.events))}

    def title(owner: str) -> str:
        kinds = {**dict.fromkeys(d.assignments, "the rule of"), **dict.fromkeys(d.rates, "the rate of")}
        kind = "reaction" if owner in d.reactions else "event" if owner in events else kinds.get(owner, "")
        return f"{kind} {owner}".strip() if kind or " " in owner else f"the initial value of {owner}"

    for owner, expression in mathematics(d):
        if id in symbols(expression):
            yield title(owner)
    for name, reaction in d.reactions.items():
        if id in reaction.modifiers or any(one.species == id for _, one in reaction.participants()):
            yield f"reaction {name}"
    for name, species in d.species.items():
        if id and id in (species.compartment, species.conversion):
            yield f"species {name}"
    for number, event in enumerate(d.events):
        if id in event.assign:
            yield f"event {event_name(d, number)}"
    if d.conversion == id:
        yield "the conversion factor of the network"


def _without_unused_locals(before: Definition, after: Definition, reactions: Collection[str]) -> Definition:
    """Return a definition without the parameters of reactions alone that these needed before, and nothing needs now."""
    needed = frozenset().union(*(symbols(expression) for _, expression in mathematics(after)))
    determined = {*after.assignments, *after.rates, *after.initial, *(id for one in after.events for id in one.assign)}
    rates = [before.reactions[id].rate for id in reactions if id in before.reactions]
    used = frozenset().union(*(symbols(rate) for rate in rates if isinstance(rate, Expression)))
    alone = [
        id
        for id in after.parameters
        if id.partition(".")[0] in reactions and id in used and id not in needed and id not in determined
    ]
    return dataclasses.replace(after, parameters=_less(after.parameters, alone)) if alone else after


def _constant_again(d: Definition, ids: Iterable[str]) -> Definition:
    """Return a definition in which compartments and parameters that nothing changes any more are constant."""
    changing = {*d.assignments, *d.rates, *(id for event in d.events for id in event.assign)}
    free = {id for id in ids if id not in changing}
    tables = {
        name: Table((id, dataclasses.replace(one, constant=True) if id in free else one) for id, one in table.items())
        for name, table in (("compartments", d.compartments), ("parameters", d.parameters))
        if free & table.keys()
    }
    return dataclasses.replace(d, **tables) if tables else d


def _without(d: Definition, table: str, ids: Iterable[str]) -> Definition:
    return dataclasses.replace(d, **{table: _less(getattr(d, table), ids)})


def _less(table: Mapping[str, V], ids: Iterable[str]) -> Table[V]:
    ids = set(ids)
    return Table((id, one) for id, one in table.items() if id not in ids)


def _listed(names: Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _numbers(tables: Mapping[str, Any]) -> dict[str, None]:
    """Return the ids of species, compartments and parameters in tables, whose numbers are those that are given."""
    return {id: None for name in ("compartments", "species", "parameters") for id in tables.get(name) or ()}


def _is_number(value: object) -> bool:
    return not isinstance(value, (str, Expression)) and not callable(value) and value is not None


def _check_fields(id: str, fields: Iterable[str], names: Sequence[str]) -> None:
    for name in fields:
        if name not in names:
            refuse("fields", f"name what `{id}` has ({', '.join(names)})", name)


def _close(id: str, names: Iterable[str]) -> str:
    names = list(names)
    ends = [name for name in names if name.endswith(f".{id}")]
    found = ends or difflib.get_close_matches(id, names, 3)
    return f"; did you mean {' or '.join(f'`{name}`' for name in found)}?" if found else ""
