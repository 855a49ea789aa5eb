"""Expressions as text, in the infix syntax of SBML Level 3, with no more brackets than it needs."""

import math

from qspjax._expression._tree import Expression, nodes

_INFIX = {
    "or": (1, " || "),
    "and": (2, " && "),
    "lt": (4, " < "),
    "leq": (4, " <= "),
    "gt": (4, " > "),
    "geq": (4, " >= "),
    "eq": (4, " == "),
    "neq": (4, " != "),
    "+": (5, " + "),
    "-": (5, " - "),
    "*": (6, " * "),
    "/": (6, " / "),
    "^": (8, "^"),
}
_UNARY = 7
_ATOM = 9
CALLED = {"rate": "rateOf"}
"""Operations whose name in text is another one."""


def text(expression: Expression) -> str:
    """Return an expression as text; `parse` reads it back."""
    known: dict[Expression, tuple[str, int]] = {}
    for one in nodes(expression):
        known[one] = _written(one, [known[arg] for arg in one.args])
    return known[expression][0]


def _written(one: Expression, args: list[tuple[str, int]]) -> tuple[str, int]:
    """Return the text of a node, and how tightly it binds."""
    if one.op == "number":
        return _number(one.value)
    if one.op in ("symbol", "time", "true", "false"):
        return (str(one.value) if one.op == "symbol" else one.op), _ATOM
    if one.op == "-" and len(args) == 1:
        return "-" + _within(args[0], _UNARY), _UNARY
    if one.op == "not":
        return "!" + _within(args[0], _UNARY), _UNARY
    if one.op in _INFIX and len(args) >= 2 and not (len(args) > 2 and one.op in ("lt", "leq", "gt", "geq", "eq")):
        return _infix(one, args)
    return f"{CALLED.get(one.op, _NAMES.get(one.op, one.op))}({', '.join(arg for arg, _ in args)})", _ATOM


_NAMES = {"+": "plus", "*": "times", "lt": "lt", "and": "and", "or": "or", "-": "minus", "/": "divide", "^": "pow"}


def _infix(one: Expression, args: list[tuple[str, int]]) -> tuple[str, int]:
    binds, sign = _INFIX[one.op]
    first, *rest = args
    if one.op == "^":  # right associative
        return _within(first, binds + 1) + sign + _within(rest[0], binds), binds
    chains = 0 if one.op in ("+", "*", "and", "or", "-", "/") else 1
    # a first argument of the same operation would be read as part of a longer one
    same = one.args[0].op == one.op and one.op in ("+", "*", "and", "or")
    parts = [_within(first, binds + (1 if same else chains)), *(_within(part, binds + 1) for part in rest)]
    return sign.join(parts), binds


def _within(part: tuple[str, int], binds: int) -> str:
    return part[0] if part[1] >= binds else f"({part[0]})"


def _number(value: float) -> tuple[str, int]:
    if math.isnan(value):
        return "nan", _ATOM
    if math.isinf(value):
        return ("inf", _ATOM) if value > 0 else ("(-inf)", _ATOM)
    shown = repr(value)
    shown = shown.removesuffix(".0")
    return (f"({shown})", _ATOM) if value < 0 or shown.startswith("-") else (shown, _ATOM)
