"""A network ready to be computed: every formula over states and numbers, built once for each definition."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
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

MAX_SEPARATE = 40
"""Up to this many states, each is a leaf of its own, so that the kernel unrolls the arithmetic."""


class Program:
    """Expressions over states and numbers that can be computed; `ids` are those of the numbers."""

    def __init__(self, expressions: Sequence[Expression], indices: Mapping[str, int]) -> None:
        self.expressions = tuple(expressions)
        needed = sorted(frozenset().union(*map(symbols, self.expressions)))
        self._leaves = [(name, name[:-2]) for name in needed if name.endswith("#v")]
        self.ids = tuple(dict.fromkeys(base_id(name) for name, _ in self._leaves))
        self._states = [(name, indices[name[:-2]]) for name in needed if name.endswith("#y")]

    def __call__(
        self, values: Mapping[str, ArrayLike], functions: Mapping[str, Callable], t: Scalar, y: LabelledState | None
    ) -> list:
        """Return the values of the expressions."""
        bindings = {**functions, **{name: values[id] for name, id in self._leaves}}
        if y is not None:
            elements = y.values
            bindings |= {name: elements[index] for name, index in self._states}
        return evaluate(self.expressions, bindings, t)


class View:
    """Expressions by id that can be computed: as one array where there are many."""

    def __init__(self, expressions: Mapping[str, Expression], indices: Mapping[str, int]) -> None:
        self.ids = tuple(expressions)
        self._program: Program | Grouped
        if len(expressions) <= ParameterTable.SEPARATE:
            self._program = Program([*expressions.values()], indices)
            return
        names = {id: str(expression.value) for id, expression in expressions.items() if expression.op == "symbol"}
        kinds = [[id for id, name in names.items() if name.endswith(kind)] for kind in ("#v", "#y")]
        plain = {id for ids in kinds for id in ids}
        computed = [id for id in expressions if id not in plain]
        self._numbers = [names[id][:-2] for id in kinds[0]]
        self._states = np.array([indices[names[id][:-2]] for id in kinds[1]], int)
        self._program = Grouped([expressions[id] for id in computed], indices)
        order = {id: position for position, id in enumerate((*kinds[0], *kinds[1], *computed))}
        self._order = np.array([order[id] for id in self.ids], int)

    def __call__(
        self, values: ParameterTable, functions: Mapping[str, Callable], t: Scalar, y: LabelledState
    ) -> Mapping[str, ArrayLike]:
        """Return the values of the expressions, by id."""
        if isinstance(self._program, Program):
            numbers = self._program(values, functions, t, y)
            return {id: jnp.asarray(x, dtype=float) for id, x in zip(self.ids, numbers, strict=True)}
        computed = self._program(values, functions, t, y)
        state = y.values if not isinstance(y.values, tuple) else jnp.stack([jnp.asarray(x, float) for x in y.values])
        parts = [computed] if not self._states.size else [state[self._states], computed]
        parts = parts if not self._numbers else [values.gather(self._numbers), *parts]
        return ParameterTable(self.ids, jnp.concatenate(parts)[self._order], {})


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
        spaces: By state, the size at time 0 of its compartment if the state is an amount, else 1.
    """

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        problems = stated_problems(definition)
        if problems:
            raise NetworkProblems(problems)
        try:
            settled_rules = settled(definition)
            self.formulas = Formulas(definition, *settled_rules)
            self._expanded = ExpandedFormulas(self.formulas)
            self._build()
        except Unresolvable as error:
            raise NetworkProblems([error.problem]) from None
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

    def _build(self) -> None:
        formulas, expanded, d = self.formulas, self._expanded, self.definition
        self.states = formulas.states
        self.implicit = tuple(id for id in self.states if id in formulas.unknown)
        self.leaves = tuple(
            id
            for id in d.ids()
            if id not in d.reactions and formulas.has_value(id) and (id not in d.participants or formulas.uses(id))
        )
        slope, start = (lambda id: expanded.of(f"{id}#slope")), (lambda id: expanded.of(f"{id}#y#0"))
        jumps = [self._jump(index) for index, event in enumerate(d.events) if event.assign]
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
        self.indices = {id: index for index, id in enumerate(self.states)}
        self.spaces = [self._space(id.partition("@")[0]) for id in self.states]
        lengths = [length for later in past.echoes.values() for length in later.values()]
        self.echoes = {id: tuple(later) for id, later in past.echoes.items()}, Program(lengths, {})
        self._events = [self._firing(jump) for jump in jumps]

    def _before(self, id: str) -> Expression | None:
        """Return a state before time 0, over states, numbers and the time; None where it equals that at time 0."""
        return self._expanded.of(f"{id}#y#before") if self.formulas.begins_in_time(id) else None

    def _of(self, node: str) -> Expression:
        """Return a node over states and numbers."""
        return self._past.replaced(self._expanded.of(node))

    def _expand(self, expression: Expression) -> Expression:
        """Return an expression over nodes over states and numbers."""
        return self._past.replaced(self._expanded.expand(expression))

    def _missing(self) -> list[Problem]:
        """Return the ids that have no number, though one is needed; a species without one is not observed."""
        programs = [program for firing in self._events for program in firing if isinstance(program, Program)]
        expressions = [
            *self.slopes,
            *self.start,
            *self.rules.values(),
            *(e for program in programs for e in program.expressions),
        ]
        needed = frozenset().union(*map(symbols, expressions))
        leaves = {f"{id}#v" for id in self.leaves}
        missing = sorted({f"{base_id(name)}#v" for name in needed if name.endswith("#v")} - leaves)
        unobserved = {id for id in self.definition.species if _unknown(self.observed[id], leaves)}
        self.amounts = {id: expression for id, expression in self.amounts.items() if id not in unobserved}
        self.observed = {
            id: number(float("nan")) if _unknown(expression, leaves) else expression
            for id, expression in self.observed.items()
            if id not in unobserved
        }
        return [Problem(name[:-2], "must have a value, but has none.") for name in missing]

    # --- events -----------------------------------------------------------------------------------------------------

    def _jump(self, index: int) -> Jump:
        """Return an event over states and numbers; it may hold delays."""
        event, expand = self.definition.events[index], self._expanded.expand
        timing = tuple(None if p is None else expand(plain(p)) for p in (event.delay, event.priority))
        return Jump(event, self._changes(index), expand(plain(event.trigger)), timing)

    def _firing(self, jump: Jump) -> Firing:
        delay, priority = (
            None if expression is None else Program([expression], self.indices) for expression in jump.timing
        )
        trigger = Program([jump.trigger], self.indices)
        values = Program([*jump.assign.values()], self.indices)
        return Firing(jump.event, trigger, tuple(jump.assign), values, delay, priority)

    def _changes(self, index: int) -> dict[str, Expression]:
        """Return the new states of an event.

        A concentration that is assigned is that in the compartment before the event; then compartments change, and
        amounts stay (case 01506 of the SBML test suite).
        """
        event, formulas, expand = self.definition.events[index], self.formulas, self._expanded.expand
        new = {id: expand(plain(value)) for id, value in event.assign.items()}
        after = {f"{id}#y": value for id, value in new.items() if id not in self.definition.species}
        for id in event.assign:
            if self.is_amount(id):
                new[id] = times(new[id], expand(formulas.size(id)))
        for id in formulas.by_concentration:
            size = expand(formulas.size(id))
            if symbols(size) & after.keys():
                if event.delay is not None and event.from_trigger_time:
                    problem = "not supported: a delayed event with values from its trigger that changes the compartment"
                    raise Unresolvable(Problem(event_name(self.definition, index), f"{problem} of `{id}`."))
                new[id] = times(new.get(id, state(id)), over(size, substitute(size, after)))
        return new

    def _space(self, id: str) -> Expression:
        """Return the ratio of a state to the symbol of its id at time 0: the size of a compartment, or 1."""
        return self._expanded.of(f"{self.definition.compartment_of(id)}#0") if self.is_amount(id) else ONE

    def is_amount(self, id: str) -> bool:
        """Whether a value assigned to an id must be converted to an amount to be its state."""
        formulas = self.formulas
        return id in self.definition.species and id not in formulas.by_concentration and formulas.size(id) is not ONE

    # --- programs ---------------------------------------------------------------------------------------------------

    @functools.cached_property
    def slope(self) -> Program:
        """The slopes of the states."""
        return Program(self.slopes, self.indices)

    @functools.cached_property
    def flow(self) -> tuple[Grouped, Sums]:
        """The terms of the slopes of many states, and the sums."""
        indices: dict[Expression, int] = {}
        rows = []
        for id in self.states:
            terms = [(1.0, self.slopes[self.indices[id]])]
            if id not in self._past.copies:
                terms = [(weight, self._expand(term)) for weight, term in self.formulas.parts(id)]
            rows.append(
                [(weight, indices.setdefault(term, len(indices))) for weight, term in terms if term is not ZERO]
            )
        return Grouped([*indices], self.indices), Sums(rows)

    @functools.cached_property
    def begin(self) -> Program | Grouped:
        """The states at time 0."""
        return (Program if len(self.states) <= MAX_SEPARATE else Grouped)(self.start, self.indices)

    @functools.cached_property
    def residuals(self) -> Program:
        """The residuals that must be 0, one for each algebraic state."""
        return Program([self.slopes[self.indices[id]] for id in self.implicit], self.indices)

    @functools.cached_property
    def outputs(self) -> "View":
        """The value of every id."""
        return View(self.observed, self.indices)

    @functools.cached_property
    def contents(self) -> "View":
        """The amount of every species."""
        return View(self.amounts, self.indices)

    @property
    def firings(self) -> Sequence[Firing]:
        """The events that change something."""
        return self._events


