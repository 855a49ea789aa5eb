"""The formulas of a fit: what they depend on, and their values."""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from qspjax._expression import Expression, as_number, evaluate, symbols
from qspjax.fit._types import Number

NOW = " now"
"""The end of the name of a parameter that stands for the value it has when a formula is evaluated."""


class Named(Mapping[str, jax.Array]):
    """Numbers by name: those of an array, which are taken out of it when they are asked for.

    Attributes:
        numbers: The array; its first numbers have names.
    """

    def __init__(self, names: Sequence[str], numbers: Float[Array, " numbers"]) -> None:
        self.numbers, self._places = numbers, {name: place for place, name in enumerate(names)}

    def __getitem__(self, name: str) -> Float[Array, ""]:
        return self.numbers[self._places[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


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


def value_of(formula: float | Expression, known: Mapping[str, Number], time: Number = 0.0) -> Number:
    """Return the value of a formula; arrays are combined element by element."""
    if not isinstance(formula, Expression):
        return formula
    (value,) = evaluate([formula], known, time)
    return cast(Number, as_number(value))
