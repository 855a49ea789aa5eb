"""A program of one patient as a graph of scalars: equal values merged, numbers folded.

Every node is a float, an integer or a Boolean; nodes stand in an order in which they can be computed. Arithmetic is
simplified only where no result changes, save the sign of a zero. `ZERO` is a derivative that is not there: its products
are not there either, whatever the other factor.
"""

import abc
import math
import operator
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from qspjax.solve.native._text import Shared as Shared, Writer

Kind = Literal["float", "int", "bool"]
Number = float | int | bool
T = TypeVar("T")

ZERO = 0
"""The node of a derivative that is not there."""
ALL = 2**62
"""More inputs than there are: in a graph with so many constants, whatever is an input is a constant of a patient."""


class Node(NamedTuple):
    """An operation on nodes.

    Attributes:
        op: Its name.
        args: The operands.
        attr: What else it depends on: the number of a constant, the index of an input, the region of a loop.
        kind: What it results in.
    """

    op: str
    args: tuple[int, ...] = ()
    attr: Hashable = None
    kind: Kind = "float"

    def attr_as(self, type: type[T]) -> T:
        """Return what else it depends on, of the type that its operation has."""
        assert isinstance(self.attr, type), f"{self.op} with {self.attr}"
        return self.attr


@dataclass(eq=False)
class Region:
    """A program with inputs and outputs: the whole, a function, or what a loop or a branch does.

    Attributes:
        graph: Its nodes.
        outputs: The nodes that are its results.
    """

    graph: "Graph"
    outputs: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        """The number of nodes that its results need."""
        return len(self.graph.needed(self.outputs))


@dataclass(eq=False)
class Function:
    """A function of the compiled program.

    Attributes:
        region: What it computes.
        name: Its name.
        shapes: The nodes and the type of each result.
        blocks: The number of arguments in each block of memory that it is given.
        results: Its results, of whose parts these are the shapes.
    """

    region: Region
    name: str
    shapes: list[tuple[np.ndarray, np.dtype]]
    blocks: list[int]
    results: "Sequence[Any]"


class Argument(NamedTuple):
    """An argument of a function: the block of memory that it is in, and its number there."""

    block: int
    number: int


class AbstractRoutine(abc.ABC):
    """What writes its own text: from blocks of rows in memory to other rows."""

    @property
    @abc.abstractmethod
    def blocks(self) -> tuple[int, ...]:
        """The number of rows in each block that it reads."""

    @property
    @abc.abstractmethod
    def rows(self) -> int:
        """The number of rows of its result."""

    @abc.abstractmethod
    def write(self, w: Writer, places: Sequence[str], out: str) -> None:
        """Write it, given the addresses of the blocks and of the result."""


class Branches(NamedTuple):
    """What a branch chooses from."""

    regions: tuple[Region, ...]


class Loop(NamedTuple):
    """A loop: its condition, its body, and how many operands of each do not change."""

    condition: Region
    body: Region
    n_cond: int
    n_body: int


class Repetition(NamedTuple):
    """A loop of known length: its body, and how many operands do not change; the others are its results."""

    body: Region
    length: int
    n_body: int


