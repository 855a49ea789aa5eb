"""What a neural posterior is told of data."""

import abc
from collections.abc import Sequence

import equinox as eqx
import numpy as np

from qspjax._checks import ArgumentError
from qspjax.fit.bayes._density import Density


class AbstractSummary(eqx.Module):
    """Numbers that say of data what matters for the parameters.

    Example:
        >>> import qspjax as qsp
        >>> isinstance(qsp.surrogate.Measured(), AbstractSummary)
        True
    """

    @abc.abstractmethod
    def __call__(self, values: Sequence[np.ndarray], density: Density) -> np.ndarray:
        """Return summaries, shape (summaries,).

        Args:
            values: Measurements output by output, shape (rows,) each.
            density: The posterior that they belong to, whose `likelihood.rows` say of which subject and time they are.
        """


class Measured(AbstractSummary):
    """All measurements, as they are.

    Example:
        >>> Measured()([np.array([1.0, 2.0]), np.array([3.0])], None).tolist()
        [1.0, 2.0, 3.0]
    """

    def __call__(self, values: Sequence[np.ndarray], density: Density) -> np.ndarray:
        return np.concatenate(values)


class SubjectMoments(AbstractSummary):
    """Means and standard deviations over subjects of each measurement in turn, and correlations of the measurements.

    They are those of asinh(y / s), s a tenth of a typical value of the problem's measurements, so that neither great
    values nor negative ones take over. All subjects need the same number of measurements.

    Example:
        >>> import qspjax as qsp
        >>> qsp.surrogate.SubjectMoments()
        SubjectMoments()
    """

    def __call__(self, values: Sequence[np.ndarray], density: Density) -> np.ndarray:
        tables = []
        for rows, column in zip(density.likelihood.rows, values, strict=True):
            subject = np.asarray(rows.experiment)
            count = np.bincount(subject)
            if len(set(count.tolist())) > 1 or len(count) < 2:
                must = "must have as many measurements of each subject for SubjectMoments(): use a summary of your own."
                raise ArgumentError("problem", must)
            order = np.lexsort((np.asarray(rows.time), subject))
            typical = 0.1 * max(float(np.median(np.abs(np.asarray(rows.value)))), 1e-12)
            tables.append(np.arcsinh(column[order] / typical).reshape(len(count), -1))
        table = np.concatenate(tables, axis=1)
        sd = np.maximum(table.std(axis=0), 1e-9)
        scaled = (table - table.mean(axis=0)) / sd
        correlation = (scaled.T @ scaled / len(table))[np.triu_indices(table.shape[1], 1)]
        return np.concatenate([table.mean(axis=0), np.log(sd), correlation])
