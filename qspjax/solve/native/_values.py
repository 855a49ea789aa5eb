"""Values of a program while it is translated: in numpy what is known, and arrays of nodes for the rest."""

import abc
from typing import TypeAlias

import numpy as np

from qspjax.solve.native._graph import Kind


class UnsupportedError(Exception):
    """The reason for which a program is not translated."""


class AbstractNodes(abc.ABC):
    """An array of nodes: what is known only when the program runs.

    Attributes:
        dtype: The type of its elements.
    """

    dtype: np.dtype

    @property
    @abc.abstractmethod
    def ids(self) -> np.ndarray:
        """The nodes."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""

    @property
    @abc.abstractmethod
    def parts(self) -> "list[Nodes]":
        """What it is made of, as a result of a function."""


class Nodes(AbstractNodes):
    """An array of nodes that are there."""

    def __init__(self, ids: np.ndarray, dtype: np.dtype) -> None:
        self._ids, self.dtype = ids, dtype

    @property
    def ids(self) -> np.ndarray:
        """The nodes."""
        return self._ids

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self._ids.shape

    @property
    def parts(self) -> "list[Nodes]":
        """Itself."""
        return [self]


Value: TypeAlias = AbstractNodes | np.ndarray


def kind_of(dtype: np.dtype) -> Kind:
    """Return the kind of the nodes of an array."""
    if dtype == np.bool_:
        return "bool"
    if np.issubdtype(dtype, np.integer):
        return "int"
    if dtype in (np.float64, np.float32):
        return "float"
    raise UnsupportedError(f"values of type {dtype}")
