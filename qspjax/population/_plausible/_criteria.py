"""What a plausible patient is: the statistics of points of a population, and their bounds.

A point has one coordinate between 0 and 1 for each difference between patients (`Population.from_unit`), so that the
population is the uniform distribution over the cube, whatever the scales of its parameters.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from qspjax._arrays import device_floats
from qspjax._baseline import AbstractBaseline, baselines, check_baseline
from qspjax._checks import ArgumentError, check_instance, check_one_of, refuse
from qspjax._cohort import Cohort, as_array
from qspjax._simulate import simulate_cohort
from qspjax._solution import Solution
from qspjax._types import ArrayInput, Scalar
from qspjax.execute import AbstractExecutor, Chunked
from qspjax.population._endpoints import AbstractEndpoint, ChangeFromBaseline, RelativeChange, Value
from qspjax.population._plausible._bound import Bound
from qspjax.population._plausible._scale import Scale
from qspjax.population._population import Population
from qspjax.population._trial import Arm, Endpoints
from qspjax.solve import AbstractMethod

_TOGETHER, _FEW = 512, 64
"""Patients in a chunk, and in a small one: batches are filled up to one small chunk or to several large ones, so that
two programs serve all sizes."""
_TIMES = 4
"""How often a program is timed; the fastest call counts, so that compilation does not."""
FAILED = 1e6
"""The score of a patient that failed, which has no distance."""


class Judged(NamedTuple):
    """What simulations say about some points.

    Attributes:
        points: The points, shape (patients, coordinates).
        values: The statistics in their own units, shape (patients, bounds); NaN where they are not defined.
        score: The flat-bottomed score, shape (patients,).
        inside: Whether all bounds hold.
        causes: How many patients failed, by cause.
        slopes: The gradient of the score, shape (patients, coordinates); zeros where it was not asked for.
    """

    points: np.ndarray
    values: np.ndarray
    score: np.ndarray
    inside: np.ndarray
    causes: Counter[str]
    slopes: np.ndarray

    def where(self, which: np.ndarray, other: "Judged") -> "Judged":
        """Return this, with what is said of some points replaced by what is said of others."""

        def chosen(old: np.ndarray, new: np.ndarray) -> np.ndarray:
            return np.where(which.reshape(-1, *[1] * (old.ndim - 1)), new, old)

        both = {name: chosen(getattr(self, name), getattr(other, name)) for name in self._fields if name != "causes"}
        return self._replace(**both)


class Criteria:
    """A population, the arms in which its patients are simulated, and the bounds that a plausible one keeps.

    Args:
        population: The ranges, as distributions of parameters and covariates.
        bounds: By name, the bounds.
        arms: The arms that bounds name.
        ts: Times of the simulations, besides those of `Value` bounds; None for those alone.
        method: How to solve.
        executor: Where to compute.
        baseline: The state in which every arm begins; None for the initial state of the model.

    Raises:
        ValueError: If a bound names no arm, there is no time, or nothing varies.
    """

    def __init__(
        self,
        population: Population,
        bounds: Mapping[str, Bound],
        *,
        arms: Sequence[Arm],
        ts: ArrayInput | None,
        method: AbstractMethod | None,
        executor: AbstractExecutor | None,
        baseline: AbstractBaseline | None = None,
    ) -> None:
        """Check the parts and sort the statistics by arm."""
        check_instance("population", population, Population, "a population")
        _check_bounds(bounds, arms)
        if baseline is not None:
            check_baseline(baseline)
        self.population, self.bounds = population, dict(bounds)
        self.coordinates = population.coordinates()
        if not self.coordinates:
            refuse("population", "have something that varies between patients", "one without")
        self._executor = Chunked(_TOGETHER) if executor is None else executor
        self._baseline, self._method = baseline, method
        self._ts = _times(ts, bounds.values())
        asked: dict[str, dict[str, AbstractEndpoint]] = {arm.name: {} for arm in arms}
        for name, bound in bounds.items():
            asked[bound.arm or arms[0].name][name] = bound.statistic
            if bound.over is not None:
                asked[bound.over][_over(name)] = bound.statistic
        self._arms = [(arm, Statistics.of(asked[arm.name], self._ts)) for arm in arms if asked[arm.name]]
        self._rows = max(arm.regimen.rows for arm in arms)
        low, high = (np.array([float(getattr(bound, end)) for bound in bounds.values()]) for end in ("low", "high"))
        self.scale = Scale(low, high)
        self._compiled = eqx.filter_jit(jax.grad(self._total, has_aux=True))

    @property
    def dimensions(self) -> int:
        """The number of coordinates of a point."""
        return len(self.coordinates)

    def judge(self, points: np.ndarray) -> Judged:
        """Simulate the patients at some points, each once in every arm."""
        columns, causes, size = {}, Counter(), len(points)
        for arm, solution in self._simulated(self.population.from_unit(filled(points))):
            columns |= {name: np.asarray(values, float)[:size] for name, values in solution.reduced.items()}
            failures = (failure for failure in solution.failures() if failure.patient < size)
            causes.update(f"{arm}: {failure.reason} (state `{failure.state}`)" for failure in failures)
        return self._judged(points, np.stack(self._by_bound(columns), axis=1), causes)

    def judge_with_slopes(self, points: np.ndarray) -> Judged:
        """Simulate the patients at some points, and find the gradients of their scores, too."""
        slopes, (values, failed) = self._compiled(device_floats(points))
        causes = Counter({"The patient failed where a gradient was taken.": int(np.asarray(failed).sum())})
        judged = self._judged(points, np.where(np.asarray(failed)[:, None], np.nan, values), +causes)
        return judged._replace(slopes=np.nan_to_num(np.asarray(slopes)))

    def _simulated(self, cohort: Cohort) -> Iterator[tuple[str, Solution]]:
        how = {"method": self._method, "executor": self._executor}
        begun = None if self._baseline is None else baselines(cohort, self._baseline, **how)
        for arm, statistics in self._arms:
            regimen = arm.regimen.padded(self._rows)
            yield arm.name, simulate_cohort(cohort, regimen, self._ts, initial=begun, save=(), reduce=statistics, **how)

    def _by_bound(self, columns: Mapping[str, PyTree]) -> list[PyTree]:
        return [
            columns[name] if bound.over is None else columns[name] / columns[_over(name)]
            for name, bound in self.bounds.items()
        ]

    def cost_of_slopes(self, points: np.ndarray) -> float:
        """Return how many times longer simulations with gradients take than without, both as one compiled program."""
        many = device_floats(np.resize(points, (_TOGETHER, points.shape[1])))
        plain = eqx.filter_jit(self._total)
        with_slopes, without = (
            min(_seconds(function, many) for _ in range(_TIMES)) for function in (self._compiled, plain)
        )
        return with_slopes / without

    def _total(self, points: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Return the sum of all scores, whose gradient has those of the patients, and the statistics."""
        columns, failed = {}, jnp.zeros(points.shape[0], bool)
        for _, solution in self._simulated(self.population.from_unit(points)):
            columns |= solution.reduced
            failed |= solution.failed
        values = jnp.stack(self._by_bound(columns), axis=1)
        return jnp.sum(jnp.where(failed, 0.0, self.scale.score(values))), (values, failed)

    def _judged(self, points: np.ndarray, values: np.ndarray, causes: Counter[str]) -> Judged:
        score = self.scale.score(values)
        columns = zip(self.bounds.values(), values.T, strict=True)
        inside = np.all([bound.holds(column) for bound, column in columns], axis=0)
        score = np.where(inside, 0.0, np.where(np.isnan(score), FAILED, np.maximum(score, np.finfo(float).tiny)))
        return Judged(points, values, score, inside, causes, np.zeros_like(points))


