"""What the user writes for a number: the number, a formula over names, or an expression."""

import math
from collections.abc import Collection, Iterable, Iterator
from typing import TypeAlias

import numpy as np

from qspjax._checks import ArgumentError, check_finite, check_number, refuse
from qspjax._expression._nodes import nodes, number_in
from qspjax._expression._parse import is_known_function, parse
from qspjax._expression._text import NUMBERS, PLAIN, WORDS
from qspjax._expression._tree import Expression

Formula: TypeAlias = float | str | Expression
"""A number, or a formula over names: `0.1`, `"sigma"`, `"sqrt(a^2 + (b * prediction)^2)"`."""


class AnyFunction(Collection[str]):
    """The names of all functions that formulas do not know: what they are is found out later."""

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and not is_known_function(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def as_formula(argument: str, value: object, functions: Collection[str] = ()) -> float | Expression:
    """Return a number as it is, and text, which may call `functions`, as an expression."""
    if isinstance(value, Expression):
        return value
    if isinstance(value, str):
        try:
            return parse(value, functions=functions)
        except ValueError as error:
            raise ArgumentError(argument, f"must be a formula, but: {error}") from None
    check_number(argument, value)
    shape = np.asarray(value).shape
    if shape != ():
        refuse(argument, "be one number", f"of shape {shape}")
    check_finite(argument, value)
    return float(np.asarray(value))


def constants_named(names: Collection[str], formulas: Iterable[float | Expression]) -> dict[str, Expression]:
    """Return which names are those of constants that formulas use, each with a formula that uses it.

    Text is read before the names that a model or a data set declares are known, so that `pi` is the number; where one
    of these names is `pi` too, the formula may mean either.

    Example:
        >>> from qspjax._expression import parse
        >>> constants_named(["pi", "A"], [parse("A + `pi`")]), *constants_named(["pi", "A"], [parse("A + pi")])
        ({}, 'pi')
    """
    words = sorted(WORDS & {*names})
    found: dict[str, Expression] = {}
    for formula in formulas if words else ():
        if isinstance(formula, Expression):
            used = nodes(formula)
            constants = (word for word in words if any(_is_constant(node, word) for node in used))
            found |= {word: formula for word in constants if word not in found}
    return found


def _is_constant(node: Expression, word: str) -> bool:
    if word not in NUMBERS or node.op != "number":
        return node.op == word
    value, meant = abs(number_in(node)), NUMBERS[word]  # `-pi` is one number
    return value == meant or (math.isnan(value) and math.isnan(meant))


def check_constants(argument: str, names: Collection[str], formulas: Iterable[float | Expression]) -> None:
    """Check that formulas use no constant whose name is declared as that of something else.

    Raises:
        ValueError: If one does; the message says how to write either.
    """
    for name, formula in constants_named(names, formulas).items():
        must = f"write `{name}` in backticks for what is declared with that name, or rename that"
        meaning = "the time" if name == "time" else "the constant"
        refuse(argument, must, f"{formula}, where it means {meaning}")


def check_function_names(argument: str, names: Iterable[object], taken: Collection[str] = ()) -> None:
    """Check that functions that formulas call have names that are neither known to formulas nor taken.

    Raises:
        ValueError: If one has not.
    """
    for name in names:
        if not isinstance(name, str) or not PLAIN.fullmatch(name):
            refuse(argument, "name functions plainly, such as `uptake`", f"`{name}`")
        if is_known_function(name) or name in WORDS:
            refuse(argument, "name functions by words that formulas do not know yet", f"`{name}`")
        if name in taken:
            refuse(argument, "name functions by names that nothing else has", f"`{name}`")
