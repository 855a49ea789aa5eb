"""Calls of functions that are learned from data: `f(drug, target)`, and `f[1](drug, target)` for output 1 of several.

What is called is not part of the expression: `evaluate` is given it by its name. A call is a node `learned` whose value
is the name; an output of it is a node `output` of the call and the number of the output, so that the outputs of one
call share it.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol

from qspjax._checks import check_whole, refuse
from qspjax._expression._nodes import nodes, number_in
from qspjax._expression._text import PLAIN
from qspjax._expression._tree import Expression, as_expression, node, number, rebuilt


class Learnable(Protocol):
    """What is known of a function: the number of its inputs, and of its outputs (None for one number)."""

    @property
    def inputs(self) -> int: ...

    @property
    def outputs(self) -> int | None: ...


def learned(name: str, *args: object, output: int | None = None) -> Expression:
    """Return a call of a function that is learned.

    Args:
        name: Its name.
        *args: What it is called with: expressions or numbers.
        output: The number of the output, from 0, of a function with several.

    Raises:
        ValueError: If the name is not that of a function, or there are no arguments.

    Example:
        >>> from qspjax._expression import symbol
        >>> print(learned("f", symbol("drug"), 2.0), learned("f", symbol("drug"), output=1))
        f(drug, 2) f[1](drug)
    """
    if not isinstance(name, str) or not PLAIN.fullmatch(name):
        refuse("name", "be a plain name of a function, such as `uptake`", name)
    if not args:
        refuse("args", f"be at least 1 for `{name}`", 0)
    called = node("learned", tuple(map(as_expression, args)), name)
    if output is None:
        return called
    check_whole("output", output, 0)
    return node("output", (called, number(output)))


def functions_in(*expressions: Expression) -> tuple[str, ...]:
    """Return the names of the functions that expressions call, each once.

    Example:
        >>> from qspjax._expression import parse
        >>> functions_in(parse("2 * f(x) + f(y)", functions={"f"}))
        ('f',)
    """
    return tuple(dict.fromkeys(str(part.value) for part in nodes(*expressions) if part.op == "learned"))


def with_functions(expression: Expression, names: Mapping[str, str]) -> Expression:
    """Return an expression in which functions have other names.

    Example:
        >>> from qspjax._expression import parse
        >>> print(with_functions(parse("f(x)", functions={"f"}), {"f": "f_theta"}))
        f_theta(x)
    """

    def change(part: Expression) -> Expression | None:
        called = part.op == "learned" and str(part.value) in names
        return node("learned", part.args, names[str(part.value)]) if called else None

    return rebuilt([expression], change)[0]


def misuses(expression: Expression, functions: Mapping[str, Learnable]) -> Iterator[str]:
    """Yield what is wrong with the calls of an expression, in words that follow the name of what it belongs to.

    Args:
        expression: The expression.
        functions: What is known of each function, by name.

    Example:
        >>> from qspjax._expression import parse
        >>> [*misuses(parse("f(x)", functions={"f"}), {})]
        ['must call functions that are given, but calls `f`.']
    """
    parts = nodes(expression)
    whole = {expression, *(arg for part in parts if part.op != "output" for arg in part.args)}
    for part in parts:
        if part.op == "output" and part.args[0].value in functions:
            name, outputs = part.args[0].value, functions[str(part.args[0].value)].outputs
            if outputs is None:
                yield f"must call `{name}` without the number of an output, since it has one, but is `{part}`."
            elif number_in(part.args[1]) >= outputs:
                yield f"must use outputs 0 to {outputs - 1} of `{name}`, but is `{part}`."
        if part.op != "learned":
            continue
        name = str(part.value)
        if name not in functions:
            yield f"must call functions that are given, but calls `{name}`."
            continue
        if len(part.args) != functions[name].inputs:
            yield f"must call `{name}` with {functions[name].inputs} inputs, but calls `{part}`."
        if part in whole and functions[name].outputs is not None:
            yield f"must say which output of `{name}` is meant, as in `{name}[0](...)`, but is `{part}`."
