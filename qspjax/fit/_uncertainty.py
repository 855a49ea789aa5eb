"""Uncertainty at an optimum: Fisher information, directions that it leaves open, and bands of predictions."""

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from qspjax._checks import check_instance, refuse
from qspjax._extras import require
from qspjax._transform import Identity
from qspjax.fit._problem import Problem
from qspjax.fit._types import Point
from qspjax.fit._wald import wald_intervals
from qspjax.fit.errors._distributions import Gaussian
from qspjax.fit.errors._location_scale import AbstractLocationScale
from qspjax.fit.search._search import quickly_compiled

if TYPE_CHECKING:
    import pandas

BANDS = ("lower", "upper", "lower_measured", "upper_measured")

OPEN = 1e-8
"""A direction is open if its information is at most this fraction of the greatest."""


def fisher_information(problem: Problem, x: Point) -> Float[np.ndarray, "parameters parameters"]:
    """Return the expected information at a point, of measurements and priors, shape (parameters, parameters).

    $$ I = \\sum_i E[\\nabla log p_i \\nabla log p_i'] $$

    It is positive semidefinite, and exact where the problem is least squares.

    Args:
        problem: The fitted problem.
        x: The point, on the scale of the search.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, bounds=(0.5, 10.0))},
        ... )
        >>> fisher_information(problem, problem.start).shape
        (1, 1)
    """
    return np.asarray(quickly_compiled(problem.quadratic, short=True)(jnp.asarray(x, float)).curvature)


def observed_information(problem: Problem, x: Point) -> Float[np.ndarray, "parameters parameters"]:
    """Return the negative second derivative of the log density at a point, shape (parameters, parameters).

    By central differences of exact gradients, with steps of 1e-4 on the scale of the search.

    Args:
        problem: The fitted problem.
        x: The point, on the scale of the search.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, bounds=(0.5, 10.0))},
        ... )
        >>> observed_information(problem, problem.start).shape
        (1, 1)
    """
    x = jnp.asarray(x, float)
    step = 1e-4 * jnp.eye(x.size)
    program = quickly_compiled(jax.vmap(problem.value_and_gradient), short=True)
    _, gradients = program(jnp.concatenate([x + step, x - step]))
    hessian = (gradients[: x.size] - gradients[x.size :]) / 2e-4
    return np.asarray(-0.5 * (hessian + hessian.T))


