"""The tree of an expression: immutable, and each distinct node once, so that equal trees are the same object."""

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from qspjax._checks import refuse

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


class Expression:
    """A node of an expression: an operation of other expressions, a number, a symbol, or the time.

    Build expressions with the operators of Python (`+ - * / **`, comparisons, `& | ~` for and, or, not), with `call`
    and with `parse`. Two equal expressions are the same object, so `==` is identity.

    Attributes:
        op: The operation, by its name in MathML, or `+ - * / ^`; `number`, `symbol`, `time`, `true`, `false`.
        args: What it is applied to.
        value: The number, or the name of the symbol; else None.
    """

    __slots__ = ("__weakref__", "_hash", "args", "op", "value")

    op: str
    args: tuple["Expression", ...]
    value: float | str | None
    _hash: int

    def __init__(self) -> None:
        raise TypeError("An expression is made by `parse`, `symbol`, `number`, `call` or the operators of Python.")

    def __hash__(self) -> int:
        return self._hash

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("An expression cannot be changed.")

    def __reduce__(self) -> tuple:
        return node, (self.op, self.args, self.value)

    def __copy__(self) -> "Expression":
        return self

    def __deepcopy__(self, memo: dict) -> "Expression":
        return self

    def __bool__(self) -> bool:
        raise TypeError("An expression has no truth value: join conditions with `&`, `|` and `~`.")

    def __str__(self) -> str:
        from qspjax._expression._text import text

        return text(self)

    def __repr__(self) -> str:
        return f"parse({str(self)!r})"

    def __add__(self, other: Any) -> "Expression":
        return _operator("+", self, other)

    def __radd__(self, other: Any) -> "Expression":
        return _operator("+", other, self)

    def __sub__(self, other: Any) -> "Expression":
        return _operator("-", self, other)

    def __rsub__(self, other: Any) -> "Expression":
        return _operator("-", other, self)

    def __mul__(self, other: Any) -> "Expression":
        return _operator("*", self, other)

    def __rmul__(self, other: Any) -> "Expression":
        return _operator("*", other, self)

    def __truediv__(self, other: Any) -> "Expression":
        return _operator("/", self, other)

    def __rtruediv__(self, other: Any) -> "Expression":
        return _operator("/", other, self)

    def __pow__(self, other: Any) -> "Expression":
        return _operator("^", self, other)

    def __rpow__(self, other: Any) -> "Expression":
        return _operator("^", other, self)

    def __neg__(self) -> "Expression":
        return call("-", self)

    def __abs__(self) -> "Expression":
        return call("abs", self)

    def __lt__(self, other: Any) -> "Expression":
        return _operator("lt", self, other)

    def __le__(self, other: Any) -> "Expression":
        return _operator("leq", self, other)

    def __gt__(self, other: Any) -> "Expression":
        return _operator("gt", self, other)

    def __ge__(self, other: Any) -> "Expression":
        return _operator("geq", self, other)

    def __and__(self, other: Any) -> "Expression":
        return _operator("and", self, other)

    def __or__(self, other: Any) -> "Expression":
        return _operator("or", self, other)

    def __invert__(self) -> "Expression":
        return call("not", self)


def node(op: str, args: tuple[Expression, ...] = (), value: float | str | None = None) -> Expression:
    known = value.hex() if isinstance(value, float) else value
    key = (op, known, *map(id, args))
    found = _interned.get(key)
    if found is None:
        found = object.__new__(Expression)
        for name, own in (("op", op), ("args", args), ("value", value)):
            object.__setattr__(found, name, own)
        object.__setattr__(found, "_hash", hash((op, known, *(arg._hash for arg in args))))
        _interned[key] = found
    return found


TIME = node("time")
TRUE = node("true")
FALSE = node("false")


def number(x: float) -> Expression:
    """Return a number as an expression."""
    return node("number", (), float(x))


def symbol(name: str) -> Expression:
    """Return a symbol as an expression."""
    return node("symbol", (), name)


def as_expression(value: Any) -> Expression:
    """Return a number or a Boolean as an expression, and an expression as it is.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(value, Expression):
        return value
    if isinstance(value, bool):
        return TRUE if value else FALSE
    if isinstance(value, (int, float)):
        return number(value)
    try:
        return number(float(value))
    except (TypeError, ValueError):
        refuse("value", "be an expression or a number", repr(value))


def call(op: str, *args: Any) -> Expression:
    """Apply an operation, by its name in MathML.

    Raises:
        ValueError: If there is no such operation, or the number of arguments is not one that it takes.
    """
    if op not in FUNCTIONS:
        refuse("op", "be an operation of SBML", op)
    least, most = FUNCTIONS[op]
    if not least <= len(args) <= most:
        takes = f"{least}" if least == most else (f"at least {least}" if most == MANY else f"{least} or {most}")
        refuse("args", f"be {takes} for `{op}`", len(args))
    own = tuple(map(as_expression, args))
    if op == "rate" and own[0].op != "symbol":
        refuse("args", "be one symbol for `rate`", str(own[0]))
    return node(op, own)


def piecewise(*pieces: Any) -> Expression:
    """Return the value whose condition is the first that holds: value, condition, value, condition, ..., otherwise."""
    return call("piecewise", *pieces)


def _operator(op: str, left: Any, right: Any) -> Any:
    if not all(isinstance(side, (Expression, int, float)) for side in (left, right)):
        return NotImplemented
    return call(op, left, right)


def nodes(*expressions: Expression) -> list[Expression]:
    """Return every distinct node of expressions, arguments before what is made of them."""
    order: dict[Expression, None] = {}
    stack: list[tuple[Expression, bool]] = [(one, False) for one in reversed(expressions)]
    while stack:
        one, ready = stack.pop()
        if one in order:
            continue
        if ready:
            order[one] = None
        else:
            stack.append((one, True))
            stack.extend((arg, False) for arg in reversed(one.args) if arg not in order)
    return list(order)


def symbols(*expressions: Expression) -> frozenset[str]:
    """Return the names of the symbols that expressions contain."""
    return frozenset(str(one.value) for one in nodes(*expressions) if one.op == "symbol")


def rebuilt(expressions: Iterable[Expression], change: Callable[[Expression], Expression | None]) -> list[Expression]:
    """Return expressions in which each node for which `change` returns another is replaced, from the leaves up."""
    wanted = list(expressions)
    known: dict[Expression, Expression] = {}
    for one in nodes(*wanted):
        args = tuple(known[arg] for arg in one.args)
        same = one if all(a is b for a, b in zip(args, one.args, strict=True)) else node(one.op, args, one.value)
        other = change(same)
        known[one] = same if other is None else other
    return [known[one] for one in wanted]


def substitute(expression: Expression, mapping: Mapping[str, Expression]) -> Expression:
    """Return an expression in which symbols are replaced."""
    return rebuilt([expression], lambda one: mapping.get(str(one.value)) if one.op == "symbol" else None)[0]
