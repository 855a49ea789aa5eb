"""Edits of networks: parts are replaced, added, dropped or renamed, together with what depends on them."""

import dataclasses
import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from qspjax._checks import ArgumentError, check_instance, refuse
from qspjax._expression import (
    Expression,
    check_function_names,
    functions_in,
    substitute,
    symbol,
    symbols,
    with_functions,
)
from qspjax.models.network._authoring import extended, signature, signatures
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
"""By the table of a definition: what its items are called, their class, and the field with their number."""

DETERMINED = {"rule": "assignments", "rate": "rates", "initial": "initial"}
"""What may determine a species, a compartment or a parameter, and the table of its formula."""

_NETWORK_FIELDS = ("name", "time_unit", "dose_unit", "conversion")
_FORMULA_TABLES = {"rules": "assignments", "rates": "rates", "initial": "initial"}

Edit: TypeAlias = tuple[Definition, Mapping[str, jax.Array | np.ndarray | None]]
"""A definition, and the ids of numbers that are new: each with an array, or None where the definition has it."""


def added(d: Definition, tables: Mapping[str, Any]) -> Edit:
    """Return a definition with additions; an id that exists already is refused."""
    taken = {*d.ids(), *(event.name for event in d.events if event.name), *d.functions}
    for argument, table in tables.items():
        existing = getattr(d, _FORMULA_TABLES.get(argument, argument), ()) if argument in _FORMULA_TABLES else taken
        names = [event.name for event in table if isinstance(event, NetworkEvent)] if argument == "events" else table
        for id in names if argument != "algebraic" else ():
            if id in existing:
                requirement = "new" if argument not in _FORMULA_TABLES else "for ids that have none"
                raise ArgumentError(argument, f"must be {requirement}, but `{id}` is there already; replace it.")
    d, tables = _with_functions(d, tables)
    definition, arrays = extended(d, **tables)
    return definition, _numbers(tables) | arrays


def _with_functions(d: Definition, tables: Mapping[str, Any]) -> tuple[Definition, dict[str, Any]]:
    """Return a definition with the functions among tables, and the other tables."""
    new = signatures(tables.get("functions", {}))
    others = {name: table for name, table in tables.items() if name != "functions"}
    return dataclasses.replace(d, functions=Table({**d.functions, **new})), others


def replaced(d: Definition, id: str | None, new: Any, fields: Mapping[str, Any]) -> Edit:
    """Return a definition with one of its parts replaced.

    Args:
        d: The definition.
        id: The id of the part; None for fields of the network itself and for tables as `Network` takes them.
        new: Its replacement, None if only some fields change.
        fields: The fields that change.
    """
    if id is None:
        return _replaced_tables(d, fields)
    table = table_of(d, id)
    if table == "functions":
        if new is None or fields:
            refuse("fields", f"be none for `{id}`, which is replaced by a term", ", ".join(fields) or "without one")
        return dataclasses.replace(d, functions=Table({**d.functions, id: signature(id, new)})), {}
    if table == "events":
        return _replaced_event(d, id, new, fields)
    if table == "reactions":
        return _replaced_reaction(d, id, new, fields)
    kind, number = KINDS[table][1:]
    if _is_number(new) and not isinstance(new, kind):
        new, fields = None, {number: new, **fields}
    formulas = {
        name: fields[name]
        for name in DETERMINED
        if name in fields and not (name == number and _is_number(fields[name]))
    }
    item_fields = {name: value for name, value in fields.items() if name not in formulas}
    _check_fields(id, item_fields, [*(field.name for field in dataclasses.fields(kind)), *DETERMINED])
    removed = [name for name, formula in formulas.items() if formula is None]
    has_number = new is not None or number in item_fields
    for name in (*removed, *(["initial"] if has_number else [])):
        d = _constant_again(_without(d, DETERMINED[name], [id]), [id])
    if has_number and (id in d.assignments or formulas.get("rule") is not None):
        problem = f"`{id}` must be a number or follow a rule, but would do both"
        raise ValueError(f"{problem}: drop the rule, drop(rules={id!r}), or replace it, replace({id!r}, rule=...).")
    arrays = {}
    if isinstance(item_fields.get(number), (jax.Array, np.ndarray)):
        arrays[id], item_fields[number] = item_fields[number], 0.0
    value = dataclasses.replace(getattr(d, table)[id] if new is None else new, **item_fields)
    tables: dict[str, Any] = {table: {id: value}}
    tables |= {
        f"{name}s" if name != "initial" else name: {id: formula}
        for name, formula in formulas.items()
        if formula is not None
    }
    d, more_arrays = extended(d, **tables)
    return d, ({id: None} if has_number else {}) | arrays | more_arrays


