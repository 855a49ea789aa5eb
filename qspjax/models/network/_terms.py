"""Expressions that are made of others: without terms that are 0 and factors that are 1, and slopes in time."""

from collections.abc import Iterable

from qspjax._expression import TIME, Expression, call, nodes, number, symbol
from qspjax.models.network._problems import Problem

ZERO, ONE = number(0.0), number(1.0)


class Unresolvable(Exception):  # noqa: N818 - not an error of the user's until it is a problem
    """A problem found while formulas are made."""

    def __init__(self, problem: Problem):
        """Keep the problem."""
        super().__init__(str(problem))
        self.problem = problem


def plus(terms: Iterable[Expression]) -> Expression:
    """Return a sum, without terms that are 0."""
    kept = [term for term in terms if term is not ZERO]
    return ZERO if not kept else kept[0] if len(kept) == 1 else call("+", *kept)


def times(*factors: Expression) -> Expression:
    """Return a product, without factors that are 1."""
    if ZERO in factors:
        return ZERO
    kept = [factor for factor in factors if factor is not ONE]
    return ONE if not kept else kept[0] if len(kept) == 1 else call("*", *kept)


def over(numerator: Expression, denominator: Expression) -> Expression:
    """Return a quotient, without a denominator that is 1."""
    return numerator if denominator is ONE or numerator is ZERO else numerator / denominator


def minus(a: Expression, b: Expression) -> Expression:
    """Return a difference, without a term that is 0."""
    return a if b is ZERO else call("-", b) if a is ZERO else a - b


def weighted(terms: Iterable[tuple[Expression, Expression]]) -> Expression:
    """Return a sum of products with a factor each; what has a negative number as its factor is subtracted."""
    added, taken = [], []
    for factor, term in terms:
        first, *rest = factor.args if factor.op == "*" else (factor,)
        if isinstance(first.value, float) and first.value < 0:
            taken.append(times(number(-first.value), *rest, term))
        else:
            added.append(times(factor, term))
    return minus(plus(added), plus(taken))


def rate_of(expression: Expression) -> Expression:
    """Return the slope in time of an expression over ids, in which the slope of `x` is `x#rate`.

    Raises:
        Unresolvable: If a function in it has no slope here.
    """
    done: dict[Expression, Expression] = {}
    for node in nodes(expression):
        done[node] = _rate(node, [done[arg] for arg in node.args])
    return done[expression]


def _rate(node: Expression, rates: list[Expression]) -> Expression:
    args = node.args
    if node is TIME:
        return ONE
    if isinstance(node.value, str):
        return ZERO if node.value.endswith(("#v", "#0")) else symbol(f"{node.value}#rate")
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
    raise Unresolvable(Problem(node.op, "not supported: rateOf of what an assignment rule determines."))


def affine(expression: Expression, name: str) -> tuple[Expression, Expression] | None:
    """Return a and b such that an expression is a x + b for the symbol x of this name; None if there are none."""
    done: dict[Expression, tuple[Expression, Expression] | None] = {}
    for node in nodes(expression):
        forms = [form for arg in node.args if (form := done[arg]) is not None]
        if node.op == "symbol":
            done[node] = (ONE, ZERO) if node.value == name else (ZERO, node)
        elif len(forms) < len(node.args):
            done[node] = None
        else:
            done[node] = (ZERO, node) if all(slope is ZERO for slope, _ in forms) else _affine(node, forms)
    return done[expression]


def _affine(node: Expression, forms: list[tuple[Expression, Expression]]) -> tuple[Expression, Expression] | None:
    slopes, offsets = [form[0] for form in forms], [form[1] for form in forms]
    if node.op == "+":
        return plus(slopes), plus(offsets)
    if node.op == "-":
        (a, b), (c, d) = forms if len(forms) == 2 else ((ZERO, ZERO), forms[0])
        return minus(a, c), minus(b, d)
    if node.op == "*" and sum(slope is not ZERO for slope in slopes) == 1:
        (place,) = (i for i, slope in enumerate(slopes) if slope is not ZERO)
        rest = [*node.args[:place], *node.args[place + 1 :]]
        return times(*rest, slopes[place]), times(*rest, offsets[place])
    if node.op == "/" and slopes[1] is ZERO:
        return over(slopes[0], node.args[1]), over(offsets[0], node.args[1])
    if node.op == "piecewise" and all(slope is ZERO for slope in slopes[1::2]):
        parts = [[*node.args] for _ in range(2)]
        for i in range(0, len(forms), 2):
            parts[0][i], parts[1][i] = slopes[i], offsets[i]
        return call("piecewise", *parts[0]), call("piecewise", *parts[1])
    return None
