"""The tree of an expression: immutable, and each distinct node once, so that equal trees are the same object.

Nothing here recurses, so that a tree may be thousands of nodes deep, and everything visits a node once, however often
it is shared.
"""

import numbers
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from qspjax._checks import refuse
from qspjax._expression._nodes import nodes
from qspjax._expression._text import shown

MANY = 1 << 30

TRIGONOMETRIC = tuple(
    f"{arc}{name}{hyperbolic}"
    for arc in ("", "arc")
    for name in ("sin", "cos", "tan", "sec", "csc", "cot")
    for hyperbolic in ("", "h")
)
FUNCTIONS: dict[str, tuple[int, int]] = {
    **dict.fromkeys(TRIGONOMETRIC, (1, 1)),
    **dict.fromkeys(("abs", "exp", "ln", "floor", "ceil", "factorial", "not", "rate"), (1, 1)),
    **dict.fromkeys(("root", "log", "quotient", "rem", "implies", "neq", "delay", "/", "^"), (2, 2)),
    **dict.fromkeys(("min", "max", "piecewise"), (1, MANY)),
    **dict.fromkeys(("+", "*", "and", "or", "xor"), (0, MANY)),
    **dict.fromkeys(("lt", "leq", "gt", "geq", "eq"), (2, MANY)),
    "-": (1, 2),
}
"""The least and greatest number of arguments of each operation."""

_interned: "weakref.WeakValueDictionary[tuple, Expression]" = weakref.WeakValueDictionary()
_lock = threading.RLock()


class Expression:
    """A node of an expression: an operation of other expressions, a number, a symbol, or the time.

    Build expressions with the operators of Python (`+ - * / **`, comparisons, `& | ~ ^` for and, or, not, xor), with
    `call`, with the functions (`exp`, `ln`, ...), and with `parse`. Two equal expressions are the same object, so `==`
    is identity; `equal` is the condition.

    Attributes:
        op: The operation, by its name in MathML, or `+ - * / ^`; `number`, `symbol`, `time`, `true`, `false`; `learned`
            for a call of a function that is learned from data, and `output` for an output of it.
        args: What it is applied to.
        value: The number, the name of the symbol, or that of a learned function; else None.

    Example:
        >>> k, drug = symbol("k"), symbol("drug")
        >>> k * drug is k * drug, str(2 * k / (1 + drug) ** 2)
        (True, '2 * k / (1 + drug)^2')
    """

    __slots__ = ("__weakref__", "_hash", "args", "op", "value")
    __array_ufunc__ = None  # a number of numpy on the left leaves the operation to us

    op: str
    args: tuple["Expression", ...]
    value: float | str | None
    _hash: int

    def __init__(self) -> None:
        raise TypeError("An expression is made by `parse`, `symbol`, `number`, `call` or the operators of Python.")

    def __hash__(self) -> int:
        return self._hash

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("An expression cannot be changed.")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("An expression cannot be changed.")

    def __reduce__(self) -> tuple:
        return _unpacked, (_packed(self),)

    def __copy__(self) -> "Expression":
        return self

    def __deepcopy__(self, memo: dict) -> "Expression":
        return self

    def __bool__(self) -> bool:
        raise TypeError("An expression has no truth value: join conditions with `&`, `|` and `~`.")

    def __str__(self) -> str:
        return shown(self)

    def __repr__(self) -> str:
        return f"parse({str(self)!r})"

    def __add__(self, other: object) -> "Expression":
        return _operator("+", self, other)

    def __radd__(self, other: object) -> "Expression":
        return _operator("+", other, self)

    def __sub__(self, other: object) -> "Expression":
        return _operator("-", self, other)

    def __rsub__(self, other: object) -> "Expression":
        return _operator("-", other, self)

    def __mul__(self, other: object) -> "Expression":
        return _operator("*", self, other)

    def __rmul__(self, other: object) -> "Expression":
        return _operator("*", other, self)

    def __truediv__(self, other: object) -> "Expression":
        return _operator("/", self, other)

    def __rtruediv__(self, other: object) -> "Expression":
        return _operator("/", other, self)

    def __mod__(self, other: object) -> "Expression":
        return _operator("rem", self, other)

    def __rmod__(self, other: object) -> "Expression":
        return _operator("rem", other, self)

    def __pow__(self, other: object) -> "Expression":
        return _operator("^", self, other)

    def __rpow__(self, other: object) -> "Expression":
        return _operator("^", other, self)

    def __neg__(self) -> "Expression":
        return call("-", self)

    def __pos__(self) -> "Expression":
        return self

    def __abs__(self) -> "Expression":
        return call("abs", self)

    def __lt__(self, other: object) -> "Expression":
        return _operator("lt", self, other)

    def __le__(self, other: object) -> "Expression":
        return _operator("leq", self, other)

    def __gt__(self, other: object) -> "Expression":
        return _operator("gt", self, other)

    def __ge__(self, other: object) -> "Expression":
        return _operator("geq", self, other)

    def __and__(self, other: object) -> "Expression":
        return _operator("and", self, other)

    def __rand__(self, other: object) -> "Expression":
        return _operator("and", other, self)

    def __or__(self, other: object) -> "Expression":
        return _operator("or", self, other)

    def __ror__(self, other: object) -> "Expression":
        return _operator("or", other, self)

    def __xor__(self, other: object) -> "Expression":
        return _operator("xor", self, other)

    def __rxor__(self, other: object) -> "Expression":
        return _operator("xor", other, self)

    def __invert__(self) -> "Expression":
        return call("not", self)


