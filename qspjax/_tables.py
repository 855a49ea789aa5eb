"""Tables whose names are known only at run time: states with labels, parameters by name, and what is observed."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PyTree

from qspjax._arrays import device_floats
from qspjax._checks import check_one_of, concrete, did_you_mean, in_a_row


@jax.tree_util.register_pytree_with_keys_class
class LabelledState:
    """A state whose names are known only at run time: a number for each label, or one array whose elements have labels.

    Args:
        labels: The names of the states.
        values: A tuple of numbers, or one array whose last axis is that of the labels.

    Example:
        >>> from qspjax._names import state_names
        >>> state_names(LabelledState(("drug", "target"), jnp.zeros(2)))
        ('drug', 'target')
        >>> LabelledState(("drug", "target"), (1.0, 2.0))["target"]
        2.0
    """

    __slots__ = ("labels", "values")

    def __init__(self, labels: tuple[str, ...], values: Any) -> None:
        """Store the labels and the values."""
        self.labels, self.values = labels, values

    def __getitem__(self, label: str) -> Any:
        indices = _indices(self.labels)
        if label not in indices:
            check_one_of("label", label, self.labels, "a state")
        index = indices[label]
        return self.values[index] if isinstance(self.values, tuple) else self.values[..., index]

    def __repr__(self) -> str:
        return f"LabelledState({self.labels!r}, {self.values!r})"

    def tree_flatten_with_keys(self) -> tuple:
        """Return the leaves, each with the key that names it."""
        if isinstance(self.values, tuple):
            keys = map(jax.tree_util.GetAttrKey, self.labels)
            return tuple(zip(keys, self.values, strict=True)), (self.labels, True)
        return ((ElementsKey(self.labels), self.values),), (self.labels, False)

    @classmethod
    def tree_unflatten(cls, kind: tuple, leaves: Iterable[PyTree]) -> "LabelledState":
        """Return it from its leaves."""
        labels, separate = kind
        return cls(labels, tuple(leaves) if separate else next(iter(leaves)))


@jax.tree_util.register_pytree_node_class
class ByName(dict):
    """A dict whose error for an unknown name lists the names it has.

    Example:
        >>> ByName({"concentration": 1.0})["concentraton"]
        Traceback (most recent call last):
        ...
        qspjax._tables.UnknownName: There is no `concentraton` among: concentration. Did you mean `concentration`?
    """

    def __missing__(self, name: object) -> NoReturn:
        raise UnknownName(name, self)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            """Say how a value is asked for by its name."""
            hint = f"; write `[{name!r}]`" if name in self else ""
            raise AttributeError(f"a table of values by name has no attribute `{name}`{hint}.")

    def tree_flatten(self) -> tuple:
        """Return the values."""
        return tuple(self.values()), tuple(self)

    @classmethod
    def tree_unflatten(cls, names: tuple, values: Iterable[PyTree]) -> "ByName":
        """Return it from its values."""
        return cls(zip(names, values, strict=True))


class UnknownName(KeyError, ValueError):
    """A name that is not among the names of a table."""

    def __init__(self, name: object, known: Iterable[object]) -> None:
        """Compose the message."""
        known = list(known)
        message = f"There is no `{name}` among: {in_a_row(known) or 'nothing'}.{did_you_mean(name, known)}"
        super().__init__(message)

    def __str__(self) -> str:
        return self.args[0]


@jax.tree_util.register_pytree_node_class
class ParameterTable(Mapping):
    """Numbers by name: a leaf each where there are few, else one array and a leaf for each that has been replaced.

    Args:
        labels: The names.
        array: One array, whose last axis is that of the labels; None if each is a leaf of its own.
        overrides: Numbers that are leaves of their own; the array's elements of these names mean nothing.

    What `x` was some time ago, `x@1`, is not a separate number: it is `x`, unless it has been replaced.

    Example:
        >>> numbers = ParameterTable.of({"kon": 0.1, "koff": 0.2})
        >>> float(numbers["koff"]), [*numbers]
        (0.2, ['kon', 'koff'])
    """

    SEPARATE: ClassVar[int] = 100
    """Up to this many numbers, each is a leaf of its own."""

    def __init__(self, labels: tuple[str, ...], array: Any, overrides: dict[str, Any]) -> None:
        """Store the numbers."""
        self.labels, self.array, self.overrides = labels, array, overrides

    @classmethod
    def of(cls, numbers: Mapping[str, Any]) -> "ParameterTable":
        """Return numbers from a mapping."""
        if len(numbers) <= cls.SEPARATE:
            return cls(tuple(numbers), None, {name: _strong(value) for name, value in numbers.items()})
        values = {name: concrete(value) for name, value in numbers.items()}
        plain = {name: value.item() for name, value in values.items() if value is not None and value.ndim == 0}
        overrides = {name: _strong(value) for name, value in numbers.items() if name not in plain}
        array = jnp.asarray([plain.get(name, 0.0) for name in numbers], dtype=float)
        return cls(tuple(numbers), array, overrides)

    def __getitem__(self, name: str) -> Any:
        name = self._present(name)
        if name in self.overrides:
            return self.overrides[name]
        index = _indices(self.labels).get(name)
        if index is None or self.array is None:
            raise UnknownName(name, self.labels)
        return self.array[..., index]

    def _present(self, name: str) -> str:
        """Return the name of the number that a name of the past, `x@1`, stands for."""
        while "@" in name and name not in self.overrides:
            name = name.rpartition("@")[0]
        return name

    def __iter__(self) -> Iterator[str]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __contains__(self, name: object) -> bool:
        return name in _indices(self.labels)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"ParameterTable({', '.join(self)})"

    def concrete_values(self) -> dict[str, float]:
        """Return the values that are numbers of one patient and not traced."""
        values: dict[str, Any] = dict.fromkeys(self.labels)
        if self.array is not None and not isinstance(self.array, Tracer) and self.array.ndim == 1:
            values = dict(zip(self.labels, np.asarray(self.array).tolist(), strict=True))
        values |= {name: value for name, value in self.overrides.items() if name in values}
        untraced = {name: x for name, x in values.items() if x is not None and not isinstance(x, Tracer)}
        return {name: float(x) for name, x in untraced.items() if np.ndim(x) == 0}

    def select(self, names: Sequence[str]) -> "ParameterTable":
        """Return the table of some of the names."""
        overrides = {name: self.overrides[name] for name in names if name in self.overrides}
        if self.array is None or len(overrides) == len(names):
            return ParameterTable(tuple(names), None, overrides)
        return ParameterTable(tuple(names), self.array[..., self._indices_of(names)], overrides)

    def with_value(self, name: str, value: Any) -> "ParameterTable":
        """Return the table with another value for a name: a number in the array, anything else as a leaf of its own."""
        value = _strong(value)
        separate = name in self.overrides or name not in self
        if separate or isinstance(value, Tracer) or jnp.ndim(value) > 0 or self.array is None:
            return ParameterTable(self.labels, self.array, self.overrides | {name: value})
        return ParameterTable(self.labels, self.array.at[_indices(self.labels)[name]].set(value), self.overrides)

    def gather(self, names: Sequence[str]) -> Float[Array, " names"]:
        """Return some of the numbers as one array."""
        names = [self._present(name) for name in names]
        inside = [i for i, name in enumerate(names) if name not in self.overrides]
        if len(inside) == len(names) and self.array is not None:
            return self.array[self._indices_of(names)]
        outside = [i for i, name in enumerate(names) if name in self.overrides]
        overrides = jnp.stack([self.overrides[names[i]] for i in outside])
        if not inside or self.array is None:
            return overrides
        order = np.argsort([*inside, *outside])
        return jnp.concatenate([self.array[self._indices_of([names[i] for i in inside])], overrides])[order]

    def _indices_of(self, names: Sequence[str]) -> Int[np.ndarray, " names"]:
        indices = _indices(self.labels)
        return np.array([indices[name] for name in names], int)

    def tree_flatten(self) -> tuple:
        """Return the leaves."""
        return (self.array, self.overrides), self.labels

    @classmethod
    def tree_unflatten(cls, labels: tuple[str, ...], leaves: tuple) -> "ParameterTable":
        """Return the table from its leaves."""
        return cls(labels, *leaves)


@dataclasses.dataclass(frozen=True)
class ElementsKey:
    """The key of an array whose elements have names."""

    labels: tuple[str, ...]


@functools.lru_cache(maxsize=64)
def _indices(labels: tuple[str, ...]) -> dict[str, int]:
    return {label: index for index, label in enumerate(labels)}


def _strong(value: Any) -> Any:
    return device_floats(value) if eqx.is_array_like(value) or isinstance(value, (list, tuple)) else value


def table(describe: Callable[[Any, str], tuple[str, str, str]]) -> Any:
    """Declare a field that holds `ParameterTable`; each has its key as its name.

    Args:
        describe: Returns the unit, the meaning and the source of a number, `(module, key) -> (unit, doc, source)`.
    """
    return eqx.field(metadata={"table": describe})


def parts() -> Any:
    """Declare a field that holds a dict of modules; each has its key as its name."""
    return eqx.field(metadata={"parts": True})
