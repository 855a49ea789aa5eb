"""A network of reactions as a model: species, compartments, rate laws, rules and events.

The semantics are those of SBML Level 3 Version 2 (Hucka et al., J Integr Bioinform 2019;16:20190021,
doi:10.1515/jib-2019-0021).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

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
from qspjax._model import Units
from qspjax._tables import LabelledState, ParameterTable, table
from qspjax._types import Observed, Scalar
from qspjax._units import per, product
from qspjax.models.network._authoring import Arrays, extended
from qspjax.models.network._definition import Definition, NetworkEvent, Reaction
from qspjax.models.network._editing import added, dropped, renamed, replaced
from qspjax.models.network._moieties import Moiety, conserved, reduced
from qspjax.models.network._plan import APART, Firing, Plan, Program, filled, split_numbers
from qspjax.models.network._printing import Equations, equations, terms
from qspjax.models.network._sizes import nominal_sizes
from qspjax.models.network._unit_checks import unit_problems

if TYPE_CHECKING:
    from qspjax.models.network._problems import Problem

NEWTON = 30
"""Steps of Newton's method for the algebraic states at the start."""


def _described(network: "Network", id: str) -> tuple[str, str, str]:
    d = network.plan.definition
    one = d.species.get(id) or d.compartments.get(id) or d.parameters.get(id)
    return ("", "stoichiometry", "") if one is None else (one.unit, one.doc, "")


