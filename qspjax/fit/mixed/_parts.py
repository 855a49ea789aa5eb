"""Subjects divided among the cores of a CPU, each of which computes its part of them with its own program.

XLA runs the loops of a program one after the other, so that one program uses one core. Subjects are independent given
the parameters: if there are enough of them, each core has a `MixedModel` of its part, and the results are concatenated
or added.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import TypeVar

import jax
import numpy as np
from jaxtyping import PyTree

from qspjax.execute._executor import cores
from qspjax.fit._types import Data
from qspjax.fit.mixed._mixed import MixedModel
from qspjax.fit.search._search import quickly_compiled

Result = TypeVar("Result")

FEWEST = 500
"""The number of subjects for which another core is worth the compilation of its program, and optimising it pays."""
SHARED, ADDED = -1, -2
"""Axis of an argument that all parts get whole; axis of a result that is the sum over parts."""


def on_all_cores(
    mixed: MixedModel,
    name: str,
    make: Callable[[MixedModel], Callable[..., Result]],
    argument_axes: Sequence[int],
    result_axes: PyTree[int],
) -> Callable[..., Result]:
    """Return a compiled function of all subjects, in one part per core if there are enough of them.

    Args:
        mixed: The model.
        name: The name of the program among those of the model.
        make: Returns the function of a model; called with the model of each part.
        argument_axes: For each argument, the axis of the subjects in its arrays, or `SHARED`.
        result_axes: A tree of the axes of the subjects in the results, or of `ADDED`; a leaf may stand for a branch of
            the results.
    """
    parts = divided(mixed)
    programs = [
        part.program(name, lambda part=part: quickly_compiled(make(part), short=part.count < FEWEST)) for part in parts
    ]
    if len(parts) == 1:
        return programs[0]
    edges = np.cumsum([0, *(part.count for part in parts)])

    def run(*arguments: PyTree) -> Result:
        def on_core(k: int) -> Result:
            first, last = edges[k : k + 2]
            part = [
                value if axis == SHARED else jax.tree.map(lambda x, axis=axis: _cut(x, axis, first, last), value)
                for value, axis in zip(arguments, argument_axes, strict=True)
            ]
            return jax.tree.map(np.asarray, programs[k](*part))

        with ThreadPoolExecutor(len(parts)) as threads:
            results = list(threads.map(on_core, range(len(parts))))
        return jax.tree.map(_merged, jax.tree.broadcast(result_axes, results[0]), *results)

    return run


def divided(mixed: MixedModel) -> list[MixedModel]:
    """Return the models of the parts, or the model itself if there is only one."""
    return mixed.program("parts", lambda: _divided(mixed))


def _divided(mixed: MixedModel) -> list[MixedModel]:
    number = min(cores(), mixed.count // FEWEST)
    if number < 2 or jax.default_backend() != "cpu" or not mixed.is_divisible:
        return [mixed]
    edges = np.linspace(0, mixed.count, number + 1).astype(int)
    spans = [slice(*pair) for pair in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
    measured = [all(_is_within(rows.experiment, span) for rows in mixed.rows) for span in spans]
    return [mixed.part(span) for span in spans] if all(measured) else [mixed]


def _is_within(subjects: np.ndarray, span: slice) -> bool:
    return bool(((subjects >= span.start) & (subjects < span.stop)).any())


def _cut(x: Data, axis: int, first: int, last: int) -> Data:
    return x[(slice(None),) * axis + (slice(first, last),)]


def _merged(axis: int, *parts: np.ndarray) -> np.ndarray:
    return reduce(np.add, parts) if axis == ADDED else np.concatenate(parts, axis=axis)
