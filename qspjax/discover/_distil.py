"""Symbolic distillation: from a trained term to a formula.

A term that has learned a rate is a function that can be evaluated anywhere, without noise. A formula that says the same
where the data were is shorter, can be judged by a pharmacologist, and extrapolates.

Reference: Brunton, Proctor and Kutz (2016), doi:10.1073/pnas.1517384113; Rackauckas et al. (2020), arXiv:2001.04385
(from a trained term to a formula); Kass and Raftery (1995), doi:10.1080/01621459.1995.10476572 (evidence ratios).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from qspjax._checks import ArgumentError, check_above, check_finite, check_instance, check_whole, refuse
from qspjax._expression import Expression, evaluate
from qspjax._extras import require
from qspjax._types import Scalar
from qspjax.discover._criterion import criterion, effective_count
from qspjax.discover._forms import Library
from qspjax.discover._formulas import formula_of, rounded
from qspjax.discover._search import Fitted, Points, candidates

if TYPE_CHECKING:
    import pandas

ScalarFunction: TypeAlias = Callable[..., Scalar]
"""A function of as many scalars as there are inputs."""

SOBOL = 7
"""Points of ranges: 2 to this power."""
DEVIATION = 0.05
"""The standard deviation of the errors of a single term, over its size, where nothing else is known."""
LEAST = 8
"""The least number of points."""
ALIKE = 3.0
"""An evidence ratio below this is not worth more than a bare mention (Kass and Raftery 1995)."""
KEPT = 40
"""The number of candidates in the result."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A formula that may stand for the term.

    Attributes:
        expression: The formula, over the inputs and its parameters.
        parameters: The values of these by name, all positive.
        error: Its relative error: the root of the mean square of its difference from the term, over that of the term,
            with the weights of the points.
        bic: The information criterion.
        evidence: How many times more the candidate of the least BIC is supported than this one, exp(difference / 2).
        pareto: Whether no candidate with as few constants or fewer has a smaller error.

    Example:
        >>> import jax.numpy as jnp, qspjax as qsp
        >>> found = qsp.discover.distil(lambda c: 2.0 * c / (5.0 + c), {"c": jnp.linspace(0.0, 20.0, 40)})
        >>> found.best
        2 * c / (5 + c)
    """

    expression: Expression
    parameters: Mapping[str, float]
    error: float
    bic: float
    evidence: float
    pareto: bool

    @property
    def constants(self) -> int:
        """The number of its constants."""
        return len(self.parameters)

    def __call__(self, **inputs: ArrayLike) -> ArrayLike:
        """Return its value at inputs by name."""
        return evaluate([self.expression], {**self.parameters, **inputs}, 0.0)[0]

    def __repr__(self) -> str:
        return rounded(self.expression, dict(self.parameters))


@dataclasses.dataclass(frozen=True)
class Distilled:
    """Formulas for a term, the best first.

    Attributes:
        candidates: The formulas.
        inputs: The points, by name.
        values: The term there, shape (points,): of an ensemble the mean.
        deviations: The standard deviation of its errors there.
        weights: The weights of the points, whose mean is 1.
        independent: How many independent errors the criterion counts.

    Example:
        >>> import jax.numpy as jnp, qspjax as qsp
        >>> found = qsp.discover.distil(lambda c: 2.0 * c / (5.0 + c), {"c": jnp.linspace(0.0, 20.0, 40)})
        >>> found.best.parameters["Km"].__round__(3)
        5.0
    """

    candidates: tuple[Candidate, ...]
    inputs: Mapping[str, Float[np.ndarray, " points"]]
    values: Float[np.ndarray, " points"]
    deviations: Float[np.ndarray, " points"]
    weights: Float[np.ndarray, " points"]
    independent: float

    @property
    def best(self) -> Candidate:
        """The first formula: of those that evidence does not tell apart (ratios below 3), that of fewest constants."""
        return self.candidates[0]

    def table(self) -> dict[str, np.ndarray]:
        """Return the candidates as columns: `formula`, `constants`, `error`, `bic`, `evidence`, `pareto`."""
        return {
            "formula": np.array([repr(one) for one in self.candidates], dtype=object),
            "constants": np.array([one.constants for one in self.candidates]),
            "error": np.array([one.error for one in self.candidates]),
            "bic": np.array([one.bic for one in self.candidates]),
            "evidence": np.array([one.evidence for one in self.candidates]),
            "pareto": np.array([one.pareto for one in self.candidates]),
        }

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return the candidates as a table, the best first."""
        return require("pandas", extra="data").DataFrame(self.table())

    def curves(self, candidate: int = 0) -> dict[str, np.ndarray]:
        """Return the term and a formula at the points, as columns: inputs, `term`, `deviation`, `formula`, `weight`.

        Args:
            candidate: The number of the formula, the best first.
        """
        check_whole("candidate", candidate, 0)
        if candidate >= len(self.candidates):
            refuse("candidate", f"be the number of a candidate (0 to {len(self.candidates) - 1})", candidate)
        formula = np.broadcast_to(np.asarray(self.candidates[candidate](**self.inputs), float), self.values.shape)
        columns = {"term": self.values, "deviation": self.deviations, "formula": formula, "weight": self.weights}
        return {**self.inputs, **columns}

    def __str__(self) -> str:
        lines = [f"{'formula':<64}{'constants':>10}{'error':>10}{'evidence ratio':>16}"]
        for one in self.candidates[:6]:
            lines.append(f"{one!r:<64}{one.constants:>10}{one.error:>10.2%}{one.evidence:>16.3g}")
        return "\n".join(lines)