def _replaced_tables(d: Definition, fields: Mapping[str, Any]) -> Edit:
    network_fields = {name: value for name, value in fields.items() if name in _NETWORK_FIELDS}
    tables = {name: value for name, value in fields.items() if name not in _NETWORK_FIELDS}
    table_names = (*KINDS, *_FORMULA_TABLES, "algebraic", "events")
    _check_fields("network", tables, (*_NETWORK_FIELDS, *table_names, "functions"))
    events = {event.name for event in d.events}
    for argument, table in tables.items():
        if argument == "algebraic":
            continue
        names = [event.name for event in table] if argument == "events" else table
        existing = events if argument == "events" else getattr(d, _FORMULA_TABLES.get(argument, argument))
        for id in names:
            if id not in existing:
                problem = f"must be there to be replaced, but `{id}` is not{_close(id, existing)}"
                raise ArgumentError(argument, f"{problem}; add it.")
    d, tables = _with_functions(dataclasses.replace(d, **network_fields), tables)
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
    remaining = dataclasses.replace(d, events=(*d.events[:number], *d.events[number + 1 :]))
    definition, arrays = extended(_constant_again(remaining, before), events=[event])
    order = (*definition.events[:number], definition.events[-1], *definition.events[number:-1])
    return dataclasses.replace(definition, events=order), arrays


def _replaced_reaction(d: Definition, id: str, new: Any, fields: Mapping[str, Any]) -> Edit:
    names = ["equation", *(field.name for field in dataclasses.fields(Reaction))]
    _check_fields(id, fields, names)
    old = d.reactions[id]
    if new is not None:
        check_instance("new", new, Reaction, "a Reaction")
    values = {field.name: getattr(new or old, field.name) for field in dataclasses.fields(Reaction)} | dict(fields)
    if "equation" in values:
        reactants, products, arrow = parse_equation(values.pop("equation"))
        values |= {"reactants": reactants, "products": products} | ({"reversible": True} if arrow else {})
    if "rate" in fields and "modifiers" not in fields:
        used = symbols(old.rate) if isinstance(old.rate, Expression) else frozenset()
        values["modifiers"] = tuple(name for name in values["modifiers"] if name not in used)
    definition, arrays = extended(d, reactions={id: Reaction(**values)})
    return definition if stated_problems(definition) else _without_unused_locals(d, definition, [id]), arrays


def dropped(d: Definition, ids: Sequence[str], tables: Mapping[str, Iterable[str]]) -> Definition:
    """Return a definition without some of its parts, which what stays must not use."""
    for argument, names in tables.items():
        existing = getattr(d, _FORMULA_TABLES[argument])
        for id in _listed(names):
            if id not in existing:
                raise ArgumentError(
                    argument, f"must be there to be dropped, but `{id}` has none{_close(id, existing)}."
                )
        d = _constant_again(_without(d, _FORMULA_TABLES[argument], _listed(names)), _listed(names))
    before = d
    for id in ids:
        table = table_of(d, id)
        if table == "functions":
            d = dataclasses.replace(d, functions=_without_ids(d.functions, [id]))
            continue
        if table == "events":
            assigned = next(event.assign for event in d.events if event.name == id)
            d = dataclasses.replace(d, events=tuple(event for event in d.events if event.name != id))
            d = _constant_again(d, assigned)
            continue
        d = dataclasses.replace(d, **{table: _without_ids(getattr(d, table), [id])})
        for rule_table in DETERMINED.values():
            d = _without(d, rule_table, [id])
    closed = tuple(id for id in d.closed if id in d.species)
    d = _without_unused_locals(before, dataclasses.replace(d, closed=closed), ids)
    for id in ids:
        users = list(dict.fromkeys(_users(d, id)))
        if users:
            problem = f"`{id}` must not be used by what stays, but is by {', '.join(users)}"
            raise ValueError(f"{problem}: drop or replace {'it' if len(users) == 1 else 'them'} too.")
    return d


