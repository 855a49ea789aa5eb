"""Names of leaves: the one place that knows how a leaf of a tree is called.

A parameter of a model has a dotted name (`CL`, `liver.CLint`), an element of an array leaf ends in its index (`k[2]`).
The states of a model are named the same way from the tree that `initial` returns. A model that is known only at run
time has its numbers in a `table` and its states in a `Labelled`: their names are the keys and the labels.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from qspjax._checks import check_one_of, concrete, did_you_mean, in_a_row, refuse

M = TypeVar("M", bound=eqx.Module)


@dataclasses.dataclass(frozen=True)
class Name:
    """One parameter of a model: its dotted name, value, unit, meaning and source."""

    name: str
    value: Any
    unit: str
    doc: str
    source: str


def names(model: eqx.Module) -> tuple[Name, ...]:
    """List the parameters of a model by dotted name, in the order of its fields.

    Args:
        model: Any equinox module; nested modules give dotted names.

    Returns:
        One `Name` a parameter, with `name`, `value`, `unit`, `doc` and `source`.

    Example:
        >>> import qspjax as qsp
        >>> [(p.name, p.unit) for p in qsp.names(qsp.models.OneCompartment(CL=3.0, V=30.0))]
        [('CL', 'L/h'), ('V', 'L')]
    """
    return tuple(
        Name(name, follow(owner, path[-1:]), *_meaning(model, path, owner, field))
        for name, path, owner, field in _leaves(model)
    )


def table(describe: Callable[[Any, str], tuple[str, str, str]]) -> Any:
    """Declare a field that holds `Numbers`; each has its key as its name.

    Args:
        describe: Returns the unit, the meaning and the source of a number, `(module, key) -> (unit, doc, source)`.
    """
    return eqx.field(metadata={"table": describe})


@jax.tree_util.register_pytree_with_keys_class
class Labelled:
    """A state whose names are known only at run time: a number for each label, or one array whose elements have labels.

    Args:
        labels: The names of the states.
        values: A tuple of numbers, or one array whose last axis is that of the labels.

    Example:
        >>> import jax.numpy as jnp
        >>> state_names(Labelled(("drug", "target"), jnp.zeros(2)))
        ('drug', 'target')
        >>> Labelled(("drug", "target"), (1.0, 2.0))["target"]
        2.0
    """

    __slots__ = ("labels", "values")

    def __init__(self, labels: tuple[str, ...], values: Any) -> None:
        """Keep both."""
        self.labels, self.values = labels, values

    def __getitem__(self, label: str) -> Any:
        place = _places(self.labels).get(label)
        if place is None:
            check_one_of("label", label, self.labels, "a state")
        return self.values[place] if isinstance(self.values, tuple) else self.values[..., place]

    def __repr__(self) -> str:
        return f"Labelled({self.labels!r}, {self.values!r})"

    def tree_flatten_with_keys(self) -> tuple:
        """Return the leaves, each with the key that names it."""
        if isinstance(self.values, tuple):
            keys = map(jax.tree_util.GetAttrKey, self.labels)
            return tuple(zip(keys, self.values, strict=True)), (self.labels, True)
        return ((_Elements(self.labels), self.values),), (self.labels, False)

    @classmethod
    def tree_unflatten(cls, kind: tuple, leaves: Iterable[Any]) -> "Labelled":
        """Return it from its leaves."""
        labels, apart = kind
        return cls(labels, tuple(leaves) if apart else next(iter(leaves)))


@jax.tree_util.register_pytree_node_class
class ByName(dict):
    """A dict that says which names it has when it is asked for another one.

    Example:
        >>> ByName({"concentration": 1.0})["concentraton"]
        Traceback (most recent call last):
        ...
        qspjax._names.UnknownName: There is no `concentraton` among: concentration. Did you mean `concentration`?
    """

    def __missing__(self, name: Any) -> Any:
        raise UnknownName(name, self)

    def tree_flatten(self) -> tuple:
        """Return the values."""
        return tuple(self.values()), tuple(self)

    @classmethod
    def tree_unflatten(cls, names: tuple, values: Iterable[Any]) -> "ByName":
        """Return it from its values."""
        return cls(zip(names, values, strict=True))


class UnknownName(KeyError, ValueError):
    """A name that is none of those that there are."""

    def __init__(self, name: Any, known: Iterable[Any]) -> None:
        """Compose the message."""
        known = list(known)
        message = f"There is no `{name}` among: {in_a_row(known) or 'nothing'}.{did_you_mean(name, known)}"
        super().__init__(message)

    def __str__(self) -> str:
        return self.args[0]


@jax.tree_util.register_pytree_node_class
class Numbers(Mapping):
    """Numbers by name: a leaf each where there are few, else one array, but for those that have been replaced.

    Args:
        labels: The names.
        array: One array, whose last axis is that of the labels; None if all are apart.
        apart: Numbers that are leaves of their own; the array's elements of these names mean nothing.

    What `x` was some time ago, `x@1`, is no number of its own: it is `x`, unless it has been replaced.

    Example:
        >>> numbers = Numbers.of({"kon": 0.1, "koff": 0.2})
        >>> float(numbers["koff"]), [*numbers]
        (0.2, ['kon', 'koff'])
    """

    FEW: ClassVar[int] = 100

    def __init__(self, labels: tuple[str, ...], array: Any, apart: dict[str, Any]) -> None:
        """Keep them."""
        self.labels, self.array, self.apart = labels, array, apart

    @classmethod
    def of(cls, numbers: Mapping[str, Any]) -> "Numbers":
        """Return numbers from a mapping."""
        if len(numbers) <= cls.FEW:
            return cls(tuple(numbers), None, {name: _strong(value) for name, value in numbers.items()})
        known = {name: concrete(value) for name, value in numbers.items()}
        plain = {name: value.item() for name, value in known.items() if value is not None and value.ndim == 0}
        apart = {name: _strong(value) for name, value in numbers.items() if name not in plain}
        array = jnp.asarray([plain.get(name, 0.0) for name in numbers], dtype=float)
        return cls(tuple(numbers), array, apart)

    def __getitem__(self, name: str) -> Any:
        name = self._meant(name)
        if name in self.apart:
            return self.apart[name]
        place = _places(self.labels).get(name)
        if place is None or self.array is None:
            raise UnknownName(name, self.labels)
        return self.array[..., place]

    def _meant(self, name: str) -> str:
        while "@" in name and name not in self.apart:
            name = name.rpartition("@")[0]
        return name

    def __iter__(self) -> Iterator[str]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __contains__(self, name: object) -> bool:
        return name in _places(self.labels)

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"Numbers({', '.join(self)})"

    def known(self) -> dict[str, float]:
        """Return those that are numbers of one patient and not traced."""
        found = {name: self.apart.get(name) for name in self.labels}
        if self.array is not None and not isinstance(self.array, jax.core.Tracer) and self.array.ndim == 1:
            values = np.asarray(self.array).tolist()
            found = {name: self.apart.get(name, value) for name, value in zip(self.labels, values, strict=True)}
        kept = {name: x for name, x in found.items() if x is not None and not isinstance(x, jax.core.Tracer)}
        return {name: float(x) for name, x in kept.items() if np.ndim(x) == 0}

    def only(self, names: Sequence[str]) -> "Numbers":
        """Return those of some names."""
        inside = [name for name in names if name not in self.apart]
        if self.array is None or not inside:
            return Numbers(tuple(names), None, {name: self.apart[name] for name in names})
        places = _places(self.labels)
        array = self.array[..., np.array([places[name] for name in names], int)]
        return Numbers(tuple(names), array, {name: x for name, x in self.apart.items() if name in set(names)})

    def replaced(self, name: str, value: Any) -> "Numbers":
        """Return them with another value for a name: a number in place, anything else as a leaf of its own."""
        value = _strong(value)
        own = name in self.apart or name not in self
        if own or isinstance(value, jax.core.Tracer) or jnp.ndim(value) > 0 or self.array is None:
            return Numbers(self.labels, self.array, self.apart | {name: value})
        return Numbers(self.labels, self.array.at[_places(self.labels)[name]].set(value), self.apart)

    def taken(self, names: Sequence[str]) -> jax.Array:
        """Return some of the numbers as one array, shape (names,)."""
        places = _places(self.labels)
        names = [self._meant(name) for name in names]
        inside = [i for i, name in enumerate(names) if name not in self.apart]
        if len(inside) == len(names):
            return self.array[np.array([places[name] for name in names], int)]
        apart = [i for i, name in enumerate(names) if name in self.apart]
        own = jnp.stack([self.apart[names[i]] for i in apart])
        if not inside:
            return own
        order = np.argsort([*inside, *apart])
        return jnp.concatenate([self.array[np.array([places[names[i]] for i in inside], int)], own])[order]

    def tree_flatten(self) -> tuple:
        """Return the leaves."""
        return (self.array, self.apart), self.labels

    @classmethod
    def tree_unflatten(cls, labels: tuple[str, ...], leaves: tuple) -> "Numbers":
        """Return them from the leaves."""
        return cls(labels, *leaves)


@dataclasses.dataclass(frozen=True)
class _Elements:
    """The key of an array whose elements have names."""

    labels: tuple[str, ...]


@functools.lru_cache(maxsize=64)
def _places(labels: tuple[str, ...]) -> dict[str, int]:
    return {label: place for place, label in enumerate(labels)}


@dataclasses.dataclass(frozen=True)
class At(Generic[M]):
    """A leaf of a model, to be read (`get`) or replaced (`set`)."""

    model: M
    name: str

    def get(self) -> Any:
        """Return the value of the leaf."""
        path, index = _resolve(self.model, self.name)
        value = follow(self.model, path)
        return value if index is None else value[index]

    def set(self, value: Any) -> M:
        """Return a copy of the model with this leaf replaced, converted and checked as at construction."""
        path, index = _resolve(self.model, self.name)
        owner = follow(self.model, path[:-1])
        if index is not None:
            value = jnp.asarray(follow(owner, path[-1:])).at[index].set(value)
        if isinstance(owner, Numbers):
            new = owner.replaced(path[-1], value)
            return eqx.tree_at(lambda m: follow(m, path[:-1]), self.model, new, is_leaf=lambda x: x is owner)
        field = next(f for f in dataclasses.fields(owner) if f.name == path[-1])
        converter = field.metadata.get("converter", lambda x: x)
        new = eqx.tree_at(lambda m: follow(m, path), self.model, converter(value), is_leaf=lambda x: x is None)
        _check_again(new, path[:-1])
        return new


def at(model: M, name: str) -> At[M]:
    """Address one parameter of a model by its dotted name.

    Args:
        model: Any equinox module.
        name: The dotted name, as `names(model)` lists it; `k[2]` is an element of an array.

    Raises:
        ValueError: If the model has no parameter of that name.

    Example:
        >>> import qspjax as qsp
        >>> patient = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> float(qsp.at(patient, "CL").set(6.0).CL)
        6.0
    """
    _resolve(model, name)
    return At(model, name)


def leaf_names(state: Any) -> list[tuple[str, ...]]:
    """Name the elements of each leaf of a state, in the order of its leaves."""
    result = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        labels = path[-1].labels if path and isinstance(path[-1], _Elements) else None
        keys = path if labels is None else path[:-1]
        parts = [str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in keys]
        if labels is not None:
            result.append(tuple(".".join([*parts, label]) for label in labels))
            continue
        name = ".".join(parts) or "y"
        size = int(jnp.size(leaf))
        result.append((name,) if jnp.ndim(leaf) == 0 else tuple(f"{name}[{i}]" for i in range(size)))
    return result


def state_names(state: Any) -> tuple[str, ...]:
    """Name every element of a state, in the order of its leaves."""
    return tuple(name for leaf in leaf_names(state) for name in leaf)


def match(name: str | int, candidates: tuple[str, ...], argument: str, what: str) -> int:
    """Find a name among candidates: exact, by number from 1 (NONMEM's CMT), or by its last part if that is unique."""
    if isinstance(name, int) and not isinstance(name, bool):
        if 1 <= name <= len(candidates):
            return name - 1
        refuse(argument, f"be a compartment number from 1 to {len(candidates)}", name)
    if name in candidates:
        return candidates.index(name)
    ends = [i for i, candidate in enumerate(candidates) if candidate.split(".")[-1] == name]
    if len(ends) != 1:
        check_one_of(argument, name, candidates, what)
    return ends[0]


def in_full(name: str, states: tuple[str, ...]) -> str:
    """Return the full name of the one state that a name or its last part means; any other name as it is."""
    ends = [state for state in states if state.split(".")[-1] == name]
    return ends[0] if name not in states and len(ends) == 1 else name


def follow(module: Any, path: Iterable[str]) -> Any:
    """Return what lies at the end of a path of attributes, and keys of tables."""
    for attribute in path:
        module = module[attribute] if isinstance(module, Mapping) else getattr(module, attribute)
    return module


def path_of(model: eqx.Module, name: str) -> tuple[str, ...]:
    """Return the path of attributes and keys that leads to a parameter, whatever stands in its place."""
    for field in dataclasses.fields(model):
        if "table" in field.metadata and name in getattr(model, field.name):
            return field.name, name
    head, dot, rest = name.partition(".")
    return (head, *path_of(getattr(model, head), rest)) if dot else (head,)


def _strong(value: Any) -> Any:
    return jnp.asarray(value, dtype=float) if eqx.is_array_like(value) or isinstance(value, (list, tuple)) else value


def _meaning(model: eqx.Module, path: tuple[str, ...], owner: Any, field: dataclasses.Field) -> tuple[str, str, str]:
    if isinstance(owner, Numbers):
        return field.metadata["table"](follow(model, path[:-2]), path[-1])
    return tuple(field.metadata.get(key, "") for key in ("unit", "doc", "source"))


def _leaves(module: eqx.Module, prefix: str = "", path: tuple[str, ...] = ()) -> Iterator[tuple]:
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        name, here = prefix + field.name, (*path, field.name)
        if field.metadata.get("static", False):
            continue
        if "table" in field.metadata:
            yield from ((prefix + key, (*here, key), value, field) for key in value)
        elif isinstance(value, eqx.Module):
            yield from _leaves(value, name + ".", here)
        elif eqx.is_array_like(value) or value is None:
            yield name, here, module, field


def _resolve(model: eqx.Module, name: str) -> tuple[tuple[str, ...], int | None]:
    paths = {leaf: path for leaf, path, *_ in _leaves(model)}
    if name in paths:
        return paths[name], None
    stem, bracket, rest = name.partition("[")
    index = int(rest[:-1]) if bracket and rest.endswith("]") and rest[:-1].isdigit() else None
    if index is not None and stem in paths and index < jnp.size(follow(model, paths[stem])):
        return paths[stem], index
    now = name.partition("@")[0]
    if now in paths and isinstance(follow(model, paths[now][:-1]), Numbers):
        return (*paths[now][:-1], paths[now][-1] + name.removeprefix(now)), None
    check_one_of("name", name, paths, "a parameter of the model")
    raise AssertionError("unreachable")


def _check_again(model: eqx.Module, path: tuple[str, ...]) -> None:
    for depth in range(len(path), -1, -1):
        owner = follow(model, path[:depth])
        for parent in type(owner).__mro__:
            if "__check_init__" in vars(parent):
                vars(parent)["__check_init__"](owner)
