"""Names of leaves: the one place that defines how a leaf of a tree is named.

A parameter of a model has a dotted name (`CL`, `liver.CLint`), an element of an array leaf ends in its index (`k[2]`).
The states of a model are named the same way from the tree that `initial` returns. A model that is known only at run
time has its numbers in a `table` and its states in a `LabelledState`: their names are the keys and the labels.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from qspjax._checks import check_no_unit, check_one_of, in_a_row, refuse
from qspjax._tables import ElementsKey, ParameterTable
from qspjax._types import State

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
        One `Name` per parameter, with `name`, `value`, `unit`, `doc` and `source`.

    Example:
        >>> import qspjax as qsp
        >>> [(p.name, p.unit) for p in qsp.names(qsp.models.OneCompartment(CL=3.0, V=30.0))]
        [('CL', 'L/h'), ('V', 'L')]
    """
    return tuple(
        Name(name, follow(owner, path[-1:]), *_meaning(model, path, owner, field))
        for name, path, owner, field in _leaves(model)
    )


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
        check_no_unit(self.name, value)
        path, index = _resolve(self.model, self.name)
        owner = follow(self.model, path[:-1])
        if index is not None:
            value = jnp.asarray(follow(owner, path[-1:])).at[index].set(value)
        if isinstance(owner, ParameterTable):
            new = owner.with_value(path[-1], value)
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


def leaf_names(state: State) -> list[tuple[str, ...]]:
    """Name the elements of each leaf of a state, in the order of its leaves."""
    result = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        labels = path[-1].labels if path and isinstance(path[-1], ElementsKey) else None
        keys = path if labels is None else path[:-1]
        parts = [str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in keys]
        if labels is not None:
            result.append(tuple(".".join([*parts, label]) for label in labels))
            continue
        name = ".".join(parts) or "y"
        shape = getattr(leaf, "shape", None)
        shape = np.shape(leaf) if shape is None else shape
        result.append((name,) if not shape else tuple(f"{name}[{i}]" for i in range(math.prod(shape))))
    return result


def state_names(state: State) -> tuple[str, ...]:
    """Name every element of a state, in the order of its leaves."""
    return tuple(name for leaf in leaf_names(state) for name in leaf)


def match(name: str | int, candidates: tuple[str, ...], argument: str, description: str) -> int:
    """Find a name among candidates: exact, by number from 1 (NONMEM's CMT), or by its last part if that is unique."""
    if isinstance(name, int) and not isinstance(name, bool):
        if 1 <= name <= len(candidates):
            return name - 1
        numbered = in_a_row(f"{number} {candidate}" for number, candidate in enumerate(candidates, 1))
        refuse(argument, f"be a compartment number from 1 to {len(candidates)} ({numbered})", name)
    if name in candidates:
        return candidates.index(name)
    ends = [i for i, candidate in enumerate(candidates) if candidate.split(".")[-1] == name]
    if len(ends) != 1:
        check_one_of(argument, name, candidates, description)
    return ends[0]


def in_full(name: str, states: tuple[str, ...]) -> str:
    """Return the full name of the only state whose last part is `name`; any other name unchanged."""
    ends = [state for state in states if state.split(".")[-1] == name]
    return ends[0] if name not in states and len(ends) == 1 else name


def follow(module: Any, path: Iterable[str | int]) -> Any:
    """Return the value at the end of a path of attributes, of keys of tables and of numbers in sequences."""
    for step in path:
        module = module[step] if isinstance(step, int) or isinstance(module, Mapping) else getattr(module, step)
    return module


def path_of(model: eqx.Module, name: str) -> tuple[str, ...]:
    """Return the path of attributes and keys that leads to a parameter, whatever its value is."""
    for field in dataclasses.fields(model):
        if {"table", "parts"} & {*field.metadata} and name in getattr(model, field.name):
            return field.name, name
    head, dot, tail = name.partition(".")
    first = next((path for path in part_paths(model) if path[-1] == head), (head,))
    return (*first, *path_of(follow(model, first), tail)) if dot else first


def part_paths(model: eqx.Module) -> Iterator[tuple[str, str]]:
    """Yield the paths of modules that stand in a dict, `functions["uptake"]`."""
    for field in dataclasses.fields(model):
        if "parts" in field.metadata:
            yield from ((field.name, key) for key in getattr(model, field.name))


def _meaning(model: eqx.Module, path: tuple[str, ...], owner: object, field: dataclasses.Field) -> tuple[str, str, str]:
    if isinstance(owner, ParameterTable):
        return field.metadata["table"](follow(model, path[:-2]), path[-1])
    return tuple(field.metadata.get(key, "") for key in ("unit", "doc", "source"))


def _leaves(module: eqx.Module, prefix: str = "", path: tuple[str, ...] = ()) -> Iterator[tuple]:
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        name, field_path = prefix + field.name, (*path, field.name)
        if field.metadata.get("static", False):
            continue
        if "table" in field.metadata:
            yield from ((prefix + key, (*field_path, key), value, field) for key in value)
        elif "parts" in field.metadata:
            for key, part in value.items():
                yield from _leaves(part, f"{prefix}{key}.", (*field_path, key))
        elif isinstance(value, eqx.Module):
            yield from _leaves(value, name + ".", field_path)
        elif eqx.is_array_like(value) or value is None:
            yield name, field_path, module, field


def _resolve(model: eqx.Module, name: str) -> tuple[tuple[str, ...], int | None]:
    paths = {leaf: path for leaf, path, *_ in _leaves(model)}
    if name in paths:
        return paths[name], None
    stem, bracket, suffix = name.partition("[")
    index = int(suffix[:-1]) if bracket and suffix.endswith("]") and suffix[:-1].isdigit() else None
    if index is not None and stem in paths and index < jnp.size(follow(model, paths[stem])):
        return paths[stem], index
    current = name.partition("@")[0]
    if current in paths and isinstance(follow(model, paths[current][:-1]), ParameterTable):
        return (*paths[current][:-1], paths[current][-1] + name.removeprefix(current)), None
    check_one_of("name", name, paths, "a parameter of the model")
    raise AssertionError("unreachable")


def _check_again(model: eqx.Module, path: tuple[str, ...]) -> None:
    for depth in range(len(path), -1, -1):
        owner = follow(model, path[:depth])
        for parent in type(owner).__mro__:
            if "__check_init__" in vars(parent):
                vars(parent)["__check_init__"](owner)