def distil(
    term: ScalarFunction | Sequence[ScalarFunction],
    inputs: Mapping[str, ArrayLike | tuple[float, float]],
    *,
    library: Library | None = None,
    weights: ArrayLike | None = None,
    deviation: ArrayLike | None = None,
    measurements: int | None = None,
) -> Distilled:
    """Find formulas for a trained term: a network, a spline, or any function of scalars.

    $$ \\min_f \\; n \\langle (g(x) - f(x; c, \\kappa))^2 / \\sigma^2 \\rangle + k \\ln n + \\ldots $$

    over the sums f of the terms of a library, with coefficients c by least squares and constants inside by nonlinear
    least squares, k of both, and n independent errors of standard deviation sigma (see `criterion`: an extended BIC).

    Args:
        term: The function g; or several, the members of an ensemble, of which the mean is distilled.
        inputs: By name, in the order of the arguments of the term: where it is evaluated, shape (points,) each; best
            where the data were (`discover.visited`), as the term knows nothing elsewhere. Or ranges (low, high), in
            which points are spread evenly.
        library: The candidates, by default `Library()`.
        weights: Weights of the points, shape (points,).
        deviation: The standard deviation sigma of a measurement from which the term was learned, at each point or at
            all: where the points are those of the data, differences of the criterion are then those of the data. By
            default the deviation of the ensemble (its members best trained on resampled data), whose independent errors
            are counted by its covariance; of a single term, 5 % of its root mean square.
        measurements: The number n of measurements, by default as many as points.

    Returns:
        Formulas whose parameters are positive and named, with the evidence ratio of each.

    Raises:
        ValueError: If inputs differ in length, are fewer than eight, or the term is not finite there.

    Example:
        >>> import jax.numpy as jnp, qspjax as qsp
        >>> found = qsp.discover.distil(lambda c: 2.0 * c / (5.0 + c), {"c": jnp.linspace(0.0, 20.0, 40)})
        >>> str(found.best.expression), {name: round(value, 3) for name, value in found.best.parameters.items()}
        ('Vmax * c / (Km + c)', {'Vmax': 2.0, 'Km': 5.0})
    """
    library = Library() if library is None else library
    check_instance("library", library, Library, "a Library")
    columns = _columns(inputs)
    terms = [term] if callable(term) else [*term] if isinstance(term, Sequence) else []
    if not terms or not all(map(callable, terms)):
        refuse("term", "be a function of scalars, or a sequence of them", f"of type {type(term).__name__}")
    members = np.stack([_values(one, [*columns.values()]) for one in terms])
    values = members.mean(axis=0)
    given = _weights(weights, values)
    if deviation is None and len(members) == 1:
        deviation = DEVIATION * float(np.sqrt(np.mean(given * values**2))) or 1.0
    deviations, count = _deviations(deviation, members, measurements)
    points = Points(columns, values, given / deviations**2)
    found, size = candidates(library, points)
    return Distilled(_ranked(found, points, count, size), columns, values, deviations, given, count)


