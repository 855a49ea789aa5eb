"""The contract of a model: equations and numbers, nothing about how it is solved or fitted."""

import abc
import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from qspjax._checks import check_above, check_finite, check_minimum, concrete, did_you_mean, in_a_row, refuse
from qspjax._jaxpr._guarded import guarded
from qspjax._names import leaf_names, match, names, state_names
from qspjax._text import aligned
from qspjax._types import Observed, Scalar, State


def as_parameter(value: Any) -> Any:
    """Store numbers, lists and arrays as strong arrays of the default float; leave modules and placeholders alone."""
    if eqx.is_array_like(value) or isinstance(value, (list, tuple)):
        return jnp.asarray(value, dtype=float)
    return value


def parameter(
    *, unit: str, doc: str, source: str = "", above: float | None = 0.0, minimum: float | None = None, **default: Any
) -> Any:
    """Declare a parameter of a model: a natural-scale number with a unit and a sentence.

    Args:
        unit: The unit, such as `"L/h"`; `""` for a number without one.
        doc: What it is, in a few words.
        source: Where the value comes from, if it has a default (a reference with DOI).
        above: The value must be greater than this; `None` for no bound. Parameters are positive unless said otherwise.
        minimum: The value must be at least this; replaces `above`.
        **default: `default=` or `default_factory=`, as for a dataclass field.

    Example:
        >>> import equinox as eqx, qspjax as qsp
        >>> class Elimination(eqx.Module):
        ...     CL: float = qsp.parameter(unit="L/h", doc="clearance")
        >>> Elimination(CL=3).CL.dtype
        dtype('float64')
    """
    metadata = {"unit": unit, "doc": doc, "source": source, "minimum": minimum}
    metadata["above"] = None if minimum is not None else above
    return eqx.field(converter=as_parameter, metadata=metadata, **default)


def check_parameters(module: eqx.Module, prefix: str = "") -> None:
    """Check every field declared with `parameter`, in nested modules too: a number, finite, within its bounds."""
    for field in dataclasses.fields(module):
        value, metadata, name = getattr(module, field.name), field.metadata, prefix + field.name
        if isinstance(value, eqx.Module):
            check_parameters(value, f"{name}.")
        elif "unit" in metadata:
            if isinstance(value, (str, dict)):
                refuse(name, "be a number", value)
            check_finite(name, value)
            if metadata["above"] is not None:
                check_above(name, value, metadata["above"])
            if metadata["minimum"] is not None:
                check_minimum(name, value, metadata["minimum"])
        elif isinstance(value, (int, float)) and not metadata.get("static", False):
            refuse(
                name, "be declared with `parameter(unit=, doc=)`, or with `equinox.field(static=True)`", "a plain field"
            )


@dataclasses.dataclass(frozen=True)
class Units:
    """The units a model computes in; `""` where it does not say.

    `dose` is the unit of an amount given to a dose target, `states` and `observed` name those that have one.

    Example:
        >>> import qspjax as qsp
        >>> class Elimination(qsp.models.OneCompartment):
        ...     units = qsp.Units(time="d", dose="mg", states={"central": "mg"}, observed={"concentration": "mg/L"})
        >>> Elimination.units.of_state("central")
        'mg'
    """

    time: str = ""
    dose: str = ""
    states: Mapping[str, str] = dataclasses.field(default_factory=dict)
    observed: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def of_state(self, name: str) -> str:
        """Return the unit of a state by its dotted name; all elements of an array (`transit[0]`) have one unit."""
        return self.states.get(name.partition("[")[0], "")

    def __hash__(self) -> int:
        """Hash the contents, so that a solution can carry its units through `jit`."""
        return hash((self.time, self.dose, *self.states.items(), *self.observed.items()))