def filled(points: np.ndarray) -> np.ndarray:
    """Return points, the last one several times, so that two programs serve all numbers of them."""
    size = len(points)
    filling = -size % (_FEW if size <= _FEW else _TOGETHER)
    return np.concatenate([points, np.repeat(points[-1:], filling, axis=0)])


def _seconds(function: Callable[[jax.Array], PyTree], points: jax.Array) -> float:
    start = time.process_time()
    jax.block_until_ready(function(points))
    return time.process_time() - start


class _Sampled(eqx.Module):
    """The value of an output at one of the reported times, by its place among them: less to compile than a `Value`."""

    output: str = eqx.field(static=True)
    index: int = eqx.field(static=True)

    def __call__(self, solution: Solution) -> Scalar:
        check_one_of("output", self.output, solution.observed, "an observed value")
        return solution.observed[self.output][self.index]


class Statistics(eqx.Module):
    """The statistics of one patient in one arm: those of reported values are not solved for, others are."""

    sampled: dict[str, _Sampled | AbstractEndpoint]
    others: Endpoints

    @classmethod
    def of(cls, asked: Mapping[str, AbstractEndpoint], ts: np.ndarray) -> "Statistics":
        """Sort the statistics of an arm."""
        sampled: dict[str, _Sampled | AbstractEndpoint] = {}
        for name, endpoint in asked.items():
            if isinstance(endpoint, Value):
                sampled[name] = _Sampled(endpoint.output, int(np.searchsorted(ts, float(endpoint.at))))
            elif times_of(endpoint):
                sampled[name] = endpoint
        others = {name: endpoint for name, endpoint in asked.items() if name not in sampled}
        return cls(sampled, Endpoints(tuple(others), tuple(others.values())))

    def __call__(self, solution: Solution) -> dict[str, PyTree]:
        """Return the statistics by name."""
        reported = dataclasses.replace(solution, source=None)
        values = {name: statistic(reported) for name, statistic in self.sampled.items()}
        return values | (self.others(solution) if self.others.names else {})


