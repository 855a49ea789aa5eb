"""What is emulated: outputs as a function of points between 0 and 1, NaN where a simulation fails."""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from qspjax._baseline import AbstractBaseline, baselines, check_baseline
from qspjax._checks import ArgumentError, check_instance, check_names, refuse
from qspjax._distribution import AbstractDistribution
from qspjax._simulate import simulate_cohort
from qspjax._types import ArrayInput
from qspjax.execute import AbstractExecutor, Chunked
from qspjax.population import Arm, Population
from qspjax.population._endpoints import AbstractEndpoint
from qspjax.population._plausible._bound import Bound
from qspjax.population._plausible._criteria import Criteria, Statistics, filled, times_of
from qspjax.population._plausible._features import Features, has_tails
from qspjax.sensitivity._design import Inputs, evaluated
from qspjax.solve import AbstractMethod

_TOGETHER = 512


class AbstractSimulator(abc.ABC):
    """A function that a surrogate emulates.

    Attributes:
        inputs: The names of the coordinates of a point.
        outputs: The names of the outputs.
        features: How an emulator sees the coordinates.
        ends: The lower and upper bounds of the outputs, shape (2, outputs), infinite where there is none.

    Example:
        >>> import qspjax as qsp
        >>> function = qsp.surrogate.Function(lambda x: x**2, {"x": (1.0, 3.0)}, ["y"])
        >>> isinstance(function, AbstractSimulator), function.simulate(np.array([[0.5]])).tolist()
        (True, [[4.0]])
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    features: Features
    ends: np.ndarray

    @abc.abstractmethod
    def simulate(self, points: np.ndarray) -> np.ndarray:
        """Return outputs, shape (points, outputs), NaN for those that fail."""


class Function(AbstractSimulator):
    """Any function of named numbers.

    Args:
        function: From inputs of shape (samples, inputs) to outputs of shape (samples,) or (samples, outputs); NaN where
            it fails.
        inputs: Distributions or pairs of bounds, by name.
        outputs: The names of the outputs.

    Raises:
        ValueError: If bounds are not increasing, or the function returns another number of rows.

    Example:
        >>> import qspjax as qsp
        >>> function = qsp.surrogate.Function(lambda x: x.sum(axis=1), {"a": (0.0, 2.0), "b": (0.0, 4.0)}, ["sum"])
        >>> function.points(a=0.5, b=3.0)
        Array([[0.25, 0.75]], dtype=float64)
    """

    def __init__(
        self,
        function: Callable[[np.ndarray], ArrayLike],
        inputs: Mapping[str, AbstractDistribution | tuple[float, float]],
        outputs: Sequence[str],
    ) -> None:
        """Check the inputs."""
        self._inputs = Inputs(inputs)
        self._function, self._each = function, dict(inputs)
        self.inputs, self.outputs = self._inputs.names, check_names("outputs", outputs)
        tailed = tuple(i for i, each in enumerate(inputs.values()) if has_tails(each))
        self.features = Features(len(self.inputs), tailed)
        self.ends = np.array([[-np.inf], [np.inf]]) * np.ones(len(self.outputs))

    def simulate(self, points: np.ndarray) -> np.ndarray:
        values = evaluated(self._function, self._inputs.from_unit(points))
        if values.shape[1] != len(self.outputs):
            refuse("outputs", f"name the {values.shape[1]} outputs of the function", ", ".join(self.outputs))
        return values

    def points(self, **values: ArrayLike) -> Array:
        """Return points for values of the inputs, all of which are given, shape (points, inputs)."""
        if set(values) != set(self.inputs):
            refuse("values", f"be those of {', '.join(self.inputs)}", ", ".join(values) or "empty")
        columns = []
        for name, each in self._each.items():
            value = jnp.atleast_1d(jnp.asarray(values[name], float))
            if isinstance(each, AbstractDistribution):
                columns.append(jax.scipy.special.ndtr(each.to_normal(value)))
            else:
                columns.append((value - each[0]) / (each[1] - each[0]))
        return jnp.stack(jnp.broadcast_arrays(*columns), axis=1)


class Patients(AbstractSimulator):
    """Endpoints and observed values of the patients of a population; a point is as in `Population.from_unit`.

    Args:
        population: The patients.
        endpoints: By name, endpoints such as `endpoints.AUC("concentration")`.
        arms: The arms in which each patient is simulated; with several, outputs are named `endpoint, arm`.
        observed: By name of an observed value, the times at which it is an output, named `concentration at 24`.
        ts: Times of the simulation, needed by endpoints of a whole course.
        baseline: The state in which every arm begins, as in a `Trial`.
        method: As in `simulate`.
        executor: As in `simulate_cohort`; by default 512 patients at a time.

    Raises:
        ValueError: If nothing varies between patients, there is no output, or a time is missing.

    Example:
        >>> import qspjax as qsp
        >>> population = qsp.Population(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0), between={"CL": qsp.LogNormal(cv=0.3)}
        ... )
        >>> arms = [qsp.Arm("300 mg", qsp.bolus(300.0, to="central"))]
        >>> simulator = qsp.surrogate.Patients(population, arms=arms, observed={"concentration": [0.0, 10.0]})
        >>> simulator.outputs, simulator.simulate(np.array([[0.5]])).round(3).tolist()
        (('concentration at 0', 'concentration at 10'), [[10.0, 3.679]])
    """

    def __init__(
        self,
        population: Population,
        endpoints: Mapping[str, AbstractEndpoint] | None = None,
        *,
        arms: Sequence[Arm],
        observed: Mapping[str, ArrayInput] | None = None,
        ts: ArrayInput | None = None,
        baseline: AbstractBaseline | None = None,
        method: AbstractMethod | None = None,
        executor: AbstractExecutor | None = None,
    ) -> None:
        """Check the parts, and name the outputs."""
        from qspjax.population.endpoints import Value

        check_instance("population", population, Population, "a population")
        check_instance("arms", arms, (list, tuple), "a list of arms")
        for i, arm in enumerate(arms):
            check_instance(f"arms[{i}]", arm, Arm, "an arm")
        if not arms:
            refuse("arms", "be at least one arm", "empty")
        if baseline is not None:
            check_baseline(baseline)
        if not population.coordinates():
            refuse("population", "have something that varies between patients", "one without")
        asked: dict[str, AbstractEndpoint] = dict(endpoints or {})
        for name, times in (observed or {}).items():
            at = np.atleast_1d(np.asarray(times, float)).tolist()
            asked |= {f"{name} at {time:g}": Value(name, at=time) for time in at}
        if not asked:
            raise ArgumentError("endpoints", "must be given, or `observed`: there is no output.")
        for name, endpoint in asked.items():
            check_instance(f'endpoints["{name}"]', endpoint, AbstractEndpoint, "an endpoint")
        needed = [times_of(endpoint) for endpoint in asked.values()]
        if ts is None and not all(needed):
            raise ArgumentError("ts", "must be given where an endpoint is of a whole course, but is left out.")
        given = [] if ts is None else np.asarray(ts, float).ravel().tolist()
        self._ts = np.unique([*given, *(time for each in needed for time in each)])
        self._population, self._arms, self._statistics = population, tuple(arms), Statistics.of(asked, self._ts)
        self._baseline = baseline
        self._how: dict[str, Any] = {"method": method, "executor": executor or Chunked(_TOGETHER)}
        self._names = tuple(asked)
        self.inputs, self.features = population.coordinates(), Features.of(population)
        names = [name if len(arms) == 1 else f"{name}, {arm.name}" for arm in arms for name in asked]
        self.outputs = tuple(names)
        self.ends = np.array([[-np.inf], [np.inf]]) * np.ones(len(names))

    def simulate(self, points: np.ndarray) -> np.ndarray:
        cohort = self._population.from_unit(filled(points))
        begun = None if self._baseline is None else baselines(cohort, self._baseline, **self._how)
        rows, columns = max(arm.regimen.rows for arm in self._arms), []
        for arm in self._arms:
            regimen = arm.regimen.padded(rows)
            solution = simulate_cohort(
                cohort, regimen, self._ts, initial=begun, save=(), reduce=self._statistics, **self._how
            )
            failed = np.asarray(solution.failed)[: len(points)]
            for name in self._names:
                values = np.asarray(solution.reduced[name], float)[: len(points)]
                columns.append(np.where(failed, np.nan, values))
        return np.stack(columns, axis=1)


class Plausibility(AbstractSimulator):
    """The statistics of patients that have bounds; arguments as in `population.plausible`.

    Args:
        population: The patients to choose from.
        bounds: The bounds by name.
        arms: The arms in which patients are simulated.
        ts: Times of the simulations; needed where a bound is on a whole course.
        baseline: The state in which every arm begins.
        method: As in `simulate`.
        executor: As in `simulate_cohort`; by default 512 patients at a time.

    Raises:
        ValueError: If a bound names no arm, a time is missing, or nothing varies.

    Example:
        >>> import qspjax as qsp
        >>> population = qsp.Population(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0), between={"V": qsp.Uniform(10.0, 110.0)}
        ... )
        >>> bounds = {"C0": qsp.population.Bound(qsp.endpoints.Value("concentration", at=0.0), 2.0, 4.5)}
        >>> arms = [qsp.Arm("100 mg", qsp.bolus(100.0, to="central"))]
        >>> qsp.surrogate.Plausibility(population, bounds, arms=arms).simulate(np.array([[0.4]])).tolist()
        [[2.0]]
    """

    def __init__(
        self,
        population: Population,
        bounds: Mapping[str, Bound],
        *,
        arms: Sequence[Arm],
        ts: ArrayInput | None = None,
        baseline: AbstractBaseline | None = None,
        method: AbstractMethod | None = None,
        executor: AbstractExecutor | None = None,
    ) -> None:
        """Check the parts."""
        self.criteria = Criteria(
            population, bounds, arms=arms, ts=ts, baseline=baseline, method=method, executor=executor
        )
        self.inputs, self.outputs = self.criteria.coordinates, tuple(bounds)
        self.features = Features.of(population)
        self.ends = np.array([[float(getattr(each, end)) for each in bounds.values()] for end in ("low", "high")])

    def simulate(self, points: np.ndarray) -> np.ndarray:
        return self.criteria.judge(points).values