def node(op: str, args: tuple[Expression, ...] = (), value: float | str | None = None) -> Expression:
    """Return the one node of an operation, its arguments and its value; nothing is checked."""
    # repr distinguishes 0.0 from -0.0, and makes all NaN equal; an id identifies the object, which the node keeps alive
    label = repr(value) if isinstance(value, float) else value
    key = (op, label, isinstance(value, float), *map(id, args))
    with _lock:
        interned = _interned.get(key)
        if interned is None:
            interned = object.__new__(Expression)
            # the same in every process, so that nothing depends on the seed for hashing text
            digest = hash((zlib.crc32(f"{op} {label}".encode()), *(arg._hash for arg in args)))
            for name, field in (("op", op), ("args", args), ("value", value), ("_hash", digest)):
                object.__setattr__(interned, name, field)
            _interned[key] = interned
    return interned


def with_arguments(old: Expression, args: Iterable[Expression]) -> Expression:
    """Return a node with other arguments, the same node if they are the same."""
    args = tuple(args)
    same = all(a is b for a, b in zip(args, old.args, strict=True))
    return old if same else node(old.op, args, old.value)


def _packed(expression: Expression) -> tuple:
    """Return the nodes of an expression in a flat table, arguments before the nodes that use them."""
    order = nodes(expression)
    index = {item: i for i, item in enumerate(order)}
    return tuple((item.op, tuple(index[arg] for arg in item.args), item.value) for item in order)


def _unpacked(table: tuple) -> Expression:
    built: list[Expression] = []
    for op, args, value in table:
        built.append(node(op, tuple(built[arg] for arg in args), value))
    return built[-1]


TIME = node("time")
TRUE = node("true")
FALSE = node("false")


def number(x: float) -> Expression:
    """Return a number as an expression."""
    if not isinstance(x, (numbers.Real, np.generic)):
        refuse("x", "be a number", _described(x))
    return node("number", (), float(x))


def symbol(name: str) -> Expression:
    """Return a symbol as an expression."""
    if not isinstance(name, str) or not name or "`" in name:
        refuse("name", "be a name, without backticks", _described(name))
    return node("symbol", (), name)


def as_expression(value: object) -> Expression:
    """Return a number or a Boolean as an expression, and an expression as it is.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(value, Expression):
        return value
    if isinstance(value, (bool, np.bool_)):
        return TRUE if value else FALSE
    if isinstance(value, (np.ndarray, jax.Array)) and not isinstance(value, Tracer) and value.ndim == 0:
        return as_expression(value.item())
    if not isinstance(value, numbers.Real):
        refuse("value", "be an expression or a number", _described(value))
    return number(float(value))


def _described(value: object) -> str:
    if isinstance(value, str):
        return value or "empty"
    return "a value that JAX traces" if isinstance(value, Tracer) else f"of type {type(value).__name__}"


def call(op: str, *args: object) -> Expression:
    """Apply an operation, by its name in MathML.

    Raises:
        ValueError: If there is no such operation, or it does not take this number of arguments.
    """
    if op in _CONSTANTS and not args:
        return _CONSTANTS[op]
    if op not in FUNCTIONS:
        refuse("op", "be an operation of SBML", op)
    least, most = FUNCTIONS[op]
    if not least <= len(args) <= most:
        takes = f"{least}" if least == most else (f"at least {least}" if most == MANY else f"{least} or {most}")
        refuse("args", f"be {takes} for `{op}`", len(args))
    operands = tuple(map(as_expression, args))
    if op == "rate" and operands[0].op != "symbol":
        refuse("args", "be one symbol for `rate`", str(operands[0]))
    return node(op, operands)


_CONSTANTS = {"time": TIME, "true": TRUE, "false": FALSE}


def piecewise(*pieces: object) -> Expression:
    """Return the value whose condition is the first that holds: value, condition, value, condition, ..., otherwise."""
    return call("piecewise", *pieces)


def _operator(op: str, left: Any, right: Any) -> Any:
    for side in (left, right):
        if not isinstance(side, (Expression, numbers.Real, np.bool_)) and np.ndim(side) > 0:
            return NotImplemented
        if isinstance(side, str) or side is None:
            return NotImplemented
    left, right = as_expression(left), as_expression(right)
    if op in ("+", "*", "and", "or") and left.op == op and len(left.args) > 1:  # a + b + c is one sum, as it is written
        return node(op, (*left.args, right))
    return node(op, (left, right))


def size(*expressions: Expression) -> int:
    """Return the number of distinct nodes of expressions."""
    return len(nodes(*expressions))


def symbols(*expressions: Expression) -> frozenset[str]:
    """Return the names of the symbols that expressions contain."""
    return frozenset(str(item.value) for item in nodes(*expressions) if item.op == "symbol")


def rebuilt(expressions: Iterable[Expression], change: Callable[[Expression], Expression | None]) -> list[Expression]:
    """Return expressions with each node for which `change` returns another one replaced, from the leaves up."""
    roots = list(expressions)
    new: dict[Expression, Expression] = {}
    for old in nodes(*roots):
        same = with_arguments(old, (new[arg] for arg in old.args))
        replacement = change(same)
        new[old] = same if replacement is None else replacement
    return [new[old] for old in roots]


def substitute(expression: Expression, mapping: Mapping[str, object]) -> Expression:
    """Return an expression in which symbols are replaced by expressions or numbers, all at once.

    Raises:
        ValueError: If the symbol of a `rateOf` is replaced by anything but a symbol.
    """
    new: dict[Expression, Expression] = {}
    for old in nodes(expression):
        args = tuple(new[arg] for arg in old.args)
        if old.op == "symbol":
            replacement = mapping.get(str(old.value))
            new[old] = old if replacement is None else as_expression(replacement)
        elif old.op == "rate" and args[0].op != "symbol":
            refuse("mapping", f"replace the symbol of `{old}` by a symbol", str(args[0]))
        else:
            new[old] = with_arguments(old, args)
    return new[expression]
