"""The contract of a model: equations and numbers, nothing about how it is solved or fitted."""

import abc
import dataclasses
import difflib
import functools
from collections.abc import Mapping
from typing import ClassVar, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from qspjax._checks import ArgumentError, check_no_unit, concrete, described, in_a_row, refuse
from qspjax._jaxpr._guarded import guarded
from qspjax._names import leaf_names, names, state_names
from qspjax._parameters import AbstractChecked, as_parameter, check_parameters
from qspjax._remembered import by_structure
from qspjax._text import aligned
from qspjax._types import Observed, Scalar, State
from qspjax._unit_words import warn_of_unit


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


class AbstractModel(AbstractChecked):
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
    interventions: tuple[tuple[str, str], ...] = eqx.field(default=(), init=False, static=True)
    """What `do` set of it: names, each with its formula, or "" where it is a number of the model."""

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
        check_traits(type(self))
        _check_units(type(self))
        check_parameters(self)

    def __str__(self) -> str:
        """Return the parameters as a table of values, units and descriptions."""
        rows = [[type(self).__name__, "value", "unit", ""]]
        for parameter in names(self):
            value = concrete(parameter.value)
            rows.append([parameter.name, "?" if value is None else _shown(value), parameter.unit, parameter.doc])
        return aligned(rows)


TRAITS: dict[str, type[AbstractModel]] = {}
"""By the name of its method, the base of each trait: what a model may declare besides its equations."""


_Base = TypeVar("_Base", bound=type[AbstractModel])


def trait(base: _Base) -> _Base:
    """Register the base of a trait, which has one abstract method."""
    (method,) = base.__abstractmethods__ - AbstractModel.__abstractmethods__
    TRAITS[method] = base
    return base


def check_traits(kind: type[eqx.Module]) -> None:
    """Check that a class which defines the method of a trait has the base that declares it.

    Raises:
        ValueError: If it lacks the base, or has a method whose name can only be misspelt: nothing would ever call it.
    """
    problem = _undeclared(kind)
    if problem:
        raise ValueError(problem)


@functools.lru_cache(maxsize=1024)
def _undeclared(kind: type[eqx.Module]) -> str:
    """Return what is wrong with the traits of a class, every one of them, and nothing if all is well."""
    bases = ", ".join(base.__name__ for base in kind.__bases__)
    fields = {field.name: "unit" in field.metadata for field in dataclasses.fields(kind)}
    defined = {name for name in dir(kind) if not name.startswith("_") and getattr(kind, name, None) is not None}
    musts = []
    for method, base in TRAITS.items():
        if issubclass(kind, base):
            continue
        if not fields.get(method, method not in defined):
            musts.append(f"derive from `{base.__name__}` to define `{method}`, or nothing calls it")
            continue
        for name in sorted(defined - fields.keys()):
            if _is_misspelt(name, method):
                musts.append(f"derive from `{base.__name__}` and define `{method}`, or nothing calls `{name}`")
    return f"Class `{kind.__name__}` must {'; and '.join(musts)}, but derives from {bases}." if musts else ""


@functools.lru_cache(maxsize=1024)
def _check_units(kind: type[eqx.Module]) -> None:
    """Warn of units of a class that are not known, once; those of an instance are of its parts."""
    units = getattr(kind, "units", None)
    if isinstance(units, Units):
        for argument, unit in (("time", units.time), ("dose", units.dose)):
            warn_of_unit(unit, argument)
        for name, unit in {**units.states, **units.observed}.items():
            warn_of_unit(unit, name)


def _is_misspelt(name: str, method: str) -> bool:
    """Whether a name is a misspelt `method`: its singular or plural, or a long word that differs by a letter or so."""
    likeness = difflib.SequenceMatcher(None, name.lower(), method).ratio()
    return name != method and (_singular(name) == _singular(method) or (len(method) > 5 and likeness > 0.85))


def _singular(name: str) -> str:
    name = name.lower()
    return f"{name[:-3]}y" if name.endswith("ies") else name.removesuffix("s").removesuffix("e")


