"""Rejection: patients are drawn from the population, and those within the bounds are kept."""

import equinox as eqx
import numpy as np

from qspjax._checks import check_whole
from qspjax.population._plausible._attempts import Attempts
from qspjax.population._plausible._contract import AbstractPatientSearch


class Rejection(AbstractPatientSearch):
    """Draw patients from the population and keep those within the bounds: exact, at 1 / (share accepted) each.

    Patient i is the same however many are wanted.

    Args:
        batch: Patients that are simulated together.

    Example:
        >>> import qspjax as qsp
        >>> qsp.population.Rejection(batch=512).batch
        512
    """

    batch: int = eqx.field(default=1024, static=True)

    def __check_init__(self) -> None:
        check_whole("batch", self.batch, 1)

    def search(self, attempts: Attempts, random: np.random.Generator) -> None:
        while not attempts.finished:
            attempts.simulate(random.random((self.batch, attempts.criteria.dimensions)))