def base_id(name: str) -> str:
    """Return the id of a symbol, without the numbers of its delays."""
    return name[:-2].partition("@")[0]


def _unknown(expression: Expression, known: set[str]) -> bool:
    """Whether an expression contains an id without a number."""
    return any(name.endswith("#v") and f"{base_id(name)}#v" not in known for name in symbols(expression))


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
    """Return a definition with 0 for every number that may become a leaf, so that only the formulas are left."""
    excluded = {*definition.initial, *definition.assignments, *(definition.participants.keys() - used(definition))}
    numbers = {id: 0.0 for id in definition.ids() if id not in excluded and id not in definition.reactions}
    return filled(definition, numbers)


def filled(definition: Definition, numbers: Mapping[str, float]) -> Definition:
    """Return a definition with these numbers in place of those it has; a number that is missing stays so."""

    def table(items: Mapping[str, Item], field: str) -> Table[Item]:
        return Table(
            (id, dataclasses.replace(item, **{field: numbers[id]}))
            if id in numbers and getattr(item, field) is not None
            else (id, item)
            for id, item in items.items()
        )

    def side(participants: tuple[Participant, ...]) -> tuple[Participant, ...]:
        return tuple(
            dataclasses.replace(participant, stoichiometry=numbers[participant.name])
            if participant.name in numbers and isinstance(participant.stoichiometry, float)
            else participant
            for participant in participants
        )

    reactions = definition.reactions
    if definition.participants:
        reactions = Table(
            (id, dataclasses.replace(reaction, reactants=side(reaction.reactants), products=side(reaction.products)))
            for id, reaction in reactions.items()
        )
    return dataclasses.replace(
        definition,
        species=table(definition.species, "initial"),
        compartments=table(definition.compartments, "size"),
        parameters=table(definition.parameters, "value"),
        reactions=reactions,
    )


def problems(definition: Definition) -> list[Problem]:
    """Return everything that is wrong with a definition, an empty list if a network can be made from it.

    Example:
        >>> from qspjax._expression import symbol
        >>> from qspjax.models.network import Parameter
        >>> half = Definition(parameters={"x": Parameter(constant=False)}, assignments={"x": symbol("k")})
        >>> [str(problem) for problem in problems(half)]
        ['`x` must use ids of the network, but uses `k`.']
    """
    try:
        plan_of(emptied(definition))
    except NetworkProblems as error:
        return list(error.problems)
    return []