def renamed(d: Definition, names: Mapping[str, str]) -> tuple[Definition, dict[str, str]]:
    """Return a definition with ids renamed, and the old id of each new one."""
    new = dict(names)
    events = [event.name for event in d.events if event.name]
    for old, name in names.items():
        table_of(d, old) if old not in d.participants else None
        if not isinstance(name, str) or not name or "#" in name:
            refuse("names", f"have an id for `{old}`", name)
        if old in d.reactions:  # and the parameters of this reaction alone
            local_ids = [id for id in d.parameters if id.startswith(f"{old}.") and id not in names]
            new |= {id: f"{name}{id.removeprefix(old)}" for id in local_ids}
    after = [new.get(id, id) for id in (*d.ids(), *events, *d.functions)]
    twice = next((id for i, id in enumerate(after) if id in after[:i]), None)
    if twice is not None:
        raise ArgumentError("names", f"must leave every id that of one thing, but `{twice}` would be that of two.")
    mapping = {old: symbol(name) for old, name in new.items() if old not in d.functions}
    check_function_names("names", (name for old, name in new.items() if old in d.functions))
    changed = rewritten(
        d,
        lambda formula: with_functions(substitute(formula, mapping), new),
        lambda id: new.get(id, id),
    )
    fired = tuple(dataclasses.replace(event, name=new.get(event.name, event.name)) for event in changed.events)
    functions = Table((new.get(name, name), function) for name, function in d.functions.items())
    changed = dataclasses.replace(changed, events=fired, functions=functions)
    return changed, {name: old for old, name in new.items()}


def table_of(d: Definition, id: str) -> str:
    """Return the table of a definition that has an id.

    Raises:
        ValueError: If there is no such id; the message suggests similar ones.
    """
    check_instance("id", id, str, "an id")
    for table in KINDS:
        if id in getattr(d, table):
            return table
    if any(event.name == id for event in d.events):
        return "events"
    if id in d.functions:
        return "functions"
    if id in d.participants:
        kinds = "a species, compartment, parameter, reaction or event"
        refuse("id", f"be {kinds}", f"the stoichiometry `{id}` of a reaction")
    names = (*d.ids(), *(event.name for event in d.events if event.name), *d.functions)
    raise ArgumentError("id", f"must be an id of the network, but `{id}` is none{_close(id, names)}.")


def formula_of(d: Definition, id: str) -> str:
    """Return the rate of a reaction, or the rule of something else, as text; "" for what has neither."""
    return str(d.reactions[id].rate if id in d.reactions else d.assignments.get(id, ""))


def _users(d: Definition, id: str) -> Iterator[str]:
    """Yield what uses an id, in words."""
    events = {event_name(d, number) for number in range(len(d.events))}

    def title(owner: str) -> str:
        kinds = {**dict.fromkeys(d.assignments, "the rule of"), **dict.fromkeys(d.rates, "the rate of")}
        kind = "reaction" if owner in d.reactions else "event" if owner in events else kinds.get(owner, "")
        return f"{kind} {owner}".strip() if kind or " " in owner else f"the initial value of {owner}"

    for owner, expression in mathematics(d):
        if id in symbols(expression) or id in functions_in(expression):
            yield title(owner)
    for name, reaction in d.reactions.items():
        if id in reaction.modifiers or any(participant.species == id for _, participant in reaction.participants()):
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
    """Return a definition without the local parameters that some reactions used before and nothing uses now."""
    needed = frozenset().union(*(symbols(expression) for _, expression in mathematics(after)))
    determined = {
        *after.assignments,
        *after.rates,
        *after.initial,
        *(id for event in after.events for id in event.assign),
    }
    rates = [before.reactions[id].rate for id in reactions if id in before.reactions]
    used = frozenset().union(*(symbols(rate) for rate in rates if isinstance(rate, Expression)))
    alone = [
        id
        for id in after.parameters
        if id.partition(".")[0] in reactions and id in used and id not in needed and id not in determined
    ]
    return dataclasses.replace(after, parameters=_without_ids(after.parameters, alone)) if alone else after


def _constant_again(d: Definition, ids: Iterable[str]) -> Definition:
    """Return a definition in which compartments and parameters that nothing changes any more are constant."""
    changing = {*d.assignments, *d.rates, *(id for event in d.events for id in event.assign)}
    free = {id for id in ids if id not in changing}
    tables = {
        name: Table(
            (id, dataclasses.replace(item, constant=True) if id in free else item) for id, item in table.items()
        )
        for name, table in (("compartments", d.compartments), ("parameters", d.parameters))
        if free & table.keys()
    }
    return dataclasses.replace(d, **tables) if tables else d


def _without(d: Definition, table: str, ids: Iterable[str]) -> Definition:
    return dataclasses.replace(d, **{table: _without_ids(getattr(d, table), ids)})


def _without_ids(table: Mapping[str, V], ids: Iterable[str]) -> Table[V]:
    ids = set(ids)
    return Table((id, item) for id, item in table.items() if id not in ids)


def _listed(names: Iterable[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _numbers(tables: Mapping[str, Any]) -> dict[str, None]:
    """Return the ids of species, compartments and parameters in tables, whose numbers are those of the definition."""
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
    matches = ends or difflib.get_close_matches(id, names, 3)
    return f"; did you mean {' or '.join(f'`{name}`' for name in matches)}?" if matches else ""
