"""Sparse regression on a library: the linear part by orthogonal least squares, constants inside by variable projection.

Every term of the library is evaluated on a grid of its constants, which makes a large dictionary of columns. From no
term on, the columns that explain most of what is left are added to the best candidates so far (a beam), one of each
structure; after each addition all constants inside are fitted together by nonlinear least squares, in which the
coefficients are those of linear least squares. From the larger candidates terms are dropped again, one by one.

Reference: Brunton, Proctor and Kutz (2016), doi:10.1073/pnas.1517384113 (sparse identification); Chen, Billings and Luo
(1989), doi:10.1080/00207178908953472 (orthogonal least squares); Golub and Pereyra (1973), doi:10.1137/0710036
(variable projection).
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from qspjax._expression import evaluate
from qspjax.discover._forms import INPUT, Form, Library

Term: TypeAlias = tuple[tuple[str, Form], ...]
"""The forms that are multiplied, each with the input that it is of; none for a constant."""

Structure: TypeAlias = tuple[Term, ...]
"""The terms of a candidate, in a fixed order."""

BEAM = 5
"""The number of candidates of each size to which terms are added."""
TRIED = 8
"""The number of terms that are tried for each of them."""
EVALUATIONS = 80
"""The greatest number of evaluations of a fit of constants."""
DEPENDENT = 1e-7
"""A column that has less than this part of its length outside the others adds nothing."""


@dataclasses.dataclass(frozen=True)
class Points:
    """Where a term was evaluated: inputs by name, its values and the weights of the points, shape (points,) each."""

    inputs: Mapping[str, Float[np.ndarray, " points"]]
    values: Float[np.ndarray, " points"]
    weights: Float[np.ndarray, " points"]

    @property
    def count(self) -> int:
        """The number of points."""
        return self.values.size


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A candidate with its best constants.

    Attributes:
        structure: Its terms.
        constants: The constants of each term, in the order of its forms.
        coefficients: The coefficient of each term.
        residuals: Term less candidate, shape (points,).
        loss: The sum of the weighted squares of these.
    """

    structure: Structure
    constants: tuple[tuple[float, ...], ...]
    coefficients: tuple[float, ...]
    residuals: Float[np.ndarray, " points"]
    loss: float

    @property
    def size(self) -> int:
        """The number of all its constants."""
        return len(self.coefficients) + sum(map(len, self.constants))


@dataclasses.dataclass(frozen=True)
class Dictionary:
    """All terms of a library on a grid of their constants.

    Attributes:
        terms: The terms.
        owner: The number of the term of each column.
        grid: The constants of each column.
        columns: The columns, weighted, shape (columns, points).
    """

    terms: tuple[Term, ...]
    owner: np.ndarray
    grid: tuple[tuple[float, ...], ...]
    columns: np.ndarray


def values_of(form: Form, x: np.ndarray, constants: Sequence[object]) -> np.ndarray:
    """Return the values of a form; NaN or infinite where it has none."""
    values = {INPUT: x, **dict(zip(form.constants, constants, strict=True))}
    (value,) = evaluate([form.expression], values, 0.0)  # pyright: ignore[reportArgumentType]
    return np.broadcast_to(np.asarray(value, float), np.broadcast_shapes(np.shape(value), x.shape))


