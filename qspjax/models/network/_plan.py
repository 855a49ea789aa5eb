"""A network ready to be computed: every formula over states and numbers, made once for each definition."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from qspjax._checks import refuse
from qspjax._expression import Expression, evaluate, number, substitute, symbols
from qspjax._tables import LabelledState, ParameterTable
from qspjax._types import Scalar
from qspjax.models.network._algebraic import settled
from qspjax.models.network._definition import (
    Compartment,
    Definition,
    NetworkEvent,
    Parameter,
    Participant,
    Species,
    Table,
)
from qspjax.models.network._delays import Jump, Past
from qspjax.models.network._grouped import Grouped
from qspjax.models.network._problems import NetworkProblems, Problem, event_name, stated_problems, used
from qspjax.models.network._resolve import ExpandedFormulas, Formulas, plain, state
from qspjax.models.network._sums import Sums
from qspjax.models.network._terms import ONE, ZERO, Unresolvable, over, times

Item = TypeVar("Item", Compartment, Species, Parameter)

APART = 40
"""States up to which each is a leaf of its own, so that the kernel writes the arithmetic out."""


class Program:
    """Expressions over states and numbers, to be computed; `ids` are those of the numbers."""

    def __init__(self, expressions: Sequence[Expression], places: Mapping[str, int]) -> None:
        self.expressions = tuple(expressions)
        needed = sorted(frozenset().union(*map(symbols, self.expressions)))
        self._leaves = [(name, name[:-2]) for name in needed if name.endswith("#v")]
        self.ids = tuple(dict.fromkeys(whole(name) for name, _ in self._leaves))
        self._states = [(name, places[name[:-2]]) for name in needed if name.endswith("#y")]

    def __call__(self, values: Mapping[str, ArrayLike], t: Scalar, y: LabelledState | None) -> list:
        """Compute them."""
        known = {name: values[id] for name, id in self._leaves}
        if y is not None:
            each = y.values
            known |= {name: each[place] for name, place in self._states}
        return evaluate(self.expressions, known, t)


class View:
    """Expressions by id, to be computed: where there are many as one array."""

    def __init__(self, expressions: Mapping[str, Expression], places: Mapping[str, int]) -> None:
        self._ids = tuple(expressions)
        self._program: Program | Grouped
        if len(expressions) <= ParameterTable.SEPARATE:
            self._program = Program([*expressions.values()], places)
            return
        names = {id: one.value for id, one in expressions.items() if isinstance(one.value, str)}
        kinds = [[id for id, name in names.items() if name.endswith(kind)] for kind in ("#v", "#y")]
        plain = {id for ids in kinds for id in ids}
        others = [id for id in expressions if id not in plain]
        self._numbers = [names[id][:-2] for id in kinds[0]]
        self._states = np.array([places[names[id][:-2]] for id in kinds[1]], int)
        self._program = Grouped([expressions[id] for id in others], places)
        order = {id: place for place, id in enumerate((*kinds[0], *kinds[1], *others))}
        self._order = np.array([order[id] for id in self._ids], int)

    def __call__(self, values: ParameterTable, t: Scalar, y: LabelledState) -> Mapping[str, ArrayLike]:
        """Compute them, by id."""
        if isinstance(self._program, Program):
            numbers = self._program(values, t, y)
            return {id: jnp.asarray(x, dtype=float) for id, x in zip(self._ids, numbers, strict=True)}
        found = self._program(values, t, y)
        state = y.values if not isinstance(y.values, tuple) else jnp.stack([jnp.asarray(x, float) for x in y.values])
        parts = [found] if not self._states.size else [state[self._states], found]
        parts = parts if not self._numbers else [values.gather(self._numbers), *parts]
        return ParameterTable(self._ids, jnp.concatenate(parts)[self._order], {})


class Firing(NamedTuple):
    """An event over states and numbers."""

    event: NetworkEvent
    trigger: Program
    assigned: tuple[str, ...]
    values: Program
    delay: Program | None
    priority: Program | None


class Plan:
    """All formulas of a network.

    Attributes:
        definition: The network, with numbers that are leaves of the model taken out.
        leaves: The ids of these.
        states: The ids of the states.
        implicit: The ids of the algebraic states.
        start: The states at time 0.
        echoes: By id, the names of the states and numbers of the past; and the program of their lengths.
        spaces: The sizes at time 0 of the compartments of those that are amounts, 1 for others.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        problems = stated_problems(definition)
        if problems:
            raise NetworkProblems(problems)
        try:
            said = settled(definition)
            self.formulas = Formulas(definition, *said)
            self._expanded = ExpandedFormulas(self.formulas)
            self._write_out()
        except Unresolvable as found:
            raise NetworkProblems([found.problem]) from None
        missing = self._missing()
        if missing:
            raise NetworkProblems(missing)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Plan) and self.definition == other.definition)

    def __hash__(self) -> int:
        return hash(self.definition)

    def __reduce__(self) -> tuple:
        return plan_of, (self.definition,)

    def __deepcopy__(self, _: object) -> "Plan":
        return self

    def _write_out(self) -> None:
        formulas, expanded, d = self.formulas, self._expanded, self.definition
        self.states = formulas.states
        self.implicit = tuple(id for id in self.states if id in formulas.unknown)
        self.leaves = tuple(
            id
            for id in d.ids()
            if id not in d.reactions and formulas.has_value(id) and (id not in d.participants or formulas.uses(id))
        )
        slope, start = (lambda id: expanded.of(f"{id}#slope")), (lambda id: expanded.of(f"{id}#y#0"))
        jumps = [self._jump(place) for place, event in enumerate(d.events) if event.assign]
        self._past = past = Past(slope, start, self._before, self.implicit, jumps)
        self.slopes = [self._of(f"{id}#slope") for id in self.states]
        self.start = [start(id) for id in self.states]
        self.rules = {id: self._of(id) for id in formulas.rules}
        self.observed = {id: self._of(id) for id in d.ids()}
        self.amounts = {id: self._of(f"{id}#amount") for id in d.species}
        jumps = past.finished()
        self.states += tuple(past.copies)
        self.slopes += [slope for slope, _ in past.copies.values()]
        self.start += [start for _, start in past.copies.values()]
        self.places = {id: place for place, id in enumerate(self.states)}
        self.spaces = [self._space(id.partition("@")[0]) for id in self.states]
        lengths = [length for later in past.echoes.values() for length in later.values()]
        self.echoes = {id: tuple(later) for id, later in past.echoes.items()}, Program(lengths, {})
        self._events = [self._firing(jump) for jump in jumps]

    def _before(self, id: str) -> Expression | None:
        """Return a state before time 0, over states, numbers and the time; None where it is what it is at time 0."""
        return self._expanded.of(f"{id}#y#before") if self.formulas.begins_in_time(id) else None

    def _of(self, node: str) -> Expression:
        """Return a node over states and numbers."""
        return self._past.replaced(self._expanded.of(node))

    def _written_out(self, expression: Expression) -> Expression:
        """Return an expression over nodes over states and numbers."""
        return self._past.replaced(self._expanded.written_out(expression))

    def _missing(self) -> list[Problem]:
        """Return the ids that have no number, though one is needed; a species without one is not observed."""
        parts = [part for firing in self._events for part in firing if isinstance(part, Program)]
        asked = [*self.slopes, *self.start, *self.rules.values(), *(e for part in parts for e in part.expressions)]
        needed = frozenset().union(*map(symbols, asked))
        known = {f"{id}#v" for id in self.leaves}
        missing = sorted({f"{whole(name)}#v" for name in needed if name.endswith("#v")} - known)
        unseen = {id for id in self.definition.species if _unknown(self.observed[id], known)}
        self.amounts = {id: one for id, one in self.amounts.items() if id not in unseen}
        self.observed = {
            id: number(float("nan")) if _unknown(one, known) else one
            for id, one in self.observed.items()
            if id not in unseen
        }
        return [Problem(name[:-2], "must have a value, but has none.") for name in missing]

    # --- events -----------------------------------------------------------------------------------------------------

    def _jump(self, place: int) -> Jump:
        """Return an event over states and numbers; it may hold delays."""
        event, written_out = self.definition.events[place], self._expanded.written_out
        timing = tuple(None if p is None else written_out(plain(p)) for p in (event.delay, event.priority))
        return Jump(event, self._changes(place), written_out(plain(event.trigger)), timing)

    def _firing(self, jump: Jump) -> Firing:
        delay, priority = (None if part is None else Program([part], self.places) for part in jump.timing)
        trigger = Program([jump.trigger], self.places)
        values = Program([*jump.assign.values()], self.places)
        return Firing(jump.event, trigger, tuple(jump.assign), values, delay, priority)

    def _changes(self, place: int) -> dict[str, Expression]:
        """Return the new states of an event.

        A concentration that is assigned is one in the compartment as it was; then compartments change, which keeps
        amounts (case 01506 of the SBML test suite).
        """
        event, formulas, written_out = self.definition.events[place], self.formulas, self._expanded.written_out
        new = {id: written_out(plain(value)) for id, value in event.assign.items()}
        after = {f"{id}#y": value for id, value in new.items() if id not in self.definition.species}
        for id in event.assign:
            if self.is_amount(id):
                new[id] = times(new[id], written_out(formulas.size(id)))
        for id in formulas.by_concentration:
            size = written_out(formulas.size(id))
            if symbols(size) & after.keys():
                if event.delay is not None and event.from_trigger_time:
                    problem = "not supported: a delayed event with values from its trigger that changes the compartment"
                    raise Unresolvable(Problem(event_name(self.definition, place), f"{problem} of `{id}`."))
                new[id] = times(new.get(id, state(id)), over(size, substitute(size, after)))
        return new

    def _space(self, id: str) -> Expression:
        """Return what a state is divided by to be the symbol of an id at time 0: the size of a compartment, or 1."""
        return self._expanded.of(f"{self.definition.compartment_of(id)}#0") if self.is_amount(id) else ONE

    def is_amount(self, id: str) -> bool:
        """Whether a value given to an id has to become an amount to be its state."""
        formulas = self.formulas
        return id in self.definition.species and id not in formulas.by_concentration and formulas.size(id) is not ONE

    # --- programs ---------------------------------------------------------------------------------------------------

    @functools.cached_property
    def slope(self) -> Program:
        """The slopes of the states."""
        return Program(self.slopes, self.places)

    @functools.cached_property
    def flow(self) -> tuple[Grouped, Sums]:
        """What the slopes of many states are sums of, and the sums."""
        found: dict[Expression, int] = {}
        rows = []
        for id in self.states:
            parts = [(1.0, self.slopes[self.places[id]])]
            if id not in self._past.copies:
                parts = [(weight, self._written_out(part)) for weight, part in self.formulas.parts(id)]
            rows.append([(weight, found.setdefault(part, len(found))) for weight, part in parts if part is not ZERO])
        return Grouped([*found], self.places), Sums(rows)

    @functools.cached_property
    def begin(self) -> Program | Grouped:
        """The states at time 0."""
        return (Program if len(self.states) <= APART else Grouped)(self.start, self.places)

    @functools.cached_property
    def residuals(self) -> Program:
        """What must be 0, one for each algebraic state."""
        return Program([self.slopes[self.places[id]] for id in self.implicit], self.places)

    @functools.cached_property
    def seen(self) -> "View":
        """The value of every id."""
        return View(self.observed, self.places)

    @functools.cached_property
    def contents(self) -> "View":
        """The amount of every species."""
        return View(self.amounts, self.places)

    @property
    def firings(self) -> Sequence[Firing]:
        """The events that change something."""
        return self._events


