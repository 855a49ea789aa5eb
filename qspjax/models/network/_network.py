"""A network of reactions as a model: species, compartments, rate laws, rules and events.

The semantics are those of SBML Level 3 Version 2 (Hucka et al., J Integr Bioinform 2019;16:20190021,
doi:10.1515/jib-2019-0021).
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp

from qspjax._checks import check_instance, check_one_of
from qspjax._declared import (
    AbstractAlgebraic,
    AbstractDelivered,
    AbstractEchoing,
    AbstractEventful,
    AbstractSized,
    Delivery,
    Echoes,
)
from qspjax._events import Event
from qspjax._interventions import with_record
from qspjax._model import Units
from qspjax._tables import LabelledState, ParameterTable, parts, table
from qspjax._types import Observed, Scalar
from qspjax._unit_words import warn_of_unit
from qspjax._units import per, product
from qspjax.models.learned import AbstractTerm
from qspjax.models.network._authoring import Arrays, extended, signatures
from qspjax.models.network._definition import Definition, NetworkEvent, Reaction, Table
from qspjax.models.network._editing import added, dropped, formula_of, renamed, replaced
from qspjax.models.network._moieties import Moiety, conserved, reduced
from qspjax.models.network._plan import MAX_SEPARATE, Firing, Plan, Program, filled, split_numbers
from qspjax.models.network._printing import Equations, equations, terms
from qspjax.models.network._sizes import nominal_sizes
from qspjax.models.network._unit_checks import unit_problems

if TYPE_CHECKING:
    from qspjax.models.network._problems import Problem

NEWTON = 30
"""Steps of Newton's method for the algebraic states at the start."""


def _described(network: "Network", id: str) -> tuple[str, str, str]:
    d = network.plan.definition
    item = d.species.get(id) or d.compartments.get(id) or d.parameters.get(id)
    return ("", "stoichiometry", "") if item is None else (item.unit, item.doc, "")


