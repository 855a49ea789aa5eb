"""What a node of an expression is, and how the nodes below it are visited: each once, however often it is shared."""

from collections.abc import Hashable
from typing import Protocol, TypeVar, cast, runtime_checkable


@runtime_checkable
class Node(Hashable, Protocol):
    """An operation, what it is applied to, and the value of a number or a symbol; equal nodes are the same object."""

    @property
    def op(self) -> str: ...

    @property
    def args(self) -> "tuple[Node, ...]": ...

    @property
    def value(self) -> float | str | None: ...


N = TypeVar("N", bound=Node)


def nodes(*expressions: N) -> list[N]:
    """Return every distinct node of expressions, arguments before the nodes that use them."""
    order: dict[N, None] = {}
    stack: list[tuple[N, bool]] = [(expression, False) for expression in reversed(expressions)]
    while stack:
        node, ready = stack.pop()
        if node in order:
            continue
        if ready or not node.args:
            order[node] = None
        else:
            stack.append((node, True))
            args = cast("tuple[N, ...]", node.args)  # of one kind
            stack.extend((arg, False) for arg in reversed(args) if arg not in order)
    return list(order)


def expanded_size(expression: Node) -> int:
    """Return the number of nodes of an expression when each is written out as often as it occurs."""
    sizes: dict[Node, int] = {}
    for node in nodes(expression):
        sizes[node] = 1 + sum(sizes[arg] for arg in node.args)
    return sizes[expression]


def number_in(node: Node) -> float:
    """Return the number of a node that is a number."""
    assert isinstance(node.value, (int, float))
    return float(node.value)


def is_number(expression: Node, value: float) -> bool:
    """Return whether an expression is a number equal to `value`."""
    return expression.op == "number" and expression.value == value
