"""The coordinates of points: which points are the same patient, and how an emulator sees them."""

import numpy as np

from qspjax.population._covariates import Categorical
from qspjax.population._population import Population


class Features:
    """Coordinates between 0 and 1 that statistics can be smooth functions of.

    They are those of a point; of a categorical covariate its number, and in place of the row of a table of covariates
    their values, each between the least and the greatest.

    Args:
        population: The population whose points they are of.

    Example:
        >>> import qspjax as qsp
        >>> model = qsp.models.OneCompartment(CL=3.0, V=30.0)
        >>> table = {"WT": [50.0, 70.0, 90.0]}
        >>> population = qsp.Population(model, between={"V": qsp.LogNormal(cv=0.3)}, covariates=table)
        >>> Features(population)(np.array([[0.2, 0.5], [0.3, 0.9]]))
        array([[0.2, 0.5],
               [0.3, 1. ]])
    """

    def __init__(self, population: Population) -> None:
        """Look the covariates up."""
        first = len(population.correlation)
        self._categories = {
            first + i: np.cumsum(np.asarray(covariate.probabilities))[:-1]
            for i, covariate in enumerate(population.covariates)
            if isinstance(covariate, Categorical)
        }
        columns = [np.asarray(column, float) for column in population.observed.values()]
        self._table = np.stack([_between_ends(column) for column in columns], axis=1) if columns else np.zeros((0, 1))
        self.size = len(population.coordinates()) + self._table.shape[1] - 1

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Return the features of points, shape (points, size)."""
        features = points.copy()
        for i, edges in self._categories.items():
            features[:, i] = np.searchsorted(edges, points[:, i], side="right") / max(len(edges), 1)
        if not len(self._table):
            return features
        return np.concatenate([features[:, :-1], self._table[self._row(points)]], axis=1)

    def centred(self, points: np.ndarray) -> np.ndarray:
        """Return points at the middle of their category, and of their row of a table: one point for each patient."""
        points = points.copy()
        for i, edges in self._categories.items():
            ends = np.concatenate([[0.0], edges, [1.0]])
            number = np.searchsorted(edges, points[:, i], side="right")
            points[:, i] = 0.5 * (ends[number] + ends[number + 1])
        if len(self._table):
            points[:, -1] = (self._row(points) + 0.5) / len(self._table)
        return points

    def _row(self, points: np.ndarray) -> np.ndarray:
        return np.minimum((points[:, -1] * len(self._table)).astype(int), len(self._table) - 1)


def _between_ends(column: np.ndarray) -> np.ndarray:
    low, high = column.min(), column.max()
    return (column - low) / (high - low) if high > low else np.zeros_like(column)
