"""From a fitted candidate to a formula with named parameters."""

from collections.abc import Collection, Sequence

from qspjax._expression import Expression, number, substitute, symbol
from qspjax.discover._forms import INPUT, Form
from qspjax.discover._search import Fitted, Term
from qspjax.models.network._terms import minus, over, plus, times

CONSTANT = "base"
"""The name of a coefficient that stands alone."""


def formula_of(one: Fitted) -> tuple[Expression, dict[str, float]]:
    """Return a candidate as a formula over its inputs and named parameters, which are positive, and their values."""
    parameters: dict[str, float] = {}
    positive, negative = [], []
    inputs = {name for term in one.structure for name, _ in term}
    for term, constants, coefficient in zip(one.structure, one.constants, one.coefficients, strict=True):
        product = _product(term, constants, abs(coefficient), parameters, inputs)
        (positive if coefficient >= 0 else negative).append(product)
    return minus(plus(positive), plus(negative)), parameters


def _product(
    term: Term, constants: Sequence[float], coefficient: float, parameters: dict[str, float], inputs: Collection[str]
) -> Expression:
    """Return a term as an expression, and add its parameters; quotients are brought to one."""
    rest = [*constants]
    numerators = [_named(_coefficient(term), coefficient, parameters, inputs)]
    denominators = []
    for name, form in term:
        own, rest = rest[: form.count], rest[form.count :]
        names = {key: _named(key, value, parameters, inputs) for key, value in zip(form.constants, own, strict=True)}
        factor = substitute(form.expression, {INPUT: symbol(name), **names})
        above, below = factor.args if factor.op == "/" else (factor, None)
        numerators += above.args if above.op == "*" else (above,)
        denominators += [] if below is None else [below]
    return over(times(*numerators), times(*denominators))


def _coefficient(term: Term) -> str:
    if not term:
        return CONSTANT
    named = [form.coefficient for _, form in term if form.coefficient != Form.coefficient]
    return named[0] if named else Form.coefficient


def _named(name: str, value: float, parameters: dict[str, float], inputs: Collection[str]) -> Expression:
    """Add a parameter under a name that is new, and return its symbol."""
    new, count = name, 1
    while new in parameters or new in inputs:
        count += 1
        new = f"{name}{count}"
    parameters[new] = value
    return symbol(new)


def rounded(expression: Expression, parameters: dict[str, float]) -> str:
    """Return a formula as text with its numbers in place of their names, to three digits."""
    return str(substitute(expression, {name: number(float(f"{value:.3g}")) for name, value in parameters.items()}))
