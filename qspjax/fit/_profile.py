"""Profile likelihoods by continuation: how far a parameter can go while all others compensate for it.

    p_i(c) = max { log p(x) : x_i = c }

All parameters and both directions advance side by side, each a search in which one parameter is fixed. A step follows
the tangent of the profile, as far as costs a given part of the threshold, and Gauss-Newton steps lead to the optimum.

Reference: Raue et al., Bioinformatics 2009;25:1923, doi:10.1093/bioinformatics/btp358.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qspjax._checks import check_names, check_one_of, refuse
from qspjax._extras import require
from qspjax.fit._problem import Problem
from qspjax.fit._types import Point
from qspjax.fit.search._gauss_newton import LevenbergMarquardt, Quadratic
from qspjax.fit.search._search import FAILED, RUNNING, Search, begun, quickly_compiled, stepped

if TYPE_CHECKING:
    import pandas

PARTS = 6
"""The number of steps in which a profile is to fall by the threshold."""
FARTHEST = 12.0
"""The greatest distance over which a profile is followed, on the scale of the search."""


@dataclasses.dataclass(frozen=True)
class Profile:
    """The profile of one parameter.

    Attributes:
        name: The parameter.
        values: Its natural values, increasing.
        log_density: The greatest log density at each value.
        points: The points at which it is attained, shape (values, parameters), on the scale of the search.
        threshold: The log density at the ends of the confidence interval.
        interval: The confidence interval, natural values; infinite where the profile does not fall to the threshold.
        open: Whether the profile does not fall to the threshold (below, above).
        problem: The fitted problem.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, Profile
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, bounds=(0.5, 10.0))},
        ... )
        >>> values, log_density = np.array([2.8, 2.96, 3.1]), np.array([-4.4, 0.0, -3.4])
        >>> found = Profile(
        ...     "CL", values, log_density, np.log(values)[:, None], -1.92, (2.87, 3.05), (False, False), problem
        ... )
        >>> found.identifiable, found.to_dataframe().shape
        (True, (3, 3))
    """

    name: str
    values: np.ndarray
    log_density: np.ndarray
    points: np.ndarray
    threshold: float
    interval: tuple[float, float]
    open: tuple[bool, bool]
    problem: Problem = dataclasses.field(repr=False)

    @property
    def identifiable(self) -> bool:
        """Whether the confidence interval is finite on both sides."""
        return not any(self.open)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return a table with one row per value."""
        pandas = require("pandas", extra="data")
        return pandas.DataFrame({"parameter": self.name, "value": self.values, "log_density": self.log_density})


def profiles(
    problem: Problem,
    x: Point,
    names: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    max_points: int = 60,
    inner_steps: int = 40,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Profile]:
    """Follow the profile likelihoods of parameters from an optimum, in both directions.

    The interval ends where twice the log likelihood ratio is the quantile of chi-squared with one degree of freedom.

    Args:
        problem: The fitted problem.
        x: The optimum, on the scale of the search.
        names: The parameters; by default all that are numbers.
        level: The confidence level.
        max_points: Maximum number of points in a direction.
        inner_steps: Maximum number of steps of the other parameters at a point.
        progress: Called with the number of directions that are finished, and that of all.

    Raises:
        ValueError: If a name is not that of a free parameter, or the log density at `x` is not finite.

    Example:
        >>> import qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, estimate
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, bounds=(0.5, 10.0))},
        ... )
        >>> found = estimate(problem)
        >>> low, high = profiles(problem, found.x)["CL"].interval
        >>> low < found.parameters["CL"] < high
        True
    """
    from scipy.stats import chi2

    names = tuple(problem.free) if names is None else check_names("names", names)
    for name in names:
        check_one_of("names", name, problem.names, "a free parameter")
    x = jnp.asarray(x, float)
    first = quickly_compiled(problem.quadratic, short=True)(x)
    if not np.isfinite(first.value):
        refuse("x", "be a point at which the log density is finite", float(first.value))
    drop = float(chi2.ppf(level, 1)) / 2
    walk = _Walk(problem, np.asarray(x), float(first.value), np.asarray(first.curvature), names, drop, inner_steps)
    for _ in range(max_points):
        if not walk.going.any():
            break
        walk.advance()
        if progress is not None:
            progress(int((~walk.going).sum()), len(walk.going))
    return walk.profiles()


