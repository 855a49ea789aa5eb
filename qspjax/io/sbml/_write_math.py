"""Expressions as trees of libsbml, and numbers to the last bit, which libsbml would write in 15 digits."""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from qspjax._checks import refuse
from qspjax._expression import TIME, Expression, nodes
from qspjax.io.sbml._library import library

if TYPE_CHECKING:
    import libsbml

MOST_NODES = 500_000
"""The maximum number of nodes of one formula, with shared parts counted as often as they are used."""

MOST_DEEP = 350
"""The maximum number of levels of one formula; readers may refuse more."""

MOST_NESTED = 5_000
"""The maximum number of levels of a tree of libsbml, which is written by recursion."""

AVOGADRO = 6.02214179e23
"""Avogadro's number in SBML (CODATA 2006)."""

_ARCS = {f"arc{name}": f"AST_FUNCTION_ARC{name.upper()}" for name in ("sin", "cos", "tan", "sec", "csc", "cot")}
_TYPES = {
    "+": "AST_PLUS",
    "*": "AST_TIMES",
    "-": "AST_MINUS",
    "/": "AST_DIVIDE",
    "^": "AST_POWER",
    "ceil": "AST_FUNCTION_CEILING",
    "rate": "AST_FUNCTION_RATE_OF",
    "true": "AST_CONSTANT_TRUE",
    "false": "AST_CONSTANT_FALSE",
    **{name: f"AST_RELATIONAL_{name.upper()}" for name in ("lt", "leq", "gt", "geq", "eq", "neq")},
    **{name: f"AST_LOGICAL_{name.upper()}" for name in ("and", "or", "xor", "not", "implies")},
}
"""The names of the types of libsbml that are not `AST_FUNCTION_` and the operation."""

_PLACEHOLDER = re.compile(
    r'( (?:value|size|initialAmount|initialConcentration|stoichiometry)="|<cn> )(-?)(731\d{6}\.25)("| </cn>)'
)
_BARE = re.compile(r"(?<![\w.])(= |)(731\d{6}\.25)(?![\w.])(;|)")
_FIRST_PLACEHOLDER = 731_000_000.25
_MOST_PLACEHOLDERS = 1_000_000


class Numbers:
    """Numbers that 15 digits do not give: libsbml gets placeholders, which are replaced in its text at the end.

    Args:
        negative: Whether negative numbers get placeholders too: libantimony writes the square of -2 as `-2^2`.

    Example:
        >>> numbers = Numbers()
        >>> numbers.filled(f' value="{numbers.place(0.1 + 0.2)}"'), numbers.place(0.25)
        (' value="0.30000000000000004"', 0.25)
    """

    def __init__(self, *, negative: bool = False) -> None:
        """Start without numbers."""
        self._numbers: list[float] = []
        self._negative = negative

    def place(self, number: float) -> float:
        """Return a number as libsbml gets it: itself, or its placeholder."""
        looks_like_one = 0 <= number - _FIRST_PLACEHOLDER < _MOST_PLACEHOLDERS
        special = looks_like_one or (self._negative and number < 0)
        if not math.isfinite(number) or (float(f"{number:.15g}") == number and not special):
            return number
        if len(self._numbers) == _MOST_PLACEHOLDERS:
            refuse("network", f"have at most {_MOST_PLACEHOLDERS} numbers of more than 15 digits", "one with more")
        self._numbers.append(number)
        return _FIRST_PLACEHOLDER + len(self._numbers) - 1

    def filled(self, text: str) -> str:
        """Return text of libsbml with the numbers in place of their placeholders."""
        return _PLACEHOLDER.sub(self._number, text)

    def filled_bare(self, text: str) -> str:
        """Return a text in Antimony with the numbers in place of their placeholders."""

        def digits(match: re.Match[str]) -> str:
            before, placeholder, after = match.groups()
            number = self._of(placeholder)
            bracketed = number.startswith("-") and not (before and after)
            return f"{before}({number}){after}" if bracketed else f"{before}{number}{after}"

        return _BARE.sub(digits, text)

    def _of(self, placeholder: str) -> str:
        return repr(self._numbers[int(float(placeholder) - _FIRST_PLACEHOLDER)])

    def _number(self, match: re.Match[str]) -> str:
        before, sign, placeholder, after = match.groups()
        digits = (sign + self._of(placeholder)).removeprefix("--")
        mantissa, exponent, power = digits.partition("e")
        if before == "<cn> " and exponent:
            return f'<cn type="e-notation"> {mantissa} <sep/> {int(power)} </cn>'
        return f"{before}{digits}{after}"


