"""The search for plausible patients."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from qspjax._baseline import AbstractBaseline
from qspjax._checks import check_instance, check_whole, warn
from qspjax._cohort import Cohort
from qspjax._interventions import recorded
from qspjax._names import at
from qspjax._progress import Progress
from qspjax._random import generator
from qspjax._types import ArrayInput, Key
from qspjax.execute import AbstractExecutor
from qspjax.population._plausible._attempts import Attempts
from qspjax.population._plausible._bound import Bound
from qspjax.population._plausible._contract import AbstractPatientSearch
from qspjax.population._plausible._criteria import Criteria
from qspjax.population._plausible._effective import effective_size
from qspjax.population._plausible._result import PlausiblePopulation
from qspjax.population._plausible._screened import Screened
from qspjax.population._population import Population
from qspjax.population._trial import Arm
from qspjax.solve import AbstractMethod

_EACH, _LEAST = 1000, 100_000
"""By default, at most so many simulations for each patient, and at least so many in all, are allowed."""


def plausible(
    population: Population,
    bounds: Mapping[str, Bound],
    *,
    arms: Sequence[Arm],
    size: int,
    key: Key,
    ts: ArrayInput | None = None,
    baseline: AbstractBaseline | None = None,
    search: AbstractPatientSearch | None = None,
    most: int | None = None,
    method: AbstractMethod | None = None,
    executor: AbstractExecutor | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> PlausiblePopulation:
    """Find patients of a population whose statistics are within bounds in every arm.

    The population states the ranges: `Population(model, between={"CL": LogUniform(1.0, 5.0)})`, any distribution, with
    correlation and covariates; a table of covariates is drawn by whole rows. A patient that fails is not plausible, and
    is counted with its cause.

    Args:
        population: The patients to choose from.
        bounds: The bounds by name.
        arms: The arms in which patients are simulated.
        size: Number of plausible patients.
        key: `jax.random.key(seed)`; the same key gives the same patients.
        ts: Times of the simulations; needed where a bound is on a whole course, such as its `Cmax`.
        baseline: The state in which every arm begins, as in a `Trial`; a patient without one is not plausible.
        search: How to look for them: `Screened()` unless given, or `Rejection()`, `MetropolisHastings()`, `Langevin()`,
            `Optimised()`.
        most: The maximum number of patients to simulate; by default 1,000 for each, and 100,000 at least.
        method: As in `simulate`.
        executor: As in `simulate_cohort`; by default 512 patients at a time.
        progress: Called after every batch.

    Returns:
        A `PlausiblePopulation`; with fewer patients than wanted, and a warning, if `most` was reached.

    Raises:
        ValueError: If a bound names no arm, a time is missing, or nothing varies.

    Reference: Allen, Rieger and Musante, CPT Pharmacometrics Syst Pharmacol 2016;5:140, doi:10.1002/psp4.12063.

    Example:
        >>> import jax, qspjax as qsp
        >>> from qspjax.population import Bound
        >>> model = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> population = qsp.Population(
        ...     model, between={"CL": qsp.LogUniform(1.0, 10.0), "V": qsp.Uniform(10.0, 100.0)}
        ... )
        >>> value = lambda at: qsp.endpoints.Value("concentration", at=at)
        >>> bounds = {"C0": Bound(value(0.0), 2.0, 5.0), "C24": Bound(value(24.0), 0.1, 1.0)}
        >>> arms = [qsp.Arm("100 mg", qsp.bolus(100.0, to="central"))]
        >>> found = qsp.population.plausible(population, bounds, arms=arms, size=200, key=jax.random.key(0))
        >>> found.cohort.size, all(bounds[name].holds(found.statistics[name]).all() for name in bounds)
        (200, True)
    """
    check_whole("size", size, 1)
    search = Screened() if search is None else search
    check_instance("search", search, AbstractPatientSearch, "a search such as Screened() or Rejection()")
    if most is not None:
        check_whole("most", most, 1)
    most = max(_EACH * size, _LEAST) if most is None else most
    criteria = Criteria(population, bounds, arms=arms, ts=ts, baseline=baseline, method=method, executor=executor)
    attempts = Attempts(criteria, size=size, most=most, progress=progress)
    search.search(attempts, generator(key))
    return result_of(criteria, attempts)


def result_of(criteria: Criteria, attempts: Attempts) -> PlausiblePopulation:
    """Return what a search has found."""
    points, values = attempts.plausible()
    if len(points) < attempts.size:
        warn(
            f"{len(points)} of {attempts.size} plausible patients were found in "
            f"{attempts.simulations + attempts.gradients} simulations: raise `most`, or look at the bounds."
        )
    cohort = criteria.population.from_unit(points) if len(points) else None
    chains, positions = attempts.chains(), _positions(criteria.population, points)
    effective = float(len(points)) if chains is None else min(effective_size(chains), float(len(points)))
    return PlausiblePopulation(
        cohort=cohort,
        statistics=dict(zip(criteria.bounds, values.T, strict=True)),
        bounds=criteria.bounds,
        coordinates=criteria.coordinates,
        points=positions,
        values=_values(cohort, criteria.coordinates, positions),
        wanted=attempts.size,
        simulations=attempts.simulations,
        gradients=attempts.gradients,
        gradient_cost=attempts.gradient_cost(),
        failures=dict(attempts.causes),
        duplicates=attempts.duplicates,
        effective_size=effective,
        missed=attempts.missed,
    )


def _positions(population: Population, points: np.ndarray) -> np.ndarray:
    """Return where points are in the range of each coordinate, which differs from the point where ranges correlate."""
    from scipy.special import ndtr, ndtri

    factor = np.linalg.cholesky(np.asarray(population.correlation))
    if np.array_equal(factor, np.eye(len(factor))):
        return points
    positions = points.copy()
    positions[:, : len(factor)] = ndtr(ndtri(points[:, : len(factor)]) @ factor.T)
    return positions


def _values(cohort: Cohort | None, coordinates: tuple[str, ...], positions: np.ndarray) -> dict[str, np.ndarray]:
    """Return parameters and covariates by name, those of the coordinates first."""
    none = np.zeros(0)
    if cohort is None:
        return dict.fromkeys(coordinates, none)
    alike = [name for name in recorded(cohort.model) if name in coordinates]  # set by `do`
    known = {name: np.asarray(at(cohort.model, name).get()) for name in cohort.varying}
    known |= {name: np.full(cohort.size, at(cohort.model, name).get()) for name in alike}
    known |= {name: np.asarray(column) for name, column in cohort.covariates.items()}
    if "subject" in coordinates:
        known["subject"] = positions[:, -1]
    return {name: known[name] for name in dict.fromkeys((*coordinates, *known)) if known[name].ndim == 1}
