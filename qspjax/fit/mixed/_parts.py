"""Subjects dealt out to the cores of a CPU, each of which computes its part of them with a program of its own.

XLA runs the loops of a program one after the other, so that one program uses one core. Subjects are independent given
the parameters: with enough of them, each core has a `MixedModel` of its part, and what they return is joined, or added.
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
"""Subjects for which another core is worth the compilation of its program."""
SHARED, ADDED = -1, -2
"""Of an argument: all parts have the whole. Of a result: the sum over parts."""


def on_all_cores(
    mixed: MixedModel,
    name: str,
    make: Callable[[MixedModel], Callable[..., Result]],
    given: Sequence[int],
    returned: PyTree[int],
) -> Callable[..., Result]:
    """Return a compiled function of all subjects, in a part for each core if there are enough of them.

    Args:
        mixed: The model.
        name: What the program is called among those of the model.
        make: Returns the function of a model; called with that of each part.
        given: By argument, the axis of its arrays that has the subjects, or `SHARED`.
        returned: A tree of the axes of the results, or of `ADDED`; it may be that of a whole branch.
    """
    parts = divided(mixed)
    programs = [part.program(name, lambda part=part: quickly_compiled(make(part))) for part in parts]
    if len(parts) == 1:
        return programs[0]
    places = np.cumsum([0, *(part.count for part in parts)])

    def run(*arguments: PyTree) -> Result:
        def on_core(k: int) -> Result:
            first, last = places[k : k + 2]
            part = [
                value if axis == SHARED else jax.tree.map(lambda x, axis=axis: _cut(x, axis, first, last), value)
                for value, axis in zip(arguments, given, strict=True)
            ]
            return jax.tree.map(np.asarray, programs[k](*part))

        with ThreadPoolExecutor(len(parts)) as threads:
            results = list(threads.map(on_core, range(len(parts))))
        return jax.tree.map(_merged, jax.tree.broadcast(returned, results[0]), *results)

    return run


def divided(mixed: MixedModel) -> list[MixedModel]:
    """Return the models of the parts, or the model itself if there is but one."""
    return mixed.program("parts", lambda: _divided(mixed))


def _divided(mixed: MixedModel) -> list[MixedModel]:
    number = min(cores(), mixed.count // FEWEST)
    if number < 2 or jax.default_backend() != "cpu" or not mixed.is_divisible:
        return [mixed]
    places = np.linspace(0, mixed.count, number + 1).astype(int)
    spans = [slice(*pair) for pair in zip(places[:-1].tolist(), places[1:].tolist(), strict=True)]
    seen = [all(_is_within(rows.experiment, span) for rows in mixed.rows) for span in spans]
    return [mixed.part(span) for span in spans] if all(seen) else [mixed]


def _is_within(subjects: np.ndarray, span: slice) -> bool:
    return bool(((subjects >= span.start) & (subjects < span.stop)).any())


def _cut(x: Data, axis: int, first: int, last: int) -> Data:
    return x[(slice(None),) * axis + (slice(first, last),)]


def _merged(axis: int, *parts: np.ndarray) -> np.ndarray:
    return reduce(np.add, parts) if axis == ADDED else np.concatenate(parts, axis=axis)
