"""Expressions built from others, without terms that are 0 and factors that are 1; and their slopes in time."""

from collections.abc import Iterable

from qspjax._expression import TIME, Expression, call, nodes, number, symbol
from qspjax.models.network._problems import Problem

ZERO, ONE = number(0.0), number(1.0)


class Unresolvable(Exception):  # noqa: N818 - not an error of the user's until it is a problem
    """A problem found while formulas are built."""

    def __init__(self, problem: Problem):
        """Keep the problem."""
        super().__init__(str(problem))
        self.problem = problem


def plus(terms: Iterable[Expression]) -> Expression:
    """Return a sum, without terms that are 0."""
    nonzero = [term for term in terms if term is not ZERO]
    return ZERO if not nonzero else nonzero[0] if len(nonzero) == 1 else call("+", *nonzero)


def times(*factors: Expression) -> Expression:
    """Return a product, without factors that are 1."""
    if ZERO in factors:
        return ZERO
    remaining = [factor for factor in factors if factor is not ONE]
    return ONE if not remaining else remaining[0] if len(remaining) == 1 else call("*", *remaining)


def over(numerator: Expression, denominator: Expression) -> Expression:
    """Return a quotient, without a denominator that is 1."""
    return numerator if denominator is ONE or numerator is ZERO else numerator / denominator


def minus(a: Expression, b: Expression) -> Expression:
    """Return a difference, without a term that is 0."""
    return a if b is ZERO else call("-", b) if a is ZERO else a - b


def weighted(terms: Iterable[tuple[Expression, Expression]]) -> Expression:
    """Return a sum of products with a factor each; products with a negative number as factor are subtracted."""
    positive, negative = [], []
    for factor, term in terms:
        leading, *others = factor.args if factor.op == "*" else (factor,)
        if isinstance(leading.value, float) and leading.value < 0:
            negative.append(times(number(-leading.value), *others, term))
        else:
            positive.append(times(factor, term))
    return minus(plus(positive), plus(negative))


def rate_of(expression: Expression) -> Expression:
    """Return the slope in time of an expression over ids, in which the slope of `x` is `x#rate`.

    Raises:
        Unresolvable: If the slope of a function in it is not supported.
    """
    rates: dict[Expression, Expression] = {}
    for node in nodes(expression):
        rates[node] = _rate(node, [rates[arg] for arg in node.args])
    return rates[expression]


def _rate(node: Expression, rates: list[Expression]) -> Expression:
    args = node.args
    if node is TIME:
        return ONE
    if node.op == "symbol":
        return ZERO if str(node.value).endswith(("#v", "#0")) else symbol(f"{node.value}#rate")
    if all(rate is ZERO for rate in rates):
        return ZERO
    if node.op == "+":
        return plus(rates)
    if node.op == "-":
        return minus(ZERO, rates[0]) if len(args) == 1 else minus(*rates)
    if node.op == "*":
        return plus(times(*args[:i], rate, *args[i + 1 :]) for i, rate in enumerate(rates))
    if node.op == "/":
        return over(minus(rates[0], times(node, rates[1])), args[1])
    if node.op == "^" and rates[1] is ZERO:
        return times(args[1], call("^", args[0], minus(args[1], ONE)), rates[0])
    if node.op == "exp":
        return times(node, rates[0])
    if node.op == "ln":
        return over(rates[0], args[0])
    if node.op == "piecewise":
        return call("piecewise", *(rates[i] if i % 2 == 0 else arg for i, arg in enumerate(args)))
    name = str(node.value) if node.op == "learned" else node.op
    raise Unresolvable(Problem(name, "not supported: rateOf of what an assignment rule determines."))


def affine(expression: Expression, name: str) -> tuple[Expression, Expression] | None:
    """Return a and b such that an expression is a x + b for the symbol x of this name; None if there are none."""
    form_of: dict[Expression, tuple[Expression, Expression] | None] = {}
    for node in nodes(expression):
        forms = [form for arg in node.args if (form := form_of[arg]) is not None]
        if node.op == "symbol":
            form_of[node] = (ONE, ZERO) if node.value == name else (ZERO, node)
        elif len(forms) < len(node.args):
            form_of[node] = None
        else:
            form_of[node] = (ZERO, node) if all(slope is ZERO for slope, _ in forms) else _affine(node, forms)
    return form_of[expression]


def _affine(node: Expression, forms: list[tuple[Expression, Expression]]) -> tuple[Expression, Expression] | None:
    slopes, offsets = [form[0] for form in forms], [form[1] for form in forms]
    if node.op == "+":
        return plus(slopes), plus(offsets)
    if node.op == "-":
        (a, b), (c, d) = forms if len(forms) == 2 else ((ZERO, ZERO), forms[0])
        return minus(a, c), minus(b, d)
    if node.op == "*" and sum(slope is not ZERO for slope in slopes) == 1:
        (index,) = (i for i, slope in enumerate(slopes) if slope is not ZERO)
        others = [*node.args[:index], *node.args[index + 1 :]]
        return times(*others, slopes[index]), times(*others, offsets[index])
    if node.op == "/" and slopes[1] is ZERO:
        return over(slopes[0], node.args[1]), over(offsets[0], node.args[1])
    if node.op == "piecewise" and all(slope is ZERO for slope in slopes[1::2]):
        parts = [[*node.args] for _ in range(2)]
        for i in range(0, len(forms), 2):
            parts[0][i], parts[1][i] = slopes[i], offsets[i]
        return call("piecewise", *parts[0]), call("piecewise", *parts[1])
    return None