class Network(AbstractEventful, AbstractAlgebraic, AbstractDelivered, AbstractEchoing, AbstractSized):
    """A network of reactions.

    $$ dA_S/dt = \\sum_r n_{Sr} v_r $$

    with the amounts A of the species, the stoichiometries n and the rates v (amount per time). In every formula the
    symbol of a species is its *concentration*, its amount / the size of its compartment (its amount if the species says
    `only_substance`); where no compartment is given, the size is 1 and both are the same. The states are amounts, so a
    dose adds an amount: `qsp.bolus(100.0, to="drug")`. Observed is the value of every id, species as their symbols.

    Formulas are text (`"CL * drug"`), expressions, or functions of symbols (`lambda CL, drug: CL * drug`).

    Args:
        definition: A whole network as data; instead of everything below.
        compartments: By id, sizes or `Compartment`.
        species: By id, initial amounts or `Species`.
        parameters: By id, numbers or `Parameter`.
        reactions: By id, each a `Reaction`.
        rules: By id, formulas for what is so at all times.
        rates: By id, formulas for slopes.
        algebraic: Formulas of what is 0 at all times.
        initial: By id, formulas for values at time 0, in place of numbers.
        events: Each a `NetworkEvent`.
        name: What the network is called.
        time_unit: The unit of time.
        dose_unit: The unit of an amount given as a dose.
        conversion: The parameter that converts the extent of reactions to amounts.

    Attributes:
        values: Every number by id, natural scale: constants and initial values; `qsp.at(network, "kon").set(0.2)`.
        plan: What is computed, the same for all networks that differ in numbers alone.
        nominal: Sizes of states that begin below 1, in powers of 10: absolute tolerances count in them.

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
    ) -> None:
        """Make the plan and take the numbers out of the definition."""
        arrays: Arrays = {}
        if definition is None:
            definition, arrays = extended(
                Definition(name=name, time_unit=time_unit, dose_unit=dose_unit, conversion=conversion),
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
        self.plan, numbers = split_numbers(definition)
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
        return units_of(self.plan.definition)

    def initial(self) -> LabelledState:
        start = self._state(self.plan.begin(self.values, 0.0, None))
        return _consistent(self, start) if self.plan.implicit else start

    def vector_field(self, t: Scalar, y: LabelledState) -> LabelledState:
        if isinstance(y.values, tuple):
            return self._state(self.plan.slope(self.values, t, y))
        formulas, sums = self.plan.flow
        return LabelledState(y.labels, sums(formulas(self.values, t, y)))

    def observe(self, t: Scalar, y: LabelledState) -> Observed:
        return self.plan.seen(self.values, t, y)

    def amounts(self, t: Scalar, y: LabelledState) -> Observed:
        """Return the amount of every species, by id."""
        return self.plan.contents(self.values, t, y)

    def algebraic(self) -> tuple[str, ...]:
        return self.plan.implicit

    def sizes(self) -> Mapping[str, float]:
        return dict(self.nominal)

    def deliveries(self) -> Mapping[str, Delivery]:
        """Return how doses enter species whose state is no amount; NaN for those that must not have any."""
        formulas, closed = self.plan.formulas, self.plan.definition.closed
        found = {id: Delivery(id, scale=jnp.nan) for id in (*closed, *formulas.by_concentration)}
        sizes = {id: self.plan.definition.compartment_of(id) for id in formulas.by_concentration if id not in closed}
        sizes = {id: place for id, place in sizes.items() if not formulas.varies(place)}
        seen = self.observe(0.0, self.initial()) if sizes else {}
        return found | {id: Delivery(id, scale=1.0 / seen[place]) for id, place in sizes.items()}

    def echoes(self) -> Echoes:
        """Return the states and numbers of the past that delays need."""
        names, lengths = self.plan.echoes
        each = iter(lengths(self.values, 0.0, None))
        later = {id: {copy: jnp.asarray(next(each), float) for copy in copies} for id, copies in names.items()}
        return Echoes(later, lengths.ids)

    def events(self) -> tuple[Event, ...]:
        return tuple(self._event(firing) for firing in self.plan.firings)

    def placed(
        self, t: Scalar, y: LabelledState, values: Mapping[str, Scalar], *, before: "Network | None" = None
    ) -> LabelledState:
        """Return a state in which ids have new values, and all others the ones that they had.

        Species are given as their symbols, and keep these: a concentration does not change with its compartment. (An
        event that changes a compartment keeps amounts.)

        Args:
            t: The time.
            y: The state.
            values: New values by id.
            before: The network until now, if its numbers (sizes of compartments) were others.

        Raises:
            ValueError: If an id is no state.
        """
        plan = self.plan
        for id in values:
            check_one_of("values", id, plan.places, "a state")
        seen = (before or self).observe(t, y)
        new = {id: values.get(id, seen[id]) if id in seen else y[id] for id in y.labels}
        moved = self._state_of(y, new)
        compartments = {id: plan.definition.compartment_of(id) for id in y.labels if plan.is_amount(id)}
        if not compartments:
            return moved
        sizes = self.observe(t, moved)
        return self._state_of(
            y, {id: x * sizes[compartments[id]] if id in compartments else x for id, x in new.items()}
        )

    def _state_of(self, y: LabelledState, values: Mapping[str, Scalar]) -> LabelledState:
        new = tuple(jnp.asarray(values[id], dtype=float) for id in y.labels)
        return LabelledState(y.labels, new if isinstance(y.values, tuple) else jnp.stack(new))

    def equations(self) -> Equations:
        """Return the network as equations that can be read."""
        return equations(self.definition, self.plan.formulas)

    def terms(self, state: str) -> tuple[str, ...]:
        """Return the equations of what moves a state: those that may be undefined somewhere, if there are any."""
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
        """Return where units do not agree, read by pint (extra `cli`); what has no unit agrees with everything."""
        return unit_problems(self.plan.definition)

    def replace(self, id: str | None = None, new: object = None, /, **fields: object) -> "Network":
        """Return the same network with something in it replaced; formulas are text, expressions or functions.

        All other numbers stay as they are. What is given is what the constructor takes, and the result is the network
        that it would have made, to the last bit.

        Args:
            id: A species, compartment, parameter, reaction or event. Without one, the keywords are tables as the
                constructor takes them, `rules={"total": "A + B"}`, or `name`, `time_unit`, `dose_unit`, `conversion`.
            new: What takes its place: a `Species`, `Compartment`, `Parameter`, `Reaction` or `NetworkEvent`, or a
                number, which keeps unit and meaning.
            **fields: What changes in it, by the names that these classes have: `initial`, `compartment`, `size`,
                `value`, `unit`, `rate`, `trigger` and so on; `equation="A -> 2 B"` of a reaction; and of what has a
                value `rule` (what it is at all times), `rate` (its slope) and `initial` (what it is at time 0), each a
                formula, or None for none.

        Raises:
            ValueError: If there is no such thing, or the network would not be consistent; the text has a line for
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
        return self._edited(*replaced(self.definition, id, new, fields))

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
    ) -> "Network":
        """Return the same network with more in it; the arguments are those of the constructor.

        Raises:
            ValueError: If something of this id is there already, or the network would not be consistent.

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
        }
        return self._edited(*added(self.definition, {name: table for name, table in tables.items() if table}))

    def drop(
        self,
        *ids: str,
        rules: str | Sequence[str] = (),
        rates: str | Sequence[str] = (),
        initial: str | Sequence[str] = (),
    ) -> "Network":
        """Return the same network without some of what is in it.

        With a species, a compartment or a parameter go its rule and its initial assignment, with a reaction the
        parameters that it alone has (`reaction.k`).

        Args:
            *ids: Species, compartments, parameters, reactions and events.
            rules: Ids that no rule is to determine any more; they stay, and are constant.
            rates: Ids whose slope no rule is to say any more.
            initial: Ids that are to begin with their number.

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
        return self._edited(dropped(self.definition, ids, {name: one for name, one in tables.items() if one}), {})

    def rename(self, names: Mapping[str, str]) -> "Network":
        """Return the same network in which things have other ids, wherever these stand.

        Args:
            names: By id, the new one: of species, compartments, parameters, reactions, events and named
                stoichiometries. Two may change places. The parameters of a reaction alone go with it.

        Raises:
            ValueError: If there is no such thing, or two would have one id.

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
        self, definition: Definition, new: Mapping[str, object], old: Mapping[str, str] | None = None
    ) -> "Network":
        """Return the network of a definition with the numbers that this one has, but for new ones.

        Args:
            definition: The definition.
            new: By id, numbers that are new: arrays, or None for those in the definition.
            old: By id, what it is called here, if that is something else.
        """
        network, old = Network(definition), old or {}
        values = {}
        for id, value in network.values.items():
            kept = self.values.get(old.get(id, id), value)
            values[id] = value if new.get(id, self) is None else new.get(id, kept)
        return eqx.tree_at(
            lambda one: one.values, network, ParameterTable.of(values), is_leaf=lambda x: x is network.values
        )

    def _state(self, numbers: jax.Array | Sequence[Scalar]) -> LabelledState:
        states = self.plan.states
        if len(states) > APART:
            return LabelledState(states, numbers)
        return LabelledState(states, tuple(jnp.asarray(x, dtype=float) for x in numbers))

    def _event(self, firing: Firing) -> Event:
        def function(program: Program) -> Callable[[Scalar, LabelledState], Scalar]:
            return lambda t, y: program(self.values, t, y)[0]

        def assign(t: Scalar, y: LabelledState) -> dict[str, Scalar]:
            return dict(zip(firing.assigned, firing.values(self.values, t, y), strict=True))

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

    Where the method does not arrive the state stays as it is, for the solver to search further or to give up.
    """
    plan = network.plan
    places = [plan.places[id] for id in plan.implicit]

    def put(x: jax.Array, values: jax.Array | tuple[Scalar, ...]) -> LabelledState:
        if not isinstance(values, tuple):
            return LabelledState(start.labels, values.at[jnp.asarray(places)].set(x))
        new = list(values)
        for place, own in zip(places, x, strict=True):
            new[place] = own
        return LabelledState(start.labels, tuple(new))

    def residual(x: jax.Array) -> jax.Array:
        return jnp.stack([jnp.asarray(r, float) for r in plan.residuals(network.values, 0.0, put(x, start.values))])

    def step(_: Scalar, x: jax.Array) -> jax.Array:
        return x - jnp.linalg.solve(jax.jacfwd(residual)(x), residual(x))

    x = jnp.stack([start.values[place] for place in places])
    found = jax.lax.stop_gradient(jax.lax.fori_loop(0, NEWTON, step, jax.lax.stop_gradient(x)))
    fine = jnp.isfinite(step(0, found)).all()
    found = step(0, step(0, jnp.where(fine, found, x)))
    return put(jnp.where(fine, found, x), start.values)


def units_of(definition: Definition) -> Units:
    """Return the units of the states and of what is observed."""
    amounts, symbols = {}, {}
    for id, species in definition.species.items():
        place = definition.compartments.get(definition.compartment_of(id))
        size = "" if place is None else place.unit
        if not species.unit:
            continue
        amounts[id] = species.unit if species.is_amount else product(species.unit, size)
        concentration = per(species.unit, size) if species.is_amount and size else species.unit
        symbols[id] = amounts[id] if definition.in_amount(id) else concentration
    others = {
        id: one.unit
        for table in (definition.compartments, definition.parameters)
        for id, one in table.items()
        if one.unit
    }
    return Units(definition.time_unit, definition.dose_unit, {**amounts, **others}, {**symbols, **others})
