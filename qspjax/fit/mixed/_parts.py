"""Subjects dealt out to the cores of a CPU, each of which computes its part of them with a program of its own.

XLA runs the loops of a program one after the other, so that one program uses one core. Subjects are independent given
the parameters: with enough of them, each core has a `Mixed` of its part, and what they return is joined, or added.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from qspjax.execute._executor import cores
from qspjax.fit.mixed._mixed import Mixed
from qspjax.fit.search._search import quickly_compiled

FEWEST = 500
"""Subjects for which another core is worth the compilation of its program."""
SHARED, ADDED = -1, -2
"""Of an argument: all parts have the whole. Of a result: the sum over parts."""


def on_all_cores(
    mixed: Mixed, name: str, make: Callable[[Mixed], Callable[..., Any]], given: Sequence[int], returned: Any
) -> Callable[..., Any]:
    """Return a compiled function of all subjects, in a part for each core if there are enough of them.

    Args:
        mixed: The problem.
        name: What the program is called among those of the problem.
        make: Returns the function of a problem; called with that of each part.
        given: By argument, the axis of its arrays that has the subjects, or `SHARED`.
        returned: A tree of the axes of the results, or of `ADDED`; it may be that of a whole branch.
    """
    parts = parts_of(mixed)
    programs = [part.program(name, lambda part=part: quickly_compiled(make(part))) for part in parts]
    if len(parts) == 1:
        return programs[0]
    places = np.cumsum([0, *(part.count for part in parts)])

    def run(*arguments: Any) -> Any:
        def one(k: int) -> Any:
            own = [
                value if axis == SHARED else jax.tree.map(lambda x, axis=axis: _cut(x, axis, *places[k : k + 2]), value)
                for value, axis in zip(arguments, given, strict=True)
            ]
            return jax.tree.map(np.asarray, programs[k](*own))

        with ThreadPoolExecutor(len(parts)) as pool:
            found = list(pool.map(one, range(len(parts))))
        return jax.tree.map(_joined, jax.tree.broadcast(returned, found[0]), *found)

    return run


def parts_of(mixed: Mixed) -> list[Mixed]:
    """Return the problems of the parts, or the problem itself if there is but one."""
    return mixed.program("parts", lambda: _parts(mixed))


def _parts(mixed: Mixed) -> list[Mixed]:
    number = min(cores(), mixed.count // FEWEST)
    if number < 2 or jax.default_backend() != "cpu" or not mixed.is_divisible:
        return [mixed]
    places = np.linspace(0, mixed.count, number + 1).astype(int)
    spans = [slice(*pair) for pair in zip(places[:-1].tolist(), places[1:].tolist(), strict=True)]
    seen = [all(_is_within(rows.experiment, span) for rows in mixed.rows) for span in spans]
    return [mixed.part(span) for span in spans] if all(seen) else [mixed]


def _is_within(subjects: np.ndarray, span: slice) -> bool:
    return bool(((subjects >= span.start) & (subjects < span.stop)).any())


def _cut(x: Any, axis: int, first: int, last: int) -> Any:
    return x[(slice(None),) * axis + (slice(first, last),)]


def _joined(axis: int, *parts: np.ndarray) -> np.ndarray:
    return sum(parts) if axis == ADDED else np.concatenate(parts, axis=axis)
