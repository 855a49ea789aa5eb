"""The coordinates of points: which points are the same patient, and how an emulator sees them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from qspjax._distribution import LogUniform, Uniform
from qspjax.population._covariates import Categorical
from qspjax.population._population import Population

_RANGE = 7.0
"""The range of normal variates, in which nearly all of them are."""
_LEAST = 1e-9
"""Points nearer to 0 or 1 are seen as this near."""


class Features(eqx.Module):
    """Coordinates between about 0 and 1 that statistics can be smooth functions of.

    They are those of a point; where a distribution has tails, its normal variate z as 1/2 + z / 7; of a categorical
    covariate its number, and in place of the row of a table of covariates their values, each between the least and the
    greatest.

    Args:
        coordinates: The number of coordinates of a point.
        tailed: The coordinates whose distributions have tails.
        categories: By coordinate, the points between 0 and 1 at which one category ends and the next begins.
        table: The table of covariates, shape (rows, covariates).

    Example:
        >>> import qspjax as qsp
        >>> model = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> table = {"WT": [50.0, 70.0, 90.0]}
        >>> population = qsp.Population(model, between={"V": qsp.Uniform(20.0, 40.0)}, covariates=table)
        >>> Features.of(population)(np.array([[0.2, 0.5], [0.3, 0.9]]))
        array([[0.2, 0.5],
               [0.3, 1. ]])
    """

    coordinates: int = eqx.field(static=True)
    tailed: tuple[int, ...] = eqx.field(default=(), static=True)
    categories: dict[int, np.ndarray] = eqx.field(default_factory=dict)
    table: np.ndarray = eqx.field(default_factory=lambda: np.zeros((0, 1)))

    @classmethod
    def of(cls, population: Population) -> "Features":
        """Look the covariates of a population up."""
        first = len(population.correlation)
        categories = {
            first + i: np.cumsum(np.asarray(covariate.probabilities))[:-1]
            for i, covariate in enumerate(population.covariates)
            if isinstance(covariate, Categorical)
        }
        columns = [np.asarray(column, float) for column in population.observed.values()]
        table = np.stack([_between_ends(column) for column in columns], axis=1) if columns else np.zeros((0, 1))
        rotated = np.asarray((np.asarray(population.correlation) != np.eye(first)).any(axis=1))
        drawn = [*population.between, *(None for _ in population.individual.effects), *population.covariates]
        tailed = tuple(i for i, law in enumerate(drawn) if (i < first and rotated[i]) or has_tails(law))
        return cls(len(population.coordinates()), tailed, categories, table)

    @property
    def size(self) -> int:
        """The number of features."""
        return self.coordinates + self.table.shape[1] - 1

    def __call__(self, points: PyTree) -> PyTree:
        """Return the features of points, shape (points, size)."""
        xp = jnp if isinstance(points, jax.Array) else np
        columns = [points[:, i] for i in range(self.coordinates)]
        for i in self.tailed:
            columns[i] = 0.5 + _normal(points[:, i]) / _RANGE
        for i, edges in self.categories.items():
            columns[i] = xp.searchsorted(xp.asarray(edges), points[:, i], side="right") / max(len(edges), 1)
        features = xp.stack(columns, axis=1)
        if not len(self.table):
            return features
        return xp.concatenate([features[:, :-1], xp.asarray(self.table)[self._row(points)]], axis=1)

    def centred(self, points: np.ndarray) -> np.ndarray:
        """Return points at the middle of their category, and of their row of a table: one point for each patient."""
        points = points.copy()
        for i, edges in self.categories.items():
            ends = np.concatenate([[0.0], edges, [1.0]])
            number = np.searchsorted(edges, points[:, i], side="right")
            points[:, i] = 0.5 * (ends[number] + ends[number + 1])
        if len(self.table):
            points[:, -1] = (self._row(points) + 0.5) / len(self.table)
        return points

    def _row(self, points: PyTree) -> PyTree:
        xp = jnp if isinstance(points, jax.Array) else np
        return xp.minimum((points[:, -1] * len(self.table)).astype(int), len(self.table) - 1)


def has_tails(law: object) -> bool:
    """Return whether a distribution has tails: it is neither uniform, on any scale, nor categorical."""
    return not isinstance(law, (Uniform, LogUniform, Categorical, tuple, list))


def _normal(points: PyTree) -> PyTree:
    if isinstance(points, jax.Array):
        return jax.scipy.special.ndtri(jnp.clip(points, _LEAST, 1.0 - _LEAST))
    from scipy.special import ndtri

    return ndtri(np.clip(points, _LEAST, 1.0 - _LEAST))


def _between_ends(column: np.ndarray) -> np.ndarray:
    low, high = column.min(), column.max()
    return (column - low) / (high - low) if high > low else np.zeros_like(column)
