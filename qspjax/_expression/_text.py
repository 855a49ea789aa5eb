"""Expressions as text, in the infix syntax of SBML Level 3, with no more brackets than it needs."""

import math
import re
from collections.abc import Sequence

from qspjax._checks import refuse
from qspjax._expression._nodes import Node, expanded_size, is_number, number_in

MAX_NODES = 200_000
"""Maximum number of nodes of an expression that is written out."""

AVOGADRO = 6.02214179e23
"""The number that SBML fixes (Level 3 Version 2, section 3.4.6), 1/mol."""

NUMBERS = {
    "pi": math.pi,
    "exponentiale": math.e,
    "avogadro": AVOGADRO,
    "inf": math.inf,
    "infinity": math.inf,
    "nan": math.nan,
    "notanumber": math.nan,
}
"""Numbers that have a name."""

WORDS = {*NUMBERS, "time", "true", "false"}
"""Names that are not symbols; a symbol of such a name is written in backticks, as is one that is not a plain name."""

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*")

INFIX = {
    "or": (1, "||"),
    "and": (1, "&&"),
    "eq": (2, "=="),
    "neq": (2, "!="),
    "lt": (2, "<"),
    "leq": (2, "<="),
    "gt": (2, ">"),
    "geq": (2, ">="),
    "+": (3, "+"),
    "-": (3, "-"),
    "*": (4, "*"),
    "/": (4, "/"),
    "^": (6, "^"),
}
"""How tightly an operation binds, and its sign."""
UNARY = 5
ATOM = 7

CALLED = {"+": "plus", "-": "minus", "*": "times", "/": "divide", "^": "power", "rate": "rateOf"}
"""Operations that have another name in text when they are called."""

_NAMES = {value: name for name, value in reversed(NUMBERS.items()) if not math.isnan(value)}

_Part = tuple[Node, int] | str
"""Text, or an expression and how tightly it must bind to need no brackets."""


def text(expression: Node) -> str:
    """Return an expression as text; `parse` reads it back.

    Raises:
        ValueError: If it is too large when shared nodes are written out.
    """
    size = expanded_size(expression)
    if size > MAX_NODES:
        refuse("expression", f"have at most {MAX_NODES} parts to be written out", f"one with {_count(size)}")
    pieces: list[str] = []
    stack: list[_Part] = [(expression, 0)]
    while stack:
        part = stack.pop()
        if isinstance(part, str):
            pieces.append(part)
            continue
        node, least = part
        binds, parts = _pieces(node)
        stack.extend(reversed([*parts] if binds >= least else ["(", *parts, ")"]))
    return "".join(pieces)


def shown(expression: Node) -> str:
    """Return an expression as text for a reader; of a very large one, only its size."""
    size = expanded_size(expression)
    return text(expression) if size <= MAX_NODES else f"<an expression of {_count(size)} parts>"


def _count(size: int) -> str:
    return f"{size:,}" if size < 10**15 else f"about 10^{int(size.bit_length() * math.log10(2.0))}"


def _pieces(node: Node) -> tuple[int, list[_Part]]:
    """Return how tightly the text of a node binds, and the parts of this text."""
    op, args = node.op, node.args
    if op == "number":
        return _number(number_in(node))
    if op == "symbol":
        name = str(node.value)
        return ATOM, [name if PLAIN.fullmatch(name) and name not in WORDS else f"`{name}`"]
    if op in ("time", "true", "false"):
        return ATOM, [op]
    if op == "not" or (op == "-" and len(args) == 1):
        # `-3` is a number; the opposite of the number 3 is `-(3)`
        number = op == "-" and args[0].op == "number" and _number(number_in(args[0]))[0] == ATOM
        return UNARY, ["!" if op == "not" else "-", (args[0], ATOM + 1 if number else UNARY)]
    if op in INFIX and _is_infix(node):
        return _infix(node)
    if op == "output":
        return ATOM, [f"{args[0].value}[{number_in(args[1]):.0f}](", *_in_a_row(args[0].args), ")"]
    if op in ("root", "log") and is_number(args[0], 2.0 if op == "root" else 10.0):
        return ATOM, ["sqrt(" if op == "root" else "log10(", (args[1], 0), ")"]
    return ATOM, [f"{node.value if op == 'learned' else CALLED.get(op, op)}(", *_in_a_row(args), ")"]


def _in_a_row(args: Sequence[Node]) -> list[_Part]:
    return [piece for k, arg in enumerate(args) for piece in ([", ", (arg, 0)] if k else [(arg, 0)])]


def _is_infix(node: Node) -> bool:
    return len(node.args) == 2 or (len(node.args) > 2 and node.op in ("+", "*", "and", "or"))


def _infix(node: Node) -> tuple[int, list[_Part]]:
    binds, sign = INFIX[node.op]
    first, *others = node.args
    if node.op == "^":  # right-associative, and a sign may follow it
        return binds, [(first, ATOM), "^", (others[0], UNARY)]
    # a first operand of the same operation would be read as the beginning of a longer one
    tighter = node.op not in ("-", "/") if first.op == node.op else node.op in ("and", "or") or binds == 2
    parts: list[_Part] = [(first, binds + tighter)]
    for arg in others:
        parts += [f" {sign} ", (arg, binds + 1)]
    return binds, parts


def _number(value: float) -> tuple[int, list[_Part]]:
    """Return how tightly the text of a number binds, and this text; a sign binds like any other."""
    digits = _NAMES.get(value) or ("nan" if math.isnan(value) else repr(value).removesuffix(".0"))
    if value in (-math.inf, -math.pi, -math.e):
        digits = f"-{_NAMES[-value]}"
    return (UNARY if digits.startswith("-") else ATOM), [digits]