class Network(AbstractEventful, AbstractAlgebraic, AbstractDelivered, AbstractEchoing, AbstractSized):
    """A network of reactions.

    $$ dA_S/dt = \\sum_r n_{Sr} v_r $$

    with the amounts A of the species, the stoichiometries n and the rates v (amount per time). In every formula the
    symbol of a species is its *concentration*, its amount / the size of its compartment (its amount if the species says
    `only_substance`); where no compartment is given, the size is 1 and both are the same. The states are amounts, so a
    dose adds an amount: `qsp.bolus(100.0, to="drug")`. The value of every id is observed, that of a species as its
    symbol.

    Formulas are text (`"CL * drug"`), expressions, or functions of symbols (`lambda CL, drug: CL * drug`). A name that
    the network has is always its symbol, even `pi` or `time`.

    Args:
        definition: A complete network as data, instead of everything below.
        compartments: By id, sizes or `Compartment`.
        species: By id, initial amounts or `Species`.
        parameters: By id, numbers or `Parameter`.
        reactions: By id, each a `Reaction`.
        rules: By id, formulas for values at all times.
        rates: By id, formulas for slopes.
        algebraic: Formulas that are 0 at all times.
        initial: By id, formulas for values at time 0, in place of numbers.
        events: Each a `NetworkEvent`.
        name: What the network is called.
        time_unit: The unit of time.
        dose_unit: The unit of an amount given as a dose.
        conversion: The parameter that converts the extent of reactions to amounts.
        functions: By name, terms that are learned from data: `{"f": term}` for `f(drug, target)` in formulas, or
            `f[1](drug)` for output 1 of a term with several. Their weights are leaves of the model.

    Attributes:
        values: Every number by id, natural scale: constants and initial values; `qsp.at(network, "kon").set(0.2)`.
        plan: The formulas to compute, the same for all networks that differ only in numbers.
        functions: The terms that are learned, by name.
        nominal: Sizes of states that start below 1, as powers of 10: absolute tolerances are relative to them.

    Raises:
        ValueError: If something is wrong; the text has a line for each problem.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.models import MassAction, Network, Reaction
        >>> network = Network(
        ...     compartments={"plasma": 3.0},
        ...     species={"drug": 30.0, "target": 15.0, "complex": 0.0},
        ...     parameters={"kon": 0.1, "koff": 0.02, "CL": 0.5},
        ...     reactions={
        ...         "binding": Reaction("drug + target -> complex", MassAction("kon", reverse="koff")),
        ...         "elimination": Reaction("drug ->", "CL * drug"),
        ...     },
        ... )
        >>> print(network.equations())
        (plasma * drug)' = -binding - elimination
        (plasma * target)' = -binding
        (plasma * complex)' = binding
        binding = plasma * (kon * drug * target - koff * complex)
        elimination = CL * drug
        >>> solution = qsp.simulate(network, qsp.bolus(30.0, to="drug", at=1.0), [0.0, 1.0, 2.0])
        >>> solution.observed["drug"].round(3)
        Array([10.   , 16.06 , 12.057], dtype=float64)
    """

    plan: Plan = eqx.field(static=True)
    nominal: tuple[tuple[str, float], ...] = eqx.field(static=True)
    values: ParameterTable = table(_described)
    functions: dict[str, AbstractTerm] = parts()

    def __init__(
        self,
        definition: Definition | None = None,
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
        name: str = "",
        time_unit: str = "",
        dose_unit: str = "",
        conversion: str | None = None,
        functions: Mapping[str, AbstractTerm] | None = None,
    ) -> None:
        """Make the plan and take the numbers out of the definition."""
        arrays: Arrays = {}
        learned = Table(signatures(functions or {}))
        if definition is None:
            for argument, unit in (("time_unit", time_unit), ("dose_unit", dose_unit)):
                warn_of_unit(unit, argument)
            definition, arrays = extended(
                Definition(
                    name=name, time_unit=time_unit, dose_unit=dose_unit, conversion=conversion, functions=learned
                ),
                compartments=compartments,
                species=species,
                parameters=parameters,
                reactions=reactions,
                rules=rules,
                rates=rates,
                algebraic=algebraic,
                initial=initial,
                events=events,
            )
        check_instance("definition", definition, Definition, "a Definition")
        self.plan, numbers = split_numbers(dataclasses.replace(definition, functions=learned))
        self.functions = dict(functions or {})
        self.values = ParameterTable.of({id: arrays.get(id, number) for id, number in numbers.items()})
        self.nominal = nominal_sizes(self.plan, self.values.concrete_values())

    @classmethod
    def of(cls, definition: Definition) -> "Network":
        """Return the network of a definition.

        Raises:
            NetworkProblems: If something is wrong with it: a `ValueError` that lists what.
        """
        return cls(definition)

    @property
    def definition(self) -> Definition:
        """The network as data, with the numbers that it has now; inside `jit` with those it was made with."""
        return filled(self.plan.definition, self.values.concrete_values())

    @property
    def units(self) -> Units:
        """The units that the definition states."""
        return _units_of_plan(self.plan)

    def initial(self) -> LabelledState:
        start = self._state(self.plan.begin(self.values, self.functions, 0.0, None))
        return _consistent(self, start) if self.plan.implicit else start

    def vector_field(self, t: Scalar, y: LabelledState) -> LabelledState:
        if isinstance(y.values, tuple):
            return self._state(self.plan.slope(self.values, self.functions, t, y))
        formulas, sums = self.plan.flow
        return LabelledState(y.labels, sums(formulas(self.values, self.functions, t, y)))

    def observe(self, t: Scalar, y: LabelledState) -> Observed:
        return self.plan.outputs(self.values, self.functions, t, y)

    def amounts(self, t: Scalar, y: LabelledState) -> Observed:
        """Return the amount of every species, by id."""
        return self.plan.contents(self.values, self.functions, t, y)

    def algebraic(self) -> tuple[str, ...]:
        return self.plan.implicit

    def sizes(self) -> Mapping[str, float]:
        return dict(self.nominal)

    def deliveries(self) -> Mapping[str, Delivery]:
        """Return how doses enter species whose state is not an amount; scaled by NaN where no dose is allowed."""
        formulas, closed = self.plan.formulas, self.plan.definition.closed
        blocked = {id: Delivery(id, scale=jnp.nan) for id in (*closed, *formulas.by_concentration)}
        sizes = {id: self.plan.definition.compartment_of(id) for id in formulas.by_concentration if id not in closed}
        sizes = {id: compartment for id, compartment in sizes.items() if not formulas.varies(compartment)}
        observed = self.observe(0.0, self.initial()) if sizes else {}
        return blocked | {id: Delivery(id, scale=1.0 / observed[compartment]) for id, compartment in sizes.items()}

    def echoes(self) -> Echoes:
        """Return the states and numbers of the past that delays need."""
        names, lengths = self.plan.echoes
        numbers = iter(lengths(self.values, self.functions, 0.0, None))
        later = {id: {copy: jnp.asarray(next(numbers), float) for copy in copies} for id, copies in names.items()}
        return Echoes(later, lengths.ids)

    def events(self) -> tuple[Event, ...]:
        return tuple(self._event(firing) for firing in self.plan.firings)

    def placed(
        self, t: Scalar, y: LabelledState, values: Mapping[str, Scalar], *, before: "Network | None" = None
    ) -> LabelledState:
        """Return a state in which some ids have new values, and all others keep theirs.

        Values of species are those of their symbols, which also stay: a concentration does not change with its
        compartment. (An event that changes a compartment keeps amounts.)

        Args:
            t: The time.
            y: The state.
            values: New values by id.
            before: The network before the change, if its numbers (sizes of compartments) differed.

        Raises:
            ValueError: If an id is not a state.
        """
        plan = self.plan
        for id in values:
            check_one_of("values", id, plan.indices, "a state")
        observed = (before or self).observe(t, y)
        new = {id: values.get(id, observed[id]) if id in observed else y[id] for id in y.labels}
        state = self._state_of(y, new)
        compartments = {id: plan.definition.compartment_of(id) for id in y.labels if plan.is_amount(id)}
        if not compartments:
            return state
        sizes = self.observe(t, state)
        return self._state_of(
            y, {id: x * sizes[compartments[id]] if id in compartments else x for id, x in new.items()}
        )

    def _state_of(self, y: LabelledState, values: Mapping[str, Scalar]) -> LabelledState:
        new = tuple(jnp.asarray(values[id], dtype=float) for id in y.labels)
        return LabelledState(y.labels, new if isinstance(y.values, tuple) else jnp.stack(new))

    def equations(self) -> Equations:
        """Return the network as readable equations."""
        return equations(self.definition, self.plan.formulas)

    def terms(self, state: str) -> tuple[str, ...]:
        """Return the equations of what changes a state: only those that may be undefined, if there are any."""
        return terms(self.definition, self.plan.formulas, state)

    def conserved(self) -> tuple[Moiety, ...]:
        """Return the conserved moieties: sums of amounts that no reaction changes.

        Example:
            >>> from qspjax.models import MassAction, Network, Reaction
            >>> binding = Reaction("drug + target -> complex", MassAction("kon"))
            >>> species = {"drug": 10.0, "target": 5.0, "complex": 0.0}
            >>> for moiety in Network(species=species, parameters={"kon": 1.0}, reactions={"r": binding}).conserved():
            ...     print(moiety)
            drug + complex = 10
            target + complex = 5
        """
        return conserved(self.definition, self.plan.formulas, self.amounts(0.0, self.initial()))

    def reduced(self, *, dosed: Collection[str] = ()) -> "Network":
        """Return the same network with fewer states: one species of each conserved moiety follows from the others.

        Its amount is the total, a new parameter such as `complex_total`, less the others.

        Args:
            dosed: Species that take doses: moieties with one of them stay as they are. A dose into a species of an
                eliminated moiety is refused, with a result code.
        """
        return self._edited(*reduced(self.definition, self.plan.formulas, self.amounts(0.0, self.initial()), dosed))

    def check_units(self) -> "list[Problem]":
        """Return where units do not agree, read by pint (extra `cli`); an id without a unit agrees with everything.

        A learned function is in the unit that its term states; what it is called with is not checked.
        """
        return unit_problems(self.plan.definition)

    def replace(self, id: str | None = None, new: object = None, /, **fields: object) -> "Network":
        """Return the same network with something in it replaced; formulas are text, expressions or functions.

        All other numbers stay as they are. The arguments are those of the constructor, and the result is bit for bit
        the network that it would have made.

        Args:
            id: A species, compartment, parameter, reaction, event or function. Without one, the keywords are tables as
                the constructor takes them, `rules={"total": "A + B"}`, or `name`, `time_unit`, `dose_unit`,
                `conversion`.
            new: Its replacement: a `Species`, `Compartment`, `Parameter`, `Reaction`, `NetworkEvent` or term, or a
                number, which keeps unit and meaning.
            **fields: What changes in it, by the names that these classes have: `initial`, `compartment`, `size`,
                `value`, `unit`, `rate`, `trigger` and so on; `equation="A -> 2 B"` of a reaction; and of what has a
                value `rule` (its value at all times), `rate` (its slope) and `initial` (its value at time 0), each a
                formula, or None for none.

        Raises:
            ValueError: If there is no such id, or the network would not be consistent; the text has a line for
                each problem.

        Example:
            >>> from qspjax.models import MichaelisMenten, Network, Reaction
            >>> network = Network(
            ...     species={"drug": 10.0, "metabolite": 0.0},
            ...     parameters={"k": 0.1},
            ...     reactions={"turnover": Reaction("drug -> metabolite", "k * drug")},
            ... )
            >>> faster = network.replace("k", 0.3).replace("drug", initial=5.0)
            >>> faster.replace("turnover", rate="k * drug^2 / (1 + drug)").equations().rates
            ('turnover = k * drug^2 / (1 + drug)',)
            >>> str(network.replace("k", rule="0.1 + 0.01 * metabolite").definition.assignments["k"])
            '0.1 + 0.01 * metabolite'
            >>> network.replace("turnover", rate="kk * drug")
            Traceback (most recent call last):
            ...
            qspjax.models.network._problems.NetworkProblems: `turnover` must use ids of the network, but uses `kk`.
        """
        terms: Any = fields.get("functions", {}) if id is None else {id: new} if id in self.functions else {}
        return self._edited(*replaced(self.definition, id, new, fields), functions=terms)

    def add(
        self,
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
        functions: Mapping[str, AbstractTerm] | None = None,
    ) -> "Network":
        """Return the same network with additions; the arguments are those of the constructor.

        Raises:
            ValueError: If an id exists already, or the network would not be consistent.

        Example:
            >>> from qspjax.models import MassAction, Network, Reaction
            >>> network = Network(species={"drug": 10.0}, parameters={"k": 0.1})
            >>> loss = {"loss": Reaction("drug ->", MassAction("k"))}
            >>> print(network.add(reactions=loss, rules={"twice": "2 * drug"}).equations())
            drug' = -loss
            loss = k * drug
            twice = 2 * drug
        """
        tables = {
            "compartments": compartments,
            "species": species,
            "parameters": parameters,
            "reactions": reactions,
            "rules": rules,
            "rates": rates,
            "algebraic": algebraic,
            "initial": initial,
            "events": events,
            "functions": functions,
        }
        given = {name: table for name, table in tables.items() if table}
        return self._edited(*added(self.definition, given), functions=functions or {})

    def drop(
        self,
        *ids: str,
        rules: str | Sequence[str] = (),
        rates: str | Sequence[str] = (),
        initial: str | Sequence[str] = (),
    ) -> "Network":
        """Return the same network without some of its parts.

        A species, a compartment or a parameter is dropped with its rule and its initial assignment, a reaction with the
        parameters that only it has (`reaction.k`).

        Args:
            *ids: Species, compartments, parameters, reactions, events and functions.
            rules: Ids whose assignment rule is dropped; they stay, and are constant.
            rates: Ids whose rate rule is dropped.
            initial: Ids whose initial assignment is dropped; they start with their number.

        Raises:
            ValueError: If something that stays uses what goes; the message lists what does.

        Example:
            >>> from qspjax.models import MassAction, Network, Reaction
            >>> loss = {"loss": Reaction("drug ->", MassAction("k"))}
            >>> network = Network(species={"drug": 10.0}, parameters={"k": 0.1}, reactions=loss)
            >>> network.drop("k")
            Traceback (most recent call last):
            ...
            ValueError: `k` must not be used by what stays, but is by reaction loss: drop or replace it too.
            >>> network.drop("loss", "k").definition.ids()
            ('drug',)
        """
        tables = {"rules": rules, "rates": rates, "initial": initial}
        return self._edited(
            dropped(self.definition, ids, {name: entries for name, entries in tables.items() if entries}), {}
        )

    def rename(self, names: Mapping[str, str]) -> "Network":
        """Return the same network with ids renamed wherever they occur.

        Args:
            names: By id, the new one: of species, compartments, parameters, reactions, events, functions and named
                stoichiometries. Two may be swapped. The parameters that only a reaction has are renamed with it.

        Raises:
            ValueError: If there is no such id, or two things would have one id.

        Example:
            >>> from qspjax.models import MassAction, Network, Reaction
            >>> loss = {"loss": Reaction("drug ->", MassAction("k"))}
            >>> network = Network(species={"drug": 10.0}, parameters={"k": 0.1}, reactions=loss)
            >>> print(network.rename({"k": "CL", "loss": "elimination"}).equations())
            drug' = -elimination
            elimination = CL * drug
        """
        check_instance("names", names, Mapping, "a dict of new ids by id")
        definition, old = renamed(self.definition, names)
        return self._edited(definition, {}, old)

    def _edited(
        self,
        definition: Definition,
        new: Mapping[str, object],
        old: Mapping[str, str] | None = None,
        *,
        functions: Mapping[str, AbstractTerm] | None = None,
    ) -> "Network":
        """Return the network of a definition with the numbers of this one, except for new ones.

        Args:
            definition: The definition.
            new: By id, numbers that are new: arrays, or None for those in the definition.
            old: By id, what it is called in this network, if that differs.
            functions: Terms that are new, by name.
        """
        old, terms = old or {}, functions or {}
        functions = {name: terms.get(name) or self.functions[old.get(name, name)] for name in definition.functions}
        network = Network(definition, functions=functions)
        now = {before: after for after, before in old.items()}
        done = [now.get(id, id) for id, _ in self.interventions]
        network = with_record(network, {id: formula_of(definition, id) for id in done if id in definition.ids()})
        values = {}
        for id, value in network.values.items():
            current = self.values.get(old.get(id, id), value)
            values[id] = value if new.get(id, self) is None else new.get(id, current)
        return eqx.tree_at(
            lambda edited: edited.values, network, ParameterTable.of(values), is_leaf=lambda x: x is network.values
        )

    def _state(self, numbers: jax.Array | Sequence[Scalar]) -> LabelledState:
        states = self.plan.states
        if len(states) > MAX_SEPARATE:
            return LabelledState(states, numbers)
        return LabelledState(states, tuple(jnp.asarray(x, dtype=float) for x in numbers))

    def _event(self, firing: Firing) -> Event:
        def function(program: Program) -> Callable[[Scalar, LabelledState], Scalar]:
            return lambda t, y: program(self.values, self.functions, t, y)[0]

        def assign(t: Scalar, y: LabelledState) -> dict[str, Scalar]:
            return dict(zip(firing.assigned, firing.values(self.values, self.functions, t, y), strict=True))

        event = firing.event
        return Event(
            trigger=function(firing.trigger),
            assign=assign,
            delay=None if firing.delay is None else function(firing.delay),
            priority=None if firing.priority is None else function(firing.priority),
            persistent=event.persistent,
            initial_value=event.initial_value,
            from_trigger_time=event.from_trigger_time,
            name=event.name,
        )