class _Walk:
    """All profiles, with one lane per parameter and direction."""

    def __init__(
        self,
        problem: Problem,
        x: np.ndarray,
        best: float,
        curvature: np.ndarray,
        names: Sequence[str],
        drop: float,
        inner: int,
    ) -> None:
        self.problem, self.names, self.best, self.drop, self.inner = problem, tuple(names), best, drop, inner
        self.index = np.repeat([problem.names.index(name) for name in names], 2)
        self.sign = np.tile([-1.0, 1.0], len(self.names))
        lanes, size = len(self.index), len(x)
        self.frozen = np.zeros((lanes, size), bool)
        self.frozen[np.arange(lanes), self.index] = True
        self.x = np.tile(x, (lanes, 1))
        self.value = np.full(lanes, best)
        self.curvature = np.tile(curvature, (lanes, 1, 1))
        self.going = np.ones(lanes, bool)
        self.path: list[list[tuple[float, float, np.ndarray]]] = [[(float(x[i]), best, x.copy())] for i in self.index]
        self.origin = x
        self.length = np.array([self._first_length(curvature, i) for i in self.index])
        method = LevenbergMarquardt(ftol=1e-7, max_steps=1000, damping=1e-4)

        def settle(x: Array, frozen: Array) -> Search:
            return jax.lax.while_loop(
                lambda search: (search.status == RUNNING) & (search.steps < inner),
                lambda search: stepped(method, problem, search, frozen),
                begun(method, problem, x),
            )

        self._settle = quickly_compiled(jax.vmap(settle))

    def _first_length(self, curvature: np.ndarray, i: int) -> float:
        """Return the length of a first step, by the curvature of the profile (the Schur complement)."""
        others = np.arange(len(curvature)) != i
        inverse = np.linalg.pinv(curvature[np.ix_(others, others)], rcond=1e-10, hermitian=True)
        cross = curvature[i, others]
        schur = max(curvature[i, i] - cross @ inverse @ cross, 1e-10)
        return float(min(np.sqrt(2 * self.drop / schur) / PARTS, 1.0))

    def advance(self) -> None:
        """Take one step along each profile that goes on."""
        lower, upper = (np.asarray(edge) for edge in self.problem.bounds)
        trial = self.x.copy()
        for lane in np.flatnonzero(self.going):
            i = self.index[lane]
            change = self.sign[lane] * self.length[lane]
            tangent = np.zeros(trial.shape[1])
            others = np.arange(trial.shape[1]) != i
            inverse = np.linalg.pinv(self.curvature[lane][np.ix_(others, others)], rcond=1e-10, hermitian=True)
            tangent[others] = np.clip(-inverse @ self.curvature[lane][others, i] * change, -1.0, 1.0)
            trial[lane] = np.clip(trial[lane] + tangent, lower, upper)
            trial[lane, i] = np.clip(self.x[lane, i] + change, lower[i], upper[i])
        search = self._settle(jnp.asarray(trial), jnp.asarray(self.frozen))
        memory: Quadratic = search.own
        points, values, status = np.asarray(search.x), -np.asarray(search.value), np.asarray(search.status)
        for lane in np.flatnonzero(self.going):
            i = self.index[lane]
            fell = self.value[lane] - values[lane]
            if status[lane] == FAILED or not np.isfinite(values[lane]) or fell > 2 * self.drop / PARTS:
                self.length[lane] *= 0.3
                self.going[lane] = self.length[lane] > 1e-6
                continue
            self.x[lane], self.value[lane] = points[lane], values[lane]
            self.curvature[lane] = np.asarray(memory.curvature[lane])
            self.path[lane].append((points[lane, i], values[lane], points[lane].copy()))
            target = self.drop / PARTS
            self.length[lane] *= float(np.clip(np.sqrt(target / max(abs(fell), 1e-6)), 0.4, 2.0))
            self.length[lane] = min(self.length[lane], 1.0)
            at_bound = points[lane, i] <= lower[i] or points[lane, i] >= upper[i]
            far = abs(points[lane, i] - self.origin[i]) > FARTHEST
            self.going[lane] = not (values[lane] < self.best - 1.15 * self.drop or at_bound or far)

    def profiles(self) -> dict[str, Profile]:
        """Return the profiles by name."""
        return {name: self._profile(k, name) for k, name in enumerate(self.names)}

    def _profile(self, k: int, name: str) -> Profile:
        low, high = self.path[2 * k], self.path[2 * k + 1]
        i = self.index[2 * k]
        combined = [*low[:0:-1], *high]
        best = max(self.best, *(value for _, value, _ in combined))
        threshold = best - self.drop
        transform = self.problem.free[name].transform
        ends, opens = [], []
        for path, bound in ((low, -np.inf), (high, np.inf)):
            end = _crossing(path, threshold)
            opens.append(end is None)
            ends.append(bound if end is None else float(transform.inverse(end)))
        points = np.array([point for *_, point in combined])
        values = np.asarray(transform.inverse(points[:, i]))
        densities = np.array([value for _, value, _ in combined])
        sides = (ends[0], ends[1]), (opens[0], opens[1])
        return Profile(name, values, densities, points, threshold, *sides, self.problem)


def _crossing(path: list[tuple[float, float, np.ndarray]], threshold: float) -> float | None:
    """Return where a profile crosses the threshold; between points, the root of its fall is taken to be linear."""
    top = max(value for _, value, _ in path)
    for (a, high, _), (b, low, _) in zip(path, path[1:], strict=False):
        if low < threshold <= high:
            root = [np.sqrt(max(top - value, 0.0)) for value in (high, low, threshold)]
            return a + (b - a) * (root[2] - root[0]) / (root[1] - root[0])
    return None
