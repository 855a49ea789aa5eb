"""Plausible patients, how different they are, and what they cost."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import equinox as eqx
import numpy as np

from qspjax._checks import check_one_of
from qspjax._cohort import Cohort
from qspjax._extras import require
from qspjax._text import aligned, number
from qspjax.population._plausible._bound import Bound

if TYPE_CHECKING:
    import pandas

PARTS = 10
"""The number of equal parts of a range in which patients are looked for to say how much of it they cover."""


class PlausiblePopulation(eqx.Module):
    """Patients within bounds, each verified by a simulation, none twice.

    Attributes:
        cohort: The patients, whose leaves and covariates vary; None if none was found.
        statistics: By name of the bound, the statistic of each patient, shape (patients,).
        bounds: The bounds by name.
        coordinates: What differs between patients: parameters, random effects and covariates.
        points: Where each patient is in the range of each coordinate, from 0 to 1 (by the distribution function of the
            population), shape (patients, coordinates).
        values: By name, parameters and covariates of the patients, shape (patients,).
        wanted: How many patients were asked for.
        simulations: Patients simulated to find them, each in all arms.
        gradients: Patients simulated with the gradient of their distance from the bounds.
        gradient_cost: What one of these cost in simulations, measured.
        failures: Patients that failed on the way, by cause.
        duplicates: Plausible patients that were refused since they were there already.
        effective_size: How many independent patients say as much, for the worst coordinate.
        missed: An estimate of the part of the plausible patients that the search could not find; NaN if it has none.

    Example:
        >>> import jax, qspjax as qsp
        >>> population = qsp.Population(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0), between={"V": qsp.LogUniform(10.0, 100.0)}
        ... )
        >>> bounds = {"C0": qsp.population.Bound(qsp.endpoints.Value("concentration", at=0.0), 1.0, 2.0)}
        >>> arms = [qsp.Arm("100 mg", qsp.bolus(100.0, to="central"))]
        >>> found = qsp.population.plausible(
        ...     population, bounds, arms=arms, size=100, key=jax.random.key(0), search=qsp.population.Rejection()
        ... )
        >>> print(found)
           least  median  greatest  SD (population 1)  range covered
        V  50.43   72.97     99.36                0.3           30 %
        100 plausible patients of 1024 simulated (10.24 simulations each), effective size 100
    """

    cohort: Cohort | None
    statistics: dict[str, np.ndarray]
    bounds: dict[str, Bound]
    coordinates: tuple[str, ...] = eqx.field(static=True)
    points: np.ndarray
    values: dict[str, np.ndarray]
    wanted: int = eqx.field(static=True)
    simulations: int = eqx.field(static=True)
    gradients: int = eqx.field(static=True)
    gradient_cost: float = eqx.field(static=True)
    failures: dict[str, int] = eqx.field(static=True)
    duplicates: int = eqx.field(static=True)
    effective_size: float = eqx.field(static=True)
    missed: float = eqx.field(static=True)

    @property
    def size(self) -> int:
        """The number of patients."""
        return len(self.points)

    @property
    def equivalents(self) -> float:
        """What all patients cost in simulations: one with its gradient counts as many as were measured."""
        return self.simulations + (self.gradients * self.gradient_cost if self.gradients else 0.0)

    @property
    def spread(self) -> dict[str, float]:
        """By coordinate, the standard deviation of the positions in the range, that of the whole population being 1."""
        deviations = self.points.std(axis=0) * np.sqrt(12.0) if self.size else np.full(len(self.coordinates), np.nan)
        return dict(zip(self.coordinates, deviations.tolist(), strict=True))

    @property
    def coverage(self) -> dict[str, float]:
        """By coordinate, the share of ten equally probable parts of the range in which there is a patient."""
        parts = np.minimum((self.points * PARTS).astype(int), PARTS - 1)
        return {name: len(np.unique(column)) / PARTS for name, column in zip(self.coordinates, parts.T, strict=True)}

    def values_of(self, name: str) -> np.ndarray:
        """Return the values of a parameter or covariate, or the statistic of a bound, shape (patients,)."""
        known: Mapping[str, np.ndarray] = {**self.values, **self.statistics}
        check_one_of("name", name, known, "a coordinate or a bound")
        return known[name]

    def __str__(self) -> str:
        rows = [["", "least", "median", "greatest", "SD (population 1)", "range covered"]]
        for name in self.coordinates:
            values = self.values[name]
            middle = [number(f(values)) for f in (np.min, np.median, np.max)] if self.size else ["-"] * 3
            rows.append([name, *middle, f"{self.spread[name]:.2g}", f"{100 * self.coverage[name]:.0f} %"])
        return "\n".join([aligned(rows), self._cost(), *self._remarks()])

    __repr__ = __str__

    def _cost(self) -> str:
        tried = self.simulations + self.gradients
        each = f" ({self.equivalents / self.size:.4g} simulations each)" if self.size else ""
        found = f"{self.size} of {self.wanted}" if self.size < self.wanted else f"{self.size}"
        return f"{found} plausible patients of {tried} simulated{each}, effective size {self.effective_size:.0f}"

    def _remarks(self) -> list[str]:
        """Return what else is to say: gradients, what was missed, duplicates, failures."""
        remarks = []
        if self.gradients:
            remarks.append(f"{self.gradients} of them with gradients, each the cost of {self.gradient_cost:.2g}")
        if np.isfinite(self.missed):
            remarks.append(f"about {100 * self.missed:.2g} % of the plausible patients could not be found")
        if self.duplicates:
            remarks.append(f"{self.duplicates} refused that were there already")
        return remarks + [f"{count} failed: {cause}" for cause, count in self.failures.items()]

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return a table with one row per patient: parameters, covariates and statistics."""
        return require("pandas", extra="data").DataFrame({**self.values, **self.statistics})
