"""The formulas of a fit: what they depend on, and their values."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import cast

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from qspjax._expression import Expression, as_number, evaluate, functions_in, symbols
from qspjax.fit._types import Number

NOW = " now"
"""The end of the name of a parameter that stands for the value it has when a formula is evaluated."""


class Named(Mapping[str, "jax.Array | Callable"]):
    """Numbers by name: those of an array, which are taken out of it when they are asked for; and functions.

    Attributes:
        numbers: The array; its first numbers have names.
        functions: The functions that formulas call.
    """

    def __init__(
        self,
        names: Sequence[str],
        numbers: Float[Array, " numbers"],
        functions: Mapping[str, Callable] = MappingProxyType({}),
    ) -> None:
        self.numbers, self.functions = numbers, functions
        self._places = {name: place for place, name in enumerate(names)}

    def __getitem__(self, name: str) -> Float[Array, ""] | Callable:
        return self.functions[name] if name in self.functions else self.numbers[self._places[name]]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._places, *self.functions))

    def __len__(self) -> int:
        return len(self._places) + len(self.functions)


def gathered(numbers: Float[Array, " numbers"], places: Sequence[Int[np.ndarray, "..."]]) -> list[Float[Array, "..."]]:
    """Return the numbers at several arrays of places, taken at once: a program with one operation for each is long."""
    if not places:
        return []
    taken = numbers.at[np.concatenate([np.ravel(place) for place in places])].get(mode="promise_in_bounds")
    ends = np.cumsum([place.size for place in places])
    return [
        taken[end - place.size : end].reshape(place.shape) for end, place in zip(ends.tolist(), places, strict=True)
    ]


def names_in(*formulas: float | Expression) -> frozenset[str]:
    """Return the names that formulas use."""
    return frozenset().union(*(symbols(formula) for formula in formulas if isinstance(formula, Expression)))


def called_by(*formulas: float | Expression) -> tuple[str, ...]:
    """Return the names of the functions that formulas call."""
    return functions_in(*(formula for formula in formulas if isinstance(formula, Expression)))


def value_of(formula: float | Expression, known: Mapping[str, Number | Callable], time: Number = 0.0) -> Number:
    """Return the value of a formula; arrays are combined element by element."""
    if not isinstance(formula, Expression):
        return formula
    (value,) = evaluate([formula], known, time)
    return cast(Number, as_number(value))