@dataclasses.dataclass(frozen=True)
class Uncertainty:
    """The uncertainty of the parameters at a point, by an information matrix.

    Args:
        problem: The fitted problem.
        x: The optimum, on the scale of the search.
        information: The information there, such as `fisher_information(problem, x)`.

    Raises:
        ValueError: If the information has another shape or is not finite.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import (
        ...     Additive, Experiment, Free, Measurements, Output, Problem, Uncertainty, estimate, fisher_information,
        ... )
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="concentration")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=1.0, V=50.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"concentration": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(1.0), "V": Free(50.0)},
        ... )
        >>> x = estimate(problem).x
        >>> Uncertainty(problem, x, fisher_information(problem, x)).relative_standard_errors.round(3)
        array([0.026, 0.013])
    """

    problem: Problem
    x: np.ndarray
    information: np.ndarray
    _curves: dict[tuple[float, int], dict[str, np.ndarray]] = dataclasses.field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        check_instance("problem", self.problem, Problem, "a Problem")
        size = len(self.problem.names)
        information = np.asarray(self.information, float)
        if information.shape != (size, size) or not np.isfinite(information).all():
            refuse(
                "information", f"be a matrix of shape ({size}, {size})", f"of shape {information.shape}, or not finite"
            )
        object.__setattr__(self, "information", information)
        object.__setattr__(self, "x", np.asarray(self.x, float))

    @property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """The eigenvalues of the information, the greatest first, and the directions, (directions, parameters)."""
        sizes, vectors = np.linalg.eigh(self.information)
        return sizes[::-1], vectors.T[::-1]

    @property
    def open_directions(self) -> list[dict[str, float]]:
        """The directions about which the data say nothing: by name, the components of the parameters in each."""
        sizes, directions = self.spectrum
        shares = []
        for size, direction in zip(sizes, directions, strict=True):
            if size <= OPEN * max(sizes[0], 0.0):
                order = np.argsort(-np.abs(direction))
                shares.append({self.problem.names[i]: float(direction[i]) for i in order if abs(direction[i]) > 0.05})
        return shares

    @property
    def covariance(self) -> np.ndarray:
        """The covariance on the scale of the search; infinite variances for parameters of open directions."""
        sizes, directions = self.spectrum
        known = sizes > OPEN * max(sizes[0], 0.0)
        covariance = (directions[known].T / sizes[known]) @ directions[known]
        if not known.all():
            undetermined = (np.abs(directions[~known]) > 0.05).any(axis=0)
            covariance[undetermined, undetermined] = np.inf
        return covariance

    @property
    def standard_errors(self) -> np.ndarray:
        """The standard errors on the scale of the search, inf where the data say nothing."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))

    @property
    def _slopes(self) -> np.ndarray:
        return np.asarray(jnp.diag(jax.jacfwd(self.problem.natural)(jnp.asarray(self.x))))

    @property
    def natural_standard_errors(self) -> np.ndarray:
        """The standard errors of the natural values, by the delta method."""
        return self.standard_errors * np.abs(self._slopes)

    @property
    def relative_standard_errors(self) -> np.ndarray:
        """The standard errors of the natural values, relative to these."""
        return self.natural_standard_errors / np.abs(np.asarray(self.problem.natural(self.x)))

    @property
    def correlation(self) -> np.ndarray:
        """The correlation of the estimates on the scale of the search, NaN for open directions."""
        covariance = np.where(np.isfinite(self.covariance), self.covariance, np.nan)
        errors = np.sqrt(np.diag(covariance))
        return covariance / errors[:, None] / errors

    def intervals(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Return Wald confidence intervals of the natural values, which stay within their bounds.

        $$ g^{-1}(g(\\theta) \\pm z \\, SE \\, g'(\\theta)) $$

        with g the scale of the search; if that is the natural one, the logarithm for a parameter that cannot be
        negative, and the logit for one between 0 and 1.

        Args:
            level: The confidence level.
        """
        free, values = [*self.problem.free.values()], np.asarray(self.problem.natural(self.x))
        scales = [parameter.scale(value) for parameter, value in zip(free, values, strict=False)]
        scales += [Identity()] * self.problem.weights.size
        low, high = wald_intervals(scales, values, self.natural_standard_errors, level)
        lower, upper = (np.full(low.size, edge) for edge in (-np.inf, np.inf))
        lower[: len(free)], upper[: len(free)] = zip(
            *((parameter.lower, parameter.upper) for parameter in free), strict=True
        )
        return np.maximum(low, lower), np.minimum(high, upper)

    def curves(self, level: float = 0.95, *, points: int = 200) -> dict[str, np.ndarray]:
        """Return predictions at closely spaced times, with their bands, as columns.

        $$ f \\pm z \\sqrt{\\nabla f' C \\nabla f}, \\quad f \\pm z \\sqrt{\\nabla f' C \\nabla f + \\sigma^2} $$

        The columns are `experiment`, `output`, `time`, `prediction`, the band of the prediction `lower` and `upper`
        (infinite where it depends on open directions), and that of a new measurement `lower_measured` and
        `upper_measured`, NaN where errors are not normal. Both are symmetric on the scale of the errors, which is the
        logarithm for log-normal ones.

        Args:
            level: The confidence level.
            points: The number of times of each curve.
        """
        if (level, points) not in self._curves:
            self._curves[level, points] = self._computed_curves(level, points)
        return dict(self._curves[level, points])

    def _computed_curves(self, level: float, points: int) -> dict[str, np.ndarray]:
        from scipy.stats import norm

        dense, x, reach = self.problem.densely(points), jnp.asarray(self.x), norm.ppf(0.5 + level / 2)
        linear = quickly_compiled(dense.linearised, short=True)(x)
        sizes, directions = self.spectrum
        known = sizes > OPEN * max(sizes[0], 0.0)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in ("prediction", *BANDS)}
        for rows, (value, p), (slope, _) in zip(dense.rows, linear.predicted, linear.slopes, strict=True):
            error = rows.output.error
            scaled = isinstance(error, AbstractLocationScale)
            transform = error.transform(*p[2:]) if scaled else Identity()
            value, stretch = np.asarray(value), np.exp(-np.asarray(transform.log_det(value)))
            along = directions @ np.asarray(slope) * stretch
            variance = np.sum(along[known] ** 2 / sizes[known, None], axis=0)
            size = np.sqrt(np.sum(along**2, axis=0))
            variance[(np.abs(along[~known]) > 1e-3 * size).any(axis=0)] = np.inf
            noise = np.full_like(value, np.nan)
            if scaled and isinstance(error.distribution, Gaussian):
                noise = np.exp(2 * np.asarray(p[1]))
            for names, width in zip((BANDS[:2], BANDS[2:]), (variance, variance + noise), strict=True):
                half_width, middle = reach * np.sqrt(width), transform.forward(value)
                for name, edge in zip(names, (middle - half_width, middle + half_width), strict=True):
                    parts[name].append(np.asarray(transform.inverse(edge)))
            parts["prediction"].append(value)
        return dense.columns() | {name: np.concatenate(part) for name, part in parts.items()}

    def to_dataframe(self, level: float = 0.95) -> "pandas.DataFrame":
        """Return a table with one row per parameter: estimate, standard error, its percentage, interval.

        Args:
            level: The confidence level of the intervals.
        """
        pandas = require("pandas", extra="data")
        low, high = self.intervals(level)
        columns = {
            "parameter": self.problem.names,
            "estimate": np.asarray(self.problem.natural(self.x)),
            "standard_error": self.natural_standard_errors,
            "rse_percent": 100 * self.relative_standard_errors,
            "lower": low,
            "upper": high,
        }
        return pandas.DataFrame(columns)
