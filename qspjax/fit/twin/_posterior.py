"""The contract of the posterior of one patient, whichever way it is computed."""

import abc

import numpy as np
from jaxtyping import Float

from qspjax.fit.twin._history import Table
from qspjax.fit.twin._prior import Prior

Numbers = Float[np.ndarray, " draws"]


class AbstractPosterior(abc.ABC):
    """What is known of a patient.

    Attributes:
        log_evidence: The log density of all measurements so far.
        failed: How many draws could not be simulated at the last update.
    """

    log_evidence: float
    failed: int

    @property
    @abc.abstractmethod
    def effective(self) -> float:
        """The effective sample size of its draws."""

    @abc.abstractmethod
    def weighed(self) -> tuple[np.ndarray, Numbers]:
        """Return draws z, shape (draws, coordinates), and their weights, which add up to 1."""

    @abc.abstractmethod
    def drawn(self, size: int, random: np.random.Generator) -> np.ndarray:
        """Return draws z of equal weight, shape (size, coordinates)."""

    @abc.abstractmethod
    def updated(self, prior: Prior, table: Table, number: int) -> tuple["AbstractPosterior", dict[str, np.ndarray]]:
        """Return the posterior after the new measurements of a table, and how far each row of it was to be expected.

        Args:
            prior: The prior.
            table: The doses and measurements.
            number: How many moments there were before.

        Returns:
            The posterior, and by output P(y_new <= y) and P(y_new < y) of each row, shape (2, rows); the probability of
            its bounds where it is censored.

        Raises:
            RuntimeError: If no draw has a likelihood.
        """
