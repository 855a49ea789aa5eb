"""Formulas in Antimony, rewritten where libantimony would read or write another number.

It keeps 15 digits of a number, takes what follows one (`0x1F`) for a unit, and writes neither the brackets of
`(a^b)^c` and `(-2)^c` nor those of `-(-a)`.
"""

import re

from qspjax._expression import Expression, call
from qspjax._expression._tree import rebuilt
from qspjax.io._content import stop
from qspjax.io.sbml._write_math import Numbers

_LITERAL = re.compile(r"(?<![\w.])((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(\w*)")
_NO_DECIMAL = re.compile(r"[xX][0-9a-fA-F]+|_\d\w*|[dD]\d+")
"""The rest of a number in forms of other programs (0x1F, 1_000, 1d2), which libantimony takes for a unit."""


def with_placeholders(name: str, text: str, bare: str, numbers: Numbers) -> str:
    """Return a text in Antimony with placeholders for numbers that 15 digits do not give.

    Args:
        name: The name of the text in messages.
        text: The text.
        bare: The same with blanks in place of comments and quotations.
        numbers: Keeps the numbers.

    Raises:
        FileIssues: If there is a number that libantimony would read as another one.
    """
    pieces, end = [], 0
    for match in _LITERAL.finditer(bare):
        literal, unit = match.groups()
        line = 1 + bare.count("\n", 0, match.start())
        if _NO_DECIMAL.fullmatch(unit) and not re.search(rf"\bunit\s+{unit}\b", bare):
            stop(name, f"must be a decimal number, but is {match[0]}.", line)
        value = float(literal)
        if value == float("inf"):
            stop(name, f"must be a number of at most 1.8e308, but is {literal}.", line)
        placeholder = numbers.place(value)
        if placeholder != value:
            pieces += [text[end : match.start()], repr(placeholder)]
            end = match.start() + len(literal)
    return "".join([*pieces, text[end:]])


def as_antimony(formula: Expression) -> Expression:
    """Return a formula of the same value, to the last bit, whose brackets libantimony writes."""

    def change(node: Expression) -> Expression | None:
        if _is_opposite(node) and _begins_with_sign(node.args[0]):
            return call("*", -1.0, node.args[0])
        if node.op == "^" and node.args[0].op == "^":
            base, power = node.args
            return call("^", call("*", 1.0, base), power)
        return None

    return rebuilt([formula], change)[0]


def _is_opposite(node: Expression) -> bool:
    return node.op == "-" and len(node.args) == 1


def _begins_with_sign(node: Expression) -> bool:
    while node.op in ("*", "/", "^"):
        node = node.args[0]
    return _is_opposite(node)
