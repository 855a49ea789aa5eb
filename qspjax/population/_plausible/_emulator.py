"""An emulator of statistics: a quadratic function of the coordinates, and a Gaussian process for what it leaves.

    s(u) = f(u)^T b + g(u),   g ~ GP(0, s^2 (k(|u - u'|) + nugget)),
    k(d) = (1 + r + r^2 / 3) exp(-r),   r = sqrt(5) d / l

(universal kriging). All statistics have the same length and nugget, those with the smallest errors where each point is
left out and predicted from the others, so that one factorisation serves all. These errors have a closed form: with
P = K^-1 - K^-1 F (F^T K^-1 F)^-1 F^T K^-1 they are (P s)_i / P_ii, with variance s^2 / P_ii.

Reference: Dubrule, J Int Assoc Math Geol 1983;15:687, doi:10.1007/BF01033232.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np

_LENGTHS, _NUGGETS = (2.0, 4.0, 8.0), (1e-6, 1e-3)
_ROWS = 256
"""Points whose correlations are computed together, so that they stay in the cache."""
_DEPENDENT = 1e-6
"""The part of the greatest below which a pivot says that a function follows from others."""
_LEVEL, _NORMAL = 0.98, 2.326
"""A quantile of the absolute standardised errors, and what it is at most where they are normal (that of 0.98)."""


@dataclasses.dataclass(frozen=True)
class Emulator:
    """A fitted emulator.

    Attributes:
        points: The points that it knows, shape (points, coordinates).
        length: l.
        factor: The lower factor of the correlation of the points.
        trend: The trend functions after division by the factor.
        triangle: The triangle of the trend.
        slopes: b, shape (terms, statistics).
        weights: What the process adds, shape (points, statistics).
        spread: s, calibrated by the errors left out, shape (statistics,).
        left_out: Each point as the others predict it, shape (points, statistics).
        left_out_sd: The standard deviations of these predictions.
        terms: The functions of the trend.
        nugget: The part of the variance that is noise.

    Example:
        >>> points = np.random.default_rng(0).random((60, 2))
        >>> emulator = fitted(points, np.exp(points[:, :1] * points[:, 1:]))
        >>> float(emulator.predict(np.array([[0.5, 0.4]]))[0][0, 0].round(3))
        1.221
    """

    points: np.ndarray
    length: float
    factor: np.ndarray
    trend: np.ndarray
    triangle: np.ndarray
    slopes: np.ndarray
    weights: np.ndarray
    spread: np.ndarray
    left_out: np.ndarray
    left_out_sd: np.ndarray
    terms: "Terms"
    nugget: float

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return means and standard deviations, shape (points, statistics)."""
        return self.mean(points), self.deviation(points)

    def mean(self, points: np.ndarray) -> np.ndarray:
        """Return the predictions, shape (points, statistics)."""
        return self.terms(points) @ self.slopes + _kernel(points, self.points, self.length) @ self.weights

    def deviation(self, points: np.ndarray) -> np.ndarray:
        """Return the standard deviations of the predictions, shape (points, statistics)."""
        from scipy.linalg import solve_triangular

        explained = solve_triangular(self.factor, _kernel(self.points, points, self.length), lower=True)
        gap = self.terms(points).T - self.trend.T @ explained
        added = solve_triangular(self.triangle.T, gap, lower=True)
        variance = 1.0 + self.nugget - (explained**2).sum(axis=0) + (added**2).sum(axis=0)
        return np.sqrt(np.maximum(variance, 1e-12))[:, None] * self.spread


