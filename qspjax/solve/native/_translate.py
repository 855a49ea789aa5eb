"""From a traced program of one patient to a graph of scalars.

An array of the program is an array of nodes here, so that whatever only moves numbers (a slice, a gather, a transpose)
is indexing, and leaves no code behind. What is known when the program is translated stays in numpy.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn
from jax.typing import ArrayLike

from qspjax._jaxpr._known import computed
from qspjax._jaxpr._products import WIDE, largest_product
from qspjax._jaxpr._walk import called, walk_all
from qspjax.solve.native._dense import Outer, is_absent
from qspjax.solve.native._graph import ALL, ZERO, Argument, Function, Graph, Region, Shared
from qspjax.solve.native._rows import LONG, Pending, RowArithmetic
from qspjax.solve.native._values import AbstractNodes, Nodes, UnsupportedError, Value, kind_of

SMALL = 150
"""Up to this many nodes, a function is written out where it is called."""
UNROLLED = 20_000
"""Up to this many equations times iterations, a loop of known length is written out."""
ROLLED = 200
"""From this many nodes times iterations on, a loop of known length within another one is a loop."""
SELECTED = 24
"""Up to this many elements, that at a traced index is selected among all; among more, it is looked up in memory."""


_IN_ROWS = (np.float64, np.bool_, np.int64, np.int32)
"""The types of long arrays that stay in memory."""

Rule: TypeAlias = Callable[["Translator", JaxprEqn, list[Value]], Sequence[Value]]

RULES: dict[str, Rule] = {}
"""By primitive: from an equation and its operands to its results."""
MOVES: set[str] = set()
"""Primitives that only move elements, of what is known and of nodes alike."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of some primitives."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


