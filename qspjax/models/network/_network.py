"""A network of reactions as a model: species, compartments, rate laws, rules and events.

The semantics are those of SBML Level 3 Version 2 (Hucka et al., J Integr Bioinform 2019;16:20190021,
doi:10.1515/jib-2019-0021).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp

from qspjax._checks import check_instance, check_one_of
from qspjax._events import AbstractEventful, Event
from qspjax._model import AbstractAlgebraic, AbstractDelivered, AbstractSized, Delivery, Units
from qspjax._names import Labelled, Numbers, table
from qspjax._types import Observed, Scalar
from qspjax._units import per, product
from qspjax.models.network._authoring import definition_of
from qspjax.models.network._definition import Definition, NetworkEvent, Reaction
from qspjax.models.network._moieties import Moiety, conserved, reduced
from qspjax.models.network._plan import APART, Firing, Plan, Program, filled, parted
from qspjax.models.network._printing import Equations, equations
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


class Network(AbstractEventful, AbstractAlgebraic, AbstractDelivered, AbstractSized):
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

    values: Numbers = table(_described)
    plan: Plan = eqx.field(static=True)
    nominal: tuple[tuple[str, float], ...] = eqx.field(static=True)

    def __init__(
        self,
        definition: Definition | None = None,
        *,
        compartments: Mapping[str, Any] | None = None,
        species: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        reactions: Mapping[str, Reaction] | None = None,
        rules: Mapping[str, Any] | None = None,
        rates: Mapping[str, Any] | None = None,
        algebraic: Sequence[Any] = (),
        initial: Mapping[str, Any] | None = None,
        events: Sequence[NetworkEvent] = (),
        name: str = "",
        time_unit: str = "",
        dose_unit: str = "",
        conversion: str | None = None,
    ) -> None:
        """Make the plan and take the numbers out of the definition."""
        arrays: dict[str, Any] = {}
        if definition is None:
            definition, arrays = definition_of(
                compartments=compartments or {},
                species=species or {},
                parameters=parameters or {},
                reactions=reactions or {},
                rules=rules or {},
                rates=rates or {},
                algebraic=algebraic,
                initial=initial or {},
                events=events,
                name=name,
                time_unit=time_unit,
                dose_unit=dose_unit,
                conversion=conversion,
            )
        check_instance("definition", definition, Definition, "a Definition")
        self.plan, numbers = parted(definition)
        self.values = Numbers.of({id: arrays.get(id, number) for id, number in numbers.items()})
        self.nominal = nominal_sizes(self.plan, self.values.known())

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
        return filled(self.plan.definition, self.values.known())

    @property
    def units(self) -> Units:
        """The units that the definition states."""
        return units_of(self.plan.definition)

    def initial(self) -> Labelled:
        start = self._state(self.plan.begin(self.values, 0.0, None))
        return _consistent(self, start) if self.plan.implicit else start

    def vector_field(self, t: Scalar, y: Labelled) -> Labelled:
        if isinstance(y.values, tuple):
            return self._state(self.plan.slope(self.values, t, y))
        formulas, sums = self.plan.flow
        return Labelled(y.labels, sums(formulas(self.values, t, y)))

    def observe(self, t: Scalar, y: Labelled) -> Observed:
        return self.plan.seen(self.values, t, y)

    def amounts(self, t: Scalar, y: Labelled) -> Observed:
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

    def events(self) -> tuple[Event, ...]:
        found = [event for event in self.plan.definition.events if event.assign]
        return tuple(self._event(*pair) for pair in zip(found, self.plan.firings, strict=True))

    def placed(self, t: Scalar, y: Labelled, values: Mapping[str, Any], *, before: "Network | None" = None) -> Labelled:
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

    def _state_of(self, y: Labelled, values: Mapping[str, Any]) -> Labelled:
        new = tuple(jnp.asarray(values[id], dtype=float) for id in y.labels)
        return Labelled(y.labels, new if isinstance(y.values, tuple) else jnp.stack(new))

    def equations(self) -> Equations:
        """Return the network as equations that can be read."""
        return equations(self.definition, self.plan.formulas)

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
        smaller, totals = reduced(self.definition, self.plan.formulas, self.amounts(0.0, self.initial()), dosed)
        network = Network(smaller)
        known = {id: self.values[id] for id in network.values if id in self.values} | totals
        new = Numbers.of({id: known.get(id, x) for id, x in network.values.items()})
        return eqx.tree_at(lambda one: one.values, network, new, is_leaf=lambda x: x is network.values)

    def check_units(self) -> "list[Problem]":
        """Return where units do not agree, read by pint (extra `cli`); what has no unit agrees with everything."""
        return unit_problems(self.plan.definition)

    def _state(self, numbers: Any) -> Labelled:
        states = self.plan.states
        if len(states) > APART:
            return Labelled(states, numbers)
        return Labelled(states, tuple(jnp.asarray(x, dtype=float) for x in numbers))

    def _event(self, event: NetworkEvent, firing: Firing) -> Event:
        def function(program: Program | None) -> Callable | None:
            return None if program is None else lambda t, y: program(self.values, t, y)[0]

        def assign(t: Scalar, y: Labelled) -> dict[str, Any]:
            return dict(zip(firing.assigned, firing.values(self.values, t, y), strict=True))

        return Event(
            trigger=function(firing.trigger),
            assign=assign,
            delay=function(firing.delay),
            priority=function(firing.priority),
            persistent=event.persistent,
            initial_value=event.initial_value,
            from_trigger_time=event.from_trigger_time,
            name=event.name,
        )


def _consistent(network: Network, start: Labelled) -> Labelled:
    """Return a state whose algebraic part satisfies the rules, by Newton's method; its derivatives are exact."""
    plan = network.plan
    places = [plan.places[id] for id in plan.implicit]
    apart = isinstance(start.values, tuple)

    def put(x: jax.Array, values: Any) -> Labelled:
        if not apart:
            return Labelled(start.labels, values.at[jnp.asarray(places)].set(x))
        new = list(values)
        for place, own in zip(places, x, strict=True):
            new[place] = own
        return Labelled(start.labels, tuple(new))

    def residual(x: jax.Array) -> jax.Array:
        return jnp.stack([jnp.asarray(r, float) for r in plan.residuals(network.values, 0.0, put(x, start.values))])

    def step(_: Any, x: jax.Array) -> jax.Array:
        return x - jnp.linalg.solve(jax.jacfwd(residual)(x), residual(x))

    x = jnp.stack([start.values[place] for place in places])
    found = jax.lax.stop_gradient(jax.lax.fori_loop(0, NEWTON, step, jax.lax.stop_gradient(x)))
    return put(step(0, step(0, found)), start.values)


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
