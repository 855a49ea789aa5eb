"""What a search for plausible patients is."""

import abc

import equinox as eqx
import numpy as np

from qspjax.population._plausible._attempts import Attempts


class AbstractPatientSearch(eqx.Module):
    """A way to find plausible patients: it says which points are simulated next, until there are enough.

    Example:
        >>> import jax, qspjax as qsp
        >>> class Grid(AbstractPatientSearch):
        ...     def search(self, attempts, random):
        ...         attempts.simulate(np.linspace(0.05, 0.95, 10)[:, None])
        >>> population = qsp.Population(
        ...     qsp.models.OneCompartment(CL=3.0, V=30.0), between={"V": qsp.Uniform(10.0, 110.0)}
        ... )
        >>> bounds = {"C0": qsp.population.Bound(qsp.endpoints.Value("concentration", at=0.0), 2.0, 4.5)}
        >>> arms = [qsp.Arm("100 mg", qsp.bolus(100.0, to="central"))]
        >>> found = qsp.population.plausible(
        ...     population, bounds, arms=arms, size=3, key=jax.random.key(0), search=Grid()
        ... )
        >>> found.cohort.model.V
        Array([25., 35., 45.], dtype=float64)
    """

    @abc.abstractmethod
    def search(self, attempts: Attempts, random: np.random.Generator) -> None:
        """Simulate points by `attempts.simulate` until `attempts.finished`, or as long as it makes sense.

        Args:
            attempts: The criteria, what has been simulated so far, and how many patients are missing.
            random: The source of all random numbers, so that the result follows from the key.
        """
