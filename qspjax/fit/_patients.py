"""New patients from a fit: each with its own draw of the estimates and its own random effects."""

from collections.abc import Callable, Collection, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from qspjax._checks import ArgumentError, check_instance, check_one_of, check_whole, refuse
from qspjax._cohort import Cohort
from qspjax._dosing._regimen import Regimen
from qspjax._expression import Expression, symbol
from qspjax._model import AbstractModel
from qspjax._names import at
from qspjax._random import check_key
from qspjax._simulate import simulate_cohort
from qspjax._types import Key
from qspjax.fit._problem import Problem
from qspjax.fit._types import Numbers, Point, Table
from qspjax.fit._wald import check_level
from qspjax.fit.data._measurements import Experiment
from qspjax.fit.data._stages import parameters_of
from qspjax.population import Population
from qspjax.population._population import keys_of
from qspjax.solve import AbstractMethod


def population_of(problem: Problem, x: Point, experiment: str | None = None) -> Population:
    """Return the population of a problem at a point, in which all patients are alike.

    Args:
        problem: The fitted problem.
        x: The point, on the scale of the search.
        experiment: The experiment whose settings they have; by default those that all experiments share.

    Raises:
        ValueError: If experiments have different settings and none is named, or patients do not begin as the model
            does.
    """
    leaves = parameters_of(problem.model)
    chosen = problem.experiments
    if experiment is not None:
        check_one_of("experiment", experiment, chosen, "an experiment of the problem")
        chosen = {experiment: chosen[experiment]}
    check_begins(chosen, "experiment")
    (_, first), *others = chosen.items()
    for name, other in others:
        settings = {**first.begin.set, **other.begin.set}
        for key in settings:
            if first.begin.set.get(key) != other.begin.set.get(key):
                must = f"must name one of {', '.join(chosen)}, but is None, and they set `{key}` to different values"
                raise ArgumentError("experiment", f"{must}, such as `{name}`.")
    numbers = {key: value for key, value in first.begin.set.items() if not isinstance(value, Expression)}
    learned = problem.weights.placed(problem.model, problem.split(jnp.asarray(x, float))[1])
    model, formulas = placed(learned, {**problem.free, **problem.fixed}, problem.values(x))
    formulas |= {key: value for key, value in first.begin.set.items() if key in leaves}
    return Population(model, individual=formulas, parameters={**problem.values(x), **numbers})


def placed(
    model: AbstractModel, names: Collection[str], values: Mapping[str, Float[Array, ""]]
) -> tuple[AbstractModel, dict[str, Expression]]:
    """Return a model with elements of arrays at their values, and formulas for the other parameters that it has."""
    leaves = parameters_of(model)
    formulas = {name: symbol(name) for name in names if name in leaves and "[" not in name}
    for name in names:
        if name in leaves and name not in formulas:
            model = at(model, name).set(values[name])
    return model, formulas


def check_begins(experiments: Mapping[str, Experiment], kind: str) -> None:
    """Refuse experiments that do not begin as the model does."""
    for name, experiment in experiments.items():
        for state in experiment.begin.put:
            raise ValueError(
                f"New patients begin as the model does, but {kind} `{name}` puts `{state}` where it begins: make it "
                "the initial value of the model, by a parameter."
            )
        if experiment.equilibrated is not None:
            raise ValueError(f"New patients begin as the model does, but {kind} `{name}` begins in a steady state.")


def patients_of(
    population: Callable[[Array], Population],
    points: Float[np.ndarray, "patients parameters"],
    *,
    key: Key,
    occasions: int = 1,
) -> Cohort:
    """Return patients, each drawn from the population at its own point.

    Args:
        population: Returns the population at a point.
        points: The point of each patient, on the scale of the search.
        key: `jax.random.key(seed)`.
        occasions: See `Population.sample`.
    """
    check_whole("occasions", occasions, 1)

    def draw(x: Array, key: Key) -> tuple[dict[str, Array], dict[str, Array]]:
        at_point = population(x)
        covariates, values = at_point.draw(key, occasions)
        return {**at_point.individual.parameters, **covariates}, values

    covariates, values = jax.jit(jax.vmap(draw))(jnp.asarray(points), keys_of(key, len(points)))
    return population(points[0]).cohort(covariates, values, len(points))


def split(key: Key) -> tuple[Key, Key]:
    """Return a key for the estimates, and one for the patients."""
    check_key(key)
    for_estimates, for_patients = jax.random.split(key)
    return for_estimates, for_patients


def predicted(patients: Cohort, regimen: Regimen, ts: Numbers, *, level: float, method: AbstractMethod | None) -> Table:
    """Return quantiles of predictions for patients, as columns: the data of `plot.prediction`.

    Args:
        patients: The patients.
        regimen: Their doses.
        ts: Times, shape (times,).
        level: The share of patients within the band.
        method: How to simulate.

    Returns:
        OUTPUT (an observed value of the model), TIME, their UNIT and TIME_UNIT, LOWER, MEDIAN, UPPER and COUNT, the
        number of patients that did not fail.
    """
    check_level(level)
    check_instance("regimen", regimen, Regimen, "a regimen")
    ts = np.asarray(ts, float)
    if ts.ndim != 1:
        refuse("ts", "have shape (times,)", f"of shape {ts.shape}")
    solution = simulate_cohort(patients, regimen, ts, method=method)
    succeeded = ~np.asarray(solution.failed)
    if not succeeded.any():
        raise RuntimeError(f"No patient can be simulated. The first: {solution.failures()[0].reason}")
    units = solution.labels
    observed = {(name, units.unit(name)): np.asarray(values)[succeeded] for name, values in solution.observed.items()}
    return banded(observed, ts, level=level, time_unit=units.units.time)


def banded(
    values: Mapping[tuple[str, str], Float[np.ndarray, "patients times"]],
    ts: Float[np.ndarray, " times"],
    *,
    level: float,
    time_unit: str,
) -> Table:
    """Return quantiles of the values of patients, as the columns of `predicted`.

    Args:
        values: Those of patients that did not fail, by name and unit.
        ts: The times.
        level: The share of patients within the band.
        time_unit: The unit of time.
    """
    parts = []
    for (name, unit), of_patients in values.items():
        edges = np.quantile(of_patients, [0.5 - level / 2.0, 0.5, 0.5 + level / 2.0], axis=0)
        labels = {"OUTPUT": name, "UNIT": unit, "TIME_UNIT": time_unit}
        part = {key: np.full(ts.size, value, dtype=object) for key, value in labels.items()}
        part |= {"TIME": ts, **dict(zip(("LOWER", "MEDIAN", "UPPER"), edges, strict=True))}
        parts.append(part | {"COUNT": np.full(ts.size, len(of_patients))})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
