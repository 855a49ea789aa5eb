"""Text to expressions: a small parser of the infix syntax of SBML Level 3; text is never executed.

The parser is that of Pratt: an operand, then operators for as long as they bind tighter than what is to the left. Its
functions are generators that yield how tightly the next operand must bind and are sent that operand, and one loop
drives them, so that text may be nested thousands deep.

Reference: Pratt (1973), Top down operator precedence, doi:10.1145/512927.512931.
"""

import re
from collections.abc import Collection, Generator, Mapping
from typing import NamedTuple, NoReturn

from qspjax._expression._learned import learned
from qspjax._expression._nodes import number_in
from qspjax._expression._text import CALLED, INFIX, NUMBERS, PLAIN, UNARY
from qspjax._expression._tree import FALSE, FUNCTIONS, TIME, TRUE, Expression, call, number, symbol

MAX_LENGTH = 1_000_000
"""Maximum number of characters."""
MAX_DEPTH = 50_000
"""Maximum nesting depth of brackets and signs."""

_TOKEN = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    rf"|(?P<name>{PLAIN.pattern})|`(?P<quoted>[^`]+)`"
    r"|(?P<sign>&&|\|\||==|!=|<=|>=|[-+*/^%<>!(),\[\]])",
    re.ASCII,
)
_SPACE = re.compile(r"\s*")
_BINARY = {**{sign: (binds, op) for op, (binds, sign) in INFIX.items()}, "%": (INFIX["*"][0], "rem")}
_ANY_NUMBER = {"+", "*", "and", "or"}
_RELATIONS = {"lt", "leq", "gt", "geq", "eq", "neq"}
_NAMED = {"time": TIME, "true": TRUE, "false": FALSE, **{name: number(value) for name, value in NUMBERS.items()}}
_OPERATIONS = {
    **{op: op for op in FUNCTIONS if op.isalpha() and op != "rate"},
    **{name: op for op, name in CALLED.items()},
    **{f"a{name}{h}": f"arc{name}{h}" for name in ("sin", "cos", "tan", "sec", "csc", "cot") for h in ("", "h")},
    "pow": "^",
    "ceiling": "ceil",
}
_PARTIAL = {"sqrt": ("root", 2.0), "log10": ("log", 10.0), "log2": ("log", 2.0)}
"""Functions that are another function with a fixed first argument."""

_Reading = Generator[int, Expression, Expression]


def known_functions() -> tuple[str, ...]:
    """Return the names of the functions that formulas have."""
    return (*_OPERATIONS, *_PARTIAL, "log", "sqr", "sign")


def is_known_function(name: str) -> bool:
    """Return whether formulas have a function of this name."""
    return name in known_functions()


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


class Dialect(NamedTuple):
    """What differs between the infix syntaxes of standards.

    Attributes:
        natural: Whether `log(x)` is the natural logarithm, and `log(x, base)` that to a base.
        loose: Whether `&&` and `||` bind alike, so that no brackets are needed where they are mixed.
        named: Words that are not symbols.
    """

    natural: bool = False
    loose: bool = False
    named: Mapping[str, Expression] = _NAMED


SBML = Dialect()
"""Level 3 of SBML."""
PETAB = Dialect(natural=True, loose=True, named={name: _NAMED[name] for name in ("time", "true", "false", "inf", "pi")})
"""The mathematics of PEtab 2."""