class Translator:
    """Adds traced programs to a graph."""

    def __init__(self, graph: Graph, functions: dict[tuple, Function] | None = None) -> None:
        """Translate into a graph."""
        self.graph = graph
        self.functions: dict[tuple, Function] = {} if functions is None else functions
        self.rows: RowArithmetic | None = None
        self.effects: list[int] = []
        """What is needed for what it does to the frame."""
        self.within = False
        """Whether this is what a loop or a branch does, whose operands are unknown."""

    def inputs(self, count: int, dtype: np.dtype, start: int = 0, op: str = "in") -> np.ndarray:
        """Return the nodes of inputs of the graph, from the number `start` on: rows of the frame, or values."""
        kind = kind_of(np.dtype(dtype))
        return np.array([self.graph.node(op, (), start + k, kind) for k in range(count)], np.int64)

    def shared(self, row: int, count: int) -> np.ndarray:
        """Return the nodes of numbers that all lanes share, whose address is in a row of the frame."""
        return np.array([self.graph.node("shared", (), Shared(row, k)) for k in range(count)], np.int64)

    def ids(self, value: Value) -> np.ndarray:
        """Return the nodes of a value."""
        if isinstance(value, AbstractNodes):
            return value.ids
        kind_of(value.dtype)
        const = self.graph.const
        return np.array([const(x) for x in value.ravel().tolist()], np.int64).reshape(value.shape)

    def run(self, program: ClosedJaxpr, operands: Sequence[Value]) -> list[Value]:
        """Translate a program; return its results. Long arrays of one with wide products are computed in loops."""
        if self.rows is None and largest_product(program.jaxpr) >= WIDE:
            self.rows = RowArithmetic(self.graph)
        return walk_all(program, list(operands), self.apply, _known)

    def apply(self, eqn: JaxprEqn, operands: list[Value]) -> Sequence[Value]:
        """Translate an equation."""
        name = eqn.primitive.name
        inner = called(eqn, derivatives=False)
        if inner is not None:
            return self.run(inner, operands)
        translate = RULES.get(name)
        known = not any(isinstance(x, AbstractNodes) for x in operands)
        if translate is not None and (not known or name in MOVES):
            return translate(self, eqn, operands)
        if known:
            return [np.asarray(x) for x in computed(eqn, [np.asarray(x) for x in operands])]
        raise UnsupportedError(f"the operation `{name}`")

    def call(
        self,
        key: tuple,
        translate: Callable[["Translator", list[Value]], Sequence[Value]],
        operands: Sequence[Value],
        *,
        numbers: bool = True,
    ) -> list[Value]:
        """Call a function, which is translated once, with operands that differ; small ones are written out.

        In the function, constants of a patient are rows of the frame; and `numbers` are numbers.
        """
        written = list(operands)
        operands = written if numbers else [self.unbound(x) for x in written]
        bound = [
            [-1 if self.passed(i) else i for i in x.ids.ravel().tolist()]
            if isinstance(x, AbstractNodes)
            else x.tobytes()
            for x in operands
        ]
        key = (*key, repr(bound))
        if key not in self.functions:
            self.functions[key] = self._function(translate, operands)
        function = self.functions[key]
        region, shapes = function.region, function.shapes
        if region.size <= SMALL:
            return list(translate(self, written))
        args = tuple(
            i for x in operands if isinstance(x, AbstractNodes) for i in x.ids.ravel().tolist() if self.passed(i)
        )
        call = self.graph.node("call", args, function)
        parts: list[AbstractNodes] = []
        count = 0
        for ids, dtype in shapes:
            new = np.empty(ids.shape, np.int64)
            for place, i in enumerate(ids.ravel().tolist()):
                inside = region.graph.nodes[i]
                if inside.op == "const":
                    new.flat[place] = ZERO if i == ZERO else self.graph.node(*inside)
                else:
                    new.flat[place] = self.graph.node("result", (call,), count, inside.kind)
                    count += 1
            parts.append(Nodes(new, dtype))
        return self._assembled(function.results, parts)

    def _assembled(self, results: Sequence[Value], parts: Sequence[AbstractNodes]) -> list[Value]:
        """Return the results of a function from the parts of which they are made."""
        remaining = iter(parts)
        given = [[next(remaining) for _ in (x.parts if isinstance(x, AbstractNodes) else "1")] for x in results]
        return [
            x.rebuilt(self.graph, own) if isinstance(x, Outer) else own[0]
            for x, own in zip(results, given, strict=True)
        ]

    def unbound(self, value: Value) -> Value:
        """Return an operand of which numbers are passed to a function like anything else."""
        if not isinstance(value, AbstractNodes):
            return value
        nodes = self.graph.nodes
        opaque = [
            self.graph.node("given", (i,), None, nodes[i].kind) if nodes[i].op == "const" else i
            for i in value.ids.ravel().tolist()
        ]
        return Nodes(np.array(opaque, np.int64).reshape(value.shape), value.dtype)

    def passed(self, index: int) -> bool:
        """Return whether a node is passed to a function: a number is not, nor a constant of a patient."""
        node = self.graph.nodes[index]
        return node.op not in ("const", "shared") and (node.op != "in" or node.attr_as(int) >= self.graph.constants)

    def _function(self, translate: Callable, operands: Sequence[Value]) -> Function:
        inside = Translator(Graph(ALL, sparse=self.graph.sparse), self.functions)
        values: list[Value] = []
        blocks: list[int] = []
        for x in operands:
            if not isinstance(x, AbstractNodes):
                values.append(x)
                continue
            new = np.empty(x.ids.shape, np.int64)
            count = 0
            for place, i in enumerate(x.ids.ravel().tolist()):
                node = self.graph.nodes[i]
                if self.passed(i):
                    new.flat[place] = inside.graph.node("arg", (), Argument(len(blocks), count), node.kind)
                    count += 1
                else:
                    new.flat[place] = ZERO if i == ZERO else inside.graph.node(*node)
            values.append(Nodes(new, x.dtype))
            blocks += [count] if count else []
        results = translate(inside, values)
        parts: list[Value] = []
        for x in results:
            parts += x.parts if isinstance(x, AbstractNodes) else [x]
        shapes = [(inside.ids(x), x.dtype) for x in parts]
        outputs = [i for ids, _ in shapes for i in ids.ravel().tolist() if inside.graph.nodes[i].op != "const"]
        number = len(self.functions)  # those that it calls are among them by now
        return Function(Region(inside.graph, outputs), f"function{number}", shapes, blocks, list(results))

    def region(self, program: ClosedJaxpr, operands: Sequence[Value]) -> tuple[Region, list[Value]]:
        """Translate a program into a region whose inputs are the nodes of the operands; return also its results."""
        inside = Translator(Graph(sparse=self.graph.sparse), self.functions)
        inside.within = True
        values: list[Value] = []
        count = 0
        for x in operands:
            if isinstance(x, AbstractNodes):
                ids = inside.inputs(x.ids.size, x.dtype, count, "value").reshape(x.ids.shape)
                values.append(Nodes(ids, x.dtype))
                count += x.ids.size
            else:
                values.append(x)
        results = inside.run(program, values)
        outputs = [i for x in results for i in inside.ids(x).ravel().tolist()]
        return Region(inside.graph, outputs), results

    # --- elementwise -------------------------------------------------------------------------------------------------

    def each(self, op: str, dtype: np.dtype, *operands: Value) -> AbstractNodes:
        """Return the results of an elementwise operation, of a type."""
        if op == "add" and any(isinstance(x, Outer) for x in operands):
            total = self._sum(dtype, *operands)
            if total is not None:
                return total
        if self.rows is not None:
            pending = self._pending(self.rows, op, np.dtype(dtype), operands)
            if pending is not None:
                return pending
        op = f"{op}32" if op in ("exp", "log") and dtype == np.float32 else op
        arrays: Sequence[np.ndarray] = [self.ids(x) for x in operands]
        if any(a.shape != arrays[0].shape for a in arrays):
            arrays = np.broadcast_arrays(*arrays)
        ids = self._sparse(op, arrays) if op in ("add", "mul", "neg") and arrays[0].size > 32 else None
        if ids is None:
            rows = zip(*(a.ravel().tolist() for a in arrays), strict=True)
            make = self.graph.make
            ids = np.array([make(op, *row) for row in rows], np.int64).reshape(arrays[0].shape)
        return self.rounded(Nodes(ids, np.dtype(dtype)), op)

    def _sum(self, dtype: np.dtype, left: Value, right: Value) -> AbstractNodes | None:
        """Return a sum of matrices of which one is not written; None where that is no such matrix."""
        for one, other in ((left, right), (right, left)):
            if isinstance(one, Outer) and is_absent(other) and math.prod(other.shape) <= math.prod(one.shape):
                return one
        if isinstance(left, Outer) and isinstance(right, Outer) and left.shape == right.shape:
            return left.plus(right, lambda a, b: self.each("add", dtype, a, b))
        return None

    def _pending(self, rows: RowArithmetic, op: str, dtype: np.dtype, operands: Sequence[Value]) -> Pending | None:
        """Return the results of an operation on long arrays in memory, None if it is not one."""
        counts = [math.prod(x.shape) for x in operands]
        if max(counts) <= LONG:
            return None  # operands of several shapes, whose result is longer, are none of this either
        shape, count = operands[counts.index(max(counts))].shape, max(counts)
        if shape != np.broadcast_shapes(*(x.shape for x in operands)) or dtype not in _IN_ROWS:
            return None
        if any(x.shape != shape and n != 1 for x, n in zip(operands, counts, strict=True)):
            return None
        if not any(isinstance(x, Pending) or (isinstance(x, AbstractNodes) and rows.source(x.ids)) for x in operands):
            return None
        nodes = [i for i in (rows.operand(x, count) for x in operands) if i is not None]
        if len(nodes) < len(operands):
            return None
        return Pending(rows, rows.make(op, nodes, count), shape, dtype)

    def _sparse(self, op: str, arrays: Sequence[np.ndarray]) -> np.ndarray | None:
        """Return the results of an operation on derivatives most of which are not there, None where they are."""
        there = [a != ZERO for a in arrays]
        if all(mask.all() for mask in there):
            return None
        out = np.full(arrays[0].shape, ZERO, np.int64)
        if op == "add":
            out = np.where(there[0], arrays[0], arrays[1])
        both = functools.reduce(np.logical_and, there)
        rows = zip(*(a[both].tolist() for a in arrays), strict=True)
        out[both] = [self.graph.make(op, *row) for row in rows]
        return out

    def rounded(self, value: Nodes, op: str) -> Nodes:
        """Round the results of an operation to single precision or to short integers, where that is their type."""
        if value.dtype == np.float32 and op not in ("select", "neg", "abs", "max", "min"):
            return Nodes(self._mapped("round32", value.ids), value.dtype)
        if value.dtype in (np.int32, np.uint32, np.int8, np.uint8, np.int16, np.uint16) and op in (
            *("add", "sub", "mul", "neg", "shl", "convert"),
        ):
            return Nodes(self._mapped("wrap", value.ids, value.dtype.str), value.dtype)
        return value

    def _mapped(self, op: str, ids: np.ndarray, attr: str | None = None) -> np.ndarray:
        nodes, graph = self.graph.nodes, self.graph

        def map_one(i: int) -> int:
            node = nodes[i]
            if node.op == "const":
                value = graph.value(i)
                if i == ZERO:
                    return ZERO
                dtype = np.float32 if op == "round32" else np.dtype(attr)
                with np.errstate(all="ignore"):
                    return graph.const(np.asarray(value).astype(dtype).item())
            return graph.node(op, (i,), attr, node.kind)

        return np.array([map_one(i) for i in ids.ravel().tolist()], np.int64).reshape(ids.shape)


def _known(value: ArrayLike) -> Value:
    return np.asarray(value)
