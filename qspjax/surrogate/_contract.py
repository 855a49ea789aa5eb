"""What an emulator of outputs is: a method that learns from simulations, and the predictor that it finds."""

import abc
from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array

from qspjax._types import Key


class AbstractPredictor(eqx.Module):
    """Predictions in JAX, on the scale of the emulator; points are coordinates between 0 and 1.

    Example:
        >>> import jax.numpy as jnp
        >>> class Nothing(AbstractPredictor):
        ...     def mean(self, points):
        ...         return jnp.zeros((len(points), 1))
        ...
        ...     def deviation(self, points):
        ...         return jnp.ones((len(points), 1))
        >>> Nothing().mean(jnp.zeros((3, 2))).shape
        (3, 1)
    """

    @abc.abstractmethod
    def mean(self, points: Array) -> Array:
        """Return predictions, shape (points, outputs)."""

    @abc.abstractmethod
    def deviation(self, points: Array) -> Array:
        """Return the standard deviations of their errors, shape (points, outputs)."""


class Learnt(NamedTuple):
    """What a method has learnt.

    Attributes:
        predictor: The predictor.
        errors: Errors at simulations that it was not told of, or as if it had not been, shape (some, outputs).
        deviations: What their standard deviations should have been, shape (some, outputs).
        known: Which of the points these are.

    Example:
        >>> Learnt._fields
        ('predictor', 'errors', 'deviations', 'known')
    """

    predictor: AbstractPredictor
    errors: np.ndarray
    deviations: np.ndarray
    known: np.ndarray


class AbstractEmulator(eqx.Module):
    """How outputs are learnt from simulations.

    Example:
        >>> import qspjax as qsp
        >>> isinstance(qsp.surrogate.GaussianProcess(), AbstractEmulator)
        True
    """

    @abc.abstractmethod
    def learn(self, points: np.ndarray, values: np.ndarray, even: np.ndarray, key: Key) -> Learnt:
        """Learn outputs.

        Args:
            points: Coordinates between 0 and 1, shape (points, coordinates).
            values: Outputs on the scale of the emulator, shape (points, outputs).
            even: Which points fill the space evenly; errors are measured at some of these.
            key: `jax.random.key(seed)`.
        """
