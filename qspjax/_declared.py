"""What a model may declare besides its equations, each a trait: deliveries, events, algebraic states, sizes, echoes.

An ordinary model derives from the base of each trait it has. A wrapper returns all its declarations at once, in
`declared`, from those of the models it wraps, so it cannot lose a trait, even one that is added later.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import numpy as np

from qspjax._checks import check_above, check_minimum, check_one_of
from qspjax._events import Event, assigned_names, check_trigger, of_whole
from qspjax._model import TRAITS, AbstractModel, check_traits, trait
from qspjax._names import at, in_full, match, names, state_names
from qspjax._parameters import as_parameter
from qspjax._tables import LabelledState
from qspjax._types import Scalar, State


class Delivery(eqx.Module):
    """How a dose given to a target enters the state.

    A dose of `amount` at time `t` adds `bioavailability * scale * amount` to `state` at time `t + lag` (NONMEM's F and
    ALAG). `scale` carries the unit: mg become nmol by 1e6 / molar mass (g/mol), and nmol/L divided by a volume.
    `duration` and `rate` (in units of dose per time) are those of an infusion that leaves them to the model (D1, R1).

    Example:
        >>> import qspjax as qsp
        >>> absorbed = qsp.Delivery("depot", bioavailability=0.6, lag=0.5)
        >>> float(absorbed.bioavailability), float(absorbed.lag)
        (0.6, 0.5)
    """

    state: str = eqx.field(static=True)
    scale: Scalar = eqx.field(default=1.0, converter=as_parameter)
    lag: Scalar = eqx.field(default=0.0, converter=as_parameter)
    bioavailability: Scalar = eqx.field(default=1.0, converter=as_parameter)
    duration: Scalar | None = eqx.field(default=None, converter=as_parameter)
    rate: Scalar | None = eqx.field(default=None, converter=as_parameter)

    def __check_init__(self) -> None:
        check_minimum("lag", self.lag, 0.0)
        check_minimum("bioavailability", self.bioavailability, 0.0)
        for name in ("duration", "rate"):
            if getattr(self, name) is not None:
                check_above(name, getattr(self, name), 0.0)


@trait
class AbstractDelivered(AbstractModel):
    """A model that says how doses enter it.

    Example:
        >>> from typing import NamedTuple
        >>> import jax, qspjax as qsp
        >>> class Amount(NamedTuple):
        ...     central: jax.Array
        >>> class Elimination(qsp.AbstractDelivered):
        ...     k: jax.Array = qsp.parameter(unit="1/h", doc="elimination rate constant")
        ...     F: jax.Array = qsp.parameter(unit="", doc="bioavailability")
        ...     def initial(self):
        ...         return Amount(central=0.0)
        ...     def vector_field(self, t, y):
        ...         return Amount(central=-self.k * y.central)
        ...     def observe(self, t, y):
        ...         return {"amount": y.central}
        ...     def deliveries(self):
        ...         return {"central": qsp.Delivery("central", bioavailability=self.F)}
        >>> qsp.simulate(Elimination(k=0.1, F=0.5), qsp.bolus(100.0, to="central"), [0.0]).observed["amount"]
        Array([50.], dtype=float64)
    """

    @abc.abstractmethod
    def deliveries(self) -> Mapping[str, Delivery]:
        """Return a `Delivery` for each named dose target; any other state takes doses as they are."""


@trait
class AbstractEventful(AbstractModel):
    """A model whose state changes where conditions become true.

    Example:
        >>> from typing import NamedTuple
        >>> import jax, qspjax as qsp
        >>> class Ball(NamedTuple):
        ...     height: jax.Array
        ...     speed: jax.Array
        >>> class Bouncing(qsp.AbstractEventful):
        ...     kept: jax.Array = qsp.parameter(unit="", doc="share of the speed that a bounce keeps")
        ...     def initial(self):
        ...         return Ball(height=5.0, speed=0.0)
        ...     def vector_field(self, t, y):
        ...         return Ball(height=y.speed, speed=-10.0)
        ...     def observe(self, t, y):
        ...         return {"height": y.height}
        ...     def events(self):
        ...         return (qsp.Event(lambda t, y: y.height < 0.0, lambda t, y: {"speed": -self.kept * y.speed}),)
        >>> solution = qsp.simulate(Bouncing(kept=0.8), qsp.no_doses(), [1.5, 2.0])
        >>> solution.observed["height"].round(6)
        Array([2.75, 3.  ], dtype=float64)
    """

    @abc.abstractmethod
    def events(self) -> tuple[Event, ...]:
        """Return the events of the model."""


@trait
class AbstractAlgebraic(AbstractModel):
    """A model with algebraic states: for these, `vector_field` returns a residual that is zero, not a derivative.

    $$ M y' = f(t, y), \\quad M = diag(1, ..., 1, 0, ..., 0) $$

    The algebraic states must be determined by the others (index 1). At the start, and after every dose, event, reset
    and change of a parameter, they are solved again from their previous values: an output at the time of a dose shows
    their values after it, and of several solutions the nearest is found. Their initial values are guesses. Where there
    is no solution the patient fails, and the state is named. They take no doses.

    Example:
        >>> from typing import NamedTuple
        >>> import jax, qspjax as qsp
        >>> class State(NamedTuple):
        ...     total: jax.Array
        ...     free: jax.Array
        >>> class Binding(qsp.AbstractAlgebraic):
        ...     k: jax.Array = qsp.parameter(unit="1/h", doc="elimination of free drug")
        ...     R: jax.Array = qsp.parameter(unit="nmol/L", doc="receptor")
        ...     KD: jax.Array = qsp.parameter(unit="nmol/L", doc="dissociation constant")
        ...     def initial(self):
        ...         return State(0.0, 0.0)
        ...     def vector_field(self, t, y):
        ...         return State(-self.k * y.free, y.total - y.free - self.R * y.free / (self.KD + y.free))
        ...     def observe(self, t, y):
        ...         return {"free": y.free}
        ...     def algebraic(self):
        ...         return ("free",)
        >>> solution = qsp.simulate(Binding(k=0.2, R=2.0, KD=1.0), qsp.bolus(2.0, to="total"), [0.0])
        >>> solution.observed["free"].round(6)
        Array([1.], dtype=float64)
    """

    @abc.abstractmethod
    def algebraic(self) -> tuple[str, ...]:
        """Return the names of the algebraic states."""


@trait
class AbstractSized(AbstractModel):
    """A model that gives the sizes of its states, where these are far from 1.

    Absolute tolerances are relative to these sizes: with `atol=1e-9` a state of size 1e-12 is effectively zero below
    1e-21.

    Example:
        >>> from typing import NamedTuple
        >>> import jax, qspjax as qsp
        >>> class Cell(NamedTuple):
        ...     messenger: jax.Array
        >>> class Decay(qsp.AbstractSized):
        ...     k: jax.Array = qsp.parameter(unit="1/h", doc="decay")
        ...     def initial(self):
        ...         return Cell(1e-15)  # mol
        ...     def vector_field(self, t, y):
        ...         return Cell(-self.k * y.messenger)
        ...     def observe(self, t, y):
        ...         return {"messenger": y.messenger}
        ...     def sizes(self):
        ...         return {"messenger": 1e-15}
        >>> float(qsp.simulate(Decay(k=0.1), qsp.no_doses(), [10.0]).observed["messenger"][0])
        3.67879...e-16
    """

    @abc.abstractmethod
    def sizes(self) -> Mapping[str, float]:
        """Return the nominal size of states by name; any other has size 1."""


class Echoes(NamedTuple):
    """Echoes: states and parameters that repeat the values of others some time later.

    Attributes:
        later: By the name of a state or a parameter, the names of its echoes, each with its delay.
        lengths: The names of the parameters that the delays are computed from.
    """

    later: Mapping[str, Mapping[str, Scalar]]
    lengths: tuple[str, ...]


@trait
class AbstractEchoing(AbstractModel):
    """A model that needs the past: some states and parameters have the values that others had some time ago.

    What a regimen does to a state or a parameter, it does to its echoes as well, later.
    """

    @abc.abstractmethod
    def echoes(self) -> Echoes:
        """Return the echoes of states and parameters."""


class AbstractWrapper(AbstractModel):
    """A model made of other models: it declares what they declare, under its own names."""

    @abc.abstractmethod
    def declared(self) -> "Declared":
        """Return what this model declares, built from what `declared` returns for the models within it."""


class Declared(NamedTuple):
    """What a model declares besides its equations; each entry is a function, so that only what is needed is computed.

    Attributes:
        deliveries: How doses enter, by target.
        events: The events.
        algebraic: The names of the algebraic states.
        sizes: The nominal sizes of states that are not of size 1, by name.
        echoes: The echoes of states and parameters.
    """

    deliveries: Callable[[], Mapping[str, Delivery]]
    events: Callable[[], tuple[Event, ...]]
    algebraic: Callable[[], tuple[str, ...]]
    sizes: Callable[[], Mapping[str, float]]
    echoes: Callable[[], Echoes]

    def under(
        self,
        part: str,
        initial: Callable[[], State],
        arguments: Callable[[Scalar, State], tuple] | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> "Declared":
        """Return the same for a part of a larger model, where the state `central` of `pk` is called `pk.central`.

        Args:
            part: What the larger model calls the part: the attribute of its state, and the prefix of its names.
            initial: Returns a state of the part.
            arguments: Returns what functions of the part's events take, from the time and the state of the larger
                model; by default the time and the state of the part.
            parameters: The names in the larger model of parameters whose names are not those with the prefix.
        """
        new_names = parameters or {}
        arguments = arguments or (lambda t, y: (t, getattr(y, part)))

        def name(inner: str, states: tuple[str, ...]) -> str:
            return new_names.get(inner) or f"{part}.{in_full(inner, states)}"

        def renamed(names: Mapping[str, _Value]) -> dict[str, _Value]:
            states = state_names(initial()) if names else ()
            return {name(inner, states): value for inner, value in names.items()}

        def deliveries() -> dict[str, Delivery]:
            inner = self.deliveries()
            states = state_names(initial()) if inner else ()
            return {
                target: dataclasses.replace(delivery, state=name(delivery.state, states))
                for target, delivery in inner.items()
            }

        def events() -> tuple[Event, ...]:
            return tuple(
                of_whole(event, arguments, lambda inner, y: name(inner, state_names(getattr(y, part))))
                for event in self.events()
            )

        def echoes() -> Echoes:
            later, lengths = self.echoes()
            lengths = renamed(dict.fromkeys(lengths))
            return Echoes({state: renamed(copies) for state, copies in renamed(later).items()}, (*lengths,))

        return Declared(
            deliveries=deliveries,
            events=events,
            algebraic=lambda: (*renamed(dict.fromkeys(self.algebraic())),),
            sizes=lambda: renamed(self.sizes()),
            echoes=echoes,
        )

    def merged(self, other: "Declared") -> "Declared":
        """Return what two parts declare together."""

        def echoes() -> Echoes:
            first, second = self.echoes(), other.echoes()
            return Echoes({**first.later, **second.later}, (*first.lengths, *second.lengths))

        return Declared(
            deliveries=lambda: {**self.deliveries(), **other.deliveries()},
            events=lambda: (*self.events(), *other.events()),
            algebraic=lambda: (*self.algebraic(), *other.algebraic()),
            sizes=lambda: {**self.sizes(), **other.sizes()},
            echoes=echoes,
        )


def declared(model: eqx.Module) -> Declared:
    """Return what a model, or a part of one, declares.

    Raises:
        ValueError: If its class defines the method of a trait without the base that declares it; or, when an entry is
            read, if the class holds a model that declares something there but does not declare it itself.
    """
    if isinstance(model, AbstractWrapper):
        return model.declared()
    check_traits(type(model))
    return Declared(
        lambda: model.deliveries() if isinstance(model, AbstractDelivered) else _nothing(model, "deliveries", {}),
        lambda: tuple(model.events() if isinstance(model, AbstractEventful) else _nothing(model, "events", ())),
        lambda: tuple(model.algebraic() if isinstance(model, AbstractAlgebraic) else _nothing(model, "algebraic", ())),
        lambda: model.sizes() if isinstance(model, AbstractSized) else _nothing(model, "sizes", {}),
        lambda: model.echoes() if isinstance(model, AbstractEchoing) else _nothing(model, "echoes", Echoes({}, ())),
    )


_Value = TypeVar("_Value")


def _nothing(model: eqx.Module, method: str, nothing: _Value) -> _Value:
    """Return the empty declaration of a model that lacks a trait; refuse it if one of its parts has the trait."""
    for field in dataclasses.fields(model):
        part = getattr(model, field.name, None)
        if isinstance(part, AbstractModel) and getattr(declared(part), method)() != nothing:
            bases = ", ".join(base.__name__ for base in type(model).__bases__)
            must = f"derive from `{TRAITS[method].__name__}` and define `{method}`, as its part `{field.name}` does"
            raise ValueError(f"Class `{type(model).__name__}` must {must}, but derives from {bases}.")
    return nothing


def mass_of(model: AbstractModel, states: tuple[str, ...]) -> np.ndarray:
    """Return the diagonal of the mass matrix: 0 for the algebraic states that a model declares, else 1.

    Raises:
        ValueError: If an algebraic state is not a state of the model.
    """
    mass = np.ones(len(states))
    for name in declared(model).algebraic():
        mass[match(name, states, "algebraic", "a state of the model")] = 0.0
    return mass


def sizes_of(model: AbstractModel, states: tuple[str, ...]) -> np.ndarray | None:
    """Return the nominal size of each state, shape (states,); None if all are 1.

    Raises:
        ValueError: If a name is not a state of the model, or a size is not positive.
    """
    nominal = declared(model).sizes()
    if not nominal:
        return None
    sizes = np.ones(len(states))
    for name, size in nominal.items():
        check_above("sizes", size, 0.0)
        sizes[match(name, states, "sizes", "a state of the model")] = size
    return sizes


def assigned_parameters(model: AbstractModel, start: State) -> tuple[str, ...]:
    """Return the names that events assign and that are not states: parameters that change.

    Raises:
        ValueError: If a name is neither a state nor a parameter.
    """
    states = state_names(start)
    ends = {state.split(".")[-1] for state in states} | set(states)
    events = declared(model).events()
    labelled = map(_is_labelled, jax.tree.leaves(start, is_leaf=_is_labelled))
    for event in () if any(labelled) else events:  # in SBML a number may be a condition
        check_trigger(event, start)
    assigned = (name for event in events for name in assigned_names(event, start))
    parameters = tuple(dict.fromkeys(name for name in assigned if name not in ends))
    for name in parameters:
        try:
            at(model, name)
        except ValueError:
            known = [*states, *(parameter.name for parameter in names(model))]
            check_one_of("assign", name, known, "a state or a parameter of the model")
    return parameters


def _is_labelled(part: object) -> bool:
    return isinstance(part, LabelledState)
