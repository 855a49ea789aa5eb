"""What depends on the structure of its arguments alone is computed once: other numbers have the same answer."""

import functools
import threading
from collections.abc import Callable, Hashable
from typing import ParamSpec, TypeVar

import equinox as eqx
import jax
from jaxtyping import PyTree

MAX_RESULTS = 256
"""Number of results that are remembered of each function, the latest ones."""

Arguments = ParamSpec("Arguments")
Key = TypeVar("Key")
Result = TypeVar("Result")


def by_structure(function: Callable[..., Result]) -> Callable[..., Result]:
    """Decorate a function of trees whose result depends on their structure, shapes and types, not on their numbers.

    The result must hold nothing that is traced. What cannot be hashed is computed each time.
    """
    results: dict[Hashable, Result] = {}

    @functools.wraps(function)
    def remembered(*arguments: PyTree) -> Result:
        try:
            key = tuple(map(_structure, arguments))
            if key in results:
                return results[key]
        except (TypeError, ValueError):  # a static part without a hash, or an array in its place
            return function(*arguments)
        result = function(*arguments)
        _bounded(results)[key] = result
        return result

    return remembered


def reading_once(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorate a function whose first argument is a tree: in it, the structure of that tree is read once."""

    @functools.wraps(function)
    def reading(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        outer = _read.tree, _read.structure
        _read.tree, _read.structure = next(iter(arguments), None), None
        try:
            return function(*arguments, **named)
        finally:
            _read.tree, _read.structure = outer

    return reading


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


class _Structure:
    """What trees share that differ in numbers alone; its hash is computed once."""

    __slots__ = ("_content", "_hash")

    def __init__(self, tree: PyTree):
        leaves, structure = jax.tree.flatten(tree)
        self._content = structure, tuple([_kind(leaf) for leaf in leaves])
        self._hash = hash(self._content)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, _Structure) and self._content == other._content)


def _kind(leaf: object) -> Hashable:
    """Return what a leaf is, its numbers aside."""
    return (leaf.shape, leaf.dtype) if isinstance(leaf, jax.Array) else (type(leaf), leaf)


class _Read(threading.local):
    """The tree whose structure is read once by this thread at the moment, and its structure."""

    tree: PyTree = None
    structure: _Structure | None = None


_read = _Read()
_structures: dict[_Structure, _Structure] = {}


def _structure(tree: PyTree) -> _Structure:
    """Return the structure of a tree: the same object for trees that share it, so that it is compared once."""
    if tree is _read.tree and _read.structure is not None:
        return _read.structure
    structure = _Structure(tree)
    structure = _structures.get(structure) or _bounded(_structures).setdefault(structure, structure)
    if tree is _read.tree:
        _read.structure = structure
    return structure


def _bounded(results: dict[Key, Result]) -> dict[Key, Result]:
    """Return a table of results with room for one more: the oldest go."""
    while len(results) >= MAX_RESULTS:
        results.pop(next(iter(results)), None)
    return results