class Mathematics:
    """Converts expressions to trees of libsbml.

    Args:
        ids: The id in the file of each id of the network.
        numbers: Keeps the numbers of more than 15 digits.
    """

    def __init__(self, ids: Mapping[str, str], numbers: Numbers):
        """Look up the types."""
        self._libsbml = library()
        self._ids, self._numbers = ids, numbers

    def tree(self, expression: Expression, local: Mapping[str, str] | None = None) -> "libsbml.ASTNode":
        """Return a new tree.

        Args:
            expression: The formula.
            local: Ids that have another id in this formula only.

        Raises:
            ValueError: If it is too large or too deep for a file.
        """
        _check_size(expression)
        ids = self._ids if not local else {**self._ids, **local}
        # every occurrence is a node of its own: (expression, parent), children in the order in which they are made
        root = self._node(expression, ids)
        todo = [(expression, root, 0)]
        while todo:
            node, tree, made = todo.pop()
            if made == len(node.args):
                continue
            todo.append((node, tree, made + 1))
            child = self._node(node.args[made], ids)
            if tree.addChild(child) != self._libsbml.LIBSBML_OPERATION_SUCCESS:
                raise AssertionError(f"libsbml took no part of {node.op}")
            if node.args[made].args:
                todo.append((node.args[made], child, 0))
        return root

    def _node(self, expression: Expression, ids: Mapping[str, str]) -> "libsbml.ASTNode":
        package = self._libsbml
        if isinstance(expression.value, float):
            return self._number(expression.value)
        if expression is TIME:
            return self._named(package.AST_NAME_TIME, "time")
        if expression.op == "symbol":
            return self._named(package.AST_NAME, ids[str(expression.value)])
        name = _TYPES.get(expression.op) or _ARCS.get(expression.op) or f"AST_FUNCTION_{expression.op.upper()}"
        node = package.ASTNode(getattr(package, name))
        if expression.op == "rate":
            node.setName("rateOf")
        return node

    def _number(self, number: float) -> "libsbml.ASTNode":
        package = self._libsbml
        if number == AVOGADRO:
            return self._named(package.AST_NAME_AVOGADRO, "avogadro")
        for constant, kind in ((math.pi, package.AST_CONSTANT_PI), (math.e, package.AST_CONSTANT_E)):
            if number == constant:
                return package.ASTNode(kind)
        placeholder = self._numbers.place(number)
        negative_zero = number == 0.0 and math.copysign(1.0, number) < 0.0
        is_integer = placeholder == number and number.is_integer() and abs(number) < 2**31 and not negative_zero
        node = package.ASTNode(package.AST_INTEGER if is_integer else package.AST_REAL)
        node.setValue(int(number) if is_integer else placeholder)
        return node

    def _named(self, kind: int, name: str) -> "libsbml.ASTNode":
        node = self._libsbml.ASTNode(kind)
        node.setName(name)
        return node


def _check_size(expression: Expression) -> None:
    """Refuse formulas that are too large when written; libsbml merges sums of sums and products of products."""
    sizes: dict[Expression, tuple[int, int, int]] = {}
    for node in nodes(expression):
        parts = [(arg, *sizes[arg]) for arg in node.args]
        levels = 2 if node.op == "piecewise" else 1
        merges = node.op in ("+", "*")
        depths = (depth - (1 if merges and arg.op == node.op else 0) for arg, _, depth, _ in parts)
        depth = levels + max(depths, default=0)
        sizes[node] = 1 + sum(part[1] for part in parts), depth, 1 + max((part[3] for part in parts), default=0)
    size, depth, nested = sizes[expression]
    if depth > MOST_DEEP or nested > MOST_NESTED:
        refuse("network", f"have formulas of at most {MOST_DEEP} levels to be written as SBML", f"one with {depth}")
    if size > MOST_NODES:
        refuse("network", f"have formulas of at most {MOST_NODES} parts to be written as SBML", f"one with {size}")
