"""Products with matrices as loops over rows in memory: a network's layers, and what their derivatives are made of.

A matrix that all patients share is read where XLA has it, one number for all lanes; neither the code nor the time that
it takes to compile grows with its size. Each lane adds up in the order of the columns, so the numbers of a patient do
not depend on who else is in the cohort.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qspjax.solve.native._graph import ZERO, AbstractRoutine, Argument, Graph, Node, Shared
from qspjax.solve.native._text import Writer
from qspjax.solve.native._values import AbstractNodes, Nodes, UnsupportedError

SUMS = 8
"""So many sums are added up side by side."""
HIGH = 4
"""So many rows of a sum of products of a column with a row are added up side by side."""
TERMS = 64
"""The most products of columns with rows that are added up at once."""


class Matrix(NamedTuple):
    """A matrix in memory.

    Attributes:
        first: Where all patients share it, its first element; None where it is a block of rows of lanes.
        shape: The numbers of its rows and columns.
        strides: How far apart in memory these are.
    """

    first: Shared | None
    shape: tuple[int, int]
    strides: tuple[int, int]


def matrix_of(graph: Graph, ids: np.ndarray) -> tuple[Matrix, list[int]] | None:
    """Return an array of nodes as a matrix in memory, with its nodes in the order of memory; None if it is none.

    Of one that all patients share there are no nodes.
    """
    nodes = [graph.nodes[i] for i in ids.ravel().tolist()]
    first = nodes[0]
    if first.op not in ("shared", "in", "arg", "result") or any(
        n.op != first.op or n.args != first.args for n in nodes
    ):
        return None
    places = np.array([_number(n) for n in nodes]).reshape(ids.shape)
    start, of_rows, of_columns = (int(places[k] - places[0, 0]) if n > 1 else 0 for k, n in _corners(ids.shape))
    rows, columns = np.indices(ids.shape)
    if (places != places[0, 0] + of_rows * rows + of_columns * columns).any() or min(of_rows, of_columns) < 0:
        return None
    if any(n != _moved(first, int(p - places[0, 0])) for n, p in zip(nodes, places.ravel(), strict=True)):
        return None
    shape = ids.shape[0], ids.shape[1]
    if first.op == "shared":
        return Matrix(first.attr_as(Shared), shape, (of_rows, of_columns)), []
    order = np.argsort(places.ravel(), kind="stable")
    if (np.diff(places.ravel()[order]) != 1).any():
        return None
    return Matrix(None, shape, (of_rows, of_columns)), ids.ravel()[order].tolist()


def _corners(shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, int], int]]:
    yield (0, 0), 1
    yield (min(1, shape[0] - 1), 0), shape[0]
    yield (0, min(1, shape[1] - 1)), shape[1]


def _number(node: Node) -> int:
    attr = node.attr
    return attr.number if isinstance(attr, (Shared, Argument)) else node.attr_as(int)


def _moved(node: Node, by: int) -> Node:
    attr = node.attr
    if isinstance(attr, (Shared, Argument)):
        return node._replace(attr=attr._replace(number=attr.number + by))
    return node._replace(attr=node.attr_as(int) + by)


@dataclass(frozen=True)
class Product(AbstractRoutine):
    """The product of a matrix with some columns, which follow one another in the result."""

    matrix: Matrix
    columns: int

    @property
    def blocks(self) -> tuple[int, ...]:
        (rows, inner), own = self.matrix.shape, self.matrix.first is None
        return (*([rows * inner] if own else []), *[inner] * self.columns)

    @property
    def rows(self) -> int:
        return self.matrix.shape[0] * self.columns

    def write(self, w: Writer, places: Sequence[str], out: str) -> None:
        rows, inner = self.matrix.shape
        first = self.matrix.first
        base, given = (places[0], places[1:]) if first is None else (w.shared(first), places)
        for start in range(0, self.columns, SUMS):
            columns = list(range(start, min(start + SUMS, self.columns)))
            together = max(1, SUMS // len(columns))

            def some(first: str, count: int, columns: list[int] = columns) -> None:
                """Write so many rows of the result, from one on."""
                at = w.mul(first, self.matrix.strides[0])
                unrolled = max(1, min(4, SUMS // (2 * count * len(columns))))
                sums = [w.splat(0.0)] * (count * len(columns) * unrolled)

                def add(j: str, sums: list[str], step: int) -> list[str]:
                    new = list(sums)
                    for u in range(step):
                        column = w.add(w.mul(j, step), u)
                        place = w.add(at, w.mul(column, self.matrix.strides[1]))
                        xs = [w.load(w.row(given[c], column)) for c in columns]
                        for r in range(count):
                            factor = self._element(w, base, place, r * self.matrix.strides[0])
                            for c, x in enumerate(xs):
                                k = (u * count + r) * len(columns) + c
                                new[k] = w.fma(factor, x, sums[k])
                    return new

                whole = inner // unrolled
                sums = w.folds(whole, sums, lambda j, sums: add(j, sums, unrolled))
                total = sums[: count * len(columns)]
                for u in range(1, unrolled):
                    part = sums[u * len(total) : (u + 1) * len(total)]
                    total = [w.f("fadd", a, b) for a, b in zip(total, part, strict=True)]
                done = whole * unrolled
                rest = (
                    w.folds(inner - done, total, lambda j, sums: add(w.add(j, done), sums, 1))
                    if inner > done
                    else total
                )
                for k, x in enumerate(rest):
                    r, c = divmod(k, len(columns))
                    w.store(x, w.row(out, w.add(w.add(first, r), columns[c] * rows)))

            blocks, left = divmod(rows, together)
            if blocks:
                w.repeat(blocks, lambda k: some(w.mul(k, together), together))  # noqa: B023
            if left:
                some(w.add(0, blocks * together), left)

    def _element(self, w: Writer, base: str, place: str, further: int) -> str:
        """Return an element of the matrix in every lane."""
        if self.matrix.first is None:
            return w.load(w.row(w.row(base, place), further))
        x = w.op(f"load double, ptr {w.at('double', w.at('double', base, place), further)}")
        return w.spread("double", x)


@dataclass(frozen=True)
class OuterSum(AbstractRoutine):
    """The sum of products of a column with a row each; or what adds it to the frame, in lanes that are not still.

    Attributes:
        shape: The numbers of rows and columns.
        terms: The number of products.
        into: The first row of the frame that it is added to, None if it is a result; then the first block is the mask.
    """

    shape: tuple[int, int]
    terms: int
    into: int | None = None

    @property
    def blocks(self) -> tuple[int, ...]:
        rows, columns = self.shape
        return (*([] if self.into is None else [1]), *[rows] * self.terms, *[columns] * self.terms)

    @property
    def rows(self) -> int:
        rows, columns = self.shape
        return rows * columns if self.into is None else 1

    def write(self, w: Writer, places: Sequence[str], out: str) -> None:
        rows, columns = self.shape
        mask, still = list(places[: self.into is not None]), None
        if mask:
            still = w.compare("une", w.load(mask[0]), w.splat(0.0))
            w.store(w.splat(0.0), out)
        left, right = places[len(mask) : len(mask) + self.terms], places[len(mask) + self.terms :]
        base = out if self.into is None else w.row("%frame", self.into)

        def block(i: str, height: int, j: str, width: int) -> None:
            cells = [(r, c) for r in range(height) for c in range(width)]
            start = w.row(base, w.add(w.mul(i, columns), j))
            cell = {at: w.row(start, at[0] * columns + at[1]) for at in cells}
            old = {at: w.splat(0.0) if still is None else w.load(cell[at]) for at in cells}
            total = dict(old)
            for one, other in zip(left, right, strict=True):
                xs = [w.load(w.row(w.row(other, j), c)) for c in range(width)]
                for r in range(height):
                    factor = w.load(w.row(w.row(one, i), r))
                    for c, x in enumerate(xs):
                        total[r, c] = w.fma(factor, x, total[r, c])
            for at in cells:
                w.store(total[at] if still is None else w.select(still, old[at], total[at]), cell[at])

        def in_blocks(count: int, size: int, body: Callable[[str, int], None]) -> None:
            whole, rest = divmod(count, size)
            if whole:
                w.repeat(whole, lambda k: body(w.mul(k, size), size))
            if rest:
                body(w.add(0, whole * size), rest)

        in_blocks(rows, HIGH, lambda i, height: in_blocks(columns, 2, lambda j, width: block(i, height, j, width)))


class Outer(AbstractNodes):
    """A matrix that is a sum of products of a column with a row each, and is not written unless it has to be."""

    def __init__(
        self,
        graph: Graph,
        terms: Sequence[tuple[AbstractNodes, AbstractNodes]],
        shape: tuple[int, ...],
        dtype: np.dtype,
    ) -> None:
        self._graph, self.terms, self._shape, self.dtype = graph, list(terms), shape, dtype
        self._ids: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """The numbers of rows and columns."""
        left, right = self.terms[0]
        return int(np.prod(left.shape)), int(np.prod(right.shape))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self._shape

    @property
    def ids(self) -> np.ndarray:
        """The nodes; the array is written."""
        if self._ids is None:
            args = self._args()
            node = self._graph.node("routine", args, OuterSum(self.size, len(self.terms)))
            count = int(np.prod(self._shape))
            results = [self._graph.node("result", (node,), k) for k in range(count)]
            self._ids = np.array(results, np.int64)
        return self._ids.reshape(self._shape)

    def added_to(self, first: int, still: int) -> int:
        """Return the node of what adds it to rows of the frame from a first one on, in lanes that are not still."""
        return self._graph.node("routine", (still, *self._args()), OuterSum(self.size, len(self.terms), first))

    def _args(self) -> tuple[int, ...]:
        if len(self.terms) > TERMS:
            raise UnsupportedError(f"a sum of {len(self.terms)} products of a column with a row")
        return tuple(i for side in (0, 1) for term in self.terms for i in term[side].ids.ravel().tolist())

    @property
    def parts(self) -> list[Nodes]:
        """Its columns and its rows."""
        return [Nodes(x.ids, x.dtype) for term in self.terms for x in term]

    def rebuilt(self, graph: Graph, parts: Sequence[AbstractNodes]) -> "Outer":
        """Return it with other columns and rows."""
        return Outer(graph, list(zip(parts[::2], parts[1::2], strict=True)), self._shape, self.dtype)

    def reshaped(self, shape: tuple[int, ...]) -> "Outer":
        """Return it in another shape."""
        return Outer(self._graph, self.terms, shape, self.dtype)

    def transposed(self, axes: Sequence[int]) -> "Outer | None":
        """Return it with its axes permuted, None where that is no sum of such products."""
        shape = tuple(self._shape[axis] for axis in axes)
        moved = [axis for axis in axes if self._shape[axis] > 1]
        if moved == sorted(moved):
            return self.reshaped(shape)
        if len(moved) > 2 or tuple(self._shape[axis] for axis in sorted(moved)) != self.size:
            return None
        return Outer(self._graph, [(right, left) for left, right in self.terms], shape, self.dtype)

    def plus(self, other: "Outer", add: Callable[[AbstractNodes, AbstractNodes], AbstractNodes]) -> "Outer | None":
        """Return the sum with another one; columns of the same row are added up before. None if it is no such sum."""
        if other.size != self.size:
            return None
        terms = {right.ids.tobytes(): (left, right) for left, right in self.terms}
        for left, right in other.terms:
            known = terms.get(key := right.ids.tobytes())
            terms[key] = (left, right) if known is None else (add(known[0], left), right)
        return Outer(self._graph, list(terms.values()), self._shape, self.dtype)


def is_absent(value: AbstractNodes | np.ndarray) -> bool:
    """Return whether a value is a derivative that is not there."""
    if isinstance(value, AbstractNodes):
        return isinstance(value, Nodes) and bool((value.ids == ZERO).all())
    return not np.any(value)