def whole(name: str) -> str:
    """Return the id that a symbol is about, without the numbers of its delays."""
    return name[:-2].partition("@")[0]


def _unknown(expression: Expression, known: set[str]) -> bool:
    """Whether an expression has something without a number in it."""
    return any(name.endswith("#v") and f"{whole(name)}#v" not in known for name in symbols(expression))


@functools.lru_cache(maxsize=256)
def plan_of(definition: Definition) -> Plan:
    """Return the plan of a definition whose numbers have been taken out.

    Raises:
        NetworkProblems: If there is something wrong with it.
    """
    return Plan(definition)


def split_numbers(definition: Definition) -> tuple[Plan, dict[str, float]]:
    """Return the plan of a definition, and the numbers that are leaves of the model, by id."""
    plan = plan_of(emptied(definition))
    return plan, {id: number_of(definition, id) for id in plan.leaves}


def number_of(definition: Definition, id: str) -> float:
    """Return the number that a definition gives for an id."""
    if id in definition.species:
        value = definition.species[id].initial
    elif id in definition.compartments:
        value = definition.compartments[id].size
    elif id in definition.parameters:
        value = definition.parameters[id].value
    else:
        value = definition.participants[id].stoichiometry
    if not isinstance(value, float):
        refuse(id, "have a number", value)
    return value