class Terms:
    """The functions of the trend: 1, coordinates, their squares and products; without any that follow from others.

    Args:
        points: The points that an emulator knows; products need twice as many of them as there are functions.

    Attributes:
        factors: Each function is a product of two of 1 and the coordinates from -1 to 1: which ones, (2, functions).

    Example:
        >>> Terms(np.array([[0.0, 0.5], [1.0, 0.5], [0.3, 0.5]]))(np.array([[0.5, 0.5]]))
        array([[1., 0., 0.]])
    """

    def __init__(self, points: np.ndarray) -> None:
        """Choose the functions."""
        from scipy.linalg import qr

        own = range(1, points.shape[1] + 1)
        pairs = list(itertools.combinations(own, 2))
        pairs = pairs if len(points) >= 2 * (1 + 2 * len(own) + len(pairs)) else []
        self.factors = np.array([(0, 0), *((0, i) for i in own), *((i, i) for i in own), *pairs]).T
        factored: Any = qr(self(points), mode="r", pivoting=True)
        triangle, order = factored
        diagonal = np.abs(np.diag(triangle))
        self.factors = self.factors[:, np.sort(order[: len(diagonal)][diagonal > _DEPENDENT * diagonal[0]])]

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Return the functions of points, shape (points, functions)."""
        x = np.column_stack([np.ones(len(points)), 2.0 * points - 1.0])
        return x[:, self.factors[0]] * x[:, self.factors[1]]


def fitted(points: np.ndarray, values: np.ndarray) -> Emulator:
    """Fit an emulator to statistics, shape (points, statistics), without values that are not defined."""
    terms = Terms(points)
    found = [
        emulator
        for length, nugget in itertools.product(_LENGTHS, _NUGGETS)
        if (emulator := with_length(points, values, terms, length, nugget)) is not None
    ]

    def error(emulator: Emulator) -> float:
        squares = np.mean((emulator.left_out - values) ** 2, axis=0)
        return float(np.mean(np.log(np.maximum(squares, np.finfo(float).tiny))))

    return min(found, key=error)


def with_length(points: np.ndarray, values: np.ndarray, terms: Terms, length: float, nugget: float) -> Emulator | None:
    """Fit with a length and a nugget; None where the points are too close for it."""
    from scipy.linalg import solve_triangular

    functions, count = terms(points), len(points)
    try:
        factor = np.linalg.cholesky(_kernel(points, points, length) + nugget * np.eye(count))
    except np.linalg.LinAlgError:
        return None
    inverse = solve_triangular(factor, np.eye(count), lower=True)
    trend, shrunk = inverse @ functions, inverse @ values
    basis, triangle = np.linalg.qr(trend)
    rest = shrunk - basis @ (basis.T @ shrunk)
    weights = inverse.T @ rest
    precision = (inverse**2).sum(axis=0) - ((basis.T @ inverse) ** 2).sum(axis=0)
    precision = np.maximum(precision, np.finfo(float).tiny)[:, None]
    spread = np.sqrt((rest**2).sum(axis=0) / max(count - functions.shape[1], 1))
    spread = np.maximum(spread, 1e-9)
    errors = weights / precision
    standardised = np.abs(errors) * np.sqrt(precision) / spread
    spread = spread * np.maximum(np.quantile(standardised, _LEVEL, axis=0) / _NORMAL, 1.0)
    return Emulator(
        points=points,
        length=length,
        factor=factor,
        trend=trend,
        triangle=triangle,
        slopes=solve_triangular(triangle, basis.T @ shrunk),
        weights=weights,
        spread=spread,
        left_out=values - errors,
        left_out_sd=spread / np.sqrt(precision),
        terms=terms,
        nugget=nugget,
    )


def _kernel(first: np.ndarray, second: np.ndarray, length: float) -> np.ndarray:
    """Return the correlations of points, shape (first, second)."""
    scale = np.sqrt(5.0) / length
    first, second = first * scale, second * scale
    squares, result = (second**2).sum(axis=1), np.empty((len(first), len(second)))
    for start in range(0, len(first), _ROWS):
        part = result[start : start + _ROWS]
        rows = first[start : start + _ROWS]
        np.matmul(rows, -2.0 * second.T, out=part)
        part += (rows**2).sum(axis=1)[:, None] + squares
        r = np.sqrt(np.maximum(part, 0.0, out=part))
        np.exp(-r, out=part)
        part *= 1.0 + r + r * r / 3.0
    return result
