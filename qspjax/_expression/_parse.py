"""Text to expressions: a small parser of the infix syntax of SBML Level 3; text is never executed."""

import math
import re
from typing import NamedTuple

from qspjax._expression._text import CALLED
from qspjax._expression._tree import FALSE, FUNCTIONS, TIME, TRUE, Expression, call, number, symbol

LONGEST = 1_000_000
DEEPEST = 400

AVOGADRO = 6.02214179e23
"""The number that SBML fixes (Level 3 Version 2, section 3.4.6), 1/mol."""

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)"
    r"|(?P<sign>&&|\|\||==|!=|<=|>=|[-+*/^%<>!(),]))"
)
_BINARY = {
    "||": (1, "or"), "&&": (2, "and"), "==": (4, "eq"), "!=": (4, "neq"), "<": (4, "lt"), "<=": (4, "leq"),
    ">": (4, "gt"), ">=": (4, "geq"), "+": (5, "+"), "-": (5, "-"), "*": (6, "*"), "/": (6, "/"), "%": (6, "rem"),
    "^": (8, "^"),
}  # fmt: skip
_SAME = {"or", "and", "+", "*"}
_CONSTANTS = {
    "time": TIME, "true": TRUE, "false": FALSE, "pi": number(math.pi), "exponentiale": number(math.e),
    "avogadro": number(AVOGADRO), "inf": number(math.inf), "infinity": number(math.inf), "nan": number(math.nan),
    "notanumber": number(math.nan),
}  # fmt: skip
_ALIASES = {
    **{ours: op for op, ours in CALLED.items()},
    **{"plus": "+", "times": "*", "minus": "-", "divide": "/", "pow": "^", "power": "^", "ceiling": "ceil"},
    **{f"a{name}": f"arc{name}" for name in ("sin", "cos", "tan", "sec", "csc", "cot")},
    **{f"a{name}h": f"arc{name}h" for name in ("sin", "cos", "tan", "sec", "csc", "cot")},
}


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


def parse(text: str) -> Expression:
    """Read an expression from infix text, such as `Vmax * S / (Km + S)`.

    Numbers, names (also dotted), `+ - * / ^ %`, comparisons, `&& || !`, function calls, `piecewise`, `time`, `pi`,
    `avogadro`. `^` binds tighter than a sign and to the right; `log(x)` is the logarithm to base 10, as in SBML.

    Raises:
        ValueError: If it is no expression; the message says where.

    Example:
        >>> str(parse("k*(A - B)^2"))
        'k * (A - B)^2'
    """
    if len(text) > LONGEST:
        raise ValueError(f"An expression must have at most {LONGEST} characters, but has {len(text)}.")
    reader = _Reader(text)
    found = reader.expression(0, 0)
    if reader.token.kind != "end":
        reader.fail("an operator or the end")
    return found


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0
        self.token = self.following()

    def following(self) -> _Token:
        at = self.place
        found = _TOKEN.match(self.text, at)
        if found is None:
            rest = self.text[at:].strip()
            start = len(self.text) - len(self.text[at:].lstrip())
            return _Token("end" if not rest else "other", rest[:1], start)
        self.place = found.end()
        kind = str(found.lastgroup)
        return _Token(kind, found.group(kind), found.start(kind))

    def fail(self, wanted: str) -> None:
        found = "its end" if self.token.kind == "end" else f"`{self.token.text}`"
        shown = self.text if len(self.text) <= 80 else f"{self.text[:77]}..."
        raise ValueError(f"In `{shown}` there must be {wanted} at character {self.token.at + 1}, but there is {found}.")

    def take(self) -> _Token:
        taken, self.token = self.token, self.following()
        return taken

    def expect(self, sign: str) -> None:
        if self.token.text != sign:
            self.fail(f"`{sign}`")
        self.take()

    def expression(self, binds: int, depth: int) -> Expression:
        if depth > DEEPEST:
            raise ValueError(f"An expression must be nested at most {DEEPEST} deep, but is deeper.")
        left = self.prefix(depth)
        previous = ""
        while self.token.kind == "sign" and self.token.text in _BINARY:
            strength, op = _BINARY[self.token.text]
            if strength < binds or (strength == binds and op != "^"):
                break
            self.take()
            right = self.expression(strength if op != "^" else strength - 1, depth + 1)
            longer = op in _SAME and op == previous
            left = call(op, *left.args, right) if longer else call(op, left, right)
            previous = op
        return left

    def prefix(self, depth: int) -> Expression:
        token = self.take()
        if token.text in ("-", "+", "!") and token.kind == "sign":
            inner = self.expression(7, depth + 1)
            if token.text == "-" and inner.op == "number" and token.at + 1 < len(self.text):
                return number(-float(inner.value or 0.0)) if self._bracketed(token) else call("-", inner)
            return inner if token.text == "+" else call("-" if token.text == "-" else "not", inner)
        if token.kind == "number":
            return number(float(token.text))
        if token.text == "(":
            inner = self.expression(0, depth + 1)
            self.expect(")")
            return inner
        if token.kind == "name":
            if self.token.text == "(":
                return self.called(token, depth)
            return _CONSTANTS.get(token.text.lower(), symbol(token.text))
        self.token = token
        self.fail("a number, a name or a bracket")
        raise AssertionError("unreachable")

    def _bracketed(self, sign: _Token) -> bool:
        """Return whether a negative number stands alone in brackets, as one that was printed."""
        before = self.text[: sign.at].rstrip()
        return before.endswith("(") and self.token.text == ")"

    def called(self, name: _Token, depth: int) -> Expression:
        self.take()
        args = []
        while self.token.text != ")":
            args.append(self.expression(0, depth + 1))
            if self.token.text != ",":
                break
            self.take()
        self.expect(")")
        known = name.text if name.text in FUNCTIONS else name.text.lower()
        op = _ALIASES.get(known, _ALIASES.get(name.text, known))
        if op == "sqrt":
            return call("root", 2.0, *args)
        if op in ("log10", "log") and len(args) == 1:
            return call("log", 10.0, *args)
        if op == "sqr":
            return call("^", *args, 2.0)
        if op not in FUNCTIONS:
            raise ValueError(
                f"In `{self.text}` there must be a known function at character {name.at + 1}, but "
                f"there is `{name.text}`."
            )
        try:
            return call(op, *args)
        except ValueError as error:
            raise ValueError(f"In `{self.text}` at character {name.at + 1}: {error}") from None