def emptied(definition: Definition) -> Definition:
    """Return a definition with 0 for every number that may become a leaf, so that it says only what is computed."""
    kept = {*definition.initial, *definition.assignments, *(definition.participants.keys() - used(definition))}
    numbers = {id: 0.0 for id in definition.ids() if id not in kept and id not in definition.reactions}
    return filled(definition, numbers)


def filled(definition: Definition, numbers: Mapping[str, float]) -> Definition:
    """Return a definition with these numbers in place of those it has; a number that is missing stays so."""

    def table(items: Mapping[str, Item], field: str) -> Table[Item]:
        return Table(
            (id, dataclasses.replace(one, **{field: numbers[id]}))
            if id in numbers and getattr(one, field) is not None
            else (id, one)
            for id, one in items.items()
        )

    def side(participants: tuple[Participant, ...]) -> tuple[Participant, ...]:
        return tuple(
            dataclasses.replace(one, stoichiometry=numbers[one.name])
            if one.name in numbers and isinstance(one.stoichiometry, float)
            else one
            for one in participants
        )

    reactions = definition.reactions
    if definition.participants:
        reactions = Table(
            (id, dataclasses.replace(one, reactants=side(one.reactants), products=side(one.products)))
            for id, one in reactions.items()
        )
    return dataclasses.replace(
        definition,
        species=table(definition.species, "initial"),
        compartments=table(definition.compartments, "size"),
        parameters=table(definition.parameters, "value"),
        reactions=reactions,
    )


def problems(definition: Definition) -> list[Problem]:
    """Return all that is wrong with a definition, an empty list if a network can be made of it.

    Example:
        >>> from qspjax._expression import symbol
        >>> from qspjax.models.network import Parameter
        >>> half = Definition(parameters={"x": Parameter(constant=False)}, assignments={"x": symbol("k")})
        >>> [str(problem) for problem in problems(half)]
        ['`x` must use ids of the network, but uses `k`.']
    """
    try:
        plan_of(emptied(definition))
    except NetworkProblems as found:
        return list(found.problems)
    return []
