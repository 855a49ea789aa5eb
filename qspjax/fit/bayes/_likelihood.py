"""The log likelihood of a problem with its exact slope.

Measurements may be an argument, so that one program serves many data sets.
"""

import abc
import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from qspjax._solution import RESULTS
from qspjax.fit._problem import Problem
from qspjax.fit.data._dependence import log_densities
from qspjax.fit.data._output_data import OutputData
from qspjax.fit.errors._contract import Predictors
from qspjax.fit.mixed._conditional import predictors_of
from qspjax.fit.mixed._individuals import Expansion
from qspjax.fit.mixed._mixed import MixedModel

Values = Sequence[Array] | None
"""Other measurements than those of the problem: output by output, shape (rows,)."""


class AbstractLikelihood(abc.ABC):
    """Measurements, and their densities at parameters x and whitened random effects u."""

    @property
    @abc.abstractmethod
    def rows(self) -> tuple[OutputData, ...]:
        """The measurements, output by output."""

    @property
    @abc.abstractmethod
    def effects(self) -> tuple[int, int]:
        """The shape of u, (subjects, effects)."""

    @abc.abstractmethod
    def predictors(self, x: Array, u: Array) -> tuple[list[Predictors], Array]:
        """Return the predictors of all densities, output by output, and whether all could be simulated."""

    @abc.abstractmethod
    def slopes(self, x: Array, u: Array, values: Values) -> tuple[Array, Array, Array, Array]:
        """Return the log likelihood, its slopes in x and u, and whether all could be simulated."""

    @abc.abstractmethod
    def moves(self, x: Array, u: Array) -> tuple[list[Predictors], list[Predictors]]:
        """Return the predictors, and their slopes in x and then u, shape (names + effects of all, rows) each."""


class Pooled(AbstractLikelihood):
    """The likelihood of a `Problem`, without random effects."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @property
    def rows(self) -> tuple[OutputData, ...]:
        return self.problem.rows

    @property
    def effects(self) -> tuple[int, int]:
        return 0, 0

    def predictors(self, x: Array, u: Array) -> tuple[list[Predictors], Array]:
        numbers, known = self.problem.pooled(x)
        outcomes = self.problem.layout.stages.simulate(numbers)
        predictors = [rows.predicted(numbers, outcomes.observed, known)[1] for rows in self.rows]
        return predictors, (outcomes.result == RESULTS.successful).all()

    def slopes(self, x: Array, u: Array, values: Values) -> tuple[Array, Array, Array, Array]:
        rows = self.problem.layout.joined if values is None else measured(self.rows, values)

        def log_likelihood(x: Array) -> tuple[Array, Array]:
            value, _, outcomes = self.problem.differentiable(x, rows)
            return value, (outcomes.result == RESULTS.successful).all()

        (value, succeeded), slope = jax.value_and_grad(log_likelihood, has_aux=True)(x)
        return value, slope, u, succeeded

    def moves(self, x: Array, u: Array) -> tuple[list[Predictors], list[Predictors]]:
        linearised = self.problem.linearised(x)
        return [predictors for _, predictors in linearised.predicted], [slopes for _, slopes in linearised.slopes]


class Hierarchical(AbstractLikelihood):
    """The likelihood of a `MixedModel` at given random effects eta = L u."""

    def __init__(self, mixed: MixedModel) -> None:
        self.mixed = mixed

    @property
    def rows(self) -> tuple[OutputData, ...]:
        return self.mixed.rows

    @property
    def effects(self) -> tuple[int, int]:
        return self.mixed.count, len(self.mixed.effects)

    def predictors(self, x: Array, u: Array) -> tuple[list[Predictors], Array]:
        expansion = self.mixed.expanded(x, u, 0)
        return predictors_of(self.mixed, x, u, expansion, None), (expansion.result == RESULTS.successful).all()

    def slopes(self, x: Array, u: Array, values: Values) -> tuple[Array, Array, Array, Array]:
        expansion = self.mixed.expanded(jax.lax.stop_gradient(x), jax.lax.stop_gradient(u), 1)
        rows = measured(self.rows, values)

        def log_likelihood(x: Array, u: Array) -> Array:
            return jnp.sum(jnp.stack([jnp.sum(d) for d in log_densities(rows, self._predictors_near(x, u, expansion))]))

        value, (slope_x, slope_u) = jax.value_and_grad(log_likelihood, argnums=(0, 1))(x, u)
        return value, slope_x, slope_u, (expansion.result == RESULTS.successful).all()

    def moves(self, x: Array, u: Array) -> tuple[list[Predictors], list[Predictors]]:
        expansion = jax.lax.stop_gradient(self.mixed.expanded(x, u, 1))

        def along(direction: Array) -> tuple[list[Predictors], list[Predictors]]:
            parts = direction[: x.size], direction[x.size :].reshape(u.shape)
            return jax.jvp(lambda x, u: self._predictors_near(x, u, expansion), (x, u), parts)

        return jax.vmap(along, out_axes=(None, 0))(jnp.eye(x.size + u.size))

    def _predictors_near(self, x: Array, u: Array, expansion: Expansion) -> list[Predictors]:
        return predictors_of(self.mixed, x, u, expansion, None)


def likelihood_of(problem: Problem | MixedModel) -> AbstractLikelihood:
    """Return the likelihood of a problem."""
    return Pooled(problem) if isinstance(problem, Problem) else Hierarchical(problem)


def measured(rows: Sequence[OutputData], values: Values) -> list[OutputData]:
    """Return rows with other measurements, which determine which rows are censored."""
    if values is None:
        return [*rows]
    replaced = []
    for output_data, value in zip(rows, values, strict=True):
        low, high = output_data.limits
        side = np.zeros(output_data.value.shape, int)
        if np.isfinite([low, high]).any():
            side = jnp.where(value < low, 1, jnp.where(value > high, -1, 0))
        bounds = {"lower": jnp.where(side < 0, high, -jnp.inf), "upper": jnp.where(side > 0, low, jnp.inf)}
        replaced.append(dataclasses.replace(output_data, value=value, side=side, **bounds))
    return replaced