def times_of(endpoint: AbstractEndpoint) -> list[float]:
    """Return the times at which an endpoint needs a value; none where it needs the whole course."""
    if isinstance(endpoint, Value):
        return [float(endpoint.at)]
    if isinstance(endpoint, (ChangeFromBaseline, RelativeChange)):
        return [float(endpoint.at), float(endpoint.baseline)]
    return []


def _over(name: str) -> str:
    """Return the name of the denominator of a statistic."""
    return f"{name} (over)"


def _times(ts: ArrayInput | None, bounds: Iterable[Bound]) -> np.ndarray:
    """Return the times of the simulations: those given, and those at which a bound needs a value."""
    needed = [times_of(bound.statistic) for bound in bounds]
    times = [time for each in needed for time in each]
    if ts is not None:
        times += np.asarray(as_array("ts", ts), float).ravel().tolist()
    elif not all(needed):
        raise ArgumentError("ts", "must be given where a bound is on a whole course, such as `Cmax`, but is left out.")
    return np.unique(times)


def _check_bounds(bounds: Mapping[str, Bound], arms: Sequence[Arm]) -> None:
    check_instance("bounds", bounds, Mapping, "a mapping of names to bounds")
    check_instance("arms", arms, (list, tuple), "a list of arms")
    for i, arm in enumerate(arms):
        check_instance(f"arms[{i}]", arm, Arm, "an arm")
    names = [arm.name for arm in arms]
    if not names or len(set(names)) < len(names):
        refuse("arms", "be at least one arm, with different names", ", ".join(names) or "empty")
    if not bounds:
        refuse("bounds", "have at least one bound", "empty")
    for name, bound in bounds.items():
        check_instance(f'bounds["{name}"]', bound, Bound, "a `Bound`")
        if bound.arm is None and len(names) > 1:
            refuse(f'bounds["{name}"]', f"name an arm ({', '.join(names)})", "without `arm`")
        for arm in (bound.arm, bound.over):
            if arm is not None:
                check_one_of(f'bounds["{name}"]', arm, names, "an arm")