def parse(
    text: str, dialect: Dialect = SBML, *, ids: Collection[str] = (), functions: Collection[str] = ()
) -> Expression:
    """Read an expression from infix text, such as `Vmax * S / (Km + S)`.

    Numbers, names (also dotted, as `reaction.k`; any other name in backticks), `+ - * / ^ %`, comparisons, `&& || !`,
    calls of functions, `piecewise(value, condition, ..., otherwise)`, `rateOf(x)`, `time`, `true`, `false`, `pi`,
    `exponentiale`, `avogadro`, `inf`, `nan`. `^` binds tighter than a sign and is right-associative; `a < b < c` is a
    chain; `log(x)` is the logarithm to base 10, as in SBML, and `log(base, x)` that to another base.

    Args:
        text: The text.
        dialect: `SBML` or `PETAB`.
        ids: Names that are those of symbols, even if one is `time`, `pi` or the name of another constant.
        functions: Names of functions that are learned from data: `f(x)`, or `f[1](x)` for output 1 of several.

    Raises:
        ValueError: If the text is not an expression; the message shows where.

    Example:
        >>> str(parse("k*(A - B)^2"))
        'k * (A - B)^2'
        >>> parse("2 * drug +")
        Traceback (most recent call last):
        ...
        ValueError: In `2 * drug +` there must be a number, a name or a bracket at character 11, but there is its end.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"An expression must have at most {MAX_LENGTH} characters, but has {len(text)}.")
    reader = _Reader(text, dialect, ids, functions)
    stack = [reader.operand(0)]
    operand: Expression | None = None
    while stack:
        try:
            binds = next(stack[-1]) if operand is None else stack[-1].send(operand)
        except StopIteration as stop:
            operand = stop.value
            stack.pop()
            continue
        if len(stack) == MAX_DEPTH:
            raise ValueError(f"An expression must be nested at most {MAX_DEPTH} deep, but is deeper.")
        operand = None
        stack.append(reader.operand(binds))
    if reader.token.kind != "end":
        reader.fail("an operator or the end")
    assert operand is not None
    return operand


class _Reader:
    """The tokens of a text, and the operands that they make."""

    def __init__(self, text: str, dialect: Dialect, ids: Collection[str], functions: Collection[str]) -> None:
        self.text, self.dialect, self.ids, self.functions = text, dialect, ids, functions
        self.position = 0
        self.token = self._following()

    def _following(self) -> _Token:
        space = _SPACE.match(self.text, self.position)
        at = self.position if space is None else space.end()
        match = _TOKEN.match(self.text, at)
        if match is None:
            return _Token("end" if at == len(self.text) else "other", self.text[at : at + 1], at)
        self.position = match.end()
        kind = str(match.lastgroup)
        return _Token(kind, match.group(kind), at)

    def fail(self, expected: str, token: _Token | None = None) -> NoReturn:
        """Refuse a token, the next one if none is given."""
        token = token or self.token
        if token.text == "*" and self.text[token.at - 1 : token.at] == "*":
            raise ValueError(
                f"In {self._around(token.at)} a power must be written `^`, as in `x^2`, "
                f"but is `**` at character {token.at}."
            )
        actual = "its end" if token.kind == "end" else f"`{token.text}`"
        raise ValueError(
            f"In {self._around(token.at)} there must be {expected} at character {token.at + 1}, but there is {actual}."
        )

    def _around(self, at: int) -> str:
        """Return the text around a position."""
        start, stop = max(at - 50, 0), at + 30
        before, after = "..." if start else "", "..." if stop < len(self.text) else ""
        return f"`{before}{self.text[start:stop]}{after}`"

    def _take(self) -> _Token:
        token, self.token = self.token, self._following()
        return token

    def _is(self, *signs: str) -> bool:
        return self.token.kind == "sign" and self.token.text in signs

    def _expect(self, sign: str, expected: str) -> None:
        if not self._is(sign):
            self.fail(expected)
        self._take()

    def operand(self, binds: int) -> _Reading:
        """Read an operand, including all operators that bind tighter than `binds`."""
        run, ops = [(yield from self._prefix())], []  # operands, and the operations between them
        while self.token.kind == "sign" and self.token.text in _BINARY:
            strength, op = _BINARY[self.token.text]
            if strength <= binds:
                break
            if op == "and" and ops[-1:] == ["or"] and not self.dialect.loose:
                self.fail("brackets that say which of `||` and `&&` is first")
            if ops and not (op == ops[-1] and op in _ANY_NUMBER or op in _RELATIONS and ops[-1] in _RELATIONS):
                run, ops = [_combined(run, ops)], []
            self._take()
            run.append((yield UNARY - 1 if op == "^" else strength))
            ops.append(op)
        return _combined(run, ops)

    def _prefix(self) -> _Reading:
        """Read the start of an operand."""
        token = self._take()
        if token.kind == "sign" and token.text in ("-", "+", "!"):
            following = self.token
            inner = yield UNARY - 1
            if token.text == "-" and inner.op == "number" and _is_number(following):
                return number(-number_in(inner))
            return inner if token.text == "+" else call("-" if token.text == "-" else "not", inner)
        if token.kind == "number":
            return number(float(token.text))
        if token.kind == "quoted":
            return symbol(token.text)
        if token.kind == "name":
            if token.text in self.functions and self._is("(", "["):
                return (yield from self._learned(token))
            if self._is("("):
                return (yield from self._called(token))
            named = self.dialect.named
            return named[token.text] if token.text in named and token.text not in self.ids else symbol(token.text)
        if token.kind == "sign" and token.text == "(":
            inner = yield 0
            self._expect(")", "an operator or `)`")
            return inner
        return self.fail("a number, a name or a bracket", token)

    def _learned(self, name: _Token) -> _Reading:
        """Read a call of a function that is learned."""
        output = None
        if self._is("["):
            self._take()
            token = self._take()
            if token.kind != "number" or not token.text.isdigit():
                self.fail("the number of an output", token)
            output = int(token.text)
            self._expect("]", "`]`")
            if not self._is("("):
                self.fail("`(`")
        args = yield from self._arguments()
        try:
            return learned(name.text, *args, output=output)
        except ValueError as error:
            raise ValueError(f"In {self._around(name.at)} at character {name.at + 1}: {error}") from None

    def _arguments(self) -> Generator[int, Expression, list[Expression]]:
        """Read the arguments of a function, in brackets."""
        self._take()
        args: list[Expression] = []
        while not self._is(")") or args:
            args.append((yield 0))
            if not self._is(","):
                break
            self._take()
        self._expect(")", "an operator, `,` or `)`")
        return args

    def _called(self, name: _Token) -> _Reading:
        """Read a call of a function that formulas know."""
        if not is_known_function(name.text):
            self.fail("a known function", name)
        args = yield from self._arguments()
        try:
            if name.text == "sqr":
                return call("^", *args, 2.0)
            if name.text == "sign":
                return call("piecewise", 1.0, call("gt", *args, 0.0), -1.0, call("lt", *args, 0.0), 0.0)
            if name.text == "log" and self.dialect.natural:
                return call("ln", *args) if len(args) == 1 else call("log", *args[::-1])
            if name.text == "log" and len(args) == 1:
                return call("log", 10.0, *args)
            if name.text in _PARTIAL:
                op, first = _PARTIAL[name.text]
                return call(op, first, *args)
            return call(_OPERATIONS[name.text], *args)
        except ValueError as error:
            raise ValueError(f"In {self._around(name.at)} at character {name.at + 1}: {error}") from None


def _combined(operands: list[Expression], ops: list[str]) -> Expression:
    if not ops:
        return operands[0]
    if len(set(ops)) == 1 and (len(ops) == 1 or ops[0] != "neq"):
        return call(ops[0], *operands)
    return call("and", *map(call, ops, operands, operands[1:]))  # a chain of several relations: a < b <= c


def _is_number(token: _Token) -> bool:
    return token.kind == "number" or (token.kind == "name" and token.text in NUMBERS)