def column_of(term: Term, constants: Sequence[float], inputs: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """Return the values of a term without its coefficient, shape (points,)."""
    value, rest = np.ones(count), [*constants]
    for name, form in term:
        own, rest = rest[: form.count], rest[form.count :]
        value = value * values_of(form, inputs[name], own)
    return value


def dictionary_of(library: Library, points: Points) -> Dictionary:
    """Return all terms of a library at points; without those that are not finite somewhere."""
    single: dict[tuple[str, Form], tuple[list[tuple[float, ...]], np.ndarray]] = {}
    for name, x in points.inputs.items():
        for form in library.forms:
            grid = [*itertools.product(*form.starts(x))]
            axes = [np.array(axis)[:, None] for axis in zip(*grid, strict=True)] if form.count else []
            with np.errstate(all="ignore"):
                columns = np.broadcast_to(values_of(form, x[None, :], axes), (len(grid), points.count))
            if np.isfinite(columns).all():
                single[name, form] = grid, columns
    terms: list[Term] = [()]
    owner, constants = [0], [()]
    parts = [np.ones((1, points.count))]
    for term in _products(single, points.inputs, library.factors):
        grids, blocks = zip(*(single[factor] for factor in term), strict=True)
        owner += [len(terms)] * int(np.prod([len(grid) for grid in grids]))
        terms.append(term)
        constants += [tuple(itertools.chain(*choice)) for choice in itertools.product(*grids)]
        product = blocks[0]
        for block in blocks[1:]:
            product = (product[:, None, :] * block[None, :, :]).reshape(-1, points.count)
        parts.append(product)
    columns = np.concatenate(parts) * np.sqrt(points.weights)
    return Dictionary(tuple(terms), np.array(owner), tuple(constants), columns)


def _products(
    factors: Iterable[tuple[str, Form]], inputs: Iterable[str], most: int
) -> Iterator[tuple[tuple[str, Form], ...]]:
    """Yield the products of at most so many factors of different inputs."""
    of_input = {name: [factor for factor in factors if factor[0] == name] for name in inputs}
    for count in range(1, most + 1):
        for names in itertools.combinations(of_input, count):
            yield from itertools.product(*(of_input[name] for name in names))


def candidates(library: Library, points: Points) -> tuple[list[Fitted], int]:
    """Return fitted candidates of all sizes, each structure once, those of least loss first; the number of terms."""
    dictionary = dictionary_of(library, points)
    found: dict[Structure, Fitted] = {}
    beam = [Fitted((), (), (), points.values, float(points.weights @ points.values**2))]
    for _ in range(library.terms):
        grown: dict[Structure, Fitted] = {}
        for base in beam:
            for term, constants in _additions(dictionary, base, points):
                structure = _ordered((*base.structure, term))
                if structure in grown:
                    continue
                starts = dict(zip((*base.structure, term), (*base.constants, constants), strict=True))
                grown[structure] = fitted(structure, [starts[one] for one in structure], points)
        found |= grown
        beam = sorted(grown.values(), key=lambda one: one.loss)[:BEAM]
    for one in sorted(found.values(), key=lambda one: one.loss)[: 2 * BEAM]:
        _drop_terms(one, found, points)
    return sorted(found.values(), key=lambda one: one.loss), len(dictionary.terms)


def _drop_terms(one: Fitted, found: dict[Structure, Fitted], points: Points) -> None:
    """Add to what was found the candidates that have one term less."""
    for term in one.structure if len(one.structure) > 1 else ():
        structure = tuple(other for other in one.structure if other is not term)
        starts = [c for other, c in zip(one.structure, one.constants, strict=True) if other is not term]
        if structure not in found:
            found[structure] = fitted(structure, starts, points)


def _ordered(terms: Iterable[Term]) -> Structure:
    return tuple(sorted(terms, key=lambda term: (len(term) == 0, len(term), [(n, f.name) for n, f in term])))


def _additions(dictionary: Dictionary, base: Fitted, points: Points) -> list[tuple[Term, tuple[float, ...]]]:
    """Return the terms that explain most of what a candidate leaves, each with the best constants of the grid."""
    root = np.sqrt(points.weights)
    columns = [
        root * column_of(term, constants, points.inputs, points.count)
        for term, constants in zip(base.structure, base.constants, strict=True)
    ]
    basis = np.linalg.qr(np.stack(columns, 1))[0] if columns else np.zeros((points.count, 0))
    residual = root * base.residuals
    lengths = np.sum(dictionary.columns**2, axis=1)
    outside = lengths - np.sum((dictionary.columns @ basis) ** 2, axis=1)
    along = dictionary.columns @ (residual - basis @ (basis.T @ residual))
    gain = np.where(outside > DEPENDENT * lengths, along**2 / np.where(outside > 0, outside, 1.0), 0.0)
    chosen: list[tuple[Term, tuple[float, ...]]] = []
    seen = set(base.structure)
    for index in np.argsort(-gain, kind="stable"):
        term = dictionary.terms[dictionary.owner[index]]
        if gain[index] <= 0 or len(chosen) == TRIED:
            break
        if term not in seen:
            seen.add(term)
            chosen.append((term, dictionary.grid[index]))
    return chosen


def fitted(structure: Structure, starts: Sequence[Sequence[float]], points: Points) -> Fitted:
    """Return a candidate with the constants of weighted least squares, from a start of those inside."""
    from scipy.optimize import least_squares

    root = np.sqrt(points.weights)
    counts = [len(own) for own in starts]
    bounds = [limits for term in structure for name, form in term for limits in form.bounds(points.inputs[name])]

    def projected(logs: np.ndarray) -> tuple[list[tuple[float, ...]], np.ndarray, np.ndarray]:
        constants, rest = [], [*np.exp(logs).tolist()]
        for count in counts:
            constants.append(tuple(rest[:count]))
            rest = rest[count:]
        pairs = zip(structure, constants, strict=True)
        columns = [column_of(term, own, points.inputs, points.count) for term, own in pairs]
        matrix = np.nan_to_num(root[:, None] * np.stack(columns, 1), posinf=1e150, neginf=-1e150)
        scale = np.maximum(np.linalg.norm(matrix, axis=0), 1e-150)
        coefficients = np.linalg.lstsq(matrix / scale, root * points.values, rcond=1e-10)[0] / scale
        return constants, coefficients, points.values - np.stack(columns, 1) @ coefficients

    logs = np.log([value for own in starts for value in own]) if sum(counts) else np.zeros(0)
    if logs.size:
        lower, upper = (np.log(edge) for edge in zip(*bounds, strict=True))
        logs = np.clip(logs, lower + 1e-9, upper - 1e-9)
        with np.errstate(all="ignore"):
            logs = least_squares(
                lambda z: np.nan_to_num(root * projected(z)[2], nan=1e150),
                logs,
                bounds=(lower, upper),
                max_nfev=EVALUATIONS,
                xtol=1e-7,
                ftol=1e-9,
            ).x
    with np.errstate(all="ignore"):
        constants, coefficients, residuals = projected(logs)
    loss = float(points.weights @ residuals**2)
    return Fitted(structure, tuple(constants), tuple(coefficients.tolist()), residuals, loss)
