"""Elementwise arithmetic on long arrays in memory, as loops over their rows.

Written out, every row would be code of its own, and what compiles it needs more than linear time. So what is done
alike to every row of the frame, or of the results of a function, is collected, and written as one loop when it is
needed: the rows of many arrays go in, and those of one come out.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qspjax.solve.native._graph import Argument, Graph, Kind, Node, Shared
from qspjax.solve.native._values import AbstractNodes, Nodes, Value

LONG = 24
"""Arrays of more elements are computed in loops."""


class Place(NamedTuple):
    """Where in memory an array begins: its first node, an input or a result."""

    op: str
    args: tuple[int, ...]
    first: int | Shared | Argument
    kind: Kind


class RowLoop(NamedTuple):
    """What a loop computes of every row.

    Attributes:
        graph: The operations on a row.
        output: The node of its result.
        length: The number of rows.
        outer: The nodes outside that it reads, in their order.
    """

    graph: Graph
    output: int
    length: int
    outer: tuple[int, ...]


class RowArithmetic:
    """The operations on rows that are collected, for arrays of each length."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._graphs: dict[int, Graph] = {}
        self._written: dict[tuple[int, int], np.ndarray] = {}

    def source(self, ids: np.ndarray) -> Place | None:
        """Return where in memory the elements of an array stand one after the other, None if they do not."""
        nodes = self.graph.nodes
        flat = ids.ravel()
        first, last = nodes[int(flat[0])], nodes[int(flat[-1])]
        if first.op not in ("in", "result", "shared", "arg") or last != _shifted(first, len(flat) - 1):
            return None
        if first.op == "result" and nodes[first.args[0]].op not in ("call", "rows", "routine"):
            return None
        for k, i in enumerate(flat.tolist()):
            if nodes[i] != _shifted(first, k):
                return None
        attr = first.attr
        return Place(
            first.op, first.args, attr if isinstance(attr, (Shared, Argument)) else first.attr_as(int), first.kind
        )

    def operand(self, value: Value, count: int) -> int | None:
        """Return the node of an operand in the graph of a row, None if it has none."""
        graph = self._graphs.setdefault(count, Graph(sparse=self.graph.sparse))
        if isinstance(value, Pending):
            return value.index if value.count == count else None
        if isinstance(value, AbstractNodes):
            if value.ids.size == 1:
                i = int(value.ids.ravel()[0])
                node = self.graph.nodes[i]
                return graph.node(*node) if node.op == "const" else graph.node("outer", (), i, node.kind)
            source = self.source(value.ids) if value.ids.size == count else None
            return None if source is None else graph.node("row", (), source, source.kind)
        values = np.asarray(value)
        if values.size == 1 or (values.ravel() == values.ravel()[0]).all():
            return graph.const(values.ravel()[0].item())
        if values.size != count or values.dtype == bool:
            return None
        if np.issubdtype(values.dtype, np.integer):
            return graph.node("index", (), None, "int") if (values.ravel() == np.arange(count)).all() else None
        return graph.node("table", (), tuple(values.ravel().tolist()))

    def make(self, op: str, operands: Sequence[int], count: int) -> int:
        """Return the node of an operation in the graph of a row."""
        return self._graphs[count].make(op, *operands)

    def kind(self, index: int, count: int) -> str:
        """Return the kind of a node in the graph of a row."""
        return self._graphs[count].kind(index)

    def write(self, index: int, count: int) -> np.ndarray:
        """Return the nodes of an array that was collected, as results of a loop."""
        key = index, count
        if key not in self._written:
            inside = self._graphs[count]
            outer: dict[int, None] = {}
            for i in inside.needed([index]):
                node = inside.nodes[i]
                if node.op == "outer":
                    outer[node.attr_as(int)] = None
                elif node.op == "row":
                    outer.update(dict.fromkeys(node.attr_as(Place).args))
            loop = RowLoop(inside, index, count, tuple(outer))
            source = self.graph.node("rows", loop.outer, loop)
            kind = inside.kind(index)
            self._written[key] = np.array([self.graph.node("result", (source,), k, kind) for k in range(count)])
        return self._written[key]


class Pending(AbstractNodes):
    """A long array that is not written yet: the node of its rows in a graph of rows."""

    def __init__(self, rows: RowArithmetic, index: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._rows, self.index, self._shape, self.dtype = rows, index, shape, dtype
        self.count = int(np.prod(shape))

    @property
    def ids(self) -> np.ndarray:
        """The nodes; the array is written."""
        return self._rows.write(self.index, self.count).reshape(self._shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self._shape

    @property
    def parts(self) -> list[Nodes]:
        """Its nodes."""
        return [Nodes(self.ids, self.dtype)]

    def reshaped(self, shape: tuple[int, ...]) -> "Pending":
        """Return the array in another shape."""
        return Pending(self._rows, self.index, shape, self.dtype)


def _shifted(node: Node, by: int) -> Node:
    attr = node.attr
    if isinstance(attr, (Shared, Argument)):
        return node._replace(attr=attr._replace(number=attr.number + by))
    return node._replace(attr=node.attr_as(int) + by)