def _consistent(network: Network, start: LabelledState) -> LabelledState:
    """Return a state whose algebraic part satisfies the rules, by Newton's method; its derivatives are exact.

    Where the method does not converge the state stays as it is, for the solver to search further or to give up.
    """
    plan = network.plan
    indices = [plan.indices[id] for id in plan.implicit]

    def with_algebraic(x: jax.Array, values: jax.Array | tuple[Scalar, ...]) -> LabelledState:
        if not isinstance(values, tuple):
            return LabelledState(start.labels, values.at[jnp.asarray(indices)].set(x))
        new = list(values)
        for index, value in zip(indices, x, strict=True):
            new[index] = value
        return LabelledState(start.labels, tuple(new))

    def residual(x: jax.Array) -> jax.Array:
        residuals = plan.residuals(network.values, network.functions, 0.0, with_algebraic(x, start.values))
        return jnp.stack([jnp.asarray(r, float) for r in residuals])

    def step(_: Scalar, x: jax.Array) -> jax.Array:
        return x - jnp.linalg.solve(jax.jacfwd(residual)(x), residual(x))

    x = jnp.stack([start.values[index] for index in indices])
    root = jax.lax.stop_gradient(jax.lax.fori_loop(0, NEWTON, step, jax.lax.stop_gradient(x)))
    converged = jnp.isfinite(step(0, root)).all()
    root = step(0, step(0, jnp.where(converged, root, x)))
    return with_algebraic(jnp.where(converged, root, x), start.values)


@functools.lru_cache(maxsize=256)
def _units_of_plan(plan: Plan) -> Units:
    return units_of(plan.definition)


def units_of(definition: Definition) -> Units:
    """Return the units of the states and of what is observed."""
    amounts, symbols = {}, {}
    for id, species in definition.species.items():
        compartment = definition.compartments.get(definition.compartment_of(id))
        size = "" if compartment is None else compartment.unit
        if not species.unit:
            continue
        amounts[id] = species.unit if species.is_amount else product(species.unit, size)
        concentration = per(species.unit, size) if species.is_amount and size else species.unit
        symbols[id] = amounts[id] if definition.in_amount(id) else concentration
    others = {
        id: item.unit
        for table in (definition.compartments, definition.parameters)
        for id, item in table.items()
        if item.unit
    }
    return Units(definition.time_unit, definition.dose_unit, {**amounts, **others}, {**symbols, **others})
