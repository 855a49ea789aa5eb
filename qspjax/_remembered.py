"""What depends on the structure of its arguments alone is computed once: other numbers have the same answer."""

import functools
from collections.abc import Callable, Hashable
from typing import TypeVar

import equinox as eqx
import jax
from jaxtyping import PyTree

MAX_RESULTS = 256
"""Number of results that are remembered of each function, the latest ones."""

Result = TypeVar("Result")


def by_structure(function: Callable[..., Result]) -> Callable[..., Result]:
    """Decorate a function of trees whose result depends on their structure, shapes and types, not on their numbers.

    The result must hold nothing that is traced. What cannot be hashed is computed each time.
    """
    results: dict[Hashable, Result] = {}

    @functools.wraps(function)
    def remembered(*arguments: PyTree) -> Result:
        key = _structure(arguments)
        try:
            if key in results:
                return results[key]
        except (TypeError, ValueError):  # a static part without a hash, or an array in its place
            return function(*arguments)
        result = function(*arguments)
        while len(results) >= MAX_RESULTS:
            results.pop(next(iter(results)), None)
        results[key] = result
        return result

    return remembered


def traced(function: Callable[..., Result], *arguments: PyTree) -> Result:
    """Return the result of a function of trees that is not of numbers, such as names, without computing any number."""
    results: list[Result] = []
    errors: list[Exception] = []

    def run(*arguments: PyTree) -> None:
        try:
            results.append(function(*arguments))
        except Exception as error:  # noqa: BLE001 (raised below: to what passes through it, JAX adds a note)
            errors.append(error)

    eqx.filter_eval_shape(run, *arguments)
    if errors:
        raise errors[0]
    return results[-1]


def _structure(tree: PyTree) -> Hashable:
    """Return what two trees share that differ in numbers alone."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((x.shape, x.dtype) if eqx.is_array(x) else (type(x), x) for x in leaves)
