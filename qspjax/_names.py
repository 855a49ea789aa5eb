"""Names of leaves: the one place that knows how a leaf of a tree is called.

A parameter of a model has a dotted name (`CL`, `liver.CLint`), an element of an array leaf ends in its index (`k[2]`).
The states of a model are named the same way from the tree that `initial` returns.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from qspjax._checks import check_one_of, refuse

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
        Name(name, getattr(owner, field.name), *(field.metadata.get(key, "") for key in ("unit", "doc", "source")))
        for name, _, owner, field in _leaves(model)
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
        path, index = _resolve(self.model, self.name)
        owner = follow(self.model, path[:-1])
        field = next(f for f in dataclasses.fields(owner) if f.name == path[-1])
        if index is not None:
            value = jnp.asarray(getattr(owner, path[-1])).at[index].set(value)
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
        parts = (str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path)
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


def follow(module: Any, path: Iterable[str]) -> Any:
    """Return what lies at the end of a path of attributes."""
    for attribute in path:
        module = getattr(module, attribute)
    return module


def _leaves(module: eqx.Module, prefix: str = "", path: tuple[str, ...] = ()) -> Iterator[tuple]:
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        name, here = prefix + field.name, (*path, field.name)
        if field.metadata.get("static", False):
            continue
        if isinstance(value, eqx.Module):
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
    check_one_of("name", name, paths, "a parameter of the model")
    raise AssertionError("unreachable")


def _check_again(model: eqx.Module, path: tuple[str, ...]) -> None:
    for depth in range(len(path), -1, -1):
        owner = follow(model, path[:depth])
        for parent in type(owner).__mro__:
            if "__check_init__" in vars(parent):
                vars(parent)["__check_init__"](owner)