class AbstractModel(eqx.Module):
    """A dynamical model: initial state, vector field, and what can be observed of it.

    $$ dy/dt = f(t, y), \\quad y(t_0) = y_0, \\quad z = g(t, y) $$

    Write the parameters as fields with `parameter(unit=, doc=)`, the state as a `NamedTuple` in NONMEM's order
    (depot 1, central 2, peripheral 3), and these three methods. Doses come from a `Regimen`; see `AbstractDelivered`
    for lag, bioavailability and doses in other units than the state.

    Example:
        >>> from typing import NamedTuple
        >>> import jax, qspjax as qsp
        >>> class Amount(NamedTuple):
        ...     central: jax.Array
        >>> class Elimination(qsp.AbstractModel):
        ...     k: jax.Array = qsp.parameter(unit="1/h", doc="elimination rate constant")
        ...     def initial(self):
        ...         return Amount(central=0.0)
        ...     def vector_field(self, t, y):
        ...         return Amount(central=-self.k * y.central)
        ...     def observe(self, t, y):
        ...         return {"amount": y.central}
        >>> solution = qsp.simulate(Elimination(k=0.1), qsp.bolus(100.0, to="central"), [0.0, 10.0])
        >>> solution.observed["amount"].round(2)
        Array([100.  ,  36.79], dtype=float64)
    """

    units: ClassVar[Units] = Units()

    def __new__(cls, *args: Any, **kwargs: Any) -> "AbstractModel":
        """Check the names of what a model is built from before its constructor does."""
        if cls.__init__ not in (object.__init__, eqx.Module.__init__):
            _check_given(cls, args, kwargs)
        return eqx.Module.__new__(cls)

    @abc.abstractmethod
    def initial(self) -> State:
        """Return the state before the first dose."""

    @abc.abstractmethod
    def vector_field(self, t: Scalar, y: State) -> State:
        """Return dy/dt, with the structure of `y`."""

    @abc.abstractmethod
    def observe(self, t: Scalar, y: State) -> Observed:
        """Return what can be observed, by name."""

    def __check_init__(self) -> None:
        check_traits(self)
        check_parameters(self)

    def __str__(self) -> str:
        """Return the parameters as a table: value, unit, what each is."""
        rows = [[type(self).__name__, "value", "unit", ""]]
        for parameter in names(self):
            value = concrete(parameter.value)
            rows.append([parameter.name, "?" if value is None else _shown(value), parameter.unit, parameter.doc])
        return aligned(rows)


_TRAITS: dict[str, type[AbstractModel]] = {}


def trait(base: type[AbstractModel]) -> type[AbstractModel]:
    """Register what a model may say beside its equations: a base with one abstract method, read only with the base."""
    (method,) = base.__abstractmethods__ - AbstractModel.__abstractmethods__
    _TRAITS[method] = base
    return base


def check_traits(module: eqx.Module) -> None:
    """Check that a class which defines the method of a trait has the base that declares it.

    Raises:
        ValueError: If it has not: nothing would ever call the method.
    """
    kind = type(module)
    own = {field.name for field in dataclasses.fields(module) if "unit" in field.metadata}
    for method, base in _TRAITS.items():
        if isinstance(module, base) or method in own or getattr(module, method, None) is None:
            continue
        bases = ", ".join(one.__name__ for one in kind.__bases__)
        raise ValueError(
            f"Class `{kind.__name__}` must derive from `{base.__name__}` to define `{method}`, or nothing calls it, "
            f"but derives from {bases}."
        )


