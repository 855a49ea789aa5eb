"""What a method is given, and what it returns: weights of patients, or the patients chosen."""

import abc
from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import numpy as np

from qspjax.population._prevalence._targets import AbstractTarget, Moments, Values


class Matching(NamedTuple):
    """Plausible patients, and what a population of them should agree with.

    Attributes:
        moments: The targets, as linear functions of weights.
        targets: The targets themselves.
        values: The statistics by name.
        positions: Where patients are in the ranges of their parameters, from 0 to 1, shape (patients, coordinates);
            without columns where that is not known.
    """

    moments: Moments
    targets: Sequence[AbstractTarget]
    values: Values
    positions: np.ndarray

    @property
    def size(self) -> int:
        """The number of patients."""
        return len(self.moments.functions)


class AbstractWeighting(eqx.Module):
    """A way to weigh patients.

    Example:
        >>> import qspjax as qsp
        >>> class Alike(AbstractWeighting):
        ...     def weights(self, matching):
        ...         return np.full(matching.size, 1.0 / matching.size)
        >>> patients, targets = {"LDL": [150.0, 180.0]}, [qsp.population.Mean("LDL", 160.0)]
        >>> qsp.population.weights(patients, targets, method=Alike()).reached
        array([165.])
    """

    @abc.abstractmethod
    def weights(self, matching: Matching) -> np.ndarray:
        """Return the weights of the patients, not negative and 1 together, shape (patients,)."""


class AbstractSelection(eqx.Module):
    """A way to choose patients of equal weight.

    Example:
        >>> import jax, qspjax as qsp
        >>> class First(AbstractSelection):
        ...     def members(self, matching, size, random):
        ...         return np.arange(size)
        >>> patients, targets = {"LDL": [150.0, 180.0]}, [qsp.population.Mean("LDL", 160.0)]
        >>> qsp.population.select(patients, targets, size=1, key=jax.random.key(0), method=First()).reached
        array([150.])
    """

    @abc.abstractmethod
    def members(self, matching: Matching, size: int | None, random: np.random.Generator) -> np.ndarray:
        """Return the numbers of the chosen patients, all different.

        Args:
            matching: The patients and the targets.
            size: How many to choose; None leaves it to the method.
            random: The source of all random numbers.
        """
