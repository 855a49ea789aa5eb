"""Formulas, ids, priors and error models in the form of PEtab 2."""

import math
import re
from collections.abc import Callable, Iterable
from typing import NoReturn

import numpy as np

from qspjax._checks import ArgumentError
from qspjax._distribution import AbstractDistribution, LogNormal, Normal, Truncated, Uniform
from qspjax._expression import Expression, as_expression, call, substitute, symbol, symbols
from qspjax._expression._text import WORDS
from qspjax._expression._tree import rebuilt
from qspjax._transform import Identity, Log
from qspjax.fit import AbstractLocationScale, Free, Output
from qspjax.fit.errors._contract import formulas_of
from qspjax.io.petab._priors import PetabPrior

_INFIX = {"+", "-", "*", "/", "^", "lt", "leq", "gt", "geq", "eq", "neq", "and", "or", "not"}
_TRIGONOMETRIC = {
    f"{arc}{name}{h}" for arc in ("", "arc") for name in ("sin", "cos", "tan", "sec", "csc", "cot") for h in ("", "h")
}
_KNOWN = _INFIX | _TRIGONOMETRIC | {"number", "symbol", "time", "true", "false", "exp", "ln", "abs", "min", "max"}
_KNOWN |= {"piecewise", "root", "log"}
_RESERVED = (*WORDS, "prediction")
_DISTRIBUTIONS = ("normal", "laplace")
_PRIORS = {
    "lognormal": "log-normal",
    "loglaplace": "log-laplace",
    "loguniform": "log-uniform",
}


def refuse(must: str, actual: str) -> NoReturn:
    """Raise the error of a problem that PEtab cannot express."""
    raise ArgumentError("problem", f"must {must} to be written as PEtab, but {actual}.")


class Ids:
    """Ids that PEtab allows, each given once."""

    def __init__(self) -> None:
        """Start with the reserved words."""
        self._used: set[str] = set(_RESERVED)

    def new(self, wish: str) -> str:
        """Return an unused id, as close to `wish` as possible."""
        plain = re.sub(r"[^A-Za-z0-9_]+", "_", wish) or "id"
        plain = f"_{plain}" if plain[0].isdigit() else plain
        id, count = plain, 1
        while id in self._used:
            count += 1
            id = f"{plain}_{count}"
        self._used.add(id)
        return id


def text_of(formula: float | Expression, meaning: Callable[[str], str | Expression]) -> str:
    """Return a formula as PEtab writes it.

    Args:
        formula: The formula.
        meaning: Returns what replaces a name: an id, a number or a formula.
    """
    if not isinstance(formula, Expression):
        return repr(float(formula))
    meanings = {name: meaning(name) for name in sorted(symbols(formula))}
    nodes = {name: symbol(value) if isinstance(value, str) else value for name, value in meanings.items()}
    return str(rebuilt([substitute(formula, nodes)], _in_words)[0])


def _in_words(node: Expression) -> Expression | None:
    if node.op == "learned":
        refuse("have formulas of what PEtab knows", f"one calls {node.value}, which is learned from data")
    if node.op not in _KNOWN:
        refuse("have formulas of what PEtab knows", f"one uses {node.op}")
    if isinstance(node.value, float) and not math.isfinite(node.value):
        refuse("have finite numbers in formulas", f"one has {node.value}")
    if node.op == "root" and not _is_number(node.args[0], 2.0):
        return call("^", node.args[1], call("/", 1.0, node.args[0]))
    if node.op == "log" and not _is_number(node.args[0], 10.0):
        return call("/", call("ln", node.args[1]), call("ln", node.args[0]))
    return None


def _is_number(node: Expression, value: float) -> bool:
    return node.op == "number" and node.value == value


def noise_of(name: str, output: Output) -> tuple[Expression, str]:
    """Return the formula of the scale of an output's error, and the distribution."""
    error = output.error
    if not isinstance(error, AbstractLocationScale) or error.transform_fields():
        return _refuse_error(name, error)
    if error.distribution.name not in _DISTRIBUTIONS:
        return _refuse_error(name, error.distribution)
    f = as_expression(output.prediction)
    fields = {
        field: substitute(as_expression(formula), {"prediction": f}) for field, formula in formulas_of(error).items()
    }
    scale, transform = substitute(error.scale(), {**fields, "prediction": f}), error.transform()
    if isinstance(transform, Identity):
        return scale, error.distribution.name
    if isinstance(transform, Log):
        scale = scale if transform.base == math.e else scale * math.log(transform.base)
        return scale, f"log-{error.distribution.name}"
    return _refuse_error(name, error)


def _refuse_error(name: str, part: object) -> NoReturn:
    refuse("have errors that are normal, Laplace or log-normal", f"that of `{name}` is {type(part).__name__}")


def prior_of(name: str, free: Free) -> tuple[str, Iterable[float], float, float]:
    """Return the name and the numbers of a prior, and the bounds of the parameter with those of the prior."""
    prior, low, high = free.prior, free.lower, free.upper
    if prior is not None and free.prior_scaled and not isinstance(free.transform, Identity):
        refuse("have priors of natural values", f"that of `{name}` is one of the transformed value")
    if isinstance(prior, Truncated):
        low, high = max(low, float(prior.low)), min(high, float(prior.high))
        prior = prior.distribution
    if prior is None:
        return "", (), low, high
    if isinstance(prior, PetabPrior):
        return _PRIORS.get(prior.kind, prior.kind), prior.parameters, low, high
    if isinstance(prior, Normal) and prior.mean is not None:
        return "normal", (float(prior.mean), float(prior.sd)), low, high
    if isinstance(prior, LogNormal) and prior.median is not None:
        return "log-normal", (float(np.log(float(prior.median))), float(prior.omega)), low, high
    if isinstance(prior, Uniform):
        return "uniform", (float(prior.low), float(prior.high)), low, high
    kind = type(prior).__name__ if isinstance(prior, AbstractDistribution) else "a function"
    return refuse("have priors that PEtab knows, with numbers of their own", f"that of `{name}` is {kind}")
