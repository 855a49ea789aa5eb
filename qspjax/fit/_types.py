"""The types that appear in the signatures of fits."""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
from jaxtyping import Array, Float, Real

Data = TypeVar("Data", Array, np.ndarray)
"""Arrays of JAX while a program is traced, arrays of numpy where its results are kept."""

Point: TypeAlias = Real[Array, " parameters"] | Real[np.ndarray, " parameters"] | Sequence[float]
"""A point of a search: one number for each parameter that is estimated, on the scale of the search."""

Vector: TypeAlias = Float[Array, " parameters"]
"""A point as an array, which may be traced."""

Number: TypeAlias = Array | np.ndarray | np.number | float | int
"""A number, or an array of them."""

Table: TypeAlias = dict[str, np.ndarray]
"""Columns by name, all of one length."""

Numbers: TypeAlias = npt.ArrayLike | Sequence[float | int | None] | float | int
"""Numbers as users write them: an array, a list, a column of a data frame; None is a missing one."""


@runtime_checkable
class Columns(Protocol):
    """Columns by name: a dictionary, or a data frame of pandas."""

    def __getitem__(self, name: str, /) -> npt.ArrayLike: ...

    def get(self, name: str, /) -> npt.ArrayLike | None: ...

    def __iter__(self) -> Iterator[str]: ...