_FOLDED: dict[str, Callable[..., Any]] = {
    **{"add": operator.add, "sub": operator.sub, "mul": operator.mul, "neg": operator.neg},
    **{"lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge},
    **{"eq": operator.eq, "ne": operator.ne, "and": operator.and_, "or": operator.or_, "xor": operator.xor},
}
_COMMUTATIVE = {"add", "mul", "max", "min", "and", "or", "xor", "eq", "ne"}
COMPARISONS = {"lt", "le", "gt", "ge", "eq", "ne"}


MEMORY = {"call", "rows", "routine", "while", "cond", "repeat"}
"""What leaves its results in memory, where a `result` reads them."""
_EACH_STEP = {*MEMORY, "result", "given"}


class Graph:
    """Nodes in an order in which they can be computed.

    Attributes:
        nodes: The nodes.
        fixed: For each, whether it stays as it is while a patient is computed.
        constants: So many first inputs are constants of a patient.
        sparse: Whether zeros are derivatives that are not there: in programs that JAX has differentiated.
    """

    def __init__(self, constants: int = 0, *, sparse: bool = False) -> None:
        self.constants, self.sparse = constants, sparse
        self.nodes: list[Node] = [Node("const", (), (0.0, 1.0))]
        self.fixed = [True]
        self._known: dict[Node, int] = {}

    def node(self, op: str, args: tuple[int, ...] = (), attr: Hashable = None, kind: Kind = "float") -> int:
        """Return a node, an old one where it is there already."""
        new = Node(op, args, attr, kind)
        index = self._known.get(new)
        if index is None:
            index = self._known[new] = len(self.nodes)
            self.nodes.append(new)
            self.fixed.append(self._is_fixed(new))
        return index

    def _is_fixed(self, node: Node) -> bool:
        if node.op == "in":
            return node.attr_as(int) < self.constants
        if node.op in ("const", "shared"):
            return True
        return bool(node.args) and node.op not in _EACH_STEP and all(self.fixed[i] for i in node.args)

    def const(self, value: Number) -> int:
        """Return the node of a number."""
        if isinstance(value, bool):
            return self.node("const", (), value, "bool")
        if isinstance(value, int):
            return self.node("const", (), value, "int")
        if self.sparse and value == 0.0:
            return ZERO
        # NaN is one number, and the zeros are two
        return self.node("const", (), "nan" if value != value else (value, math.copysign(1.0, value)))

    def value(self, index: int) -> Number | None:
        """Return the number of a constant, None for another node."""
        node = self.nodes[index]
        if node.op != "const":
            return None
        if node.kind != "float":
            return node.attr_as(int)
        return math.nan if node.attr == "nan" else node.attr_as(tuple)[0]

    def kind(self, index: int) -> Kind:
        """Return the kind of a node."""
        return self.nodes[index].kind

    def make(self, op: str, *args: int) -> int:
        """Return the node of an elementwise operation, simplified."""
        nodes, kind = self.nodes, self.nodes[args[0]].kind
        constant = [nodes[i].op == "const" for i in args]
        if any(constant):
            simple = self._with_constants(op, args)
            if simple is not None:
                return simple
        if op == "select":
            if args[1] == args[2]:
                return args[1]
            return self.node(op, args, None, nodes[args[1]].kind)
        if op == "neg" and nodes[args[0]].op == "neg":
            return nodes[args[0]].args[0]
        if kind == "float":
            if op == "add" and nodes[args[1]].op == "neg":
                return self.make("sub", args[0], nodes[args[1]].args[0])
            if op == "add" and nodes[args[0]].op == "neg":
                return self.make("sub", args[1], nodes[args[0]].args[0])
            if op == "sub" and nodes[args[1]].op == "neg":
                return self.make("add", args[0], nodes[args[1]].args[0])
            if op == "div" and self.fixed[args[1]] and not self.fixed[args[0]]:
                return self._scaled(*args)
        if op in _COMMUTATIVE and args[0] > args[1]:
            args = args[::-1]
        if op in COMPARISONS or op == "is_finite":
            kind = "bool"
        return self.node(op, args, None, kind)

    def _scaled(self, x: int, divisor: int) -> int:
        """Return the node of a quotient by what is fixed: a product with its reciprocal, which is computed once."""
        value = self.value(divisor)
        if value is None:
            return self.make("mul", x, self.node("div", (self.const(1.0), divisor)))
        if not 2.0**-1000 < abs(value) < 2.0**1000:
            return self.node("div", (x, divisor))
        return self.make("mul", x, self.const(1.0 / value))

    def _with_constants(self, op: str, args: tuple[int, ...]) -> int | None:
        """Return the node of an operation with a number among its operands where that makes it simpler."""
        values = [self.value(i) for i in args]
        if ZERO in args:
            absent = self._without(op, args)
            if absent is not None:
                return absent
        if None not in values and op in _FOLDED:
            return self.const(_FOLDED[op](*values))
        if op == "select" and values[0] is not None:
            return args[1] if values[0] else args[2]
        if op == "not" and values[0] is not None:
            return self.const(not values[0])
        if op in ("and", "or") and self.kind(args[0]) == "bool":
            k = 0 if values[0] is not None else 1
            return args[1 - k] if values[k] == (op == "and") else args[k]
        if len(args) == 2 and self.kind(args[0]) == "float":
            return self._unit(op, args, values)
        return None

    def _unit(self, op: str, args: tuple[int, ...], values: Sequence[Number | None]) -> int | None:
        """Return the node of an operation on floats of which one is a number, where that makes it simpler."""
        left, right = args
        if op == "add" and 0.0 in values:
            return right if values[0] == 0.0 else left
        if op == "sub" and values[1] == 0.0:
            return left
        if op == "sub" and values[0] == 0.0:
            return self.make("neg", right)
        if op == "mul" and 1.0 in values:
            return right if values[0] == 1.0 else left
        if op == "mul" and -1.0 in values:
            return self.make("neg", right if values[0] == -1.0 else left)
        if op == "div" and values[1] == 1.0:
            return left
        return None

    def _without(self, op: str, args: tuple[int, ...]) -> int | None:
        """Return the node of an operation on a derivative that is not there."""
        if op in ("mul", "neg", "round32", "float") or (op == "div" and args[0] == ZERO):
            return ZERO
        if op == "add":
            return args[1] if args[0] == ZERO else args[0]
        if op == "sub":
            return args[0] if args[1] == ZERO else self.make("neg", args[1])
        if op == "select" and args[1] == args[2] == ZERO:
            return ZERO
        return None

    def lookup(self, index: int, elements: Sequence[int]) -> int:
        """Return the node of the element at an index, which is one of them."""
        if all(i == elements[0] for i in elements):
            return elements[0]
        return self.node("lookup", (index, *elements), None, self.kind(elements[0]))

    def power(self, x: int, exponent: int) -> int:
        """Return an integer power, by repeated squaring."""
        if exponent < 0:
            return self.make("div", self.const(1.0), self.power(x, -exponent))
        if exponent == 0:
            return self.const(1.0)
        result, square = None, x
        while exponent:
            if exponent & 1:
                result = square if result is None else self.make("mul", result, square)
            exponent >>= 1
            square = self.make("mul", square, square) if exponent else square
        return x if result is None else result

    def needed(self, outputs: Sequence[int]) -> list[int]:
        """Return the nodes that some nodes need, themselves included, in order."""
        marked: set[int] = set()
        stack = list(outputs)
        while stack:
            index = stack.pop()
            if index not in marked:
                marked.add(index)
                stack.extend(self.nodes[index].args)
        return sorted(marked)