def _check_given(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Check that a constructor is given arguments that it has, and all that it needs.

    Raises:
        ValueError: If it is not; with its arguments, their units and what they are.
    """
    taken = inspect.signature(cls.__init__).parameters
    _, *names = taken
    kinds = {parameter.kind for parameter in taken.values()}
    if not kinds <= {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}:
        return
    for name in kwargs:
        if name not in names:
            has = f"`{cls.__name__}` must be given arguments that it has ({in_a_row(names)})"
            raise ValueError(f"{has}, but is given `{name}`.{did_you_mean(name, names)}")
    positional = [name for name in names if taken[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    given = {*positional[: len(args)], *kwargs}
    missing = [name for name in names if taken[name].default is inspect.Parameter.empty and name not in given]
    if missing:
        fields = {field.name: field.metadata for field in dataclasses.fields(cls)}
        needed = (f"{name}{_described(fields.get(name, {}))}" for name in missing)
        raise ValueError(f"`{cls.__name__}` must be given {', '.join(needed)}, but is not.")


def _described(metadata: Mapping[str, Any]) -> str:
    words = [metadata.get("doc", ""), metadata.get("unit", "")]
    return f" ({', '.join(filter(None, words))})" if any(words) else ""


def _shown(value: np.ndarray) -> str:
    return f"{value.item():g}" if value.ndim == 0 else f"array of shape {value.shape}"


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


def deliveries_of(model: AbstractModel) -> Mapping[str, Delivery]:
    """Return the deliveries that a model declares, none for a model that declares none."""
    return model.deliveries() if isinstance(model, AbstractDelivered) else {}


@trait
class AbstractAlgebraic(AbstractModel):
    """A model with algebraic states: for these, `vector_field` returns a residual that is zero, not a derivative.

    $$ M y' = f(t, y), \\quad M = diag(1, ..., 1, 0, ..., 0) $$

    The algebraic states must be determined by the others (index 1). At the start, and after every dose, event, reset
    and change of a parameter, they are solved again, from what they were: an output at the time of a dose shows what
    follows from it, and of several solutions the one nearby is found. Their initial values are guesses. Where there is
    no solution the patient fails, and the state is named. They take no doses.

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


def algebraic_of(model: AbstractModel) -> tuple[str, ...]:
    """Return the algebraic states that a model declares, none for a model that declares none."""
    return tuple(model.algebraic()) if isinstance(model, AbstractAlgebraic) else ()


def mass_of(model: AbstractModel, states: tuple[str, ...]) -> np.ndarray:
    """Return the diagonal of the mass matrix: 0 for the algebraic states that a model declares, else 1.

    Raises:
        ValueError: If an algebraic state is no state of the model.
    """
    mass = np.ones(len(states))
    for name in algebraic_of(model):
        mass[match(name, states, "algebraic", "a state of the model")] = 0.0
    return mass


@trait
class AbstractSized(AbstractModel):
    """A model that knows how large its states are, where that is far from 1.

    An absolute tolerance counts in these sizes: with `atol=1e-9` a state of size 1e-12 is as good as zero below 1e-21.

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


def declared_sizes(model: AbstractModel) -> Mapping[str, float]:
    """Return the sizes that a model declares, none for a model that declares none."""
    return model.sizes() if isinstance(model, AbstractSized) else {}


def sizes_of(model: AbstractModel, states: tuple[str, ...]) -> np.ndarray | None:
    """Return the nominal size of each state, shape (states,); None if all are 1.

    Raises:
        ValueError: If a name is no state of the model, or a size is not positive.
    """
    declared = declared_sizes(model)
    if not declared:
        return None
    sizes = np.ones(len(states))
    for name, size in declared.items():
        check_above("sizes", size, 0.0)
        sizes[match(name, states, "sizes", "a state of the model")] = size
    return sizes


class Echoes(NamedTuple):
    """What changes once more some time later.

    Attributes:
        later: By the name of a state or a parameter, the names of its echoes, each with how much later it is.
        lengths: The names of the parameters that these times are made of.
    """

    later: Mapping[str, Mapping[str, Scalar]]
    lengths: tuple[str, ...]


@trait
class AbstractEchoing(AbstractModel):
    """A model that needs the past: some states and parameters have the values that others had some time ago.

    What a regimen does to one of these others, it does to its echoes as well, later.
    """

    @abc.abstractmethod
    def echoes(self) -> Echoes:
        """Return what echoes what."""


def echoes_of(model: AbstractModel) -> Echoes:
    """Return the echoes that a model declares, none for a model that declares none."""
    return model.echoes() if isinstance(model, AbstractEchoing) else Echoes({}, ())


def check_slope(slope: State, start: State) -> None:
    """Check that what a vector field returns has the structure and the shapes of the state."""
    must = f"return dy/dt with the structure of its state ({', '.join(state_names(start))})"
    if jax.tree.structure(slope) != jax.tree.structure(start):
        refuse("model", must, f"one that returns a {type(slope).__name__}")
    for name, own, leaf in zip(leaf_names(start), jax.tree.leaves(start), jax.tree.leaves(slope), strict=True):
        if jnp.shape(leaf) not in ((), jnp.shape(own)):
            found = f"one that returns shape {jnp.shape(leaf)} for `{name[0]}`, whose shape is {jnp.shape(own)}"
            refuse("model", must, found)


def as_state(model: AbstractModel, state: State | None, *, batched: bool = False) -> State:
    """Return a state (the model's initial one if None) as strong float arrays in the model's own structure.

    With `batched`, leaves may have one leading axis more than the model's own: one row a patient.
    """
    start = jax.tree.map(as_parameter, model.initial())
    if state is None:
        return start
    must = f"have the structure of the model's state ({', '.join(state_names(start))})"
    if jax.tree.structure(state) != jax.tree.structure(start):
        refuse("initial", must, f"of type {type(state).__name__}")
    state = jax.tree.map(as_parameter, state)
    for name, leaf, own in zip(leaf_names(start), jax.tree.leaves(state), jax.tree.leaves(start), strict=True):
        if jnp.shape(leaf) != own.shape and not (batched and jnp.shape(leaf)[1:] == own.shape):
            refuse("initial", must, f"of shape {jnp.shape(leaf)} in `{name[0]}`, whose shape is {own.shape}")
    return state


def observe(model: AbstractModel, t: Scalar, y: State) -> Observed:
    """Return what is observed of a model; the values are those of `model.observe`."""
    arrays, static = eqx.partition((model, t, y), eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)

    def of_leaves(*leaves: Any) -> Observed:
        model, t, y = eqx.combine(jax.tree.unflatten(structure, leaves), static)
        return jax.tree.map(jnp.asarray, model.observe(t, y))

    return guarded(of_leaves)(*leaves)