def _shown(value: np.ndarray) -> str:
    return f"{value.item():g}" if value.ndim == 0 else f"array of shape {value.shape}"


def check_slope(slope: State, start: State, model: AbstractModel | None = None) -> None:
    """Check that what a vector field returns has the structure and the shapes of the state."""
    must = f"return dy/dt with the structure of its state ({', '.join(state_names(start))})"
    if jax.tree.structure(slope) != jax.tree.structure(start):
        if slope is None or isinstance(slope, jax.Array):
            refuse("model", must, f"one that returns {'nothing' if slope is None else described(slope)}")
        refuse("model", must, f"one that returns a {_kind(slope, start)}")
    for name, expected, leaf in zip(leaf_names(start), jax.tree.leaves(start), jax.tree.leaves(slope), strict=True):
        if jnp.shape(leaf) not in ((), jnp.shape(expected)):
            check_one_patient(model, jnp.shape(leaf))
            actual = f"one that returns shape {jnp.shape(leaf)} for `{name[0]}`, whose shape is {jnp.shape(expected)}"
            refuse("model", must, actual)


def check_one_patient(model: AbstractModel | None, shape: tuple[int, ...]) -> None:
    """Check that no parameter is an array of a shape that a result has where it must be a number."""
    for parameter in () if model is None or len(shape) != 1 else names(model):
        if jnp.shape(parameter.value) == shape:
            must = "be one number: for patients that differ in it use Cohort.of and simulate_cohort"
            raise ArgumentError(parameter.name, f"must {must}, but is of shape {shape}.")


def _kind(value: State, start: State) -> str:
    """Return the type of a tree that is no state, and which names are missing and too many in it if it is a dict."""
    kind = type(value).__name__
    if not isinstance(value, Mapping):
        return kind
    names = dict.fromkeys(name.partition("[")[0].partition(".")[0] for name in state_names(start))
    missing = [f"`{name}`" for name in names if name not in value]
    surplus = [f"`{name}`" for name in value if name not in names]
    parts = [f"{word} {in_a_row(some)}" for word, some in (("without", missing), ("with", surplus)) if some]
    return f"{kind} {' and '.join(parts)}" if parts else kind


def as_state(model: AbstractModel, state: State | None, *, batched: bool = False) -> State:
    """Return a state (the model's initial one if None) as strong float arrays in the model's own structure.

    With `batched`, leaves may have one more leading axis than those of the model: one row per patient.
    """
    start = jax.tree.map(as_parameter, model.initial())
    if state is None:
        return start
    must = f"have the structure of the model's state ({', '.join(state_names(start))})"
    if jax.tree.structure(state) != jax.tree.structure(start):
        refuse("initial", must, f"of type {_kind(state, start)}")
    for leaf in jax.tree.leaves(state):
        check_no_unit("initial", leaf)
    state = jax.tree.map(as_parameter, state)
    for name, leaf, expected in zip(leaf_names(start), jax.tree.leaves(state), jax.tree.leaves(start), strict=True):
        if jnp.shape(leaf) != expected.shape and not (batched and jnp.shape(leaf)[1:] == expected.shape):
            refuse("initial", must, f"of shape {jnp.shape(leaf)} in `{name[0]}`, whose shape is {expected.shape}")
    return state


@by_structure
def state_shape(model: AbstractModel) -> State:
    """Return the initial state of a model with shapes and types in place of numbers."""
    return eqx.filter_eval_shape(lambda model: as_state(model, None), model)


def observe(model: AbstractModel, t: Scalar, y: State) -> Observed:
    """Return what is observed of a model; the values are those of `model.observe`."""
    arrays, static = eqx.partition((model, t, y), eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)

    def of_leaves(*leaves: jax.Array) -> Observed:
        model, t, y = eqx.combine(jax.tree.unflatten(structure, leaves), static)
        return jax.tree.map(jnp.asarray, model.observe(t, y))

    return guarded(of_leaves)(*leaves)
