"""Differential evolution, a global search without gradients; scipy does the evolution, on values of a cohort."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from qspjax._random import check_key, generator
from qspjax._types import Key
from qspjax.fit._problem import Problem
from qspjax.fit.search._gauss_newton import TrustRegion
from qspjax.fit.search._search import AbstractSearch

WORST = 1e300
"""The value of a point that cannot be evaluated."""


class DifferentialEvolution(eqx.Module):
    """A population of points that recombine; the whole population is simulated as one cohort.

    Args:
        population: The number of points for each parameter.
        generations: The maximum number of generations.
        tol: The population has converged when the standard deviation of its values is less than this share of their
            mean.
        key: `jax.random.key(seed)`.
        polish: The local search that follows.

    Reference: Storn and Price, J Glob Optim 1997;11:341, doi:10.1023/A:1008202821328.

    Example:
        >>> import jax, qspjax as qsp
        >>> from qspjax.fit import Additive, Experiment, Free, Measurements, Output, Problem, estimate
        >>> data = Measurements([1.0, 4.0, 8.0], [9.1, 6.6, 4.6], output="c")
        >>> problem = Problem(
        ...     qsp.models.OneCompartment(CL=2.0, V=30.0),
        ...     Experiment(data, qsp.bolus(300.0, to="central")),
        ...     {"c": Output("concentration", Additive(0.1))},
        ...     {"CL": Free(2.0, bounds=(0.5, 10.0))},
        ... )
        >>> found = estimate(problem, method=DifferentialEvolution(generations=5, key=jax.random.key(0)))
        >>> 0.5 < found.parameters["CL"] < 10.0
        True
    """

    population: int = eqx.field(default=10, static=True, kw_only=True)
    generations: int = eqx.field(default=200, static=True, kw_only=True)
    tol: float = eqx.field(default=1e-3, static=True, kw_only=True)
    key: Key = eqx.field(kw_only=True)
    polish: AbstractSearch = eqx.field(default=TrustRegion(), kw_only=True)

    def __check_init__(self) -> None:
        check_key(self.key)

    def search(self, problem: Problem, progress: Callable[[int, float], None]) -> np.ndarray:
        """Return the best point found, shape (1, parameters)."""
        from scipy.optimize import differential_evolution

        lower, upper = (np.asarray(edge) for edge in problem.bounds)
        evaluate = eqx.filter_jit(jax.vmap(problem.log_density))
        size = self.population * len(lower)
        generation = 0

        def values(points: np.ndarray) -> np.ndarray:
            is_single = points.ndim == 1
            columns = points.reshape(len(lower), -1).T
            padded = np.concatenate([columns, np.broadcast_to(columns[-1], (-len(columns) % size, len(lower)))])
            densities = [np.asarray(evaluate(jnp.asarray(part))) for part in padded.reshape(-1, size, len(lower))]
            densities = -np.concatenate(densities)[: len(columns)]
            densities = np.where(np.isfinite(densities), densities, WORST)
            return densities[0] if is_single else densities

        def report(intermediate_result: object) -> None:
            nonlocal generation
            generation += 1
            progress(generation, -float(getattr(intermediate_result, "fun", np.nan)))

        result = differential_evolution(
            values,
            list(zip(lower, upper, strict=True)),
            popsize=self.population,
            maxiter=self.generations,
            tol=self.tol,
            rng=generator(self.key),
            polish=False,
            vectorized=True,
            updating="deferred",
            callback=report,
        )
        return result.x[None]

    def describe(self) -> str:
        """Return the method in a few words."""
        return f"differential evolution, then {self.polish.describe()}"
