"""What native code reads and writes: arrays of XLA, and a frame with a row of lanes for every number."""

import abc
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from qspjax.solve.kernel._lanes import Patients
from qspjax.solve.native._graph import Region
from qspjax.solve.native._text import Writer
from qspjax.solve.native._translate import Translator
from qspjax.solve.native._values import Nodes, Value, kind_of

CONTEXT = ("patients", "outputs", "boundaries", "vectors", "counter", "begun", "interrupts", "heard")
"""What the context holds, 8 bytes each, before the addresses of the operands and of the results."""


class Axis(NamedTuple):
    """An axis of a buffer that a handler is called with.

    Attributes:
        result: Whether the buffer is a result, or an operand.
        number: Which of them.
        axis: Which of its axes.
    """

    result: bool
    number: int
    axis: int


class Rows(NamedTuple):
    """The rows of an array in the frame, and the type of its elements.

    Of an array that all patients share, of so many elements, it may be one row, which holds the address.
    """

    first: int
    size: int
    dtype: np.dtype
    shared: int = 0


def rows_of(leaf: object) -> Rows:
    """Return the rows that stand for an array in the frame of a `Text`."""
    assert isinstance(leaf, Rows)
    return leaf


def all_rows(leaves: PyTree) -> list[Rows]:
    """Return all rows in a part of the frame of a `Text`."""
    return jax.tree.leaves(leaves, is_leaf=lambda x: isinstance(x, Rows))


def nodes(translator: Translator, rows: PyTree, shapes: Sequence[tuple[int, ...]]) -> list[Value]:
    """Return the nodes of rows of the frame, in the shapes of what they hold."""

    def ids(row: Rows) -> np.ndarray:
        if row.shared:
            return translator.shared(row.first, row.shared)
        return translator.inputs(row.size, row.dtype, row.first)

    return [Nodes(ids(row).reshape(shape), row.dtype) for row, shape in zip(all_rows(rows), shapes, strict=True)]


def region_of(translator: Translator, results: PyTree) -> Region:
    """Return a region with the elements of some values as outputs."""
    outputs = [i for x in jax.tree.leaves(results) for i in translator.ids(x).ravel().tolist()]
    return Region(translator.graph, [*outputs, *translator.effects])


class AbstractModule(abc.ABC):
    """The text of a module that moves numbers between arrays and the rows of a frame.

    Attributes:
        w: Its lines.
        size: The number of rows.
        operands: The number of arrays that it reads.
        results: The names of the arrays that it writes.
    """

    operands: int
    results: tuple[str, ...] = ()

    def __init__(self, lanes: int) -> None:
        self.w, self.size = Writer(lanes), 0

    @property
    @abc.abstractmethod
    def lengths(self) -> Mapping[str, Axis | None]:
        """By field of the context the axis of an array whose length it is."""

    @property
    def text(self) -> str:
        """The text."""
        return self.w.module()

    def new_rows(self, leaf: jax.ShapeDtypeStruct | jax.Array) -> Rows:
        """Reserve the rows of an array."""
        count = int(np.prod(leaf.shape, dtype=int))
        self.size += count
        return Rows(self.size - count, count, np.dtype(leaf.dtype))

    def shared_row(self, leaf: jax.ShapeDtypeStruct | jax.Array) -> Rows:
        """Reserve the row of the address of an array that all patients share."""
        row = self.new_rows(jax.ShapeDtypeStruct((1,), np.int64))
        return Rows(row.first, 1, np.dtype(leaf.dtype), int(np.prod(leaf.shape, dtype=int)))

    def field(self, name: str | int, type: str = "i64") -> str:
        """Load a field of the context; a number is that of an operand."""
        return self.w.op(f"load {type}, ptr {self.w.at('i64', '%ctx', self.place(name))}")

    def place(self, name: str | int) -> int:
        """Return where a field of the context is."""
        if isinstance(name, int):
            return len(CONTEXT) + name
        return CONTEXT.index(name) if name in CONTEXT else len(CONTEXT) + self.operands + self.results.index(name)

    def cell(self, row: int | str, lane: str = "%lane") -> str:
        """Return the address of a number of a lane."""
        base = self.w.mul(row, self.w.lanes) if isinstance(row, str) else row * self.w.lanes
        return self.w.at("i64", "%frame", self.w.add(base, lane))

    def get(self, rows: Rows) -> str:
        """Return an integer of a lane."""
        return self.w.op(f"load i64, ptr {self.cell(rows.first)}")

    def copy_in(self, array: str, offset: str, rows: Rows, lane: str = "%lane") -> None:
        """Copy elements of an array into rows."""
        w, (type, into, widen) = self.w, element_of(rows.dtype)

        def element(k: str) -> None:
            x = w.op(f"load {type}, ptr {w.at(type, array, w.add(offset, k))}")
            x = w.op(f"{widen} {type} {x} to {into}") if widen else x
            w.put(f"  store {into} {x}, ptr {self.cell(w.add(k, rows.first), lane)}")

        w.repeat(rows.size, element)

    def copy_out(self, array: str, offset: str, rows: Rows, lane: str = "%lane") -> None:
        """Copy rows into elements of an array."""
        w, (type, into, widen) = self.w, element_of(rows.dtype)
        narrow = {"fpext": "fptrunc", "sext": "trunc", "zext": "trunc"}.get(widen or "")

        def element(k: str) -> None:
            x = w.op(f"load {into}, ptr {self.cell(w.add(k, rows.first), lane)}")
            x = w.op(f"{narrow} {into} {x} to {type}") if narrow else x
            w.put(f"  store {type} {x}, ptr {w.at(type, array, w.add(offset, k))}")

        w.repeat(rows.size, element)

    def add_out(self, array: str, offset: str, rows: Rows, lane: str = "%lane") -> None:
        """Add rows to elements of an array."""
        w, type = self.w, "double" if rows.dtype == np.float64 else "float"

        def element(k: str) -> None:
            x = w.op(f"load double, ptr {self.cell(w.add(k, rows.first), lane)}")
            x = x if type == "double" else w.op(f"fptrunc double {x} to float")
            place = w.at(type, array, w.add(offset, k))
            total = w.op(f"fadd {type} {w.op(f'load {type}, ptr {place}')}, {x}")
            w.put(f"  store {type} {total}, ptr {place}")

        w.repeat(rows.size, element)


def lengths_of(patients: Patients, number: Mapping[int, int]) -> dict[str, Axis | None]:
    """Return by field of the context the axis of an array of patients whose length it is.

    Args:
        patients: Their shapes.
        number: The number of the operand that each of them is, by its `id`.
    """
    time, vectors = patients.boundaries.time, patients.vectors
    places: dict[str, Axis | None] = {"vectors": None}
    places["boundaries"] = Axis(False, number[id(time)], len(time.shape) - 1)
    if vectors is not None:
        places["vectors"] = Axis(False, number[id(vectors)], len(vectors.shape) - 2)
    return places


def element_of(dtype: np.dtype) -> tuple[str, str, str | None]:
    """Return the type of an element in memory, of its row, and how it is widened."""
    if dtype == np.float64:
        return "double", "double", None
    if dtype == np.float32:
        return "float", "double", "fpext"
    kind_of(dtype)
    if dtype == np.bool_:
        return "i8", "i64", "sext"
    size = f"i{8 * dtype.itemsize}"
    return size, "i64", None if size == "i64" else "sext" if dtype.kind == "i" else "zext"