def _ranked(found: Sequence[Fitted], points: Points, count: float, terms: int) -> tuple[Candidate, ...]:
    size = float(points.weights @ points.values**2)
    bics = np.array([criterion(one, points, count, terms) for one in found])
    ranked = []
    evidence = np.exp(np.minimum(0.5 * (bics - bics.min()), 700.0))
    sizes = np.where(evidence < ALIKE, [one.size for one in found], np.inf)
    negative = [sum(coefficient < 0 for coefficient in one.coefficients) for one in found]
    keys = np.stack([np.array(negative), np.round(bics, 3), sizes])  # of equal ones, a sum before a difference
    for index in np.lexsort(keys)[:KEPT]:
        one = found[index]
        expression, parameters = formula_of(one)
        error = float(np.sqrt(one.loss / size)) if size else 0.0
        pareto = not any(other.size <= one.size and other.loss < one.loss for other in found)
        ranked.append(Candidate(expression, parameters, error, float(bics[index]), float(evidence[index]), pareto))
    return tuple(ranked)


def _columns(inputs: Mapping[str, ArrayLike | tuple[float, float]]) -> dict[str, np.ndarray]:
    """Return the points by name."""
    check_instance("inputs", inputs, Mapping, "a dict of points by the name of the input")
    if not inputs:
        raise ArgumentError("inputs", "must have at least one input, but has none.")
    if all(isinstance(value, tuple) and len(value) == 2 for value in inputs.values()):
        return _spread(inputs)  # pyright: ignore[reportArgumentType]
    columns = {name: np.asarray(value, float) for name, value in inputs.items()}
    sizes = {name: column.shape for name, column in columns.items()}
    first = next(iter(sizes.values()))
    for name, shape in sizes.items():
        if len(shape) != 1 or shape != first or shape[0] < LEAST:
            refuse(f"inputs[{name!r}]", f"have shape (points,), at least {LEAST} and the same for all", shape)
        check_finite(f"inputs[{name!r}]", columns[name])
        if np.ptp(columns[name]) == 0:
            refuse(f"inputs[{name!r}]", "vary", f"{columns[name][0]:g} at all points")
    return columns


def _spread(ranges: Mapping[str, tuple[float, float]]) -> dict[str, np.ndarray]:
    from scipy.stats import qmc

    for name, (low, high) in ranges.items():
        if not np.isfinite([low, high]).all() or low >= high:
            refuse(f"inputs[{name!r}]", "be a range (low, high) with low < high", f"({low:g}, {high:g})")
    unit = qmc.Sobol(len(ranges), scramble=False).random_base2(SOBOL)
    return {name: low + (high - low) * u for (name, (low, high)), u in zip(ranges.items(), unit.T, strict=True)}


def _weights(weights: ArrayLike | None, values: np.ndarray) -> np.ndarray:
    """Return the weights of the points with a mean of 1."""
    own = np.ones(values.shape) if weights is None else np.asarray(weights, float)
    if own.shape != values.shape or not np.isfinite(own).all() or (own < 0).any() or not own.any():
        refuse("weights", f"be {values.size} numbers that are at least 0", f"of shape {own.shape}")
    return own / own.mean()


def _deviations(deviation: ArrayLike | None, members: np.ndarray, measurements: int | None) -> tuple[np.ndarray, float]:
    """Return the standard deviation of each error of the term, and how many errors are independent."""
    size = members.shape[1]
    if measurements is not None:
        check_whole("measurements", measurements, LEAST)
    if deviation is None:
        variance = members.var(axis=0, ddof=1)
        if not variance.any():
            raise ArgumentError("term", "must have members that differ, but all are the same.")
        return np.sqrt(variance + 0.25 * np.median(variance)), max(effective_count(members), 2.0)
    check_above("deviation", deviation, 0.0)
    if np.shape(deviation) not in ((), (size,)):
        refuse("deviation", f"be a number, or {size} numbers", f"of shape {np.shape(deviation)}")
    return np.broadcast_to(np.asarray(deviation, float), (size,)), float(measurements or size)


def _values(term: ScalarFunction, columns: Sequence[np.ndarray]) -> np.ndarray:
    """Return the values of a term, point by point where JAX cannot trace it."""
    try:
        values = jax.vmap(term)(*map(jnp.asarray, columns))
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        values = [term(*point) for point in zip(*columns, strict=True)]
    values = np.asarray(values, float)
    if values.shape != columns[0].shape:
        refuse("term", "return one number at each point", f"one that returns the shape {values.shape[1:]}")
    if not np.isfinite(values).all():
        at = int(np.flatnonzero(~np.isfinite(values))[0])
        refuse("term", "be finite at all points", f"{values[at]:g} at ({', '.join(f'{x[at]:g}' for x in columns)})")
    return values
